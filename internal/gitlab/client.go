package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"
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

	HTTP  *http.Client // default: a new one
	Clock Clock        // default: the system's
	Log   func(string) // one line about what goes on; default: nothing
}

// Bounds of one request and of its repetition.
const (
	requestTimeout = 60 * time.Second // GitLab itself ends a web request after 60 s
	readAttempts   = 6
	longestWait    = 60 * time.Second // whatever a rate limit's header asks for
)

// Client talks to one project. It is safe for concurrent use.
type Client struct {
	trigger *gitlab.Client // never repeats a request of its own accord
	read    *gitlab.Client
	project string
	token   string
	clock   Clock
	log     func(string)
}

// unlimited turns off the library's own pacing, which waits on the system's clock without a bound.
type unlimited struct{}

func (unlimited) Wait(context.Context) error { return nil }

// Connect checks the connection's fields. It sends nothing.
func Connect(c Connection) (*Client, error) {
	if err := usererr.SecureURL("--gitlab-url", c.URL); err != nil {
		return nil, err
	}
	if strings.Trim(c.Project, "/") == "" || strings.ContainsAny(c.Project, " \t\n?#%") {
		return nil, &usererr.Error{Field: "--project", Problem: fmt.Sprintf("%q is not a project", c.Project), Fix: "give group/project"}
	}
	if c.Token == "" {
		return nil, &usererr.Error{Field: "GITLAB_TOKEN", Problem: "there is no token to read pipelines with", Fix: "set it, or give --token-file: an access token with scope read_api (api, to cancel duplicates)"}
	}
	if c.HTTP == nil {
		c.HTTP = &http.Client{}
	}
	if c.Clock == nil {
		c.Clock = systemClock{}
	}
	if c.Log == nil {
		c.Log = func(string) {}
	}
	// The library repeats a POST on any 5xx by default. Neither client repeats anything here: the
	// reads are repeated below, on the injected clock, with Retry-After honoured and a bound on
	// RateLimit-Reset, neither of which the library does.
	options := []gitlab.ClientOptionFunc{
		gitlab.WithBaseURL(c.URL), gitlab.WithHTTPClient(c.HTTP), gitlab.WithCustomLimiter(unlimited{}),
		gitlab.WithoutRetries(), gitlab.WithOnlyIdempotentRetries(), gitlab.WithUserAgent("crossbill"),
	}
	trigger, err := gitlab.NewClient("", options...)
	if err != nil {
		return nil, fmt.Errorf("GitLab client: %w", err)
	}
	read, err := gitlab.NewClient(c.Token, options...)
	if err != nil {
		return nil, fmt.Errorf("GitLab client: %w", err)
	}
	return &Client{trigger: trigger, read: read, project: strings.Trim(c.Project, "/"), token: c.TriggerToken, clock: c.Clock, log: c.Log}, nil
}

func (c *Client) logf(format string, args ...any) { c.log(fmt.Sprintf(format, args...)) }

// again makes a request that may be made again: a read, or a cancel. It repeats on 429, 5xx and lost
// connections, a bounded number of times and never beyond the deadline.
func (c *Client) again(ctx context.Context, deadline time.Time, what string, request func(gitlab.RequestOptionFunc) (*gitlab.Response, error)) error {
	for attempt := 1; ; attempt++ {
		limited, cancel := context.WithTimeout(ctx, requestTimeout)
		resp, err := request(gitlab.WithContext(limited))
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
		status := statusOf(err)
		if status != 0 && status != http.StatusTooManyRequests && status < 500 {
			return err
		}
		wait := askedWait(resp, c.clock.Now(), backoff(attempt))
		if attempt == readAttempts || c.clock.Now().Add(wait).After(deadline) {
			return fmt.Errorf("%s, %d times: %w", what, attempt, err)
		}
		c.logf("%s: %s; trying again in %s", what, shortly(err), wait.Round(time.Second))
		if err := c.clock.Sleep(ctx, wait); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// backoff is 1, 2, 4, 8, 16, 30, 30 … seconds.
func backoff(attempt int) time.Duration {
	return min(time.Second<<min(attempt-1, 5), 30*time.Second)
}

// askedWait is how long an answer asks to wait: Retry-After, else RateLimit-Reset, else the default.
// It is at least a second and at most longestWait, so that no header can park a release.
func askedWait(resp *gitlab.Response, now time.Time, otherwise time.Duration) time.Duration {
	wait := otherwise
	if resp != nil && resp.Response != nil {
		if seconds, err := strconv.ParseInt(resp.Header.Get("Retry-After"), 10, 32); err == nil && seconds > 0 {
			wait = time.Duration(seconds) * time.Second
		} else if date, err := http.ParseTime(resp.Header.Get("Retry-After")); err == nil {
			wait = date.Sub(now)
		} else if reset, err := strconv.ParseInt(resp.Header.Get("RateLimit-Reset"), 10, 64); err == nil && resp.StatusCode == http.StatusTooManyRequests {
			wait = time.Unix(reset, 0).Sub(now)
		}
	}
	return min(max(wait, time.Second), longestWait)
}

// statusOf is the HTTP status of GitLab's error answer, 0 when there was no answer.
func statusOf(err error) int {
	var answer *gitlab.ErrorResponse
	if errors.As(err, &answer) {
		return answer.StatusCode
	}
	return 0
}

// shortly is an error without the address that the library puts before it.
func shortly(err error) string {
	if status := statusOf(err); status != 0 {
		return fmt.Sprintf("HTTP %d", status)
	}
	var unwrapped interface{ Unwrap() error }
	if errors.As(err, &unwrapped) && unwrapped.Unwrap() != nil {
		return unwrapped.Unwrap().Error()
	}
	return err.Error()
}

// longestList bounds how many pages of a list are read.
const longestList = 20

// list gives the pipelines of a name, lowest id first, without those that have a configuration error:
// they have no jobs.
func (c *Client) list(ctx context.Context, deadline time.Time, name string) ([]*gitlab.PipelineInfo, error) {
	options := &gitlab.ListProjectPipelinesOptions{
		ListOptions: gitlab.ListOptions{PerPage: 100, Page: 1},
		Name:        &name, YamlErrors: new(false), OrderBy: new("id"), Sort: new("asc"),
	}
	var found []*gitlab.PipelineInfo
	for range longestList {
		var page []*gitlab.PipelineInfo
		var next int64
		err := c.again(ctx, deadline, "listing pipelines", func(o gitlab.RequestOptionFunc) (*gitlab.Response, error) {
			rows, resp, err := c.read.Pipelines.ListProjectPipelines(c.project, options, o)
			if err == nil {
				page, next = rows, resp.NextPage
			}
			return resp, err
		})
		if err != nil {
			return nil, c.explainRead(err)
		}
		for _, p := range page {
			if p.Name == name { // GitLab before 16.9 does not know the filter
				found = append(found, p)
			}
		}
		if next == 0 {
			return found, nil
		}
		options.Page = next
	}
	return nil, fmt.Errorf("listing pipelines named %q: more than %d pages: this GitLab does not filter by name (it came with 16.9)", name, longestList)
}

// cancel cancels a pipeline. One that has ended stays as it is.
func (c *Client) cancel(ctx context.Context, deadline time.Time, id int64) error {
	return c.again(ctx, deadline, fmt.Sprintf("canceling pipeline %d", id), func(o gitlab.RequestOptionFunc) (*gitlab.Response, error) {
		_, resp, err := c.read.Pipelines.CancelPipelineBuild(c.project, id, o)
		return resp, err
	})
}
