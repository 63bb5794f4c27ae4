package verdict

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/usererr"
)

// SLO is what a canary is judged by: the section analysis of crossbill.yaml, or the file slo.yaml beside the
// manifests. Shares are in percent. [DefaultSLO] has the value of each field that is left out.
type SLO struct {
	FalseRollback float64         `json:"falseRollback"` // percent of good canaries that may be rolled back
	FalsePass     float64         `json:"falsePass"`     // percent of bad canaries that may pass
	Burst         float64         `json:"burst"`         // how many requests go bad together
	MinRequests   float64         `json:"minRequests"`   // nothing passes with fewer requests to the canary
	MinDuration   metav1.Duration `json:"minDuration"`   // nothing passes earlier
	MaxDuration   metav1.Duration `json:"maxDuration"`   // an undecided canary is inconclusive then
	WarmUp        metav1.Duration `json:"warmUp"`        // for so long latency is counted, but not weighed; beside a baseline none, unless it is given
	CallersLeft   float64         `json:"callersLeft"`   // margin of [CallersLeft]; 0: not judged
	ClientErrors  float64         `json:"clientErrors"`  // margin of [ClientErrors]; 0: not judged
	CutStreams    float64         `json:"cutStreams"`    // margin of [CutStreams]; 0: not judged
	Objectives    []Indicator     `json:"objectives"`

	WarmUpGiven bool `json:"-"` // WarmUp is not the default's
}

// Indicator is one service level indicator: what counts as an event, and as a good one. Without Latency and
// queries it is availability: the request was answered, and not with a server error (5xx, or a gRPC code of
// that kind).
type Indicator struct {
	Name      string  `json:"name"`
	Objective float64 `json:"objective"` // percent of the events that must be good
	Margin    float64 `json:"margin"`    // percentage points below the objective that make a canary bad
	// Latency makes an event good if it took no longer. It must be a bucket bound of
	// istio_request_duration_milliseconds.
	Latency *metav1.Duration `json:"latency,omitempty"`
	// Good and Total are PromQL for raw counters: one series or many, neither summed nor passed through rate or
	// increase. $workload and $namespace stand for the track's.
	Good  string `json:"good,omitempty"`
	Total string `json:"total,omitempty"`
	// Counts is what makes an event bad, of an indicator that is judged against primary only; "" for all others.
	Counts Counts `json:"-"`
}

// Counts is what callers see and availability does not count. What is usual differs from app to app, so a canary is
// held to primary.
type Counts string

// What is counted beside availability.
const (
	CallersLeft  Counts = "callers-left"  // requests whose callers went away before the answer: the app hangs
	ClientErrors Counts = "client-errors" // answers that blame the caller: 4xx
	CutStreams   Counts = "cut-streams"   // answers that had started and did not end: streams, WebSockets, downloads
)

// usual is the share of bad events from which the judgment of an indicator that has no objective begins.
const usual = 0.5

// Indicators are the objectives, and what is judged against primary only.
func (s *SLO) Indicators() []Indicator {
	all := slices.Clone(s.Objectives)
	for _, one := range []Indicator{{Counts: CallersLeft, Margin: s.CallersLeft}, {Counts: ClientErrors, Margin: s.ClientErrors}, {Counts: CutStreams, Margin: s.CutStreams}} {
		if one.Name, one.Objective = string(one.Counts), 100-usual; one.Margin > 0 {
			all = append(all, one)
		}
	}
	return all
}

// DefaultSLO is what a canary is judged by if nothing else is configured.
func DefaultSLO() *SLO {
	return &SLO{
		FalseRollback: 1, FalsePass: 5, Burst: 1,
		MinRequests: 50, MinDuration: metav1.Duration{Duration: 30 * time.Second}, MaxDuration: metav1.Duration{Duration: 15 * time.Minute},
		WarmUp: metav1.Duration{Duration: 30 * time.Second}, CallersLeft: 2, ClientErrors: 5, CutStreams: 2,
		Objectives: []Indicator{
			{Name: "availability", Objective: 99.9, Margin: 1},
			{Name: "latency", Objective: 95, Margin: 5, Latency: &metav1.Duration{Duration: 500 * time.Millisecond}},
		},
	}
}

