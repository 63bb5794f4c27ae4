package proposal

import (
	"bytes"
	"errors"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/environment/gittest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

const (
	run    = "https://github.com/our-org/shop/actions/runs/"
	commit = "3f9a1c2d3f9a1c2d3f9a1c2d3f9a1c2d3f9a1c2d"
)

var digest = strings.Repeat("0a", 32)

// good is a proposal of an image.
func good(change ...func(*Proposal)) *Proposal {
	p := &Proposal{Handoff: release.Handoff{App: "shop", Image: "registry.example.com/our-org/shop@sha256:" + digest, Commit: commit, SourceURL: run + "7"}}
	for _, c := range change {
		c(p)
	}
	if err := p.Check(); err != nil {
		panic(err)
	}
	return p
}

func again(p *Proposal)  { p.Again = true }
func bundle(p *Proposal) { p.Bundle, p.Image = p.Image, "" }
func from(n string) func(*Proposal) {
	return func(p *Proposal) { p.SourceURL, p.Commit = run+n, "abcdef0"+n }
}

func TestFile(t *testing.T) {
	for name, test := range map[string]struct {
		proposal *Proposal
		want     string
	}{
		"image": {good(), `# Written by ` + "`crossbill propose`" + `. The pipeline of this repository releases what it names.
app: shop
releaseId: b886b7b15688
image: registry.example.com/our-org/shop@sha256:` + digest + `
commit: 3f9a1c2d3f9a1c2d3f9a1c2d3f9a1c2d3f9a1c2d
sourceUrl: https://github.com/our-org/shop/actions/runs/7
`},
		"bundle again, numbers in quotes": {good(bundle, again, func(p *Proposal) { p.App, p.Commit, p.SourceURL, p.ID = "1e3", "1234567", "", "null" }), `# Written by ` + "`crossbill propose`" + `. The pipeline of this repository releases what it names.
app: "1e3"
releaseId: "null"
bundle: registry.example.com/our-org/shop@sha256:` + digest + `
commit: "1234567"
again: true
`},
		"approved": {good(func(p *Proposal) { p.Approve = "1234567" }), `# Written by ` + "`crossbill propose`" + `. The pipeline of this repository releases what it names.
app: shop
releaseId: b886b7b15688
image: registry.example.com/our-org/shop@sha256:` + digest + `
commit: 3f9a1c2d3f9a1c2d3f9a1c2d3f9a1c2d3f9a1c2d
sourceUrl: https://github.com/our-org/shop/actions/runs/7
approve: "1234567"
`},
	} {
		t.Run(name, func(t *testing.T) {
			text := test.proposal.File()
			if diff := cmp.Diff(test.want, string(text)); diff != "" {
				t.Error(diff)
			}
			read, err := Parse("shop.yaml", text, test.proposal.App)
			if diff := cmp.Diff(test.proposal, read); err != nil || diff != "" {
				t.Errorf("read again: %v %s", err, diff)
			}
			if read, err := Parse("shop.yaml", bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")), test.proposal.App); err != nil || !cmp.Equal(test.proposal, read) {
				t.Errorf("with CRLF: %v", err)
			}
		})
	}
}

// TestParseErrors: each says where it is, what is wrong and what to do.
func TestParseErrors(t *testing.T) {
	whole := string(good().File())
	without := func(line int) string {
		return strings.Join(slices.Delete(strings.SplitAfter(whole, "\n"), line, line+1), "")
	}
	for name, test := range map[string]struct{ text, field, problem string }{
		"unknown field":        {whole + "weight: 10\n", `f.yaml:7: "weight"`, "there is no such field"},
		"another case":         {strings.Replace(whole, "commit", "Commit", 1), `f.yaml:5: "Commit"`, "there is no such field"},
		"a field twice":        {whole + "app: shop\n", "f.yaml:7: app", "line 2 has it too"},
		"another app's":        {strings.Replace(whole, "app: shop", "app: cart", 1), "f.yaml:2: app", `it is "cart", and this is the file of "shop"`},
		"no app":               {without(1), "f.yaml: app", "it is missing"},
		"no image":             {without(3), "f.yaml: image", "it is missing, and so is bundle"},
		"no commit":            {without(4), "f.yaml: commit", "it is missing"},
		"an image by tag":      {strings.Replace(whole, "@sha256:"+digest, ":v1", 1), "f.yaml:4: image", "is not an image with a digest"},
		"a digest too short":   {strings.Replace(whole, digest, digest[:60], 1), "f.yaml:4: image", "is not an image with a digest"},
		"another digest":       {strings.Replace(whole, digest, strings.Repeat("0b", 32), 1), "f.yaml:3: releaseId", "is not the id of"},
		"image and bundle":     {whole + "bundle: registry.example.com/our-org/shop@sha256:" + digest, "f.yaml:7: bundle", "a bundle and an image are given"},
		"a commit by name":     {strings.Replace(whole, commit, "main", 1), "f.yaml:5: commit", `"main" is not a commit`},
		"an address to run":    {strings.Replace(whole, run+"7", `"https://x/$(id)"`, 1), "f.yaml:6: sourceUrl", "is not a plain web address"},
		"a line break":         {strings.Replace(whole, run+"7", `"https://x/\nIMAGE=y"`, 1), "f.yaml:6: sourceUrl", "is not a plain web address"},
		"a block of lines":     {strings.Replace(whole, run+"7", "|\n  https://x/\n  IMAGE=y", 1), "f.yaml:6: sourceUrl", "is not a plain web address"},
		"approve: -":           {whole + "approve: -x\n", "f.yaml:7: approve", `"-x" is not a release id`},
		"again: yes":           {whole + "again: yes\n", "f.yaml:7: again", `"yes" is not true or false`},
		"no text":              {strings.Replace(whole, run+"7", "", 1), "f.yaml:6: sourceUrl", "it has no text"},
		"a list":               {strings.Replace(whole, commit, "["+commit+"]", 1), "f.yaml:5: commit", "it has no text"},
		"an alias":             {strings.Replace(strings.Replace(whole, "app: shop", "app: &a shop", 1), commit, "*a", 1), "f.yaml:5: commit", "it has no text"},
		"a merge":              {whole + "<<: {app: cart}\n", `f.yaml:7: "<<"`, "there is no such field"},
		"not YAML":             {whole + "\tapp: [\n", "f.yaml:6", "it is not YAML"},
		"conflict":             {"<<<<<<< HEAD\n" + whole, "f.yaml:2", "it is not YAML"},
		"a second document":    {whole + "---\napp: shop\n", "f.yaml:7", "it has a second document"},
		"empty":                {"", "f.yaml", "it is empty"},
		"comments alone":       {heading, "f.yaml", "it is empty"},
		"null":                 {"null\n", "f.yaml:1", "it has no fields"},
		"a list of files":      {"- app: shop\n", "f.yaml:1", "it has no fields"},
		"a large file":         {whole + strings.Repeat("# x\n", MaxFile/4), "f.yaml", "it has more than 64 KiB"},
		"JSON that nests":      {strings.Repeat("[", 20000), "f.yaml:1", "it is not YAML"},
		"a field that nests":   {strings.Repeat("{a: ", 9000), "f.yaml:1", "it is not YAML"},
		"bytes that are wrong": {"app: \xff\xfe\n", "f.yaml:1", "it is not YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f.yaml", []byte(test.text), "shop")
			wrong, ok := errors.AsType[*usererr.Error](err)
			if !ok || wrong.Field != test.field || !strings.Contains(wrong.Problem, test.problem) || wrong.Fix == "" || strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("got %v, want %s: %s", err, test.field, test.problem)
			}
		})
	}
}

