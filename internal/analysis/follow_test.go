package analysis

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

func weight(percent int) release.PlanStep { return release.PlanStep{Weight: percent} }
func pauseFor(d time.Duration) release.PlanStep {
	return release.PlanStep{Pause: release.Duration(d)}
}
func analyze(a release.Analyze) release.PlanStep { return release.PlanStep{Analyze: &a} }

var approve = release.PlanStep{Approve: true}

// planned is a world whose release is taken through steps, the first of which canary has done.
func planned(t *testing.T, steps ...release.PlanStep) *stepped {
	w := &stepped{world: newWorld(t), routed: 10}
	if problem := release.CheckPlan("steps", steps); problem != nil {
		t.Fatal(problem)
	}
	r := w.ledger.Release
	r.Plan = release.NewPlan(steps)
	r.Plan[0].DoneAt = w.start
	w.flow("app-canary", 100, 0.0005, 0, 2*time.Hour)
	w.flow("app-primary", 900, 0.0005, time.Hour, 2*time.Hour)
	return w
}

// stepped is a world with steps: each write may be the last one of its job.
type stepped struct {
	*world
	routed   int // the canary's weight on the route
	approved bool
	unready  bool
	said     []string
	mistakes []string

	writes int
	kill   func()
	last   int // the write after which the job dies; 0: none
}

var errKilled = errors.New("the job was killed")

// write counts one, and says whether it was the job's last.
func (w *stepped) write() error {
	if w.writes++; w.last > 0 && w.writes >= w.last {
		w.kill()
		return errKilled
	}
	return nil
}

// mistake notes what must not be.
func (w *stepped) mistake(format string, args ...any) {
	w.mistakes = append(w.mistakes, fmt.Sprintf(format, args...))
}

func (w *stepped) Give(_ context.Context, step int) (rollout.Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return rollout.Result{}, errDown
	}
	r := w.ledger.Release
	over, err := w.ledger.Giveable(step)
	switch {
	case err != nil:
		return rollout.Result{}, &rollout.StageError{Err: err}
	case over && w.routed == r.Weight:
		return rollout.Result{}, nil
	case w.unready:
		return rollout.Result{}, &rollout.NotReadyError{Deployment: "app-canary", Reason: "crash loop", ReleaseID: r.ID}
	case over:
		w.note("again")
		err = w.ledger.Weighed("me", time.Now().UTC())
	default:
		if !r.Proven() {
			w.mistake("%s without a verdict", r.Plan.Step(step))
		}
		w.note(r.Plan[step].String())
		err = w.ledger.Give(step, "me", time.Now().UTC())
	}
	if err != nil {
		return rollout.Result{}, err
	}
	if err := w.write(); err != nil { // in the ledger, and not on the route
		return rollout.Result{}, err
	}
	if w.routed = r.Weight; w.routed > highest(r.Plan) {
		w.mistake("weight %d at step %d", w.routed, r.Plan.At())
	}
	return rollout.Result{}, w.write()
}

// highest is the highest weight that the plan has given so far.
func highest(p release.Plan) int {
	most := 0
	for _, s := range p[:p.At()] {
		most = max(most, s.Weight)
	}
	return most
}

func (w *stepped) Pass(_ context.Context, step int) (rollout.Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return rollout.Result{}, errDown
	}
	over, err := w.ledger.Passable(step, time.Now().UTC())
	switch {
	case err != nil:
		return rollout.Result{}, &rollout.StageError{Err: err}
	case over:
		return rollout.Result{}, nil
	}
	if s := w.ledger.Release.Plan[step]; s.Approve && !w.approved {
		return rollout.Result{}, &release.AwaitsApprovalError{Step: w.ledger.Release.Plan.Step(step), Reason: "nobody has approved it yet"}
	}
	w.note(w.ledger.Release.Plan[step].String())
	if err := w.ledger.PassStep(step, "me", time.Now().UTC()); err != nil {
		return rollout.Result{}, err
	}
	return rollout.Result{}, w.write()
}

func (w *stepped) Judge(ctx context.Context, v release.Verdict, rollback bool) (rollout.Result, error) {
	result, err := w.world.Judge(ctx, v, rollback)
	if err == nil {
		err = w.write()
	}
	return result, err
}

// follow runs one job.
func (w *stepped) follow(more ...func(*FollowOptions)) (Outcome, error) {
	ctx, kill := context.WithCancel(w.Context())
	defer kill()
	w.kill = kill
	o := FollowOptions{Options: w.options(), Steps: w, Say: func(line string) { w.said = append(w.said, line) }}
	for _, change := range more {
		change(&o)
	}
	return Follow(ctx, o)
}

