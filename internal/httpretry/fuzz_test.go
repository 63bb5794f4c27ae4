package httpretry

import (
	"net/http"
	"testing"
	"time"
)

// FuzzWait: no header makes a pause longer or shorter than it may be.
func FuzzWait(f *testing.F) {
	for _, header := range []string{"", "0", "-1", "20", "9223372036854775807", "1e9", "Fri, 01 Jan 1999 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "20, 30", " 20", "२०"} {
		f.Add(header, header, 429, 3)
	}
	f.Fuzz(func(t *testing.T, after, reset string, status, attempt int) {
		response := &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {after}, "Ratelimit-Reset": {reset}}}
		if wait := Wait(MinWait, MaxWait, max(0, attempt), response); wait < MinWait || wait > MaxWait {
			t.Errorf("%q, %q: %s", after, reset, wait)
		}
		if wait := Wait(0, time.Hour, max(0, attempt), response); wait < 0 || wait > time.Hour {
			t.Errorf("%q, %q: %s", after, reset, wait)
		}
	})
}
