package httpretry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// roundTripper answers requests without a network, so that synctest controls the time.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestClient(t *testing.T) {
	lost := errors.New("connection reset")
	type outcome struct {
		Status   int // of the answer that the caller gets; 0 for an error
		Requests int
		Waited   time.Duration
	}
	for name, test := range map[string]struct {
		statuses []int // 0 is a lost connection
		header   http.Header
		want     outcome
	}{
		"success":                    {statuses: []int{200}, want: outcome{200, 1, 0}},
		"bad request":                {statuses: []int{400}, want: outcome{400, 1, 0}},
		"not found":                  {statuses: []int{404}, want: outcome{404, 1, 0}},
		"not implemented":            {statuses: []int{501}, want: outcome{501, 1, 0}},
		"two faults, then success":   {statuses: []int{502, 0, 200}, want: outcome{200, 3, 3 * time.Second}},
		"never answers well":         {statuses: []int{500, 502, 503, 504}, want: outcome{504, 4, 7 * time.Second}},
		"connection always lost":     {statuses: []int{0, 0, 0, 0}, want: outcome{0, 4, 7 * time.Second}},
		"Retry-After in seconds":     {statuses: []int{429, 200}, header: http.Header{"Retry-After": {"20"}}, want: outcome{200, 2, 20 * time.Second}},
		"Retry-After zero":           {statuses: []int{429, 200}, header: http.Header{"Retry-After": {"0"}}, want: outcome{200, 2, time.Second}},
		"Retry-After of a day":       {statuses: []int{503, 200}, header: http.Header{"Retry-After": {"86400"}}, want: outcome{200, 2, MaxWait}},
		"Retry-After as a past date": {statuses: []int{503, 200}, header: http.Header{"Retry-After": {"Fri, 01 Jan 1999 00:00:00 GMT"}}, want: outcome{200, 2, time.Second}},
		"RateLimit-Reset":            {statuses: []int{429, 200}, header: http.Header{"Ratelimit-Reset": {"in 15 s"}}, want: outcome{200, 2, 15 * time.Second}},
		"RateLimit-Reset of a 502":   {statuses: []int{502, 200}, header: http.Header{"Ratelimit-Reset": {"in 15 s"}}, want: outcome{200, 2, time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, got := time.Now(), outcome{}
				client := Client(roundTripper(func(r *http.Request) (*http.Response, error) {
					if body, err := io.ReadAll(r.Body); err != nil || string(body) != "body" {
						t.Errorf("attempt %d: body %q, %v", got.Requests, body, err)
					}
					status := test.statuses[got.Requests]
					got.Requests++
					if status == 0 {
						return nil, lost
					}
					recorder := httptest.NewRecorder()
					for key, values := range test.header {
						recorder.Header()[key] = values
						if values[0] == "in 15 s" {
							recorder.Header().Set(key, strconv.FormatInt(time.Now().Add(15*time.Second).Unix(), 10))
						}
					}
					recorder.WriteHeader(status)
					return recorder.Result(), nil
				}))
				resp, err := client.Post("https://example.com", "text/plain", strings.NewReader("body"))
				if err == nil {
					got.Status = resp.StatusCode
					resp.Body.Close()
				} else if !errors.Is(err, lost) {
					t.Errorf("error %v, want the last attempt's", err)
				}
				got.Waited = time.Since(start)
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			})
		})
	}
}

// TestClientStopsWithItsContext: the caller's bound holds during a pause as well.
func TestClientStopsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		client := Client(roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("down") }))
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://example.com", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Do(request); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 2*time.Second {
			t.Errorf("error %v after %s, want %v after 2s", err, time.Since(start), context.DeadlineExceeded)
		}
	})
}
