package report

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"net/url"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

//go:embed live.html
var live string

var liveTemplate = template.Must(template.Must(pageTemplate.Clone()).Funcs(template.FuncMap{
	"address": AppPath, "short": shortDigest, "digest": release.DigestOf, "ready": readyOf, "step": stepText, "traffic": trafficText, "baseline": baselineText, "why": whyStage, "stages": stageMarks,
}).Parse(live))

// AppPath is where the live page has an app.
func AppPath(namespace, app string) string {
	return "/apps/" + url.PathEscape(namespace) + "/" + url.PathEscape(app)
}

// Live is a live page as it is now.
type Live struct {
	Title string        `json:"title"`
	Main  template.HTML `json:"main"` // what is inside of its element main: all that changes
}

// Stale says of a place that it does not respond.
type Stale struct {
	What    string    // The cluster
	Since   time.Time // when it responded last; zero for never
	Problem string    // why it does not
}

// LiveApps is the live page of all apps of a namespace, of every namespace for "".
func LiveApps(apps []rollout.AppStatus, namespace string, stale []Stale, now time.Time) (Live, error) {
	of := liveApps{Namespace: namespace, All: len(apps), Stale: stale, Now: now}
	for _, s := range slices.Clone(apps) {
		one := liveApp{AppStatus: s, now: now}
		if s.Release != nil {
			of.InFlight = append(of.InFlight, one)
		} else {
			of.AtRest = append(of.AtRest, one)
		}
	}
	title := "No release in flight"
	if n := len(of.InFlight); n > 0 {
		title = fmt.Sprintf("%d in flight", n)
	}
	return rendered("apps", title, of)
}

type liveApps struct {
	Namespace        string
	All              int
	InFlight, AtRest []liveApp
	Stale            []Stale
	Now              time.Time
}

// liveApp is one of many apps.
type liveApp struct {
	rollout.AppStatus
	now time.Time
}

// Step is the newest step of the release in flight.
func (a liveApp) Step() release.Step { return a.Release.Steps[len(a.Release.Steps)-1] }

// Split says whether the canary has the share of the traffic that its release gives it.
func (a liveApp) Split() bool {
	return a.Release.Stage == release.StageCanary || a.Release.Stage == release.StageVerified
}

// Primary is primary's Deployment, or nil.
func (a liveApp) Primary() *rollout.TrackStatus { return a.Tracks[release.Primary] }

// Canary is the canary's Deployment, or nil.
func (a liveApp) Canary() *rollout.TrackStatus { return a.Tracks[release.Canary] }

// Baseline is the baseline's Deployment, or nil.
func (a liveApp) Baseline() *rollout.TrackStatus { return a.Tracks[manifest.BaselineTrack] }

// PrimaryWeight is primary's share, in percent.
func (a liveApp) PrimaryWeight() int { return 100 - a.Release.Weight }

// For is how long something has lasted.
func (a liveApp) For(since time.Time) string { return duration.HumanDuration(a.now.Sub(since)) }

// Announcement is what a screen reader says when it changes.
func (a liveApp) Announcement() string { return announcement(a.App, a.Release, a.Last) }

// announcement names the stage of an app.
func announcement(app string, r *release.Release, last *release.Finished) string {
	switch {
	case r != nil:
		return app + ": stage " + words(r.Stage)
	case last != nil:
		return app + ": " + words(last.Outcome)
	}
	return app + ": no release"
}

// LiveApp is the live page of one app. missing says what of it could not be read.
func LiveApp(s *rollout.Status, missing []string, stale []Stale, now time.Time) (Live, error) {
	of := liveOne{Status: s, Missing: missing, Stale: stale, History: History(s.History)}
	title := s.App
	all := summaries(s, Timeline(s), now)
	if len(all) > 0 {
		of.Newest = &all[0]
		title = words(all[0].State) + ": " + title
	}
	var last *release.Finished
	if len(s.History) > 0 {
		last = &s.History[0]
	}
	of.Announcement = announcement(s.App, s.Release, last)
	return rendered("app", title, of)
}

type liveOne struct {
	*rollout.Status
	Newest       *summary // the release in flight, or the last one
	History      []FinishedRelease
	Announcement string
	Missing      []string
	Stale        []Stale
}

// BothTracks are primary and the canary, in this order.
func (o liveOne) BothTracks() []release.Track {
	return []release.Track{release.Primary, release.Canary}
}

// Baseline is the baseline's Deployment, or nil.
func (o liveOne) Baseline() *rollout.TrackStatus { return o.Tracks[manifest.BaselineTrack] }

// LiveMissing is the live page of an app that Crossbill has not released.
func LiveMissing(namespace, app string) (Live, error) {
	return rendered("missing", "Not found", map[string]string{"Namespace": namespace, "App": app})
}

func rendered(name, title string, data any) (Live, error) {
	var text bytes.Buffer
	if err := liveTemplate.ExecuteTemplate(&text, name, data); err != nil {
		return Live{}, fmt.Errorf("live page: %w", err)
	}
	return Live{title + " · Crossbill", template.HTML(text.String())}, nil
}

// WriteLive writes a live page as a document. events is the address of its stream of changes, and version names what it
// shows.
func WriteLive(out io.Writer, page Live, events, version string, now time.Time) error {
	return liveTemplate.ExecuteTemplate(out, "live", map[string]any{"Page": page, "Events": events, "Version": version, "Now": now})
}

// stageMark is a stage on the way of a release.
type stageMark struct {
	Stage release.Stage
	At    time.Time // when it was reached; zero if it was not
	Now   bool
}

// stageMarks are the stages of a release in flight: those that it has reached, and those that it may reach.
func stageMarks(r *release.Release) []stageMark {
	order := []release.Stage{release.StageStarted, release.StageCanary, release.StageVerified, release.StagePromoting, release.StagePromoted}
	switch {
	case r.Stage == release.StageRollingBack:
		order = slices.DeleteFunc(order, func(s release.Stage) bool { return !r.Reached(s) })
		order = append(order, release.StageRollingBack)
	case r.Return != nil:
		order = slices.DeleteFunc(order, func(s release.Stage) bool { return s == release.StageCanary || s == release.StageVerified })
	}
	now := slices.Index(order, r.Stage)
	marks := make([]stageMark, len(order))
	for i, stage := range order {
		marks[i] = stageMark{Stage: stage, Now: i == now}
		for _, step := range slices.Backward(r.Steps) {
			if i <= now && step.Stage == stage { // a shift goes back from verified to canary
				marks[i].At = step.At
				break
			}
		}
	}
	return marks
}

// whyStage says what a stage means.
func whyStage(stage release.Stage) string {
	return cmp.Or(map[release.Stage]string{
		release.StageStarted:     "The release is in the ledger. No traffic has moved.",
		release.StageCanary:      "The canary is ready and has its weight.",
		release.StageVerified:    "There is a verdict.",
		release.StagePromoting:   "Primary is being updated to the release.",
		release.StagePromoted:    "Primary runs the release and has all of the traffic.",
		release.StageRollingBack: "The traffic returns to the old version.",
	}[stage], string(stage))
}
