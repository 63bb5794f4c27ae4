package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// StageError says that a command cannot be run at the present stage. Nothing was changed.
type StageError struct{ Err error }

func (e *StageError) Error() string { return e.Err.Error() }
func (e *StageError) Unwrap() error { return e.Err }

// command is one command of a release's lifecycle. Found is what it looks for before it changes anything.
type command[Found any] struct {
	name string
	id   string // of the release that it is about; "": as Cluster.ReleaseID says
	// look reads and writes nothing. It gives a result when there is nothing to do, or an error when the present
	// state does not allow the command.
	look func(context.Context, *job) (Found, *Result, error)
	// start changes the ledger in memory, which is committed together with the lock; nil: there is nothing to
	// note before the work.
	start func(*job, Found) error
	// started is called when what start noted is committed; may be nil.
	started func()
	// act does the work. What it changes in the ledger last is committed with the end of the lock. Nil: what start
	// notes is all, and noted is the result.
	act   func(context.Context, *job, Found) (Result, error)
	noted func(*job) Result
	// aside: it waits for nobody. When another job is faster, it has nothing to do.
	aside bool
}

// job is a command under its lock, or one that looks.
type job struct {
	*Cluster
	command string
	epoch   int64
	locked  bool // this job has the lock

	ledger   *release.Ledger
	passedBy *release.Left     // the release does not start: a newer one has all of the traffic
	passed   *release.Passed   // what the approval gate has found; nil when it was not asked
	previous string            // primary's pod template before promotion, as JSON
	state    *corev1.ConfigMap // what ledger and previous were read from, or last committed to

	known           map[string]known // objects as this job has read or written them last, by their names
	previousService string           // what promotion changes of the Service, as it was, as JSON; "" when it changes nothing

	newKey         []byte                              // of hashes of Secrets, until makeKey has written it
	copies         map[string]map[string]metav1.Object // of the app's configuration, by kind and name, as they were listed
	resumed        bool                                // the release was in flight when this job began
	untried        bool                                // nothing of the release was made before this job
	returning      bool                                // a return follows the rollback: it runs the hooks after it
	previousOthers string                              // what the release changes of the other objects, as they were, as JSON

	hpas *autoscalingv2.HorizontalPodAutoscalerList // of the namespace, once somebody has asked
	// shrinks says that primary's HPA did not leave it the replicas that it was to keep.
	shrinks bool
	// measured is how many replicas all of the traffic needs, as primary's HPA has measured it; 0: it has not.
	measured float64
	waited   map[release.Track]int32 // replicas that a track had when it was seen ready
	// canarySize is how many replicas this job has applied the canary with last.
	canarySize int32
	// rolledOut are the pods of a track whose rollout was seen to be done, for the wait that follows.
	rolledOut map[release.Track][]corev1.Pod
	written   map[string]version // of the Deployments that this job wrote, by name
}

// version is what the API server made of a write.
type version struct {
	uid        types.UID
	generation int64
}

// step is one of the things that a command does, in order.
type step func(context.Context) error

func inOrder(ctx context.Context, steps ...step) error {
	for _, take := range steps {
		if err := take(ctx); err != nil {
			return err
		}
	}
	return nil
}

// run looks, takes the lock when there is something to do, looks again if the wait was long or the ledger has moved
// meanwhile, and acts. What is refused or has nothing to do writes nothing and disturbs nobody who works on the app. A
// release that gives way to a newer one needs nothing more, also if that was found while this job worked on it, or shows
// itself as a state that does not allow the command: the ledger and the objects are not read at one moment.
func run[Found any](ctx context.Context, c *Cluster, cmd command[Found]) (Result, error) {
	if c.configs == nil { // before a job binds, and goes on with a copy of c
		c.configs = map[string][]string{}
	}
	look := cmd.look
	cmd.look = func(ctx context.Context, j *job) (found Found, nothing *Result, err error) {
		if nothing = superfluous(j, &cmd); nothing != nil {
			return found, nothing, nil
		}
		return look(ctx, j)
	}
	result, err := runCommand(ctx, c, cmd)
	if (errors.Is(err, ErrLockLost) || errors.As(err, new(*StageError))) && ctx.Err() == nil {
		if j := (&job{Cluster: c, command: cmd.name}); j.readLedger(ctx) == nil {
			if nothing := superfluous(j, &cmd); nothing != nil && nothing.SupersededBy != "" {
				return *nothing, nil
			}
		}
	}
	return result, err
}

