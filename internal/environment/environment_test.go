package environment

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/our-org/crossbill/internal/usererr"
)

// write is an edit that writes one file.
func write(name, text string) func(*Tree) error {
	return func(t *Tree) error { return t.Write(name, []byte(text)) }
}

func TestCommit(t *testing.T) {
	s := serve(t, map[string]string{"a": "1\n", "a-b": "1\n", "a.b/c": "1\n", "apps/shop/old.yaml": "1\n", "script": "#!/bin/sh\n"})
	work := t.TempDir()
	s.run(work, "clone", "-q", s.bare, ".")
	s.run(work, "update-index", "--chmod=+x", "script")
	s.run(work, "commit", "-q", "-m", "Executable")
	s.run(work, "push", "-q", "origin", "main")
	parent := s.head()

	r := s.repository(func(o *Options) { o.AuthorName, o.AuthorEmail = "Crossbill of shop", "shop@example.com" })
	message := Message{Subject: "shop: promote 3f9a1c2", Body: "Canary was healthy.", Trailers: []Trailer{{"Release", "shop-3f9a1c2"}, {"Approver", ""}, {"Verdict", "healthy"}}, Time: time.Unix(1700000000, 5).In(time.FixedZone("", 3600))}
	commit, err := r.Commit(t.Context(), message, func(tree *Tree) error {
		if tree.Head() != parent {
			t.Errorf("head %s, want %s", tree.Head(), parent)
		}
		return errors.Join(tree.Write("a", []byte("2\n")), tree.Write("script", []byte("#!/bin/bash\n")), tree.Write("a/../x", nil), nil)
	})
	if err == nil || commit.New || s.head() != parent {
		t.Fatalf("an edit that fails has pushed %v, %v", commit, err)
	}
	commit, err = r.Commit(t.Context(), message, func(tree *Tree) error {
		if text, err := tree.Read("a"); err != nil || string(text) != "1\n" {
			t.Errorf("the edit that failed is still there: %q, %v", text, err)
		}
		return errors.Join(tree.Write("script", []byte("#!/bin/bash\n")), tree.Write("a-c/d/e", []byte("new\n")), tree.Write("ab", []byte("new\n")), tree.Remove("apps/shop/old.yaml"))
	})
	if err != nil || !commit.New || commit.Hash != s.head() {
		t.Fatalf("got %v, %v; the branch is at %s", commit, err, s.head())
	}
	s.git("fsck", "--strict")
	want := strings.TrimSpace(`
100644 a
100644 a-b
100644 a-c/d/e
100644 a.b/c
100644 ab
100755 script`)
	if diff := cmp.Diff(want, s.git("ls-tree", "-r", "--format=%(objectmode) %(path)", "main")); diff != "" {
		t.Error(diff)
	}
	if got, want := s.git("log", "-1", "--format=%P|%an <%ae>|%cn|%ai|%s|%b|%(trailers:only,unfold)"), parent+`|Crossbill of shop <shop@example.com>|Crossbill of shop|2023-11-14 22:13:20 +0000|shop: promote 3f9a1c2|Canary was healthy.

Release: shop-3f9a1c2
Verdict: healthy
|Release: shop-3f9a1c2
Verdict: healthy`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	again, err := r.Commit(t.Context(), message, func(tree *Tree) error {
		return errors.Join(tree.Write("ab", []byte("other\n")), tree.Write("ab", []byte("new\n")), tree.Write("b", nil), tree.Remove("b"))
	})
	if err != nil || again.New || again.Hash != commit.Hash || s.commits() != 3 {
		t.Errorf("an edit that changes nothing gave %v, %v, %d commits", again, err, s.commits())
	}
}

// TestCommittersAtOnce: exactly one wins each round, and none is lost.
func TestCommittersAtOnce(t *testing.T) {
	const committers, each = 8, 2
	s := serve(t, map[string]string{"count": "0"})
	s.git("config", "receive.denyNonFastForwards", "false") // the push itself must not overwrite
	var group sync.WaitGroup
	var mutex sync.Mutex
	hashes := map[string]bool{}
	for i := range committers {
		r := s.repository(func(o *Options) { o.Attempts = 200 })
		group.Go(func() {
			for n := range each {
				commit, err := r.Commit(t.Context(), Message{Subject: "Count"}, func(tree *Tree) error {
					text, err := tree.Read("count")
					if err != nil {
						return err
					}
					var count int
					_, _ = fmt.Sscan(string(text), &count)
					return errors.Join(tree.Write("count", fmt.Append(nil, count+1)), tree.Write(fmt.Sprintf("of-%d-%d", i, n), nil))
				})
				if err != nil || !commit.New {
					t.Errorf("committer %d: %v, %v", i, commit, err)
				}
				mutex.Lock()
				hashes[commit.Hash] = true
				mutex.Unlock()
			}
		})
	}
	group.Wait()
	const all = committers * each
	if got := s.git("show", "main:count"); got != fmt.Sprint(all) || s.commits() != all+1 || len(hashes) != all {
		t.Errorf("count is %s after %d commits, of which %d are known; want %d", got, s.commits()-1, len(hashes), all)
	}
	if names := s.git("ls-tree", "--name-only", "main"); strings.Count(names, "of-") != all {
		t.Errorf("files are missing: %s", names)
	}
	if merges := s.git("log", "--merges", "--format=%H", "main"); merges != "" {
		t.Errorf("merges: %s", merges)
	}
	s.git("fsck", "--strict")
}

