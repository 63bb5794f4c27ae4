package main

import (
	"encoding/json"
	"go/format"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mattn/go-shellwords"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/verdict"
)

const repository = "../.."

// pages are the documentation by file name, relative to the repository.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "docs/*/*/*.md"} {
		files, err := filepath.Glob(filepath.Join(repository, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			name, err := filepath.Rel(repository, file)
			if err != nil {
				t.Fatal(err)
			}
			found[name] = read(t, name)
		}
	}
	if len(found) < 30 {
		t.Fatalf("found only %d pages", len(found))
	}
	return found
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// sources are the text files beside the pages that may name a page or contain a test.
func sources(t *testing.T, matches func(name string) bool) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(repository, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(repository, file)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if slices.Contains([]string{".git", "node_modules", "bin", "out", "dist", "server", "docs"}, entry.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if matches(name) {
			found[name] = read(t, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

var (
	fence     = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```$")
	link      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading   = regexp.MustCompile(`(?m)^#+ (.+)$`)
	linked    = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	notInSlug = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are the fragments that lead to a heading of a page, as GitHub makes them.
func anchors(text string) []string {
	var all []string
	for _, found := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		slug := notInSlug.ReplaceAllString(strings.ToLower(linked.ReplaceAllString(found[1], "$1")), "")
		all = append(all, strings.ReplaceAll(slug, " ", "-"))
	}
	return all
}

func TestLinksBetweenPagesResolve(t *testing.T) {
	all := pages(t)
	_, err := os.Stat(filepath.Join(repository, "docs/reference/cli"))
	generated := err == nil
	links := 0
	for name, text := range all {
		for _, found := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			if strings.Contains(found[1], "://") || strings.HasPrefix(found[1], "mailto:") {
				continue
			}
			links++
			target, fragment, _ := strings.Cut(found[1], "#")
			file := name
			if target != "" {
				file = filepath.Join(filepath.Dir(name), target)
			}
			if strings.HasPrefix(file, "docs/reference/cli/") && !generated {
				continue
			}
			if _, err := os.Stat(filepath.Join(repository, file)); err != nil {
				t.Errorf("%s: %s: not found", name, found[1])
				continue
			}
			if fragment != "" && !slices.Contains(anchors(all[file]), fragment) {
				t.Errorf("%s: %s: %s has no such heading", name, found[1], file)
			}
		}
	}
	if links < 100 {
		t.Errorf("found only %d links", links)
	}
}

// TestPagesNamedInCodeExist: messages and comments name pages by their path.
func TestPagesNamedInCodeExist(t *testing.T) {
	page := regexp.MustCompile(`\bdocs/[a-z0-9_/-]+\.md\b(?:#([a-z0-9-]+))?`)
	named := 0
	for name, text := range sources(t, func(name string) bool {
		return slices.Contains([]string{".go", ".yaml", ".yml", ".tmpl"}, filepath.Ext(name)) || filepath.Base(name) == "Makefile"
	}) {
		if strings.Contains(name, "testdata") || strings.HasPrefix(name, ".ci/words/") {
			continue
		}
		for _, found := range page.FindAllStringSubmatch(text, -1) {
			named++
			file, _, _ := strings.Cut(found[0], "#")
			if _, err := os.Stat(filepath.Join(repository, file)); err != nil {
				t.Errorf("%s names %s: not found", name, file)
			} else if found[1] != "" && !slices.Contains(anchors(read(t, file)), found[1]) {
				t.Errorf("%s names %s: no such heading", name, found[0])
			}
		}
	}
	if named < 5 {
		t.Errorf("found only %d names of pages", named)
	}
}

var (
	continued    = regexp.MustCompile(` *\\\n *`)
	comment      = regexp.MustCompile(`(?m)(^| )#.*$`)
	substitution = regexp.MustCompile(`[$<]\(([^()]*)\)`)
	withValue    = regexp.MustCompile(`\$\{\w+:\+([^}]*)\}`)
	// A call stands alone, in a list of a pipeline's commands, after a variable, or behind another command.
	called = regexp.MustCompile(`^(?:- |script: \[|run: |\w+=\S* |.*(?:&&|[|;]) )?(?:bin/)?(crossbill(?: [^\]]*)?)\]?$`)
	inline = regexp.MustCompile("`crossbill ([^`]+)`")
)

// calls are what a page's shell blocks, and its samples of pipelines, run of crossbill.
func calls(page string) []string {
	var lines []string
	for _, block := range fence.FindAllStringSubmatch(page, -1) {
		if block[1] != "sh" && block[1] != "yaml" {
			continue
		}
		script := comment.ReplaceAllString(continued.ReplaceAllString(block[2], " "), "")
		for _, inner := range substitution.FindAllStringSubmatch(script, -1) {
			script += "\n" + inner[1]
		}
		for line := range strings.Lines(substitution.ReplaceAllString(script, "1")) {
			if call := called.FindStringSubmatch(withValue.ReplaceAllString(strings.TrimSpace(line), "$1")); call != nil {
				lines = append(lines, call[1])
			}
		}
	}
	return lines
}

// TestCommandLinesOnPagesParse: every call of crossbill on a page is one that the command takes. In the text, a
// call may leave out its arguments.
func TestCommandLinesOnPagesParse(t *testing.T) {
	found, root := 0, newRootCommand()
	for name, text := range pages(t) {
		for _, line := range calls(text) {
			found++
			if err := parse(line); err != nil {
				t.Errorf("%s: %s: %v", name, line, err)
			}
		}
		for _, mention := range inline.FindAllStringSubmatch(strings.ReplaceAll(fence.ReplaceAllString(text, ""), "\n", " "), -1) {
			if strings.Contains(mention[1], "COMMAND") {
				continue
			}
			found++
			cmd, args, err := root.Find(strings.Fields(mention[1]))
			if err == nil {
				err = cmd.ParseFlags(args)
			}
			if err != nil || cmd == cmd.Root() && cmd.Flags().NArg() > 0 {
				t.Errorf("%s: crossbill %s: %v", name, mention[1], err)
			}
		}
	}
	if found < 80 {
		t.Errorf("found only %d calls", found)
	}
	page := "```yaml\nscript:\n  - crossbill approve ${A:+--again} > a.json\njob: {script: 1}\n  script: [crossbill lint]\n```\n" +
		"```sh\nsource <(crossbill completion bash)\nA=1 crossbill status | tee x\ncat x | bin/crossbill verify # crossbill hold\n```\n"
	want := []string{"crossbill approve --again > a.json", "crossbill lint", "crossbill status | tee x", "crossbill verify", "crossbill completion bash"}
	if diff := cmp.Diff(want, calls(page)); diff != "" {
		t.Errorf("calls of a page:\n%s", diff)
	}
	for _, wrong := range []string{"crossbill carnary", "crossbill canary --wieght 10", "crossbill status now", "crossbill shift --pause soon"} {
		if parse(wrong) == nil {
			t.Errorf("%s: no error", wrong)
		}
	}
}

// parse reads a command line up to an operator of the shell.
func parse(line string) error {
	words, err := shellwords.Parse(line)
	if err != nil {
		return err
	}
	cmd, args, err := newRootCommand().Find(words[1:])
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(args); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// TestFlagsOnCommandPagesExist: a flag that the page of a command names is one of crossbill's.
func TestFlagsOnCommandPagesExist(t *testing.T) {
	known := []string{"help", "insecure-ignore-tlog"} // the last one is cosign's
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		add := func(f *pflag.Flag) { known = append(known, f.Name) }
		cmd.Flags().VisitAll(add)
		cmd.PersistentFlags().VisitAll(add)
		for _, child := range cmd.Commands() {
			visit(child)
		}
	}
	visit(newRootCommand())
	flag := regexp.MustCompile("`--([a-z-]+)")
	for name, text := range pages(t) {
		if !strings.HasPrefix(name, "docs/commands/") && name != "docs/runbook.md" {
			continue
		}
		for _, found := range flag.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(known, found[1]) {
				t.Errorf("%s names --%s: no such flag", name, found[1])
			}
		}
	}
}

// TestEveryCommandHasAPage: the page of each command, and its place in the index.
func TestEveryCommandHasAPage(t *testing.T) {
	index := read(t, "docs/README.md")
	codes := read(t, "docs/reference/exit-codes.md")
	for _, cmd := range newRootCommand().Commands() {
		if slices.Contains([]string{"help", "completion", "version"}, cmd.Name()) || cmd.Hidden {
			continue
		}
		if _, err := os.Stat(filepath.Join(repository, "docs/commands", cmd.Name()+".md")); err != nil {
			t.Errorf("%s: %v", cmd.Name(), err)
		}
		if !strings.Contains(index, "commands/"+cmd.Name()+".md") {
			t.Errorf("docs/README.md lacks %s", cmd.Name())
		}
		if cmd.Name() != "plan" && !strings.Contains(codes, "`"+cmd.Name()) {
			t.Errorf("docs/reference/exit-codes.md lacks %s", cmd.Name())
		}
	}
}

// TestTestsNamedOnPagesExist: the README and other pages name the tests that a statement rests on.
func TestTestsNamedOnPagesExist(t *testing.T) {
	var code strings.Builder
	for _, text := range sources(t, func(name string) bool { return strings.HasSuffix(name, "_test.go") }) {
		code.WriteString(text)
	}
	test := regexp.MustCompile("`([Tt]est[A-Z][A-Za-z]+)`")
	named := 0
	for name, text := range pages(t) {
		for _, found := range test.FindAllStringSubmatch(text, -1) {
			named++
			if !strings.Contains(code.String(), "func "+found[1]+"(t *testing.T)") {
				t.Errorf("%s names %s: not found", name, found[1])
			}
		}
	}
	if named < 10 {
		t.Errorf("found only %d names of tests", named)
	}
}

// TestJSONOnPages: a sample of JSON on a page has the fields of the golden file.
func TestJSONOnPages(t *testing.T) {
	for page, golden := range map[string]string{
		"docs/commands/trigger.md":     "cmd/crossbill/testdata/golden/trigger.json",
		"docs/commands/image.md":       "cmd/crossbill/testdata/golden/image-build.json",
		"docs/guides/notifications.md": "internal/notify/testdata/message.json",
	} {
		fields := func(text string) []string {
			var object map[string]any
			if err := json.Unmarshal([]byte(text), &object); err != nil {
				t.Fatalf("%s: %v", page, err)
			}
			return slices.Sorted(maps.Keys(object))
		}
		sample := ""
		for _, block := range fence.FindAllStringSubmatch(read(t, page), -1) {
			if block[1] == "json" {
				sample = block[2]
			}
		}
		if diff := cmp.Diff(fields(read(t, golden)), fields(sample)); diff != "" {
			t.Errorf("%s, beside %s:\n%s", page, golden, diff)
		}
	}
}

// TestErrorOnTheManifestsPage: the page shows the error of a manifest as it is.
func TestErrorOnTheManifestsPage(t *testing.T) {
	page := read(t, "docs/reference/manifests.md")
	manifests, err := filepath.Abs(filepath.Join(repository, "k8s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := os.CopyFS("k8s", os.DirFS(manifests)); err != nil {
		t.Fatal(err)
	}
	const name = "k8s/virtual-service.yaml"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	split := strings.NewReplacer("weight: 100", "weight: 90", "weight: 0", "weight: 10").Replace(string(text))
	if err := os.WriteFile(name, []byte(split), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Load("k8s"); err == nil || !strings.Contains(page, "crossbill: "+err.Error()+"\n") {
		t.Errorf("docs/reference/manifests.md does not show: crossbill: %v", err)
	}
}

// TestConfigurationOnPages: the samples of crossbill.yaml are read, and the objectives that verify's page calls the
// defaults are.
func TestConfigurationOnPages(t *testing.T) {
	for _, page := range []string{"docs/reference/configuration.md", "docs/commands/verify.md"} {
		for _, block := range fence.FindAllStringSubmatch(read(t, page), -1) {
			if block[1] != "yaml" {
				continue
			}
			parsed, err := config.Parse(page, []byte(block[2]))
			if err != nil {
				t.Fatal(err)
			}
			if page == "docs/commands/verify.md" {
				want := verdict.DefaultSLO()
				want.WarmUpGiven = true // the page writes it out
				if diff := cmp.Diff(want, parsed.Analysis); diff != "" {
					t.Errorf("%s shows other defaults:\n%s", page, diff)
				}
			}
		}
	}
}

// TestSamplesOnTutorialsAndGuides: the manifests and the configuration of the kind tutorial are what a release takes, the
// configuration for low traffic too, and the sample in Go is Go.
func TestSamplesOnTutorialsAndGuides(t *testing.T) {
	blocks := func(page, language string) (found []string) {
		for _, block := range fence.FindAllStringSubmatch(read(t, page), -1) {
			if block[1] == language {
				found = append(found, block[2])
			}
		}
		return found
	}
	kind := blocks("docs/tutorials/kind.md", "yaml")
	if len(kind) != 2 {
		t.Fatalf("the kind tutorial has %d samples, want the configuration and the manifests", len(kind))
	}
	for _, sample := range append(blocks("docs/guides/low-traffic.md", "yaml"), kind[0]) {
		if _, err := config.Parse("sample", []byte(sample)); err != nil {
			t.Errorf("%v\n%s", err, sample)
		}
	}
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "podinfo.yaml"), []byte(kind[1]), 0o644); err != nil {
		t.Fatal(err)
	}
	set, err := manifest.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"podinfo", "podinfo-primary", "podinfo-canary"}, []string{set.App, set.Name(release.Primary), set.Name(release.Canary)}); diff != "" {
		t.Error(diff)
	}
	for _, sample := range blocks("docs/guides/other-languages.md", "go") {
		text := "package main\n\n" + sample
		formatted, err := format.Source([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(formatted), text); diff != "" {
			t.Error(diff)
		}
	}
}

// TestMessagesInTheRunbookExist: what the runbook quotes, in italics, is what the code says. "…" stands for what
// differs each time.
func TestMessagesInTheRunbookExist(t *testing.T) {
	var code strings.Builder
	for _, text := range sources(t, func(name string) bool {
		return strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") && (strings.HasPrefix(name, "internal/") || strings.HasPrefix(name, "cmd/"))
	}) {
		code.WriteString(text)
	}
	quoted := 0
	_, autoscaling, _ := strings.Cut(read(t, "docs/guides/autoscaling.md"), "## When it does not fit")
	for _, found := range regexp.MustCompile(`\*([^*|\n]+)\*`).FindAllStringSubmatch(read(t, "docs/runbook.md")+autoscaling, -1) {
		for part := range strings.SplitSeq(found[1], "…") {
			quoted++
			// A placeholder of fmt's may come before or after a colon, and an outcome takes its place.
			part = strings.TrimSuffix(strings.Trim(part, " ,;:()"), ": rolled_back")
			if !strings.Contains(code.String(), part) {
				t.Errorf("docs/runbook.md, or the guide for autoscaling, quotes %q: the code does not say %q", found[1], part)
			}
		}
	}
	if quoted < 20 {
		t.Errorf("found only %d quotes", quoted)
	}
}

// TestTheVerdictPageIsItsTemplate: `make verdict-bench` makes docs/verdict.md from a template, which a change of
// the page alone would be lost in.
func TestTheVerdictPageIsItsTemplate(t *testing.T) {
	page := read(t, "docs/verdict.md")
	value := regexp.MustCompile(`\{\{[^}]*\}\}`)
	for _, part := range value.Split(read(t, "internal/verdict/testdata/verdict.md.tmpl"), -1) {
		_, rest, found := strings.Cut(page, part)
		if !found {
			t.Fatalf("docs/verdict.md lacks, or has elsewhere:\n%s", part)
		}
		page = rest
	}
}
