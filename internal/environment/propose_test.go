package environment

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/usererr"
)

var toBranch = NewBranch{Name: "crossbill/shop/8db9", Options: []PushOption{{"merge_request.create", ""}, {"merge_request.title", "shop: release\n8db9"}}}

// servePushOptions serves a repository that notes the options of each push.
func servePushOptions(t *testing.T) *server {
	s := serve(t, map[string]string{"a": "1"})
	s.git("config", "receive.advertisePushOptions", "true")
	s.hook("pre-receive", `i=0; while [ "$i" -lt "${GIT_PUSH_OPTION_COUNT:-0}" ]; do eval "echo \"\$GIT_PUSH_OPTION_$i\"" >>push-options; i=$((i+1)); done; cat >>pushed-refs`+"\n")
	return s
}

func (s *server) branches() string { return s.git("branch", "--format=%(refname:short)") }

// TestPropose: the new branch has one commit on the head, the branch stays, and the same again is nothing new.
func TestPropose(t *testing.T) {
	s := servePushOptions(t)
	r, before := s.repository(), s.head()
	commit, err := r.Propose(t.Context(), Message{Subject: "Proposed"}, toBranch, write("a", "2"))
	if err != nil || !commit.New || commit.Branch != toBranch.Name || s.git("log", "-1", "--format=%H %P %s", toBranch.Name) != commit.Hash+" "+before+" Proposed" || s.head() != before {
		t.Fatalf("got %v, %v", commit, err)
	}
	options, err := os.ReadFile(filepath.Join(s.bare, "push-options"))
	if diff := cmp.Diff("merge_request.create=\nmerge_request.title=shop: release 8db9\n", string(options)); err != nil || diff != "" {
		t.Error(err, diff)
	}
	pushes := s.pushes
	again, err := r.Propose(t.Context(), Message{Subject: "Proposed later"}, toBranch, write("a", "2"))
	if err != nil || again != (Commit{Hash: commit.Hash, Branch: toBranch.Name}) || s.pushes != pushes {
		t.Errorf("again: %v, %v, %d pushes", again, err, s.pushes-pushes)
	}
	s.push("Theirs", map[string]string{"b": "1"})
	again, err = r.Propose(t.Context(), Message{Subject: "Proposed later"}, toBranch, write("a", "2"))
	if err != nil || again.Hash != commit.Hash || again.New || s.pushes != pushes {
		t.Errorf("after the branch moved: %v, %v, %d pushes", again, err, s.pushes-pushes)
	}
	_, err = r.Propose(t.Context(), Message{Subject: "Other"}, toBranch, write("a", "3"))
	if wrong, ok := errors.AsType[*usererr.Error](err); !ok || !strings.Contains(wrong.Problem, "has a branch crossbill/shop/8db9 with something else") || s.pushes != pushes {
		t.Errorf("another one: %v", err)
	}
	s.push("Merged", map[string]string{"a": "2"})
	again, err = r.Propose(t.Context(), Message{Subject: "Proposed later"}, toBranch, write("a", "2"))
	if err != nil || again != (Commit{Hash: s.head(), Branch: "main"}) || s.pushes != pushes {
		t.Errorf("after the merge: %v, %v", again, err)
	}
	s.git("fsck", "--strict")
}

// TestProposeAnswers: what arrived is found, what did not is done again, and who was quicker is seen.
func TestProposeAnswers(t *testing.T) {
	theirs := func(s *server, text string) {
		s.push("Theirs", map[string]string{"a": text})
		s.git("branch", toBranch.Name, "main")
	}
	for name, test := range map[string]struct {
		lose   func(s *server, w http.ResponseWriter, r *http.Request, serve http.HandlerFunc)
		new    bool
		pushes int
		says   string
	}{
		"lost after the push": {func(_ *server, w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			unheard(r, serve)
			hangUp(w)
		}, true, 1, ""},
		"lost before the push": {func(_ *server, w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) { hangUp(w) }, true, 2, ""},
		"somebody made the same": {func(s *server, _ http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			theirs(s, "2")
			serve(nowhere(), r)
		}, false, 1, ""},
		"somebody made another": {func(s *server, w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			s.git("branch", toBranch.Name, "main")
			hangUp(w)
		}, false, 1, "with something else"},
	} {
		t.Run(name, func(t *testing.T) {
			s := servePushOptions(t)
			lost := false
			s.instead = func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) bool {
				if lost || !isPush(r) {
					return false
				}
				lost = true
				test.lose(s, w, r, serve)
				return true
			}
			commit, err := s.repository().Propose(t.Context(), Message{Subject: "Proposed"}, toBranch, write("a", "2"))
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Fatalf("got %v, want %s", err, test.says)
				}
				return
			}
			if err != nil || commit.New != test.new || s.pushes != test.pushes || commit.Hash != s.git("rev-parse", toBranch.Name) {
				t.Errorf("got %v, %v after %d pushes", commit, err, s.pushes)
			}
		})
	}
}

