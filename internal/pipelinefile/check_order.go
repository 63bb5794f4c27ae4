package pipelinefile

import (
	"cmp"
	"fmt"
	"slices"
)

// gate checks that each job that promotes is manual and blocks, whichever rule matches. One that starts by itself may
// still be behind another gate: that is seen by the order.
func (c *checker) gate() {
	for i := range c.file.Jobs {
		job := &c.file.Jobs[i]
		named := job.Name == c.options.Gate
		if !c.isGate(job) {
			continue
		}
		if len(job.exitCodes) > 0 {
			c.reportAt(job, job.values.lines["allow_failure"], "allow_failure:exit_codes", RuleGateBlocks, "a promotion that fails counts as done for some exit codes", "add `allow_failure: false`")
		}
		for _, b := range job.Behaviors() {
			switch {
			case b.When == "never", !named && b.When != "manual":
			case b.When != "manual":
				c.report(job, RuleGateBlocks, fmt.Sprintf("it starts by itself (when: %s)", b.When), "give every rule `when: manual`")
			case !b.AllowFailure:
			case job.When == "manual" && job.HasRules && job.AllowFailure == nil:
				c.report(job, RuleGateBlocks, "`when: manual` at the job beside `rules` makes it manual but not blocking: allow_failure becomes true, so that later stages run at once and the pipeline is green with nothing promoted", "move `when: manual` into the rule, or add `allow_failure: false`")
			default:
				c.report(job, RuleGateBlocks, "it is manual but not blocking (allow_failure is true)", "add `allow_failure: false`")
			}
		}
	}
}

// stops checks the jobs that stop an environment. GitLab starts them by itself when auto_stop_in is over and when the
// branch is deleted, and for whoever may stop the environment.
func (c *checker) stops() {
	for i := range c.file.Jobs {
		e := c.file.Jobs[i].Environment
		job := c.file.Job(e.onStop)
		if e.onStop == "" || job == nil || c.isRollback(job) || !c.roleOf(job).acts() && job.Name != c.options.Gate {
			continue
		}
		rule := RuleNothingAfter
		if c.isGate(job) {
			rule = RuleGateBlocks
		}
		when := "when somebody stops the environment or deletes the branch"
		if e.autoStop {
			when = "by itself when auto_stop_in is over"
		}
		c.reportAt(job, 0, "environment:on_stop", rule, fmt.Sprintf("on_stop of %s names it: GitLab starts it %s", c.file.Jobs[i].Name, when), "let on_stop name a job that only rolls back")
	}
}

// order explores every order of events.
func (c *checker) order() {
	all, complete := c.file.pipelines(mostPipelines)
	if !complete {
		c.report(nil, RuleTooLarge, fmt.Sprintf("its rules make more than %d different pipelines", mostPipelines), "give the release a pipeline file of its own")
		return
	}
	if len(all) == 0 && len(c.file.Jobs) > 0 {
		c.report(nil, RuleMissing, "GitLab makes no pipeline of it: its rules leave out all jobs, or one that another one needs", "let the jobs that need one have its rules")
	}
	for _, p := range all {
		if !c.pipeline(&p) {
			c.report(nil, RuleTooLarge, fmt.Sprintf("it has more than %d states", mostStates), "give the release a pipeline file of its own")
			return
		}
	}
}

// pipeline checks one pipeline. It is false when the budget is used up.
func (c *checker) pipeline(p *pipeline) bool {
	gates := c.gatesOf(p)
	all := slices.Concat(gates...)
	for i := range p.jobs {
		job := p.jobs[i]
		// A gate that does not block was reported by gate(), and protected() looks at a return that somebody presses.
		optional := job.Behavior.When == "manual" && (job.Behavior.AllowFailure && c.isGate(job.Job) || c.roleOf(job.Job).returns())
		if c.roleOf(job.Job).belongsBehind() && !slices.Contains(all, i) && !optional && !c.behind(p, i, gates) {
			return false
		}
	}
	for _, gate := range all {
		for i := range c.file.Jobs {
			if job := &c.file.Jobs[i]; c.judges(job) && !c.waitsFor(p, gate, job.Name) {
				return false
			}
		}
	}
	return c.whole(p)
}

