package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// Delivery are DORA's four figures of software delivery (https://dora.dev/guides/dora-metrics-four-keys/), over the releases
// of a ledger:
//
//   - Deployments got all of the traffic, as the first release or by promotion. A return is none.
//   - Changes are the deployments, and the releases that were rolled back after they had got traffic.
//   - Failed changes were rolled back, or a return took them off primary.
//   - Lead times are from a commit until it had all of the traffic for the first time, where the commit's time is known.
//   - Restore times are from the first traffic of a failed change until it had none.
//
// A rate or a median is nil below Fewest values.
type Delivery struct {
	Since       time.Time `json:"since,omitzero"` // of the period that the figures are of
	Until       time.Time `json:"until"`
	Deployments int       `json:"deployments"`
	PerWeek     *float64  `json:"deploymentsPerWeek,omitempty"`
	Changes     int       `json:"changes"`
	Failed      int       `json:"failedChanges"`
	FailureRate *float64  `json:"changeFailureRate,omitempty"` // from 0 to 1

	LeadTimes    []float64 `json:"leadTimesSeconds"` // shortest first
	LeadTime     *float64  `json:"medianLeadTimeSeconds,omitempty"`
	RestoreTimes []float64 `json:"restoreTimesSeconds"` // shortest first
	RestoreTime  *float64  `json:"medianRestoreTimeSeconds,omitempty"`
}

// Fewest is how many values a rate or a median needs.
const Fewest = 5

// DeliveryOf gives the figures of releases that have finished, newest first. committed is when their commits were made, as
// far as that is known. The period starts at since, or with the oldest of the newest release.HistoryLength: of the time before,
// a ledger keeps the good ones alone.
func DeliveryOf(history []release.Finished, committed map[string]time.Time, since, now time.Time) Delivery {
	history = history[:min(len(history), release.HistoryLength)]
	d := Delivery{Since: since, Until: now, LeadTimes: []float64{}, RestoreTimes: []float64{}}
	if len(history) > 0 && history[len(history)-1].StartedAt.After(since) {
		d.Since = history[len(history)-1].StartedAt
	}
	serving := map[string]*release.Finished{} // by its name, what has last got all of the traffic as this release
	led := map[string]bool{}
	for i := range slices.Backward(history) {
		f := &history[i]
		switch {
		case f.FinishedAt.Before(since):
		case f.Outcome == release.OutcomeReturned:
			if failed := serving[f.Return.From]; failed != nil {
				d.failed(failed, f.FinishedAt)
				delete(serving, f.Return.From)
			}
		case f.Return != nil: // one that was taken back
		case f.Outcome == release.OutcomeFirst, f.Outcome == release.OutcomePromoted:
			d.Changes++
			d.Deployments++
			serving[f.ID] = f
			if at, known := committed[f.Commit]; known && !led[f.Commit] && at.Before(wholeSince(f)) {
				d.LeadTimes = append(d.LeadTimes, wholeSince(f).Sub(at).Seconds())
				led[f.Commit] = true
			}
		case f.Outcome == release.OutcomeRolledBack && !f.ServesSince().IsZero():
			d.Changes++
			d.failed(f, f.FinishedAt)
		}
	}
	if weeks := d.Until.Sub(d.Since).Hours() / (7 * 24); d.Deployments >= Fewest && weeks > 0 {
		d.PerWeek = new(float64(d.Deployments) / weeks)
	}
	if d.Changes >= Fewest {
		d.FailureRate = new(float64(d.Failed) / float64(d.Changes))
	}
	d.LeadTime, d.RestoreTime = median(d.LeadTimes), median(d.RestoreTimes)
	return d
}

// failed counts a change as failed, which had no traffic any more at a time.
func (d *Delivery) failed(f *release.Finished, over time.Time) {
	d.Failed++
	from := f.ServesSince()
	if from.IsZero() { // the app's first release has no canary
		from = f.FinishedAt
	}
	d.RestoreTimes = append(d.RestoreTimes, over.Sub(from).Seconds())
}

// wholeSince is when a release that has ended well had all of the traffic.
func wholeSince(f *release.Finished) time.Time {
	for _, step := range f.Steps {
		if step.Stage == release.StagePromoted {
			return step.At
		}
	}
	return f.FinishedAt
}

// median sorts values, and gives the one in the middle; nil for too few.
func median(values []float64) *float64 {
	slices.Sort(values)
	n := len(values)
	if n < Fewest {
		return nil
	}
	return new((values[(n-1)/2] + values[n/2]) / 2)
}

// Figure is one of the four, for people.
type Figure struct{ Name, Text string }

// Figures are the four, in DORA's order.
func (d Delivery) Figures() []Figure {
	frequency := fmt.Sprintf("%d in %s", d.Deployments, FormatDuration(d.Until.Sub(d.Since).Round(time.Second)))
	switch {
	case d.PerWeek == nil:
		frequency += fmt.Sprintf("; a rate needs %d", Fewest)
	case *d.PerWeek >= 14:
		frequency += fmt.Sprintf(": %.1f a day", *d.PerWeek/7)
	default:
		frequency += fmt.Sprintf(": %.1f a week", *d.PerWeek)
	}
	failures := fmt.Sprintf("%d of %d", d.Failed, d.Changes)
	if d.FailureRate != nil {
		failures += fmt.Sprintf(": %.0f%%", 100**d.FailureRate)
	} else {
		failures += fmt.Sprintf("; a rate needs %d", Fewest)
	}
	lead := timesText(d.LeadTimes, d.LeadTime, "the times of the commits are not known")
	if d.Deployments == 0 {
		lead = "nothing was deployed"
	}
	return []Figure{
		{"Deployment frequency", frequency}, {"Lead time for changes", lead},
		{"Change failure rate", failures}, {"Time to restore", timesText(d.RestoreTimes, d.RestoreTime, "nothing has failed")},
	}
}

// timesText says a median, or the few times that there are.
func timesText(seconds []float64, median *float64, none string) string {
	text := func(s float64) string {
		return FormatDuration(time.Duration(s * float64(time.Second)).Round(time.Second))
	}
	switch {
	case len(seconds) == 0:
		return none
	case median == nil:
		var all []string
		for _, s := range seconds {
			all = append(all, text(s))
		}
		return strings.Join(all, ", ") + fmt.Sprintf("; a median needs %d", Fewest)
	}
	return fmt.Sprintf("median %s, from %s to %s, of %d", text(*median), text(seconds[0]), text(seconds[len(seconds)-1]), len(seconds))
}

// writeDelivery writes the figures, for people.
func writeDelivery(out io.Writer, d Delivery) error {
	var b strings.Builder
	fmt.Fprintf(&b, "delivery since %s (DORA's four figures)\n", d.Since.UTC().Format(time.RFC3339))
	for _, f := range d.Figures() {
		fmt.Fprintf(&b, "%-22s %s\n", strings.ToLower(f.Name), f.Text)
	}
	_, err := io.WriteString(out, b.String())
	return err
}
