package gitlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"
)

// Options are how a release is handed over. The zero value of each field but Ref and Release is right
// for most.
type Options struct {
	Ref     string // branch or tag of the GitLab project
	Release Release

	// Variables sends trigger variables (CROSSBILL_APP …) in place of typed inputs, for a GitLab
	// before 18.1.
	Variables bool
	// Again starts a new pipeline although one of this release has ended. One that has not ended is
	// still adopted. The pipeline then also releases once more what was rolled back.
	Again bool

	Settle   time.Duration // how long to look for other senders' pipelines; default 10 s
	Window   time.Duration // how long an unanswered POST may still take effect; default 75 s
	Timeout  time.Duration // bound of the whole call; default 15 min
	MaxSends int           // POSTs whose outcome may stay unknown; default 4
}

func (o *Options) check(c *Client) error {
	if c.token == "" {
		return &usererr.Error{Field: "GITLAB_TRIGGER_TOKEN", Problem: "there is no token to start the pipeline with", Fix: "set it, or give --trigger-token-file: a pipeline trigger token of the project"}
	}
	if !refPattern.MatchString(o.Ref) {
		return &usererr.Error{Field: "--ref", Problem: fmt.Sprintf("%q is not a branch or tag", o.Ref), Fix: "give a branch or tag of the GitLab project"}
	}
	defaults := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	defaults(&o.Settle, 10*time.Second)
	defaults(&o.Window, 75*time.Second)
	defaults(&o.Timeout, 15*time.Minute)
	if o.MaxSends == 0 {
		o.MaxSends = 4
	}
	return o.Release.check()
}

// UnknownError says that a POST was sent and nobody can say whether it started a pipeline. The same
// command is safe to run again: it adopts the pipeline if there is one.
type UnknownError struct {
	Name  string
	Sends int
	Cause error
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("pipeline %q: %d requests to start it had no clear answer, and it does not show: %v; run the same command again, it adopts the pipeline if there is one", e.Name, e.Sends, e.Cause)
}

func (e *UnknownError) Unwrap() error { return e.Cause }

// DuplicateError says that other pipelines of the release could not be canceled.
type DuplicateError struct {
	Kept  int64
	Left  []int64
	Cause error
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("pipeline %d is the release's, but %v of the same release could not be canceled: %v; cancel them in GitLab (a GITLAB_TOKEN with scope api does it here); the lock in the cluster lets only one of them act at a time", e.Kept, e.Left, shortly(e.Cause))
}

func (e *DuplicateError) Unwrap() error { return e.Cause }

// Trigger starts the pipeline of a release, or adopts the one that is there. The package comment says
// how, and what it does not promise.
//
// Errors: *usererr.Error (the input, a token or the project's set-up is wrong; nothing was
// started), *UnknownError, *DuplicateError (with the pipeline that was kept), or what GitLab or the
// network answered; then nothing was started by this call.
func Trigger(ctx context.Context, c *Client, o Options) (Pipeline, error) {
	if err := o.check(c); err != nil {
		return Pipeline{}, err
	}
	s := &sender{
		Client: c, options: o, name: Name(o.Release.App, o.Release.ID),
		deadline: c.clock.Now().Add(o.Timeout),
		mine:     map[int64]*gitlab.PipelineInfo{}, ended: map[int64]bool{}, canceled: map[int64]bool{},
	}
	kept, err := s.run(ctx)
	if err != nil {
		return Pipeline{}, s.honest(err)
	}
	p := Pipeline{ReleaseID: o.Release.ID, ID: kept.ID, WebURL: kept.WebURL, Status: kept.Status, Adopted: s.mine[kept.ID] == nil, Sends: s.sends}
	for id := range s.canceled {
		p.Canceled = append(p.Canceled, id)
	}
	slices.Sort(p.Canceled)
	if len(s.left) > 0 {
		return p, &DuplicateError{Kept: kept.ID, Left: s.left, Cause: s.leftCause}
	}
	return p, nil
}

