package pipelinefile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// readJob reads one job, with everything that it inherits. Keys of the job replace those of default, they are not
// merged; a key without a value counts as not there.
func (f *File) readJob(r *inheritance, name string, line int) (Job, error) {
	own, err := r.merged(name, 0)
	if err != nil {
		return Job{}, fmt.Errorf("%s: job %s: %w", f.at(line), name, err)
	}
	filled := r.defaults(own)
	for _, key := range own.keys {
		if field := own.fields[key]; field.kind != nullValue {
			filled.set(key, own.lines[key], field)
		}
	}
	filled.line = line
	values, err := r.resolve(filled, 0)
	if err != nil {
		return Job{}, fmt.Errorf("%s: job %s: %w", f.at(line), name, err)
	}
	job := Job{Name: name, Line: line, Stage: "test", Trigger: values.get("trigger") != nil, values: values}
	reader := jobReader{f, &job}
	reader.read()
	return job, nil
}

// IDTokens are the audiences of the job's id_tokens, by the variable.
func (j *Job) IDTokens() map[string]string {
	audiences, tokens := map[string]string{}, j.values.get("id_tokens")
	for _, variable := range tokens.keysOf() {
		audiences[variable] = tokens.fields[variable].get("aud").string()
	}
	return audiences
}

// jobReader reads the keywords of a job. What it does not understand it notes.
type jobReader struct {
	file *File
	job  *Job
}

func (r jobReader) problem(v *yamlValue, keyword, format string, args ...any) {
	line := r.job.Line
	if v != nil && v.line > 0 {
		line = v.line
	}
	r.file.problem(r.job, line, keyword, format, args...)
}

func (r jobReader) read() {
	job, values := r.job, r.job.values
	for _, key := range values.keys {
		if _, known := jobKeywords[key]; !known {
			r.problem(&yamlValue{line: values.lines[key]}, key, "the keyword `%s` is not understood", key)
		}
	}
	if stage := values.get("stage"); stage != nil {
		job.Stage = r.text(stage, "stage")
	}
	if when := values.get("when"); when != nil {
		job.When = r.oneOf(when, "when", jobWhens)
	}
	job.ResourceGroup = r.optionalText("resource_group")
	job.Interruptible = r.boolean(values.get("interruptible"), "interruptible")
	job.variables = r.mapOf(values.get("variables"), "variables")
	r.inherit()
	r.allowFailure()
	r.rules()
	r.needs()
	r.refs()
	r.environment()
	r.retry()
	r.parallel()
	for _, part := range []string{"before_script", "script", "after_script"} {
		r.script(values.get(part), part)
		job.Script = append(job.Script, values.get(part).texts()...)
	}
	r.hooks()
}

func (r jobReader) text(v *yamlValue, keyword string) string {
	if !v.is(textValue) {
		r.problem(v, keyword, "`%s` is not a text", keyword)
	}
	return v.string()
}

func (r jobReader) optionalText(keyword string) string {
	if v := r.job.values.get(keyword); v != nil {
		return r.text(v, keyword)
	}
	return ""
}

func (r jobReader) oneOf(v *yamlValue, keyword string, known []string) string {
	if !v.is(textValue) || !slices.Contains(known, v.text) {
		r.problem(v, keyword, "`%s: %s` is not understood", keyword, shown(v))
	}
	return v.string()
}

// shown is a value as it is shown in a finding.
func shown(v *yamlValue) string {
	if word, ok := v.word(); ok {
		return word
	}
	return v.canonical()
}

// boolean reads a boolean: for GitLab one in quotes is none.
func (r jobReader) boolean(v *yamlValue, keyword string) *bool {
	switch {
	case v == nil, v.kind == nullValue:
		return nil
	case v.kind == boolValue:
		return &v.truth
	}
	r.problem(v, keyword, "`%s: %s` is not a boolean", keyword, shown(v))
	return nil
}

func (r jobReader) mapOf(v *yamlValue, keyword string) *yamlValue {
	if v == nil || v.is(mapValue) {
		return v
	}
	r.problem(v, keyword, "`%s` is not a map", keyword)
	return nil
}

// known notes the keywords of a map that are not understood.
func (r jobReader) known(v *yamlValue, keyword string, known []string) {
	for _, key := range v.keysOf() {
		if !slices.Contains(known, key) {
			r.problem(&yamlValue{line: v.lines[key]}, keyword+":"+key, "the keyword `%s:%s` is not understood", keyword, key)
		}
	}
}

