package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/analysis"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// analysisOptions say what is healthy.
type analysisOptions struct {
	file        string
	interval    time.Duration
	maxDuration time.Duration // 0: the file's
	minRequests float64       // 0: the file's
	explain     bool

	slo *verdict.SLO // after load
}

func (o *analysisOptions) add(cmd *cobra.Command) {
	inSection(cmd.Flags(), analysisSection, func(flags *pflag.FlagSet) {
		flags.StringVar(&o.file, "slo", "", "file with the objectives (default: the section analysis of crossbill.yaml, else 99.9% available and 95% within 500 ms)")
		positiveDuration(flags, &o.interval, "interval", 5*time.Second, "time between two looks, at most: counters that are sampled more often are looked at as often")
		flags.Float64Var(&o.minRequests, "min-requests", 0, "the canary's requests below which nothing passes (default: the file's)")
		flags.BoolVar(&o.explain, "explain", false, "print every query with the samples that answered it")
	})
}

// addMaxDuration adds --max-duration of the commands that judge a canary.
func (o *analysisOptions) addMaxDuration(flags *pflag.FlagSet) {
	positiveDuration(flags, &o.maxDuration, "max-duration", 0, "time after which what is not decided is inconclusive (default: the file's, else 15m)")
}

// probeOptions are the requests of an analysis's own.
type probeOptions struct{ analysis.Probe }

func (o *probeOptions) add(flags *pflag.FlagSet) {
	flags.StringVar(&o.URL, "probe", "", "URL to call while the canary is judged, for an app with too little traffic of its own: GET requests that are safe to repeat (default: none)")
	flags.Float64Var(&o.Rate, "probe-rate", 10, "requests a second to --probe; with --probe-header as many go without it, to primary for the most part")
	flags.StringVar(&o.Header, "probe-header", "", "'name: value' for --probe, when a route of the VirtualService sends that header to the canary (default: the route's weights decide)")
}

func (o *probeOptions) validate(cmd *cobra.Command) error {
	for _, name := range []string{"probe-rate", "probe-header"} {
		if o.URL == "" && cmd.Flags().Changed(name) {
			return &usererr.Error{Field: "--probe", Problem: "is missing beside --" + name, Fix: "give the URL that is to be called"}
		}
	}
	if o.URL == "" {
		return nil
	}
	return o.Validate()
}

// probe is what an analysis sends; nil: nothing.
func (o *probeOptions) probe(by *analysisOptions) *analysis.Probe {
	if o.URL == "" {
		return nil
	}
	o.Slow = by.slow()
	return &o.Probe
}

// load reads the objectives. Flags win over the file.
func (o *analysisOptions) load(cmd *cobra.Command, manifests string) error {
	slo, warning, err := configOf(cmd).SLO(o.file, manifests)
	if err != nil {
		return err
	}
	warn(cmd, warning)
	copied := *slo
	slo = &copied
	if cmd.Flags().Changed("min-requests") {
		if !(o.minRequests >= 1 && o.minRequests <= 1e9) { // nor NaN
			return &usererr.Error{Field: "--min-requests", Problem: fmt.Sprintf("%g is not a number of requests, at least 1", o.minRequests), Fix: "give for example 50"}
		}
		slo.MinRequests = o.minRequests
	}
	if o.maxDuration > 0 {
		slo.Limit(o.maxDuration)
	}
	o.slo = slo
	return nil
}

// options are what the analysis of a cluster's release needs.
func (o *analysisOptions) options(c *rollout.Cluster, traffic *trafficOptions, log io.Writer) (analysis.Options, error) {
	source := verdict.SourceOptions{Indicators: o.slo.Indicators(), Service: c.Manifests.Service.Name, Tracks: map[string]string{}}
	for track, service := range c.Manifests.Tracks {
		source.Tracks[service.Name] = c.Manifests.Name(track)
	}
	if o.explain {
		source.Explain = func(format string, args ...any) { fmt.Fprintf(log, "    "+format+"\n", args...) }
	}
	from, err := traffic.sourceOf(c.Namespace, source)
	return analysis.Options{
		Rollout: analysis.Of(c), App: c.Manifests.App, ReleaseID: c.ReleaseID,
		Canary: c.Manifests.Name(release.Canary), Primary: c.Manifests.Name(release.Primary), Baseline: c.Manifests.Name(manifest.BaselineTrack),
		Source: from, Test: o.slo.Test(), WarmUp: o.slo.WarmUp.Duration, BaselineWarmUp: o.slo.BaselineWarmUp(), Interval: o.interval,
		Report: func(e verdict.Evaluation) { fmt.Fprintln(log, lookText(e)) },
		Warn:   func(text string) { fmt.Fprintln(log, "        "+text) },
	}, err
}

