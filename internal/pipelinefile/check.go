package pipelinefile

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// Options name the jobs with a part in a release.
type Options struct {
	Gate     string // default promote_to_production
	Canary   string // default deploy_canary
	Verify   string // default verify_canary
	Rollback string // what the names of rollback jobs begin with; default rollback
}

func (o Options) complete() Options {
	for field, value := range map[*string]string{&o.Gate: "promote_to_production", &o.Canary: "deploy_canary", &o.Verify: "verify_canary", &o.Rollback: "rollback"} {
		if *field == "" {
			*field = value
		}
	}
	return o
}

// Finding is something that a release pipeline must not do.
type Finding struct {
	Line    int    `json:"line,omitempty"`
	Rule    string `json:"rule"`
	Job     string `json:"job,omitempty"`
	Problem string `json:"problem"`
	Fix     string `json:"fix"`
}

func (f Finding) String() string {
	where := ""
	if f.Line > 0 {
		where = fmt.Sprintf("line %d: ", f.Line)
	}
	if f.Job != "" {
		where += f.Job + ": "
	}
	return fmt.Sprintf("%s%s (%s); %s", where, f.Problem, f.Rule, f.Fix)
}

// The rules that a file is checked against.
const (
	RuleIncluded     = "included-jobs-are-not-seen"
	RuleMissing      = "job-is-missing"
	RuleGateBlocks   = "gate-blocks"
	RuleNothingAfter = "nothing-behind-the-gate-runs-before-it"
	RuleGreen        = "green-means-promoted"
	RuleWayBack      = "rollback-is-reachable"
	RuleNotBlocking  = "only-the-gate-blocks"
	RuleFailureBack  = "failure-rolls-back"
	RuleByDigest     = "deployed-by-digest"
	RuleInput        = "input-is-tight"
	RuleOverridable  = "trigger-cannot-override"
	RuleOneByOne     = "one-by-one"
	RuleEnvironment  = "environments-are-distinct"
	RuleRetry        = "retry-is-safe"
	RuleWorkflow     = "started-on-purpose"
	RuleName         = "named-by-release"
	RuleTooLarge     = "too-large-to-prove"
)

// Bounds of what is proved.
const (
	mostPipelines = 256
	mostStates    = 100_000 // of all of them together
)

// Check finds what is wrong with a pipeline file. Without a finding it is proved, for every set of
// matching rules and every order of events, that the promises of the package comment hold.
func Check(f *File, o Options) []Finding {
	c := &checker{file: f, options: o.complete(), seen: map[string]bool{}}
	if f.included {
		c.find(nil, RuleIncluded, "jobs from include are not checked", "check the merged file that GitLab's pipeline editor shows")
	}
	for _, name := range []string{c.options.Gate, c.options.Canary, c.options.Verify} {
		if f.Job(name) == nil {
			c.find(nil, RuleMissing, fmt.Sprintf("there is no job %q", name), "add it, or name the job that has its part")
		}
	}
	c.gate()
	c.order()
	c.jobs()
	c.inputs()
	c.workflow()
	slices.SortStableFunc(c.findings, func(a, b Finding) int { return a.Line - b.Line })
	return c.findings
}

type checker struct {
	file     *File
	options  Options
	findings []Finding
	seen     map[string]bool
}

// find keeps a finding, the first of each rule and job.
func (c *checker) find(job *Job, rule, problem, fix string) {
	f := Finding{Rule: rule, Problem: problem, Fix: fix}
	if job != nil {
		f.Job, f.Line = job.Name, job.Line
	}
	key := rule + "\n" + f.Job
	if rule == RuleMissing || rule == RuleInput || rule == RuleOverridable {
		key += "\n" + problem
	}
	if !c.seen[key] {
		c.seen[key] = true
		c.findings = append(c.findings, f)
	}
}

func (c *checker) isRollback(name string) bool { return strings.HasPrefix(name, c.options.Rollback) }