func (r jobReader) inherit() {
	v := r.mapOf(r.job.values.get("inherit"), "inherit")
	r.known(v, "inherit", []string{"default", "variables"})
	for _, key := range v.keysOf() {
		if from := v.fields[key]; !from.is(boolValue) && !from.is(listValue) {
			r.problem(from, "inherit:"+key, "`inherit:%s: %s` is not understood", key, shown(from))
		}
	}
}

func (r jobReader) allowFailure() {
	v := r.job.values.get("allow_failure")
	if !v.is(mapValue) {
		r.job.AllowFailure = r.boolean(v, "allow_failure")
		return
	}
	r.known(v, "allow_failure", []string{"exit_codes"})
	r.job.AllowFailure, r.job.exitCodes = new(false), exitCodesOf(v.get("exit_codes"))
	if len(r.job.exitCodes) == 0 || len(r.job.exitCodes) < len(v.get("exit_codes").texts()) {
		r.problem(v, "allow_failure", "`allow_failure` is not understood")
	}
}

// exitCodesOf are the exit codes with which a job may fail.
func exitCodesOf(v *yamlValue) (codes []int) {
	words := v.texts()
	if v.is(textValue) {
		words = []string{v.text}
	}
	for _, word := range words {
		if code, err := strconv.Atoi(word); err == nil {
			codes = append(codes, code)
		}
	}
	return codes
}

func (r jobReader) rules() {
	v := r.job.values.get("rules")
	if v == nil {
		return
	}
	r.job.HasRules = true
	r.job.Rules = r.file.readRules(r.job, v, "rules", ruleKeywords, ruleWhens)
}

// readRules reads rules, those in the lists among them too.
func (f *File) readRules(job *Job, v *yamlValue, keyword string, keywords, whens []string) (found []Rule) {
	r := jobReader{f, job}
	if job == nil {
		r.job = &Job{Line: v.line}
	}
	if !v.is(listValue) {
		r.problem(v, keyword, "`%s` is not a list", keyword)
		return nil
	}
	for _, item := range v.list {
		if item.is(listValue) {
			found = append(found, f.readRules(job, item, keyword, keywords, whens)...)
			continue
		}
		if !item.is(mapValue) {
			r.problem(item, keyword, "a rule is not a map")
			continue
		}
		r.known(item, keyword, keywords)
		rule := Rule{line: item.line, variables: r.mapOf(item.get("variables"), keyword+":variables")}
		if when := item.get("when"); when != nil {
			rule.When = r.oneOf(when, keyword+":when", whens)
		}
		if expression := item.get("if"); expression != nil {
			if word, ok := expression.word(); ok {
				rule.If = word
			}
			rule.conditional = true
		}
		for _, key := range []string{"changes", "exists"} {
			if item.get(key) != nil {
				rule.files += key + item.get(key).canonical()
				rule.conditional = true
			}
		}
		rule.AllowFailure = r.boolean(item.get("allow_failure"), keyword+":allow_failure")
		rule.interruptible = r.boolean(item.get("interruptible"), keyword+":interruptible")
		if needs := item.get("needs"); needs != nil {
			rule.needs, rule.hasNeeds = r.needsOf(needs, keyword+":needs"), true
		}
		found = append(found, rule)
	}
	return found
}

func (r jobReader) needs() {
	v := r.job.values.get("needs")
	if v == nil {
		return
	}
	if r.job.Trigger || r.job.values.get("script") == nil && r.job.values.get("run") == nil {
		if v.get("pipeline") != nil { // a job that mirrors another project's pipeline: it is in its stage
			return
		}
		if v.is(listValue) && len(v.list) == 1 && v.list[0].get("pipeline") != nil && v.list[0].get("job") == nil {
			return
		}
	}
	r.job.needs, r.job.HasNeeds = r.needsOf(v, "needs"), true
	for _, need := range r.job.needs {
		r.job.Needs = append(r.job.Needs, need.name)
	}
}

// needsOf are the jobs of this pipeline among needs.
func (r jobReader) needsOf(v *yamlValue, keyword string) (found []need) {
	items := []*yamlValue{v}
	if v.is(listValue) {
		items = v.list
	}
	for _, item := range items {
		switch {
		case item.is(listValue):
			found = append(found, r.needsOf(item, keyword)...)
		case item.is(textValue):
			found = append(found, need{name: item.text})
		case item.is(mapValue):
			r.known(item, keyword, needKeywords)
			if item.get("pipeline") != nil || item.get("project") != nil {
				r.artifactsFromElsewhere(item, keyword)
				continue
			}
			one := need{name: r.text(orNull(item.get("job")), keyword+":job")}
			if optional := r.boolean(item.get("optional"), keyword+":optional"); optional != nil {
				one.optional = *optional
			}
			if parallel := item.get("parallel"); parallel != nil {
				one.matrix = r.matrix(parallel, keyword+":parallel")
			}
			found = append(found, one)
		default:
			r.problem(item, keyword, "`%s` is not understood", keyword)
		}
	}
	return found
}

