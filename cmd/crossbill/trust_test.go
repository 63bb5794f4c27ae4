package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	fake "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// TestOriginIsCheckedAgain: a registry that does not answer is asked again for a while, with a line for each time; then
// the command fails with what is safe to do, and nobody is to roll a healthy canary back for it (exit code 1).
func TestOriginIsCheckedAgain(t *testing.T) {
	before := admissionPauses
	admissionPauses = []time.Duration{time.Millisecond, 2 * time.Millisecond}
	t.Cleanup(func() { admissionPauses = before })
	for name, test := range map[string]struct {
		stage  release.Stage
		faults int // answers of the list of attachments
		status int
		code   int
		lines  int // in which it is said to be asked again
		says   string
	}{
		"at once":             {release.StageVerified, 0, 0, exitBadInput, 0, "it has no provenance"},
		"at last":             {release.StageVerified, 2, http.StatusNotImplemented, exitBadInput, 2, "it has no provenance"},
		"never, promote":      {release.StageVerified, 9, http.StatusNotImplemented, exitFailure, 2, "release r1 stays as it is, at stage verified: run the command again when the registry answers, or rollback"},
		"never, canary":       {"", 9, http.StatusNotImplemented, exitFailure, 2, "nothing was changed; run the command again when the registry answers"},
		"without permission":  {release.StageVerified, 9, http.StatusForbidden, exitFailure, 0, "nothing was changed"},
		"one that is refused": {"", 0, 0, exitBadInput, 0, "it has no provenance"},
	} {
		t.Run(name, func(t *testing.T) {
			faults := test.faults
			next := fake.New(fake.Logger(log.New(io.Discard, "", 0)), fake.WithReferrersSupport(true))
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/referrers/") && faults > 0 {
					faults--
					w.WriteHeader(test.status)
					return
				}
				next.ServeHTTP(w, r)
			}))
			defer server.Close()
			pushed, err := registry.Push(t.Context(), empty.Image, strings.TrimPrefix(server.URL, "http://")+"/our-org/app:1", registry.Login{})
			if err != nil {
				t.Fatal(err)
			}
			image, err := release.ParseImage("", pushed)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			writeKey(t, dir, "ours")
			policy, err := provenance.ReadVerifier(filepath.Join(dir, "ours.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			c := &rollout.Cluster{Log: func(e rollout.Event) { lines = append(lines, e.Message) }}
			if err := (&trustOptions{policy: policy}).apply(c); err != nil {
				t.Fatal(err)
			}
			err = c.Admit(t.Context(), &release.Release{ID: "r1", Image: image, Commit: "c0ffee0", Stage: test.stage})
			if exitCode(err) != test.code || !strings.Contains(err.Error(), test.says) || len(lines) != test.lines {
				t.Errorf("exit code %d, %v; %q", exitCode(err), err, lines)
			}
		})
	}
	// One who is stopped does not wait.
	admissionPauses = []time.Duration{time.Hour}
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotImplemented)
		time.AfterFunc(100*time.Millisecond, cancel)
	}))
	defer server.Close()
	dir := t.TempDir()
	writeKey(t, dir, "ours")
	policy, err := provenance.ReadVerifier(filepath.Join(dir, "ours.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c := &rollout.Cluster{Log: func(rollout.Event) {}}
	if err := (&trustOptions{policy: policy}).apply(c); err != nil {
		t.Fatal(err)
	}
	if err := c.Admit(ctx, &release.Release{Image: strings.TrimPrefix(server.URL, "http://") + "/a@sha256:" + hex, Commit: "c0ffee0"}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}

// TestALoginIsNotForWhoeverIsNamed: the login goes to the registry that REGISTRY_HOST names, else to that of the manifests, and not
// to the one of an image that whoever starts the pipeline names.
func TestALoginIsNotForWhoeverIsNamed(t *testing.T) {
	set, err := manifest.Read(t.Context(), manifest.Source{Path: "../../k8s"})
	if err != nil {
		t.Fatal(err)
	}
	none := *set
	none.Deployment = set.Deployment.DeepCopy()
	none.Deployment.Spec.Template.Spec.Containers[0].Image = "our-org/app"
	dir := t.TempDir()
	writeKey(t, dir, "ours")
	policy, err := provenance.ReadVerifier(filepath.Join(dir, "ours.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("REGISTRY_USERNAME", "ci")
	t.Setenv("REGISTRY_PASSWORD", "s3cret")
	t.Setenv("DOCKER_CONFIG", dir)
	for name, test := range map[string]struct {
		host   string // HOST is the image's
		bundle string
		set    *manifest.Set
		policy *provenance.Verifier
		sent   bool
	}{
		"the manifests name another registry":             {set: set},
		"and there is a policy":                           {set: set, policy: policy},
		"the manifests name another, but it is set":       {set: set, host: "HOST", sent: true},
		"the manifests name none":                         {set: &none, sent: true},
		"the manifests name none, and another one is set": {set: &none, host: "registry.example.com"},
		"the bundle is on another registry":               {bundle: "registry.example.com/a@sha256:" + hex, set: &none},
		"the bundle is on the same":                       {bundle: "HOST/a@sha256:" + hex, set: set, sent: true},
	} {
		t.Run(name, func(t *testing.T) {
			sent := false
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				sent = sent || r.Header.Get("Authorization") != ""
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				w.WriteHeader(http.StatusUnauthorized)
			}))
			defer server.Close()
			host := strings.TrimPrefix(server.URL, "http://")
			t.Setenv("REGISTRY_HOST", strings.ReplaceAll(test.host, "HOST", host))
			c := &rollout.Cluster{Manifests: test.set, Log: func(rollout.Event) {}}
			if err := (&trustOptions{policy: test.policy}).apply(c); err != nil {
				t.Fatal(err)
			}
			requireImage(c)
			_ = c.Admit(t.Context(), &release.Release{Image: host + "/our-org/app@sha256:" + hex, Bundle: strings.ReplaceAll(test.bundle, "HOST", host), Commit: "c0ffee0"})
			if sent != test.sent {
				t.Errorf("the login was sent: %v, want %v", sent, test.sent)
			}
		})
	}
	t.Setenv("REGISTRY_HOST", "https://registry.example.com/our-org")
	if _, err := environmentLogin(""); err == nil || !strings.Contains(err.Error(), "REGISTRY_HOST") {
		t.Errorf("an address: %v", err)
	}
}

// TestNoPolicy: that an image's origin was not checked is in the log, the ledger and the report; where a policy is
// required, it is an error.
func TestNoPolicy(t *testing.T) {
	quiet(t)
	t.Setenv("CROSSBILL_REQUIRE_PROVENANCE", "")
	image := "registry.example.com/our-org/qwik-node-app@sha256:" + hex
	var lines []string
	c := &rollout.Cluster{Log: func(e rollout.Event) { lines = append(lines, e.Object+": "+e.Message) }}
	if err := (&trustOptions{}).apply(c); err != nil {
		t.Fatal(err)
	}
	r := &release.Release{ID: "r1", Image: image, Origin: &release.Origin{Repository: "https://github.com/our-org/app"}}
	if err := c.Admit(t.Context(), r); err != nil || len(lines) != 1 || lines[0] != "image: there is no image policy: its origin was not checked" {
		t.Errorf("%v, %q", err, lines)
	}
	if text, err := json.Marshal(r); err != nil || !strings.Contains(string(text), `"origin":{"unchecked":"there is no image policy"`) {
		t.Errorf("%s", text)
	}
	if got, want := r.Origin.String(), "not checked: there is no image policy"; got != want {
		t.Errorf("the report has %q, want %q", got, want)
	}
	server := (&apiServer{}).serve(t, "shop")
	for _, command := range []string{"canary --dry-run --image " + image, "shift --steps 25", "promote", "image inspect " + image} {
		for _, required := range []string{"flag", "variable"} {
			args := strings.Fields(command)
			if !strings.HasPrefix(command, "image") {
				args = append(args, server...)
			}
			t.Setenv("CROSSBILL_REQUIRE_PROVENANCE", "true")
			if required == "flag" {
				t.Setenv("CROSSBILL_REQUIRE_PROVENANCE", "")
				args = append(args, "--require-provenance")
			}
			if r := runLine(t, args...); r.code != exitBadInput || !strings.Contains(r.err, "there is no image policy; write the section imagePolicy of crossbill.yaml") {
				t.Errorf("%s, by %s: exit code %d, %s", command, required, r.code, r.err)
			}
		}
		t.Setenv("CROSSBILL_REQUIRE_PROVENANCE", "")
		args := append(strings.Fields(command), "--trust", "")
		if !strings.HasPrefix(command, "image") {
			args = append(args, server...)
		}
		if r := runLine(t, args...); r.code != exitBadInput || !strings.Contains(r.err, "--trust: names no file") {
			t.Errorf("%s, without the file's name: exit code %d, %s", command, r.code, r.err)
		}
	}
	// What the file requires, no variable of a trigger's takes back.
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"crossbill.yaml": "image: {requireProvenance: true}\n"})
	t.Setenv("CROSSBILL_REQUIRE_PROVENANCE", "false")
	for _, flags := range []string{"", " --require-provenance=false"} {
		line := "image inspect " + image + " --config " + filepath.Join(dir, "crossbill.yaml") + flags
		if r := runLine(t, strings.Fields(line)...); r.code != exitBadInput || !strings.Contains(r.err, "there is no image policy; ") {
			t.Errorf("%s: exit code %d, %s", line, r.code, r.err)
		}
	}
	// A rollback is asked nothing of this.
	t.Setenv("CROSSBILL_REQUIRE_PROVENANCE", "true")
	if r := runLine(t, append([]string{"rollback"}, server...)...); strings.Contains(r.err, "image policy") {
		t.Errorf("rollback: %s", r.err)
	}
}

// TestRootsThatAreMissing: a file with trusted roots that does not exist is found before anything is asked.
func TestRootsThatAreMissing(t *testing.T) {
	t.Setenv("CROSSBILL_CONFIG", "")
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"empty.jsonl": "\n",
		"gone.yaml":   "repository: https://github.com/our-org/app\nidentities: [{issuer: i, subject: s}]\ntrustedRoots: [gone.jsonl]\n",
		"empty.yaml":  "repository: https://github.com/our-org/app\nidentities: [{issuer: i, subject: s}]\ntrustedRoots: [empty.jsonl]\n",
	})
	for file, says := range map[string]string{"gone.yaml": "gone.jsonl: no such file", "empty.yaml": "empty.jsonl has no roots"} {
		if r := runLine(t, "image", "inspect", "registry.invalid/a@sha256:"+hex, "--trust", filepath.Join(dir, file)); r.code != exitBadInput || !strings.Contains(r.err, says) {
			t.Errorf("%s: exit code %d, %s", file, r.code, r.err)
		}
	}
}
