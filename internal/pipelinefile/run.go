package pipelinefile

import (
	"slices"
	"strings"
)

// status is a job's status in a simulated pipeline. A job that a runner has is pending until it finishes.
type status byte

const (
	created status = iota
	pending
	manual
	success
	failed
	canceled
	skipped
)

// pipeline is a file with one behavior chosen for each job: what GitLab creates for one set of
// matching rules.
type pipeline struct {
	jobs []pipelineJob
}

type pipelineJob struct {
	*Job
	Behavior
	stage int
	needs []int
}

// state is the status of each job, as a text so that states can be compared and kept.
type state string

func (s state) with(job int, now status) state {
	return s[:job] + state([]byte{byte(now)}) + s[job+1:]
}

// pipelines are all the pipelines that a file can create, up to a bound; complete says whether these are all.
func (f *File) pipelines(bound int) (all []pipeline, complete bool) {
	all = []pipeline{{}}
	for i := range f.Jobs {
		var grown []pipeline
		for _, p := range all {
			for _, b := range unique(f.Jobs[i].Behaviors()) {
				if b.When == "never" {
					grown = append(grown, p)
					continue
				}
				job := pipelineJob{Job: &f.Jobs[i], Behavior: b, stage: slices.Index(f.Stages, f.Jobs[i].Stage)}
				grown = append(grown, pipeline{append(slices.Clone(p.jobs), job)})
			}
		}
		if len(grown) > bound {
			return nil, false
		}
		all = grown
	}
	var runnable []pipeline
	for _, p := range all {
		if p.connect() {
			runnable = append(runnable, p)
		}
	}
	return runnable, true
}

func unique(list []Behavior) []Behavior {
	seen := map[Behavior]bool{}
	return slices.DeleteFunc(slices.Clone(list), func(b Behavior) bool {
		old := seen[b]
		seen[b] = true
		return old
	})
}

// connect resolves needs. GitLab creates no pipeline in which a needed job is missing.
func (p *pipeline) connect() bool {
	for i := range p.jobs {
		for _, need := range p.jobs[i].Needs {
			at := slices.IndexFunc(p.jobs, func(j pipelineJob) bool { return j.Name == need })
			if at < 0 {
				return false
			}
			p.jobs[i].needs = append(p.jobs[i].needs, at)
		}
	}
	return len(p.jobs) > 0
}

// composite is GitLab's status of a set of jobs, which has more values than that of one job. dag is true for the
// jobs that another one needs.
func (p *pipeline) composite(s state, jobs []int, dag bool) string {
	set := map[string]bool{}
	for _, i := range jobs {
		set[p.word(i, status(s[i]))] = true
	}
	only := func(words ...string) bool {
		for word := range set {
			if !slices.Contains(words, word) {
				return false
			}
		}
		return true
	}
	switch {
	case len(set) == 0:
		return "success"
	case dag && (set["skipped"] || set["ignored"]):
		return "skipped"
	case dag && !only("success", "failed", "canceled", "warning"):
		return "pending"
	case only("skipped", "ignored"):
		return "skipped"
	case only("success", "skipped", "warning", "ignored"):
		return "success"
	case only("created", "warning", "ignored"):
		return "created"
	case only("canceled", "success", "skipped", "warning", "ignored"):
		return "canceled"
	case only("pending", "created", "skipped", "warning", "ignored"):
		return "pending"
	case set["pending"]:
		return "running"
	case set["manual"]:
		return "manual"
	case set["created"]:
		return "running"
	default:
		return "failed"
	}
}

// word is a job's status as it counts among others: a failure that is allowed is a warning, and a
// manual job that may fail is ignored.
func (p *pipeline) word(job int, now status) string {
	allow := p.jobs[job].Behavior.AllowFailure
	switch now {
	case created:
		return "created"
	case pending:
		return "pending"
	case success:
		return "success"
	case manual:
		if allow {
			return "ignored"
		}
		return "manual"
	case failed, canceled:
		if allow {
			return "warning"
		}
		if now == failed {
			return "failed"
		}
		return "canceled"
	default:
		return "skipped"
	}
}

// before is the status of what a job waits for.
func (p *pipeline) before(s state, job int) string {
	if p.jobs[job].HasNeeds {
		return p.composite(s, p.jobs[job].needs, true)
	}
	var earlier []int
	for i, other := range p.jobs {
		if other.stage < p.jobs[job].stage {
			earlier = append(earlier, i)
		}
	}
	return p.composite(s, earlier, false)
}

// process does what GitLab does by itself: it starts, offers or skips jobs until nothing more follows.
func (p *pipeline) process(s state) state {
	for changed := true; changed; {
		changed = false
		for i := range p.jobs {
			if status(s[i]) != created {
				continue
			}
			if now := p.next(s, i); now != created {
				s, changed = s.with(i, now), true
			}
		}
	}
	return s
}

// next is what becomes of a job that waits.
func (p *pipeline) next(s state, job int) status {
	before := p.before(s, job)
	if !slices.Contains([]string{"success", "failed", "canceled", "skipped"}, before) {
		return created
	}
	when, dag := p.jobs[job].Behavior.When, p.jobs[job].HasNeeds
	starts := false
	switch when {
	case "on_success", "manual", "delayed":
		starts = before == "success" || before == "skipped" && !dag
	case "on_failure":
		starts = before == "failed"
	case "always":
		starts = before != "canceled"
	}
	switch {
	case !starts:
		return skipped
	case when == "manual":
		return manual
	default:
		return pending
	}
}

// explore visits every state that a pipeline can reach: each job that runs can succeed, fail or be
// canceled, and each manual job that may be pressed can be pressed or not. The trace tells how a state
// was reached. It takes each state from the budget, and is false when that is used up.
func (p *pipeline) explore(budget *int, mayPress func(job int) bool, visit func(s state, trace func() string)) bool {
	type origin struct {
		from  state
		event string
	}
	start := p.process(state(make([]byte, len(p.jobs))))
	origins := map[state]origin{start: {}}
	trace := func(s state) string {
		var events []string
		for ; s != start; s = origins[s].from {
			events = append(events, origins[s].event)
		}
		if len(events) == 0 {
			return "at once"
		}
		slices.Reverse(events)
		return "after: " + strings.Join(events, ", ")
	}
	queue := []state{start}
	reach := func(from, to state, event string) {
		to = p.process(to)
		if _, seen := origins[to]; !seen {
			origins[to] = origin{from, event}
			queue = append(queue, to)
		}
	}
	for len(queue) > 0 {
		if *budget--; *budget < 0 {
			return false
		}
		s := queue[0]
		queue = queue[1:]
		visit(s, func() string { return trace(s) })
		for i, job := range p.jobs {
			switch status(s[i]) {
			case pending:
				reach(s, s.with(i, success), job.Name+" succeeds")
				reach(s, s.with(i, failed), job.Name+" fails")
				reach(s, s.with(i, canceled), job.Name+" is canceled")
			case manual:
				if mayPress(i) {
					reach(s, s.with(i, pending), job.Name+" is pressed")
				}
			}
		}
	}
	return true
}

// overall is the pipeline's own status.
func (p *pipeline) overall(s state) string {
	all := make([]int, len(p.jobs))
	for i := range all {
		all[i] = i
	}
	return p.composite(s, all, false)
}

// index is the index of a job, -1 when it is not in this pipeline.
func (p *pipeline) index(name string) int {
	return slices.IndexFunc(p.jobs, func(j pipelineJob) bool { return j.Name == name })
}
