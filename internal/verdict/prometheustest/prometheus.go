// Package prometheustest is a Prometheus in memory, for tests. It scrapes proxies that count requests, and answers
// the queries of package verdict over HTTP or in place of it.
//
// It is as unkind as the original, or a store behind it (https://prometheus.io/docs/prometheus/latest/querying/basics,
// and the tuning of remote write): replicas that answer in turn scrape at different times; samples of one scrape
// may arrive apart; a sample is the newest one of five minutes; a scrape that fails hides the value of a series at
// once, but not its samples. A series appears with its first event. It differs in that it knows only these queries:
// a selector, its samples over a time, last_over_time, sum, count, count by (le), label_replace
// that adds a label, and or of two of these that have no series in common.
package prometheustest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Labels are the labels of a series, with its name as __name__.
type Labels = map[string]string

// Server is a Prometheus, or several behind one address.
type Server struct {
	Scrape   time.Duration // between two scrapes of a target; default 1 second
	Replicas []Replica     // answer in turn; default is one
	// Fails says why a query fails at a time, as a status; 0: it does not. May be nil.
	Fails func(query string, now time.Time) int
	// Value replaces each value, if set.
	Value string
	// Markers shows, as older versions of VictoriaMetrics do (VictoriaMetrics/VictoriaMetrics#5806), the marker that a failed scrape
	// leaves as NaN among the samples of a series.
	Markers bool

	mu      sync.Mutex
	targets []*Target
	asked   []Query
}

// Query is a query that was asked.
type Query struct {
	Text   string
	At     time.Time
	Header http.Header
}

// Replica is one of several that scrape the same targets.
type Replica struct {
	Offset time.Duration // of its scrapes
	// Late is how long after its scrape a sample of a series can be read; may be nil.
	Late func(Labels) time.Duration
	// Missed says whether a scrape at a time failed; may be nil.
	Missed func(time.Time) bool
}

// Target is what is scraped: a proxy.
type Target struct {
	labels Labels
	offset time.Duration
	server *Server
	series map[string]*series
	end    time.Time // after which it is not scraped; zero: never
}

type series struct {
	metric  metric
	unnamed metric // the same without its name
	events  []event
	sorted  bool
}

// metric are labels, and how an answer has them. Both are shared between answers.
type metric struct {
	labels Labels
	json   []byte
}

func metricOf(labels Labels) metric {
	text, _ := json.Marshal(labels) // of texts
	return metric{labels, text}
}

// with are the labels and one more.
func (m metric) with(name, value string) metric {
	labels := maps.Clone(m.labels)
	labels[name] = value
	return metricOf(labels)
}

// event is n events, or a reset.
type event struct {
	at    time.Time
	n     float64
	reset bool
	value float64 // of the counter after it
	text  string  // the same; "" when no answer had it yet
}

// Target adds a target that is scraped so long after each replica's own time.
func (s *Server) Target(labels Labels, offset time.Duration) *Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &Target{labels: labels, offset: offset, server: s, series: map[string]*series{}}
	s.targets = append(s.targets, t)
	return t
}

// Counter is one series of a target. It appears with its first event.
type Counter struct {
	target *Target
	series *series
}

// Counter gives the series with these labels and the target's.
func (t *Target) Counter(labels Labels) *Counter {
	t.server.mu.Lock()
	defer t.server.mu.Unlock()
	all := maps.Clone(labels)
	maps.Copy(all, t.labels)
	key := textOf(all)
	if t.series[key] == nil {
		unnamed := maps.Clone(all)
		delete(unnamed, "__name__")
		t.series[key] = &series{metric: metricOf(all), unnamed: metricOf(unnamed)}
	}
	return &Counter{t, t.series[key]}
}

// textOf is what fmt.Sprint says of labels, in less time.
func textOf(labels Labels) string {
	text := append(make([]byte, 0, 512), "map["...)
	for i, name := range slices.Sorted(maps.Keys(labels)) {
		if i > 0 {
			text = append(text, ' ')
		}
		text = append(append(append(text, name...), ':'), labels[name]...)
	}
	return string(append(text, ']'))
}

// Add counts n events at a time. The times of a series may be in any order until a query is asked.
func (c *Counter) Add(at time.Time, n float64) {
	c.target.server.mu.Lock()
	defer c.target.server.mu.Unlock()
	c.series.events, c.series.sorted = append(c.series.events, event{at: at, n: n}), false
}

// Add counts n events of the series with these labels.
func (t *Target) Add(labels Labels, at time.Time, n float64) { t.Counter(labels).Add(at, n) }

// Reset starts all counters of the target again, from 0.
func (t *Target) Reset(at time.Time) {
	t.server.mu.Lock()
	defer t.server.mu.Unlock()
	for _, one := range t.series {
		one.events, one.sorted = append(one.events, event{at: at, reset: true}), false
	}
}

