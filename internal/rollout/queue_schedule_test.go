package rollout_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

var (
	queueSchedules = flag.Int("queue.schedules", 1, "TestQueueSchedules: schedules of each policy")
	queueReleases  = flag.Int("queue.releases", 12, "TestQueueSchedules: releases that a schedule hands over")
	queueOut       = flag.String("queue.json", "", "TestQueueSchedules: file for what it counts")
)

// handedEvery is how long after a release a schedule hands over the next one, about.
const handedEvery = 20 * time.Second

// pipelinePlan is what becomes of the pipeline of one release.
type pipelinePlan struct {
	at       time.Duration // when it starts
	bad      bool          // its canary turns out to be unhealthy
	canceled time.Duration // when a person cancels it, from its start; 0: nobody does
	pressed  time.Duration // how long after its verdict somebody presses the gate; 0: nobody does
	given    time.Duration // how long after that somebody presses rollback, where nobody pressed the gate
	kills    map[string][]time.Duration
	rough    int
	seed     uint64
}

// draw makes up a schedule. The releases are numbered in order of their commits, and do not come in that order.
func draw(rng *rand.Rand) []pipelinePlan {
	plans := make([]pipelinePlan, *queueReleases)
	for i := range plans {
		p := &plans[i]
		p.at = min(time.Duration(*queueReleases)*handedEvery, time.Duration(i)*handedEvery+time.Duration(rng.IntN(180))*time.Second)
		p.bad = rng.IntN(5) == 0
		p.seed, p.rough, p.kills = rng.Uint64(), []int{0, 0, 1, 3}[rng.IntN(4)], map[string][]time.Duration{}
		if p.pressed = time.Duration(1+rng.IntN(40)) * time.Second; rng.IntN(5) == 0 {
			p.pressed, p.given = 0, time.Duration(30+rng.IntN(60))*time.Second
		}
		if rng.IntN(12) == 0 {
			p.canceled = time.Duration(1+rng.IntN(600)) * time.Second
		}
		for _, job := range []string{"queue", "canary", "verify", "promote", "cleanup"} {
			for range 2 { // a job whose runner dies is retried twice
				if rng.IntN(8) == 0 {
					p.kills[job] = append(p.kills[job], time.Duration(1+rng.IntN(20))*time.Second)
				}
			}
		}
	}
	return plans
}

// queueCounts are what schedules of a policy came to.
type queueCounts struct {
	Policy       release.QueuePolicy `json:"policy"`
	Schedules    int                 `json:"schedules"`
	Releases     int                 `json:"releases"`
	Promoted     int                 `json:"promoted"`
	RolledBack   int                 `json:"rolledBack"`
	Superseded   int                 `json:"superseded"` // or too old when it came
	Canceled     int                 `json:"canceled"`   // by a person, before it had started
	Refused      int                 `json:"refused"`
	Killed       int                 `json:"jobsKilled"`
	Lost         int                 `json:"lost"`
	Twice        int                 `json:"twice"`
	OutOfOrder   int                 `json:"outOfOrder"`
	Red          int                 `json:"redForBeingSecond"`
	MostInFlight int                 `json:"mostInFlight"`
}

// day is a schedule that is carried out.
type day struct {
	*world
	policy release.QueuePolicy
	group  chan struct{} // the resource_group of the jobs that change the app

	mu       sync.Mutex
	counts   queueCounts
	problems []string
	refused  map[string]bool
	canceled map[string]bool

	started  map[string]int
	outcomes map[string][]release.Outcome
	ended    []string // in order
	last     string
}

func queuedID(i int) string { return fmt.Sprintf("c%02d", i) }

func queuedImage(i int) string {
	return "registry.example.com/our-org/qwik-node-app@sha256:" + strings.Repeat(fmt.Sprintf("%02x", 0x20+i), 32)
}

func (d *day) problem(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problems = append(d.problems, fmt.Sprintf(format, args...))
}

