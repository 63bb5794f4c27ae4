package release

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
	"pgregory.net/rapid"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	repo    = "registry.example.com/our-org/qwik-node-app"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestParseImage(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{repo + "@" + digestA, repo + "@" + digestA},
		{repo + ":1.2@" + digestA, repo + "@" + digestA},
		{"127.0.0.1:5000/x@" + digestA, "127.0.0.1:5000/x@" + digestA},
		{repo + ":1.2", ""},
		{repo, ""},
		{"", ""},
		{repo + "@sha256:abc", ""},
		{repo + "@" + strings.ToUpper(digestA), ""},
		{"a b@" + digestA, ""},
	} {
		got, err := ParseImage("--image", c.in)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("ParseImage(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
		if err != nil && !errors.As(err, new(*usererr.Error)) {
			t.Errorf("ParseImage(%q): %v is not an usererr.Error", c.in, err)
		}
	}
}

func FuzzParseImage(f *testing.F) {
	f.Add(repo + ":1@" + digestA)
	f.Fuzz(func(t *testing.T, image string) {
		parsed, err := ParseImage("--image", image)
		if err != nil {
			return
		}
		again, err := ParseImage("--image", parsed)
		if err != nil || again != parsed || DigestOf(parsed) == "" {
			t.Fatalf("%q parses to %q, which parses to %q, %v", image, parsed, again, err)
		}
	})
}

func TestParseWeight(t *testing.T) {
	for weight, ok := range map[int]bool{-1: false, 0: false, 1: true, 10: true, 99: true, 100: false, 111: false} {
		if err := ParseWeight("--weight", weight); (err == nil) != ok {
			t.Errorf("weight %d: %v", weight, err)
		}
	}
}

func TestNewID(t *testing.T) {
	if got, want := NewID("app", "sha256:"+strings.Repeat("0a", 32), "c0ffee0", ""), "a68eb40f85db"; got != want {
		t.Errorf("a release without a bundle is %s, and was %s in earlier versions", got, want)
	}
	bundle := repo + "@" + digestB
	if NewID("app", digestA, "c0ffee", bundle) != NewID("app", "", "c0ffee", "oci://mirror.example.com/app@"+digestB) {
		t.Error("who has not read the bundle, or reads it elsewhere, gives it another name")
	}
	ids := map[string]bool{}
	all := []string{
		NewID("app", digestA, "c0ffee", ""), NewID("app2", digestA, "c0ffee", ""), NewID("app", digestB, "c0ffee", ""), NewID("app", digestA, "c0ffed", ""), NewID("app"+digestA, "", "c0ffee", ""),
		NewID("app", digestA, "c0ffee", bundle), NewID("app2", digestA, "c0ffee", bundle), NewID("app", digestA, "c0ffed", bundle), NewID("app", digestA, "c0ffee", repo+"@"+digestA), NewID("app", "", "c0ffee", ""),
	}
	for _, id := range all {
		ids[id] = true
	}
	if len(ids) != len(all) {
		t.Errorf("%d releases have %d names: %q", len(all), len(ids), all)
	}
}

