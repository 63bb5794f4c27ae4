package config

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v3"

	"github.com/our-org/crossbill/internal/verdict"
)

var update = flag.Bool("update", false, "write the files that are generated")

const (
	schemaFile     = "../../docs/reference/crossbill.schema.json"
	repositoryFile = "../../crossbill.yaml"
)

// sections are the descriptions of what has no option of its own.
var sections = map[string]string{
	"cluster":                  "Where the app runs",
	"prometheus":               "What the canary's requests are read from",
	"gitlab":                   "The GitLab project that deploys",
	"gitlab.jobs":              "Names of the jobs in GitLab's pipeline",
	"notify":                   "Who is notified of a release. Tokens and the webhook's address are secrets: only variables and files hold them",
	"notify.github":            "The repository that a release came from, where its state is shown",
	"notify.gitlab":            "The GitLab project where the code of releases is, if it is not on GitHub",
	"notify.chat":              "What people read of a release in their chats. The addresses are secrets: CROSSBILL_CHAT or --chat-file has them",
	"image":                    "How the app's image is built",
	"canary":                   "How a release starts",
	"steps[]":                  "A step of the way before promotion: one of these, each after a dash of its own",
	"shift":                    "How the canary's weight grows",
	"promote":                  "How a release is promoted",
	"render":                   "How the manifests are rendered",
	"rollback":                 "What is kept to go back to",
	"queue":                    "What becomes of a release while another one is in flight",
	"gitops":                   "What applies the manifests from Git, and the repository that it applies",
	"guard":                    "When a release counts as abandoned",
	"probe":                    "Requests that verify makes itself, for an app with too little traffic",
	"analysis":                 "What a canary is judged by",
	"analysis.objectives[]":    "An objective; with neither latency nor queries it is availability: answered, and not by a server error",
	"imagePolicy":              "Which images are admitted: those with a signed provenance that says this. Without the section, all",
	"bundle":                   "What the bundle of a release may hold, on the side that deploys. Without the section, the defaults hold",
	"approval":                 "Who approves a release, verified by GitLab's ID token of the job that runs the command. Without the section, nobody is asked at run time",
	"hooks[]":                  "A hook; it has either job or url",
	"imagePolicy.identities[]": "An identity; it has either subject or subjectPattern",
}

func init() {
	sections["preview"] = "How the images of pull requests run beside the app, each reached by a header alone"
	sections["preview.imagePolicy"] = "Which images are admitted as previews. Without the section, those that may be released"
	sections["preview.imagePolicy.identities[]"] = sections["imagePolicy.identities[]"]
}

// schemaOf makes the JSON Schema from the types and the table.
func schemaOf(t *testing.T) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.For[Config](&jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{durationType: {Type: "string"}}})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, schema, "")
	schema.Schema = "https://json-schema.org/draft/2020-12/schema"
	schema.ID = "https://raw.githubusercontent.com/our-org/crossbill/main/docs/reference/crossbill.schema.json"
	schema.Title = "crossbill.yaml"
	schema.Description = "An app and its surroundings, for the commands of Crossbill"
	return schema
}

