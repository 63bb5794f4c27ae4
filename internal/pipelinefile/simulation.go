package pipelinefile

import "fmt"

// Simulation is one pipeline of a file, advanced job by job as GitLab would: it says which jobs run next, which wait
// for a button to be pressed, and which are skipped.
type Simulation struct {
	p pipeline
	s state
}

// SimulatedJob is a job of a simulation. Status is GitLab's word; a pending job is for a runner to run.
type SimulatedJob struct {
	Name, Stage, Status string
	AllowFailure        bool
}

// words are GitLab's.
var words = map[status]string{
	created: "created", pending: "pending", manual: "manual", success: "success", failed: "failed",
	canceled: "canceled", skipped: "skipped",
}

// Simulate starts the pipeline of a file, which must not depend on rules with conditions.
func (f *File) Simulate() (*Simulation, error) {
	all, complete := f.pipelines(2)
	if !complete || len(all) != 1 {
		return nil, fmt.Errorf("the jobs' rules can create more than one pipeline")
	}
	p := all[0]
	return &Simulation{p: p, s: p.process(state(make([]byte, len(p.jobs))))}, nil
}

// Status is the pipeline's own status, in GitLab's words.
func (m *Simulation) Status() string { return m.p.overall(m.s) }

// Jobs are the pipeline's jobs, in the file's order.
func (m *Simulation) Jobs() []SimulatedJob {
	jobs := make([]SimulatedJob, len(m.p.jobs))
	for i, j := range m.p.jobs {
		jobs[i] = SimulatedJob{Name: j.Name, Stage: j.Stage, Status: words[status(m.s[i])], AllowFailure: j.Behavior.AllowFailure}
	}
	return jobs
}

// Press starts a manual job.
func (m *Simulation) Press(job string) error { return m.change(job, manual, pending) }

// Finish finishes a job that runs.
func (m *Simulation) Finish(job string, good bool) error {
	if good {
		return m.change(job, pending, success)
	}
	return m.change(job, pending, failed)
}

func (m *Simulation) change(job string, from, to status) error {
	i := m.p.index(job)
	if i < 0 {
		return fmt.Errorf("there is no job %q in this pipeline", job)
	}
	if now := status(m.s[i]); now != from {
		return fmt.Errorf("job %s is %s, not %s", job, words[now], words[from])
	}
	m.s = m.p.process(m.s.with(i, to))
	return nil
}
