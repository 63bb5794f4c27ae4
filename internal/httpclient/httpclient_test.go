package httpclient

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// roundTripper answers without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(r *http.Request, status int, header http.Header, body io.Reader) *http.Response {
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(body), ContentLength: -1, Request: r, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
}

// TestRedirects: what was sent to one origin is never sent to another, and what may take effect is sent once.
func TestRedirects(t *testing.T) {
	const home = "https://gitlab.example.com"
	for name, test := range map[string]struct {
		method   string
		status   int
		location string
		registry bool
		followed bool
		to       string // that the error names
	}{
		"the same origin":                    {location: "/elsewhere", followed: true},
		"the same, in full":                  {location: home + "/x", followed: true},
		"the same, with its port":            {location: home + ":443/x", followed: true},
		"the same, in capitals":              {location: "HTTPS://GitLab.Example.com/x", followed: true},
		"HEAD":                               {method: "HEAD", location: "/x", followed: true},
		"another host":                       {location: "https://evil.example/x?private_token=secret", to: "https://evil.example"},
		"a host below it":                    {location: "https://a.gitlab.example.com/x", to: "https://a.gitlab.example.com"},
		"a host with its name before":        {location: "https://gitlab.example.com.evil.example", to: "https://gitlab.example.com.evil.example"},
		"its name as a user":                 {location: "https://gitlab.example.com@evil.example/", to: "https://evil.example"},
		"a user on the same host":            {location: "https://a:b@gitlab.example.com/", to: home},
		"another port":                       {location: home + ":8443/", to: home + ":8443"},
		"without encryption":                 {location: "http://gitlab.example.com/", to: "http://gitlab.example.com"},
		"another host without a scheme":      {location: "//evil.example/", to: "https://evil.example"},
		"backslashes":                        {location: `\\evil.example/`, followed: true}, // Go reads a path
		"no URL":                             {location: "https://[::1", to: "://"},
		"307":                                {status: 307, location: "https://evil.example/", to: "https://evil.example"},
		"308":                                {status: 308, location: "https://evil.example/", to: "https://evil.example"},
		"a POST, 307":                        {method: "POST", status: 307, location: "https://evil.example/", to: "https://evil.example"},
		"a POST, 303":                        {method: "POST", status: 303, location: "https://evil.example/", to: "https://evil.example"},
		"a POST on the same origin":          {method: "POST", status: 308, location: "/x", to: home},
		"a POST to the same address":         {method: "POST", status: 307, location: home + "/a", to: home},
		"a POST that would become a GET":     {method: "POST", status: 302, location: "/x", to: home},
		"a PUT":                              {method: "PUT", status: 307, location: "/x", to: home},
		"a PATCH":                            {method: "PATCH", status: 307, location: "/x", to: home},
		"a DELETE":                           {method: "DELETE", status: 301, location: "/x", to: home},
		"of a registry: elsewhere":           {registry: true, status: 307, location: "https://storage.example/blob?signature=x", followed: true},
		"of a registry: unencrypted":         {registry: true, location: "http://storage.example/blob", to: "http://storage.example"},
		"of a registry: an upload":           {registry: true, method: "PUT", status: 307, location: "https://storage.example/blob", to: "https://storage.example"},
		"of a registry: with a user":         {registry: true, location: "https://a@storage.example/", to: "https://storage.example"},
		"of a registry: what is not the web": {registry: true, location: "file:///etc/passwd", to: "file://"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.method == "" {
				test.method = http.MethodGet
			}
			if test.status == 0 {
				test.status = http.StatusFound
			}
			var sent []string
			client := New(roundTripper(func(r *http.Request) (*http.Response, error) {
				sent = append(sent, r.URL.String())
				if len(sent) > 1 {
					return answer(r, http.StatusOK, nil, strings.NewReader("")), nil
				}
				return answer(r, test.status, http.Header{"Location": {test.location}}, strings.NewReader("")), nil
			}), time.Minute)
			if test.registry {
				guard := client.Transport.(Guard)
				guard.OtherOrigins = true
				client.Transport = guard
			}
			request, err := http.NewRequestWithContext(t.Context(), test.method, home+"/a?token=own", strings.NewReader("token=trigger"))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("PRIVATE-TOKEN", "secret")
			response, err := client.Do(request)
			if response != nil {
				response.Body.Close()
			}
			if test.followed {
				if err != nil || len(sent) != 2 {
					t.Errorf("it was not followed: %v, %q", err, sent)
				}
				return
			}
			refused, ok := errors.AsType[*RedirectError](err)
			if !ok || len(sent) != 1 {
				t.Fatalf("error %v after %q, want a RedirectError after one request", err, sent)
			}
			if diff := cmp.Diff(&RedirectError{Method: test.method, From: home, To: test.to}, refused); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if text := refused.Error(); strings.ContainsAny(text, "?=") || !strings.Contains(text, test.to) {
				t.Errorf("it says %q", text)
			}
		})
	}
}

