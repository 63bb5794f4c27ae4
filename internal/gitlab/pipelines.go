package gitlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/usererr"
)

// longestList bounds how many pages of a list are read.
const longestList = 20

// pipelinesNamed gives the pipelines of a name, lowest id first, without those that have a configuration error:
// they have no jobs.
func (c *Client) pipelinesNamed(ctx context.Context, deadline time.Time, name string) ([]*gitlab.PipelineInfo, error) {
	options := &gitlab.ListProjectPipelinesOptions{
		ListOptions: gitlab.ListOptions{PerPage: 100, Page: 1},
		Name:        &name, YamlErrors: new(false), OrderBy: new("id"), Sort: new("asc"),
	}
	var found []*gitlab.PipelineInfo
	for range longestList {
		page, next, err := c.pipelinesPage(ctx, deadline, options)
		if err != nil {
			return nil, err
		}
		for _, p := range page {
			if p.Name == name { // GitLab before 16.9 does not know the filter
				found = append(found, p)
			}
		}
		if next == 0 {
			return found, nil
		}
		options.Page = next
	}
	return nil, fmt.Errorf("listing pipelines named %q: more than %d pages: this GitLab does not filter by name (it came with 16.9)", name, longestList)
}

// pipelinesOf gives the pipelines of a release, lowest id first. Without the app's name, it searches the newest
// pipelines of the project.
func (c *Client) pipelinesOf(ctx context.Context, deadline time.Time, app, releaseID string) ([]*gitlab.PipelineInfo, error) {
	if app != "" {
		return c.pipelinesNamed(ctx, deadline, pipelineName(app, releaseID))
	}
	rows, _, err := c.pipelinesPage(ctx, deadline, &gitlab.ListProjectPipelinesOptions{
		ListOptions: gitlab.ListOptions{PerPage: 100}, YamlErrors: new(false), OrderBy: new("id"), Sort: new("desc"),
	})
	if err != nil {
		return nil, err
	}
	rows = slices.DeleteFunc(rows, func(p *gitlab.PipelineInfo) bool {
		return !strings.HasPrefix(p.Name, "release ") || !strings.HasSuffix(p.Name, " "+releaseID)
	})
	slices.Reverse(rows)
	return rows, nil
}

// errNull is for the answer null where GitLab has an object.
var errNull = errors.New("GitLab answered null")

// withoutNil leaves out what a list has as null.
func withoutNil[T any](rows []*T) []*T {
	return slices.DeleteFunc(rows, func(row *T) bool { return row == nil })
}

// pipelinesPage lists one page of pipelines; next is 0 on the last one.
func (c *Client) pipelinesPage(ctx context.Context, deadline time.Time, options *gitlab.ListProjectPipelinesOptions) (rows []*gitlab.PipelineInfo, next int64, err error) {
	err = c.repeat(ctx, deadline, "listing pipelines", func(o gitlab.RequestOptionFunc) error {
		got, resp, err := c.read.Pipelines.ListProjectPipelines(c.project, options, o)
		if err == nil {
			rows, next = withoutNil(got), resp.NextPage
		}
		return err
	})
	if err != nil {
		return nil, 0, c.explainRead(err)
	}
	return rows, next, nil
}

