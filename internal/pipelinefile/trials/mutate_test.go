package trials_test

import (
	"math/rand/v2"
	"slices"
)

// mutation makes a correct description wrong, in most cases; the simulation says whether it did.
type mutation struct {
	name string
	do   func(r *rand.Rand, d *description)
}

// extra adds a job that changes the cluster and looks like those of the release.
func (d *description) extra(r *rand.Rand, stage string) *job {
	j := &job{
		name: pick(r, "second_region", "promote_secondary", "fast lane", "scale up", "pages", "deploy"), stage: text(stage), does: []act{pick(r, promote, writes, hidden)},
		env: "production/second", group: true, release: true, blockText: chance(r, 4),
	}
	d.jobs = append(d.jobs, j)
	return j
}

func anyStage(r *rand.Rand) string {
	return pick(r, ".pre", "deploy_canary", "verify_canary", "promote_to_production", "cleanup", ".post")
}

// conditional lets the gate be left out.
func (d *description) conditional(r *rand.Rand) {
	gate := d.job(gateName)
	after := d.job("rollback_after_promote") // GitLab makes no pipeline without a job that is needed
	after.needs = []need{{job: gateName, optional: true}}
	switch r.IntN(4) {
	case 0:
		gate.rules = []rule{{cond: "$SKIP_GATE", when: "never"}, {when: "manual", allow: text("false")}}
	case 1:
		gate.rules = []rule{{cond: "$WITH_GATE", when: "manual", allow: text("false")}}
	case 2:
		gate.rules, gate.when, gate.allow, gate.only = nil, text("manual"), text("false"), "$WITH_GATE"
	default:
		gate.rules, gate.when, gate.allow, gate.except = nil, text("manual"), text("false"), "$SKIP_GATE"
	}
}