// TestLostAnswer: what arrived is found, also below what others pushed; what did not is done again; and neither twice.
func TestLostAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		lose    func(s *server, w http.ResponseWriter, r *http.Request, serve http.HandlerFunc)
		commits int
	}{
		"after the push": {commits: 2, lose: func(_ *server, w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			unheard(r, serve)
			hangUp(w)
		}},
		"before the push": {commits: 2, lose: func(_ *server, w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) { hangUp(w) }},
		"half of it": {commits: 2, lose: func(_ *server, w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			answer := unheard(r, serve).Body.Bytes()
			w.Header().Set("Content-Type", "application/x-git-receive-pack-result")
			_, _ = w.Write(answer[:len(answer)/2])
		}},
		"an empty one": {commits: 2, lose: func(_ *server, w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			unheard(r, serve)
			w.Header().Set("Content-Type", "application/x-git-receive-pack-result")
		}},
		"a proxy's": {commits: 2, lose: func(_ *server, w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			unheard(r, serve)
			http.Error(w, "bad gateway", http.StatusBadGateway)
		}},
		"after the push, and others were quick": {commits: 4, lose: func(s *server, w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			unheard(r, serve)
			s.push("Second", map[string]string{"other": "1"})
			s.push("Third", map[string]string{"other": "2"})
			hangUp(w)
		}},
		"before the push, and others were quick": {commits: 3, lose: func(s *server, w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			s.push("Second", map[string]string{"other": "1"})
			hangUp(w)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, map[string]string{"log": "0"})
			lost := false
			s.instead = func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) bool {
				if lost || !isPush(r) {
					return false
				}
				lost = true
				test.lose(s, w, r, serve)
				return true
			}
			// The edit is one that is seen when it is done twice.
			commit, err := s.repository().Commit(t.Context(), Message{Subject: "Log"}, func(tree *Tree) error {
				text, err := tree.Read("log")
				return errors.Join(err, tree.Write("log", append(text, 'x')))
			})
			if err != nil || !commit.New {
				t.Fatalf("got %v, %v", commit, err)
			}
			if got := s.git("show", "main:log"); got != "0x" || s.commits() != test.commits {
				t.Errorf("log is %q after %d commits, want it once, after %d", got, s.commits(), test.commits)
			}
			if subject := s.git("log", "-1", "--format=%s", commit.Hash); subject != "Log" {
				t.Errorf("commit %s is %q", commit.Hash, subject)
			}
		})
	}
}

// TestUnknown: nothing says that nothing was pushed while nobody can know it.
func TestUnknown(t *testing.T) {
	s := serve(t, map[string]string{"a": "1"})
	down := false
	s.instead = func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) bool {
		if isPush(r) {
			down = true
			unheard(r, serve)
		}
		if down {
			hangUp(w)
		}
		return down
	}
	r := s.repository(func(o *Options) { o.Attempts = 3 })
	_, err := r.Commit(t.Context(), Message{Subject: "Second"}, write("a", "2"))
	unknown, ok := errors.AsType[*UnknownError](err)
	if !ok || unknown.Commit != s.head() {
		t.Fatalf("got %v, want that %s is unknown", err, s.head())
	}
	if _, wrong := errors.AsType[*usererr.Error](err); wrong {
		t.Error("it is an error of the user")
	}
	s.instead = nil
	commit, err := r.Commit(t.Context(), Message{Subject: "Second"}, write("a", "2"))
	if err != nil || commit.New || commit.Hash != unknown.Commit {
		t.Errorf("again: %v, %v", commit, err)
	}
}

