package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/verdict"
)

const hostile = `<script>alert("x")</script>`

func status(t *testing.T) *rollout.Status {
	t.Helper()
	at := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	image := func(c string) string { return "registry.example.com/our-org/app@sha256:" + strings.Repeat(c, 64) }
	var l release.Ledger
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := l.Start(release.Release{ID: "old", Image: image("a"), Previous: image("c"), Weight: 10}, "ann", at)
	must(err)
	must(l.Reach(release.StageCanary, "ann", at.Add(time.Minute)))
	l.Release.Reason = hostile
	must(l.Reach(release.StageRollingBack, "bob", at.Add(2*time.Minute)))
	must(l.Finish(release.OutcomeRolledBack, "bob", at.Add(3*time.Minute)))
	_, err = l.Start(release.Release{ID: "new", Image: image("b"), Previous: image("c"), Weight: 10}, "ann", at.Add(time.Hour))
	must(err)
	must(l.Reach(release.StageCanary, "ann", at.Add(61*time.Minute)))
	v := l.Release.Subject()
	v.Outcome, v.Reason = release.Healthy, "all good"
	must(l.Judge(v, "ann", at.Add(62*time.Minute)))
	l.Release.Takeovers = []release.Takeover{{From: "job_0", By: "ann", At: at.Add(90 * time.Minute)}}
	return &rollout.Status{
		App: "app", Namespace: "production", Lock: "job_1", Expired: true, Release: l.Release, History: l.History,
		Weights: &manifest.WeightPair{Primary: 50, Canary: 50}, Drift: []string{"the canary has weight 50"},
		Tracks: map[release.Track]*rollout.TrackStatus{release.Primary: {Image: image("c"), Replicas: 2, Ready: 2}},
	}
}