// complete adds to the schema of a field what the table says of it.
func complete(t *testing.T, s *jsonschema.Schema, key string) {
	t.Helper()
	s.Required = nil
	if len(s.Types) > 0 { // null means that there is no value; the parser refuses it
		s.Types = slices.DeleteFunc(s.Types, func(name string) bool { return name == "null" })
		s.Type, s.Types = s.Types[0], nil
	}
	o := byKey[key]
	switch {
	case o != nil:
		s.Description = o.Doc
		s.Pattern = o.form.pattern
		s.Minimum, s.Maximum, s.ExclusiveMinimum, s.ExclusiveMaximum = o.form.min, o.form.max, o.form.above, o.form.below
		if s.Type == "boolean" { // it is of the variable's text
			s.Pattern = ""
		}
		if s.Type == "string" {
			s.Minimum, s.Maximum, s.ExclusiveMinimum, s.ExclusiveMaximum = nil, nil, nil, nil // of a duration
		}
		if o.Default != "" {
			s.Default = json.RawMessage(o.Default)
			if s.Type == "string" {
				s.Default, _ = json.Marshal(o.Default)
			}
		}
	case sections[key] != "":
		s.Description = sections[key]
	case key != "":
		t.Errorf("%s has no description", key)
	}
	for name, property := range s.Properties {
		field := join(key, name)
		complete(t, property, field)
		if o := byKey[field]; o != nil && o.Required {
			s.Required = append(s.Required, name)
		}
	}
	slices.Sort(s.Required)
	if s.Items != nil {
		complete(t, s.Items, key+"[]")
	}
	without := func(names ...string) *jsonschema.Schema {
		var any []*jsonschema.Schema
		for _, name := range names {
			any = append(any, &jsonschema.Schema{Required: []string{name}})
		}
		return &jsonschema.Schema{Not: &jsonschema.Schema{AnyOf: any}}
	}
	both := &jsonschema.Schema{Required: []string{"good", "total"}, Not: &jsonschema.Schema{Required: []string{"latency"}}}
	one := func(name string) *jsonschema.Schema { return &jsonschema.Schema{Required: []string{name}} }
	switch key {
	case "steps[]":
		s.MinProperties, s.MaxProperties = new(1), new(1)
	case "analysis.objectives[]":
		s.OneOf = []*jsonschema.Schema{both, without("good", "total")}
	case "hooks[]":
		s.OneOf = []*jsonschema.Schema{one("job"), one("url")}
	case "imagePolicy", "preview.imagePolicy":
		s.AnyOf = []*jsonschema.Schema{one("keys"), one("identities")}
	case "imagePolicy.identities[]", "preview.imagePolicy.identities[]":
		s.OneOf = []*jsonschema.Schema{one("subject"), one("subjectPattern")}
	}
}