// gave are the steps that were done, without the times and without verdicts that were said again.
func (w *stepped) gave() (steps []string) {
	for _, call := range w.calls {
		if step, _, _ := strings.Cut(call, " at "); len(steps) == 0 || steps[len(steps)-1] != step {
			steps = append(steps, step)
		}
	}
	return steps
}

// TestFollow: the steps are taken in order, each after a healthy verdict on what the canary has; a canary that turns bad
// while it pauses goes back at once; what waits for an approver ends in order, and goes on when it was approved.
func TestFollow(t *testing.T) {
	for name, c := range map[string]struct {
		steps []release.PlanStep
		set   func(w *stepped)
		err   string
		says  string // the error, or else the message
		gave  []string
		from  time.Duration // at least
		to    time.Duration // at most
	}{
		"weights": {
			steps: []release.PlanStep{weight(10), weight(25), weight(50)}, says: "50% of the traffic, healthy: the plan is done",
			gave: []string{"healthy", "weight 25%", "healthy", "weight 50%", "healthy"}, to: 4 * time.Minute,
		},
		"an approval that is last": {
			steps: []release.PlanStep{weight(10), weight(25), approve}, says: "waits for its approver",
			gave: []string{"healthy", "weight 25%", "healthy"}, to: 3 * time.Minute,
		},
		"an approval": {
			steps: []release.PlanStep{weight(10), approve, weight(25)}, says: "step 3 of 5: approve: nobody has approved it yet; after `crossbill approve`, run the same command again",
			gave: []string{"healthy"}, to: time.Minute,
		},
		"pauses": {
			steps: []release.PlanStep{weight(10), pauseFor(30 * time.Minute), weight(25), analyze(release.Analyze{}), pauseFor(time.Minute)},
			says:  "healthy", gave: []string{"healthy", "pause 30m", "healthy", "weight 25%", "healthy", "pause 1m"}, from: 31 * time.Minute, to: 33 * time.Minute,
		},
		"an analysis of its own": {
			steps: []release.PlanStep{weight(10), analyze(release.Analyze{MinRequests: 60000, MinDuration: release.Duration(time.Minute)}), weight(25), analyze(release.Analyze{MinDuration: release.Duration(10 * time.Minute)})},
			says:  "healthy", gave: []string{"healthy", "weight 25%", "healthy"}, from: 20 * time.Minute, to: 21*time.Minute + 30*time.Second,
		},
		"it turns bad in a pause": {
			steps: []release.PlanStep{weight(10), pauseFor(30 * time.Minute), weight(25)},
			set:   func(w *stepped) { w.flow("app-canary", 100, 0.3, 10*time.Minute, time.Hour) },
			err:   "unhealthy", says: "rolled back: primary has it again", gave: []string{"healthy", "unhealthy"}, from: 10 * time.Minute, to: 10*time.Minute + 20*time.Second,
		},
		"too few requests for a step": {
			steps: []release.PlanStep{weight(10), analyze(release.Analyze{MinRequests: 1e6}), weight(25)},
			err:   "inconclusive", says: "the canary keeps its weight", gave: []string{"inconclusive"}, from: 15 * time.Minute, to: 16 * time.Minute,
		},
		"not ready for a step": {
			steps: []release.PlanStep{weight(10), weight(25)}, set: func(w *stepped) { w.after(20*time.Second, func(*release.Ledger) { w.unready = true }) },
			err: "not ready", says: "crash loop", gave: []string{"healthy", "rollback"}, to: 2 * time.Minute,
		},
		"the API server is away": {
			steps: []release.PlanStep{weight(10), pauseFor(5 * time.Minute), weight(25)}, set: func(w *stepped) { w.awayFrom(2*time.Minute, 8*time.Minute) },
			says: "healthy", gave: []string{"healthy", "pause 5m", "healthy", "weight 25%", "healthy"}, from: 8 * time.Minute, to: 10 * time.Minute,
		},
		"somebody shifts to a later step": {
			steps: []release.PlanStep{weight(10), pauseFor(30 * time.Minute), weight(25), weight(50), weight(60)},
			set: func(w *stepped) {
				w.after(3*time.Minute, func(l *release.Ledger) { _ = l.Shift(50, "her", time.Now().UTC()); w.routed = 50 })
			},
			says: "60% of the traffic, healthy", gave: []string{"healthy", "weight 60%", "healthy"}, to: 6 * time.Minute,
		},
		"somebody shifts between the steps": {
			steps: []release.PlanStep{weight(10), analyze(release.Analyze{}), pauseFor(10 * time.Minute), weight(50)},
			set: func(w *stepped) {
				w.after(3*time.Minute, func(l *release.Ledger) { _ = l.Shift(25, "her", time.Now().UTC()); w.routed = 25 })
			},
			says: "50% of the traffic, healthy", gave: []string{"healthy", "pause 10m", "weight 50%", "healthy"}, to: 13 * time.Minute,
		},
		"somebody promotes": {
			steps: []release.PlanStep{weight(10), pauseFor(30 * time.Minute), approve},
			set: func(w *stepped) {
				w.after(3*time.Minute, func(l *release.Ledger) {
					l.Release.Plan = nil // as an operator could
					promoted(l)
				})
			},
			says: "judged healthy before it was promoted", gave: []string{"healthy"}, to: 4 * time.Minute,
		},
		"somebody rolls back": {
			steps: []release.PlanStep{weight(10), pauseFor(30 * time.Minute), approve},
			set:   func(w *stepped) { w.after(3*time.Minute, func(*release.Ledger) { _, _ = w.end() }) },
			err:   "stage", says: "has finished: rolled_back", gave: []string{"healthy"}, to: 4 * time.Minute,
		},
		"a Prometheus that refuses the credentials": {
			steps: []release.PlanStep{weight(10), weight(25)}, set: func(w *stepped) { w.refusedFrom(0) },
			err: "inconclusive", says: "prometheus.url: Prometheus at http://prometheus.test does not answer", to: 10 * time.Second,
		},
		"it refuses them after a step": {
			steps: []release.PlanStep{weight(10), pauseFor(30 * time.Minute), weight(25), analyze(release.Analyze{})}, set: func(w *stepped) { w.refusedFrom(10 * time.Minute) },
			err: "inconclusive", says: "the canary keeps what it has", gave: []string{"healthy", "pause 30m"}, from: 30 * time.Minute, to: 32 * time.Minute,
		},
		"an analysis that is too short": {
			steps: []release.PlanStep{weight(10), analyze(release.Analyze{MaxDuration: release.Duration(time.Second), MinDuration: release.Duration(time.Second)})},
			err:   "inconclusive", says: "analysis.maxDuration: 1s is too short", to: time.Second,
		},
		"without steps": {
			steps: []release.PlanStep{weight(10)}, set: func(w *stepped) { w.ledger.Release.Plan = nil },
			err: "stage", says: "it was started without steps", to: time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := planned(t, c.steps...)
				if c.set != nil {
					c.set(w)
				}
				came, err := w.follow()
				text := came.Message
				if err != nil {
					text = err.Error()
				}
				if kind(err) != c.err || !strings.Contains(text, c.says) {
					t.Errorf("%s: %q, want %s: %q", kind(err), text, c.err, c.says)
				}
				if diff := cmp.Diff(c.gave, w.gave()); diff != "" {
					t.Errorf("it did (-want +got):\n%s", diff)
				}
				if took := time.Since(w.start); took < c.from || took > c.to {
					t.Errorf("it took %s", took)
				}
				if len(w.mistakes) > 0 {
					t.Errorf("%q", w.mistakes)
				}
				if errors.As(err, new(*usererr.Error)) && (came.Release == nil || came.Verdict == nil || came.Verdict.Cause != verdict.BadInput || strings.Contains(text, "nothing was changed")) {
					t.Errorf("%+v, %v", came, err)
				}
			})
		})
	}
}