func TestParseBundle(t *testing.T) {
	const want = "registry.example.com/our-org/app@" + digestA
	for _, good := range []string{want, "oci://" + want, "oci://registry.example.com/our-org/app:1@" + digestA} {
		if got, err := ParseBundle("--bundle", good); err != nil || got != want {
			t.Errorf("%s: %q, %v", good, got, err)
		}
	}
	for _, bad := range []string{"", "oci://", "registry.example.com/our-org/app", "registry.example.com/our-org/app:1", "https://" + want, "oci://oci://" + want, digestA, want + "\n"} {
		_, err := ParseBundle("--bundle", bad)
		if input, ok := errors.AsType[*usererr.Error](err); !ok || input.Field != "--bundle" || input.Fix == "" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func started(t *testing.T) *Ledger {
	t.Helper()
	l, err := ParseLedger("app", "")
	if err != nil {
		t.Fatal(err)
	}
	started, err := l.Start(Release{ID: "1", Image: repo + "@" + digestA, Previous: repo + "@" + digestB, Weight: 10}, "me", now)
	if err != nil || !started {
		t.Fatal(started, err)
	}
	return l
}

func TestOnlyOneReleaseAtATime(t *testing.T) {
	l := started(t)
	if started, err := l.Start(Release{ID: "1", Image: repo + "@" + digestA}, "me again", now); started || err != nil {
		t.Errorf("the same release does not go on: %v, %v", started, err)
	}
	var inFlight *InFlightError
	waits := func(err error) bool {
		return strings.Contains(err.Error(), "`crossbill queue`") && strings.Contains(err.Error(), "docs/guides/queue.md")
	}
	if _, err := l.Start(Release{ID: "2", Image: repo + "@" + digestB}, "other", now); !errors.As(err, &inFlight) || !waits(err) {
		t.Errorf("a second release begins: %v", err)
	}
	if _, err := l.Start(Release{ID: "1", Image: repo + "@" + digestB}, "other", now); !errors.As(err, &inFlight) || waits(err) {
		t.Errorf("another digest goes on as the same release: %v", err)
	}
	if _, err := l.Start(Release{ID: "1", Image: repo + "@" + digestA, Template: "changed"}, "other", now); err == nil {
		t.Error("another pod template goes on as the same release")
	}
	l.Release.Return = &Return{From: "0"}
	if _, err := l.Start(Release{ID: "1", Image: repo + "@" + digestA}, "a run from before", now); !errors.As(err, &inFlight) {
		t.Errorf("a return goes on as a canary: %v", err)
	}
}

func TestPromotionNeedsAHealthyVerdictOnThisDigest(t *testing.T) {
	for _, c := range []struct {
		name    string
		verdict *Verdict
		ok      bool
	}{
		{"no verdict", nil, false},
		{"healthy", &Verdict{Outcome: Healthy, ReleaseID: "1", Digest: digestA, Weight: 10, Since: now}, true},
		{"unhealthy", &Verdict{Outcome: Unhealthy, ReleaseID: "1", Digest: digestA, Weight: 10, Since: now}, false},
		{"inconclusive", &Verdict{Outcome: Inconclusive, ReleaseID: "1", Digest: digestA, Weight: 10, Since: now}, false},
		{"another digest", &Verdict{Outcome: Healthy, ReleaseID: "1", Digest: digestB, Weight: 10, Since: now}, false},
	} {
		l := started(t)
		if err := l.Reach(StageCanary, "me", now); err != nil {
			t.Fatal(err)
		}
		if c.verdict != nil {
			err := l.Judge(*c.verdict, "me", now)
			if (err == nil) != (c.verdict.Digest == digestA) {
				t.Errorf("%s: Judge: %v", c.name, err)
			}
		}
		if err := l.Promotable(); (err == nil) != c.ok {
			t.Errorf("%s: Promotable: %v", c.name, err)
		}
		if err := l.Reach(StagePromoting, "me", now); (err == nil) != c.ok {
			t.Errorf("%s: Reach(promoting): %v", c.name, err)
		}
	}
}

// healthy is a healthy verdict on the release in flight as it is.
func healthy(l *Ledger) Verdict {
	v := l.Release.Subject()
	v.Outcome = Healthy
	return v
}

// TestAVerdictIsBoundToWhatWasJudged: what has changed since a verdict began does not inherit it, neither by Judge
// nor in a ledger. Harm outlives a shift of the same release.
func TestAVerdictIsBoundToWhatWasJudged(t *testing.T) {
	later := now.Add(time.Hour)
	restarted := func(l *Ledger) {
		_ = l.Reach(StageRollingBack, "me", now)
		_ = l.Finish(OutcomeRolledBack, "me", now)
		_, _ = l.Start(Release{ID: "1", Image: repo + "@" + digestA, Previous: "p", Weight: 10}, "me", later)
		_ = l.Reach(StageCanary, "me", later)
	}
	for name, c := range map[string]struct {
		change             func(l *Ledger, v *Verdict)
		healthy, unhealthy bool // may be noted
	}{
		"nothing":                        {func(*Ledger, *Verdict) {}, true, true},
		"a shift":                        {func(l *Ledger, _ *Verdict) { _ = l.Shift(25, "other", later) }, false, true},
		"a shift to the weight it has":   {func(l *Ledger, v *Verdict) { _ = l.Judge(healthy(l), "o", now); _ = l.Shift(10, "other", later) }, false, true},
		"another release":                {func(l *Ledger, _ *Verdict) { l.Release.ID = "2" }, false, false},
		"the same release, started anew": {func(l *Ledger, _ *Verdict) { restarted(l) }, false, false},
		"another template":               {func(l *Ledger, _ *Verdict) { l.Release.Template = "other" }, false, false},
		"of an older crossbill":          {func(_ *Ledger, v *Verdict) { *v = Verdict{Digest: v.Digest} }, false, false},
	} {
		for outcome, ok := range map[VerdictOutcome]bool{Healthy: c.healthy, Unhealthy: c.unhealthy, Inconclusive: c.healthy} {
			l := started(t)
			if err := l.Reach(StageCanary, "me", now); err != nil {
				t.Fatal(err)
			}
			v := l.Release.Subject()
			c.change(l, &v)
			v.Outcome = outcome
			if err := l.Judge(v, "me", later); (err == nil) != ok {
				t.Errorf("%s, %s: %v", name, outcome, err)
			}
			l.Release.Stage, l.Release.Verdict = StageVerified, &v // whatever wrote it
			if err := l.Promotable(); (err == nil) != (ok && outcome == Healthy) {
				t.Errorf("%s, %s: promotable: %v", name, outcome, err)
			}
		}
	}
}

// TestWhatIsPromotedStaysSo: a promotion that an older crossbill began, or that gave the canary more traffic, goes on.
func TestWhatIsPromotedStaysSo(t *testing.T) {
	l := started(t)
	if err := errors.Join(l.Reach(StageCanary, "me", now), l.Judge(healthy(l), "me", now), l.Reach(StagePromoting, "me", now)); err != nil {
		t.Fatal(err)
	}
	l.Release.Weight, l.Release.Verdict.ReleaseID = 99, ""
	if err := l.Promotable(); err != nil {
		t.Error(err)
	}
}

// TestTheSameVerdictAgain: a verdict that says again what the last one said takes its place; any other is kept.
func TestTheSameVerdictAgain(t *testing.T) {
	l := started(t)
	if err := l.Reach(StageCanary, "me", now); err != nil {
		t.Fatal(err)
	}
	for i, outcome := range []VerdictOutcome{Inconclusive, Healthy, Healthy, Healthy, Unhealthy} {
		v := l.Release.Subject()
		v.Outcome = outcome
		if err := l.Judge(v, "me", now.Add(time.Duration(i)*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(l.Release.Judged); got != 2 {
		t.Errorf("%d verdicts are kept beside the last one, want the inconclusive and the last healthy one", got)
	}
}

func TestLedgerRefusesWhatItCannotRead(t *testing.T) {
	for _, text := range []string{"{", `{"app":"app"}`, `{"version":-1,"app":"app"}`, `{"version":3,"app":"app"}`, `{"version":2,"app":"app"}{}`, `{"version":1,"app":"other"}`, `{"version":1,"app":"app","release":{"id":"1"}}`} {
		if _, err := ParseLedger("app", text); err == nil {
			t.Errorf("%s is read", text)
		}
	}
}

func FuzzParseLedger(f *testing.F) {
	f.Add(startedText())
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseLedger("app", text)
		if err != nil {
			return
		}
		_ = l.Promotable()
		_, _ = l.Start(Release{ID: "x", Image: repo + "@" + digestA}, "me", now)
		if _, err := ParseLedger("app", l.String()); err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
	})
}

func startedText() string {
	l := &Ledger{Version: LedgerVersion, App: "app"}
	_, _ = l.Start(Release{ID: "1", Image: repo + "@" + digestA}, "me", now)
	return l.String()
}

// TestLedgerOverAnyHistory drives a ledger with random calls and checks what must hold after each.
func TestLedgerOverAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &Ledger{Version: LedgerVersion, App: "app"}
		healthy := map[string]bool{} // releases that were judged healthy on their digest
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				n++
				_, _ = l.Start(Release{ID: fmt.Sprint(n), Image: repo + "@" + rapid.SampledFrom([]string{digestA, digestB}).Draw(t, "digest"), Previous: "p"}, "me", now)
			},
			"reach": func(t *rapid.T) {
				stage := rapid.SampledFrom([]Stage{StageStarted, StageCanary, StageVerified, StagePromoting, StagePromoted, StageRollingBack}).Draw(t, "stage")
				_ = l.Reach(stage, "me", now)
			},
			"judge": func(t *rapid.T) {
				v := Verdict{}
				if l.Release != nil {
					v = l.Release.Subject()
				}
				v.Outcome = rapid.SampledFrom([]VerdictOutcome{Healthy, Unhealthy, Inconclusive}).Draw(t, "outcome")
				v.Digest = rapid.SampledFrom([]string{digestA, digestB}).Draw(t, "judged")
				if l.Judge(v, "me", now) == nil {
					healthy[l.Release.ID] = v.Outcome == Healthy && v.Digest == l.Release.Digest()
				}
			},
			"finish": func(t *rapid.T) {
				_ = l.Finish(rapid.SampledFrom([]Outcome{OutcomeFirst, OutcomePromoted, OutcomeRolledBack}).Draw(t, "outcome"), "me", now)
			},
			"": func(t *rapid.T) {
				if len(l.History) > HistoryLength+1 {
					t.Fatalf("%d releases are kept", len(l.History))
				}
				if r := l.Release; r != nil && (r.Stage == StagePromoting || r.Stage == StagePromoted) && !healthy[r.ID] {
					t.Fatalf("release %s is %s without a healthy verdict", r.ID, r.Stage)
				}
				for _, f := range l.History {
					if f.Outcome == OutcomePromoted && !healthy[f.ID] {
						t.Fatalf("release %s was promoted without a healthy verdict", f.ID)
					}
				}
				again, err := ParseLedger("app", l.String())
				if err != nil || again.String() != l.String() {
					t.Fatalf("the ledger does not survive being written: %v", err)
				}
			},
		})
	})
}

