package environment

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/environment/gittest"
)

const token = "glpat-0123456789abcdef"

// server serves one bare repository with Git's own server, and does what a test wants in between.
type server struct {
	*httptest.Server
	t      testing.TB
	root   string // of the repositories
	bare   string
	stored *gittest.Repository // the same

	mutex   sync.Mutex
	pushes  int                                                                       // POSTs of git-receive-pack
	instead func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) bool // says whether it has answered
}

// serve makes a repository with files on branch main.
func serve(t testing.TB, files map[string]string) *server {
	t.Helper()
	for _, variable := range gittest.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		t.(interface{ Setenv(_, _ string) }).Setenv(name, value)
	}
	s := &server{t: t, root: t.TempDir()}
	s.bare = filepath.Join(s.root, "environment.git")
	var err error
	if s.stored, err = gittest.Init(s.bare); err != nil {
		t.Fatal(err)
	}
	if files != nil {
		s.push("First", files)
	}
	backend, err := gittest.Server(s.root)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "oauth2" || password != token {
			w.Header().Set("WWW-Authenticate", `Basic realm="GitLab"`)
			http.Error(w, "HTTP Basic: Access denied. If a password was provided for Git authentication, the password was incorrect ("+password+")", http.StatusUnauthorized)
			return
		}
		if isPush(r) {
			s.mutex.Lock()
			s.pushes++
			s.mutex.Unlock()
		}
		if s.instead != nil && s.instead(w, r, backend.ServeHTTP) {
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func isPush(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-receive-pack")
}

func (s *server) run(dir string, arguments ...string) string {
	s.t.Helper()
	command := exec.Command("git", arguments...)
	command.Dir = dir
	out, err := command.CombinedOutput()
	if err != nil {
		s.t.Fatalf("git %s: %v\n%s", strings.Join(arguments, " "), err, out)
	}
	return string(out)
}

func (s *server) git(arguments ...string) string {
	s.t.Helper()
	return strings.TrimSpace(s.run(s.bare, arguments...))
}

// push commits as somebody else; forced, as the only commit.
func (s *server) push(subject string, files map[string]string, forced ...bool) {
	s.t.Helper()
	if _, err := s.stored.Commit(subject, gittest.Change{Files: files, Alone: len(forced) > 0}); err != nil {
		s.t.Fatal(err)
	}
}

// imports gives git fast-import commits.
func (s *server) imports(stream string) {
	s.t.Helper()
	command := exec.Command("git", "fast-import", "--quiet", "--date-format=now")
	command.Dir, command.Stdin = s.bare, strings.NewReader(stream)
	if out, err := command.CombinedOutput(); err != nil {
		s.t.Fatalf("git fast-import: %v\n%s", err, out)
	}
}

func (s *server) hook(name, script string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.bare, "hooks", name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) head() string {
	s.t.Helper()
	return s.git("rev-parse", "main")
}

func (s *server) commits() int {
	s.t.Helper()
	return strings.Count(s.git("log", "--format=%H", "main"), "\n") + 1
}

// file writes a file and gives its path.
func file(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// repository is a client of the server, with pauses as short as its server is near.
func (s *server) repository(change ...func(*Options)) *Repository {
	s.t.Helper()
	options := Options{URL: s.URL + "/environment.git", Branch: "main", TokenFile: file(s.t, "token", token+"\n"), Timeout: 20 * time.Second}
	for _, c := range change {
		c(&options)
	}
	r, err := New(options)
	if err != nil {
		s.t.Fatal(err)
	}
	r.shortest, r.longest = time.Millisecond, 50*time.Millisecond
	return r
}

// hangUp ends a connection without an answer.
func hangUp(w http.ResponseWriter) {
	connection, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = connection.(*net.TCPConn).SetLinger(0)
		connection.Close()
	}
}

// unheard does what is asked, and keeps the answer.
func unheard(r *http.Request, serve http.HandlerFunc) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	serve(recorder, r)
	return recorder
}

// reject answers a push as a Git server whose report is ng, with words beside it.
func reject(w http.ResponseWriter, r *http.Request, status, words string) {
	_, _ = io.Copy(io.Discard, r.Body)
	line := func(to *bytes.Buffer, text string) { to.WriteString(hex4(len(text)+4) + text) }
	var report, answer bytes.Buffer
	line(&report, "unpack ok\n")
	line(&report, "ng refs/heads/main "+status+"\n")
	report.WriteString("0000")
	if words != "" {
		line(&answer, "\x02"+words)
	}
	line(&answer, "\x01"+report.String())
	answer.WriteString("0000")
	w.Header().Set("Content-Type", "application/x-git-receive-pack-result")
	_, _ = w.Write(answer.Bytes())
}

func hex4(n int) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[n>>12&15], digits[n>>8&15], digits[n>>4&15], digits[n&15]})
}
