package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/usererr"
)

// publicKey is one as PEM.
func publicKey(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// approvalOf is a section approval.
const approvalOf = "approval:\n  issuer: https://gitlab.example.com\n  project: a/b\n  environment: e\n"

// TestErrors: everything that is wrong is named by file, line and field, with what to do.
func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"ap: x":                                                  `c.yaml:1: ap: is not a field; did you mean app?`,
		"app: shop\nap: x":                                       `c.yaml:2: ap: is not a field; did you mean app?`,
		"app: shop\napp: shop":                                   `c.yaml:2: app: is there twice, first in line 1; remove one`,
		"app: 5":                                                 `c.yaml:1: app: 5 is not a name of lower-case letters, digits and dashes, up to 53; write it in quotes: "5"`,
		"app: Shop":                                              `c.yaml:1: app: "Shop" is not a name of lower-case letters, digits and dashes, up to 53; give for example qwik-node-app`,
		"app:":                                                   `c.yaml:1: app: has no value; give one, or remove the line`,
		"namespace: x":                                           `c.yaml:1: namespace: is not a field; did you mean cluster.namespace?`,
		"cluster:\n  nmspace: x":                                 `c.yaml:2: cluster.nmspace: is not a field; did you mean namespace?`,
		"cluster:\n  zone: x":                                    `c.yaml:2: cluster.zone: is not a field; cluster has context, namespace, timeout`,
		"prometheus: http://p":                                   `c.yaml:1: prometheus: "http://p" is not a section; give ` + "`name: value`" + ` lines below it: url, httpConfig`,
		"prometheus: {url: p}":                                   `c.yaml:1: prometheus.url: "p" is not a web address without user, password or spaces; give for example https://example.com`,
		"prometheus: {url: http://u:p@p}":                        `c.yaml:1: prometheus.url: "http://u:p@p" is not a web address without user, password or spaces; give for example https://example.com`,
		"canary: {weight: 10%}":                                  `c.yaml:1: canary.weight: "10%" is not a whole number from 1 to 99; give the number alone: 10`,
		`canary: {weight: "10"}`:                                 `c.yaml:1: canary.weight: "10" is not a whole number from 1 to 99; write it without quotes`,
		"canary: {weight: 10m}":                                  `c.yaml:1: canary.weight: "10m" is not a whole number from 1 to 99; give the number alone: 10`,
		"canary: {weight: 100}":                                  `c.yaml:1: canary.weight: 100 is not a whole number from 1 to 99; give for example 10, which is 10% of the traffic`,
		"canary: {weight: 9.5}":                                  `c.yaml:1: canary.weight: 9.5 is not a whole number from 1 to 99; give for example 10, which is 10% of the traffic`,
		"canary: {weight: [10]}":                                 `c.yaml:1: canary.weight: a list is not a whole number from 1 to 99; give for example 10, which is 10% of the traffic`,
		"canary: {sticky: yes}":                                  `c.yaml:1: canary.sticky: "yes" is not true or false; give for example true`,
		"canary: {settleDelay: 5}":                               `c.yaml:1: canary.settleDelay: 5 is not a duration with a unit; give the unit too: 5s or 5m`,
		`canary: {settleDelay: "5"}`:                             `c.yaml:1: canary.settleDelay: "5" is not a duration with a unit; give the unit too: 5s or 5m`,
		"canary: {settleDelay: -5s}":                             `c.yaml:1: canary.settleDelay: "-5s" is not a duration with a unit; give for example 30s, 5m or 1h30m`,
		"cluster: {timeout: 0s}":                                 `c.yaml:1: cluster.timeout: "0s" is not a duration above 0 with a unit; give for example 30s, 5m or 1h30m`,
		"cluster: {timeout: 9999999999h}":                        `c.yaml:1: cluster.timeout: "9999999999h" is not a duration above 0 with a unit; give for example 30s, 5m or 1h30m`,
		"cluster: {timeout: soon}":                               `c.yaml:1: cluster.timeout: "soon" is not a duration above 0 with a unit; give for example 30s, 5m or 1h30m`,
		"steps:\n- weight: 10\n- wait: 5m":                       `c.yaml:3: steps[1].wait: is not a field; steps[1] has match, mirror, weight, pause, analyze, approve`,
		"steps:\n- weight: 10\n- weigth: 50":                     `c.yaml:3: steps[1].weigth: is not a field; did you mean weight?`,
		"steps:\n- weight: 10\n- pause: 5m\n- weight: 10":        `c.yaml:4: steps[2].weight: 10 does not follow 10; give rising weights, for example 10 and 50`,
		"steps:\n- weight: 10\n  pause: 5m":                      `c.yaml:2: steps[0]: has weight and pause; write each after a dash of its own`,
		"steps:\n- weight: 10\n- {}":                             `c.yaml:3: steps[1]: says nothing; give one of match, mirror, weight, pause, analyze and approve`,
		"steps:\n- pause: 5m\n- weight: 10":                      `c.yaml:2: steps[0].pause: the canary has nothing yet; begin with match, mirror or weight`,
		"steps:\n- weight: 10\n- match: header:x-canary":         `c.yaml:3: steps[1].match: testers come before everybody else; write it first`,
		"steps:\n- weight: 10\n- mirror: 5%":                     `c.yaml:3: steps[1].mirror: the canary has 10% of the traffic itself; write it before the first weight`,
		"steps:\n- mirror: 5%\n- mirror: 5%":                     `c.yaml:3: steps[1].mirror: 5% does not follow 5%; give rising percentages, for example 5% and 50%`,
		"steps:\n- mirror: 5":                                    `c.yaml:2: steps[0].mirror: 5 is not a percentage from 1% to 100%; give for example 5%`,
		"steps:\n- match: header:host=a":                         `c.yaml:2: steps[0].match: "header:host=a" names a header that is what a route chooses its host by; match a header of testers' own, for example header:x-canary=yes`,
		"steps:\n- weight: 10\n- approve: {}\n- weight: 50":      `c.yaml:3: steps[1].approve: crossbill.yaml has no section approval: nobody could be asked; add the section, or remove the step; an approval as the last step is the gate of promote`,
		"steps:\n- weight: 10\n- approve: {}\n- approve: {}":     `c.yaml:4: steps[2].approve: is there twice, one after the other; remove one; approval.number says how many approvers are needed`,
		"steps:\n- weight: 10\n- analyze:\n    minDuration: 15m": `c.yaml:3: steps[1].analyze: its minDuration (15m) is not below its maxDuration (15m); give both in the step, for example minDuration: 10m and maxDuration: 30m`,
		"steps:\n- weight: 10\n- analyze:\n    minDuraton: 5m":   `c.yaml:4: steps[1].analyze.minDuraton: is not a field; did you mean minDuration?`,
		"steps:\n- weight: 10\n- weight: 50\n" + approvalOf + "  before: [shift, promote]": `c.yaml:3: steps[1]: approval.before has shift, and nobody is asked before this step; write ` + "`- approve: {}`" + ` before it, or remove shift from approval.before`,
		"shift: {steps: 10}":              `c.yaml:1: shift.steps: 10 is not a list; write each item on its own line after a dash`,
		"shift:\n  steps:\n  - 10\n  - 5": `c.yaml:4: shift.steps[1]: 5 does not follow 10; give rising percentages, for example [10, 25, 50]`,
		"shift:\n  steps:\n  - 10\n  - a": `c.yaml:4: shift.steps[1]: "a" is not a whole number from 1 to 99; give for example 25, which is 25% of the traffic`,
		"probe: {rate: .nan}":             `c.yaml:1: probe.rate: .nan is not a number of requests a second above 0, up to 1000; give for example 10`,
		"probe: {rate: 5/s}":              `c.yaml:1: probe.rate: "5/s" is not a number of requests a second above 0, up to 1000; give the number alone: 5`,
		"analysis:\n  minDuration: 1h":    `c.yaml:2: analysis.minDuration: 1h0m0s is not a duration from 0 to maxDuration (15m0s); give for example 30s`,
		"analysis:\n  falsePass: 60":      `c.yaml:2: analysis.falsePass: 60 is not a percentage above 0 and below 50; give for example 1`,
		"- a":                             `c.yaml:1: a list is not a section`,
		"app: [":                          `c.yaml:1: it is not YAML: did not find expected node content; correct that line, or the one before it`,
		"app: shop\n---\napp: shop":       `c.yaml:2: the file has a second document; keep one`,
		"<<: {app: shop}":                 `c.yaml:1: <<: is not a field`,
		"? [a]\n: b":                      `is not a field`,
		"analysis:\n  objectives:\n  - name: a\n    margin: 1":                                                           `c.yaml:3: analysis.objectives[0].objective: is missing; give for example 99.9; no number of requests can show 100`,
		"analysis:\n  objectives:\n  - {name: a, objective: 9, margin: 1}\n  - {name: a, objective: 9, margin: 1}":       `c.yaml:4: analysis.objectives[1].name: "a" is used twice; give each objective its own name`,
		"analysis:\n  objectives:\n  - {name: a, objective: 9, margin: 1, good: x}":                                      `c.yaml:3: analysis.objectives[0]: latency, good and total do not fit together; give latency, or both good and total, or none of the three`,
		"imagePolicy:\n  repository: https://h/o/n":                                                                      `c.yaml:1: imagePolicy.keys: there is no signer; name a key or an identity`,
		"imagePolicy:\n  repository: https://h/o/n\n  keys: [x]":                                                         `c.yaml:3: imagePolicy.keys[0]: "x" is not a public key as PEM`,
		"imagePolicy:\n  repository: https://h/o/n\n  identities:\n  - issuer: i\n    subject: s\n    subjectPattern: p": `c.yaml:4: imagePolicy.identities[0]: it needs an issuer, and either subject or subjectPattern`,
		"approval:\n  project: a/b\n  environment: e\n  issuer: http://gitlab.example.com":                               `c.yaml:4: approval.issuer: keys from "http://gitlab.example.com" could be anybody's; give the https address`,
		"hooks:\n- name: a\n  point: beforeCanary\n  url: http://hooks.example.com/":                                     `c.yaml:4: hooks[0].url: the release would travel without encryption; use https; http is for this machine alone`,
		"hooks:\n- {name: a, point: afterRollback, job: a, onFailure: rollback}":                                         `c.yaml:2: hooks[0].onFailure: a hook at afterRollback runs when nothing is left to roll back: its failure is noted, and changes nothing; remove it`,
		"hooks:\n- {name: a, point: beforeCanary, job: a}\n- {name: a, point: beforeStep, job: b}":                       `c.yaml:3: hooks[1].name: another hook is called "a"; give each a name of its own: what it has done is noted by it`,
		"hooks:\n- {name: a, point: beforeCanary, job: a, secretEnv: B}":                                                 `c.yaml:2: hooks[0].secretEnv: it is for a url: it signs what is sent; remove it; a Job reads Secrets as its pods do`,
		"approval:\n  project: a/b\n  environment: e\n  issuer: https://g\n  number: 2\n  approvers: [a]":                `c.yaml:5: approval.number: 2 approvers are needed and 1 are named; name more approvers, or ask for fewer`,
		"approval:\n  project: a/b\n  environment: e\n  issuer: https://g\n  before: [canary]":                           `c.yaml:5: approval.before: promote is not in it, and what promote does is what the gate is for`,
		"approval:\n  project: a/b\n  environment: e\n  issuer: https://g\n  approvers:\n  - mona\n  - Mona":             `c.yaml:7: approval.approvers[1]: Mona is there twice; remove one`,
	} {
		_, err := Parse("c.yaml", []byte(text))
		if !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\ngot  %v\nwant %s", text, err, want)
		}
	}
}

