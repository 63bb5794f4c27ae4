package doctor

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/gitlab"
	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/notify"
)

const agents = `ci_access:
  projects:
    - id: infra/deploy
      environments: [production/shop*]
`

func TestGitLab(t *testing.T) {
	good := []string{
		"✓ GitLab project: infra/deploy is there", "✓ GitLab token: the access token has scope read_api", "✓ branch: branch main is protected",
		"✓ environment: environment production/shop is protected; who may deploy: jane", "✓ pipeline variables: nobody may give a pipeline variables",
		"✓ trigger token: release-bot may run pipelines; whether the trigger token is right shows with the first release",
		"✓ agent: agent infra/agents:production admits jobs of infra/deploy",
	}
	but := func(changes ...string) []string { // at each place where a change has the same check
		lines := append([]string{}, good...)
		for i, line := range lines {
			for _, change := range changes {
				if strings.SplitN(line, ": ", 2)[0][len("✓ "):] == strings.SplitN(change, ": ", 2)[0][strings.Index(change, " ")+1:] {
					lines[i] = change
				}
			}
		}
		return lines
	}
	beside := func(line string) []string { return slices.Insert(slices.Clone(good), len(good)-1, line) }
	for name, c := range map[string]struct {
		server func(*gitlabtest.Server)
		gitlab func(*GitLab)
		token  string
		want   []string
	}{
		"as it should be": {want: good},
		"a reporter sees little": {server: func(s *gitlabtest.Server) { s.Members["release-bot"] = gitlabtest.Reporter }, want: but(
			"? environment: the access token may not see the protected environments of infra/deploy: ask a maintainer, who finds them in Settings > CI/CD > Protected environments",
			"? pipeline variables: the access token may not see who may give a pipeline variables: ask a maintainer, who finds it in Settings > CI/CD > Variables; it has to be no one allowed",
			"✗ trigger token: gitlab.user: release-bot may not run pipelines: the role is below Developer (fix: give the trigger token's owner the role Developer in infra/deploy)",
		)},
		"a guest": {server: func(s *gitlabtest.Server) { s.Members["release-bot"] = 10 }, gitlab: func(g *GitLab) { g.User = "" }, want: but(
			"? branch: the access token may not see the branches of infra/deploy: ask a member who may read the repository",
			"? environment: the access token may not see the protected environments of infra/deploy: ask a maintainer, who finds them in Settings > CI/CD > Protected environments",
			"? pipeline variables: the access token may not see who may give a pipeline variables: ask a maintainer, who finds it in Settings > CI/CD > Variables; it has to be no one allowed",
			"? trigger token: gitlab.user does not name its owner; whether the token is right shows with the first release",
			"? agent: the access token may not see .gitlab/agents/production/config.yaml of infra/agents: ask who looks after the agent production: it has to name infra/deploy under ci_access",
		)},
		"nothing is protected": {server: func(s *gitlabtest.Server) {
			s.ProtectedRefs, s.ProtectedEnvironments, s.VariablesRole = nil, nil, "developer"
		}, want: but(
			"✗ branch: gitlab.ref: branch main of infra/deploy is not protected: who pushes to it releases (fix: protect it in Settings > Repository (docs/guides/adopt.md#protect-the-project))",
			"✗ environment: environment production/shop: the project does not protect it: who may press the gate's button promotes, unless a group protects it (fix: protect it in Settings > CI/CD > Protected environments, or name approval.approvers in crossbill.yaml)",
			"✗ pipeline variables: minimum role to use pipeline variables: it is developer: who may start a pipeline can set KUBECONFIG or PATH for its jobs (fix: set it to no one allowed, in Settings > CI/CD > Variables)",
		)},
		"without Premium": {server: func(s *gitlabtest.Server) { s.ProtectedEnvironments = nil }, gitlab: func(g *GitLab) { g.Approvers = []string{"jane", "joe"} }, want: but(
			"✓ environment: the project does not protect environment production/shop; approval.approvers names jane, joe")},
		"no such branch": {gitlab: func(g *GitLab) { g.Ref = "trunk" }, want: but("✗ branch: gitlab.ref: infra/deploy has no branch trunk (fix: name the branch that releases run on)")},
		"the wrong scope": {server: func(s *gitlabtest.Server) { s.Scopes = []string{"read_user"} }, want: but(
			"✗ GitLab token: gitlabToken: it has scope read_user, which shows no pipelines (fix: make one of scope read_api, or api to cancel duplicates)")},
		"a job's token": {server: func(s *gitlabtest.Server) { s.OfJob = true }, want: but("? GitLab token: the access token may not see its own scopes: ask who made the token")},
		"a stranger": {gitlab: func(g *GitLab) { g.User = "release" }, want: but(
			"? trigger token: no member release of infra/deploy can be seen; the trigger token's owner has to be one, with the role Developer")},
		"another environment": {server: func(s *gitlabtest.Server) {
			s.AgentConfigs["infra/agents:production"] = strings.ReplaceAll(agents, "production/shop*", "production/shop")
		}, want: but("✗ agent: agent infra/agents:production: jobs of production/shop-canary do not get its context (fix: add them to the environments of infra/deploy in its config.yaml)")},
		"another project": {server: func(s *gitlabtest.Server) {
			s.AgentConfigs["infra/agents:production"] = strings.ReplaceAll(agents, "infra/deploy", "infra/other")
		}, want: but("✗ agent: agent infra/agents:production: its ci_access does not name infra/deploy (fix: add the project to it (docs/guides/adopt.md#limit-the-agent))")},
		"a group": {server: func(s *gitlabtest.Server) {
			s.AgentConfigs["infra/agents:production"] = "ci_access: {groups: [{id: infra}]}"
		}, want: but("✓ agent: agent infra/agents:production admits jobs of infra")},
		"the project's own, which names others": {server: func(s *gitlabtest.Server) {
			s.AgentConfigs["infra/deploy:production"] = "ci_access: {projects: [{id: infra/other}], groups: [{id: infra, environments: [staging]}]}"
		}, gitlab: func(g *GitLab) { g.Context = "infra/deploy:production" }, want: but("✓ agent: agent infra/deploy:production is the project's own")},
		"the project's own, limited": {server: func(s *gitlabtest.Server) {
			s.AgentConfigs["infra/deploy:production"] = "ci_access: {projects: [{id: infra/deploy, environments: [staging]}]}"
		}, gitlab: func(g *GitLab) { g.Context = "infra/deploy:production" }, want: but("✗ agent: agent infra/deploy:production: jobs of production/shop and production/shop-canary do not get its context (fix: add them to the environments of infra/deploy in its config.yaml)")},
		"the instance": {server: func(s *gitlabtest.Server) {
			s.AgentConfigs["infra/agents:production"] = "ci_access: {projects: [{id: infra/other}], instance: {}}"
		}, want: but("✓ agent: agent infra/agents:production admits jobs of the instance")},
		"in a line":       {gitlab: func(g *GitLab) { g.Queues = true }, want: beside("? outdated deployments: the project prevents outdated deployment jobs: the jobs of a release fail if one of a newer pipeline, of another commit of the project, has its turn first (fix: turn it off in Settings > CI/CD > General pipelines > Prevent outdated deployment jobs; the ledger keeps older releases from replacing newer ones)")},
		"in a line alone": {server: func(s *gitlabtest.Server) { s.ForwardDeployment = false }, gitlab: func(g *GitLab) { g.Queues = true }, want: beside("✓ outdated deployments: the line decides which release is outdated")},
		"in a line, and a reporter": {server: func(s *gitlabtest.Server) { s.Members["release-bot"] = gitlabtest.Reporter }, gitlab: func(g *GitLab) { g.Queues, g.User, g.Context = true, "", "" }, want: append(but(
			"? environment: the access token may not see the protected environments of infra/deploy: ask a maintainer, who finds them in Settings > CI/CD > Protected environments",
			"? pipeline variables: the access token may not see who may give a pipeline variables: ask a maintainer, who finds it in Settings > CI/CD > Variables; it has to be no one allowed",
			"? trigger token: gitlab.user does not name its owner; whether the token is right shows with the first release",
		)[:len(good)-1], "? outdated deployments: the access token may not see whether the project prevents outdated deployment jobs: ask a maintainer, who finds it in Settings > CI/CD > General pipelines > Prevent outdated deployment jobs; it has to be off")},
		"an unknown token": {token: "glpat-old", want: []string{
			"✗ GitLab project: gitlabToken: GitLab does not know it, or it has expired (fix: make a new access token of scope read_api)",
			"? GitLab token: see GitLab project first", "? branch: see GitLab project first", "? environment: see GitLab project first",
			"? pipeline variables: see GitLab project first", "? trigger token: see GitLab project first", "? agent: see GitLab project first",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			server := gitlabtest.New()
			server.Members = map[string]int{"release-bot": gitlabtest.Maintainer, "prerelease-bot": gitlabtest.Developer}
			server.VariablesRole, server.ProtectedEnvironments = "no_one_allowed", map[string][]string{"production/shop": {"jane"}}
			server.AgentConfigs = map[string]string{"infra/agents:production": agents}
			if c.server != nil {
				c.server(server)
			}
			here := httptest.NewServer(server)
			defer here.Close()
			token := c.token
			if token == "" {
				token = server.ReadToken
			}
			client, err := gitlab.Connect(gitlab.Connection{URL: here.URL, Project: "infra/deploy", Token: token})
			if err != nil {
				t.Fatal(err)
			}
			g := &GitLab{
				Client: client, Project: "infra/deploy", Ref: "main", User: "release-bot", Environment: "production/shop", Canary: "production/shop-canary",
				Context: "infra/agents:production", Now: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC),
			}
			if c.gitlab != nil {
				c.gitlab(g)
			}
			if diff := cmp.Diff(c.want, run(t, g.Checks()...)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestGitLabToken: a token that ends soon, and a canary's environment that is protected.
func TestGitLabToken(t *testing.T) {
	server := gitlabtest.New()
	server.Members, server.VariablesRole, server.Expires = map[string]int{"release-bot": gitlabtest.Maintainer}, "no_one_allowed", "2026-12-01"
	server.ProtectedEnvironments = map[string][]string{"production/shop": {"jane"}, "production/shop-canary": {"jane"}}
	here := httptest.NewServer(server)
	defer here.Close()
	client, err := gitlab.Connect(gitlab.Connection{URL: here.URL, Project: "infra/deploy", Token: server.ReadToken})
	if err != nil {
		t.Fatal(err)
	}
	g := &GitLab{Client: client, Project: "infra/deploy", Ref: "main", Environment: "production/shop", Canary: "production/shop-canary", Now: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}
	if diff := cmp.Diff([]string{
		"✓ GitLab token: the access token has scope read_api", "? GitLab token: the access token expires on 2026-12-01", "✓ branch: branch main is protected",
		"✓ environment: environment production/shop is protected; who may deploy: jane",
		"✗ environment: environment production/shop-canary: it is protected: GitLab drops its jobs, which run as the trigger token's owner (fix: protect production/shop alone)",
	}, run(t, g.Checks()...)[1:6]); diff != "" {
		t.Error(diff)
	}
}

// TestGitHub: the answers were checked against GitHub's REST documentation of deployment environments and of deployment
// branch policies, and the shapes against its client library.
func TestGitHub(t *testing.T) {
	const list = "/repos/our-org/shop/environments"
	environment := func(name, policy string) string {
		return fmt.Sprintf(`{"id": 1, "name": %q, "deployment_branch_policy": %s}`, name, policy)
	}
	const chosen, protected = `{"protected_branches": false, "custom_branch_policies": true}`, `{"protected_branches": true, "custom_branch_policies": false}`
	for name, c := range map[string]struct {
		answers map[string]string // by path; what is missing is 404, and "403" a refusal
		want    []string
	}{
		"as it should be": {map[string]string{
			list: `{"total_count": 2, "environments": [` + environment("publishing", chosen) + `,` + environment("handoff", protected) + `]}`,
			list + "/publishing/deployment-branch-policies": `{"total_count": 1, "branch_policies": [{"id": 1, "name": "main"}]}`,
		}, []string{"✓ GitHub environments: environment publishing is for main alone", "✓ GitHub environments: environment handoff is for protected branches alone"}},
		"open, and missing": {map[string]string{list: `{"total_count": 1, "environments": [` + environment("publishing", "null") + `]}`}, []string{
			"✗ GitHub environments: environment publishing of our-org/shop: the workflow of any branch may read its secrets (fix: set its deployment branches to main)",
			"✗ GitHub environments: environment handoff of our-org/shop: it does not exist (fix: create it in Settings > Environments, for main alone (docs/guides/adopt.md#4-set-up-github))"}},
		"the policies are hidden": {map[string]string{
			list: `{"total_count": 2, "environments": [` + environment("publishing", chosen) + `,` + environment("handoff", protected) + `]}`,
			list + "/publishing/deployment-branch-policies": "403",
		}, []string{"✓ GitHub environments: environment handoff is for protected branches alone", "? GitHub environments: environment publishing is for chosen branches; which ones this token may not see"}},
		"hidden":           {nil, []string{"? GitHub environments: the token may not see the environments of our-org/shop: a maintainer finds them in Settings > Environments"}},
		"an unknown token": {map[string]string{list: "401"}, []string{"✗ GitHub environments: githubToken: GitHub does not know it, or it has expired (fix: make a new one)"}},
	} {
		t.Run(name, func(t *testing.T) {
			here := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				switch answer, ok := c.answers[r.URL.Path]; {
				case !ok:
					http.Error(w, `{"message": "Not Found"}`, http.StatusNotFound)
				case answer == "403":
					http.Error(w, `{"message": "Resource not accessible by personal access token"}`, http.StatusForbidden)
				case answer == "401":
					http.Error(w, `{"message": "Bad credentials"}`, http.StatusUnauthorized)
				default:
					_, _ = io.WriteString(w, answer)
				}
			}))
			defer here.Close()
			if diff := cmp.Diff(c.want, run(t, GitHub(notify.GitHub{URL: here.URL, Repository: "our-org/shop", Token: "x"}, "publishing", "handoff"))); diff != "" {
				t.Error(diff)
			}
		})
	}
}
