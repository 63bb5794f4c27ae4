package pipelinefile

import (
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rhysd/actionlint"
	"go.yaml.in/yaml/v3"
)

func workflows(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("../../.github/workflows/*.yml")
	if err != nil || len(paths) < 3 {
		t.Fatal(paths, err)
	}
	return paths
}

const (
	caller    = "../../.github/workflows/release.yml"
	deliver   = "../../.github/workflows/deliver.yml"
	handoff   = "../../.github/actions/handoff/action.yml"
	installer = "../../.github/actions/dagger/action.yml"

	previewCaller = "../../.github/workflows/preview.yml"
	previewImage  = "../../.github/workflows/preview-image.yml"
	previews      = "../../.github/workflows/preview-handoff.yml"
	previewAction = "../../.github/actions/preview/action.yml"
)

// newer is what GitHub knows and actionlint 1.7.12 does not yet: the identity of the workflow that defines a job.
const newer = `property "workflow_(repository|sha)" is not defined in object type \{check_run_id`

// TestActionlint runs actionlint on GitHub's side, without its optional external programs. What a workflow passes to one of
// this repository is held against its inputs.
func TestActionlint(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	project, err := actionlint.NewProject(root)
	if err != nil {
		t.Fatal(err)
	}
	linter, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{IgnorePatterns: []string{newer}})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range workflows(t) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found, err := linter.Lint(path, data, project)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range found {
			t.Error(e)
		}
	}
	for name, broken := range map[string]string{
		"an event in a script": "on: push\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps:\n      - run: echo ${{ github.event.head_commit.message }}\n",
		"an input of no name":  "on: push\njobs:\n  a:\n    uses: ./.github/workflows/deliver.yml\n    with: {image: a, imag: b}\n",
	} {
		if found, err := linter.Lint("broken.yml", []byte(broken), project); err != nil || len(found) == 0 {
			t.Errorf("actionlint does not see %s: %v", name, err)
		}
	}
}

// step is one of a job or of a composite action.
type step struct {
	If, Uses, Run string
	With          map[string]any
	Env           map[string]string
}

func isToken(value string) bool {
	return strings.Contains(value, "secrets.") || strings.Contains(value, "github.token")
}

