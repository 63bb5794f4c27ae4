package verdict

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
	"github.com/prometheus/common/model"
)

// sample is the value of a counter as it was scraped.
type sample struct {
	at    model.Time
	value float64
}

// scraped is a series with its samples, oldest first.
type scraped struct {
	key     string
	labels  model.Metric
	track   int    // index of the workload, if the query names one
	good    bool   // it counts good events, of a query for good and one for total
	group   string // what is settled together: the series of one scrape
	samples []sample
}

func (s scraped) newest() model.Time { return s.samples[len(s.samples)-1].at }

// counter is a series as it was read so far: how much it has grown. It takes each sample once, in the order of
// their times, whichever replica of Prometheus answers. It never shrinks: replicas scrape at different times, so
// that one may answer with a few events less than another one did. Only a value near zero that is newer, and that
// does not vanish with the next sample, is a reset: the counted process has started again, and so have the other buckets of
// the histogram.
type counter struct {
	scraped            // without its samples
	first   model.Time // when it was first seen
	at      model.Time // of the newest sample that it took
	grown   float64    // since it was first read, or since 0 if it was born later
	high    float64    // the highest value since it last began at 0
	fallen  float64    // the newest value, if it may be that of a reset; else notFallen
	below   model.Time // of the first sample below high; 0 if the newest one is not
	newest  float64    // the value of the newest sample
	earlier model.Time // of the sample before it
	had     [2]float64 // grown before the newest sample, and before the earlier one
	seeded  bool       // it was there when the reading began
}

const (
	notFallen = -1
	nearZero  = 0.25            // share of the highest value below which a newer value may be a reset's
	confirmed = 0.5             // the same for the sample after it
	lowFor    = 1 * time.Minute // a counter that stays below its highest value for so long was reset unseen
)

// take takes a sample, and says whether it shows that the counter had started again before the earlier one.
func (c *counter) take(s sample) (restarted bool) {
	if s.at <= c.at {
		return false
	}
	c.at, c.earlier, c.newest, c.had = s.at, c.at, s.value, [2]float64{c.grown, c.had[0]}
	if s.value >= c.high {
		c.grown += s.value - c.high
		c.high, c.fallen, c.below = s.value, notFallen, 0
		return false
	}
	if c.below == 0 {
		c.below = s.at
	}
	switch {
	case c.fallen != notFallen && s.value >= c.fallen && s.value <= confirmed*c.high:
		c.grown += s.value
		c.high, c.fallen, c.below = s.value, notFallen, 0
		return true
	case s.value <= nearZero*c.high:
		c.fallen = s.value
	case s.at.Sub(c.below) > lowFor: // how much it has grown meanwhile is unknown
		c.high, c.fallen, c.below = s.value, notFallen, 0
	default:
		c.fallen = notFallen
	}
	return false
}

// restart counts anew what was counted since a time before which the counter has started again.
func (c *counter) restart(since model.Time) {
	if c.grown = c.had[0]; c.earlier >= since {
		c.grown = c.had[1]
	}
	c.grown += c.newest
	c.high, c.fallen, c.below = c.newest, notFallen, 0
}

// unread is a counter with samples that are not taken yet.
type unread struct {
	*counter
	samples []sample
}

// takeTogether takes the samples of the buckets of one histogram, in the order of their times. They start again together: each by
// itself would go by how high it was, and answers that only one of them counts look slow.
func takeTogether(all []unread) {
	for {
		var next model.Time
		for _, one := range all {
			if len(one.samples) > 0 && (next == 0 || one.samples[0].at < next) {
				next = one.samples[0].at
			}
		}
		if next == 0 {
			return
		}
		var since model.Time // when the first of them was seen to have started again; 0 if none has
		restarted := map[*counter]bool{}
		for i := range all {
			if one := &all[i]; len(one.samples) > 0 && one.samples[0].at == next {
				if one.take(one.samples[0]) {
					restarted[one.counter], since = true, one.earlier
				}
				one.samples = one.samples[1:]
			}
		}
		for _, one := range all {
			if since != 0 && one.at == next && !restarted[one.counter] {
				one.restart(since)
			}
		}
	}
}

// meter follows the counters that one query reads.
type meter struct {
	counters map[string]*counter
	late     time.Duration // how much later than the others a series of one scrape was seen to arrive
	torn     model.Time    // newest scrape of which a part had not arrived; 0 if none
	paired   bool          // good events are subtracted from all
	from     model.Time    // the oldest of the targets' newest samples that are taken
	former   former
}

// former is what must not count: what an earlier workload of the same name did before the counted one was made. It is in the first
// sample after that of each target that has a counter of both, so such a sample is where the counting begins.
type former struct {
	made   model.Time            // when the counted one was made; 0: nothing is left out
	of     func(scraped) bool    // whether a series is the workload's
	until  map[string]model.Time // of each such target: that sample's time; 0 if there is none yet
	latest model.Time            // of those times
}

// begin notes the targets that have counters of the workload, and no sample since it was made. Of one without a recent sample,
// the last one is older than a time.
func (f *former) begin(all []scraped, last map[string]model.Time, older model.Time) {
	f.until = map[string]model.Time{}
	for _, s := range all {
		at, sampled := last[s.group]
		if !sampled {
			at = older
		}
		if f.made > at && f.of(s) {
			f.until[s.group] = 0
		}
	}
}

