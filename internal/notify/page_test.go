package notify

import (
	"cmp"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// TestPages is the comment at each stage, as GitHub is given it: testdata/pages. Look at it as a reader would.
func TestPages(t *testing.T) {
	event := func(command string, result Result, outcome release.Outcome, message string, change func(*Event, *release.Release)) *Event {
		e := pageEvent(6, 1, outcome)
		e.Command, e.Result, e.Message, e.FinishedAt = command, result, message, started.Add(6*time.Minute+30*time.Second)
		change(e, e.Release)
		return e
	}
	judged := func(r *release.Release, outcome release.VerdictOutcome, reason string) {
		r.Stage = release.StageVerified
		r.Steps = append(r.Steps, release.Step{Stage: release.StageVerified})
		v := r.Subject()
		v.Outcome, v.Reason, v.Requests, v.At = outcome, reason, 412, started.Add(6*time.Minute)
		r.Verdict = &v
	}
	healthy := func(_ *Event, r *release.Release) {
		judged(r, release.Healthy, "availability: 100.00% of the canary's 412 events are good, 99.98% of primary's 3711")
	}
	none := func(*Event, *release.Release) {}
	for name, e := range map[string]*Event{
		"queued": event("queue", Waits, "", "waits behind release 99aa, whose canary is analyzed", func(e *Event, _ *release.Release) { e.Release = nil }),
		"canary": event("canary", Succeeded, "", "release 0123456789ab: the canary has 10% of the traffic", none),
		"analysis": event("verify", Judging, "", "", func(e *Event, _ *release.Release) {
			e.Progress = &Progress{Enough: 0.426, Requests: 176, Left: 3*time.Minute + 20*time.Second, Missing: "availability: evidence of 4 to 1 for the canary (20 to 1 needed): that takes about 412 of its requests"}
		}),
		"analysis-unknown": event("verify", Judging, "", "", func(e *Event, _ *release.Release) {
			e.Progress = &Progress{Missing: "no request reached the canary"}
		}),
		"watched": event("verify", Judging, "", "", func(e *Event, r *release.Release) {
			healthy(e, r)
			e.Progress = &Progress{Outcome: release.Healthy, Enough: 1, Requests: 902}
		}),
		"verified": event("verify", Succeeded, "", "healthy: availability: 100.00% of the canary's 412 events are good, 99.98% of primary's 3711", healthy),
		"approve-step": event("canary", Succeeded, "", "10% of the traffic, healthy; step 3 of 5 waits for approval", func(e *Event, r *release.Release) {
			r.Plan = release.NewPlan([]release.PlanStep{{Weight: 10}, {Approve: true}, {Weight: 50}})
			r.Plan[0].DoneAt, r.Plan[1].DoneAt = started, started
			healthy(e, r)
		}),
		"inconclusive": event("verify", Inconclusive, "", "inconclusive: no request reached the canary; the canary keeps its weight, run verify again or roll back", func(_ *Event, r *release.Release) {
			judged(r, release.Inconclusive, "no request reached the canary")
		}),
		"unhealthy": event("verify", Unhealthy, release.OutcomeRolledBack, "unhealthy: availability: 31 of the canary's 261 events are bad (11.88%); rolled back: 100% of the traffic to primary", func(_ *Event, r *release.Release) {
			judged(r, release.Unhealthy, "availability: 31 of the canary's 261 events are bad (11.88%), 0.02% of primary's 2400")
			r.Stage, r.Weight = release.StageRollingBack, 0
		}),
		"not-ready": event("canary", NotReady, release.OutcomeRolledBack, "Deployment shop-canary: its pods do not become ready: ImagePullBackOff; rolled back", func(_ *Event, r *release.Release) {
			r.Stage = release.StageRollingBack
		}),
		"failed": event("promote", Failed, "", `Get "https://10.0.0.1:6443/api": dial tcp: connection refused`, func(e *Event, _ *release.Release) { e.Release = nil }),
		"promoted": event("promote", Succeeded, "", "primary runs the release and has 100% of the traffic", func(e *Event, r *release.Release) {
			healthy(e, r)
			r.Stage, r.Approvals = release.StagePromoted, []release.Approval{{Kind: release.ApprovalVerified, By: "grace"}}
		}),
		"finished": event("cleanup", Succeeded, release.OutcomePromoted, "the canary is removed", func(e *Event, r *release.Release) {
			healthy(e, r)
			r.Stage = release.StagePromoted
		}),
		"rolled-back": event("rollback", Succeeded, release.OutcomeRolledBack, "100% of the traffic to primary, the canary is removed", func(_ *Event, r *release.Release) {
			r.Stage, r.Weight, r.Reason = release.StageRollingBack, 0, "the basket is empty for @ada, see #12"
		}),
		"superseded": event("promote", Succeeded, release.OutcomeSuperseded, "release 0123456789ab gave way to release 99aa", func(e *Event, _ *release.Release) { e.SupersededBy = "99aa" }),
		"first":      event("canary", Succeeded, release.OutcomeFirst, "the first release goes straight to primary", func(_ *Event, r *release.Release) { r.Weight = 0 }),
		"hostile": event("verify", Inconclusive, "", "</td><script>alert(1)</script> | @org/team [x](https://evil.example.com) ![y](http://e) <!-- crossbill shop --> #1 GH-1\n# title\n`code`", func(_ *Event, r *release.Release) {
			r.StartedBy = "x|y` <b> --> @ada www.evil.example.com"
		}),
	} {
		t.Run(name, func(t *testing.T) {
			p := pageOf(e, "https://gitlab.example.com/infra/deploy/-/pipelines/9")
			got := "<!-- check run: " + p.title + ": " + cmp.Or(p.conclusion, "in_progress") + " -->\n" + p.body
			golden(t, filepath.Join("testdata/pages", name+".md"), []byte(got))
		})
	}
}

// TestOrder: which of two pages is of the later state.
func TestOrder(t *testing.T) {
	at := func(minute, steps int, finished bool) order {
		return order{Release: "one", Started: started, Finished: finished, Steps: steps, At: started.Add(time.Duration(minute) * time.Minute)}
	}
	unread := order{Release: "one", At: started.Add(5 * time.Minute)}
	next := order{Release: "one", Started: started.Add(time.Minute), Steps: 1, At: started.Add(time.Minute)}
	other := order{Release: "two", At: started.Add(9 * time.Minute)} // in the line
	for name, test := range map[string]struct{ earlier, later order }{
		"nothing is there":                  {order{}, at(0, 1, false)},
		"a later time":                      {at(0, 1, false), at(1, 1, false)},
		"more steps, by a clock behind":     {at(5, 1, false), at(1, 2, false)},
		"finished, by a clock behind":       {at(5, 9, false), at(1, 2, true)},
		"released again, by a clock behind": {at(9, 9, true), next},
		"a ledger that was not read":        {at(1, 3, false), unread},
		"then one that was":                 {unread.over(at(1, 3, false)), at(6, 3, false)},
		"another release waits":             {at(5, 9, true), other},
	} {
		if !test.later.after(test.earlier) || test.earlier.after(test.later) {
			t.Errorf("%s: later after earlier %v, earlier after later %v", name, test.later.after(test.earlier), test.earlier.after(test.later))
		}
		if test.later.after(test.later) {
			t.Errorf("%s: after itself", name)
		}
	}
	if unread.after(at(1, 3, true)) {
		t.Error("what could not read the ledger takes the place of a release that has finished")
	}
}

// TestMarked: a page is found again by its first line, as GitHub gives it back.
func TestMarked(t *testing.T) {
	at := orderOf(pageEvent(1, 2, ""))
	text := marked("shop", at, "body")
	for name, test := range map[string]struct {
		text string
		want order
		ok   bool
	}{
		"as written":       {text, at, true},
		"with CRLF":        {strings.ReplaceAll(text, "\n", "\r\n"), at, true},
		"another app":      {marked("shop-2", at, "body"), order{}, false},
		"quoted":           {"> " + text, order{}, false},
		"order unreadable": {marker("shop") + "body", order{}, true},
		"empty":            {"", order{}, false},
	} {
		if got, ok := readMarked("shop", test.text); got != test.want || ok != test.ok {
			t.Errorf("%s: %+v %v", name, got, ok)
		}
	}
}
