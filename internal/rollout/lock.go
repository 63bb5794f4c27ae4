package rollout

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
)

// ErrLockLost says that another job has taken the lock: this one can write nothing more.
var ErrLockLost = errors.New("another job has taken the lock on this app; this one has stopped and changes nothing more (see `crossbill status`)")

// LockHeldError says that another job kept the lock for as long as this one waited.
type LockHeldError struct {
	App    string
	Waited time.Duration
}

func (e *LockHeldError) Error() string {
	return fmt.Sprintf("no lock on %s within %s: another job holds it (see `crossbill status`); nothing was changed", e.App, e.Waited)
}

// The lock's times. A job that cannot reach the API server keeps its lock: it goes on when the server is back, unless
// another job has taken the lock meanwhile; what fences its writes is the epoch, not these times.
const (
	// leaseDuration is how old the last renewal of a lock may be, by the API server's clock. An older one is free at
	// once: its job has been dead, or without the API server, for all of this time.
	leaseDuration = 60 * time.Second
	// renewPeriod is how often a living job renews its lock.
	renewPeriod = 15 * time.Second
	// silentFor is how long a job that waits sees no renewal, while the API server answers it, before it takes the lock:
	// whoever holds it was killed a moment ago.
	silentFor = 20 * time.Second
	// pollPeriod is how often a job looks that waits for the lock, or one that could not renew its own.
	pollPeriod = time.Second
	// backFor is how long a lock that looks dead is left alone after an API server is back that was away: its job
	// could not renew it.
	backFor = 3 * time.Second
	// releaseFor bounds the end of a lock. Whoever has stopped the job does not wait for long.
	releaseFor = time.Second
	// clockSkew is by how much the clocks of two jobs may differ, where the API server's is not known.
	clockSkew = time.Minute
)

func (c *Cluster) lockName() string {
	_, lock := c.store().places()
	return "lock (" + lock + ")"
}

func (c *Cluster) lockTimeout() time.Duration {
	if c.LockTimeout > 0 {
		return c.LockTimeout
	}
	return leaseDuration
}

// lock is the app's lock in the hands of one job.
type lock struct {
	*Cluster
	identity string
	lease    *coordinationv1.Lease // as this job has written it last
	from     string                // whose lock it was, if that job did not release it
}

// withLock works under the app's lock. The lock is a Lease; what fences the writes is the epoch that is drawn from the
// ledger with it.
func (c *Cluster) withLock(ctx context.Context, work func(ctx context.Context, l *lock) (Result, error)) (Result, error) {
	l := &lock{Cluster: c, identity: c.By + "_" + rand.String(5)}
	if err := l.acquire(ctx); err != nil {
		return Result{}, err
	}
	ctx, lose := context.WithCancelCause(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		l.keep(ctx, lose)
	}()
	result, err := work(ctx, l)
	lost := errors.Is(context.Cause(ctx), ErrLockLost)
	lose(nil)
	<-kept
	if !lost {
		l.release(ctx)
	}
	if err != nil && lost {
		return Result{}, ErrLockLost
	}
	return result, err
}

// acquire waits until this job has the lock.
func (l *lock) acquire(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, l.lockTimeout(), &LockHeldError{App: l.app(), Waited: l.lockTimeout()})
	defer cancel()
	if l.lease = l.store().takeFree(ctx, l.stateName(), l.identity); l.lease != nil { // what was in its way, the loop finds out
		return nil
	}
	var w watched
	for {
		lease, err := l.read(ctx)
		switch {
		case err != nil:
		case w.free(l, lease):
			if err = l.take(ctx, lease); err == nil {
				return nil
			}
		default:
			err = l.store().ask(ctx, lease)
		}
		if err != nil && !transient(err) && ctx.Err() == nil {
			return fmt.Errorf("%s: %w; nothing was changed", l.lockName(), err)
		}
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) { // those are other jobs
			w = watched{failed: err, said: w.said}
		}
		select {
		case <-time.After(pollPeriod):
		case <-ctx.Done():
			held := errors.As(context.Cause(ctx), new(*LockHeldError))
			switch {
			case !held:
				return fmt.Errorf("stopped while it waited for the %s: %w; nothing was changed", l.lockName(), context.Cause(ctx))
			case w.failed != nil:
				return fmt.Errorf("%s: %w; nothing was changed", l.lockName(), w.failed)
			}
			return context.Cause(ctx)
		}
	}
}

// read reads the Lease; nil when there is none.
func (l *lock) read(ctx context.Context) (*coordinationv1.Lease, error) {
	return l.store().readLease(ctx, l.stateName())
}

// watched is what a job that waits has seen of the lock since the API server answers it.
type watched struct {
	version string // of the Lease
	since   time.Time
	failed  error // why the last look failed
	said    string
}

// free says whether the lock can be taken now.
func (w *watched) free(l *lock, lease *coordinationv1.Lease) bool {
	w.failed = nil
	holder := holderOf(lease)
	if holder == "" || holder == l.identity || l.Takeover {
		return true
	}
	if w.version != lease.ResourceVersion {
		w.version, w.since = lease.ResourceVersion, time.Now()
	}
	if l.API.away(backFor) { // who holds it could not renew it
		return false
	}
	if expired, certain := l.store().expired(lease); expired && certain || time.Since(w.since) >= silentFor {
		return true
	}
	if w.said != holder {
		w.said = holder
		l.log("lock", "held by %s; waiting until that job releases it or, if it is dead, for at most %s (--takeover takes it at once)", holder, silentFor+pollPeriod)
	}
	return false
}

