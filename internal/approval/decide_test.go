package approval

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// TestApproved: the token of the gate's job that a person has started approves, and the ledger says who.
func TestApproved(t *testing.T) {
	w := newWorld(t)
	w.note(Promote, w.pressed("mona"))
	r := w.ledger.Release
	if r.Approvers() != "mona" || len(r.Approvals) != 1 {
		t.Fatalf("approvals %+v", r.Approvals)
	}
	a := r.Approvals[0]
	if a.Kind != release.ApprovalVerified || a.Command != Promote || a.Pipeline != number(w.pipeline) || a.Job != number(w.pipeline*100+50) || a.Token == "" || a.Policy != w.policy.Hash() {
		t.Errorf("%+v", a)
	}
	if o := r.Pipeline; o == nil || o.ID != number(w.pipeline) || len(o.Users) != 1 || o.Users[0].Login != "release-bot" {
		t.Errorf("origin %+v", r.Pipeline)
	}
	if w.ledger.Policy == nil || w.ledger.Policy.Hash != w.policy.Hash() {
		t.Errorf("policy %+v", w.ledger.Policy)
	}
}

func claim(name string, value any) func(*gitlabtest.TokenJob) {
	return func(j *gitlabtest.TokenJob) { j.Claims = map[string]any{name: value} }
}