// LoadSLO reads an SLO file. If the file is missing the default applies, unless the user named the file.
func LoadSLO(file string, named bool) (*SLO, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return DefaultSLO(), nil
	}
	if err != nil {
		return nil, &usererr.Error{Field: "slo", Problem: err.Error(), Fix: "give a file as described in docs/commands/verify.md, or leave the option out"}
	}
	return ParseSLO(file, text)
}

// ParseSLO reads and checks an SLO file. Errors name the file and the field.
func ParseSLO(file string, text []byte) (*SLO, error) {
	slo := DefaultSLO()
	defaults := slo.Objectives
	slo.Objectives = nil
	if err := yaml.UnmarshalStrict(text, slo); err != nil {
		return nil, &usererr.Error{Field: file, Problem: strings.TrimPrefix(err.Error(), "error unmarshaling JSON: "), Fix: "docs/commands/verify.md describes the fields"}
	}
	if len(slo.Objectives) == 0 {
		slo.Objectives = defaults
	}
	var given struct {
		WarmUp *metav1.Duration `json:"warmUp"`
	}
	if err := yaml.Unmarshal(text, &given); err != nil {
		return nil, &usererr.Error{Field: file, Problem: err.Error(), Fix: "docs/commands/verify.md describes the fields"}
	}
	slo.WarmUpGiven = given.WarmUp != nil
	if err := slo.Check(); err != nil {
		err.Field = file + ": " + err.Field
		return nil, err
	}
	return slo, nil
}

// Check finds a value that is out of bounds, or that does not fit another one; nil if there is none. The error
// names the field below the section analysis, for example falsePass.
func (s *SLO) Check() *usererr.Error {
	bad := func(field, fix, problem string, args ...any) *usererr.Error {
		return &usererr.Error{Field: field, Problem: fmt.Sprintf(problem, args...), Fix: fix}
	}
	switch {
	case !(s.FalseRollback > 0 && s.FalseRollback < 50):
		return bad("falseRollback", "give for example 1", "%g is not a percentage above 0 and below 50", s.FalseRollback)
	case !(s.FalsePass > 0 && s.FalsePass < 50):
		return bad("falsePass", "give for example 5", "%g is not a percentage above 0 and below 50", s.FalsePass)
	case !(s.Burst >= 1 && s.Burst <= 1000):
		return bad("burst", "give 1, or how many requests fail together", "%g is not a number from 1 to 1000", s.Burst)
	case !(s.MinRequests >= 1 && s.MinRequests <= 1e9):
		return bad("minRequests", "give for example 50", "%g is not a number from 1 to 1000000000", s.MinRequests)
	case s.MaxDuration.Duration <= 0:
		return bad("maxDuration", "give for example 15m", "%s is not a duration above 0", s.MaxDuration.Duration)
	case s.WarmUp.Duration < 0 || s.WarmUp.Duration >= s.MaxDuration.Duration && s.WarmUp.Duration > 0:
		return bad("warmUp", "give for example 30s, or 0s for none", "%s is not a duration from 0 to below maxDuration (%s)", s.WarmUp.Duration, s.MaxDuration.Duration)
	case s.MinDuration.Duration < 0 || s.MinDuration.Duration > s.MaxDuration.Duration:
		return bad("minDuration", "give for example 30s", "%s is not a duration from 0 to maxDuration (%s)", s.MinDuration.Duration, s.MaxDuration.Duration)
	}
	for _, one := range []struct {
		field  string
		margin float64
	}{{"callersLeft", s.CallersLeft}, {"clientErrors", s.ClientErrors}, {"cutStreams", s.CutStreams}} {
		if !(one.margin >= 0 && one.margin < 100) {
			return bad(one.field, "give for example 2, or 0 to leave it out", "%g is not a number of percentage points from 0 to below 100", one.margin)
		}
	}
	names := []string{string(CallersLeft), string(ClientErrors), string(CutStreams)}
	for i, o := range s.Objectives {
		if slices.Contains(names, o.Name) {
			return bad(fmt.Sprintf("objectives[%d].name", i), "give each objective its own name", "%q is used twice", o.Name)
		}
		names = append(names, o.Name)
		if field, fix, problem := o.problem(); problem != "" {
			return bad(fmt.Sprintf("objectives[%d]%s", i, field), fix, "%s", problem)
		}
	}
	return nil
}

