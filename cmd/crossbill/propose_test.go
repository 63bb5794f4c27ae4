package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
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

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/environment/gittest"
	"github.com/our-org/crossbill/internal/proposal"
	"github.com/our-org/crossbill/internal/release"
)

const pushToken = "glpat-0123456789abcdef"

// forge serves an environment repository with Git's own server, to who has the token.
type forge struct {
	*gittest.Repository
	t      *testing.T
	url    string
	config string                                                   // crossbill.yaml
	refuse func(w http.ResponseWriter, r *http.Request) (done bool) // in place of the server
}

func newForge(t *testing.T, files map[string]string) *forge {
	t.Helper()
	quiet(t)
	root := t.TempDir()
	repository, err := gittest.Init(filepath.Join(root, "environment.git"))
	if err != nil {
		t.Fatal(err)
	}
	f := &forge{Repository: repository, t: t}
	f.git("config", "receive.advertisePushOptions", "true")
	f.push("First", files)
	backend, err := gittest.Server(root)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.refuse != nil && f.refuse(w, r) {
			return
		}
		if _, password, _ := r.BasicAuth(); password != pushToken {
			w.Header().Set("WWW-Authenticate", `Basic realm="GitLab"`)
			http.Error(w, "HTTP Basic: Access denied for "+password, http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	f.url = server.URL
	f.config = filepath.Join(root, "crossbill.yaml")
	f.configure(nil)
	return f
}

// configure writes crossbill.yaml.
func (f *forge) configure(change map[string]string) {
	f.t.Helper()
	token := filepath.Join(f.t.TempDir(), "token")
	fields := map[string]string{"repository": f.url + "/environment.git", "tokenFile": token, "author": "Release bot <bot@example.com>"}
	maps.Copy(fields, change)
	text := "gitops:\n"
	for name, value := range fields {
		text += fmt.Sprintf("  %s: %q\n", name, value)
	}
	for file, content := range map[string]string{token: pushToken + "\n", f.config: text} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
	f.t.Setenv("CROSSBILL_CONFIG", f.config)
}

func (f *forge) git(arguments ...string) string {
	f.t.Helper()
	out, err := f.Git(arguments...)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

func (f *forge) push(subject string, files map[string]string) {
	f.t.Helper()
	if _, err := f.Commit(subject, gittest.Change{Files: files}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *forge) commits() int { return len(strings.Fields(f.git("rev-list", "main"))) }

// everything is what all branches are at.
func (f *forge) everything() string { return f.git("for-each-ref") }

// proposing is the command line of a release of shop, by the number of its run.
func proposing(n int, more ...string) []string { return proposingOf("shop", n, more...) }

func proposingOf(app string, n int, more ...string) []string {
	return append([]string{
		"propose", "--app", app, "--image", fmt.Sprintf("registry.example.com/our-org/%s@sha256:%064x", app, n), "--commit", fmt.Sprintf("c0ffee0%d", n),
		"--source-url", fmt.Sprintf("https://github.com/our-org/%s/actions/runs/%d", app, n),
	}, more...)
}

func TestPropose(t *testing.T) {
	f := newForge(t, map[string]string{"README.md": "Ours\n"})
	first := runLine(t, proposing(7)...)
	if first.code != 0 || first.err != "" || !regexp.MustCompile(`^propose: release [0-9a-f]{12} is proposed by commit [0-9a-f]{12} on main \(releases/shop\.yaml\)\n$`).MatchString(first.out) {
		t.Fatalf("exit code %d\n%s%s", first.code, first.out, first.err)
	}
	id := release.NewID("shop", fmt.Sprintf("sha256:%064x", 7), "c0ffee07", "")
	wantMessage := fmt.Sprintf(`Release bot <bot@example.com>
shop: release c0ffee0

Release %[1]s of
image registry.example.com/our-org/shop@sha256:%064[2]x,
handed over by https://github.com/our-org/shop/actions/runs/7.

Release: %[1]s
Image: registry.example.com/our-org/shop@sha256:%064[2]x
Commit: c0ffee07
Source: https://github.com/our-org/shop/actions/runs/7`, id, 7)
	if diff := cmp.Diff(wantMessage, f.git("log", "-1", "--format=%an <%ae>%n%B")); diff != "" {
		t.Error(diff)
	}
	if changed := f.git("diff", "--name-status", "main~", "main"); changed != "A\treleases/shop.yaml" {
		t.Errorf("changed %s", changed)
	}
	written, err := proposal.Parse("shop.yaml", []byte(f.git("show", "main:releases/shop.yaml")), "shop")
	if err != nil || written.ID != id || written.SourceURL != "https://github.com/our-org/shop/actions/runs/7" {
		t.Errorf("it names %+v, %v", written, err)
	}
	for _, test := range []struct {
		name    string
		line    []string
		commits int
		out     string // {id} is that of the first
	}{
		{"the same again", proposing(7), 2, "propose: release {id} is proposed already on main (releases/shop.yaml); nothing to do\n"},
		{"an older one", proposing(6), 2, "is superseded by release {id}: it is older than what releases/shop.yaml names; nothing to do\n"},
		{"another app", proposingOf("cart", 1), 3, "on main (releases/cart.yaml)\n"},
		{"a newer one", proposing(8), 4, "is proposed by commit "},
		{"the first is older now", proposing(7), 4, "propose: release {id} is superseded by release "},
		{"back to it on purpose", proposing(7, "--again"), 5, "propose: release {id} is proposed by commit "},
		{"and the same again", proposing(7, "--again"), 5, "propose: release {id} is proposed already"},
		{"its workflow once more", proposing(7), 5, "propose: release {id} is proposed already"},
	} {
		r := runLine(t, test.line...)
		if r.code != 0 || f.commits() != test.commits || !strings.Contains(r.out, strings.ReplaceAll(test.out, "{id}", id)) {
			t.Errorf("%s: exit code %d, %d commits\n%s%s", test.name, r.code, f.commits(), r.out, r.err)
		}
	}
	edited := strings.ReplaceAll("# Do not promote before Monday, says Ann\n"+f.git("show", "main:releases/shop.yaml")+"\n", "\n", "\r\n")
	f.push("A note", map[string]string{"releases/shop.yaml": edited})
	if r := runLine(t, proposing(7)...); r.code != 0 || f.commits() != 6 || !strings.Contains(r.out, "is proposed already") {
		t.Errorf("with a note of somebody: exit code %d, %d commits\n%s%s", r.code, f.commits(), r.out, r.err)
	}
	if file := f.git("show", "main:releases/shop.yaml"); !strings.HasSuffix(file, "\nagain: true") {
		t.Errorf("it names\n%s", file)
	}
	f.git("fsck", "--strict")
}

// TestProposeOutput is what programs parse.
func TestProposeOutput(t *testing.T) {
	f := newForge(t, map[string]string{"README.md": "Ours\n"})
	stable := func(text string) []byte {
		return []byte(strings.NewReplacer(f.git("rev-parse", "main"), strings.Repeat("0c", 20), f.git("rev-parse", "main")[:12], strings.Repeat("0c", 6)).Replace(text))
	}
	_, out := runCommand(t, proposing(7, "-o", "json")...)
	golden(t, "testdata/golden/propose.json", stable(out))
	_, out = runCommand(t, proposing(6, "-o", "json")...)
	golden(t, "testdata/golden/propose-superseded.json", stable(out))
	if _, out = runCommand(t, proposing(7, "-o", "name")...); out != "commit/"+f.git("rev-parse", "main")+"\n" {
		t.Errorf("-o name: %q", out)
	}
}

// TestProposeMergeRequest: the branch is the release's own, main stays as it is, and the merge is what counts.
func TestProposeMergeRequest(t *testing.T) {
	f := newForge(t, map[string]string{"README.md": "Ours\n"})
	hook := filepath.Join(f.Dir, "hooks", "pre-receive")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\nenv | grep '^GIT_PUSH_OPTION_[0-9]' | sort >push-options\ncat >/dev/null\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := f.git("rev-parse", "main")
	branch := "crossbill/shop/" + release.NewID("shop", fmt.Sprintf("sha256:%064x", 7), "c0ffee07", "")
	r := runLine(t, proposing(7, "--merge-request")...)
	if r.code != 0 || f.git("rev-parse", "main", branch+"~") != before+"\n"+before || !strings.Contains(r.out, " on "+branch+" (releases/shop.yaml)\n") {
		t.Fatalf("exit code %d, %s\n%s%s", r.code, f.everything(), r.out, r.err)
	}
	options, err := os.ReadFile(filepath.Join(f.Dir, "push-options"))
	want := "GIT_PUSH_OPTION_0=merge_request.create=\nGIT_PUSH_OPTION_1=merge_request.target=main\nGIT_PUSH_OPTION_2=merge_request.title=shop: release c0ffee0\nGIT_PUSH_OPTION_3=merge_request.remove_source_branch=\n"
	if diff := cmp.Diff(want, string(options)); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	refs := f.everything()
	if r := runLine(t, proposing(7, "--merge-request")...); r.code != 0 || f.everything() != refs || !strings.Contains(r.out, "is proposed already on branch "+branch+", and waits to be merged") {
		t.Errorf("again: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	f.git("branch", "-f", "main", branch)
	f.git("branch", "-D", branch)
	if r := runLine(t, proposing(7, "--merge-request")...); r.code != 0 || !strings.Contains(r.out, "is proposed already on main") {
		t.Errorf("merged: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	if r := runLine(t, proposing(6, "--merge-request")...); r.code != 0 || !strings.Contains(r.out, "is superseded by release ") || strings.Contains(f.everything(), "crossbill/") {
		t.Errorf("an older one: exit code %d\n%s%s\n%s", r.code, r.out, r.err, f.everything())
	}
	f.git("config", "receive.advertisePushOptions", "false")
	if r := runLine(t, proposing(8, "--merge-request")...); r.code != exitBadInput || !strings.Contains(r.err, "takes no push options") || strings.Contains(f.everything(), "crossbill/") {
		t.Errorf("without push options: exit code %d\n%s%s\n%s", r.code, r.out, r.err, f.everything())
	}
}

// TestProposeBadInput: each has exit code 2 and says what to do; nothing is pushed, and no credential is shown.
func TestProposeBadInput(t *testing.T) {
	forbid := func(service string) func(*forge) {
		return func(f *forge) {
			f.refuse = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.String(), service) {
					http.Error(w, "You are not allowed to push code to this project. "+pushToken, http.StatusForbidden)
				}
				return strings.Contains(r.URL.String(), service)
			}
		}
	}
	configured := func(name, value string) func(*forge) {
		return func(f *forge) { f.configure(map[string]string{name: value}) }
	}
	file := func(text string) func(*forge) {
		return func(f *forge) { f.push("By somebody", map[string]string{"releases/shop.yaml": text}) }
	}
	link := func(path, to string) func(*forge) {
		return func(f *forge) {
			stream := fmt.Sprintf("commit refs/heads/main\ncommitter S <s@example.com> now\ndata 1\nx\nfrom refs/heads/main^0\nM 120000 inline %s\ndata %d\n%s\n", path, len(to), to)
			command := exec.Command("git", "fast-import", "--quiet", "--date-format=now")
			command.Dir, command.Stdin = f.Dir, strings.NewReader(stream)
			if out, err := command.CombinedOutput(); err != nil {
				f.t.Fatalf("%v %s", err, out)
			}
		}
	}
	nobody := newForge(t, nil)
	configured("repository", "http://127.0.0.1:1/environment.git")(nobody)
	unanswered := startProcess(t, proposing(7)...) // it takes as long as there are attempts
	for name, test := range map[string]struct {
		given func(*forge)
		line  []string
		want  string
	}{
		"an image by tag":          {line: []string{"--image", "registry.example.com/our-org/shop:v1"}, want: `--image: "registry.example.com/our-org/shop:v1" is not an image with a digest`},
		"an app with a path":       {line: []string{"--app", "../shop"}, want: `--app: "../shop" is not a name of`},
		"an app with a line break": {line: []string{"--app", "shop\nx"}, want: `--app: "shop\nx" is not a name of`},
		"an app of upper case":     {line: []string{"--app", "Shop"}, want: `--app: "Shop" is not a name of`},
		"no app":                   {line: []string{"--app", ""}, want: `--app: "" is not the name of an app`},
		"an image and a bundle":    {line: []string{"--bundle", "r.example.com/a@sha256:" + strings.Repeat("0a", 32)}, want: "--bundle: a bundle and an image are given"},
		"a commit by name":         {line: []string{"--commit", "main"}, want: `--commit: "main" is not a commit`},
		"a run that is no address": {line: []string{"--source-url", "https://x/\nRelease: y"}, want: "--source-url: "},
		"no time":                  {line: []string{"--timeout", "0s"}, want: "0s is too short"},
		"a format":                 {line: []string{"-o", "dotenv"}, want: `--output: "dotenv" is not a format`},
		"no such repository":       {given: func(f *forge) { f.configure(map[string]string{"repository": f.url + "/enviroment.git"}) }, want: "was not found, or the token may not see it"},
		"no such branch":           {given: configured("branch", "production"), want: `has no branch "production"; it has main`},
		"no token file":            {given: configured("tokenFile", "/nonexistent/token"), want: "gitops.tokenFile: open /nonexistent/token"},
		"may not push":             {given: forbid("git-receive-pack"), want: "gitops.tokenFile: the token may not push to"},
		"may not read":             {given: forbid("git-upload-pack"), want: "gitops.tokenFile: the token may not read"},
		"a folder outside":         {given: configured("releases", "../releases"), want: "gitops.releases: "},
		"Git's own folder":         {given: configured("releases", ".git/hooks"), want: "it is not a path in the repository"},
		"an author":                {given: configured("author", "Bot"), want: "gitops.author"},
		"a folder that is applied": {given: configured("controller", "flux"), want: "gitops.releases: releases/shop.yaml is in the folder that flux applies (gitops.path), which has no kustomization"},
		"it is no YAML":            {given: file("<<<<<<< HEAD\napp: shop\n"), want: "releases/shop.yaml:"},
		"it has an unknown field":  {given: file("app: shop\nweight: 10\n"), want: `releases/shop.yaml:2: "weight": there is no such field`},
		"it is another app's":      {given: file("app: cart\n"), want: `releases/shop.yaml:1: app: it is "cart", and this is the file of "shop"`},
		"it is empty":              {given: file(""), want: "releases/shop.yaml: it is empty"},
		"it is large":              {given: file(strings.Repeat("# x\n", 1<<20)), want: "releases/shop.yaml: it has more than "},
		"it is a link":             {given: link("releases/shop.yaml", "../README.md"), want: "releases/shop.yaml: it is a symbolic link"},
		"its folder is a link":     {given: link("releases", "/etc"), want: "releases/shop.yaml: releases is a symbolic link"},
		"its folder is a file":     {given: func(f *forge) { f.push("x", map[string]string{"releases": "x"}) }, want: "releases/shop.yaml: releases is a file"},
		"it is a folder":           {given: func(f *forge) { f.push("x", map[string]string{"releases/shop.yaml/x": "x"}) }, want: "releases/shop.yaml: it is a folder"},
		"the branch is protected": {given: func(f *forge) {
			script := "#!/bin/sh\necho 'GitLab: You are not allowed to push code to protected branches on this project. " + pushToken + "' >&2; exit 1\n"
			if err := os.WriteFile(filepath.Join(f.Dir, "hooks", "pre-receive"), []byte(script), 0o755); err != nil {
				f.t.Fatal(err)
			}
		}, want: "the server refuses the push to main"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForge(t, map[string]string{"README.md": "Ours\n"})
			if test.given != nil {
				test.given(f)
			}
			for _, mergeRequest := range []bool{false, true} {
				before := f.everything()
				line := append(proposing(7), test.line...)
				want := test.want
				if mergeRequest {
					line = append(line, "--merge-request")
					want = strings.Replace(want, "push to main", "push to crossbill/shop/", 1)
				}
				r := runLine(t, line...)
				if r.code != exitBadInput || !strings.Contains(r.err, want) || r.out != "" || strings.Count(r.err, "\n") != 1 {
					t.Errorf("merge request %t: exit code %d\n%s%s\nwant %s", mergeRequest, r.code, r.out, r.err, want)
				}
				if strings.Contains(r.err+r.out, pushToken) {
					t.Errorf("merge request %t: the token is shown", mergeRequest)
				}
				if after := f.everything(); after != before {
					t.Errorf("merge request %t: pushed: %s", mergeRequest, after)
				}
			}
		})
	}
	if r := unanswered(); r.code != exitBadInput || !strings.Contains(r.err, nobody.config+":") || !strings.Contains(r.err, "connection refused; look whether the server can be reached") || r.out != "" || strings.Count(r.err, "\n") != 1 || strings.Contains(r.err, pushToken) {
		t.Errorf("nobody answers: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	f := newForge(t, nil)
	t.Setenv("CROSSBILL_CONFIG", "/dev/null")
	if r := runLine(t, proposing(7)...); r.code != exitBadInput || !strings.Contains(r.err, "gitops.repository: is missing") {
		t.Errorf("without a configuration: exit code %d, %s%s", r.code, r.err, f.everything())
	}
}

// TestCommandLine is not a test: it is the command, in a process that another test starts.
func TestCommandLine(t *testing.T) {
	line := os.Getenv("COMMAND_LINE")
	if line == "" {
		t.Skip("it runs what another test says")
	}
	root := newRootCommand()
	root.SetArgs(strings.Split(line, "\x1f"))
	os.Exit(execute(t.Context(), root))
}

// inProcess runs a command line in a process of its own.
func inProcess(t *testing.T, args ...string) ran {
	t.Helper()
	return startProcess(t, args...)()
}

// startProcess starts a command line in a process of its own, and gives what waits for its end.
func startProcess(t *testing.T, args ...string) (wait func() ran) {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCommandLine$")
	command.Env = append(os.Environ(), "COMMAND_LINE="+strings.Join(args, "\x1f"))
	var out, errOut strings.Builder
	command.Stdout, command.Stderr = &out, &errOut
	if err := command.Start(); err != nil {
		t.Error(err)
		return func() ran { return ran{code: -1, err: err.Error()} }
	}
	return func() ran {
		_ = command.Wait()
		return ran{command.ProcessState.ExitCode(), out.String(), errOut.String()}
	}
}

// TestProposalsAtOnce: sixteen releases of one app, and some of another one, from as many processes and goroutines. At the
// end each file names the newest; every commit is one proposal, newer than the one before; whoever made none was superseded.
func TestProposalsAtOnce(t *testing.T) {
	const newest, others = 16, 4
	f := newForge(t, map[string]string{"README.md": "Ours\n"})
	var lines [][]string
	for n := range newest {
		lines = append(lines, proposing(n+1, "-o", "json"))
	}
	for n := range others {
		lines = append(lines, proposingOf("cart", n+1, "-o", "json"))
	}
	lines = append(lines, proposing(newest, "-o", "json")) // a second attempt, at the same time
	rand.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	came := make([]ran, len(lines))
	var group sync.WaitGroup
	for i, line := range lines {
		group.Go(func() {
			if i%2 == 0 {
				came[i] = inProcess(t, line...)
			} else {
				came[i] = runLine(t, line...)
			}
		})
	}
	group.Wait()

	made := map[string]string{} // release by commit
	for i, r := range came {
		var p proposed
		if err := json.Unmarshal([]byte(r.out), &p); err != nil || r.code != 0 {
			t.Fatalf("%s: exit code %d, %v\n%s%s", strings.Join(lines[i], " "), r.code, err, r.out, r.err)
		}
		switch {
		case p.Changed && made[p.Commit] != "" && made[p.Commit] != p.ReleaseID:
			t.Errorf("commit %s is of releases %s and %s", p.Commit, made[p.Commit], p.ReleaseID)
		case p.Changed: // two that propose the same within one second make one commit, which is both's
			made[p.Commit] = p.ReleaseID
		case p.SupersededBy == "" && !slices.Contains(lines[i], fmt.Sprintf("c0ffee0%d", newest)):
			t.Errorf("%s: %s", strings.Join(lines[i], " "), r.out)
		}
	}
	hashes := strings.Fields(f.git("rev-list", "--reverse", "main"))[1:]
	last := map[string]*proposal.Proposal{}
	for _, hash := range hashes {
		changed := f.git("diff", "--name-only", hash+"~", hash)
		app := strings.TrimSuffix(filepath.Base(changed), ".yaml")
		p, err := proposal.Parse(changed, []byte(f.git("show", hash+":"+changed)), app)
		if err != nil || strings.Contains(changed, "\n") || made[hash] != p.ID {
			t.Fatalf("commit %s of %q: %v", hash, changed, err)
		}
		if before := last[app]; before != nil && !p.NewerThan(&before.Handoff) {
			t.Errorf("commit %s: %s comes after %s", hash, p.SourceURL, before.SourceURL)
		}
		last[app] = p
	}
	if len(hashes) != len(made) || !strings.HasSuffix(last["shop"].SourceURL, fmt.Sprint("/", newest)) || !strings.HasSuffix(last["cart"].SourceURL, fmt.Sprint("/", others)) {
		t.Errorf("%d commits, %d were made; at the end %s and %s", len(hashes), len(made), last["shop"].SourceURL, last["cart"].SourceURL)
	}
	f.git("fsck", "--strict")
}

func TestProposal(t *testing.T) {
	f := newForge(t, map[string]string{"README.md": "Ours\n"})
	if r := runLine(t, proposing(7)...); r.code != 0 {
		t.Fatal(r.err)
	}
	clone := t.TempDir()
	f.git("--work-tree="+clone, "checkout", "main", "--", ".")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(clone)
	t.Setenv("CROSSBILL_CONFIG", "/dev/null")
	id := release.NewID("shop", fmt.Sprintf("sha256:%064x", 7), "c0ffee07", "")
	image := fmt.Sprintf("registry.example.com/our-org/shop@sha256:%064x", 7)
	text := "app:      shop\nrelease:  " + id + "\nimage:    " + image + "\ncommit:   c0ffee07\nrun:      https://github.com/our-org/shop/actions/runs/7\n"
	dotenv := "CROSSBILL_APP=shop\nCROSSBILL_RELEASE_ID=" + id + "\nCROSSBILL_IMAGE=" + image + "\nCROSSBILL_BUNDLE=\nCROSSBILL_COMMIT=c0ffee07\nCROSSBILL_SOURCE_URL=https://github.com/our-org/shop/actions/runs/7\nCROSSBILL_AGAIN=\n"
	for _, test := range []struct {
		line string
		code int
		want string // on standard output, or in the error
	}{
		{"proposal releases/shop.yaml", 0, text},
		{"proposal --app shop", 0, text},
		{"proposal releases/shop.yaml -o name", 0, "release/" + id + "\n"},
		{"proposal --app shop -o dotenv --repository registry.example.com/our-org/shop", 0, dotenv},
		{"proposal --app shop --repository registry.example.com/our-org/cart", exitBadInput, "image: it is from registry.example.com/our-org/shop, and only registry.example.com/our-org/cart is admitted"},
		{"proposal", exitBadInput, "--app: is missing"},
		{"proposal --app cart", exitBadInput, "releases/cart.yaml: not found: nothing is proposed there"},
		{"proposal --app cart releases/shop.yaml", exitBadInput, `releases/shop.yaml:2: app: it is "shop", and this is the file of "cart"`},
		{"proposal --app ../../etc/passwd", exitBadInput, `--app: "../../etc/passwd" is not a name of`},
		{"proposal releases", exitBadInput, "releases: it is no file"},
		{"proposal link.yaml", exitBadInput, "link.yaml: it is no file"},
		{"proposal README.md", exitBadInput, "README.md:1: it has no fields"},
		{"proposal releases/shop.yaml -o sarif", exitBadInput, `--output: "sarif" is not a format`},
		{"proposal a b", exitBadInput, "accepts at most 1 arg"},
	} {
		if err := os.Symlink("releases/shop.yaml", "link.yaml"); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		r := runLine(t, strings.Fields(test.line)...)
		if r.code != test.code || test.code == 0 && r.out != test.want || test.code != 0 && (r.out != "" || !strings.Contains(r.err, test.want)) {
			t.Errorf("%s: exit code %d\n%s%s\nwant %d\n%s", test.line, r.code, r.out, r.err, test.code, test.want)
		}
	}
	t.Setenv("CROSSBILL_APP", "shop")
	if r := runLine(t, "proposal", "-o", "json"); r.code != 0 {
		t.Error(r.err)
	} else {
		golden(t, filepath.Join(here, "testdata/golden/proposal.json"), []byte(r.out))
	}
}