// TestRefused: what is genuine and no approval of this release, each with why.
func TestRefused(t *testing.T) {
	for name, test := range map[string]struct {
		token  func(w *world) string
		change func(w *world)
		want   string
	}{
		"other project":           {token: func(w *world) string { return w.pressed("mona", claim("project_path", "evil/deploy")) }, want: "the job is of project evil/deploy, not of infra/deploy"},
		"merge request of a fork": {token: func(w *world) string { return w.pressed("mona", claim("job_project_path", "evil/deploy")) }, want: "runs in project evil/deploy"},
		"project made anew":       {change: func(w *world) { w.policy.ProjectID = 8 }, want: "has the number 7, not 8"},
		"other ref": {token: func(w *world) string {
			return w.pressed("mona", func(j *gitlabtest.TokenJob) { j.Claims = map[string]any{"ref": "old", "ref_path": "refs/heads/old"} })
		}, want: "the job runs on refs/heads/old, not on main"},
		"tag of the branch's name": {token: func(w *world) string {
			return w.pressed("mona", func(j *gitlabtest.TokenJob) {
				j.Claims = map[string]any{"ref_type": "tag", "ref_path": "refs/tags/main"}
			})
		}, want: "the job runs on refs/tags/main, not on main"},
		"unprotected ref": {change: func(w *world) { w.gitlab.ProtectedRefs = nil }, want: "the ref main is not protected"},
		"other environment": {token: func(w *world) string {
			return w.pressed("mona", func(j *gitlabtest.TokenJob) { j.Environment = "staging" })
		}, want: "for the environment staging, not for production/shop"},
		"canary's environment": {token: func(w *world) string {
			return w.pressed("mona", func(j *gitlabtest.TokenJob) { j.Environment += "-canary" })
		}, want: "for the environment production/shop-canary"},
		"no environment":          {token: func(w *world) string { return w.pressed("mona", func(j *gitlabtest.TokenJob) { j.Environment = "" }) }, want: "the job has no environment"},
		"unprotected environment": {change: func(w *world) { w.gitlab.ProtectedEnvironments = nil }, want: "the environment production/shop is not protected"},
		"on_stop":                 {token: func(w *world) string { return w.pressed("", func(j *gitlabtest.TokenJob) { j.Action = "stop" }) }, want: "the job is there to stop its environment"},
		"verify job":              {token: func(w *world) string { return w.pressed("mona", func(j *gitlabtest.TokenJob) { j.Action = "verify" }) }, want: "the job is there to verify its environment"},
		"old GitLab":              {token: func(w *world) string { return w.pressed("mona", claim("environment_action", "")) }, want: "GitLab 16.5 or later"},
		"child pipeline":          {token: func(w *world) string { return w.pressed("mona", claim("pipeline_source", "parent_pipeline")) }, want: `started by "parent_pipeline"`},
		"schedule":                {token: func(w *world) string { return w.pressed("mona", claim("pipeline_source", "schedule")) }, want: `started by "schedule"`},
		"nobody pressed":          {token: func(w *world) string { return w.pressed("") }, want: "nobody pressed it: the job ran as release-bot, who started the pipeline"},
		"another bot pressed":     {token: func(w *world) string { return w.pressed("project_7_bot_0123abcdef") }, want: "project_7_bot_0123abcdef is no person"},
		"a service account":       {token: func(w *world) string { return w.pressed("service_account_group_5_0a1b") }, want: "is no person"},
		"not an approver":         {token: func(w *world) string { return w.pressed("eve") }, change: func(w *world) { w.policy.Approvers = []string{"mona"} }, want: "eve is not among the approvers"},
		"no token":                {token: func(*world) string { return "" }, want: "promote needs an approval (crossbill.yaml: approval), and this job has no token"},
		"replayed from another pipeline": {token: func(w *world) string {
			other := w.gitlab.Add(gitlabtest.Pipeline{Ref: "main", Source: "trigger"})
			return w.pressed("mona", func(j *gitlabtest.TokenJob) { j.Pipeline, j.ID = other, other*100 })
		}, want: "is of pipeline 1001, and release one is run by pipeline 1000"},
		"older than the release": {token: func(w *world) string {
			return w.pressed("mona", func(j *gitlabtest.TokenJob) { j.At = time.Now().Add(-10 * time.Minute) })
		}, want: "had its token before release one has started"},
		"starter not known": {change: func(w *world) {
			w.ledger.Release.Pipeline, w.ledger.Release.PipelineURL = nil, "https://gitlab.example.com/infra/deploy/-/pipelines/1000"
		}, want: "who started the pipeline is not known"},
		"pipeline not known": {change: func(w *world) { w.ledger.Release.Pipeline = nil }, want: "which pipeline runs release one is not known"},
		"another project's URL": {change: func(w *world) {
			w.ledger.Release.Pipeline = nil
			w.ledger.Release.PipelineURL = "https://gitlab.example.com/evil/infra-deploy/-/pipelines/1000"
		}, want: "which pipeline runs release one is not known"},
		"author not known":          {change: func(w *world) { w.policy.NotAuthor = true }, want: "who wrote release one is not known"},
		"author pressed":            {change: func(w *world) { w.policy.NotAuthor, w.ledger.Release.Authors = true, []string{"MONA"} }, want: "mona wrote release one (MONA)"},
		"author by e-mail":          {change: func(w *world) { w.policy.NotAuthor, w.ledger.Release.Authors = true, []string{"mona@example.com"} }, want: "mona wrote release one"},
		"author by GitHub's number": {change: func(w *world) { w.policy.NotAuthor, w.ledger.Release.Authors = true, []string{"583231"} }, want: "mona wrote release one"},
		"one of two approvers":      {change: func(w *world) { w.policy.Number = 2 }, want: "1 of 2 approvals: only mona has approved"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.gitlab.Users = append(w.gitlab.Users, gitlabtest.User{ID: 30, Login: "mona", Identities: []gitlabtest.Identity{{Provider: "github", ExternUID: "583231"}}})
			if test.change != nil {
				test.change(w)
			}
			token := w.pressed("mona")
			if test.token != nil {
				token = test.token(w)
			}
			passed, err := w.ask(Promote, token)
			if !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%+v, %v\nwant %s", passed, err, test.want)
			}
			if err != nil && errors.As(err, new(*UnreachableError)) {
				t.Error("a refusal is called an outage")
			}
		})
	}
}

// TestFreeGitLab: without Premium no environment is protected, and the approvers are named. Who started the pipeline is refused
// there too; that it is not known is no matter.
func TestFreeGitLab(t *testing.T) {
	w := newWorld(t)
	w.gitlab.ProtectedEnvironments, w.policy.Approvers = nil, []string{"Mona", "release-bot"}
	if _, err := w.ask(Promote, w.pressed("mona")); err != nil {
		t.Error(err)
	}
	if _, err := w.ask(Promote, w.pressed("")); err == nil || !strings.Contains(err.Error(), "nobody pressed it") {
		t.Errorf("the bot: %v", err)
	}
	w.ledger.Release.Pipeline, w.ledger.Release.PipelineURL = nil, "https://gitlab.example.com/infra/deploy/-/pipelines/1000"
	if _, err := w.ask(Promote, w.pressed("mona")); err != nil {
		t.Errorf("without an origin: %v", err)
	}
}

