package approval

import (
	"strconv"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/release"
)

const production = "production/shop"

// world is a GitLab, the policy of an app, and its release in flight, whose canary was started by a pipeline of the trigger's.
type world struct {
	t        *testing.T
	gitlab   *gitlabtest.Server
	policy   *Policy
	ledger   *release.Ledger
	pipeline int64
}

const digest = "sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, gitlab: gitlabtest.New(), policy: &Policy{Issuer: "https://gitlab.example.com", Project: "infra/deploy", Environment: production}}
	if err := w.policy.Check(); err != nil {
		t.Fatal(err)
	}
	w.gitlab.ProtectedEnvironments = map[string][]string{production: {"mona", "lisa"}}
	w.pipeline = w.gitlab.Add(gitlabtest.Pipeline{Ref: "main", Source: "trigger"})
	w.ledger = &release.Ledger{Version: release.LedgerVersion, App: "shop"}
	w.start("one", w.pipeline)
	return w
}

// start puts a release in flight, and notes who started it, as canary does: the pipeline's own user, or the one that is named.
func (w *world) start(id string, pipeline int64, user ...string) {
	w.t.Helper()
	want := release.Release{ID: id, Image: "registry.example.com/shop@" + digest, Weight: 10, Template: "t"}
	job := gitlabtest.TokenJob{Pipeline: pipeline, ID: pipeline*100 + 1, Environment: production + "-canary"}
	if len(user) > 0 {
		job.User, job.Environment = user[0], production
	}
	gate := w.gate(w.gitlab.IDToken(job))
	passed, err := gate.Ask(w.t.Context(), Canary, w.ledger, &want)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.ledger.Start(want, "canary", time.Now()); err != nil {
		w.t.Fatal(err)
	}
	w.ledger.Pass(passed, "canary", time.Now())
	w.ledger.Release.Stage = release.StageVerified
}

func (w *world) gate(token string) *Gate {
	return &Gate{Policy: w.policy, Token: token, By: "somebody", Verifier: &Verifier{Issuer: w.policy.Issuer, Audience: w.policy.Audience, Transport: w.gitlab.Transport()}}
}

// pressed is the token of the gate's job of a user.
func (w *world) pressed(user string, more ...func(*gitlabtest.TokenJob)) string {
	j := gitlabtest.TokenJob{Pipeline: w.pipeline, ID: w.pipeline*100 + 50, User: user, Environment: production}
	for _, change := range more {
		change(&j)
	}
	return w.gitlab.IDToken(j)
}

// ask asks for a command, with a token.
func (w *world) ask(command, token string) (*release.Passed, error) {
	w.t.Helper()
	return w.gate(token).Ask(w.t.Context(), command, w.ledger, w.ledger.Release)
}

// note asks, and notes what was found, as the command does that goes on.
func (w *world) note(command, token string) {
	w.t.Helper()
	passed, err := w.ask(command, token)
	if err != nil {
		w.t.Fatal(err)
	}
	w.ledger.Pass(passed, passed.By, time.Now())
}

// finish ends the release in flight.
func (w *world) finish() {
	w.t.Helper()
	w.ledger.Release.Stage = release.StagePromoted
	if err := w.ledger.Finish(release.OutcomePromoted, "cleanup", time.Now()); err != nil {
		w.t.Fatal(err)
	}
}

func number(n int64) string { return strconv.FormatInt(n, 10) }
