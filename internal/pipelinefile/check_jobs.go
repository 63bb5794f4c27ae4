package pipelinefile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// safeRetries are the failures after which a job has certainly not started its script, or was lost with its
// runner: every command can be run again.
var safeRetries = []string{"runner_system_failure", "scheduler_failure", "stale_schedule", "runner_unsupported"}

// jobs checks each job by itself, and their environments together.
func (c *checker) jobs() {
	environments := map[string]string{}
	for i := range c.file.Jobs {
		job := &c.file.Jobs[i]
		c.scripts(job)
		if c.roleOf(job).acts() {
			c.variables(job, job.variables)
			for _, rule := range job.Rules {
				c.variables(job, rule.variables)
			}
		}
		c.oneByOne(job)
		c.environment(job)
		c.runner(job)
		c.artifacts(job)
		if action := job.Environment.Action; job.Environment.Name != "" && (action == "" || action == "start") {
			if other := environments[job.Environment.Name]; other != "" {
				c.report(job, RuleEnvironment, fmt.Sprintf("it deploys to the environment of %s: GitLab may refuse the older deployment", other), "give it an environment of its own, or another action")
			}
			environments[job.Environment.Name] = job.Name
		}
	}
	c.variables(nil, c.file.variables)
	for _, rule := range c.file.Workflow {
		c.variables(nil, rule.variables)
	}
}

// scripts reports what is wrong with the scripts of a job, whenever it runs.
func (c *checker) scripts(job *Job) {
	r := c.roleOf(job)
	c.operator(job)
	c.persons(job)
	for _, use := range r.images {
		c.reportAt(job, use.Line, "script", RuleByDigest, fmt.Sprintf("`%s`: %s", use.Command, use.Problem), use.Fix)
	}
	for _, use := range r.uses {
		c.reportAt(job, use.Line, "script", RuleOverridable, fmt.Sprintf("`%s` depends on $%s, which the script does not assign: a trigger variable can set it", use.Command, use.Variable), "assign it in the script, or use an input with options")
	}
	c.targets(job, r.targets)
	for _, use := range r.inputs {
		input, declared := c.file.Inputs[use.Name]
		switch harm := use.harm(input); {
		case !declared:
			c.reportAt(job, use.Line, "script", RuleInput, fmt.Sprintf("it uses input %q, which the header does not declare", use.Name), "declare it in spec:inputs")
		case harm != "":
			c.reportAt(job, use.Line, "script", RuleInput, fmt.Sprintf("input %q is used in its script and %s: whoever starts the pipeline can run commands", use.Name, harm), "give the input options, or a regex with ^, $ and the characters that it may contain")
		}
	}
}

// targets reports where whoever starts the pipeline chooses the cluster, the judge or crossbill's configuration.
func (c *checker) targets(job *Job, uses []targetUse) {
	const fix = "assign it in the script, or use an input with options"
	for _, use := range uses {
		switch {
		case use.Variable != "":
			c.reportAt(job, use.Line, "script", RuleOverridable, fmt.Sprintf("where `%s` acts depends on $%s: whoever starts the pipeline can choose it", use.Command, use.Variable), fix)
		case use.Input != "":
			c.reportAt(job, use.Line, "script", RuleInput, fmt.Sprintf("where `%s` acts depends on %s, whose values are not listed: whoever starts the pipeline can choose it", use.Command, use.Input), "give the input options")
		default:
			c.reportAt(job, use.Line, "script", RuleOverridable, fmt.Sprintf("where `%s` acts depends on %s", use.Command, use.Problem), fix)
		}
	}
}

// operator checks that no job says to be the person who may go on without an approval. The command rejects it in a job,
// which it knows by variables that a script can unset.
func (c *checker) operator(job *Job) {
	for _, keyword := range []string{"before_script", "script", "after_script", "hooks"} {
		for _, line := range linesOf(job.shell(keyword)) {
			if strings.Contains(line.Text, "--approve-as-operator") {
				c.reportAt(job, line.Line, keyword, RuleOperator, "it gives --approve-as-operator: a job is no person", "leave it out, and give the job an ID token")
			}
		}
	}
}