// find finds the first samples since the workload was made.
func (f *former) find(all []scraped) {
	for name, group := range groups(all) {
		if at, waits := f.until[name]; !waits || at != 0 {
			continue
		}
		var first model.Time
		for _, s := range group {
			i := slices.IndexFunc(s.samples, func(one sample) bool { return one.at >= f.made })
			if i >= 0 && (first == 0 || s.samples[i].at < first) {
				first = s.samples[i].at
			}
		}
		f.until[name], f.latest = first, max(f.latest, first)
	}
}

// in says whether a sample has what the earlier one did.
func (f *former) in(s scraped, one sample) bool { return one.at <= f.until[s.group] && f.of(s) }

// A store that gets its samples by remote write shows a scrape piece by piece. A new series is counted when its
// first sample is so old, because what belongs to it may not have arrived: the requests that did not fail.
const arrival = 2 * time.Second

// begin seeds the counters with what is there when the reading begins: as last seen within lookback, then as
// scraped. What appears later was born later, and started at 0.
func (m *meter) begin(seen, all []scraped, now model.Time, horizon time.Duration) {
	m.counters = map[string]*counter{}
	for _, s := range seen {
		m.seed(s, now, s.samples[0].value)
	}
	cuts := settled(all, now, horizon, func(scraped) bool { return false }, 0)
	for _, s := range all {
		delete(m.counters, s.key)
		if samples := s.due(cuts, m.paired && !s.good); len(samples) > 0 {
			last := samples[len(samples)-1]
			m.seed(s, last.at, last.value)
		}
	}
	m.from = oldest(cuts)
	m.former.begin(slices.Concat(seen, all), cuts, now.Add(-horizon))
}

func (m *meter) seed(s scraped, at model.Time, value float64) {
	s.samples = nil
	m.counters[s.key] = &counter{scraped: s, first: at, at: at, high: value, newest: value, fallen: notFallen, seeded: true}
}

// take takes the samples of a reading that are settled. A target's are settled up to the newest time of which all
// of its series that are still scraped have a sample: then errors and successes, both buckets of a histogram and
// both tracks are those of one scrape.
func (m *meter) take(all []scraped, now model.Time, horizon time.Duration) {
	m.learn(all, now, horizon)
	m.former.find(all)
	born := func(s scraped) bool { return m.counters[s.key] == nil }
	cuts := settled(all, now, horizon, born, max(arrival, m.late))
	histograms := map[string][]unread{}
	for _, s := range all {
		samples, c := s.due(cuts, s.good), m.counters[s.key]
		if c == nil {
			if len(samples) == 0 {
				continue
			}
			c = &counter{scraped: s, first: samples[0].at, fallen: notFallen}
			c.samples = nil
			m.counters[s.key] = c
		}
		for len(samples) > 0 && m.former.in(s, samples[0]) {
			if one := samples[0]; one.at > c.at {
				c.at, c.high, c.newest, c.fallen, c.below, c.seeded = one.at, one.value, one.value, notFallen, 0, true
			}
			samples = samples[1:]
		}
		key := s.histogram()
		histograms[key] = append(histograms[key], unread{c, samples})
	}
	for _, one := range histograms {
		takeTogether(one)
	}
	if len(cuts) > 0 {
		m.from = oldest(cuts)
	}
}

// due are the samples that are settled. If none is of the very time up to which they are, good events are read a
// sample further, and at the start all events are: then what is bad is never more than it was.
func (s scraped) due(cuts map[string]model.Time, further bool) []sample {
	cut := cuts[s.group]
	n := len(s.samples)
	for n > 0 && s.samples[n-1].at > cut {
		n--
	}
	if further && n < len(s.samples) && (n == 0 || s.samples[n-1].at < cut) {
		n++
	}
	return s.samples[:n]
}

// learn notes how late parts of a scrape arrive.
func (m *meter) learn(all []scraped, now model.Time, horizon time.Duration) {
	whole, torn := true, model.Time(0)
	for _, group := range groups(all) {
		newest := newestOf(group)
		for _, s := range group {
			if s.newest() == newest || newest.Sub(s.newest()) > horizon {
				continue
			}
			whole = whole && s.newest() >= m.torn
			torn = max(torn, newest)
		}
	}
	if m.torn != 0 && whole {
		m.late = min(max(m.late, now.Sub(m.torn)), horizon)
	}
	if m.torn == 0 || whole {
		m.torn = torn
	}
}

// settled is the time of each target up to which its samples are settled.
func settled(all []scraped, now model.Time, horizon time.Duration, born func(scraped) bool, arrival time.Duration) map[string]model.Time {
	cuts := map[string]model.Time{}
	for name, group := range groups(all) {
		newest := newestOf(group)
		cut := newest
		for _, s := range group {
			if newest.Sub(s.newest()) <= horizon {
				cut = min(cut, s.newest())
			}
			if first := s.samples[0].at; born(s) && now.Sub(first) < arrival {
				cut = min(cut, first-1)
			}
		}
		cuts[name] = cut
	}
	return cuts
}

func groups(all []scraped) map[string][]scraped {
	of := map[string][]scraped{}
	for _, s := range all {
		of[s.group] = append(of[s.group], s)
	}
	return of
}

func newestOf(group []scraped) (newest model.Time) {
	for _, s := range group {
		newest = max(newest, s.newest())
	}
	return newest
}

func oldest(cuts map[string]model.Time) (first model.Time) {
	for _, cut := range cuts {
		if first == 0 || cut < first {
			first = cut
		}
	}
	return first
}