func TestShiftAsksForAnotherVerdict(t *testing.T) {
	now := time.Unix(0, 0)
	l := &Ledger{App: "app"}
	if err := l.Shift(25, "by", now); !errors.Is(err, ErrNoRelease) {
		t.Errorf("%v", err)
	}
	image := "registry.example.com/app@sha256:" + strings.Repeat("a", 64)
	if _, err := l.Start(Release{ID: "one", Image: image, Previous: "x", Weight: 10}, "by", now); err != nil {
		t.Fatal(err)
	}
	if err := l.Shift(25, "by", now); err == nil {
		t.Error("a canary without traffic got more")
	}
	if err := errors.Join(l.Reach(StageCanary, "by", now), l.Judge(healthy(l), "by", now), l.Promotable()); err != nil {
		t.Fatal(err)
	}
	if err := l.Shift(25, "by", now); err != nil || l.Release.Weight != 25 || l.Promotable() == nil {
		t.Errorf("%v, %+v", err, l.Release)
	}
	steps := len(l.Release.Steps)
	if err := l.Shift(25, "by", now); err != nil || len(l.Release.Steps) != steps {
		t.Errorf("the same share again: %v, %+v", err, l.Release.Steps)
	}
}

func TestADigestFailsUntilItIsReleased(t *testing.T) {
	image := func(c string) string { return "registry.example.com/app@sha256:" + strings.Repeat(c, 64) }
	l := &Ledger{History: []Finished{
		{Release: Release{ID: "2", Image: image("b"), Return: &Return{From: "3"}}, Outcome: OutcomeRolledBack}, // what it returned to is good
		{Release: Release{ID: "3", Image: image("a")}, Outcome: OutcomeRolledBack},
		{Release: Release{ID: "2", Image: image("b")}, Outcome: OutcomePromoted},
		{Release: Release{ID: "1", Image: image("b")}, Outcome: OutcomeRolledBack},
		{Release: Release{ID: "0", Image: image("a")}, Outcome: OutcomePromoted},
	}}
	if f := l.Failed(&Release{Image: image("a")}); f == nil || f.ID != "3" {
		t.Errorf("%+v", f)
	}
	for _, c := range []string{"b", "c"} {
		if f := l.Failed(&Release{Image: image(c)}); f != nil {
			t.Errorf("%s: %+v", c, f)
		}
	}
}

// TestLedgersOfEarlierVersionsAreRead: a release in flight survives an update of Crossbill.
func TestLedgersOfEarlierVersionsAreRead(t *testing.T) {
	text := `{"version":1,"app":"app","epoch":3,"release":{"id":"1","image":"` + repo + "@" + digestA + `","weight":10,"stage":"claimed",
		"pipelineURL":"https://gitlab.example.com/-/pipelines/1","sourceURL":"https://github.com/runs/1","steps":[{"stage":"claimed","at":"2026-11-23T12:00:00Z","by":"me"}]}}`
	l, err := ParseLedger("app", text)
	if err != nil {
		t.Fatal(err)
	}
	r := l.Release
	if r.Stage != StageStarted || r.Steps[0].Stage != StageStarted || r.PipelineURL == "" || r.SourceURL == "" {
		t.Errorf("read %+v", r)
	}
	if err := l.Reach(StageCanary, "me", now); err != nil {
		t.Error(err)
	}
}
