package notify

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/our-org/crossbill/internal/release"
)

// TestNothingGoesElsewhere: no target can redirect a token, a secret address or a message to another host.
func TestNothingGoesElsewhere(t *testing.T) {
	var elsewhere atomic.Int64
	evil := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer evil.Close()
	for _, status := range []int{http.StatusFound, http.StatusTemporaryRedirect} {
		var requests atomic.Int64
		home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			http.Redirect(w, r, evil.URL+"/?SECRET", status)
		}))
		defer home.Close()
		t.Setenv("CROSSBILL_OTLP_ENDPOINT", home.URL)
		t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20SECRET")
		for name, target := range map[string]Notifier{
			"GitHub":      GitHub{URL: home.URL, Repository: "our-org/shop", Token: "SECRET"},
			"GitLab":      MergeRequest{GitLab: GitLab{URL: home.URL, Project: "our-org/shop", Token: "SECRET"}},
			"webhook":     Webhook{URL: home.URL + "/SECRET"},
			"Pushgateway": Pushgateway{URL: home.URL},
			"traces":      Traces{},
		} {
			requests.Store(0)
			e := unhealthyCanary(release.OutcomeRolledBack)
			e.Release.Commit = pageCommit
			err := target.Notify(t.Context(), e)
			if err == nil || !strings.Contains(err.Error(), evil.URL+"; that is not followed") || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("%s, %d: error %v, want where it redirects to", name, status, err)
			}
			if requests.Load() != 1 {
				t.Errorf("%s, %d: sent %d times", name, status, requests.Load())
			}
		}
	}
	if elsewhere.Load() != 0 {
		t.Errorf("another host got %d requests", elsewhere.Load())
	}
}
