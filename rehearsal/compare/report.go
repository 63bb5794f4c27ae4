package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// report is compare.json.
type report struct {
	SchemaVersion int `json:"schemaVersion"`
	invocation
	Earlier           []invocation       `json:"addedTo,omitempty"` // whose releases are here too, the first one first
	RequestsPerSecond int                `json:"requestsPerSecond"`
	Facts             facts              `json:"machine"`
	Writes            map[string]written `json:"userWrites"` // by system and configuration
	Scenarios         []summary          `json:"scenarios"`
	Missing           map[string]string  `json:"systemsLeftOut,omitempty"`
	Renewed           map[string]string  `json:"renewed,omitempty"` // by scenario that was run again: the version of Crossbill in it
	Left              []string           `json:"notDone,omitempty"` // for want of time
	Records           []record           `json:"releases"`

	started time.Time
	runs    map[string]int // of earlier invocations, by scenario
}

// invocation is one call of the command.
type invocation struct {
	Date       string  `json:"date"`
	Command    string  `json:"command"`
	Minutes    float64 `json:"minutes"` // that it took
	SideBySide int     `json:"sideBySide"`
	Releases   int     `json:"releaseCount"`
}

// summary is a scenario with what each system came to.
type summary struct {
	Name    string   `json:"name"`
	What    string   `json:"what"`
	Right   string   `json:"rightOutcome"`
	Results []result `json:"results"`
}

// result is what the releases of a system came to in a scenario.
type result struct {
	systemID
	Runs              int            `json:"runs"`
	Right             int            `json:"right"`
	Outcomes          map[string]int `json:"outcomes"`
	SecondsToDecision *spread        `json:"secondsToDecision"` // null: never
	SecondsToRest     *spread        `json:"secondsToRest"`
	Lost              *spread        `json:"lost"`
	Exposed           *spread        `json:"exposed"`
	WrongVersion      *spread        `json:"wrongVersion"`
	APIRequests       *spread        `json:"apiRequests"`
	MemoryMiB         *spread        `json:"memoryMiB"`
	// Ratios are medians of what a release took, divided by what Crossbill's took beside it.
	Ratios map[string]float64 `json:"ratiosToCrossbill,omitempty"`
	Ended  int                `json:"controllerEndedByItself,omitempty"`
	Apps   int                `json:"apps,omitempty"` // that were released at once
}

// spread is a median with its range.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func newReport(o *options) report {
	r := report{
		SchemaVersion: 1, invocation: invocation{Date: o.Started.UTC().Format("2006-01-02 15:04 MST"), Command: o.Command, SideBySide: o.Side}, RequestsPerSecond: o.Rate,
		Facts: o.Facts, Writes: map[string]written{}, Missing: o.Left, started: o.Started,
	}
	for _, id := range systems {
		if w, err := writes(id, o.Facts.Init); err == nil {
			r.Writes[id.String()] = w
		}
	}
	return r
}

