package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-github/v89/github"

	"github.com/our-org/crossbill/internal/httpclient"
)

// PullRequest shows a release where its code is looked at: one check run on its commit, or a commit status if the token may
// not write check runs, and one comment on the pull request that brought the commit to the default branch. Both are
// updated in place. It needs a full commit, or the release's Deployment, which knows one.
//
// A page is never replaced by an older state that is seen in it. GitHub has no conditional edit: two jobs that read the
// page before either has written may leave the older state. The next event puts that right; after an end, which none may
// follow, the job looks again.
type PullRequest struct {
	GitHub GitHub
	Log    func(string) // is given what the token has no right to; may be nil
}

// Notify shows the event.
//
// Errors: *usererr.Error as of GitHub, or what GitHub answered, after a few attempts. That the token has too few rights, or
// that there is no pull request, is none.
func (p PullRequest) Notify(ctx context.Context, e *Event) error {
	if e.ReleaseID == "" {
		return nil
	}
	repo, err := p.GitHub.connect()
	if err != nil {
		return err
	}
	once, err := p.GitHub.connectBy(httpclient.New(p.GitHub.Transport, writeTimeout))
	if err != nil {
		return err
	}
	commit, pipelineURL, err := repo.commitOf(ctx, e)
	if commit == "" || err != nil {
		return err
	}
	w := &pages{repository: repo, once: once.client, app: e.App, at: orderOf(e), page: pageOf(e, pipelineURL), pipelineURL: pipelineURL, log: p.Log, started: e.StartedAt}
	if e.Release != nil {
		w.started = e.Release.StartedAt
	}
	var errs [2]error
	var pending sync.WaitGroup
	pending.Go(func() { errs[0] = w.check(ctx, commit) })
	pending.Go(func() { errs[1] = w.comment(ctx, commit) })
	pending.Wait()
	return errors.Join(errs[:]...)
}

// commitOf is the whole hash of a release's commit, and the page of its pipeline. Both are "" where nothing says them.
func (r *repository) commitOf(ctx context.Context, e *Event) (commit, pipelineURL string, err error) {
	if e.Release != nil {
		commit, pipelineURL = e.Release.Commit, e.Release.Links().PipelineURL
	}
	switch len(commit) {
	case 40, 64:
		return commit, pipelineURL, nil
	case 0:
		found, err := r.deployment(ctx, e.ReleaseID)
		if err != nil {
			return "", "", nil //nolint:nilerr // the Deployment's own notification says so
		}
		return found.GetSHA(), found.pipelineURL, nil
	}
	full, _, err := r.client.Repositories.GetCommitSHA1(ctx, r.owner, r.name, commit, "")
	if err != nil {
		return "", "", fmt.Errorf("GitHub: commit %s of %s/%s: %w", commit, r.owner, r.name, err)
	}
	return full, pipelineURL, nil
}

// pages writes what an event has to show.
type pages struct {
	*repository
	once *github.Client // repeats nothing: what makes something twice is looked for first

	app         string
	at          order
	page        page
	pipelineURL string
	started     time.Time // of the release
	log         func(string)
}

// Bounds of writing: how long a write may take, how often one is tried, and the pause after which it is looked for, if it
// failed or nothing follows it.
const (
	writeTimeout = 5 * time.Second
	writes       = 5
	settle       = 2 * time.Second
)

// name is that of the check run, and the context of the commit status.
func (w *pages) name() string { return "crossbill/" + w.app }

func (w *pages) say(format string, args ...any) {
	if w.log != nil {
		w.log(fmt.Sprintf(format, args...))
	}
}

// converge looks and writes until what is there is not older than what is to be shown. What goes on is not looked at again.
func (w *pages) converge(ctx context.Context, step func(context.Context) (wrote bool, err error)) error {
	var last error
	for range writes {
		wrote, err := step(ctx)
		if err != nil && !transient(err) || err == nil && (!wrote || w.page.conclusion == "") {
			return err
		}
		last = err
		select {
		case <-ctx.Done():
			return errors.Join(last, ctx.Err())
		case <-time.After(settle):
		}
	}
	return last
}