var mutations = []mutation{
	{"a job that changes the cluster starts by itself", func(r *rand.Rand, d *description) {
		j := d.extra(r, anyStage(r))
		if chance(r, 2) {
			j.hasNeeds, j.needs = true, on(pick(r, "deploy_canary", "verify_canary"))
		}
	}},
	{"the gate does not block", func(r *rand.Rand, d *description) {
		gate := d.job(gateName)
		gate.when, gate.allow, gate.rules = value{}, value{}, []rule{{when: "manual", allow: text("true")}}
		if chance(r, 2) {
			gate.when, gate.rules = text("manual"), []rule{{cond: "$CI_PIPELINE_SOURCE", when: ""}}
		}
		d.behindByStage(r)
	}},
	{"the gate starts by itself", func(r *rand.Rand, d *description) {
		gate := d.job(gateName)
		gate.when, gate.allow, gate.rules = value{}, value{}, nil
		switch r.IntN(4) {
		case 0:
			gate.rules = []rule{{cond: "$FORCE", when: pick(r, "on_success", "always")}, {when: "manual", allow: text("false")}}
		case 1:
			gate.when = text(pick(r, "always", "on_success", "delayed"))
		case 2:
			gate.rules = []rule{{cond: "$FORCE"}, {when: "manual"}}
		default:
			gate.rules = []rule{{when: "delayed"}}
			gate.rules = []rule{{when: "always"}}
		}
	}},
	{"the gate can be left out", func(r *rand.Rand, d *description) {
		d.conditional(r)
		d.behindByStage(r)
	}},
	{"the gate can be left out, and is an optional need", func(r *rand.Rand, d *description) {
		d.conditional(r)
		c := d.job("cleanup")
		c.hasNeeds, c.needs = true, []need{{job: "verify_canary"}, {job: gateName, optional: true}}
	}},
	{"what is behind the gate needs less", func(r *rand.Rand, d *description) {
		c := d.job("cleanup")
		c.hasNeeds = true
		c.needs = pick(r, nil, on("verify_canary"), on("deploy_canary", "verify_canary"), on("rollback"))
	}},
	{"a rule changes the needs", func(r *rand.Rand, d *description) {
		c := d.job("cleanup")
		c.hasNeeds, c.needs = true, on(gateName)
		c.rules = []rule{{cond: "$FAST", when: "on_success", hasNeeds: true, needs: pick(r, nil, on("verify_canary"))}, {when: "on_success"}}
	}},
	{"always, behind the gate", func(r *rand.Rand, d *description) {
		c := d.job("cleanup")
		c.when = text("always")
		c.hasNeeds, c.needs = chance(r, 2), on(gateName)
		if !c.hasNeeds {
			c.needs = nil
		}
	}},
	{"on_failure, and not a rollback", func(r *rand.Rand, d *description) {
		j := d.extra(r, "cleanup")
		j.when = text("on_failure")
		if chance(r, 2) {
			j.hasNeeds, j.needs = true, on(pick(r, "verify_canary", "deploy_canary", "rollback_after_verify"))
		}
	}},
	{"a button that is not the gate", func(r *rand.Rand, d *description) {
		j := d.extra(r, pick(r, "verify_canary", "promote_to_production", "cleanup"))
		j.hasNeeds, j.needs = true, pick(r, nil, on("verify_canary"))
		if chance(r, 2) {
			j.when = text("manual")
			j.allow = text("true")
		} else {
			j.rules = []rule{{when: "manual", allow: text("true")}}
		}
	}},
	{"behind a button that is not the gate", func(r *rand.Rand, d *description) {
		d.jobs = append(d.jobs, &job{name: "look", stage: text("verify_canary"), when: text("manual"), does: []act{reads}})
		j := d.extra(r, "cleanup")
		j.hasNeeds, j.needs = true, on("look")
	}},
	{"behind a failure that is fixed", func(r *rand.Rand, d *description) {
		d.jobs = append(d.jobs, &job{name: "fix", stage: text("verify_canary"), when: text("on_failure"), hasNeeds: true, needs: on("deploy_canary"), does: []act{notifies}})
		j := d.extra(r, "cleanup")
		j.hasNeeds, j.needs = true, on("deploy_canary", "fix")
	}},
	{"behind a job that may fail and can be canceled", func(r *rand.Rand, d *description) {
		d.jobs = append(d.jobs, &job{name: "warm up", stage: text("cleanup"), allow: text("true"), does: []act{reads}})
		d.stages = append(d.stages, "finish")
		j := d.extra(r, "finish")
		j.hasNeeds, j.needs = true, on("warm up")
	}},
	{"delayed", func(r *rand.Rand, d *description) {
		j := d.extra(r, pick(r, "verify_canary", "promote_to_production"))
		j.when = text("delayed")
	}},
	{"the end of the environment presses the gate", func(r *rand.Rand, d *description) {
		c, gate := d.job("deploy_canary"), d.job(gateName)
		c.onStop, c.autoStop = gateName, true
		gate.env, gate.action = c.env, "stop"
	}},
	{"the end of the environment presses another job", func(r *rand.Rand, d *description) {
		c := d.job("deploy_canary")
		j := d.extra(r, "cleanup")
		j.when, j.hasNeeds, j.allow = text("manual"), true, text("true")
		j.needs = pick(r, nil, on("deploy_canary"))
		j.env, j.action = c.env, "stop"
		c.onStop, c.autoStop = j.name, true
	}},
	{"an input decides when", func(r *rand.Rand, d *description) {
		j := d.extra(r, "cleanup")
		d.inputs = append(d.inputs, input{name: "moment", values: pick(r, []string{"on_success", "always"}, []string{"manual", "on_failure"})})
		j.when = value{input: "moment"}
	}},
	{"an input decides when the gate is", func(r *rand.Rand, d *description) {
		gate := d.job(gateName)
		d.inputs = append(d.inputs, input{name: "moment", values: []string{"manual", pick(r, "on_success", "always")}})
		gate.rules, gate.when, gate.allow = nil, value{input: "moment"}, text("false")
	}},
	{"an input decides whether the gate blocks", func(r *rand.Rand, d *description) {
		gate := d.job(gateName)
		d.inputs = append(d.inputs, input{name: "soft", values: []string{"false", "true"}, kind: "boolean"})
		if chance(r, 2) {
			gate.when, gate.allow, gate.rules = value{}, value{}, []rule{{when: "manual", allow: value{input: "soft"}}}
		} else {
			gate.when, gate.allow, gate.rules = text("manual"), value{input: "soft"}, nil
		}
		d.behindByStage(r)
	}},
	{"an input decides the stage", func(r *rand.Rand, d *description) {
		j := d.extra(r, "cleanup")
		d.inputs = append(d.inputs, input{name: "place", values: []string{"cleanup", pick(r, "verify_canary", "promote_to_production")}})
		j.stage = value{input: "place"}
	}},
	{"the gate has copies, and one is enough", func(r *rand.Rand, d *description) {
		gate, c := d.job(gateName), d.job("cleanup")
		gate.matrix = 2
		c.hasNeeds, c.needs = true, []need{{job: gateName, copy: 1 + r.IntN(2)}}
	}},
	{"a child pipeline promotes", func(r *rand.Rand, d *description) {
		d.jobs = append(d.jobs, &job{name: "child", stage: text(pick(r, "verify_canary", "deploy_canary", ".post")), child: "promotes"})
	}},
	{"another job's script promotes as well", func(r *rand.Rand, d *description) {
		j := d.job(pick(r, "deploy_canary", "verify_canary"))
		switch r.IntN(3) {
		case 0:
			j.does = append(slices.Clone(j.does), pick(r, promote, hidden, writes))
		case 1:
			j.after = []act{pick(r, promote, writes)}
		default:
			j.hook = []act{writes}
		}
	}},
	{"steps in the place of a script", func(r *rand.Rand, d *description) {
		j := d.extra(r, "verify_canary")
		j.steps, j.does = true, []act{promote}
	}},
	{"nobody can say what a script does", func(r *rand.Rand, d *description) {
		j := d.extra(r, pick(r, "verify_canary", "deploy_canary", "promote_to_production"))
		j.does = []act{opaque}
		if chance(r, 2) {
			j.env, j.group, j.release = "", false, false
		}
	}},
	{"an image by tag", func(r *rand.Rand, d *description) {
		j := d.job(pick(r, "deploy_canary", gateName, "cleanup"))
		j.does = append(slices.Clone(j.does), byTag)
	}},
	{"where it works is a variable", func(r *rand.Rand, d *description) {
		j := d.job(pick(r, gateName, "cleanup"))
		j.does = append(slices.Clone(j.does), elsewhere)
	}},
	{"an open input in a script", func(r *rand.Rand, d *description) {
		d.open = true
		j := d.jobs[r.IntN(len(d.jobs))]
		if j.child == "" {
			j.does = append(slices.Clone(j.does), injected)
		}
	}},
	{"a failure cancels the rollback", func(_ *rand.Rand, d *description) { d.autoCancel = "all" }},
	{"an unhealthy canary may be", func(r *rand.Rand, d *description) {
		d.job("verify_canary").codes = pick(r, []int{3, 4}, []int{3}, []int{1, 3})
	}},
	{"rollback waits", func(_ *rand.Rand, d *description) { d.job("rollback").group = true }},
	{"the gate is in the last stage with others behind", func(r *rand.Rand, d *description) {
		j := d.extra(r, anyStage(r))
		j.rules = []rule{{cond: "$A", when: pick(r, "on_success", "always", "manual", "on_failure")}, {cond: "$B", when: "never"}, {when: pick(r, "on_success", "manual", "never")}}
		if chance(r, 2) {
			j.hasNeeds, j.needs = true, on(pick(r, gateName, "verify_canary", "rollback_after_verify", "cleanup"))
		}
	}},
}

