package pipelinefile

import (
	"slices"
	"strconv"
	"strings"
)

// sources are the values of CI_PIPELINE_SOURCE.
var sources = []string{
	"trigger", "api", "web", "push", "merge_request_event", "schedule", "pipeline", "parent_pipeline",
	"external_pull_request_event", "chat", "webide", "external", "ondemand_dast_scan", "security_orchestration_policy",
}

// mostWorlds bounds the sets of conditions that are looked at.
const mostWorlds = 4096

// world is one answer to every question that the file's rules ask: it decides which rules match, and so what
// pipeline GitLab makes. The same question has the same answer for every job.
//
// All worlds are visited by answering each question in turn, and starting again with the last answer that has an
// alternative.
type world struct {
	literals map[string][]string // what each variable is compared with
	answers  map[string]int
	path     []choice
	asked    int
}

type choice struct{ taken, of int }

// choose answers a question that has n answers.
func (w *world) choose(question string, n int) int {
	if n <= 1 {
		return 0
	}
	if answer, ok := w.answers[question]; ok {
		return answer
	}
	if w.asked == len(w.path) {
		w.path = append(w.path, choice{0, n})
	}
	answer := w.path[w.asked].taken
	w.asked++
	w.answers[question] = answer
	return answer
}

// next goes on to another world, if there is one.
func (w *world) next() bool {
	for len(w.path) > 0 {
		last := &w.path[len(w.path)-1]
		if last.taken++; last.taken < last.of {
			return true
		}
		w.path = w.path[:len(w.path)-1]
	}
	return false
}

// worlds visits every world, up to a bound.
func (f *File) worlds(visit func(w *world)) (complete bool) {
	w := &world{literals: map[string][]string{}}
	rules := slices.Clone(f.Workflow)
	for _, job := range f.Jobs {
		rules = append(rules, job.Rules...)
	}
	for _, rule := range rules {
		variablesIn(rule.If, w.literals)
	}
	for range mostWorlds {
		w.answers, w.asked = map[string]int{}, 0
		visit(w)
		if !w.next() {
			return true
		}
	}
	return false
}

// outlook is how conditions are evaluated in a world. A variable that the file itself sets may have that value or, as
// variables of a trigger win, any other: it is asked about for that set of variables alone.
func (w *world) outlook(set ...*yamlValue) outlook {
	scope := func(name string) string {
		for _, variables := range set {
			if given := variables.get(name); given != nil {
				return "=" + given.canonical()
			}
		}
		return ""
	}
	return outlook{
		variable: func(name string) operand {
			own := scope(name)
			if name == "CI_PIPELINE_SOURCE" && own == "" {
				return operand{text: sources[w.choose(name, len(sources))], known: true}
			}
			literals := w.literals[name]
			switch i := w.choose("$"+name+own, len(literals)+2); i {
			case 0:
				return operand{known: true, unset: true}
			case 1:
				return operand{known: true, other: true}
			default:
				return operand{text: literals[i-2], known: true}
			}
		},
		decide: func(question string) truth {
			for name := range w.literals {
				if own := scope(name); own != "" && strings.Contains(question, name) {
					question += " " + name + own
				}
			}
			return []truth{yes, no}[w.choose(question, 2)]
		},
	}
}

// matching is the first of the rules that matches, nil when none does.
func (w *world) matching(rules []Rule, variables ...*yamlValue) *Rule {
	for i := range rules {
		rule := &rules[i]
		matches := true
		if rule.If != "" {
			matches = w.outlook(variables...).condition(rule.If) == yes
		} else if rule.conditional && rule.files == "" {
			matches = w.choose("rule of line "+strconv.Itoa(rule.line), 2) == 0
		}
		if matches && rule.files != "" {
			matches = w.choose(rule.files, 2) == 0
		}
		if matches {
			return rule
		}
	}
	return nil
}

