//go:build standin

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/parser"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// session is a double of an engine's session: it resolves what a function of the module asks for, and
// runs nothing.
type session struct {
	mu      sync.Mutex
	objects map[string][]step // by id
	asked   [][]step          // chains that something was read of
	ends    func(args []string) (stdout, stderr string, code int)
	closed  bool   // no service of the caller's answers
	lacks   string // a secret that the caller does not have: no exec that it is given to can start
}

// step is one call in a chain of them: Container.withExec(args: …).
type step struct {
	name string
	args map[string]any
}

// begin connects the module to a new session.
func begin(t *testing.T) *session {
	t.Helper()
	s := &session{objects: map[string][]step{}, ends: func(args []string) (string, string, int) {
		if args[1] == "image" {
			return "r/a:1@sha256:89ab", "", 0
		}
		if args[1] == "bundle" {
			return "r/a@sha256:cdef\n", "", 0
		}
		return "{}", "", 0
	}}
	client, err := connect(s.answer)
	if err != nil {
		t.Fatal(err)
	}
	dag = client
	return s
}

func (s *session) answer(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var body struct{ Query string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return nil, err
	}
	query, err := parser.ParseQuery(&ast.Source{Input: body.Query})
	if err != nil {
		return nil, fmt.Errorf("%w in %s", err, body.Query)
	}
	answer := map[string]any{}
	data, err := s.resolve(nil, query.Operations[0].SelectionSet)
	if failed := (*gqlerror.Error)(nil); errors.As(err, &failed) {
		answer["errors"] = []*gqlerror.Error{failed}
	} else if err != nil {
		return nil, err
	}
	answer["data"] = data
	text, err := json.Marshal(answer)
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(text))}, err
}

// resolve follows a selection to its end and gives what is there.
func (s *session) resolve(chain []step, set ast.SelectionSet) (any, error) {
	switch selected := set[0].(type) {
	case *ast.InlineFragment:
		return s.resolve(chain, selected.SelectionSet)
	case *ast.Field:
		args := map[string]any{}
		for _, a := range selected.Arguments {
			value, err := a.Value.Value(nil)
			if err != nil {
				return nil, err
			}
			args[a.Name] = value
		}
		if id, ok := args["id"].(string); ok && selected.Name == "node" {
			chain = s.objects[id]
		} else {
			chain = append(slices.Clone(chain), step{selected.Name, args})
		}
		value, err := s.value(chain, selected)
		return map[string]any{selected.Name: value}, err
	}
	return nil, fmt.Errorf("%T is not expected", set[0])
}

func (s *session) value(chain []step, field *ast.Field) (any, error) {
	if len(field.SelectionSet) > 0 {
		return s.resolve(chain, field.SelectionSet)
	}
	object := chain[:len(chain)-1]
	switch field.Name {
	case "id", "sync", "start":
		if field.Name == "start" && s.closed {
			return nil, gqlerror.Errorf("start host service: connection refused")
		}
		id := fmt.Sprintf("object %d", len(s.objects))
		s.objects[id] = object
		if field.Name != "id" {
			s.asked = append(s.asked, object)
		}
		return id, nil
	case "endpoint":
		return "tcp://somewhere:1234", nil
	case "plaintext":
		if name := fmt.Sprint(object[0].args["name"]); name == s.lacks {
			return nil, gqlerror.Errorf("secret env var not found: %q", name)
		}
		return "plaintext", nil
	case "exitCode":
		s.asked = append(s.asked, object)
		if s.lacks != "" {
			return nil, gqlerror.Errorf("failed to prepare mounts: rpc error: code = Unknown desc = not found")
		}
		_, _, code := s.ends(words(object))
		return code, nil
	case "stderr":
		_, stderr, _ := s.ends(words(object))
		return stderr, nil
	case "contents":
		if file := object[len(object)-1]; file.name != "file" || file.args["path"] != resultFile {
			return nil, fmt.Errorf("%v is not the file with the result", file)
		}
		stdout, _, _ := s.ends(words(object[:len(object)-1]))
		return stdout, nil
	}
	return nil, fmt.Errorf("%s is not expected", field.Name)
}