// nowhere takes an answer that nobody hears.
func nowhere() http.ResponseWriter { return discarded{http.Header{}} }

type discarded struct{ header http.Header }

func (d discarded) Header() http.Header         { return d.header }
func (d discarded) Write(p []byte) (int, error) { return len(p), nil }
func (d discarded) WriteHeader(int)             {}

// TestProposersAtOnce: one makes the branch, all others find it.
func TestProposersAtOnce(t *testing.T) {
	s := servePushOptions(t)
	var group sync.WaitGroup
	var mutex sync.Mutex
	made, hashes := 0, map[string]bool{}
	for range 6 {
		r := s.repository(func(o *Options) { o.Attempts = 100 })
		group.Go(func() {
			commit, err := r.Propose(t.Context(), Message{Subject: "Proposed"}, toBranch, write("a", "2"))
			mutex.Lock()
			defer mutex.Unlock()
			if hashes[commit.Hash] = true; err != nil {
				t.Error(err)
			}
			if commit.New {
				made++
			}
		})
	}
	group.Wait()
	// All of them make the same commit in one second: then each of them may take it for its own.
	if made == 0 || len(hashes) != 1 || s.branches() != toBranch.Name+"\nmain" {
		t.Errorf("%d were made, commits %v, branches %s", made, hashes, s.branches())
	}
}

// TestProposeNamed: what cannot be proposed pushes nothing.
func TestProposeNamed(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*server, *Options, *NewBranch)
		field  string
		says   string
	}{
		"no push options": {func(s *server, _ *Options, _ *NewBranch) { s.git("config", "receive.advertisePushOptions", "false") }, "gitops.repository", "takes no push options"},
		"no branch":       {func(_ *server, o *Options, _ *NewBranch) { o.Branch = "production" }, "gitops.branch", `has no branch "production"; it has main`},
		"may not push": {func(s *server, _ *Options, _ *NewBranch) {
			s.hook("pre-receive", "echo 'You are not allowed to push code'; exit 1")
		}, "gitops.branch", "refuses the push to crossbill/shop/8db9"},
		"a folder of branches is in the way": {func(s *server, _ *Options, _ *NewBranch) { s.git("branch", "crossbill", "main") }, "", "not changed in 3 attempts"},
		"no name of a branch":                {func(_ *server, _ *Options, to *NewBranch) { to.Name = "a..b" }, "", `branch "a..b"`},
	} {
		t.Run(name, func(t *testing.T) {
			s := servePushOptions(t)
			to := toBranch
			r := s.repository(func(o *Options) { o.Attempts = 3; test.change(s, o, &to) })
			before := s.branches()
			commit, err := r.Propose(t.Context(), Message{Subject: "Proposed"}, to, write("a", "2"))
			wrong, ok := errors.AsType[*usererr.Error](err)
			if err == nil || ok != (test.field != "") || ok && wrong.Field != test.field || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, %v; want %s: %s", commit, err, test.field, test.says)
			}
			if got := s.branches(); got != before {
				t.Errorf("branches %s, before %s", got, before)
			}
		})
	}
}

// TestProposeUnknown: nothing says that nothing was pushed while nobody can know it.
func TestProposeUnknown(t *testing.T) {
	s := servePushOptions(t)
	down := false
	s.instead = func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) bool {
		if isPush(r) {
			down = true
			unheard(r.WithContext(context.Background()), serve)
		}
		if down {
			hangUp(w)
		}
		return down
	}
	_, err := s.repository(func(o *Options) { o.Attempts = 3 }).Propose(t.Context(), Message{Subject: "Proposed"}, toBranch, write("a", "2"))
	if unknown, ok := errors.AsType[*UnknownError](err); !ok || unknown.Commit != s.git("rev-parse", toBranch.Name) {
		t.Errorf("got %v", err)
	}
}