// persons checks that nothing starts by itself that a person has to answer for.
func (c *checker) persons(job *Job) {
	for _, p := range []struct{ command, problem string }{
		{"approve", "it approves by itself, as whoever started the pipeline"},
		{"resume", "it releases the app by itself, which a person has put on hold"},
	} {
		if !c.roleOf(job).runs(p.command) || c.pressed(job) {
			continue
		}
		for _, b := range job.Behaviors() {
			if b.When != "manual" && b.When != "never" {
				c.report(job, RuleOperator, fmt.Sprintf("%s (when: %s)", p.problem, b.When), "give every rule `when: manual`, with `allow_failure: true`")
				break
			}
		}
	}
}

// oneByOne checks that a job that acts is not stopped halfway, does not run twice at a time, and is retried only if that
// is safe.
func (c *checker) oneByOne(job *Job) {
	if !c.roleOf(job).acts() {
		return
	}
	for _, when := range job.RetryWhen {
		goesOn := when == fmt.Sprintf("exit code %d", timeIsOver) && c.roleOf(job).runs(following)
		if !goesOn && !slices.Contains(safeRetries, when) {
			c.report(job, RuleRetry, fmt.Sprintf("it is retried after %s", when), "retry only "+strings.Join(safeRetries[:2], " and "))
		}
	}
	interruptible := job.Interruptible != nil && *job.Interruptible
	for _, rule := range job.Rules {
		interruptible = interruptible || rule.interruptible != nil && *rule.interruptible
	}
	if interruptible {
		c.report(job, RuleOneByOne, "a newer pipeline may stop it halfway", "add `interruptible: false`")
	}
	if c.roleOf(job).returns() {
		return // like a rollback, it waits for nothing: it ends the release in flight first
	}
	if c.roleOf(job).waits() {
		c.waitsApart(job)
		return
	}
	if !c.isRollback(job) {
		if r := c.roleOf(job); c.isGate(job) || r.starts || len(r.canary)+len(r.changes) > 0 { // others do not change the cluster, or are not understood
			c.resourceGroup(job)
		}
		return
	}
	for i := range c.file.Jobs {
		other := &c.file.Jobs[i]
		if job.ResourceGroup != "" && !c.isRollback(other) && mayBeEqual(job.ResourceGroup, other.ResourceGroup) {
			c.reportAt(job, job.values.lines["resource_group"], "resource_group", RuleOneByOne, fmt.Sprintf("it waits for %s, which it is there to stop: they may have the same resource_group", other.Name), "leave the resource_group of a rollback job out")
			return
		}
	}
}

// waitsApart checks that a job which waits for a release's turn does not hold up the release in front: GitLab gives a
// resource_group to one job at a time.
func (c *checker) waitsApart(job *Job) {
	for i := range c.file.Jobs {
		other := &c.file.Jobs[i]
		if job.ResourceGroup != "" && !c.roleOf(other).waits() && c.roleOf(other).acts() && mayBeEqual(job.ResourceGroup, other.ResourceGroup) {
			c.reportAt(job, job.values.lines["resource_group"], "resource_group", RuleOneByOne, fmt.Sprintf("it waits for the release in front, whose job %s waits for it: they may have the same resource_group", other.Name), "leave the resource_group of a job that runs `crossbill queue` out")
			return
		}
	}
}

// resourceGroup checks that two pipelines of an app have the same resource_group: it may depend on nothing but the app, and
// what the environment depends on.
func (c *checker) resourceGroup(job *Job) {
	if job.ResourceGroup == "" {
		c.report(job, RuleOneByOne, "two pipelines may run it at the same time", "add `resource_group`")
		return
	}
	environment := job.Environment.Name
	if gate := c.file.Job(c.options.Gate); environment == "" && gate != nil {
		environment = gate.Environment.Name
	}
	of := variableInText.FindAllString(environment, -1)
	for _, variable := range variableInText.FindAllString(job.ResourceGroup, -1) {
		input := interpolated.FindStringSubmatch(variable)
		own := input != nil && (input[1] == "app" || input[1] == "name" && c.roleOf(job).runs("preview")) // of two previews the lock keeps order
		if environment != "" && !slices.Contains(of, variable) && !own {
			c.reportAt(job, job.values.lines["resource_group"], "resource_group", RuleOneByOne, fmt.Sprintf("its resource_group depends on %s and its environment does not: two pipelines may run it at the same time", variable), "use nothing in resource_group that is not in the environment's name")
		}
	}
}