// TestKnownAgain: once the branch has moved on without it, a commit whose answer was lost can never arrive.
func TestKnownAgain(t *testing.T) {
	s := serve(t, map[string]string{"a": "1"})
	s.instead = func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) bool {
		if !isPush(r) {
			return false
		}
		if s.pushes == 1 {
			s.push("Theirs", map[string]string{"theirs": "1"})
			hangUp(w)
		} else {
			reject(w, r, "pre-receive hook declined", "")
		}
		return true
	}
	_, err := s.repository().Commit(t.Context(), Message{Subject: "Ours"}, write("a", "2"))
	if wrong, ok := errors.AsType[*usererr.Error](err); !ok || wrong.Field != "gitops.branch" || s.commits() != 2 {
		t.Errorf("got %v", err)
	}
}

// TestStopped: a caller that stops in the middle of a push hears of what was done all the same.
func TestStopped(t *testing.T) {
	s := serve(t, map[string]string{"a": "1"})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s.instead = func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) bool {
		if isPush(r) {
			answer := unheard(r.WithContext(context.Background()), serve)
			stop()
			time.Sleep(20 * time.Millisecond)
			_, _ = w.Write(answer.Body.Bytes())
			return true
		}
		return false
	}
	commit, err := s.repository().Commit(ctx, Message{Subject: "Second"}, write("a", "2"))
	if err != nil || commit.Hash != s.head() || !commit.New {
		t.Errorf("got %v, %v; the branch is at %s", commit, err, s.head())
	}
	if commit, err := s.repository().Commit(ctx, Message{Subject: "Third"}, write("a", "3")); !errors.Is(err, context.Canceled) || s.commits() != 2 {
		t.Errorf("after the stop: %v, %v", commit, err)
	}
}

// TestMoved: who moved the branch between read and push is not overwritten, and the edit sees what they did.
func TestMoved(t *testing.T) {
	for name, move := range map[string]func(s *server){
		"a commit": func(s *server) { s.push("Theirs", map[string]string{"theirs": "1"}) },
		"a forced push": func(s *server) {
			s.push("Rewritten", map[string]string{"theirs": "1"}, true)
		},
	} {
		for _, when := range []string{"in the edit", "in the push"} {
			t.Run(name+" "+when, func(t *testing.T) {
				s := serve(t, map[string]string{"a": "1"})
				moved := false
				once := func() {
					if !moved {
						moved = true
						move(s)
					}
				}
				s.instead = func(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) bool {
					if when == "in the push" && isPush(r) {
						once()
					}
					return false
				}
				var heads []string
				var theirs string
				commit, err := s.repository().Commit(t.Context(), Message{Subject: "Ours"}, func(tree *Tree) error {
					heads = append(heads, tree.Head())
					if when == "in the edit" {
						once()
					}
					text, err := tree.Read("theirs")
					if theirs = string(text); err != nil && !errors.Is(err, fs.ErrNotExist) {
						return err
					}
					return tree.Write("a", []byte("2"))
				})
				if err != nil || !commit.New || len(heads) != 2 || theirs != "1" {
					t.Fatalf("got %v, %v after edits of %v", commit, err, heads)
				}
				if got := s.git("log", "-1", "--format=%H %P", "main"); got != commit.Hash+" "+heads[1] {
					t.Errorf("got %s, want %s on %s", got, commit.Hash, heads[1])
				}
				if got := s.git("show", "main:theirs"); got != "1" {
					t.Errorf("theirs is %q", got)
				}
			})
		}
	}
}

