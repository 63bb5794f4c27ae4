package doctor

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/notify"
)

var today = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// TestGitHubToken: what a token may write is shown where GitHub shows it, and unknown elsewhere. The answers were checked
// against GitHub's documentation of OAuth scopes (X-OAuth-Scopes, of classic tokens alone), of the permissions that
// fine-grained tokens and apps need, and of a token's expiration. They differ: a read is refused only where a test says so.
func TestGitHubToken(t *testing.T) {
	const unknown = " is unknown: GitHub does not say of a fine-grained or an app's token what it may write; it takes "
	const leaveOut = ", or notify.github.pullRequest: false leaves check runs and comments out)"
	const statuses = "commit statuses, in place of check runs, which take a GitHub App"
	for name, c := range map[string]struct {
		token   string
		scopes  string // "-" for a token that is not classic
		repo    string // "" for a private one that its user may write to
		refused []string
		expires string
		noPages bool
		want    []string
	}{
		"classic": {scopes: "repo, workflow", want: []string{
			"✓ GitHub token: the token may write deployments: it has scope repo, workflow", "✓ GitHub token: the token may write " + statuses + ": it has scope repo, workflow",
			"✓ GitHub token: the token may write comments on pull requests: it has scope repo, workflow",
		}},
		"classic, narrow": {scopes: "repo_deployment", want: []string{
			"✓ GitHub token: the token may write deployments: it has scope repo_deployment",
			"✗ GitHub token: githubToken: it may not write " + statuses + ": it has scope repo_deployment (fix: give it scope repo" + leaveOut,
			"✗ GitHub token: githubToken: it may not write comments on pull requests: it has scope repo_deployment (fix: give it scope repo" + leaveOut,
		}},
		"classic, without a scope":              {scopes: "", noPages: true, want: []string{"✗ GitHub token: githubToken: it may not write deployments: it has no scope (fix: give it scope repo" + leaveOut}},
		"classic, public":                       {scopes: "public_repo", repo: `{"full_name":"our-org/shop","private":false,"permissions":{"push":true}}`, noPages: true, want: []string{"✓ GitHub token: the token may write deployments: it has scope public_repo"}},
		"classic, public_repo of a private one": {scopes: "public_repo", noPages: true, want: []string{"✗ GitHub token: githubToken: it may not write deployments: it has scope public_repo (fix: give it scope repo" + leaveOut}},
		"classic, of a reader": {scopes: "repo", repo: `{"full_name":"our-org/shop","private":true,"permissions":{"pull":true}}`, noPages: true, want: []string{
			"✗ GitHub token: githubToken: it may not write deployments: its user may not write to the repository (fix: give it the role Write in our-org/shop" + leaveOut,
		}},
		"an app's": {scopes: "-", want: []string{
			"? GitHub token: whether the token may write deployments" + unknown + "Deployments: write", "? GitHub token: whether the token may write check runs" + unknown + "Checks: write",
			"? GitHub token: whether the token may write comments on pull requests" + unknown + "Pull requests: write",
		}},
		"an app's, refused": {scopes: "-", refused: []string{"/commits/main/check-runs", "/pulls"}, want: []string{
			"? GitHub token: whether the token may write deployments" + unknown + "Deployments: write",
			"✗ GitHub token: githubToken: it may not write check runs: it may not even read them (fix: give it Checks: write" + leaveOut,
			"✗ GitHub token: githubToken: it may not write comments on pull requests: it may not even read them (fix: give it Pull requests: write" + leaveOut,
		}},
		"fine-grained": {token: "github_pat_x", scopes: "-", expires: "2026-12-01 10:00:00 UTC", want: []string{
			"? GitHub token: whether the token may write deployments" + unknown + "Deployments: write", "? GitHub token: whether the token may write " + statuses + unknown + "Commit statuses: write",
			"? GitHub token: whether the token may write comments on pull requests" + unknown + "Pull requests: write", "? GitHub token: the token expires on 2026-12-01",
		}},
		"an unknown token": {token: "old", want: []string{"✗ GitHub token: githubToken: GitHub does not know it, or it has expired (fix: make a new one)"}},
		"a hidden repository": {scopes: "-", refused: []string{""}, want: []string{
			"✗ GitHub token: notify.github.repository: our-org/shop does not exist, or the token may not see it (fix: check the name, and give the token access to the repository)",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			here := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if c.scopes != "-" {
					w.Header()["X-Oauth-Scopes"] = []string{c.scopes}
				}
				if c.expires != "" {
					w.Header().Set("Github-Authentication-Token-Expiration", c.expires)
				}
				if r.Header.Get("Authorization") == "Bearer old" {
					http.Error(w, `{"message": "Bad credentials"}`, http.StatusUnauthorized)
					return
				}
				for _, path := range c.refused {
					if r.URL.Path == "/repos/our-org/shop"+path {
						http.Error(w, `{"message": "Resource not accessible by integration"}`, http.StatusForbidden)
						return
					}
				}
				switch {
				case r.Method != http.MethodGet:
					t.Errorf("%s %s", r.Method, r.URL)
				case r.URL.Path == "/repos/our-org/shop/commits/main/check-runs":
					_, _ = io.WriteString(w, `{"total_count":0,"check_runs":[]}`)
				case r.URL.Path != "/repos/our-org/shop":
					_, _ = io.WriteString(w, `[]`)
				case c.repo != "":
					_, _ = io.WriteString(w, c.repo)
				default:
					_, _ = io.WriteString(w, `{"full_name":"our-org/shop","private":true,"default_branch":"main","permissions":{"push":true}}`)
				}
			}))
			defer here.Close()
			token := c.token
			if token == "" {
				token = "ghs_x"
			}
			if diff := cmp.Diff(c.want, run(t, GitHubToken(notify.GitHub{URL: here.URL, Repository: "our-org/shop", Token: token}, !c.noPages, today))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestGitLabCode: what the token of the code's project may write, by its scopes and its user's role.
func TestGitLabCode(t *testing.T) {
	const notes, statuses = "✓ GitLab notes token: the token may write notes on merge requests", "✓ GitLab notes token: the token may write commit statuses: "
	for name, c := range map[string]struct {
		server         func(*gitlabtest.Server)
		token, project string
		want           []string
	}{
		"a maintainer":               {want: []string{notes, statuses + "its user may push to main"}},
		"a developer, who may merge": {server: func(s *gitlabtest.Server) { s.Members[s.APIUser], s.DevelopersMerge = gitlabtest.Developer, true }, want: []string{notes, statuses + "Developers may merge to main"}},
		"a developer, not protected": {server: func(s *gitlabtest.Server) { s.Members[s.APIUser], s.ProtectedRefs = gitlabtest.Developer, nil }, want: []string{notes, statuses + "branch main is not protected"}},
		"a developer":                {server: func(s *gitlabtest.Server) { s.Members[s.APIUser] = gitlabtest.Developer }, want: []string{notes, "? GitLab notes token: whether the token may write commit statuses is unknown: branch main is protected, and who may merge to it is not shown; it takes the right to push or merge to main"}},
		"a reporter": {server: func(s *gitlabtest.Server) { s.Members[s.APIUser] = gitlabtest.Reporter }, want: []string{
			"✗ GitLab notes token: notifyGitlabToken: it may not write notes on merge requests: its user has a role below Developer (fix: give it the role Developer in our-org/shop, or leave the token away)",
			"✗ GitLab notes token: notifyGitlabToken: it may not write commit statuses: its user has a role below Developer (fix: give it the role Developer in our-org/shop, or leave the token away)",
		}},
		"a stranger": {server: func(s *gitlabtest.Server) { s.Members = nil }, want: []string{
			"? GitLab notes token: whether the token may write notes on merge requests is unknown: its user is no member that it can see; it takes the role Developer in our-org/shop",
			"? GitLab notes token: whether the token may write commit statuses is unknown: its user is no member that it can see; it takes the right to push or merge to main",
		}},
		"read_api": {token: "glpat-read", want: []string{
			"✗ GitLab notes token: notifyGitlabToken: it may not write notes on merge requests: it has scope read_api (fix: give it scope api, or leave the token away)",
			"✗ GitLab notes token: notifyGitlabToken: it may not write commit statuses: it has scope read_api (fix: give it scope api, or leave the token away)",
		}},
		"it ends soon": {server: func(s *gitlabtest.Server) { s.Expires = "2026-12-01" }, want: []string{notes, statuses + "its user may push to main", "? GitLab notes token: the token expires on 2026-12-01"}},
		"a job's":      {server: func(s *gitlabtest.Server) { s.OfJob = true }, want: []string{"? GitLab notes token: the token may not see its own scopes: ask who made the token; it takes scope api"}},
		"unknown":      {token: "glpat-old", want: []string{"✗ GitLab notes token: notifyGitlabToken: GitLab does not know it, or it has expired (fix: make a project access token of scope api; a job's own token (CI_JOB_TOKEN) may write neither statuses nor notes)"}},
		"no such project": {project: "our-org/other", want: []string{
			"✗ GitLab notes token: notify.gitlab.project: our-org/other does not exist, or the token may not see it (fix: check the name, and make the token's user a member with the role Developer)",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			server := gitlabtest.New()
			server.Project, server.Members = "our-org/shop", map[string]int{server.APIUser: gitlabtest.Maintainer}
			if c.server != nil {
				c.server(server)
			}
			here := httptest.NewServer(server)
			defer here.Close()
			project := notify.GitLab{URL: here.URL, Project: "our-org/shop", Token: server.APIToken}
			if c.token != "" {
				project.Token = c.token
			}
			if c.project != "" {
				project.Project = c.project
			}
			if diff := cmp.Diff(c.want, run(t, GitLabCode(project, today))); diff != "" {
				t.Error(diff)
			}
		})
	}
}
