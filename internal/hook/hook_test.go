package hook

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

func runAt(h Hook, step int) Run {
	return Run{Hook: h, App: "a-very-long-name-of-an-app-that-somebody-has-given", Namespace: "prod", Step: step, Release: &release.Release{
		ID: "r2", Image: "registry.example.com/app@sha256:" + strings.Repeat("2", 64), Weight: 10, StartedAt: time.UnixMilli(1_800_000_000_000),
		Match: &release.Match{Header: "x-canary", Kind: release.MatchExact, Value: "yes"}, Pod: "long", Verdict: &release.Verdict{Evidence: "long"},
	}}
}

// TestCall: what is sent, how it is signed, what counts as passed, and what is sent again.
func TestCall(t *testing.T) {
	type answer struct {
		status int
		header string
	}
	for name, c := range map[string]struct {
		answers []answer
		retries *int
		passed  bool
		message string
		calls   int
	}{
		"at once":                      {[]answer{{200, ""}}, nil, true, "it answered 200 OK", 1},
		"another good answer":          {[]answer{{204, ""}}, nil, true, "it answered 204 No Content", 1},
		"after two bad ones":           {[]answer{{503, ""}, {429, ""}, {201, ""}}, nil, true, "it answered 201 Created", 3},
		"never":                        {[]answer{{500, ""}, {502, ""}, {500, ""}, {200, ""}}, nil, false, "it answered 500 Internal Server Error, after 3 attempts", 3},
		"no repetition":                {[]answer{{500, ""}, {200, ""}}, new(0), false, "it answered 500 Internal Server Error", 1},
		"a no":                         {[]answer{{409, ""}, {200, ""}}, nil, false, "it answered 409 Conflict", 1},
		"a redirect is not followed":   {[]answer{{307, "/elsewhere"}, {200, ""}}, nil, false, "redirects a POST to another path", 1},
		"nor is one to another origin": {[]answer{{302, "https://example.com/"}, {200, ""}}, nil, false, "redirects a POST to https://example.com", 1},
	} {
		t.Run(name, func(t *testing.T) {
			calls, keys := 0, map[string]bool{}
			receiver := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				var got Message
				if err := json.Unmarshal(body, &got); err != nil {
					t.Error(err)
				}
				if r.Method != http.MethodPost || r.URL.Path != "/ask" || r.Header.Get(SignatureHeader) != Signature("s3cret", body) || r.Header.Get(KeyHeader) != got.Key {
					t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
				}
				if got.Weight != 25 || got.Point != release.BeforeStep || got.MatchHeader != "x-canary: yes" || got.Release.Image == "" || got.Release.Pod != "" || got.Release.Verdict.Evidence != "" {
					t.Errorf("%s", body)
				}
				keys[got.Key] = true
				a := c.answers[calls]
				calls++
				if a.header != "" {
					w.Header().Set("Location", a.header)
				}
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(a.status)
				if a.status != http.StatusNoContent {
					_, _ = io.WriteString(w, "what it says")
				}
			})
			h := Hook{Name: "ask", Point: release.BeforeStep, URL: "https://hooks.example.com/ask", Secret: "s3cret", Retries: c.retries}
			var passed bool
			var message, said string
			if len(c.answers) == 1 { // nothing is waited for: over a real connection
				server := httptest.NewServer(receiver)
				defer server.Close()
				h.URL = server.URL + "/ask"
				passed, message, said = Call(t.Context(), runAt(h, 25), nil)
			} else {
				synctest.Test(t, func(t *testing.T) { passed, message, said = Call(t.Context(), runAt(h, 25), direct{receiver}) })
			}
			if passed != c.passed || !strings.Contains(message, c.message) || calls != c.calls || len(keys) != 1 {
				t.Errorf("%t, %q after %d calls with keys %v", passed, message, calls, keys)
			}
			if passed && c.answers[calls-1].status == 200 && said != "what it says" {
				t.Errorf("it said %q", said)
			}
		})
	}
}

// direct is a way to a server without a network.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	response := w.Result()
	response.Request = r
	return response, nil
}

// slow answers after a time, unless the request is given up.
type slow time.Duration

func (s slow) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-time.After(time.Duration(s)):
		return &http.Response{StatusCode: 200, Status: "200 OK", Header: http.Header{}, Body: io.NopCloser(strings.NewReader(strings.Repeat("x", 2*LogBytes))), Request: r}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// TestCallIsBounded: in time, each attempt of it, and in what is kept of the answer; and it ends with its job.
func TestCallIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := Hook{Name: "ask", Point: release.BeforeCanary, URL: "https://hooks.example.com/?token=x", Timeout: metav1.Duration{Duration: 5 * time.Second}}
		start := time.Now()
		if passed, message, _ := Call(t.Context(), runAt(h, 0), slow(time.Minute)); passed || message != "no answer within 5s, after 3 attempts" {
			t.Errorf("%t, %q", passed, message)
		}
		if took := time.Since(start); took < 15*time.Second || took > 25*time.Second {
			t.Errorf("it took %s", took)
		}
		if passed, _, answer := Call(t.Context(), runAt(h, 0), slow(time.Second)); !passed || len(answer) != LogBytes {
			t.Errorf("%t, %d bytes", passed, len(answer))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start = time.Now()
		if passed, message, _ := Call(ctx, runAt(h, 0), slow(time.Minute)); passed || time.Since(start) != 2*time.Second || strings.Contains(message, "token") {
			t.Errorf("%t, %q after %s", passed, message, time.Since(start))
		}
	})
}

