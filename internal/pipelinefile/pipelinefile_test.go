package pipelinefile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/our-org/crossbill/internal/config"
)

// TestBehaviors is GitLab's table of when and allow_failure.
func TestBehaviors(t *testing.T) {
	for name, test := range map[string]struct {
		job  string
		want []Behavior
	}{
		"nothing":                                         {`{}`, []Behavior{{"on_success", false}}},
		"manual at the job, no rules":                     {`{when: manual}`, []Behavior{{"manual", true}}},
		"manual at the job, rules without when":           {`{when: manual, rules: [{if: $A}]}`, []Behavior{{"manual", true}, {"never", false}}},
		"the same, failure not allowed":                   {`{when: manual, allow_failure: false, rules: [{if: $A}]}`, []Behavior{{"manual", false}, {"never", false}}},
		"manual in the rule":                              {`{rules: [{if: $A, when: manual}]}`, []Behavior{{"manual", false}, {"never", false}}},
		"manual in the rule, failure allowed":             {`{rules: [{if: $A, when: manual, allow_failure: true}]}`, []Behavior{{"manual", true}, {"never", false}}},
		"the rule wins, but failure is allowed all along": {`{when: manual, rules: [{if: $A, when: on_success}]}`, []Behavior{{"on_success", true}, {"never", false}}},
		"nothing after a rule that always matches":        {`{rules: [{if: $A, when: never}, {when: manual}, {when: always}]}`, []Behavior{{"never", false}, {"manual", false}}},
		"exit codes":                                      {`{when: manual, allow_failure: {exit_codes: 4}}`, []Behavior{{"manual", false}}},
		"inherited":                                       {`{extends: .base}`, []Behavior{{"manual", true}}},
		"inherited, then changed":                         {`{extends: .base, allow_failure: false}`, []Behavior{{"manual", false}}},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := Parse([]byte(".base: {when: manual}\njob: " + test.job + "\n"))
			if err != nil {
				t.Fatal(err)
			}
			got := f.Job("job").Behaviors()
			for i := range got {
				if got[i].When == "never" {
					got[i].AllowFailure = false // says nothing
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// TestThisRepository proves the repository's own file, with the component that it includes and each of its engines.
func TestThisRepository(t *testing.T) {
	for _, engine := range Engines {
		f, err := ParseIncluding([]byte(including(t, engine)), InRepository("../.."))
		if err != nil {
			t.Fatal(engine, err)
		}
		for _, finding := range Check(f, Options{}) {
			t.Errorf("%s: %s", engine, finding)
		}
		if len(f.Jobs) != 11 {
			t.Errorf("%s: %d jobs", engine, len(f.Jobs))
		}
	}
}

// TestFlat: what the other tests change is what the include makes of the two files.
func TestFlat(t *testing.T) {
	for _, engine := range Engines {
		included, err := ParseIncluding([]byte(including(t, engine)), InRepository("../.."))
		if err != nil {
			t.Fatal(err)
		}
		flat, err := Parse([]byte(Flat(t, engine)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(described(flat), described(included)); diff != "" {
			t.Errorf("%s: %s", engine, diff)
		}
	}
}

// described is everything that a file says.
func described(f *File) []string {
	all := []string{f.Name, f.workflow.canonical(), f.stages.canonical(), f.variables.canonical()}
	for _, job := range f.Jobs {
		all = append(all, job.Name+" "+job.values.canonical())
	}
	return all
}

// oneShell is a job's script with its after_script, which a runner gives a shell of its own: there crossbill is no function.
func oneShell(job *Job) string {
	return strings.ReplaceAll(strings.Join(job.Script, "\n"), "\ncrossbill report ", "\ncommand crossbill report ")
}

// TestOneJobIsOneCall: the pipeline file stays thin, each job leaves a report, and both variants have the same
// jobs.
func TestOneJobIsOneCall(t *testing.T) {
	engine, err := Parse([]byte(Flat(t, "dagger")))
	if err != nil {
		t.Fatal(err)
	}
	without, err := Parse([]byte(Flat(t, "none")))
	if err != nil {
		t.Fatal(err)
	}
	for i, job := range engine.Jobs {
		script := "\n" + strings.Join(job.Script, "\n")
		if calls, reports := strings.Count(script, "\ncrossbill "), strings.Count(script, " report -o report.html"); calls != 1 || reports != 1 {
			t.Errorf("%s: %d calls and %d reports", job.Name, calls, reports)
		}
		other := without.Jobs[i]
		if other.Name != job.Name || other.Stage != job.Stage || !slices.Equal(other.Needs, job.Needs) || !slices.Equal(other.Behaviors(), job.Behaviors()) {
			t.Errorf("%s is not %s in %s", other.Name, job.Name, "engine none")
		}
	}
}

// TestAJobsCall runs a job's script as a runner does, and looks at the words that `dagger` gets.
func TestAJobsCall(t *testing.T) {
	file, err := Parse([]byte(Flat(t, "dagger")))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"dagger", "wget", "sha256sum", "tar"} {
		text := "#!/bin/sh\n"
		if name == "dagger" {
			text += `printf '%s\n' "$DAGGER_MODULE" "$@"`
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		empty     string // of the inputs image and bundle
		env       []string
		manifests []string
		notified  []string
	}{
		"nobody is notified": {empty: "bundle", manifests: []string{"k8s", "--manifests-bundle", ""}},
		"a bundle":           {empty: "image", manifests: []string{"k8s", "--manifests-bundle", "the-bundle"}},
		"all are notified": {
			"bundle", []string{"CROSSBILL_GITHUB_TOKEN=secret", "CROSSBILL_NOTIFY_GITLAB_TOKEN=secret", "REGISTRY_HOST=registry.example.com", "REGISTRY_USERNAME=ci", "REGISTRY_PASSWORD=secret", "CROSSBILL_WEBHOOK=secret"},
			[]string{"k8s", "--manifests-bundle", ""},
			[]string{
				"--registry-host", "registry.example.com", "--registry-username", "ci", "--registry-password", "env:REGISTRY_PASSWORD",
				"--github-token", "env:CROSSBILL_GITHUB_TOKEN", "--notify-gitlab-token", "env:CROSSBILL_NOTIFY_GITLAB_TOKEN", "--webhook-url", "env:CROSSBILL_WEBHOOK",
			},
		},
		"an environment repository, and a Prometheus with a login": {
			"bundle", []string{"CROSSBILL_PROMETHEUS_CONFIG=/p", "CROSSBILL_GITOPS_TOKEN_FILE=/builds/my token", "CROSSBILL_GITOPS_SSH_KEY_FILE=/k", "CROSSBILL_GITOPS_SIGNING_KEY_FILE=/s", "CROSSBILL_GITOPS_KNOWN_HOSTS_FILE=/h"},
			[]string{"k8s", "--manifests-bundle", ""},
			[]string{"--prometheus-http-config", "file:/p", "--gitops-token", "file:/builds/my token", "--gitops-ssh-key", "file:/k", "--gitops-known-hosts", "/h", "--gitops-signing-key", "file:/s"},
		},
	} {
		script := strings.ReplaceAll(strings.Join(file.Job("rollback").Script, "\n"), "$[[ inputs."+test.empty+" ]]", "")
		cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", interpolated.ReplaceAllString(script, "the-$1"))
		cmd.Dir = dir
		cmd.Env = append([]string{
			"PATH=" + dir + ":" + os.Getenv("PATH"), "KUBECONFIG=/builds/my kubeconfig", "GITLAB_USER_LOGIN=jane", "CI_JOB_ID=7", "CI_JOB_NAME=rollback",
			"CI_PIPELINE_URL=https://gitlab.example.com/1", "CI_SERVER_URL=u", "CI_PROJECT_PATH=p",
			"RELEASE_ID=another", "DAGGER_MODULE=github.com/stranger/module", "CLI=stranger", "APP=another", "BUNDLE=another", // trigger variables, which do not win
		}, test.env...)
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		text, err := os.ReadFile(filepath.Join(dir, "rollback.json"))
		if err != nil {
			t.Fatal(err)
		}
		want := slices.Concat(
			[]string{".", "call", "--config-file", "crossbill.yaml", "--manifests-dir"}, test.manifests,
			[]string{"--kubeconfig-file", "file:/builds/my kubeconfig", "--by", "jane@gitlab-job-7", "--app-name", "the-app"},
			test.notified,
			[]string{"rollback", "--release-id", "the-release_id", "--reason", "rollback of https://gitlab.example.com/1"},
		)
		if got := strings.Split(strings.TrimSpace(string(text)), "\n"); !slices.Equal(got, want) {
			t.Errorf("%s: %q\nwant %q", name, got, want)
		}
	}
}

// withTools is a folder with what the jobs call: the command as a script, and what gets it, which does nothing.
func withTools(t *testing.T, command string) string {
	t.Helper()
	dir := t.TempDir()
	for _, tool := range []string{"dagger", "crossbill", "wget", "sha256sum", "tar"} {
		text := "#!/bin/sh\n"
		if tool == "dagger" || tool == "crossbill" {
			text += command
		}
		if err := os.WriteFile(filepath.Join(dir, tool), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestRollsBackOnTheCodesThatMeanIt runs the scripts of the jobs that roll back automatically, after each exit code of
// the job that failed, as a runner does: with that job's artifact. An API server that was away for a minute (1), bad
// input (2) or another job's lock (5) do not roll a release back.
func TestRollsBackOnTheCodesThatMeanIt(t *testing.T) {
	for _, engine := range Engines {
		file, err := Parse([]byte(Flat(t, engine)))
		if err != nil {
			t.Fatal(err)
		}
		for name, after := range map[string]struct {
			job   string
			codes []int
		}{
			"rollback_after_canary":  {"deploy_canary", []int{3, 6}},
			"rollback_after_verify":  {"verify_canary", []int{3, 4, 6}},
			"rollback_after_promote": {"promote_to_production", []int{3, 6}},
			"rollback_after_watch":   {"watch_canary", []int{3, 4, 6}},
		} {
			for code := range 8 {
				dir := withTools(t, "case \"$*\" in *rollback*) echo rollback >>calls ;; *report*) ;; *) exit $CODE ;; esac\n")
				run := func(job string) error {
					cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", interpolated.ReplaceAllString(oneShell(file.Job(job)), "the-$1"))
					cmd.Dir = dir
					cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "KUBECONFIG=k", "CODE=" + strconv.Itoa(code), "CI_JOB_NAME=" + job}
					return cmd.Run()
				}
				var failed *exec.ExitError
				if err := run(after.job); errors.As(err, &failed) != (code != 0) || failed != nil && failed.ExitCode() != code {
					t.Fatalf("%s: %s with %d: %v", engine, after.job, code, err)
				}
				err := run(name)
				calls, _ := os.ReadFile(filepath.Join(dir, "calls"))
				if want := slices.Contains(after.codes, code); (err == nil) != want || (string(calls) == "rollback\n") != want {
					t.Errorf("%s: %s after exit code %d: %v, calls %q", engine, name, code, err, calls)
				}
			}
		}
		dir := withTools(t, "") // a job that died left no artifact
		cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", strings.Join(file.Job("rollback_after_verify").Script, "\n"))
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + dir + ":/usr/bin:/bin"}
		if err := cmd.Run(); err == nil {
			t.Errorf("%s: it rolls back after a job that left nothing", engine)
		}
	}
}

// TestTheWatchHoldsNobodyUp: the gate can be pressed while the canary is judged on, whatever becomes of that.
func TestTheWatchHoldsNobodyUp(t *testing.T) {
	for _, engine := range Engines {
		file, err := Parse([]byte(Flat(t, engine)))
		if err != nil {
			t.Fatal(err)
		}
		watch, gate := file.Job("watch_canary"), file.Job("promote_to_production")
		if watch.ResourceGroup == gate.ResourceGroup || watch.ResourceGroup == "" {
			t.Errorf("%s: both jobs have the resource group %q: one waits for the other", engine, gate.ResourceGroup)
		}
		for _, good := range []bool{true, false} {
			m, err := file.Simulate()
			if err != nil {
				t.Fatal(err)
			}
			for _, job := range []string{"queue", "deploy_canary", "verify_canary"} {
				if err := m.Finish(job, true); err != nil {
					t.Fatal(err)
				}
			}
			for _, step := range []func() error{
				func() error { return m.Press("promote_to_production") }, func() error { return m.Finish("promote_to_production", true) },
				func() error { return m.Finish("cleanup", true) }, func() error { return m.Finish("watch_canary", good) },
			} {
				if err := step(); err != nil {
					t.Errorf("%s, the watch ends well: %t: %v", engine, good, err)
				}
			}
		}
	}
}

// TestTriggerVariablesDoNotConfigure: where a release goes is in crossbill.yaml. A variable of crossbill's would win
// over the file, and whoever can trigger can set variables.
func TestTriggerVariablesDoNotConfigure(t *testing.T) {
	file, err := Parse([]byte(Flat(t, "none")))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	const shown = "#!/bin/sh\nenv | grep ^CROSSBILL_ | sort | sed \"s/^/$1: /\" >>environment\n"
	if err := os.WriteFile(filepath.Join(dir, "crossbill"), []byte(shown), 0o755); err != nil {
		t.Fatal(err)
	}
	job := file.Job("deploy_canary")
	for empty, manifests := range map[string]string{"bundle": "", "image": "canary: CROSSBILL_MANIFESTS=oci://the-bundle\n"} {
		script := strings.ReplaceAll(oneShell(job), "$[[ inputs."+empty+" ]]", "")
		cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", interpolated.ReplaceAllString(script, "the-$1"))
		cmd.Dir = dir
		cmd.Env = []string{
			"PATH=" + dir + ":" + os.Getenv("PATH"), "KUBECONFIG=k", "CROSSBILL_GITHUB_TOKEN=token", "CROSSBILL_WEBHOOK=https://hooks.example.com",
			"CROSSBILL_CONFIG=/builds/of/a/stranger.yaml", "CROSSBILL_NAMESPACE=kube-system", "CROSSBILL_PROMETHEUS=http://stranger", "CROSSBILL_MANIFESTS=oci://stranger",
			"CROSSBILL_GITOPS_TOKEN_FILE=/builds/token", "CROSSBILL_GITOPS_REPOSITORY=https://stranger/environment.git",
		}
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		text, err := os.ReadFile(filepath.Join(dir, "environment"))
		if err != nil {
			t.Fatal(err)
		}
		want := "canary: CROSSBILL_GITHUB_TOKEN=token\ncanary: CROSSBILL_GITOPS_TOKEN_FILE=/builds/token\n" + manifests + "canary: CROSSBILL_WEBHOOK=https://hooks.example.com\n"
		want += strings.ReplaceAll(want, "canary:", "report:")
		if got := string(text); got != want {
			t.Errorf("without %s, crossbill has\n%swant\n%s", empty, got, want)
		}
		if err := os.Remove(filepath.Join(dir, "environment")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCredentialsReachTheJobs: every credential that a release needs reaches the command, by its own image and by an engine, in the
// report as well, and where releases are handed over by a commit.
func TestCredentialsReachTheJobs(t *testing.T) {
	elsewhere := map[string]string{
		"CROSSBILL_SIGNING_KEY":                 "images are signed where they are built",
		"CROSSBILL_GITOPS_ALLOWED_SIGNERS_FILE": "crossbill run alone reads it",
		"CROSSBILL_REQUIRE_PROVENANCE":          "no credential",
	}
	byCommit, err := os.ReadFile("../../.gitlab/environment.gitlab-ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	kept := regexp.MustCompile(`case \$name in (.*?)\) ;;`)
	own, commit := kept.FindStringSubmatch(Flat(t, "none")), kept.FindSubmatch(byCommit)
	if own == nil || commit == nil {
		t.Fatal("no list of the variables that are kept")
	}
	engine := Flat(t, "dagger")
	report := regexp.MustCompile(`(?m)^.* report -o report\.html$`).FindString(engine)
	for _, o := range config.Options {
		name := o.Variable
		credential := o.Secret || o.Key == "prometheus.httpConfig" || strings.HasPrefix(o.Key, "gitops.") && strings.HasSuffix(o.Key, "File")
		if !credential || !strings.HasPrefix(name, "CROSSBILL_") || elsewhere[name] != "" {
			continue
		}
		for where, list := range map[string]string{"templates/release/template.yml": own[1], ".gitlab/environment.gitlab-ci.yml": string(commit[1])} {
			if !slices.Contains(strings.Split(list, " | "), name) {
				t.Errorf("%s unsets %s", where, name)
			}
		}
		passed := regexp.MustCompile(`\$\{` + name + `:\+--|--\S+ "\$` + name + `"`)
		if !passed.MatchString(engine) {
			t.Errorf("dagger call does not get %s", name)
		}
		if strings.HasPrefix(o.Key, "gitops.") && !passed.MatchString(report) { // the ledger may be in that repository
			t.Errorf("the report does not get %s", name)
		}
	}
}

// TestBrokenFiles breaks the repository's file in one way each: the rule that is broken is found.
func TestBrokenFiles(t *testing.T) {
	gate := "  rules:\n    - when: manual\n      allow_failure: false\n  manual_confirmation"
	for name, test := range map[string]struct {
		old, new string
		rules    []string // that must be found
	}{
		"manual at the job beside rules":      {gate, "  when: manual\n  rules:\n    - if: $CI_PIPELINE_SOURCE == \"trigger\"\n  manual_confirmation", []string{RuleGateBlocks, RuleGreen}},
		"the same, and cleanup needs nothing": {gate + "@@  needs: [promote_to_production]\n  script:\n    - crossbill cleanup", "  when: manual\n  rules:\n    - if: $CI_PIPELINE_SOURCE == \"trigger\"\n  manual_confirmation@@  script:\n    - crossbill cleanup", []string{RuleGateBlocks, RuleNothingAfter, RuleGreen}},
		"failure of the gate is allowed":      {"allow_failure: false", "allow_failure: true", []string{RuleGateBlocks}},
		"the gate opens by itself":            {gate, "  manual_confirmation", []string{RuleGateBlocks}},
		"the gate opens by itself sometimes":  {gate, "  rules:\n    - if: $SKIP\n    - when: manual\n  manual_confirmation", []string{RuleGateBlocks}},
		"cleanup needs verify alone":          {"  needs: [promote_to_production]\n  script:\n    - crossbill cleanup", "  needs: [verify_canary]\n  script:\n    - crossbill cleanup", []string{RuleNothingAfter}},
		"cleanup always":                      {"  needs: [promote_to_production]\n  script:\n    - crossbill cleanup", "  when: always\n  script:\n    - crossbill cleanup", []string{RuleNothingAfter}},
		"rollback waits for its stage":        {"  needs: []\n", "", []string{RuleRollback}},
		"one rollback for both":               {".rollback\n  needs: [verify_canary]\n", ".rollback\n  needs: [verify_canary, promote_to_production]\n", []string{RuleRollsBack}},
		"no rollback after canary":            {"\nrollback_after_canary:", "\n.rollback_after_canary:", []string{RuleRollsBack}},
		"no rollback after promote":           {"\nrollback_after_promote:", "\n.rollback_after_promote:", []string{RuleRollsBack}},
		"a rollback that blocks":              {"      allow_failure: true", "      allow_failure: false", []string{RuleNotBlocking}},
		"an image by tag":                     {`--image "$IMAGE"`, `--image registry.example.com/app:v1`, []string{RuleByDigest}},
		"an image by variable":                {`--image "$IMAGE"`, `--image "$APP_IMAGE"`, []string{RuleByDigest}},
		"a pattern that takes tags":           {"@sha256:[0-9a-f]{64})?$", "(:[a-z]+|@sha256:[0-9a-f]{64}))?$", []string{RuleByDigest}},
		"a pattern that takes short digests":  {"@sha256:[0-9a-f]{64})?$", "@sha256:[0-9a-f]{8,64})?$", []string{RuleByDigest}},
		"a pattern that takes a line more":    {"@sha256:[0-9a-f]{64})?$", "@sha256:[0-9a-f]{64})?", []string{RuleByDigest}},
		"a pattern without a beginning":       {"regex: ^(registry", "regex: (registry", []string{RuleByDigest}},
		"a pattern without an end":            {"[0-9a-f]{7,64})?$", "[0-9a-f]{7,64})?", []string{RuleInput}},
		"a pattern that takes all":            {`^([0-9a-f]{7,64})?$`, `.*`, []string{RuleInput}},
		"no pattern":                          {"      regex: ^([0-9a-f]{7,64})?$\n", "", []string{RuleInput}},
		"the context as a variable":           {"\n.release:\n", "\nvariables:\n  KUBE_CONTEXT: production\n\n.release:\n", []string{RuleOverridable}},
		"the module as a variable":            {"    RUNNER_SCRIPT_TIMEOUT: 24m\n", "    DAGGER_MODULE: github.com/our-org/crossbill\n", []string{RuleOverridable}},
		"the command as a variable":           {"    RUNNER_SCRIPT_TIMEOUT: 24m\n", "    CLI: registry.example.com/our-org/crossbill@sha256:0123\n", []string{RuleOverridable}},
		"the engine as a variable":            {"    RUNNER_SCRIPT_TIMEOUT: 24m\n", "    DOCKER_HOST: tcp://docker:2376\n", []string{RuleOverridable}},
		"interruptible":                       {"interruptible: false", "interruptible: true", []string{RuleOneByOne}},
		"no resource group":                   {"  resource_group: production/$[[ inputs.app ]]\n", "", []string{RuleOneByOne}},
		"retry of anything":                   {"    when: [runner_system_failure, scheduler_failure]\n", "", []string{RuleRetry}},
		"retry of a failed script":            {"[runner_system_failure, scheduler_failure]", "[script_failure]", []string{RuleRetry}},
		"one environment for two":             {"    name: production/$[[ inputs.app ]]\n    url", "    name: production/$[[ inputs.app ]]-canary\n    url", []string{RuleEnvironment}},
		"pushes deploy":                       {`    - if: $CI_PIPELINE_SOURCE == "trigger"`, `    - if: $CI_PIPELINE_SOURCE == "push" || $CI_PIPELINE_SOURCE == "trigger"`, []string{RuleWorkflow}},
		"everything deploys":                  {`    - if: $CI_PIPELINE_SOURCE == "trigger" || $CI_PIPELINE_SOURCE == "api" || $CI_PIPELINE_SOURCE == "web"`, `    - when: always`, []string{RuleWorkflow}},
		"triggers do not deploy":              {`$CI_PIPELINE_SOURCE == "trigger" || `, ``, []string{RuleWorkflow}},
		"another name":                        {"name: release $[[ inputs.app ]] $[[ inputs.release_id ]]", "name: release $[[ inputs.release_id ]]", []string{RuleName}},
		"no gate":                             {"\npromote_to_production:\n", "\npromote:\n", nil}, // cleanup's need is an error
		"jobs from elsewhere":                 {"\nstages:", "\ninclude: [{local: other.yml}]\n\nstages:", []string{RuleIncluded}},
	} {
		t.Run(name, func(t *testing.T) {
			text := Flat(t, "dagger")
			olds, news := strings.Split(test.old, "@@"), strings.Split(test.new, "@@")
			for i := range olds {
				if !strings.Contains(text, olds[i]) {
					t.Fatalf("the file has no %q", olds[i])
				}
				text = strings.Replace(text, olds[i], news[i], 1)
			}
			f, err := Parse([]byte(text))
			if test.rules == nil {
				if err == nil && len(Check(f, Options{})) == 0 {
					t.Error("nothing found")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			found := Check(f, Options{})
			for _, rule := range test.rules {
				if !slices.ContainsFunc(found, func(f Finding) bool { return f.Rule == rule }) {
					t.Errorf("%s is not among %v", rule, found)
				}
			}
			for _, f := range found {
				if f.Fix == "" || f.Problem == "" {
					t.Errorf("%+v says too little", f)
				}
			}
		})
	}
}

// followingFile is a shipped file with the jobs of docs/guides/steps.md in place of those that they replace.
func followingFile(t *testing.T, engine string, second bool) string {
	t.Helper()
	_, rest, _ := strings.Cut(read(t, "docs/guides/steps.md"), "```yaml\ndeploy_canary:\n")
	jobs, _, found := strings.Cut(rest, "```\n")
	if !found {
		t.Fatal("docs/guides/steps.md has no jobs")
	}
	verified := "follow_canary"
	if !second {
		jobs, _, found = strings.Cut(jobs, "\n# For an approve step")
		if verified = "deploy_canary"; !found {
			t.Fatal("docs/guides/steps.md does not say what the second job is for")
		}
	}
	text := Flat(t, engine)
	for _, job := range []string{"verify_canary", "rollback_after_canary", "rollback_after_verify", "deploy_canary"} {
		whole := regexp.MustCompile(`\n` + job + `:\n(  .*\n)+`)
		if !whole.MatchString(text) {
			t.Fatalf("%s has no job %s", engine, job)
		}
		in := "\n"
		if job == "deploy_canary" {
			in += job + ":\n" + jobs
		}
		text = strings.Replace(text, whole.FindString(text), in, 1)
	}
	return strings.Replace(text, "needs: [verify_canary]", "needs: ["+verified+"]", 1)
}

// TestFollowingPipeline: a job with `canary --follow` is the canary and its verification. The jobs that the guide shows are
// right in both files, with and without the second of them, and each way of breaking them is found.
func TestFollowingPipeline(t *testing.T) {
	for _, engine := range Engines {
		for _, second := range []bool{true, false} {
			f, err := Parse([]byte(followingFile(t, engine, second)))
			if err != nil {
				t.Fatal(engine, second, err)
			}
			if follow := f.Job("follow_canary") != nil; follow != second || f.Job("verify_canary") != nil {
				t.Fatalf("%s, second %t: the jobs are not those of the guide", engine, second)
			}
			for _, finding := range Check(f, Options{}) {
				t.Errorf("%s, second %t: %s", engine, second, finding)
			}
		}
	}
	for name, test := range map[string]struct {
		old, new string
		all      bool // replaced everywhere
		rule     string
		says     string
	}{
		"no --follow":                  {"--follow ", "", true, RuleVerified, "watch_canary has not succeeded"},
		"taken back":                   {"--follow ", "--follow --follow=false ", true, RuleVerified, "watch_canary has not succeeded"},
		"the value of another option":  {"--follow ", "--reason --follow ", true, RuleVerified, "watch_canary has not succeeded"},
		"only sometimes":               {"    - crossbill canary --follow", "    - if [ -f steps ]; then exit 0; fi\n    - crossbill canary --follow", false, RuleVerified, "without `crossbill canary --follow`"},
		"followed or not":              {"    - crossbill canary --follow", "    - test -f steps || crossbill canary --image \"$IMAGE\" || exit 1\n    - test ! -f steps || crossbill canary --follow", false, RuleVerified, "without `crossbill canary --follow`"},
		"its failure is hidden":        {"${AGAIN:+--again} > canary.json", "${AGAIN:+--again} > canary.json || true", false, RuleRollsBack, "goes on after"},
		"its failure is allowed":       {"follow_canary:\n", "follow_canary:\n  allow_failure: true\n", false, RuleVerified, "follow_canary has not succeeded"},
		"the gate waits for the first": {"  rules:\n    - when: manual\n      allow_failure: false\n  manual_confirmation", "  needs: [deploy_canary]\n  rules:\n    - when: manual\n      allow_failure: false\n  manual_confirmation", false, RuleVerified, "follow_canary has not succeeded"},
		"no rollback":                  {"\nrollback_after_canary:", "\n.rollback_after_canary:", false, RuleRollsBack, "does not start a rollback"},
		"no second rollback":           {"\nrollback_after_follow:", "\n.rollback_after_follow:", false, RuleRollsBack, "does not start a rollback"},
		"not on unhealthy":             {"rolls_back_on 3 4 6", "rolls_back_on 4 6", false, RuleRollsBack, "exit code 3 of deploy_canary"},
		"not on inconclusive":          {"rolls_back_on 3 4 6", "rolls_back_on 3 6", false, RuleRollsBack, "exit code 4 of deploy_canary"},
		"not on not ready":             {"rolls_back_on 3 4 6", "rolls_back_on 3 4", false, RuleRollsBack, "exit code 6 of deploy_canary"},
		"when the time is over":        {"rolls_back_on 3 4 6", "rolls_back_on 3 4 6 8", false, RuleRollsBack, "exit code 8 of deploy_canary"},
		"on everything":                {"    - rolls_back_on 3 4 6\n", "", false, RuleRollsBack, "every failure of deploy_canary"},
		"retried on more":              {"exit_codes: [8]", "exit_codes: [1, 8]", false, RuleRetry, "some exit codes"},
		"retried on another":           {"exit_codes: [8]", "exit_codes: 3", false, RuleRetry, "exit code 3"},
		"retried on everything":        {"    when: [runner_system_failure, scheduler_failure]\n    exit_codes", "    when: always\n    exit_codes", false, RuleRetry, "always"},
		"another job retried on 8":     {"  manual_confirmation", "  retry: {max: 1, when: [scheduler_failure], exit_codes: [8]}\n  manual_confirmation", false, RuleRetry, "exit code 8"},
	} {
		t.Run(name, func(t *testing.T) {
			text, times := followingFile(t, "dagger", true), 1
			if test.all {
				times = -1
			}
			broken := strings.Replace(text, test.old, test.new, times)
			f, err := Parse([]byte(broken))
			if err != nil || broken == text {
				t.Fatal(err, broken == text)
			}
			found := Check(f, Options{})
			if !slices.ContainsFunc(found, func(f Finding) bool { return f.Rule == test.rule && strings.Contains(f.Problem, test.says) }) {
				t.Errorf("no %s with %q among %v", test.rule, test.says, found)
			}
		})
	}
}

// TestFollowingByInclude: the guide's jobs below the include of the repository's file are right with both engines, and no
// job of the component that they leave out is missed.
func TestFollowingByInclude(t *testing.T) {
	_, rest, _ := strings.Cut(read(t, "docs/guides/steps.md"), "```yaml\ndeploy_canary:\n")
	jobs, rest, _ := strings.Cut(rest, "```\n")
	_, rest, _ = strings.Cut(rest, "```yaml\nverify_canary:")
	without, _, found := strings.Cut(rest, "```\n")
	first, _, both := strings.Cut(jobs, "\n# For an approve step")
	if !found || !both {
		t.Fatal("docs/guides/steps.md has no jobs")
	}
	for _, engine := range Engines {
		for _, own := range []string{
			"deploy_canary:\n" + jobs + "\nverify_canary:" + without,
			"deploy_canary:\n" + first + "\nverify_canary:" + strings.Replace(without, "follow_canary", "deploy_canary", 1),
		} {
			f, err := ParseIncluding([]byte(including(t, engine)+"\n"+own), InRepository("../.."))
			if err != nil {
				t.Fatal(err)
			}
			for _, finding := range Check(f, Options{}) {
				t.Errorf("%s: %s", engine, finding)
			}
		}
	}
	f, err := ParseIncluding([]byte(including(t, "none")+"\ndeploy_canary:\n"+first+"\nverify_canary: {rules: [{when: never}]}\n"), InRepository("../.."))
	if err == nil && len(Check(f, Options{})) == 0 {
		t.Error("jobs that need a job that is left out are not found")
	}
}

// TestTheWellKnownBrokenForm is the manually written pipeline that many projects have.
func TestTheWellKnownBrokenForm(t *testing.T) {
	f, err := Parse([]byte(`
stages: [deploy_canary, verify_canary, promote, cleanup]
deploy_canary:
  stage: deploy_canary
  script: ["kubectl set image deployment/app-canary app=registry.example.com/app:$IMAGE_TAG"]
  rules: [{if: $CI_PIPELINE_SOURCE == "trigger"}]
verify_canary:
  stage: verify_canary
  script: ["./verify.sh"]
  rules: [{if: $CI_PIPELINE_SOURCE == "trigger"}]
promote_to_production:
  stage: promote
  when: manual
  script: ["./promote.sh"]
  rules: [{if: $CI_PIPELINE_SOURCE == "trigger"}]
cleanup:
  stage: cleanup
  script: ["kubectl delete deployment app-canary"]
  rules: [{if: $CI_PIPELINE_SOURCE == "trigger"}]
`))
	if err != nil {
		t.Fatal(err)
	}
	found := Check(f, Options{})
	for _, want := range []struct{ rule, job, says string }{
		{RuleGateBlocks, "promote_to_production", "beside `rules`"},
		{RuleNothingAfter, "cleanup", "deploy_canary succeeds, verify_canary succeeds"},
		{RuleByDigest, "deploy_canary", ":$IMAGE_TAG"},
		{RuleRollback, "deploy_canary", ""},
		{RuleWorkflow, "", "push"},
	} {
		if !slices.ContainsFunc(found, func(f Finding) bool {
			return f.Rule == want.rule && f.Job == want.job && strings.Contains(f.Problem, want.says)
		}) {
			t.Errorf("%v is not among %v", want, found)
		}
	}
}

// TestChatHooks: a variable with the name of a chat hook is trusted to be one only where the file does not say otherwise.
func TestChatHooks(t *testing.T) {
	const post = `curl -X POST -d @msg.json "$SLACK_WEBHOOK"`
	const trigger = "https://gitlab.example.com/api/v4/projects/7/trigger/pipeline"
	for name, test := range map[string]struct {
		file, script, want string
	}{
		"no value":                 {"", post, "reads"},
		"a hook":                   {"variables: {SLACK_WEBHOOK: 'https://hooks.slack.com/services/x'}", post, "reads"},
		"empty":                    {"variables: {SLACK_WEBHOOK: ''}", post, "reads"},
		"described":                {"variables: {SLACK_WEBHOOK: {description: where to}}", post, "reads"},
		"of another variable":      {"variables: {SLACK_WEBHOOK: $TEAM_WEBHOOK}", post, "reads"},
		"of itself":                {"variables: {SLACK_WEBHOOK: $SLACK_WEBHOOK}", post, "opaque"},
		"a trigger":                {"variables: {SLACK_WEBHOOK: '" + trigger + "'}", post, "changes"},
		"a default value":          {"variables: {SLACK_WEBHOOK: {value: '" + trigger + "', description: where to}}", post, "changes"},
		"of the job":               {"job: {variables: {SLACK_WEBHOOK: '" + trigger + "'}}", post, "changes"},
		"of a rule":                {"job: {rules: [{if: $A, variables: {SLACK_WEBHOOK: '" + trigger + "'}}]}", post, "changes"},
		"of the workflow":          {"workflow: {rules: [{if: $A, variables: {SLACK_WEBHOOK: '" + trigger + "'}}]}", post, "changes"},
		"of a matrix":              {"job: {parallel: {matrix: [{SLACK_WEBHOOK: ['" + trigger + "', 'https://hooks.slack.com/x']}]}}", post, "changes"},
		"by another one":           {"variables: {SLACK_WEBHOOK: '${BASE}/trigger/pipeline', BASE: $CI_API_V4_URL/projects/7}", post, "changes opaque"},
		"somewhere else":           {"variables: {SLACK_WEBHOOK: 'https://ops.example.com/deploy'}", post, "opaque"},
		"an input":                 {"variables: {SLACK_WEBHOOK: '$[[ inputs.hook ]]'}", post, "opaque"},
		"by wget":                  {"variables: {SLACK_WEBHOOK: '" + trigger + "'}", `wget --post-data x -qO- "$SLACK_WEBHOOK"`, "changes"},
		"by a variable of its own": {"variables: {SLACK_WEBHOOK: '" + trigger + "'}", `HOOK=$SLACK_WEBHOOK; curl -d x "$HOOK"`, "changes"},
		"assigned in the script":   {"variables: {SLACK_WEBHOOK: '" + trigger + "'}", `SLACK_WEBHOOK=https://hooks.slack.com/x; ` + post, "reads"},
	} {
		file := map[string]any{}
		if err := yaml.Unmarshal([]byte(test.file), &file); err != nil {
			t.Fatal(err)
		}
		job, _ := file["job"].(map[string]any)
		if job == nil {
			job = map[string]any{}
		}
		job["script"], file["job"] = []string{test.script}, job
		data, err := yaml.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Parse(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := verdictOf(roleOf(f, f.Job("job")).effects); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// TestParse is what Parse must follow, and what it must refuse.
func TestParse(t *testing.T) {
	f, err := Parse([]byte(`
default: {interruptible: false, before_script: [echo default]}
.a: &a {resource_group: a, when: manual}
.b: {script: [echo b], retry: 1}
.c: {extends: [.b], environment: {name: prod, action: stop}}
one: {<<: *a, extends: .c, stage: deploy, when: on_success, environment: {action: verify}}
two: {stage: build, script: [!reference [.b, script], echo two], before_script: [], needs: [{job: one}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	one, two := f.Job("one"), f.Job("two")
	if one.When != "on_success" || one.ResourceGroup != "a" || one.Environment != (Environment{Name: "prod", Action: "verify"}) || !slices.Equal(one.RetryWhen, []string{"always"}) || !slices.Equal(one.Script, []string{"echo default", "echo b"}) || *one.Interruptible {
		t.Errorf("one: %+v", one)
	}
	if !slices.Equal(two.Script, []string{"echo b", "echo two"}) || !slices.Equal(two.Needs, []string{"one"}) {
		t.Errorf("two: %+v", two)
	}
}

// TestParseErrors is what Parse refuses, and how it names what is wrong.
func TestParseErrors(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"not YAML":                 {"a: [", "not YAML: "},
		"a list":                   {"[a]", "not a pipeline file: it must be one mapping"},
		"nothing":                  {"", "not a pipeline file: it must be one mapping"},
		"three documents":          {"a: {}\n---\nb: {}\n---\nc: {}\n", "not a pipeline file: it must be one mapping"},
		"a Kubernetes manifest":    {"apiVersion: v1\nkind: Service\nmetadata: {name: shop}\n", `not a pipeline file: line 1: "apiVersion" is neither a keyword of GitLab CI/CD nor a job`},
		"a GitHub workflow":        {"name: release\non: {push: {}}\njobs: {}\n", `not a pipeline file: line 1: "name" is neither`},
		"a Compose file":           {"services: {shop: {image: shop}}\n", "not a pipeline file: it has no jobs"},
		"only hidden jobs":         {".a: {script: [x]}\n", "not a pipeline file: it has no jobs"},
		"extends itself":           {"a: {extends: a}", `line 1: job a: extends: `},
		"extends nothing":          {"a: {extends: .b}", `line 1: job a: extends: ".b" is not a job of this file`},
		"refers to itself":         {"a: {script: [!reference [a, script]]}", "line 1: job a: !reference refers to itself"},
		"refers to nothing":        {"a: {script: [!reference [.b, script]]}", `line 1: job a: !reference: ".b" is not a job of this file`},
		"needs nothing known":      {"a: {needs: [b]}", `line 1: job a needs "b", which is not a job of this file`},
		"of no stage":              {"a: {stage: x}", `line 1: job a has stage "x", which is not in stages`},
		"anchor that holds itself": {"a: &a {b: *a}", "line 1: nested too deeply"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(test.text)); err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	if _, err := Parse([]byte("include: [{local: other.yml}]\n")); err != nil {
		t.Errorf("a file of includes alone: %v", err)
	}
}

func TestCondition(t *testing.T) {
	for text, want := range map[string]truth{
		`$CI_PIPELINE_SOURCE == "push"`:                                    yes,
		`$CI_PIPELINE_SOURCE != "push"`:                                    no,
		`"push" == $CI_PIPELINE_SOURCE`:                                    yes,
		`$CI_PIPELINE_SOURCE`:                                              yes,
		`$CI_PIPELINE_SOURCE =~ /^pu/`:                                     yes,
		`$CI_PIPELINE_SOURCE =~ /^PU/i`:                                    yes,
		`$CI_PIPELINE_SOURCE !~ /^pu/`:                                     no,
		`$A == "x"`:                                                        unknown,
		`$A == "x" && $CI_PIPELINE_SOURCE == "web"`:                        no,
		`$A == "x" || $CI_PIPELINE_SOURCE == "push"`:                       yes,
		`($A || $B) && $CI_PIPELINE_SOURCE == "push"`:                      unknown,
		`"$[[ inputs.image ]]" == ""`:                                      unknown,
		`$CI_PIPELINE_SOURCE == "web" || $CI_PIPELINE_SOURCE == "trigger"`: no,
	} {
		o := outlook{
			variable: func(name string) operand { return operand{text: "push", known: name == "CI_PIPELINE_SOURCE"} },
			decide:   func(string) truth { return unknown },
		}
		if got := o.condition(text); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}

// FuzzParse: no file makes the checker panic or run for ever.
// hostilePatterns are regular expressions of which no text, or an odd one, is in the language.
var hostilePatterns = []string{
	"/^[a-z]+$/", "/^$/i", "a^b", "$x", "^", "$", "()", "|", "[", "(?i)^a$", "^\\z", "\\C", "(?-s).", "a{1001}", "^[^\\x00-\\x{10FFFF}]$", "\\ba\\B", "\xff",
}

// TestPatternsThatMatchNothing: GitLab reads a pattern as RE2, without slashes around it.
func TestPatternsThatMatchNothing(t *testing.T) {
	const commit = "      regex: ^([0-9a-f]{7,64})?$\n"
	for _, pattern := range []string{"/^[a-z]+$/", "/^$/i", "a^b", "$x"} {
		t.Run(pattern, func(t *testing.T) {
			findings := findingsOf(t, edited(t, commit, fmt.Sprintf("      regex: '%s'\n", pattern)))
			if len(findings) != 1 || findings[0].Rule != RuleInput || !strings.Contains(findings[0].Problem, "matches nothing") || findings[0].Line == 0 {
				t.Errorf("%v", findings)
			}
		})
	}
	if found := findingsOf(t, edited(t, commit, "      regex: ^$\n")); len(found) > 0 {
		t.Errorf("nothing but the empty text: %v", found)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(".a: &a {when: manual}\nb: {<<: *a, extends: .a, needs: [b], rules: [{if: $X, when: never}]}\n")
	f.Add("spec: {inputs: {a: {regex: x}}}\n---\na: {script: ['$[[ inputs.a ]]', !reference [a, script]]}\n")
	for _, engine := range Engines {
		f.Add(Flat(f, engine))
	}
	f.Add("a: {parallel: {matrix: [{A: [x, y]}]}, needs: [{job: b, optional: true, parallel: {matrix: [{A: x}]}}]}\nb: {rules: [{if: $X == \"1\" || $Y =~ /z/}]}\n")
	f.Add("spec: {inputs: {a: {options: [on, 'x: [']}, b: {type: boolean}}}\n---\na: {when: $[[ inputs.a ]], allow_failure: $[[ inputs.b ]], script: [crossbill promote]}\n")
	for _, pattern := range hostilePatterns {
		f.Add(fmt.Sprintf("spec: {inputs: {a: {regex: %q}}}\n---\na: {environment: 'x$[[ inputs.a ]]', script: [\"A='$[[ inputs.a ]]'\", crossbill promote]}\n", pattern))
	}
	f.Fuzz(func(t *testing.T, text string) {
		stuck := time.AfterFunc(20*time.Second, func() { panic("it takes too long: " + text) })
		defer stuck.Stop()
		if file, err := Parse([]byte(text)); err == nil {
			Check(file, Options{})
		}
	})
}

// TestSimulation follows the repository's pipeline through what can happen to a release.
func TestSimulation(t *testing.T) {
	f, err := Parse([]byte(Flat(t, "dagger")))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		events []string // a job succeeds, or with a sign: - it fails, ! it is pressed
		status string
		jobs   string // that run or wait now
	}{
		"starts":                       {nil, "pending", "queue pending, rollback manual"},
		"has its turn":                 {[]string{"queue"}, "running", "deploy_canary pending, rollback manual"},
		"waits for approval":           {[]string{"queue", "deploy_canary", "verify_canary"}, "running", "watch_canary pending, promote_to_production manual, rollback manual"},
		"waits, the watch was stopped": {[]string{"queue", "deploy_canary", "verify_canary", "watch_canary"}, "manual", "promote_to_production manual, rollback manual"},
		"turns bad while it waits":     {[]string{"queue", "deploy_canary", "verify_canary", "-watch_canary"}, "running", "promote_to_production manual, rollback manual, rollback_after_watch pending"},
		"pressed":                      {[]string{"queue", "deploy_canary", "verify_canary", "!promote_to_production", "watch_canary"}, "running", "promote_to_production pending, rollback manual"},
		"promoted":                     {[]string{"queue", "deploy_canary", "verify_canary", "!promote_to_production", "watch_canary", "promote_to_production", "cleanup"}, "success", "rollback manual"},
		"canary failed":                {[]string{"queue", "-deploy_canary"}, "running", "rollback manual, rollback_after_canary pending"},
		"unhealthy":                    {[]string{"queue", "deploy_canary", "-verify_canary"}, "running", "rollback manual, rollback_after_verify pending"},
		"unhealthy and rolled back":    {[]string{"queue", "deploy_canary", "-verify_canary", "rollback_after_verify"}, "failed", "rollback manual"},
		"primary did not become ready": {[]string{"queue", "deploy_canary", "verify_canary", "!promote_to_production", "watch_canary", "-promote_to_production"}, "running", "rollback manual, rollback_after_promote pending"},
	} {
		m, err := f.Simulate()
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range test.events {
			switch event[0] {
			case '!':
				err = m.Press(event[1:])
			case '-':
				err = m.Finish(event[1:], false)
			default:
				err = m.Finish(event, true)
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		var open []string
		for _, j := range m.Jobs() {
			if j.Status == "pending" || j.Status == "manual" {
				open = append(open, j.Name+" "+j.Status)
			}
		}
		if got := strings.Join(open, ", "); got != test.jobs || m.Status() != test.status {
			t.Errorf("%s: %s, %q; want %s, %q", name, m.Status(), got, test.status, test.jobs)
		}
		if err := m.Press("cleanup"); err == nil {
			t.Errorf("%s: cleanup could be pressed", name)
		}
	}
}