// TestWorkflowsAreSafe: actions are pinned by commit, nobody has rights that are not written down, a token is in an
// environment and in the steps alone that use it, and no text of an event is put into a script.
func TestWorkflowsAreSafe(t *testing.T) {
	// Of deliver.yml, only main may use them. The login of pull requests is another one.
	environments := map[string][]string{"deliver.yml": {"publishing", "handoff"}, "preview-image.yml": {"previews"}, "preview-handoff.yml": {"preview-handoff"}, "publish.yml": {"releases"}}
	pinned := regexp.MustCompile(`^([a-z-]+/[a-z-]+@[0-9a-f]{40}|\./\.github/actions/[a-z]+)$`)
	const own = "./.crossbill/.github/actions/"
	for _, path := range workflows(t) {
		if path == caller || path == previewCaller { // have no step: TestTheCaller, TestThePreviewCallers
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var workflow struct {
			Permissions map[string]string
			Concurrency map[string]any
			Jobs        map[string]struct {
				Uses        string
				Permissions map[string]string
				Timeout     int `yaml:"timeout-minutes"`
				Concurrency map[string]any
				Environment struct{ Name string }
				Env         map[string]string
				Steps       []step
			}
		}
		if err := yaml.Unmarshal(data, &workflow); err != nil {
			t.Fatal(err)
		}
		// A run of previews that has nothing to do must not take the place of one that has: there the group is the job's, which is skipped.
		if workflow.Permissions == nil || len(workflow.Permissions) != 0 || (workflow.Concurrency["group"] == nil) != (path == previews) {
			t.Errorf("%s: permissions %v, concurrency %v", path, workflow.Permissions, workflow.Concurrency)
		}
		for name, job := range workflow.Jobs {
			if job.Uses != "" { // it has no step: TestThePreviewCallers
				continue
			}
			if job.Permissions == nil || job.Timeout == 0 || (job.Concurrency["group"] == nil) == (path == previews) {
				t.Errorf("%s: %s: permissions %v, time-out %d, concurrency %v", path, name, job.Permissions, job.Timeout, job.Concurrency)
			}
			for variable, value := range job.Env {
				if isToken(value) {
					t.Errorf("%s: %s: every step has %s: %s", path, name, variable, value)
				}
			}
			calls, ownIsHere, besideApp := 0, false, false
			for _, step := range job.Steps {
				switch action, isOwn := strings.CutPrefix(step.Uses, own); {
				case isOwn && !ownIsHere:
					t.Errorf("%s: %s: %s is not of the workflow's own commit", path, name, step.Uses)
				case isOwn && (action == "handoff" || action == "preview"):
					calls++
				case !isOwn && step.Uses != "" && !pinned.MatchString(step.Uses):
					t.Errorf("%s: %s: %s is not pinned", path, name, step.Uses)
				case slices.Contains([]string{deliver, previewImage, previews}, path) && strings.HasPrefix(step.Uses, "./") && !isOwn:
					t.Errorf("%s: %s: %s is the caller's", path, name, step.Uses)
				}
				if strings.HasPrefix(step.Uses, "actions/checkout@") && step.With["persist-credentials"] != false {
					t.Errorf("%s: %s: the token stays in the checkout", path, name)
				}
				if step.With["path"] == ".crossbill" {
					ownIsHere = step.With["repository"] == "${{ job.workflow_repository }}" && step.With["ref"] == "${{ job.workflow_sha }}"
					besideApp = step.If != "inputs.engine == 'dagger'" // whose module leaves it out of the app
				}
				if besideApp && strings.Contains(step.Run, "pnpm ") {
					t.Errorf("%s: %s: an app at the repository's root has Crossbill's own files in it for %q", path, name, step.Run)
				}
				if strings.Contains(step.Run, "${{") {
					t.Errorf("%s: %s: a value is put into a script: %s", path, name, step.Run)
				}
				for variable, value := range step.Env {
					if !isToken(value) {
						continue
					}
					if !strings.Contains(step.Run, variable) && variable != "GH_TOKEN" && step.Uses != own+"handoff" && step.Uses != own+"preview" {
						t.Errorf("%s: %s: a step has %s and does not use it", path, name, variable)
					}
					if environment := environments[filepath.Base(path)]; strings.Contains(value, "secrets.") && !slices.Contains(environment, job.Environment.Name) {
						t.Errorf("%s: %s: %s is a secret of the environment %q", path, name, value, job.Environment.Name)
					}
				}
				if variables := slices.Sorted(maps.Keys(step.Env)); step.Uses == own+"handoff" && !slices.Equal(variables, tokensOf(step)) {
					t.Errorf("%s: %s: the handoff has %v, want %v", path, name, variables, tokensOf(step))
				}
				calls += strings.Count(step.Run, "dagger call ")
			}
			want := 1
			if base := filepath.Base(path); base == "ci.yml" || base == "publish.yml" { // the tool's own
				want = 0
			}
			if calls != want {
				t.Errorf("%s: %s: %d calls of dagger, want %d", path, name, calls, want)
			}
		}
	}
}

// TestAttestingCanBeLeftOut: GitHub has no attestations for a private repository without Enterprise Cloud, where the step fails. So each is
// there only if the caller wants it, which by default it does, and no other step is.
func TestAttestingCanBeLeftOut(t *testing.T) {
	attests := map[string]int{deliver: 2, previewImage: 1}
	for _, path := range workflows(t) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var workflow struct {
			On   yaml.Node
			Jobs map[string]struct {
				If    string
				Steps []step
			}
		}
		if err := yaml.Unmarshal(data, &workflow); err != nil {
			t.Fatal(err)
		}
		found := 0
		for name, job := range workflow.Jobs {
			if strings.Contains(job.If, "inputs.attest") {
				t.Errorf("%s: %s runs only if %s", path, name, job.If)
			}
			for _, step := range job.Steps {
				attest := strings.HasPrefix(step.Uses, "actions/attest")
				if attest {
					found++
				}
				if attest != (step.If == "inputs.attest") {
					t.Errorf("%s: %s: %s%s runs if %q", path, name, step.Uses, step.Run, step.If)
				}
			}
		}
		if found != attests[path] {
			t.Errorf("%s attests %d times, want %d", path, found, attests[path])
		}
		if found == 0 {
			continue
		}
		var on struct {
			Call struct {
				Inputs map[string]struct {
					Type    string
					Default any
				}
			} `yaml:"workflow_call"`
		}
		if err := workflow.On.Decode(&on); err != nil {
			t.Fatal(err)
		}
		if input := on.Call.Inputs["attest"]; input.Type != "boolean" || input.Default != true {
			t.Errorf("%s: the input attest is %+v", path, input)
		}
	}
}