func TestAllErrorsAtOnce(t *testing.T) {
	_, err := Parse("c.yaml", []byte("canary:\n  weight: 0\nguard: {dead: 5}\nap: x\n"))
	want := `c.yaml:2: canary.weight: 0 is not a whole number from 1 to 99; give for example 10, which is 10% of the traffic
c.yaml:3: guard.dead: 5 is not a duration above 0 with a unit; give the unit too: 5s or 5m
c.yaml:4: ap: is not a field; did you mean app?`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

// TestOptionsAreConfig: the table has every field of the file and no other, once.
func TestOptionsAreConfig(t *testing.T) {
	got := map[string]bool{}
	for _, o := range Options {
		if got[o.Key] {
			t.Errorf("%s is there twice", o.Key)
		}
		got[o.Key] = true
		if o.Doc == "" || strings.HasSuffix(o.Doc, ".") {
			t.Errorf("%s: Doc %q", o.Key, o.Doc)
		}
	}
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, key string) {
		switch {
		case typ.Kind() == reflect.Pointer:
			walk(typ.Elem(), key)
		case typ.Kind() == reflect.Struct && typ != durationType:
			delete(got, key) // a section may have a row of its own
			for i, name := range fieldNames(typ) {
				walk(typ.Field(i).Type, join(key, name))
			}
		case typ.Kind() == reflect.Slice:
			if !got[key] {
				t.Errorf("%s is not in the table", key)
			}
			delete(got, key)
			walk(typ.Elem(), key+"[]")
		default:
			o := byKey[key]
			if o == nil {
				t.Fatalf("%s is not in the table", key)
			}
			if o.form.what == "" || o.form.example == "" {
				t.Errorf("%s has no form", key)
			}
			if o.Variable != "" && typ.Kind() != reflect.String && (typ.Kind() != reflect.Bool || o.form.pattern == "") {
				t.Errorf("%s has a variable, whose value is only checked as text", key)
			}
			delete(got, key)
		}
	}
	walk(reflect.TypeFor[Config](), "")
	for key := range got {
		if strings.ContainsAny(key, ".[") {
			t.Errorf("%s is not in the file", key)
		}
	}
}

