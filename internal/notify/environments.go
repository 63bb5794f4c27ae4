package notify

import (
	"context"
	"fmt"
	"net/http"

	"github.com/google/go-github/v89/github"
)

// Environment says which branches may use an environment of a GitHub repository.
type Environment struct {
	Any       bool     // all of them
	Protected bool     // the protected ones
	Branches  []string // patterns
	Hidden    bool     // the token may not see the patterns
}

// HiddenError says that GitHub does not show something to the token: it answers as if there were nothing.
type HiddenError struct{ What string }

func (e *HiddenError) Error() string { return "the token may not see " + e.What }

// Environments are those of the repository, by name.
//
// Errors: *usererr.Error for a token or a repository that is wrong; *HiddenError; or what GitHub answered.
func (g GitHub) Environments(ctx context.Context) (map[string]Environment, error) {
	repo, err := g.connect()
	if err != nil {
		return nil, err
	}
	rows, _, err := repo.client.Repositories.ListEnvironments(ctx, repo.owner, repo.name, &github.EnvironmentListOptions{ListOptions: github.ListOptions{PerPage: 100}})
	switch status := statusOf(err); {
	case err == nil:
	case status == http.StatusUnauthorized:
		return nil, unknownGitHubToken
	case status == http.StatusForbidden, status == http.StatusNotFound:
		return nil, &HiddenError{"the environments of " + g.Repository}
	default:
		return nil, fmt.Errorf("GitHub: environments of %s: %w", g.Repository, err)
	}
	all := map[string]Environment{}
	for _, row := range rows.Environments {
		policy := row.GetDeploymentBranchPolicy()
		e := Environment{Any: policy == nil, Protected: policy.GetProtectedBranches()}
		if !e.Any && !e.Protected {
			patterns, _, err := repo.client.Repositories.ListDeploymentBranchPolicies(ctx, repo.owner, repo.name, row.GetName(), &github.ListOptions{PerPage: 100})
			switch status := statusOf(err); {
			case status == http.StatusForbidden, status == http.StatusNotFound:
				e.Hidden = true
			case err != nil:
				return nil, fmt.Errorf("GitHub: environment %s of %s: %w", row.GetName(), g.Repository, err)
			default:
				for _, pattern := range patterns.BranchPolicies {
					e.Branches = append(e.Branches, pattern.GetName())
				}
			}
		}
		all[row.GetName()] = e
	}
	return all, nil
}
