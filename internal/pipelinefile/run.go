package pipelinefile

import (
	"maps"
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
	scheduled // a delayed job whose time has not come
	requeued  // created again by a retry of a manual or delayed job: it starts at once when its turn comes
	excused   // failed with an exit code of allow_failure:exit_codes
)

// ended says whether a status is that of a job that a runner had, or that was canceled: such a job can be retried.
func (s status) ended() bool {
	return s == success || s == failed || s == canceled || s == excused
}

// pipeline is a file with one behavior chosen for each job: what GitLab creates for one set of
// matching rules.
type pipeline struct {
	jobs             []pipelineJob
	cancelsOnFailure bool         // workflow:auto_cancel:on_job_failure
	anyRetries       bool         // explore as many retries as there can be
	coarse           bool         // a failure that is allowed is the same as success, as it is for all that waits
	enough           *bool        // explore no further once this is true
	unsuccessful     map[int]bool // jobs of which only those histories are explored in which they never succeed
}

type pipelineJob struct {
	*Job
	Behavior
	stage int
	needs []int

	waitsFor []int  // the jobs whose statuses decide when it starts
	revives  []int  // the jobs that are created again, if they were skipped, when it is pressed or retried
	leaf     bool   // no other job waits for it
	kinds    []kind // its statuses as they count among others
}

// state is the status of each job, as a text so that states can be compared and kept.
type state string

// prepare computes what is the same in every state.
func (p *pipeline) prepare() {
	for i := range p.jobs {
		job := &p.jobs[i]
		job.leaf = true
		job.waitsFor = job.needs
		for other := range p.jobs {
			if !job.HasNeeds && p.jobs[other].stage < job.stage {
				job.waitsFor = append(job.waitsFor, other)
			}
		}
		for now := created; now <= excused; now++ {
			job.kinds = append(job.kinds, kindOf(now, job.Behavior.AllowFailure))
		}
	}
	for i := range p.jobs {
		for _, other := range p.jobs[i].waitsFor {
			p.jobs[other].leaf = false
		}
		p.jobs[i].revives = p.revivedBy(i)
	}
}