// TestHeader: how a tester's request reaches the canary, where that is known for certain.
func TestHeader(t *testing.T) {
	for want, m := range map[string]*release.Match{
		"":                      {Header: "x", Kind: release.MatchRegex, Value: "a.*"},
		"x-canary: yes":         {Header: "x-canary", Kind: release.MatchExact, Value: "yes"},
		"x-canary: qa-":         {Header: "x-canary", Kind: release.MatchPrefix, Value: "qa-"},
		"x-canary: 1":           {Header: "x-canary", Kind: release.MatchPresent},
		"cookie: canary=please": {Cookie: "canary", Kind: release.MatchExact, Value: "please"},
	} {
		if got := Header(m); got != want {
			t.Errorf("%+v: %q, want %q", m, got, want)
		}
	}
	if Header(nil) != "" {
		t.Error("there is a header without a match")
	}
}

// set are manifests with one Job.
func set(job *batchv1.Job) *manifest.Set {
	s, err := manifest.Load("../../k8s")
	if err != nil {
		panic(err)
	}
	s.Jobs = map[string]*batchv1.Job{"work": job}
	return s
}

// TestJob: what a run's Job is made of, and that it is the same each time.
func TestJob(t *testing.T) {
	work := func() *batchv1.Job {
		return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "work", Labels: map[string]string{"team": "shop"}}, Spec: batchv1.JobSpec{
			BackoffLimit: new(int32(3)), ActiveDeadlineSeconds: new(int64(60)), TTLSecondsAfterFinished: new(int32(1)),
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "work", Image: "registry.example.com/app:v1", Env: []corev1.EnvVar{{Name: "A", Value: "b"}, {Name: "CROSSBILL_WEIGHT", Value: "99"}}}}}},
		}}
	}
	h := Hook{Name: "smoke-test-of-the-whole-shop-30", Point: release.BeforeStep, Job: "work"}
	first, err := runAt(h, 25).Job(set(work()))
	if err != nil {
		t.Fatal(err)
	}
	again, err := runAt(h, 25).Job(set(work()))
	if diff := cmp.Diff(first, again); diff != "" || err != nil {
		t.Errorf("%v (-first +again):\n%s", err, diff)
	}
	if len(first.Name) > 63 || !strings.HasPrefix(first.Name, "a-very-long-name-of-smoke-test-") && !strings.Contains(first.Name, "-smoke-test-of-the-whole-shop-30-") {
		t.Errorf("%q has %d characters", first.Name, len(first.Name))
	}
	spec := first.Spec
	if !*spec.Suspend || *spec.BackoffLimit != 3 || *spec.ActiveDeadlineSeconds != 60 || *spec.TTLSecondsAfterFinished != keptFor || first.Labels["team"] != "shop" || spec.Template.Labels[NameLabel] != h.Name {
		t.Errorf("%+v", first)
	}
	c := spec.Template.Spec.Containers[0]
	want := []corev1.EnvVar{{Name: "A", Value: "b"}, {Name: "CROSSBILL_RELEASE_ID", Value: "r2"}, {Name: "CROSSBILL_IMAGE", Value: "registry.example.com/app@sha256:" + strings.Repeat("2", 64)}, {Name: "CROSSBILL_POINT", Value: "beforeStep"}, {Name: "CROSSBILL_WEIGHT", Value: "25"}, {Name: "CROSSBILL_MATCH_HEADER", Value: "x-canary: yes"}}
	if diff := cmp.Diff(want, c.Env); diff != "" || !strings.HasSuffix(c.Image, "@sha256:"+strings.Repeat("2", 64)) {
		t.Errorf("image %s, environment (-want +got):\n%s", c.Image, diff)
	}
	h.Retries, h.Timeout = new(1), metav1.Duration{Duration: 30 * time.Second}
	other, err := runAt(h, 60).Job(set(work()))
	if err != nil || other.Name == first.Name || *other.Spec.BackoffLimit != 1 || *other.Spec.ActiveDeadlineSeconds != 30 || Foreign(first, other) == "" || Foreign(first, again) != "" {
		t.Errorf("%v, %+v", err, other)
	}
	h.Timeout.Duration = 400 * time.Millisecond
	if other, err = runAt(h, 60).Job(set(work())); err != nil || *other.Spec.ActiveDeadlineSeconds != 1 {
		t.Errorf("%v: a Job has no time at all: %+v", err, other)
	}
	changed := work()
	changed.Spec.Template.Spec.Containers[0].Args = []string{"all"}
	if other, err = runAt(h, 25).Job(set(changed)); err != nil || !strings.Contains(Foreign(first, other), "has changed") || !strings.Contains(Foreign(work(), other), "did not make it") {
		t.Errorf("%v, %q", err, Foreign(first, other))
	}
}