// comment writes the comment on the pull request of a commit, if there is one.
func (w *pages) comment(ctx context.Context, commit string) error {
	number, err := w.pullRequest(ctx, commit)
	if err == nil && number != 0 {
		var mine func(*github.User) bool
		if mine, err = w.author(ctx); err == nil {
			err = w.converge(ctx, func(ctx context.Context) (bool, error) { return w.writeComment(ctx, number, mine) })
		}
	}
	if forbidden(err) {
		w.say("GitHub: the token may not comment on pull requests of %s/%s: give it pull_requests:write, or set notify.github.pullRequest: false (%v)", w.owner, w.repository.name, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("GitHub: comment on the pull request of %.12s of %s/%s: %w", commit, w.owner, w.repository.name, err)
	}
	return nil
}

// pullRequest is the number of the pull request that brought a commit to the default branch; 0 if none did.
func (w *pages) pullRequest(ctx context.Context, commit string) (int, error) {
	rows, _, err := w.client.PullRequests.ListPullRequestsWithCommit(ctx, w.owner, w.repository.name, commit, &github.ListOptions{PerPage: 100})
	if err != nil {
		return 0, err
	}
	var found *github.PullRequest
	for _, pr := range rows {
		base := pr.GetBase()
		switch {
		case pr.GetMergedAt().IsZero(), base.GetRef() != base.GetRepo().GetDefaultBranch():
			continue
		case pr.GetMergeCommitSHA() == commit:
			return pr.GetNumber(), nil
		case found == nil, pr.GetMergedAt().Before(found.GetMergedAt().Time): // later ones only contain it
			found = pr
		}
	}
	return found.GetNumber(), nil
}

// author says whether a comment is the token's own. The token of an app may not ask who it is: its comments are a bot's,
// and no person's is ever touched.
func (w *pages) author(ctx context.Context) (func(*github.User) bool, error) {
	self, _, err := w.client.Users.Get(ctx, "")
	switch {
	case forbidden(err):
		return func(u *github.User) bool { return u.GetType() == "Bot" }, nil
	case err != nil:
		return nil, err
	case self.GetLogin() == "":
		return nil, errors.New("GET /user names nobody")
	}
	return func(u *github.User) bool { return u.GetLogin() == self.GetLogin() }, nil
}

// writeComment makes the comment, or brings it up to date, and removes what a race has made twice.
func (w *pages) writeComment(ctx context.Context, number int, mine func(*github.User) bool) (wrote bool, err error) {
	own, err := w.comments(ctx, number, mine)
	if err != nil {
		return false, err
	}
	if len(own) == 0 {
		_, _, err := w.once.Issues.CreateComment(ctx, w.owner, w.repository.name, number, &github.IssueComment{Body: new(marked(w.app, w.at, w.page.body))})
		return true, err
	}
	oldest, _ := readMarked(w.app, own[0].GetBody())
	at := w.at.over(oldest)
	body := marked(w.app, at, w.page.body)
	for _, c := range own {
		if other, _ := readMarked(w.app, c.GetBody()); other.after(at) {
			at, body = other, c.GetBody()
		}
	}
	if at.after(oldest) {
		if _, _, err := w.once.Issues.EditComment(ctx, w.owner, w.repository.name, own[0].GetID(), &github.IssueComment{Body: &body}); err != nil {
			return true, err
		}
		wrote = true
	}
	for _, c := range own[1:] {
		if _, err := w.client.Issues.DeleteComment(ctx, w.owner, w.repository.name, c.GetID()); err != nil && statusOf(err) != http.StatusNotFound {
			return wrote, err
		}
	}
	return wrote, nil
}

// mostComments is how many pages of 100 comments are searched.
const mostComments = 30

// comments are the token's own on a pull request that are of the app, oldest first.
func (w *pages) comments(ctx context.Context, number int, mine func(*github.User) bool) ([]*github.IssueComment, error) {
	var own []*github.IssueComment
	options := &github.IssueListCommentsOptions{ListOptions: github.ListOptions{PerPage: 100}}
	for range mostComments {
		rows, response, err := w.client.Issues.ListComments(ctx, w.owner, w.repository.name, number, options)
		if err != nil {
			return nil, err
		}
		for _, c := range rows { // by ascending id
			if _, ok := readMarked(w.app, c.GetBody()); ok && mine(c.GetUser()) {
				own = append(own, c)
			}
		}
		if response.NextPage == 0 {
			return own, nil
		}
		options.Page = response.NextPage
	}
	if len(own) == 0 {
		return nil, fmt.Errorf("pull request %d has more than %d comments: none of them is searched", number, 100*mostComments)
	}
	return own, nil
}

// check writes the check run of a commit, or its status if the token may not write check runs.
func (w *pages) check(ctx context.Context, commit string) error {
	err := w.converge(ctx, func(ctx context.Context) (bool, error) { return w.writeCheck(ctx, commit) })
	if forbidden(err) {
		w.say("GitHub: the token may not write check runs of %s/%s, which takes an app's token with checks:write: the commit has the status %s instead", w.owner, w.repository.name, w.name())
		if err = w.status(ctx, commit); forbidden(err) {
			w.say("GitHub: the token may not write the status of a commit either: give it statuses:write, or set notify.github.pullRequest: false (%v)", err)
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("GitHub: check of %.12s of %s/%s: %w", commit, w.owner, w.repository.name, err)
	}
	return nil
}

// writeCheck makes the check run, or brings it up to date. One that has ended is not opened again: another one of its name
// takes its place, as it does for the next release of the same commit. What a race has made twice stays, and the newest
// is what GitHub shows.
func (w *pages) writeCheck(ctx context.Context, commit string) (wrote bool, err error) {
	list, _, err := w.client.Checks.ListCheckRunsForRef(ctx, w.owner, w.repository.name, commit, &github.ListCheckRunsOptions{CheckName: new(w.name()), Filter: new("all"), ListOptions: github.ListOptions{PerPage: 100}})
	if err != nil {
		return false, err
	}
	var newest *github.CheckRun
	var shown order
	if list == nil { // the answer was null
		list = &github.ListCheckRunsResults{}
	}
	for _, run := range list.CheckRuns {
		if at, ok := readMarked(w.app, run.GetOutput().GetSummary()); ok && (newest == nil || run.GetID() > newest.GetID()) {
			newest, shown = run, at
		}
	}
	at := w.at.over(shown)
	if newest != nil && !at.after(shown) {
		return false, nil
	}
	output := &github.CheckRunOutput{Title: new(truncate(w.page.title, 200)), Summary: new(marked(w.app, at, w.page.body))}
	state, conclusion := "in_progress", optional(w.page.conclusion)
	if conclusion != nil {
		state = "completed"
	}
	if newest != nil && at.same(shown) && (newest.GetStatus() != "completed" || conclusion != nil) {
		_, _, err = w.once.Checks.UpdateCheckRun(ctx, w.owner, w.repository.name, newest.GetID(), github.UpdateCheckRunOptions{Name: w.name(), DetailsURL: optional(w.pipelineURL), ExternalID: &at.Release, Status: &state, Conclusion: conclusion, Output: output})
		if !forbidden(err) { // else another app has made it
			return true, err
		}
	}
	_, _, err = w.once.Checks.CreateCheckRun(ctx, w.owner, w.repository.name, github.CreateCheckRunOptions{Name: w.name(), HeadSHA: commit, DetailsURL: optional(w.pipelineURL), ExternalID: &at.Release, Status: &state, Conclusion: conclusion, StartedAt: &github.Timestamp{Time: w.started}, Output: output})
	return true, err
}

// status writes the commit's status. It has no room for an order: what goes on does not take the place of how the release
// ended.
func (w *pages) status(ctx context.Context, commit string) error {
	want := github.RepoStatus{State: new("pending"), Context: new(w.name()), Description: new(truncate(w.page.title, 140)), TargetURL: optional(w.pipelineURL)}
	switch w.page.conclusion {
	case success, failure:
		want.State = new(w.page.conclusion)
	case canceled:
		want.State = new("error")
	}
	rows, _, err := w.client.Repositories.ListStatuses(ctx, w.owner, w.repository.name, commit, &github.ListOptions{PerPage: 100})
	if err != nil && !forbidden(err) {
		return err
	}
	for _, was := range rows { // the newest first
		if was.GetContext() != w.name() {
			continue
		}
		ended := was.GetState() != "pending" && want.GetState() == "pending" && was.GetCreatedAt().After(w.started)
		if ended || was.GetState() == want.GetState() && was.GetDescription() == want.GetDescription() && was.GetTargetURL() == want.GetTargetURL() {
			return nil
		}
		break
	}
	_, _, err = w.client.Repositories.CreateStatus(ctx, w.owner, w.repository.name, commit, want) // a second one of the same changes nothing
	return err
}

// statusOf is the status that GitHub answered with; 0 for another error.
func statusOf(err error) int {
	if answer, ok := errors.AsType[*github.ErrorResponse](err); ok && answer.Response != nil {
		return answer.Response.StatusCode
	}
	return 0
}

// forbidden says that the token has no right to it: GitHub answers so with 403, or with 404 where it hides what there is.
// A rate limit, which has 403 as well, is another matter.
func forbidden(err error) bool {
	answer, ok := errors.AsType[*github.ErrorResponse](err)
	if !ok || answer.Response == nil || strings.Contains(strings.ToLower(answer.Message), "rate limit") || answer.Response.Header.Get("Retry-After") != "" {
		return false
	}
	return answer.Response.StatusCode == http.StatusForbidden || answer.Response.StatusCode == http.StatusNotFound
}

// transient says that another attempt may go better: GitHub is away, or the answer was lost.
func transient(err error) bool {
	if status := statusOf(err); status != 0 {
		return status >= http.StatusInternalServerError || status == http.StatusTooManyRequests
	}
	return !errors.As(err, new(*github.RateLimitError)) && !errors.As(err, new(*github.AbuseRateLimitError)) && !errors.As(err, new(*httpclient.RedirectError)) && !errors.As(err, new(*httpclient.SizeError)) && !errors.Is(err, context.Canceled)
}
