package gitlab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// State is how far GitLab has come with a release.
type State string

// The states. Every one but Running and Queued ends a watch; only Promoted is a success, and Finished of a preview.
const (
	Running    State = "running"
	Queued     State = "queued"      // its job queue is running: another release of the app may have to end first
	Waiting    State = "waiting"     // for an approver
	Promoted   State = "promoted"    // the pipeline succeeded, and its promote job ran
	Unfinished State = "unfinished"  // promoted, but a job after that failed or was canceled
	RolledBack State = "rolled_back" // a rollback job succeeded after the promote job, or without it
	Failed     State = "failed"      // a rollback job's failure too: where it left the traffic is not known here
	Canceled   State = "canceled"    // or skipped: nobody finished it
	Finished   State = "finished"    // the pipeline of a preview succeeded
)

// Progress is what was seen of a release's pipeline.
type Progress struct {
	ReleaseID  string `json:"releaseId,omitempty"`
	PipelineID int64  `json:"pipelineId"`
	URL        string `json:"url"`
	Status     string `json:"status"` // GitLab's word
	State      State  `json:"state"`
	Reason     string `json:"reason"` // what to do next
	Jobs       []Job  `json:"jobs"`
}

// progress looks once.
func (c *Client) progress(ctx context.Context, deadline time.Time, target Target, names JobNames) (Progress, error) {
	p := Progress{ReleaseID: target.ReleaseID, PipelineID: target.PipelineID}
	if p.PipelineID == 0 {
		var err error
		if p.PipelineID, err = c.currentPipeline(ctx, deadline, target, names); err != nil {
			return p, err
		}
	}
	pipeline, err := c.pipeline(ctx, deadline, p.PipelineID)
	if err != nil {
		return p, err
	}
	p.URL, p.Status = pipeline.WebURL, pipeline.Status
	if p.Jobs, err = c.jobs(ctx, deadline, p.PipelineID); err != nil {
		return p, err
	}
	p.State, p.Reason = stateOf(pipeline.Status, p.Jobs, names)
	if strings.HasPrefix(pipeline.Name, previewPrefix) {
		p.State, p.Reason = stateOfPreview(pipeline.Status, p.Jobs)
	}
	if pipeline.YamlErrors != "" {
		p.State, p.Reason = Failed, "the pipeline file has errors: "+pipeline.YamlErrors
	}
	return p, nil
}

// stateOf says what a pipeline's status and jobs mean for the release, and what to do next.
func stateOf(status string, jobs []Job, names JobNames) (State, string) {
	promote, rollback := jobNamed(jobs, names.Promote), lastRollback(jobs, names)
	promoted := promote != nil && promote.Status == "success"
	if rollback != nil && (finished(status) || status == "manual" || rolledBackLast(rollback, jobs, names)) && (!promoted || rollback.FinishedAt.After(promote.FinishedAt)) {
		if rollback.Status == "failed" {
			return Failed, "failed: " + namesWith(jobs, "failed") + "; `crossbill status` shows where the traffic is; read the job's log, then retry " + rollback.Name
		}
		return RolledBack, "job " + rollback.Name + " brought the old primary back"
	}
	if status == "failed" && promoted && onlyOutdated(jobs, names) {
		status = "success"
	}
	switch status {
	case "failed", "canceled", "skipped":
		return stateOfUnsuccessful(status, jobs, names, promoted)
	case "manual":
		if watch := jobNamed(jobs, watchJob); watch != nil && withoutEffect(watch.Status) { // canceled with the pipeline, whose gate GitLab leaves open
			return Waiting, watch.Name + " was canceled: nobody watches the canary; press rollback, or retry " + watch.Name + " (" + watch.URL + ")"
		}
		return Waiting, "press " + blockingJob(promote) + " to go on, or rollback"
	case "success":
		return stateOfSuccess(promote, names.Promote)
	default: // created, waiting_for_resource, preparing, pending, running, canceling, scheduled, and words to come
		if promote != nil && promote.Status == "manual" && !slices.ContainsFunc(jobs, func(j Job) bool { return strings.HasPrefix(j.Name, names.Rollback) && underWay(j.Status) }) {
			// Beside it the canary is judged on.
			return Waiting, "press " + blockingJob(promote) + " to go on, or rollback"
		}
		if queue := jobNamed(jobs, queueJob); queue != nil && queue.Status == "running" {
			return Queued, "the release waits in the line for its turn; " + queue.URL + " shows what it waits for"
		}
		return Running, ""
	}
}

func stateOfUnsuccessful(status string, jobs []Job, names JobNames, promoted bool) (State, string) {
	switch {
	case promoted:
		return Unfinished, "in production, but not finished: " + status + " after " + names.Promote + ": " + namesWith(jobs, status) + "; read the job's log, then retry it"
	case status == "failed" && len(jobs) == 0:
		return Failed, "GitLab failed the pipeline before it had a job: its page has the reason; then trigger again"
	case status == "failed":
		return Failed, "failed: " + namesWith(jobs, status) + "; read the job's log, then retry it or press rollback"
	}
	return Canceled, "the pipeline was " + status + ": nothing shows that the release is in production; press rollback if its canary was started, then trigger again"
}