// TestReplayedForAnotherRelease: a token, and the job that had it, approve one release only. The same one may be run again.
func TestReplayedForAnotherRelease(t *testing.T) {
	w := newWorld(t)
	token := w.pressed("mona")
	w.note(Promote, token)
	w.note(Promote, token)
	if n := len(w.ledger.Release.Approvals); n != 1 {
		t.Errorf("%d approvals of one token", n)
	}
	w.finish()
	w.start("two", w.pipeline) // even in the same pipeline
	if _, err := w.ask(Promote, token); err == nil || !strings.Contains(err.Error(), "has approved release one already") {
		t.Errorf("another release: %v", err)
	}
	w.finish()
	w.start("one", w.pipeline) // released again: the same name is another release
	if _, err := w.ask(Promote, token); err == nil || !strings.Contains(err.Error(), "has approved release one already") {
		t.Errorf("the same release again: %v", err)
	}
	w.ledger.History = nil // however short the memory is
	w.ledger.Release.StartedAt = time.Now().Add(2 * leeway)
	if _, err := w.ask(Promote, token); err == nil || !strings.Contains(err.Error(), "had its token before release one has started") {
		t.Errorf("without a history: %v", err)
	}
}

// TestTwoApprovers: approve records one, promote counts it with its own; the same person counts once, however often.
func TestTwoApprovers(t *testing.T) {
	w := newWorld(t)
	w.policy.Number = 2
	w.note(Approve, w.pressed("mona", func(j *gitlabtest.TokenJob) { j.Action = "verify" })) // a job that deploys nothing
	w.note(Approve, w.pressed("mona", func(j *gitlabtest.TokenJob) { j.ID = 77 }))
	if _, err := w.ask(Approve, w.pressed("lisa", func(j *gitlabtest.TokenJob) { j.Action = "stop" })); err == nil {
		t.Error("on_stop approves")
	}
	if n := len(w.ledger.Release.Approvals); n != 1 {
		t.Errorf("%d approvals of one person", n)
	}
	if _, err := w.ask(Promote, w.pressed("mona", func(j *gitlabtest.TokenJob) { j.ID = 78 })); err == nil || !strings.Contains(err.Error(), "1 of 2 approvals: only mona has approved") {
		t.Errorf("the same approver twice: %v", err)
	}
	w.note(Promote, w.pressed("lisa"))
	if got := w.ledger.Release.Approvers(); got != "mona, lisa" {
		t.Errorf("approved by %s", got)
	}
}

// TestApproverWhoIsNoneAnyMore: an approval that was recorded counts only as long as the policy has its approver.
func TestApproverWhoIsNoneAnyMore(t *testing.T) {
	w := newWorld(t)
	w.policy.Number, w.policy.Approvers = 2, []string{"mona", "lisa", "ann"}
	w.note(Approve, w.pressed("mona"))
	w.policy.Approvers = []string{"lisa", "ann"}
	if _, err := w.ask(Promote, w.pressed("lisa")); err == nil || !strings.Contains(err.Error(), "1 of 2 approvals: only lisa has approved") {
		t.Errorf("%v", err)
	}
}

// TestRerunAfterCrash: what was approved when it began is finished without a new press: with no token, with an old one, with
// that of whoever has retried the job, and without the issuer.
func TestRerunAfterCrash(t *testing.T) {
	w := newWorld(t)
	w.note(Promote, w.pressed("mona"))
	w.ledger.Release.Stage = release.StagePromoting
	w.gitlab.KeyFaults = slices.Repeat([]gitlabtest.Fault{{Kind: gitlabtest.Drop}}, 1000)
	for name, token := range map[string]string{
		"no token":  "",
		"expired":   w.pressed("mona", func(j *gitlabtest.TokenJob) { j.At, j.Timeout = time.Now().Add(-time.Hour), time.Minute }),
		"retried":   w.pressed("eve", func(j *gitlabtest.TokenJob) { j.ID = 99 }),
		"by itself": w.pressed(""),
	} {
		passed, err := w.ask(Promote, token)
		if err != nil || passed.Approval != nil || !strings.Contains(strings.Join(passed.Remarks, " "), "approved when it began, by mona") {
			t.Errorf("%s: %+v, %v", name, passed, err)
		}
	}
	w.ledger.Release.Approvals = nil
	if _, err := w.ask(Promote, ""); err == nil {
		t.Error("a promotion that nobody has approved is finished")
	}
}