// gate checks that the gate is manual and blocks, whichever rule matches.
func (c *checker) gate() {
	gate := c.file.Job(c.options.Gate)
	if gate == nil {
		return
	}
	for _, b := range gate.Behaviours() {
		switch {
		case b.When == "never":
		case b.When != "manual":
			c.find(gate, RuleGateBlocks, fmt.Sprintf("it starts by itself (when: %s)", b.When), "give every rule `when: manual`")
		case !b.AllowFailure:
		case gate.When == "manual" && gate.HasRules && gate.AllowFailure == nil:
			c.find(gate, RuleGateBlocks, "`when: manual` at the job beside `rules` makes it manual but not blocking: allow_failure becomes true, so that later stages run at once and the pipeline is green with nothing promoted", "move `when: manual` into the rule, or add `allow_failure: false`")
		default:
			c.find(gate, RuleGateBlocks, "it is manual but not blocking (allow_failure is true)", "add `allow_failure: false`")
		}
	}
}

// order explores what can happen.
func (c *checker) order() {
	all, complete := c.file.pipelines(mostPipelines)
	if !complete {
		c.find(nil, RuleTooLarge, fmt.Sprintf("its rules make more than %d different pipelines", mostPipelines), "give the release a pipeline file of its own")
		return
	}
	budget := mostStates
	for _, p := range all {
		gate := p.named(c.options.Gate)
		behind := c.behind(&p, gate)
		bounded := p.explore(&budget, func(job int) bool { return job != gate }, func(s state, trace func() string) { c.beforeGate(&p, gate, behind, s, trace) }) &&
			p.explore(&budget, func(int) bool { return true }, func(s state, trace func() string) { c.wayBack(&p, gate, s, trace) })
		if !bounded {
			c.find(nil, RuleTooLarge, fmt.Sprintf("it has more than %d states", mostStates), "give the release a pipeline file of its own")
			return
		}
	}
}

// behind are the jobs that must wait for the gate: those of later stages, and those that need it.
// Rollback jobs need not.
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
			c.find(p.jobs[i].Job, RuleNothingAfter, fmt.Sprintf("it can run before anybody has pressed %s, %s", c.options.Gate, trace()), "make the gate block, and let the job need it")
		}
	}
	if gate >= 0 && status(s[gate]) == manual && p.overall(s) == "success" {
		c.find(p.jobs[gate].Job, RuleGreen, fmt.Sprintf("the pipeline is a success while nobody has pressed it, %s", trace()), "make the gate block")
	}
}

// wayBack checks that rollback can be reached from a state.
func (c *checker) wayBack(p *pipeline, gate int, s state, trace func() string) {
	canary, verify := p.named(c.options.Canary), p.named(c.options.Verify)
	if canary < 0 || status(s[canary]) == created || status(s[canary]) == skipped || status(s[canary]) == manual {
		return
	}
	open, running, moving := false, false, false
	for i, job := range p.jobs {
		switch now := status(s[i]); {
		case c.isRollback(job.Name): // one that has ended can be run again
			open = open || now != created && now != skipped
			running = running || job.Behaviour.When != "manual" && now != created && now != skipped
		case now == pending:
			moving = true
		}
	}
	if !open {
		c.find(p.jobs[canary].Job, RuleWayBack, "no rollback job can be pressed or runs, "+trace(), "add a rollback job with `needs: []`, `when: manual` and `allow_failure: true`")
	}
	if moving {
		return
	}
	if gate >= 0 && status(s[gate]) == success && p.overall(s) == "manual" {
		for i, job := range p.jobs {
			if status(s[i]) == manual && !job.Behaviour.AllowFailure {
				c.find(job.Job, RuleNotBlocking, "it blocks: a promoted release's pipeline waits for it for ever, "+trace(), "add `allow_failure: true`")
			}
		}
	}
	for _, job := range []int{canary, verify, gate} {
		if job >= 0 && status(s[job]) == failed && !running {
			c.find(p.jobs[job].Job, RuleFailureBack, "its failure starts no rollback by itself, "+trace(), "add a rollback job with `when: on_failure` that needs this job alone: one that also needs jobs which were skipped is skipped as well")
		}
	}
}

// safeRetries are the failures after which a job has surely not begun its script, or was lost with its
// runner: every command can be run again.
var safeRetries = []string{"runner_system_failure", "scheduler_failure", "stale_schedule", "runner_unsupported"}