// refusedFrom has Prometheus refuse the credentials from a time on.
func (w *stepped) refusedFrom(from time.Duration) {
	w.prometheus.Fails = func(_ string, now time.Time) int {
		if now.Sub(w.start) >= from {
			return http.StatusUnauthorized
		}
		return 0
	}
}

// TestCheckPlan: what the user must fix is found before the canary gets anything, and what may be well in a minute is not in
// the way.
func TestCheckPlan(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*stepped, *Options)
		steps  []release.PlanStep
		field  string
	}{
		"good":                       {},
		"refused credentials":        {change: func(w *stepped, _ *Options) { w.refusedFrom(0) }, field: "prometheus.url"},
		"Prometheus is away":         {change: func(w *stepped, _ *Options) { w.blindFrom(0, time.Hour) }},
		"no counters":                {change: func(_ *stepped, o *Options) { o.Canary, o.Primary = "new-canary", "new-primary" }},
		"too short":                  {change: func(_ *stepped, o *Options) { o.Test.MaxDuration = time.Second }, field: "analysis.maxDuration"},
		"too short for a step's":     {steps: []release.PlanStep{weight(10), analyze(release.Analyze{MinDuration: 1, MaxDuration: release.Duration(time.Second)})}, field: "analysis.maxDuration"},
		"a latency that is no bound": {change: func(w *stepped, o *Options) { o.Source = w.latency(300 * time.Millisecond) }, field: "analysis.objectives: latency of latency"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := planned(t, append(c.steps, weight(25))...)
				o := w.options()
				if c.change != nil {
					c.change(w, &o)
				}
				err := CheckPlan(t.Context(), o, w.ledger.Release.Plan)
				input, _ := errors.AsType[*usererr.Error](err)
				if (err == nil) != (c.field == "") || err != nil && (input == nil || input.Field != c.field) {
					t.Errorf("%v, want %q", err, c.field)
				}
			})
		})
	}
}

