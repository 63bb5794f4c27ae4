package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-github/v89/github"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/usererr"
)

// Right is one thing that a token has to be able to write, to show releases.
type Right struct {
	What  string // the status of deployments
	Needs string // Deployments: write
	Has   Has
	Why   string // how that shows; "" if Needs says it
}

// Has is what is known of a right.
type Has string

// The three of them.
const (
	Granted Has = "granted" // it was shown
	Lacking Has = "lacking" // that as well
	Unread  Has = "unread"  // the host does not say
)

// Rights is what is known of a token.
type Rights struct {
	Rights  []Right
	Expires time.Time // zero if that is not said
}

// Rights looks at what the token may write of the repository, by reads. A classic token's scopes are in GitHub's answers; those
// of any other token are not, and a read that is refused shows only what is lacking: who may write may read. pages are the
// commit's and the pull request's.
//
// Errors: *usererr.Error for a token or a repository that is wrong, or what GitHub answered.
func (g GitHub) Rights(ctx context.Context, pages bool) (Rights, error) {
	repo, err := g.connect()
	if err != nil {
		return Rights{}, err
	}
	found, response, err := repo.client.Repositories.Get(ctx, repo.owner, repo.name)
	switch status := statusOf(err); {
	case status == http.StatusUnauthorized:
		return Rights{}, unknownGitHubToken
	case forbidden(err):
		return Rights{}, &usererr.Error{Field: "notify.github.repository", Problem: g.Repository + " does not exist, or the token may not see it", Fix: "check the name, and give the token access to the repository"}
	case err != nil:
		return Rights{}, fmt.Errorf("GitHub: %s: %w", g.Repository, err)
	}
	all := Rights{Expires: response.TokenExpiration.Time}
	if scopes, classic := response.Header["X-Oauth-Scopes"]; classic {
		all.Rights = classicRights(strings.Join(scopes, ","), found, pages)
		return all, nil
	}
	all.Rights, err = repo.readRights(ctx, found.GetDefaultBranch(), strings.HasPrefix(g.Token, "github_pat_"), pages)
	return all, err
}

var unknownGitHubToken = &usererr.Error{Field: "githubToken", Problem: "GitHub does not know it, or it has expired", Fix: "make a new one"}

// classicRights are those of a classic personal access token (https://docs.github.com/apps/oauth-apps/building-oauth-apps/scopes-for-oauth-apps).
func classicRights(text string, repository *github.Repository, pages bool) []Right {
	scopes := strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' })
	shown := "no scope"
	if len(scopes) > 0 {
		shown = "scope " + strings.Join(scopes, ", ")
	}
	right := func(what string, own ...string) Right {
		r := Right{What: what, Needs: "scope repo", Has: Granted, Why: "it has " + shown}
		enough := append(own, "repo")
		if !repository.GetPrivate() {
			enough = append(enough, "public_repo")
		}
		switch {
		case !slices.ContainsFunc(enough, func(scope string) bool { return slices.Contains(scopes, scope) }):
			r.Has = Lacking
		case !repository.GetPermissions().GetPush() && len(own) > 0:
			r.Has, r.Needs, r.Why = Lacking, "the role Write in "+repository.GetFullName(), "its user may not write to the repository"
		}
		return r
	}
	all := []Right{right("deployments", "repo_deployment")}
	if pages {
		all = append(all, right("commit statuses, in place of check runs, which take a GitHub App", "repo:status"), right("comments on pull requests"))
	}
	return all
}

// readRights are those of a fine-grained token or of an app's, as far as reads show what is lacking.
func (r *repository) readRights(ctx context.Context, branch string, fineGrained, pages bool) ([]Right, error) {
	one := github.ListOptions{PerPage: 1}
	type probe struct {
		Right
		read func() error
	}
	statuses := probe{Right{What: "commit statuses", Needs: "Commit statuses: write"}, func() error {
		_, _, err := r.client.Repositories.ListStatuses(ctx, r.owner, r.name, branch, &one)
		return err
	}}
	probes := []probe{{Right{What: "deployments", Needs: "Deployments: write"}, func() error {
		_, _, err := r.client.Repositories.ListDeployments(ctx, r.owner, r.name, &github.DeploymentsListOptions{ListOptions: one})
		return err
	}}}
	switch {
	case !pages:
	case fineGrained:
		statuses.What += ", in place of check runs, which take a GitHub App"
		probes = append(probes, statuses)
	default:
		probes = append(probes, probe{Right{What: "check runs", Needs: "Checks: write"}, func() error {
			_, _, err := r.client.Checks.ListCheckRunsForRef(ctx, r.owner, r.name, branch, &github.ListCheckRunsOptions{ListOptions: one})
			return err
		}})
	}
	if pages {
		probes = append(probes, probe{Right{What: "comments on pull requests", Needs: "Pull requests: write"}, func() error {
			_, _, err := r.client.PullRequests.List(ctx, r.owner, r.name, &github.PullRequestListOptions{ListOptions: one})
			return err
		}})
	}
	all, errs := make([]Right, len(probes)), make([]error, len(probes))
	done := make(chan struct{})
	for i, p := range probes {
		go func() {
			defer func() { done <- struct{}{} }()
			all[i] = p.Right
			switch err := p.read(); {
			case forbidden(err):
				all[i].Has, all[i].Why = Lacking, "it may not even read them"
			case err != nil && statusOf(err) == 0:
				errs[i] = err
			default: // also an empty repository, which has no branch
				all[i].Has = Unread
			}
		}()
	}
	for range probes {
		<-done
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("GitHub: %s/%s: %w", r.owner, r.name, err)
	}
	return all, nil
}

