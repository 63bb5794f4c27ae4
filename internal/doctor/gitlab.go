package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/gitlab"
	"github.com/our-org/crossbill/internal/usererr"
)

// GitLab is the project that deploys.
type GitLab struct {
	Client      *gitlab.Client
	Project     string
	Ref         string
	User        string // who owns the trigger token; "" if that is not configured
	Environment string // of the gate
	Canary      string // environment of the other jobs
	Approvers   []string
	Queues      bool   // releases wait for each other
	Context     string // of the kubeconfig: PROJECT:AGENT; "" for none
	Now         time.Time
}

// Checks are those of the project's settings. What the access token may not see is unknown.
func (g *GitLab) Checks() []Check {
	const project = "GitLab project"
	settings := &gitlab.Settings{}
	checks := []Check{
		{Name: project, Run: func(ctx context.Context) (_ []string, err error) {
			*settings, err = g.Client.Settings(ctx)
			return orError(g.Project+" is there", hidden(err, "a member of the project"))
		}},
		{Name: "GitLab token", Run: g.token, Needs: project},
		{Name: "branch", Run: g.branch, Needs: project},
		{Name: "environment", Run: g.environment, Needs: project},
		{Name: "pipeline variables", Needs: project, Run: func(context.Context) ([]string, error) { return variables(settings.Variables) }},
		{Name: "trigger token", Run: g.owner, Needs: project},
	}
	if g.Queues {
		checks = append(checks, Check{Name: "outdated deployments", Needs: project, Run: func(context.Context) ([]string, error) { return outdatedDeployments(settings) }})
	}
	if agentProject, agent, ok := strings.Cut(g.Context, ":"); ok && strings.Contains(agentProject, "/") {
		checks = append(checks, Check{Name: "agent", Needs: project, Run: func(ctx context.Context) ([]string, error) { return g.agent(ctx, agentProject, agent) }})
	}
	return checks
}

// hidden makes what a token may not see unknown, with who can look.
func hidden(err error, who string) error {
	if what, ok := errors.AsType[*gitlab.HiddenError](err); ok {
		return &UnknownError{what.Error() + ": ask " + who}
	}
	return err
}

// soon is how long before its end a token is worth a word.
const soon = 14 * 24 * time.Hour

func (g *GitLab) token(ctx context.Context) ([]string, error) {
	token, err := g.Client.AccessToken(ctx)
	if err != nil {
		return nil, hidden(err, "who made the token")
	}
	scopes := strings.Join(token.Scopes, ", ")
	found := []string{"the access token has scope " + scopes}
	switch {
	case !slices.Contains(token.Scopes, "api") && !slices.Contains(token.Scopes, "read_api"):
		return nil, &usererr.Error{Field: "gitlabToken", Problem: "it has scope " + scopes + ", which shows no pipelines", Fix: "make one of scope read_api, or api to cancel duplicates"}
	case !token.Expires.IsZero() && token.Expires.Sub(g.Now) < soon:
		return found, &UnknownError{"the access token expires on " + token.Expires.Format(time.DateOnly)}
	}
	return found, nil
}

func (g *GitLab) branch(ctx context.Context) ([]string, error) {
	exists, protected, err := g.Client.BranchProtected(ctx, g.Ref)
	switch {
	case err != nil:
		return nil, hidden(err, "a member who may read the repository")
	case !exists:
		return nil, &usererr.Error{Field: "gitlab.ref", Problem: fmt.Sprintf("%s has no branch %s", g.Project, g.Ref), Fix: "name the branch that releases run on"}
	case !protected:
		return nil, &usererr.Error{Field: "gitlab.ref", Problem: fmt.Sprintf("branch %s of %s is not protected: who pushes to it releases", g.Ref, g.Project), Fix: "protect it in Settings > Repository (docs/guides/adopt.md#protect-the-project)"}
	}
	return []string{"branch " + g.Ref + " is protected"}, nil
}

func (g *GitLab) environment(ctx context.Context) (found []string, err error) {
	deployers, err := g.Client.EnvironmentProtected(ctx, g.Environment)
	if err != nil {
		return nil, hidden(err, "a maintainer, who finds them in Settings > CI/CD > Protected environments")
	}
	var problem error
	switch {
	case len(deployers) > 0:
		found = []string{fmt.Sprintf("environment %s is protected; who may deploy: %s", g.Environment, strings.Join(deployers, ", "))}
	case len(g.Approvers) > 0: // without GitLab Premium
		found = []string{fmt.Sprintf("the project does not protect environment %s; approval.approvers names %s", g.Environment, strings.Join(g.Approvers, ", "))}
	default:
		problem = &usererr.Error{
			Field: "environment " + g.Environment, Problem: "the project does not protect it: who may press the gate's button promotes, unless a group protects it",
			Fix: "protect it in Settings > CI/CD > Protected environments, or name approval.approvers in crossbill.yaml",
		}
	}
	if others, err := g.Client.EnvironmentProtected(ctx, g.Canary); err == nil && len(others) > 0 {
		problem = errors.Join(problem, &usererr.Error{
			Field: "environment " + g.Canary, Problem: "it is protected: GitLab drops its jobs, which run as the trigger token's owner", Fix: "protect " + g.Environment + " alone",
		})
	}
	return found, problem
}

