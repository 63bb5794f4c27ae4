package trials_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The parts of a YAML file: raw text that is spelled already, text that is quoted if it must be, a block of lines, a list,
// and a mapping.
type (
	raw   string
	block []string
	list  []any
	entry struct {
		key string
		is  any
	}
	mapping []entry
)

// writer writes YAML in one of many spellings.
type writer struct {
	r   *rand.Rand
	out strings.Builder
}

var needsNoQuotes = regexp.MustCompile(`^[A-Za-z_./][A-Za-z0-9_./ -]*$`)

// spelled is a text in one of YAML's spellings.
func (w *writer) spelled(s string) string {
	like := strings.ToLower(s)
	plain := needsNoQuotes.MatchString(s) && !strings.HasSuffix(s, " ") && !slices.Contains([]string{"yes", "no", "on", "off", "true", "false", "null", "y", "n"}, like)
	switch {
	case plain && !chance(w.r, 5):
		return s
	case chance(w.r, 2) && !strings.Contains(s, `\`):
		return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
	default:
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
}

// truth is a boolean in one of YAML 1.1's spellings, which GitLab reads.
func truth(r *rand.Rand, is bool) raw {
	if is {
		return raw(pick(r, "true", "true", "yes", "on", "True", "TRUE", "Yes", "ON"))
	}
	return raw(pick(r, "false", "false", "no", "off", "False", "FALSE", "No", "OFF"))
}

// flow is a value on one line; false if it has none.
func (w *writer) flow(v any) (string, bool) {
	switch v := v.(type) {
	case raw:
		return string(v), !strings.ContainsAny(string(v), "&*![]{},")
	case string:
		return w.spelled(v), true
	case block:
		return "", false
	case list:
		var items []string
		for _, item := range v {
			text, ok := w.flow(item)
			if !ok {
				return "", false
			}
			items = append(items, text)
		}
		return "[" + strings.Join(items, ", ") + "]", true
	case mapping:
		var items []string
		for _, e := range v {
			text, ok := w.flow(e.is)
			if !ok || e.key == "<<" {
				return "", false
			}
			items = append(items, e.key+": "+text)
		}
		return "{" + strings.Join(items, ", ") + "}", true
	}
	panic(fmt.Sprintf("%T", v))
}

// value writes a value after its key or its dash.
func (w *writer) value(v any, indent int) {
	size := map[bool]int{true: 2, false: 4}[indent < 4]
	if text, ok := v.(raw); ok {
		w.out.WriteString(" " + string(text) + "\n")
		return
	}
	if text, ok := w.flow(v); ok && (isScalar(v) || isEmpty(v) || chance(w.r, size)) {
		w.out.WriteString(" " + text + "\n")
		return
	}
	switch v := v.(type) {
	case block:
		w.out.WriteString(" " + pick(w.r, "|", "|-") + "\n")
		for _, line := range v {
			w.out.WriteString(strings.Repeat(" ", indent+2) + line + "\n")
		}
	case list:
		w.out.WriteString("\n")
		for _, item := range v {
			w.out.WriteString(strings.Repeat(" ", indent) + "-")
			if m, ok := item.(mapping); ok && len(m) > 0 {
				w.value(m, indent+2)
				continue
			}
			w.value(item, indent)
		}
	case mapping:
		w.out.WriteString("\n")
		w.mapping(v, indent)
	default:
		panic(fmt.Sprintf("%T", v))
	}
}

func isScalar(v any) bool {
	_, ok := v.(string)
	return ok
}

func isEmpty(v any) bool {
	l, ok := v.(list)
	return ok && len(l) == 0
}

func (w *writer) mapping(m mapping, indent int) {
	for _, e := range m {
		if chance(w.r, 40) {
			w.out.WriteString(strings.Repeat(" ", indent) + "# " + pick(w.r, "see the runbook", "when: manual", "needs: []") + "\n")
		}
		key := e.key
		if !needsNoQuotes.MatchString(key) && key != "<<" {
			key = w.spelled(key)
		}
		w.out.WriteString(strings.Repeat(" ", indent) + key + ":")
		w.value(e.is, indent+2)
	}
}

// render writes a description down as a .gitlab-ci.yml.
func render(r *rand.Rand, d *description) string {
	w := &writer{r: r}
	w.mapping(mapping{{"spec", mapping{{"inputs", d.inputsPart()}}}}, 0)
	w.out.WriteString("---\n")
	var parts []mapping
	workflow := mapping{{"name", raw("release $[[ inputs.app ]] $[[ inputs.release_id ]]")}}
	if d.autoCancel != "" {
		workflow = append(workflow, entry{"auto_cancel", mapping{{"on_new_commit", "none"}, {"on_job_failure", d.autoCancel}}})
	}
	workflow = append(workflow, entry{"rules", list{
		mapping{{"if", `"$[[ inputs.image ]]" == "" || "$[[ inputs.app ]]" == ""`}, {"when", "never"}},
		mapping{{"if", pick(r, `$CI_PIPELINE_SOURCE == "trigger"`, `$CI_PIPELINE_SOURCE == "trigger" || $CI_PIPELINE_SOURCE == "api" || $CI_PIPELINE_SOURCE == "web"`, `$CI_COMMIT_REF_PROTECTED == "true" && $CI_PIPELINE_SOURCE == "trigger"`)}},
	}})
	parts = append(parts, mapping{{"workflow", workflow}})
	stages := list{}
	for _, s := range d.stages {
		stages = append(stages, s)
	}
	parts = append(parts, mapping{{"stages", stages}})
	common := d.common(r)
	switch d.base {
	case "default":
		parts = append(parts, mapping{{"default", without(common, "resource_group")}})
	case "extends":
		parts = append(parts, mapping{{".release", common}})
	case "merge":
		w.mapping(parts[0], 0)
		parts = parts[1:]
		w.out.WriteString(".release: &release")
		w.out.WriteString("\n")
		w.mapping(common, 2)
	case "reference":
		parts = append(parts, mapping{{".setup", common}})
	}
	for _, p := range parts {
		w.mapping(p, 0)
		w.out.WriteString(pick(r, "", "\n"))
	}
	jobs := slices.Clone(d.jobs)
	if chance(r, 3) {
		r.Shuffle(len(jobs), func(i, j int) { jobs[i], jobs[j] = jobs[j], jobs[i] })
	}
	for _, j := range jobs {
		w.mapping(mapping{{j.name, d.jobPart(r, j, common)}}, 0)
		w.out.WriteString(pick(r, "", "\n", "\n"))
	}
	return w.out.String()
}

func (d *description) inputsPart() mapping {
	text := func(regex string) mapping { return mapping{{"default", raw(`""`)}, {"regex", "" + regex}} }
	inputs := mapping{
		{"app", text(`^([a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?)?$`)},
		{"image", text(d.image)},
		{"release_id", text(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$`)},
	}
	if !strings.HasPrefix(d.image, "^(") {
		inputs[1].is = mapping{{"regex", d.image}}
	}
	if d.open {
		inputs = append(inputs, entry{"note", mapping{{"default", raw(`""`)}, {"description", "free text"}}})
	}
	for _, in := range d.inputs {
		if in.kind == "boolean" {
			inputs = append(inputs, entry{in.name, mapping{{"type", "boolean"}, {"default", raw(in.values[0])}}})
			continue
		}
		options := list{}
		for _, v := range in.values {
			options = append(options, v)
		}
		inputs = append(inputs, entry{in.name, mapping{{"default", in.values[0]}, {"options", options}}})
	}
	return inputs
}

