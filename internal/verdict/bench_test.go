package verdict

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/our-org/crossbill/internal/release"
)

var (
	benchReleases = flag.Int("verdict.releases", 60, "TestMethods: releases simulated for each cell")
	benchOut      = flag.String("verdict.json", "", "TestMethods: file for what it counts")
	benchDocs     = flag.String("verdict.docs", "", "TestMethods: folder for verdict.md and its plot")
)

const (
	canaryWeight = 0.1
	scrape       = 15.0 // seconds
)

// world is a release under judgment: its true error rates and its traffic.
type world struct {
	Scenario string
	Canary   func(at float64) float64 // share of bad events at a second
	Primary  func(at float64) float64
	Rate     float64 // requests a second, of the whole app
	Burst    float64 // mean number of events that go bad together; 1 is one by one
}

// events draws what a track is sent over some seconds.
func (w world) events(rng *rand.Rand, rate, seconds, share float64) Tally {
	exact := rate * seconds
	n := math.Floor(exact)
	if rng.Float64() < exact-n {
		n++
	}
	if w.Burst <= 1 {
		return Tally{n, draw(rng, int(n), share)}
	}
	bad := 0.0
	for range int(draw(rng, int(n), share/w.Burst)) {
		bad += 1 + math.Floor(math.Log(1-rng.Float64())/math.Log(1-1/w.Burst)) // geometric, of mean Burst
	}
	return Tally{n, math.Min(bad, n)}
}

// end is how a simulated release ended.
type end struct {
	outcome  release.VerdictOutcome
	seconds  float64
	requests float64 // the canary's
}

// method judges one release in a world.
type method struct {
	name  string
	judge func(w world, rng *rand.Rand) end
}

// crossbill judges at each scrape.
func crossbill(name string, test Test) method {
	return method{name, func(w world, rng *rand.Rand) end {
		s := test.Begin()
		requests := 0.0
		for at := scrape; ; at += scrape {
			middle := at - scrape/2
			pair := Pair{
				w.events(rng, w.Rate*canaryWeight, scrape, w.Canary(middle)),
				w.events(rng, w.Rate*(1-canaryWeight), scrape, w.Primary(middle)),
			}
			requests += pair.Canary.Events
			if j := s.Add(blockAt(at, pair)); j.Decided {
				return end{j.Outcome, at, requests}
			}
		}
	}}
}

// fixedWindow waits for five minutes and compares with 99%.
var fixedWindow = method{"fixed window, 5 min, 99%", func(w world, rng *rand.Rand) end {
	total := Tally{}
	for at := scrape; at <= 300; at += scrape {
		total = total.add(w.events(rng, w.Rate*canaryWeight, scrape, w.Canary(at-scrape/2)))
	}
	outcome := release.Healthy
	if total.Events == 0 || total.Share() > 0.01 {
		outcome = release.Unhealthy
	}
	return end{outcome, 300, total.Events}
}}

// flagger checks in each interval that 99% of the last interval's requests succeeded. As many failed checks as
// threshold roll back. Each passed check raises the weight by 10 points, and the canary passes at 50.
func flagger(name string, interval float64, threshold int) method {
	return method{name, func(w world, rng *rand.Rand) end {
		failed, weight, requests := 0, canaryWeight, 0.0
		for at := interval; ; at += interval {
			seen := w.events(rng, w.Rate*weight, interval, w.Canary(at-interval/2))
			requests += seen.Events
			switch {
			case seen.Events == 0 || seen.Share() > 0.01:
				if failed++; failed >= threshold {
					return end{release.Unhealthy, at, requests}
				}
			case weight >= 0.5-1e-9:
				return end{release.Healthy, at, requests}
			default:
				weight += 0.1
			}
		}
	}}
}

// argo measures in each interval whether 95% of the requests of the last scrape succeeded (its documented
// query takes irate); more than limit failed measurements roll back. The canary passes at the end of the
// documented steps: 20, 40, 60 and 80%, ten minutes each.
func argo(name string, interval float64, limit int) method {
	return method{name, func(w world, rng *rand.Rand) end {
		failed, requests := 0, 0.0
		for at := interval; at <= 2400; at += interval {
			weight := 0.2 * (1 + math.Floor((at-1)/600))
			requests += w.Rate * weight * interval
			seen := w.events(rng, w.Rate*weight, scrape, w.Canary(at-scrape/2))
			if seen.Share() > 0.05 {
				if failed++; failed > limit {
					return end{release.Unhealthy, at, requests}
				}
			}
		}
		return end{release.Healthy, 2400, requests}
	}}
}

