package gitlab

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/usererr"
)

// HiddenError says that GitLab does not show something to the access token.
type HiddenError struct{ What string }

func (e *HiddenError) Error() string { return "the access token may not see " + e.What }

// AccessToken is what GitLab says of the access token.
type AccessToken struct {
	Scopes  []string
	Expires time.Time // zero for never
}

// Settings are those of the project.
type Settings struct {
	// Variables is who may give a pipeline variables: no_one_allowed, developer, maintainer, or owner; "" where the token may not
	// see it, or where GitLab is older than 17.1.
	Variables string
	// ForwardDeployment is whether GitLab refuses a deployment when one of a newer pipeline and of another commit has succeeded
	// before it ("Prevent outdated deployment jobs"); false where the token may not see it.
	ForwardDeployment bool
}

// look makes one read, and gives the status that it was refused with.
func (c *Client) look(ctx context.Context, what string, request func(gitlab.RequestOptionFunc) error) (status int, err error) {
	err = request(gitlab.WithContext(ctx))
	switch status = statusOf(err); {
	case err == nil:
		return http.StatusOK, nil
	case status == http.StatusUnauthorized:
		return status, &usererr.Error{Field: "gitlabToken", Problem: "GitLab does not know it, or it has expired", Fix: "make a new access token of scope read_api"}
	case status == http.StatusForbidden, status == http.StatusNotFound:
		return status, &HiddenError{what}
	case status == 0:
		return status, &usererr.Error{Field: "gitlab.url", Problem: "GitLab does not answer: " + withoutURL(err), Fix: "check the address, and that this machine reaches it"}
	}
	return status, fmt.Errorf("GitLab: %s: %s", what, withoutURL(err))
}

// AccessToken asks GitLab about the access token. A token that is none of a person's, a project's, or a group's is hidden.
func (c *Client) AccessToken(ctx context.Context) (AccessToken, error) {
	var found *gitlab.PersonalAccessToken
	status, err := c.look(ctx, "its own scopes", func(o gitlab.RequestOptionFunc) (err error) {
		found, _, err = c.read.PersonalAccessTokens.GetSinglePersonalAccessToken(o)
		return err
	})
	if status == http.StatusBadRequest { // of a job, or of an OAuth application
		return AccessToken{}, &HiddenError{"its own scopes"}
	}
	if err != nil {
		return AccessToken{}, err
	}
	token := AccessToken{Scopes: found.Scopes}
	if found.ExpiresAt != nil {
		token.Expires = time.Time(*found.ExpiresAt)
	}
	return token, nil
}

// Settings reads those of the project. GitLab hides a project from a token as if it did not exist.
func (c *Client) Settings(ctx context.Context) (Settings, error) {
	var found *gitlab.Project
	status, err := c.look(ctx, "project "+c.project, func(o gitlab.RequestOptionFunc) (err error) {
		found, _, err = c.read.Projects.GetProject(c.project, nil, o)
		return err
	})
	if status == http.StatusNotFound {
		return Settings{}, &usererr.Error{Field: "gitlab.project", Problem: c.project + " does not exist, or the access token may not see it", Fix: "check the name, and make the token's user a member with the role Reporter"}
	}
	if err != nil {
		return Settings{}, err
	}
	return Settings{Variables: string(found.CIPipelineVariablesMinimumOverrideRole), ForwardDeployment: found.CIForwardDeploymentEnabled}, nil
}

// BranchProtected says whether a branch of the project exists, and is protected.
func (c *Client) BranchProtected(ctx context.Context, name string) (exists, protected bool, err error) {
	var found *gitlab.Branch
	status, err := c.look(ctx, "the branches of "+c.project, func(o gitlab.RequestOptionFunc) (err error) {
		found, _, err = c.read.Branches.GetBranch(c.project, name, o)
		return err
	})
	if status == http.StatusNotFound { // a token that may not read the repository gets 403
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	return true, found.Protected, nil
}

// EnvironmentProtected says who may deploy to an environment of the project, as GitLab describes them; none when the project
// does not protect it. Only maintainers may see it, and a group may protect it as well.
func (c *Client) EnvironmentProtected(ctx context.Context, name string) (deployers []string, err error) {
	var found *gitlab.ProtectedEnvironment
	status, err := c.look(ctx, "the protected environments of "+c.project, func(o gitlab.RequestOptionFunc) (err error) {
		found, _, err = c.read.ProtectedEnvironments.GetProtectedEnvironment(c.project, name, o)
		return err
	})
	if status == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, level := range found.DeployAccessLevels {
		deployers = append(deployers, level.AccessLevelDescription)
	}
	if len(deployers) == 0 {
		deployers = []string{"nobody"}
	}
	return deployers, nil
}

// Developer is the role from which on a member may run pipelines.
const Developer = int(gitlab.DeveloperPermissions)

// Role is a user's role in the project, also by a group; 0 for one who is no member that the token may see.
func (c *Client) Role(ctx context.Context, login string) (role int, err error) {
	var found []*gitlab.ProjectMember
	_, err = c.look(ctx, "the members of "+c.project, func(o gitlab.RequestOptionFunc) (err error) {
		found, _, err = c.read.ProjectMembers.ListAllProjectMembers(c.project, &gitlab.ListProjectMembersOptions{Query: &login}, o)
		return err
	})
	for _, member := range found {
		if strings.EqualFold(member.Username, login) { // the query finds parts of names too
			role = max(role, int(member.AccessLevel))
		}
	}
	return role, err
}

// AgentConfig is the configuration file of an agent for Kubernetes that is registered in a project.
func (c *Client) AgentConfig(ctx context.Context, project, agent string) (text []byte, err error) {
	file := ".gitlab/agents/" + agent + "/config.yaml"
	_, err = c.look(ctx, file+" of "+project, func(o gitlab.RequestOptionFunc) (err error) {
		text, _, err = c.read.RepositoryFiles.GetRawFile(project, file, nil, o)
		return err
	})
	return text, err
}