// currentPipeline finds the pipeline that a release's effect comes from: of those that are open, the one with the
// lowest id, whose duplicates it cancels; else the newest attempt that finished; else the newest that was canceled.
func (c *Client) currentPipeline(ctx context.Context, deadline time.Time, target Target, names JobNames) (int64, error) {
	named, err := c.pipelinesOf(ctx, deadline, target.App, target.ReleaseID)
	if err != nil {
		return 0, err
	}
	ref := cmp.Or(target.Ref, "main")
	rows, err := c.genuine(ctx, deadline, ref, named)
	if err != nil {
		return 0, err
	}
	if len(rows) == 0 && len(named) > 0 {
		return 0, &usererr.Error{Field: "releaseId", Problem: fmt.Sprintf("%s has no pipeline of release %s that the trigger token started on %s; others started %d of its name", c.project, target.ReleaseID, ref, len(named)), Fix: "find out who (the log says), cancel them in GitLab, and check gitlab.ref and gitlab.user"}
	}
	if len(rows) == 0 {
		return 0, &usererr.Error{Field: "releaseId", Problem: fmt.Sprintf("%s has no pipeline of release %s", c.project, target.ReleaseID), Fix: "start it with `crossbill trigger`"}
	}
	live := slices.DeleteFunc(slices.Clone(rows), func(p *gitlab.PipelineInfo) bool { return withoutEffect(p.Status) })
	if len(live) == 0 {
		return rows[len(rows)-1].ID, nil
	}
	// Finished ones may be earlier attempts of `trigger --again`: the newest attempt counts.
	var open []*gitlab.PipelineInfo
	for _, p := range live {
		over, err := c.over(ctx, deadline, p, names)
		if err != nil {
			return 0, err
		}
		if !over {
			open = append(open, p)
		}
	}
	if len(open) == 0 {
		return live[len(live)-1].ID, nil
	}
	for _, p := range open[1:] {
		if err := c.cancelDuplicate(ctx, deadline, p); err != nil {
			if _, said := c.uncanceled.LoadOrStore(p.ID, true); !said {
				c.logf("pipeline %d is a duplicate of %d and could not be canceled: %s; %s", p.ID, open[0].ID, withoutURL(err), insteadOfCanceling(err, "cancel it in GitLab"))
			}
			continue
		}
		c.logf("canceled pipeline %d: %d is the release's", p.ID, open[0].ID)
	}
	return open[0].ID, nil
}

// over says whether a pipeline does nothing any more for its release: it has finished, or its release was rolled back, although it
// waits at its gate or still judges the canary.
func (c *Client) over(ctx context.Context, deadline time.Time, p *gitlab.PipelineInfo, names JobNames) (bool, error) {
	if finished(p.Status) || withoutEffect(p.Status) {
		return !withoutEffect(p.Status), nil
	}
	names.setDefaults()
	jobs, err := c.jobs(ctx, deadline, p.ID)
	if err != nil {
		return false, err
	}
	state, _ := stateOf(p.Status, jobs, names)
	return state == RolledBack, nil
}

// pipeline reads one pipeline.
func (c *Client) pipeline(ctx context.Context, deadline time.Time, id int64) (found *gitlab.Pipeline, err error) {
	err = c.repeat(ctx, deadline, fmt.Sprintf("reading pipeline %d", id), func(o gitlab.RequestOptionFunc) error {
		got, _, err := c.read.Pipelines.GetPipeline(c.project, id, o)
		if err == nil && got == nil {
			return errNull
		}
		found = got
		return err
	})
	if err != nil {
		return nil, c.explainRead(err)
	}
	return found, nil
}

// errAtGate says of a pipeline that was to be canceled that it still waits for somebody: a manual job that blocks is not
// canceled, and decides the pipeline's status (any_of?(:manual) in GitLab's lib/gitlab/ci/status/composite.rb).
var errAtGate = errors.New("it waits at a manual job, and GitLab cancels none of those")

// insteadOfCanceling is what a person does about a pipeline that could not be canceled.
func insteadOfCanceling(err error, otherwise string) string {
	if errors.Is(err, errAtGate) {
		return "do not press it, or delete the pipeline in GitLab"
	}
	return otherwise
}

// cancelPipeline cancels a pipeline. One that has finished stays as it is. The error is errAtGate if it is known to wait on.
func (c *Client) cancelPipeline(ctx context.Context, deadline time.Time, id int64) error {
	return c.repeat(ctx, deadline, fmt.Sprintf("canceling pipeline %d", id), func(o gitlab.RequestOptionFunc) error {
		p, _, err := c.read.Pipelines.CancelPipelineBuild(c.project, id, o)
		if err == nil && p != nil && p.Status == "manual" {
			return errAtGate
		}
		return err
	})
}

// cancelDuplicate is cancelPipeline of one that is not the release's own. At its gate it is left as it is: only the jobs that
// finish a promotion could be canceled.
func (c *Client) cancelDuplicate(ctx context.Context, deadline time.Time, p *gitlab.PipelineInfo) error {
	if p.Status == "manual" {
		return errAtGate
	}
	return c.cancelPipeline(ctx, deadline, p.ID)
}

// withoutEffect says of a pipeline's status that it does nothing (any more) for its release.
func withoutEffect(status string) bool {
	return status == "canceled" || status == "canceling" || status == "skipped"
}