// TestNamed: each reason has the option, what to do, nothing pushed, and no credential.
func TestNamed(t *testing.T) {
	forbid := func(service string, status int, text string) func(*server) {
		return func(s *server) {
			s.instead = func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) bool {
				if !strings.Contains(r.URL.String(), service) {
					return false
				}
				http.Error(w, text+" "+token, status)
				return true
			}
		}
	}
	for name, test := range map[string]struct {
		change  func(*Options)
		server  func(*server)
		field   string
		problem string
		pushes  int
	}{
		"wrong token":     {change: func(o *Options) { o.TokenFile = file(t, "wrong", "glpat-wrong") }, field: "gitops.tokenFile", problem: "does not accept the token"},
		"no token":        {change: func(o *Options) { o.TokenFile = "" }, field: "gitops.tokenFile", problem: "wants credentials to read"},
		"no branch":       {change: func(o *Options) { o.Branch = "production" }, field: "gitops.branch", problem: `has no branch "production"; it has main`},
		"no repository":   {change: func(o *Options) { o.URL = strings.Replace(o.URL, "environment", "elsewhere", 1) }, field: "gitops.repository", problem: "was not found, or the token may not see it"},
		"nobody answers":  {change: func(o *Options) { o.URL = "http://127.0.0.1:1/environment.git" }, field: "gitops.repository", problem: "cannot be read"},
		"unknown host":    {change: func(o *Options) { o.URL, o.Transport = "https://git.invalid/environment.git", noHost{} }, field: "gitops.repository", problem: "host git.invalid was not found"},
		"may not read":    {server: forbid("git-upload-pack", 403, "You are not allowed to download code from this project."), field: "gitops.tokenFile", problem: "may not read"},
		"may not push":    {server: forbid("service=git-receive-pack", 403, "You are not allowed to push code to this project."), field: "gitops.tokenFile", problem: "may not push to 127.0.0.1/environment.git: authorization failed: You are not allowed to push code to this project."},
		"job token":       {server: forbid("service=git-receive-pack", 403, "This project does not allow Git push requests with a job token"), field: "gitops.tokenFile", problem: "job token"},
		"refused in POST": {server: forbid("/git-receive-pack", 403, "Write access to repository not granted."), field: "gitops.tokenFile", problem: "Write access to repository not granted."},
		"gone":            {server: forbid("", 410, "gone"), field: "gitops.repository", problem: "status 410 gone"},
		"always busy":     {server: forbid("", 503, "busy"), field: "gitops.repository", problem: "cannot be read: status 503 busy"},
		"elsewhere": {server: func(s *server) {
			s.instead = func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) bool {
				http.Redirect(w, r, "https://evil.example"+r.URL.Path, http.StatusFound)
				return true
			}
		}, field: "gitops.repository", problem: "redirects a GET to https://evil.example"},
		"a hook": {server: func(s *server) {
			s.hook("pre-receive", "echo 'GitLab: You are not allowed to push code to protected branches on this project. "+token+"' >&2; exit 1\n")
		}, field: "gitops.branch", problem: "pre-receive hook declined (GitLab: You are not allowed to push code to protected branches on this project. …)", pushes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, map[string]string{"a": "1"})
			if test.server != nil {
				test.server(s)
			}
			change := test.change
			if change == nil {
				change = func(*Options) {}
			}
			r := s.repository(change, func(o *Options) { o.Attempts = 3 })
			_, err := r.Commit(t.Context(), Message{Subject: "Second"}, write("a", "2"))
			wrong, ok := errors.AsType[*usererr.Error](err)
			if !ok || wrong.Field != test.field || !strings.Contains(wrong.Problem, test.problem) || wrong.Fix == "" && name != "elsewhere" {
				t.Fatalf("got %v\nwant %s: …%s…", err, test.field, test.problem)
			}
			if strings.Contains(err.Error(), "glpat-") {
				t.Errorf("a token is in %q", err)
			}
			if s.commits() != 1 || s.pushes > max(1, test.pushes) {
				t.Errorf("%d commits, %d pushes", s.commits(), s.pushes)
			}
		})
	}
	t.Run("empty repository", func(t *testing.T) {
		_, err := serve(t, nil).repository().Read(t.Context())
		if wrong, ok := errors.AsType[*usererr.Error](err); !ok || wrong.Field != "gitops.branch" {
			t.Errorf("got %v", err)
		}
	})
}

type noHost struct{}

func (noHost) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: r.URL.Hostname(), IsNotFound: true}}
}

