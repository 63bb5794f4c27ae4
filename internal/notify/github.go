package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-github/v89/github"

	"github.com/our-org/crossbill/internal/httpretry"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// GitHub is where a release came from. Its Deployment there, which the workflow of the handoff created, carries
// the release's id in its payload.
type GitHub struct {
	URL            string // of the API; default https://api.github.com
	Repository     string // owner/name
	Token          string // may write deployments of the repository; what more it may, PullRequest says
	EnvironmentURL string // the app's address, for the Deployment; may be empty

	Transport http.RoundTripper // default http.DefaultTransport
}

// Notify adds a status to the Deployment of the event's release. The status links to the pipeline that the
// Deployment's payload names. Adding the same status again is harmless.
//
// Errors: *usererr.Error (notify.github.repository, notify.github.url); or that the Deployment was not found, or what GitHub
// answered, after a few attempts.
func (g GitHub) Notify(ctx context.Context, e *Event) error {
	state, description := deploymentState(e)
	if state == "" || e.ReleaseID == "" {
		return nil
	}
	repo, err := g.connect()
	if err != nil {
		return err
	}
	commit, _ := originOf(e)
	found, err := repo.deployment(ctx, e.ReleaseID, commit)
	if err != nil {
		return err
	}
	request := github.DeploymentStatusRequest{State: state, Description: optional(truncate(description, 140)), LogURL: optional(found.pipelineURL), EnvironmentURL: optional(g.EnvironmentURL)}
	if _, _, err := repo.client.Repositories.CreateDeploymentStatus(ctx, repo.owner, repo.name, found.GetID(), request); err != nil {
		return fmt.Errorf("GitHub: deployment %d of %s: %w", found.GetID(), g.Repository, err)
	}
	return nil
}

// deploymentState is what an event means for a GitHub Deployment, in GitHub's words
// (https://docs.github.com/rest/deployments/statuses), and its description. The state is "" for an event after
// which the Deployment stays as it is.
func deploymentState(e *Event) (state, description string) {
	described := func(state, text string) (string, string) { return state, e.Command + ": " + text }
	switch e.Result {
	case Refused:
		return "", ""
	case Unhealthy, NotReady:
		return described("failure", e.Message)
	case Waits:
		return described("queued", e.Message)
	case Waited:
		return described("inactive", e.Message)
	case Inconclusive:
		return described("in_progress", e.Message)
	case Failed:
		if e.Command == "cleanup" { // the release stays promoted: it has all of the traffic
			return "", ""
		}
		return described("error", e.Message)
	}
	switch {
	case !e.noteworthy():
		return "", ""
	case e.SupersededBy != "":
		return described("inactive", e.Message)
	case e.Outcome == release.OutcomeReturned:
		return described("success", e.Message)
	case e.Command == "rollback", e.Outcome == release.OutcomeRolledBack:
		return described("failure", e.Message)
	case e.Command == "promote", e.Outcome != "", e.Release.Stage == release.StagePromoted:
		return described("success", e.Message)
	case e.Command == "verify":
		return described("pending", e.Message+"; waits for an approver")
	default:
		return described("in_progress", e.Message)
	}
}

// DeploymentStatus is a status that a Deployment has.
type DeploymentStatus struct {
	State       string
	Description string
	CreatedAt   time.Time
	CreatedBy   string
}

// Statuses are those of the Deployment of a release of a commit, oldest first, starting with the Deployment itself (state
// "created").
//
// Errors: as of Notify.
func (g GitHub) Statuses(ctx context.Context, releaseID, commit string) ([]DeploymentStatus, error) {
	repo, err := g.connect()
	if err != nil {
		return nil, err
	}
	found, err := repo.deployment(ctx, releaseID, commit)
	if err != nil {
		return nil, err
	}
	rows, _, err := repo.client.Repositories.ListDeploymentStatuses(ctx, repo.owner, repo.name, found.GetID(), &github.ListOptions{PerPage: 100})
	if err != nil {
		return nil, fmt.Errorf("GitHub: statuses of deployment %d of %s: %w", found.GetID(), g.Repository, err)
	}
	statuses := []DeploymentStatus{{State: "created", CreatedAt: found.GetCreatedAt().Time, CreatedBy: found.GetCreator().GetLogin()}}
	for _, row := range slices.Backward(rows) { // GitHub lists the newest first
		statuses = append(statuses, DeploymentStatus{row.GetState(), row.GetDescription(), row.GetCreatedAt().Time, row.GetCreator().GetLogin()})
	}
	return statuses, nil
}

