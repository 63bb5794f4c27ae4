package environment

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/our-org/crossbill/internal/environment/gittest"
	"github.com/our-org/crossbill/internal/usererr"
)

// gives has a server leave files out, and give single ones, by these settings alone.
func (s *server) gives(settings ...string) {
	s.t.Helper()
	for _, setting := range []string{"allowFilter", "allowAnySHA1InWant", "allowTipSHA1InWant", "allowReachableSHA1InWant"} {
		_, _ = s.stored.Git("config", "--unset-all", "uploadpack."+setting) // fails where it is not set
		if slices.Contains(settings, setting) {
			s.git("config", "uploadpack."+setting, "true")
		}
	}
}

// servers are what a server may be set to.
var servers = map[string][]string{
	"lazy":      {"allowFilter", "allowAnySHA1InWant"},
	"no wants":  {"allowFilter"},
	"no filter": {"allowAnySHA1InWant"},
	"neither":   nil,
	"only tips": {"allowFilter", "allowTipSHA1InWant"},
	"reachable": {"allowFilter", "allowTipSHA1InWant", "allowReachableSHA1InWant"}, // says what allowAnySHA1InWant says
}

// counted counts the requests for objects, and the bytes of their answers.
type counted struct {
	mutex    sync.Mutex
	requests int
	bytes    int64
}

type countedWriter struct {
	http.ResponseWriter
	c *counted
}

func (w countedWriter) Write(b []byte) (int, error) {
	w.c.mutex.Lock()
	w.c.bytes += int64(len(b))
	w.c.mutex.Unlock()
	return w.ResponseWriter.Write(b)
}

func isFetch(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-upload-pack")
}

func (s *server) count() *counted {
	c := &counted{}
	s.instead = func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) bool {
		if isFetch(r) {
			c.mutex.Lock()
			c.requests++
			c.mutex.Unlock()
		}
		serve(countedWriter{w, c}, r)
		return true
	}
	return c
}

// since gives what was counted since it was asked last.
func (c *counted) since() (requests int, sent int64) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	requests, sent = c.requests, c.bytes
	c.requests, c.bytes = 0, 0
	return requests, sent
}