// TestServerWords: what the servers say of a push, from their issues and documents: a race is run again, a rule is not.
func TestServerWords(t *testing.T) {
	s := serve(t, map[string]string{"a": "1"})
	for name, test := range map[string]struct {
		status, words string
		again         bool
	}{
		"Git: a race":                    {status: "failed to update ref", again: true},
		"Git: a lock":                    {status: "failed to lock", again: true},
		"Git: stale":                     {status: "fetch first", again: true},
		"GitHub: a race (kargo#3071)":    {status: "cannot lock ref 'refs/heads/main': is at 1111111111111111111111111111111111111111 but expected 2222222222222222222222222222222222222222", again: true},
		"GitLab: a race (kargo#5286)":    {status: "incorrect old value provided", again: true},
		"GitLab: its API is down":        {status: "pre-receive hook declined", words: "GitLab: Internal API unreachable\n", again: true},
		"GitHub: it is not well":         {status: "Internal Server Error (timeout)", again: true},
		"GitHub: protected":              {status: "protected branch hook declined", words: "error: GH006: Protected branch update failed for refs/heads/main.\n"},
		"GitHub: a ruleset":              {status: "push declined due to repository rule violations", words: "error: GH013: Repository rule violations found for refs/heads/main.\n"},
		"GitLab: protected":              {status: "pre-receive hook declined", words: "GitLab: You are not allowed to push code to protected branches on this project.\n"},
		"Git: only by fast-forward":      {status: "deletion prohibited"},
		"a server of one's own's update": {status: "hook declined"},
	} {
		t.Run(name, func(t *testing.T) {
			s.pushes = 0
			s.instead = func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) bool {
				if !isPush(r) || test.again && s.pushes > 2 {
					return false
				}
				reject(w, r, test.status, test.words)
				return true
			}
			commit, err := s.repository().Commit(t.Context(), Message{Subject: "Second"}, write("a", name))
			if test.again {
				if err != nil || commit.Hash != s.head() || s.pushes != 3 {
					t.Errorf("got %v, %v after %d pushes", commit, err, s.pushes)
				}
				return
			}
			wrong, ok := errors.AsType[*usererr.Error](err)
			if !ok || wrong.Field != "gitops.branch" || s.pushes != 1 || !strings.Contains(wrong.Problem, test.status) || !strings.Contains(wrong.Problem, strings.TrimSpace(test.words)) {
				t.Errorf("got %v after %d pushes", err, s.pushes)
			}
		})
	}
	t.Run("for ever", func(t *testing.T) {
		s.pushes = 0
		s.instead = func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) bool {
			if isPush(r) {
				reject(w, r, "failed to update ref", "")
			}
			return isPush(r)
		}
		_, err := s.repository(func(o *Options) { o.Attempts = 4 }).Commit(t.Context(), Message{Subject: "Second"}, write("a", "2"))
		if _, unknown := errors.AsType[*UnknownError](err); err == nil || unknown || s.pushes != 4 || !strings.Contains(err.Error(), "not changed in 4 attempts: failed to update ref") {
			t.Errorf("got %v after %d pushes", err, s.pushes)
		}
	})
}

// TestTimeout: a server that does not answer holds nobody.
func TestTimeout(t *testing.T) {
	s := serve(t, map[string]string{"a": "1"})
	hold := make(chan struct{})
	defer close(hold)
	s.instead = func(http.ResponseWriter, *http.Request, http.HandlerFunc) bool { <-hold; return true }
	r := s.repository(func(o *Options) { o.Timeout, o.Attempts = 30*time.Millisecond, 2 })
	_, err := r.Read(t.Context())
	if wrong, ok := errors.AsType[*usererr.Error](err); !ok || !strings.Contains(wrong.Problem, "cannot be read") {
		t.Errorf("got %v", err)
	}
}