// TestARepeatedRunTakesNoPlace: a concurrency group keeps one waiting run. One that is repeated, as for its watch after the approval, would
// take the place of the newest release, so that it is in another group, and none of its jobs is in one with others.
func TestARepeatedRunTakesNoPlace(t *testing.T) {
	data, err := os.ReadFile(deliver)
	if err != nil {
		t.Fatal(err)
	}
	var workflow struct {
		Concurrency struct {
			Group  string
			Cancel any `yaml:"cancel-in-progress"`
		}
		Jobs map[string]struct{ Concurrency any }
	}
	if err := yaml.Unmarshal(data, &workflow); err != nil {
		t.Fatal(err)
	}
	const repeated = "${{ github.run_attempt > 1 && format('-{0}', github.run_id) || '' }}" // of a first attempt it is empty
	if of, found := strings.CutSuffix(workflow.Concurrency.Group, repeated); !found || of != "deliver-${{ inputs.image }}" || workflow.Concurrency.Cancel != false {
		t.Errorf("concurrency %+v", workflow.Concurrency)
	}
	for name, job := range workflow.Jobs {
		if job.Concurrency != nil {
			t.Errorf("%s: concurrency %v", name, job.Concurrency)
		}
	}
}

// tokensOf are those that a handoff needs: what only follows cannot trigger.
func tokensOf(handoff step) []string {
	if handoff.With["release_id"] != nil {
		return []string{"GITLAB_TOKEN"}
	}
	return []string{"GITLAB_TOKEN", "GITLAB_TRIGGER_TOKEN"}
}

// TestActionsAreSafe: an action's inputs are the caller's text, so none is put into a script, and it calls nothing that is
// not here. GitLab's tokens are the calling step's.
func TestActionsAreSafe(t *testing.T) {
	for _, path := range []string{installer, handoff, previewAction} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var composite struct {
			Runs struct {
				Using string
				Steps []step
			}
		}
		if err := yaml.Unmarshal(data, &composite); err != nil || composite.Runs.Using != "composite" || len(composite.Runs.Steps) == 0 {
			t.Fatal(path, composite.Runs.Using, err)
		}
		for _, step := range composite.Runs.Steps {
			if step.Uses != "" || strings.Contains(step.Run, "${{") {
				t.Errorf("%s: uses %q, runs %s", path, step.Uses, step.Run)
			}
			for variable, value := range step.Env {
				if isToken(value) && (variable != "GH_TOKEN" || value != "${{ github.token }}") {
					t.Errorf("%s: a step has %s: %s", path, variable, value)
				}
			}
		}
	}
}

// rights are what the jobs of deliver.yml have together: the caller's bound them, and what it lacks is an error before any
// job runs.
func rights(t *testing.T, called string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(called)
	if err != nil {
		t.Fatal(err)
	}
	var workflow struct {
		Jobs map[string]struct{ Permissions map[string]string }
	}
	if err := yaml.Unmarshal(data, &workflow); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, job := range workflow.Jobs {
		for name, right := range job.Permissions {
			if all[name] != "write" {
				all[name] = right
			}
		}
	}
	return all
}

// TestTheCaller: what calls deliver.yml, here and on the guide's page, has no more than seven lines and just the rights that
// its jobs have. It passes the secrets on: without that, those of the called jobs' environments are empty too
// (actions/runner#1490, #4453).
func TestTheCaller(t *testing.T) {
	here, err := os.ReadFile(caller)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/guides/adopt.md")
	if err != nil {
		t.Fatal(err)
	}
	sample := regexp.MustCompile("(?ms)^```yaml\n(on:.*?deliver\\.yml@.*?)^```").FindSubmatch(page)
	if sample == nil {
		t.Fatal("the guide has no workflow")
	}
	for name, text := range map[string]string{caller: string(here), "docs/guides/adopt.md": string(sample[1])} {
		if lines := strings.Count(text, "\n"); lines > 7 {
			t.Errorf("%s: %d lines", name, lines)
		}
		var workflow struct {
			On   map[string]any
			Jobs map[string]struct {
				Uses, Secrets string
				Permissions   map[string]string
				With          map[string]string
			}
		}
		if err := yaml.Unmarshal([]byte(text), &workflow); err != nil {
			t.Fatal(name, err)
		}
		job := workflow.Jobs["release"]
		if len(workflow.Jobs) != 1 || !regexp.MustCompile(`^(\.|our-org/crossbill)/\.github/workflows/deliver\.yml(@COMMIT)?$`).MatchString(job.Uses) || job.Secrets != "inherit" || job.With["image"] == "" {
			t.Errorf("%s: %+v", name, workflow)
		}
		if want := rights(t, deliver); !maps.Equal(job.Permissions, want) {
			t.Errorf("%s: permissions %v, want %v", name, job.Permissions, want)
		}
		if diff := cmp.Diff(map[string]any{"push": map[string]any{"branches": []any{"main"}}}, workflow.On); diff != "" {
			t.Errorf("%s: on (-want +got):\n%s", name, diff)
		}
	}
}