// sender is one call of Trigger.
type sender struct {
	*Client
	options  Options
	name     string
	deadline time.Time

	mine     map[int64]*gitlab.PipelineInfo // that this call started; a list may show them late
	ended    map[int64]bool                 // that Options.Again leaves alone
	canceled map[int64]bool                 // by this call

	sends     int
	uncertain int // sends without a clear answer
	left      []int64
	leftCause error
}

// honest keeps an error from locking that nothing was started when that is not known.
func (s *sender) honest(err error) error {
	var unknown *UnknownError
	if s.uncertain == 0 || errors.As(err, &unknown) {
		return err
	}
	return &UnknownError{Name: s.name, Sends: s.uncertain, Cause: err}
}

func (s *sender) run(ctx context.Context) (*gitlab.PipelineInfo, error) {
	if s.options.Again {
		rows, err := s.list(ctx, s.deadline, s.name)
		if err != nil {
			return nil, err
		}
		for _, p := range rows {
			s.ended[p.ID] = p.Status == "success" || p.Status == "failed"
		}
	}
	kept, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	if kept != nil {
		s.logf("adopting pipeline %d (%s)", kept.ID, kept.Status)
		return s.lookFor(ctx, s.options.Settle)
	}
	return s.sendUntilKnown(ctx)
}

// sendUntilKnown sends and reconciles until there is a pipeline.
func (s *sender) sendUntilKnown(ctx context.Context) (*gitlab.PipelineInfo, error) {
	for throttled := 1; ; {
		answer := s.send(ctx)
		look := time.Duration(0)
		switch {
		case answer.refused != nil:
			return nil, answer.refused
		case answer.started != nil:
			s.mine[answer.started.ID] = answer.started
			s.logf("started pipeline %d", answer.started.ID)
			look = s.options.Settle
		case answer.unknown != nil:
			s.uncertain++
			s.logf("no clear answer (%s): looking for the pipeline for %s", shortly(answer.unknown), s.options.Window)
			look = s.options.Window
		default: // known not to have started
			wait := max(answer.wait, backoff(throttled))
			throttled++
			if s.clock.Now().Add(wait).After(s.deadline) {
				return nil, fmt.Errorf("GitLab did not take the pipeline within %s: %w; run the same command again later", s.options.Timeout, answer.cause)
			}
			s.logf("%s; sending again in %s", answer.why, wait.Round(time.Second))
			if err := s.clock.Sleep(ctx, wait); err != nil {
				return nil, err
			}
		}
		kept, err := s.lookFor(ctx, look)
		if kept != nil && look == 0 { // another sender's: its row may be the first of several
			kept, err = s.lookFor(ctx, s.options.Settle)
		}
		switch {
		case err != nil:
			return nil, err
		case kept != nil:
			return kept, nil
		case len(s.mine) > 0:
			return nil, fmt.Errorf("pipeline %q was started and then canceled by somebody; run the same command again to start another", s.name)
		case s.uncertain >= s.options.MaxSends:
			return nil, &UnknownError{Name: s.name, Sends: s.uncertain, Cause: answer.unknown}
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
	}
}

// lookFor looks at the list for a while, with growing pauses, and gives the pipeline that is kept at
// the end of it, nil when there is none.
func (s *sender) lookFor(ctx context.Context, d time.Duration) (*gitlab.PipelineInfo, error) {
	until := s.clock.Now().Add(d)
	for pause := time.Second; ; pause = min(pause*2, 10*time.Second) {
		kept, err := s.look(ctx)
		left := until.Sub(s.clock.Now())
		if err != nil || left <= 0 {
			return kept, err
		}
		if err := s.clock.Sleep(ctx, min(pause, left)); err != nil {
			return nil, err
		}
	}
}

// look lists the release's pipelines, keeps the lowest id and cancels the others.
func (s *sender) look(ctx context.Context) (*gitlab.PipelineInfo, error) {
	rows, err := s.list(ctx, s.deadline.Add(s.options.Window), s.name)
	if err != nil {
		return nil, err
	}
	for _, p := range s.mine {
		if !slices.ContainsFunc(rows, func(row *gitlab.PipelineInfo) bool { return row.ID == p.ID }) {
			rows = append(rows, p)
		}
	}
	rows = slices.DeleteFunc(rows, func(p *gitlab.PipelineInfo) bool {
		return withoutEffect(p.Status) || s.ended[p.ID] || s.canceled[p.ID]
	})
	if len(rows) == 0 {
		return nil, nil
	}
	slices.SortFunc(rows, func(a, b *gitlab.PipelineInfo) int { return cmp.Compare(a.ID, b.ID) })
	s.left, s.leftCause = nil, nil
	for _, p := range rows[1:] {
		if err := s.cancel(ctx, s.deadline.Add(s.options.Window), p.ID); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			s.left, s.leftCause = append(s.left, p.ID), err
			continue
		}
		s.canceled[p.ID] = true
		s.logf("canceled pipeline %d: %d is the release's", p.ID, rows[0].ID)
	}
	return rows[0], nil
}

