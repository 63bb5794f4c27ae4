package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-github/v89/github"
	"github.com/our-org/crossbill/internal/usererr"
	"k8s.io/apimachinery/pkg/util/wait"
)

// GitHub is where a release came from. Its Deployment there, which the handing-over workflow made,
// carries the release's id in its payload.
type GitHub struct {
	URL        string // of the API; default https://api.github.com
	Repository string // owner/name
	Token      string // may write deployments of the repository

	HTTP    *http.Client // default: a new one
	Backoff wait.Backoff // between attempts; default: 4 within about 7 s
}

// DeploymentStatus is what a Deployment shows
// (https://docs.github.com/rest/deployments/statuses).
type DeploymentStatus struct {
	State          string // in_progress, pending, success, failure, error
	Description    string // cut to GitHub's 140 characters
	EnvironmentURL string
}

// deploymentsPage is how many Deployments are looked through, newest first.
const deploymentsPage = 100

// Tell adds a status to the Deployment of a release. The status links to the pipeline that the
// Deployment's payload names.
//
// Errors: *usererr.Error (repository or URL); or that the Deployment is not there, or what GitHub
// answered, after a few attempts. A status more than once does no harm.
func (g GitHub) Tell(ctx context.Context, releaseID string, s DeploymentStatus) error {
	client, owner, name, err := g.connect()
	if err != nil {
		return err
	}
	deployment, payload, err := g.deployment(ctx, client, owner, name, releaseID)
	if err != nil {
		return err
	}
	request := github.DeploymentStatusRequest{State: s.State, Description: optional(shorten(s.Description, 140)), LogURL: optional(payload.Pipeline), EnvironmentURL: optional(s.EnvironmentURL)}
	err = g.again(ctx, func() error {
		_, _, err := client.Repositories.CreateDeploymentStatus(ctx, owner, name, deployment.GetID(), request)
		return err
	})
	if err != nil {
		return fmt.Errorf("deployment %d of %s: %w", deployment.GetID(), g.Repository, err)
	}
	return nil
}

// ToldStatus is a status that a Deployment has been given.
type ToldStatus struct {
	State       string
	Description string
	At          time.Time
	By          string
}

// Told gives the statuses of a release's Deployment, oldest first, beginning with the Deployment itself
// (state "created").
//
// Errors: as of Tell.
func (g GitHub) Told(ctx context.Context, releaseID string) ([]ToldStatus, error) {
	client, owner, name, err := g.connect()
	if err != nil {
		return nil, err
	}
	deployment, _, err := g.deployment(ctx, client, owner, name, releaseID)
	if err != nil {
		return nil, err
	}
	var rows []*github.DeploymentStatus
	err = g.again(ctx, func() error {
		rows, _, err = client.Repositories.ListDeploymentStatuses(ctx, owner, name, deployment.GetID(), &github.ListOptions{PerPage: 100})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("statuses of deployment %d of %s: %w", deployment.GetID(), g.Repository, err)
	}
	told := []ToldStatus{{State: "created", At: deployment.GetCreatedAt().Time, By: deployment.GetCreator().GetLogin()}}
	for _, row := range slices.Backward(rows) { // GitHub gives the newest first
		told = append(told, ToldStatus{row.GetState(), row.GetDescription(), row.GetCreatedAt().Time, row.GetCreator().GetLogin()})
	}
	return told, nil
}

// deployment finds a release's Deployment.
func (g GitHub) deployment(ctx context.Context, client *github.Client, owner, name, releaseID string) (found *github.Deployment, payload deploymentPayload, err error) {
	err = g.again(ctx, func() error {
		found, payload, err = findDeployment(ctx, client, owner, name, releaseID)
		return err
	})
	if err != nil {
		return nil, payload, fmt.Errorf("deployments of %s: %w", g.Repository, err)
	}
	if found == nil {
		return nil, payload, fmt.Errorf("%s has no deployment of release %s among its last %d", g.Repository, releaseID, deploymentsPage)
	}
	return found, payload, nil
}

func (g *GitHub) connect() (client *github.Client, owner, name string, err error) {
	owner, name, ok := strings.Cut(g.Repository, "/")
	if !ok || owner == "" || name == "" || strings.ContainsAny(name, "/ \t\n?#%") {
		return nil, "", "", &usererr.Error{Field: "--github-repository", Problem: fmt.Sprintf("%q is not a repository", g.Repository), Fix: "give owner/name"}
	}
	if g.Backoff.Steps == 0 {
		g.Backoff = wait.Backoff{Duration: 500 * time.Millisecond, Factor: 3, Jitter: 0.2, Steps: 4}
	}
	if g.HTTP == nil {
		g.HTTP = &http.Client{Timeout: 10 * time.Second}
	}
	options := []github.ClientOptionsFunc{github.WithHTTPClient(g.HTTP), github.WithAuthToken(g.Token), github.WithUserAgent("crossbill")}
	if g.URL != "" {
		if err := usererr.SecureURL("--github-url", g.URL); err != nil {
			return nil, "", "", err
		}
		base := strings.TrimSuffix(g.URL, "/") + "/"
		options = append(options, github.WithURLs(&base, nil))
	}
	client, err = github.NewClient(options...)
	return client, owner, name, err
}

// again repeats a call a few times, unless GitHub has refused it.
func (g GitHub) again(ctx context.Context, call func() error) error {
	var last error
	err := wait.ExponentialBackoffWithContext(ctx, g.Backoff, func(context.Context) (bool, error) {
		last = call()
		var refused *github.ErrorResponse
		if errors.As(last, &refused) && refused.Response.StatusCode < http.StatusInternalServerError && refused.Response.StatusCode != http.StatusTooManyRequests {
			return false, last
		}
		return last == nil, nil
	})
	if last != nil {
		return last
	}
	return err
}

// deploymentPayload is what release.yml puts into a Deployment.
type deploymentPayload struct {
	Release  string `json:"release"`
	Pipeline string `json:"pipeline"`
}

// findDeployment gives the newest Deployment of a release; nil when there is none.
func findDeployment(ctx context.Context, client *github.Client, owner, name, releaseID string) (*github.Deployment, deploymentPayload, error) {
	rows, _, err := client.Repositories.ListDeployments(ctx, owner, name, &github.DeploymentsListOptions{ListOptions: github.ListOptions{PerPage: deploymentsPage}})
	if err != nil {
		return nil, deploymentPayload{}, err
	}
	for _, row := range rows {
		var payload deploymentPayload
		if json.Unmarshal(row.Payload, &payload) == nil && payload.Release == releaseID { // others' payloads have any form
			return row, payload, nil
		}
	}
	return nil, deploymentPayload{}, nil
}

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// shorten cuts a text to a number of characters.
func shorten(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	return string(runes[:most-1]) + "…"
}