// revivedBy are the jobs of later stages, and those that need a job, directly or not. A press or a retry puts those of
// them that were skipped back to created (GitLab's ResetSkippedJobsService).
func (p *pipeline) revivedBy(job int) []int {
	found := map[int]bool{}
	for changed := true; changed; {
		changed = false
		for i, other := range p.jobs {
			needed := slices.ContainsFunc(other.needs, func(n int) bool { return n == job || found[n] })
			if !found[i] && (other.stage > p.jobs[job].stage || needed) {
				found[i], changed = true, true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// kind is how a job's status counts among others: a failure that is allowed is a warning, and a manual job that may
// fail is ignored. A set of them is their sum.
type kind uint16

const (
	kindCreated kind = 1 << iota
	kindPending
	kindManual
	kindScheduled
	kindSuccess
	kindFailed
	kindCanceled
	kindSkipped
	kindWarning
	kindIgnored
)

func kindOf(now status, allowFailure bool) kind {
	switch {
	case now == manual && allowFailure:
		return kindIgnored
	case now == excused, allowFailure && (now == failed || now == canceled):
		return kindWarning
	}
	return map[status]kind{
		created: kindCreated, requeued: kindCreated, pending: kindPending, manual: kindManual, scheduled: kindScheduled,
		success: kindSuccess, failed: kindFailed, canceled: kindCanceled, skipped: kindSkipped,
	}[now]
}

// composite is GitLab's status of a set of jobs (Gitlab::Ci::Status::Composite). dag is true for the jobs that another
// one needs. The order of the cases is GitLab's.
func composite(set kind, dag bool) string {
	only := func(kinds kind) bool { return set&^kinds == 0 }
	switch {
	case set == 0:
		return "success"
	case dag && set&(kindSkipped|kindIgnored) != 0:
		return "skipped"
	case dag && !only(kindSuccess|kindFailed|kindCanceled|kindWarning):
		return "pending"
	case only(kindSkipped | kindIgnored):
		return "skipped"
	case only(kindSuccess | kindSkipped | kindWarning | kindIgnored):
		return "success"
	case only(kindCreated | kindWarning | kindIgnored):
		return "created"
	case only(kindCanceled | kindSuccess | kindSkipped | kindWarning | kindIgnored):
		return "canceled"
	case only(kindPending | kindCreated | kindSkipped | kindWarning | kindIgnored):
		return "pending"
	case set&kindPending != 0:
		return "running"
	case set&kindManual != 0:
		return "manual"
	case set&kindScheduled != 0:
		return "scheduled"
	case set&kindCreated != 0:
		return "running"
	default:
		return "failed"
	}
}

// before is the status of what a job waits for.
func (p *pipeline) before(s []byte, job int) string {
	var set kind
	for _, i := range p.jobs[job].waitsFor {
		set |= p.jobs[i].kinds[s[i]]
	}
	return composite(set, p.jobs[job].HasNeeds)
}

// process does what GitLab does by itself: it starts, offers or skips jobs until nothing more follows.
func (p *pipeline) process(s []byte) {
	for changed := true; changed; {
		changed = false
		for i := range p.jobs {
			if now := status(s[i]); now != created && now != requeued {
				continue
			}
			if now := p.next(s, i); now != status(s[i]) {
				s[i], changed = byte(now), true
			}
		}
	}
}

// next is what becomes of a job that waits.
func (p *pipeline) next(s []byte, job int) status {
	before := p.before(s, job)
	if before != "success" && before != "failed" && before != "canceled" && before != "skipped" {
		return status(s[job])
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
	case status(s[job]) == requeued:
		return pending
	case when == "manual":
		return manual
	case when == "delayed":
		return scheduled
	default:
		return pending
	}
}

// start is the state of a new pipeline.
func (p *pipeline) start() state { return p.after("", func([]byte) {}) }

// after is the state that follows from a change: GitLab processes the pipeline after each.
func (p *pipeline) after(s state, change func(s []byte)) state {
	next := make([]byte, len(p.jobs))
	copy(next, s)
	change(next)
	p.process(next)
	return state(next)
}

// press starts a job that waits for a button or for its time, and revives what was skipped because of it.
func (p *pipeline) press(s state, job int) state {
	return p.after(s, func(s []byte) {
		s[job] = byte(pending)
		p.revive(s, job)
	})
}

// retry makes a new job of one that has ended. It waits for its turn like the first one.
func (p *pipeline) retry(s state, job int) state {
	return p.after(s, func(s []byte) {
		s[job] = byte(created)
		if when := p.jobs[job].Behavior.When; when == "manual" || when == "delayed" {
			s[job] = byte(requeued)
		}
		p.revive(s, job)
	})
}

func (p *pipeline) revive(s []byte, job int) {
	for _, i := range p.jobs[job].revives {
		if status(s[i]) == skipped {
			s[i] = byte(created)
		}
	}
}

// retryAll retries a whole pipeline: what failed or was canceled is created again, and so is what was skipped. Manual
// jobs wait for their buttons again.
func (p *pipeline) retryAll(s state) state {
	return p.after(s, func(s []byte) {
		for i := range s {
			if now := status(s[i]); now == skipped || now != success && now.ended() {
				s[i] = byte(created)
			}
		}
	})
}

// finish ends a job that runs. A failure that is not allowed cancels the pipeline if the file says so.
func (p *pipeline) finish(s state, job int, now status) state {
	return p.after(s, func(s []byte) {
		s[job] = byte(now)
		if p.coarse && p.jobs[job].kinds[now] == kindWarning {
			s[job] = byte(success)
		}
		if p.cancelsOnFailure && now == failed && !p.jobs[job].Behavior.AllowFailure {
			cancel(s)
		}
	})
}

// cancelAll cancels a whole pipeline.
func (p *pipeline) cancelAll(s state) state { return p.after(s, cancel) }

// cancel cancels everything that runs or would still run by itself; what waits for a button stays.
func cancel(s []byte) {
	for i := range s {
		if cancelable(status(s[i])) {
			s[i] = byte(canceled)
		}
	}
}

func cancelable(now status) bool {
	return now == created || now == requeued || now == pending || now == scheduled
}

// mostRetries bounds the manual retries in one history of a whole pipeline; upstream of a job there is no bound.
const mostRetries = 1

// explore visits every state that a pipeline can reach: each job that runs can succeed, fail or be canceled, each one
// that has ended can be retried, each manual job that may be pressed can be pressed or not, and the whole pipeline can
// be canceled. The trace says how a state was reached. It takes each state from the budget, and is false when that
// is used up.
//
// A job that no other one waits for changes nothing but itself. So such leaves are not canceled or retried, and how
// they end is not combined: a state is visited with them running, with all of them ended well, and with each of them
// ended in another way.
func (p *pipeline) explore(budget *int, mayPress func(job int) bool, visit func(s state, trace func() string)) bool {
	x := &exploration{pipeline: p, mayPress: mayPress, origins: map[state]origin{}}
	x.first = p.start()
	x.reach(x.first, x.first, "", -1)
	for retries := 0; len(x.queue) > 0; retries++ {
		var settled []state // all that needs no further retry
		for len(x.queue) > 0 {
			if *budget--; *budget < 0 {
				return false
			}
			s := x.queue[0]
			x.queue = x.queue[1:]
			x.visit(s, visit)
			if p.enough != nil && *p.enough {
				return true
			}
			x.events(s)
			settled = append(settled, s)
		}
		if retries == mostRetries && !p.anyRetries {
			break
		}
		for _, s := range settled {
			x.retries(s)
		}
	}
	return true
}

// upstream is a pipeline without the jobs that the given ones do not wait for, directly or not: nothing that becomes of
// the others changes when these run. at are the places of the given jobs in it.
func (p *pipeline) upstream(jobs ...int) (part *pipeline, at []int) {
	needed := map[int]bool{}
	for todo := slices.Clone(jobs); len(todo) > 0; {
		job := todo[0]
		todo = todo[1:]
		if !needed[job] {
			needed[job] = true
			todo = append(todo, p.jobs[job].waitsFor...)
		}
	}
	part = &pipeline{cancelsOnFailure: p.cancelsOnFailure, anyRetries: true, coarse: true}
	place := map[int]int{}
	for i, job := range p.jobs {
		if needed[i] {
			place[i] = len(part.jobs)
			job.needs, job.waitsFor, job.revives, job.kinds = slices.Clone(job.needs), nil, nil, nil
			part.jobs = append(part.jobs, job)
		}
	}
	for i := range part.jobs {
		for n, need := range part.jobs[i].needs {
			part.jobs[i].needs[n] = place[need]
		}
	}
	part.prepare()
	for _, job := range jobs {
		at = append(at, place[job])
	}
	return part, at
}

// exploration is a search through the states of a pipeline.
type exploration struct {
	*pipeline
	mayPress func(job int) bool
	first    state
	origins  map[state]origin
	queue    []state
}

// origin is how a state was reached first.
type origin struct {
	from  state
	event string
	job   int
}

// reach notes a state that a job's event leads to; job is -1 for an event of the whole pipeline.
func (x *exploration) reach(from, to state, event string, job int) {
	if _, seen := x.origins[to]; !seen {
		x.origins[to] = origin{from, event, job}
		x.queue = append(x.queue, to)
	}
}

// visit visits a state, and those that differ in its leaves alone.
func (x *exploration) visit(s state, visit func(s state, trace func() string)) {
	visit(s, func() string { return x.trace(s) })
	well := []byte(s)
	var events []string
	for job, j := range x.jobs {
		if !x.inert(job) {
			continue
		}
		if now := status(s[job]); now == pending || now == scheduled || now == manual && x.mayPress(job) {
			well[job] = byte(success)
			how := map[status]string{pending: " succeeds", scheduled: " starts, its time has come, and succeeds", manual: " is pressed and succeeds"}
			events = append(events, j.Name+how[now])
		}
	}
	if len(events) == 0 {
		return
	}
	ended := func(with state, events ...string) {
		visit(with, func() string {
			before := x.trace(s) + ", "
			if s == x.first {
				before = "after: "
			}
			return before + strings.Join(events, ", ")
		})
	}
	ended(state(well), events...)
	for job, j := range x.jobs {
		if well[job] == s[job] {
			continue
		}
		switch status(s[job]) {
		case manual:
			ended(s[:job]+state([]byte{byte(pending)})+s[job+1:], j.Name+" is pressed")
		case scheduled:
			ended(s[:job]+state([]byte{byte(pending)})+s[job+1:], j.Name+" starts, its time has come")
		}
		ended(state(well[:job])+state([]byte{byte(failed)})+state(well[job+1:]), j.Name+" fails")
		if len(j.exitCodes) > 0 {
			ended(state(well[:job])+state([]byte{byte(excused)})+state(well[job+1:]), j.Name+" fails with an exit code that is allowed")
		}
	}
}

// inert says whether a job's end changes nothing but the job itself.
func (x *exploration) inert(job int) bool { return x.jobs[job].leaf && !x.cancelsOnFailure }

// events are what can happen in a state, but for retries.
func (x *exploration) events(s state) {
	for job := range x.jobs {
		if x.inert(job) {
			continue
		}
		switch now := status(s[job]); {
		case now == pending:
			if !x.unsuccessful[job] {
				x.reach(s, x.finish(s, job, success), "succeeds", job)
			}
			x.fails(s, job)
		case now == manual && x.mayPress(job):
			x.reach(s, x.press(s, job), "is pressed", job)
		case now == scheduled:
			x.reach(s, x.finish(s, job, pending), "starts, its time has come", job)
			x.reach(s, x.finish(s, job, manual), "is unscheduled", job)
		}
		x.cancels(s, job)
	}
	x.reach(s, x.cancelAll(s), "the pipeline is canceled", -1)
}

// cancels cancels a job that runs, or that waits: one that may fail counts as done then, even before it had its turn, and
// beside a failure one that may not is no reason to skip an on_failure job, as a skipped need is.
func (x *exploration) cancels(s state, job int) {
	now := status(s[job])
	runs := !x.coarse && (now == pending || now == scheduled) // what waits for it starts on no other account than after a failure
	if !x.jobs[job].leaf && (runs || cancelable(now) && (x.jobs[job].Behavior.AllowFailure || x.coarse && now == created)) {
		x.reach(s, x.finish(s, job, canceled), "is canceled", job)
	}
}

// retries are the manual retries that are possible in a state.
func (x *exploration) retries(s state) {
	for job, j := range x.jobs {
		if status(s[job]).ended() && !j.leaf && (j.Behavior.When != "manual" || x.mayPress(job)) {
			x.reach(s, x.retry(s, job), "is retried", job)
		}
	}
}

// fails are the ways in which a job that runs can fail.
func (x *exploration) fails(s state, job int) {
	x.reach(s, x.finish(s, job, failed), "fails", job)
	if len(x.jobs[job].exitCodes) > 0 {
		x.reach(s, x.finish(s, job, excused), "fails with an exit code that is allowed", job)
	}
	if x.cancelsOnFailure {
		// GitLab cancels in the background, so that it may have gone on before.
		goneOn := x.after(s, func(s []byte) { s[job] = byte(failed) })
		x.reach(s, goneOn, "fails", job)
	}
}

// trace is the list of events that leads to a state.
func (x *exploration) trace(s state) string {
	var events []string
	for ; s != x.first; s = x.origins[s].from {
		o := x.origins[s]
		if o.job < 0 {
			events = append(events, o.event)
		} else {
			events = append(events, x.jobs[o.job].Name+" "+o.event)
		}
	}
	if len(events) == 0 {
		return "at once"
	}
	slices.Reverse(events)
	return "after: " + strings.Join(events, ", ")
}

// overall is the pipeline's own status.
func (p *pipeline) overall(s state) string {
	var set kind
	for i := range p.jobs {
		set |= p.jobs[i].kinds[s[i]]
	}
	return composite(set, false)
}

// index is the index of a job, -1 when it is not in this pipeline.
func (p *pipeline) index(name string) int {
	return slices.IndexFunc(p.jobs, func(j pipelineJob) bool { return j.Name == name })
}