// common is what jobs of the release share.
func (d *description) common(r *rand.Rand) mapping {
	assign := pick(r, "", "export ")
	setup := list{assign + "IMAGE='$[[ inputs.image ]]'", assign + "RELEASE_ID='$[[ inputs.release_id ]]'"}
	if chance(r, 3) {
		setup = list{block{setup[0].(string), setup[1].(string)}}
	}
	if d.wrapped {
		setup = append(setup,
			"export DOCKER_HOST=tcp://docker:2376 DAGGER_MODULE=. CLI=",
			"apk add --no-cache curl",
			"curl -fsSL https://dl.dagger.io/dagger/install.sh | DAGGER_VERSION=0.21.8 BIN_DIR=/usr/local/bin sh",
			block{"crossbill() {", `  dagger call --config-file crossbill.yaml --manifests-dir k8s --kubeconfig-file "file:$KUBECONFIG" "$@"`, "}"})
	}
	return mapping{
		{"image", "docker:27.2.0"},
		{"before_script", setup},
		{"interruptible", truth(r, false)},
		{"timeout", "30m"},
		{"retry", mapping{{"max", raw("2")}, {"when", list{"runner_system_failure", "scheduler_failure"}}}},
		{"artifacts", mapping{{"when", "always"}, {"expire_in", "90 days"}, {"paths", list{"report.html"}}}},
	}
}

func without(m mapping, keys ...string) mapping {
	return slices.DeleteFunc(slices.Clone(m), func(e entry) bool { return slices.Contains(keys, e.key) })
}

