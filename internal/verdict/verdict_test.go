package verdict

import (
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"pgregory.net/rapid"
)

// TestIncrease counts what happened, whatever the order of increments, resets and readings, except for what a
// reset hides between two readings.
func TestIncrease(t *testing.T) {
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
				counted += now.Increase(last)
				last = now
				if counted != happened {
					t.Fatalf("counted %v of %v", counted, happened)
				}
			},
			"read and restart": func(t *rapid.T) {
				counted += Series{"series": counter}.Increase(last)
				last = Series{"series": counter}
				if counter > 0 {
					counter = 0 // the first increase after a restart counts as a whole if it stays below the old value
					last["series"] = 0
				}
			},
		})
	})
}

func TestMergeMissing(t *testing.T) {
	reading := func(n float64) *Reading {
		r := &Reading{Counters: []Counters{{Series{}, Series{}}}}
		if n > 0 {
			r.Counters[0].Total["a"], r.Counters[0].Good["a"] = n, n
		}
		return r
	}
	last, counted := reading(100), 0.0
	for _, n := range []float64{150, 0, 160} { // in the middle a failed scrape hides it
		now := reading(n)
		counted += now.Since(last)[0].Events
		last = now.mergeMissing(last)
	}
	if counted != 60 {
		t.Errorf("counted %v, want 60", counted)
	}
}

func TestQuiet(t *testing.T) {
	at := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	reading := func(n float64) Series { return Series{"a": n} }
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
		q := quiet{start: at(0)}
		for i, l := range c.looks {
			sampled := time.Time{}
			if l.sampled >= 0 {
				sampled = at(l.sampled)
			}
			if got := q.add(reading(l.n), sampled, at(l.at)); got != c.want[i] {
				t.Errorf("%s: look %d is %v", name, i, got)
			}
		}
	}
}

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		labels     model.Metric
		bad, aside bool
	}{
		{model.Metric{"response_code": "200"}, false, false},
		{model.Metric{"response_code": "404"}, false, false},
		{model.Metric{"response_code": "500"}, true, false},
		{model.Metric{"response_code": "503", "response_flags": "UH"}, true, false},
		{model.Metric{"response_code": "0", "response_flags": "UF"}, true, false},
		{model.Metric{"response_code": "0", "response_flags": "DC"}, true, true}, // the caller went away
		{model.Metric{"response_code": "200", "grpc_response_status": "0"}, false, false},
		{model.Metric{"response_code": "200", "grpc_response_status": "5"}, false, false}, // NOT_FOUND
		{model.Metric{"response_code": "200", "grpc_response_status": "14"}, true, false}, // UNAVAILABLE
	} {
		if isError(c.labels) != c.bad || callerLeft(c.labels) != c.aside {
			t.Errorf("%v: an error %v, set aside %v", c.labels, isError(c.labels), callerLeft(c.labels))
		}
	}
}
