package report

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
)

var monday = time.Date(2026, 11, 2, 8, 0, 0, 0, time.UTC)

// ended is a release that started on an hour after Monday morning, had traffic a minute later, all of it after ten, and
// ended after twelve.
func ended(hour int, id string, outcome release.Outcome, change ...func(*release.Finished)) release.Finished {
	at := monday.Add(time.Duration(hour) * time.Hour)
	f := release.Finished{Release: release.Release{ID: id, Commit: "c-" + id, StartedAt: at}, Outcome: outcome, FinishedAt: at.Add(12 * time.Minute)}
	f.Steps = []release.Step{{Stage: release.StageStarted, At: at}}
	if outcome != release.OutcomeFirst && outcome != release.OutcomeReturned {
		f.Steps = append(f.Steps, release.Step{Stage: release.StageCanary, At: at.Add(time.Minute)})
	}
	if outcome == release.OutcomePromoted || outcome == release.OutcomeReturned {
		f.Steps = append(f.Steps, release.Step{Stage: release.StagePromoted, At: at.Add(10 * time.Minute)})
	}
	for _, c := range change {
		c(&f)
	}
	return f
}

func without(stage release.Stage) func(*release.Finished) {
	return func(f *release.Finished) {
		for i := range f.Steps {
			if f.Steps[i].Stage == stage {
				f.Steps = f.Steps[:i]
				return
			}
		}
	}
}

func returns(from string) func(*release.Finished) {
	return func(f *release.Finished) { f.Return = &release.Return{From: from} }
}

func many(n int) []release.Finished {
	var all []release.Finished
	for i := range n {
		all = append(all, ended(i*24, fmt.Sprintf("r%d", i), release.OutcomePromoted))
	}
	return all
}

