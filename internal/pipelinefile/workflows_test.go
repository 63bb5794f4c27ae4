package pipelinefile

import (
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

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

// TestActionlint runs actionlint on GitHub's side, without its optional external programs.
func TestActionlint(t *testing.T) {
	linter, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range workflows(t) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found, err := linter.Lint(path, data, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range found {
			t.Error(e)
		}
	}
	found, err := linter.Lint("broken.yml", []byte("on: push\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps:\n      - run: echo ${{ github.event.head_commit.message }}\n"), nil)
	if err != nil || len(found) == 0 {
		t.Error("actionlint sees nothing", err)
	}
}

// TestWorkflowsAreSafe: actions are pinned by commit, nobody has rights that are not written down, a token is in an
// environment and in the steps alone that use it, and no text of an event is put into a script.
func TestWorkflowsAreSafe(t *testing.T) {
	// Of release.yml, only main may use them. The login of pull requests is another one.
	environments := map[string][]string{"release.yml": {"publishing", "handoff"}, "pull-request.yml": {"previews"}}
	isToken := func(value string) bool {
		return strings.Contains(value, "secrets.") || strings.Contains(value, "github.token")
	}
	pinned := regexp.MustCompile(`^([a-z-]+/[a-z-]+@[0-9a-f]{40}|\./\.github/actions/[a-z]+)$`)
	for _, path := range workflows(t) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var workflow struct {
			Permissions map[string]string
			Concurrency map[string]any
			Jobs        map[string]struct {
				Permissions map[string]string
				Timeout     int `yaml:"timeout-minutes"`
				Environment struct{ Name string }
				Env         map[string]string
				Steps       []struct {
					Uses, Run string
					With      map[string]any
					Env       map[string]string
				}
			}
		}
		if err := yaml.Unmarshal(data, &workflow); err != nil {
			t.Fatal(err)
		}
		if workflow.Permissions == nil || len(workflow.Permissions) != 0 || workflow.Concurrency["group"] == nil {
			t.Errorf("%s: permissions %v, concurrency %v", path, workflow.Permissions, workflow.Concurrency)
		}
		for name, job := range workflow.Jobs {
			if job.Permissions == nil || job.Timeout == 0 {
				t.Errorf("%s: %s: permissions %v, time-out %d", path, name, job.Permissions, job.Timeout)
			}
			for variable, value := range job.Env {
				if isToken(value) {
					t.Errorf("%s: %s: every step has %s: %s", path, name, variable, value)
				}
			}
			calls := 0
			for _, step := range job.Steps {
				if step.Uses != "" && !pinned.MatchString(step.Uses) {
					t.Errorf("%s: %s: %s is not pinned", path, name, step.Uses)
				}
				if strings.HasPrefix(step.Uses, "actions/checkout@") && step.With["persist-credentials"] != false {
					t.Errorf("%s: %s: the token stays in the checkout", path, name)
				}
				if strings.Contains(step.Run, "${{") {
					t.Errorf("%s: %s: a value is put into a script: %s", path, name, step.Run)
				}
				for variable, value := range step.Env {
					if !isToken(value) {
						continue
					}
					if !strings.Contains(step.Run, variable) && variable != "GH_TOKEN" {
						t.Errorf("%s: %s: a step has %s and does not use it", path, name, variable)
					}
					if environment := environments[filepath.Base(path)]; strings.Contains(value, "secrets.") && !slices.Contains(environment, job.Environment.Name) {
						t.Errorf("%s: %s: %s is a secret of the environment %q", path, name, value, job.Environment.Name)
					}
				}
				calls += strings.Count(step.Run, "dagger call ")
			}
			want := 1
			if filepath.Base(path) == "ci.yml" { // the tool's own
				want = 0
			}
			if calls != want {
				t.Errorf("%s: %s: %d calls of dagger, want %d", path, name, calls, want)
			}
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