// TestPrecedence: flag, variable, file, what the platform sets, default.
func TestPrecedence(t *testing.T) {
	const file = "gitlab: {project: our-org/file}"
	for _, test := range []struct {
		name, flag, file string
		environment      []string
		want, origin     string
	}{
		{name: "nothing", origin: "--project"},
		{name: "platform", environment: []string{"GITLAB_CI", "true", "CI_PROJECT_PATH", "our-org/platform"}, want: "our-org/platform", origin: "$CI_PROJECT_PATH"},
		{name: "platform of another place", environment: []string{"CI_PROJECT_PATH", "our-org/platform"}, origin: "--project"},
		{name: "file over platform", file: file, environment: []string{"GITLAB_CI", "true", "CI_PROJECT_PATH", "our-org/platform"}, want: "our-org/file", origin: "c.yaml:1: gitlab.project"},
		{name: "variable over file", file: file, environment: []string{"CROSSBILL_GITLAB_PROJECT", "our-org/variable"}, want: "our-org/variable", origin: "CROSSBILL_GITLAB_PROJECT"},
		{name: "flag over all", flag: "our-org/flag", file: file, environment: []string{"CROSSBILL_GITLAB_PROJECT", "our-org/variable"}, want: "our-org/flag", origin: "--project"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Parse("c.yaml", []byte(test.file))
			if err != nil {
				t.Fatal(err)
			}
			flags := pflag.NewFlagSet("", pflag.ContinueOnError)
			project := flags.String("project", "", "")
			if test.flag != "" {
				if err := flags.Parse([]string{"--project", test.flag}); err != nil {
					t.Fatal(err)
				}
			}
			s, err := c.Resolve("trigger", flags, environment(test.environment...))
			if err != nil {
				t.Fatal(err)
			}
			if *project != test.want || s.Value("gitlab.project") != test.want {
				t.Errorf("--project is %q, the value %q, want %q", *project, s.Value("gitlab.project"), test.want)
			}
			if got := s.Name("gitlab.project"); got != test.origin {
				t.Errorf("named %q, want %q", got, test.origin)
			}
			if flags.Changed("project") != (test.flag != "") {
				t.Error("a flag that was not given counts as given")
			}
		})
	}
}

