package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/gitlab"
	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/pipelinefile"
)

func TestWatchExitCodes(t *testing.T) {
	promoted := []gitlabtest.Job{{Name: "promote_to_production", Status: "success"}}
	for status, want := range map[string]int{"success": 0, "failed": 1, "canceled": 1, "manual": 7, "running": 6} {
		t.Run(status, func(t *testing.T) {
			server := gitlabtest.New()
			id := server.Add(gitlabtest.Pipeline{Name: "release app abc", Life: []gitlabtest.Phase{{Status: status, Jobs: promoted}}})
			listener := httptest.NewServer(server)
			defer listener.Close()
			token := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(token, []byte(server.ReadToken+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			code, out := runCommand(t, "watch", "--gitlab-url", listener.URL, "--project", server.Project, "--pipeline", strconv.FormatInt(id, 10), "--token-file", token, "--timeout", "1s", "-o", "json")
			var p gitlab.Progress
			if err := json.Unmarshal([]byte(out), &p); err != nil || code != want || p.PipelineID != id || p.Status != status {
				t.Errorf("exit code %d, want %d; %s %v", code, want, out, err)
			}
		})
	}
}

// TestBadHandoffLines: what is wrong with a command line is said before anything is sent, with exit code 2.
func TestBadHandoffLines(t *testing.T) {
	t.Setenv("GITLAB_TOKEN", "t")
	t.Setenv("GITLAB_TRIGGER_TOKEN", "t")
	trigger := "trigger --project infra/deploy --app app --commit c0ffee0 --image registry.example.com/app@sha256:" + strings.Repeat("0a", 32)
	for line, want := range map[string]string{
		trigger + " --image registry.example.com/app:v1":               `--image: "registry.example.com/app:v1"`,
		trigger + " --bundle registry.example.com/app:v1":              "--bundle: a bundle and an image are given",
		strings.Replace(trigger, "--image", "--bundle", 1) + ":v":      `--bundle: "registry.example.com/app@sha256:`,
		trigger + " --gitlab-url http://gitlab.example.com":            "--gitlab-url: ",
		trigger + " --project infra#deploy":                            `--project: "infra#deploy" is not a project`,
		trigger + " --token-file /nonexistent":                         "--token-file: ",
		trigger + " --token secret":                                    "unknown flag: --token",
		trigger + " -o xml":                                            "--output: ",
		trigger + " please":                                            `unknown command "please"`,
		trigger + " --commit HEAD":                                     `--commit: "HEAD" is not a commit`,
		trigger + " --ref -x":                                          `--ref: "-x" is not a branch or tag`,
		trigger + " --release-id A":                                    `--release-id: "A" is not a release id`,
		trigger + " --preview-up pr.1":                                 `--preview-up: "pr.1" is not the name of a preview`,
		trigger + " --preview-up pr-1 --preview-down pr-1":             "--preview-down: a preview comes up and ends at once",
		trigger + " --preview-down pr-1":                               "--preview-down: a preview that goes has no image",
		trigger + " --preview-up pr-1 --release-id one":                "--preview-up: a preview has no bundle and no release ID",
		trigger + " --timeout -5m":                                     "-5m0s is too short",
		trigger + " --settle 0s":                                       "0s is too short",
		"watch --project infra/deploy":                                 "--pipeline: neither a pipeline nor a release is named",
		"watch --project infra/deploy --pipeline 1 --release-id a":     "--pipeline: both",
		"watch --project infra/deploy --pipeline 1 --timeout 0s":       "0s is too short",
		"cancel --project infra/deploy --pipeline -1":                  "--pipeline: -1 is not a pipeline",
		"cancel --project infra/deploy --release-id one --app Shop":    `--app: "Shop" is not a name of lower-case letters`,
		"cancel --project infra/deploy --release-id one --timeout -1s": "-1s is too short",
		"lint /nonexistent":                                            "FILE: ",
		"lint lint.go":                                                 "lint.go: not YAML: ",
		"lint ../../crossbill.yaml":                                    "../../crossbill.yaml: not a pipeline file: ",
		"lint a b":                                                     "FILE: ",
		"history --last 0":                                             "--last: 0 is not a number of releases",
		"status --watch -o json":                                       "--watch: ",
		"status --serve --watch":                                       "--serve: ",
		"status --serve -o json":                                       "--serve: ",
		"status --serve=8080":                                          "--serve: ",
		"status --serve=localhost:http":                                "--serve: ",
		"status --serve=:8080":                                         "--serve: other machines could reach",
		"status --serve 0.0.0.0:8080":                                  "--serve: other machines could reach",
		"status --serve=10.0.0.1:8080 -A":                              "--serve: other machines could reach",
		"status --serve=localhost.example.com:8080":                    "--serve: other machines could reach",
		"status --serve-anywhere":                                      "--serve-anywhere: ",
		"replay --file /nonexistent":                                   "--file: ",
		"replay --file testdata/golden/watch.json":                     "--file: it has no verdict",
		"replay --file testdata/golden/watch.json --release-id one":    "--release-id: given together with --file",
		"replay --slo /nonexistent":                                    "/nonexistent",
	} {
		t.Run(line, func(t *testing.T) {
			r := runLine(t, strings.Fields(line)...)
			if r.code != exitBadInput || !strings.Contains(r.err, want) || r.out != "" {
				t.Errorf("exit code %d, %q on standard output, and\n%s\nwant\n%s", r.code, r.out, r.err, want)
			}
		})
	}
}

// TestPreviewsAreNotHandedToTheReleasesProject: the project that the file names for releases is not taken for previews, whether it
// comes from the file or from the command line.
func TestPreviewsAreNotHandedToTheReleasesProject(t *testing.T) {
	t.Setenv("GITLAB_TOKEN", "t")
	t.Setenv("GITLAB_TRIGGER_TOKEN", "t")
	file := filepath.Join(t.TempDir(), "crossbill.yaml")
	if err := os.WriteFile(file, []byte("app: shop\ngitlab:\n  project: infra/deploy\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, more := range [][]string{nil, {"--project", "infra/deploy"}} {
		r := runLine(t, append([]string{"trigger", "--config", file, "--preview-down", "pr-1"}, more...)...)
		if want := "--project: infra/deploy is the project that releases"; r.code != exitBadInput || !strings.Contains(r.err, want) {
			t.Errorf("%q: exit code %d\n%s\nwant %s", more, r.code, r.err, want)
		}
	}
}

// TestHandoffOutput is what programs parse, in testdata, and what people read.
func TestHandoffOutput(t *testing.T) {
	server := gitlabtest.New()
	at := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	server.Now = func() time.Time { return at }
	promoted := server.Add(gitlabtest.Pipeline{Name: "release app abc", Life: []gitlabtest.Phase{{Status: "success", Jobs: []gitlabtest.Job{
		{Name: "deploy_canary", Stage: "canary", Status: "success", User: "jane", StartedAt: at, FinishedAt: at.Add(time.Minute)},
		{Name: "promote_to_production", Stage: "promote", Status: "success", User: "joe", StartedAt: at.Add(2 * time.Minute), FinishedAt: at.Add(3 * time.Minute)},
	}}}})
	running := server.Add(gitlabtest.Pipeline{Name: "release app def", Life: []gitlabtest.Phase{{Status: "manual", Jobs: []gitlabtest.Job{
		{Name: "canary", Stage: "canary", Status: "success", StartedAt: at, FinishedAt: at.Add(time.Minute)}, {Name: "undo", Stage: "undo", Status: "manual"},
	}}}})
	listener := httptest.NewServer(server)
	defer listener.Close()
	t.Setenv("GITLAB_TOKEN", server.APIToken)
	t.Setenv("GITLAB_TRIGGER_TOKEN", server.TriggerToken)
	t.Setenv("CROSSBILL_GITLAB_USER", server.TriggerUser)
	t.Setenv("CI_SERVER_URL", listener.URL)
	t.Setenv("CI_PROJECT_PATH", server.Project)
	t.Setenv("GITLAB_CI", "true") // without it these variables are not GitLab's
	cancel := fmt.Sprintf("cancel --pipeline %d --canary-job canary --rollback-job undo", running)
	for _, test := range []struct{ line, text, name, file string }{
		{
			"trigger --app app --commit c0ffee0 --settle 1ms --image registry.example.com/app@sha256:" + strings.Repeat("0a", 32),
			"trigger: adopted pipeline 1002 (running) of release ", "pipeline/1002\n", "trigger.json",
		},
		{fmt.Sprintf("watch --pipeline %d", promoted), "watch: pipeline 1000: in production\n", "pipeline/1000\n", "watch.json"},
		{cancel, "cancel: pipeline 1001: job undo runs already\n", "pipeline/1001\n", "cancel.json"},
	} {
		t.Run(test.file, func(t *testing.T) {
			if first := runLine(t, strings.Fields(test.line)...); first.code != 0 { // what it changes, it has changed
				t.Fatalf("exit code %d\n%s", first.code, first.err)
			}
			if code, out := runCommand(t, strings.Fields(test.line)...); code != 0 || !strings.HasPrefix(out, test.text) {
				t.Errorf("exit code %d, %q; want %q", code, out, test.text)
			}
			if code, out := runCommand(t, append(strings.Fields(test.line), "-o", "name")...); code != 0 || out != test.name {
				t.Errorf("-o name: exit code %d, %q; want %q", code, out, test.name)
			}
			_, out := runCommand(t, append(strings.Fields(test.line), "-o", "json")...)
			golden(t, "testdata/golden/"+test.file, []byte(out))
		})
	}
}

// TestABundleIsHandedOver: what trigger sends is what GitLab's job releases, and the id that both make of it is the same
// although trigger does not read the bundle.
func TestABundleIsHandedOver(t *testing.T) {
	b := newBundles(t)
	reference := b.make(t, "../../k8s")
	server := gitlabtest.New()
	listener := httptest.NewServer(server)
	defer listener.Close()
	t.Setenv("GITLAB_TOKEN", server.APIToken)
	t.Setenv("GITLAB_TRIGGER_TOKEN", server.TriggerToken)
	asked := b.asked()
	trigger := runLine(t, "trigger", "--gitlab-url", listener.URL, "--project", server.Project, "--app", "qwik-node-app", "--bundle", "oci://"+reference, "--commit", "c0ffee0", "--settle", "1ms")
	if trigger.code != 0 || b.asked() != asked {
		t.Fatalf("exit code %d, %d requests to the registry\n%s", trigger.code, b.asked()-asked, trigger.err)
	}
	inputs := server.Pipelines()[0].Inputs
	if inputs["bundle"] != reference || inputs["image"] != nil {
		t.Fatalf("inputs %v", inputs)
	}
	t.Setenv("CROSSBILL_MANIFESTS", "oci://"+reference) // as the jobs have it
	flags := (&apiServer{}).serve(t, "shop")
	canary := append([]string{"canary", "--dry-run", "--app", "qwik-node-app", "--release-id", fmt.Sprint(inputs["release_id"])}, flags[:len(flags)-2]...)
	if r := runLine(t, append(canary, "--commit", fmt.Sprint(inputs["commit"]))...); r.code != 0 || !strings.Contains(r.out, "image: "+b.image) {
		t.Errorf("exit code %d, %s%s", r.code, r.out, r.err)
	}
	other := b.make(t, b.manifests(t, `value: "5000"`, `value: "6000"`, nil))
	t.Setenv("CROSSBILL_MANIFESTS", "oci://"+other)
	if r := runLine(t, append(canary, "--commit", fmt.Sprint(inputs["commit"]))...); r.code != exitBadInput || !strings.Contains(r.err, "--release-id: ") {
		t.Errorf("another bundle's configuration: exit code %d, %s", r.code, r.err)
	}
}

// TestCancelNeedsTheCanarysJob: a pipeline whose canary job has another name is left alone. It was canceled, with
// exit code 0, while its canary had traffic.
func TestCancelNeedsTheCanarysJob(t *testing.T) {
	server := gitlabtest.New()
	id := server.Add(gitlabtest.Pipeline{Name: "release app abc", Life: []gitlabtest.Phase{{Status: "manual", Jobs: []gitlabtest.Job{{Name: "canary:shop", Status: "success"}, {Name: "rollback", Status: "manual"}}}}})
	listener := httptest.NewServer(server)
	defer listener.Close()
	t.Setenv("GITLAB_TOKEN", server.APIToken)
	r := runLine(t, "cancel", "--gitlab-url", listener.URL, "--project", server.Project, "--pipeline", strconv.FormatInt(id, 10))
	if want := `--canary-job: pipeline 1000 has no job "deploy_canary"`; r.code != exitBadInput || !strings.Contains(r.err, want) {
		t.Errorf("exit code %d, %q; want %q", r.code, r.err, want)
	}
	if now := server.Pipelines()[0].Status; now != "manual" {
		t.Errorf("the pipeline is %s", now)
	}
}

func TestLint(t *testing.T) {
	const broken = "testdata/broken.gitlab-ci.yml"
	for _, test := range []struct {
		line     string
		wantCode int
		wantOut  string // standard output starts with it
		wantErr  string // standard error contains it
	}{
		{"lint ../../.gitlab-ci.yml", 0, "lint: ../../.gitlab-ci.yml: 11 jobs, no finding\n", ""},
		{"lint ../../.gitlab-ci.yml -o json", 0, "{\n  \"schemaVersion\": 1,\n  \"items\": []\n}\n", ""},
		{"lint ../../.gitlab-ci.yml --gate promote", 1, "", `no job "promote"`},
		{"lint ../../.gitlab-ci.yml --promote-job promote", 1, "", `no job "promote"`},
		{"lint " + broken, 1, broken + ": ", " findings"},
		{"lint ../../.gitlab-ci.yml ../../.gitlab-ci.yml", 0, "lint: ../../.gitlab-ci.yml: 11 jobs, no finding\nlint: ../../.gitlab-ci.yml: 11", ""},
		{"lint ../../.gitlab/environment.gitlab-ci.yml", 1, "../../.gitlab/environment.gitlab-ci.yml:", "(included-inputs-are-valid)"}, // its user fills in a digest
		{"lint ../../.gitlab/previews.gitlab-ci.yml", 1, "../../.gitlab/previews.gitlab-ci.yml:", "(included-inputs-are-valid)"},       // likewise
		{"lint ../../.gitlab-ci.yml " + broken, 1, broken + ": ", "lint: ../../.gitlab-ci.yml: 11 jobs, no finding"},
		{"lint ../../.gitlab-ci.yml -o codequality", 0, "[]\n", ""},
	} {
		t.Run(test.line, func(t *testing.T) {
			r := runLine(t, strings.Fields(test.line)...)
			if r.code != test.wantCode || !strings.HasPrefix(r.out, test.wantOut) || !strings.Contains(r.out+r.err, test.wantErr) {
				t.Errorf("exit code %d, %q, %q; want %d, %q, %q", r.code, r.out, r.err, test.wantCode, test.wantOut, test.wantErr)
			}
		})
	}
	for n, want := range map[int]string{0: "0 findings", 1: "1 finding", 2: "2 findings"} {
		if got := counted(n, "finding"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	_, out := runCommand(t, "lint", broken, "-o", "json")
	golden(t, "testdata/golden/lint.json", []byte(out))
}

// optional starts a shell's words that are there only if a variable is set.
var optional = regexp.MustCompile(`\$\{[A-Z_]+:\+`)

// TestPipelineFileCallsThisCommand: every command and flag that the jobs without an engine use exists.
func TestPipelineFileCallsThisCommand(t *testing.T) {
	for path, want := range map[string][]string{"../../.gitlab-ci.yml": {"", "report"}, "../../.gitlab/environment.gitlab-ci.yml": {"proposal", "", "proposal", "report"}} {
		t.Run(path, func(t *testing.T) { callsThisCommand(t, path, want) })
	}
}

// callsThisCommand checks each job's calls. Those that are wanted have one place for the job's own.
func callsThisCommand(t *testing.T, path string, want []string) {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("engine: dagger", "engine: none", "sha256:DIGEST", "sha256:"+strings.Repeat("0", 64)).Replace(string(data))
	file, err := pipelinefile.ParseIncluding([]byte(text), pipelinefile.InRepository("../.."))
	if err != nil {
		t.Fatal(err)
	}
	root := newRootCommand()
	function := regexp.MustCompile(`command crossbill "\$@" (.*); }`) // what it gives each job's own call
	for _, job := range file.Jobs {
		var commands []string
		shared := function.FindStringSubmatch(strings.Join(job.Script, "\n"))
		if len(shared) == 0 {
			t.Fatalf("%s: no function", job.Name)
		}
		for _, line := range job.Script {
			words := strings.Fields(optional.ReplaceAllString(line, ""))
			if len(words) > 1 && !slices.Contains(want, words[1]) {
				words = append(words, strings.Fields(shared[1])...)
			}
			if words[0] != "crossbill" {
				continue
			}
			commands = append(commands, words[1])
			cmd, _, err := root.Find(words[1:2])
			if err != nil || cmd.Name() != words[1] {
				t.Fatalf("%s: no command %s", job.Name, words[1])
			}
			for _, word := range words[2:] {
				name, long := strings.CutPrefix(strings.TrimRight(word, "}"), "--")
				if long && cmd.Flag(name) == nil && root.PersistentFlags().Lookup(name) == nil {
					t.Errorf("%s: %s has no flag --%s", job.Name, cmd.Name(), name)
				}
			}
			cmd.Flags().VisitAll(func(f *pflag.Flag) {
				if f.Name == "release-id" && !strings.Contains(line, "--release-id") {
					t.Errorf("%s: %s does not say which release it means", job.Name, cmd.Name())
				}
			})
		}
		if own := slices.Index(want, ""); len(commands) == len(want) {
			commands[own] = ""
		}
		if !slices.Equal(commands, want) {
			t.Errorf("%s: it calls %q, not %q", job.Name, commands, want)
		}
	}
}