func TestOptions(t *testing.T) {
	key, locked := sshKey(t), file(t, "locked", "")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", locked+"2").CombinedOutput(); err != nil {
		t.Skipf("ssh-keygen: %v %s", err, out)
	}
	good := Options{URL: "https://gitlab.example.com/group/environment.git", Branch: "main"}
	byKey := func(o *Options) {
		o.URL, o.KeyFile, o.KnownHostsFile = "git@gitlab.example.com:group/environment.git", key, file(t, "known_hosts", "")
	}
	for name, test := range map[string]struct {
		change func(*Options)
		field  string
	}{
		"https":                     {change: func(*Options) {}},
		"ssh":                       {change: byKey},
		"ssh with a port":           {change: func(o *Options) { byKey(o); o.URL = "ssh://git@gitlab.example.com:2222/group/environment.git" }},
		"user and token":            {change: func(o *Options) { o.URL = "https://user:glpat-secret@gitlab.example.com/e.git" }, field: "gitops.repository"},
		"token alone":               {change: func(o *Options) { o.URL = "https://glpat-secret@gitlab.example.com/e.git" }, field: "gitops.repository"},
		"token and a bad port":      {change: func(o *Options) { o.URL = "https://glpat-secret@gitlab.example.com:x/e.git" }, field: "gitops.repository"},
		"token in the query":        {change: func(o *Options) { o.URL += "?private_token=glpat-secret" }, field: "gitops.repository"},
		"password of ssh":           {change: func(o *Options) { byKey(o); o.URL = "ssh://git:glpat-secret@gitlab.example.com/e.git" }, field: "gitops.repository"},
		"no encryption":             {change: func(o *Options) { o.URL = "http://gitlab.example.com/e.git" }, field: "gitops.repository"},
		"a path":                    {change: func(o *Options) { o.URL = "/srv/environment.git" }, field: "gitops.repository"},
		"a file":                    {change: func(o *Options) { o.URL = "file:///srv/environment.git" }, field: "gitops.repository"},
		"nothing":                   {change: func(o *Options) { o.URL = "" }, field: "gitops.repository"},
		"line break":                {change: func(o *Options) { o.URL += "\n" }, field: "gitops.repository"},
		"no branch":                 {change: func(o *Options) { o.Branch = "" }, field: "gitops.branch"},
		"a reference":               {change: func(o *Options) { o.Branch = "refs/heads/main" }, field: "gitops.branch"},
		"no name of a branch":       {change: func(o *Options) { o.Branch = "a..b" }, field: "gitops.branch"},
		"missing token":             {change: func(o *Options) { o.TokenFile = "/nowhere/token" }, field: "gitops.tokenFile"},
		"two tokens":                {change: func(o *Options) { o.TokenFile = file(t, "token", "glpat-secret\nglpat-secret2") }, field: "gitops.tokenFile"},
		"empty token":               {change: func(o *Options) { o.TokenFile = file(t, "token", "\n") }, field: "gitops.tokenFile"},
		"user with a colon":         {change: func(o *Options) { o.TokenFile, o.User = file(t, "token", "x"), "a:b" }, field: "gitops.user"},
		"a token for ssh":           {change: func(o *Options) { byKey(o); o.TokenFile = file(t, "token", "x") }, field: "gitops.tokenFile"},
		"a key for https":           {change: func(o *Options) { o.KeyFile = key }, field: "gitops.sshKeyFile"},
		"no key":                    {change: func(o *Options) { byKey(o); o.KeyFile = "" }, field: "gitops.sshKeyFile"},
		"no private key":            {change: func(o *Options) { byKey(o); o.KeyFile = file(t, "key", "glpat-secret") }, field: "gitops.sshKeyFile"},
		"a key with a passphrase":   {change: func(o *Options) { byKey(o); o.KeyFile = locked + "2" }, field: "gitops.sshKeyFile"},
		"no known hosts":            {change: func(o *Options) { byKey(o); o.KnownHostsFile = "" }, field: "gitops.knownHostsFile"},
		"missing known hosts":       {change: func(o *Options) { byKey(o); o.KnownHostsFile = "/nowhere/hosts" }, field: "gitops.knownHostsFile"},
		"damaged known hosts":       {change: func(o *Options) { byKey(o); o.KnownHostsFile = file(t, "hosts", "a b c\n") }, field: "gitops.knownHostsFile"},
		"no private key to sign":    {change: func(o *Options) { o.SigningKeyFile = file(t, "key", "x") }, field: "gitops.signingKeyFile"},
		"an author of two lines":    {change: func(o *Options) { o.AuthorName = "A\nB" }, field: "gitops.author"},
		"an author with an address": {change: func(o *Options) { o.AuthorName = "A <a@b>" }, field: "gitops.author"},
	} {
		t.Run(name, func(t *testing.T) {
			options := good
			test.change(&options)
			_, err := New(options)
			wrong, ok := errors.AsType[*usererr.Error](err)
			if (err == nil) != (test.field == "") || test.field != "" && (!ok || wrong.Field != test.field) {
				t.Errorf("got %v, want an error of %q", err, test.field)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("a credential is in %q", err)
			}
		})
	}
}

// sshKey writes a private key.
func sshKey(t testing.TB) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return file(t, "key", string(pem.EncodeToMemory(block)))
}

// TestSigned: Git itself verifies what was signed, and the same commit is made again.
func TestSigned(t *testing.T) {
	s := serve(t, map[string]string{"a": "1"})
	keys := map[string]string{"ed25519": sshKey(t)}
	for kind, bits := range map[string]string{"rsa": "2048", "ecdsa": "256"} {
		keys[kind] = filepath.Join(t.TempDir(), "key")
		if out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-f", keys[kind]).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v %s", err, out)
		}
	}
	for kind, key := range keys {
		signer, err := privateKey("key", key)
		if err != nil {
			t.Fatal(err)
		}
		allowed := file(t, "allowed", "crossbill@localhost "+string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
		r := s.repository(func(o *Options) { o.SigningKeyFile = key })
		commit, err := r.Commit(t.Context(), Message{Subject: "By " + kind}, write("a", kind))
		if err != nil {
			t.Fatal(err)
		}
		if out := s.git("-c", "gpg.ssh.allowedSignersFile="+allowed, "verify-commit", commit.Hash); !strings.Contains(out, `Good "git" signature for crossbill@localhost`) {
			t.Errorf("%s: %s", kind, out)
		}
	}
}