// slow is the time from which an answer is slow by the first objective that says so; 0 if none does.
func (o *analysisOptions) slow() time.Duration {
	for _, objective := range o.slo.Objectives {
		if objective.Latency != nil {
			return objective.Latency.Duration
		}
	}
	return 0
}

// lookText is a look as a line: what both tracks got, or primary alone in a bake, and how far the evidence is.
func lookText(e verdict.Evaluation) string {
	words := []string{fmt.Sprintf("%6.1fs", e.Elapsed.Seconds())}
	for _, v := range e.Judgment.Evidence {
		if v.Relative && v.Total.Canary.Bad == 0 { // nothing to see
			continue
		}
		track := release.Canary
		if v.Bake {
			track = release.Primary
		}
		counts := v.Objective + ": " + string(track) + " " + shareText(v.Total.Canary)
		if !v.Alone {
			counts += ", " + verdict.Test{Baseline: v.Baseline}.Beside() + " " + shareText(v.Total.Primary)
		}
		bad, good := v.Progress()
		words = append(words, fmt.Sprintf("%s, shown bad %.0f%%, good %.0f%%;", counts, 100*bad, 100*good))
	}
	if e.WarmUp {
		words = append(words, "warm-up: latency is not weighed;")
	}
	switch {
	case e.Judgment.Decided:
		words = append(words, string(e.Judgment.Outcome))
	case e.Judgment.Left > 0:
		words = append(words, fmt.Sprintf("about %s more", e.Judgment.Left.Round(time.Second)))
	}
	return strings.Join(words, "  ")
}

func shareText(t verdict.Tally) string {
	if t.Events == 0 {
		return "nothing yet"
	}
	return fmt.Sprintf("%.2f%% of %.0f ok", 100*(1-t.Share()), t.Events)
}

// verdictSummary is a verdict as -o json and -o yaml print it. All that it rests on is in the file of --record.
type verdictSummary struct {
	Outcome    release.VerdictOutcome `json:"outcome"`
	Cause      verdict.Cause          `json:"cause,omitempty"` // of an inconclusive one
	Reason     string                 `json:"reason"`
	Requests   int64                  `json:"requests"`           // the canary's, while it was judged
	Seconds    float64                `json:"durationSeconds"`    // until the verdict
	Baseline   bool                   `json:"baseline,omitempty"` // what the objectives count as primary's are the baseline's
	Objectives []objectiveSummary     `json:"objectives"`
	Probe      *analysis.Probed       `json:"probe,omitempty"` // what came of the probe's own requests
}

// objectiveSummary is what one objective has counted in all of the time.
type objectiveSummary struct {
	Name    string        `json:"name"`
	Canary  verdict.Tally `json:"canary"`
	Primary verdict.Tally `json:"primary"`
}

// summaryOf is nil for nil.
func summaryOf(v *verdict.Verification) *verdictSummary {
	if v == nil {
		return nil
	}
	s := &verdictSummary{Outcome: v.Outcome, Cause: v.Cause, Reason: v.Reason, Requests: int64(v.Record.Requests()), Baseline: v.Record.Test.Baseline, Objectives: []objectiveSummary{}}
	if n := len(v.Evaluations); n > 0 {
		last := v.Evaluations[n-1]
		s.Seconds = last.Elapsed.Round(100 * time.Millisecond).Seconds()
		for _, evidence := range last.Judgment.Evidence {
			s.Objectives = append(s.Objectives, objectiveSummary{evidence.Objective, evidence.Total.Canary, evidence.Total.Primary})
		}
	}
	return s
}
