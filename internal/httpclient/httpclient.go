// Package httpclient makes the HTTP clients of all other packages: a test finds one that is made elsewhere. It promises
// that nothing which was meant for one server goes to another, and that no server can fill the memory or hold a command:
//
//   - A redirect is followed for GET and HEAD only, and only to the same origin: scheme, host and port, so neither to
//     http nor from it. Go's own client would take custom headers (GitLab's token, those of Prometheus's
//     configuration) along to any host, and send a body (a trigger token, a webhook's message) again for a 307.
//   - An answer has a largest size, counted after decompression.
//   - An answer ends within a time, however slowly its bytes come.
package httpclient

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// MaxAnswer is how many bytes an answer may have, where nothing else is said: more than any page of JSON.
const MaxAnswer = 32 << 20

// RedirectError says that a server answered with a redirect that is not followed. It does not contain paths and queries,
// which may hold secrets.
type RedirectError struct {
	Method   string
	From, To string // origins, such as https://gitlab.example.com
}

func (e *RedirectError) Error() string {
	if e.From == e.To {
		return fmt.Sprintf("%s redirects a %s to another path; that is not followed, since it could take effect twice or elsewhere: give the new address", e.From, e.Method)
	}
	return fmt.Sprintf("%s redirects a %s to %s; that is not followed, since credentials would go along: if it is right, give that address", e.From, e.Method, e.To)
}

// SizeError says that an answer was too long to be read.
type SizeError struct {
	Origin string
	Limit  int64
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("the answer of %s has more than %d bytes", e.Origin, e.Limit)
}

// Guard is a transport that keeps what the package promises, whatever client it is used by.
type Guard struct {
	Transport http.RoundTripper // default http.DefaultTransport
	MaxAnswer int64             // in bytes; 0 for no limit, where the reader has one
	Deadline  time.Duration     // of a request with its answer; 0 where the client or its context has one

	// OtherOrigins follows a GET or HEAD elsewhere as well, but never from https to http. It is for registries, whose
	// content others store; their client sends credentials to the registry alone.
	OtherOrigins bool
}

// New is a client over a transport, nil for the usual one. The time-out is that of a request with its answer.
func New(transport http.RoundTripper, timeout time.Duration) *http.Client {
	return NewFor(transport, timeout, MaxAnswer)
}

// NewFor is New for answers of another size.
func NewFor(transport http.RoundTripper, timeout time.Duration, maxAnswer int64) *http.Client {
	return &http.Client{Transport: Guard{Transport: transport, MaxAnswer: maxAnswer}, Timeout: timeout}
}

// Probe is a client for a URL that is called like a browser would: it follows redirects on the same origin, and takes
// one to elsewhere as the answer.
func Probe(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if len(via) >= 10 || !sameOrigin(via[0].URL, next.URL) {
			return http.ErrUseLastResponse
		}
		return nil
	}}
}

// Proxy is http.ProxyFromEnvironment, for a library that lets its proxy be chosen, but not its transport: it refuses
// every redirect.
func Proxy(request *http.Request) (*url.URL, error) {
	if from := request.Response; from != nil {
		return nil, &RedirectError{Method: from.Request.Method, From: origin(from.Request.URL), To: origin(request.URL)}
	}
	return http.ProxyFromEnvironment(request)
}

// RoundTrip sends a request. Its errors are those of the transport, *RedirectError and *SizeError.
func (g Guard) RoundTrip(request *http.Request) (*http.Response, error) {
	transport := g.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	cancel := func() {}
	if g.Deadline > 0 {
		ctx, stop := context.WithTimeout(request.Context(), g.Deadline)
		request, cancel = request.WithContext(ctx), stop
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		cancel()
		return nil, err
	}
	if err := g.check(request, response); err != nil {
		response.Body.Close()
		cancel()
		return nil, err
	}
	if g.Deadline > 0 || g.MaxAnswer > 0 {
		response.Body = &body{ReadCloser: response.Body, close: cancel, limit: g.MaxAnswer, left: g.MaxAnswer, origin: origin(request.URL)}
	}
	return response, nil
}

// check refuses an answer by its head.
func (g Guard) check(request *http.Request, response *http.Response) error {
	if to := location(request, response); to != nil && !g.follows(request, to) {
		return &RedirectError{Method: request.Method, From: origin(request.URL), To: origin(to)}
	}
	if g.MaxAnswer > 0 && response.ContentLength > g.MaxAnswer && request.Method != http.MethodHead {
		return &SizeError{Origin: origin(request.URL), Limit: g.MaxAnswer}
	}
	return nil
}

// location is where an answer redirects to, nil if it does not.
func location(request *http.Request, response *http.Response) *url.URL {
	redirects := []int{http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect}
	header := response.Header.Get("Location")
	if header == "" || !slices.Contains(redirects, response.StatusCode) {
		return nil
	}
	to, err := request.URL.Parse(header)
	if err != nil {
		return &url.URL{} // nowhere that could be followed
	}
	return to
}

func (g Guard) follows(request *http.Request, to *url.URL) bool {
	if request.Method != http.MethodGet && request.Method != http.MethodHead {
		return false
	}
	if g.OtherOrigins {
		return to.Host != "" && to.User == nil && (to.Scheme == "https" || to.Scheme == request.URL.Scheme)
	}
	return to.User == nil && sameOrigin(request.URL, to)
}

// sameOrigin is the same-origin rule of browsers (RFC 6454, 5).
func sameOrigin(a, b *url.URL) bool { return origin(a) == origin(b) }

// origin is a URL's scheme, host and port, in one way of writing.
func origin(u *url.URL) string {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if port == "" || u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return u.Scheme + "://" + host
	}
	return u.Scheme + "://" + net.JoinHostPort(host, port)
}

// body is an answer's body that ends at a size.
type body struct {
	io.ReadCloser
	close       func()
	limit, left int64
	origin      string
}

func (b *body) Read(into []byte) (int, error) {
	if b.limit == 0 {
		return b.ReadCloser.Read(into)
	}
	if b.left < 0 {
		return 0, &SizeError{Origin: b.origin, Limit: b.limit}
	}
	if int64(len(into)) > b.left+1 { // one more shows whether there is more
		into = into[:b.left+1]
	}
	n, err := b.ReadCloser.Read(into)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, &SizeError{Origin: b.origin, Limit: b.limit}
	}
	return n, err
}

func (b *body) Close() error {
	defer b.close()
	return b.ReadCloser.Close()
}