func TestDecide(t *testing.T) {
	seventh := good(from("7"))
	for name, test := range map[string]struct {
		current, want *Proposal
		outcome       Outcome
	}{
		"the first":                   {nil, seventh, Outcome{}},
		"the same":                    {seventh, good(from("7")), Outcome{Same: true}},
		"the same, of another run":    {seventh, good(from("7"), func(p *Proposal) { p.SourceURL = run + "8" }), Outcome{Same: true}},
		"the same, of an older run":   {seventh, good(from("7"), func(p *Proposal) { p.SourceURL = run + "6" }), Outcome{Same: true}},
		"a newer one":                 {seventh, good(from("8")), Outcome{}},
		"an older one":                {seventh, good(from("6")), Outcome{SupersededBy: seventh.ID}},
		"by number, not by text":      {seventh, good(from("10")), Outcome{}},
		"another attempt of the run":  {seventh, good(from("7"), func(p *Proposal) { p.Image = strings.Replace(p.Image, "0a", "0b", 1) }), Outcome{}},
		"an older one, on purpose":    {seventh, good(from("6"), again), Outcome{}},
		"the same, on purpose":        {seventh, good(from("7"), again), Outcome{}},
		"once more on purpose":        {good(from("7"), again), good(from("7"), again), Outcome{Same: true}},
		"approved meanwhile":          {good(from("7"), func(p *Proposal) { p.Approve = p.ID }), good(from("7")), Outcome{Same: true}},
		"the workflow repeats it":     {good(from("7"), again), good(from("7")), Outcome{Same: true}},
		"older than one that is back": {good(from("7"), again), good(from("6")), Outcome{SupersededBy: seventh.ID}},
		"a run of another repository": {seventh, good(from("6"), func(p *Proposal) { p.SourceURL = "https://github.com/our-org/other/actions/runs/6" }), Outcome{}},
		"no run":                      {seventh, good(from("6"), func(p *Proposal) { p.SourceURL = "" }), Outcome{}},
		"its bundle":                  {seventh, good(from("7"), bundle), Outcome{}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.outcome, Decide(test.current, test.want)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPath(t *testing.T) {
	for folder, want := range map[string]string{"releases": "releases/shop.yaml", ".": "shop.yaml", "a/./b/": "a/b/shop.yaml", "..": "", "a/../../b": "", `a\b`: "", "/a": ""} {
		got, err := Path(folder, "shop")
		if wrong, ok := errors.AsType[*usererr.Error](err); got != want || (want == "") != (ok && wrong.Field == "gitops.releases") {
			t.Errorf("%q: got %q, %v; want %q", folder, got, err, want)
		}
	}
}

// TestCheckFolder: a repository without a kustomization, and one with it.
func TestCheckFolder(t *testing.T) {
	for name, test := range map[string]struct {
		applied, controller, more string
		good                      bool
	}{
		"no controller":                  {".", "", "", true},
		"the root, Flux":                 {".", "flux", "", false},
		"the root, Argo CD":              {".", "argocd", "", true},
		"its own folder":                 {"releases/", "argocd", "", false},
		"elsewhere":                      {"apps/shop", "flux", "", true},
		"a folder that begins like it":   {"rel", "flux", "", true},
		"a kustomization":                {".", "flux", "kustomization.yaml", true},
		"a kustomization elsewhere":      {".", "flux", "apps/kustomization.yaml", false},
		"a file that Flux leaves out by": {".", "flux", ".sourceignore", true},
	} {
		t.Run(name, func(t *testing.T) {
			tree := treeOf(t, "a", test.more)
			err := CheckFolder(tree, "releases/shop.yaml", test.applied, test.controller)
			if wrong, ok := errors.AsType[*usererr.Error](err); (err == nil) != test.good || err != nil && (!ok || wrong.Field != "gitops.releases") {
				t.Error(err)
			}
		})
	}
}

// treeOf is a repository with these files, read from Git's own server.
func treeOf(t *testing.T, names ...string) *environment.Tree {
	t.Helper()
	root, files := t.TempDir(), map[string]string{}
	for _, name := range names {
		if name != "" {
			files[name] = "x"
		}
	}
	stored, err := gittest.Init(filepath.Join(root, "environment.git"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stored.Commit("First", gittest.Change{Files: files}); err != nil {
		t.Fatal(err)
	}
	backend, err := gittest.Server(root)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(backend)
	t.Cleanup(server.Close)
	repository, err := environment.New(environment.Options{URL: server.URL + "/environment.git", Branch: "main"})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := repository.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestMessage(t *testing.T) {
	want := `shop: release 3f9a1c2 again

Release a8ba1c4d55af of
bundle registry.example.com/our-org/shop@sha256:` + digest + `,
handed over by https://github.com/our-org/shop/actions/runs/7.

Release: a8ba1c4d55af
Bundle: registry.example.com/our-org/shop@sha256:` + digest + `
Commit: 3f9a1c2d3f9a1c2d3f9a1c2d3f9a1c2d3f9a1c2d
Source: https://github.com/our-org/shop/actions/runs/7
`
	if diff := cmp.Diff(want, good(bundle, again).Message().String()); diff != "" {
		t.Error(diff)
	}
}

func TestCheckRepository(t *testing.T) {
	for repository, admitted := range map[string]bool{"registry.example.com/our-org/shop": true, "registry.example.com/our-org": false, "registry.example.com/our-org/sho": false, "registry.example.com/our-org/shop@sha256": false} {
		for _, p := range []*Proposal{good(), good(bundle)} {
			if err := p.CheckRepository(repository); (err == nil) != admitted {
				t.Errorf("%s: %v", repository, err)
			}
		}
	}
}

// TestDotenv: a shell reads what is in it, and nothing else, whatever may be in a proposal.
func TestDotenv(t *testing.T) {
	names := []string{"APP", "RELEASE_ID", "IMAGE", "BUNDLE", "COMMIT", "SOURCE_URL", "AGAIN"}
	check := func(t rapid.TB, p *Proposal) {
		lines := strings.Split(strings.TrimSuffix(p.Dotenv(), "\n"), "\n")
		if len(lines) != len(names) {
			t.Fatalf("%d lines: %q", len(lines), lines)
		}
		values := []string{p.App, p.ID, p.Image, p.Bundle, p.Commit, p.SourceURL, map[bool]string{true: "yes"}[p.Again]}
		for i, line := range lines {
			if line != "CROSSBILL_"+names[i]+"="+values[i] || strings.ContainsAny(line, " \t\r'\"`$\\;&|<>(){}*?![]#~") {
				t.Fatalf("%q", line)
			}
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		p := &Proposal{Handoff: release.Handoff{
			App: rapid.OneOf(rapid.StringMatching(release.AppPattern.String()), rapid.String()).Draw(r, "app"), Image: rapid.OneOf(rapid.StringMatching(release.ImagePattern.String()), rapid.String()).Draw(r, "image"),
			Commit: rapid.StringMatching(release.CommitPattern.String()).Draw(r, "commit"), SourceURL: rapid.OneOf(rapid.StringMatching(release.SourceURLPattern.String()), rapid.String()).Draw(r, "sourceUrl"),
		}, Again: rapid.Bool().Draw(r, "again")}
		if p.Check() == nil {
			check(r, p)
		}
	})
	shown := exec.CommandContext(t.Context(), "sh", "-ec", good(bundle, again).Dotenv()+`echo "$CROSSBILL_APP $CROSSBILL_IMAGE $CROSSBILL_BUNDLE $CROSSBILL_AGAIN"`)
	shown.Env = []string{"CROSSBILL_IMAGE=of a stranger"}
	if out, err := shown.CombinedOutput(); err != nil || string(out) != "shop  registry.example.com/our-org/shop@sha256:"+digest+" yes\n" {
		t.Errorf("%v %s", err, out)
	}
}

// FuzzParse: whatever is read is a release that trigger would take, written and read as the same.
func FuzzParse(f *testing.F) {
	f.Add(good().File())
	f.Add(good(bundle, again).File())
	f.Add(good(func(p *Proposal) { p.Approve = "1e3" }).File())
	for _, text := range []string{"", "app: shop", "a: &a [*a]", "? {a: b}\n: c\n", "--- !!map {app: shop}\n...\n", "app: !!binary c2hvcA==\n", "\ufeffapp: shop\n", "%YAML 1.2\n---\napp: shop\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse("f.yaml", text, "shop")
		if err != nil {
			if _, ok := errors.AsType[*usererr.Error](err); !ok || strings.ContainsAny(err.Error(), "\n\r") {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if strings.Count(p.Dotenv(), "\n") != 7 || p.Message().Subject != p.Subject() || strings.ContainsAny(p.Dotenv(), "'\"$`;& ") {
			t.Fatalf("%q gives %q", text, p.Dotenv())
		}
		same, err := Parse("f.yaml", p.File(), "shop")
		if err != nil || !cmp.Equal(p, same) || !Decide(p, same).Same {
			t.Fatalf("%q is read as %v, and again as %v, %v", text, p, same, err)
		}
	})
}
