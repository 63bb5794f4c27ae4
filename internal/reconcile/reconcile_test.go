package reconcile

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/proposal"
	"github.com/our-org/crossbill/internal/release"
)

var now = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// of is a proposal of run n. Options: again, approve.
func of(n int, options ...string) *proposal.Proposal {
	p := &proposal.Proposal{Handoff: release.Handoff{
		App: "shop", Image: "registry.example.com/shop@sha256:" + strings.Repeat(fmt.Sprintf("%02x", n), 32), Commit: fmt.Sprintf("%07x", n),
		SourceURL: fmt.Sprintf("https://github.com/our-org/shop/actions/runs/%d", n),
	}}
	if err := p.Check(); err != nil {
		panic(err)
	}
	p.Again = slices.Contains(options, "again")
	if slices.Contains(options, "approve") {
		p.Approve = p.ID
	}
	return p
}

// history is what the file was, oldest first: commits c0, c1, … a minute apart, the last one an hour ago.
func history(files ...*proposal.Proposal) proposal.History {
	var h proposal.History
	for i, p := range files {
		v := proposal.Version{Version: environment.Version{Commit: fmt.Sprintf("c%d", i), At: now.Add(time.Minute*time.Duration(i) - time.Hour), Author: "Mona <mona@example.com>"}, Proposal: p}
		h = append(proposal.History{v}, h...)
	}
	return h
}

// inFlight is a release of a proposal at a stage, that a commit has proposed.
func inFlight(p *proposal.Proposal, commit string, stage release.Stage, change ...func(*release.Release)) *release.Release {
	r := &release.Release{
		ID: p.ID, Image: p.Image, Bundle: p.Bundle, Commit: p.Commit, SourceURL: p.SourceURL, Proposal: commit, Previous: "registry.example.com/shop@sha256:" + strings.Repeat("ff", 32),
		Stage: stage, Weight: 10, StartedAt: now.Add(-30 * time.Minute), StartedBy: "run", Steps: []release.Step{{Stage: release.StageStarted, At: now.Add(-30 * time.Minute)}, {Stage: release.StageCanary, At: now.Add(-20 * time.Minute)}},
	}
	if stage == release.StageVerified {
		v := r.Subject()
		v.Outcome, v.Reason, v.At = release.Healthy, "as good as primary", now
		r.Verdict = &v
	}
	for _, c := range change {
		c(r)
	}
	return r
}

func judged(outcome release.VerdictOutcome) func(*release.Release) {
	return func(r *release.Release) { r.Verdict.Outcome = outcome }
}

func planned(steps ...release.PlanStep) func(*release.Release) {
	return func(r *release.Release) { r.Plan = steps }
}

func finished(p *proposal.Proposal, commit string, outcome release.Outcome) release.Finished {
	return release.Finished{Release: *inFlight(p, commit, release.StagePromoted), Outcome: outcome, FinishedAt: now.Add(-30 * time.Minute)}
}

// called is a line in which it is the turn of a proposal's release.
func called(p *proposal.Proposal) []release.Queued {
	return []release.Queued{{ID: p.ID, SourceURL: p.SourceURL, Again: p.Again, EnteredAt: now, CalledAt: now}}
}