// targetLabels say which scrape a series is from, and which Prometheus scraped it.
var targetLabels = []model.LabelName{
	"job", "instance", "pod", "pod_name", "kubernetes_pod_name", "namespace", "kubernetes_namespace", "node", "service", "endpoint", "container",
	"cluster", "replica", "prometheus", "prometheus_replica", "receive", "tenant_id",
}

// target names the scrape that a series is from.
func target(labels model.Metric) string {
	var b strings.Builder
	for _, name := range targetLabels {
		b.WriteString(string(labels[name]))
		b.WriteByte(0)
	}
	return b.String()
}

// doubled finds two targets with the counters of one proxy: they are on one host or in one pod, and their samples
// of one counter follow each other like those of one. What they count counts twice.
func doubled(all []scraped) (one, other model.Metric) {
	same := map[string][]scraped{}
	for _, s := range all {
		counts := s.labels.Clone()
		for name := range counts {
			if !istioLabel(name) {
				delete(counts, name)
			}
		}
		for kind, proxy := range map[string]string{"pod": podOf(s.labels), "host": hostOf(s.labels)} {
			if key := kind + proxy + counts.String(); proxy != "" {
				same[key] = append(same[key], s)
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(same)) {
		for i, a := range same[key] {
			for _, b := range same[key][:i] {
				if sameProxy(a.labels, b.labels) && interleaved(a.samples, b.samples) {
					return b.labels, a.labels
				}
			}
		}
	}
	return nil, nil
}

// istioLabel says whether Istio's proxy has put a label on its counter, not the scrape.
func istioLabel(name model.LabelName) bool {
	for _, prefix := range []string{"source_", "destination_", "request_", "response_", "grpc_", "connection_security_policy", "reporter", "le"} {
		if strings.HasPrefix(string(name), prefix) {
			return true
		}
	}
	return false
}

// sameProxy says whether two targets are in one pod, or on one address if their pods are unknown.
func sameProxy(a, b model.Metric) bool {
	if target(a) == target(b) {
		return false
	}
	if one, other := podOf(a), podOf(b); one != "" && other != "" {
		return one == other
	}
	return hostOf(a) != "" && hostOf(a) == hostOf(b)
}

func podOf(m model.Metric) string {
	return string(cmp.Or(m["pod"], m["pod_name"], m["kubernetes_pod_name"]))
}

// hostOf is the address of a target without its port.
func hostOf(m model.Metric) string {
	if address, err := netip.ParseAddrPort(string(m["instance"])); err == nil {
		return address.Addr().String()
	}
	name, _, _ := strings.Cut(string(m["instance"]), ":")
	return name
}

// interleaved says whether the samples of two series are those of one counter, scraped twice: in the order of
// their times they grow, again and again from one to the other.
func interleaved(a, b []sample) bool {
	const enough = 4
	grew := 0
	for len(a) > 0 && len(b) > 0 {
		if b[0].at < a[0].at {
			a, b = b, a
		}
		if a[0].value > b[0].value {
			return false
		}
		if (len(a) == 1 || a[1].at > b[0].at) && a[0].value < b[0].value {
			grew++
		}
		a = a[1:]
	}
	return grew >= enough
}

// Series is the raw value of each counter at one time, by its labels. Values only grow, except for resets.
type Series map[string]float64

// Increase is how much all counters together have grown since an earlier reading. A series that the earlier
// reading lacks started at 0, as counters do. One that fell to near zero was reset to 0; one that fell by less
// was read from a replica of Prometheus that had scraped it earlier.
func (s Series) Increase(earlier Series) float64 {
	grown := 0.0
	for key, value := range s {
		before := earlier[key]
		switch {
		case value >= before:
			grown += value - before
		case value <= nearZero*before:
			grown += value
		}
	}
	return math.Round(grown)
}

// lookback is how long a series counts that a failed scrape, or the end of its pod, hides.
const lookback = "1h"

// counting follows the counters of some workloads, the canary's first: what they count of each indicator, in all
// of the time. All workloads are read at one time.
type counting struct {
	source    *Source
	workloads []string
	scrape    time.Duration // between two samples; 0 if unknown
	at        time.Time     // of the last reading
	requests  meter
	pairs     []*pairs // of each indicator that has them
	unknown   meter    // errors of the Service that belong to no workload
	// own is what the first workload's own side reports of its requests. It is followed because its pods end, and their
	// counters with them. ownAt is the time up to which all that are there were sampled; 0 if none was.
	own       meter
	ownAt     model.Time
	counted   [][]Tally
	errors    float64 // of the Service, that belong to no workload, since the last reading
	allErrors float64
	unnamed   unnamed
}

// unnamed is the requests whose answers nothing names, because a label was dropped. They count neither as events nor as bad ones.
type unnamed struct {
	requests float64
	last     time.Time // the reading that found the newest ones
	named    float64   // the first workload's other requests by then
	why      string
}

// pairs are an indicator's counters of good events and of all, by what must be subtracted: the buckets of one
// histogram, or what one target counts.
type pairs struct {
	meter
	of    map[string]*pair
	whole bool // good events and all are not counted by the same targets: only their sums can be subtracted
}

// pair is good events and all, of one track.
type pair struct {
	track       int
	total, good float64 // when the pair became complete
	bad         float64 // what was bad since then
	events      float64
}

// horizon is how long a series without new samples holds up what its target counts, and reach how far back
// samples are read.
func (c *counting) horizon() time.Duration { return 3*c.rate() + 5*time.Second }
func (c *counting) reach() time.Duration   { return c.horizon() + 2*c.rate() }

func (c *counting) rate() time.Duration {
	if c.scrape <= 0 {
		return 15 * time.Second
	}
	return c.scrape
}

// begin takes the first reading.
func (s *Source) begin(ctx context.Context, workloads []string, at time.Time) (*counting, error) {
	c := &counting{source: s, workloads: workloads, at: at, pairs: make([]*pairs, len(s.indicators))}
	history, err := s.samples(ctx, s.requests(s.side, workloads...), 5*time.Minute, at)
	if err != nil {
		return nil, err
	}
	history = once(history)
	if err := doubledError(history); err != nil {
		return nil, err
	}
	c.scrape = interval(history)
	seen, err := s.last(ctx, s.requests(s.side, workloads...), at)
	if err != nil {
		return nil, err
	}
	seen = once(seen)
	now := model.TimeFromUnixNano(at.UnixNano())
	canary := func(one scraped) bool { return string(one.labels["destination_workload"]) == workloads[0] }
	c.requests.former = s.former(canary, 0)
	c.requests.begin(seen, history, now, c.horizon())
	for i, indicator := range s.indicators {
		if !indicator.paired() {
			continue
		}
		seen, all, err := s.readPairs(ctx, indicator, workloads, c.reach(), c.rate(), at, true)
		if err != nil {
			return nil, err
		}
		c.pairs[i] = &pairs{meter: meter{paired: true}, of: map[string]*pair{}}
		behind := time.Duration(0)
		if indicator.Latency == nil && (!plainSelector(indicator.Total) || !plainSelector(indicator.Good)) {
			behind = c.rate() // a value that is computed may be of samples that are so much older
		}
		c.pairs[i].former = s.former(func(one scraped) bool { return one.track == 0 }, behind)
		c.pairs[i].together(indicator, slices.Concat(seen, all))
		c.pairs[i].regroup(seen, all)
		c.pairs[i].begin(seen, all, now, c.horizon())
		c.pairs[i].settle(indicator, now, 2*c.rate())
	}
	if s.service != "" || len(s.of) > 0 {
		seen, err := s.last(ctx, s.unattributed(), at)
		if err != nil {
			return nil, err
		}
		all, err := s.samples(ctx, s.unattributed(), c.reach(), at)
		if err != nil {
			return nil, err
		}
		c.unknown.former = s.former(func(one scraped) bool { return s.trackOf(one.labels) == workloads[0] }, 0)
		c.unknown.begin(seen, all, now, c.horizon())
		maps.Copy(c.unknown.former.until, c.requests.former.until) // the earlier one's first errors may be those of its end
	}
	own, err := s.samples(ctx, s.requests(ownSide, workloads[0]), 5*time.Minute, at)
	if err != nil {
		return nil, err
	}
	if seen, err = s.last(ctx, s.requests(ownSide, workloads[0]), at); err != nil {
		return nil, err
	}
	c.own.begin(seen, own, now, c.horizon())
	c.counted = c.totals()
	return c, nil
}

// takeOwn takes what the first workload's own side reports.
func (c *counting) takeOwn(all []scraped, now model.Time) {
	c.own.take(all, now, c.horizon())
	live := slices.DeleteFunc(all, func(s scraped) bool { return now.Sub(s.newest()) > c.horizon() }) // a pod that has ended is read to its end
	born := func(s scraped) bool { return c.own.counters[s.key] == nil }
	if at := oldest(settled(live, now, c.horizon(), born, arrival)); at > 0 {
		c.ownAt = at
	}
}

// seen is how many requests the first workload's own side has reported.
func (c *counting) seen() (n float64) {
	for _, one := range c.own.counters {
		n += one.grown
	}
	return math.Round(n)
}

// former leaves out what an earlier canary of the same name did. The values that are read are so much behind.
func (s *Source) former(of func(scraped) bool, behind time.Duration) former {
	if s.made.IsZero() {
		return former{}
	}
	return former{made: model.TimeFromUnixNano(s.made.Add(behind).UnixNano()), of: of}
}

// none says whether no workload has a counter.
func (c *counting) none() bool { return len(c.requests.counters) == 0 }

// read takes one more reading, and gives what each workload has counted since the last one, of each indicator.
// A reading that fails changes nothing.
func (c *counting) read(ctx context.Context, at time.Time) ([][]Tally, error) {
	s, now := c.source, model.TimeFromUnixNano(at.UnixNano())
	reach := max(c.reach(), at.Sub(c.at)+c.horizon()) // no sample since the last reading is left out
	requests, err := s.samples(ctx, s.requests(s.side, c.workloads...), reach, at)
	if err != nil {
		return nil, err
	}
	requests = once(requests)
	if err := doubledError(requests); err != nil {
		return nil, err
	}
	all := make([][]scraped, len(s.indicators))
	for i, indicator := range s.indicators {
		if c.pairs[i] == nil {
			continue
		}
		if _, all[i], err = s.readPairs(ctx, indicator, c.workloads, reach, c.rate(), at, false); err != nil {
			return nil, err
		}
	}
	var unknown []scraped
	if s.service != "" || len(s.of) > 0 {
		if unknown, err = s.samples(ctx, s.unattributed(), reach, at); err != nil {
			return nil, err
		}
	}
	own, err := s.samples(ctx, s.requests(ownSide, c.workloads[0]), reach, at)
	if err != nil {
		return nil, err
	}
	if c.scrape <= 0 {
		c.scrape = interval(requests)
	}
	c.at = at
	c.requests.take(requests, now, c.horizon())
	for i, p := range c.pairs {
		if p != nil {
			if p.together(s.indicators[i], all[i]) { // what is bad so far cannot be known
				p.of = map[string]*pair{}
			}
			p.regroup(all[i])
			p.take(all[i], now, c.horizon())
			p.settle(s.indicators[i], now, 2*c.rate())
		}
	}
	for target := range c.unknown.former.until { // else a target's first errors, hours later, would be the earlier one's
		if until := c.requests.former.until[target]; until != 0 {
			c.unknown.former.until[target] = until
		}
	}
	c.unknown.take(unknown, now, c.horizon())
	c.takeOwn(own, now)
	c.findUnnamed()
	return c.new(), nil
}

// new is what was counted since the last call: never more bad events than events.
func (c *counting) new() [][]Tally {
	errors := c.unattributed()
	c.errors, c.allErrors = errors-c.allErrors, errors
	totals, fresh := c.totals(), make([][]Tally, len(c.workloads))
	for track := range totals {
		fresh[track] = make([]Tally, len(c.source.indicators))
		for i, total := range totals[track] {
			before := &c.counted[track][i]
			if total.Events < before.Events { // it is counted anew
				*before = total
				continue
			}
			events := total.Events - before.Events
			t := Tally{events, min(events, max(0, total.Bad-before.Bad))}
			before.Events, before.Bad = before.Events+t.Events, before.Bad+t.Bad
			fresh[track][i] = t
		}
	}
	return fresh
}

// totals is what each workload has counted in all of the time, of each indicator, in whole events. What a Service got
// that leads to one track alone is that track's. Errors that belong to no workload are those of the only one.
func (c *counting) totals() [][]Tally {
	all := make([][]Tally, len(c.workloads))
	for track := range all {
		all[track] = make([]Tally, len(c.source.indicators))
	}
	add := func(track int, counter *counter) {
		for i, indicator := range c.source.indicators {
			if indicator.paired() {
				continue
			}
			counts, bad := indicator.classify(counter.labels)
			if counts {
				all[track][i].Events += counter.grown
			}
			if counts && bad {
				all[track][i].Bad += counter.grown
			}
		}
	}
	for _, counter := range c.requests.counters {
		add(max(0, slices.Index(c.workloads, string(counter.labels["destination_workload"]))), counter)
	}
	for _, counter := range c.unknown.counters {
		if track := slices.Index(c.workloads, c.source.trackOf(counter.labels)); track >= 0 {
			add(track, counter)
		}
	}
	for i, p := range c.pairs {
		if p == nil {
			continue
		}
		for _, one := range p.of {
			all[one.track][i].Events += one.events
			all[one.track][i].Bad += one.bad
		}
	}
	if len(c.workloads) == 1 {
		for i, indicator := range c.source.indicators {
			if !indicator.paired() && indicator.Counts == "" {
				all[0][i].Events += c.unattributed()
				all[0][i].Bad += c.unattributed()
			}
		}
	}
	for track := range all {
		for i := range all[track] {
			all[track][i] = Tally{math.Round(all[track][i].Events), math.Round(all[track][i].Bad)}
		}
	}
	return all
}

// unattributed is how many errors of the Service belong to no track.
func (c *counting) unattributed() (n float64) {
	for _, one := range c.unknown.counters {
		if isError(one.labels) && !callerLeft(one.labels) && c.source.trackOf(one.labels) == "" {
			n += one.grown
		}
	}
	return n
}

// together finds out whether targets count good events whose total another target counts, or none: an expression that
// sums has no targets. It says whether that is new.
func (p *pairs) together(indicator Indicator, all []scraped) bool {
	if p.whole || indicator.Latency != nil {
		return false
	}
	p.whole = !plainSelector(indicator.Total) || !plainSelector(indicator.Good)
	if p.whole {
		return false
	}
	totals := map[string]bool{}
	for _, s := range all {
		if !s.good {
			totals[s.group] = true
		}
	}
	for _, s := range all {
		p.whole = p.whole || s.good && len(totals) > 0 && !totals[s.group]
	}
	return p.whole
}

// regroup puts the series of each track together, if they must be.
func (p *pairs) regroup(reads ...[]scraped) {
	if !p.whole {
		return
	}
	for _, all := range reads {
		for i := range all {
			all[i].group = strconv.Itoa(all[i].track)
		}
	}
	for _, c := range p.counters {
		c.group = strconv.Itoa(c.track)
	}
}

// settle takes the difference of good events and of all. A pair is complete when it has both; before that, nothing
// of it counts. What was bad never becomes good again: a sample of the good events that is older than that of all
// must not invent bad ones.
func (p *pairs) settle(indicator Indicator, now model.Time, patience time.Duration) {
	type sums struct {
		track        int
		total, good  float64
		hasAll, has  bool
		seeded, born bool
		first        model.Time
	}
	of := map[string]*sums{}
	for _, c := range p.counters {
		key := indicator.pairKey(c.scraped)
		s := of[key]
		if s == nil {
			s = &sums{track: c.track}
			of[key] = s
		}
		if c.good {
			s.good, s.has = s.good+c.grown, true
		} else {
			s.total, s.hasAll = s.total+c.grown, true
			if s.first == 0 || c.first < s.first {
				s.first = c.first
			}
		}
		s.seeded, s.born = s.seeded || c.seeded, s.born || !c.seeded
	}
	for key, s := range of {
		one := p.of[key]
		if one == nil {
			// All of a target's requests may be bad, so that nothing counts its good ones.
			if !s.hasAll || !s.has && (indicator.Latency != nil || now.Sub(s.first) < patience && s.born) {
				continue
			}
			one = &pair{track: s.track}
			if s.seeded && s.born { // one half was there before the other one
				one.total, one.good = s.total, s.good
			}
			p.of[key] = one
		}
		one.events = s.total - one.total
		one.bad = max(one.bad, one.events-(s.good-one.good))
	}
}

// paired says whether the indicator's bad events are those of all that are not good.
func (o Indicator) paired() bool { return o.Latency != nil || o.Total != "" }

// pairKey names what a series must be subtracted from, or subtracts.
func (o Indicator) pairKey(s scraped) string {
	if o.Latency == nil {
		return s.group
	}
	return s.histogram()
}

// histogram names what a series is a bucket of, of one track; another one's is alone.
func (s scraped) histogram() string {
	labels := s.labels.Clone()
	delete(labels, "le")
	return strconv.Itoa(s.track) + series(labels)
}

// classify says whether a series of requests counts for the indicator, and whether what it counts is bad.
func (o Indicator) classify(labels model.Metric) (counts, bad bool) {
	if dropped(labels) != "" {
		return false, false
	}
	switch o.Counts {
	case CallersLeft:
		return true, callerLeft(labels)
	case ClientErrors:
		return !callerLeft(labels), isClientError(labels)
	case CutStreams:
		return !callerLeft(labels), isCut(labels)
	}
	return !callerLeft(labels), isError(labels)
}

// readPairs reads an indicator's good events and all. For the first reading it also gives them as last seen.
func (s *Source) readPairs(ctx context.Context, o Indicator, workloads []string, reach, scrape time.Duration, at time.Time, first bool) (seen, all []scraped, err error) {
	if o.Latency != nil {
		return s.readLatency(ctx, o, workloads, reach, at, first)
	}
	for track, workload := range workloads {
		total, good := s.fill(o.Total, workload), s.fill(o.Good, workload)
		var old, now []scraped
		if plainSelector(o.Total) && plainSelector(o.Good) {
			old, now, err = s.readPlain(ctx, total, good, reach, at, first)
		} else {
			now, err = s.readTogether(ctx, total, good, at.Add(-max(scrape, arrival)))
		}
		if err != nil {
			return nil, nil, fmt.Errorf("objective %s: %w", o.Name, err)
		}
		for _, read := range [][]scraped{old, now} {
			for i := range read {
				one := &read[i]
				one.track, one.key, one.group = track, fmt.Sprintf("%d %t %s", track, one.good, one.key), strconv.Itoa(track)+one.group
			}
		}
		seen, all = append(seen, old...), append(all, now...)
	}
	return seen, all, nil
}

// readPlain reads the samples of metrics.
func (s *Source) readPlain(ctx context.Context, total, good string, reach time.Duration, at time.Time, first bool) (seen, all []scraped, err error) {
	for _, side := range []struct {
		query string
		good  bool
	}{{total, false}, {good, true}} {
		now, err := s.samples(ctx, side.query, reach, at)
		var old []scraped
		if err == nil && first {
			old, err = s.last(ctx, side.query, at)
		}
		if err != nil {
			return nil, nil, err
		}
		for _, read := range [][]scraped{old, now} {
			for i := range read {
				read[i].good = side.good
			}
		}
		seen, all = append(seen, old...), append(all, now...)
	}
	return seen, all, nil
}

// partLabel says what a series counts, in the answer of readTogether.
const partLabel = "crossbill_part"

// readTogether reads the values of two expressions by one query, so that one replica answers, as of one time.
// Nothing says when they were sampled, so the time must be long enough ago for all to have arrived.
func (s *Source) readTogether(ctx context.Context, total, good string, at time.Time) ([]scraped, error) {
	all, err := s.values(ctx, fmt.Sprintf(`label_replace(%s, %q, "total", "", "") or label_replace(%s, %q, "good", "", "")`, total, partLabel, good, partLabel), at)
	for i := range all {
		all[i].good = all[i].labels[partLabel] == "good"
		delete(all[i].labels, partLabel)
		all[i].group = "" // what is summed has no targets
	}
	return all, err
}

// readLatency reads the two buckets that count: the objective's and the last one. Exporters write a bound in
// different ways.
func (s *Source) readLatency(ctx context.Context, o Indicator, workloads []string, reach time.Duration, at time.Time, first bool) (seen, all []scraped, err error) {
	const metric = "istio_request_duration_milliseconds_bucket"
	bound := float64(o.Latency.Duration) / float64(time.Millisecond)
	plain := strconv.FormatFloat(bound, 'f', -1, 64)
	forms := []string{plain, strconv.FormatFloat(bound, 'g', -1, 64), strconv.FormatFloat(bound, 'e', -1, 64), "+Inf", "Inf"}
	if !strings.Contains(plain, ".") {
		forms = append(forms, plain+".0")
	}
	for i, form := range forms {
		forms[i] = strings.NewReplacer(".", `\.`, "+", `\+`).Replace(form)
	}
	slices.Sort(forms)
	selector := s.tracks(metric, s.side, workloads, fmt.Sprintf("le=~%q", strings.Join(slices.Compact(forms), "|")))
	if all, err = s.samples(ctx, selector, reach, at); err == nil && first {
		seen, err = s.last(ctx, selector, at)
	}
	if err != nil {
		return nil, nil, err
	}
	seen, all = once(seen), once(all)
	bounded := len(all) == 0
	for _, read := range [][]scraped{seen, all} {
		for i := range read {
			one := &read[i]
			le, err := strconv.ParseFloat(string(one.labels["le"]), 64)
			if err != nil {
				return nil, nil, fmt.Errorf("a histogram has bucket le=%q", one.labels["le"])
			}
			one.good = !math.IsInf(le, 1)
			one.track = max(0, slices.Index(workloads, string(one.labels["destination_workload"])))
			bounded = bounded || one.good
		}
	}
	if !bounded {
		return nil, nil, s.boundError(ctx, o, bound, workloads, at)
	}
	return seen, all, nil
}

// boundError says which bounds a histogram has.
func (s *Source) boundError(ctx context.Context, o Indicator, bound float64, workloads []string, at time.Time) error {
	vector, err := s.query(ctx, "count by (le) ("+s.tracks("istio_request_duration_milliseconds_bucket", s.side, workloads)+")", at)
	if err != nil {
		return err
	}
	var bounds []float64
	for _, one := range vector {
		if le, err := strconv.ParseFloat(string(one.Metric["le"]), 64); err == nil && !math.IsInf(le, 1) {
			bounds = append(bounds, le)
		}
	}
	slices.Sort(bounds)
	if slices.Contains(bounds, bound) { // it has arrived meanwhile
		return &DataError{NoData, fmt.Sprintf("%s: the buckets of its histogram are not complete yet", o.Name)}
	}
	return &usererr.Error{
		Field:   fmt.Sprintf("analysis.objectives: latency of %s", o.Name),
		Problem: fmt.Sprintf("%g ms is not a bucket bound of istio_request_duration_milliseconds", bound),
		Fix:     fmt.Sprintf("give one of its bounds (in milliseconds): %v", bounds),
	}
}

// last reads the series of a selector as they were last seen within lookback. When that was is unknown.
func (s *Source) last(ctx context.Context, selector string, at time.Time) ([]scraped, error) {
	all, err := s.values(ctx, `last_over_time(`+selector+`[`+lookback+`])`, at)
	for i := range all {
		all[i].samples[0].at = 0
	}
	return all, err
}

// values reads the value of a query.
func (s *Source) values(ctx context.Context, query string, at time.Time) ([]scraped, error) {
	vector, err := s.query(ctx, query, at)
	all := make([]scraped, 0, len(vector))
	for _, one := range vector {
		all = append(all, scraped{labels: one.Metric, key: series(one.Metric), group: target(one.Metric), samples: []sample{{one.Timestamp, float64(one.Value)}}})
	}
	return all, err
}

// doubledError says that every request is counted twice, if it is.
func doubledError(all []scraped) error {
	one, other := doubled(all)
	if one == nil {
		return nil
	}
	differ := func(labels model.Metric) (string, string) {
		for _, name := range targetLabels {
			if one[name] != other[name] {
				return string(name), fmt.Sprintf("%s=%q", name, labels[name])
			}
		}
		return "", ""
	}
	name, first := differ(one)
	_, second := differ(other)
	return &usererr.Error{
		Field:   "prometheus.matcher",
		Problem: fmt.Sprintf("each request is counted twice, by the series with %s and by those with %s: two %ss scrape the same proxies", first, second, name),
		Fix:     fmt.Sprintf("read one of them, with prometheus.matcher: '%s', or scrape each proxy once", first),
	}
}

// unattributed selects the errors of the Service's callers that belong to no workload. Istio's proxy reports a
// request for which it chose no endpoint (response flags UH, NC and NR) with destination_workload and
// destination_workload_namespace "unknown": it knows both from the endpoint. The Service it knows from the
// cluster of the route, so with UH destination_service_name and destination_service_namespace are right; with NC
// and NR there is no cluster. Those name the Service only when a sidecar reports them and the caller's host header
// is the Service's name; a gateway's have "unknown" there as well. A waypoint learns the workload from the answer, so
// it reports a request whose caller left before that in this way too. (istio/proxy at 9ba5437,
// extensions istio_stats.cc, populatePeerInfo; istio/istio 1.31, pilot/pkg/model/telemetry.go,
// disableHostHeaderFallback, and pilot/pkg/networking/core/cluster_builder.go, which gives the clusters of subsets
// the Service's metadata too.)
func (s *Source) unattributed() string {
	names := []string{}
	for _, service := range slices.Sorted(maps.Keys(s.of)) {
		names = append(names, s.hosts(service)...)
	}
	if s.service != "" {
		names = append(names, s.hosts(s.service)...)
	}
	for i := range names {
		names[i] = strings.ReplaceAll(names[i], ".", `\.`)
	}
	return s.selector("istio_requests_total", reportedBy(callersSide), `destination_workload="unknown"`,
		fmt.Sprintf("destination_service_name=~%q", `(`+strings.Join(names, "|")+`)(:[0-9]+)?`),
		fmt.Sprintf("destination_service_namespace=~%q", regexp.QuoteMeta(s.namespace)+"|unknown"))
}

// hosts are the names of a Service that a caller may use.
func (s *Source) hosts(service string) []string {
	return []string{service, service + "." + s.namespace, service + "." + s.namespace + ".svc", service + "." + s.namespace + ".svc.cluster.local"}
}

// trackOf is the workload whose own Service a request was to, of a request that no endpoint was chosen for; "" if both
// tracks have the Service.
func (s *Source) trackOf(labels model.Metric) string {
	name, _, _ := strings.Cut(string(labels["destination_service_name"]), ":")
	for service, workload := range s.of {
		if slices.Contains(s.hosts(service), name) {
			return workload
		}
	}
	return ""
}

// series names a series by its labels, without the metric's name: PromQL functions drop it.
func series(metric model.Metric) string {
	labels := metric.Clone()
	delete(labels, model.MetricNameLabel)
	return labels.String()
}

// grpcErrors are the gRPC status codes of server errors: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL,
// UNAVAILABLE and DATA_LOSS. They are those that OpenTelemetry's conventions call errors of a server
// (https://opentelemetry.io/docs/specs/semconv/rpc/grpc/, open-telemetry/opentelemetry-specification#3333); the
// table of google/rpc/code.proto maps them to 5xx, but for the unknown and the lost.
var grpcErrors = []string{"2", "4", "12", "13", "14", "15"}

// grpcClientErrors are all other codes but OK: 1 (the call was given up), INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS,
// PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE and UNAUTHENTICATED. The same
// conventions leave a server's span without an error for each of them, and google/rpc/code.proto maps each of them to
// 4xx (RESOURCE_EXHAUSTED to 429, ABORTED to 409, 1 to 499).
var grpcClientErrors = []string{"1", "3", "5", "6", "7", "8", "9", "10", "11", "16"}

// isError says whether a series counts server errors. Code 0 is a request without an answer. A gRPC call that fails
// has code 200 and its status beside it.
func isError(metric model.Metric) bool {
	code := string(metric["response_code"])
	return strings.HasPrefix(code, "5") || code == "0" || slices.Contains(grpcErrors, string(metric["grpc_response_status"])) && !unfinished(metric)
}

// dropped is the label without which nothing names the answer to the requests that a series counts; "" if something does. They
// would all be good. In Istio's own counters each request has a code, 0 if it had no answer, and each gRPC call with a code has a
// status: Envoy makes one of the code where the app gave none (istio/proxy, istio_stats.cc, IstioStatsFilter::log;
// envoyproxy/envoy, source/common/grpc/common.cc, getGrpcStatus).
func dropped(labels model.Metric) string {
	switch code := labels["response_code"]; {
	case isError(labels): // whatever else is missing
		return ""
	case code == "":
		return "response_code"
	case code != "0" && labels["request_protocol"] == "grpc" && labels["grpc_response_status"] == "":
		return "grpc_response_status"
	}
	return ""
}

// findUnnamed finds the requests whose answers nothing names. A series that does not grow matters to nothing: a proxy may keep one
// of before the label was back.
func (c *counting) findUnnamed() {
	if !slices.ContainsFunc(c.source.indicators, func(o Indicator) bool { return !o.paired() }) {
		return // nothing is judged by the answers
	}
	n, why := 0.0, ""
	for _, one := range slices.Concat(slices.Collect(maps.Values(c.requests.counters)), slices.Collect(maps.Values(c.unknown.counters))) {
		if label := dropped(one.labels); label != "" && one.grown > 0 {
			n += one.grown
			why = max(why, fmt.Sprintf("istio_requests_total of %s has no label %s, so nothing says which requests failed: "+
				"a Telemetry resource or the scrape configuration drops it", one.labels["destination_workload"], label))
		}
	}
	if n > c.unnamed.requests {
		c.unnamed = unnamed{n, c.at, c.named(), why}
	}
}

// named is how many requests of the first workload have answers that something names.
func (c *counting) named() (n float64) {
	for _, one := range c.requests.counters {
		if string(one.labels["destination_workload"]) == c.workloads[0] && dropped(one.labels) == "" {
			n += one.grown
		}
	}
	return n
}

// flagged says whether a series counts requests with one of some of Envoy's response flags.
func flagged(metric model.Metric, flags ...string) bool {
	return slices.ContainsFunc(strings.Split(string(metric["response_flags"]), ","), func(flag string) bool { return slices.Contains(flags, flag) })
}

// unfinished says whether a series counts gRPC calls that had no status when the caller left (DC) or the app's side cut the
// connection (UC, UR): Envoy makes UNKNOWN of the code 200 for them (source/common/grpc/common.cc, getGrpcStatus). Callers
// end streams in this way.
func unfinished(metric model.Metric) bool {
	return metric["response_code"] == "200" && metric["grpc_response_status"] == "2" && flagged(metric, "DC", "UC", "UR")
}

// callerLeft says whether a series counts requests whose caller went away before the answer (Envoy's response
// flag DC). They say nothing about the app.
func callerLeft(metric model.Metric) bool {
	return flagged(metric, "DC") && (metric["response_code"] == "0" || unfinished(metric))
}

// isClientError says whether a series counts answers that blame the caller: 4xx, or a gRPC code of that kind.
func isClientError(metric model.Metric) bool {
	return strings.HasPrefix(string(metric["response_code"]), "4") || slices.Contains(grpcClientErrors, string(metric["grpc_response_status"]))
}

// isCut says whether a series counts answers that had started and did not end: the upstream closed (UC) or reset (UR)
// the connection of a stream, a WebSocket or a download.
func isCut(metric model.Metric) bool {
	return !isError(metric) && flagged(metric, "UC", "UR")
}

// Requests reads all request counters of a workload, last seen within an hour, as one side of its calls reports
// them: "source|waypoint" is the callers' side, "destination" its own.
func (s *Source) Requests(ctx context.Context, side, workload string, at time.Time) (Series, error) {
	seen, err := s.last(ctx, s.requests(side, workload), at)
	if err != nil {
		return nil, err
	}
	all := Series{}
	for _, one := range once(seen) {
		all[one.key] = one.samples[0].value
	}
	return all, nil
}