// TestDelivery is what counts as a deployment, a failure and a recovery. Releases are written oldest first.
func TestDelivery(t *testing.T) {
	const minute = 60
	now := monday.Add(14 * 24 * time.Hour)
	first := ended(0, "one", release.OutcomeFirst)
	for name, test := range map[string]struct {
		history   []release.Finished
		committed map[string]time.Time
		since     time.Time
		want      Delivery
	}{
		"nothing":           {want: Delivery{}},
		"the first release": {history: []release.Finished{first}, want: Delivery{Since: monday, Deployments: 1, Changes: 1}},
		"what changed nothing": {
			history: []release.Finished{first, ended(1, "two", release.OutcomeUnchanged), ended(2, "three", release.OutcomeSuperseded)},
			want:    Delivery{Since: monday, Deployments: 1, Changes: 1},
		},
		"rolled back, with traffic": {
			history: []release.Finished{first, ended(1, "two", release.OutcomeRolledBack)},
			want:    Delivery{Since: monday, Deployments: 1, Changes: 2, Failed: 1, RestoreTimes: []float64{11 * minute}},
		},
		"never ready": {
			history: []release.Finished{first, ended(1, "two", release.OutcomeRolledBack, without(release.StageCanary))},
			want:    Delivery{Since: monday, Deployments: 1, Changes: 1},
		},
		"a return": {
			history: []release.Finished{first, ended(1, "two", release.OutcomePromoted), ended(5, "one", release.OutcomeReturned, returns("two"))},
			want:    Delivery{Since: monday, Deployments: 2, Changes: 2, Failed: 1, RestoreTimes: []float64{4*60*minute + 11*minute}},
		},
		"a return that was taken back": {
			history: []release.Finished{first, ended(1, "two", release.OutcomePromoted), ended(5, "one", release.OutcomeRolledBack, returns("two"))},
			want:    Delivery{Since: monday, Deployments: 2, Changes: 2},
		},
		"there and back": {
			history: []release.Finished{
				first, ended(1, "two", release.OutcomePromoted), ended(2, "one", release.OutcomeReturned, returns("two")), ended(3, "two", release.OutcomeReturned, returns("one")),
			},
			want: Delivery{Since: monday, Deployments: 2, Changes: 2, Failed: 2, RestoreTimes: []float64{61*minute + 10*minute, 3 * 60 * minute}},
		},
		"a return from what is not kept": {
			history: []release.Finished{ended(5, "one", release.OutcomeReturned, returns("gone"))},
			want:    Delivery{Since: monday.Add(5 * time.Hour)},
		},
		"lead times": {
			history:   []release.Finished{first, ended(1, "two", release.OutcomePromoted), ended(2, "three", release.OutcomePromoted)},
			committed: map[string]time.Time{"c-one": monday.Add(-time.Hour), "c-two": monday, "c-three": now}, // whose clock is wrong
			want:      Delivery{Since: monday, Deployments: 3, Changes: 3, LeadTimes: []float64{70 * minute, 72 * minute}},
		},
		"a commit twice": {
			history:   []release.Finished{first, ended(1, "one", release.OutcomePromoted)},
			committed: map[string]time.Time{"c-one": monday},
			want:      Delivery{Since: monday, Deployments: 2, Changes: 2, LeadTimes: []float64{12 * minute}},
		},
		"enough of them": {
			history:   append(many(7), ended(7*24, "bad", release.OutcomeRolledBack)),
			committed: map[string]time.Time{"c-r0": monday, "c-r1": monday, "c-r2": monday, "c-r3": monday, "c-r4": monday, "c-r5": monday},
			want: Delivery{
				Since: monday, Deployments: 7, PerWeek: new(3.5), Changes: 8, Failed: 1, FailureRate: new(0.125),
				LeadTimes: []float64{600, 87000, 173400, 259800, 346200, 432600}, LeadTime: new(216600.0), RestoreTimes: []float64{11 * minute},
			},
		},
		"since": {
			history: append(many(7), ended(7*24, "bad", release.OutcomeRolledBack)), since: monday.Add(4 * 24 * time.Hour),
			want: Delivery{Since: monday.Add(4 * 24 * time.Hour), Deployments: 3, Changes: 4, Failed: 1, RestoreTimes: []float64{11 * minute}},
		},
		"good ones that are kept for longer": {
			history: append(many(2), slices.Repeat([]release.Finished{ended(7*24, "bad", release.OutcomeRolledBack)}, release.HistoryLength)...),
			want:    Delivery{Since: monday.Add(7 * 24 * time.Hour), Changes: 20, Failed: 20, FailureRate: new(1.0), RestoreTimes: slices.Repeat([]float64{11 * minute}, 20), RestoreTime: new(11.0 * minute)},
		},
		"since before the ledger": {history: []release.Finished{first}, since: monday.AddDate(-1, 0, 0), want: Delivery{Since: monday, Deployments: 1, Changes: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			history := make([]release.Finished, 0, len(test.history))
			for i := range test.history {
				history = append([]release.Finished{test.history[i]}, history...)
			}
			test.want.Until = now
			if test.want.LeadTimes == nil {
				test.want.LeadTimes = []float64{}
			}
			if test.want.RestoreTimes == nil {
				test.want.RestoreTimes = []float64{}
			}
			if diff := cmp.Diff(test.want, DeliveryOf(history, test.committed, test.since, now)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestDeliveryText is what people read: with few releases no rate and no median, and never a figure of nothing.
func TestDeliveryText(t *testing.T) {
	d := Delivery{Since: monday, Until: monday.Add(14 * 24 * time.Hour)}
	few := d
	few.Deployments, few.Changes, few.Failed, few.LeadTimes, few.RestoreTimes = 2, 3, 1, []float64{4200, 90000}, []float64{660}
	enough := d
	enough.Deployments, enough.PerWeek, enough.Changes, enough.Failed, enough.FailureRate = 42, new(21.0), 44, 2, new(2.0/44)
	enough.LeadTimes, enough.LeadTime = []float64{600, 1200, 4200, 90000, 200000}, new(4200.0)
	for name, test := range map[string]struct {
		d    Delivery
		want []string
	}{
		"nothing": {d, []string{"deployment frequency   0 in 14 days; a rate needs 5", "lead time for changes  nothing was deployed", "change failure rate    0 of 0; a rate needs 5", "time to restore        nothing has failed"}},
		"few": {few, []string{
			"deployment frequency   2 in 14 days; a rate needs 5", "lead time for changes  70 min, 25 h; a median needs 5",
			"change failure rate    1 of 3; a rate needs 5", "time to restore        11 min; a median needs 5",
		}},
		"enough": {enough, []string{
			"deployment frequency   42 in 14 days: 3.0 a day", "lead time for changes  median 70 min, from 10 min to 2 days, of 5",
			"change failure rate    2 of 44: 5%", "time to restore        nothing has failed",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := writeDelivery(&out, test.d); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if diff := cmp.Diff(test.want, lines[1:]); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}