// TestCanaryNotesWhoStarted: as whom the canary's job ran, also when it is run again, and of the first pipeline only.
func TestCanaryNotesWhoStarted(t *testing.T) {
	w := newWorld(t)
	job := func(pipeline int64, user string) string {
		return w.gitlab.IDToken(gitlabtest.TokenJob{Pipeline: pipeline, User: user, Environment: production + "-canary"})
	}
	w.note(Canary, job(w.pipeline, "ann"))
	other := w.gitlab.Add(gitlabtest.Pipeline{Ref: "main", Source: "trigger", User: "other-bot"})
	w.note(Canary, job(other, ""))
	want := []string{"release-bot", "ann"}
	var got []string
	for _, u := range w.ledger.Release.Pipeline.Users {
		got = append(got, u.Login)
	}
	if !slices.Equal(got, want) || w.ledger.Release.Pipeline.ID != number(w.pipeline) {
		t.Errorf("users %v of pipeline %s, want %v", got, w.ledger.Release.Pipeline.ID, want)
	}
	if _, err := w.ask(Promote, w.pressed("ann")); err == nil || !strings.Contains(err.Error(), "nobody pressed it") {
		t.Errorf("who has retried the canary: %v", err)
	}
	if _, err := w.ask(Canary, w.gitlab.IDToken(gitlabtest.TokenJob{Pipeline: w.pipeline, Claims: map[string]any{"ref_protected": "false"}})); err == nil {
		t.Error("a canary from an unprotected ref")
	}
	if passed, err := w.ask(Canary, ""); err != nil || len(passed.Remarks) > 0 {
		t.Errorf("without a token, when the pipeline is known: %+v, %v", passed, err)
	}
	w.ledger.Release.Pipeline = nil
	passed, err := w.ask(Canary, "")
	if err != nil || !strings.Contains(strings.Join(passed.Remarks, " "), "who started the pipeline is not known") {
		t.Errorf("without a token: %+v, %v", passed, err)
	}
}

// TestBeforeCanary: with canary in approval.before, the canary's job needs a named approver.
func TestBeforeCanary(t *testing.T) {
	w := newWorld(t)
	w.policy.Before = []string{Canary, Promote}
	w.ledger.Release = nil
	r := &release.Release{ID: "new", Image: "registry.example.com/shop@" + digest}
	ask := func(user string) error {
		_, err := w.gate(w.pressed(user)).Ask(t.Context(), Canary, w.ledger, r)
		return err
	}
	if err := ask("mona"); err == nil || !strings.Contains(err.Error(), "name approvers") {
		t.Errorf("nobody is named: %v", err)
	}
	w.policy.Approvers = []string{"mona", "lisa"}
	if err := ask("mona"); err != nil {
		t.Error(err)
	}
	if err := ask(""); err == nil || !strings.Contains(err.Error(), "release-bot is not among the approvers") {
		t.Errorf("the bot: %v", err)
	}
	w.start("new", w.pipeline, "mona")
	w.ledger.Release.Stage = release.StageStarted // the job has died
	if _, err := w.ask(Canary, w.pressed("mona")); err != nil {
		t.Errorf("the approver, who goes on after a crash: %v", err)
	}
	if _, err := w.ask(Promote, w.pressed("mona")); err == nil || !strings.Contains(err.Error(), "nobody pressed it") {
		t.Errorf("who has started the canary promotes it: %v", err)
	}
	w.ledger.Release.Stage = release.StageCanary // done: who runs the job again is noted, and approves nothing
	if passed, err := w.ask(Canary, w.pressed("eve")); err != nil || passed.Approval != nil || passed.Pipeline == nil {
		t.Errorf("eve, after the canary has its traffic: %+v, %v", passed, err)
	}
}

// TestStarterStaysUnknown: whoever goes on with a release whose first job had no token is not who started the pipeline, as
// whom all runs that nobody starts.
func TestStarterStaysUnknown(t *testing.T) {
	for _, stage := range []release.Stage{release.StageStarted, release.StageCanary} {
		w := newWorld(t)
		w.ledger.Release.Pipeline, w.ledger.Release.Stage = nil, stage
		w.note(Canary, w.gitlab.IDToken(gitlabtest.TokenJob{Pipeline: w.pipeline, User: "mona", Environment: production + "-canary"}))
		if _, err := w.ask(Promote, w.pressed("")); err == nil || !strings.Contains(err.Error(), "which pipeline runs release one is not known") {
			t.Errorf("%s: a job that nobody pressed, after mona has run canary again: %v", stage, err)
		}
	}
}

