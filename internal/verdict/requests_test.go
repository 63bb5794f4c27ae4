package verdict

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestRecordRequests shows that a report's table and the reason of its verdict have the same number of requests, even
// if objectives count differently or counts are not whole.
func TestRecordRequests(t *testing.T) {
	healthy := func(events float64) Pair { return Pair{Tally{events, 0}, Tally{10 * events, 0}} }
	unhealthy := func(events float64) Pair { return Pair{Tally{events, events / 2}, Tally{10 * events, 0}} }
	for name, test := range map[string]struct {
		availability, latency Pair
		want                  float64
		wantReason            string // the reason contains it
	}{
		"healthy":                 {healthy(7200), healthy(7204), 7200, "availability: 100.00"},
		"the first is unhealthy":  {unhealthy(261), healthy(265), 261, "availability: "},
		"the second is unhealthy": {healthy(265), unhealthy(261), 261, "latency: "},
		"parts of requests":       {unhealthy(260.6), healthy(265), 261, "availability: "},
		"the first has nothing":   {Pair{}, healthy(90.6), 91, "availability: the canary has no events"},
		"nothing":                 {Pair{}, Pair{}, 0, "no request"},
	} {
		t.Run(name, func(t *testing.T) {
			slo := DefaultSLO()
			slo.CallersLeft, slo.ClientErrors, slo.CutStreams = 0, 0, 0
			record := Record{Test: slo.Test(), Blocks: []Block{{Elapsed: time.Minute, Pairs: []Pair{test.availability, test.latency}}}}
			got, reason := record.Requests(), record.Test.Begin().Add(record.Blocks[0]).Reason
			if got != test.want || !strings.Contains(reason, test.wantReason) {
				t.Errorf("%g requests, reason %q; want %g, %q", got, reason, test.want, test.wantReason)
			}
			if strings.Contains(reason, "of the canary's") && !strings.Contains(reason, fmt.Sprintf("of the canary's %.0f events", got)) {
				t.Errorf("%g requests, and the reason %q", got, reason)
			}
		})
	}
	if got := (Record{}).Requests(); got != 0 {
		t.Errorf("%g requests of an empty record", got)
	}
}