// TestThePreviewCallers: what calls the two workflows of previews, here and on the guide's page. A pull request's own file reaches no
// token of GitLab's, whatever is written in it; what has that token runs as the default branch has it, and checks out nothing else.
func TestThePreviewCallers(t *testing.T) {
	page, err := os.ReadFile("../../docs/guides/previews.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllStringSubmatch(string(page), -1) {
		if of := regexp.MustCompile(`workflows/(preview-[a-z]+)\.yml@COMMIT`).FindStringSubmatch(block[1]); of != nil {
			texts[of[1]+" of the guide"] = block[1]
		}
	}
	for path, of := range map[string]string{"../../.github/workflows/pull-request.yml": "preview-image", previewCaller: "preview-handoff"} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[of+" here"] = string(data)
	}
	if len(texts) != 4 {
		t.Fatalf("found %d callers", len(texts))
	}
	events := map[string][]string{"preview-image": {"pull_request"}, "preview-handoff": {"pull_request_target", "workflow_run"}}
	for name, text := range texts {
		called, _, _ := strings.Cut(name, " ")
		var workflow struct {
			On   yaml.Node
			Jobs map[string]struct {
				Uses, Secrets string
				Permissions   map[string]string
				With          map[string]string
			}
		}
		if err := yaml.Unmarshal([]byte(text), &workflow); err != nil {
			t.Fatal(name, err)
		}
		var on map[string]map[string]any
		if workflow.On.Decode(&on) != nil {
			on = map[string]map[string]any{workflow.On.Value: nil}
		}
		if got := slices.Sorted(maps.Keys(on)); !slices.Equal(got, events[called]) {
			t.Errorf("%s: runs on %v, want %v", name, got, events[called])
		}
		if of := on["pull_request_target"]["types"]; called == "preview-handoff" && (cmp.Diff([]any{"closed"}, of) != "" || cmp.Diff([]any{"completed"}, on["workflow_run"]["types"]) != "" || cmp.Diff([]any{"pull request"}, on["workflow_run"]["workflows"]) != "") {
			t.Errorf("%s: runs on %v", name, on)
		}
		job := workflow.Jobs["preview"]
		if job.Secrets != "inherit" || job.With["image"] == "" || !strings.Contains(job.Uses, "/.github/workflows/"+called+".yml") {
			t.Errorf("%s: %+v", name, job)
		}
		if want := rights(t, "../../.github/workflows/"+called+".yml"); !maps.Equal(job.Permissions, want) {
			t.Errorf("%s: permissions %v, want %v", name, job.Permissions, want)
		}
	}
	data, err := os.ReadFile(previews)
	if err != nil {
		t.Fatal(err)
	}
	for _, checkout := range regexp.MustCompile(`(?m)uses: actions/checkout@[^\n]*\n(?: {8}with:\n)?((?: {10}[^\n]*\n)*)`).FindAllStringSubmatch(string(data), -1) {
		if ref := regexp.MustCompile(`ref: \$\{\{ (\S+) \}\}`).FindStringSubmatch(checkout[1]); ref == nil || ref[1] != "github.event.repository.default_branch" && ref[1] != "job.workflow_sha" {
			t.Errorf("%s checks out %q", previews, checkout[1])
		}
	}
	if strings.Contains(string(data), "pull_request.title") || strings.Contains(string(data), "head_branch") || strings.Contains(string(data), "head.ref") {
		t.Errorf("%s has text of whoever opened the pull request", previews)
	}
}

