package pipelinefile

import (
	"fmt"
	"slices"
)

// gate checks that the gate is manual and blocks, whichever rule matches.
func (c *checker) gate() {
	gate := c.file.Job(c.options.Gate)
	if gate == nil {
		return
	}
	for _, b := range gate.Behaviors() {
		switch {
		case b.When == "never":
		case b.When != "manual":
			c.report(gate, RuleGateBlocks, fmt.Sprintf("it starts by itself (when: %s)", b.When), "give every rule `when: manual`")
		case !b.AllowFailure:
		case gate.When == "manual" && gate.HasRules && gate.AllowFailure == nil:
			c.report(gate, RuleGateBlocks, "`when: manual` at the job beside `rules` makes it manual but not blocking: allow_failure becomes true, so that later stages run at once and the pipeline is green with nothing promoted", "move `when: manual` into the rule, or add `allow_failure: false`")
		default:
			c.report(gate, RuleGateBlocks, "it is manual but not blocking (allow_failure is true)", "add `allow_failure: false`")
		}
	}
}

// order explores every order of events.
func (c *checker) order() {
	all, complete := c.file.pipelines(mostPipelines)
	if !complete {
		c.report(nil, RuleTooLarge, fmt.Sprintf("its rules make more than %d different pipelines", mostPipelines), "give the release a pipeline file of its own")
		return
	}
	budget := mostStates
	for _, p := range all {
		gate := p.index(c.options.Gate)
		behind := c.behind(&p, gate)
		bounded := p.explore(&budget, func(job int) bool { return job != gate }, func(s state, trace func() string) { c.beforeGate(&p, gate, behind, s, trace) }) &&
			p.explore(&budget, func(int) bool { return true }, func(s state, trace func() string) { c.afterCanary(&p, gate, s, trace) })
		if !bounded {
			c.report(nil, RuleTooLarge, fmt.Sprintf("it has more than %d states", mostStates), "give the release a pipeline file of its own")
			return
		}
	}
}

// behind are the jobs that must wait for the gate: those of later stages, and those that need it, but no rollback
// jobs.
func (c *checker) behind(p *pipeline, gate int) map[int]bool {
	found := map[int]bool{}
	if gate < 0 {
		return found
	}
	for changed := true; changed; {
		changed = false
		for i, job := range p.jobs {
			needsBehind := slices.ContainsFunc(job.needs, func(n int) bool { return n == gate || found[n] })
			if i != gate && !found[i] && !c.isRollback(job.Name) && (job.stage > p.jobs[gate].stage || needsBehind) {
				found[i], changed = true, true
			}
		}
	}
	return found
}

// beforeGate checks a state in which nobody has pressed the gate.
func (c *checker) beforeGate(p *pipeline, gate int, behind map[int]bool, s state, trace func() string) {
	for i := range behind {
		if now := status(s[i]); now == pending || now == success || now == failed {
			c.report(p.jobs[i].Job, RuleNothingAfter, fmt.Sprintf("it can run before anybody has pressed %s, %s", c.options.Gate, trace()), "make the gate block, and let the job need it")
		}
	}
	if gate >= 0 && status(s[gate]) == manual && p.overall(s) == "success" {
		c.report(p.jobs[gate].Job, RuleGreen, fmt.Sprintf("the pipeline is a success while nobody has pressed it, %s", trace()), "make the gate block")
	}
}

// afterCanary checks that rollback can be reached from a state.
func (c *checker) afterCanary(p *pipeline, gate int, s state, trace func() string) {
	canary, verify := p.index(c.options.Canary), p.index(c.options.Verify)
	if canary < 0 || status(s[canary]) == created || status(s[canary]) == skipped || status(s[canary]) == manual {
		return
	}
	open, running, moving := false, false, false
	for i, job := range p.jobs {
		switch now := status(s[i]); {
		case c.isRollback(job.Name): // one that has finished can be run again
			open = open || now != created && now != skipped
			running = running || job.Behavior.When != "manual" && now != created && now != skipped
		case now == pending:
			moving = true
		}
	}
	if !open {
		c.report(p.jobs[canary].Job, RuleRollback, "no rollback job can be pressed or runs, "+trace(), "add a rollback job with `needs: []`, `when: manual` and `allow_failure: true`")
	}
	if moving {
		return
	}
	if gate >= 0 && status(s[gate]) == success && p.overall(s) == "manual" {
		for i, job := range p.jobs {
			if status(s[i]) == manual && !job.Behavior.AllowFailure {
				c.report(job.Job, RuleNotBlocking, "it blocks: the pipeline of a promoted release waits for it forever, "+trace(), "add `allow_failure: true`")
			}
		}
	}
	for _, job := range []int{canary, verify, gate} {
		if job >= 0 && status(s[job]) == failed && !running {
			c.report(p.jobs[job].Job, RuleRollsBack, "its failure does not start a rollback by itself, "+trace(), "add a rollback job with `when: on_failure` that needs this job alone: one that also needs jobs which were skipped is skipped as well")
		}
	}
}