// cell is a method in a world, over many releases.
type cell struct {
	Scenario          string  `json:"scenario"`
	Method            string  `json:"method"`
	CanaryErrorRate   float64 `json:"canaryErrorRate"`
	PrimaryErrorRate  float64 `json:"primaryErrorRate"`
	RequestsPerSecond float64 `json:"requestsPerSecond"`
	Truth             string  `json:"truth"`         // good, bad, or between: within the margin
	FalseRollback     float64 `json:"falseRollback"` // share of good canaries that were rolled back; 0 for others
	FalsePass         float64 `json:"falsePass"`     // share of bad canaries that passed; 0 for others
	RolledBack        float64 `json:"rolledBack"`
	Passed            float64 `json:"passed"`
	Inconclusive      float64 `json:"inconclusive"`
	MedianSeconds     float64 `json:"medianSeconds"`
	P95Seconds        float64 `json:"p95Seconds"`
	MedianRequests    float64 `json:"medianRequests"`
	MeanRequests      float64 `json:"meanRequests"`
	Since             float64 `json:"since"` // second from which MedianSeconds and P95Seconds count
	Releases          int     `json:"releases"`
	// Promised bounds Measured, the rate of wrong verdicts. Other methods promise none, nor does a test with errors in
	// larger bursts than it was made for.
	Promised *float64 `json:"promised"`
	Measured *float64 `json:"measured"`
	AtMost   *float64 `json:"atMost"` // upper bound of the true rate, at a confidence of 95%
	scene    bool
}