// seen counts what the ledger and the canary say after each change.
func (d *day) seen(e event) {
	inFlight := map[string]bool{}
	switch e.resource {
	case "configmaps":
		ledger, err := ledgerIn(e.after, d.set.App)
		if err != nil || e.after.object.GetName() != "crossbill-"+d.set.App {
			return
		}
		if r := ledger.Release; r != nil && r.ID+"@"+r.StartedAt.String() != d.last {
			d.last = r.ID + "@" + r.StartedAt.String()
			d.started[r.ID]++
		}
		if len(ledger.History) > 0 {
			f := ledger.History[0]
			if key := f.ID + "@" + f.FinishedAt.String(); len(d.ended) == 0 || d.ended[len(d.ended)-1] != key {
				d.ended = append(d.ended, key)
				d.outcomes[f.ID] = append(d.outcomes[f.ID], f.Outcome)
			}
		}
		if ledger.Release != nil {
			inFlight[ledger.Release.Image] = true
		}
	case "deployments":
		if canary := decode[appsv1.Deployment](e.after); canary.Name == d.set.Name(release.Canary) {
			if l := d.observer.ledger; l != nil && l.Release != nil {
				inFlight[l.Release.Image] = true
			}
			inFlight[d.set.Image(canary)] = true
		}
	}
	d.counts.MostInFlight = max(d.counts.MostInFlight, len(inFlight))
}

// errCanceled says that a person has canceled the pipeline.
var errCanceled = errors.New("canceled")

// run runs a job of a pipeline as GitLab does: one whose runner dies is run again.
func (d *day) run(ctx context.Context, p *pipelinePlan, id, name string, command func(context.Context, *job) error) error {
	for attempt := 0; ; attempt++ {
		if name != "queue" && name != "rollback" {
			d.group <- struct{}{}
		}
		d.mu.Lock()
		j := d.job(name + "-" + id).queues(d.policy)
		d.mu.Unlock()
		j.ReleaseID, j.Timeout, j.LockTimeout, j.SettleDelay = id, 2*time.Minute, time.Minute, time.Second
		if name == "queue" {
			j.ReleaseID = ""
		}
		j.before = rough(p.rough, p.seed+uint64(attempt))
		working, stop := context.WithCancel(j.ctx)
		ended := context.AfterFunc(ctx, stop)
		var killed *time.Timer
		if kills := p.kills[name]; attempt < len(kills) {
			killed = time.AfterFunc(kills[attempt], func() {
				j.mu.Lock()
				j.killed = true
				j.mu.Unlock()
				stop()
			})
		}
		err := command(working, j)
		ended()
		died := killed != nil && !killed.Stop()
		stop()
		if name != "queue" && name != "rollback" {
			<-d.group
		}
		switch {
		case died && err != nil:
			d.mu.Lock()
			d.counts.Killed++
			d.mu.Unlock()
			time.Sleep(5 * time.Second) // until GitLab has found out
		case ctx.Err() != nil:
			return errCanceled
		case err == nil || attempt >= 8:
			return err
		case errors.As(err, new(*rollout.LockHeldError)), errors.Is(err, rollout.ErrLockLost), refusal(err) == err.Error() && !errors.As(err, new(*release.InLineError)) && !errors.As(err, new(*rollout.WaitedError)) && !errors.Is(err, errBad):
			time.Sleep(10 * time.Second) // a person runs a job again that failed for a network
		default:
			return err
		}
	}
}

// errBad says that a canary was rolled back because it is unhealthy.
var errBad = errors.New("unhealthy")

