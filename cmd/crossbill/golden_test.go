package main

import (
	"bytes"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/report"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/verdict"
)

var update = flag.Bool("update", false, "write the golden files and the command reference in place of comparing them")

// golden compares an output with that of a file.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; run go test ./cmd/crossbill -update", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-file +now); run go test ./cmd/crossbill -update if this is meant:\n%s", file, diff)
	}
}

// releaseAt is a release that has come to a stage.
func releaseAt(stage release.Stage) *release.Release {
	at := time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC)
	r := &release.Release{
		ID: "app-0a0a0a0a-c0ffee1", Image: "registry.example.com/our-org/app@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",
		Previous: "registry.example.com/our-org/app@sha256:0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
		Replicas: 2, Weight: 10, Stage: stage, Template: "5d4f8", StartedAt: at, StartedBy: "jane", Commit: "c0ffee1",
		PipelineURL: "https://gitlab.example.com/infra/deploy/-/pipelines/9",
		Steps:       []release.Step{{Stage: release.StageStarted, At: at, By: "jane"}, {Stage: stage, At: at.Add(time.Minute), By: "jane"}},
	}
	if stage != release.StageCanary {
		r.Verdict = &release.Verdict{Outcome: release.Healthy, Digest: r.Digest(), Reason: "no worse than primary", Requests: 900, At: at.Add(time.Minute), Evidence: `{"long":true}`}
	}
	return r
}

// TestGoldenOutcomes is what each command of the lifecycle prints of what it came to; the first one in each format.
func TestGoldenOutcomes(t *testing.T) {
	unhealthy := &verdict.Verification{
		Outcome: release.Unhealthy, Reason: "availability: 14 of the canary's 67 events are bad",
		Record: verdict.Record{Test: verdict.Test{Objectives: []verdict.Objective{{Name: "availability"}}}, Blocks: []verdict.Block{{Pairs: []verdict.Pair{{Canary: verdict.Tally{Events: 67, Bad: 14}}}}}},
		Evaluations: []verdict.Evaluation{{Elapsed: 5 * time.Second, Judgment: verdict.Judgment{Evidence: []verdict.Evidence{{
			Objective: "availability", Total: verdict.Pair{Canary: verdict.Tally{Events: 67, Bad: 14}, Primary: verdict.Tally{Events: 605}},
		}}}}},
	}
	result := func(command, message string, stage release.Stage, outcome release.Outcome) rollout.Result {
		return rollout.Result{Command: command, App: "app", Release: releaseAt(stage), Outcome: outcome, Message: message}
	}
	for _, came := range []outcome{
		{Result: result("canary", "the canary gets 10% of the traffic", release.StageCanary, "")},
		{Result: result("shift", "the canary gets 50% of the traffic", release.StageCanary, "")},
		{Result: result("verify", "healthy: no worse than primary", release.StageVerified, "")},
		{Result: result("promote", "primary has all of the traffic", release.StagePromoted, "")},
		{Result: result("cleanup", "the canary is gone", release.StagePromoted, release.OutcomePromoted)},
		{Result: result("rollback", "primary has all of the traffic again", release.StageRollingBack, release.OutcomeRolledBack), Verdict: summaryOf(unhealthy)},
		{Result: rollout.Result{Command: "guard", App: "app", Message: "no release is in flight"}},
		{Result: rollout.Result{Command: "queue", App: "app", Message: "release app-0c0c0c0c-c0ffee2 is superseded by release app-0d0d0d0d-c0ffee3: a newer release came before it had started; nothing to do", SupersededBy: "app-0d0d0d0d-c0ffee3"}},
		{Result: rollout.Result{Command: "migrate", App: "app", Message: "primary has all of the traffic"}},
	} {
		shown := []string{"text", "json"}
		if came.Command == "canary" {
			shown = formats
		}
		for _, format := range shown {
			t.Run(came.Command+"/"+format, func(t *testing.T) {
				var out bytes.Buffer
				o := &lifecycleOptions{output: outputOptions{format: format}, out: &out}
				if err := o.print(came); err != nil {
					t.Fatal(err)
				}
				golden(t, filepath.Join("testdata", "golden", came.Command+"."+format), out.Bytes())
			})
		}
	}
}