// TestEveryKindOfFlag: values of the file reach flags of all types.
func TestEveryKindOfFlag(t *testing.T) {
	c, err := Parse("infra/c.yaml", []byte(`
app: shop
cluster: {timeout: 1m30s}
canary: {weight: 0x19, sticky: true}
shift: {steps: [10, 50]}
image: {platforms: [linux/amd64, linux/arm64]}
probe: {rate: 2.5}
`))
	if err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	type values struct {
		Timeout   time.Duration
		Weight    int
		Sticky    bool
		Steps     []int
		Rate      float64
		Manifests string
	}
	var got values
	flags.DurationVar(&got.Timeout, "timeout", time.Minute, "")
	flags.IntVar(&got.Weight, "weight", 10, "")
	flags.BoolVar(&got.Sticky, "sticky", false, "")
	flags.IntSliceVar(&got.Steps, "steps", nil, "")
	flags.Float64Var(&got.Rate, "probe-rate", 10, "")
	flags.StringVar(&got.Manifests, "manifests", "k8s", "")
	if _, err := c.Resolve("canary", flags, environment()); err != nil {
		t.Fatal(err)
	}
	want := values{90 * time.Second, 25, true, []int{10, 50}, 2.5, filepath.Join("infra", "k8s")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("got +, want -: %s", diff)
	}
	platforms := flags.StringSlice("platform", nil, "")
	if _, err := c.Resolve("build", flags, environment()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, *platforms); diff != "" {
		t.Error(diff)
	}
}

