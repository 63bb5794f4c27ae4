package scaffold

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5"
	gitconfig "github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rhysd/actionlint"

	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/pipelinefile"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

const image = "registry.example.com/our-org/shop"

func answers() Answers {
	return Answers{
		App: "shop", Image: image, Manifests: "k8s", Namespace: "production", Context: "our-org/infrastructure:production", Prometheus: "http://prometheus.istio-system.svc:9090",
		Project: "our-org/infrastructure", Repository: "our-org/shop", GitLabURL: "https://gitlab.example.com",
		Component: "$CI_SERVER_FQDN/our-org/crossbill/release@1.0.0", CrossbillImage: "registry.example.com/our-org/crossbill@sha256:" + strings.Repeat("0a", 32),
		Workflow: "our-org/crossbill/.github/workflows/deliver.yml@" + strings.Repeat("0a", 20), Note: " # 1.0.0",
	}
}

func texts(t *testing.T, a Answers) map[string]string {
	t.Helper()
	files, err := Files(a, t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, f := range files {
		all[filepath.Base(f.Path)] = f.Text
	}
	return all
}

// TestFilesAreShort: what a team writes is what it has to keep up with.
func TestFilesAreShort(t *testing.T) {
	count := func(text string) int { return strings.Count(text, "\n") }
	byDagger := answers()
	byDagger.Assets = "/build/"
	byDagger.CrossbillImage, byDagger.Module = "", "github.com/our-org/crossbill@v1.0.0"
	for engine, a := range map[string]Answers{"none": answers(), "dagger": byDagger} {
		files := texts(t, a)
		if n := count(files[".gitlab-ci.yml"]) + count(files["release.yml"]); n > 25 {
			t.Errorf("engine %s: the pipeline files have %d lines", engine, n)
		}
		if n := count(files["crossbill.yaml"]); n > 20 {
			t.Errorf("engine %s: crossbill.yaml has %d lines", engine, n)
		}
	}
}

// TestFilesAreValid: each file is what its reader takes.
func TestFilesAreValid(t *testing.T) {
	odd := answers()
	odd.App, odd.Manifests, odd.AppDir, odd.CrossbillImage, odd.Module, odd.Note = "yes", "deploy/chart", ".", "", "github.com/our-org/crossbill@main", ""
	for name, a := range map[string]Answers{"all": answers(), "odd names": odd} {
		files := texts(t, a)
		parsed, err := config.Parse("crossbill.yaml", []byte(files["crossbill.yaml"]))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := []string{parsed.App, parsed.Manifests, parsed.Cluster.Context, parsed.Cluster.Namespace, parsed.Prometheus.URL, parsed.GitLab.URL, parsed.GitLab.Project, parsed.Notify.GitHub.Repository}
		if diff := cmp.Diff([]string{a.App, a.Manifests, a.Context, a.Namespace, a.Prometheus, a.GitLabURL, a.Project, a.Repository}, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		if _, err := pipelinefile.Parse([]byte(files[".gitlab-ci.yml"])); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		linter, err := actionlint.NewLinter(os.Stderr, &actionlint.LinterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(files["release.yml"], "} # attest: false, ") {
			t.Errorf("%s: release.yml does not say what a private repository needs:\n%s", name, files["release.yml"])
		}
		problems, err := linter.Lint(".github/workflows/release.yml", []byte(files["release.yml"]), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, problem := range problems {
			t.Errorf("%s: release.yml: %v", name, problem)
		}
	}
}

// TestTheBundlePattern admits what the app's repository has, by digest, and nothing else.
func TestTheBundlePattern(t *testing.T) {
	found := regexp.MustCompile(`bundle: .* regex: '(.*)'`).FindStringSubmatch(texts(t, answers())[".gitlab-ci.yml"])
	if found == nil {
		t.Fatal("there is none")
	}
	pattern, digest := regexp.MustCompile(found[1]), "@sha256:"+strings.Repeat("0a", 32)
	for text, want := range map[string]bool{"": true, image + digest: true, image + ":latest": false, image + digest + "\n": false, "registryXexample.com/our-org/shop" + digest: false, image + "/other" + digest: false} {
		if pattern.MatchString(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}

// TestDockerHub: the files have its repository in the one form that the commands print.
func TestDockerHub(t *testing.T) {
	a := answers()
	a.Image = "docker.io/our-org/shop"
	files := texts(t, a)
	bundle, err := release.ParseBundle("bundle", a.Image+"@sha256:"+strings.Repeat("0a", 32))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`bundle: .* regex: '(.*)'`).FindStringSubmatch(files[".gitlab-ci.yml"])
	if found == nil || !regexp.MustCompile(found[1]).MatchString(bundle) {
		t.Errorf("%q does not admit %s", found, bundle)
	}
	workflow := regexp.MustCompile(`image: ([^,}]+)`).FindStringSubmatch(files["release.yml"])
	if workflow == nil || !strings.HasPrefix(bundle, workflow[1]+"@") { // deliver.yml compares them
		t.Errorf("%q is not the repository of %s", workflow, bundle)
	}
}

func TestTheInclude(t *testing.T) {
	for component, want := range map[string]string{
		"gitlab.example.com/our-org/crossbill/release@1.0.0": "  - component: gitlab.example.com/our-org/crossbill/release@1.0.0\n",
		"https://example.com/template.yml":                   "  - remote: https://example.com/template.yml\n",
		"/templates/release/template.yml":                    "  - local: /templates/release/template.yml\n",
	} {
		a := answers()
		a.Component = component
		if text := texts(t, a)[".gitlab-ci.yml"]; !strings.Contains(text, want) {
			t.Errorf("%s:\n%s", component, text)
		}
	}
}

func TestBadAnswers(t *testing.T) {
	for name, change := range map[string]func(*Answers){
		"app":               func(a *Answers) { a.App = "" },
		"--image":           func(a *Answers) { a.Image = "registry.example.com/our-org/shop:latest" },
		"--image of none":   func(a *Answers) { a.Image = "our-org/shop" },
		"gitlab.project":    func(a *Answers) { a.Project = "" },
		"--component":       func(a *Answers) { a.Component = "" },
		"--workflow":        func(a *Answers) { a.Workflow = "a b" },
		"--crossbill-image": func(a *Answers) { a.CrossbillImage = "registry.example.com/crossbill:latest" },
		"--dagger-module":   func(a *Answers) { a.CrossbillImage = "" },
		"--github-dir":      func(a *Answers) { a.Branch = "release+next" },
		"--gitlab-dir":      func(a *Answers) { a.Ref = "a,b" },
		"crossbill.yaml:1":  func(a *Answers) { a.App = "Shop!" },
		"crossbill.yaml:7":  func(a *Answers) { a.Prometheus = "prometheus" },
	} {
		a := answers()
		change(&a)
		_, err := Files(a, t.TempDir(), t.TempDir())
		field, _, _ := strings.Cut(name, " ")
		if input := new(usererr.Error); !errors.As(err, &input) || !strings.HasPrefix(input.Field, field) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFilesAreWrittenOnce: the second time nothing changes, and what somebody has written is shown as a diff.
func TestFilesAreWrittenOnce(t *testing.T) {
	dir := t.TempDir()
	files, err := Files(answers(), dir, dir)
	if err != nil || len(files) != 3 {
		t.Fatal(len(files), err)
	}
	for _, f := range files {
		if f.Exists || f.Unchanged() || !strings.HasPrefix(f.Diff(), "--- /dev/null\n+++ "+f.Path+"\n@@") {
			t.Errorf("%s before: %s", f.Path, f.Diff())
		}
		if err := f.Write(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(files[1].Path, []byte(files[1].Text+"# ours\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := Files(answers(), dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range again {
		if f.Unchanged() != (i != 1) {
			t.Errorf("%s after: %s", f.Path, f.Diff())
		}
	}
	if diff := again[1].Diff(); !strings.Contains(diff, "\n-# ours\n") {
		t.Error(diff)
	}
}

// TestFilesKeepSettings: of a crossbill.yaml that exists, only what the answers change is changed.
func TestFilesKeepSettings(t *testing.T) {
	const own = `# ours
app: shop
manifests: ./k8s # a kustomization
cluster:
  context: our-org/infrastructure:production
  namespace: production
prometheus:
  url: http://prometheus.istio-system.svc:9090
gitlab:
  url: https://gitlab.example.com
  project: our-org/infrastructure
  user: release-bot
approval:
  issuer: https://gitlab.example.com
  project: our-org/infrastructure
  environment: live/shop
  approvers: [jane] # and nobody else
notify:
  github:
    repository: our-org/shop
  otlpEndpoint: https://otel.example.com
imagePolicy:
  repository: https://github.com/our-org/shop
  identities:
    - {issuer: https://token.actions.githubusercontent.com, subject: https://github.com/our-org/shop/.github/workflows/release.yml@refs/heads/main}
canary:
  weight: 5
`
	if _, err := config.Parse("crossbill.yaml", []byte(own)); err != nil {
		t.Fatal(err)
	}
	anchored := strings.NewReplacer("namespace: production", "namespace: &live production", "environment: live/shop", "environment: *live").Replace(own)
	replace := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(own) }
	for name, c := range map[string]struct {
		before string
		change func(*Answers)
		want   string
	}{
		"the same answers":   {own, func(*Answers) {}, own},
		"another namespace":  {own, func(a *Answers) { a.Namespace = "shop" }, replace("namespace: production", "namespace: shop")},
		"another branch":     {own, func(a *Answers) { a.Ref = "master" }, replace("  user: release-bot\n", "  user: release-bot\n  ref: master\n", "  approvers: [jane] # and nobody else\n", "  approvers: [jane] # and nobody else\n  ref: master\n")},
		"another folder":     {own, func(a *Answers) { a.Manifests = "deploy" }, replace("./k8s", "deploy")},
		"another project":    {own, func(a *Answers) { a.Project = "our-org/deploy" }, replace("project: our-org/infrastructure", "project: our-org/deploy")},
		"no address before":  {replace("  url: https://gitlab.example.com\n", "", "issuer: https://gitlab.example.com", "issuer: https://gitlab.com"), func(*Answers) {}, replace("  url: https://gitlab.example.com\n", "", "  user: release-bot\n", "  user: release-bot\n  url: https://gitlab.example.com\n")},
		"no gate":            {own[:strings.Index(own, "approval:")], func(a *Answers) { a.Project = "our-org/deploy" }, replace("project: our-org/infrastructure\n  user", "project: our-org/deploy\n  user")[:strings.Index(own, "approval:")-len("infrastructure")+len("deploy")] + "notify:\n  github:\n    repository: our-org/shop\n"},
		"hardly anything":    {"app: shop # ours\n", func(a *Answers) { a.Context, a.Prometheus, a.Repository = "", "", "" }, "app: shop # ours\napproval:\n  environment: production/shop\n  issuer: https://gitlab.example.com\n  project: our-org/infrastructure\ncluster:\n  namespace: production\ngitlab:\n  project: our-org/infrastructure\n  url: https://gitlab.example.com\n"},
		"what is no setting": {"shop: {}\n", func(*Answers) {}, ""},
		"an anchor":          {anchored, func(a *Answers) { a.Namespace = "shop" }, anchored},
	} {
		dir, a := t.TempDir(), answers()
		c.change(&a)
		if err := os.WriteFile(filepath.Join(dir, "crossbill.yaml"), []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		files, err := Files(a, dir, dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := c.want
		if want == "" { // written over, if at all
			want = a.settings()
		}
		if diff := cmp.Diff(want, files[0].Text); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		if got := files[0].Warning; (name == "an anchor") != (got != "") {
			t.Errorf("%s: the warning is %q", name, got)
		}
	}
}

func addRemote(t *testing.T, repository *git.Repository, name, url string) {
	t.Helper()
	if _, err := repository.CreateRemote(&gitconfig.RemoteConfig{Name: name, URLs: []string{url}}); err != nil {
		t.Fatal(err)
	}
}

// inAnyOrder compares remotes, which a repository has in none.
var inAnyOrder = cmpopts.SortSlices(func(a, b Remote) bool { return a.URL < b.URL })

// TestRemotes: the address of a GitLab is the one that its API has, whichever way the repository is pushed to it.
func TestRemotes(t *testing.T) {
	for url, want := range map[string]Remote{
		"git@gitlab.corp.example:group/infra.git":             {"https://gitlab.corp.example", "group/infra"},
		"ssh://git@gitlab.corp.example:2222/group/sub/infra":  {"https://gitlab.corp.example", "group/sub/infra"},
		"https://ci:glpat-x@gitlab.corp.example:8443/a/b.git": {"https://gitlab.corp.example:8443", "a/b"},
		"http://gitlab.corp.example/a/b/":                     {"https://gitlab.corp.example", "a/b"},
		"http://gitlab.corp.example:8080/a/b":                 {"http://gitlab.corp.example:8080", "a/b"},
		"ssh://git@altssh.gitlab.com:443/our-org/infra.git":   {"https://gitlab.com", "our-org/infra"},
		"ssh://git@ssh.github.com:443/our-org/shop.git":       {"https://github.com", "our-org/shop"},
		"https://GitLab.com/our-org/infra":                    {"https://gitlab.com", "our-org/infra"},
		"git@git.corp.example:group/infra.git":                {"https://git.corp.example", "group/infra"},
	} {
		dir := t.TempDir()
		repository, err := git.PlainInit(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		addRemote(t, repository, "origin", url)
		if diff := cmp.Diff(Remotes{want}, RemotesOf(dir)); diff != "" {
			t.Errorf("%s:\n%s", url, diff)
		}
	}
	both := Remotes{{"https://github.com", "our-org/shop"}, {"https://git.corp.example", "our-org/shop"}, {"https://gitlab.corp.example", "infra/deploy"}}
	if diff := cmp.Diff([]string{"our-org/shop", "infra/deploy", "https://git.corp.example", "https://gitlab.corp.example", ""}, []string{both.GitHub(), both.GitLab(), both.URL("our-org/shop"), both.URL("Infra/Deploy"), both.URL("infra")}); diff != "" {
		t.Error(diff)
	}
}

// TestBranchOf: what a clone's origin has comes first, and a branch that somebody works on is not the one that is released.
func TestBranchOf(t *testing.T) {
	for name, c := range map[string]struct {
		head string // "" for a commit
		refs []string
		want string
	}{
		"new":                    {"refs/heads/master", nil, "master"},
		"of its own name":        {"refs/heads/trunk", []string{"refs/heads/trunk"}, "trunk"},
		"a clone":                {"refs/heads/adopt", []string{"refs/heads/main", "refs/remotes/origin/HEAD refs/remotes/origin/release/live"}, "release/live"},
		"somebody's work":        {"refs/heads/adopt", []string{"refs/heads/adopt", "refs/heads/master"}, "master"},
		"somebody's first fetch": {"refs/heads/adopt", []string{"refs/remotes/origin/main", "refs/remotes/origin/master"}, "main"},
		"both":                   {"refs/heads/master", []string{"refs/heads/main", "refs/heads/master"}, "master"},
		"a commit":               {"", nil, ""},
	} {
		dir := t.TempDir()
		repository, err := git.PlainInit(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		commit := strings.Repeat("0a", 20)
		refs := map[string]string{"HEAD": "ref: " + c.head}
		if c.head == "" {
			refs["HEAD"] = commit
		}
		for _, ref := range c.refs {
			name, target, symbolic := strings.Cut(ref, " ")
			refs[name] = commit
			if symbolic {
				refs[name] = "ref: " + target
			}
		}
		for name, target := range refs {
			if err := repository.Storer.SetReference(plumbing.NewReferenceFromStrings(name, target)); err != nil {
				t.Fatal(err)
			}
		}
		if got := BranchOf(dir); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := BranchOf(t.TempDir()); got != "" {
		t.Errorf("no repository: %q", got)
	}
}

// TestTheBranch: where a repository has another branch than main, everything that would wait for main names it.
func TestTheBranch(t *testing.T) {
	a := answers()
	a.Branch, a.Ref = "trunk", "1.0"
	files := texts(t, a)
	parsed, err := config.Parse("crossbill.yaml", []byte(files["crossbill.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1.0", "1.0"}, []string{parsed.GitLab.Ref, parsed.Approval.Ref}); diff != "" {
		t.Errorf("crossbill.yaml (-want +got):\n%s", diff)
	}
	for name, want := range map[string]string{"release.yml": "branches: [trunk]", ".gitlab-ci.yml": `      branch: "1.0", crossbill_image: `} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s: no %q in\n%s", name, want, files[name])
		}
	}
	a.Branch, a.Ref = "main", "main"
	if diff := cmp.Diff(texts(t, answers()), texts(t, a)); diff != "" {
		t.Errorf("main is written, which is the default:\n%s", diff)
	}
}

// TestAssets: an app whose pages need the files of their version is released sticky, where its route can be.
func TestAssets(t *testing.T) {
	for name, c := range map[string]struct{ manifests, packages, want string }{
		"Qwik":                  {"../../k8s", `{"devDependencies": {"@builder.io/qwik": "1.20.1", "vite": "7.3.8"}}`, "/build/"},
		"Vite":                  {"../../k8s", `{"dependencies": {"vite": "7.3.8"}}`, "/assets/"},
		"no front end":          {"../../k8s", `{"dependencies": {"fastify": "5.12.8"}, "devDependencies": {"vitest": "4.1.12"}}`, ""},
		"by the Gateway API":    {"../doctor/testdata/route", `{"dependencies": {"vite": "7.3.8"}}`, ""},
		"of which nothing says": {"", `{"dependencies": {"vite": "7.3.8"}}`, ""},
		"no JSON":               {"../../k8s", "{", ""},
	} {
		dir := t.TempDir()
		if c.manifests != "" {
			if err := os.CopyFS(filepath.Join(dir, "k8s"), os.DirFS(c.manifests)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(c.packages), 0o644); err != nil {
			t.Fatal(err)
		}
		found := Look(t.Context(), dir, "", "", "")
		if found.Problem != nil || found.Assets != c.want {
			t.Errorf("%s: %q, want %q (%v)", name, found.Assets, c.want, found.Problem)
		}
		a := answers()
		a.Assets = found.Assets
		parsed, err := config.Parse("crossbill.yaml", []byte(a.settings()))
		if err != nil {
			t.Fatal(err)
		}
		if got := parsed.Canary; got.Sticky != (c.want != "") || c.want != "" && c.want != "/build/" && got.StickyAssets != c.want {
			t.Errorf("%s: %+v in\n%s", name, got, a.settings())
		}
	}
}

func TestLook(t *testing.T) {
	none := Look(t.Context(), t.TempDir(), "", "", "")
	if diff := cmp.Diff(Found{}, none); diff != "" {
		t.Errorf("nothing:\n%s", diff)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "deploy"), os.DirFS("../../k8s")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"package.json": `{"scripts": {"build": "vite build"}}`, "pnpm-lock.yaml": "", "Dockerfile": "FROM scratch"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	repository, err := git.PlainInit(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, url := range map[string]string{"origin": "git@github.com:our-org/shop.git", "infra": "https://gitlab.example.com/our-org/infrastructure.git"} {
		addRemote(t, repository, name, url)
	}
	want := Found{
		Manifests: "deploy", App: "qwik-node-app", Service: "qwik-node-app-service", Image: "registry.example.com/our-org/qwik-node-app",
		AppDir: ".", Package: "pnpm", Missing: []string{"check"}, Dockerfile: true, Repository: "our-org/shop", Project: "our-org/infrastructure",
		Remotes: Remotes{{"https://gitlab.example.com", "our-org/infrastructure"}, {"https://github.com", "our-org/shop"}},
	}
	if diff := cmp.Diff(want, Look(t.Context(), dir, "", "", ""), inAnyOrder); diff != "" {
		t.Error(diff)
	}
	if err := os.Remove(filepath.Join(dir, "deploy", "service.yaml")); err != nil {
		t.Fatal(err)
	}
	broken := Look(t.Context(), dir, "", "", "")
	if broken.Problem == nil || broken.Manifests != "deploy" {
		t.Errorf("without a Service: %+v", broken)
	}
	want.Manifests, want.App, want.Service, want.Image = "deploy", "", "", ""
	if diff := cmp.Diff(want, broken, inAnyOrder, cmpopts.IgnoreFields(Found{}, "Problem")); diff != "" {
		t.Error(diff)
	}
}