// TestWhatHappensToAPreview: what GitHub says now decides, and not the event; what a pull request's run has left is checked.
func TestWhatHappensToAPreview(t *testing.T) {
	script, err := filepath.Abs("../../.github/actions/preview/what")
	if err != nil {
		t.Fatal(err)
	}
	head, digest, commit := strings.Repeat("a", 40), "sha256:"+strings.Repeat("5b", 32), strings.Repeat("c", 40)
	left := func(digest, commit, number string) string {
		return `{"digest":"` + digest + `","commit":"` + commit + `","number":` + number + `}`
	}
	good := left(digest, commit, "42")
	for name, test := range map[string]struct {
		event, pull, left string
		want              string // the outputs
		code              int
	}{
		"pushed":                          {"workflow_run", "open " + head, good, "action=up name=pr-42 image=registry.example.com/shop-previews@" + digest + " commit=" + commit, 0},
		"closed":                          {"pull_request_target", "closed " + head, "", "action=down name=pr-42", 0},
		"pushed, and closed since":        {"workflow_run", "closed " + head, good, "action=down name=pr-42", 0},
		"pushed again, and closed since":  {"workflow_run", "closed " + commit, good, "action=down name=pr-42", 0},
		"pushed, and pushed again since":  {"workflow_run", "open " + commit, good, "", 0},
		"closed, and open again":          {"pull_request_target", "open " + head, "", "", 0},
		"what another pull request built": {"workflow_run", "open " + head, left(digest, commit, "7"), "", 0},
		"a tag":                           {"workflow_run", "open " + head, left("latest", commit, "42"), "", 1},
		"a digest with more":              {"workflow_run", "open " + head, left(digest+"\\nname=pr-1", commit, "42"), "", 1},
		"no commit":                       {"workflow_run", "open " + head, left(digest, "main", "42"), "", 1},
		"no JSON":                         {"workflow_run", "open " + head, "digest", "", 1},
		"GitHub is away":                  {"workflow_run", "", good, "", 1},
		"another event":                   {"push", "open " + head, good, "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			gh := "#!/bin/sh\ncase \"$*\" in\n*repos/our-org/shop/pulls/42*) [ -n \"$PULL\" ] && echo \"$PULL\" ;;\n*) mkdir -p \"$RUNNER_TEMP/preview\" && printf %s \"$LEFT\" >\"$RUNNER_TEMP/preview/preview.json\" ;;\nesac\n"
			if err := os.WriteFile(filepath.Join(dir, "gh"), []byte(gh), 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), script)
			cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "GITHUB_EVENT_NAME=" + test.event, "GITHUB_REPOSITORY=our-org/shop", "NUMBER=42", "HEAD=" + head, "RUN=1", "IMAGE=registry.example.com/shop-previews", "RUNNER_TEMP=" + dir,
				"GITHUB_OUTPUT=" + filepath.Join(dir, "output"), "GITHUB_STEP_SUMMARY=" + filepath.Join(dir, "summary"), "PULL=" + test.pull, "LEFT=" + test.left}
			out, _ := cmd.CombinedOutput()
			outputs, _ := os.ReadFile(filepath.Join(dir, "output"))
			got := strings.Join(strings.Fields(string(outputs)), " ")
			code := cmd.ProcessState.ExitCode()
			if got != test.want || (code != 0) != (test.code != 0) || test.code == 0 && test.want == "" && !strings.Contains(string(out), "nothing to do") {
				t.Errorf("outputs %q, want %q; exit code %d, want %d\n%s", got, test.want, code, test.code, out)
			}
		})
	}
}

