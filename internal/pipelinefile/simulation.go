package pipelinefile

import (
	"fmt"
	"slices"
)

// Simulation is one pipeline of a file, advanced job by job as GitLab would: it says which jobs run next, which wait
// for a button to be pressed, and which are skipped.
type Simulation struct {
	p      pipeline
	s      state
	status string
}

// SimulatedJob is a job of a simulation. Status is GitLab's word; a pending job is for a runner to run.
type SimulatedJob struct {
	Name, Stage, Status string
	AllowFailure        bool
}

// words are GitLab's.
var words = map[status]string{
	created: "created", pending: "pending", manual: "manual", success: "success", failed: "failed",
	canceled: "canceled", skipped: "skipped", scheduled: "scheduled", requeued: "created", excused: "failed",
}

// Simulate starts the pipeline of a file, which must not depend on rules with conditions.
func (f *File) Simulate() (*Simulation, error) {
	all, complete := f.pipelines(2)
	if !complete || len(all) != 1 {
		return nil, fmt.Errorf("the jobs' rules can create more than one pipeline")
	}
	p := all[0]
	m := &Simulation{p: p}
	m.now(p.start())
	return m, nil
}

// Status is the pipeline's own status, in GitLab's words.
func (m *Simulation) Status() string { return m.status }

// now goes to a state. A pipeline that has run is never pending again: it is running then.
func (m *Simulation) now(s state) {
	m.s = s
	next := m.p.overall(s)
	if next == "pending" && slices.Contains([]string{"running", "success", "failed", "canceled"}, m.status) {
		next = "running"
	}
	m.status = next
}

// Jobs are the pipeline's jobs, in the file's order.
func (m *Simulation) Jobs() []SimulatedJob {
	jobs := make([]SimulatedJob, len(m.p.jobs))
	for i, j := range m.p.jobs {
		now := status(m.s[i])
		jobs[i] = SimulatedJob{Name: j.Name, Stage: j.Stage, Status: words[now], AllowFailure: j.Behavior.AllowFailure || now == excused}
	}
	return jobs
}

// StatusOf is the status of a pipeline with these jobs, as GitLab computes it. A status that no simulation has counts as pending.
func StatusOf(jobs []SimulatedJob) string {
	var set kind
	for _, j := range jobs {
		now := pending
		for s, word := range words {
			if word == j.Status && s <= scheduled {
				now = s
			}
		}
		set |= kindOf(now, j.AllowFailure)
	}
	return composite(set, false)
}

// Press starts a manual job, or a delayed one before its time.
func (m *Simulation) Press(job string) error {
	return m.change(job, "manual or scheduled", m.p.press, manual, scheduled)
}

// Start starts a delayed job whose time has come.
func (m *Simulation) Start(job string) error { return m.end(job, pending, scheduled) }

// Finish finishes a job that runs.
func (m *Simulation) Finish(job string, good bool) error {
	if good {
		return m.end(job, success, pending)
	}
	return m.end(job, failed, pending)
}

// Exit finishes a job that runs, with an exit code of its script.
func (m *Simulation) Exit(job string, code int) error {
	i := m.p.index(job)
	if i >= 0 && code != 0 && slices.Contains(m.p.jobs[i].exitCodes, code) {
		return m.end(job, excused, pending)
	}
	return m.Finish(job, code == 0)
}

// Retry starts a job again that has ended, as far as what it waits for lets it start.
func (m *Simulation) Retry(job string) error {
	return m.change(job, "finished", m.p.retry, success, failed, canceled, excused)
}

// RetryPipeline starts everything again that failed, was canceled or was skipped.
func (m *Simulation) RetryPipeline() { m.now(m.p.retryAll(m.s)) }

// Cancel cancels a job that runs or waits, but for a button.
func (m *Simulation) Cancel(job string) error {
	return m.end(job, canceled, created, requeued, pending, scheduled)
}

// CancelPipeline cancels everything that runs or would still run by itself.
func (m *Simulation) CancelPipeline() { m.now(m.p.cancelAll(m.s)) }

func (m *Simulation) end(job string, to status, from ...status) error {
	return m.change(job, words[from[0]], func(s state, i int) state { return m.p.finish(s, i, to) }, from...)
}

func (m *Simulation) change(job, expected string, change func(s state, job int) state, from ...status) error {
	i := m.p.index(job)
	if i < 0 {
		return fmt.Errorf("there is no job %q in this pipeline", job)
	}
	if now := status(m.s[i]); !slices.Contains(from, now) {
		return fmt.Errorf("job %s is %s, not %s", job, words[now], expected)
	}
	m.now(change(m.s, i))
	return nil
}
