// Package workflow runs .github/workflows/release.yml with act: its real jobs, steps, outputs and
// conditions. GitHub's API and GitLab are doubles. Dagger has no engine here: `dagger call` runs the
// crossbill command as the module does.
package workflow

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/rehearsal/gitlab"
	"github.com/our-org/crossbill/rehearsal/setup"
)

const (
	digest     = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	bundle     = "sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"
	repository = "registry.example.com/our-org/qwik-node-app"

	gitHubVariable    = "WORKFLOW_TEST_GITHUB"    // URL of the double
	crossbillVariable = "WORKFLOW_TEST_CROSSBILL" // path of the command
)

// TestMain also is the commands that the steps call.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "gh":
		os.Exit(gh(os.Args[1:]))
	case "dagger":
		os.Exit(dagger(os.Args[1:]))
	case "docker":
		os.Exit(docker(os.Args[1:]))
	case "sha256sum": // as the original it reads to the end: whoever writes to it would die of its absence
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	case "curl", "tar": // of the download of dagger, which this is already
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// gh does `gh api` on the double.
func gh(args []string) int {
	if args[0] == "attest" {
		args = []string{"api", "attest", "-f", "subject=" + args[1]}
	}
	fields, filter, body := map[string]string{}, "", []byte(nil)
	for i := 2; i < len(args); i++ {
		switch args[i] {
		case "-f":
			i++
			name, value, _ := strings.Cut(args[i], "=")
			fields[name] = value
		case "--jq":
			i++
			filter = args[i]
		case "--input":
			i++
			body, _ = io.ReadAll(os.Stdin)
		}
	}
	if len(fields) > 0 {
		body, _ = json.Marshal(fields)
	}
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	request, err := http.NewRequest(method, os.Getenv(gitHubVariable)+"/"+args[1], bytes.NewReader(body))
	if err != nil {
		return 2
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil || response.StatusCode/100 != 2 {
		fmt.Fprintln(os.Stderr, "gh:", response, err)
		return 1
	}
	answer, _ := io.ReadAll(response.Body)
	if filter == "" {
		return 0
	}
	jq := exec.Command("jq", "-r", filter)
	jq.Stdin, jq.Stdout, jq.Stderr = bytes.NewReader(answer), os.Stdout, os.Stderr
	if jq.Run() != nil {
		return 1
	}
	return 0
}

// docker does `docker login`, with the password on standard input.
func docker(args []string) int {
	password, err := io.ReadAll(os.Stdin)
	if err != nil || strings.TrimSpace(string(password)) != "registry-password" || strings.Join(args, " ") != "login registry.example.com --username registry-user --password-stdin" {
		return 1
	}
	return 0
}

// dagger does `dagger call` by the crossbill command, as ci/ does.
func dagger(args []string) int {
	if len(args) == 0 || args[0] != "call" || os.Getenv("DAGGER_MODULE") != "." {
		return 2
	}
	command := ""
	passed := []string{"-o", "json"}
	for i := 1; i < len(args); i++ {
		flag := args[i]
		if !strings.HasPrefix(flag, "--") {
			command = flag
			continue
		}
		i++
		name, secret := strings.CutPrefix(args[i], "env:")
		switch {
		case secret && os.Getenv(name) == "":
			return 2 // Dagger finds no such secret
		case secret:
			continue
		case flag == "--config-file":
			flag = "--config"
		}
		passed = append(passed, flag, args[i])
	}
	switch command {
	case "check":
		return 0
	case "publish":
		fmt.Println(repository + ":tag@" + digest)
		return 0
	case "bundle":
		if !slices.Contains(passed, repository+"@"+digest) {
			return 2
		}
		fmt.Println(repository + "@" + bundle)
		return 0
	case "trigger":
		passed = append(passed, "--settle", "1s")
	}
	cmd := exec.Command(os.Getenv(crossbillVariable), append([]string{command}, passed...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	if command != "watch" && err != nil {
		return cmd.ProcessState.ExitCode()
	}
	return 0
}

// gitHub is the double of GitHub's deployments.
type gitHub struct {
	mu       sync.Mutex
	payload  map[string]any
	states   []string
	attested []string
}

func (g *gitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body)
	switch {
	case r.URL.Path == "/attest":
		g.attested = append(g.attested, fmt.Sprint(body["subject"]))
	case strings.HasSuffix(r.URL.Path, "/deployments/77/statuses"):
		g.states = append(g.states, fmt.Sprint(body["state"]))
	case strings.HasSuffix(r.URL.Path, "/deployments") && r.Method == http.MethodPost:
		g.payload, _ = body["payload"].(map[string]any)
		fmt.Fprint(w, `{"id":77}`)
	case strings.HasSuffix(r.URL.Path, "/deployments"):
		fmt.Fprint(w, `[]`)
	default:
		http.NotFound(w, r)
	}
}

// checkout makes a repository with what the workflow needs of this one, and a configuration that names a GitLab.
func checkout(t *testing.T, gitLabURL, project string) string {
	t.Helper()
	dir := t.TempDir()
	config, err := gitlab.Configure("../../crossbill.yaml", map[string]any{"gitlab.url": gitLabURL, "gitlab.project": project})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".github/workflows/release.yml", ".github/actions/dagger/action.yml", "app/package.json", "crossbill.yaml"} {
		text, err := config, error(nil)
		if name != "crossbill.yaml" {
			text, err = os.ReadFile(filepath.Join("../..", name))
		}
		if err != nil {
			t.Fatal(err)
		}
		// act's schema does not know this property of GitHub's.
		text = regexp.MustCompile(`(?m)^ +deployment: false.*\n`).ReplaceAll(text, nil)
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"}, {"remote", "add", "origin", "https://github.com/our-org/qwik-node-app.git"}, {"add", "."},
		{"-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false", "commit", "--quiet", "--message", "app"},
	} {
		git := exec.Command("git", args...)
		git.Dir = dir
		if out, err := git.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	return dir
}

func TestReleaseWorkflow(t *testing.T) {
	tools, err := setup.EnsureAct(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	crossbill := filepath.Join(t.TempDir(), "crossbill")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", crossbill, "./cmd/crossbill")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	commands := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gh", "dagger", "docker", "curl", "sha256sum", "tar"} {
		if err := os.Symlink(self, filepath.Join(commands, name)); err != nil {
			t.Fatal(err)
		}
	}
	actions, err := filepath.Abs("actions")
	if err != nil {
		t.Fatal(err)
	}
	promoted := []gitlabtest.Job{{Name: "deploy_canary", Status: "success", User: "jane", StartedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, {Name: "promote_to_production", Status: "success"}}
	waiting := []gitlabtest.Job{{Name: "deploy_canary", Status: "success"}, {Name: "promote_to_production", Status: "manual"}}
	failed := []gitlabtest.Job{{Name: "deploy_canary", Status: "failed"}, {Name: "promote_to_production", Status: "skipped"}}
	unfinished := append(promoted[:2:2], gitlabtest.Job{Name: "cleanup", Status: "failed"})
	for name, test := range map[string]struct {
		life   []gitlabtest.Phase
		states []string
		row    string // of the job's summary
		good   bool
	}{
		"waits for an approver": {[]gitlabtest.Phase{{Status: "created"}, {After: 2 * time.Second, Status: "manual", Jobs: waiting}}, []string{"queued", "pending"}, "| manual |  |  |  |", true},
		"promoted":              {[]gitlabtest.Phase{{Status: "created"}, {After: 2 * time.Second, Status: "success", Jobs: promoted}}, []string{"queued", "success"}, "| success | jane | 2026-01-02T03:04:05Z |  |", true},
		"cleanup failed":        {[]gitlabtest.Phase{{Status: "created"}, {After: 2 * time.Second, Status: "failed", Jobs: unfinished}}, []string{"queued", "success"}, "| failed |  |  |  |", false},
		"failed":                {[]gitlabtest.Phase{{Status: "created"}, {After: 2 * time.Second, Status: "failed", Jobs: failed}}, []string{"queued", "failure"}, "| skipped |  |  |  |", false},
	} {
		t.Run(name, func(t *testing.T) {
			double := &gitHub{}
			github := httptest.NewServer(double)
			defer github.Close()
			server := gitlabtest.New()
			server.Life = test.life
			lab := httptest.NewServer(server)
			defer lab.Close()

			args := []string{"push", "--workflows", ".github/workflows/release.yml", "--platform", "ubuntu-24.04=-self-hosted"}
			for action, folder := range pinned(t) {
				args = append(args, "--local-repository", action+"="+filepath.Join(actions, folder))
			}
			for name, value := range map[string]string{"IMAGE": repository} {
				args = append(args, "--var", name+"="+value)
			}
			for name, value := range map[string]string{"REGISTRY_USERNAME": "registry-user", "REGISTRY_PASSWORD": "registry-password", "GITLAB_TRIGGER_TOKEN": server.TriggerToken, "GITLAB_TOKEN": server.APIToken, "GITHUB_TOKEN": "github-token"} {
				args = append(args, "--secret", name+"="+value)
			}
			act := exec.CommandContext(t.Context(), filepath.Join(tools, "act"), args...)
			act.Dir = checkout(t, lab.URL, server.Project)
			home := t.TempDir()
			act.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home, gitHubVariable+"="+github.URL, crossbillVariable+"="+crossbill,
				"PATH="+commands+string(os.PathListSeparator)+tools+string(os.PathListSeparator)+os.Getenv("PATH"))
			log, err := act.CombinedOutput()
			if (err == nil) != test.good {
				t.Errorf("act: %v\n%s", err, log)
			}
			if !slices.Equal(double.states, test.states) {
				t.Errorf("GitHub's deployment was %v, want %v\n%s", double.states, test.states, log)
			}
			if !bytes.Contains(log, []byte(test.row)) {
				t.Errorf("no %q in the job's summary\n%s", test.row, log)
			}
			if want := []string{"true " + repository + "@" + digest, "true " + repository + "@" + bundle}; !slices.Equal(double.attested, want) {
				t.Errorf("attested %q, want %q", double.attested, want)
			}
			pipelines := server.Pipelines()
			if len(pipelines) != 1 || pipelines[0].Inputs["bundle"] != repository+"@"+bundle || pipelines[0].Inputs["image"] != nil || double.payload["image"] != repository+"@"+digest || double.payload["release"] != pipelines[0].Inputs["release_id"] || !strings.HasSuffix(fmt.Sprint(double.payload["pipeline"]), fmt.Sprint(pipelines[0].ID)) {
				t.Errorf("pipelines %+v, GitHub's payload %v", pipelines, double.payload)
			}
			for _, secret := range []string{"registry-password", server.TriggerToken, server.APIToken} {
				if bytes.Contains(log, []byte(secret)) {
					t.Errorf("the log holds %s", secret)
				}
			}
		})
	}
}

// pinned are the actions of the workflow, as it names them, with their stand-ins. act itself does
// actions/checkout.
func pinned(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../.github/workflows/release.yml")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, match := range regexp.MustCompile(`uses: ([a-z-]+/([a-z-]+)@[0-9a-f]{40})`).FindAllStringSubmatch(string(text), -1) {
		if match[2] != "checkout" {
			found[match[1]] = match[2]
		}
	}
	if len(found) != 1 {
		t.Fatalf("actions %v", found)
	}
	return found
}