// TestOperator: a person with rights in the cluster goes on without a token, and the ledger says so; it does not take the
// policy away.
func TestOperator(t *testing.T) {
	w := newWorld(t)
	for _, policy := range []*Policy{w.policy, nil} {
		g := &Gate{Policy: policy, Operator: true, By: "ann@laptop"}
		passed, err := g.Ask(t.Context(), Promote, w.ledger, w.ledger.Release)
		if err != nil {
			t.Fatal(err)
		}
		w.ledger.Pass(passed, g.By, time.Now())
	}
	r := w.ledger.Release
	if len(r.Approvals) != 1 || r.Approvals[0].Kind != release.ApprovalOperator || r.Approvers() != "ann@laptop (operator)" {
		t.Errorf("approvals %+v", r.Approvals)
	}
	if w.ledger.Policy.Hash != w.policy.Hash() {
		t.Error("the policy is gone")
	}
	w.policy.Number = 2
	w.ledger.Release.Stage = release.StagePromoting
	if _, err := w.ask(Promote, ""); err != nil {
		t.Errorf("what an operator began is not finished: %v", err)
	}
}

// TestDowngrade: once an app has had a policy, a crossbill.yaml without one releases nothing. A changed one is said and noted.
func TestDowngrade(t *testing.T) {
	w := newWorld(t)
	without := &Gate{By: "somebody"}
	for _, command := range []string{Canary, Shift, Approve, Promote} {
		if _, err := without.Ask(t.Context(), command, w.ledger, w.ledger.Release); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "this app has had a policy since") {
			t.Errorf("%s: %v", command, err)
		}
	}
	was := w.policy.Hash()
	w.policy.Approvers = []string{"mona"}
	passed, err := w.ask(Promote, w.pressed("mona"))
	if err != nil || !strings.Contains(strings.Join(passed.Remarks, " "), "the policy has changed: it is "+w.policy.Hash()+", and was "+was) {
		t.Errorf("%+v, %v", passed, err)
	}
	w.ledger.Pass(passed, passed.By, time.Now())
	if w.ledger.Policy.Hash != w.policy.Hash() || !strings.HasPrefix(w.ledger.Policy.By, "mona@gitlab-job-") {
		t.Errorf("noted %+v", w.ledger.Policy)
	}
}

// TestAnotherPlace: a crossbill.yaml of another protected ref does not take the gate there, with approvers of its own.
func TestAnotherPlace(t *testing.T) {
	for name, move := range map[string]func(*Policy){
		"ref":         func(p *Policy) { p.Ref = "hotfix" },
		"project":     func(p *Policy) { p.Project = "evil/deploy" },
		"environment": func(p *Policy) { p.Environment = "playground" },
		"issuer":      func(p *Policy) { p.Issuer = "https://gitlab.evil.example" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.note(Canary, w.pressed("release-bot", func(j *gitlabtest.TokenJob) { j.Environment = production + "-canary" }))
			move(w.policy)
			for _, command := range []string{Canary, Approve, Promote} {
				if _, err := w.ask(command, w.pressed("mona")); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "this app is approved by the jobs of infra/deploy") {
					t.Errorf("%s: %v", command, err)
				}
			}
			g := &Gate{Policy: w.policy, Operator: true, By: "ann@laptop"}
			passed, err := g.Ask(t.Context(), Canary, w.ledger, w.ledger.Release)
			if err != nil {
				t.Fatal(err)
			}
			w.ledger.Pass(passed, g.By, time.Now())
			if w.ledger.Policy.Where != w.policy.where() {
				t.Errorf("noted %+v", w.ledger.Policy)
			}
		})
	}
}

// TestAsksLess: a crossbill.yaml of another ref that asks before fewer commands does not open them to jobs that prove nothing of
// where they run.
func TestAsksLess(t *testing.T) {
	for _, command := range []string{Canary, Shift} {
		w := newWorld(t)
		w.policy.Before, w.policy.Approvers = []string{command, Promote}, []string{"mona"}
		w.ledger.Pass(&release.Passed{Policy: w.policy.Hash(), Where: w.policy.where(), Before: w.policy.beyond()}, "job", time.Now())
		w.ledger.Release.Stage = release.StageStarted
		w.policy.Before = []string{Promote}
		if command == Shift {
			w.note(Canary, "") // which does not need a token, and does not change the policy that is noted
		}
		if _, err := w.ask(command, ""); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "asks nobody before "+command) {
			t.Errorf("%s without a token: %v", command, err)
		}
		if _, err := w.ask(command, w.gitlab.IDToken(gitlabtest.TokenJob{Pipeline: w.pipeline, Claims: map[string]any{"ref": "old", "ref_path": "refs/heads/old"}})); err == nil {
			t.Errorf("%s of another ref", command)
		}
		w.note(command, w.pressed("")) // the protected branch has changed its mind
		if _, err := w.ask(command, ""); err != nil {
			t.Errorf("%s, once the change is noted: %v", command, err)
		}
	}
}

