package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/usererr"
)

// CancelOptions say which release is canceled.
type CancelOptions struct {
	Target
	Jobs    JobNames
	Timeout time.Duration // default 2 min
}

// Cancel ends a release from outside GitLab. When its canary has started, it presses the rollback job's button:
// the rollback takes the lock from whatever job runs, and brings the old primary back. Before that it cancels the
// pipeline. It can be called again. The result is the pipeline as it was found; Watch follows what comes of it.
// done says what was done.
//
// Errors: *usererr.Error (the release is in production, or there is no such pipeline or job; nothing was changed),
// or what GitLab or the network answered. The token needs scope api, and a role that may run the rollback job.
func Cancel(ctx context.Context, c *Client, o CancelOptions) (p Progress, done string, err error) {
	if err := o.check(); err != nil {
		return Progress{}, "", err
	}
	o.Jobs.setDefaults()
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
	deadline := time.Now().Add(o.Timeout)
	if p, err = c.progress(ctx, deadline, o.Target, o.Jobs); err != nil {
		return p, "", err
	}
	// Without these jobs nothing shows whether a canary has traffic, nor how to take it back.
	canary, rollback := jobNamed(p.Jobs, o.Jobs.Canary), jobNamed(p.Jobs, o.Jobs.Rollback)
	switch {
	case p.State == RolledBack:
		return p, "nothing: " + p.Reason, nil
	case p.inProduction(o.Jobs):
		return p, "", &usererr.Error{Field: "releaseId", Problem: fmt.Sprintf("the release of pipeline %d is in production", p.PipelineID), Fix: "release an older image, or press rollback in GitLab before its canary is cleaned up"}
	case canary == nil:
		return p, "", missingJob(p, "gitlab.jobs.canary", o.Jobs.Canary, "the job that starts the canary")
	case !started(canary):
		done, err := c.cancelBeforeCanary(ctx, deadline, p, o.Jobs)
		return p, done, err
	case rollback == nil:
		return p, "", missingJob(p, "gitlab.jobs.rollback", o.Jobs.Rollback, "the manual job that rolls back")
	case underWay(rollback.Status), waitsToRun(rollback.Status):
		return p, "job " + rollback.Name + " runs already", nil
	}
	return p, "pressed " + rollback.Name + " (" + rollback.URL + ")", c.press(ctx, rollback)
}

// cancelBeforeCanary cancels a pipeline, if nobody has, whose canary had not started when it was looked at. If it has since, the
// cancellation ended it half-way, and if it had in an attempt before, that may have given it traffic: it is rolled back.
func (c *Client) cancelBeforeCanary(ctx context.Context, deadline time.Time, p Progress, names JobNames) (done string, err error) {
	before := "nothing: " + p.Reason
	atGate := false
	if p.State != Canceled {
		err := c.cancelPipeline(ctx, deadline, p.PipelineID)
		if atGate = errors.Is(err, errAtGate); err != nil && !atGate {
			return "", err
		}
		before = fmt.Sprintf("canceled pipeline %d before its canary", p.PipelineID)
	}
	attempts, err := c.attempts(ctx, deadline, p.PipelineID)
	if err != nil {
		return "", fmt.Errorf("pipeline %d was canceled, but whether its canary had started is not known: %w; run the same command again", p.PipelineID, err)
	}
	began := slices.ContainsFunc(attempts, func(j Job) bool { return j.Name == names.Canary && started(&j) })
	switch rollback := jobNamed(attempts, names.Rollback); {
	case !began && atGate:
		return "", &usererr.Error{Field: "releaseId", Problem: fmt.Sprintf("pipeline %d, whose canary has not started, was not canceled: %v (%s)", p.PipelineID, errAtGate, p.URL), Fix: insteadOfCanceling(errAtGate, "")}
	case !began:
		return before, nil
	case rollback == nil:
		return "", &usererr.Error{Field: "gitlab.jobs.rollback", Problem: fmt.Sprintf("pipeline %d was canceled, but its canary had started, and it has no job %q (%s)", p.PipelineID, names.Rollback, p.URL), Fix: "roll back with `crossbill rollback`, and give the name of the manual job that rolls back"}
	case underWay(rollback.Status), waitsToRun(rollback.Status):
		return fmt.Sprintf("pipeline %d was canceled after its canary had started: job %s runs already", p.PipelineID, rollback.Name), nil
	default:
		return fmt.Sprintf("pipeline %d was canceled after its canary had started: pressed %s (%s)", p.PipelineID, rollback.Name, rollback.URL), c.press(ctx, rollback)
	}
}

// inProduction says whether a release has all of the traffic, also if its cleanup has yet to run, or has failed. Where a rollback has
// started, it may be on its way back.
func (p Progress) inProduction(names JobNames) bool {
	promote := jobNamed(p.Jobs, names.Promote)
	back := slices.ContainsFunc(p.Jobs, func(j Job) bool {
		return strings.HasPrefix(j.Name, names.Rollback) && (underWay(j.Status) || j.Status == "failed" && !outdated(j, p.Jobs, names))
	})
	return p.State == Promoted || p.State == Unfinished || p.State == Running && promote != nil && promote.Status == "success" && !back
}

// started says whether a job may have done anything.
func started(j *Job) bool {
	if j.Status == "canceled" { // perhaps before it ran
		return !j.StartedAt.IsZero()
	}
	return !slices.Contains([]string{"created", "waiting_for_resource", "preparing", "pending", "scheduled", "manual", "skipped"}, j.Status)
}

func missingJob(p Progress, field, name, what string) error {
	return &usererr.Error{Field: field, Problem: fmt.Sprintf("pipeline %d has no job %q (%s); nothing was changed", p.PipelineID, name, p.URL), Fix: "give the name of " + what}
}

// press starts a manual job, or retries one that has finished.
func (c *Client) press(ctx context.Context, job *Job) error {
	if slices.Contains([]string{"created", "skipped", "scheduled"}, job.Status) { // it has no button yet, or never will
		return &usererr.Error{Field: "gitlab.jobs.rollback", Problem: fmt.Sprintf("job %s is %s, which GitLab does not retry (%s)", job.Name, job.Status, job.URL), Fix: "roll back with `crossbill rollback`; `crossbill lint` says why the job has no button"}
	}
	with := []gitlab.RequestOptionFunc{gitlab.WithContext(ctx), gitlab.WithToken(gitlab.PrivateToken, c.token)}
	var err error
	if job.Status == "manual" {
		_, _, err = c.once.Jobs.PlayJob(c.project, job.id, &gitlab.PlayJobOptions{}, with...)
	} else {
		_, _, err = c.once.Jobs.RetryJob(c.project, job.id, with...)
	}
	var failure *gitlab.ErrorResponse
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failure) && failure.StatusCode == http.StatusBadRequest && strings.Contains(string(failure.Body), "Unplayable"):
		return nil // somebody was faster
	case statusOf(err) == http.StatusForbidden || statusOf(err) == http.StatusUnauthorized:
		return &usererr.Error{Field: "gitlabToken", Problem: fmt.Sprintf("it may not run job %s: %s", job.Name, withoutURL(err)), Fix: "use a token of scope api whose user may run it, or press it in GitLab: " + job.URL}
	}
	return fmt.Errorf("pressing %s: %w; it may or may not run: look in GitLab (%s), or run the same command again", job.Name, err, job.URL)
}