// pipelines are all the pipelines that a file can create, up to a bound; complete says whether these are all.
func (f *File) pipelines(bound int) (all []pipeline, complete bool) {
	seen := map[string]bool{}
	complete = f.worlds(func(w *world) {
		p, ok := f.pipelineIn(w)
		if !ok || len(all) > bound {
			return
		}
		if key := p.key(); !seen[key] {
			seen[key] = true
			all = append(all, p)
		}
	})
	if len(all) > bound {
		return nil, false
	}
	return all, complete
}

// pipelineIn is the pipeline that GitLab makes in a world; false when it makes none.
func (f *File) pipelineIn(w *world) (p pipeline, ok bool) {
	var variables *yamlValue // of the workflow's rule
	if f.Workflow != nil {
		rule := w.matching(f.Workflow, f.variables)
		if rule == nil || rule.When == "never" {
			return p, false
		}
		variables = rule.variables
	}
	p.cancelsOnFailure = f.cancelsOnFailure
	var needs [][]need
	for i := range f.Jobs {
		job := &f.Jobs[i]
		var rule *Rule
		switch {
		case job.HasRules:
			if rule = w.matching(job.Rules, job.variables, variables, f.variables); rule == nil {
				continue
			}
		case job.refs != "":
			if w.choose(job.refs, 2) == 1 {
				continue
			}
		case f.Workflow == nil: // GitLab's default is `only: [branches, tags]`
			if source := w.outlook().variable("CI_PIPELINE_SOURCE").text; source == "merge_request_event" || source == "external_pull_request_event" {
				continue
			}
		}
		b := job.behavior(rule)
		if b.When == "never" {
			continue
		}
		for _, one := range f.instancesOf(job, rule) {
			p.jobs = append(p.jobs, pipelineJob{Job: one, Behavior: b, stage: slices.Index(f.Stages, job.Stage)})
			needs = append(needs, one.needs)
		}
	}
	if !p.link(needs) || !p.runs(f) {
		return p, false
	}
	p.prepare()
	return p, true
}

// instancesOf are the jobs that GitLab makes of one, with the needs of its rule.
func (f *File) instancesOf(job *Job, rule *Rule) []*Job {
	one := job
	if rule != nil && (rule.hasNeeds || rule.interruptible != nil) {
		copied := *job
		copied.of = job
		if rule.hasNeeds {
			copied.needs, copied.HasNeeds = rule.needs, true
		}
		if rule.interruptible != nil {
			copied.Interruptible = rule.interruptible
		}
		one = &copied
	}
	if len(job.instances) == 0 {
		return []*Job{one}
	}
	var all []*Job
	for _, values := range job.instances {
		copied := *one
		copied.of, copied.Name, copied.instances = job, job.Name+": ["+values.String()+"]", []instance{values}
		all = append(all, &copied)
	}
	return all
}

// link resolves needs. GitLab creates no pipeline in which a needed job is missing, unless it is optional.
func (p *pipeline) link(needs [][]need) bool {
	for i := range p.jobs {
		for _, need := range needs[i] {
			found := false
			for at, other := range p.jobs {
				if other.Job.written().Name == need.name && (need.matrix == nil || len(other.instances) == 1 && other.instances[0].matches(need.matrix)) {
					p.jobs[i].needs = append(p.jobs[i].needs, at)
					found = true
				}
			}
			if !found && !need.optional {
				return false
			}
		}
	}
	return len(p.jobs) > 0
}

// runs says whether GitLab creates the pipeline: not when all its jobs are in .pre and .post.
func (p *pipeline) runs(f *File) bool {
	return slices.ContainsFunc(p.jobs, func(j pipelineJob) bool { return j.stage > 0 && j.stage < len(f.Stages)-1 })
}

// key is the same for pipelines that are the same.
func (p *pipeline) key() string {
	var b strings.Builder
	for _, job := range p.jobs {
		b.WriteString(job.Name + "\x00" + job.Behavior.When + strconv.FormatBool(job.Behavior.AllowFailure) + strconv.FormatBool(job.HasNeeds))
		b.WriteString(strconv.FormatBool(job.Interruptible != nil && *job.Interruptible))
		for _, need := range job.needs {
			b.WriteString(" " + strconv.Itoa(need))
		}
		b.WriteString("\n")
	}
	return b.String()
}
