package verdict

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// FuzzAnswers: whatever Prometheus answers is counters that can be counted with, or an error.
func FuzzAnswers(f *testing.F) {
	for _, body := range []string{
		"", "null", "{}", `{"status":"error","errorType":"bad_data","error":"x"}`, `{"status":"success","data":{"resultType":"vector","result":[]}}`,
		`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"response_code":"200"},"values":[[1700000000,"1"],[1700000015,"NaN"],[1700000030,"+Inf"],[1,"-5"]]}]}}`,
		`{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1e300,"1e400"]}]}}`,
		`{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"histogram":[1,{"count":"1","sum":"-Inf","buckets":[[0,"0","1","NaN"]]}]}]}}`,
		`{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}`, `{"status":"success","data":{"resultType":"string","result":[1,"a"]}}`, "<html>",
	} {
		f.Add([]byte(body), 200)
		f.Add([]byte(body), 422)
	}
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		if status < 200 || status > 599 || status/100 == 3 {
			status = http.StatusOK
		}
		transport := answering(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: -1, Request: r}, nil
		})
		synctest.Test(t, func(t *testing.T) {
			source, err := NewSource(SourceOptions{URL: "http://prometheus:9090", Namespace: "shop", Service: "shop", Transport: transport})
			if err != nil {
				t.Fatal(err)
			}
			at := time.Unix(1_700_000_060, 0)
			_, _ = source.Requests(t.Context(), "source", "shop-canary", at)
			_, _ = source.ScrapeInterval(t.Context(), "shop-canary", at)
			_, _ = source.Missing(t.Context(), "shop-canary", at)
			_, _ = source.Callers(t.Context(), "shop-canary")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // it waits as long as its caller does
			defer cancel()
			_ = source.Quiet(ctx, "shop-canary")
		})
	})
}

// answering answers requests without a network.
type answering func(*http.Request) (*http.Response, error)

func (f answering) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