func readReport(file string) (report, error) {
	var r report
	text, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// plus is a report that goes on from an earlier one. Figures of other versions, of another machine, or under another load are no
// more runs of the same. Of the scenarios that are renewed, which may be with another Crossbill, the earlier figures are left out.
func (r report) plus(earlier report, renewed ...string) (report, error) {
	var differ []string
	say := func(what string, before, now any) {
		if before != now {
			differ = append(differ, fmt.Sprintf("%s (%v there, %v now)", what, before, now))
		}
	}
	say("the machine", earlier.Facts.Machine, r.Facts.Machine)
	say("its processor", earlier.Facts.Processor, r.Facts.Processor)
	say("its system", earlier.Facts.System, r.Facts.System)
	say("the requests per second", earlier.RequestsPerSecond, r.RequestsPerSecond)
	all := maps.Clone(earlier.Facts.Versions)
	if all == nil {
		all = map[string]string{}
	}
	for name, version := range r.Facts.Versions {
		if all[name] == "" { // it was left out there
			all[name] = version
		}
	}
	own := r.Facts.Versions[ours]
	for _, name := range slices.Sorted(maps.Keys(r.Facts.Versions)) {
		if name == ours && len(renewed) > 0 {
			continue
		}
		say("the version of "+name, all[name], r.Facts.Versions[name])
	}
	if len(differ) > 0 {
		return r, fmt.Errorf("its figures cannot be added up with these, because of %s", strings.Join(differ, ", "))
	}
	r.Facts.Versions = all
	if len(earlier.Earlier) == 0 {
		earlier.Releases = len(earlier.Records)
	}
	r.Earlier = append(slices.Clone(earlier.Earlier), earlier.invocation)
	r.Records = slices.DeleteFunc(slices.Clone(earlier.Records), func(one record) bool { return slices.Contains(renewed, one.Scenario) })
	r.Renewed = maps.Clone(earlier.Renewed)
	for _, name := range renewed {
		if r.Renewed == nil {
			r.Renewed = map[string]string{}
		}
		r.Renewed[name] = own
	}
	r.runs = map[string]int{}
	for _, one := range r.Records {
		r.runs[one.Scenario] = max(r.runs[one.Scenario], one.Run)
	}
	return r, nil
}

// add adds what this invocation has measured.
func (r *report) add(records ...record) {
	for _, one := range records {
		one.Run += r.runs[one.Scenario]
		r.Records = append(r.Records, one)
		r.Releases++
	}
}

// short says what is wrong after a short run.
func (r *report) short() error {
	own := r.of(shortScenario, systems[0])
	if len(own) != 1 {
		return fmt.Errorf("%s: Crossbill's release was not measured", shortScenario)
	}
	if one := own[0]; !one.Right {
		return fmt.Errorf("%s: %s", shortScenario, &one)
	}
	return nil
}

// fields are those of a record that are compared.
var fields = map[string]func(record) float64{
	"secondsToDecision": func(r record) float64 { return r.SecondsToDecision },
	"secondsToRest":     func(r record) float64 { return r.SecondsToRest },
	"lost":              func(r record) float64 { return float64(r.Lost) },
	"exposed":           func(r record) float64 { return float64(r.Exposed) },
	"wrongVersion":      func(r record) float64 { return float64(r.WrongVersion) },
	"apiRequests":       func(r record) float64 { return float64(r.APIReads + r.APIWrites) },
	"memoryMiB":         func(r record) float64 { return r.MemoryMiB },
}

// summarize makes the scenarios of the records.
func (r *report) summarize() {
	r.Scenarios = nil
	for _, s := range append(slices.Clone(scenarios), fleet) {
		sum := summary{Name: s.Name, What: s.What, Right: s.Right}
		for _, id := range systems {
			if one := r.result(s.Name, id); one.Runs > 0 {
				sum.Results = append(sum.Results, one)
			}
		}
		if len(sum.Results) > 0 {
			r.Scenarios = append(r.Scenarios, sum)
		}
	}
}

// of are the records of a system in a scenario.
func (r *report) of(scenario string, id systemID) (own []record) {
	for _, one := range r.Records {
		if one.Scenario == scenario && one.systemID == id {
			own = append(own, one)
		}
	}
	return own
}

func (r *report) result(scenario string, id systemID) result {
	own := r.of(scenario, id)
	all := result{systemID: id, Runs: len(own), Outcomes: map[string]int{}}
	for _, one := range own {
		all.Outcomes[one.Outcome]++
		all.Ended += one.Restarts
		all.Apps = max(all.Apps, one.Apps)
		if one.Right {
			all.Right++
		}
	}
	happened := func(field string) *spread { // without those releases to which it did not happen
		return spreadOf(own, fields[field], func(v float64) bool { return v > 0 })
	}
	counted := func(field string) *spread { return spreadOf(own, fields[field], func(float64) bool { return true }) }
	all.SecondsToDecision, all.SecondsToRest = happened("secondsToDecision"), happened("secondsToRest")
	all.Lost, all.Exposed, all.WrongVersion = counted("lost"), counted("exposed"), counted("wrongVersion")
	all.APIRequests, all.MemoryMiB = happened("apiRequests"), counted("memoryMiB") // without any, they were not counted
	if id.Name != ours {
		all.Ratios = r.ratios(scenario, own)
	}
	return all
}

// ratios compares releases with those of Crossbill beside them, in the same run, where both were right.
func (r *report) ratios(scenario string, own []record) map[string]float64 {
	beside := map[int]record{}
	for _, one := range r.of(scenario, systems[0]) {
		beside[one.Run] = one
	}
	found := map[string]float64{}
	for name, value := range fields {
		var all []float64
		for _, one := range own {
			if base, ok := beside[one.Run]; ok && one.Config == tight && one.Right && base.Right && value(base) > 0 && value(one) > 0 {
				all = append(all, value(one)/value(base))
			}
		}
		if len(all) > 0 {
			found[name] = round(median(all), 2)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found
}

func spreadOf(records []record, value func(record) float64, counts func(float64) bool) *spread {
	var all []float64
	for _, one := range records {
		if v := value(one); counts(v) {
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return &spread{round(median(all), 1), round(slices.Min(all), 1), round(slices.Max(all), 1)}
}

// median of values of which there is at least one.
func median(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

func round(v float64, digits int) float64 {
	scale := 1.0
	for range digits {
		scale *= 10
	}
	return float64(int64(v*scale+0.5)) / scale
}

func (r *report) json() ([]byte, error) {
	r.Minutes = round(time.Since(r.started).Minutes(), 1)
	r.summarize()
	text, err := json.MarshalIndent(r, "", "  ")
	return append(text, '\n'), err
}

// summary is for the terminal.
func (r *report) summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-28s %-20s %9s %10s %9s %6s %8s\n", "scenario", "system", "right", "decided", "at rest", "lost", "exposed")
	for _, s := range r.Scenarios {
		for _, one := range s.Results {
			fmt.Fprintf(&b, "%-28s %-20s %4d of %d %9s %9s %6s %8s\n", s.Name, one.systemID, one.Right, one.Runs, one.SecondsToDecision.middle(), one.SecondsToRest.middle(), one.Lost.middle(), one.Exposed.middle())
		}
	}
	if len(r.Left) > 0 {
		fmt.Fprintf(&b, "not done for want of time:\n  %s\n", strings.Join(r.Left, "\n  "))
	}
	return b.String()
}

func (s *spread) middle() string {
	if s == nil {
		return "-"
	}
	return number(s.Median)
}

// number is a figure as a person reads it.
func number(v float64) string {
	if v == float64(int64(v)) || v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// fleet releases many apps at once, one system after the other.
func (r *arena) fleet(ctx context.Context) error {
	for _, id := range r.options.systems() {
		if id.Config != tight || r.options.Left[id.Name] != "" {
			continue
		}
		expected := 3*time.Minute + time.Duration(r.Fleet)*2*time.Second
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < expected {
			r.mu.Lock()
			r.report.Left = append(r.report.Left, fleet.Name+": "+id.String())
			r.mu.Unlock()
			continue
		}
		l, err := r.newLane(ctx, id, "fleet")
		if err != nil {
			return err
		}
		r.logf("%s: %s starts", fleet.Name, id)
		one, err := r.releaseFleet(ctx, l)
		l.close()
		if err != nil {
			r.logf("%s: %s: not measured: %v", fleet.Name, id, err)
			continue
		}
		r.logf("%s: %s", fleet.Name, one)
		r.mu.Lock()
		r.report.add(*one)
		err = r.write()
		r.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// releaseFleet is one record of all: the slowest app's times, and sums.
func (r *arena) releaseFleet(ctx context.Context, l *lane) (*record, error) {
	ready := newBarrier(r.Fleet)
	apps, records, errs := make([]*app, r.Fleet), make([]*record, r.Fleet), make([]error, r.Fleet)
	var group sync.WaitGroup
	memory := l.measureMemory()
	for i := range apps {
		apps[i] = l.newApp(fleet)
		group.Go(func() { records[i], errs[i] = apps[i].play(ctx, ready) })
	}
	group.Wait()
	all := &record{Scenario: fleet.Name, systemID: l.id, Run: 1, Outcome: promoted, Right: true, MemoryMiB: memory()}
	failed := 0
	for i, one := range records {
		if errs[i] != nil {
			failed++
			continue
		}
		all.Apps++
		all.SecondsToDecision, all.SecondsToRest = max(all.SecondsToDecision, one.SecondsToDecision), max(all.SecondsToRest, one.SecondsToRest)
		all.Requests, all.Lost, all.Exposed, all.WrongVersion = all.Requests+one.Requests, all.Lost+one.Lost, all.Exposed+one.Exposed, all.WrongVersion+one.WrongVersion
		all.MemoryMiB = max(all.MemoryMiB, one.MemoryMiB)
		if !one.Right {
			all.Right, all.Outcome = false, mixed
		}
	}
	<-ready.all
	all.APIReads, all.APIWrites = l.audit.count(l.namespace, agents[l.id.Name], ready.since.Add(warmTraffic), time.Now())
	all.Restarts = l.controller.restarts()
	removing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
	defer cancel()
	for _, a := range apps {
		group.Go(func() { _ = a.remove(removing) })
	}
	group.Wait()
	if failed > 0 {
		return nil, fmt.Errorf("%d of %d apps could not be released: %w", failed, len(apps), firstOf(errs))
	}
	return all, ctx.Err()
}

func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
