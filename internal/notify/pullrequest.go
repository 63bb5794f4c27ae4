package notify

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-github/v89/github"

	"github.com/our-org/crossbill/internal/httpclient"
)

// PullRequest shows a release where its code is looked at in GitHub: one check run on its commit, or a commit status if the
// token may not write check runs, and one comment on the pull request that brought the commit to the default branch. Both
// are updated in place. It needs a full commit, or the release's Deployment, which knows one.
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
	g := &gitHubHost{repo, once.client}
	w := newPages(g, e, pipelineURL, p.Log)
	return both(
		func() error { return g.checkRun(ctx, w, commit) },
		func() error {
			return w.comment(ctx, commit, fmt.Sprintf("GitHub: the token may not comment on pull requests of %s/%s: give it pull_requests:write, or set notify.github.pullRequest: false", repo.owner, repo.name))
		},
	)
}

// commitOf is the whole hash of a release's commit, and the page of its pipeline. Both are "" where nothing says them.
func (r *repository) commitOf(ctx context.Context, e *Event) (commit, pipelineURL string, err error) {
	commit, pipelineURL = originOf(e)
	switch len(commit) {
	case 40, 64:
		return commit, pipelineURL, nil
	case 0:
		found, err := r.deployment(ctx, e.ReleaseID, "")
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

// gitHubHost is a repository in GitHub.
type gitHubHost struct {
	*repository
	once *github.Client // repeats nothing: what makes something twice is looked for first
}

func (g *gitHubHost) String() string { return "GitHub: " + g.owner + "/" + g.name }

// reviews are the pull requests.
func (g *gitHubHost) reviews(ctx context.Context, commit string) ([]review, error) {
	rows, _, err := g.client.PullRequests.ListPullRequestsWithCommit(ctx, g.owner, g.name, commit, &github.ListOptions{PerPage: 100})
	var found []review
	for _, pr := range rows {
		if base := pr.GetBase(); base.GetRef() == base.GetRepo().GetDefaultBranch() {
			found = append(found, review{int64(pr.GetNumber()), pr.GetMergedAt().Time, pr.GetMergeCommitSHA() == commit})
		}
	}
	return found, err
}

// author knows the token's own comments by who it is. The token of an app may not ask: its comments are a bot's, and no
// person's is ever touched.
func (g *gitHubHost) author(ctx context.Context) (func(comment) bool, error) {
	self, _, err := g.client.Users.Get(ctx, "")
	switch {
	case forbidden(err):
		return func(c comment) bool { return c.bot }, nil
	case err != nil:
		return nil, err
	case self.GetLogin() == "":
		return nil, errors.New("GET /user names nobody")
	}
	return func(c comment) bool { return c.author == self.GetLogin() }, nil
}

func (g *gitHubHost) comments(ctx context.Context, number int64, page int) (all []comment, next int, err error) {
	rows, response, err := g.client.Issues.ListComments(ctx, g.owner, g.name, int(number), &github.IssueListCommentsOptions{ListOptions: github.ListOptions{PerPage: 100, Page: page}})
	if err != nil {
		return nil, 0, err
	}
	for _, c := range rows { // by ascending id
		all = append(all, comment{c.GetID(), c.GetBody(), c.GetUser().GetLogin(), c.GetUser().GetType() == "Bot"})
	}
	return all, response.NextPage, nil
}

func (g *gitHubHost) createComment(ctx context.Context, number int64, body string) error {
	_, _, err := g.once.Issues.CreateComment(ctx, g.owner, g.name, int(number), &github.IssueComment{Body: &body})
	return err
}

func (g *gitHubHost) editComment(ctx context.Context, _, id int64, body string) error {
	_, _, err := g.once.Issues.EditComment(ctx, g.owner, g.name, id, &github.IssueComment{Body: &body})
	return err
}

func (g *gitHubHost) deleteComment(ctx context.Context, _, id int64) error {
	_, err := g.client.Issues.DeleteComment(ctx, g.owner, g.name, id)
	return err
}

// checkRun writes the check run of a commit, or its status if the token may not write check runs.
func (g *gitHubHost) checkRun(ctx context.Context, w *pages, commit string) error {
	err := w.converge(ctx, func(ctx context.Context) (bool, error) { return g.writeCheck(ctx, w, commit) })
	if forbidden(err) {
		w.say("GitHub: the token may not write check runs of %s/%s, which takes an app's token with checks:write: the commit has the status %s instead", g.owner, g.name, w.name())
		return w.status(ctx, commit, "GitHub: the token may not write the status of a commit either: give it statuses:write, or set notify.github.pullRequest: false")
	}
	if err != nil {
		return fmt.Errorf("%s: check of %.12s: %w", g, commit, err)
	}
	return nil
}

// writeCheck makes the check run, or brings it up to date. One that has ended is not opened again: another one of its name
// takes its place, as it does for the next release of the same commit. What a race has made twice stays, and the newest
// is what GitHub shows.
func (g *gitHubHost) writeCheck(ctx context.Context, w *pages, commit string) (wrote bool, err error) {
	list, _, err := g.client.Checks.ListCheckRunsForRef(ctx, g.owner, g.name, commit, &github.ListCheckRunsOptions{CheckName: new(w.name()), Filter: new("all"), ListOptions: github.ListOptions{PerPage: 100}})
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
		_, _, err = g.once.Checks.UpdateCheckRun(ctx, g.owner, g.name, newest.GetID(), github.UpdateCheckRunOptions{Name: w.name(), DetailsURL: optional(w.pipelineURL), ExternalID: &at.Release, Status: &state, Conclusion: conclusion, Output: output})
		if !forbidden(err) { // else another app has made it
			return true, err
		}
	}
	_, _, err = g.once.Checks.CreateCheckRun(ctx, g.owner, g.name, github.CreateCheckRunOptions{Name: w.name(), HeadSHA: commit, DetailsURL: optional(w.pipelineURL), ExternalID: &at.Release, Status: &state, Conclusion: conclusion, StartedAt: &github.Timestamp{Time: w.started}, Output: output})
	return true, err
}

// mark has 140 characters in GitHub.
func (g *gitHubHost) mark(p page, _, address string) mark {
	m := mark{state: "pending", goesOn: p.conclusion == "", text: truncate(p.title, 140), address: address}
	switch p.conclusion {
	case success, failure:
		m.state = p.conclusion
	case canceled:
		m.state = "error"
	}
	return m
}

func (g *gitHubHost) markOf(ctx context.Context, commit, name string) (*mark, error) {
	rows, _, err := g.client.Repositories.ListStatuses(ctx, g.owner, g.name, commit, &github.ListOptions{PerPage: 100})
	if forbidden(err) {
		return nil, nil
	}
	for _, was := range rows { // the newest first
		if was.GetContext() == name {
			return &mark{state: was.GetState(), goesOn: was.GetState() == "pending", text: was.GetDescription(), address: was.GetTargetURL(), at: was.GetCreatedAt().Time}, nil
		}
	}
	return nil, err
}

func (g *gitHubHost) setMark(ctx context.Context, commit, name string, m mark, _ *mark) (wrote bool, err error) {
	_, _, err = g.once.Repositories.CreateStatus(ctx, g.owner, g.name, commit, github.RepoStatus{State: &m.state, Context: &name, Description: &m.text, TargetURL: optional(m.address)})
	return true, err // a second one of the same changes nothing
}
