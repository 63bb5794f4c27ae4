package gitlab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Target is a pipeline: the one with an id, or the one of a release.
type Target struct {
	PipelineID int64
	ReleaseID  string
	App        string // with ReleaseID; without it the newest pipelines of all apps are searched
	Ref        string // with ReleaseID: branch or tag of the GitLab project that releases run on; default main
}

// check refuses what names no pipeline. The errors are *usererr.Error.
func (t Target) check() error {
	switch {
	case t.PipelineID == 0 && t.ReleaseID == "":
		return &usererr.Error{Field: "pipeline", Problem: "neither a pipeline nor a release is named", Fix: "give one of them"}
	case t.PipelineID != 0 && t.ReleaseID != "":
		return &usererr.Error{Field: "pipeline", Problem: "both a pipeline and a release are named", Fix: "give one of them"}
	case t.Ref != "" && !refPattern.MatchString(t.Ref):
		return badRef(t.Ref)
	case t.PipelineID < 0:
		return &usererr.Error{Field: "pipeline", Problem: fmt.Sprintf("%d is not a pipeline", t.PipelineID), Fix: "give the number that `crossbill trigger` printed"}
	}
	if t.App != "" {
		if err := release.CheckApp("app", t.App); err != nil {
			return err
		}
	}
	if t.ReleaseID != "" {
		return checkID(t.ReleaseID)
	}
	return nil
}

// WatchOptions say what is watched.
type WatchOptions struct {
	Target
	Jobs    JobNames
	Timeout time.Duration // default 30 min
}

// DeadlineError says that the time of a watch is over. The pipeline goes on; watch it again.
type DeadlineError struct {
	Progress Progress
	Timeout  time.Duration
}

func (e *DeadlineError) Error() string {
	status := e.Progress.Status
	if e.Progress.State == Queued {
		status = "queued"
	}
	return fmt.Sprintf("pipeline %d is still %s after %s: it goes on; run the same command again to watch it further, %s", e.Progress.PipelineID, status, e.Timeout, e.Progress.URL)
}

// Watch follows a pipeline, and the child pipelines that it starts, until it has finished or waits for an
// approver. It never waits for longer than the time-out, and it can be started again at any point. Watching
// by release id also cancels duplicates that appeared late, if the token may.
//
// A pipeline's success alone proves nothing: its promote job may have been skipped. So Promoted needs a promote job
// that succeeded.
//
// Errors: *usererr.Error, *DeadlineError, or what GitLab or the network answered; each with what was seen before, if anything was.
func Watch(ctx context.Context, c *Client, o WatchOptions) (Progress, error) {
	if err := o.check(); err != nil {
		return Progress{}, err
	}
	o.Jobs.setDefaults()
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Minute
	}
	deadline := time.Now().Add(o.Timeout)
	var last Progress
	shown := ""
	for pause := 2 * time.Second; ; pause = min(pause*3/2, 30*time.Second) {
		p, err := c.progress(ctx, deadline, o.Target, o.Jobs)
		if errors.Is(err, context.DeadlineExceeded) && last.Status != "" && ctx.Err() == nil && !time.Now().Before(deadline) {
			return last, &DeadlineError{last, o.Timeout}
		}
		if err != nil && last.Status != "" {
			return last, err
		}
		if err != nil {
			return p, err
		}
		last = p
		line := fmt.Sprintf("pipeline %d: %s %s", p.PipelineID, p.Status, namesWith(p.Jobs, "running"))
		if p.State == Queued {
			line += ": " + p.Reason
		}
		if line != shown {
			shown = line
			c.logf("%s", line)
		}
		if p.State != Running && p.State != Queued {
			return p, nil
		}
		if !time.Now().Add(pause).Before(deadline) {
			return p, &DeadlineError{p, o.Timeout}
		}
		if err := sleep(ctx, pause); err != nil {
			return p, fmt.Errorf("watching pipeline %d: %w; it goes on in GitLab", p.PipelineID, err)
		}
	}
}
