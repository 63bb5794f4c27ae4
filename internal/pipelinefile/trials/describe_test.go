// Package trials_test holds lint against pipelines that are made up: each is described here in a way of our own,
// written down as YAML in one of many spellings, and judged by a plain simulation of what GitLab documents. It shares
// no code with lint: the description is never parsed from the file, and the file is never seen by the simulation.
package trials_test

import (
	"math/rand/v2"
	"slices"
)

// description is a pipeline file, as its author means it.
type description struct {
	stages     []string
	jobs       []*job
	inputs     []input // that decide about the structure
	autoCancel string  // "", none or all
	base       string  // how jobs get what they have in common: extends, default, merge, reference, each
	wrapped    bool    // crossbill is a shell function around dagger
	image      string  // pattern of the input image
	open       bool    // the input note has no pattern
	mutation   string  // what was done to a correct description
}

// input is one of spec:inputs that stands in a structural place: whoever starts the pipeline chooses one of the values.
type input struct {
	name   string
	values []string
	kind   string // "", boolean
}

// value is written in the file, or comes from an input.
type value struct{ text, input string }

func text(s string) value { return value{text: s} }

type job struct {
	name      string
	stage     value
	when      value // "" is not written
	allow     value // "", true or false
	codes     []int
	rules     []rule // nil without rules
	needs     []need
	hasNeeds  bool
	only      string // the job exists only if this condition holds, by only
	except    string // the same, if it does not hold
	does      []act
	env       string
	action    string
	onStop    string
	autoStop  bool
	group     bool // resource_group of the app
	matrix    int  // copies by parallel:matrix
	child     string
	release   bool // it has what release jobs have in common
	after     []act
	hook      []act
	steps     bool // run: in the place of script
	blockText bool
}

// rule is one of rules. cond is a condition that whoever starts the pipeline can make true or not; "" always holds.
type rule struct {
	cond, when string
	allow      value
	needs      []need
	hasNeeds   bool
}

type need struct {
	job      string
	optional bool
	copy     int // of a job with a matrix, from 1; 0 is all of them
}

// act is what a line of a script does.
type act string

const (
	canary    act = "canary"
	verify    act = "verify"
	promote   act = "promote"
	cleanup   act = "cleanup"
	rollback  act = "rollback"
	reads     act = "reads"
	notifies  act = "notifies"
	writes    act = "writes"    // kubectl or helm change the cluster
	hidden    act = "hidden"    // crossbill promote in another shape
	opaque    act = "opaque"    // nobody can say what it does
	byTag     act = "by tag"    // it deploys an image by tag
	elsewhere act = "elsewhere" // where it changes something is a variable that is not assigned
	injected  act = "injected"  // an input without a pattern stands in the script
)

// changes says whether an act must not happen without a press of the gate.
func (a act) changes() bool {
	return slices.Contains([]act{promote, cleanup, writes, hidden, opaque, injected}, a)
}

// never says whether an act is wrong wherever it is.
func (a act) never() bool { return slices.Contains([]act{byTag, elsewhere, injected}, a) }

func (j *job) acts() []act { return slices.Concat(j.does, j.after, j.hook) }

func (d *description) job(name string) *job {
	for _, j := range d.jobs {
		if j.name == name {
			return j
		}
	}
	return nil
}