// TestLoad: which file is read.
func TestLoad(t *testing.T) {
	t.Chdir(t.TempDir())
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load := func(named string, pairs ...string) string {
		c, err := Load(named, environment(pairs...))
		if err != nil {
			return err.Error()
		}
		return c.File() + " " + c.App
	}
	if got := load(""); got != " " {
		t.Errorf("without a file: %q", got)
	}
	write("crossbill.yml", "app: short")
	if got, want := load(""), "crossbill.yml: only crossbill.yaml is read; rename it, or name it with --config"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	write("crossbill.yaml", "app: here")
	write("other.yaml", "app: other")
	for _, test := range []struct{ got, want string }{
		{load(""), "crossbill.yaml here"},
		{load("", Variable, "other.yaml"), "other.yaml other"},
		{load("crossbill.yml", Variable, "other.yaml"), "crossbill.yml short"},
		{load(os.DevNull), " "},
		{load("none.yaml"), "config: open none.yaml: no such file or directory; give a readable file, or none"},
		{load("", Variable, "none.yaml"), "CROSSBILL_CONFIG: open none.yaml: no such file or directory; give a readable file, or none"},
	} {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
}

// TestSLO: from where the objectives come, and what of the old file.
func TestSLO(t *testing.T) {
	const section, old = "analysis: {falsePass: 7}", "falsePass: 8"
	for _, test := range []struct {
		name, file, old, named string
		want                   float64
		warning, err           string
	}{
		{name: "nothing", want: 5},
		{name: "section", file: section, want: 7},
		{name: "old file", old: old, want: 8, warning: "k8s/slo.yaml: the next version does not read this file; move its content to analysis: in crossbill.yaml"},
		{name: "both", file: section, old: old, err: "k8s/slo.yaml: crossbill.yaml:1 has the section analysis as well; keep the section and remove k8s/slo.yaml"},
		{name: "named", file: section, old: old, named: "other.yaml", want: 9},
		{name: "named and missing", named: "none.yaml", err: "none.yaml"},
		{name: "old file with an error", old: "falsePass: 80", err: "k8s/slo.yaml: falsePass"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := setUp(t, test.file, "slo.yaml", test.old)
			if err := os.WriteFile("other.yaml", []byte("falsePass: 9"), 0o600); err != nil {
				t.Fatal(err)
			}
			slo, warning, err := c.SLO(test.named, "k8s")
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want %s", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if slo.FalsePass != test.want || warning != test.warning || len(slo.Objectives) != 2 {
				t.Errorf("got %v %q, want %v %q", slo, warning, test.want, test.warning)
			}
		})
	}
}

// setUp is a working directory with crossbill.yaml and an old file beside the manifests, where they have text.
func setUp(t *testing.T, config, name, old string) *Config {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.Mkdir("k8s", 0o700); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{FileName: config, filepath.Join("k8s", name): old} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load("", environment())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPolicy: from where the image policy comes, and what of the old file.
func TestPolicy(t *testing.T) {
	policy := func(repository string) string {
		text, err := json.Marshal(map[string]any{"repository": "https://example.com/" + repository, "keys": []string{publicKey(t)}})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	section := "imagePolicy: " + policy("section")
	for _, test := range []struct {
		name, file, old, named string
		want, warning, err     string
	}{
		{name: "nothing"},
		{name: "section", file: section, want: "https://example.com/section"},
		{name: "old file", old: policy("old"), want: "https://example.com/old", warning: "k8s/trust.yaml: the next version does not read this file; move its content to imagePolicy: in crossbill.yaml"},
		{name: "both", file: section, old: policy("old"), err: "k8s/trust.yaml: crossbill.yaml:1 has the section imagePolicy as well; keep the section and remove k8s/trust.yaml"},
		{name: "named", file: section, old: policy("old"), named: "other.yaml", want: "https://example.com/named"},
		{name: "old file with an error", old: "keys: []", err: "k8s/trust.yaml repository"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := setUp(t, test.file, "trust.yaml", test.old)
			if err := os.WriteFile("other.yaml", []byte(policy("named")), 0o600); err != nil {
				t.Fatal(err)
			}
			verifier, warning, err := c.Policy(test.named, "k8s")
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want %s", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if verifier != nil {
				got = verifier.Repository()
			}
			if got != test.want || warning != test.warning {
				t.Errorf("got %q %q, want %q %q", got, warning, test.want, test.warning)
			}
		})
	}
}

