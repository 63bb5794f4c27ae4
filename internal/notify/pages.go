package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-github/v89/github"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/httpclient"
	"github.com/our-org/crossbill/internal/release"
)

// host is where a release's code is reviewed, of one repository there. Its lists are asked for by one page of 100, and what
// makes something twice is sent once.
type host interface {
	fmt.Stringer // GitHub: our-org/shop

	// reviews are the pull or merge requests that have a commit.
	reviews(ctx context.Context, commit string) ([]review, error)
	// author says whether a comment is the token's own.
	author(ctx context.Context) (func(comment) bool, error)
	// comments are those of a review by ascending id. next is the page after it, 0 for none.
	comments(ctx context.Context, number int64, page int) (rows []comment, next int, err error)
	createComment(ctx context.Context, number int64, body string) error
	editComment(ctx context.Context, number, id int64, body string) error
	deleteComment(ctx context.Context, number, id int64) error

	// mark is what a page is as a commit's status.
	mark(p page, app, address string) mark
	// markOf is the newest status of a name that a commit has; nil if it has none, or if the token may not see it.
	markOf(ctx context.Context, commit, name string) (*mark, error)
	// setMark writes it in the place of the one before, unless there is no place for it.
	setMark(ctx context.Context, commit, name string, m mark, before *mark) (wrote bool, err error)
}

// review is a pull or merge request.
type review struct {
	number   int64
	mergedAt time.Time // zero: it is not merged to the default branch
	brought  bool      // the commit is what merging it has made
}

// comment is one of a review.
type comment struct {
	id     int64
	body   string
	author string
	bot    bool // the author is one, as far as the host says so
}

// mark is a commit's status.
type mark struct {
	state   string // the host's word
	goesOn  bool
	text    string
	address string
	at      time.Time // when it was made
	in      int64     // the pipeline that GitLab has it in
}

// pages writes what an event has to show.
type pages struct {
	host
	app         string
	at          order
	page        page
	pipelineURL string
	started     time.Time // of the release
	log         func(string)
}

// newPages are those of an event.
func newPages(h host, e *Event, pipelineURL string, log func(string)) *pages {
	w := &pages{host: h, app: e.App, at: orderOf(e), page: pageOf(e, pipelineURL), pipelineURL: pipelineURL, log: log, started: e.StartedAt}
	if e.Release != nil {
		w.started = e.Release.StartedAt
	}
	return w
}

// originOf is the commit of an event's release, and the page of its pipeline, as far as the event says them.
func originOf(e *Event) (commit, pipelineURL string) {
	if e.Release != nil {
		return e.Release.Commit, e.Release.Links().PipelineURL
	}
	return e.Commit, (&release.Release{PipelineURL: e.PipelineURL}).Links().PipelineURL
}

// Bounds of writing: how long a write may take, how often one is tried, and the pause after which it is looked for, if it
// failed or nothing follows it.
const (
	writeTimeout = 5 * time.Second
	writes       = 5
	settle       = 2 * time.Second
)

// name is that of the check run, and of the commit status.
func (w *pages) name() string { return "crossbill/" + w.app }

func (w *pages) say(format string, args ...any) {
	if w.log != nil {
		w.log(fmt.Sprintf(format, args...))
	}
}

