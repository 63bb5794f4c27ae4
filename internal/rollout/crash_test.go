package rollout_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

var everyWrite = flag.Bool("every-write", false, "tests of crashes and of fences: each fault meets every write of every case, with both routers")

// ordeal is a fault that meets one write of a command, and the way out of it.
type ordeal struct {
	fault fault
	out   string
	write int
}

// ordeals are those of the i-th command, which makes so many writes and has so many ways out of a fault that stops it. In the
// long form every fault meets every write. In the short one each command dies or is refused once, and every other meets a fault that
// passes: commands take turns with faults and ways out, beside the turns of byTurns with the routers, and draw the write.
func ordeals(i, writes int, outs []string) (all []ordeal) {
	passing, stopping := []fault{never, silent, outdated}, []fault{dies, refused}
	if !*everyWrite {
		draw := rand.New(rand.NewPCG(uint64(i), 5))
		all = append(all, ordeal{stopping[i/2%2], outs[i/4%len(outs)], 1 + draw.IntN(writes)})
		if i%4 == 0 || i%4 == 3 {
			all = append(all, ordeal{passing[i/2%3], "resume", 1 + draw.IntN(writes)})
		}
		return all
	}
	for n := 1; n <= writes; n++ {
		for _, f := range passing {
			all = append(all, ordeal{f, "resume", n})
		}
		for _, f := range stopping {
			for _, out := range outs {
				all = append(all, ordeal{f, out, n})
			}
		}
	}
	return all
}

// strides say which writes of a command meet a fault: the first, and then every so many-th.
func strides(f fault) (first, stride int) {
	if *everyWrite {
		return 1, 1
	}
	switch f {
	case never:
		return 1, 9
	case silent:
		return 4, 9
	case outdated:
		return 7, 9
	}
	return 1, 2
}

// crashCase is a command at a stage, and the image that primary has in the end.
type crashCase struct{ stage, command, end string }

// crashes are the commands whose every write is made to fail, each from a stage, and the image that primary has when
// the release ends well from there.
var crashes = []crashCase{
	{"new", "canary", "2"},
	{"foreign", "canary", "2"},
	{"rest", "sticky", "2"},
	{"rest", "match", "2"},
	{"foreign", "mirror", "2"},
	{"matched", "shift", "2"},
	{"mirrored", "shift", "2"},
	{"matched", "rollback", "1"},
	{"mirrored", "rollback", "1"},
	{"mirrored healthy", "promote", "2"},
	{"mirrored healthy", "promote under traffic", "2"},
	{"mirrored", "guard", "1"},
	{"canary", "shift", "2"},
	{"canary", "verify healthy", "2"},
	{"planned next", "step", "2"},
	{"planned half taken", "step", "2"},
	{"planned half taken", "rollback", "1"},
	{"healthy", "promote", "2"},
	{"healthy", "promote a Service", "2"},
	{"healthy", "promote under traffic", "2"},
	{"promoted", "cleanup", "2"},
	{"promoted", "guard", "2"},
	{"started", "rollback", "1"},
	{"canary", "rollback", "1"},
	{"sticky", "rollback", "1"},
	{"promoting", "rollback", "1"},
	{"promoted", "rollback", "1"},
	{"promoted with a Service", "rollback", "1"},
	{"moving", "rollback", "1"},
	{"rolling", "rollback", "1"},
	{"rolled", "rollback", "1"},
	{"canary", "guard", "1"},
	{"rest", "canary beside a baseline", "2"},
	{"beside half", "canary beside a baseline", "2"},
	{"beside half", "rollback", "1"},
	{"beside", "shift", "2"},
	{"beside", "rollback", "1"},
	{"beside", "guard", "1"},
	{"beside healthy", "promote", "2"},
	{"beside healthy", "promote under traffic", "2"},
	{"beside moving", "rollback", "1"},
	{"beside promoting", "rollback", "1"},
	{"beside promoted", "cleanup", "2"},
	{othersApp + "new", "canary", "2"},
	{othersApp + "rest", "canary", "2"},
	{othersApp + "healthy", "promote", "2"},
	{othersApp + "healthy", "promote under traffic", "2"},
	{othersApp + "started", "rollback", "1"},
	{othersApp + "canary", "rollback", "1"},
	{othersApp + "promoting", "rollback", "1"},
	{othersApp + "promoted", "rollback", "1"},
	{othersApp + "promoted", "cleanup", "2"},
	{othersApp + "canary", "guard", "1"},
	{"unhealthy", "guard early", "1"},
	{"rolling_back", "guard early", "1"},
	{"promoted in the mesh", "cleanup warm", "2"},
	{"warm", "return", "1"},
	{"ended", "return", "1"},
	{"next", "return", "1"},
	{"next healthy, promoted", "return", "1"},
	{"returning", "return", "1"},
	{"returning", "rollback", "2"},
	{"returning to primary", "rollback", "2"},
	{"returning to primary", "return", "1"},
	{"returning to primary", "guard", "2"},
	{"returned", "return", "1"},
	{"returned", "guard", "1"},
	{"returned", "rollback", "2"},
	{configuredApp + "new", "canary", "2"},
	{configuredApp + "rest", "canary", "2"},
	{configuredApp + "canary", "shift", "2"},
	{configuredApp + "healthy", "promote", "2"},
	{configuredApp + "healthy", "promote under traffic", "2"},
	{configuredApp + "promoted", "cleanup", "2"},
	{configuredApp + "promoted", "guard", "2"},
	{configuredApp + "started", "rollback", "1"},
	{configuredApp + "canary", "rollback", "1"},
	{configuredApp + "promoting", "rollback", "1"},
	{configuredApp + "promoted", "rollback", "1"},
	{configuredApp + "moving", "rollback", "1"},
	{configuredApp + "rolling", "rollback", "1"},
	{configuredApp + "canary", "guard", "1"},
	{configuredApp + "ended", "return", "1"},
	{configuredApp + "next", "return", "1"},
	{configuredApp + "returning", "rollback", "2"},
	{configuredApp + "returning to primary", "return", "1"},
	{configuredApp + "returning to primary", "rollback", "2"},
	{configuredApp + "returned", "rollback", "2"},
	{configuredApp + "promoted in the mesh", "cleanup warm", "2"},
	{configuredApp + "warm", "return", "1"},
}

