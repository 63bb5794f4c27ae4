package verdict

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// SLO is what a canary is judged by, as the section analysis of crossbill.yaml says it. Shares are in
// percent there. What the file leaves out is as in [DefaultSLO].
type SLO struct {
	FalseRollback float64         `json:"falseRollback"` // percent of good canaries that may be rolled back
	FalsePass     float64         `json:"falsePass"`     // percent of bad canaries that may pass
	Burst         float64         `json:"burst"`         // how many requests go bad together
	MinRequests   float64         `json:"minRequests"`   // the canary's, below which nothing passes
	MinDuration   metav1.Duration `json:"minDuration"`   // before which nothing passes
	MaxDuration   metav1.Duration `json:"maxDuration"`   // after which what is not decided is inconclusive
	Objectives    []Indicator     `json:"objectives"`
}

// Indicator is one service level indicator: what counts as an event, and as a good one. With neither
// Latency nor queries it is availability: answered, and not by a server error (5xx, or gRPC's codes of that
// kind).
type Indicator struct {
	Name      string  `json:"name"`
	Objective float64 `json:"objective"` // percent of the events that are to be good
	Margin    float64 `json:"margin"`    // percentage points by which a canary is bad for certain
	// Latency makes an event good when it took no longer. It must be a bound of the buckets of
	// istio_request_duration_milliseconds.
	Latency *metav1.Duration `json:"latency,omitempty"`
	// Good and Total are PromQL for raw counters that only grow, one series or many, not summed and without
	// rate or increase. $workload and $namespace stand for the track's.
	Good  string `json:"good,omitempty"`
	Total string `json:"total,omitempty"`
}

// DefaultSLO is what a canary is judged by when there is no file.
func DefaultSLO() *SLO {
	return &SLO{
		FalseRollback: 1, FalsePass: 5, Burst: 1,
		MinRequests: 50, MinDuration: metav1.Duration{Duration: 30 * time.Second}, MaxDuration: metav1.Duration{Duration: 15 * time.Minute},
		Objectives: []Indicator{
			{Name: "availability", Objective: 99.9, Margin: 1},
			{Name: "latency", Objective: 95, Margin: 5, Latency: &metav1.Duration{Duration: 500 * time.Millisecond}},
		},
	}
}

// LoadSLO reads an SLO file. One that is not there is the default, unless it was asked for by name.
func LoadSLO(file string, named bool) (*SLO, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return DefaultSLO(), nil
	}
	if err != nil {
		return nil, &usererr.Error{Field: "--slo", Problem: err.Error(), Fix: "give a file as docs/commands/verify.md describes it, or none"}
	}
	return ParseSLO(file, text)
}

// ParseSLO reads and checks an SLO. file is for messages.
func ParseSLO(file string, text []byte) (*SLO, error) {
	slo := DefaultSLO()
	defaults := slo.Objectives
	slo.Objectives = nil
	if err := yaml.UnmarshalStrict(text, slo); err != nil {
		return nil, &usererr.Error{Field: file, Problem: strings.TrimPrefix(err.Error(), "error unmarshaling JSON: "), Fix: "see docs/commands/verify.md for its fields"}
	}
	if len(slo.Objectives) == 0 {
		slo.Objectives = defaults
	}
	if err := slo.Check(); err != nil {
		err.Field = file + ": " + err.Field
		return nil, err
	}
	return slo, nil
}

// Check finds a value that is out of bounds, or does not fit to another one; nil if there is none.
func (s *SLO) Check() *usererr.Error {
	bad := func(field, problem, fix string) *usererr.Error {
		return &usererr.Error{Field: field, Problem: problem, Fix: fix}
	}
	switch {
	case !(s.FalseRollback > 0 && s.FalseRollback < 50):
		return bad("falseRollback", fmt.Sprintf("%g is not a percentage above 0 and below 50", s.FalseRollback), "give for example 1")
	case !(s.FalsePass > 0 && s.FalsePass < 50):
		return bad("falsePass", fmt.Sprintf("%g is not a percentage above 0 and below 50", s.FalsePass), "give for example 5")
	case !(s.Burst >= 1 && s.Burst <= 1000):
		return bad("burst", fmt.Sprintf("%g is not a number from 1 to 1000", s.Burst), "give 1, or how many requests fail together")
	case !(s.MinRequests >= 1 && s.MinRequests <= 1e9):
		return bad("minRequests", fmt.Sprintf("%g requests prove nothing", s.MinRequests), "give at least 1")
	case s.MaxDuration.Duration <= 0:
		return bad("maxDuration", fmt.Sprintf("%s is not a time to watch", s.MaxDuration.Duration), "give for example 15m")
	case s.MinDuration.Duration < 0 || s.MinDuration.Duration > s.MaxDuration.Duration:
		return bad("minDuration", fmt.Sprintf("%s is not a time up to maxDuration (%s)", s.MinDuration.Duration, s.MaxDuration.Duration), "give for example 30s")
	}
	var names []string
	for i, o := range s.Objectives {
		field := fmt.Sprintf("objectives[%d]", i)
		switch {
		case o.Name == "":
			return bad(field+".name", "is missing", "give it a name, for example availability")
		case slices.Contains(names, o.Name):
			return bad(field+".name", fmt.Sprintf("%q is there twice", o.Name), "give each its own name")
		case !(o.Objective > 0 && o.Objective < 100):
			return bad(field+".objective", fmt.Sprintf("%g is not a percentage between 0 and 100", o.Objective), "give for example 99.9; 100 cannot be tested, no number of requests shows it")
		case !(o.Margin > 0 && o.Margin <= o.Objective):
			return bad(field+".margin", fmt.Sprintf("%g is not a number of percentage points above 0, up to the objective", o.Margin), "give for example 1")
		case o.Latency != nil && (o.Good != "" || o.Total != ""), (o.Good == "") != (o.Total == ""):
			return bad(field, "it has some of latency, good and total", "give latency, or good and total, or none of them")
		case o.Latency != nil && o.Latency.Duration <= 0:
			return bad(field+".latency", fmt.Sprintf("%s is not a time", o.Latency.Duration), "give a bucket bound of the histogram, for example 500ms")
		}
		names = append(names, o.Name)
	}
	return nil
}

// Limit sets how long is watched at most.
func (s *SLO) Limit(longest time.Duration) {
	s.MaxDuration.Duration = longest
	s.MinDuration.Duration = min(s.MinDuration.Duration, longest)
}

// Test is the sequential test that the SLO asks for.
func (s *SLO) Test() Test {
	t := Test{
		FalseRollback: s.FalseRollback / 100, FalsePass: s.FalsePass / 100, Burst: s.Burst,
		MinRequests: s.MinRequests, MinDuration: s.MinDuration.Duration, MaxDuration: s.MaxDuration.Duration,
	}
	for _, o := range s.Objectives {
		t.Objectives = append(t.Objectives, Objective{Name: o.Name, Budget: (100 - o.Objective) / 100, Margin: o.Margin / 100})
	}
	return t
}
