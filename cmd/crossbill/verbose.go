package main

import (
	"fmt"
	"io"
	"net/http"
	"time"
)

// requestLog shows each request and its answer on a line: never a body or a header, which may hold secrets.
type requestLog struct {
	next http.RoundTripper
	out  io.Writer
}

// logRequests wraps a client's transport for --verbose.
func logRequests(out io.Writer) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper { return &requestLog{next, out} }
}

func (l *requestLog) RoundTrip(request *http.Request) (*http.Response, error) {
	start := time.Now()
	response, err := l.next.RoundTrip(request)
	answer := "no answer"
	if err == nil {
		answer = response.Status
	}
	fmt.Fprintf(l.out, "%s %s %s in %s\n", request.Method, request.URL.Redacted(), answer, time.Since(start).Round(time.Millisecond))
	return response, err
}

// WrappedRoundTripper lets client-go look through this one.
func (l *requestLog) WrappedRoundTripper() http.RoundTripper { return l.next }