// TestSSH: the same over ssh, whose server here runs Git as sshd would.
func TestSSH(t *testing.T) {
	s := serve(t, map[string]string{"a": "1"})
	key, other := sshKey(t), sshKey(t)
	address, hostKey := serveSSH(t, s.root, key)
	host, port, _ := net.SplitHostPort(address)
	known := func(key ssh.PublicKey) string {
		return file(t, "known_hosts", fmt.Sprintf("[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(key)))
	}
	stranger, err := privateKey("key", other)
	if err != nil {
		t.Fatal(err)
	}
	ours := func(o *Options) {
		o.URL, o.TokenFile, o.KeyFile, o.KnownHostsFile = "ssh://git@"+address+"/environment.git", "", key, known(hostKey)
	}
	r := s.repository(ours)
	commit, err := r.Commit(t.Context(), Message{Subject: "By ssh"}, write("a", "2"))
	if err != nil || commit.Hash != s.head() {
		t.Fatalf("got %v, %v", commit, err)
	}
	if tree, err := r.Read(t.Context()); err != nil || tree.Head() != commit.Hash {
		t.Errorf("read: %v", err)
	}
	for name, test := range map[string]struct {
		change func(*Options)
		script string
		field  string
	}{
		"another key":      {change: func(o *Options) { o.KeyFile = other }, field: "gitops.sshKeyFile"},
		"another host key": {change: func(o *Options) { o.KnownHostsFile = known(stranger.PublicKey()) }, field: "gitops.knownHostsFile"},
		"unknown host":     {change: func(o *Options) { o.KnownHostsFile = file(t, "known_hosts", "") }, field: "gitops.knownHostsFile"},
		"no repository":    {change: func(o *Options) { o.URL = "ssh://git@" + address + "/enviroment.git" }, field: "gitops.repository"},
		"no branch":        {change: func(o *Options) { o.Branch = "production" }, field: "gitops.branch"},
		"may not push":     {change: func(o *Options) { o.URL = "ssh://git@" + address + "/read-only/../environment.git" }, field: "gitops.sshKeyFile"},
		"nobody answers":   {change: func(o *Options) { o.URL = "ssh://git@127.0.0.1:1/environment.git" }, field: "gitops.repository"},
		"a hook":           {change: func(*Options) {}, script: "exit 1", field: "gitops.branch"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.script != "" {
				s.hook("pre-receive", test.script)
				defer os.Remove(filepath.Join(s.bare, "hooks", "pre-receive"))
			}
			_, err := s.repository(ours, test.change, func(o *Options) { o.Attempts = 2 }).Commit(t.Context(), Message{Subject: "Third"}, write("a", "3"))
			if wrong, ok := errors.AsType[*usererr.Error](err); !ok || wrong.Field != test.field {
				t.Errorf("got %v, want an error of %s", err, test.field)
			}
			if s.head() != commit.Hash {
				t.Error("it was pushed")
			}
		})
	}
	t.Run("a server that says nothing", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		_, err = s.repository(ours, func(o *Options) {
			o.URL, o.Timeout, o.Attempts = "ssh://git@"+listener.Addr().String()+"/environment.git", 30*time.Millisecond, 2
		}).Read(t.Context())
		if wrong, ok := errors.AsType[*usererr.Error](err); !ok || wrong.Field != "gitops.repository" {
			t.Errorf("got %v", err)
		}
	})
}

// serveSSH runs Git's own commands for who has a key.
func serveSSH(t *testing.T, root, key string) (address string, hostKey ssh.PublicKey) {
	t.Helper()
	client, err := privateKey("key", key)
	if err != nil {
		t.Fatal(err)
	}
	host, err := privateKey("key", sshKey(t))
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, offered ssh.PublicKey) (*ssh.Permissions, error) {
		if string(offered.Marshal()) != string(client.PublicKey().Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	session := func(channel ssh.Channel, requests <-chan *ssh.Request) {
		for request := range requests {
			if request.Type != "exec" {
				_ = request.Reply(false, nil)
				continue
			}
			_ = request.Reply(true, nil)
			service, path, _ := strings.Cut(string(request.Payload[4:]), " ")
			path = strings.Trim(path, "'")
			status := byte(0)
			if strings.HasPrefix(path, "/read-only") && service == "git-receive-pack" {
				fmt.Fprintln(channel.Stderr(), "ERROR: The key you are authenticating with has been marked as read only.")
				status = 1
			} else {
				command := exec.Command("git", strings.TrimPrefix(service, "git-"), filepath.Join(root, strings.TrimPrefix(path, "/read-only/..")))
				command.Stdout, command.Stderr = channel, channel.Stderr()
				stdin, err := command.StdinPipe()
				if err == nil {
					go func() { defer stdin.Close(); _, _ = io.Copy(stdin, channel) }()
				}
				if command.Run() != nil {
					status = 128
				}
			}
			_, _ = channel.SendRequest("exit-status", false, []byte{0, 0, 0, status})
			channel.Close()
		}
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, channels, requests, err := ssh.NewServerConn(connection, config)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(requests)
				for incoming := range channels {
					channel, requests, err := incoming.Accept()
					if err == nil {
						go session(channel, requests)
					}
				}
			}()
		}
	}()
	return listener.Addr().String(), host.PublicKey()
}

