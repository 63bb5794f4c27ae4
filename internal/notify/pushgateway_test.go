package notify

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	model "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/our-org/crossbill/internal/release"
)

// pushed is what a Pushgateway gets: the groups in their order, and the last value of each metric.
type pushed struct {
	Groups []string
	Values map[string]float64
}

func (p *pushed) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	labels := strings.Split(strings.TrimPrefix(r.URL.Path, "/metrics/"), "/")
	var pairs []string
	for pair := range slices.Chunk(labels, 2) {
		pairs = append(pairs, strings.Join(pair, "="))
	}
	slices.Sort(pairs)
	p.Groups = append(p.Groups, r.Method+" "+strings.Join(pairs, " "))
	for decoder := expfmt.NewDecoder(r.Body, expfmt.ResponseFormat(r.Header)); ; {
		family := new(model.MetricFamily)
		if decoder.Decode(family) != nil {
			return
		}
		p.Values[family.GetName()] = family.GetMetric()[0].GetGauge().GetValue()
	}
}

func TestPushgateway(t *testing.T) {
	command, app := "PUT app=shop command=verify job=crossbill namespace=production", "POST app=shop job=crossbill namespace=production"
	commandValues := map[string]float64{"crossbill_command_duration_seconds": 42, "crossbill_command_exit_code": 3, "crossbill_command_last_run_timestamp_seconds": float64(started.Unix() + 42)}
	with := func(more map[string]float64) map[string]float64 {
		all := maps.Clone(commandValues)
		maps.Copy(all, more)
		return all
	}
	inFlight := unhealthyCanary("")
	inFlight.Release.Stage = release.StageVerified
	none := unhealthyCanary("")
	none.Release = nil
	for name, test := range map[string]struct {
		event *Event
		want  pushed
	}{
		"no release":  {none, pushed{[]string{command}, commandValues}},
		"in flight":   {inFlight, pushed{[]string{command, app}, with(map[string]float64{"crossbill_canary_weight_percent": 10, "crossbill_canary_requests": 194})}},
		"rolled back": {unhealthyCanary(release.OutcomeRolledBack), pushed{[]string{command, app}, with(map[string]float64{"crossbill_canary_weight_percent": 0, "crossbill_canary_requests": 194, "crossbill_release_duration_seconds": 102, "crossbill_release_rolled_back": 1})}},
		"promoted":    {unhealthyCanary(release.OutcomePromoted), pushed{[]string{command, app}, with(map[string]float64{"crossbill_canary_weight_percent": 0, "crossbill_canary_requests": 194, "crossbill_release_duration_seconds": 102, "crossbill_release_rolled_back": 0})}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := &pushed{Values: map[string]float64{}}
				if err := (Pushgateway{URL: "https://p.example.com", Transport: server{got}}).Notify(t.Context(), test.event); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(test.want, *got); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		if err := (Pushgateway{URL: "https://p.example.com", Transport: server{}}).Notify(t.Context(), none); err == nil || !strings.HasPrefix(err.Error(), "Pushgateway: ") {
			t.Errorf("error %v of a Pushgateway that is down", err)
		}
	})
}
