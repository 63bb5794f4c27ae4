package report

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/manifest"
	"github.com/our-org/crossbill/release"
	"github.com/our-org/crossbill/rollout"
)

const hostile = `<script>alert("x")</script>`

func status(t *testing.T) *rollout.Status {
	t.Helper()
	at := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	image := func(c string) string { return "registry.example.com/our-org/app@sha256:" + strings.Repeat(c, 64) }
	var l release.Ledger
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := l.Begin(release.Release{ID: "old", Image: image("a"), Previous: image("c"), Weight: 10}, "ann", at)
	must(err)
	must(l.Reach(release.StageCanary, "ann", at.Add(time.Minute)))
	l.Release.Reason = hostile
	must(l.Reach(release.StageRollingBack, "bob", at.Add(2*time.Minute)))
	must(l.Finish(release.OutcomeRolledBack, "bob", at.Add(3*time.Minute)))
	_, err = l.Begin(release.Release{ID: "new", Image: image("b"), Previous: image("c"), Weight: 10}, "ann", at.Add(time.Hour))
	must(err)
	must(l.Reach(release.StageCanary, "ann", at.Add(61*time.Minute)))
	must(l.Judge(release.Verdict{Outcome: release.Healthy, Digest: l.Release.Digest(), Reason: "all good"}, "ann", at.Add(62*time.Minute)))
	l.Release.Takeovers = []release.Takeover{{From: "job_0", By: "ann", At: at.Add(90 * time.Minute)}}
	return &rollout.Status{
		App: "app", Namespace: "production", Claim: "job_1", Expired: true, Release: l.Release, History: l.History,
		Weights: &manifest.WeightPair{Primary: 50, Canary: 50}, Drift: []string{"the canary has weight 50"},
		Tracks: map[release.Track]*rollout.TrackStatus{release.Primary: {Image: image("c"), Replicas: 2, Ready: 2}},
	}
}

func TestStatusSaysWhatAPersonAsks(t *testing.T) {
	var out bytes.Buffer
	if err := Status(&out, status(t)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"app in production", "verified, begun 2026-11-23T09:00:00Z by ann", "healthy: all good", "promote, by a person",
		"held by job_1, a job that is dead", "50 % primary, 50 % canary", "2 of 2 ready", "canary   not there", "the canary has weight 50", "rolled_back sha256:aaaaaaaaaaaa: " + hostile,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	out.Reset()
	if err := Status(&out, &rollout.Status{App: "app"}); err != nil || !strings.Contains(out.String(), "none in flight") {
		t.Errorf("an app without releases: %v\n%s", err, out.String())
	}
}

func TestTheTimelineIsInOrder(t *testing.T) {
	entries := Timeline(status(t))
	var told []string
	for i, e := range entries {
		told = append(told, e.Release+" "+e.What)
		if i > 0 && e.At.Before(entries[i-1].At) {
			t.Errorf("%v comes after %v", e, entries[i-1])
		}
	}
	if got, want := strings.Join(told, ", "), "old claimed, old canary, old rolling_back, old rolled_back, new claimed, new canary, new verified, new taken over"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	var out bytes.Buffer
	if err := Text(&out, entries); err != nil || strings.Count(out.String(), "\n") != len(entries) {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestTheHTMLIsOneFileWithoutForeignCode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.html")
	s := status(t)
	if err := WriteHTML(file, s, Timeline(s)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), hostile) || !strings.Contains(string(text), "&lt;script&gt;") {
		t.Error("a reason became markup")
	}
	for _, foreign := range []string{"http://", "https://", "src=", "@import"} {
		if strings.Contains(string(text), foreign) {
			t.Errorf("it fetches: %q", foreign)
		}
	}
}