// latency is a source for requests that are to take no longer.
func (w *stepped) latency(most time.Duration) *verdict.Source {
	slo := *verdict.DefaultSLO()
	for i := range slo.Objectives {
		if o := &slo.Objectives[i]; o.Latency != nil {
			o.Latency.Duration = most
		}
	}
	source, err := verdict.NewSource(verdict.SourceOptions{URL: "http://prometheus.test", Transport: w.prometheus, Namespace: "shop", Indicators: slo.Indicators()})
	if err != nil {
		w.Fatal(err)
	}
	return source
}

// whole is a plan with every kind of step.
var whole = []release.PlanStep{weight(10), pauseFor(2 * time.Minute), weight(25), analyze(release.Analyze{MinDuration: release.Duration(time.Minute)}), approve, weight(50), pauseFor(time.Minute), approve}

// ordered are the steps as they must have been done, once each.
var ordered = []string{"pause 2m", "weight 25%", "approve", "weight 50%", "pause 1m"}

// checkWhole says what is wrong with how a whole plan was done: out of order, twice or not at all, without a verdict or a pause.
func (w *stepped) checkWhole(t *testing.T) {
	t.Helper()
	steps := slices.DeleteFunc(w.gave(), func(s string) bool { return s == "healthy" || s == "again" })
	if diff := cmp.Diff(ordered, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if len(w.mistakes) > 0 {
		t.Errorf("%q", w.mistakes)
	}
	r := w.ledger.Release
	if r == nil || r.Plan.At() != len(r.Plan)-1 || !r.Proven() || r.Weight != 50 || w.routed != 50 {
		t.Fatalf("it ends with weight %d: %+v", w.routed, r)
	}
	for i, s := range r.Plan[:len(r.Plan)-1] {
		if i > 0 && s.DoneAt.Before(r.Plan[i-1].DoneAt) {
			t.Errorf("%s was done before %s", r.Plan.Step(i), r.Plan.Step(i-1))
		}
		if s.Pause > 0 && s.DoneAt.Sub(r.Plan[i-1].DoneAt) < time.Duration(s.Pause) {
			t.Errorf("%s took %s", r.Plan.Step(i), s.DoneAt.Sub(r.Plan[i-1].DoneAt))
		}
	}
	if err := w.ledger.Promotable(); err != nil {
		t.Error(err)
	}
}

// TestFollowPausesForLong: a canary that has too few requests for a verdict within maxDuration is judged on as long as it pauses.
func TestFollowPausesForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := planned(t, weight(10), pauseFor(time.Hour), approve)
		came, err := w.follow(func(o *FollowOptions) { o.Test.MinRequests = 100 * 55 * 60 }) // which takes 55 minutes
		if err != nil || !strings.Contains(came.Message, "waits for its approver") {
			t.Errorf("%q, %v", came.Message, err)
		}
		if diff := cmp.Diff([]string{"healthy", "pause 1h", "healthy"}, w.gave()); diff != "" {
			t.Errorf("it did (-want +got):\n%s", diff)
		}
	})
}

// TestFollowDies: whichever write is the last one of a job, the next job goes on from there, to the same end.
func TestFollowDies(t *testing.T) {
	for last := 1; ; last++ {
		died := false
		synctest.Test(t, func(t *testing.T) {
			w := planned(t, whole...)
			w.approved, w.last = true, last
			_, err := w.follow()
			if died = errors.Is(err, context.Canceled); died {
				w.last = 0
				time.Sleep(10 * time.Minute)
				_, err = w.follow()
			}
			if err != nil {
				t.Fatalf("after write %d: %v", last, err)
			}
			w.checkWhole(t)
		})
		if !died {
			if last < 10 {
				t.Errorf("only %d writes", last)
			}
			break
		}
	}
}

