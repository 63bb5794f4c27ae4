package gitlab

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// answering gives every request one answer, a POST another.
type answering struct {
	read, post  []byte
	status      int // of a POST
	next        string
	posts, sent int
}

func (a *answering) RoundTrip(r *http.Request) (*http.Response, error) {
	a.sent++
	body, status := a.read, http.StatusOK
	if r.Method == http.MethodPost {
		a.posts++
		body, status = a.post, a.status
	}
	return &http.Response{StatusCode: status, Header: http.Header{"X-Next-Page": {a.next}, "Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: -1, Request: r}, nil
}

// FuzzAnswers: whatever GitLab answers, a command ends, after a bounded number of requests, and takes no pipeline for the
// release's that is not.
func FuzzAnswers(f *testing.F) {
	const row = `{"id":7,"status":"running","source":"trigger","ref":"main","name":"release qwik-node-app 67d985e28ce7","user":{"username":"release-bot"},"web_url":"x"}`
	for _, read := range []string{"", "null", "[]", "{}", "[" + row + "]", row, `[{"id":-1}]`, `[null]`, `[{"id":1e300}]`, `[[[[`, `{"message":"404"}`, `<html>`} {
		f.Add([]byte(read), []byte(row), 201, "")
		f.Add([]byte(read), []byte(`{"message":{"base":["Reference not found"]}}`), 400, "2")
		f.Add([]byte(read), []byte(`{"id":7,"yaml_errors":"x"}`), 201, "-1")
	}
	f.Fuzz(func(t *testing.T, read, post []byte, status int, next string) {
		if status < 200 || status > 499 || status/100 == 3 {
			status = http.StatusCreated
		}
		synctest.Test(t, func(t *testing.T) {
			server := &answering{read: read, post: post, status: status, next: strings.ToValidUTF8(next, "")}
			c, err := Connect(Connection{URL: "https://gitlab.example.com", Project: "infra/deploy", TriggerToken: "glptt", Token: "glpat", User: "release-bot", Transport: server})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			p, err := Trigger(t.Context(), c, TriggerOptions{Ref: "main", Release: toRelease})
			if took := time.Since(start); took > 30*time.Minute || server.posts > 100 || server.sent > 20_000 {
				t.Errorf("%d requests, %d POSTs in %s", server.sent, server.posts, took)
			}
			if err == nil && p.Adopted && (!bytes.Contains(read, []byte("release-bot")) && !bytes.Contains(bytes.ToLower(read), []byte("release"))) {
				t.Errorf("adopted %+v of %q", p, read)
			}
			_, _ = Watch(t.Context(), c, WatchOptions{Target: Target{PipelineID: 7}, Timeout: time.Minute})
			_, _ = Watch(t.Context(), c, WatchOptions{Target: Target{ReleaseID: "a"}, Timeout: time.Minute})
			_, _, _ = Cancel(t.Context(), c, CancelOptions{Target: Target{PipelineID: 7}})
		})
		messages := messagesIn(read)
		if slices.Contains(messages, "") {
			t.Errorf("an empty message in %q", read)
		}
	})
}