// jobs checks each job by itself, and their environments together.
func (c *checker) jobs() {
	environments := map[string]string{}
	for i := range c.file.Jobs {
		job := &c.file.Jobs[i]
		c.images(job)
		c.variables(job, job.variables)
		for _, when := range job.RetryWhen {
			if !slices.Contains(safeRetries, when) {
				c.find(job, RuleRetry, fmt.Sprintf("it is retried when: %s", when), "retry only "+strings.Join(safeRetries[:2], " and "))
			}
		}
		if job.Environment.Name == "" {
			continue
		}
		if job.Interruptible == nil || *job.Interruptible {
			c.find(job, RuleOneByOne, "a newer pipeline may stop it half-way", "add `interruptible: false`")
		}
		if job.ResourceGroup == "" && !c.isRollback(job.Name) {
			c.find(job, RuleOneByOne, "two pipelines may run it at once", "add `resource_group`")
		}
		if action := job.Environment.Action; action == "" || action == "start" {
			if other := environments[job.Environment.Name]; other != "" {
				c.find(job, RuleEnvironment, fmt.Sprintf("it deploys to the environment of %s: GitLab may refuse the older deployment", other), "give it an environment of its own, or another action")
			}
			environments[job.Environment.Name] = job.Name
		}
	}
	c.variables(nil, c.file.variables)
}

var (
	imageArgument = regexp.MustCompile(`(?:--image[= ]+|set image \S+ \S+=)("[^"]*"|'[^']*'|\S+)`)
	interpolated  = regexp.MustCompile(`\$\[\[\s*inputs\.([A-Za-z0-9_-]+)[^\]]*\]\]`)
	shellVariable = regexp.MustCompile(`^\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?$`)
	digestInText  = regexp.MustCompile(`@sha256:[0-9a-f]{64}$`)
)

// images checks that what a job deploys has a digest: written, or from an input that lets nothing else
// through.
func (c *checker) images(job *Job) {
	for _, line := range job.Script {
		for _, match := range imageArgument.FindAllStringSubmatch(line, -1) {
			c.image(job, strings.Trim(match[1], `"'`), 0)
		}
	}
}

func (c *checker) image(job *Job, value string, depth int) {
	if input := interpolated.FindStringSubmatch(value); input != nil && input[0] == value {
		c.imageInput(job, input[1])
		return
	}
	variable := shellVariable.FindStringSubmatch(value)
	if variable == nil || depth > 5 {
		if !digestInText.MatchString(value) {
			c.find(job, RuleByDigest, fmt.Sprintf("it deploys %s, which names no digest", value), "give repository@sha256:…")
		}
		return
	}
	name := variable[1]
	for _, line := range job.Script {
		if assigned, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			c.image(job, strings.Trim(assigned, `"'`), depth+1)
			return
		}
	}
	c.find(job, RuleByDigest, fmt.Sprintf("it deploys $%s, which a trigger variable can set to a tag", name), fmt.Sprintf("assign it in the script: %s='$[[ inputs.image ]]'", name))
}

func (c *checker) imageInput(job *Job, name string) {
	input, ok := c.file.Inputs[name]
	pattern, err := syntax.Parse(input.Regex, syntax.Perl)
	switch {
	case !ok || input.Regex == "" || err != nil:
		c.find(job, RuleByDigest, fmt.Sprintf("it deploys the input %q, which has no pattern", name), "give the input a regex that ends in @sha256:[0-9a-f]{64}$")
	case !onlyDigests(pattern):
		c.find(job, RuleByDigest, fmt.Sprintf("the pattern of input %q lets more through than names with a digest", name), "begin it with ^ and let each of its alternatives end in @sha256:[0-9a-f]{64}, then $")
	}
}

// onlyDigests proves that an expression matches nothing but texts that end in a digest, and perhaps
// the empty one. Of an expression of another form it says no.
func onlyDigests(re *syntax.Regexp) bool {
	if re.Op != syntax.OpConcat || len(re.Sub) < 3 || re.Sub[0].Op != syntax.OpBeginText || re.Sub[len(re.Sub)-1].Op != syntax.OpEndText {
		return false
	}
	middle := re.Sub[1 : len(re.Sub)-1]
	if len(middle) == 1 && middle[0].Op == syntax.OpQuest {
		middle = middle[0].Sub
	}
	return endInDigest(middle)
}

