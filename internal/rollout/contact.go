package rollout

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// readsFor is how long a read that the API server does not answer is tried again.
const readsFor = 30 * time.Second

// Contact is a job's contact with the API server, on the way of all its requests. It is the one place where reads are
// tried again: for 30 seconds, once the server has answered this job at all. Until then nothing was done that could
// be lost, and the address may be wrong. Writes are tried again where it is known whether they were done (persist).
// And it keeps the server's clock, which is the one that locks go by.
type Contact struct {
	mu       sync.Mutex
	answered time.Time     // when the server answered last
	date     time.Time     // and what it said that time was
	failed   time.Time     // when it did not answer
	since    time.Time     // when that began; zero while it answers
	silent   time.Duration // how long it has not answered in all, until then
}

// Wrap is for rest.Config.Wrap, and puts the contact on the way of a client's requests.
func (c *Contact) Wrap(next http.RoundTripper) http.RoundTripper { return &contacted{c, next} }

type contacted struct {
	*Contact
	next http.RoundTripper
}

// WrappedRoundTripper lets client-go look through this one.
func (c *contacted) WrappedRoundTripper() http.RoundTripper { return c.next }

func (c *contacted) RoundTrip(r *http.Request) (*http.Response, error) {
	read := r.Method == http.MethodGet && r.URL.Query().Get("watch") == ""
	start := time.Now()
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 4*time.Second) {
		response, err := c.next.RoundTrip(r)
		known := c.note(response, err)
		if !read || !known || !unanswered(response, err) || r.Context().Err() != nil || time.Since(start)+pause > readsFor {
			return response, err
		}
		if response != nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
			response.Body.Close()
		}
		select {
		case <-time.After(pause):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

// note keeps what an answer says of the server, and says whether it has ever answered.
func (c *Contact) note(response *http.Response, err error) (known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if unanswered(response, err) {
		if c.failed = now; c.since.IsZero() {
			c.since = now
		}
		return !c.answered.IsZero()
	}
	if response != nil {
		if !c.since.IsZero() {
			c.silent, c.since = c.silent+now.Sub(c.since), time.Time{}
		}
		c.answered = now
		if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
			c.date = date
		}
	}
	return !c.answered.IsZero()
}

// unanswered says whether a request may well be answered when it is sent again.
func unanswered(response *http.Response, err error) bool {
	if err != nil {
		return utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) || utilnet.IsTimeout(err) || errors.Is(err, io.ErrUnexpectedEOF)
	}
	switch response.StatusCode {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	case http.StatusTooManyRequests:
		return response.Header.Get("Retry-After") == "" // else client-go waits as it is asked to
	}
	return false
}

// now is what time it is by the API server's clock; zero if it has never said so.
func (c *Contact) now() time.Time {
	if c == nil {
		return time.Time{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.date.IsZero() {
		return c.date
	}
	return c.date.Add(time.Since(c.answered))
}

// lost is how long the API server has not answered so far: what it did meanwhile nobody could see.
func (c *Contact) lost() time.Duration {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since.IsZero() {
		return c.silent
	}
	return c.silent + time.Since(c.since)
}

// away says whether the API server has not answered within a time.
func (c *Contact) away(within time.Duration) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.failed.IsZero() && time.Since(c.failed) < within
}
