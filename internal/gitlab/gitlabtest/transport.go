package gitlabtest

import (
	"io"
	"net/http"
	"net/http/httptest"
)

// Transport carries requests to the server without a network, so that it also works under a simulated
// clock. A connection that the server ends early is an error, as on a real one, and what the server
// does goes on when the caller gives up.
func (s *Server) Transport() http.RoundTripper { return transport{s} }

// Wait waits until the server has done with all requests of Transport, also those given up.
func (s *Server) Wait() { s.underWay.Wait() }

type transport struct{ server *Server }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	type result struct {
		response *http.Response
		err      error
	}
	inner := r.Clone(r.Context())
	if inner.Body == nil {
		inner.Body = http.NoBody
	}
	done := make(chan result, 1)
	t.server.underWay.Go(func() {
		recorder := httptest.NewRecorder()
		defer func() {
			switch cause := recover(); cause {
			case nil:
				done <- result{response: recorder.Result()}
			case http.ErrAbortHandler:
				if recorder.Code == http.StatusCreated { // the answer had started
					response := recorder.Result()
					response.Body = io.NopCloser(io.MultiReader(recorder.Body, brokenBody{}))
					done <- result{response: response}
					return
				}
				done <- result{err: io.EOF}
			default:
				panic(cause)
			}
		}()
		t.server.ServeHTTP(recorder, inner)
	})
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case got := <-done:
		if got.response != nil {
			got.response.Request = r
		}
		return got.response, got.err
	}
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
