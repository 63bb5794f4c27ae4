package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/our-org/crossbill/rehearsal/load"
)

// record is what came of one release.
type record struct {
	Scenario string `json:"scenario"`
	systemID
	Run               int     `json:"run"`
	Outcome           string  `json:"outcome"`
	Right             bool    `json:"right"`
	SecondsToDecision float64 `json:"secondsToDecision"` // 0: there was none
	SecondsToRest     float64 `json:"secondsToRest"`     // 0: it did not come to rest
	Requests          int     `json:"requests"`          // of callers, from the release's start until it was at rest
	Lost              int     `json:"lost"`
	Exposed           int     `json:"exposed"`
	WrongVersion      int     `json:"wrongVersion"`
	APIReads          int     `json:"apiReads"`
	APIWrites         int     `json:"apiWrites"`
	MemoryMiB         float64 `json:"memoryMiB"`
	Restarts          int     `json:"controllerEndedByItself,omitempty"`
	Apps              int     `json:"apps,omitempty"` // of a fleet
}

func (r *record) String() string {
	return fmt.Sprintf("%s: %s%s, decided after %.1f s, at rest after %.1f s; of %d requests %d lost, %d bad answers, %d of a wrong version; %d+%d API requests, %.0f MiB",
		r.systemID, r.Outcome, map[bool]string{false: " (WRONG)"}[r.Right], r.SecondsToDecision, r.SecondsToRest, r.Requests, r.Lost, r.Exposed, r.WrongVersion, r.APIReads, r.APIWrites, r.MemoryMiB)
}

// What is looked at, and when.
const (
	warmTraffic = 5 * time.Second // before the release, so that there are counters to begin with
	afterRest   = 5 * time.Second // in which the wrong version is looked for
	// rerouted is how long a change of the route may take to reach the gateway; facts of the rehearsal say under 1 s.
	rerouted   = time.Second
	outageFor  = time.Minute
	killAfter  = 2 * time.Second
	secondFrom = 10 * time.Second
)

// times are the moments of one release.
type times struct {
	asked   time.Time
	decided time.Time
	off     time.Time // the route gave the new version nothing any more
	rest    time.Time
	end     time.Time
}

// play releases an app once, under traffic, and says what came of it.
func (a *app) play(ctx context.Context, ready *barrier) (*record, error) {
	l := a.lane
	err := l.system.install(ctx, a)
	if err == nil {
		err = a.serves(ctx)
	}
	ready.come()
	if err != nil {
		return nil, fmt.Errorf("its first version: %w", err)
	}
	ready.wait(ctx)
	rate := l.Rate
	if a.s.Rate > 0 {
		rate = a.s.Rate
	}
	traffic := load.Start("http://"+l.cluster.GatewayAddress+"/", a.host, rate)
	defer traffic.Stop()
	if err := pause(ctx, warmTraffic); err != nil {
		return nil, err
	}
	if a.s.autoscaled {
		if err := a.scaled(ctx); err != nil {
			return nil, err
		}
	}
	memory := l.measureMemory()
	restarts := l.controller.restarts()
	t := times{asked: time.Now()}
	if a.s.second {
		a.latest = l.images["three"]
	} else {
		a.latest = l.images[a.s.Image]
	}
	if err := l.system.release(ctx, a, l.images[a.s.Image]); err != nil {
		return nil, err
	}
	outcome, err := a.follow(ctx, &t)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, afterRest); err != nil {
		return nil, err
	}
	t.end = time.Now()
	traffic.Stop()
	answers := traffic.Answers(t.asked, t.end)
	if err := a.keepLost(&t, answers); err != nil {
		return nil, err
	}
	r := a.s.judge(outcome, t, answers)
	r.systemID = l.id
	until := t.rest
	if until.IsZero() {
		until = t.end
	}
	r.APIReads, r.APIWrites = l.audit.count(l.namespace, agents[l.id.Name], t.asked, until)
	if r.APIReads+r.APIWrites == 0 {
		return nil, fmt.Errorf("the audit log has no request of %s in %s", agents[l.id.Name], l.namespace)
	}
	r.MemoryMiB = memory()
	r.Restarts = l.controller.restarts() - restarts
	return r, nil
}