func TestNext(t *testing.T) {
	const supersede = release.QueueSupersede
	done := release.PlanStep{Weight: 10, DoneAt: now}
	hold := &release.Hold{By: "lisa", Since: now, Reason: "a sale"}
	bundle := of(2)
	bundle.Bundle, bundle.Image, bundle.ID = bundle.Image, "", ""
	if err := bundle.Check(); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		git      proposal.History
		problem  error
		from     string // repository
		policy   release.QueuePolicy
		ledger   release.Ledger
		lock     string
		want     Command
		of       *proposal.Proposal // nil: none
		proposed string
		waits    bool
		turn     bool
		reason   string
	}{
		"no file":                     {want: None, reason: "Git names no release"},
		"a file that is gone":         {git: history(of(1), nil), want: None, reason: "Git names no release"},
		"the first":                   {git: history(of(1)), want: Canary, of: of(1), proposed: "c0", reason: "commit c0 proposes it"},
		"a bundle":                    {git: history(bundle), want: Canary, of: bundle, proposed: "c0", reason: "commit c0 proposes it"},
		"approved early":              {git: history(of(1, "approve")), want: Canary, of: of(1), proposed: "c0", reason: "commit c0 proposes it"},
		"a newer one":                 {git: history(of(1), of(2)), ledger: release.Ledger{History: []release.Finished{finished(of(1), "c0", release.OutcomePromoted)}}, want: Canary, of: of(2), proposed: "c1", reason: "commit c1 proposes it"},
		"a comment":                   {git: history(of(1), of(1)), want: Canary, of: of(1), proposed: "c0", reason: "commit c0 proposes it"},
		"from elsewhere":              {git: history(of(1)), from: "registry.example.com/cart", want: None, reason: "image: it is from registry.example.com/shop, and only registry.example.com/cart is admitted"},
		"Git is away":                 {git: history(of(1)), problem: errors.New("no answer"), want: None, reason: "no answer"},
		"promoted":                    {git: history(of(1)), ledger: release.Ledger{History: []release.Finished{finished(of(1), "c0", release.OutcomePromoted)}}, want: None, reason: "has finished (promoted)"},
		"rolled back":                 {git: history(of(1)), ledger: release.Ledger{History: []release.Finished{finished(of(1), "c0", release.OutcomeRolledBack)}}, want: None, reason: "has finished (rolled_back)"},
		"once more":                   {git: history(of(1), of(1, "again")), ledger: release.Ledger{History: []release.Finished{finished(of(1), "c0", release.OutcomeRolledBack)}}, want: Canary, of: of(1, "again"), proposed: "c1", reason: "commit c1 proposes it"},
		"once more, once":             {git: history(of(1), of(1, "again")), ledger: release.Ledger{History: []release.Finished{finished(of(1), "c1", release.OutcomeRolledBack)}}, want: None, reason: "has finished (rolled_back)"},
		"again, by a pipeline before": {git: history(of(1, "again")), ledger: release.Ledger{History: []release.Finished{finished(of(1), "", release.OutcomeRolledBack)}}, want: None, reason: "has finished (rolled_back)"},
		"older than primary's":        {git: history(of(3), of(2)), ledger: release.Ledger{History: []release.Finished{finished(of(3), "c0", release.OutcomePromoted)}}, want: None, reason: "it is older than release " + of(3).ID},
		"older on purpose":            {git: history(of(3), of(2, "again")), ledger: release.Ledger{History: []release.Finished{finished(of(3), "c0", release.OutcomePromoted)}}, want: Canary, of: of(2, "again"), proposed: "c1", reason: "commit c1 proposes it"},
		"on hold":                     {git: history(of(1)), ledger: release.Ledger{Hold: hold}, want: None, reason: "waits: the app is on hold since"},
		"behind another in the line":  {git: history(of(2)), policy: release.QueueInOrder, ledger: release.Ledger{Queue: []release.Queued{{ID: "x"}}}, want: Queue, of: of(2), proposed: "c0", turn: true, reason: "release x is before it in the line"},
		"behind another, on hold":     {git: history(of(2)), policy: release.QueueInOrder, ledger: release.Ledger{Hold: hold, Queue: []release.Queued{{ID: "x"}}}, want: None, reason: "waits: the app is on hold since"},

		"a newer one than the line's":      {git: history(of(2), of(3)), policy: supersede, ledger: release.Ledger{Queue: called(of(2))}, want: Queue, of: of(3), proposed: "c1", turn: true, reason: "commit c1 proposes it, and release " + of(2).ID + " is before it in the line"},
		"its turn":                         {git: history(of(2), of(3)), policy: supersede, ledger: release.Ledger{Queue: called(of(3))}, want: Canary, of: of(3), proposed: "c1", reason: "commit c1 proposes it"},
		"an older one, again":              {git: history(of(3), of(2, "again")), policy: supersede, ledger: release.Ledger{Queue: called(of(3))}, want: Queue, of: of(2, "again"), proposed: "c1", turn: true, reason: "is before it in the line"},
		"an older one than the line's":     {git: history(of(3), of(2)), policy: supersede, ledger: release.Ledger{Queue: called(of(3))}, want: None, reason: "it is older than release " + of(3).ID + ", whose turn it is"},
		"a newer than the line's, on hold": {git: history(of(2), of(3)), policy: supersede, ledger: release.Ledger{Hold: hold, Queue: called(of(2))}, want: None, reason: "waits: the app is on hold since"},

		"a canary that died":           {git: history(of(1)), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageStarted)}, want: Canary, of: of(1), proposed: "c0", reason: "its canary was interrupted"},
		"one with steps that died":     {git: history(of(1)), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageStarted, planned(release.PlanStep{Weight: 10}))}, want: Follow, of: of(1), proposed: "c0", reason: "its canary was interrupted"},
		"not judged":                   {git: history(of(1)), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageCanary)}, want: Verify, of: of(1), proposed: "c0", reason: "has no verdict"},
		"healthy":                      {git: history(of(1)), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}, want: Verify, of: of(1), proposed: "c0", waits: true, reason: "waits for approval: nobody has approved it in Git"},
		"approved":                     {git: history(of(1), of(1, "approve")), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}, want: Promote, of: of(1), proposed: "c0", reason: "commit c1 of Mona <mona@example.com> approves it"},
		"approved, and not judged":     {git: history(of(1), of(1, "approve")), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageCanary)}, want: Verify, of: of(1), proposed: "c0", reason: "has no verdict"},
		"approved, and Git is away":    {git: history(of(1), of(1, "approve")), problem: errors.New("no answer"), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}, want: Verify, of: of(1), proposed: "c0", waits: true, reason: "waits for approval: no answer"},
		"approved, then broken":        {git: history(of(1), of(1, "approve"), nil), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}, want: Verify, of: of(1), proposed: "c0", waits: true, reason: "commit c2 has broken or removed the file"},
		"then brought back approved":   {git: history(of(1), of(1, "approve"), nil, of(1, "approve")), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}, want: Verify, of: of(1), proposed: "c0", waits: true, reason: "commit c3 brings the file back and approves the release"},
		"brought back, then approved":  {git: history(of(1), of(1, "approve"), nil, of(1), of(1, "approve")), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}, want: Promote, of: of(1), proposed: "c0", reason: "Mona <mona@example.com>"},
		"approved and taken back":      {git: history(of(1), of(1, "approve"), of(1)), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}, want: Verify, of: of(1), proposed: "c0", waits: true, reason: "nobody has approved it in Git"},
		"approved with the proposal":   {git: history(of(1, "approve")), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}, want: Verify, of: of(1), proposed: "c0", waits: true, reason: "commit c0 proposes the release and approves it"},
		"another is approved":          {git: history(of(1), func() *proposal.Proposal { p := of(1); p.Approve = of(2).ID; return p }()), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}, want: Verify, of: of(1), proposed: "c0", waits: true, reason: "the approval is of release " + of(2).ID},
		"approved before it came back": {git: history(of(1), of(1, "approve"), of(1, "again", "approve")), ledger: release.Ledger{Release: inFlight(of(1), "c2", release.StageVerified)}, want: Verify, of: of(1), proposed: "c2", waits: true, reason: "commit c2 proposes the release and approves it"},
		"forced away":                  {git: history(of(1), of(1, "approve")), ledger: release.Ledger{Release: inFlight(of(1), "other", release.StageVerified)}, want: Verify, of: of(1), proposed: "other", waits: true, reason: "commit other, which proposed release " + of(1).ID + ", is not in the branch"},
		"unhealthy":                    {git: history(of(1), of(1, "approve")), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified, judged(release.Unhealthy))}, want: Rollback, of: of(1), proposed: "c0", reason: "unhealthy: as good as primary"},
		"inconclusive":                 {git: history(of(1), of(1, "approve")), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified, judged(release.Inconclusive))}, want: Rollback, of: of(1), proposed: "c0", reason: "inconclusive: as good as primary"},
		"rolling back":                 {git: history(of(1)), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageRollingBack)}, want: Rollback, of: of(1), proposed: "c0", reason: "its rollback was interrupted"},
		"somebody rolls it back":       {git: history(of(1)), lock: "lisa", ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageRollingBack)}, want: None, reason: "is rolling back: lisa is at work"},
		"promoting":                    {git: history(of(1), of(2)), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StagePromoting)}, want: Promote, of: of(1), proposed: "c0", reason: "its promotion was interrupted"},
		"promoting, Git is away":       {problem: errors.New("no answer"), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StagePromoting)}, want: Promote, of: of(1), proposed: "c0", reason: "its promotion was interrupted"},
		"on primary":                   {git: history(of(1), of(2)), policy: supersede, ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StagePromoted)}, want: Cleanup, of: of(1), proposed: "c0", reason: "it is on primary"},
		"on hold, and goes on":         {git: history(of(1), of(1, "approve")), ledger: release.Ledger{Hold: hold, Release: inFlight(of(1), "c0", release.StageVerified)}, want: Promote, of: of(1), proposed: "c0", reason: "approves it"},

		"steps":                {git: history(of(1), of(1, "approve")), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified, planned(done, release.PlanStep{Weight: 50}))}, want: Follow, of: of(1), proposed: "c0", reason: "it has steps before it"},
		"a step to approve":    {git: history(of(1), of(1, "approve")), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified, planned(done, release.PlanStep{Approve: true}, release.PlanStep{Weight: 50}))}, want: Verify, of: of(1), proposed: "c0", waits: true, reason: "step 2 of 3: approve waits for `crossbill approve`"},
		"an approved step":     {git: history(of(1)), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified, planned(done, release.PlanStep{Approve: true}, release.PlanStep{Weight: 50}), func(r *release.Release) { r.Approvals = []release.Approval{{Step: 2}} })}, want: Follow, of: of(1), proposed: "c0", reason: "it has steps before it"},
		"the last step of all": {git: history(of(1), of(1, "approve")), ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified, planned(done, release.PlanStep{Approve: true}))}, want: Promote, of: of(1), proposed: "c0", reason: "approves it"},

		"a second one, refused":            {git: history(of(1), of(2)), policy: release.QueueRefuse, ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}, want: Verify, of: of(1), proposed: "c0", waits: true, reason: "waits for approval"},
		"a second one, in order":           {git: history(of(1), of(2)), policy: release.QueueInOrder, ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageCanary)}, want: Verify, of: of(1), proposed: "c0", reason: "has no verdict"},
		"a second one, after the approval": {git: history(of(1), of(1, "approve"), of(2)), policy: release.QueueInOrder, ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}, want: Promote, of: of(1), proposed: "c0", reason: "commit c1"},
		"superseded":                       {git: history(of(1), of(2)), policy: supersede, ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}, want: Queue, of: of(2), proposed: "c1", reason: "release " + of(1).ID + " gives way"},
		"not by an older one":              {git: history(of(2), of(1)), policy: supersede, ledger: release.Ledger{Release: inFlight(of(2), "c0", release.StageVerified)}, want: Verify, of: of(2), proposed: "c0", waits: true, reason: "waits for approval"},
		"not after its approval":           {git: history(of(1), of(1, "approve"), of(2)), policy: supersede, ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}, want: Promote, of: of(1), proposed: "c0", reason: "commit c1"},
		"not by one that has finished":     {git: history(of(2), of(1)), policy: supersede, ledger: release.Ledger{Release: inFlight(of(2), "c0", release.StageVerified), History: []release.Finished{finished(of(1), "c9", release.OutcomeRolledBack)}}, want: Verify, of: of(2), proposed: "c0", waits: true, reason: "waits for approval"},
		"not on hold":                      {git: history(of(1), of(2)), policy: supersede, ledger: release.Ledger{Hold: hold, Release: inFlight(of(1), "c0", release.StageVerified)}, want: Verify, of: of(1), proposed: "c0", waits: true, reason: "waits for approval"},
		"somebody else's":                  {git: history(of(1), of(1, "approve")), ledger: release.Ledger{Release: inFlight(of(1), "", release.StageVerified)}, want: None, reason: "it is not this process's"},
		"not when they waited together":    {git: history(of(1), of(2)), policy: supersede, ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified), Queue: []release.Queued{{ID: of(2).ID, Behind: of(1).ID}}}, want: Verify, of: of(1), proposed: "c0", waits: true, reason: "waits for approval"},
		"not when its job has left":        {git: history(of(1), of(2)), policy: supersede, ledger: release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified), Left: []release.Left{{ID: of(2).ID, Behind: of(1).ID}}}, want: Verify, of: of(1), proposed: "c0", waits: true, reason: "waits for approval"},
		"somebody else's gives way":        {git: history(of(1), of(2)), policy: supersede, ledger: release.Ledger{Release: inFlight(of(1), "", release.StageVerified)}, want: Queue, of: of(2), proposed: "c1", reason: "gives way"},
	} {
		t.Run(name, func(t *testing.T) {
			test.ledger.App = "shop"
			got := Next(Git{History: test.git, Problem: test.problem, Repository: test.from}, State{Ledger: &test.ledger, Lock: test.lock, Policy: test.policy}, now)
			want := Step{Command: test.want, Proposal: test.proposed, Waits: test.waits, Turn: test.turn, Reason: got.Reason, Again: got.Again}
			if test.of != nil {
				want.Release = test.of.Handoff
				want.Again = test.ledger.Release != nil && test.want != Queue || test.of.Again
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if !strings.Contains(got.Reason, test.reason) {
				t.Errorf("reason %q, want %q", got.Reason, test.reason)
			}
		})
	}
}