// TestGoldenLine is what status prints of the line, of one app and of all: one release in flight, one whose turn comes next, and
// one behind it; and of a release beside a baseline.
func TestGoldenLine(t *testing.T) {
	at := time.Date(2026, 11, 26, 8, 2, 0, 0, time.UTC)
	queue := []release.Queued{
		{ID: "app-0c0c0c0c-c0ffee2", Image: "registry.example.com/our-org/app@sha256:" + strings.Repeat("0c", 32), Commit: "c0ffee2", PipelineURL: "https://gitlab.example.com/infra/deploy/-/pipelines/10", By: "joe", EnteredAt: at},
		{ID: "app-0d0d0d0d-c0ffee3", Bundle: "registry.example.com/our-org/app@sha256:" + strings.Repeat("0d", 32), Commit: "c0ffee3", By: "ann", EnteredAt: at.Add(time.Minute)},
	}
	tracks := map[release.Track]*rollout.TrackStatus{release.Primary: {Image: releaseAt("").Previous, Replicas: 2, Ready: 2}}
	beside := maps.Clone(tracks)
	beside[manifest.BaselineTrack] = &rollout.TrackStatus{Image: releaseAt("").Previous, Replicas: 1, Ready: 1, Share: 30}
	called := slices.Clone(queue)
	called[0].CalledAt = at.Add(time.Hour)
	for name, status := range map[string]*rollout.Status{
		"line":   {App: "app", Namespace: "shop", Release: releaseAt(release.StageCanary), Queue: queue, Tracks: tracks, Weights: &manifest.WeightPair{Primary: 90, Canary: 10}},
		"beside": {App: "app", Namespace: "shop", Release: releaseAt(release.StageCanary), Tracks: beside, Weights: &manifest.WeightPair{Primary: 90, Canary: 10}},
		"called": {App: "app", Namespace: "shop", Queue: called, Tracks: tracks, Weights: &manifest.WeightPair{Primary: 100}},
	} {
		for _, wide := range []bool{false, true} {
			format := map[bool]string{false: "text", true: "wide"}[wide]
			t.Run(name+"/"+format, func(t *testing.T) {
				var out bytes.Buffer
				all := []rollout.AppStatus{{Namespace: "shop", App: "app", Release: status.Release, Queue: status.Queue, Tracks: tracks}}
				if err := errors.Join(report.WriteStatus(&out, status, wide), report.WriteApps(&out, all, at.Add(2*time.Hour), wide)); err != nil {
					t.Fatal(err)
				}
				golden(t, filepath.Join("testdata", "golden", "status-"+name+"."+format), out.Bytes())
			})
		}
	}
}

// TestGoldenDryRun is what --dry-run prints, in each format.
func TestGoldenDryRun(t *testing.T) {
	for name, changes := range map[string][]rollout.Change{
		"dry-run": {
			{Object: "Deployment shop/app-primary", Action: "update", Diff: "--- live\n+++ planned\n@@ -1 +1 @@\n-image: old\n+image: new\n"},
			{Object: "Deployment shop/app-canary", Action: "delete", Diff: "--- live\n+++ planned\n@@ -1 +0,0 @@\n-kind: Deployment\n"},
		},
		"dry-run-nothing": {},
	} {
		for _, format := range formats {
			t.Run(name+"/"+format, func(t *testing.T) {
				var out bytes.Buffer
				o := &lifecycleOptions{output: outputOptions{format: format}, out: &out}
				if err := o.printPlan(planned{"promote", true, changes, nil, "sha256:0a0a… is on primary"}); err != nil {
					t.Fatal(err)
				}
				golden(t, filepath.Join("testdata", "golden", name+"."+format), out.Bytes())
			})
		}
	}
}

func TestGoldenVersion(t *testing.T) {
	b := buildInfo{Version: "v1.2.3", Commit: "c0ffee1", Date: "2026-11-26T08:00:00Z", Modified: true, Module: modulePath, Components: "gitlab.example.com/our-org/crossbill", LedgerVersion: 2, Go: "go1.26.0", Platform: "linux/amd64"}
	for _, format := range formats {
		t.Run(format, func(t *testing.T) {
			var out bytes.Buffer
			if err := (&outputOptions{format: format}).print(&out, b.view()); err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", "golden", "version."+format), out.Bytes())
		})
	}
}