const gateName = "promote_to_production"

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// chance is true one time in n.
func chance(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

func on(names ...string) (needs []need) {
	for _, name := range names {
		needs = append(needs, need{job: name})
	}
	return needs
}

// correct is a pipeline that is right: a variant of the repository's own.
func correct(r *rand.Rand) *description {
	d := &description{
		stages:     []string{"deploy_canary", "verify_canary", "promote_to_production", "cleanup"},
		autoCancel: pick(r, "", "none", "none"),
		base:       pick(r, "extends", "default", "merge", "reference", "each"),
		wrapped:    chance(r, 2),
		image: pick(r, `^registry\.example\.com/our-org/[a-z0-9._-]+@sha256:[0-9a-f]{64}$`, `^(registry\.example\.com/our-org/[a-z0-9._-]+@sha256:[0-9a-f]{64})?$`,
			`^registry\.example\.com/our-org/a@sha256:[0-9a-f]{64}$|^registry\.example\.com/our-org/b@sha256:[0-9a-f]{64}$`),
	}
	if chance(r, 3) {
		d.stages = slices.Insert(d.stages, 0, "build")
		d.jobs = append(d.jobs, &job{name: "unit_tests", stage: text("build"), does: []act{pick(r, reads, notifies)}})
	}
	const canaryEnv = "production/$[[ inputs.app ]]-canary"
	d.jobs = append(d.jobs,
		&job{name: "deploy_canary", stage: text("deploy_canary"), does: []act{canary}, env: canaryEnv, onStop: "rollback", group: true, release: true, autoStop: chance(r, 6)},
		&job{name: "verify_canary", stage: text("verify_canary"), does: []act{verify}, env: canaryEnv, action: "verify", group: true, release: true},
		correctGate(r),
	)
	d.correctCleanup(r)
	d.jobs = append(d.jobs, &job{
		name: "rollback", stage: text("cleanup"), hasNeeds: true, does: []act{rollback}, env: canaryEnv, action: "stop", release: true,
		rules: []rule{{when: "manual", allow: text("true")}},
	})
	for _, after := range []struct{ name, job string }{{"rollback_after_canary", "deploy_canary"}, {"rollback_after_verify", "verify_canary"}, {"rollback_after_promote", gateName}} {
		j := &job{name: after.name, stage: text("cleanup"), hasNeeds: true, needs: on(after.job), does: []act{rollback}, env: canaryEnv, action: "access", release: true}
		if chance(r, 2) {
			j.when = text("on_failure")
		} else {
			j.rules = []rule{{when: "on_failure"}}
		}
		d.jobs = append(d.jobs, j)
	}
	slices.SortStableFunc(d.jobs, func(a, b *job) int {
		return slices.Index(d.stages, a.stage.text) - slices.Index(d.stages, b.stage.text)
	})
	for range r.IntN(4) {
		d.harmless(r)
	}
	return d
}

// correctGate is a gate that blocks, in one of the ways to write that.
func correctGate(r *rand.Rand) *job {
	gate := &job{name: gateName, stage: text("promote_to_production"), does: []act{promote}, env: "production/$[[ inputs.app ]]", group: true, release: true, blockText: chance(r, 3)}
	switch r.IntN(4) {
	case 0:
		gate.rules = []rule{{when: "manual", allow: text("false")}}
	case 1:
		gate.rules = []rule{{when: "manual"}} // manual in a rule blocks
	case 2:
		gate.when, gate.allow = text("manual"), text("false")
	default:
		gate.when, gate.allow, gate.rules = text("manual"), text("false"), []rule{{when: "manual"}}
	}
	if chance(r, 3) {
		gate.hasNeeds, gate.needs = true, on("verify_canary")
	}
	return gate
}

func (d *description) correctCleanup(r *rand.Rand) {
	j := &job{name: "cleanup", stage: text("cleanup"), does: []act{cleanup}, env: "production/$[[ inputs.app ]]", action: "access", group: true, release: true}
	if !chance(r, 3) {
		j.hasNeeds, j.needs = true, on(gateName)
	}
	if chance(r, 5) { // the gate is required, and the pipeline is not created without it
		j.hasNeeds, j.needs = true, on("verify_canary", gateName)
	}
	d.jobs = append(d.jobs, j)
}

// harmless adds a job that changes nothing, or one that is behind the gate.
func (d *description) harmless(r *rand.Rand) {
	names := []string{"notify", "smoke", "report", "docs", "check links", "watch", "labels", "audit"}
	name := names[r.IntN(len(names))]
	if d.job(name) != nil {
		return
	}
	j := &job{name: name, stage: text(pick(r, ".post", "cleanup", "verify_canary", ".pre")), does: []act{pick(r, reads, notifies)}, blockText: chance(r, 4)}
	switch r.IntN(9) {
	case 0:
		j.stage, j.when = text(".post"), text("always")
	case 1:
		j.hasNeeds, j.needs = true, on("deploy_canary")
		j.stage = text("cleanup")
	case 2: // a button that nobody has to press
		j.stage, j.when, j.allow = text("cleanup"), text("manual"), text("true")
	case 3:
		j.stage, j.when = text(".post"), text("delayed")
	case 4:
		j.stage, j.matrix = text("cleanup"), 2
	case 5:
		j.stage = text("cleanup")
		j.only = "$NIGHTLY"
	case 6:
		j.stage = text("cleanup")
		j.rules = []rule{{cond: "$NIGHTLY", when: "on_success"}}
	case 7: // it changes something, but waits for the gate
		j.stage, j.does, j.release, j.group = text("cleanup"), []act{pick(r, writes, cleanup)}, true, true
		j.hasNeeds, j.needs = true, on(gateName)
		j.env, j.action = "production/$[[ inputs.app ]]", "access"
	default:
		j.allow = text("true")
	}
	if chance(r, 8) && len(d.inputs) == 0 && j.only == "" && j.stage.text == "cleanup" {
		d.inputs = append(d.inputs, input{name: "late", values: []string{"cleanup", ".post"}})
		j.stage = value{input: "late"}
	}
	d.jobs = append(d.jobs, j)
}
