package release

import (
	"strings"
	"testing"
	"time"
)

// TestOlder: what primary runs is a floor, by the number of the run where both have one, else by time. What is not known
// is no reason to refuse, but for a time that only primary has.
func TestOlder(t *testing.T) {
	at := func(day int) time.Time { return time.Date(2026, 11, day, 0, 0, 0, 0, time.UTC) }
	const repository = "https://github.com/our-org/app"
	run := func(n string) string { return repository + "/actions/runs/" + n }
	const primary = "registry.example.com/app@sha256:" + "1111111111111111111111111111111111111111111111111111111111111111"
	const next = "registry.example.com/app@sha256:" + "2222222222222222222222222222222222222222222222222222222222222222"
	for name, test := range map[string]struct {
		serving, want *Origin
		previous      string
		says          string
	}{
		"newer":                              {&Origin{Commit: "a", MadeAt: at(2)}, &Origin{Commit: "b", MadeAt: at(3)}, primary, ""},
		"older":                              {&Origin{Commit: "b", MadeAt: at(3)}, &Origin{Commit: "a", MadeAt: at(2)}, primary, "its provenance is of 2026-11-02"},
		"the same commit":                    {&Origin{Commit: "b", MadeAt: at(3)}, &Origin{Commit: "b", MadeAt: at(2)}, primary, ""},
		"without a time":                     {&Origin{Commit: "b", MadeAt: at(3)}, &Origin{Commit: "a"}, primary, "it does not say when it was built"},
		"neither has a time":                 {&Origin{Commit: "b"}, &Origin{Commit: "a"}, primary, ""},
		"an old run that was repeated today": {&Origin{Commit: "b", MadeAt: at(3), Run: run("15/attempts/1")}, &Origin{Commit: "a", MadeAt: at(9), Run: run("9/attempts/2")}, primary, "it was built in run 9, primary's in run 15"},
		"a later run, built before":          {&Origin{Commit: "b", MadeAt: at(3), Run: run("9")}, &Origin{Commit: "a", MadeAt: at(2), Run: run("15")}, primary, ""},
		"runs of two repositories":           {&Origin{Commit: "b", MadeAt: at(3), Run: run("9")}, &Origin{Commit: "a", MadeAt: at(2), Run: "https://github.com/our-org/other/actions/runs/15"}, primary, "its provenance is of"},
		"pipelines that have no number":      {&Origin{Commit: "b", MadeAt: at(3), Run: "https://ci.example.com/b"}, &Origin{Commit: "a", MadeAt: at(4), Run: "https://ci.example.com/a"}, primary, ""},
		"primary runs something else":        {&Origin{Commit: "b", MadeAt: at(3)}, &Origin{Commit: "a", MadeAt: at(2)}, next, ""},
		"a first release":                    {&Origin{Commit: "b", MadeAt: at(3)}, &Origin{Commit: "a", MadeAt: at(2)}, "", ""},
		"not checked":                        {&Origin{Commit: "b", MadeAt: at(3)}, &Origin{Commit: "a", MadeAt: at(2), Unchecked: "no policy"}, primary, ""},
		"not noted":                          {&Origin{Commit: "b", MadeAt: at(3)}, nil, primary, ""},
		"another repository":                 {&Origin{Repository: "https://a", Commit: "b", MadeAt: at(3)}, &Origin{Repository: "https://b", Commit: "a", MadeAt: at(2)}, primary, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := &Ledger{Version: LedgerVersion, App: "app"}
			first := Release{ID: "r1", Image: primary, Origin: test.serving}
			if _, err := l.Start(first, "job", at(1)); err != nil {
				t.Fatal(err)
			}
			if err := l.Finish(OutcomeFirst, "job", at(1)); err != nil {
				t.Fatal(err)
			}
			for range HistoryLength + 1 { // which the floor outlives
				if _, err := l.Start(Release{ID: "bad", Image: next, Previous: primary, Origin: &Origin{MadeAt: at(30)}}, "job", at(1)); err != nil {
					t.Fatal(err)
				}
				if err := l.Reach(StageRollingBack, "job", at(1)); err != nil {
					t.Fatal(err)
				}
				if err := l.Finish(OutcomeRolledBack, "job", at(1)); err != nil {
					t.Fatal(err)
				}
			}
			l, err := ParseLedger("app", l.String())
			if err != nil {
				t.Fatal(err)
			}
			got := l.Older(&Release{ID: "r2", Image: next, Previous: test.previous, Origin: test.want})
			if (got == "") != (test.says == "") || !strings.Contains(got, test.says) {
				t.Errorf("got %q, want %q", got, test.says)
			}
		})
	}
}

// TestServing: an image that was not checked leaves no floor, and one that is signed once more stays as old as it was.
func TestServing(t *testing.T) {
	l := &Ledger{Version: LedgerVersion, App: "app"}
	release := func(id, image string, o *Origin) {
		t.Helper()
		if _, err := l.Start(Release{ID: id, Image: image, Origin: o}, "job", time.Time{}); err != nil {
			t.Fatal(err)
		}
		if err := l.Finish(OutcomeUnchanged, "job", time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	image := func(c string) string { return "registry.example.com/app@sha256:" + strings.Repeat(c, 64) }
	release("r1", image("1"), &Origin{Commit: "a", MadeAt: time.Unix(1, 0)})
	release("r2", image("1"), &Origin{Commit: "a", MadeAt: time.Unix(2, 0)})
	if l.Serving == nil || !l.Serving.Origin.MadeAt.Equal(time.Unix(1, 0)) {
		t.Fatalf("%+v", l.Serving)
	}
	release("r3", image("1"), &Origin{Unchecked: "no policy"})
	if l.Serving == nil {
		t.Error("the floor is gone, though primary runs the same")
	}
	release("r4", image("2"), &Origin{Unchecked: "no policy"})
	if l.Serving != nil {
		t.Errorf("%+v", l.Serving)
	}
}