// TestCrashes lets writes of every command fail in each way. A fault that passes does not show. After any other
// the same command finishes the work, or a rollback leads back (invariants 5 and 6); the observer checks the
// other invariants at each change.
func TestCrashes(t *testing.T) {
	var mu sync.Mutex
	cases, met := 0, map[string]map[ordeal]int{"Istio": {}, "the Gateway API": {}}
	t.Run("matrix", func(t *testing.T) {
		for i, c := range byTurns(crashes, func(c *crashCase) *string { return &c.stage }, func(c *crashCase) string { return c.command }) {
			outs := []string{"resume", "rollback"}
			if c.command == "rollback" || c.command == "cleanup" || strings.HasPrefix(c.command, "guard") {
				outs = outs[:1] // nothing is left to roll back, or it is the same
			}
			router := "Istio"
			if _, gateway := byGateway(c.stage); gateway {
				router = "the Gateway API"
			}
			t.Run(c.command+" at "+c.stage, func(t *testing.T) {
				t.Parallel()
				alone := withoutFault(t, c.stage, c.command)
				for _, o := range ordeals(i, alone.writes, outs) {
					at(t, c.stage, func(w *world) { w.crash(c.command, c.end, alone.changes, o.fault, o.write, o.out) })
					mu.Lock()
					cases++
					met[router][ordeal{fault: o.fault, out: o.out}]++
					mu.Unlock()
					if t.Failed() {
						return
					}
				}
			})
		}
	})
	t.Logf("%d cases: %v", cases, met)
	if len(met["Istio"]) != 7 || len(met["the Gateway API"]) != 7 || cases < 150 {
		t.Errorf("only %d cases, of %v", cases, met)
	}
}

// courseOf is what a command does at a stage without a fault.
type courseOf struct {
	changes string
	writes  int
	effects []effect // its own, or Flux's of its commits
}

// courses are those that are known, by stage and command.
var courses sync.Map // of func(*testing.T) courseOf

// withoutFault runs a command at a stage, once for all tests.
func withoutFault(t *testing.T, stage, command string) courseOf {
	t.Helper()
	var once sync.Once
	var made courseOf
	entry, _ := courses.LoadOrStore([2]string{stage, command}, func(t *testing.T) courseOf {
		once.Do(func() {
			at(t, stage, func(w *world) {
				j := w.job("job")
				if _, err := commands[command](j.ctx, j); err != nil {
					w.Errorf("without a fault: %v", err)
				}
				writer := j.name
				if w.committed {
					writer = fluxByName
				}
				made = courseOf{strings.Join(w.did(j), ", "), j.seen, w.by(writer)}
			})
		})
		return made
	})
	return entry.(func(*testing.T) courseOf)(t)
}