// TestBroken: a file that is not right starts nothing, and what is in flight is watched on.
func TestBroken(t *testing.T) {
	h := append(proposal.History{{Version: environment.Version{Commit: "bad"}, Err: errors.New("f.yaml:1: it is not YAML")}}, history(of(1))...)
	if got := Next(Git{History: h}, State{Ledger: &release.Ledger{}}, now); got.Command != None || got.Reason != "f.yaml:1: it is not YAML" {
		t.Errorf("got %+v", got)
	}
	if got := Next(Git{History: h}, State{Ledger: &release.Ledger{Release: inFlight(of(1), "c0", release.StageVerified)}}, now); got.Command != Verify || !got.Waits {
		t.Errorf("got %+v", got)
	}
}

// TestInvariants: whatever Git and the ledger say.
func TestInvariants(t *testing.T) {
	stages := []release.Stage{release.StageStarted, release.StageCanary, release.StageVerified, release.StagePromoting, release.StagePromoted, release.StageRollingBack}
	file := rapid.Custom(func(r *rapid.T) *proposal.Proposal {
		n := rapid.IntRange(0, 3).Draw(r, "run")
		if n == 0 {
			return nil
		}
		p := of(n)
		p.Again = rapid.Bool().Draw(r, "again")
		p.Approve = rapid.SampledFrom([]string{"", of(1).ID, of(2).ID, p.ID}).Draw(r, "approve")
		return p
	})
	commit := rapid.SampledFrom([]string{"", "c0", "c1", "c2", "c3", "gone"})
	rapid.Check(t, func(r *rapid.T) {
		g := Git{History: history(rapid.SliceOfN(file, 0, 5).Draw(r, "files")...)}
		if rapid.IntRange(0, 9).Draw(r, "away") == 0 {
			g.Problem = errors.New("no answer")
		}
		l := &release.Ledger{App: "shop"}
		for range rapid.IntRange(0, 2).Draw(r, "finished") {
			outcome := rapid.SampledFrom([]release.Outcome{release.OutcomePromoted, release.OutcomeRolledBack, release.OutcomeSuperseded}).Draw(r, "outcome")
			l.History = append(l.History, finished(of(rapid.IntRange(1, 3).Draw(r, "of")), commit.Draw(r, "for"), outcome))
		}
		if rapid.Bool().Draw(r, "in flight") {
			l.Release = inFlight(of(rapid.IntRange(1, 3).Draw(r, "of")), commit.Draw(r, "for"), rapid.SampledFrom(stages).Draw(r, "stage"))
			if v := l.Release.Verdict; v != nil {
				v.Outcome = rapid.SampledFrom([]release.VerdictOutcome{release.Healthy, release.Unhealthy, release.Inconclusive}).Draw(r, "verdict")
			}
		}
		if rapid.Bool().Draw(r, "line") {
			l.Queue = called(of(rapid.IntRange(1, 3).Draw(r, "of")))
		}
		if rapid.IntRange(0, 4).Draw(r, "hold") == 0 {
			l.Hold = &release.Hold{By: "lisa"}
		}
		s := State{Ledger: l, Policy: rapid.SampledFrom([]release.QueuePolicy{release.QueueRefuse, release.QueueInOrder, release.QueueSupersede}).Draw(r, "policy"), Lock: rapid.SampledFrom([]string{"", "lisa"}).Draw(r, "lock")}
		before := l.String()
		step := Next(g, s, now)
		if l.String() != before {
			r.Fatalf("the ledger was changed")
		}
		check(r, g, s, step)
	})
}