// take puts this job into the lock. In one write, whoever has it: a lock that was only emptied would be the other job's
// again at its next renewal.
func (l *lock) take(ctx context.Context, lease *coordinationv1.Lease) error {
	if from := holderOf(lease); from != l.identity { // else an earlier attempt has done it, its answer lost
		l.from = from
	}
	written, err := l.write(ctx, lease, l.identity)
	if err != nil {
		return err
	}
	l.lease = written
	if l.from != "" {
		l.log("lock", "taken over from %s", l.from)
	}
	return nil
}

// write gives the lock to a job, "" for nobody, if it is still as it was read; nil when there was none.
func (l *lock) write(ctx context.Context, lease *coordinationv1.Lease, holder string) (*coordinationv1.Lease, error) {
	next := lease.DeepCopy()
	if next == nil {
		next = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: l.stateName(), Namespace: l.Namespace}}
	}
	now, seconds, transitions := metav1.NowMicro(), int32(leaseDuration/time.Second), int32(0)
	if next.Spec.LeaseTransitions != nil {
		transitions = *next.Spec.LeaseTransitions
	}
	if holder != holderOf(lease) && holder != "" {
		transitions++
		next.Spec.AcquireTime = &now
	}
	next.Spec.HolderIdentity, next.Spec.RenewTime, next.Spec.LeaseDurationSeconds, next.Spec.LeaseTransitions = &holder, &now, &seconds, &transitions
	return l.store().writeLease(ctx, next)
}

// keep renews the lock until ctx ends, and cancels the work when another job has it. While the API server is away it
// is tried again and again: the work goes on when it is back.
func (l *lock) keep(ctx context.Context, lose context.CancelCauseFunc) {
	wait := renewPeriod
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		err := l.renew(ctx)
		if errors.Is(err, ErrLockLost) {
			lose(err)
			return
		}
		if wait = renewPeriod; err != nil {
			wait = pollPeriod
		}
	}
}

// renew says in the Lease that this job lives. One that somebody has taken since is lost, even if it is free by now.
func (l *lock) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewPeriod)
	defer cancel()
	written, err := l.write(ctx, l.lease, l.identity)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		lease, failed := l.read(ctx)
		if failed != nil {
			return failed
		}
		if lease != nil && holderOf(lease) != l.identity {
			return ErrLockLost
		}
		if written, err = l.write(ctx, lease, l.identity); apierrors.IsAlreadyExists(err) {
			return ErrLockLost
		}
	}
	if err == nil {
		l.lease = written
	}
	return err
}

// release gives the lock back, also after the job was stopped. What fails here costs the next job some seconds, and is
// said: whoever stopped this one may want to go on at once.
func (l *lock) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseFor)
	defer cancel()
	_, err := l.write(ctx, l.lease, "")
	if apierrors.IsConflict(err) {
		var lease *coordinationv1.Lease
		if lease, err = l.read(ctx); err == nil && holderOf(lease) == l.identity { // a renewal that was under way
			_, err = l.write(ctx, lease, "")
		}
	}
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		l.log("lock", "could not be released (%v): it is still held by %s, and free at %s at the latest; --takeover takes it at once",
			err, l.identity, time.Now().Add(leaseDuration).UTC().Format(time.TimeOnly+" UTC"))
	}
}

// held asks whether the lock is still this job's.
func (l *lock) held(ctx context.Context) error {
	lease, err := l.read(ctx)
	if err == nil && holderOf(lease) != l.identity {
		return ErrLockLost
	}
	return err
}

// holderOf is who has a lock, alive or not; "" if nobody.
func holderOf(lease *coordinationv1.Lease) string {
	if lease == nil || lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// liveLock reads who holds the lock, if anybody, and whether that job has renewed it in time.
func (c *Cluster) liveLock(ctx context.Context) (holder string, alive bool, err error) {
	lease, err := (&lock{Cluster: c}).read(ctx)
	if err != nil {
		return "", false, fmt.Errorf("%s: %w; nothing was changed", c.lockName(), err)
	}
	if holder = holderOf(lease); holder == "" {
		return "", false, nil
	}
	expired, _ := c.store().expired(lease)
	return holder, !expired, nil
}

// Identity names this process for the ledger: the CI job when there is one, else user and host.
func Identity() string {
	place, err := os.Hostname()
	if err != nil {
		place = "unknown-host"
	}
	user := os.Getenv("USER")
	if id := os.Getenv("CI_JOB_ID"); id != "" { // GitLab
		user, place = os.Getenv("GITLAB_USER_LOGIN"), "gitlab-job-"+id
	} else if id := os.Getenv("GITHUB_RUN_ID"); id != "" {
		user, place = os.Getenv("GITHUB_ACTOR"), "github-run-"+id
	}
	if user == "" {
		return place
	}
	return user + "@" + place
}