// TestRead: a head that has not moved is not fetched again.
func TestRead(t *testing.T) {
	s := serve(t, map[string]string{"a": "1", "big": strings.Repeat("x", maxFile+1)})
	s.gives()
	fetches := 0
	s.instead = func(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) bool {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-upload-pack") {
			fetches++
		}
		return false
	}
	r := s.repository()
	for range 3 {
		if _, err := r.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.push("Second", map[string]string{"a": "2"})
	tree, err := r.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if text, err := tree.Read("a"); string(text) != "2" || err != nil || fetches != 2 {
		t.Errorf("got %q, %v after %d fetches", text, err, fetches)
	}

	// Where the server can, files that are no manifests stay there, and the next commit has them all the same.
	s.gives("allowFilter")
	r = s.repository()
	commit, err := r.Commit(t.Context(), Message{Subject: "Third"}, func(tree *Tree) error {
		_, err := tree.Read("big")
		if wrong, ok := errors.AsType[*usererr.Error](err); !ok || wrong.Field != "big" {
			t.Errorf("got %v", err)
		}
		return tree.Write("a", []byte("3"))
	})
	if err != nil || len(s.git("show", commit.Hash+":big")) != maxFile+1 {
		t.Errorf("got %v, %v", commit, err)
	}
	s.git("fsck", "--strict")
}

// TestMessage: Git reads the trailers that were given, and no others.
func TestMessage(t *testing.T) {
	nasty := "evil\nApprover: mallory\r\nApprover: eve\u2028Approver: x\x00\x1b[31m\xff  end "
	m := Message{
		Subject:  " promote\n\nApprover: mallory ",
		Body:     "First line.  \nApprover: mallory\n\nLast paragraph: yes\n\n",
		Trailers: []Trailer{{"Release", "shop-1"}, {"Verdict", nasty}, {"Pipeline", ""}, {"Approver", "Ada Lovelace <ada@example.com>"}},
	}
	command := exec.Command("git", "interpret-trailers", "--parse", "--no-divider")
	command.Stdin = strings.NewReader(m.String())
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := "Release: shop-1\nVerdict: evil Approver: mallory Approver: eve Approver: x [31m end\nApprover: Ada Lovelace <ada@example.com>\n"
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Error(diff)
	}
	if subject, _, _ := strings.Cut(m.String(), "\n"); subject != "promote Approver: mallory" {
		t.Errorf("subject is %q", subject)
	}
	for _, bad := range []Message{{}, {Subject: " \n"}, {Subject: "x", Trailers: []Trailer{{"A\nB", "c"}}}, {Subject: "x", Trailers: []Trailer{{"", "c"}}}} {
		if bad.check() == nil {
			t.Errorf("%q was accepted", bad.String())
		}
	}
}

// BenchmarkRead reads and commits to a repository as large as the facts' one: 2000 files, 3000 commits.
func BenchmarkRead(b *testing.B) {
	s := serve(b, nil)
	var stream strings.Builder
	for n := range 3000 {
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter S <s@example.com> %d +0000\ndata 1\nx\n", 1700000000+n)
		for f := range 2000 {
			if n == 0 || f == n%2000 {
				text := fmt.Sprintf("# %d of %d\n%s", n, f, strings.Repeat(fmt.Sprintf("key%d: value\n", f), 200))
				fmt.Fprintf(&stream, "M 100644 inline apps/app-%d/file-%d.yaml\ndata %d\n%s\n", f/10, f%10, len(text), text)
			}
		}
	}
	command := exec.Command("git", "fast-import", "--quiet")
	command.Dir, command.Stdin = s.bare, strings.NewReader(stream.String())
	if out, err := command.CombinedOutput(); err != nil {
		b.Fatalf("%v %s", err, out)
	}
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.repository().Read(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("commit", func(b *testing.B) {
		r := s.repository()
		n := 0
		for b.Loop() {
			n++
			if _, err := r.Commit(b.Context(), Message{Subject: "x"}, write("apps/app-7/file-7.yaml", fmt.Sprint(n))); err != nil {
				b.Fatal(err)
			}
		}
	})
}