// TestWithoutPolicy: an app that never had a policy promotes as before, and the ledger says that nobody was asked.
func TestWithoutPolicy(t *testing.T) {
	l := &release.Ledger{Release: &release.Release{ID: "one"}}
	g := &Gate{By: "ann"}
	passed, err := g.Ask(t.Context(), Promote, l, l.Release)
	if err != nil {
		t.Fatal(err)
	}
	l.Pass(passed, g.By, time.Now())
	if got := l.Release.Approvers(); got != "ann (not verified)" {
		t.Errorf("approved by %s", got)
	}
	if passed, err := g.Ask(t.Context(), Canary, l, l.Release); err != nil || passed.Approval != nil {
		t.Errorf("canary: %+v, %v", passed, err)
	}
	if _, err := g.Ask(t.Context(), Approve, l, l.Release); err == nil {
		t.Error("approve without a policy")
	}
}

// TestHash: a policy has one name, whatever the order of its lists, and another policy another one.
func TestHash(t *testing.T) {
	a := Policy{Issuer: "https://g", Project: "a/b", Environment: "e", Approvers: []string{"x", "y"}, Before: []string{Promote, Canary}}
	b := a
	b.Approvers, b.Before = []string{"y", "x"}, []string{Canary, Promote}
	if a.Hash() != b.Hash() {
		t.Error("the order matters")
	}
	b.Number = 2
	if a.Hash() == b.Hash() {
		t.Error("the number does not matter")
	}
}

// ledgerOf is a ledger whose release is run by the pipeline of a token, started by another user.
func ledgerOf(c *Claims) *release.Ledger {
	return &release.Ledger{App: "shop", Release: &release.Release{
		ID: "one", Stage: release.StageVerified, StartedAt: c.IssuedAt.Add(-time.Minute),
		Pipeline: &release.Pipeline{Issuer: "https://g.example.com", Project: "a/b", ID: c.Pipeline, Users: []release.User{{ID: "1", Login: "release-bot"}}},
	}}
}

// TestEveryClaimCounts: of a token that is an approval, any one claim that says something else makes it none.
func TestEveryClaimCounts(t *testing.T) {
	good := map[string]string{
		"project_path": "a/b", "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true", "environment": "e",
		"environment_protected": "true", "environment_action": "start", "pipeline_source": "trigger", "pipeline_id": "9",
	}
	build := func(values map[string]string) *Claims {
		return &Claims{
			ID: "t", Issuer: "https://g.example.com", IssuedAt: time.Unix(1e9, 0), UserID: "2", UserLogin: "mona", Job: "5", ProjectID: "7",
			Project: values["project_path"], Ref: values["ref"], RefType: values["ref_type"], RefPath: values["ref_path"], RefProtected: values["ref_protected"],
			Environment: values["environment"], EnvironmentProtected: values["environment_protected"], EnvironmentAction: values["environment_action"],
			Source: values["pipeline_source"], Pipeline: values["pipeline_id"],
		}
	}
	p := &Policy{Issuer: "https://g.example.com", Project: "a/b", Environment: "e"}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	ledger := ledgerOf(build(good))
	if _, err := p.Decide(Question{Promote, ledger.Release, ledger, build(good)}); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		values := maps.Clone(good)
		name := rapid.SampledFrom(slices.Sorted(maps.Keys(good))).Draw(t, "claim")
		value := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "TRUE", "True", "true ", "1", "main", "Main", "refs/tags/main", "tag", "stop", "parent_pipeline", "a/b/", "A/B", "e/"})).Draw(t, "value")
		values[name] = value
		if value == good[name] || name == "ref_path" && value == "" || name == "pipeline_source" && slices.Contains(sources, value) {
			t.Skip("it says the same")
		}
		if _, err := p.Decide(Question{Promote, ledger.Release, ledger, build(values)}); err == nil {
			t.Fatalf("%s: %q is an approval", name, value)
		}
	})
}
