// Package gitops puts Git in front of a rehearsal's cluster: environment repositories behind Git's own server, and the real
// Flux, which applies them.
package gitops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/our-org/crossbill/internal/environment/gittest"
)

// A Repository is an environment repository behind a server of its own, which everybody may read, and push to unless it is protected.
type Repository struct {
	// URL is its address, by plain HTTP. It stays the same when the server is stopped and started.
	URL string

	git     *gittest.Repository
	handler http.Handler
	address string
	token   atomic.Pointer[string] // nil: everybody may push

	mu     sync.Mutex
	server *http.Server // nil while it is stopped
}

// Serve makes an empty repository in a folder, which is made too, and serves it at an address, host:port. Port 0 is any.
func Serve(dir, address string) (*Repository, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	const name = "environment.git"
	git, err := gittest.Init(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	handler, err := gittest.Server(dir)
	if err != nil {
		return nil, err
	}
	r := &Repository{git: git, address: address}
	r.handler = r.authorized(handler)
	if err := r.Start(); err != nil {
		return nil, err
	}
	r.URL = "http://" + r.address + "/" + name
	return r, nil
}

// Protect takes pushes only with a token from now on.
func (r *Repository) Protect(token string) { r.token.Store(&token) }

// authorized asks who pushes for the token, if there is one: as the password of HTTP's basic authentication, whoever the user is, as
// GitLab and GitHub take theirs.
func (r *Repository) authorized(served http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		pushes := strings.HasSuffix(q.URL.Path, "/git-receive-pack") || q.URL.Query().Get("service") == "git-receive-pack"
		token := r.token.Load()
		if _, password, _ := q.BasicAuth(); pushes && token != nil && password != *token {
			w.Header().Set("WWW-Authenticate", `Basic realm="Git"`)
			http.Error(w, "HTTP Basic: Access denied", http.StatusUnauthorized)
			return
		}
		served.ServeHTTP(w, q)
	})
}

// Start lets the server listen again.
func (r *Repository) Start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server != nil {
		return nil
	}
	l, err := net.Listen("tcp", r.address)
	if err != nil {
		return fmt.Errorf("git server: %w", err)
	}
	r.address = l.Addr().String()
	r.server = &http.Server{Handler: r.handler, ErrorLog: log.New(io.Discard, "", 0)}
	go func(s *http.Server) { _ = s.Serve(l) }(r.server)
	return nil
}

// Stop ends the server: connections are cut off, and later ones refused.
func (r *Repository) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server != nil {
		r.server.Close()
		r.server = nil
	}
}

// Commit changes files on branch main, and returns the commit: what somebody else pushes.
func (r *Repository) Commit(subject string, files map[string]string, removed ...string) (commit string, err error) {
	return r.git.Commit(subject, gittest.Change{Files: files, Removed: removed})
}

// Git runs git in the repository, past the server, and returns what it prints.
func (r *Repository) Git(arguments ...string) (string, error) { return r.git.Git(arguments...) }

// Head is the last commit.
func (r *Repository) Head() (commit string, err error) { return r.git.Git("rev-parse", "main") }

// Log is the subjects of all commits, the last one first.
func (r *Repository) Log() ([]string, error) {
	text, err := r.git.Git("log", "--format=%s", "main")
	return strings.Split(text, "\n"), err
}

// Show is a file of the last commit.
func (r *Repository) Show(file string) (string, error) { return r.git.Git("show", "main:"+file) }

// contains tells whether a commit is, or is before, another one.
func (r *Repository) contains(commit, earlier string) bool {
	_, err := r.git.Git("merge-base", "--is-ancestor", earlier, commit)
	return err == nil
}

// await asks until there is no error. When the time is up, its error says why.
func await(ctx context.Context, ask func(context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