// TestPolicyThatIsNotRead: a policy in a file that is not read is an error, never no policy.
func TestPolicyThatIsNotRead(t *testing.T) {
	for name, test := range map[string]struct {
		file, link string // a file with this name, or a link of this name that leads nowhere
		says       string
	}{
		"another extension":           {file: "k8s/trust.yml", says: "k8s/trust.yml: only trust.yaml is read; rename it"},
		"in capitals":                 {file: "k8s/Trust.yaml", says: "k8s/Trust.yaml: only trust.yaml is read"},
		"a link to nowhere":           {link: "k8s/trust.yaml", says: "k8s/trust.yaml"},
		"the file, another extension": {file: "crossbill.yml", says: "crossbill.yml: only crossbill.yaml is read; rename it, or name it with --config"},
		"the file, in capitals":       {file: "Crossbill.yaml", says: "Crossbill.yaml: only crossbill.yaml is read"},
		"the file, hidden":            {file: ".crossbill.yaml", says: ".crossbill.yaml: only crossbill.yaml is read"},
		"the file, a link to nowhere": {link: "crossbill.yaml", says: "crossbill.yaml: it is a link that leads nowhere"},
		"something else":              {file: "k8s/trusted.yaml"},
		"a folder's own":              {file: "trust"},
	} {
		t.Run(name, func(t *testing.T) {
			setUp(t, "", "trust.yaml", "")
			if test.file != "" {
				if err := os.WriteFile(test.file, []byte("repository: https://h/o/n"), 0o600); err != nil {
					t.Fatal(err)
				}
			} else if err := os.Symlink("/nonexistent/policy", test.link); err != nil {
				t.Fatal(err)
			}
			c, err := Load("", environment())
			if err == nil {
				var policy any
				if policy, _, err = c.Policy("", "k8s"); err == nil && test.says != "" {
					t.Errorf("got the policy %v, want %q", policy, test.says)
				}
			}
			if err != nil && (test.says == "" || !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("got %v, want %q", err, test.says)
			}
		})
	}
	for _, text := range []string{"imagepolicy:\n  repository: https://h/o/n", "image-policy: {}", "imagePolicy:", "imagePolicy: null", "imagePolicy: {}", "imagePolicy: ''", "image:\n  policy: {}"} {
		if c, err := Parse("crossbill.yaml", []byte(text)); err == nil {
			t.Errorf("%q is read as %+v", text, c.ImagePolicy)
		}
	}
}