// pipeline is one release's, from the handoff to its end.
func (d *day) pipeline(i int, p *pipelinePlan) {
	id := queuedID(i)
	time.Sleep(p.at)
	ctx, cancel := context.WithCancel(d.Context())
	defer cancel()
	if p.canceled > 0 {
		stop := time.AfterFunc(p.canceled, cancel)
		defer stop.Stop()
	}
	source := fmt.Sprintf("https://github.com/our-org/app/actions/runs/%d", 100+i)
	step := func(name string, command func(context.Context, *job) (rollout.Result, error)) error {
		return d.run(ctx, p, id, name, func(ctx context.Context, j *job) error {
			_, err := command(ctx, j)
			return err
		})
	}
	failed := func(name string, err error) {
		switch {
		case errors.Is(err, errCanceled):
			d.mu.Lock()
			d.canceled[id] = true
			d.mu.Unlock()
			if name != "queue" { // whoever cancels a pipeline with a canary rolls that back
				calm := *p
				calm.canceled, calm.rough = 0, 0
				if err := d.run(d.Context(), &calm, id, "rollback", func(ctx context.Context, j *job) error {
					_, err := j.Rollback(ctx, "canceled")
					return err
				}); err != nil && refusal(err) != "in flight" {
					d.problem("rollback of the canceled %s: %v", id, err)
				}
			}
		case errors.Is(err, errBad), p.bad && name == "verify" && refusal(err) == "stage": // it is rolling back, which guard finishes
		case refusal(err) == "in flight" && d.policy == release.QueueRefuse:
			d.mu.Lock()
			d.refused[id] = true
			d.mu.Unlock()
		default:
			d.mu.Lock()
			d.counts.Red++
			d.mu.Unlock()
			d.problem("%s, job %s: %v", id, name, err)
		}
	}
	if d.policy != release.QueueRefuse {
		err := step("queue", func(ctx context.Context, j *job) (rollout.Result, error) {
			return j.Queue(ctx, release.Queued{ID: id, Image: queuedImage(i), SourceURL: source, By: j.By})
		})
		if err != nil {
			failed("queue", err)
			return
		}
	}
	want := release.Release{ID: id, Image: queuedImage(i), Weight: 10, SourceURL: source}
	if err := step("canary", func(ctx context.Context, j *job) (rollout.Result, error) { return j.Canary(ctx, want) }); err != nil {
		failed("canary", err)
		return
	}
	verdict := release.Healthy
	if p.bad {
		verdict = release.Unhealthy
	}
	err := step("verify", func(ctx context.Context, j *job) (rollout.Result, error) {
		status, err := j.Status(ctx)
		if err != nil {
			return rollout.Result{}, err
		}
		if way := status.GaveWay("verify", id); way != nil {
			return *way, nil
		}
		switch r := status.Release; {
		case r == nil || r.ID != id: // an attempt before, which died, has rolled it back
			return rollout.Result{}, errBad
		case r.Stage == release.StageVerified:
			return rollout.Result{}, nil
		}
		result, err := judgeAs(ctx, j.Cluster, status, verdict, true)
		if err == nil && result.SupersededBy == "" && p.bad {
			err = errBad
		}
		return result, err
	})
	if err != nil {
		failed("verify", err)
		return
	}
	if p.pressed == 0 {
		time.Sleep(p.given)
		if err := d.run(d.Context(), p, id, "rollback", func(ctx context.Context, j *job) error {
			_, err := j.Rollback(ctx, "nobody wants it")
			return err
		}); err != nil && (d.policy != release.QueueRefuse || refusal(err) != "in flight") {
			d.problem("rollback of %s: %v", id, err)
		}
		return
	}
	select {
	case <-time.After(p.pressed):
	case <-ctx.Done():
		failed("gate", errCanceled)
		return
	}
	for _, name := range []string{"promote", "cleanup"} {
		if err := step(name, func(ctx context.Context, j *job) (rollout.Result, error) { return commands[name](ctx, j) }); err != nil {
			failed(name, err)
			return
		}
	}
}

