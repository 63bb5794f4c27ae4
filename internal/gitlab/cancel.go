package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/our-org/crossbill/internal/usererr"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"
)

// canaryJob begins a release: before it, nothing has happened to the mesh.
const canaryJob = "deploy_canary"

// Cancel ends a release from outside GitLab. When its canary has begun, the rollback button is pressed:
// the rollback takes the lock from whatever job runs, and brings the old primary back. Before that the
// pipeline is canceled. It can be called again. The result is the pipeline as it was found; Watch
// follows what comes of it. done says what was done.
//
// Errors: *usererr.Error (nothing to cancel any more, or no such pipeline), or what GitLab or the
// network answered. The token needs scope api, and a role that may run the rollback job.
func Cancel(ctx context.Context, c *Client, o WatchOptions) (p Progress, done string, err error) {
	if err := o.check(); err != nil {
		return Progress{}, "", err
	}
	deadline := c.clock.Now().Add(o.Timeout)
	if p, err = c.progress(ctx, deadline, &o); err != nil {
		return p, "", err
	}
	var canary, rollback *JobState
	for i, j := range p.Jobs {
		switch {
		case j.Name == canaryJob:
			canary = &p.Jobs[i]
		case j.Name == o.RollbackJob:
			rollback = &p.Jobs[i]
		}
	}
	begun := canary != nil && canary.Status != "created" && canary.Status != "pending" && canary.Status != "waiting_for_resource" && canary.Status != "skipped"
	switch {
	case p.State == RolledBack, p.State == Canceled && !begun:
		return p, "nothing: " + p.Reason, nil
	case p.State == Promoted:
		return p, "", &usererr.Error{Field: "--release-id", Problem: fmt.Sprintf("release of pipeline %d is in production", p.PipelineID), Fix: "release an older image, or press rollback in GitLab before its canary is cleaned up"}
	case !begun:
		return p, fmt.Sprintf("canceled pipeline %d before its canary", p.PipelineID), c.cancel(ctx, deadline, p.PipelineID)
	case rollback == nil:
		return p, "", &usererr.Error{Field: "--rollback-job", Problem: fmt.Sprintf("pipeline %d has no job %q", p.PipelineID, o.RollbackJob), Fix: "give the name of the file's manual rollback job"}
	case rollback.Status == "running" || rollback.Status == "pending":
		return p, "job " + rollback.Name + " runs already", nil
	}
	return p, "pressed " + rollback.Name + " (" + rollback.WebURL + ")", c.play(ctx, rollback)
}

// play presses a job's button, or retries it when it has ended.
func (c *Client) play(ctx context.Context, job *JobState) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var err error
	if job.Status == "manual" {
		_, _, err = c.read.Jobs.PlayJob(c.project, job.id, &gitlab.PlayJobOptions{}, gitlab.WithContext(ctx))
	} else {
		_, _, err = c.read.Jobs.RetryJob(c.project, job.id, gitlab.WithContext(ctx))
	}
	var failure *gitlab.ErrorResponse
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failure) && failure.Response.StatusCode == http.StatusBadRequest && strings.Contains(string(failure.Body), "Unplayable"):
		return nil // somebody was faster
	case statusOf(err) == http.StatusForbidden || statusOf(err) == http.StatusUnauthorized:
		return &usererr.Error{Field: "GITLAB_TOKEN", Problem: fmt.Sprintf("it may not run job %s: %s", job.Name, shortly(err)), Fix: "use a token of scope api whose user may run it, or press it in GitLab: " + job.WebURL}
	}
	return fmt.Errorf("pressing %s: %w; nobody knows whether it runs: look in GitLab (%s), or run the same command again", job.Name, err, job.WebURL)
}
