// Package workflow runs the GitHub workflows with act: their real jobs, steps, outputs and conditions. One is this
// repository's release.yml, the others are repositories that have nothing of Crossbill but a reference to deliver.yml.
// GitHub's API and GitLab are doubles. Dagger has no engine here: `dagger call` runs the crossbill command as the module
// does, and so does `docker run` of its image.
//
// Where act v0.2.89 differs from GitHub (its source, and GitHub's reference of contexts and of reusable workflows):
//   - `job.workflow_repository` and `job.workflow_sha` are empty: the checkout of Crossbill's own files is a stand-in,
//     which does not show that their commit is the workflow's.
//   - Secrets are not of environments, and `secrets: inherit` passes them all: that a job sees its environment's alone,
//     and nothing without inherit, is not shown.
//   - The caller's permissions do not bound the called workflow's, and concurrency is not kept.
//   - It does not know `deployment: false`, which is removed.
//   - A skipped job has outputs: the text of their expressions.
package workflow

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

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
	sourceVariable    = "WORKFLOW_TEST_SOURCE"    // folder with what is checked out of Crossbill's repository

	repositoryVariable = "WORKFLOW_TEST_REPOSITORY" // folder of the calling repository

	commandImage = "registry.example.com/our-org/crossbill@" + digest
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
	case "pnpm":
		os.Exit(pnpm(os.Args[1:]))
	case "sha256sum": // as the original it reads to the end: whoever writes to it would die of its absence
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	case "corepack", "curl", "tar": // of pnpm, and of the download of dagger, which this is already
		os.Exit(0)
	}
	var err error
	if folder, err = os.MkdirTemp("", "crossbill-workflow-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// gh does `gh api` on the double.
func gh(args []string) int {
	if args[0] == "run" { // gh run download RUN --name NAME --dir DIR
		response, err := http.Get(os.Getenv(gitHubVariable) + "/artifacts/" + args[2] + "/" + args[4])
		if err != nil || response.StatusCode != http.StatusOK {
			return 1
		}
		text, _ := io.ReadAll(response.Body)
		if os.MkdirAll(args[6], 0o755) != nil || os.WriteFile(filepath.Join(args[6], "preview.json"), text, 0o600) != nil {
			return 1
		}
		return 0
	}
	if args[0] == "attest" {
		args = []string{"api", "attest", "-f", "subject=" + args[1]}
	}
	fields, filter, silent, body := map[string]string{}, ".", false, []byte(nil)
	for i := 2; i < len(args); i++ {
		switch args[i] {
		case "-f":
			i++
			name, value, _ := strings.Cut(args[i], "=")
			fields[name] = value
		case "--jq":
			i++
			filter = args[i]
		case "--silent":
			silent = true
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
	if silent || len(answer) == 0 {
		return 0
	}
	jq := exec.Command("jq", "-r", filter)
	jq.Stdin, jq.Stdout, jq.Stderr = bytes.NewReader(answer), os.Stdout, os.Stderr
	if jq.Run() != nil {
		return 1
	}
	return 0
}

// docker does `docker login`, with the password on standard input, and `docker run` of the command's image.
func docker(args []string) int {
	if args[0] == "run" {
		return dockerRun(args[1:])
	}
	password, err := io.ReadAll(os.Stdin)
	registry := regexp.MustCompile(`^login \S+ --username registry-user --password-stdin$`)
	if err != nil || strings.TrimSpace(string(password)) != "registry-password" || !registry.MatchString(strings.Join(args, " ")) {
		fmt.Fprintf(os.Stderr, "docker: %q, and %d characters of a password\n", args, len(password))
		return 1
	}
	return 0
}

// dockerRun runs the command as its container would: where the working directory is a volume, with the variables that are
// passed, and with those that the image has. A container cannot reach the runner's 127.0.0.1, where the doubles are, and the
// volume's :ro is not kept.
func dockerRun(args []string) int {
	flags := flag.NewFlagSet("docker run", flag.ContinueOnError)
	flags.Bool("rm", false, "")
	_, volume, workdir, entrypoint := flags.String("user", "", ""), flags.String("volume", "", ""), flags.String("workdir", "", ""), flags.String("entrypoint", "", "")
	var env []string
	flags.Func("env", "", func(name string) error {
		if value, set := os.LookupEnv(name); set {
			env = append(env, name+"="+value)
		}
		return nil
	})
	if err := flags.Parse(args); err != nil || *entrypoint != "crossbill" || *volume != *workdir+":"+*workdir+":ro" || flags.Arg(0) != commandImage {
		fmt.Fprintln(os.Stderr, "docker run:", args)
		return 125
	}
	command := flags.Args()[1:]
	if command[0] == "trigger" {
		command = append(command, "--settle", "1s")
	}
	cmd := exec.Command(os.Getenv(crossbillVariable), command...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = *workdir, env, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return max(1, cmd.ProcessState.ExitCode())
	}
	return 0
}

// pnpm builds an app, in a few files.
func pnpm(args []string) int {
	switch strings.Join(args, " ") {
	case "install --frozen-lockfile", "check":
		return 0
	case "build":
		for _, name := range []string{"server/entry.fastify.js", "dist/build/app.js"} {
			if os.MkdirAll(filepath.Dir(name), 0o755) != nil || os.WriteFile(name, []byte(os.Getenv("APP_VERSION")), 0o600) != nil {
				return 1
			}
		}
		return 0
	}
	return 1
}

// dagger does `dagger call` by the crossbill command, as ci/ does.
func dagger(args []string) int {
	if len(args) == 0 || args[0] != "call" || os.Getenv("DAGGER_MODULE") != "./.crossbill" {
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

// gitHub is the double of GitHub's deployments, as its REST reference has them: a list is that of an environment and of a commit, by the whole
// SHA that was recorded, whatever ref was sent, and a payload is what was sent. It has one deployment at most, and no pages.
type gitHub struct {
	mu       sync.Mutex
	commit   string // that it knows by a shorter SHA as well
	sha      string // of the deployment
	payload  map[string]any
	made     int
	states   []string
	attested []string

	pull     string            // state and head of pull request 42
	artifact string            // preview, of run 7
	statuses map[string]string // of commits
}

func (g *gitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body)
	switch {
	case r.URL.Path == "/attest":
		g.attested = append(g.attested, fmt.Sprint(body["subject"]))
	case strings.HasSuffix(r.URL.Path, "/pulls/42"):
		state, head, _ := strings.Cut(g.pull, " ")
		_ = json.NewEncoder(w).Encode(map[string]any{"state": state, "head": map[string]any{"sha": head}})
	case strings.Contains(r.URL.Path, "/commits/"):
		_ = json.NewEncoder(w).Encode(map[string]any{"sha": g.whole(path.Base(r.URL.Path))})
	case r.URL.Path == "/artifacts/7/preview":
		fmt.Fprint(w, g.artifact)
	case strings.Contains(r.URL.Path, "/statuses/") && !strings.Contains(r.URL.Path, "/deployments/"):
		if g.statuses == nil {
			g.statuses = map[string]string{}
		}
		g.statuses[path.Base(r.URL.Path)] = fmt.Sprintf("%v %v: %v", body["state"], body["context"], body["description"])
	case strings.HasSuffix(r.URL.Path, "/deployments/77/statuses"):
		g.states = append(g.states, fmt.Sprint(body["state"]))
	case strings.HasSuffix(r.URL.Path, "/deployments") && r.Method == http.MethodPost:
		g.payload, _ = body["payload"].(map[string]any)
		g.sha, g.made = g.whole(fmt.Sprint(body["ref"])), g.made+1
		fmt.Fprint(w, `{"id":77}`)
	case strings.HasSuffix(r.URL.Path, "/deployments"):
		found := []any{}
		if query := r.URL.Query(); g.made > 0 && query.Get("sha") == g.sha && query.Get("environment") == "production" {
			found = append(found, map[string]any{"id": 77, "environment": "production", "payload": g.payload})
		}
		_ = json.NewEncoder(w).Encode(found)
	default:
		http.NotFound(w, r)
	}
}

// whole is the SHA of a commit.
func (g *gitHub) whole(ref string) string {
	if g.commit != "" && strings.HasPrefix(g.commit, ref) {
		return g.commit
	}
	return ref
}

// act is a machine on which workflows run: act, the commands that the steps call, and the doubles.
type act struct {
	tools, commands, crossbill, actions string
	source                              string // what others refer to: the workflow and the actions
}

// What the tests share: it is built once.
var (
	folder  string
	making  sync.Mutex
	machine *act
)

func newAct(t *testing.T) *act {
	t.Helper()
	making.Lock()
	defer making.Unlock()
	if machine != nil {
		return machine
	}
	tools, err := setup.EnsureAct(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	a := &act{tools: tools, commands: filepath.Join(folder, "commands"), crossbill: filepath.Join(folder, "crossbill"), source: filepath.Join(folder, "source")}
	for _, dir := range []string{a.commands, a.source} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", a.crossbill, "./cmd/crossbill")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gh", "dagger", "docker", "curl", "sha256sum", "tar", "corepack", "pnpm"} {
		if err := os.Symlink(self, filepath.Join(a.commands, name)); err != nil {
			t.Fatal(err)
		}
	}
	if a.actions, err = filepath.Abs("actions"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{deliver, ".github/actions/dagger/action.yml", ".github/actions/handoff/action.yml", ".github/actions/handoff/crossbill", ".github/actions/handoff/deployment",
		".github/workflows/preview-handoff.yml", ".github/actions/preview/action.yml", ".github/actions/preview/what"} {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, a.source, name, text)
	}
	machine = a
	return a
}

// deliver is the workflow that others refer to.
const deliver = ".github/workflows/deliver.yml"

func write(t *testing.T, dir, name string, text []byte) {
	t.Helper()
	// act's schema does not know this property of GitHub's.
	text = regexp.MustCompile(`(?m)^ +deployment: false.*\n`).ReplaceAll(text, nil)
	text = bytes.ReplaceAll(text, []byte(", deployment: false"), nil)
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o755); err != nil {
		t.Fatal(err)
	}
}

// repositoryOf commits files in a new repository, elsewhere on the disk.
func repositoryOf(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		write(t, dir, name, text)
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"}, {"remote", "add", "origin", "https://github.com/our-org/shop.git"}, {"add", "."},
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

// push runs release.yml of a repository as a push does.
func (a *act) push(t *testing.T, dir, gitHubURL string, lab *gitlabtest.Server) ([]byte, error) {
	t.Helper()
	return a.run(t, dir, gitHubURL, lab, "push", "--workflows", ".github/workflows/release.yml")
}

// run runs a workflow of a repository, by an event.
func (a *act) run(t *testing.T, dir, gitHubURL string, lab *gitlabtest.Server, args ...string) ([]byte, error) {
	t.Helper()
	args = append(args, "--platform", "ubuntu-24.04=-self-hosted",
		"--local-repository", "our-org/crossbill@"+reference+"="+a.source)
	for action, folder := range pinned(t) {
		args = append(args, "--local-repository", action+"="+filepath.Join(a.actions, folder))
	}
	secrets := map[string]string{"REGISTRY_USERNAME": "registry-user", "REGISTRY_PASSWORD": "registry-password", "GITLAB_TRIGGER_TOKEN": lab.TriggerToken, "GITLAB_TOKEN": lab.APIToken, "GITHUB_TOKEN": "github-token",
		"PREVIEW_TRIGGER_TOKEN": lab.TriggerToken, "PREVIEW_GITLAB_TOKEN": lab.APIToken}
	for name, value := range secrets {
		args = append(args, "--secret", name+"="+value)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(a.tools, "act"), args...)
	cmd.Dir = dir
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home, gitHubVariable+"="+gitHubURL, crossbillVariable+"="+a.crossbill, sourceVariable+"="+a.source, repositoryVariable+"="+dir,
		"PATH="+a.commands+string(os.PathListSeparator)+a.tools+string(os.PathListSeparator)+os.Getenv("PATH"))
	log, err := cmd.CombinedOutput()
	for name, secret := range secrets {
		if name != "REGISTRY_USERNAME" && bytes.Contains(log, []byte(secret)) {
			t.Errorf("the log holds %s", name)
		}
	}
	return log, err
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func configured(t *testing.T, values map[string]any) []byte {
	t.Helper()
	text, err := gitlab.Configure("../../crossbill.yaml", values)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestReleaseWorkflow(t *testing.T) {
	t.Parallel()
	a := newAct(t)
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
			t.Parallel()
			double := &gitHub{}
			github := httptest.NewServer(double)
			defer github.Close()
			server := gitlabtest.New()
			server.Life = test.life
			lab := httptest.NewServer(server)
			defer lab.Close()
			dir := repositoryOf(t, map[string][]byte{
				".github/workflows/release.yml": read(t, ".github/workflows/release.yml"),
				deliver:                         read(t, deliver),
				"app/package.json":              read(t, "app/package.json"),
				"crossbill.yaml":                configured(t, map[string]any{"gitlab.url": lab.URL, "gitlab.project": server.Project}),
			})
			log, err := a.push(t, dir, github.URL, server)
			if (err == nil) != test.good {
				t.Errorf("act: %v\n%s", err, log)
			}
			if !slices.Equal(double.states, test.states) {
				t.Errorf("GitHub's deployment was %v, want %v\n%s", double.states, test.states, log)
			}
			if !bytes.Contains(log, []byte(test.row)) {
				t.Errorf("no %q in the job's summary\n%s", test.row, log)
			}
			double.holds(t, server, repository+"@"+digest, repository+"@"+bundle)
			if want := []string{"true " + repository + "@" + digest, "true " + repository + "@" + bundle}; !slices.Equal(double.attested, want) {
				t.Errorf("attested %q, want %q", double.attested, want)
			}
		})
	}
}

// holds checks that one pipeline was started, of the bundle, and that GitHub's deployment says so.
func (g *gitHub) holds(t *testing.T, server *gitlabtest.Server, image, bundle string) {
	t.Helper()
	if g.made != 1 {
		t.Errorf("%d deployments", g.made)
	}
	pipelines := server.Pipelines()
	if len(pipelines) != 1 || pipelines[0].Inputs["bundle"] != bundle || pipelines[0].Inputs["image"] != nil || g.payload["image"] != image || g.payload["bundle"] != bundle || g.payload["release"] != pipelines[0].Inputs["release_id"] || !strings.HasSuffix(fmt.Sprint(g.payload["pipeline"]), fmt.Sprint(pipelines[0].ID)) {
		t.Errorf("pipelines %+v, GitHub's payload %v, want image %s and bundle %s", pipelines, g.payload, image, bundle)
	}
}

// reference is the commit in a caller's `uses`.
var reference = strings.Repeat("c0ffee", 6) + "1234"

// sample is the workflow that the guide has others write, of an image, with more inputs.
func sample(t *testing.T, image, inputs string) []byte {
	t.Helper()
	found := regexp.MustCompile("(?ms)^```yaml\n(on:.*?deliver\\.yml@.*?)^```").FindSubmatch(read(t, "docs/guides/adopt.md"))
	if found == nil {
		t.Fatal("the guide has no workflow")
	}
	text := strings.NewReplacer("@COMMIT", "@"+reference, "registry.example.com/our-org/qwik-node-app", image+inputs).Replace(string(found[1]))
	if !strings.Contains(text, reference) || !strings.Contains(text, image) {
		t.Fatalf("not filled in:\n%s", text)
	}
	return []byte(text)
}

// TestOnlyAReference: repositories that have an app, its manifests, crossbill.yaml and the guide's seven lines. Without an engine
// the command itself builds the image and the bundle, and a registry gets them.
func TestOnlyAReference(t *testing.T) {
	t.Parallel()
	a := newAct(t)
	waiting := []gitlabtest.Job{{Name: "deploy_canary", Status: "success"}, {Name: "promote_to_production", Status: "manual"}}
	for name, test := range map[string]struct {
		inputs string
		built  bool // by the workflow
		real   bool // image and bundle are in a registry
		more   string
	}{
		"with Dagger":        {"", true, false, ""},
		"not attested":       {", attest: false", true, false, ""},
		"without an engine":  {", engine: none, crossbill_image: \"" + commandImage + "\"", true, true, ""},
		"with its own build": {", engine: none, crossbill_image: \"" + commandImage + "\", digest: \"DIGEST\"", false, true, outputs},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			double := &gitHub{}
			github := httptest.NewServer(double)
			defer github.Close()
			server := gitlabtest.New()
			server.Life = []gitlabtest.Phase{{Status: "created"}, {After: 2 * time.Second, Status: "manual", Jobs: waiting}}
			lab := httptest.NewServer(server)
			defer lab.Close()
			store := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
			defer store.Close()
			host := strings.TrimPrefix(store.URL, "http://")
			base := pushed(t, host+"/base")
			image := repository
			if test.real {
				image = host + "/our-org/shop"
			}
			own := pushed(t, host+"/our-org/shop")

			files := map[string][]byte{
				".github/workflows/release.yml": append(sample(t, image, strings.ReplaceAll(test.inputs, "DIGEST", own)), test.more...),
				"crossbill.yaml":                configured(t, map[string]any{"gitlab.url": lab.URL, "gitlab.project": server.Project, "image.base": host + "/base@" + base}),
				"app/package.json":              []byte(`{"version": "1.2.3"}`),
			}
			for _, manifest := range []string{"deployment", "service", "virtual-service", "destination-rule"} {
				files["k8s/"+manifest+".yaml"] = read(t, "k8s/"+manifest+".yaml")
			}
			log, err := a.push(t, repositoryOf(t, files), github.URL, server)
			if err != nil {
				t.Fatalf("act: %v\n%s", err, log)
			}
			if want := []string{"queued", "pending"}; !slices.Equal(double.states, want) {
				t.Errorf("GitHub's deployment was %v, want %v\n%s", double.states, want, log)
			}
			wantImage, wantBundle := image+"@"+digest, image+"@"+bundle
			if test.real {
				wantImage, wantBundle = image+"@"+own, fmt.Sprint(double.payload["bundle"])
				if test.built {
					wantImage = fmt.Sprint(double.payload["image"])
				}
				for _, made := range []string{wantImage, wantBundle} {
					if _, err := crane.Manifest(made); err != nil {
						t.Errorf("%s is not in the registry: %v", made, err)
					}
				}
			}
			double.holds(t, server, wantImage, wantBundle)
			want := []string{"true " + wantImage, "true " + wantBundle}
			if !test.built { // whoever built it attests it
				want = want[1:]
			}
			if strings.Contains(test.inputs, "attest: false") {
				want = nil
			}
			if !slices.Equal(double.attested, want) {
				t.Errorf("attested %q, want %q", double.attested, want)
			}
			if pipelines := server.Pipelines(); test.more != "" {
				want := fmt.Sprintf("outputs: %s %s %s pipeline-%d waiting", wantImage, wantBundle, pipelines[0].Inputs["release_id"], pipelines[0].ID)
				if !bytes.Contains(log, []byte(want)) {
					t.Errorf("no %q in the log\n%s", want, log)
				}
			}
		})
	}
}