// ran is the command lines that were run, in order.
func (s *session) ran() []string {
	var all []string
	for _, chain := range s.asked {
		if args := words(chain); args != nil {
			all = append(all, strings.Join(args, " "))
		}
	}
	return all
}

// words are the command line of a chain that ends with an exec, nil of any other.
func words(chain []step) []string {
	exec := chain[len(chain)-1]
	if exec.name != "withExec" {
		return nil
	}
	var args []string
	for _, arg := range exec.args["args"].([]any) {
		args = append(args, arg.(string))
	}
	if before := []string{"sh", "-c", toResult, "sh"}; len(args) > len(before) && slices.Equal(args[:len(before)], before) {
		return args[len(before):]
	}
	return args
}

// values are what steps of a name have in an argument.
func values(chain []step, name, argument string) []string {
	var all []string
	for _, step := range chain {
		if step.name == name {
			all = append(all, fmt.Sprint(step.args[argument]))
		}
	}
	return all
}

const image = "registry.example.com/our-org/app@sha256:0123"

// everything is a module that was given all that there is.
func everything() *Crossbill {
	secret := func(name string) *dagger.Secret { return dag.SetSecret(name, "plaintext of "+name) }
	service := func(address string) *dagger.Service { return dag.Address(address).Service() }
	return made(New(dag.File("crossbill.yaml", ""), dag.Directory(), "", dag.Directory(), "registry.example.com/our-org/crossbill@sha256:4567", nil, []string{"go=golang"},
		service("tcp://127.0.0.1:5000"), "registry.example.com", "ci", secret("registry"), service("tcp://127.0.0.1:8929"), secret("gitlab"), secret("kubeconfig"), service("tcp://127.0.0.1:6443"),
		service("tcp://127.0.0.1:9090"), secret("http_config"), secret("github"), secret("notify gitlab"), secret("webhook"), secret("chat"), secret("id_token"),
		secret("gitops"), secret("gitops ssh"), dag.File("known_hosts", ""), secret("gitops signing"), "jane", "shop", true))
}

// some is a module that was given the least that all functions go with.
func some() *Crossbill {
	return made(New(dag.File("crossbill.yaml", ""), dag.Directory(), "", dag.Directory(), "", dag.Directory(), nil, nil, "", "", nil,
		nil, dag.SetSecret("gitlab", "plaintext"), dag.SetSecret("kubeconfig", "plaintext"), nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, "", "", false))
}

// bundled is that with a bundle in place of the folder of the manifests.
func bundled() *Crossbill {
	m := some()
	m.ManifestsBundle = image
	return m
}

func made(m *Crossbill, err error) *Crossbill {
	if err != nil {
		panic(err)
	}
	return m
}

