package verdict

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCallers: who calls a workload is known from both sides, waypoints included, and named once. The server answers as Prometheus does
// to a sum by two labels: labels that a series lacks are missing.
func TestCallers(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.FormValue("query")
		if !strings.Contains(query, `destination_workload="app-canary"`) || !strings.Contains(query, "[30s]") {
			t.Errorf("query %s", query)
		}
		gateway := `{"metric":{"source_workload":"public-gateway","source_workload_namespace":"istio-system"},"value":[1,"3"]}`
		result := gateway
		if strings.Contains(query, `reporter=~"source|waypoint"`) {
			result = gateway + `,{"metric":{"source_workload":"cart","source_workload_namespace":"shop"},"value":[1,"1"]}`
		}
		if strings.Contains(query, `reporter="destination"`) {
			result = gateway + `,{"metric":{"source_workload":"unknown","source_workload_namespace":"unknown"},"value":[1,"1"]}`
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[%s]}}`, result)
	}))
	defer server.Close()
	source, err := NewSource(SourceOptions{URL: server.URL, Namespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := source.Callers(t.Context(), "app-canary")
	if diff := cmp.Diff([]string{"cart (shop)", "public-gateway (istio-system)", "unknown (unknown)"}, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}