// artifactsFromElsewhere notes artifacts of another pipeline: these are files that this one did not make.
func (r jobReader) artifactsFromElsewhere(item *yamlValue, keyword string) {
	if artifacts := item.get("artifacts"); artifacts.is(boolValue) && !artifacts.truth {
		return
	}
	r.problem(item, keyword, "it gets the artifacts of another pipeline, which are not seen here")
	r.file.problems[len(r.file.problems)-1].minor = true
}

// refs reads only and except: which pipelines they leave a job out of is not decided here, so that it may be in or
// out, together with all the jobs that have the same ones.
func (r jobReader) refs() {
	only, except := r.job.values.get("only"), r.job.values.get("except")
	if only != nil || except != nil {
		r.job.refs = "only " + only.canonical() + " except " + except.canonical()
	}
}

func (r jobReader) environment() {
	v := r.job.values.get("environment")
	e := &r.job.Environment
	switch {
	case v == nil:
	case v.is(textValue):
		e.Name = v.text
	case v.is(mapValue):
		r.known(v, "environment", environmentKeywords)
		if name := v.get("name"); name != nil {
			e.Name = r.text(name, "environment:name")
		}
		if action := v.get("action"); action != nil {
			e.Action = r.oneOf(action, "environment:action", []string{"start", "prepare", "stop", "verify", "access"})
		}
		if stop := v.get("on_stop"); stop != nil {
			e.onStop = r.text(stop, "environment:on_stop")
		}
		e.autoStop = v.get("auto_stop_in") != nil
		if managed := v.get("kubernetes").get("managed_resources"); managed != nil {
			r.problem(managed, "environment:kubernetes:managed_resources", "GitLab itself changes the cluster before the job starts")
		}
	default:
		r.problem(v, "environment", "`environment` is not understood")
	}
}

func (r jobReader) retry() {
	v := r.job.values.get("retry")
	switch {
	case v == nil, v.is(textValue) && v.text == "0":
		return
	case v.is(textValue):
	case v.is(mapValue):
		r.known(v, "retry", []string{"max", "when", "exit_codes"})
		if maximum := v.get("max"); maximum.string() == "0" {
			return
		}
		if v.get("exit_codes") != nil {
			r.job.RetryWhen = append(r.job.RetryWhen, exitCodesWord(v.get("exit_codes")))
		}
		if when := v.get("when").texts(); when != nil {
			r.job.RetryWhen = append(r.job.RetryWhen, when...)
			return
		}
	default:
		r.problem(v, "retry", "`retry` is not understood")
	}
	r.job.RetryWhen = append(r.job.RetryWhen, "always")
}

// exitCodesWord says after which exit codes a job is retried.
func exitCodesWord(v *yamlValue) string {
	if codes := exitCodesOf(v); len(codes) == 1 && len(v.texts()) <= 1 {
		return fmt.Sprintf("exit code %d", codes[0])
	}
	return "some exit codes"
}

// instance is one of the jobs that parallel makes: the variables by which needs can name it.
type instance map[string]string

// mostInstances bounds the jobs that parallel makes.
const mostInstances = 50

// parallel reads the instances of a job. Two of a number are as good as more: the ones that nobody can name are alike.
func (r jobReader) parallel() {
	v := r.job.values.get("parallel")
	switch {
	case v == nil:
	case v.is(textValue):
		if n, err := strconv.Atoi(v.text); err != nil || n < 1 {
			r.problem(v, "parallel", "`parallel: %s` is not understood", v.text)
		} else if n > 1 {
			r.job.instances = []instance{{"": "1"}, {"": "2"}}
		}
	case v.is(mapValue):
		for _, row := range r.matrix(v, "parallel") {
			r.job.instances = append(r.job.instances, expanded(row)...)
			if len(r.job.instances) > mostInstances {
				r.problem(v, "parallel:matrix", "it makes more than %d jobs", mostInstances)
				r.job.instances = r.job.instances[:mostInstances]
				return
			}
		}
	default:
		r.problem(v, "parallel", "`parallel` is not understood")
	}
}

