package gitlab

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/httpclient"
	"github.com/our-org/crossbill/internal/usererr"
)

// TestTokensStayWithGitLab: neither the access token, which is a header that Go would take along, nor the trigger token in
// a body, which a 307 sends again, gets to another host; and a POST is not sent again on the same one.
func TestTokensStayWithGitLab(t *testing.T) {
	var elsewhere atomic.Int64
	evil := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer evil.Close()
	for name, test := range map[string]struct {
		status       int
		method, path string // of what is redirected
		to           string
	}{
		"a read":                         {302, "GET", "pipelines", evil.URL + "/?a=secret"},
		"a read, 307":                    {307, "GET", "pipelines", evil.URL + "/?a=secret"},
		"the POST, 307":                  {307, "POST", "trigger/pipeline", evil.URL + "/?a=secret"},
		"the POST, 302":                  {302, "POST", "trigger/pipeline", evil.URL + "/?a=secret"},
		"the POST, on the same host":     {308, "POST", "trigger/pipeline", "/api/v4/projects/8/trigger/pipeline?a=secret"},
		"the POST, to a host of its own": {307, "POST", "trigger/pipeline", strings.Replace(evil.URL, "127.0.0.1", "127.0.0.2", 1) + "/?a=secret"},
	} {
		t.Run(name, func(t *testing.T) {
			var posts, reads atomic.Int64
			home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					posts.Add(1)
				} else {
					reads.Add(1)
				}
				if r.Method == test.method && strings.HasSuffix(r.URL.Path, test.path) {
					http.Redirect(w, r, test.to, test.status)
					return
				}
				_, _ = io.WriteString(w, "[]")
			}))
			defer home.Close()
			c, err := Connect(Connection{URL: home.URL, Project: "infra/deploy", TriggerToken: "glptt", Token: "glpat"})
			if err != nil {
				t.Fatal(err)
			}
			_, err = Trigger(t.Context(), c, TriggerOptions{Ref: "main", Release: toRelease})
			wrong, ok := errors.AsType[*usererr.Error](err)
			if !ok || wrong.Field != "gitlab.url" || !strings.Contains(wrong.Problem, "redirects a "+test.method) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v, want gitlab.url and where it redirects to", err)
			}
			if elsewhere.Load() != 0 {
				t.Error("another host got a request")
			}
			if posts.Load() > 1 || reads.Load() > 1 {
				t.Errorf("%d POSTs and %d reads: it was sent again", posts.Load(), reads.Load())
			}
		})
	}
}

func TestProjects(t *testing.T) {
	for project, good := range map[string]bool{
		"infra/deploy": true, "/infra/deploy/": true, "7": true, "a/b/c_d-e.f": true, "-/x": true,
		"": false, "/": false, "infra/../admin": false, "./x": false, "infra/deploy\r\nX: y": false, "infra deploy": false, "infra/deploy?a": false, "infra%2Fdeploy": false, "infra//deploy": false, "infra/dеploy": false,
	} {
		_, err := Connect(Connection{URL: "https://gitlab.example.com", Project: project, Token: "glpat"})
		if (err == nil) != good {
			t.Errorf("%q: %v", project, err)
		}
	}
}

// TestListsWithoutAnEnd: a server whose pages lead to themselves, or on and on, ends in an error, not in a loop.
func TestListsWithoutAnEnd(t *testing.T) {
	for name, next := range map[string]func(page string) string{
		"to itself": func(page string) string { return page },
		"on and on": func(page string) string { return page + "0" },
		"backwards": func(string) string { return "1" },
		"no number": func(string) string { return "https://evil.example" },
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				page := r.URL.Query().Get("page")
				if page == "" {
					page = "1"
				}
				if len(page) > 15 {
					page = "2"
				}
				w.Header().Set("X-Next-Page", next(page))
				w.Header().Set("Link", fmt.Sprintf(`<https://evil.example/?page=%s>; rel="next"`, next(page)))
				if strings.HasSuffix(r.URL.Path, "/jobs") || strings.HasSuffix(r.URL.Path, "/bridges") || strings.HasSuffix(r.URL.Path, "/pipelines") {
					_, _ = io.WriteString(w, "[]")
					return
				}
				_, _ = io.WriteString(w, `{"id":1,"status":"success"}`)
			}))
			defer server.Close()
			c, err := Connect(Connection{URL: server.URL, Project: "infra/deploy", TriggerToken: "glptt", Token: "glpat"})
			if err != nil {
				t.Fatal(err)
			}
			for what, read := range map[string]func() error{
				"jobs": func() error { _, err := Jobs(t.Context(), c, 1, time.Minute); return err },
				"watch": func() error {
					_, err := Watch(t.Context(), c, WatchOptions{Target: Target{ReleaseID: "a", App: "b"}, Timeout: time.Minute})
					return err
				},
			} {
				requests.Store(0)
				if err := read(); name != "no number" && err == nil || requests.Load() > longestList+5 {
					t.Errorf("%s: %v after %d requests", what, err, requests.Load())
				}
			}
		})
	}
}

// TestAnswersWithoutAnEnd: an answer that never ends is not read into memory.
func TestAnswersWithoutAnEnd(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `[{"name":"`)
		chunk := strings.Repeat("a", 1<<16)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	c, err := Connect(Connection{URL: server.URL, Project: "infra/deploy", Token: "glpat"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Jobs(t.Context(), c, 1, time.Minute)
	if _, ok := errors.AsType[*httpclient.SizeError](err); !ok {
		t.Errorf("error %v, want that the answer is too long", err)
	}
}