// simulate judges many releases; the seed is the cell's own.
func simulate(w world, m method, test Test, releases int) cell {
	name := fmt.Sprint(w.Scenario, m.name, w.Canary(0), w.Primary(0), w.Rate)
	seed := uint64(14695981039346656037) // FNV-1a
	for _, b := range []byte(name) {
		seed = (seed ^ uint64(b)) * 1099511628211
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	ends := make([]end, releases)
	count := map[release.VerdictOutcome]float64{}
	sum := 0.0
	for i := range ends {
		ends[i] = m.judge(w, rng)
		count[ends[i].outcome] += 1 / float64(releases)
		sum += ends[i].requests
	}
	at := func(share float64, of func(end) float64) float64 {
		slices.SortFunc(ends, func(a, b end) int { return int(math.Copysign(1, of(a)-of(b))) })
		return of(ends[int(share*float64(releases-1))])
	}
	seconds, requests := func(e end) float64 { return e.seconds }, func(e end) float64 { return e.requests }
	c := cell{
		Scenario: w.Scenario, Method: m.name, CanaryErrorRate: w.Canary(0), PrimaryErrorRate: w.Primary(0), RequestsPerSecond: w.Rate,
		RolledBack: count[release.Unhealthy], Passed: count[release.Healthy], Inconclusive: count[release.Inconclusive],
		MedianSeconds: at(0.5, seconds), P95Seconds: at(0.95, seconds), MedianRequests: at(0.5, requests), MeanRequests: sum / float64(releases),
		Releases: releases,
	}
	o := test.Objectives[0]
	switch canary, primary := w.Canary(0), w.Primary(0); {
	case canary <= max(o.Budget, primary):
		c.Truth, c.FalseRollback = "good", c.RolledBack
	case canary >= min(o.Budget, primary)+o.Margin:
		c.Truth, c.FalsePass = "bad", c.Passed
	default:
		c.Truth = "between"
	}
	return c
}

func always(share float64) func(float64) float64 { return func(float64) float64 { return share } }

var (
	errorRates   = []float64{0.001, 0.01, 0.02, 0.05, 0.2, 1}
	requestRates = []float64{5, 50, 500}
)

// TestMethods simulates releases under each method. In its long form (make verdict-bench) it writes
// the tables and the plot of docs/verdict.md.
func TestMethods(t *testing.T) {
	test := DefaultSLO().Test()
	test.Objectives = test.Objectives[:1]
	methods := []method{
		crossbill("Crossbill", test), fixedWindow,
		flagger("Flagger, 1 min, 5 failed checks", 60, 5), flagger("Flagger, 30 s, 2 failed checks", 30, 2),
		argo("Argo Rollouts, 5 min, 3 failures allowed", 300, 3), argo("Argo Rollouts, 20 s, none allowed", 20, 0),
	}
	type job struct {
		w world
		m method
		s *scene // instead of the two
	}
	var jobs []job
	for _, errors := range errorRates {
		w := world{Scenario: "steady", Canary: always(errors), Primary: always(0.001), Burst: 1}
		for _, w.Rate = range requestRates {
			for _, m := range methods {
				jobs = append(jobs, job{w: w, m: m})
			}
		}
	}
	tide := func(at float64) float64 { return 0.001 + 0.00005*at }
	outage := func(at float64) float64 {
		if at >= 30 && at < 120 {
			return 0.2
		}
		return 0.001
	}
	for _, w := range []world{
		{"both tracks at 5%", always(0.05), always(0.05), 50, 1},
		{"an outage that both tracks have, from 30 s to 120 s", outage, outage, 50, 1},
		{"errors of both tracks rise to 4.6% in 15 min", tide, tide, 50, 1},
		{"worse than a primary that is bad itself (25% to 5%)", always(0.25), always(0.05), 50, 1},
	} {
		for _, m := range methods[:4] {
			jobs = append(jobs, job{w: w, m: m})
		}
	}
	for _, burst := range []float64{2, 5, 20} {
		robust, cautious := test, test
		robust.Burst, cautious.Burst = burst, 2*burst
		for _, errors := range []float64{0.001, 0.05} {
			w := world{fmt.Sprintf("errors in bursts of %g on average", burst), always(errors), always(0.001), 50, burst}
			jobs = append(jobs, job{w: w, m: crossbill("Crossbill", test)}, job{w: w, m: crossbill(fmt.Sprintf("Crossbill with burst: %g", burst), robust)}, job{w: w, m: crossbill(fmt.Sprintf("Crossbill with burst: %g", 2*burst), cautious)})
		}
	}

	for _, s := range scenes() {
		jobs = append(jobs, job{s: &s})
	}
	cells := make([]cell, len(jobs))
	slots := make(chan struct{}, runtime.NumCPU())
	var all sync.WaitGroup
	for i, j := range jobs {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if j.s != nil {
				cells[i] = cellOf(*j.s, *benchReleases)
				return
			}
			cells[i] = simulate(j.w, j.m, test, *benchReleases)
			if j.m.name == "Crossbill" && j.w.Burst <= 1 {
				cells[i] = cells[i].promise(test)
			}
		})
	}
	all.Wait()
	broken := []string{}
	for _, c := range cells {
		t.Logf("%-50s %-42s %6.3f %6.3f %4g req/s  %-7s rolled back %.4f passed %.4f  median %5.0f s, %6.0f requests (p95 %5.0f s)", c.Scenario, c.Method, c.CanaryErrorRate, c.PrimaryErrorRate, c.RequestsPerSecond, c.Truth, c.RolledBack, c.Passed, c.MedianSeconds, c.MedianRequests, c.P95Seconds)
		if c.broken() {
			broken = append(broken, fmt.Sprintf("%s, %s, %g requests/s, %g against %g: %.4f, promised %.4f", c.Scenario, c.Method, c.RequestsPerSecond, c.CanaryErrorRate, c.PrimaryErrorRate, *c.Measured, *c.Promised))
		}
	}
	for _, cell := range broken {
		t.Error(cell)
	}
	var distances []distance
	if *benchOut != "" || *benchDocs != "" {
		distances = measured()
	}
	if *benchOut != "" {
		text, err := json.MarshalIndent(map[string]any{"releases": *benchReleases, "falseRollback": test.FalseRollback, "falsePass": test.FalsePass, "weight": canaryWeight, "scrapeSeconds": scrape, "command": "make verdict-bench", "broken": broken, "cells": cells, "distances": distances}, "", "  ")
		if err == nil {
			err = os.MkdirAll(filepath.Dir(*benchOut), 0o755)
		}
		if err == nil {
			err = os.WriteFile(*benchOut, append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if *benchDocs != "" {
		if err := document(*benchDocs, cells, distances, test); err != nil {
			t.Fatal(err)
		}
	}
}
