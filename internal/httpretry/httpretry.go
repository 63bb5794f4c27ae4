// Package httpretry is the one way in which Crossbill repeats HTTP requests. It promises that a request is
// repeated only when the answer may differ next time (429, 5xx, a lost connection), a bounded number of times,
// that a server's Retry-After is respected, and that no header can make a command wait without end. Package httpclient
// says where requests may go, and how long an answer may be.
//
// It configures go-retryablehttp, which go-gitlab uses as well. A request whose repetition has an effect of its
// own, such as the POST that starts a pipeline, must not go through it.
package httpretry

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/our-org/crossbill/internal/httpclient"
)

// Bounds of the pause before a repetition, whatever a header asks for.
const (
	MinWait = time.Second
	MaxWait = time.Minute
)

// Check says whether a request may be repeated. It is a retryablehttp.CheckRetry that leaves the last answer
// to the caller: after the last attempt, a 503 is an answer, not an error of this package.
func Check(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if refused, ok := errors.AsType[*httpclient.RedirectError](err); ok {
		return false, refused // it would be refused again
	}
	if tooLong, ok := errors.AsType[*httpclient.SizeError](err); ok {
		return false, tooLong
	}
	retry, checkErr := retryablehttp.ErrorPropagatedRetryPolicy(ctx, resp, err)
	if retry {
		return true, nil // its error only repeats the status
	}
	return false, checkErr
}

// Wait is the pause before the next attempt: what Retry-After asks for, else RateLimit-Reset of a 429, else an
// exponential backoff; always between shortest and longest. It is a retryablehttp.Backoff; attempts count from 0.
func Wait(shortest, longest time.Duration, attempt int, resp *http.Response) time.Duration {
	wait := shortest << min(attempt, 16)
	if asked, ok := askedWait(resp); ok {
		wait = asked
	}
	return min(max(wait, shortest), longest)
}

func askedWait(resp *http.Response) (time.Duration, bool) {
	if resp == nil {
		return 0, false
	}
	if seconds, err := strconv.ParseInt(resp.Header.Get("Retry-After"), 10, 32); err == nil && seconds > 0 {
		return time.Duration(seconds) * time.Second, true
	}
	if date, err := http.ParseTime(resp.Header.Get("Retry-After")); err == nil {
		return time.Until(date), true
	}
	if reset, err := strconv.ParseInt(resp.Header.Get("RateLimit-Reset"), 10, 64); err == nil && resp.StatusCode == http.StatusTooManyRequests {
		return time.Until(time.Unix(reset, 0)), true
	}
	return 0, false
}

// attempts and attemptTimeout bound what Client does: 4 attempts, with pauses of 1, 2 and 4 seconds.
const (
	attempts       = 4
	attemptTimeout = 10 * time.Second
)

// Client is an HTTP client that repeats requests over transport; nil is http.DefaultTransport. Callers bound
// the whole of it with the request's context.
func Client(transport http.RoundTripper) *http.Client {
	client := retryablehttp.NewClient()
	client.Logger = nil
	client.HTTPClient = httpclient.New(transport, attemptTimeout)
	client.RetryMax, client.RetryWaitMin, client.RetryWaitMax = attempts-1, MinWait, MaxWait
	client.CheckRetry, client.Backoff = Check, Wait
	client.ErrorHandler = lastAnswer
	return client.StandardClient()
}

// lastAnswer is what came of the last attempt: its answer or an error, never both, of which net/http would complain on the
// standard error.
func lastAnswer(response *http.Response, err error, _ int) (*http.Response, error) {
	if err != nil && response != nil {
		response.Body.Close()
		response = nil
	}
	return response, err
}