// behindByStage lets what is behind the gate wait for its stage alone.
func (d *description) behindByStage(r *rand.Rand) {
	c := d.job("cleanup")
	c.hasNeeds, c.needs = false, nil
	if chance(r, 3) {
		d.extra(r, "cleanup")
	}
}

// mutated is a correct description to which one thing was done.
func mutated(r *rand.Rand) *description {
	d := correct(r)
	m := mutations[r.IntN(len(mutations))]
	d.mutation = m.name
	m.do(r, d)
	return d
}

// wild is a correct description to which some jobs were added that are anything.
func wild(r *rand.Rand) *description {
	d := correct(r)
	d.mutation = "wild jobs"
	for n := range 1 + r.IntN(3) {
		j := d.extra(r, anyStage(r))
		j.name += pick(r, " a", " b", " c") + string(rune('0'+n))
		j.does = []act{pick(r, promote, writes, hidden, reads, notifies, rollback, cleanup, opaque)}
		if chance(r, 2) {
			j.when = text(pick(r, "on_success", "always", "manual", "on_failure", "delayed"))
		}
		if chance(r, 4) {
			j.allow = text(pick(r, "true", "false"))
		}
		if chance(r, 5) {
			j.codes, j.allow = []int{1 + r.IntN(5)}, value{}
		}
		if chance(r, 2) {
			j.rules = []rule{{cond: "$A", when: pick(r, "on_success", "always", "manual", "on_failure")}}
			if chance(r, 2) {
				j.rules = append(j.rules, rule{when: pick(r, "on_success", "manual", "never", "always"), allow: text(pick(r, "", "true", "false"))})
			}
		}
		if chance(r, 2) {
			j.hasNeeds = true
			rank := d.rank(j)
			for _, other := range d.jobs {
				if other != j && d.rank(other) <= rank && other.stage.input == "" && chance(r, 5) && !d.reaches(other, j) {
					j.needs = append(j.needs, need{job: other.name, optional: chance(r, 4)})
				}
			}
		}
	}
	return d
}

func (d *description) rank(j *job) int {
	return slices.Index(append(append([]string{".pre"}, d.stages...), ".post"), j.stage.text)
}

// reaches says whether a job needs another one, directly or not: GitLab takes no circles.
func (d *description) reaches(from, to *job) bool {
	return from == to || slices.ContainsFunc(from.needs, func(n need) bool { return d.reaches(d.job(n.job), to) })
}