// TestSchema: the published schema is that of the parser.
func TestSchema(t *testing.T) {
	got, err := json.MarshalIndent(schemaOf(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(schemaFile, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(schemaFile)
	if err != nil || string(got) != string(want) {
		t.Errorf("%s is out of date (%v): run `go test ./internal/config -run 'TestSchema|TestReference' -update`", schemaFile, err)
	}
}

// validator gives the errors of the published schema for the text of a file.
func validator(t testing.TB) func(text string) error {
	t.Helper()
	text, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var schema jsonschema.Schema
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	resolved, err := schema.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
	if err != nil {
		t.Fatal(err)
	}
	return func(text string) error {
		var value any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			return err
		}
		if value == nil {
			return nil
		}
		return resolved.Validate(value)
	}
}

// TestRepositoryFile: this repository's own file names the schema, and both accept it.
func TestRepositoryFile(t *testing.T) {
	text, err := os.ReadFile(repositoryFile)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	if want := "# yaml-language-server: $schema=docs/reference/crossbill.schema.json"; first != want {
		t.Errorf("first line %q, want %q", first, want)
	}
	c, err := Parse("crossbill.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	want := verdict.DefaultSLO()
	want.WarmUpGiven = true // the file writes it out
	if diff := cmp.Diff(want, c.Analysis); diff != "" {
		t.Errorf("analysis is not what holds without it: %s", diff)
	}
	if err := validator(t)(string(text)); err != nil {
		t.Error(err)
	}
}

// valid are files that hold: each option in one of them at least.
var valid = []string{
	"", "# only a comment\n", "app: shop",
	`app: shop
manifests: deploy/k8s
render: {subfolders: true, values: [values.yaml, prod.yaml], releaseName: shop, kubeVersion: v1.33.1, allowLookup: true, allowRemote: true, gateway: istio-system/public, hosts: [shop.example.com, "*.example.com"]}
cluster: {context: "our-org/agents:production", namespace: prod, timeout: 10m}
prometheus: {url: "http://prometheus.istio-system.svc:9090/prefix?x=1", httpConfig: prometheus.yaml, matcher: 'cluster="eu-1", job="envoy"'}
gitlab: {url: "https://gitlab.example.com", project: our-org/group/infrastructure, ref: release/1.0, user: release-bot, jobs: {canary: deploy canary, verify: v, promote: p, rollback: r}}
notify:
  github: {repository: our-org/shop, url: "https://github.example.com/api/v3", environmentUrl: "https://shop.example.com", pullRequest: false}
  gitlab: {project: our-org/group/shop, url: "https://gitlab.example.com"}
  chat: {events: [canary, approval, promoted], remindAfter: 90m}
  pushgateway: http://pushgateway:9091
  otlpEndpoint: http://collector:4318
image: {appDir: web, base: oci:base, platforms: [linux/amd64, linux/arm/v7], assetsFolder: dist/assets, requireProvenance: true}
applyOthers: true
canary: {weight: 5, match: "header:x-canary=yes", mirror: 5%, sticky: true, stickyAssets: /assets/, baseline: true, settleDelay: 0s, allowTags: ["docker.io/envoyproxy/*"]}
shift: {steps: [10, 25], pause: 1h2m3.5s}
promote: {bake: 10m, maxVerdictAge: 5m, traffic: primary}
rollback: {keepWarm: 10m, keepReleases: 8}
queue: {policy: supersede, wait: 4h, turn: 5m}
guard: {dead: 10m, waiting: 8h}
probe: {url: "https://shop.example.com/", rate: 0.5, header: "x-track: canary"}
`,
	"manifests: oci://registry.example.com/our-org/shop@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "manifests: '-'",
	"gitlab: {project: \"1234\"}",
	"analysis: {falseRollback: 0.1, falsePass: 49, burst: 1.5, minRequests: 200, minDuration: 1m, maxDuration: 20m, warmUp: 0s, callersLeft: 0, clientErrors: 2.5, cutStreams: 0, objectives: [{name: a, objective: 99.9, margin: 0.1}, {name: l, objective: 95, margin: 5, latency: 250ms}, {name: q, objective: 90, margin: 1, good: x, total: y}]}",
	"analysis: {}",
	"analysis: {objectives: []}",
	"preview:\n  header: x-shop-preview\n  lasts: 24h\n  limit: 3\n  replicas: 2\n  labels: [team, example.com/cost-center]\n  imagePolicy:\n    repository: https://github.com/our-org/shop\n    refs: ['refs/pull/*/merge']\n    builders: ['https://github.com/our-org/shop/.github/workflows/pull-request.yml@refs/heads/main']\n    maxAge: 720h\n    trustedRoots: [root.jsonl]\n    identities:\n    - {issuer: i, subject: s}\n    - {issuer: i, subjectPattern: s.*}\n",
	"imagePolicy:\n  repository: https://github.com/our-org/shop\n  refs: [refs/heads/main, 'refs/tags/v*', refs/pull/7/merge]\n  builders: ['https://github.com/our-org/shop/.github/workflows/release.yml@refs/heads/main']\n  maxAge: 720h\n  trustedRoots: [root.jsonl]\n  identities:\n  - {issuer: i, subject: s}\n  - {issuer: i, subjectPattern: s.*}\n",
	"gitops: {controller: argocd, namespace: gitops, repository: 'https://gitlab.example.com/our-org/environment.git', branch: env/production, path: apps/shop, value: 'apps/shop/values.yaml:image.digest', releases: apps/releases, user: bot, tokenFile: /run/token, author: 'Release bot <releases@example.com>'}",
	"gitops: {controller: flux, store: git, repository: 'git@gitlab.example.com:our-org/environment.git', sshKeyFile: key, knownHostsFile: hosts, signingKeyFile: signing}",
	"gitops: {repository: 'https://gitlab.example.com/our-org/environment.git', allowedSignersFile: allowed_signers, approvals: 2}",
	"gitops: {repository: 'ssh://git@gitlab.example.com:2222/our-org/environment.git'}",
	"bundle: {kinds: [Deployment, 'ServiceMonitor.monitoring.coreos.com', '*'], namespaces: [istio-system], podSecurity: restricted, serviceAccounts: [shop-reader, '*'], maxCPU: '1.5', maxMemory: 512Mi, maxReplicas: 20, allowSecrets: true}",
	"approval: {issuer: 'https://gitlab.example.com/git', audience: crossbill, project: our-org/group/infrastructure, projectId: 42, ref: release/1.0, environment: production/shop, approvers: [mona, lisa.m], notAuthor: true, number: 2, before: [canary, promote]}",
	"approval: {issuer: 'https://gitlab.example.com', project: a/b, environment: e, before: [shift, promote]}\nsteps: [{match: 'header:x-canary=yes'}, {mirror: 5%}, {mirror: 100%}, {pause: 1m}, {approve: {}}, {weight: 10}, {pause: 30m}, {analyze: {minRequests: 500, minDuration: 20m, maxDuration: 1h}}, {approve: {}}, {weight: 50}, {analyze: {}}, {approve: {}}]",
	"steps: [{weight: 99}]",
	"approval: {issuer: 'http://127.0.0.1:8929', project: a/b, environment: production}",
	"hooks:\n- name: migrate\n  point: beforeCanary\n  job: migrate-database\n  timeout: 20m\n- {name: ask, point: beforeStep, url: 'https://hooks.example.com/x', secretEnv: HOOK_SECRET, retries: 0, onFailure: continue}\n- {name: notify, point: afterRollback, url: 'http://127.0.0.1:9'}",
}

// invalid are values that schema and parser refuse, by key; the sections around them are added.
var invalid = map[string][]string{
	"app":                       {"Shop", "5", "true", "[a]", "{a: b}", "''", "a b", "null"},
	"ap":                        {"x"},
	"manifests":                 {"5", "''", "' '"},
	"render.subfolders":         {"yes", "1"},
	"render.values":             {"values.yaml", "['']", "[1]"},
	"render.releaseName":        {"Shop", "''", "5"},
	"render.kubeVersion":        {"1.34", "latest", "''"},
	"render.allowLookup":        {"1"},
	"render.allowRemote":        {"'true'"},
	"render.gateway":            {"a/b/c", "''", "Public"},
	"render.hosts":              {"a.example.com", "['https://a']", "['']"},
	"cluster":                   {"x", "[]", "null", "{nmespace: a}"},
	"cluster.context":           {"a b", "1", "''"},
	"cluster.namespace":         {"UP", "a.b", "-a"},
	"cluster.timeout":           {"5", "'5'", "soon", "-5m", "5 m", "5M", "5min", "null", "1.5"},
	"prometheus.url":            {"prometheus:9090", "ftp://x", "https://u:p@x", "https://", "https:///x", "'https://a b'"},
	"gitlab.project":            {"''", "a b", "/a", "a//b", "a?b"},
	"gitlab.ref":                {"-x", "'a b'", "''", "1.0"},
	"gitlab.user":               {"''", "a b", "5", "-x", "a@b"},
	"gitlab.jobs.canary":        {"''", "5"},
	"notify.github.repository":  {"shop", "a/b/c", "https://github.com/a/b"},
	"notify.github.pullRequest": {"yes", "1", "'true'"},
	"notify.gitlab.project":     {"''", "a b", "/a", "a/../b", "a?b"},
	"notify.gitlab.token":       {"secret"},
	"notify.chat.events":        {"approval", "[approved]", "[rolled_back]", "{}"},
	"notify.chat.remindAfter":   {"60", "soon", "-1h", "1d"},
	"notify.chat.addresses":     {"[https://hooks.example.com/secret]"},
	"notify.webhook":            {"https://hooks.example.com/secret"},
	"notify.github.token":       {"secret"},
	"image.base":                {"node:24", "node@sha256:12"},
	"image.platforms":           {"linux/amd64", "[linux]", "[1]"},
	"applyOthers":               {"yes", "'true'", "1"},
	"canary.weight":             {"0", "100", "-1", "9.5", "10%", "'10'", "10m", "true", ".inf"},
	"canary.match":              {"x-canary=yes", "'header:'", "5", "''"},
	"canary.mirror":             {"5", "0%", "101%", "'5.5%'", "half"},
	"canary.sticky":             {"yes", "1", "'true'"},
	"canary.baseline":           {"yes", "1", "'true'"},
	"canary.stickyAssets":       {"/", "build/"},
	"steps":                     {"10", "{weight: 10}", "[10]", "[{}]", "[{wieght: 10}]", "[{weight: 0}]", "[{weight: 100}]", "[{weight: 10%}]", "[{weight: 10, pause: 5m}]", "[{match: x-canary}]", "[{match: 'header:'}]", "[{mirror: 5}]", "[{mirror: 0%}]", "[{mirror: 101%}]", "[{weight: 10}, {pause: 5}]", "[{weight: 10}, {pause: {}}]", "[{weight: 10}, {approve: true}]", "[{weight: 10}, {analyze: {minRequests: 0}}]", "[{weight: 10}, {analyze: {minDuration: 5}}]", "[{weight: 10}, {analyze: {maxDuration: soon}}]"},
	"shift.steps":               {"10", "[0]", "[100]", "[a]", "10,25"},
	"gitops":                    {"flux", "{controller: flux}"},
	"gitops.controller":         {"Flux", "''"},
	"gitops.store":              {"Git", "''", "true"},
	"gitops.repository":         {"environment", "'https://u:p@h/x'", "''"},
	"gitops.branch":             {"''", "'a b'", "-x"},
	"gitops.path":               {"/apps", "''"},
	"gitops.value":              {"values.yaml", "':image'", "'/a:b'"},
	"gitops.author":             {"bot", "'<a@b>'"},
	"queue.policy":              {"wait", "''", "true"},
	"queue.wait":                {"5", "soon"},
	"queue.turn":                {"5", "soon"},
	"probe.rate":                {"0", "1001", "10/s", "-1"},
	"probe.header":              {"x-track", "': canary'", "'x track: canary'", "'\"x-track\": canary'", "'x(track): canary'", "\"x-track: a\\ec\""},
	"analysis.falseRollback":    {"0", "50", "1%", "'1'"},
	"analysis.falsePass":        {"0", "50"},
	"analysis.burst":            {"0.5", "1001"},
	"analysis.minRequests":      {"0", "2e9"},
	"analysis.minDuration":      {"5", "duration-minutes"},
	"analysis.warmUp":           {"5", "duration-minutes"},
	"analysis.callersLeft":      {"-1", "100", "1%"},
	"analysis.clientErrors":     {"-1", "100"},
	"analysis.cutStreams":       {"-1", "100"},
	"analysis.objectives":       {"{a: b}", "[a]", "[{}]", "[{name: a, objective: 99}]", "[{name: a, margin: 1}]", "[{objective: 99, margin: 1}]", "[{name: a, objective: 100, margin: 1}]", "[{name: a, objective: 99, margin: 0}]", "[{name: a, objective: 99, margin: 1, good: x}]", "[{name: a, objective: 99, margin: 1, total: x}]", "[{name: a, objective: 99, margin: 1, good: x, total: y, latency: 5s}]", "[{name: a, objective: 99, margin: 1, latency: 500}]", "[{name: a, objective: 99, margin: 1, latencyy: 5s}]"},
	"preview.header":            {"':path'", "x crossbill", "''"},
	"preview.lasts":             {"3", "3d"},
	"preview.limit":             {"0", "51", "many"},
	"preview.replicas":          {"0", "11"},
	"preview.labels":            {"team", "['a b']"},
	"imagePolicy.repository":    {"github.com/a/b", "https://u@github.com/a/b"},
	"image.requireProvenance":   {"yes", "'true'", "1"},
	"imagePolicy.refs":          {"refs/heads/main", "[main]", "['refs/*']", "['refs/heads/[a]']", "[refs/heads]"},
	"imagePolicy.builders":      {"https://a", "[release.yml]", "['https://a b']"},
	"imagePolicy.maxAge":        {"30", "30d", "0s"},
	"imagePolicy.keys":          {"x", "[x]"},
	"imagePolicy":               {"{repository: 'https://a/b'}", "{keys: []}"},
	"bundle.kinds":              {"Deployment", "[deployment]", "['']", "[Pod.]", "['**']"},
	"bundle.namespaces":         {"a", "[A]", "['*']"},
	"bundle.podSecurity":        {"strict", "Baseline", "1"},
	"bundle.serviceAccounts":    {"a", "[A]", "['']"},
	"bundle.maxCPU":             {"2", "many", "-1", "'-1'", "2Gi"},
	"bundle.maxMemory":          {"512", "much", "-1Gi", "500m"},
	"bundle.maxReplicas":        {"0", "-1", "'3'", "1.5"},
	"bundle.allowSecrets":       {"yes", "'true'"},
	"approval":                  {"{}", "{issuer: 'https://g', project: a/b}", "{project: a/b, environment: e}", "{issuer: 'https://g', project: a, environment: e}", "{issuer: 'https://g', project: a/b, environment: e, numbr: 1}"},
	"approval.number":           {"0", "10", "two"},
	"gitops.approvals":          {"0", "10", "two"},
	"approval.approvers":        {"mona", "[a b]", "['']", "[5]"},
	"approval.before":           {"promote", "[rollback]", "[verify]"},
	"approval.projectId":        {"0", "'42'", "-1"},
	"hooks":                     {"{a: b}", "[a]", "[{}]", "[{name: a, point: beforeCanary}]", "[{name: A, point: beforeCanary, job: a}]", "[{name: a, point: before, job: a}]", "[{name: a, point: beforeCanary, job: a, url: 'https://a'}]", "[{name: a, point: beforeCanary, url: a}]", "[{name: a, point: beforeCanary, job: a, retries: 11}]", "[{name: a, point: beforeCanary, job: a, timeout: 5}]", "[{name: a, point: beforeCanary, job: a, onFailure: stop}]", "[{name: a, point: beforeCanary, url: 'https://a', secretEnv: a-b}]"},
	"imagePolicy.identities":    {"[{issuer: i}]", "[{subject: s}]", "[{issuer: i, subject: s, subjectPattern: p}]"},
}

// nested is a file with one value in it.
func nested(key, value string) string {
	parts := strings.Split(key, ".")
	for _, part := range slices.Backward(parts) {
		value = "{" + part + ": " + value + "}"
	}
	return value
}

// TestSchemaAndParserAgree: what one of them refuses, the other refuses.
func TestSchemaAndParserAgree(t *testing.T) {
	validate := validator(t)
	for _, text := range append(valid, "imagePolicy:\n  repository: https://github.com/our-org/shop\n  keys:\n  - |\n    "+strings.ReplaceAll(publicKey(t), "\n", "\n    ")) {
		if _, err := Parse("c.yaml", []byte(text)); err != nil {
			t.Errorf("parser: %v", err)
		}
		if err := validate(text); err != nil {
			t.Errorf("schema: %q: %v", text, err)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(invalid)) {
		for _, value := range invalid[key] {
			text := nested(key, value)
			if _, err := Parse("c.yaml", []byte(text)); err == nil {
				t.Errorf("parser accepts %s", text)
			}
			if err := validate(text); err == nil {
				t.Errorf("schema accepts %s", text)
			}
		}
	}
}

// TestEveryOptionIsTried: the valid files have each option of the file.
func TestEveryOptionIsTried(t *testing.T) {
	tried := map[string]bool{"imagePolicy.keys": true, "imagePolicy.keys[]": true, "preview.imagePolicy.keys": true, "preview.imagePolicy.keys[]": true}
	for _, text := range valid {
		c, err := Parse("c.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		for place := range c.found {
			tried[itemIndex.ReplaceAllString(place, "[]")] = true
		}
	}
	for _, o := range Options {
		if strings.Contains(o.Key, ".") && !tried[o.Key] {
			t.Errorf("%s is in no valid file", o.Key)
		}
	}
}