// TestHandoffAlone: the guide's steps for those who want nothing but the handoff, of a bundle and of an image.
func TestHandoffAlone(t *testing.T) {
	t.Parallel()
	a := newAct(t)
	found := regexp.MustCompile("(?ms)^```yaml\n(permissions:.*?/handoff@.*?)^```").FindSubmatch(read(t, "docs/guides/adopt.md"))
	if found == nil {
		t.Fatal("the guide has no steps")
	}
	steps := strings.NewReplacer("@COMMIT", "@"+reference, "crossbill@sha256:…", "crossbill@"+digest, "qwik-node-app@sha256:…", "qwik-node-app@"+bundle).Replace(string(found[1]))
	promoted := []gitlabtest.Job{{Name: "deploy_canary", Status: "success"}, {Name: "promote_to_production", Status: "success"}}
	const app = "registry.example.com/our-org/qwik-node-app@"
	for name, test := range map[string]struct{ what, other, image, bundle, commit string }{
		"bundle":         {"bundle", "image", "", app + bundle, ""},
		"image":          {"image", "bundle", app + bundle, "", ""},
		"a short commit": {"bundle", "image", "", app + bundle, "c0ffee0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			double := &gitHub{commit: "c0ffee0" + strings.Repeat("1", 33)}
			github := httptest.NewServer(double)
			defer github.Close()
			server := gitlabtest.New()
			server.Life = []gitlabtest.Phase{{Status: "created"}, {After: 2 * time.Second, Status: "success", Jobs: promoted}}
			lab := httptest.NewServer(server)
			defer lab.Close()
			text := strings.ReplaceAll(steps, "bundle: ", test.what+": ")
			if test.commit != "" {
				text = strings.Replace(text, "with:\n      bundle", "with:\n      commit: "+test.commit+"\n      bundle", 1)
			}
			log, err := a.push(t, repositoryOf(t, map[string][]byte{
				".github/workflows/release.yml": []byte("on: push\njobs:\n  handoff:\n    runs-on: ubuntu-24.04\n    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"),
				"crossbill.yaml":                configured(t, map[string]any{"gitlab.url": lab.URL, "gitlab.project": server.Project}),
			}), github.URL, server)
			if err != nil {
				t.Fatalf("act: %v\n%s", err, log)
			}
			if want := []string{"queued", "success"}; !slices.Equal(double.states, want) || double.made != 1 {
				t.Errorf("GitHub's %d deployments were %v, want %v\n%s", double.made, double.states, want, log)
			}
			pipelines := server.Pipelines()
			if len(pipelines) != 1 || pipelines[0].Inputs[test.what] != app+bundle || pipelines[0].Inputs[test.other] != nil || double.payload["image"] != test.image || double.payload["bundle"] != test.bundle {
				t.Errorf("pipelines %+v, GitHub's payload %v", pipelines, double.payload)
			}
		})
	}
}

