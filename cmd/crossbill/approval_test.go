package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/approval"
	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// withPolicy is a command whose crossbill.yaml has an approval policy of a GitLab.
func withPolicy(t *testing.T, issuer string) *cobra.Command {
	t.Helper()
	c, err := config.Parse("crossbill.yaml", []byte("approval: {issuer: '"+issuer+"', project: infra/deploy, environment: production/shop}"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := &cobra.Command{Use: "promote"}
	cmd.SetContext(context.WithValue(t.Context(), configKey{}, resolved{Config: c}))
	return cmd
}

// TestApprovalOfAJob: the token of the environment, or of a file, is verified against the policy of crossbill.yaml, over HTTP.
func TestApprovalOfAJob(t *testing.T) {
	gitlab := gitlabtest.New()
	gitlab.ProtectedEnvironments = map[string][]string{"production/shop": {"mona"}}
	server := httptest.NewServer(http.HandlerFunc(gitlab.ServeHTTP))
	defer server.Close()
	gitlab.URL = server.URL
	pipeline := gitlab.Add(gitlabtest.Pipeline{Ref: "main", Source: "trigger"})
	token := gitlab.IDToken(gitlabtest.TokenJob{Pipeline: pipeline, User: "mona", Environment: "production/shop"})
	r := &release.Release{ID: "one", Stage: release.StageVerified, Pipeline: &release.Pipeline{Issuer: server.URL, Project: "infra/deploy", ID: "1000", Users: []release.User{{ID: "1", Login: "release-bot"}}}}
	ask := func(o *approvalOptions) (*release.Passed, error) {
		if err := o.load(withPolicy(t, server.URL), "said"); err != nil {
			t.Fatal(err)
		}
		return o.gate.Ask(t.Context(), approval.Promote, &release.Ledger{Release: r}, r)
	}
	if _, err := ask(&approvalOptions{}); !errors.As(err, new(*usererr.Error)) || exitCode(err) != exitBadInput {
		t.Errorf("without a token: %v", err)
	}
	t.Setenv("CROSSBILL_ID_TOKEN", token)
	if passed, err := ask(&approvalOptions{}); err != nil || passed.Approval.By != "mona" || !strings.HasPrefix(passed.By, "mona@gitlab-job-") {
		t.Errorf("from the environment: %+v, %v", passed, err)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(gitlab.IDToken(gitlabtest.TokenJob{Pipeline: pipeline, Environment: "production/shop"})), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(&approvalOptions{tokenFile: file}); err == nil || !strings.Contains(err.Error(), "nobody pressed it") {
		t.Errorf("from a file: %v", err)
	}
	server.Close()
	if _, err := (&approval.Gate{Policy: configOf(withPolicy(t, server.URL)).Approval, Token: token, Verifier: &approval.Verifier{Issuer: server.URL, Audience: "crossbill", Transport: refusing{}}}).Ask(t.Context(), approval.Promote, &release.Ledger{Release: r}, r); exitCode(err) != exitFailure || !strings.Contains(err.Error(), "Run the job again") {
		t.Errorf("an issuer that is away: exit code %d, %v", exitCode(err), err)
	}
}

// refusing answers that it must not be asked again.
type refusing struct{}

func (refusing) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusNotImplemented, Status: "501 Not Implemented", Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// TestOperatorIsAPerson: a job cannot say that it is one.
func TestOperatorIsAPerson(t *testing.T) {
	t.Setenv("GITLAB_CI", "")
	t.Setenv("GITHUB_ACTIONS", "")
	if err := (&approvalOptions{operator: true}).load(withPolicy(t, "https://gitlab.example.com"), "ann"); err != nil {
		t.Error(err)
	}
	for _, in := range []string{"GITLAB_CI", "GITHUB_ACTIONS"} {
		t.Run(in, func(t *testing.T) {
			t.Setenv(in, "true")
			if err := (&approvalOptions{operator: true}).load(withPolicy(t, "https://gitlab.example.com"), "ann"); !errors.As(err, new(*usererr.Error)) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestAuthors: what names an author.
func TestAuthors(t *testing.T) {
	if err := checkAuthors([]string{"mona", "mona@example.com", "583231", "dependabot[bot]"}); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "a b", "-x", "a\nb", strings.Repeat("x", 300)} {
		if checkAuthors([]string{bad}) == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
