package verdict

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/our-org/crossbill/release"
)

var thresholds = Thresholds{Window: time.Minute, MinRequests: 100, MinSuccess: 0.99, Latency: 500 * time.Millisecond, MaxSlow: 0.05}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name    string
		canary  Counts
		final   bool
		want    release.VerdictOutcome
		decided bool
	}{
		{"no traffic is never healthy", Counts{}, true, release.Inconclusive, true},
		{"too little traffic is never healthy", Counts{Requests: 99, Timed: 99}, true, release.Inconclusive, true},
		{"nothing is decided without traffic before the end", Counts{}, false, release.Inconclusive, false},
		{"healthy only at the end", Counts{Requests: 1000, Timed: 1000}, false, "", false},
		{"healthy", Counts{Requests: 1000, Errors: 10, Timed: 1000, Slow: 50}, true, release.Healthy, true},
		{"errors end it early", Counts{Requests: 100, Errors: 2, Timed: 100}, false, release.Unhealthy, true},
		{"all errors", Counts{Requests: 100, Errors: 100, Timed: 100}, false, release.Unhealthy, true},
		{"slow ends it early", Counts{Requests: 100, Timed: 100, Slow: 6}, false, release.Unhealthy, true},
		{"no measured times are never healthy", Counts{Requests: 1000}, true, release.Inconclusive, true},
	} {
		outcome, _, decided := thresholds.Judge(c.canary, c.final)
		if outcome != c.want || decided != c.decided {
			t.Errorf("%s: %q, %v", c.name, outcome, decided)
		}
	}
}

func TestThresholdsThatMeanNothingAreRefused(t *testing.T) {
	if err := thresholds.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Thresholds){
		"window": func(t *Thresholds) { t.Window = 0 }, "requests": func(t *Thresholds) { t.MinRequests = 0 },
		"success 0": func(t *Thresholds) { t.MinSuccess = 0 }, "success 101": func(t *Thresholds) { t.MinSuccess = 1.01 },
		"latency": func(t *Thresholds) { t.Latency = 0 }, "slow": func(t *Thresholds) { t.MaxSlow = -1 },
	} {
		bad := thresholds
		change(&bad)
		if bad.Check() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// TestNoEvidenceIsNeverHealthy: whatever the thresholds, too few requests are no pass.
func TestNoEvidenceIsNeverHealthy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		th := Thresholds{
			Window: time.Minute, Latency: time.Second,
			MinRequests: rapid.Float64Range(1, 1e6).Draw(t, "min"),
			MinSuccess:  rapid.Float64Range(0.001, 1).Draw(t, "success"),
			MaxSlow:     rapid.Float64Range(0, 1).Draw(t, "slow"),
		}
		n := rapid.Float64Range(0, th.MinRequests-0.5).Draw(t, "requests")
		if outcome, _, _ := th.Judge(Counts{Requests: n, Timed: n}, true); outcome == release.Healthy {
			t.Fatalf("%v requests of %v are healthy", n, th.MinRequests)
		}
	})
}

// TestCountersAreCounted: whatever the order of increments, resets and readings, what is counted is
// what happened, but for what a reset swallowed between two readings.
func TestCountersAreCounted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counter, happened, counted := 0.0, 0.0, 0.0
		last := Series{}
		born := false
		t.Repeat(map[string]func(*rapid.T){
			"requests": func(t *rapid.T) {
				n := float64(rapid.IntRange(1, 50).Draw(t, "n"))
				counter += n
				happened += n
				born = true
			},
			"read": func(t *rapid.T) {
				now := Series{}
				if born {
					now["series"] = counter
				}
				for _, n := range now.Increase(last) {
					counted += n
				}
				last = now
				if counted != happened {
					t.Fatalf("counted %v of %v", counted, happened)
				}
			},
			"read and restart": func(t *rapid.T) {
				for _, n := range (Series{"series": counter}).Increase(last) {
					counted += n
				}
				last = Series{"series": counter}
				if counter > 0 {
					counter = 0 // the first increment after a restart is counted whole if it stays below the old value
					last["series"] = 0
				}
			},
		})
	})
}

func TestAHiddenSeriesIsNotCountedAnew(t *testing.T) {
	reading := func(n float64) *Reading {
		r := &Reading{Requests: Series{}, errors: map[string]bool{}, Timed: Series{}, Fast: Series{}}
		if n > 0 {
			r.Requests["a"] = n
		}
		return r
	}
	w := window{canary: reading(100), primary: reading(0)}
	w.add(reading(150), reading(0))
	w.add(reading(0), reading(0)) // a failed scrape hides it
	if got := w.add(reading(160), reading(0)); got.Canary.Requests != 60 {
		t.Errorf("counted %v, want 60", got.Canary.Requests)
	}
}

func TestQuiet(t *testing.T) {
	at := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	reading := func(n float64) *Reading {
		return &Reading{Requests: Series{"a": n}, errors: map[string]bool{}}
	}
	type look struct {
		n       float64
		sampled int // second of the sample; -1 is none
		at      int
	}
	for name, c := range map[string]struct {
		looks []look
		want  []bool
	}{
		"still counters":                     {[]look{{5, 0, 0}, {5, 1, 1}, {5, 2, 2}, {5, 3, 3}}, []bool{false, false, false, true}},
		"growing counters":                   {[]look{{5, 0, 0}, {6, 1, 1}, {7, 2, 2}, {8, 3, 3}, {9, 4, 4}}, []bool{false, false, false, false, false}},
		"one scrape looked at again":         {[]look{{5, 0, 0}, {5, 0, 1}, {5, 0, 2}, {5, 0, 9}}, []bool{false, false, false, false}},
		"a late request":                     {[]look{{5, 0, 0}, {5, 1, 1}, {6, 2, 2}, {6, 3, 3}, {6, 4, 4}, {6, 5, 5}}, []bool{false, false, false, false, false, true}},
		"never called":                       {[]look{{0, -1, 0}, {0, -1, 5}, {0, -1, 10}}, []bool{false, false, true}},
		"counters that vanish prove nothing": {[]look{{5, 0, 0}, {5, -1, 20}, {5, -1, 60}}, []bool{false, false, false}},
	} {
		q := quiet{begin: at(0)}
		for i, l := range c.looks {
			sampled := time.Time{}
			if l.sampled >= 0 {
				sampled = at(l.sampled)
			}
			if got := q.look(reading(l.n), sampled, at(l.at)); got != c.want[i] {
				t.Errorf("%s: look %d is %v", name, i, got)
			}
		}
	}
}

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestIsError(t *testing.T) {
	for code, want := range map[string]bool{"200": false, "301": false, "404": false, "499": false, "500": true, "503": true, "0": true} {
		if isError(code) != want {
			t.Errorf("code %s", code)
		}
	}
}