// variables judges who may give a pipeline variables (https://docs.gitlab.com/ci/variables/#restrict-pipeline-variables).
func variables(role string) ([]string, error) {
	switch role {
	case "no_one_allowed":
		return []string{"nobody may give a pipeline variables"}, nil
	case "":
		return nil, &UnknownError{"the access token may not see who may give a pipeline variables: ask a maintainer, who finds it in Settings > CI/CD > Variables; it has to be no one allowed"}
	}
	return nil, &usererr.Error{
		Field: "minimum role to use pipeline variables", Problem: "it is " + role + ": who may start a pipeline can set KUBECONFIG or PATH for its jobs",
		Fix: "set it to no one allowed, in Settings > CI/CD > Variables",
	}
}

// outdatedDeployments judges a setting that knows the order of pipelines (Deployment#older_than_last_successful_deployment?), where
// the line is in order of runs. Only maintainers may see both settings, and one that is hidden is false.
func outdatedDeployments(s *gitlab.Settings) ([]string, error) {
	const where = "Settings > CI/CD > General pipelines > Prevent outdated deployment jobs"
	switch {
	case s.ForwardDeployment:
		return nil, &UnknownError{"the project prevents outdated deployment jobs: the jobs of a release fail if one of a newer pipeline, of another commit of the project, has its turn first (fix: turn it off in " + where + "; the ledger keeps older releases from replacing newer ones)"}
	case s.Variables == "":
		return nil, &UnknownError{"the access token may not see whether the project prevents outdated deployment jobs: ask a maintainer, who finds it in " + where + "; it has to be off"}
	}
	return []string{"the line decides which release is outdated"}, nil
}

// owner looks at who owns the trigger token. Whether the token is right shows only when it starts a pipeline.
func (g *GitLab) owner(ctx context.Context) ([]string, error) {
	if g.User == "" {
		return nil, &UnknownError{"gitlab.user does not name its owner; whether the token is right shows with the first release"}
	}
	role, err := g.Client.Role(ctx, g.User)
	switch {
	case err != nil:
		return nil, hidden(err, "a member of the project")
	case role == 0:
		return nil, &UnknownError{fmt.Sprintf("no member %s of %s can be seen; the trigger token's owner has to be one, with the role Developer", g.User, g.Project)}
	case role < gitlab.Developer:
		return nil, &usererr.Error{Field: "gitlab.user", Problem: g.User + " may not run pipelines: the role is below Developer", Fix: "give the trigger token's owner the role Developer in " + g.Project}
	}
	return []string{g.User + " may run pipelines; whether the trigger token is right shows with the first release"}, nil
}

// agent looks whether the agent lets jobs of the project at the cluster
// (https://docs.gitlab.com/user/clusters/agent/ci_cd_workflow/).
func (g *GitLab) agent(ctx context.Context, project, agent string) ([]string, error) {
	text, err := g.Client.AgentConfig(ctx, project, agent)
	if err != nil {
		return nil, hidden(err, "who looks after the agent "+agent+": it has to name "+g.Project+" under ci_access")
	}
	type entry struct {
		ID           string   `json:"id"`
		Environments []string `json:"environments"`
	}
	var config struct {
		Access struct {
			Projects []entry `json:"projects"`
			Groups   []entry `json:"groups"`
			Instance *entry  `json:"instance"` // every project, where the instance is one's own
		} `json:"ci_access"`
	}
	field := "agent " + project + ":" + agent
	if err := yaml.Unmarshal(text, &config); err != nil {
		return nil, &usererr.Error{Field: field, Problem: "its config.yaml is not readable: " + err.Error(), Fix: "correct it"}
	}
	names := func(e entry) bool {
		return strings.EqualFold(e.ID, g.Project) || strings.HasPrefix(strings.ToLower(g.Project), strings.ToLower(e.ID)+"/")
	}
	admits := func(e entry, who string) ([]string, error) {
		var lacking []string
		for _, environment := range []string{g.Environment, g.Canary} {
			if len(e.Environments) > 0 && !slices.ContainsFunc(e.Environments, func(pattern string) bool { return wildcard(pattern, environment) }) {
				lacking = append(lacking, environment)
			}
		}
		if len(lacking) > 0 {
			return nil, &usererr.Error{Field: field, Problem: "jobs of " + strings.Join(lacking, " and ") + " do not get its context", Fix: "add them to the environments of " + who + " in its config.yaml"}
		}
		return []string{field + " admits jobs of " + who}, nil
	}
	access := config.Access // the closest entry counts
	if i := slices.IndexFunc(access.Projects, names); i >= 0 {
		return admits(access.Projects[i], access.Projects[i].ID)
	}
	if strings.EqualFold(project, g.Project) {
		return []string{field + " is the project's own"}, nil
	}
	slices.SortStableFunc(access.Groups, func(a, b entry) int { return cmp.Compare(len(b.ID), len(a.ID)) }) // subgroups first
	if i := slices.IndexFunc(access.Groups, names); i >= 0 {
		return admits(access.Groups[i], access.Groups[i].ID)
	}
	if access.Instance != nil {
		return admits(*access.Instance, "the instance")
	}
	return nil, &usererr.Error{Field: field, Problem: "its ci_access does not name " + g.Project, Fix: "add the project to it (docs/guides/adopt.md#limit-the-agent)"}
}

// wildcard says whether a name matches a pattern with * for a part of it.
func wildcard(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	if !strings.HasPrefix(name, parts[0]) {
		return false
	}
	name = name[len(parts[0]):]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, ok := strings.Cut(name, part)
		if !ok {
			return false
		}
		name = after
	}
	return strings.HasSuffix(name, parts[len(parts)-1])
}