// End ends the target: it is not scraped after that.
func (t *Target) End(at time.Time) {
	t.server.mu.Lock()
	defer t.server.mu.Unlock()
	t.end = at
}

// order puts the events in the order of their times, and adds them up.
func (s *series) order() {
	if s.sorted {
		return
	}
	s.sorted = true
	slices.SortStableFunc(s.events, func(a, b event) int { return a.at.Compare(b.at) })
	value := 0.0
	for i := range s.events {
		if value += s.events[i].n; s.events[i].reset {
			value = 0
		}
		s.events[i].value, s.events[i].text = value, ""
	}
}

// Asked are the queries so far.
func (s *Server) Asked() []Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// RoundTrip answers in place of the network.
func (s *Server) RoundTrip(r *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	s.ServeHTTP(recorder, r)
	return recorder.Result(), nil
}

type point struct {
	at    time.Time
	value string
}

// sample is a series with its points; a vector has one of each.
type sample struct {
	metric metric
	points []point
}

// append writes a point as Prometheus does.
func (p point) append(text []byte) []byte {
	text = strconv.AppendFloat(append(text, '['), float64(p.at.UnixMilli())/1000, 'f', -1, 64)
	return append(append(append(text, `,"`...), p.value...), `"]`...)
}

// answerOf writes an answer. It is what encoding/json would write, in less time: most of a test's time is in answers.
func answerOf(kind string, result []sample) []byte {
	text := append(make([]byte, 0, 1<<10), `{"status":"success","data":{"resultType":"`+kind+`","result":[`...)
	for i, one := range result {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(append(append(text, `{"metric":`...), one.metric.json...), `,"value`...)
		if kind == "vector" {
			text = append(one.points[0].append(append(text, `":`...)), '}')
			continue
		}
		text = append(text, `s":[`...)
		for n, p := range one.points {
			if n > 0 {
				text = append(text, ',')
			}
			text = p.append(text)
		}
		text = append(text, "]}"...)
	}
	return append(text, "]}}\n"...)
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	query, at := r.FormValue("query"), time.Now()
	if seconds, err := strconv.ParseFloat(r.FormValue("time"), 64); err == nil {
		at = time.UnixMilli(int64(seconds*1000 + 0.5))
	}
	s.asked = append(s.asked, Query{query, at, r.Header.Clone()})
	if s.Fails != nil {
		if status := s.Fails(query, time.Now()); status != 0 {
			http.Error(w, "down", status)
			return
		}
	}
	kind, result, err := s.answer(query, at)
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]any{"status": "error", "errorType": "bad_data", "error": err.Error()})
		return
	}
	_, _ = w.Write(answerOf(kind, result))
}