// TestPreviewHandoff: the guide's workflow of previews, by the events that GitHub sends: a pull request whose image was pushed, one that
// was closed, one that was closed meanwhile, a fork's, and one whose GitLab job fails. GitLab gets what it should, once, and the commit
// of the pull request a status.
func TestPreviewHandoff(t *testing.T) {
	t.Parallel()
	a := newAct(t)
	found := regexp.MustCompile("(?ms)^```yaml\n(on:.*?preview-handoff\\.yml@.*?)^```").FindSubmatch(read(t, "docs/guides/previews.md"))
	if found == nil {
		t.Fatal("the guide has no workflow")
	}
	head, commit := strings.Repeat("a", 40), strings.Repeat("c", 40)
	const image = "registry.example.com/our-org/shop-previews@" + digest
	event := func(head, repository string) (pushed, closed map[string]any) {
		from := map[string]any{"full_name": repository}
		here := map[string]any{"full_name": "our-org/shop", "default_branch": "main"}
		pushed = map[string]any{"action": "completed", "repository": here, "workflow_run": map[string]any{"id": 7, "event": "pull_request", "conclusion": "success", "head_sha": head, "head_repository": from, "pull_requests": []any{map[string]any{"number": 42}}}}
		closed = map[string]any{"action": "closed", "repository": here, "pull_request": map[string]any{"number": 42, "head": map[string]any{"sha": head, "repo": from}, "base": map[string]any{"ref": "main"}}}
		return pushed, closed
	}
	pushed, closed := event(head, "our-org/shop")
	fork, forkClosed := event(head, "stranger/shop")
	for name, test := range map[string]struct {
		event  string
		with   map[string]any
		pull   string
		ends   string // status of GitLab's pipeline
		inputs map[string]any
		status string
		good   bool
	}{
		"pushed":                   {"workflow_run", pushed, "open " + head, "success", map[string]any{"action": "up", "name": "pr-42", "image": image, "commit": commit, "preview_id": "pr-42-up-9f86d081884c"}, "success preview: pr-42 is up", true},
		"not ready":                {"workflow_run", pushed, "open " + head, "failed", map[string]any{"action": "up", "name": "pr-42"}, "failure preview: pr-42: up failed", false},
		"pushed, and closed since": {"workflow_run", pushed, "closed " + head, "success", map[string]any{"action": "down", "name": "pr-42", "image": "", "commit": "", "preview_id": "pr-42-down"}, "success preview: pr-42 has ended", true},
		"closed":                   {"pull_request_target", closed, "closed " + head, "success", map[string]any{"action": "down", "name": "pr-42", "image": "", "commit": "", "preview_id": "pr-42-down"}, "success preview: pr-42 has ended", true},
		"a fork's":                 {"workflow_run", fork, "open " + head, "success", nil, "", true},
		"a fork's, closed":         {"pull_request_target", forkClosed, "closed " + head, "success", nil, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			double := &gitHub{pull: test.pull, artifact: `{"digest":"` + digest + `","commit":"` + commit + `","number":42}`}
			github := httptest.NewServer(double)
			defer github.Close()
			server := gitlabtest.New()
			server.Project = "our-org/previews"
			server.Life = []gitlabtest.Phase{{Status: "created"}, {After: 2 * time.Second, Status: test.ends, Jobs: []gitlabtest.Job{{Name: "preview", Status: test.ends}}}}
			lab := httptest.NewServer(server)
			defer lab.Close()
			text := strings.NewReplacer("@COMMIT", "@"+reference, "project: our-org/previews", "project: our-org/previews, engine: none, crossbill_image: \""+commandImage+"\"").Replace(string(found[1]))
			dir := repositoryOf(t, map[string][]byte{
				".github/workflows/preview.yml": []byte(text),
				"crossbill.yaml":                configured(t, map[string]any{"gitlab.url": lab.URL, "gitlab.project": "our-org/infrastructure"}),
			})
			file := filepath.Join(t.TempDir(), "event.json")
			body, err := json.Marshal(test.with)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, body, 0o600); err != nil {
				t.Fatal(err)
			}
			log, err := a.run(t, dir, github.URL, server, test.event, "--workflows", ".github/workflows/preview.yml", "--eventpath", file)
			if (err == nil) != test.good {
				t.Errorf("act: %v\n%s", err, log)
			}
			pipelines := server.Pipelines()
			if want := map[bool]int{true: 1, false: 0}[test.inputs != nil]; len(pipelines) != want {
				t.Fatalf("%d pipelines, want %d\n%s", len(pipelines), want, log)
			}
			for input, want := range test.inputs {
				if got := pipelines[0].Inputs[input]; got != want {
					t.Errorf("input %s is %v, want %v", input, got, want)
				}
			}
			if got := double.statuses[head]; got != test.status {
				t.Errorf("the commit's status is %q, want %q\n%s", got, test.status, log)
			}
		})
	}
}

