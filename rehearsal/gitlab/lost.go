package gitlab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Lost is what befalls the requests of the runner that has a job.
type Lost struct {
	Job    string
	Faults []Fault
	Stuck  bool // GitLab then waits for a runner that never got the job, or has ended it
}

// LostAnswers are ways in which a coordinator does not answer as it should, for the jobs of a good release.
var LostAnswers = []Lost{
	{"queue", []Fault{
		{Call: CallRequest}, {Call: CallRequest, Status: 503}, {Call: CallTrace, Status: 500, Times: 2}, {Call: CallTrace, After: true},
		{Call: CallArtifacts, Status: 503}, {Call: CallFinal, Status: 500, Times: 2},
	}, false},
	{"deploy_canary", []Fault{
		{Call: CallTrace}, {Call: CallTrace, Status: 416, Forget: 300}, {Call: CallDownload, Status: 500},
		{Call: CallArtifacts, After: true}, {Call: CallFinal, Status: 202, Times: 2},
	}, false},
	{"verify_canary", []Fault{{Call: CallTrace, Status: 503}, {Call: CallFinal, Status: 412}, {Call: CallFinal, After: true}}, false},
	{"promote_to_production", []Fault{{Call: CallFinal, Times: 100}}, true},
	{"cleanup", []Fault{{Call: CallRequest, After: true}}, true},
}

// RunLosing runs a job whose runner meets faults. What GitLab takes for a job that runs, and no runner has, is failed after an
// hour, here after 20 seconds without a word, and retried by a person.
func (p *Pipeline) RunLosing(ctx context.Context, l Lost, user string) (*Execution, error) {
	c := p.gitlab.Coordinator
	c.Befall(l.Faults...)
	e, err := p.Start(l.Job)
	if err != nil {
		return nil, err
	}
	for e.Started().IsZero() || e.Live() && e.Untouched() < 20*time.Second {
		select {
		case <-ctx.Done():
			return e, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	if e.Live() != l.Stuck {
		return e, fmt.Errorf("%s is %s; want it stuck: %v", l.Job, e.Status(), l.Stuck)
	}
	left := c.Forget()
	if !l.Stuck && left > 0 {
		return e, fmt.Errorf("%s: %d faults have not happened", l.Job, left)
	}
	e.Abandon() // nothing, where it has ended
	e, err = p.Wait(ctx, e)
	if l.Stuck {
		if e.Reason() != "stuck_or_timeout_failure" {
			return e, fmt.Errorf("%s: %w", l.Job, err)
		}
		if err := p.Retry(l.Job, user); err != nil {
			return e, err
		}
		if e, err = p.Start(l.Job); err == nil {
			e, err = p.Wait(ctx, e)
		}
	}
	if err != nil {
		return e, err
	}
	for _, want := range []string{"Running with gitlab-runner", "Uploading artifacts", "Job succeeded"} {
		if strings.Count(e.Log(), want) == 0 {
			return e, fmt.Errorf("%s: the log has no %q", l.Job, want)
		}
	}
	if _, err := e.Artifact("exit-code"); err != nil {
		return e, errors.Join(fmt.Errorf("%s has left no exit code", l.Job), err)
	}
	return e, nil
}