// carryOut hands the releases of a schedule over, and counts what became of them.
func (w *world) carryOut(policy release.QueuePolicy, plans []pipelinePlan) (queueCounts, []string) {
	d := &day{world: w, policy: policy, group: make(chan struct{}, 1), refused: map[string]bool{}, canceled: map[string]bool{}, started: map[string]int{}, outcomes: map[string][]release.Outcome{}}
	w.server.mu.Lock()
	w.server.changed = append(w.server.changed, d.seen)
	w.server.mu.Unlock()
	var all sync.WaitGroup
	for i := range plans {
		all.Go(func() { d.pipeline(i, &plans[i]) })
	}
	guarded, stop := context.WithCancel(w.Context())
	guard := make(chan struct{})
	go func() { // the scheduled pipeline, which ends what nobody goes on with
		defer close(guard)
		for {
			select {
			case <-time.After(5 * time.Minute):
			case <-guarded.Done():
				return
			}
			d.mu.Lock()
			j := d.job("guard")
			d.mu.Unlock()
			_, _ = j.Guard(guarded, rollout.Limits{Dead: 15 * time.Minute, Waiting: 24 * time.Hour})
		}
	}()
	all.Wait()
	stop()
	<-guard
	time.Sleep(2 * time.Minute)
	if _, err := w.job("last").Rollback(w.Context(), "the end"); err != nil {
		d.problem("the last rollback: %v", err)
	}
	ledger := w.read()
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	counts := &d.counts
	counts.Policy, counts.Schedules, counts.Releases = policy, 1, len(plans)
	for i := range plans {
		id := queuedID(i)
		promoted := 0
		for _, outcome := range d.outcomes[id] {
			if outcome == release.OutcomePromoted {
				promoted++
			}
		}
		if promoted > 1 || d.started[id] > 1 {
			counts.Twice++
			d.problem("%s has started %d times: %v", id, d.started[id], d.outcomes[id])
		}
		by, _ := ledger.Superseded(id)
		switch outcomes := d.outcomes[id]; {
		case promoted > 0:
			counts.Promoted++
		case slices.Contains(outcomes, release.OutcomeSuperseded), by != "":
			counts.Superseded++
		case slices.Contains(outcomes, release.OutcomeRolledBack):
			counts.RolledBack++
		case d.refused[id]:
			counts.Refused++
		case d.canceled[id]:
			counts.Canceled++
		default:
			counts.Lost++
			d.problem("%s is lost: %v, left %+v, line %+v", id, outcomes, ledger.HasLeft(id), ledger.Waits(id))
		}
	}
	newest := ""
	for _, key := range d.ended {
		id, _, _ := strings.Cut(key, "@")
		if slices.Contains(d.outcomes[id], release.OutcomePromoted) {
			if id < newest && policy != release.QueueRefuse {
				counts.OutOfOrder++
				d.problem("%s was released after %s", id, newest)
			}
			newest = max(newest, id)
		}
	}
	if counts.MostInFlight > 1 {
		d.problem("%d in flight", counts.MostInFlight)
	}
	d.problems = append(d.problems, w.observer.problems...)
	w.observer.problems = nil
	return *counts, d.problems
}

// TestQueueSchedules hands three releases over a minute, not in order of their commits, while runners die, people
// cancel, nobody approves and canaries are bad. With each policy none is lost or released twice, order is kept, and no two
// are in flight. No pipeline but those that are refused is red for being second.
func TestQueueSchedules(t *testing.T) {
	all := []queueCounts{}
	for _, policy := range []release.QueuePolicy{release.QueueInOrder, release.QueueSupersede, release.QueueRefuse} {
		sum := queueCounts{Policy: policy}
		for seed := range uint64(*queueSchedules) {
			var counts queueCounts
			var problems []string
			at(t, "rest", func(w *world) {
				counts, problems = w.carryOut(policy, draw(rand.New(rand.NewPCG(seed, 20))))
			})
			for _, problem := range problems {
				t.Errorf("%s, schedule %d: %s", policy, seed, problem)
			}
			sum.add(counts)
		}
		t.Logf("%+v", sum)
		all = append(all, sum)
	}
	if *queueOut == "" {
		return
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(*queueOut), 0o755)
	}
	if err == nil {
		err = os.WriteFile(*queueOut, append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

func (c *queueCounts) add(o queueCounts) {
	c.Schedules, c.Releases = c.Schedules+o.Schedules, c.Releases+o.Releases
	c.Promoted, c.RolledBack, c.Superseded = c.Promoted+o.Promoted, c.RolledBack+o.RolledBack, c.Superseded+o.Superseded
	c.Canceled, c.Refused, c.Killed = c.Canceled+o.Canceled, c.Refused+o.Refused, c.Killed+o.Killed
	c.Lost, c.Twice, c.OutOfOrder, c.Red = c.Lost+o.Lost, c.Twice+o.Twice, c.OutOfOrder+o.OutOfOrder, c.Red+o.Red
	c.MostInFlight = max(c.MostInFlight, o.MostInFlight)
}