func TestWriteStatus(t *testing.T) {
	var out bytes.Buffer
	if err := WriteStatus(&out, status(t), false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"app in production", "verified, started 2026-11-23T09:00:00Z by ann", "healthy: all good", "promote, by an approver",
		"held by job_1, a job that died", "50% primary, 50% canary", "2 of 2 ready", "canary   not found", "the canary has weight 50", "rolled_back sha256:aaaaaaaaaaaa: " + hostile,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	out.Reset()
	if err := WriteStatus(&out, &rollout.Status{App: "app"}, true); err != nil || !strings.Contains(out.String(), "none in flight") {
		t.Errorf("an app without releases: %v\n%s", err, out.String())
	}
}

// TestForeignText: what others have written into a ledger stays in its cell, for a terminal and for the log of a job too.
func TestForeignText(t *testing.T) {
	const foreign = "boom\n\x1b[0Ksection_end:1:x\r\x1b[0K\tdone"
	write := func(foreign string) map[string]string {
		s := status(t)
		r, last := s.Release, &s.History[0]
		r.StartedBy, r.Verdict.Reason, s.Lock, s.Drift, last.Reason, last.FinishedBy = foreign, foreign, foreign, []string{foreign}, foreign, foreign
		r.Steps[len(r.Steps)-1].By = foreign
		r.Hooks = []release.HookRun{{Name: "smoke", State: release.HookStarted, By: foreign, Job: "job", Message: foreign}}
		s.Hold, s.Queue = &release.Hold{By: foreign, Reason: foreign}, []release.Queued{{ID: "next", By: foreign}}
		all := map[string]string{}
		keep := func(name string, to func(io.Writer) error) {
			var out bytes.Buffer
			if err := to(&out); err != nil {
				t.Fatal(err)
			}
			all[name] = out.String()
		}
		keep("status", func(out io.Writer) error { return WriteStatus(out, s, true) })
		keep("a status that is not known", func(out io.Writer) error {
			return WriteStatus(out, &rollout.Status{App: "app", Problem: foreign}, true)
		})
		keep("history", func(out io.Writer) error { return WriteHistory(out, History(s.History), true) })
		keep("apps", func(out io.Writer) error {
			return WriteApps(out, []rollout.AppStatus{{App: "a", Problem: foreign}, {App: "b", Last: last}, {App: "c", Release: r, Hold: s.Hold, Queue: s.Queue}}, time.Now(), true)
		})
		keep("report", func(out io.Writer) error { return WriteReport(out, Report{Timeline: Timeline(s)}) })
		return all
	}
	plain := write("x")
	for name, text := range write(foreign) {
		if want := strings.Count(plain[name], "\n"); strings.Count(text, "\n") != want || strings.ContainsAny(text, "\x1b\r\t") || !strings.Contains(text, "boom \uFFFD[0K") {
			t.Errorf("%s has not %d lines, or control characters:\n%q", name, want, text)
		}
	}
}

func TestTimelineIsSorted(t *testing.T) {
	entries := Timeline(status(t))
	var events []string
	for i, e := range entries {
		events = append(events, e.ReleaseID+" "+e.Event)
		if i > 0 && e.At.Before(entries[i-1].At) {
			t.Errorf("%v comes after %v", e, entries[i-1])
		}
	}
	if got, want := strings.Join(events, ", "), "old started, old canary, old rolling_back, old rolled_back, new started, new canary, new verified, new taken over"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	var out bytes.Buffer
	if err := writeTimeline(&out, entries); err != nil || strings.Count(out.String(), "\n") != len(entries) {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestHTMLIsOneFileWithoutForeignCode(t *testing.T) {
	var out bytes.Buffer
	s := status(t)
	if err := WriteHTML(&out, Report{Status: s, Timeline: Timeline(s), Missing: []string{"GitLab did not answer"}, Now: s.Release.StartedAt.Add(2 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	text := out.Bytes()
	if strings.Contains(string(text), hostile) || !strings.Contains(string(text), "&lt;script&gt;") {
		t.Error("a reason became markup")
	}
	for _, foreign := range []string{"http://", "https://", "src=", "@import", "<script", "url("} {
		if strings.Contains(string(text), foreign) {
			t.Errorf("it fetches: %q", foreign)
		}
	}
}

// judged is a release as a ledger keeps it after its verdict, by counts like those of a mesh.
func judged(t *testing.T, l *release.Ledger, id string, at time.Time, bad float64, seed uint64) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	image := func(c string) string { return "registry.example.com/our-org/app@sha256:" + strings.Repeat(c, 64) }
	_, err := l.Start(release.Release{
		ID: id, Image: image("b"), Previous: image("a"), Weight: 10, Commit: "c0ffee0c0ffee0c0ffee0c0ffee0c0ffee0c0ffe",
		SourceURL: "https://github.com/our-org/app/actions/runs/1", PipelineURL: "https://gitlab.example.com/infra/deploy/-/pipelines/9",
	}, "jane@gitlab-job-11", at)
	must(err)
	must(l.Reach(release.StageCanary, "jane@gitlab-job-11", at.Add(20*time.Second)))
	test, rng := verdict.DefaultSLO().Test(), rand.New(rand.NewPCG(seed, 1))
	count := func(requests int, share float64) verdict.Tally {
		tally := verdict.Tally{Events: float64(requests)}
		for range requests {
			if rng.Float64() < share {
				tally.Bad++
			}
		}
		return tally
	}
	record := verdict.Record{Test: test}
	state := test.Begin()
	var j verdict.Judgment
	for elapsed := 5 * time.Second; !j.Decided; elapsed += 5 * time.Second {
		canary, primary := count(60, bad), count(540, 0.0005)
		block := verdict.Block{Elapsed: elapsed, Pairs: []verdict.Pair{{Canary: canary, Primary: primary}}}
		for range test.Objectives[1:] {
			block.Pairs = append(block.Pairs, verdict.Pair{Canary: count(60, 0.01), Primary: count(540, 0.01)})
		}
		record.Blocks = append(record.Blocks, block)
		j = state.Add(block)
	}
	text, err := json.Marshal(record)
	must(err)
	end := at.Add(25*time.Second + record.Blocks[len(record.Blocks)-1].Elapsed)
	v := l.Release.Subject()
	v.Outcome, v.Reason, v.Requests, v.At, v.Evidence = j.Outcome, j.Reason, int64(record.Requests()), end, string(text)
	must(l.Judge(v, "jane@gitlab-job-12", end))
	if j.Outcome == release.Healthy {
		must(l.Reach(release.StagePromoting, "joe@gitlab-job-13", end.Add(90*time.Second)))
		must(l.Reach(release.StagePromoted, "joe@gitlab-job-13", end.Add(100*time.Second)))
		must(l.Finish(release.OutcomePromoted, "joe@gitlab-job-14", end.Add(110*time.Second)))
		return
	}
	l.Release.Reason = j.Reason
	must(l.Reach(release.StageRollingBack, "jane@gitlab-job-12", end))
	must(l.Finish(release.OutcomeRolledBack, "jane@gitlab-job-12", end.Add(11*time.Second)))
}

// full is an app with as many releases as a ledger keeps, good and bad in turn, with all of their counts.
func full(t *testing.T) *rollout.Status {
	t.Helper()
	l := &release.Ledger{App: "app"}
	at := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	for i := range 20 {
		judged(t, l, fmt.Sprintf("release%05d", i), at.Add(time.Duration(i)*3*time.Hour), map[bool]float64{true: 0.05, false: 0.0005}[i%2 == 1], uint64(i))
	}
	return &rollout.Status{App: "app", Namespace: "production", History: l.History, Weights: &manifest.WeightPair{Primary: 100},
		Tracks: map[release.Track]*rollout.TrackStatus{release.Primary: {Replicas: 2, Ready: 2}}}
}

var reportOut = flag.String("report.html", "", "TestAReportOfEverything: where the page is kept, to look at it")

func TestAReportOfEverything(t *testing.T) {
	s := full(t)
	var out bytes.Buffer
	if err := WriteHTML(&out, Report{Status: s, Timeline: Timeline(s), Delivery: DeliveryOf(s.History, nil, time.Time{}, time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)), Now: time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)}); err != nil {
		t.Fatal(err)
	}
	text := out.Bytes()
	if *reportOut != "" {
		if err := os.WriteFile(*reportOut, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if len(text) > 700_000 {
		t.Errorf("%d bytes", len(text))
	}
	t.Logf("%d kB of %d releases", len(text)/1000, len(s.History))
	root, err := html.Parse(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	ids, named, paths, words := map[string]bool{}, []string{}, 0, ""
	for n := range root.Descendants() {
		if n.Type == html.TextNode {
			words += n.Data + " "
		}
		for _, a := range n.Attr {
			switch a.Key {
			case "id":
				if ids[a.Val] {
					t.Errorf("id %s is used twice", a.Val)
				}
				ids[a.Val] = true
			case "aria-labelledby":
				named = append(named, strings.Fields(a.Val)...)
			case "href":
				if strings.HasPrefix(a.Val, "#") {
					named = append(named, a.Val[1:])
				}
			case "d":
				paths++
				if strings.Contains(a.Val, "NaN") || strings.Contains(a.Val, "Inf") {
					t.Errorf("a path that cannot be drawn: %s", a.Val)
				}
			}
		}
	}
	for _, id := range named {
		if !ids[id] {
			t.Errorf("no element has the id %s", id)
		}
	}
	if paths < 20*(1+2*4) {
		t.Errorf("only %d paths", paths)
	}
	newest := s.History[0]
	first := words[:strings.Index(words, "Charts")]
	for _, want := range []string{newest.Reason, "rolled back", "41 s", "joe@gitlab-job-13", "objective 99.9%", "Canary good"} {
		if !strings.Contains(words, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Count(first, newest.Reason) < 2 {
		t.Error("the reason of the newest rollback is not at the top")
	}
}

func TestWeightChart(t *testing.T) {
	s := full(t)
	for i, want := range []string{"0s 0, 20s 10, 35s 0, 46s 0", "0s 0, 20s 10, 3m25s 100, 3m35s 100"} {
		f := &s.History[i]
		var got []string
		for _, p := range weightChart(&f.Release, f.FinishedAt, f.Outcome).Curves[0].Points {
			got = append(got, fmt.Sprintf("%s %.0f", p.At, p.Value))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: %s, want %s", f.Outcome, strings.Join(got, ", "), want)
		}
	}
}

// The interval's bounds are those at which the score test just accepts the share.
func TestWilson(t *testing.T) {
	for _, c := range []struct{ good, events float64 }{{0, 1}, {1, 1}, {9, 10}, {500, 500}, {99950, 100000}} {
		low, high := wilson(c.good, c.events)
		share := 100 * c.good / c.events
		if low < 0 || high > 100 || low > share || high < share {
			t.Errorf("%v: %g to %g", c, low, high)
		}
		for _, at := range []float64{low / 100, high / 100} {
			if at < 1e-9 || at > 1-1e-9 {
				continue
			}
			if z := math.Abs(c.good/c.events-at) / math.Sqrt(at*(1-at)/c.events); math.Abs(z-1.96) > 1e-6 {
				t.Errorf("%v: at %g z is %g", c, at, z)
			}
		}
	}
}

func TestMarkdownEscapes(t *testing.T) {
	s := status(t)
	s.Release = nil // the newest that has ended has the hostile reason
	var out bytes.Buffer
	if err := WriteMarkdown(&out, Report{Status: s, Timeline: Timeline(s), Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if !strings.Contains(text, `\<script\>`) || strings.Count(text, "<script") != strings.Count(text, `\<script`) || !strings.Contains(text, "Release `old` of app: rolled back") {
		t.Errorf("%s", text)
	}
	out.Reset()
	s = full(t)
	if err := WriteMarkdown(&out, Report{Status: s, Timeline: Timeline(s), Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| GitLab | [pipeline](<https://gitlab.example.com/infra/deploy/-/pipelines/9>) |", "https://github.com/our-org/app/commit/c0ffee", "https://gitlab.example.com/infra/deploy/-/jobs/12", "unhealthy, based on "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// TestMarkdownMentionsNobody: GitHub looks for mentions and references in what Markdown has made of a text
// (https://github.com/gjtorikian/html-pipeline, MentionFilter), where a backslash is gone.
func TestMarkdownMentionsNobody(t *testing.T) {
	for text, want := range map[string]string{
		"@ada, @our-org/team": "@\u200bada, @\u200bour-org/team",
		"#12 and GH-12":       "#\u200b12 and GH-\u200b12",
		"a_b *c* `d`":         "a\\_b \\*c\\* \\`d\\`",
		"http://e or www.e":   "http:\u200b//e or www\u200b.e",
	} {
		if diff := cmp.Diff(want, EscapeMarkdown(text)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", text, diff)
		}
	}
}

func TestHistory(t *testing.T) {
	past := History(full(t).History)
	if len(past) != 20 || past[1].PromotedBy != "joe@gitlab-job-13" || past[1].Requests == 0 || past[0].Outcome != release.OutcomeRolledBack || past[0].Reason == "" {
		t.Errorf("%+v", past[:2])
	}
	var out bytes.Buffer
	if err := WriteHistory(&out, past, true); err != nil || strings.Count(out.String(), "\n") != 21 || strings.Contains(out.String(), "\x1b") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// TestYTicks: the marks of a scale are multiples of a round step, at most six, whatever the values are: not 58, 68,
// 79, 89, 100.
func TestYTicks(t *testing.T) {
	for _, test := range []struct {
		low  float64
		want string
	}{
		{0, "0% 20% 40% 60% 80% 100%"},
		{58.2, "50% 60% 70% 80% 90% 100%"},
		{81.4, "80% 85% 90% 95% 100%"},
		{93.4, "92% 94% 96% 98% 100%"},
		{97.4, "97% 98% 99% 100%"},
		{99.31, "99.2% 99.4% 99.6% 99.8% 100.0%"},
		{99.973, "99.97% 99.98% 99.99% 100.00%"},
	} {
		c := chart{Low: test.low, High: 100}
		c.roundLow()
		var got []string
		for _, tick := range c.YTicks() {
			got = append(got, tick.Text)
		}
		if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("from %g%% (-want +got)\n%s", test.low, diff)
		}
		if c.Low > test.low {
			t.Errorf("the scale starts at %g%%, above its lowest value %g%%", c.Low, test.low)
		}
	}
}

// TestHistoryJSON are the fields that other programs parse.
func TestHistoryJSON(t *testing.T) {
	history := History(full(t).History[:2])
	history[0].Reason = "too many errors"
	golden(t, "history.json", history)
}

func TestReportJSON(t *testing.T) {
	s := status(t)
	golden(t, "report.json", Report{Timeline: Timeline(s), Delivery: DeliveryOf(s.History, nil, time.Time{}, s.Release.StartedAt)})
}

var update = flag.Bool("update", false, "write the golden files")

// golden compares a value as JSON with a file in testdata.
func golden(t *testing.T, name string, value any) {
	t.Helper()
	file := filepath.Join("testdata", name)
	got, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s, -update writes it (-want +got)\n%s", file, diff)
	}
}