// withoutEffect says of a pipeline's status that it does nothing (any more) for its release.
func withoutEffect(status string) bool {
	return status == "canceled" || status == "canceling" || status == "skipped"
}

// answer is what came of one POST: exactly one of started, refused, unknown and cause is set.
type answer struct {
	started *gitlab.PipelineInfo
	refused error // GitLab will not start it, however often it is asked
	unknown error // it may or may not have started
	cause   error // it has not started, and asking again later may help
	why     string
	wait    time.Duration
}

// send sends one POST.
func (s *sender) send(ctx context.Context) answer {
	s.sends++
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	p, resp, err := s.trigger.PipelineTriggers.RunPipelineTrigger(s.project, s.request(), gitlab.WithContext(limited))
	if err == nil {
		return started(p)
	}
	var said []byte
	var failure *gitlab.ErrorResponse
	if errors.As(err, &failure) {
		said = failure.Body
	}
	status := statusOf(err)
	switch {
	case status == 0 && neverSent(err):
		return answer{cause: err, why: "GitLab cannot be reached"}
	case status == 0, status >= 500, status == http.StatusRequestTimeout:
		return answer{unknown: err}
	case status == http.StatusTooManyRequests:
		return answer{cause: err, why: "GitLab's rate limit (429)", wait: askedWait(resp, s.clock.Now(), time.Second)}
	case status == http.StatusBadRequest && strings.Contains(string(said), "Too many pipelines created"):
		return answer{cause: err, why: "GitLab's limit of pipelines per minute", wait: askedWait(resp, s.clock.Now(), time.Minute)}
	default:
		return answer{refused: s.explainSend(ctx, s.deadline, err, said)}
	}
}

// started reads a 201: GitLab also answers it for a pipeline that can have no jobs.
func started(p *gitlab.Pipeline) answer {
	if p.YamlErrors != "" {
		return answer{refused: &usererr.Error{Field: ".gitlab-ci.yml", Problem: fmt.Sprintf("GitLab made pipeline %d without jobs, since the file has errors: %s", p.ID, p.YamlErrors), Fix: "see " + p.WebURL}}
	}
	return answer{started: &gitlab.PipelineInfo{ID: p.ID, Status: p.Status, WebURL: p.WebURL, Ref: p.Ref, SHA: p.SHA}}
}

// request is the POST's body: the token travels in it, not in the address.
func (s *sender) request() *gitlab.RunPipelineTriggerOptions {
	r := s.options.Release
	values := map[string]string{"app": r.App, "image": r.Image, "release_id": r.ID, "commit": r.Commit, "source_url": r.SourceURL}
	if s.options.Again {
		values["again"] = "yes"
	}
	request := &gitlab.RunPipelineTriggerOptions{Ref: &s.options.Ref, Token: &s.token}
	if s.options.Variables {
		request.Variables = map[string]string{}
		for name, value := range values {
			request.Variables["CROSSBILL_"+strings.ToUpper(name)] = value
		}
		return request
	}
	request.Inputs = gitlab.PipelineInputsOption{}
	for name, value := range values {
		request.Inputs[name] = gitlab.NewPipelineInputValue(value)
	}
	return request
}
