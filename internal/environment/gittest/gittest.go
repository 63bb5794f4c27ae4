// Package gittest serves Git repositories with Git's own server, git http-backend, for tests and for the rehearsal.
package gittest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Environ keeps the configuration of this machine away from Git, and names who commits.
func Environ() []string {
	return []string{
		"GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Somebody", "GIT_AUTHOR_EMAIL=somebody@example.com",
		"GIT_COMMITTER_NAME=Somebody", "GIT_COMMITTER_EMAIL=somebody@example.com",
	}
}

// programs is the folder of Git's own programs.
var programs = sync.OnceValues(func() (string, error) { return git("", nil, "--exec-path") })

// Server clones, fetches and pushes for everybody, by HTTP, from and to the repositories in a folder.
func Server(root string) (http.Handler, error) {
	folder, err := programs()
	if err != nil {
		return nil, err
	}
	return &cgi.Handler{
		Path:   filepath.Join(folder, "git-http-backend"),
		Env:    append(Environ(), "GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=x"),
		Stderr: io.Discard,
	}, nil
}

// A Repository is a bare one, with a branch main once it has a commit.
type Repository struct{ Dir string }

// settings are what GitLab's server has as well: it takes no damaged objects, and gives single ones
// (internal/git/command_description.go of Gitaly). Nobody collects garbage behind a push.
const settings = `[core]
	repositoryformatversion = 0
	filemode = true
	bare = true
[http]
	receivepack = true
[receive]
	fsckObjects = true
	autogc = false
[uploadpack]
	allowFilter = true
	allowAnySHA1InWant = true
`

// Init makes a repository that does not exist yet, as git init does: tests make hundreds of them, and each process takes longer
// than these files.
func Init(dir string) (*Repository, error) {
	for _, folder := range []string{"hooks", "objects/info", "objects/pack", "refs/heads", "refs/tags"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.FromSlash(folder)), 0o755); err != nil {
			return nil, err
		}
	}
	for name, text := range map[string]string{"HEAD": "ref: refs/heads/main\n", "config": settings} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return &Repository{Dir: dir}, nil
}

// Git runs git in the repository, and returns what it prints, without the space around it.
func (r *Repository) Git(arguments ...string) (string, error) { return git(r.Dir, nil, arguments...) }

// Change is what a commit changes.
type Change struct {
	Files   map[string]string // by path: the whole text
	Removed []string          // files and folders
	Alone   bool              // forget what was committed before
}

// Commit commits to main, as somebody does who has a clone and pushes: on top of what others have pushed meanwhile. It
// returns the commit's hash.
func (r *Repository) Commit(subject string, change Change) (hash string, err error) {
	for range 10 {
		if hash, err = r.commit(subject, change); err == nil {
			return hash, nil
		}
	}
	return "", err
}

func (r *Repository) commit(subject string, change Change) (string, error) {
	var stream bytes.Buffer
	fmt.Fprintf(&stream, "commit refs/heads/main\nmark :1\ncommitter Somebody <somebody@example.com> now\ndata %d\n%s\n", len(subject), subject)
	arguments := []string{"fast-import", "--quiet", "--date-format=now"}
	if change.Alone {
		arguments = append(arguments, "--force")
	} else if started, err := r.started(); err != nil {
		return "", err
	} else if started {
		stream.WriteString("from refs/heads/main^0\n")
	}
	for _, path := range change.Removed {
		fmt.Fprintf(&stream, "D %s\n", path)
	}
	for path, text := range change.Files {
		fmt.Fprintf(&stream, "M 100644 inline %s\ndata %d\n%s\n", path, len(text), text)
	}
	stream.WriteString("get-mark :1\n")
	return git(r.Dir, &stream, arguments...)
}

// started says whether the branch has a commit.
func (r *Repository) started() (bool, error) {
	if _, err := os.Stat(filepath.Join(r.Dir, "refs", "heads", "main")); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err == nil, err
	}
	packed, err := os.ReadFile(filepath.Join(r.Dir, "packed-refs"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return bytes.Contains(packed, []byte(" refs/heads/main\n")), err
}

func git(dir string, input io.Reader, arguments ...string) (string, error) {
	command := exec.Command("git", arguments...)
	command.Dir, command.Stdin, command.Env = dir, input, append(os.Environ(), Environ()...)
	var out, problem bytes.Buffer
	command.Stdout, command.Stderr = &out, &problem
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w\n%s%s", strings.Join(arguments, " "), err, out.String(), problem.String())
	}
	return strings.TrimSpace(out.String()), nil
}