// TestManifestsInAFile: a packaged chart, or one file of YAML, is no folder in which an old file could be.
func TestManifestsInAFile(t *testing.T) {
	for _, manifests := range []string{"k8s/shop-1.0.0.tgz", "k8s/shop.yaml"} {
		c := setUp(t, "imagePolicy: {repository: https://example.com/section, keys: ["+strconv.Quote(publicKey(t))+"]}", "trust.yaml", "")
		if err := os.WriteFile(manifests, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if verifier, warning, err := c.Policy("", manifests); err != nil || verifier == nil || warning != "" {
			t.Errorf("%s: the policy is %v, %q, %v", manifests, verifier, warning, err)
		}
		if slo, warning, err := c.SLO("", manifests); err != nil || slo == nil || warning != "" {
			t.Errorf("%s: the SLO is %v, %q, %v", manifests, slo, warning, err)
		}
	}
}

// TestExplain: an option is named as the person wrote it.
func TestExplain(t *testing.T) {
	c, err := Parse("c.yaml", []byte("prometheus: {url: http://p}\nshift: {steps: [5, 10]}"))
	if err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, name := range []string{"prometheus", "namespace", "release-id", "steps"} {
		flags.String(name, "", "")
	}
	flags.String("ref", "", "of a repository, not GitLab's")
	flags.String("trust", "", "")
	if err := flags.Parse([]string{"--release-id", "x", "--trust", "policy.yaml"}); err != nil {
		t.Fatal(err)
	}
	s, err := c.Resolve("verify", flags, environment("CROSSBILL_APP", "shop", "GITLAB_CI", "true", "CI_SERVER_URL", "https://gitlab.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"prometheus.url":           "c.yaml:1: prometheus.url",
		"shift.steps[1]":           "c.yaml:2: shift.steps[1]",
		"cluster.namespace":        "--namespace",
		"cluster.context":          "cluster.context", // the command has no flag for it
		"gitlab.ref":               "gitlab.ref",
		"gitlab.url":               "$CI_SERVER_URL",
		"app":                      "CROSSBILL_APP",
		"releaseId":                "--release-id",
		"image":                    "image",
		"releaseId, app":           "--release-id, CROSSBILL_APP",
		"shift.steps: 5 of them":   "c.yaml:2: shift.steps: 5 of them",
		"cluster.namespace: more":  "--namespace: more",
		"imagePolicy.repository":   "--trust",
		"Deployment shop-primary":  "Deployment shop-primary",
		"k8s/slo.yaml: falsePass":  "k8s/slo.yaml: falsePass",
		"analysis.objectives[0]":   "analysis.objectives[0]",
		"notify.github.repository": "notify.github.repository",
	} {
		got := s.Explain(&usererr.Error{Field: key, Problem: "is bad", Fix: "do"}).Error()
		if want += ": is bad; do"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	input := &usererr.Error{Field: "cluster.namespace", Problem: "is bad"}
	wrapped := s.Explain(fmt.Errorf("canary: %w; nothing was changed", input))
	if got, want := wrapped.Error(), "canary: --namespace: is bad; nothing was changed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(wrapped, input) {
		t.Error("the cause is lost")
	}
	other := errors.New("refused")
	if got := s.Explain(other); !errors.Is(got, other) || got.Error() != other.Error() {
		t.Errorf("got %v", got)
	}
}

// TestBadVariables: a bad value is named by the variable that has it.
func TestBadVariables(t *testing.T) {
	for _, test := range []struct {
		environment []string
		want        string
	}{
		{[]string{"CROSSBILL_PROMETHEUS", "prometheus:9090"}, `CROSSBILL_PROMETHEUS: "prometheus:9090" is not a web address`},
		{[]string{"GITLAB_CI", "true", "CI_SERVER_URL", "gitlab"}, `$CI_SERVER_URL: "gitlab" is not a web address`},
	} {
		_, err := new(Config).Resolve("verify", nil, environment(test.environment...))
		if !errors.As(err, new(*usererr.Error)) || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.Int("namespace", 0, "")
	if _, err := new(Config).Resolve("verify", flags, environment("CROSSBILL_NAMESPACE", "x")); !errors.As(err, new(*usererr.Error)) || !strings.HasPrefix(err.Error(), "CROSSBILL_NAMESPACE: ") {
		t.Errorf("a flag that does not take it: %v", err)
	}
}

// TestPlatforms: what GitLab and GitHub set counts in their jobs alone, and is no reason to notify anybody.
func TestPlatforms(t *testing.T) {
	github := []string{"GITHUB_REPOSITORY", "our-org/shop", "GITHUB_SERVER_URL", "https://github.com", "GITHUB_RUN_ID", "12", "GITHUB_SHA", "abc"}
	gitlab := []string{"CI_PIPELINE_URL", "https://gitlab.example.com/p/1", "CI_COMMIT_SHA", "def"}
	for _, test := range []struct {
		name        string
		environment []string
		want        [4]string // repository, commit, sourceUrl, pipelineUrl
	}{
		{"a laptop", slices.Concat(github, gitlab), [4]string{}},
		{"GitHub", slices.Concat(github, gitlab, []string{"GITHUB_ACTIONS", "true"}), [4]string{"our-org/shop", "abc", "https://github.com/our-org/shop/actions/runs/12", ""}},
		{"GitLab", slices.Concat(github, gitlab, []string{"GITLAB_CI", "true"}), [4]string{"", "def", "https://gitlab.example.com/p/1", "https://gitlab.example.com/p/1"}},
	} {
		s, err := new(Config).Resolve("trigger", nil, environment(test.environment...))
		if err != nil {
			t.Fatal(err)
		}
		got := [4]string{s.Value("notify.github.repository"), s.Value("commit"), s.Value("sourceUrl"), s.Value("pipelineUrl")}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: got +, want -: %s", test.name, diff)
		}
		if token := s.Value("githubToken"); token != "" {
			t.Errorf("%s: token %q", test.name, token)
		}
	}
}

// FuzzParse: a file is refused, or what it says is in bounds. It never panics.
func FuzzParse(f *testing.F) {
	for _, text := range valid {
		f.Add(text)
	}
	for key, values := range invalid {
		for _, value := range values {
			f.Add(nested(key, value))
		}
	}
	for _, text := range []string{"a: &a {b: *a}", "app: &x shop\nmanifests: *x", "<<: &a {app: shop}", "--- \n...\n", "? ? a", "!!binary app: !!str 5", "\ufeffapp: shop", "app: |\n  shop", "image: {platforms: [\"a,b/c\"]}"} {
		f.Add(text)
	}
	validate := validator(f)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("c.yaml", []byte(text))
		if err != nil {
			if !errors.As(err, new(*usererr.Error)) || !strings.HasPrefix(err.Error(), "c.yaml:") {
				t.Fatalf("an error without a place: %v", err)
			}
			return
		}
		if err := validate(text); err != nil {
			t.Fatalf("the parser accepts what the schema refuses: %v", err)
		}
		if w := c.Canary.Weight; w < 0 || w > 99 || c.Cluster.Timeout.Duration < 0 || strings.ContainsAny(c.Cluster.Namespace, " /") {
			t.Fatalf("out of bounds: %+v", c)
		}
		if c.Analysis != nil {
			if err := c.Analysis.Check(); err != nil {
				t.Fatal(err)
			}
		}
		if p := c.Approval; p != nil && (p.Issuer == "" || p.Project == "" || p.Environment == "" || p.Ref == "" || p.Audience == "" || p.Number < 1 || !p.Asks("promote")) {
			t.Fatalf("a policy that asks for nothing: %+v", p)
		}
		if _, err := c.Resolve("canary", nil, environment()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestPlan: the steps are a release's plan, with an analysis wherever none was written.
func TestPlan(t *testing.T) {
	for text, want := range map[string][]string{
		"":                      nil,
		"steps: [{weight: 10}]": {"weight 10%", "analyze"},
		"steps: [{match: 'header:X-Canary=yes'}, {mirror: 5%}, {weight: 10}, {pause: 5m}, {weight: 50}, {analyze: {minRequests: 200, minDuration: 10m}}, {approve: {}}]": {
			"match header:x-canary=yes", "analyze", "mirror 5%", "analyze", "weight 10%", "pause 5m", "analyze", "weight 50%", "analyze, 200 requests, at least 10m", "approve",
		},
		"steps: [{weight: 10}, {analyze: {}}, {pause: 1h}, {weight: 50}]": {"weight 10%", "analyze", "pause 1h", "weight 50%", "analyze"},
	} {
		c, err := Parse("c.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		plan, err := c.Plan()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range plan {
			got = append(got, s.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

// TestOldPolicyBesideABundle: a bundle does not leave out the policy that is still beside the manifests.
func TestOldPolicyBesideABundle(t *testing.T) {
	text, err := json.Marshal(map[string]any{"repository": "https://example.com/old", "keys": []string{publicKey(t)}})
	if err != nil {
		t.Fatal(err)
	}
	c := setUp(t, "app: shop\n", "trust.yaml", string(text))
	verifier, _, err := c.Policy("", "oci://registry.example.com/our-org/shop@sha256:"+strings.Repeat("0", 64))
	if bad, ok := errors.AsType[*usererr.Error](err); !ok || !strings.HasSuffix(bad.Field, "k8s/trust.yaml") {
		t.Errorf("%v, %v: k8s/trust.yaml was left out", verifier, err)
	}
}