// CommitTimes are when commits were made, as their committers say, of those that the repository has.
//
// Errors: as of Notify.
func (g GitHub) CommitTimes(ctx context.Context, commits []string) (map[string]time.Time, error) {
	repo, err := g.connect()
	if err != nil {
		return nil, err
	}
	return commitTimes(commits, func(commit string) (time.Time, error) {
		c, _, err := repo.client.Repositories.GetCommit(ctx, repo.owner, repo.name, commit, &github.ListOptions{PerPage: 1})
		return c.GetCommit().GetCommitter().GetDate().Time, err
	})
}

// repository is a GitHub repository with a client for it.
type repository struct {
	client      *github.Client
	owner, name string
}

var repositoryPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+/[A-Za-z0-9._-]+$`)

// connect checks the fields. It sends nothing. Its requests are repeated where that may help.
func (g GitHub) connect() (*repository, error) { return g.connectBy(httpretry.Client(g.Transport)) }

func (g GitHub) connectBy(by *http.Client) (*repository, error) {
	owner, name, _ := strings.Cut(g.Repository, "/")
	switch {
	case g.Repository == "":
		return nil, &usererr.Error{Field: "notify.github.repository", Problem: "there is a token for GitHub, but no repository", Fix: "give owner/name"}
	case !repositoryPattern.MatchString(g.Repository) || name == "." || name == "..":
		return nil, &usererr.Error{Field: "notify.github.repository", Problem: fmt.Sprintf("%q is not a repository", g.Repository), Fix: "give owner/name"}
	}
	options := []github.ClientOptionsFunc{github.WithHTTPClient(by), github.WithAuthToken(g.Token), github.WithUserAgent("crossbill")}
	if g.URL != "" {
		if err := usererr.SecureURL("notify.github.url", g.URL); err != nil {
			return nil, err
		}
		base := strings.TrimSuffix(g.URL, "/") + "/"
		options = append(options, github.WithURLs(&base, nil))
	}
	client, err := github.NewClient(options...)
	if err != nil {
		return nil, fmt.Errorf("GitHub: %w", err)
	}
	return &repository{client, owner, name}, nil
}

// deployment is a release's Deployment.
type deployment struct {
	*github.Deployment
	pipelineURL string
}

// mostDeployments is how many Deployments are searched, newest first.
const mostDeployments = 1000

// deployment finds the newest Deployment of a release: among those of its commit, if that is a whole hash, for a repository may have
// many others.
func (r *repository) deployment(ctx context.Context, releaseID, commit string) (*deployment, error) {
	options := &github.DeploymentsListOptions{ListOptions: github.ListOptions{PerPage: 100, Page: 1}}
	if len(commit) == 40 || len(commit) == 64 {
		options.SHA = commit
	}
	for searched := 0; options.Page != 0 && searched < mostDeployments; searched += options.PerPage {
		rows, answer, err := r.client.Repositories.ListDeployments(ctx, r.owner, r.name, options)
		if err != nil {
			return nil, fmt.Errorf("GitHub: deployments of %s/%s: %w", r.owner, r.name, err)
		}
		for _, row := range rows {
			var payload struct { // .github/actions/handoff writes it
				Release  string `json:"release"`
				Pipeline string `json:"pipeline"`
			}
			if row != nil && json.Unmarshal(row.Payload, &payload) == nil && payload.Release == releaseID { // others' payloads have any form
				return &deployment{row, payload.Pipeline}, nil
			}
		}
		options.Page = answer.NextPage
	}
	return nil, fmt.Errorf("GitHub: %s/%s has no deployment of release %s among its last %d", r.owner, r.name, releaseID, mostDeployments)
}

// optional is nil for an empty text, which GitHub would refuse as an address.
func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// truncate cuts a text to a number of characters.
func truncate(text string, longest int) string {
	runes := []rune(text)
	if len(runes) <= longest {
		return text
	}
	return string(runes[:longest-1]) + "…"
}
