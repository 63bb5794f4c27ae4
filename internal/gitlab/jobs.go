package gitlab

import (
	"context"
	"fmt"
	"strings"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"
)

// JobNames are the names of the jobs that have a part in a release (gitlab.jobs in crossbill.yaml).
type JobNames struct {
	Canary   string // starts the canary; default deploy_canary
	Verify   string // judges the canary; default verify_canary
	Promote  string // behind the approval gate; default promote_to_production
	Rollback string // manual; the names of the automatic ones start with it; default rollback
}

func (n *JobNames) setDefaults() {
	for field, name := range map[*string]string{&n.Canary: "deploy_canary", &n.Verify: "verify_canary", &n.Promote: "promote_to_production", &n.Rollback: "rollback"} {
		if *field == "" {
			*field = name
		}
	}
}

// Jobs of Crossbill's pipeline file that have these names alone.
const (
	queueJob = "queue"        // in which a release waits for its turn
	watchJob = "watch_canary" // judges the canary beside the approval gate
)

// Job is the newest attempt of a pipeline's job, as it was last seen.
type Job struct {
	Name   string `json:"name"`
	Stage  string `json:"stage"`
	Status string `json:"status"` // GitLab's word
	URL    string `json:"url"`

	User       string    `json:"user,omitempty"` // who started it: of a manual job, who pressed the button
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`

	id           int64
	allowFailure bool
}

// Bounds of the child pipelines that are followed: levels, and pipelines in all.
const (
	deepestPipeline = 3
	mostPipelines   = 100
)

// Jobs are those of a pipeline and of the child pipelines that it starts, read once.
//
// Errors: *usererr.Error, or what GitLab or the network answered.
func Jobs(ctx context.Context, c *Client, pipelineID int64, timeout time.Duration) ([]Job, error) {
	return c.jobs(ctx, time.Now().Add(timeout), pipelineID)
}

// jobs lists the jobs of a pipeline and of its child pipelines, each by its newest attempt.
func (c *Client) jobs(ctx context.Context, deadline time.Time, id int64) ([]Job, error) {
	left := mostPipelines
	return c.jobsBelow(ctx, deadline, c.project, id, false, deepestPipeline, &left)
}

// attempts lists the same, and the attempts that were retried; newer ones come first.
func (c *Client) attempts(ctx context.Context, deadline time.Time, id int64) ([]Job, error) {
	left := mostPipelines
	return c.jobsBelow(ctx, deadline, c.project, id, true, deepestPipeline, &left)
}

// jobsBelow lists the jobs of a pipeline and, down to a depth and as long as some are left, of its child pipelines.
func (c *Client) jobsBelow(ctx context.Context, deadline time.Time, project any, id int64, retried bool, depth int, left *int) ([]Job, error) {
	if *left--; *left < 0 {
		return nil, fmt.Errorf("listing the jobs of pipeline %d: more than %d pipelines", id, mostPipelines)
	}
	found, err := c.ownJobs(ctx, deadline, project, id, retried)
	if err != nil || depth == 0 {
		return found, err
	}
	var bridges []*gitlab.Bridge
	err = c.repeat(ctx, deadline, fmt.Sprintf("listing the child pipelines of pipeline %d", id), func(o gitlab.RequestOptionFunc) error {
		got, _, err := c.read.Jobs.ListPipelineBridges(project, id, &gitlab.ListJobsOptions{ListOptions: gitlab.ListOptions{PerPage: 100}}, o)
		bridges = withoutNil(got)
		return err
	})
	if err != nil {
		return nil, c.explainRead(err)
	}
	for _, b := range bridges {
		if b.DownstreamPipeline == nil {
			continue
		}
		child, err := c.jobsBelow(ctx, deadline, int(b.DownstreamPipeline.ProjectID), b.DownstreamPipeline.ID, retried, depth-1, left)
		if err != nil {
			return nil, err
		}
		found = append(found, child...)
	}
	return found, nil
}

// ownJobs lists the jobs of a pipeline without its child pipelines.
func (c *Client) ownJobs(ctx context.Context, deadline time.Time, project any, id int64, retried bool) ([]Job, error) {
	var found []Job
	options := &gitlab.ListJobsOptions{ListOptions: gitlab.ListOptions{PerPage: 100, Page: 1}}
	if retried {
		options.IncludeRetried = new(true)
	}
	for pages := 0; options.Page != 0; pages++ {
		if pages == longestList {
			return nil, fmt.Errorf("listing the jobs of pipeline %d: more than %d pages", id, longestList)
		}
		var page []*gitlab.Job
		err := c.repeat(ctx, deadline, fmt.Sprintf("listing the jobs of pipeline %d", id), func(o gitlab.RequestOptionFunc) error {
			got, resp, err := c.read.Jobs.ListPipelineJobs(project, id, options, o)
			if err == nil {
				page, options.Page = withoutNil(got), resp.NextPage
			}
			return err
		})
		if err != nil {
			return nil, c.explainRead(err)
		}
		for _, j := range page {
			found = append(found, jobOf(j))
		}
	}
	return found, nil
}

func jobOf(j *gitlab.Job) Job {
	job := Job{id: j.ID, allowFailure: j.AllowFailure, Name: j.Name, Stage: j.Stage, Status: j.Status, URL: j.WebURL}
	if j.User != nil {
		job.User = j.User.Username
	}
	if j.StartedAt != nil {
		job.StartedAt = *j.StartedAt
	}
	if j.FinishedAt != nil {
		job.FinishedAt = *j.FinishedAt
	}
	return job
}

// jobNamed is the job of a name, nil when there is none.
func jobNamed(jobs []Job, name string) *Job {
	for i := range jobs {
		if jobs[i].Name == name {
			return &jobs[i]
		}
	}
	return nil
}

// namesWith lists the names of the jobs that have a status.
func namesWith(jobs []Job, status string) string {
	var names []string
	for _, j := range jobs {
		if j.Status == status {
			names = append(names, j.Name)
		}
	}
	return strings.Join(names, ", ")
}
