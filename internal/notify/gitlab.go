package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"sync"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/httpretry"
	"github.com/our-org/crossbill/internal/usererr"
)

// GitLab is the project where a release's code is.
type GitLab struct {
	URL     string // default https://gitlab.com
	Project string // group/project, or its number
	Token   string // an access token of scope api; what its role has to allow, MergeRequest says

	Transport http.RoundTripper // default http.DefaultTransport
}

var codeProject = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$`)

// unpaced turns off the library's own pacing, which waits without a bound.
type unpaced struct{}

func (unpaced) Wait(context.Context) error { return nil }

// connect checks the fields. It sends nothing. Its requests are repeated where that may help.
func (g GitLab) connect() (*gitlab.Client, error) { return g.connectBy(httpretry.Client(g.Transport)) }

func (g GitLab) connectBy(by *http.Client) (*gitlab.Client, error) {
	switch {
	case g.Project == "":
		return nil, &usererr.Error{Field: "notify.gitlab.project", Problem: "there is a token for GitLab, but no project", Fix: "give group/project: where the code of the releases is"}
	case !codeProject.MatchString(g.Project):
		return nil, &usererr.Error{Field: "notify.gitlab.project", Problem: fmt.Sprintf("%q is not a project", g.Project), Fix: "give group/project"}
	}
	address := g.URL
	if address == "" {
		address = "https://gitlab.com"
	}
	if err := usererr.SecureURL("notify.gitlab.url", address); err != nil {
		return nil, err
	}
	client, err := gitlab.NewClient(g.Token, gitlab.WithBaseURL(address), gitlab.WithHTTPClient(by), gitlab.WithoutRetries(), gitlab.WithCustomLimiter(unpaced{}), gitlab.WithUserAgent("crossbill"))
	if err != nil {
		return nil, fmt.Errorf("GitLab: %w", err)
	}
	return client, nil
}

// CommitTimes are when commits were made, as their committers say, of those that the project has.
//
// Errors: *usererr.Error (notify.gitlab.project, notify.gitlab.url), or what GitLab answered, after a few attempts.
func (g GitLab) CommitTimes(ctx context.Context, commits []string) (map[string]time.Time, error) {
	client, err := g.connect()
	if err != nil {
		return nil, err
	}
	return commitTimes(commits, func(commit string) (time.Time, error) {
		c, _, err := client.Commits.GetCommit(g.Project, commit, nil, gitlab.WithContext(ctx))
		if err != nil || c == nil || c.CommittedDate == nil {
			return time.Time{}, err
		}
		return *c.CommittedDate, nil
	})
}

// commitTimes asks for the times of commits side by side. What the host does not have is left out.
func commitTimes(commits []string, ask func(commit string) (time.Time, error)) (map[string]time.Time, error) {
	found, errs := make([]time.Time, len(commits)), make([]error, len(commits))
	var pending sync.WaitGroup
	for i, commit := range commits {
		pending.Go(func() {
			at, err := ask(commit)
			if status := statusOf(err); status != http.StatusNotFound && status != http.StatusUnprocessableEntity {
				found[i], errs[i] = at, err
			}
		})
	}
	pending.Wait()
	times := map[string]time.Time{}
	for i, at := range found {
		if !at.IsZero() {
			times[commits[i]] = at
		}
	}
	return times, errors.Join(errs...)
}