// follow looks at a release until it is at rest, and does what the scenario has happen meanwhile.
func (a *app) follow(ctx context.Context, t *times) (string, error) {
	l := a.lane
	tick := time.NewTicker(a.s.pollEvery())
	defer tick.Stop()
	var had, killed, asked bool // a share of the traffic; by the scenario
	var failing error
	ended := undecided
	for deadline := t.asked.Add(a.s.bound(l.id)); time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
		now, err := l.system.look(ctx, a)
		if err != nil {
			if failing = err; ctx.Err() != nil {
				return "", ctx.Err()
			}
			continue
		}
		failing = nil
		if ended = undecided; now.pass {
			ended = stuck
		}
		if now.share > 0 {
			if !had && a.s.outage {
				l.faults.set(a.name, 5)
				time.AfterFunc(outageFor, func() { l.faults.set(a.name, 0) })
			}
			had, t.off = true, time.Time{}
		}
		if had && now.share == 0 && t.off.IsZero() && !now.pass {
			t.off = time.Now()
		}
		if t.decided.IsZero() && (now.pass || now.fail) && !a.s.second {
			t.decided = time.Now()
		}
		if a.s.kill && now.pass && !killed && time.Since(t.decided) > killAfter {
			killed = true
			if err := l.system.kill(ctx, a); err != nil {
				return "", err
			}
		}
		if a.s.second && !asked && time.Since(t.asked) > secondFrom {
			asked = true
			if err := l.system.release(ctx, a, l.images["three"]); err != nil {
				return "", err
			}
			continue
		}
		if now.final == "" || a.s.second && !asked || a.s.kill && now.final == promoted && !killed {
			continue
		}
		pods, err := a.pods(ctx)
		if err != nil {
			failing = err
			continue
		}
		if outcome := a.outcome(now.final, pods); outcome != "" {
			t.rest = time.Now()
			return outcome, nil
		}
	}
	if failing != nil {
		return "", failing
	}
	return ended, nil
}

// outcome is what an app's pods have come to; "" while they are not at rest.
func (a *app) outcome(final string, pods []corev1.Pod) string {
	images := map[string]string{promoted: a.latest, rolledBack: a.lane.images["one"]}
	if a.atRest(pods, images[final]) {
		return final
	}
	return ""
}

// keepLost adds what became of each lost request to the logs, so that a loss can be explained.
func (a *app) keepLost(t *times, answers []load.Answer) error {
	var b strings.Builder
	for _, answer := range answers {
		if answer.Lost() {
			fmt.Fprintf(&b, "%s %s: %.1f s after it was asked for: %s, after %s\n", answer.Sent.Format("15:04:05.000"), a.name,
				answer.Sent.Sub(t.asked).Seconds(), answer.Problem, answer.Latency.Round(time.Millisecond))
		}
	}
	if b.Len() == 0 {
		return nil
	}
	return appendTo(filepath.Join(a.lane.cluster.Logs(), "lost-"+a.lane.namespace+".log"), b.String())
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// judge holds what callers got against what is right.
func (s scenario) judge(outcome string, t times, answers []load.Answer) *record {
	r := &record{Scenario: s.Name, Outcome: outcome, Right: outcome == s.Right || s.Right == either && (outcome == promoted || outcome == rolledBack)}
	seconds := func(at time.Time) float64 {
		if at.IsZero() {
			return 0
		}
		return at.Sub(t.asked).Round(100 * time.Millisecond).Seconds()
	}
	r.SecondsToDecision, r.SecondsToRest = seconds(t.decided), seconds(t.rest)
	before, after := s.versions()
	for _, answer := range answers {
		counted := t.rest.IsZero() || answer.Sent.Before(t.rest)
		if counted {
			r.Requests++
		}
		version := s.versionOf(answer)
		switch {
		case answer.Lost():
			r.Lost++
		case version == after && s.Right != promoted && s.unwanted(answer):
			r.Exposed++
		}
		if answer.Lost() {
			continue
		}
		late := func(from time.Time) bool { return !from.IsZero() && answer.Sent.After(from.Add(rerouted)) }
		switch {
		case outcome == promoted && late(t.rest) && version != after,
			outcome == rolledBack && late(t.rest) && version != before,
			outcome == rolledBack && late(t.off) && version == after:
			r.WrongVersion++
		}
	}
	return r
}
