package main

import (
	"net/http"
	"time"

	"github.com/our-org/crossbill/rehearsal/load"
)

// What a release can come to. Either is where none of the three calls the version good or bad.
const (
	promoted   = "promoted"
	rolledBack = "rolled back"
	either     = "either"
	undecided  = "undecided"
	stuck      = "promoted, but never at rest"
	mixed      = "not all the same" // apps of a fleet
)

// scenario is one thing that may happen to a release, the same for all systems.
type scenario struct {
	Name  string
	What  string // for the page, after the name
	Right string // the outcome that is right
	Image string // what the new version does

	Long  bool // takes minutes: once in a run, beside the others
	Docs  bool // also with the settings of the controllers' documentation
	Rate  int  // requests per second; 0 is what the flag says
	Half  bool // the canary gets half of the traffic, not a tenth
	Bound time.Duration

	bad func(load.Answer) bool // an answer of the new version's that a caller did not want; nil: an error

	configuration bool // the image stays, and the configuration changes
	outage        bool // both versions fail for a minute
	kill          bool // what promotes is killed in the middle of it
	second        bool // another release comes while this one is in flight
	gitops        bool // Flux applies the app from Git, every few seconds
	autoscaled    bool // an HPA scales the app, by the requests that its pods get
	fleet         bool // many apps are released at the same time
}

// low says whether an app has so little traffic that systems need other settings.
func (s scenario) low() bool { return s.Rate > 0 && s.Rate < 10 }

// bound is how long a release is waited for.
func (s scenario) bound(id systemID) time.Duration {
	switch {
	case id.Config == docs:
		return 15 * time.Minute
	case s.Bound > 0:
		return s.Bound
	}
	return 2 * time.Minute
}

// pollEvery is how often a release is looked at. To look at many apps costs what they are measured by.
func (s scenario) pollEvery() time.Duration {
	if s.fleet {
		return 2 * time.Second
	}
	return 250 * time.Millisecond
}

// patience is how long an app's first version is waited for.
func (s scenario) patience() time.Duration {
	if s.fleet {
		return 8 * time.Minute
	}
	return 4 * time.Minute
}

func slow(a load.Answer) bool { return a.Latency > 500*time.Millisecond }

// scenarios in the order in which they run: by what a reader wants to know first.
var scenarios = []scenario{
	{Name: "good version", What: "nothing is wrong with it", Right: promoted, Image: "good", Docs: true},
	{Name: "30% errors", What: "30% of its answers are errors", Right: rolledBack, Image: "fails 30", Docs: true},
	{Name: "slow answers", What: "half of its answers come 700 ms later", Right: rolledBack, Image: "slow", Docs: true, bad: slow},
	{Name: "2% errors", What: "2% of its answers are errors", Right: rolledBack, Image: "fails 2", Docs: true},
	{Name: "crash loop after readiness", What: "it exits 4 s after its first request, each time", Right: rolledBack, Image: "dies", Bound: 200 * time.Second},
	{Name: "readiness flaps", What: "it is ready for 4 s, then not for 4 s, and so on", Right: rolledBack, Image: "flaps", Bound: 200 * time.Second},
	{Name: "killed during promotion", What: "2 s after the verdict, the controller or the job is killed (SIGKILL). The controller starts again after 1 s, as a kubelet has it; the job after 5 s, as GitLab's `retry` has it when a runner dies", Right: promoted, Image: "good", kill: true, Bound: 3 * time.Minute},
	{Name: "configuration only", What: "the same image with a ConfigMap by which 30% of the answers are errors", Right: rolledBack, Image: "one", configuration: true},
	{Name: "cold start", What: "good, but half of its answers come 700 ms later in the first 20 s of a pod", Right: promoted, Image: "cold"},
	{Name: "second release", What: "10 s after a good version, another good one comes: the newer one has to be promoted", Right: promoted, Image: "good", second: true, Bound: 5 * time.Minute},
	{Name: "0.5% errors", What: "0.5% of its answers are errors. The thresholds of all three lie above: what is measured is what comes of it", Right: either, Image: "fails 0.5", Bound: 5 * time.Minute},
	{Name: "an HPA shrinks primary", What: "good, and half of the traffic goes to it. A pod can answer 40 requests per second, and a HorizontalPodAutoscaler gives each 25: primary, of four pods, shrinks while the canary is judged, and has to be large enough again before it gets all of the traffic", Right: promoted, Image: "good", autoscaled: true, Half: true, Rate: autoscaledRate, Bound: 4 * time.Minute},
	{Name: "beside Flux, good version", What: "Flux applies the app's objects from Git every 5 s all the while", Right: promoted, Image: "good", gitops: true, Bound: 3 * time.Minute},
	{Name: "beside Flux, 30% errors", What: "the same, and 30% of the new version's answers are errors", Right: rolledBack, Image: "fails 30", gitops: true},
	{Name: "crash loop before readiness", What: "it exits at once", Right: rolledBack, Image: "crash"},
	{Name: "outage of both", What: "good, but while it is judged, 5% of the answers of both versions are errors for 60 s", Right: promoted, Image: "good", outage: true, Long: true, Docs: true, Bound: 12 * time.Minute},
	{Name: "low traffic, good version", What: "2 requests per second, half of them to the canary; each with settings for that", Right: promoted, Image: "good", Rate: 2, Half: true, Long: true, Bound: 10 * time.Minute},
	{Name: "low traffic, 30% errors", What: "2 requests per second, half of them to the canary; each with settings for that", Right: rolledBack, Image: "fails 30", Rate: 2, Half: true, Long: true, Bound: 10 * time.Minute},
}

// shortScenario is that of -short.
const shortScenario = "30% errors"

// fleet is for those who ask for it: one system after the other.
var fleet = scenario{Name: "many apps at once", What: "good versions of many apps, each with one pod and 5 requests per second, half of them to the canary", Right: promoted, Image: "good", Rate: 5, Half: true, Bound: 10 * time.Minute, fleet: true}

// flux is its name among what is left out.
const flux = "flux"

// What an HPA is about: the traffic, what a pod can bear, what the HPA gives it, and how many pods that makes.
const (
	autoscaledRate = 100
	capacity       = 40
	perPod         = 25
	neededPods     = (autoscaledRate + perPod - 1) / perPod
)

// behaviors are the environments of the images.
var behaviors = map[string][]string{
	"one": nil, "good": nil, "three": nil,
	"fails 30": {"FAIL=30"}, "fails 2": {"FAIL=2"}, "fails 0.5": {"FAIL=0.5"},
	"slow": {"SLOW=700ms"}, "dies": {"DIES_AFTER=4s"}, "flaps": {"FLAP=4s"}, "crash": {"CRASH=1"}, "cold": {"COLD=20s"},
}

// unwanted says whether an answer is one that callers should not have got.
func (s scenario) unwanted(a load.Answer) bool {
	if s.bad != nil {
		return s.bad(a)
	}
	return a.Code >= http.StatusInternalServerError
}

// versionOf is what an answer says of the version that gave it.
func (s scenario) versionOf(a load.Answer) string {
	if s.configuration {
		return a.Config
	}
	return a.Version
}

// The two configurations of an app, by name.
const (
	goodConfiguration, badConfiguration = "first", "second"
)

// versions are the names of the old and of the new version, as answers have them.
func (s scenario) versions() (before, after string) {
	if s.configuration {
		return goodConfiguration, badConfiguration
	}
	if s.second {
		return "one", "three"
	}
	return "one", s.Image
}