func TestAnswerHasALargestSize(t *testing.T) {
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		good    bool
	}{
		"exactly as long": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("a", 100)) }, true},
		"one more":        {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("a", 101)) }, false},
		"one more, without a length": {func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, strings.Repeat("a", 101))
		}, false},
		"without an end": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, "[1,"); err != nil {
					return
				}
			}
		}, false},
		"compressed": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(make([]byte, 1<<20))
			z.Close()
		}, false},
		"an error": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, strings.Repeat("a", 101))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(test.handler)
			defer server.Close()
			client := &http.Client{Transport: Guard{MaxAnswer: 100}}
			response, err := client.Get(server.URL)
			var read []byte
			if err == nil {
				read, err = io.ReadAll(response.Body)
				response.Body.Close()
			}
			tooLong, _ := errors.AsType[*SizeError](err)
			if len(read) > 100 || test.good != (err == nil) || !test.good && tooLong == nil {
				t.Errorf("%d bytes, %v", len(read), err)
			}
		})
	}
}

// drip is a body of which a byte comes every second.
type drip struct{ ctx context.Context }

func (d drip) Read(into []byte) (int, error) {
	select {
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	case <-time.After(time.Second):
		return copy(into, "a"), nil
	}
}

// TestAnswerEndsInTime: one whose bytes come without end is given up.
func TestAnswerEndsInTime(t *testing.T) {
	slow := roundTripper(func(r *http.Request) (*http.Response, error) {
		return answer(r, http.StatusOK, nil, drip{r.Context()}), nil
	})
	for name, client := range map[string]*http.Client{
		"by the client's time-out": New(slow, 10*time.Second),
		"by the guard's deadline":  {Transport: Guard{Transport: slow, Deadline: 10 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				response, err := client.Get("https://registry.example.com/")
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				read, err := io.ReadAll(response.Body)
				if took := time.Since(began); err == nil || took > 11*time.Second || len(read) < 9 {
					t.Errorf("%d bytes in %s, %v", len(read), took, err)
				}
			})
		})
	}
}

// TestProbe: a page may lead to another of the same app; what leads to a login elsewhere is an answer of the app.
func TestProbe(t *testing.T) {
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			http.Redirect(w, r, "/en/", http.StatusFound)
		case "/account":
			http.Redirect(w, r, other.URL, http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		}
	}))
	defer app.Close()
	for path, want := range map[string]int{"/": 200, "/account": 302, "/loop": 302} {
		response, err := Probe(time.Minute).Get(app.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, response.Status, want)
		}
	}
	if elsewhere != 0 {
		t.Error("the probe went elsewhere")
	}
}

func FuzzRedirect(f *testing.F) {
	for _, location := range []string{"/x", "https://evil.example/?a", "//evil.example", "https://gitlab.example.com:443/", `\\evil`, "https://gitlab.example.com@evil.example", "https://gitlab.example.com:0443/", "http:evil", "https:///evil"} {
		f.Add(location)
	}
	f.Fuzz(func(t *testing.T, location string) {
		client := New(roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Hostname() != "" && !strings.EqualFold(r.URL.Hostname(), "gitlab.example.com") || r.URL.Scheme != "https" {
				t.Errorf("%q led to %s", location, r.URL)
			}
			return answer(r, http.StatusFound, http.Header{"Location": {location}}, strings.NewReader("")), nil
		}), time.Minute)
		response, err := client.Get("https://gitlab.example.com/a/b")
		if err == nil {
			response.Body.Close()
		}
		if refused, ok := errors.AsType[*RedirectError](err); ok && strings.ContainsAny(refused.To, "?#@") {
			t.Errorf("%q: the error names %q", location, refused.To)
		}
	})
}