func runCommand[Found any](ctx context.Context, c *Cluster, cmd command[Found]) (Result, error) {
	before := &job{Cluster: c, command: cmd.name}
	if err := before.firstLedger(ctx); err != nil {
		return Result{}, err
	}
	if err := errors.Join(before.sameRouter(cmd.name), before.sameGitOps(cmd.name)); err != nil {
		return Result{}, err
	}
	if !cmd.aside {
		if err := before.store().catchUp(ctx, before); err != nil {
			return Result{}, err
		}
	}
	found, result, err := cmd.look(ctx, before)
	switch {
	case err != nil:
		return Result{}, err
	case result != nil:
		return *result, nil
	case c.planning():
		return runPlan(ctx, before, cmd, found)
	}
	if cmd.act == nil && !before.ledger.Open && before.state.ResourceVersion != "" {
		// Nobody is at work, and one write is all: whoever is faster, the other one looks again.
		result, err := runLocked(ctx, before, &lock{Cluster: c}, cmd, found)
		switch {
		case !errors.Is(err, errMoved):
			return result, err
		case cmd.aside:
			return before.result("somebody works on it"), nil
		}
		before = &job{Cluster: c, command: cmd.name}
	}
	looked := time.Now()
	return before.withLock(ctx, func(ctx context.Context, l *lock) (Result, error) {
		before.locked = true
		if before.ledger != nil && time.Since(looked) < backFor {
			result, err := runLocked(ctx, before, l, cmd, found)
			if !errors.Is(err, errMoved) {
				return result, err
			}
			if err := l.held(ctx); err != nil {
				return Result{}, err
			}
		}
		return runAgain(ctx, before.Cluster, l, cmd)
	})
}

// runPlan does the work as a plan: the ledger is never written.
func runPlan[Found any](ctx context.Context, j *job, cmd command[Found], found Found) (Result, error) {
	j.epoch = j.ledger.Epoch + 1
	if err := j.makeKey(ctx); err != nil {
		return Result{}, err
	}
	if cmd.start != nil {
		if err := cmd.start(j, found); err != nil {
			return Result{}, err
		}
	}
	if cmd.act == nil {
		return cmd.noted(j), nil
	}
	return cmd.act(ctx, j, found)
}

// runAgain looks again under the lock, because what was found before may have changed: the ledger, or primary's size.
func runAgain[Found any](ctx context.Context, c *Cluster, l *lock, cmd command[Found]) (Result, error) {
	j := &job{Cluster: c, command: cmd.name, locked: true}
	if err := j.readLedger(ctx); err != nil {
		return Result{}, err
	}
	if err := errors.Join(j.sameRouter(cmd.name), j.sameGitOps(cmd.name)); err != nil {
		return Result{}, err
	}
	if err := j.store().catchUp(ctx, j); err != nil {
		return Result{}, err
	}
	found, result, err := cmd.look(ctx, j)
	switch {
	case err != nil:
		return Result{}, err
	case result != nil:
		return *result, nil
	}
	came, err := runLocked(ctx, j, l, cmd, found)
	if errors.Is(err, errMoved) {
		err = ErrLockLost
	}
	return came, err
}

// errMoved says that somebody has written the ledger since it was looked at. Nothing was changed.
var errMoved = errors.New("the ledger has changed")

// runLocked draws the epoch and does the work. The ledger is committed as it was read by the look, so what was found
// holds, or nothing is changed.
func runLocked[Found any](ctx context.Context, j *job, l *lock, cmd command[Found], found Found) (Result, error) {
	unclean, err := j.drawEpoch(ctx)
	if err != nil {
		return Result{}, err
	}
	if cmd.start != nil {
		if err := cmd.start(j, found); err != nil {
			return Result{}, err
		}
	}
	if r := j.ledger.Release; r != nil && unclean && r.Git != nil && r.Reached(release.StagePromoting) {
		r.Git.PushOpen = true
	}
	if r := j.ledger.Release; r != nil && l.from != "" {
		r.Takeovers = append(r.Takeovers, release.Takeover{From: l.from, By: j.By, At: now()})
	}
	if cmd.act == nil { // the note is all: this job writes nothing more
		j.ledger.Open = unclean
	}
	if err := j.makeKey(ctx); errors.Is(err, errMoved) {
		return Result{}, errMoved
	} else if err != nil {
		return Result{}, j.stopped(ctx, err)
	}
	if err := j.commit(ctx); errors.Is(err, ErrLockLost) {
		return Result{}, errMoved
	} else if err != nil {
		return Result{}, j.stopped(ctx, err)
	}
	if cmd.started != nil {
		cmd.started()
	}
	if cmd.act == nil {
		return cmd.noted(j), nil
	}
	if unclean {
		if err = j.store().fenceOff(ctx, j); err == nil { // nobody else can write now
			err = j.store().catchUp(ctx, j)
		}
	}
	var result Result
	if err == nil {
		result, err = cmd.act(ctx, j, found)
	}
	if err == nil {
		err = j.close(ctx)
	}
	if err != nil {
		return Result{}, j.conclude(ctx, err)
	}
	return result, nil
}