// crash is one case.
func (w *world) crash(command, end, changes string, f fault, n int, out string) {
	w.Helper()
	first := w.job("first")
	first.at, first.fault = n, f
	_, err := commands[command](first.ctx, first)
	where := fmt.Sprintf("write %d (%s) %s", n, first.hit, f)
	if first.hit == "" {
		w.Errorf("%s: it made %d writes, %v", where, first.seen, err)
		return
	}
	if f == never || f == silent || f == outdated { // these pass, and leave nothing behind
		if err != nil {
			w.Errorf("%s: %v", where, err)
		}
		if diff := cmp.Diff(changes, strings.Join(w.did(first), ", ")); diff != "" {
			w.Errorf("%s: changes (-without a fault +with it):\n%s", where, diff)
		}
		return
	}
	if f == refused && err == nil && !harmless(first.hit) {
		w.Errorf("%s: nobody noticed", where)
	}
	time.Sleep(90 * time.Second) // the lock of a dead job expires, whatever it had made gets ready

	next := w.job("next")
	if out == "rollback" {
		if _, err := next.Rollback(w.Context(), "test"); err != nil {
			w.Errorf("%s: rollback: %v", where, err)
		}
		w.settled(where, end, true)
		return
	}
	if _, err := commands[command](w.Context(), next); err != nil {
		w.Errorf("%s: the same command again: %v", where, err)
	}
	w.finish(where)
	w.settled(where, end, false)
}

// harmless says whether a write can be left out: the mark that a job has ended in order, and the removal of a copy that
// nothing reads, or its stamp, which no rollback is held up for.
func harmless(write string) bool {
	if (strings.HasPrefix(write, "DELETE") || strings.HasPrefix(write, "PATCH")) && (strings.Contains(write, "configmaps") || strings.Contains(write, "secrets")) {
		return true
	}
	return strings.HasPrefix(write, "PUT") && strings.Contains(write, "configmaps") || strings.HasPrefix(write, "commit") && strings.Contains(write, " is at stage ")
}

// finish carries whatever is in flight to its good end.
func (w *world) finish(where string) {
	w.Helper()
	j := w.job("finish")
	for range 4 {
		status, err := j.Status(w.Context())
		if err != nil {
			w.Errorf("%s: %v", where, err)
			return
		}
		if status.Release == nil {
			return
		}
		switch status.Release.Stage {
		case release.StageCanary:
			_, err = judge(w.Context(), j.Cluster, release.Healthy)
		case release.StageVerified:
			_, err = j.Promote(w.Context())
		case release.StagePromoted:
			_, err = j.Cleanup(w.Context())
		default:
			w.Errorf("%s: the release is left at %s", where, status.Release.Stage)
			return
		}
		if err != nil {
			w.Errorf("%s: %v", where, err)
			return
		}
	}
}

// settled checks that the app is at rest. A rollback leads to the image of the last release that ended well: a first one that
// had all of the traffic stays.
func (w *world) settled(where, end string, rolledBack bool) {
	w.Helper()
	if !rolledBack {
		if unrest := w.unrest(end); unrest != "" {
			w.Errorf("%s: %s", where, unrest)
		}
		return
	}
	status, err := w.job("look").Status(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	if status.Tracks[release.Primary] == nil && w.applies {
		if unrest := w.unrestOfOthers(false); unrest != "" {
			w.Errorf("%s, rollback: %s", where, unrest)
		}
	}
	if len(status.History) > 0 && status.Tracks[release.Primary] == nil && status.History[0].Outcome == release.OutcomeRolledBack && status.History[0].Previous == "" {
		return // of a first release nothing is left
	}
	want := "1"
	for _, ended := range status.History {
		if ended.Outcome.Good() {
			if want = digitOf(ended.Image); w.configured {
				want = strings.TrimPrefix(ended.ID, "r")
			}
			break
		}
	}
	if len(status.History) == 0 && status.Tracks[release.Primary] == nil {
		return // nothing was there before, and nothing was started
	}
	unrest := w.unrest(want)
	if unrest != "" {
		w.Errorf("%s, rollback: %s", where, unrest)
	}
	if live, was := w.service().Spec.Ports, w.set.Service.Spec.Ports; want == "1" && len(live) != len(was) {
		w.Errorf("%s, rollback: the Service has ports %v", where, live)
	}
}

func sticky(digit string) release.Release {
	r := wanted(digit)
	r.Sticky = &release.Sticky{Assets: "/build/"}
	return r
}

func init() {
	commands["promote a Service"] = func(ctx context.Context, j *job) (rollout.Result, error) {
		j.Manifests = j.world.moved()
		return j.Promote(ctx)
	}
	commands["match"] = func(ctx context.Context, j *job) (rollout.Result, error) { return j.Canary(ctx, matched("2")) }
	commands["mirror"] = func(ctx context.Context, j *job) (rollout.Result, error) { return j.Canary(ctx, mirrored("2")) }
	commands["sticky"] = func(ctx context.Context, j *job) (rollout.Result, error) { return j.Canary(ctx, sticky("2")) }
}