func (d *description) jobPart(r *rand.Rand, j *job, common mapping) mapping {
	var m mapping
	if j.release {
		switch d.base {
		case "extends":
			m = append(m, entry{"extends", pick[any](r, ".release", list{".release"})})
		case "merge":
			m = append(m, entry{"<<", raw("*release")})
		case "reference":
			m = append(m, entry{"before_script", raw("!reference [.setup, before_script]")}, entry{"interruptible", truth(r, false)})
		case "each":
			m = append(m, without(common, "artifacts", "timeout")...)
		}
	}
	if s := d.spelledValue(r, j.stage); s != "test" {
		m = append(m, entry{"stage", s})
	}
	if j.when.text != "" || j.when.input != "" {
		m = append(m, entry{"when", d.spelledValue(r, j.when)})
		if j.when.text == "delayed" {
			m = append(m, entry{"start_in", "30 minutes"})
		}
	}
	switch {
	case len(j.codes) > 0:
		codes := list{}
		for _, c := range j.codes {
			codes = append(codes, raw(strconv.Itoa(c)))
		}
		m = append(m, entry{"allow_failure", mapping{{"exit_codes", codes}}})
	case j.allow.input != "":
		m = append(m, entry{"allow_failure", raw("$[[ inputs." + j.allow.input + " ]]")})
	case j.allow.text != "":
		m = append(m, entry{"allow_failure", truth(r, j.allow.text == "true")})
	}
	if j.rules != nil {
		m = append(m, entry{"rules", d.rulesPart(r, j.rules)})
	}
	if j.hasNeeds {
		m = append(m, entry{"needs", needsPart(r, j.needs)})
	}
	if j.only != "" {
		m = append(m, entry{"only", mapping{{"variables", list{j.only}}}})
	}
	if j.except != "" {
		m = append(m, entry{"except", mapping{{"variables", list{j.except}}}})
	}
	if j.matrix > 0 {
		regions := list{}
		for n := range j.matrix {
			regions = append(regions, "region"+strconv.Itoa(n+1))
		}
		m = append(m, entry{"parallel", mapping{{"matrix", list{mapping{{"REGION", regions}}}}}})
	}
	if j.env != "" {
		m = append(m, entry{"environment", j.environmentPart()})
	}
	if j.group {
		m = append(m, entry{"resource_group", raw("production/$[[ inputs.app ]]")})
	}
	return append(m, d.scriptPart(r, j)...)
}

func (d *description) spelledValue(_ *rand.Rand, v value) any {
	if v.input != "" {
		return raw("$[[ inputs." + v.input + " ]]")
	}
	return v.text
}

func (j *job) environmentPart() mapping {
	env := mapping{{"name", raw(j.env)}}
	if j.action != "" {
		env = append(env, entry{"action", j.action})
	} else {
		env = append(env, entry{"deployment_tier", "production"})
	}
	if j.onStop != "" {
		env = append(env, entry{"on_stop", j.onStop})
	}
	if j.autoStop {
		env = append(env, entry{"auto_stop_in", "1 day"})
	}
	return env
}

func (d *description) rulesPart(r *rand.Rand, rules []rule) any {
	l := list{}
	for _, rule := range rules {
		var m mapping
		if rule.cond != "" {
			m = append(m, entry{"if", rule.cond + pick(r, "", ` == "1"`, ` =~ /^y/`)})
		}
		if rule.when != "" {
			m = append(m, entry{"when", rule.when})
		}
		switch {
		case rule.allow.input != "":
			m = append(m, entry{"allow_failure", raw("$[[ inputs." + rule.allow.input + " ]]")})
		case rule.allow.text != "":
			m = append(m, entry{"allow_failure", truth(r, rule.allow.text == "true")})
		}
		if rule.hasNeeds {
			m = append(m, entry{"needs", needsPart(r, rule.needs)})
		}
		l = append(l, m)
	}
	return l
}

func needsPart(r *rand.Rand, needs []need) any {
	l := list{}
	for _, n := range needs {
		switch {
		case n.copy > 0:
			l = append(l, mapping{{"job", n.job}, {"parallel", mapping{{"matrix", list{mapping{{"REGION", "region" + strconv.Itoa(n.copy)}}}}}}})
		case n.optional:
			l = append(l, mapping{{"job", n.job}, {"optional", truth(r, true)}})
		case chance(r, 4):
			l = append(l, mapping{{"job", n.job}, {"artifacts", truth(r, false)}})
		default:
			l = append(l, n.job)
		}
	}
	return l
}