func check(t *rapid.T, g Git, s State, step Step) {
	text, _ := json.Marshal(step)
	fail := func(why string) { t.Fatalf("%s: %s", why, text) }
	flying := s.Ledger.Release
	switch {
	case step.Reason == "":
		fail("no reason")
	case step.Command != None && (step.Release.Check() != nil || step.Proposal == ""):
		fail("a command about nothing")
	case step.Command == Promote && flying == nil, step.Command == Cleanup && flying.Stage != release.StagePromoted:
		fail("too early")
	case step.Command != Queue && step.Command != None && flying != nil && (step.Release.ID != flying.ID || flying.Proposal == ""):
		fail("of another release than the one in flight")
	case flying != nil && flying.Proposal != "" && step.Command == None && s.Lock == "":
		fail("what is in flight is left alone")
	case step.Command == Promote && flying.Stage != release.StagePromoting && (s.Ledger.Promotable() != nil || g.Problem != nil || !approvedAlone(g.History, flying)):
		fail("promoted without an approval")
	}
	starts := step.Command == Queue || step.Command == Canary && flying == nil
	if !starts {
		return
	}
	f := s.Ledger.Find(step.Release.ID)
	serves := s.Ledger.Serves()
	switch {
	case g.Problem != nil, g.History[0].Proposal == nil, g.History[0].Proposal.ID != step.Release.ID:
		fail("started without being named")
	case s.Ledger.Hold != nil:
		fail("started on hold")
	case f != nil && (!step.Again || f.Proposal == step.Proposal):
		fail("started once more")
	case step.Command == Queue && s.Policy != release.QueueSupersede && (flying != nil || s.Policy != release.QueueInOrder):
		fail("superseded without the policy")
	case !step.Again && serves != nil && (&release.Handoff{SourceURL: serves.SourceURL}).NewerThan(&step.Release),
		!step.Again && flying != nil && (&release.Handoff{SourceURL: flying.SourceURL}).NewerThan(&step.Release):
		fail("older than what there is")
	}
}

// approvedAlone says whether some commit after the one that proposed a release has brought its approval, and nothing else.
func approvedAlone(h proposal.History, r *release.Release) bool {
	for i := len(h) - 2; i >= 0; i-- {
		was, is := h[i+1].Proposal, h[i].Proposal
		if was == nil || is == nil || is.Approve != r.ID || was.Approve == r.ID {
			continue
		}
		alone := *is
		alone.Approve = was.Approve
		after := slices.ContainsFunc(h[i+1:], func(v proposal.Version) bool { return v.Commit == r.Proposal })
		if alone == *was && is.ID == r.ID && after {
			return true
		}
	}
	return false
}
