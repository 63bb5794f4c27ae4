package gittest

import (
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommit(t *testing.T) {
	root := t.TempDir()
	r, err := Init(filepath.Join(root, "environment.git"))
	if err != nil {
		t.Fatal(err)
	}
	var last string
	for i, change := range []Change{
		{Files: map[string]string{"app/a": "1\n", "app/b": "1\n", "c": "1"}},
		{Files: map[string]string{"app/a": "2\n"}, Removed: []string{"c"}},
	} {
		if last, err = r.Commit(fmt.Sprint("Change ", i), change); err != nil {
			t.Fatal(err)
		}
	}
	want := last + " Change 1\napp/a\napp/b\n2"
	got, err := r.Git("log", "-1", "--format=%H %s")
	for _, command := range [][]string{{"ls-tree", "-r", "--name-only", "main"}, {"show", "main:app/a"}} {
		text, failed := r.Git(command...)
		if failed != nil {
			err = failed
		}
		got += "\n" + text
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}

	if _, err := r.Commit("Another", Change{Files: map[string]string{"d": "1"}, Alone: true}); err != nil {
		t.Fatal(err)
	}
	backend, err := Server(root)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(backend)
	defer server.Close()
	clone := filepath.Join(t.TempDir(), "clone")
	if _, err := r.Git("clone", "-q", server.URL+"/environment.git", clone); err != nil {
		t.Fatal(err)
	}
	if subjects, err := git(clone, nil, "log", "--format=%s"); err != nil || subjects != "Another" {
		t.Errorf("the clone has commits %q: %v", subjects, err)
	}
}

func TestCommittersAtOnceLoseNothing(t *testing.T) {
	r, err := Init(filepath.Join(t.TempDir(), "environment.git"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Commit("First", Change{Files: map[string]string{"0": ""}}); err != nil {
		t.Fatal(err)
	}
	const all = 5
	var group sync.WaitGroup
	for i := range all {
		group.Go(func() {
			if _, err := r.Commit("Next", Change{Files: map[string]string{fmt.Sprint("of-", i): ""}}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	names, err := r.Git("ls-tree", "--name-only", "main")
	if got := strings.Count(names, "of-"); err != nil || got != all {
		t.Errorf("%d of %d commits are left: %v", got, all, err)
	}
}