// variableInText is a variable or an interpolation in a value: its text is not known.
var variableInText = regexp.MustCompile(`\$\[\[.*?\]\]|\$\{?[A-Za-z_][A-Za-z0-9_]*\}?`)

// mayBeEqual says whether two values with variables can be the same.
func mayBeEqual(one, other string) bool {
	if one == "" || other == "" || one == other {
		return one == other
	}
	a, b := variableInText.Split(one, -1), variableInText.Split(other, -1)
	if len(a) == 1 && len(b) == 1 {
		return false
	}
	begins := strings.HasPrefix(a[0], b[0]) || strings.HasPrefix(b[0], a[0])
	enda, endb := a[len(a)-1], b[len(b)-1]
	ends := strings.HasSuffix(enda, endb) || strings.HasSuffix(endb, enda)
	// The same pattern around the same interpolation differs in what is around it.
	if slices.Equal(variableInText.FindAllString(one, -1), variableInText.FindAllString(other, -1)) && len(a) == 2 {
		return false
	}
	return begins && ends
}

// environment checks that whoever starts the pipeline does not choose the environment, and with it the rights.
func (c *checker) environment(job *Job) {
	name := job.Environment.Name
	if name == "" || !c.roleOf(job).acts() {
		return
	}
	line := job.values.lines["environment"]
	for _, match := range block.FindAllStringSubmatch(name, -1) {
		input := inputBlock.FindStringSubmatch(match[1])
		if input == nil {
			c.reportAt(job, line, "environment:name", RuleNotUnderstood, fmt.Sprintf("%s in the environment's name is not understood", match[0]), "use an input without functions")
			continue
		}
		declared := c.file.Inputs[input[1]]
		switch {
		case declared.closed:
		case strings.HasPrefix(name, match[0]):
			c.reportAt(job, line, "environment:name", RuleOverridable, fmt.Sprintf("the environment's name is input %q: whoever starts the pipeline chooses it, and with it the rights", input[1]), "give the input options, or begin the name with a text")
		case !tight(declared.Regex):
			c.reportAt(job, line, "environment:name", RuleInput, fmt.Sprintf("input %q is in the environment's name and has no tight pattern", input[1]), "give the input options, or a regex with ^, $ and the characters that it may contain")
		}
	}
	if variable := shellVariableInText.FindString(name); variable != "" {
		c.reportAt(job, line, "environment:name", RuleOverridable, fmt.Sprintf("the environment's name depends on %s, which a trigger variable can set", variable), "write it, or use an input with options")
	}
}

var shellVariableInText = regexp.MustCompile(`\$\{?[A-Za-z_][A-Za-z0-9_]*\}?`)

// tight says whether a pattern admits nothing but characters that mean nothing to a shell or to YAML.
func tight(regex string) bool {
	if known, ok := tightPatterns.Load(regex); ok {
		return known == true
	}
	admitted, err := parseLanguage(regex)
	if regex == "" || err != nil {
		return false
	}
	_, more := admitted.contains(admitting(wordRunes))
	tightPatterns.Store(regex, !more)
	return !more
}

// tightPatterns are the answers that are known: a file's jobs have few patterns between them.
var tightPatterns sync.Map

// runner checks what a job runs on and in: whoever chooses that has the job's rights.
func (c *checker) runner(job *Job) {
	if !c.roleOf(job).acts() {
		return
	}
	for _, keyword := range []string{"image", "services", "tags"} {
		v := job.values.get(keyword)
		places := v.scalars()
		if v.is(mapValue) {
			places = v.get("name").scalars()
		}
		for _, service := range v.itemsOf() {
			places = append(places, service.get("name").scalars()...)
		}
		for _, place := range places {
			c.chosen(job, keyword, place)
		}
	}
}

func (v *yamlValue) itemsOf() []*yamlValue {
	if v.is(listValue) {
		return v.list
	}
	return nil
}