var (
	replaces = regexp.MustCompile(`^label_replace\((.*), "(\w+)", "(\w+)", "", ""\)$`)
	sums     = regexp.MustCompile(`^sum ?\((.*)\)$`)
	counts   = regexp.MustCompile(`^count(?: by \((\w+)\))? ?\((.*)\)$`)
	lastOver = regexp.MustCompile(`^last_over_time\((.*)\[(\w+)\]\)$`)
	ranges   = regexp.MustCompile(`^(.*)\[(\w+)\]$`)
	selects  = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?$`)
	matcher  = regexp.MustCompile(`^\s*([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")\s*(?:,|$)`)
)

func (s *Server) answer(query string, at time.Time) (kind string, result []sample, err error) {
	result = []sample{}
	if m := counts.FindStringSubmatch(query); m != nil {
		_, inner, err := s.answer(m[2], at)
		if err != nil {
			return "", nil, err
		}
		by := map[string]int{}
		for _, one := range inner {
			by[one.metric.labels[m[1]]]++
		}
		for value, n := range by {
			labels := Labels{}
			if m[1] != "" {
				labels[m[1]] = value
			}
			result = append(result, s.single(labels, at, float64(n)))
		}
		return "vector", result, nil
	}
	if one, other, both := strings.Cut(query, " or "); both {
		_, first, err := s.answer(one, at)
		if err != nil {
			return "", nil, err
		}
		kind, second, err := s.answer(other, at)
		return kind, append(first, second...), err
	}
	if m := replaces.FindStringSubmatch(query); m != nil {
		kind, inner, err := s.answer(m[1], at)
		for i := range inner {
			inner[i].metric = inner[i].metric.with(m[2], m[3])
		}
		return kind, inner, err
	}
	if m := sums.FindStringSubmatch(query); m != nil {
		_, inner, err := s.answer(m[1], at)
		sum := 0.0
		for _, one := range inner {
			n, _ := strconv.ParseFloat(one.points[0].value, 64)
			sum += n
		}
		if len(inner) == 0 {
			return "vector", result, err
		}
		return "vector", []sample{s.single(Labels{}, at, sum)}, err
	}
	span, over, last := 5*time.Minute, false, false
	if m := lastOver.FindStringSubmatch(query); m != nil {
		query, last = m[1], true
		span, err = time.ParseDuration(m[2])
	} else if m := ranges.FindStringSubmatch(query); m != nil {
		query, over = m[1], true
		span, err = time.ParseDuration(m[2])
	}
	if err != nil {
		return "", nil, err
	}
	matches, err := Parse(query)
	if err != nil {
		return "", nil, err
	}
	replica := Replica{}
	if n := len(s.Replicas); n > 0 {
		replica = s.Replicas[len(s.asked)%n]
	}
	for _, t := range s.targets {
		for _, key := range slices.Sorted(maps.Keys(t.series)) {
			one := t.series[key]
			if !matches(one.metric.labels) {
				continue
			}
			points, stale := s.samples(t, one, replica, at, span, over && s.Markers)
			if len(points) == 0 || stale && !over && !last {
				continue
			}
			found := sample{one.metric, points}
			if last {
				found.metric = one.unnamed
			}
			if !over {
				found.points = []point{{at, points[len(points)-1].value}}
			}
			result = append(result, found)
		}
	}
	if over {
		return "matrix", result, nil
	}
	return "vector", result, nil
}

// samples are the samples of a series that a replica has of the span before a time, and whether a scrape after
// the newest one failed.
func (s *Server) samples(t *Target, one *series, replica Replica, at time.Time, span time.Duration, markers bool) (points []point, stale bool) {
	scrape := s.Scrape
	if scrape <= 0 {
		scrape = time.Second
	}
	late := time.Duration(0)
	if replica.Late != nil {
		late = replica.Late(one.metric.labels)
	}
	one.order()
	offset := (replica.Offset + t.offset) % scrape
	since, until := at.Add(-span), time.Now().Add(-late)
	first := since.Truncate(scrape).Add(offset)
	n, _ := slices.BinarySearchFunc(one.events, first, func(e event, when time.Time) int {
		if e.at.After(when) {
			return 1
		}
		return -1
	})
	missedAt := func(when time.Time) bool {
		return !t.end.IsZero() && when.After(t.end) || replica.Missed != nil && replica.Missed(when)
	}
	for when := first; !when.After(at) && !when.After(until); when = when.Add(scrape) {
		for n < len(one.events) && !one.events[n].at.After(when) {
			n++
		}
		if !when.After(since) {
			continue
		}
		missed := missedAt(when)
		if missed && markers && n > 0 && !missedAt(when.Add(-scrape)) {
			points = append(points, point{when, "NaN"})
		}
		if stale = stale || missed; missed || n == 0 {
			continue
		}
		newest := &one.events[n-1]
		if newest.text == "" {
			newest.text = number(newest.value)
		}
		points, stale = append(points, s.point(when, newest.text)), false
	}
	return points, stale
}

// single is a sample of one value.
func (s *Server) single(labels Labels, at time.Time, value float64) sample {
	return sample{metricOf(labels), []point{s.point(at, number(value))}}
}

func (s *Server) point(at time.Time, value string) point {
	if s.Value != "" {
		value = s.Value
	}
	return point{at, value}
}

func number(value float64) string { return strconv.FormatFloat(value, 'f', -1, 64) }

// parsed are the functions that Parse has made, by selector: a test asks for the same ones at each look.
var parsed sync.Map

// Parse makes a function of a selector that says whether labels match.
func Parse(query string) (func(Labels) bool, error) {
	if known, ok := parsed.Load(query); ok {
		return known.(func(Labels) bool), nil
	}
	matches, err := parse(query)
	if err == nil {
		parsed.Store(query, matches)
	}
	return matches, err
}

func parse(query string) (func(Labels) bool, error) {
	m := selects.FindStringSubmatch(strings.TrimSpace(query))
	if m == nil {
		return nil, fmt.Errorf("parse error: %q", query)
	}
	type condition struct {
		label   string
		pattern *regexp.Regexp
		want    bool
	}
	all := []condition{{"__name__", regexp.MustCompile("^" + m[1] + "$"), true}}
	for rest := m[2]; strings.TrimSpace(rest) != ""; {
		m := matcher.FindStringSubmatch(rest)
		if m == nil {
			return nil, fmt.Errorf("parse error: %q", rest)
		}
		rest = rest[len(m[0]):]
		value, err := strconv.Unquote(m[3])
		if err != nil {
			return nil, err
		}
		if !strings.Contains(m[2], "~") {
			value = regexp.QuoteMeta(value)
		}
		pattern, err := regexp.Compile("^(?:" + value + ")$")
		if err != nil {
			return nil, err
		}
		all = append(all, condition{m[1], pattern, !strings.HasPrefix(m[2], "!")})
	}
	return func(labels Labels) bool {
		for _, c := range all {
			if c.pattern.MatchString(labels[c.label]) != c.want {
				return false
			}
		}
		return true
	}, nil
}