// both does two things side by side, and joins their errors.
func both(one, other func() error) error {
	var errs [2]error
	var pending sync.WaitGroup
	pending.Go(func() { errs[0] = one() })
	pending.Go(func() { errs[1] = other() })
	pending.Wait()
	return errors.Join(errs[:]...)
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

// comment writes the comment on the review of a commit, if there is one. lacking is what a token without the right to it is
// to be given.
func (w *pages) comment(ctx context.Context, commit, lacking string) error {
	number, err := w.review(ctx, commit)
	if err == nil && number != 0 {
		var mine func(comment) bool
		if mine, err = w.author(ctx); err == nil {
			err = w.converge(ctx, func(ctx context.Context) (bool, error) { return w.writeComment(ctx, number, mine) })
		}
	}
	if forbidden(err) {
		w.say("%s (%s)", lacking, refusal(err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: comment on what brought %.12s: %w", w.host, commit, err)
	}
	return nil
}

// review is the number of the review that brought a commit to the default branch; 0 if none did.
func (w *pages) review(ctx context.Context, commit string) (int64, error) {
	rows, err := w.reviews(ctx, commit)
	if err != nil {
		return 0, err
	}
	var found review
	for _, r := range rows {
		switch {
		case r.mergedAt.IsZero():
			continue
		case r.brought:
			return r.number, nil
		case found.number == 0, r.mergedAt.Before(found.mergedAt): // later ones only contain it
			found = r
		}
	}
	return found.number, nil
}

// writeComment makes the comment, or brings it up to date, and removes what a race has made twice.
func (w *pages) writeComment(ctx context.Context, number int64, mine func(comment) bool) (wrote bool, err error) {
	own, err := w.own(ctx, number, mine)
	if err != nil {
		return false, err
	}
	if len(own) == 0 {
		return true, w.createComment(ctx, number, marked(w.app, w.at, w.page.body))
	}
	oldest, _ := readMarked(w.app, own[0].body)
	at := w.at.over(oldest)
	body := marked(w.app, at, w.page.body)
	for _, c := range own {
		if other, _ := readMarked(w.app, c.body); other.after(at) {
			at, body = other, c.body
		}
	}
	if at.after(oldest) {
		if err := w.editComment(ctx, number, own[0].id, body); err != nil {
			return true, err
		}
		wrote = true
	}
	for _, c := range own[1:] {
		if err := w.deleteComment(ctx, number, c.id); err != nil && statusOf(err) != http.StatusNotFound {
			return wrote, err
		}
	}
	return wrote, nil
}

// mostComments is how many pages of 100 comments are searched.
const mostComments = 30

// own are the token's comments on a review that are of the app, oldest first.
func (w *pages) own(ctx context.Context, number int64, mine func(comment) bool) ([]comment, error) {
	var own []comment
	page := 1
	for range mostComments {
		rows, next, err := w.comments(ctx, number, page)
		if err != nil {
			return nil, err
		}
		for _, c := range rows {
			if _, ok := readMarked(w.app, c.body); ok && mine(c) {
				own = append(own, c)
			}
		}
		if next == 0 {
			return own, nil
		}
		page = next
	}
	if len(own) == 0 {
		return nil, fmt.Errorf("number %d has more than %d comments: none of them is searched", number, 100*mostComments)
	}
	return own, nil
}

// status writes the commit's status, if the token may.
func (w *pages) status(ctx context.Context, commit, lacking string) error {
	err := w.converge(ctx, func(ctx context.Context) (bool, error) { return w.writeStatus(ctx, commit) })
	if forbidden(err) {
		w.say("%s (%s)", lacking, refusal(err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: status of %.12s: %w", w.host, commit, err)
	}
	return nil
}

// writeStatus writes the status, unless it shows the same or a later state. Its order is in the part of the address that no
// server gets. Without one, what goes on does not take the place of how the release ended. A status that shows the same for
// several steps has the order of the first of them.
func (w *pages) writeStatus(ctx context.Context, commit string) (wrote bool, err error) {
	before, err := w.markOf(ctx, commit, w.name())
	if err != nil {
		return false, err
	}
	at, shown, known := w.at, order{}, false
	if before != nil {
		shown, known = readAddress(before.address)
		at = w.at.over(shown)
	}
	m := w.mark(w.page, w.app, at.address(w.pipelineURL))
	switch {
	case before == nil:
	case before.state == m.state && before.text == m.text:
		return false, nil
	case known && !at.after(shown), !known && !before.goesOn && m.goesOn && before.at.After(w.started):
		return false, nil
	}
	return w.setMark(ctx, commit, w.name(), m, before)
}

// refusal is what a host says of a refusal, for the job log.
func refusal(err error) string {
	answer, ok := errors.AsType[*gitlab.ErrorResponse](err)
	if !ok {
		return err.Error()
	}
	var said struct{ Message, Error any } // of GitLab itself, and of its check of a token's scope
	if json.Unmarshal(answer.Body, &said) != nil || said.Message == nil && said.Error == nil {
		return fmt.Sprintf("%d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	}
	if said.Message == nil {
		said.Message = said.Error
	}
	status := fmt.Sprintf("%d ", answer.StatusCode)
	return status + strings.TrimPrefix(fmt.Sprint(said.Message), status)
}

// statusOf is the status that the host answered with; 0 for another error.
func statusOf(err error) int {
	if answer, ok := errors.AsType[*github.ErrorResponse](err); ok && answer.Response != nil {
		return answer.Response.StatusCode
	}
	if answer, ok := errors.AsType[*gitlab.ErrorResponse](err); ok {
		return answer.StatusCode
	}
	return 0
}

// forbidden says that the token has no right to it: the answer is 403, or 404 where the host hides what there is. A rate limit
// of GitHub's, which has 403 as well, is another matter.
func forbidden(err error) bool {
	if answer, ok := errors.AsType[*github.ErrorResponse](err); ok && answer.Response != nil && (strings.Contains(strings.ToLower(answer.Message), "rate limit") || answer.Response.Header.Get("Retry-After") != "") {
		return false
	}
	status := statusOf(err)
	return status == http.StatusForbidden || status == http.StatusNotFound
}

// transient says that another attempt may go better: the host is away, it writes the same thing for somebody else, or the
// answer was lost.
func transient(err error) bool {
	if status := statusOf(err); status != 0 {
		return status >= http.StatusInternalServerError || status == http.StatusTooManyRequests || status == http.StatusConflict
	}
	return !errors.As(err, new(*github.RateLimitError)) && !errors.As(err, new(*github.AbuseRateLimitError)) && !errors.As(err, new(*httpclient.RedirectError)) && !errors.As(err, new(*httpclient.SizeError)) && !errors.Is(err, context.Canceled)
}
