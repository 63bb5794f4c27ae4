package gitlab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"
)

// WatchOptions say what is watched: the pipeline with an id, or the one of a release.
type WatchOptions struct {
	PipelineID int64
	ReleaseID  string
	App        string // with ReleaseID; without it the newest pipelines of all apps are searched

	PromoteJob  string        // default promote_to_production
	RollbackJob string        // prefix of the names of the rollback jobs; default rollback
	Timeout     time.Duration // default 30 min
}

// State is how far GitLab has come with a release.
type State string

// The states. Every one but Running ends a watch; only Promoted is a success.
const (
	Running    State = "running"
	Waiting    State = "waiting"     // for a person to press a button
	Promoted   State = "promoted"    // the pipeline succeeded, and its promote job ran
	Unfinished State = "unfinished"  // promoted, but a job after that failed or was canceled
	RolledBack State = "rolled_back" // a rollback job succeeded after the promote job, or without it
	Failed     State = "failed"      // a rollback job's failure too: where it left the traffic is not known here
	Canceled   State = "canceled"    // or skipped: nobody finished it
)

// JobState is a job as it was last seen.
type JobState struct {
	Name   string `json:"name"`
	Stage  string `json:"stage"`
	Status string `json:"status"`
	WebURL string `json:"webUrl"`

	User       string    `json:"user,omitempty"` // who started it: of a manual job, who pressed the button
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`

	id int64
}

// Progress is what a watch has seen.
type Progress struct {
	ReleaseID  string     `json:"releaseId,omitempty"`
	PipelineID int64      `json:"pipelineId"`
	WebURL     string     `json:"webUrl"`
	Status     string     `json:"status"` // GitLab's word
	State      State      `json:"state"`
	Reason     string     `json:"reason"` // what to do next, for a person
	Jobs       []JobState `json:"jobs"`
}

// DeadlineError says that the time of a watch is over. The pipeline goes on; watch it again.
type DeadlineError struct {
	Progress Progress
	Timeout  time.Duration
}

func (e *DeadlineError) Error() string {
	return fmt.Sprintf("pipeline %d is still %s after %s: it goes on; run the same command again to watch it further, %s", e.Progress.PipelineID, e.Progress.Status, e.Timeout, e.Progress.WebURL)
}

// Watch follows a pipeline, and the child pipelines that it starts, until it has ended or waits for a
// person. It never waits for longer than the time-out, and it can be begun again at any point. Watching
// by release id also cancels duplicates that appeared late, if the token may.
//
// A pipeline's success alone proves nothing: its promote job may have been passed over. So Promoted
// needs a promote job that succeeded.
//
// Errors: *usererr.Error, *DeadlineError, or what GitLab or the network answered.
func Watch(ctx context.Context, c *Client, o WatchOptions) (Progress, error) {
	if err := o.check(); err != nil {
		return Progress{}, err
	}
	deadline := c.clock.Now().Add(o.Timeout)
	shown := ""
	for pause := 2 * time.Second; ; pause = min(pause*3/2, 30*time.Second) {
		p, err := c.progress(ctx, deadline, &o)
		if err != nil {
			return p, err
		}
		if line := fmt.Sprintf("pipeline %d: %s %s", p.PipelineID, p.Status, with(p.Jobs, "running")); line != shown {
			shown = line
			c.logf("%s", line)
		}
		if p.State != Running {
			return p, nil
		}
		if !c.clock.Now().Add(pause).Before(deadline) {
			return p, &DeadlineError{p, o.Timeout}
		}
		if err := c.clock.Sleep(ctx, pause); err != nil {
			return p, fmt.Errorf("watching pipeline %d: %w; it goes on in GitLab", p.PipelineID, err)
		}
	}
}

func (o *WatchOptions) check() error {
	switch {
	case o.PipelineID == 0 && o.ReleaseID == "":
		return &usererr.Error{Field: "--pipeline", Problem: "nothing to watch", Fix: "give --pipeline ID or --release-id ID"}
	case o.PipelineID != 0 && o.ReleaseID != "":
		return &usererr.Error{Field: "--pipeline", Problem: "given together with --release-id", Fix: "give one of them"}
	case o.PipelineID < 0:
		return &usererr.Error{Field: "--pipeline", Problem: fmt.Sprintf("%d is not a pipeline", o.PipelineID), Fix: "give the number that `crossbill trigger` printed"}
	case o.App != "" && !appPattern.MatchString(o.App):
		return &usererr.Error{Field: "--app", Problem: fmt.Sprintf("%q is not the name of an app", o.App), Fix: "use small letters, digits and hyphens"}
	}
	if o.PromoteJob == "" {
		o.PromoteJob = "promote_to_production"
	}
	if o.RollbackJob == "" {
		o.RollbackJob = "rollback"
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Minute
	}
	if o.ReleaseID != "" {
		return checkID(o.ReleaseID)
	}
	return nil
}

// Jobs are those of a pipeline and of the child pipelines that it starts, each as its newest attempt, read
// once.
//
// Errors: *usererr.Error, or what GitLab or the network answered.
func Jobs(ctx context.Context, c *Client, pipelineID int64, timeout time.Duration) ([]JobState, error) {
	return c.jobs(ctx, c.clock.Now().Add(timeout), c.project, pipelineID, 3)
}

// progress looks once.
func (c *Client) progress(ctx context.Context, deadline time.Time, o *WatchOptions) (Progress, error) {
	id := o.PipelineID
	if id == 0 {
		var err error
		if id, err = c.ofRelease(ctx, deadline, o); err != nil {
			return Progress{}, err
		}
	}
	var pipeline *gitlab.Pipeline
	err := c.again(ctx, deadline, fmt.Sprintf("reading pipeline %d", id), func(r gitlab.RequestOptionFunc) (*gitlab.Response, error) {
		got, resp, err := c.read.Pipelines.GetPipeline(c.project, id, r)
		pipeline = got
		return resp, err
	})
	if err != nil {
		return Progress{PipelineID: id}, c.explainRead(err)
	}
	jobs, err := c.jobs(ctx, deadline, c.project, id, 3)
	if err != nil {
		return Progress{PipelineID: id, WebURL: pipeline.WebURL, Status: pipeline.Status}, err
	}
	p := Progress{ReleaseID: o.ReleaseID, PipelineID: id, WebURL: pipeline.WebURL, Status: pipeline.Status, Jobs: jobs}
	p.State, p.Reason = judge(pipeline.Status, jobs, o.PromoteJob, o.RollbackJob)
	if pipeline.YamlErrors != "" {
		p.State, p.Reason = Failed, "the pipeline file has errors: "+pipeline.YamlErrors
	}
	return p, nil
}

// judge says what a pipeline's status and jobs mean for the release.
func judge(status string, jobs []JobState, promote, rollback string) (State, string) {
	var promoted, undone *JobState
	for i, j := range jobs {
		switch {
		case j.Name == promote:
			promoted = &jobs[i]
		case strings.HasPrefix(j.Name, rollback) && (j.Status == "success" || j.Status == "failed") && (undone == nil || j.FinishedAt.After(undone.FinishedAt)):
			undone = &jobs[i]
		}
	}
	inProduction := promoted != nil && promoted.Status == "success"
	ended := status == "success" || status == "failed" || status == "canceled" || status == "skipped"
	if (ended || status == "manual") && undone != nil && (!inProduction || undone.FinishedAt.After(promoted.FinishedAt)) {
		if undone.Status == "failed" {
			return Failed, "failed: " + with(jobs, "failed") + "; `crossbill status` says where the traffic is; read the job's log, then retry " + undone.Name
		}
		return RolledBack, "job " + undone.Name + " brought the old primary back"
	}
	switch status {
	case "failed", "canceled", "skipped":
		switch {
		case inProduction:
			return Unfinished, "in production, but not finished: " + status + " after " + promote + ": " + with(jobs, status) + "; read the job's log, then retry it"
		case status == "failed":
			return Failed, "failed: " + with(jobs, status) + "; read the job's log, then retry it or press rollback"
		}
		return Canceled, "the pipeline was " + status + ": nothing says that the release is in production; press rollback if its canary was begun, then trigger again"
	case "manual":
		return Waiting, "press " + waitingFor(jobs, promote) + " to go on, or rollback"
	case "success":
		switch {
		case promoted == nil:
			return Failed, fmt.Sprintf("the pipeline succeeded without a job %q: its file is not Crossbill's, or give the job's name", promote)
		case inProduction:
			return Promoted, "in production"
		case promoted.Status == "manual":
			return Waiting, fmt.Sprintf("press %s. GitLab calls the pipeline a success although nobody has: the job does not block; `crossbill lint` says why", promote)
		default:
			return Failed, fmt.Sprintf("the pipeline succeeded, but %s is %s: nothing was promoted", promote, promoted.Status)
		}
	default: // created, waiting_for_resource, preparing, pending, running, canceling, scheduled, and words to come
		return Running, ""
	}
}

// with names the jobs that have a status.
func with(jobs []JobState, status string) string {
	var names []string
	for _, j := range jobs {
		if j.Status == status {
			names = append(names, j.Name)
		}
	}
	return strings.Join(names, ", ")
}

// waitingFor names the manual jobs that are neither a rollback nor optional: the promote job if it is
// among them.
func waitingFor(jobs []JobState, promote string) string {
	for _, j := range jobs {
		if j.Status == "manual" && j.Name == promote && j.WebURL != "" {
			return promote + " (" + j.WebURL + ")"
		}
	}
	return "the manual job that blocks the pipeline"
}

// ofRelease finds a release's pipeline: the lowest id that is not canceled, else the highest that is.
func (c *Client) ofRelease(ctx context.Context, deadline time.Time, o *WatchOptions) (int64, error) {
	rows, err := c.named(ctx, deadline, o)
	if err != nil {
		return 0, err
	}
	if len(rows) == 0 {
		return 0, &usererr.Error{Field: "--release-id", Problem: fmt.Sprintf("%s has no pipeline of release %s", c.project, o.ReleaseID), Fix: "start it with `crossbill trigger`"}
	}
	live := slices.DeleteFunc(slices.Clone(rows), func(p *gitlab.PipelineInfo) bool { return withoutEffect(p.Status) })
	if len(live) == 0 {
		return rows[len(rows)-1].ID, nil
	}
	// Ended ones may be earlier attempts of `trigger --again`: the newest attempt is the one to watch.
	open := slices.DeleteFunc(slices.Clone(live), func(p *gitlab.PipelineInfo) bool { return p.Status == "success" || p.Status == "failed" })
	if len(open) == 0 {
		return live[len(live)-1].ID, nil
	}
	for _, p := range open[1:] {
		if err := c.cancel(ctx, deadline, p.ID); err != nil {
			c.logf("pipeline %d is a duplicate of %d and could not be canceled: %s; cancel it in GitLab", p.ID, open[0].ID, shortly(err))
			continue
		}
		c.logf("canceled pipeline %d: %d is the release's", p.ID, open[0].ID)
	}
	return open[0].ID, nil
}

// named gives the pipelines of a release, lowest id first.
func (c *Client) named(ctx context.Context, deadline time.Time, o *WatchOptions) ([]*gitlab.PipelineInfo, error) {
	if o.App != "" {
		return c.list(ctx, deadline, Name(o.App, o.ReleaseID))
	}
	var rows []*gitlab.PipelineInfo
	err := c.again(ctx, deadline, "listing pipelines", func(r gitlab.RequestOptionFunc) (*gitlab.Response, error) {
		got, resp, err := c.read.Pipelines.ListProjectPipelines(c.project, &gitlab.ListProjectPipelinesOptions{
			ListOptions: gitlab.ListOptions{PerPage: 100}, YamlErrors: new(false), OrderBy: new("id"), Sort: new("desc"),
		}, r)
		rows = got
		return resp, err
	})
	if err != nil {
		return nil, c.explainRead(err)
	}
	rows = slices.DeleteFunc(rows, func(p *gitlab.PipelineInfo) bool {
		return !strings.HasPrefix(p.Name, "release ") || !strings.HasSuffix(p.Name, " "+o.ReleaseID)
	})
	slices.Reverse(rows)
	return rows, nil
}

// jobs lists the newest attempt of each job of a pipeline and, down to a depth, of its child pipelines.
func (c *Client) jobs(ctx context.Context, deadline time.Time, project any, id int64, depth int) ([]JobState, error) {
	var found []JobState
	options := &gitlab.ListJobsOptions{ListOptions: gitlab.ListOptions{PerPage: 100, Page: 1}}
	for options.Page != 0 {
		var page []*gitlab.Job
		err := c.again(ctx, deadline, fmt.Sprintf("listing the jobs of pipeline %d", id), func(r gitlab.RequestOptionFunc) (*gitlab.Response, error) {
			got, resp, err := c.read.Jobs.ListPipelineJobs(project, id, options, r)
			if err == nil {
				page, options.Page = got, resp.NextPage
			}
			return resp, err
		})
		if err != nil {
			return nil, c.explainRead(err)
		}
		for _, j := range page {
			state := JobState{id: j.ID, Name: j.Name, Stage: j.Stage, Status: j.Status, WebURL: j.WebURL}
			if j.User != nil {
				state.User = j.User.Username
			}
			if j.StartedAt != nil {
				state.StartedAt = *j.StartedAt
			}
			if j.FinishedAt != nil {
				state.FinishedAt = *j.FinishedAt
			}
			found = append(found, state)
		}
	}
	if depth == 0 {
		return found, nil
	}
	var bridges []*gitlab.Bridge
	err := c.again(ctx, deadline, fmt.Sprintf("listing the child pipelines of pipeline %d", id), func(r gitlab.RequestOptionFunc) (*gitlab.Response, error) {
		got, resp, err := c.read.Jobs.ListPipelineBridges(project, id, &gitlab.ListJobsOptions{ListOptions: gitlab.ListOptions{PerPage: 100}}, r)
		bridges = got
		return resp, err
	})
	if err != nil {
		return nil, c.explainRead(err)
	}
	for _, b := range bridges {
		if b.DownstreamPipeline == nil {
			continue
		}
		child, err := c.jobs(ctx, deadline, int(b.DownstreamPipeline.ProjectID), b.DownstreamPipeline.ID, depth-1)
		if err != nil {
			return nil, err
		}
		found = append(found, child...)
	}
	return found, nil
}