// stateOfSuccess is for a pipeline that GitLab calls a success, which alone proves nothing: its promote job may
// have been skipped.
func stateOfSuccess(promote *Job, name string) (State, string) {
	switch {
	case promote == nil:
		return Failed, fmt.Sprintf("the pipeline succeeded without a job %q: its file is not Crossbill's, or the job has another name (gitlab.jobs.promote)", name)
	case promote.Status == "success":
		return Promoted, "in production"
	case promote.Status == "manual":
		return Waiting, fmt.Sprintf("press %s. GitLab calls the pipeline a success although nobody has: the job does not block; `crossbill lint` explains it", name)
	default:
		return Failed, fmt.Sprintf("the pipeline succeeded, but %s is %s: nothing was promoted", name, promote.Status)
	}
}

// stateOfPreview is for the pipeline of a preview, whose jobs promote nothing.
func stateOfPreview(status string, jobs []Job) (State, string) {
	switch status {
	case "success":
		return Finished, "finished"
	case "failed":
		return Failed, "failed: " + namesWith(jobs, "failed") + "; read the job's log"
	case "canceled", "skipped":
		return Canceled, "the pipeline was " + status
	}
	return Running, ""
}

// underWay says whether a job runs, or is about to.
func underWay(status string) bool { return status == "running" || status == "pending" }

func finished(status string) bool {
	return status == "success" || status == "failed" || status == "canceled" || status == "skipped"
}

// lastRollback is the rollback job that finished last, nil when none did, or the release went on after it.
func lastRollback(jobs []Job, names JobNames) *Job {
	var last *Job
	for i, j := range jobs {
		if strings.HasPrefix(j.Name, names.Rollback) && (j.Status == "success" || j.Status == "failed") && !outdated(j, jobs, names) && (last == nil || j.FinishedAt.After(last.FinishedAt)) {
			last = &jobs[i]
		}
	}
	return last
}

// outdated says of a job whether it is an automatic rollback's that failed before the release went on, or although another one
// brought it back. Such a job also fails when it refuses: the job before it is to be retried, which leaves this one failed, or
// ended because of the other rollback.
func outdated(j Job, jobs []Job, names JobNames) bool {
	if j.Status != "failed" || !strings.HasPrefix(j.Name, names.Rollback) || j.Name == names.Rollback {
		return false
	}
	wentOn := func(since time.Time) bool {
		return slices.ContainsFunc(jobs, func(other Job) bool {
			return (names.forward(other.Name) || other.Name == watchJob) && (waitsToRun(other.Status) || other.StartedAt.After(since))
		})
	}
	return wentOn(j.FinishedAt) || slices.ContainsFunc(jobs, func(other Job) bool {
		return strings.HasPrefix(other.Name, names.Rollback) && other.Status == "success" && !wentOn(other.FinishedAt)
	})
}

// onlyOutdated says whether a pipeline failed by outdated rollbacks alone.
func onlyOutdated(jobs []Job, names JobNames) bool {
	failed := slices.DeleteFunc(slices.Clone(jobs), func(j Job) bool { return j.Status != "failed" || j.allowFailure })
	return len(failed) > 0 && !slices.ContainsFunc(failed, func(j Job) bool { return !outdated(j, jobs, names) })
}

// rolledBackLast says whether a rollback succeeded and nothing that takes the release forward or back is under way or came later: in
// a pipeline that runs, the canary may still be judged, by a job that will find that it is gone.
func rolledBackLast(rollback *Job, jobs []Job, names JobNames) bool {
	return rollback.Status == "success" && !slices.ContainsFunc(jobs, func(j Job) bool {
		if j.Status == "created" && (j.Name == names.Canary || j.Name == names.Verify) { // it starts by itself
			return true
		}
		return (names.forward(j.Name) || strings.HasPrefix(j.Name, names.Rollback)) &&
			(j.Status == "running" || waitsToRun(j.Status) || j.StartedAt.After(rollback.FinishedAt))
	})
}

// forward says whether a job of this name takes a release forward.
func (n JobNames) forward(name string) bool {
	return name == n.Canary || name == n.Verify || name == n.Promote
}

// waitsToRun says whether a job has been started, and has yet to run.
func waitsToRun(status string) bool {
	return status == "pending" || status == "waiting_for_resource" || status == "preparing"
}

// blockingJob names the job that a pipeline waits for: the promote job if it is manual.
func blockingJob(promote *Job) string {
	if promote != nil && promote.Status == "manual" && promote.URL != "" {
		return promote.Name + " (" + promote.URL + ")"
	}
	return "the manual job that blocks the pipeline"
}