// TestTheStateOfGitHubsDeployment: the handoff's last step sets what the state means. Without one, GitLab could not be read: the release
// may be well, so that the job fails and GitHub's deployment stays as it is.
func TestTheStateOfGitHubsDeployment(t *testing.T) {
	data, err := os.ReadFile(handoff)
	if err != nil {
		t.Fatal(err)
	}
	var composite struct{ Runs struct{ Steps []step } }
	if err := yaml.Unmarshal(data, &composite); err != nil {
		t.Fatal(err)
	}
	script := composite.Runs.Steps[len(composite.Runs.Steps)-1].Run
	for state, want := range map[string]struct {
		deployment string
		code       int
	}{
		"promoted": {"success", 0}, "unfinished": {"success", 1}, "waiting": {"pending", 0}, "running": {"in_progress", 0}, "queued": {"queued", 0},
		"canceled": {"error", 1}, "failed": {"failure", 1}, "rolled_back": {"failure", 1}, " 1": {"", 1}, " 2": {"error", 1}, " 125": {"error", 1},
	} {
		state, code, _ := strings.Cut(state, " ")
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "deployment"), []byte("#!/bin/sh\nprintf %s \"$1\" >\"$RUNNER_TEMP/set\"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "bash", "-e", "-o", "pipefail", "-c", script)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GITHUB_ACTION_PATH=" + dir, "RUNNER_TEMP=" + dir, "GITHUB_STEP_SUMMARY=" + filepath.Join(dir, "summary"), "RELEASE_ID=r", "URL=u", "STATE=" + state, "WATCHED=" + code}
		out, _ := cmd.CombinedOutput()
		set, _ := os.ReadFile(filepath.Join(dir, "set"))
		if got := cmd.ProcessState.ExitCode(); got != want.code || string(set) != want.deployment {
			t.Errorf("%q: exit code %d, deployment %q; want %d, %q: %s", state, got, set, want.code, want.deployment, out)
		}
		if summary, err := os.ReadFile(filepath.Join(dir, "summary")); err != nil || !strings.Contains(string(summary), "Release `r`: "+map[bool]string{true: "unknown", false: state}[state == ""]) {
			t.Errorf("%q: summary %s, %v", state, summary, err)
		}
	}
}

// TestAnAppWithoutAVersion: a starter's package.json has none. It is 0.0.0 then, with the commit.
func TestAnAppWithoutAVersion(t *testing.T) {
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("jq is not here; GitHub's runners have it")
	}
	for _, path := range []string{deliver, previewImage} {
		var workflow struct {
			Jobs map[string]struct {
				Steps []struct{ ID, Run string }
			}
		}
		text, err := os.ReadFile(path)
		if err == nil {
			err = yaml.Unmarshal(text, &workflow)
		}
		if err != nil {
			t.Fatal(err)
		}
		for manifest, want := range map[string]string{`{"name": "starter"}`: "0.0.0", `{"version": "1.2.3"}`: "1.2.3"} {
			dir, script := t.TempDir(), ""
			for _, step := range workflow.Jobs["publish"].Steps {
				if step.ID == "names" {
					script = step.Run
				}
			}
			for name, text := range map[string]string{"package.json": manifest, "git": "#!/bin/sh\necho 7\n"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), "bash", "--noprofile", "--norc", "-e", "-c", script)
			cmd.Dir, cmd.Env = dir, []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "APP_DIR=.", "GITHUB_SHA=c0ffeec0ffeec0ffee", "GITHUB_OUTPUT=output"}
			out, err := cmd.CombinedOutput()
			if got, _ := os.ReadFile(filepath.Join(dir, "output")); err != nil || string(got) != "version="+want+"+c0ffeec0ffee\ncreated=7\n" {
				t.Errorf("%s: with %s: %v\n%s%s", path, manifest, err, got, out)
			}
		}
	}
}

// TestGitHubsDeploymentIsFound: among many of the same commit, that of the environment is found, and no second one is made.
func TestGitHubsDeploymentIsFound(t *testing.T) {
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("jq is not here; GitHub's runners have it")
	}
	script, err := filepath.Abs("../../.github/actions/handoff/deployment")
	if err != nil {
		t.Fatal(err)
	}
	const commit = "c0ffee0c0ffee0c0ffee0c0ffee0c0ffee0c0ffe"
	// A list has 30 deployments unless more are asked for, of all environments unless one is named, and none of a SHA that is cut off.
	gh := `#!/bin/sh
echo "$2" >>asked
case $2 in
*/commits/c0ffee0) echo ` + commit + ` ;;
*/deployments\?*sha=` + commit + `\&per_page=100*environment=production%2Fshop*) echo '[{"id": 8, "environment": "production/shop", "payload": ""}, {"id": 7, "environment": "production/shop", "payload": {"release": "r"}}]' ;;
*/deployments\?*) echo '[]' ;;
*/deployments) cat >/dev/null; echo 9 ;;
esac
`
	for given, requests := range map[string]int{commit: 2, "c0ffee0": 3} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "gh"), []byte(gh), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), script, "queued", "release r")
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "GITHUB_REPOSITORY=our-org/shop", "COMMIT=" + given, "ENVIRONMENT=production/shop", "RELEASE_ID=r", "IMAGE=", "BUNDLE=", "URL=", "ENVIRONMENT_URL="}
		out, err := cmd.CombinedOutput()
		asked, _ := os.ReadFile(filepath.Join(dir, "asked"))
		if err != nil || !strings.HasSuffix(string(asked), "\nrepos/our-org/shop/deployments/7/statuses\n") || strings.Count(string(asked), "\n") != requests {
			t.Errorf("%s: %v: %s; it asked %s", given, err, out, asked)
		}
	}
}