// whole explores everything that has a part in a release, and what holds it up. Other jobs that nobody waits for would
// only multiply the states.
func (c *checker) whole(p *pipeline) bool {
	var parts []int
	for i, job := range p.jobs {
		blocks := job.Behavior.When == "manual" && !job.Behavior.AllowFailure
		if blocks || c.judges(job.Job) || c.isGate(job.Job) || c.isRollback(job.Job) {
			parts = append(parts, i)
		}
	}
	part, _ := p.upstream(parts...)
	part.anyRetries, part.coarse = false, false
	w := &wholePipeline{
		checker: c, p: part, gates: slices.Concat(c.gatesOf(part)...),
		canary: part.index(c.canary), rollbacks: make([]bool, len(part.jobs)),
	}
	for i, job := range part.jobs {
		w.rollbacks[i] = c.isRollback(job.Job)
		if c.judges(job.Job) || c.isGate(job.Job) {
			w.decisive = append(w.decisive, i)
		}
	}
	return part.explore(&c.budget, func(int) bool { return true }, func(s state, trace func() string) {
		w.green(s, trace)
		w.afterCanary(s, trace)
	})
}

// wholePipeline is what is known of a pipeline while all of its states are visited.
type wholePipeline struct {
	*checker
	p         *pipeline
	gates     []int
	canary    int    // -1 when it is not in it
	decisive  []int  // the jobs whose failure must roll back
	rollbacks []bool // which jobs roll back
}

// gatesOf are the gates of a pipeline: for each, its instances. A gate is a job that promotes or has the gate's name, and
// that only a press can start; all of its instances must have been pressed.
func (c *checker) gatesOf(p *pipeline) (found [][]int) {
	index := map[*Job]int{}
	for i, job := range p.jobs {
		written := job.written()
		if job.Behavior.When != "manual" || job.Behavior.AllowFailure || !c.isGate(written) {
			continue
		}
		if _, has := index[written]; !has {
			index[written] = len(found)
			found = append(found, nil)
		}
		found[index[written]] = append(found[index[written]], i)
	}
	return found
}

// isGate says whether a job has the part of a gate: it promotes, or has the gate's name.
func (c *checker) isGate(job *Job) bool {
	return job.written().Name == c.options.Gate || c.roleOf(job).promotes()
}

// behind checks that a job is behind one of the gates: that it cannot run while any one instance of that gate has not
// been pressed. It is false when the budget is used up.
func (c *checker) behind(p *pipeline, job int, gates [][]int) bool {
	part, at := p.upstream(append([]int{job}, slices.Concat(gates...)...)...)
	part.anyRetries = len(part.jobs) <= mostWithAnyRetries
	first, next := "", at[1:]
	for _, gate := range gates {
		ran := ""
		for range gate {
			how, bounded := c.runsBefore(part, at[0], next[0])
			if !bounded {
				return false
			}
			ran, next = cmp.Or(ran, how), next[1:]
		}
		if ran == "" {
			return true
		}
		first = cmp.Or(first, ran)
	}
	if len(gates) == 0 {
		how, bounded := c.runsBefore(part, at[0], -1)
		if !bounded {
			return false
		}
		if first = how; how == "" {
			return true
		}
	}
	c.tooEarly(p.jobs[job].Job, first, len(gates) > 0)
	return true
}

// mostWithAnyRetries is the largest number of jobs for which as many retries are looked at as there can be.
const mostWithAnyRetries = 6

// runsBefore says how a job can run while another one is not pressed, "" when it cannot.
func (c *checker) runsBefore(p *pipeline, job, gate int) (how string, bounded bool) {
	ran := false
	p.enough = &ran
	bounded = p.explore(&c.budget, func(pressed int) bool { return pressed != gate }, func(s state, trace func() string) {
		// Each job that runs is pending in some state; one that may fail can count as done without having run.
		if !ran && status(s[job]) == pending {
			how, ran = trace(), true
		}
	})
	return how, bounded
}