// conclude says what the error of a job means for the release, and ends the lock in order where it is certain
// that no write is still on its way.
func (j *job) conclude(ctx context.Context, err error) error {
	if j.overtaken(ctx) {
		return ErrLockLost // what went wrong is what the other job does
	}
	var notReady *NotReadyError
	if errors.As(err, &notReady) && j.ledger.Release != nil {
		notReady.ReleaseID = j.ledger.Release.ID
	}
	hook, _ := errors.AsType[*HookError](err)
	refused := refusedForGood(err)
	if r := j.ledger.Release; (refused || errors.As(err, new(*usererr.Error))) && r != nil && r.Stage == release.StageStarted && j.untried && !j.made(r) {
		r.Untried = true
	}
	if refused || notReady != nil || hook != nil && hook.finished() || errors.As(err, new(*StaleVerdictError)) || errors.As(err, new(*commitRefusedError)) || errors.As(err, new(*StageError)) || errors.As(err, new(*usererr.Error)) {
		_ = j.close(ctx) // after any other error a write may still be on its way
	}
	return j.stopped(ctx, err)
}

// stopped says what to do next of a job that was stopped from outside.
func (j *job) stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(err, ErrLockLost) {
		return fmt.Errorf("%w (interrupted: %s)", err, j.next())
	}
	return err
}

// made says whether this job knows of a Deployment that the release in flight has made.
func (j *job) made(r *release.Release) bool {
	track := release.Canary
	if r.Previous == "" {
		track = release.Primary
	}
	_, known := j.known[j.track(track).String()] // however long ago
	return known
}

// next says what finishes the work that an error has stopped.
func (j *job) next() string {
	switch r := j.ledger.Release; {
	case j.planning(), r != nil && !j.inFlight():
		return "run the same command again; nothing was changed"
	case r == nil, !j.ofRelease():
		return "the same command continues from here"
	case r.Stage == release.StageRollingBack:
		return "rollback continues from here"
	}
	return "the same command continues from here, rollback ends the release"
}

// ofRelease says whether this job is about the release in flight, if there is one: previews are about none.
func (j *job) ofRelease() bool { return j.command != previewUp && j.command != previewDown }

// inFlight says whether the release of the ledger in memory is in the one that was committed: not in a plan, nor before a
// job's first write of it.
func (j *job) inFlight() bool {
	if j.ledger.Release == nil || j.planning() {
		return false
	}
	saved, err := release.ParseLedger(j.app(), j.state.Data[ledgerKey])
	return err != nil || saved.Release != nil && saved.Release.ID == j.ledger.Release.ID
}

// nothing is the result of a look that found nothing to do.
func (j *job) nothing(format string, args ...any) *Result {
	result := j.result(format, args...)
	return &result
}

func (j *job) result(format string, args ...any) Result {
	return Result{Command: j.command, App: j.app(), Release: j.ledger.Release, Message: fmt.Sprintf(format, args...)}
}

// finish ends the release in the ledger, and is the result of the command that did.
func (j *job) finish(outcome release.Outcome, format string, args ...any) (Result, error) {
	if err := j.ledger.Finish(outcome, j.By, now()); err != nil {
		return Result{}, err
	}
	j.ledger.KeepPods(j.keepReleases())
	result := j.result(format, args...)
	result.Release, result.Outcome = &j.ledger.History[0].Release, outcome
	return result, nil
}

// because is a reason as a message has it.
func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}