// TestNoHandoff: with handoff: false the release ends with the bundle, which the caller hands over.
func TestNoHandoff(t *testing.T) {
	t.Parallel()
	a := newAct(t)
	double := &gitHub{}
	github := httptest.NewServer(double)
	defer github.Close()
	server := gitlabtest.New()
	lab := httptest.NewServer(server)
	defer lab.Close()
	log, err := a.push(t, repositoryOf(t, map[string][]byte{
		".github/workflows/release.yml": append(sample(t, repository, ", handoff: false"), outputs...),
		"crossbill.yaml":                configured(t, map[string]any{"gitlab.url": lab.URL, "gitlab.project": server.Project}),
		"app/package.json":              []byte(`{"version": "1.2.3"}`),
	}), github.URL, server)
	if err != nil {
		t.Fatalf("act: %v\n%s", err, log)
	}
	if want := "outputs: " + repository + "@" + digest + " " + repository + "@" + bundle; !bytes.Contains(log, []byte(want)) {
		t.Errorf("no %q in the log\n%s", want, log)
	}
	if pipelines := server.Pipelines(); len(pipelines) != 0 || double.made != 0 || len(double.attested) != 2 {
		t.Errorf("pipelines %+v, %d deployments, attested %q", pipelines, double.made, double.attested)
	}
}

// outputs is a job of a caller that prints what it got.
const outputs = `
  after:
    needs: release
    runs-on: ubuntu-24.04
    steps:
      - env: {IMAGE: "${{ needs.release.outputs.image }}", BUNDLE: "${{ needs.release.outputs.bundle }}", ID: "${{ needs.release.outputs.release-id }}", URL: "${{ needs.release.outputs.url }}", STATE: "${{ needs.release.outputs.state }}"}
        run: echo "outputs:" "$IMAGE" "$BUNDLE" "$ID" "pipeline-${URL##*/}" "$STATE"
`

// pushed is the digest of an image that is in a registry.
func pushed(t *testing.T, repository string) string {
	t.Helper()
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(image, repository+":tag"); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// pinned are the actions of the workflow, as it names them, with their stand-ins.
func pinned(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, match := range regexp.MustCompile(`uses: ([a-z-]+/([a-z-]+)@[0-9a-f]{40})`).FindAllStringSubmatch(string(read(t, deliver)), -1) {
		found[match[1]] = match[2]
	}
	if len(found) != 3 {
		t.Fatalf("actions %v", found)
	}
	return found
}