// matrix reads parallel:matrix: for each of its rows, the values of each variable.
func (r jobReader) matrix(v *yamlValue, keyword string) (rows []map[string][]string) {
	r.known(v, keyword, []string{"matrix"})
	matrix := v.get("matrix")
	if !matrix.is(listValue) {
		r.problem(v, keyword, "`%s` is not understood", keyword)
		return nil
	}
	for _, item := range matrix.list {
		if !item.is(mapValue) {
			r.problem(item, keyword+":matrix", "`%s:matrix` is not understood", keyword)
			continue
		}
		row := map[string][]string{}
		for _, name := range item.keys {
			field := item.fields[name]
			values := field.words()
			if word, ok := field.word(); ok {
				values = []string{word}
			}
			row[name] = values
			if len(values) == 0 || slices.ContainsFunc(values, func(s string) bool { return strings.Contains(s, "$") }) {
				r.problem(field, keyword+":matrix:"+name, "the values of %s are not written in the file", name)
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// expanded are the combinations of a row of a matrix.
func expanded(row map[string][]string) []instance {
	found := []instance{{}}
	for _, name := range slices.Sorted(maps.Keys(row)) {
		var grown []instance
		for _, earlier := range found {
			for _, value := range row[name] {
				with := maps.Clone(earlier)
				with[name] = value
				grown = append(grown, with)
			}
			if len(grown) > mostInstances {
				break
			}
		}
		found = grown
	}
	return found
}

// matches says whether needs:parallel:matrix names an instance.
func (i instance) matches(matrix []map[string][]string) bool {
	return slices.ContainsFunc(matrix, func(row map[string][]string) bool {
		for name, values := range row {
			if !slices.Contains(values, i[name]) {
				return false
			}
		}
		return true
	})
}

func (i instance) String() string {
	var values []string
	for _, name := range slices.Sorted(maps.Keys(i)) {
		values = append(values, i[name])
	}
	return strings.Join(values, ", ")
}

// script notes what is no command in a script.
func (r jobReader) script(v *yamlValue, keyword string) {
	switch {
	case v == nil, v.kind == textValue:
	case v.is(listValue):
		for _, item := range v.list {
			r.script(item, keyword)
		}
	default:
		r.problem(v, keyword, "a line of `%s` is not a text", keyword)
	}
}

func (r jobReader) hooks() {
	v := r.mapOf(r.job.values.get("hooks"), "hooks")
	r.known(v, "hooks", hookKeywords)
	r.script(v.get("pre_get_sources_script"), "hooks")
}

// readWorkflow reads workflow.
func (f *File) readWorkflow(inherited *inheritance, root *yamlValue) error {
	v := root.get("workflow")
	if v == nil {
		return f.checkDefault(root)
	}
	workflow, err := inherited.resolve(v, 0)
	if err != nil {
		return fmt.Errorf("workflow: %w", err)
	}
	f.workflow = workflow
	r := jobReader{f, &Job{Line: cmp.Or(v.line, root.lines["workflow"])}}
	if !looksLikeJob(workflow) {
		r.known(r.mapOf(workflow, "workflow"), "workflow", workflowKeywords)
	}
	if name := workflow.get("name"); name != nil {
		f.Name = r.text(name, "workflow:name")
	}
	f.autoCancel(r, workflow.get("auto_cancel"))
	if rules := workflow.get("rules"); rules != nil {
		f.Workflow = f.readRules(nil, rules, "workflow:rules", workflowRuleKeywords, []string{"always", "never"})
		if f.Workflow == nil {
			f.Workflow = []Rule{}
		}
		rules.walk(nil, func(place []string, v *yamlValue) {
			if len(place) > 0 && place[len(place)-1] == "auto_cancel" {
				f.autoCancel(r, v)
			}
		})
	}
	return f.checkDefault(root)
}

// autoCancel reads an auto_cancel of the workflow or of one of its rules.
func (f *File) autoCancel(r jobReader, v *yamlValue) {
	if r.mapOf(v, "workflow:auto_cancel") == nil {
		return
	}
	r.known(v, "workflow:auto_cancel", []string{"on_new_commit", "on_job_failure"})
	if on := v.get("on_new_commit"); on != nil {
		r.oneOf(on, "workflow:auto_cancel:on_new_commit", []string{"conservative", "interruptible", "none"})
	}
	if on := v.get("on_job_failure"); on != nil {
		if r.oneOf(on, "workflow:auto_cancel:on_job_failure", []string{"all", "none"}) != "none" {
			f.cancelsOnFailure, f.cancelsLine = true, on.line
		}
	}
}

// checkDefault notes what is not understood in default.
func (f *File) checkDefault(root *yamlValue) error {
	r := jobReader{f, &Job{Line: root.lines["default"]}}
	if v := root.get("default"); v != nil && v.kind != nullValue && !looksLikeJob(v) {
		r.known(r.mapOf(v, "default"), "default", defaultKeywords)
	}
	return nil
}