// TestCommandLines: what each function runs. cmd/crossbill has a test that the command takes these lines.
func TestCommandLines(t *testing.T) {
	text, err := os.ReadFile("testdata/command-lines.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(text)), "\n")
	ctx := t.Context()
	var all []string
	for name, call := range map[string]func() (string, error){
		"canary, all": func() (string, error) {
			return everything().Canary(ctx, image, 20, "", "", false, "", true, "id", "abc", "p", "s", []string{"mona", "mona@example.com"}, true, true, "5m")
		},
		"canary": func() (string, error) {
			return some().Canary(ctx, image, 0, "", "", false, "", false, "", "", "", "", nil, false, false, "")
		},
		"canary of a bundle": func() (string, error) {
			return bundled().Canary(ctx, "", 0, "header:x-canary=yes", "5%", true, "23h30m", false, "id", "abc", "", "", nil, false, false, "")
		},
		"rollback, to": func() (string, error) {
			return everything().Rollback(ctx, "", "because", "previous", true, false, "5m")
		},
		"rollback, now":    func() (string, error) { return some().Rollback(ctx, "", "because", "", false, true, "") },
		"rollback, bundle": func() (string, error) { return bundled().Rollback(ctx, "id", "", "", false, false, "") },
		"status, bundle":   func() (string, error) { return bundled().Status(ctx, false, "text") },
		"hold":             func() (string, error) { return everything().Hold(ctx, "maintenance", "5m") },
		"resume":           func() (string, error) { return some().Resume(ctx, "5m") },
		"shift":            func() (string, error) { return some().Shift(ctx, []int{20, 50}, "0s", "id", true, "5m") },
		"verify, all": func() (string, error) {
			return everything().Verify(ctx, "id", "3m", true, true, "http://app", true, "5m")
		},
		"verify":   func() (string, error) { return some().Verify(ctx, "", "", false, false, "", false, "") },
		"promote":  func() (string, error) { return some().Promote(ctx, "id", "10m", true, "5m") },
		"approve":  func() (string, error) { return everything().Approve(ctx, "id", "5m") },
		"cleanup":  func() (string, error) { return some().Cleanup(ctx, "id", true, "5m") },
		"rollback": func() (string, error) { return some().Rollback(ctx, "id", "because", "", false, false, "5m") },
		"guard":    func() (string, error) { return some().Guard(ctx, "15m", "24h", "5m") },
		"preview up": func() (string, error) {
			return bundled().PreviewUp(ctx, "pr-42", image, "abc", "24h", "5m")
		},
		"preview down": func() (string, error) { return bundled().PreviewDown(ctx, "pr-42", "5m") },
		"preview list": func() (string, error) { return bundled().PreviewList(ctx, "text") },
		"status":       func() (string, error) { return everything().Status(ctx, true, "wide") },
		"history":      func() (string, error) { return some().History(ctx, "text") },
		"plan":         func() (string, error) { return some().Plan(ctx, "canary", image, 0, "id", "abc", "p", "text") },
		"report":       func() (string, error) { _, err := some().Report(ctx, "html"); return "", err },
		"report, all":  func() (string, error) { _, err := everything().Report(ctx, "markdown"); return "", err },
		"inspect":      func() (string, error) { return some().Inspect(ctx, image, "abc", "text") },
		"publish": func() (string, error) {
			return everything().Publish(ctx, "r/a:1", "1", "abc", 7, "s", dag.SetSecret("key", "plaintext"), "refs/heads/main")
		},
		"bundle": func() (string, error) { return some().Bundle(ctx, image, "", false, nil, "") },
		"bundle, all": func() (string, error) {
			return everything().Bundle(ctx, image, "r/b", true, dag.SetSecret("key", "plaintext"), "refs/heads/main")
		},
		"trigger, all": func() (string, error) {
			return everything().Trigger(ctx, "abc", dag.SetSecret("trigger", "plaintext"), image, "", "main", "id", "s", true, true)
		},
		"trigger": func() (string, error) {
			return some().Trigger(ctx, "abc", dag.SetSecret("trigger", "plaintext"), image, "", "", "", "", false, false)
		},
		"trigger, bundle": func() (string, error) {
			return some().Trigger(ctx, "abc", dag.SetSecret("trigger", "plaintext"), "", image, "", "", "", false, false)
		},
		"propose, all": func() (string, error) {
			return everything().Propose(ctx, "abc", image, "", "s", true, true)
		},
		"propose": func() (string, error) {
			return some().Propose(ctx, "abc", "", image, "", false, false)
		},
		"watch":  func() (string, error) { return some().Watch(ctx, "", 7, "") },
		"cancel": func() (string, error) { return some().Cancel(ctx, "id", 0) },
	} {
		s := begin(t)
		if _, err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, chain := range s.asked {
			args := words(chain)
			if args == nil { // a service that was started
				continue
			}
			line := strings.Join(args, " ")
			if all = append(all, line); !slices.Contains(want, line) {
				t.Errorf("%s runs a line that is not in command-lines.txt:\n%s", name, line)
			}
			if ran := chain[len(chain)-1].args["args"].([]any); ran[2] != toResult {
				t.Errorf("%s: %v: what it prints is in the log too", name, ran)
			}
			if before := chain[len(chain)-2]; before.args["name"] != "CROSSBILL_CALLED" {
				t.Errorf("%s: %v stands before the exec: the engine may answer it from its cache", name, before)
			}
		}
	}
	for _, line := range want {
		if !slices.Contains(all, line) {
			t.Errorf("nothing runs\n%s", line)
		}
	}
}

// TestEveryCallIsAnotherExec: what stands before the exec differs between two calls of one line.
func TestEveryCallIsAnotherExec(t *testing.T) {
	s := begin(t)
	m := some()
	for range 2 {
		if _, err := m.Promote(t.Context(), "", "", false, "5m"); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.asked) != 2 {
		t.Fatalf("%d execs", len(s.asked))
	}
	first, second := values(s.asked[0], "withEnvVariable", "value"), values(s.asked[1], "withEnvVariable", "value")
	if first[len(first)-1] == second[len(second)-1] {
		t.Errorf("both calls have %v", first)
	}
}

// TestTheCommandIsPublishedWithTheLogin: what the registry's user and password are given for is in the container that is published.
func TestTheCommandIsPublishedWithTheLogin(t *testing.T) {
	for name, test := range map[string]struct {
		module func() *Crossbill
		want   []string
	}{
		"with a login": {everything, []string{"registry.example.com", "ci"}},
		"without one":  {some, nil},
	} {
		s := begin(t)
		c, err := test.module().Cli("1.0.0")
		if err != nil {
			t.Fatal(err)
		}
		id, err := c.ID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		chain := s.objects[string(id)]
		if got := append(values(chain, "withRegistryAuth", "address"), values(chain, "withRegistryAuth", "username")...); !slices.Equal(got, test.want) {
			t.Errorf("%s: the registry's login is %v, want %v", name, got, test.want)
		}
		for _, secret := range values(chain, "withRegistryAuth", "secret") {
			if made := s.objects[secret]; len(made) == 0 || made[0].args["name"] != "registry" {
				t.Errorf("%s: the password is %v", name, made)
			}
		}
	}
}

// TestABundleLeavesTheFolder: what crossbill.yaml names below the folder of the manifests is there beside a bundle, too.
func TestABundleLeavesTheFolder(t *testing.T) {
	s := begin(t)
	if _, err := bundled().Canary(t.Context(), "", 0, "", "", false, "", false, "id", "abc", "", "", nil, false, false, ""); err != nil {
		t.Fatal(err)
	}
	if got := values(s.asked[len(s.asked)-1], "withMountedDirectory", "path"); !slices.Contains(got, "/work/k8s") {
		t.Errorf("canary of a bundle has the folders %v", got)
	}
}

// TestWhatIsTakenOfTheApp: by patterns, none of which has to be there: Dagger takes no folder by its name that does not exist.
func TestWhatIsTakenOfTheApp(t *testing.T) {
	s := begin(t)
	if _, err := everything().Publish(t.Context(), "r/a:1", "", "", 0, "", nil, ""); err != nil {
		t.Fatal(err)
	}
	taken := map[string][]string{} // by the folder that it is taken of
	for _, chain := range s.objects {
		for _, step := range chain {
			if step.name == "directory" && step.args["path"] != nil && step.args["path"] != "/app" {
				t.Errorf("%v has to exist", step.args["path"])
			}
			if patterns, _ := step.args["include"].([]any); step.name == "withDirectory" && patterns != nil {
				of := "the checkout"
				if from := s.objects[step.args["source"].(string)]; len(from) > 0 && from[0].name == "container" {
					of = "the build"
				}
				taken[of] = strings.Fields(strings.Trim(fmt.Sprint(patterns), "[]"))
			}
		}
	}
	want := map[string][]string{
		"the checkout": {"package.json", "pnpm-lock.yaml", "pnpm-workspace.yaml", ".npmrc", ".pnpmfile.cjs", ".pnpmfile.mjs", "patches/**"},
		"the build":    {"dist/**", "server/**", "sbom/**", "pnpm-lock.yaml"},
	}
	if !reflect.DeepEqual(taken, want) {
		t.Errorf("of the app, %v is taken, want %v", taken, want)
	}
}

// TestWhatAnExecHas: secrets and variables reach the exec that needs them and no other, and no secret is text.
func TestWhatAnExecHas(t *testing.T) {
	ctx := t.Context()
	everywhere := []string{"OTEL_SDK_DISABLED=true"}
	gitops := []string{"CROSSBILL_GITOPS_TOKEN_FILE=/run/secrets/gitops-token", "CROSSBILL_GITOPS_SSH_KEY_FILE=/run/secrets/gitops-ssh-key", "CROSSBILL_GITOPS_SIGNING_KEY_FILE=/run/secrets/gitops-signing-key", "CROSSBILL_GITOPS_KNOWN_HOSTS_FILE=/run/gitops-known-hosts"}
	changing := []string{"/run/secrets/kubeconfig", "/run/secrets/prometheus.yaml", "/run/secrets/gitops-token", "/run/secrets/gitops-ssh-key", "/run/secrets/gitops-signing-key"}
	reading := []string{"/run/secrets/gitops-token", "/run/secrets/gitops-ssh-key", "/run/secrets/gitops-signing-key", "/run/secrets/kubeconfig"}
	for name, test := range map[string]struct {
		call      func(m *Crossbill) (string, error)
		variables []string
		secrets   []string
		files     []string
	}{
		"canary": {
			func(m *Crossbill) (string, error) {
				return m.Canary(ctx, image, 10, "", "", false, "", false, "", "", "", "", nil, false, false, "5m")
			},
			slices.Concat(everywhere, []string{"REGISTRY_HOST=registry.example.com", "REGISTRY_USERNAME=ci"}, gitops),
			[]string{"REGISTRY_PASSWORD", "CROSSBILL_GITHUB_TOKEN", "CROSSBILL_NOTIFY_GITLAB_TOKEN", "CROSSBILL_WEBHOOK", "CROSSBILL_CHAT", "CROSSBILL_ID_TOKEN"},
			changing,
		},
		"rollback": { // which never needs a token
			func(m *Crossbill) (string, error) { return m.Rollback(ctx, "", "", "", false, false, "5m") },
			slices.Concat(everywhere, []string{"REGISTRY_HOST=registry.example.com", "REGISTRY_USERNAME=ci"}, gitops),
			[]string{"REGISTRY_PASSWORD", "CROSSBILL_GITHUB_TOKEN", "CROSSBILL_NOTIFY_GITLAB_TOKEN", "CROSSBILL_WEBHOOK", "CROSSBILL_CHAT"},
			changing,
		},
		"status of a bundle": {
			func(m *Crossbill) (string, error) { m.ManifestsBundle = image; return m.Status(ctx, false, "text") },
			slices.Concat(everywhere, []string{"REGISTRY_HOST=registry.example.com", "REGISTRY_USERNAME=ci"}, gitops), []string{"REGISTRY_PASSWORD"}, reading,
		},
		"status": {
			func(m *Crossbill) (string, error) { return m.Status(ctx, false, "text") },
			slices.Concat(everywhere, gitops), nil, reading,
		},
		"report": {
			func(m *Crossbill) (string, error) { _, err := m.Report(ctx, "html"); return "", err },
			slices.Concat(everywhere, gitops), []string{"CROSSBILL_GITHUB_TOKEN", "CROSSBILL_NOTIFY_GITLAB_TOKEN", "GITLAB_TOKEN"}, reading,
		},
		"trigger": {
			func(m *Crossbill) (string, error) {
				return m.Trigger(ctx, "abc", dag.SetSecret("trigger", "plaintext of trigger"), image, "", "main", "", "", false, false)
			},
			everywhere, []string{"GITLAB_TOKEN", "GITLAB_TRIGGER_TOKEN"}, nil,
		},
		"propose": {
			func(m *Crossbill) (string, error) {
				return m.Propose(ctx, "abc", image, "", "", false, false)
			},
			slices.Concat(everywhere, gitops), nil, changing[2:],
		},
		"inspect": {
			func(m *Crossbill) (string, error) { return m.Inspect(ctx, image, "", "text") },
			append(everywhere, "REGISTRY_HOST=registry.example.com", "REGISTRY_USERNAME=ci"), []string{"REGISTRY_PASSWORD"}, nil,
		},
	} {
		s := begin(t)
		if _, err := test.call(everything()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		chain := s.asked[len(s.asked)-1]
		var variables []string
		for _, step := range chain {
			if step.name == "withEnvVariable" && step.args["name"] != "CROSSBILL_CALLED" {
				variables = append(variables, fmt.Sprintf("%s=%s", step.args["name"], step.args["value"]))
			}
		}
		if !slices.Equal(variables, test.variables) {
			t.Errorf("%s has the variables %v", name, variables)
		}
		if got := values(chain, "withSecretVariable", "name"); !slices.Equal(got, test.secrets) {
			t.Errorf("%s has the secrets %v", name, got)
		}
		if got := values(chain, "withMountedSecret", "path"); !slices.Equal(got, test.files) {
			t.Errorf("%s has the secret files %v", name, got)
		}
		if text := fmt.Sprint(chain); strings.Contains(text, "plaintext") {
			t.Errorf("%s: a secret is text: %s", name, text)
		}
		want := []string{"/work/crossbill.yaml"}
		if slices.Contains(test.variables, gitops[3]) {
			want = append(want, "/run/gitops-known-hosts")
		}
		if got := values(chain, "withMountedFile", "path"); !slices.Equal(got, want) || !slices.Equal(values(chain, "withWorkdir", "path"), []string{"/work"}) {
			t.Errorf("%s has the files %v, want the configuration where it runs", name, got)
		}
	}
}

// TestMissingArguments: a step that lacks a place says so before anything is built, with the exit code of
// bad input.
func TestMissingArguments(t *testing.T) {
	ctx := t.Context()
	for argument, call := range map[string]func(m *Crossbill) (string, error){
		"--kubeconfig-file is": func(m *Crossbill) (string, error) {
			m.KubeconfigFile = nil
			return m.Status(ctx, false, "text")
		},
		"--gitlab-token is": func(m *Crossbill) (string, error) { m.GitlabToken = nil; return m.Cancel(ctx, "", 7) },
		"--gitlab-token is missing": func(m *Crossbill) (string, error) {
			m.GitlabToken = nil
			return m.Release(ctx, "r/a:1", "abc", dag.SetSecret("trigger", "plaintext"), "main", "", 0, "30m", "", nil, "")
		},
		"--registry-host is": func(m *Crossbill) (string, error) {
			m.RegistryPassword = dag.SetSecret("registry", "plaintext")
			_, err := m.Cli("1.0.0")
			return "", err
		},
		"--tool-images": func(m *Crossbill) (string, error) { return "", m.useImages([]string{"ruby=ruby:3"}) },
	} {
		s := begin(t)
		_, err := call(some())
		var failed *gqlerror.Error
		if !errors.As(err, &failed) || failed.Extensions["exitCode"] != 2 || !strings.HasPrefix(failed.Message, argument) {
			t.Errorf("without %s: %v", argument, err)
		}
		if s.asked != nil {
			t.Errorf("without %s something was run", argument)
		}
	}
}

// TestFailuresAreTheCommandsOwn: `dagger call` shows what the command said last, and ends with its exit code.
func TestFailuresAreTheCommandsOwn(t *testing.T) {
	s := begin(t)
	s.ends = func([]string) (string, string, int) {
		return `{"command":"verify","message":"unhealthy"}`, "   1.0s  Deployment: ready\ncrossbill: notification failed: GitHub\ncrossbill: the canary is unhealthy:\n  30% are errors\n", 3
	}
	_, err := some().Verify(t.Context(), "", "", false, false, "", false, "5m")
	var failed *gqlerror.Error
	if !errors.As(err, &failed) || failed.Extensions["exitCode"] != 3 || failed.Message != "crossbill: the canary is unhealthy:\n  30% are errors\n" {
		t.Errorf("verify gives %v", err)
	}
}

// TestASecretThatCannotBeRead: the error names the argument, not the engine's mounts.
func TestASecretThatCannotBeRead(t *testing.T) {
	ctx := t.Context()
	for secret, test := range map[string]struct {
		argument string
		call     func(m *Crossbill) (string, error)
	}{
		"kubeconfig": {"--kubeconfig-file", func(m *Crossbill) (string, error) { return m.Promote(ctx, "", "", false, "") }},
		"id_token":   {"--id-token", func(m *Crossbill) (string, error) { return m.Promote(ctx, "", "", false, "") }},
		"webhook":    {"--webhook-url", func(m *Crossbill) (string, error) { return m.Promote(ctx, "", "", false, "") }},
		"chat":       {"--chat-addresses", func(m *Crossbill) (string, error) { return m.Promote(ctx, "", "", false, "") }},
		"gitlab":     {"--gitlab-token", func(m *Crossbill) (string, error) { return m.Watch(ctx, "", 7, "") }},
		"trigger": {"--trigger-token", func(m *Crossbill) (string, error) {
			return m.Trigger(ctx, "abc", dag.SetSecret("trigger", "plaintext"), image, "", "", "", "", false, false)
		}},
	} {
		s := begin(t)
		s.lacks = secret
		_, err := test.call(everything())
		var failed *gqlerror.Error
		if !errors.As(err, &failed) || failed.Extensions["exitCode"] != 2 || !strings.HasPrefix(failed.Message, test.argument+": ") || !strings.Contains(failed.Message, "env:NAME") {
			t.Errorf("without the secret %s: %v", secret, err)
		}
	}
	s := begin(t)
	s.lacks = "another secret"
	if _, err := everything().Promote(ctx, "", "", false, ""); err == nil || !strings.Contains(err.Error(), "failed to prepare mounts") {
		t.Errorf("with all secrets: %v", err)
	}
}

// TestAServiceThatDoesNotAnswer: the error names the argument.
func TestAServiceThatDoesNotAnswer(t *testing.T) {
	ctx := t.Context()
	for argument, call := range map[string]func(m *Crossbill) (string, error){
		"--kubernetes-service": func(m *Crossbill) (string, error) { return m.Status(ctx, false, "text") },
		"--prometheus-service": func(m *Crossbill) (string, error) {
			m.KubernetesService = nil
			return m.Verify(ctx, "", "", false, false, "", false, "")
		},
		"--gitlab-service": func(m *Crossbill) (string, error) { return m.Watch(ctx, "", 7, "") },
	} {
		s := begin(t)
		s.closed = true
		_, err := call(everything())
		var failed *gqlerror.Error
		if !errors.As(err, &failed) || failed.Extensions["exitCode"] != 1 || !strings.HasPrefix(failed.Message, argument+" does not answer") {
			t.Errorf("%s: %v", argument, err)
		}
	}
}

// TestToResult: the shell keeps the command's words, messages and exit code, and only its standard output goes elsewhere.
func TestToResult(t *testing.T) {
	file := filepath.Join(t.TempDir(), "result")
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(toResult, resultFile, file), "sh", "sh", "-c", `printf %s "$1"; printf %s "$2" >&2; exit 3`, "sh", "{ a  b }", "message")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	result, unread := os.ReadFile(file)
	if cmd.ProcessState.ExitCode() != 3 || stdout.String() != "" || stderr.String() != "message" || string(result) != "{ a  b }" || unread != nil {
		t.Errorf("%v, stdout %q, stderr %q, result %q, %v", err, stdout.String(), stderr.String(), result, unread)
	}
}

// TestTheLogHasTheMessage: of the JSON that a function returns, the log has the one line for people.
func TestTheLogHasTheMessage(t *testing.T) {
	var log bytes.Buffer
	progress = &log
	defer func() { progress = os.Stderr }()
	s := begin(t)
	const result = "{\n  \"command\": \"verify\",\n  \"message\": \"healthy: 1,200 requests\",\n  \"verdict\": {}\n}\n"
	s.ends = func([]string) (string, string, int) { return result, "", 0 }
	got, err := some().Verify(t.Context(), "", "", false, false, "", false, "")
	if err != nil || got != result {
		t.Errorf("verify returns %q, %v", got, err)
	}
	if got, want := log.String(), "verify: healthy: 1,200 requests\n"; got != want {
		t.Errorf("the log has %q, want %q", got, want)
	}
}

func TestWatchFailsOnlyWhenItSawNothing(t *testing.T) {
	s := begin(t)
	s.ends = func([]string) (string, string, int) { return `{"state":"failed"}`, "crossbill: pipeline 7 failed", 1 }
	if seen, err := some().Watch(t.Context(), "", 7, "30m"); err != nil || seen != `{"state":"failed"}` {
		t.Errorf("watch gives %q, %v", seen, err)
	}
	s.ends = func([]string) (string, string, int) { return "", "crossbill: no such project", 2 }
	if seen, err := some().Watch(t.Context(), "", 7, "30m"); err == nil || seen != "" {
		t.Errorf("watch gives %q, %v", seen, err)
	}
}

// TestPreviewHandoff: one pipeline is started, and that one is followed, in the project of previews.
func TestPreviewHandoff(t *testing.T) {
	const trigger, watch = "crossbill trigger --project=our-org/previews --output=json ", "crossbill watch --project=our-org/previews --output=json --pipeline=7"
	for action, want := range map[string][]string{
		"up":   {trigger + "--preview-up=pr-42 --image=" + image + " --commit=abc --source-url=s", watch + " --timeout=30m"},
		"down": {trigger + "--preview-down=pr-42", watch},
	} {
		s := begin(t)
		s.ends = func(args []string) (string, string, int) {
			if args[1] == "trigger" {
				return `{"pipelineId": 7}`, "", 0
			}
			return `{"state":"failed"}`, "crossbill: it failed", 1
		}
		given := []string{image, "abc", "s", "30m"}
		if action == "down" {
			given = make([]string, 4)
		}
		seen, err := some().PreviewHandoff(t.Context(), "our-org/previews", action, "pr-42", dag.SetSecret("trigger", "plaintext"), given[0], given[1], given[2], given[3])
		if err != nil || seen != `{"state":"failed"}` {
			t.Errorf("%s: %q, %v", action, seen, err)
		}
		if ran := s.ran(); !slices.Equal(ran, want) {
			t.Errorf("%s ran\n%s", action, strings.Join(ran, "\n"))
		}
	}
}

// TestRelease: the steps in their order, the digest handed from one to the next.
func TestRelease(t *testing.T) {
	s := begin(t)
	s.ends = func(args []string) (string, string, int) {
		switch args[1] {
		case "image":
			return "registry.example.com/our-org/app:1.0@sha256:89ab\n", "", 0
		case "bundle":
			return "registry.example.com/our-org/app@sha256:cdef\n", "", 0
		case "trigger":
			return `{"pipelineId": 7}`, "", 0
		}
		return `{"state":"waiting"}`, "crossbill: it waits", 7
	}
	seen, err := some().Release(t.Context(), "registry.example.com/our-org/app:1.0", "abc", dag.SetSecret("trigger", "plaintext"), "main", "", 0, "30m", "https://github.com/our-org/app", dag.SetSecret("key", "plaintext"), "refs/heads/main")
	if err != nil || seen != `{"state":"waiting"}` {
		t.Errorf("release gives %q, %v", seen, err)
	}
	want := []string{
		"pnpm check",
		"crossbill image build --app-dir=/app --created=0 --revision=abc --source-url=https://github.com/our-org/app --push=registry.example.com/our-org/app:1.0",
		"crossbill image attest registry.example.com/our-org/app@sha256:89ab --app-dir=/app --ref=refs/heads/main",
		"crossbill bundle --image=registry.example.com/our-org/app@sha256:89ab --manifests=/work/k8s",
		"crossbill image attest registry.example.com/our-org/app@sha256:cdef --ref=refs/heads/main",
		"crossbill trigger --output=json --bundle=registry.example.com/our-org/app@sha256:cdef --commit=abc --ref=main",
		"crossbill watch --output=json --pipeline=7 --timeout=30m",
	}
	if ran := s.ran(); !slices.Equal(ran, want) {
		t.Errorf("ran\n%s", strings.Join(ran, "\n"))
	}
}
