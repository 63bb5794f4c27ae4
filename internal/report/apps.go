package report

import (
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// WriteApps writes where many apps are as a table, for people, those with a release in flight first; wide adds their
// digests and pipelines.
func WriteApps(out io.Writer, apps []rollout.AppStatus, now time.Time, wide bool) error {
	sort.SliceStable(apps, func(a, b int) bool { return apps[a].Release != nil && apps[b].Release == nil })
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	header := "NAMESPACE\tAPP\tSTAGE\tCANARY\tPRIMARY\tFOR\tBY\t"
	if wide {
		header += "RUNS\tRELEASES\tPIPELINE\t"
	}
	fmt.Fprintln(w, header+"NEXT OR LAST")
	for _, s := range apps {
		fmt.Fprintln(w, strings.Join(appRow(s, now, wide), "\t"))
	}
	return w.Flush()
}

func appRow(s rollout.AppStatus, now time.Time, wide bool) []string {
	row := []string{s.Namespace, s.App, "-", readyOf(s.Tracks[release.Canary]), readyOf(s.Tracks[release.Primary]), "-", "-", "-"}
	switch {
	case s.Problem != "":
		row[7] = rollout.OneLine(s.Problem)
	case s.Release != nil:
		r := s.Release
		step := r.Steps[len(r.Steps)-1]
		row[2] = string(r.Stage)
		if s.Tracks[release.Canary] != nil && r.Stage != release.StageStarted {
			row[3] += fmt.Sprintf(" %d%%", r.Weight)
		}
		row[5], row[6], row[7] = duration.HumanDuration(now.Sub(step.At)), rollout.OneLine(step.By), nextStep(r)
		if s.Expired {
			row[7] += " (the job that held the lock died)"
		}
	case s.Last != nil:
		row[5], row[6] = duration.HumanDuration(now.Sub(s.Last.FinishedAt)), rollout.OneLine(s.Last.FinishedBy)
		row[7] = fmt.Sprintf("%s %s%s", colored(string(s.Last.Outcome)), shortDigest(s.Last.Digest()), suffix(s.Last.Why()))
	}
	if n := len(s.Queue); n > 0 {
		waits := fmt.Sprintf("%d in the line", n)
		if wide {
			waits = "in the line: " + Line(s.Queue)
		}
		row[7] = strings.TrimPrefix(row[7]+"; "+waits, "-; ")
	}
	if s.Hold != nil {
		row[7] += "; " + rollout.OneLine(s.Hold.String())
	}
	if !wide {
		return row
	}
	runs, releases, pipeline := "-", "-", "-"
	if t := s.Tracks[release.Primary]; t != nil {
		runs = shortDigest(release.DigestOf(t.Image))
	}
	if s.Release != nil {
		releases, pipeline = shortDigest(s.Release.Digest()), dash(s.Release.PipelineURL)
	}
	return slices.Insert(row, 7, runs, releases, pipeline)
}

// readyOf is how many of a track's replicas are ready.
func readyOf(t *rollout.TrackStatus) string {
	if t == nil {
		return "-"
	}
	return fmt.Sprintf("%d/%d", t.Ready, t.Replicas)
}
