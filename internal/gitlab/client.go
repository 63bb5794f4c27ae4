package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/httpclient"
	"github.com/our-org/crossbill/internal/httpretry"
	"github.com/our-org/crossbill/internal/usererr"
)

// Connection says which project of which GitLab, and with which tokens.
type Connection struct {
	URL     string // https://gitlab.example.com
	Project string // group/project, or the project's number

	// TriggerToken starts pipelines; it can read nothing. Only Trigger needs it.
	TriggerToken string
	// Token reads pipelines: scope read_api, role Reporter. With scope api, and a role that may run
	// pipelines, duplicates are canceled as well.
	Token string
	// User is the login of the trigger token's owner: pipelines of others are not the release's, whatever their names.
	// Without it, the owner is known once Trigger has started a pipeline, and till then only pipelines of Token's own user
	// are adopted.
	User string

	Transport http.RoundTripper // default http.DefaultTransport
	Log       func(string)      // gets a line for each step; default: none
}

// Bounds of one request and of its repetition.
const (
	requestTimeout = 60 * time.Second // GitLab itself ends a web request after 60 s
	readAttempts   = 6
)

// Client talks to one project. It is safe for concurrent use.
type Client struct {
	once         *gitlab.Client // never repeats a request, and sends no access token of its own accord
	read         *gitlab.Client // repeats requests
	project      string
	triggerToken string
	token        string
	log          func(string)
	origins      *origins
	uncanceled   sync.Map // ids of the duplicates of which the log says that they could not be canceled
}

// unlimited turns off the library's own pacing, which waits without a bound.
type unlimited struct{}

func (unlimited) Wait(context.Context) error { return nil }

// projectPattern is a project's path or number: no part of it starts with a dot.
var projectPattern = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$`)

var userPattern = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,254}$`)

// Connect checks the connection's fields. It sends nothing.
func Connect(c Connection) (*Client, error) {
	if err := usererr.SecureURL("gitlab.url", c.URL); err != nil {
		return nil, err
	}
	if !projectPattern.MatchString(strings.Trim(c.Project, "/")) {
		return nil, &usererr.Error{Field: "gitlab.project", Problem: fmt.Sprintf("%q is not a project", c.Project), Fix: "give group/project"}
	}
	if c.User != "" && !userPattern.MatchString(c.User) {
		return nil, &usererr.Error{Field: "gitlab.user", Problem: fmt.Sprintf("%q is not a login", c.User), Fix: "give the login of the trigger token's owner"}
	}
	if c.Token == "" {
		return nil, &usererr.Error{Field: "gitlabToken", Problem: "there is no token to read pipelines with", Fix: "set GITLAB_TOKEN to an access token of scope read_api (api, to cancel duplicates)"}
	}
	client := &Client{project: strings.Trim(c.Project, "/"), triggerToken: c.TriggerToken, token: c.Token, log: c.Log, origins: &origins{owner: c.User, details: map[int64]*originDetails{}, named: map[int64]bool{}}}
	if client.log == nil {
		client.log = func(string) {}
	}
	options := []gitlab.ClientOptionFunc{
		gitlab.WithBaseURL(c.URL), gitlab.WithHTTPClient(httpclient.New(c.Transport, requestTimeout)),
		gitlab.WithCustomLimiter(unlimited{}), gitlab.WithUserAgent("crossbill"),
	}
	var err error
	// By default the library repeats a POST after any 5xx.
	if client.once, err = gitlab.NewClient("", append(options, gitlab.WithoutRetries(), gitlab.WithOnlyIdempotentRetries())...); err != nil {
		return nil, fmt.Errorf("GitLab client: %w", err)
	}
	client.read, err = gitlab.NewClient(c.Token, append(options,
		gitlab.WithCustomRetry(httpretry.Check), gitlab.WithCustomRetryMax(readAttempts-1),
		gitlab.WithCustomRetryWaitMinMax(httpretry.MinWait, httpretry.MaxWait), gitlab.WithCustomBackoff(client.backoff),
	)...)
	if err != nil {
		return nil, fmt.Errorf("GitLab client: %w", err)
	}
	return client, nil
}

func (c *Client) logf(format string, args ...any) { c.log(fmt.Sprintf(format, args...)) }

// backoff is httpretry.Wait, with a line in the log.
func (c *Client) backoff(shortest, longest time.Duration, attempt int, resp *http.Response) time.Duration {
	wait, answer := httpretry.Wait(shortest, longest, attempt, resp), "no answer"
	if resp != nil {
		answer = fmt.Sprintf("HTTP %d", resp.StatusCode)
	}
	c.logf("GitLab: %s; trying again in %s", answer, wait.Round(time.Second))
	return wait
}

// repeat makes a request that may be repeated: a read, or a cancel. It never waits beyond the deadline.
func (c *Client) repeat(ctx context.Context, deadline time.Time, what string, request func(gitlab.RequestOptionFunc) error) error {
	bounded, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	err := request(gitlab.WithContext(bounded))
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, ctx.Err())
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// sleep waits for d, or returns the context's error when that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// statusOf is the HTTP status of GitLab's error answer, 0 when there was no answer.
func statusOf(err error) int {
	if answer, ok := errors.AsType[*gitlab.ErrorResponse](err); ok {
		return answer.StatusCode
	}
	return 0
}

// withoutURL is an error's text without the address that the library puts before it.
func withoutURL(err error) string {
	if status := statusOf(err); status != 0 {
		return fmt.Sprintf("HTTP %d", status)
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err.Error()
}