// bySSH gives options of the server by ssh.
func (s *server) bySSH(t *testing.T) func(*Options) {
	key := sshKey(t)
	address, hostKey := serveSSH(t, s.root, key)
	host, port, _ := net.SplitHostPort(address)
	known := file(t, "known_hosts", fmt.Sprintf("[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(hostKey)))
	return func(o *Options) {
		o.URL, o.TokenFile, o.KeyFile, o.KnownHostsFile = "ssh://git@"+address+"/environment.git", "", key, known
	}
}

// stored are the files of the branch as Git has them.
func (s *server) contents(t *testing.T) map[string]string {
	all := map[string]string{}
	for name := range strings.SplitSeq(s.git("ls-tree", "-r", "--name-only", "main"), "\n") {
		all[name] = s.git("show", "main:"+name)
	}
	return all
}

var serverRounds = flag.Int("rounds", 6, "TestEveryServer: how often somebody commits, or nobody")

// TestEveryServer: whatever a server gives and whoever commits meanwhile, also by force, what is read is what Git has.
func TestEveryServer(t *testing.T) {
	names := []string{"a", "app/one/a", "app/one/b", "app/two/a", "app/two/deep/er/b", "other/c"}
	for name, settings := range servers {
		for _, by := range []string{"https", "ssh"} {
			if by == "ssh" && name != "lazy" && name != "neither" {
				continue
			}
			t.Run(name+" by "+by, func(t *testing.T) {
				s := serve(t, map[string]string{"a": "0", "app/one/a": "0", "app/one/b": "0", "app/two/a": "0", "other/c": "0"})
				s.gives(settings...)
				change := func(*Options) {}
				if by == "ssh" {
					change = s.bySSH(t)
				}
				r := s.repository(change)
				random := rand.New(rand.NewPCG(1, uint64(len(by))))
				some := func() string { return names[random.IntN(len(names))] }
				for i := range *serverRounds {
					what := i // each once, then at random
					if i >= 4 {
						what = random.IntN(4)
					}
					switch what {
					case 0:
						s.push("Foreign", map[string]string{some(): fmt.Sprint(i)})
					case 1:
						s.push("Forced", map[string]string{some(): fmt.Sprint(i), "app/one/b": "0"}, true)
						s.git("gc", "-q", "--prune=now")
					case 2:
						if _, err := r.Commit(t.Context(), Message{Subject: "Ours"}, func(tree *Tree) error {
							if text, err := tree.Read("app/one/b"); err == nil {
								return tree.Write(some(), append(text, byte('a'+i)))
							}
							return tree.Write(some(), []byte{byte('a' + i)})
						}); err != nil {
							t.Fatal(err)
						}
					}
					tree, err := r.Read(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					want := s.contents(t)
					if some := some(); want[some] != "" { // alone, then all
						if text, err := tree.Read(some); err != nil || string(text) != want[some] {
							t.Fatalf("%s is %q, %v; want %q", some, text, err, want[some])
						}
					}
					if diff := cmp.Diff(want, filesOf(t, tree)); diff != "" {
						t.Fatal(diff)
					}
				}
				s.git("fsck", "--strict")
			})
		}
	}
}

// TestLazy: what is asked of a server that gives single files, and how often.
func TestLazy(t *testing.T) {
	random := rand.NewChaCha8([32]byte{})
	large := func() string { // of what does not compress
		text := make([]byte, maxFile)
		_, _ = random.Read(text)
		return string(text)
	}
	files := map[string]string{"top": "top", "app/shop/a": "1", "app/shop/b": "1", "app/shop/large": large(), "other/large": large()}
	for i := range 300 {
		files[fmt.Sprintf("other/%d/file", i)] = fmt.Sprint(i)
	}
	s := serve(t, files)
	s.gives(servers["lazy"]...)
	c, r := s.count(), s.repository()
	read := func(names ...string) func() error {
		return func() error {
			tree, err := r.Read(t.Context())
			for _, name := range names {
				if err == nil {
					_, err = tree.Read(name)
				}
			}
			return err
		}
	}
	for _, step := range []struct {
		name     string
		do       func() error
		requests int
		most     int64 // bytes
		fail     string
	}{
		{"folders", read(), 1, 25_000, ""},
		{"again", read(), 0, 500, ""},
		{"a folder", read("app/shop/a", "app/shop/b", "app/shop/a"), 1, 1500, ""},
		{"a large one in it", read("app/shop/large"), 0, 500, "app/shop/large"},
		{"at the root", read("top"), 1, 1500, ""},
		{"large in a folder of folders", read("other/large"), 1, maxFile + 5000, "other/large"},
		{"and again", read("other/large"), 0, 500, "other/large"},
		{"a foreign commit", func() error {
			s.push("Foreign", map[string]string{"app/shop/b": "2", "other/7/file": "x"})
			return read("app/shop/a", "app/shop/b", "other/7/file")()
		}, 3, 3000, ""},
		{"ours", func() error {
			_, err := r.Commit(t.Context(), Message{Subject: "Ours"}, write("app/shop/b", "3"))
			return err
		}, 0, 1000, ""},
		{"after ours", read("app/shop/a", "app/shop/b"), 0, 500, ""},
		{"all in a listed folder", func() error {
			tree, err := r.Read(t.Context())
			if err != nil {
				return err
			}
			names, err := tree.Files("other")
			for _, name := range names {
				if err == nil && name != "other/large" {
					_, err = tree.Read(name)
				}
			}
			return err
		}, 1, 20_000, ""},
	} {
		err := step.do()
		if wrong, ok := errors.AsType[*usererr.Error](err); (step.fail == "") != (err == nil) || err != nil && (!ok || wrong.Field != step.fail || !strings.Contains(wrong.Problem, "MiB")) {
			t.Errorf("%s: %v", step.name, err)
		}
		if requests, sent := c.since(); requests != step.requests || sent > step.most {
			t.Errorf("%s: %d requests, %d bytes; want %d, at most %d", step.name, requests, sent, step.requests, step.most)
		}
	}
}

// TestFresh: a head that was read lately is taken for the branch's by a read, and by no commit.
func TestFresh(t *testing.T) {
	s := serve(t, map[string]string{"a": "1"})
	asked := 0
	s.instead = func(http.ResponseWriter, *http.Request, http.HandlerFunc) bool { asked++; return false }
	r := s.repository(func(o *Options) { o.Fresh = time.Hour })
	read := func(want string) {
		t.Helper()
		tree, err := r.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if text, err := tree.Read("a"); err != nil || string(text) != want {
			t.Errorf("a is %q, %v; want %q", text, err, want)
		}
	}
	read("1")
	s.push("Foreign", map[string]string{"a": "2"})
	before := asked
	read("1")
	if asked != before {
		t.Errorf("it was asked %d times", asked-before)
	}
	if _, err := r.Commit(t.Context(), Message{Subject: "Ours"}, func(tree *Tree) error {
		text, err := tree.Read("a")
		return errors.Join(err, tree.Write("a", append(text, '3')))
	}); err != nil {
		t.Fatal(err)
	}
	read("23")
	r.options.Fresh = 0
	s.push("Foreign", map[string]string{"a": "4"})
	read("4")
}

// TestRefused: a server that says that it gives single files, and gives none, is read as one that says nothing.
func TestRefused(t *testing.T) {
	s := serve(t, map[string]string{"app/a": "1", "app/b": "1", "large": strings.Repeat("x", maxFile)})
	s.gives(servers["lazy"]...)
	refusals := 0
	s.instead = func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) bool {
		if !isFetch(r) {
			return false
		}
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if bytes.Contains(body, []byte("deepen ")) {
			return false
		}
		refusals++ // as upload-pack.c does
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		text := "ERR upload-pack: not our ref " + string(body[len("0000want "):][:40])
		_, _ = io.WriteString(w, hex4(len(text)+4)+text)
		return true
	}
	for range 2 {
		r := s.repository()
		for i := range 3 {
			tree, err := r.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tree.Read("large"); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "MiB") {
				t.Errorf("large: %v", err)
			}
			got, err := tree.Read("app/a")
			if want := s.git("show", "main:app/a"); err != nil || string(got) != want {
				t.Errorf("%d: got %q, %v; want %q", i, got, err, want)
			}
			if versions, _, err := r.History(t.Context(), "app/a", never); err != nil || string(versions[0].Text) != string(got) {
				t.Errorf("%d: %v, %v", i, versions, err)
			}
			s.push("Foreign", map[string]string{"app/a": fmt.Sprint("of ", i)})
		}
	}
	if versions, _, err := s.repository().History(t.Context(), "app/a", never); err != nil || len(versions) != 7 || string(versions[0].Text) != "of 2" {
		t.Errorf("%d versions, %v", len(versions), err)
	}
	if refusals != 3 {
		t.Errorf("%d refusals", refusals)
	}
}

// TestGone: a commit that is replaced while its files are read is never mixed with another one.
func TestGone(t *testing.T) {
	s := serve(t, map[string]string{"app/a": "old", "app/b": "old"})
	s.gives(servers["lazy"]...)
	replace := func(text string) {
		s.push("Replaced", map[string]string{"app/a": text, "app/b": text}, true)
		s.git("gc", "-q", "--prune=now")
	}
	r := s.repository()
	tree, err := r.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	replace("new")
	if text, err := tree.Read("app/a"); err == nil || tree.Err() == nil {
		t.Errorf("read %q of a commit that is gone", text)
	}
	if _, err := Object(tree, "app", "Deployment", "shop"); err == nil {
		t.Error("an object of a commit that is gone")
	}

	tries := 0
	if _, err := r.Commit(t.Context(), Message{Subject: "Ours"}, func(tree *Tree) error {
		if tries++; tries == 1 {
			replace("newer")
		}
		text, _ := tree.Read("app/a") // an edit may overlook what it cannot read
		return tree.Write("app/b", append(text, '!'))
	}); err != nil || tries != 2 {
		t.Errorf("%d tries, %v", tries, err)
	}
	if diff := cmp.Diff(map[string]string{"app/a": "newer", "app/b": "newer!"}, s.contents(t)); diff != "" {
		t.Error(diff)
	}
}

// TestLazyErrors: a server that does not give a file is as one that cannot be read at all.
func TestLazyErrors(t *testing.T) {
	s := serve(t, map[string]string{"app/a": "1", "app/b": "1"})
	s.gives(servers["lazy"]...)
	var broken func(w http.ResponseWriter, r *http.Request)
	s.instead = func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) bool {
		if broken == nil || !isFetch(r) {
			return false
		}
		broken(w, r)
		return true
	}
	refuses := func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "503", http.StatusServiceUnavailable) }
	ends := func(w http.ResponseWriter, _ *http.Request) { hangUp(w) }
	hangs := func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); <-r.Context().Done() }
	for name, test := range map[string]struct {
		broken  func(http.ResponseWriter, *http.Request)
		timeout time.Duration
	}{
		"refuses": {refuses, 20 * time.Second}, "ends": {ends, 20 * time.Second}, "hangs": {hangs, 300 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.head()
			broken = nil
			r := s.repository(func(o *Options) { o.Attempts = 2 })
			tree, err := r.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			r.options.Timeout = test.timeout
			broken = test.broken
			_, err = tree.Read("app/a")
			if wrong, ok := errors.AsType[*usererr.Error](err); !ok || wrong.Field != fieldRepository || tree.Err() == nil {
				t.Errorf("read: %v", err)
			}
			_, err = r.Commit(t.Context(), Message{Subject: "Ours"}, func(tree *Tree) error {
				_, _ = tree.Read("app/a")
				return tree.Write("app/b", []byte(name))
			})
			if wrong, ok := errors.AsType[*usererr.Error](err); !ok || wrong.Field != fieldRepository || s.head() != before {
				t.Errorf("commit: %v", err)
			}
		})
	}
	t.Run("stopped", func(t *testing.T) {
		broken = nil
		ctx, stop := context.WithCancel(t.Context())
		tree, err := s.repository().Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		stop()
		if _, err := tree.Read("app/a"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// TestShrunk: a file that is sent as a change of one that was too large to read is read all the same.
func TestShrunk(t *testing.T) {
	text := make([]byte, 3*maxFile/2)
	_, _ = rand.NewChaCha8([32]byte{}).Read(text)
	s := serve(t, map[string]string{"app/a": string(text), "app/b": "1"})
	s.gives(servers["no wants"]...)
	c, r := s.count(), s.repository()
	if _, err := r.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.push("Shrunk", map[string]string{"app/a": string(text[:maxFile-1000])})
	c.since()
	tree, err := r.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tree.Read("app/a"); err != nil || string(got) != string(text[:maxFile-1000]) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if requests, _ := c.since(); requests != 2 {
		t.Errorf("%d requests: it was not sent as a change", requests)
	}
}

// TestKeptIsBounded: with much that was read, a head is read from the beginning.
func TestKeptIsBounded(t *testing.T) {
	s := serve(t, map[string]string{"app/a": "1", "other/b": "1"})
	s.gives(servers["lazy"]...)
	r := s.repository()
	for i := range 3 {
		tree, err := r.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		k, _ := keptOf(tree.from)
		k.size = maxKept + 1
		s.push("Foreign", map[string]string{"app/a": fmt.Sprint(i)})
		next, err := r.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if is, _ := keptOf(next.from); is == k || is.size > maxKept {
			t.Error("it is kept")
		}
		if diff := cmp.Diff(s.contents(t), filesOf(t, next)); diff != "" {
			t.Error(diff)
		}
	}
}

// largeRepository has many folders of manifests.
func largeRepository(b *testing.B, folders, each int) *server {
	s := serve(b, nil)
	files := map[string]string{}
	for folder := range folders {
		for i := range each {
			random := rand.New(rand.NewPCG(uint64(folder), uint64(i)))
			var text strings.Builder
			fmt.Fprintf(&text, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: app-%d-%d}\nspec:\n", folder, i)
			for range 24 {
				fmt.Fprintf(&text, "  - %016x%016x\n", random.Uint64(), random.Uint64())
			}
			files[fmt.Sprintf("apps/app-%d/file-%d.yaml", folder, i)] = text.String()
		}
	}
	if _, err := s.stored.Commit("First", gittest.Change{Files: files}); err != nil {
		b.Fatal(err)
	}
	s.git("gc", "-q")
	return s
}

// BenchmarkLargeRepository measures what a repository costs: the first look at one app, another after a foreign commit, and a
// commit.
func BenchmarkLargeRepository(b *testing.B) {
	for _, size := range []struct{ folders, each int }{{2000, 10}, {10_000, 10}} {
		s := largeRepository(b, size.folders, size.each)
		for _, name := range []string{"lazy", "no wants"} {
			s.gives(servers[name]...)
			c := s.count()
			look := func(b *testing.B, r *Repository) {
				tree, err := r.Read(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				if o, err := Object(tree, "apps/app-7", "Deployment", "app-7-3"); err != nil || o == nil {
					b.Fatal(o, err)
				}
			}
			run := func(step string, prepare, do func(*testing.B, *Repository)) {
				b.Run(fmt.Sprintf("%d/%s/%s", size.folders*size.each, name, step), func(b *testing.B) {
					requests, sent := 0, int64(0)
					for b.Loop() {
						b.StopTimer()
						r := s.repository(func(o *Options) { o.Timeout = time.Minute })
						prepare(b, r)
						c.since()
						b.StartTimer()
						do(b, r)
						b.StopTimer()
						n, more := c.since()
						requests, sent = requests+n, sent+more
						b.StartTimer()
					}
					b.ReportMetric(float64(sent)/float64(b.N), "bytes-in/op")
					b.ReportMetric(float64(requests)/float64(b.N), "fetches/op")
				})
			}
			number := 0
			foreign := func() {
				number++
				s.push("Foreign", map[string]string{fmt.Sprintf("apps/app-%d/file-1.yaml", 100+number%100): fmt.Sprintf("a: %s%d\n", name, number)})
			}
			run("first", func(*testing.B, *Repository) {}, look)
			run("after-foreign-commit", func(b *testing.B, r *Repository) { look(b, r); foreign() }, look)
			run("commit", look, func(b *testing.B, r *Repository) {
				number++
				if _, err := r.Commit(b.Context(), Message{Subject: "Ours"}, func(tree *Tree) error {
					return tree.Write("apps/app-7/file-2.yaml", fmt.Appendf(nil, "a: %s%d\n", name, number))
				}); err != nil {
					b.Fatal(err)
				}
			})
			run("after-own-commit", func(b *testing.B, r *Repository) {
				number++
				if _, err := r.Commit(b.Context(), Message{Subject: "Ours"}, func(tree *Tree) error {
					_, err := Object(tree, "apps/app-7", "Deployment", "app-7-3")
					return errors.Join(err, tree.Write("apps/app-7/file-2.yaml", fmt.Appendf(nil, "a: %s%d\n", name, number)))
				}); err != nil {
					b.Fatal(err)
				}
			}, look)
		}
	}
}
