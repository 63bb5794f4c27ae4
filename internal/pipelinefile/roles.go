package pipelinefile

import (
	"slices"
	"strings"
)

// role is what a job does, by its scripts.
type role struct {
	effects
	starts bool // it starts another pipeline, or steps that are not read
}

// roleOf reads all the shells of a job: before_script and script run in one, after_script and the hooks in others.
func roleOf(f *File, job *Job) role {
	found := role{}
	add := func(keywords ...string) {
		var script []scriptLine
		for _, keyword := range keywords {
			script = append(script, linesOf(job.shell(keyword))...)
		}
		if len(script) > 0 {
			found.effects = joined(found.effects, analyzeOnce(script, scriptContext{Inputs: f.Inputs, Given: f.given(job, script)}))
		}
	}
	if job.values.get("run") == nil && job.values.get("script") != nil {
		add("before_script", "script")
		add("after_script")
		add("hooks")
	}
	for keyword, what := range map[string]string{"run": "steps (`run`) are not understood", "trigger": "it starts another pipeline, whose jobs are not seen here"} {
		if job.values.get(keyword) != nil {
			found.starts = true
			found.opaque = append(found.opaque, effect{Line: job.values.lines[keyword], Command: keyword, Kind: what, Class: classOpaque})
		}
	}
	found.opaque = append(found.opaque, containers(job)...)
	return found
}

// given are the values that the file gives the variables that a script of a job names, and those that are in these values.
func (f *File) given(job *Job, script []scriptLine) map[string][]string {
	all := map[string][]string{}
	add := func(variables *yamlValue) {
		for _, name := range variables.keysOf() {
			given := variables.get(name)
			if given.is(mapValue) {
				given = given.get("value")
			}
			if text := given.string(); text != "" && !slices.Contains(all[name], text) {
				all[name] = append(all[name], text)
			}
		}
	}
	add(f.variables)
	add(job.variables)
	for _, rule := range slices.Concat(f.Workflow, job.Rules) {
		add(rule.variables)
	}
	for _, one := range job.instances {
		for name, text := range one {
			all[name] = append(all[name], text)
		}
	}
	var texts strings.Builder
	for _, item := range script {
		texts.WriteString(item.Text + "\n")
	}
	found := map[string][]string{}
	for more := true; more; {
		more = false
		for name, values := range all {
			if found[name] == nil && strings.Contains(texts.String(), name) {
				found[name], more = slices.Sorted(slices.Values(values)), true
				texts.WriteString(strings.Join(values, "\n"))
			}
		}
	}
	return found
}

// shells are the words of an entrypoint that only starts the shell in which the runner runs the script.
var shells = []string{"", "sh", "/bin/sh", "bash", "/bin/bash", "/usr/bin/env", "-c"}

// containers are the commands that a job gives to the containers of its image and services: they run beside its script.
func containers(job *Job) (found []effect) {
	for _, container := range append(job.values.get("services").itemsOf(), orNull(job.values.get("image"))) {
		for _, keyword := range []string{"entrypoint", "command"} {
			for _, word := range container.get(keyword).scalars() {
				flag := keyword == "command" && strings.HasPrefix(word.text, "-")
				if !flag && !slices.Contains(shells, word.text) {
					found = append(found, effect{Line: word.line, Command: keyword + ": " + word.text, Kind: "a command of a container is not understood", Class: classOpaque})
					break
				}
			}
		}
	}
	return found
}

func (j *Job) shell(keyword string) *yamlValue {
	if keyword == "hooks" {
		return j.values.get("hooks").get("pre_get_sources_script")
	}
	return j.values.get(keyword)
}

func linesOf(v *yamlValue) (found []scriptLine) {
	for _, line := range v.scalars() {
		found = append(found, scriptLine{Text: line.text, Line: line.start})
	}
	return found
}

// joined are the effects of both.
func joined(a, b effects) effects {
	return effects{
		reads: append(a.reads, b.reads...), canary: append(a.canary, b.canary...), changes: append(a.changes, b.changes...),
		opaque: append(a.opaque, b.opaque...), uses: append(a.uses, b.uses...), images: append(a.images, b.images...),
		inputs: append(a.inputs, b.inputs...), targets: append(a.targets, b.targets...), proposed: a.proposed || b.proposed,
	}
}

// runs says whether a job runs one of crossbill's commands.
func (r role) runs(command string) bool {
	return slices.ContainsFunc(slices.Concat(r.canary, r.changes), func(e effect) bool { return strings.HasPrefix(e.Kind+" ", "crossbill "+command+" ") })
}

// promotes says whether a job promotes a release.
func (r role) promotes() bool {
	return slices.ContainsFunc(r.changes, func(e effect) bool { return e.Class == classPromotes })
}

// returns says whether all that a job does to production is to return to an earlier release.
func (r role) returns() bool {
	return len(r.changes) > 0 && len(r.opaque) == 0 && !slices.ContainsFunc(r.changes, func(e effect) bool { return e.Kind != "crossbill "+returning })
}

// waits says whether all that a job does is to wait until it is a release's turn.
func (r role) waits() bool {
	return r.runs("queue") && !r.belongsBehind() && !slices.ContainsFunc(r.canary, func(e effect) bool { return !strings.HasPrefix(e.Kind+" ", "crossbill queue ") })
}

// belongsBehind says whether a job must be behind the gate, or be the gate.
func (r role) belongsBehind() bool { return len(r.changes)+len(r.opaque) > 0 }

// acts says whether a job may change anything outside its runner.
func (r role) acts() bool { return r.belongsBehind() || len(r.canary) > 0 }

// rollsBack says whether a job rolls back, and does nothing else that must wait for the gate.
func (r role) rollsBack() bool { return r.runs("rollback") && !r.belongsBehind() }

// roleOf is the role of a job of the checked file.
func (c *checker) roleOf(job *Job) role { return c.roles[job.written().Name] }

// isRollback says whether a job rolls back. One whose script cannot be read counts if its name says so.
func (c *checker) isRollback(job *Job) bool {
	r := c.roleOf(job)
	return r.rollsBack() || len(r.changes) == 0 && len(r.opaque) > 0 && strings.HasPrefix(job.Name, c.options.Rollback)
}

// named is the job with a part in a release: the one with its name or, if nobody gave another name than the usual one,
// the first one whose script does its work, by the first of the commands that any job runs.
func (c *checker) named(name, usual string, commands ...string) string {
	if job := c.file.Job(name); job != nil && !job.leftOut() || name != usual {
		return name
	}
	for _, command := range commands {
		for i := range c.file.Jobs {
			if c.roleOf(&c.file.Jobs[i]).runs(command) {
				return c.file.Jobs[i].Name
			}
		}
	}
	return name
}

// judges says whether a job starts the canary or judges it before the gate: the canary's, the verification's, and each that
// takes the release through its steps.
func (c *checker) judges(job *Job) bool {
	written := job.written()
	return written.Name == c.canary || written.Name == c.verify || c.roleOf(job).runs(following)
}
