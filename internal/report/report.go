// Package report tells where a release is and what happened: as text, as JSON, and as one HTML file
// that needs no network. It reads nothing itself.
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

// Status writes where an app's release is, for a person; wide also its commit and all of its history.
func Status(out io.Writer, s *rollout.Status, wide bool) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "app\t%s in %s\n", s.App, s.Namespace)
	if r := s.Release; r != nil {
		fmt.Fprintf(w, "release\t%s, %s\n", r.ID, r.Digest())
		fmt.Fprintf(w, "stage\t%s, begun %s by %s\n", coloured(string(r.Stage)), r.StartedAt.Format(time.RFC3339), r.StartedBy)
		if r.Verdict != nil {
			fmt.Fprintf(w, "verdict\t%s: %s\n", coloured(string(r.Verdict.Outcome)), r.Verdict.Reason)
		}
		links := r.Links()
		step := r.Steps[len(r.Steps)-1]
		for _, page := range []struct{ name, address string }{{"commit", links.CommitURL}, {"run", links.RunURL}, {"pipeline", r.PipelineURL}, {"job", r.JobURL(step.By)}} {
			if page.address != "" {
				fmt.Fprintf(w, "%s\t%s\n", page.name, page.address)
			}
		}
		if wide {
			for _, step := range r.Steps {
				fmt.Fprintf(w, "%s\t%s by %s\n", step.Stage, step.At.Format(time.RFC3339), step.By)
			}
		}
		fmt.Fprintf(w, "next\t%s\n", next(r))
	} else {
		fmt.Fprintf(w, "release\tnone in flight\n")
	}
	if s.Lock != "" {
		dead := ""
		if s.Expired {
			dead = ", a job that is dead: run its command again, or rollback"
		}
		fmt.Fprintf(w, "lock\theld by %s%s\n", s.Lock, dead)
	}
	if s.Weights != nil {
		fmt.Fprintf(w, "traffic\t%d %% primary, %d %% canary\n", s.Weights.Primary, s.Weights.Canary)
	}
	for _, track := range []release.Track{release.Primary, release.Canary} {
		t := s.Tracks[track]
		if t == nil {
			fmt.Fprintf(w, "%s\tnot there\n", track)
			continue
		}
		fmt.Fprintf(w, "%s\t%d of %d ready, %s\n", track, t.Ready, t.Replicas, t.Image)
	}
	for _, drift := range s.Drift {
		fmt.Fprintf(w, "drift\t%s\n", drift)
	}
	for i, f := range s.History {
		label := "last"
		if i > 0 {
			label = ""
		}
		if i == 3 && !wide {
			fmt.Fprintf(w, "\t… %d more in `crossbill history`\n", len(s.History)-i)
			break
		}
		fmt.Fprintf(w, "%s\t%s %s %s%s\n", label, f.FinishedAt.Format(time.RFC3339), coloured(string(f.Outcome)), short(f.Digest()), because(f.Reason))
	}
	return w.Flush()
}

// All writes where many apps are as a table, for a person: what is in flight first; wide also their digests and
// pipelines.
func All(out io.Writer, apps []rollout.AppStatus, now time.Time, wide bool) error {
	sort.SliceStable(apps, func(a, b int) bool { return apps[a].Release != nil && apps[b].Release == nil })
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	header := "NAMESPACE\tAPP\tSTAGE\tCANARY\tPRIMARY\tFOR\tBY\t"
	if wide {
		header += "RUNS\tRELEASES\tPIPELINE\t"
	}
	fmt.Fprintln(w, header+"NEXT OR LAST")
	for _, s := range apps {
		ready := func(track release.Track) string {
			if t := s.Tracks[track]; t != nil {
				return fmt.Sprintf("%d/%d", t.Ready, t.Replicas)
			}
			return "-"
		}
		row := []string{s.Namespace, s.App, "-", ready(release.Canary), ready(release.Primary), "-", "-", "-"}
		switch {
		case s.Problem != "":
			row[7] = s.Problem
		case s.Release != nil:
			r := s.Release
			step := r.Steps[len(r.Steps)-1]
			row[2] = string(r.Stage)
			if s.Tracks[release.Canary] != nil && r.Stage != release.StageStarted {
				row[3] += fmt.Sprintf(" %d %%", r.Weight)
			}
			row[5], row[6], row[7] = duration.HumanDuration(now.Sub(step.At)), step.By, next(r)
			if s.Expired {
				row[7] += " (the job that held the lock is dead)"
			}
		case s.Last != nil:
			row[5], row[6] = duration.HumanDuration(now.Sub(s.Last.FinishedAt)), s.Last.FinishedBy
			row[7] = fmt.Sprintf("%s %s%s", coloured(string(s.Last.Outcome)), short(s.Last.Digest()), because(s.Last.Reason))
		}
		if wide {
			runs, releases, pipeline := "-", "-", "-"
			if t := s.Tracks[release.Primary]; t != nil {
				runs = short(release.DigestOf(t.Image))
			}
			if s.Release != nil {
				releases, pipeline = short(s.Release.Digest()), orDash(s.Release.PipelineURL)
			}
			row = slices.Insert(row, 7, runs, releases, pipeline)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// short is a digest as a person compares it.
func short(digest string) string {
	if hex, ok := strings.CutPrefix(digest, "sha256:"); ok && len(hex) > 12 {
		return "sha256:" + hex[:12]
	}
	return digest
}

// next says what a person or a pipeline does from a stage on.
func next(r *release.Release) string {
	switch r.Stage {
	case release.StageStarted:
		return "canary (it is not finished; run it again)"
	case release.StageCanary:
		return "verify"
	case release.StageVerified:
		if r.Verdict != nil && r.Verdict.Outcome == release.Healthy {
			return "promote, by a person"
		}
		return "rollback, or verify again"
	case release.StagePromoting:
		return "promote (it is not finished; run it again) or rollback"
	case release.StagePromoted:
		return "cleanup"
	default:
		return "rollback (it is not finished; run it again)"
	}
}
