package gitlab

import (
	"errors"
	"maps"
	"os"
	"testing"

	"github.com/our-org/crossbill/internal/approval"
	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
)

// started is a GitLab with a pipeline that a trigger has started, whose jobs are not run.
func started(t *testing.T) *Pipeline {
	t.Helper()
	sample, err := os.ReadFile("../../crossbill.yaml")
	if err != nil {
		t.Fatal(err)
	}
	g, err := Start(Options{
		Dir: t.TempDir(), Repository: "../..", Config: sample, Manifests: "../../k8s", Images: "^.*$",
		Environment: "production/qwik-node-app",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	id := g.server.Add(gitlabtest.Pipeline{Ref: "main", Source: "trigger", Inputs: map[string]any{"app": "qwik-node-app"}})
	p, err := g.Pipeline(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestTokens: the jobs of canary and promote, and no others, get a token that this GitLab has signed; the policy that the
// project's crossbill.yaml has believes it.
func TestTokens(t *testing.T) {
	p := started(t)
	c, err := config.Parse("crossbill.yaml", p.gitlab.options.Config)
	if err != nil {
		t.Fatal(err)
	}
	verifier := &approval.Verifier{Issuer: c.Approval.Issuer, Audience: c.Approval.Audience}
	p.pressed[promote] = Approver
	for job, want := range map[string]struct{ user, environment string }{
		"deploy_canary": {"release-bot", "production/qwik-node-app-canary"},
		promote:         {Approver, "production/qwik-node-app"},
		"queue":         {}, "verify_canary": {}, "watch_canary": {}, "cleanup": {}, "rollback": {}, "rollback_after_verify": {},
	} {
		tokens := p.tokens(job)
		if want.user == "" {
			if len(tokens) > 0 {
				t.Errorf("%s gets %v", job, maps.Keys(tokens))
			}
			continue
		}
		token, err := verifier.Verify(t.Context(), tokens["CROSSBILL_ID_TOKEN"])
		if err != nil {
			t.Fatalf("%s: %v", job, err)
		}
		if token.UserLogin != want.user || token.Environment != want.environment || token.EnvironmentAction != "start" || token.Project != c.Approval.Project {
			t.Errorf("%s: %+v", job, token)
		}
	}
}

const promote = "promote_to_production"

// TestProtectedEnvironment: nobody but the approver presses the gate, and a job of that environment which nobody has pressed
// fails, because it runs as who started the pipeline.
func TestProtectedEnvironment(t *testing.T) {
	p := started(t)
	if err := p.Press(promote, "eve"); err == nil {
		t.Error("eve presses the gate")
	}
	for _, job := range []string{"queue", "deploy_canary", "verify_canary", watchJob} {
		if err := p.simulation.Finish(job, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Press(promote, "release-bot"); err == nil {
		t.Error("the bot presses the gate")
	}
	if err := p.simulation.Press(promote); err != nil { // by nobody
		t.Fatal(err)
	}
	if err := p.Run(t.Context(), promote, t.Output()); !errors.As(err, new(*JobError)) {
		t.Errorf("a job that nobody has pressed: %v", err)
	}
	for _, j := range p.simulation.Jobs() {
		if j.Name == promote && j.Status != "failed" {
			t.Errorf("it is %s", j.Status)
		}
	}
}