func (d *description) scriptPart(r *rand.Rand, j *job) (m mapping) {
	if j.child != "" {
		return mapping{{"trigger", mapping{{"include", ".gitlab/" + j.child + ".yml"}, {"strategy", "depend"}}}}
	}
	if j.steps {
		return mapping{{"run", list{mapping{{"name", "go"}, {"script", d.command(r, j.does[0])}}}}}
	}
	if j.hook != nil {
		m = append(m, entry{"hooks", mapping{{"pre_get_sources_script", d.lines(r, j.hook)}}})
	}
	lines := d.lines(r, j.does)
	if len(lines) == 1 && chance(r, 5) {
		m = append(m, entry{"script", lines[0]})
	} else if j.blockText {
		text := block{"set -e"}
		for _, l := range lines {
			text = append(text, l.(string))
		}
		m = append(m, entry{"script", list{text}})
	} else {
		m = append(m, entry{"script", lines})
	}
	if j.after != nil {
		m = append(m, entry{"after_script", d.lines(r, j.after)})
	}
	return m
}

func (d *description) lines(r *rand.Rand, acts []act) list {
	l := list{}
	for _, a := range acts {
		l = append(l, d.command(r, a))
	}
	return l
}

// command is a line that does an act.
func (d *description) command(r *rand.Rand, a act) string {
	id := ` --release-id "$RELEASE_ID"`
	switch a {
	case canary:
		return `crossbill canary --image "$IMAGE"` + id + pick(r, "", " > canary.json")
	case verify, cleanup, rollback:
		return "crossbill " + string(a) + id + pick(r, "", " > "+string(a)+".json")
	case promote:
		return "crossbill promote" + id + pick(r, "", " > promote.json")
	case reads:
		return pick(r, "kubectl get pods -n production", "curl -fsS https://app.example.com/health", "helm list -n production", "kubectl -n production rollout status deployment/app-primary --timeout=5m", "crossbill status", "test -f crossbill.yaml", "kubectl -n production logs deployment/app-primary --tail=50")
	case notifies:
		return pick(r, "echo done", `curl -fsS -X POST -d "{\"text\":\"done $CI_PIPELINE_URL\"}" https://hooks.slack.com/services/T0/B0/x`, `curl -fsS -X POST -d "text=done" "$SLACK_WEBHOOK_URL"`, `printf 'ended: %s\n' "$CI_JOB_STATUS"`, "date -u")
	case writes:
		return pick(r, "kubectl -n production scale deployment/app-primary --replicas=5", "kubectl apply -n production -f k8s/", "kubectl rollout restart -n production deployment/app-primary",
			"helm upgrade --install app ./chart -n production", "kubectl -n production delete pod -l app=x", "kubectl --namespace production patch deployment app -p '{}'",
			"bash -ec 'kubectl apply -n production -f k8s/'", "sudo kubectl -n production apply -f k8s/", `for f in k8s/*.yaml; do kubectl -n production apply -f "$f"; done`)
	case hidden:
		return pick(r, "sudo -E crossbill promote"+id, "timeout 600 crossbill promote"+id, "CI=1 crossbill promote"+id, "if test -f canary.json; then crossbill promote"+id+"; fi",
			"env A=b crossbill promote"+id, "exec crossbill promote"+id, "crossbill promote"+id+" &", "echo $(crossbill promote"+id+")", "test -f x || crossbill promote"+id,
			"sh -c 'crossbill promote --release-id x'", "(crossbill promote"+id+")", "nohup crossbill promote"+id, "echo promote | xargs crossbill",
			"go() { crossbill promote"+id+"; }; go", "command crossbill promote"+id, `P=promote; crossbill "$P"`+id, "dagger call -m . promote"+id)
	case opaque:
		return pick(r, "./deploy.sh", `eval "$NEXT"`, `sh -c "$COMMAND"`, "source ./ci/deploy.env", "python3 deploy.py", "curl -fsS https://tools.example.com/run.sh | sh", "make deploy")
	case byTag:
		return pick(r, "kubectl set image -n production deployment/app-primary app=registry.example.com/our-org/app:latest", "helm upgrade app ./chart -n production --set image.tag=v2", "crossbill canary --image registry.example.com/our-org/app:v1"+id)
	case elsewhere:
		return pick(r, `kubectl -n "$NAMESPACE" rollout restart deployment/app-primary`, `kubectl --context "$KUBE_CONTEXT" -n production rollout restart deployment/app-primary`)
	case injected:
		return pick(r, "echo '$[[ inputs.note ]]'", "echo $[[ inputs.note ]] | tee note.txt")
	}
	panic(a)
}