// Rights looks at what the token may write of the project: its scopes, and the role of its user.
//
// Errors: *usererr.Error for a token or a project that is wrong; *HiddenError; or what GitLab answered.
func (g GitLab) Rights(ctx context.Context) (Rights, error) {
	client, err := g.connect()
	if err != nil {
		return Rights{}, err
	}
	token, _, err := client.PersonalAccessTokens.GetSinglePersonalAccessToken(gitlab.WithContext(ctx))
	switch status := statusOf(err); {
	case status == http.StatusUnauthorized:
		return Rights{}, &usererr.Error{Field: "notifyGitlabToken", Problem: "GitLab does not know it, or it has expired", Fix: "make a project access token of scope api; a job's own token (CI_JOB_TOKEN) may write neither statuses nor notes"}
	case status == http.StatusBadRequest, forbidden(err), err == nil && token == nil:
		return Rights{}, &HiddenError{"its own scopes"}
	case err != nil:
		return Rights{}, fmt.Errorf("GitLab: the access token: %s", refusal(err))
	}
	var all Rights
	if token.ExpiresAt != nil {
		all.Expires = time.Time(*token.ExpiresAt)
	}
	notes, statuses := Right{What: "notes on merge requests", Needs: "scope api"}, Right{What: "commit statuses", Needs: "scope api"}
	if !slices.Contains(token.Scopes, "api") {
		notes.Has, notes.Why = Lacking, "it has scope "+strings.Join(token.Scopes, ", ")
		statuses.Has, statuses.Why = Lacking, notes.Why
		all.Rights = []Right{notes, statuses}
		return all, nil
	}
	project, _, err := client.Projects.GetProject(g.Project, nil, gitlab.WithContext(ctx))
	switch {
	case forbidden(err), err == nil && project == nil:
		return all, &usererr.Error{Field: "notify.gitlab.project", Problem: g.Project + " does not exist, or the token may not see it", Fix: "check the name, and make the token's user a member with the role Developer"}
	case err != nil:
		return all, fmt.Errorf("GitLab: %s: %s", g.Project, refusal(err))
	}
	notes.Needs, statuses.Needs = "the role Developer in "+g.Project, "the right to push or merge to "+project.DefaultBranch
	role, err := codeRole(ctx, client, g.Project, token.UserID)
	switch {
	case err != nil:
		return all, fmt.Errorf("GitLab: members of %s: %s", g.Project, refusal(err))
	case role == 0:
		notes.Has, notes.Why = Unread, "its user is no member that it can see"
		statuses.Has, statuses.Why = Unread, notes.Why
	case role < gitlab.DeveloperPermissions:
		notes.Has, notes.Why = Lacking, "its user has a role below Developer"
		statuses.Has, statuses.Why, statuses.Needs = Lacking, notes.Why, notes.Needs
	default:
		notes.Has = Granted
		if statuses.Has, statuses.Why, err = mayMerge(ctx, client, g.Project, project.DefaultBranch, role); err != nil {
			return all, fmt.Errorf("GitLab: branch %s of %s: %s", project.DefaultBranch, g.Project, refusal(err))
		}
	}
	all.Rights = []Right{notes, statuses}
	return all, nil
}

// codeRole is a user's role in a project, also by a group; 0 for one who is no member that can be seen.
func codeRole(ctx context.Context, client *gitlab.Client, project string, user int64) (gitlab.AccessLevelValue, error) {
	member, _, err := client.ProjectMembers.GetInheritedProjectMember(project, user, gitlab.WithContext(ctx))
	if forbidden(err) || err == nil && member == nil {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return member.AccessLevel, nil
}

// mayMerge says whether the token's user may push or merge to a branch, as far as the branch says so.
func mayMerge(ctx context.Context, client *gitlab.Client, project, name string, role gitlab.AccessLevelValue) (Has, string, error) {
	branch, _, err := client.Branches.GetBranch(project, name, gitlab.WithContext(ctx))
	switch {
	case forbidden(err), err == nil && branch == nil:
		return Unread, "it may not see branch " + name, nil
	case err != nil:
		return "", "", err
	case !branch.Protected:
		return Granted, "branch " + name + " is not protected", nil
	case branch.CanPush:
		return Granted, "its user may push to " + name, nil
	case branch.DevelopersCanMerge && role >= gitlab.DeveloperPermissions:
		return Granted, "Developers may merge to " + name, nil
	}
	return Unread, "branch " + name + " is protected, and who may merge to it is not shown", nil
}