// chosen checks that an image or a tag is not chosen by whoever starts the pipeline.
func (c *checker) chosen(job *Job, keyword string, v *yamlValue) {
	for _, match := range block.FindAllStringSubmatch(v.text, -1) {
		input := inputBlock.FindStringSubmatch(match[1])
		if input != nil && (c.file.Inputs[input[1]].closed || keyword != "tags" && !strings.HasPrefix(v.text, match[0]) && tight(c.file.Inputs[input[1]].Regex) || keyword != "tags" && ownDigests(c.file.Inputs[input[1]].Regex)) {
			continue
		}
		c.reportAt(job, v.line, keyword, RuleOverridable, fmt.Sprintf("`%s` is %s: whoever starts the pipeline chooses where the job's secrets go", keyword, match[0]), "write it, or give the input options")
	}
	if variable := shellVariableInText.FindString(block.ReplaceAllString(v.text, "")); variable != "" {
		c.reportAt(job, v.line, keyword, RuleOverridable, fmt.Sprintf("`%s` depends on %s, which a trigger variable can set", keyword, variable), "write it, or use an input with options")
	}
}

// fixedRegistry is a pattern whose images all come from one registry and repository owner.
var fixedRegistry = regexp.MustCompile(`^\^[A-Za-z0-9-]+(\\\.[A-Za-z0-9-]+)+(:[0-9]+)?/[A-Za-z0-9_-]+/`)

// ownDigests says whether a pattern admits nothing but images of one registry.
func ownDigests(regex string) bool {
	return fixedRegistry.MatchString(regex) && !strings.Contains(regex, "|") && tight(regex)
}

// artifacts notes artifacts:reports:dotenv: these are variables of the jobs behind, whose values are not in the file.
func (c *checker) artifacts(job *Job) {
	dotenv := job.values.get("artifacts").get("reports").get("dotenv")
	if dotenv == nil {
		return
	}
	for i := range c.file.Jobs {
		if other := &c.file.Jobs[i]; c.roleOf(other).acts() && c.receives(other, job) {
			c.reportAt(job, dotenv.line, "artifacts:reports:dotenv", RuleNotUnderstood, fmt.Sprintf("it sets variables of %s, whose names and values are not in the file", other.Name), "leave it out, or give the values in a file that the later job reads")
			return
		}
	}
}

// receives says whether a job may get the artifacts of another one: of all earlier stages, or of those that it needs.
func (c *checker) receives(job, from *Job) bool {
	for _, needs := range job.allNeeds() {
		if slices.ContainsFunc(needs, func(n need) bool { return n.name == from.Name }) {
			return true
		}
	}
	return !job.HasNeeds && slices.Index(c.file.Stages, from.Stage) < slices.Index(c.file.Stages, job.Stage)
}

// guarded are variables that say where, with which rights and by which code a job works. Trigger variables
// win over those of the file, so the file must not rely on its own.
func guarded(name string) bool {
	return strings.HasPrefix(name, "KUBE") || strings.HasPrefix(name, "PROMETHEUS") || strings.HasSuffix(name, "IMAGE") ||
		strings.Contains(name, "NAMESPACE") || strings.Contains(name, "TOKEN") || strings.Contains(name, "PASSWORD") ||
		slices.Contains([]string{"DOCKER_HOST", "DAGGER_MODULE", "CLI", "_EXPERIMENTAL_DAGGER_RUNNER_HOST"}, name)
}

// interpreted are variables that change what the commands of a script are, or what GitLab makes of the file.
var interpreted = regexp.MustCompile(`^(PATH|ENV|BASH_ENV|BASH_FUNC_.*|SHELLOPTS|IFS|LD_PRELOAD|LD_LIBRARY_PATH|LD_AUDIT|GIT_CONFIG.*|CI_PIPELINE_SOURCE)$`)

func (c *checker) variables(job *Job, variables *yamlValue) {
	for _, name := range variables.keysOf() {
		switch {
		case guarded(name):
			c.report(job, RuleOverridable, fmt.Sprintf("variable %s of the file can be overridden by a trigger variable", name), "assign it in before_script, or use an input with options")
		case interpreted.MatchString(name):
			c.reportAt(job, variables.lines[name], "variables:"+name, RuleNotUnderstood, fmt.Sprintf("variable %s changes what the commands of a script are", name), "leave it out")
		}
	}
}
