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
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
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

// The lock's times. A dead job's lock expires after leaseDuration.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

func (c *Cluster) lockName() string { return "lock (Lease " + c.Namespace + "/" + c.stateName() + ")" }

// election is one job's wait for the lock, and its time with it.
type election struct {
	*Cluster
	identity string
	lock     *rememberingLock
	started  chan struct{} // closed when the job has the lock
	done     chan struct{} // closed when its work is done
}

// withLock works under the app's lock. The lock is a Lease, kept by client-go's leader election; what fences
// the writes is the epoch that is drawn from the ledger with it. takenFrom is the job whose lock was taken.
func (c *Cluster) withLock(ctx context.Context, work func(ctx context.Context, takenFrom string) (Result, error)) (result Result, err error) {
	e := &election{Cluster: c, identity: c.By + "_" + rand.String(5), started: make(chan struct{}), done: make(chan struct{})}
	takenFrom, err := c.takeOver(ctx, e.identity)
	if err != nil {
		return Result{}, err
	}
	ctx, finish := context.WithCancel(ctx)
	defer finish()
	ctx, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	e.lock = c.newLock(e.identity, lose)
	var failed error
	elector, err := e.elector(func(ctx context.Context) {
		close(e.started)
		defer close(e.done)
		defer finish()
		result, failed = work(ctx, takenFrom)
	})
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", c.lockName(), err)
	}
	e.runUntilTimeout(ctx, elector)
	select {
	case <-e.started:
	default:
		return Result{}, e.notHeld(ctx)
	}
	<-e.done
	if failed != nil && errors.Is(context.Cause(ctx), ErrLockLost) {
		return Result{}, ErrLockLost
	}
	return result, failed
}

func (e *election) elector(work func(context.Context)) (*leaderelection.LeaderElector, error) {
	return leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name:            e.stateName(),
		Lock:            e.lock,
		LeaseDuration:   leaseDuration,
		RenewDeadline:   renewDeadline,
		RetryPeriod:     retryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: work,
			OnStoppedLeading: func() {},
			OnNewLeader: func(holder string) {
				if holder != e.identity && holder != "" {
					e.log("lock", "held by %s; waiting until that job releases it or, if it is dead, for at most %s (--takeover takes it at once)", holder, leaseDuration+retryPeriod)
				}
			},
		},
	})
}

// runUntilTimeout waits for the lock as long as the timeout allows, and then for the work.
func (e *election) runUntilTimeout(ctx context.Context, elector *leaderelection.LeaderElector) {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	timer := time.AfterFunc(e.lockTimeout(), func() {
		select {
		case <-e.started:
		default:
			giveUp()
		}
	})
	defer timer.Stop()
	elector.Run(ctx)
}

// notHeld says why this job never had the lock.
func (e *election) notHeld(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case e.lock.err != nil:
		return fmt.Errorf("%s: %w; nothing was changed", e.lockName(), e.lock.err)
	}
	return &LockHeldError{App: e.app(), Waited: e.lockTimeout()}
}

func (c *Cluster) lockTimeout() time.Duration {
	if c.LockTimeout > 0 {
		return c.LockTimeout
	}
	return 4 * leaseDuration
}

// rememberingLock keeps the last error of a write, which leader election only logs: read it when the election
// is over. And it remembers that the lock was this job's: one that somebody has taken since is lost, even
// if it is free by now. Leader election would take it again, and hold it while the job waits for what the
// other one has removed.
type rememberingLock struct {
	*resourcelock.LeaseLock
	lose context.CancelCauseFunc
	held bool
	err  error
}

func (c *Cluster) newLock(identity string, lose context.CancelCauseFunc) *rememberingLock {
	return &rememberingLock{lose: lose, LeaseLock: &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Name: c.stateName(), Namespace: c.Namespace},
		Client:     c.Kube.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
	}}
}

func (l *rememberingLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, text, err := l.LeaseLock.Get(ctx)
	if err == nil && l.held && record.HolderIdentity != l.Identity() {
		l.lose(ErrLockLost)
		return nil, nil, ErrLockLost
	}
	return record, text, err
}

func (l *rememberingLock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.remember(l.LeaseLock.Create(ctx, record))
}

func (l *rememberingLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.remember(l.LeaseLock.Update(ctx, record))
}

func (l *rememberingLock) remember(err error) error {
	l.held = l.held || err == nil
	if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) { // those are other jobs
		l.err = err
	}
	return err
}

// clockSkew is by how much this machine's clock and that of a job that holds the lock may differ.
const clockSkew = time.Minute

// takeOver puts this job into the lock of whoever holds it, when that is asked for or that job has been dead for
// long, and says who that was. In one write: a lock that was only emptied would be the other job's again at its
// next renewal.
func (c *Cluster) takeOver(ctx context.Context, identity string) (from string, err error) {
	leases := c.Kube.CoordinationV1().Leases(c.Namespace)
	err = persist(ctx, func() error {
		lease, err := leases.Get(ctx, c.stateName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		holder, _ := holderOf(lease)
		if holder == identity { // an earlier attempt has done it, its answer lost
			return nil
		}
		from = ""
		if holder == "" || !c.Takeover && !expiredLongAgo(lease) {
			return nil
		}
		putInto(lease, identity)
		from = holder
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{FieldManager: fieldManager})
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w; nothing was changed", c.lockName(), err)
	}
	if from != "" {
		c.log("lock", "taken over from %s", from)
	}
	return from, nil
}

// expiredLongAgo says whether no job can hold a lock any more, whatever the clocks are like. Leader election, which
// trusts no clock but its own, would wait for leaseDuration all the same.
func expiredLongAgo(lease *coordinationv1.Lease) bool {
	return lease.Spec.RenewTime == nil || time.Since(lease.Spec.RenewTime.Time) > leaseDuration+clockSkew
}

// putInto makes a job the holder of a Lease.
func putInto(lease *coordinationv1.Lease, identity string) {
	now, transitions, seconds := metav1.NowMicro(), int32(1), int32(leaseDuration/time.Second)
	if lease.Spec.LeaseTransitions != nil {
		transitions += *lease.Spec.LeaseTransitions
	}
	lease.Spec.HolderIdentity, lease.Spec.AcquireTime, lease.Spec.RenewTime = &identity, &now, &now
	lease.Spec.LeaseTransitions, lease.Spec.LeaseDurationSeconds = &transitions, &seconds
}

// liveLock reads who holds the lock, if anybody, and whether that job has renewed it in time.
func (c *Cluster) liveLock(ctx context.Context) (holder string, alive bool, err error) {
	lease, err := c.Kube.CoordinationV1().Leases(c.Namespace).Get(ctx, c.stateName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("%s: %w; nothing was changed", c.lockName(), err)
	}
	holder, alive = holderOf(lease)
	return holder, alive, nil
}

// holderOf is who has a lock, if anybody, and whether that job has renewed it in time. The times are
// this machine's and the job's: they may differ by some seconds.
func holderOf(lease *coordinationv1.Lease) (name string, alive bool) {
	if lease.Spec.HolderIdentity == nil {
		return "", false
	}
	renewed := lease.Spec.RenewTime
	alive = *lease.Spec.HolderIdentity != "" && renewed != nil && time.Since(renewed.Time) <= leaseDuration
	return *lease.Spec.HolderIdentity, alive
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