// TestTheCommandsImageIsByDigest: no container of an image by tag is started, and no variable but the four gets into one.
func TestTheCommandsImageIsByDigest(t *testing.T) {
	script, err := filepath.Abs("../../.github/actions/handoff/crossbill")
	if err != nil {
		t.Fatal(err)
	}
	byDigest := "registry.example.com/our-org/crossbill@sha256:" + strings.Repeat("a", 64)
	for image, code := range map[string]int{"": 2, "registry.example.com/our-org/crossbill:1.0.0": 2, byDigest: 0} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "docker"), []byte("#!/bin/sh\necho \"$@\" >arguments\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), script, "watch", "--release-id", "r")
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "CLI=" + image}
		out, _ := cmd.CombinedOutput()
		arguments, err := os.ReadFile(filepath.Join(dir, "arguments"))
		if got := cmd.ProcessState.ExitCode(); got != code || (err == nil) != (code == 0) || code != 0 && !strings.Contains(string(out), "crossbill_image") {
			t.Errorf("%q: exit code %d, want %d: %s", image, got, code, out)
		}
		if code != 0 {
			continue
		}
		var passed []string
		for _, found := range regexp.MustCompile(`--env (\S+)`).FindAllStringSubmatch(string(arguments), -1) {
			passed = append(passed, found[1])
		}
		slices.Sort(passed)
		if diff := cmp.Diff([]string{"GITLAB_TOKEN", "GITLAB_TRIGGER_TOKEN", "REGISTRY_HOST", "REGISTRY_PASSWORD", "REGISTRY_USERNAME"}, passed); diff != "" {
			t.Errorf("variables (-want +got):\n%s", diff)
		}
		if !strings.HasSuffix(string(arguments), " --entrypoint crossbill "+byDigest+" watch --release-id r\n") {
			t.Errorf("docker %s", arguments)
		}
	}
}

// TestNothingOfTheSample: what others refer to names no host, app or registry.
func TestNothingOfTheSample(t *testing.T) {
	for _, path := range []string{deliver, handoff, installer, previewImage, previews, previewAction, filepath.Join(filepath.Dir(previewAction), "what"), filepath.Join(filepath.Dir(handoff), "crossbill"), filepath.Join(filepath.Dir(handoff), "deployment")} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if found := regexp.MustCompile(`qwik|our-org|example\.|gitlab\.com|registry\.[a-z]+\.`).FindAllString(string(text), -1); found != nil {
			t.Errorf("%s: %q", path, found)
		}
	}
}

// TestMergeQueue: the queue waits for the checks that a pull request needs, so they run for it too, each of them, and no
// newer group cancels them. A group's ref is its own.
func TestMergeQueue(t *testing.T) {
	data, err := os.ReadFile("../../.github/workflows/ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	var workflow struct {
		On          map[string]any
		Concurrency struct {
			Group  string
			Cancel string `yaml:"cancel-in-progress"`
		}
		Jobs map[string]struct{ If string }
	}
	if err := yaml.Unmarshal(data, &workflow); err != nil {
		t.Fatal(err)
	}
	events := slices.Sorted(maps.Keys(workflow.On))
	if want := []string{"merge_group", "pull_request", "push"}; !slices.Equal(events, want) {
		t.Errorf("it runs on %v, want %v", events, want)
	}
	if workflow.Concurrency.Group != "ci-${{ github.ref }}" || workflow.Concurrency.Cancel != "${{ github.event_name == 'pull_request' }}" {
		t.Errorf("concurrency %+v", workflow.Concurrency)
	}
	for name, job := range workflow.Jobs {
		if job.If != "" {
			t.Errorf("%s runs only if %s", name, job.If)
		}
	}
}