var schedules = flag.Uint64("schedules", 20, "TestFollowSchedules: how many")

// TestFollowSchedules: the same for jobs that die again and again, at any write or at any time, and whose approval comes
// at any time.
func TestFollowSchedules(t *testing.T) {
	for half := range uint64(2) {
		t.Run(fmt.Sprint(half), func(t *testing.T) {
			t.Parallel()
			for seed := half; seed < *schedules && !t.Failed(); seed += 2 {
				synctest.Test(t, func(t *testing.T) { schedule(t, seed) })
			}
		})
	}
}

// schedule is one of many jobs, of which the first twelve may die.
func schedule(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 20))
	w := planned(t, whole...)
	w.after(time.Duration(random.IntN(1200))*time.Second, func(*release.Ledger) { w.approved = true })
	for job := range 1000 {
		w.writes, w.last = 0, 0
		if job < 12 {
			switch random.IntN(3) {
			case 0:
				w.last = 1 + random.IntN(4)
			case 1:
				time.AfterFunc(time.Duration(random.IntN(180))*time.Second, func() { w.kill() })
			}
		}
		_, err := w.follow(func(o *FollowOptions) { o.Interval = 20 * time.Second })
		if err == nil && w.ledger.Release.Plan.Finished() {
			break
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("seed %d, job %d: %v", seed, job, err)
		}
		time.Sleep(time.Duration(random.IntN(90)) * time.Second)
	}
	if w.checkWhole(t); t.Failed() {
		t.Fatalf("seed %d: %q", seed, w.calls)
	}
}

// TestFollowEndsInTime: a job whose time ends stops in order before that, with an error of its own; the next one goes on, and
// what was paused is not paused again.
func TestFollowEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := planned(t, weight(10), analyze(release.Analyze{}), pauseFor(20*time.Minute), weight(25), approve)
		jobs := 0
		for {
			jobs++
			began := time.Now()
			_, err := w.follow(func(o *FollowOptions) { o.Until = began.Add(6 * time.Minute) })
			if took := time.Since(began); took > 6*time.Minute {
				t.Errorf("job %d took %s", jobs, took)
			}
			if err == nil {
				break
			}
			over, ok := errors.AsType[*TimeOverError](err)
			if !ok || !strings.Contains(over.Error(), "step 3 of 6: pause 20m: the time of this job is over") {
				t.Fatal(err)
			}
		}
		if took := time.Since(w.start); jobs != 4 || took < 20*time.Minute || took > 23*time.Minute {
			t.Errorf("%d jobs in %s", jobs, took)
		}
		want := "this job has time until"
		if !slices.ContainsFunc(w.said, func(line string) bool { return strings.Contains(line, want) }) {
			t.Errorf("nothing of %q says %q", w.said, want)
		}
	})
}

// TestFollowJudgesTheOldAgain: a verdict that is older than a pause between two jobs may be is not gone on with, and what
// happened meanwhile counts.
func TestFollowJudgesTheOldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := planned(t, weight(10), approve, weight(25))
		w.flow("app-canary", 100, 0.3, 20*time.Minute, 2*time.Hour)
		if _, err := w.follow(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		w.approved = true
		if _, err := w.follow(); kind(err) != "unhealthy" || w.routed != 10 {
			t.Errorf("%v, with %d%%", err, w.routed)
		}
	})
}

// TestFollowRefusals: what a person has to fix ends it, and is not tried for ever.
func TestFollowRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		most time.Duration
	}{
		"bad input":      {&usererr.Error{Field: "manifests", Problem: "the pod template is another"}, time.Minute},
		"stage":          {&rollout.StageError{Err: errors.New("no")}, time.Minute},
		"another one":    {&release.InFlightError{Release: release.Release{ID: "two", Steps: []release.Step{{}}}}, time.Minute},
		"a dependency's": {errDown, 7 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := planned(t, weight(10), weight(25))
				_, err := w.follow(func(o *FollowOptions) { o.Steps = refusing{w, c.err} })
				if !errors.Is(err, c.err) || time.Since(w.start) > c.most {
					t.Errorf("%v after %s", err, time.Since(w.start))
				}
			})
		})
	}
}

// refusing refuses every step but those that are done.
type refusing struct {
	*stepped
	err error
}

func (r refusing) Give(ctx context.Context, step int) (rollout.Result, error) {
	if step == 0 {
		return r.stepped.Give(ctx, step)
	}
	return rollout.Result{}, r.err
}