// tooEarly reports a job that can run before the gate.
func (c *checker) tooEarly(job *Job, trace string, gated bool) {
	does := c.roleOf(job)
	before := "before anybody has pressed " + c.options.Gate
	if !gated {
		before = "in a pipeline without a gate that blocks"
	}
	if len(does.changes) > 0 {
		c.report(job, RuleNothingAfter, fmt.Sprintf("it runs `%s` and can run %s, %s", does.changes[0].Kind, before, trace), "make the gate block, and let the job need it")
		return
	}
	for _, e := range does.opaque {
		c.reportAt(job, e.Line, "script", RuleNotUnderstood, fmt.Sprintf("`%s`: %s; the job can run %s, %s", e.Command, e.Kind, before, trace), "use commands that are understood, or let the job need the gate")
	}
}

// waitsFor checks that a gate is offered only after the canary, or its verification, has succeeded. It is false when
// the budget is used up.
func (c *checker) waitsFor(p *pipeline, gate int, name string) bool {
	at := p.index(name)
	switch {
	case c.file.Job(name) == nil:
		return true // it is missing, which has been said
	case at < 0:
		c.report(p.jobs[gate].Job, RuleVerified, fmt.Sprintf("there are pipelines with the gate and without %s", name), "let both have the same rules")
		return true
	}
	part, places := p.upstream(gate, at)
	part.anyRetries = len(part.jobs) <= mostWithAnyRetries
	part.unsuccessful = map[int]bool{places[1]: true}
	return part.explore(&c.budget, func(job int) bool { return job != places[0] }, func(s state, trace func() string) {
		if status(s[places[0]]) == manual {
			c.report(p.jobs[gate].Job, RuleVerified, fmt.Sprintf("it can be pressed although %s has not succeeded, %s", name, trace()), fmt.Sprintf("let it wait for %s, whose failure must not be allowed", name))
		}
	})
}

// green checks that a pipeline is no success while nobody has pressed the gate.
func (w *wholePipeline) green(s state, trace func() string) {
	for _, i := range w.decisive {
		if status(s[i]) == manual && w.isGate(w.p.jobs[i].Job) && w.p.overall(s) == "success" {
			w.report(w.p.jobs[i].Job, RuleGreen, fmt.Sprintf("the pipeline is a success while nobody has pressed it, %s", trace()), "make the gate block")
		}
	}
}

// afterCanary checks that rollback can be reached from a state.
func (w *wholePipeline) afterCanary(s state, trace func() string) {
	p := w.p
	if w.canary < 0 || status(s[w.canary]) == created || status(s[w.canary]) == skipped || status(s[w.canary]) == manual {
		return
	}
	open, running, moving := false, false, false
	for i, job := range p.jobs {
		switch now := status(s[i]); {
		case w.rollbacks[i]: // one that has finished can be run again
			open = open || now != created && now != skipped
			running = running || job.Behavior.When != "manual" && now != created && now != skipped
		case now == pending:
			moving = true
		}
	}
	if !open {
		w.report(p.jobs[w.canary].Job, RuleRollback, "no rollback job can be pressed or runs, "+trace(), "add a rollback job with `needs: []`, `when: manual` and `allow_failure: true`")
	}
	if moving {
		return
	}
	w.blocked(s, trace)
	for _, job := range w.decisive {
		if status(s[job]) == failed && !running {
			w.report(p.jobs[job].Job, RuleRollsBack, "its failure does not start a rollback by itself, "+trace(), "add a rollback job with `when: on_failure` that needs this job alone: one that also needs jobs which were skipped is skipped as well")
		}
	}
}

// blocked checks that no other job holds up the pipeline of a promoted release.
func (w *wholePipeline) blocked(s state, trace func() string) {
	promoted := len(w.gates) > 0 && !slices.ContainsFunc(w.gates, func(gate int) bool { return status(s[gate]) != success })
	if !promoted || w.p.overall(s) != "manual" {
		return
	}
	for i, job := range w.p.jobs {
		if status(s[i]) == manual && !job.Behavior.AllowFailure {
			w.report(job.Job, RuleNotBlocking, "it blocks: the pipeline of a promoted release waits for it forever, "+trace(), "add `allow_failure: true`")
		}
	}
}