// endInDigest says whether a sequence of expressions always ends in @sha256: and 64 hexadecimal digits.
func endInDigest(sequence []*syntax.Regexp) bool {
	last := sequence[len(sequence)-1]
	switch last.Op {
	case syntax.OpCapture, syntax.OpConcat:
		return endInDigest(last.Sub)
	case syntax.OpAlternate:
		return !slices.ContainsFunc(last.Sub, func(one *syntax.Regexp) bool { return !endInDigest([]*syntax.Regexp{one}) })
	case syntax.OpRepeat:
		if last.Min != 64 || last.Max != 64 || last.Sub[0].String() != "[0-9a-f]" || len(sequence) < 2 {
			return false
		}
		before := sequence[len(sequence)-2]
		return before.Op == syntax.OpLiteral && before.Flags&syntax.FoldCase == 0 && strings.HasSuffix(string(before.Rune), "@sha256:")
	}
	return false
}

// hostile are values that an input used in a script must not let through.
var hostile = []string{"'", `"`, "`", "$(id)", "${IFS}", "a;b", "a&b", "a|b", "a b", "a\nb", "a\\b", "a>b", "-x", "../x", "a\x00b", "a\rb"}

// inputs checks the patterns of inputs that are put into scripts: GitLab inserts them as text, before
// any shell reads it.
func (c *checker) inputs() {
	for i := range c.file.Jobs {
		job := &c.file.Jobs[i]
		for _, line := range job.Script {
			for _, match := range interpolated.FindAllStringSubmatch(line, -1) {
				c.input(job, match[1])
			}
		}
	}
}

func (c *checker) input(job *Job, name string) {
	input, ok := c.file.Inputs[name]
	switch {
	case !ok:
		c.find(job, RuleInput, fmt.Sprintf("it uses input %q, which the header does not declare", name), "declare it in spec:inputs")
	case input.Type == "number", input.Type == "boolean", len(input.Options) > 0:
	case input.Regex == "":
		c.find(job, RuleInput, fmt.Sprintf("input %q is put into its script and has no pattern: whoever starts the pipeline can run commands", name), "give the input a regex or options")
	default:
		pattern, err := regexp.Compile(input.Regex)
		if err != nil {
			c.find(job, RuleInput, fmt.Sprintf("the pattern of input %q is not RE2: %v", name, err), "mend it")
			return
		}
		for _, bad := range hostile {
			if pattern.MatchString(bad) || input.Default != nil && pattern.MatchString(*input.Default+bad) && *input.Default != "" {
				c.find(job, RuleInput, fmt.Sprintf("the pattern of input %q lets %q into its script", name, bad), "anchor it with ^ and $ and name the characters that it may hold")
				return
			}
		}
	}
}

// guarded are variables that say where, with which rights and by which code a job works. Trigger variables
// win over those of the file, so the file must not rely on its own.
var guarded = regexp.MustCompile(`^(KUBE.*|.*NAMESPACE.*|.*TOKEN.*|.*PASSWORD.*|.*IMAGE|DOCKER_HOST|DAGGER_MODULE|CLI|_EXPERIMENTAL_DAGGER_RUNNER_HOST|PROMETHEUS.*)$`)

func (c *checker) variables(job *Job, variables map[string]any) {
	names := make([]string, 0, len(variables))
	for name := range variables {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if guarded.MatchString(name) {
			c.find(job, RuleOverridable, fmt.Sprintf("variable %s of the file can be overridden by a trigger variable", name), "assign it in before_script, or use an input with options")
		}
	}
}

// workflow checks when a pipeline is made, and what it is called.
func (c *checker) workflow() {
	for _, source := range []string{"push", "merge_request_event", "schedule", "pipeline", "parent_pipeline", "external_pull_request_event", "chat", "webide"} {
		if c.file.starts(source) != no {
			c.find(nil, RuleWorkflow, fmt.Sprintf("a pipeline can be made by %s", source), `let workflow:rules name the sources "trigger", "api" and "web", and nothing else`)
			break
		}
	}
	if c.file.starts("trigger") == no {
		c.find(nil, RuleWorkflow, "no trigger can make a pipeline", `let workflow:rules name the source "trigger"`)
	}
	if name := strings.Join(strings.Fields(interpolated.ReplaceAllString(c.file.Name, "<$1>")), " "); name != "release <app> <release_id>" {
		c.find(nil, RuleName, fmt.Sprintf("workflow:name is %q: `crossbill trigger` cannot find the pipeline again", c.file.Name), "set it to \"release $[[ inputs.app ]] $[[ inputs.release_id ]]\"")
	}
}