// problem is what is wrong with an indicator, in which of its fields; "" if nothing is.
func (o Indicator) problem() (field, fix, problem string) {
	switch {
	case o.Name == "":
		return ".name", "give it a name, for example availability", "is missing"
	case !(o.Objective > 0 && o.Objective < 100):
		return ".objective", "give for example 99.9; 100 cannot be tested, because no number of requests can show it", fmt.Sprintf("%g is not a percentage between 0 and 100", o.Objective)
	case !(o.Margin > 0 && o.Margin <= o.Objective):
		return ".margin", "give for example 1", fmt.Sprintf("%g is not a number of percentage points above 0 and up to the objective", o.Margin)
	case o.Latency != nil && (o.Good != "" || o.Total != ""), (o.Good == "") != (o.Total == ""):
		return "", "give latency, or both good and total, or none of the three", "latency, good and total do not fit together"
	case o.Latency != nil && o.Latency.Duration <= 0:
		return ".latency", "give a bucket bound of the histogram, for example 500ms", fmt.Sprintf("%s is not a duration above 0", o.Latency.Duration)
	}
	return "", "", ""
}

// BaselineWarmUp is the warm-up of a canary that is compared with a baseline, whose pods are as new as its own.
func (s *SLO) BaselineWarmUp() time.Duration {
	if s.WarmUpGiven {
		return s.WarmUp.Duration
	}
	return 0
}

// Limit sets MaxDuration.
func (s *SLO) Limit(longest time.Duration) {
	s.MaxDuration.Duration = longest
	s.MinDuration.Duration = min(s.MinDuration.Duration, longest)
	s.WarmUp.Duration = min(s.WarmUp.Duration, longest/2)
}

// Test is the sequential test for the SLO.
func (s *SLO) Test() Test {
	t := Test{
		FalseRollback: s.FalseRollback / 100, FalsePass: s.FalsePass / 100, Burst: s.Burst,
		MinRequests: s.MinRequests, MinDuration: s.MinDuration.Duration, MaxDuration: s.MaxDuration.Duration,
	}
	for _, o := range s.Indicators() {
		t.Objectives = append(t.Objectives, Objective{
			Name: o.Name, Budget: (100 - o.Objective) / 100, Margin: o.Margin / 100, Relative: o.Counts != "", Slow: o.Latency != nil,
		})
	}
	return t
}

// What a relative objective is judged by where primary's requests are others than the canary's: half of the canary's may be bad,
// and it is bad from so much above primary's share on. Copies are of what callers send, testers send what they like.
const (
	unlikeBudget   = 0.5
	mirroredMargin = 0.15
	testersMargin  = 0.4
)

// Unlike is the test of a canary whose requests are of another kind than primary's: copies of safe ones, or those of testers
// alone. The same code then has other shares of bad events in each track, so nothing is judged against primary alone. What has no
// budget gets a wide one: a canary that answers nothing but 404 must not pass either.
func (t Test) Unlike(mirrored bool) Test {
	margin := testersMargin
	if mirrored {
		margin = mirroredMargin
	}
	t.Objectives = slices.Clone(t.Objectives)
	for i, o := range t.Objectives {
		if o.Relative {
			t.Objectives[i].Relative, t.Objectives[i].Budget, t.Objectives[i].Margin = false, unlikeBudget, margin
		}
	}
	return t
}
