package rollout

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/retry"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// ErrLockLost says that another job has taken the lock: this one can write nothing more.
var ErrLockLost = errors.New("another job has taken the lock on this app; this one has stopped and changes nothing more (see `crossbill status`)")

// The lock's times. A dead job's lock expires after leaseDuration.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// The keys of the ledger's ConfigMap.
const (
	ledgerKey   = "ledger.json"
	previousKey = "previous-template.json" // primary's pod template before promotion, for rollback
)

// job is a command under its lock.
type job struct {
	*Cluster
	epoch  int64
	state  *corev1.ConfigMap // as last read or written
	ledger *release.Ledger

	locked    bool // this job has the lock
	unwritten bool // the ledger says more than was written: the write that ends the lock takes it along
	routed    bool // the VirtualService is there with the release's route

	keepAssets bool // of a sticky canary that is rolled back, for the pages that are open

	shrunkBy *autoscalingv2.HorizontalPodAutoscaler // has primary's replicas, and may have shrunk it

	applied map[string]written // Deployments, by name
}

// written is what the API server made of a write.
type written struct {
	uid        types.UID
	generation int64
}

// withLock runs a command's work under the app's lock. The lock is a Lease, kept by client-go's
// leader election; what fences the writes is the epoch that is drawn from the ledger with it.
func (c *Cluster) withLock(ctx context.Context, before *job, v command) (result Result, err error) {
	identity := c.By + "_" + rand.String(5)
	from, err := c.takeOver(ctx, identity)
	if err != nil {
		return Result{}, err
	}

	ctx, release := context.WithCancel(ctx)
	defer release()
	var worked error
	started := make(chan struct{})
	done := make(chan struct{})
	ctx, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	lock := &rememberingLock{lose: lose, LeaseLock: &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Name: c.stateName(), Namespace: c.Namespace},
		Client:     c.Kube.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
	}}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name:            c.stateName(),
		Lock:            lock,
		LeaseDuration:   leaseDuration,
		RenewDeadline:   renewDeadline,
		RetryPeriod:     retryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				close(started)
				defer close(done)
				defer release()
				result, worked = c.underLock(ctx, from, before, v)
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(holder string) {
				if holder != identity && holder != "" {
					c.log("lock", "held by %s; waiting until it is released or expires (--takeover takes it at once)", holder)
				}
			},
		},
	})
	if err != nil {
		return Result{}, fmt.Errorf("lock on %s: %w", c.app(), err)
	}
	lockCtx, stopWaiting := context.WithCancel(ctx)
	timer := time.AfterFunc(c.lockTimeout(), func() {
		select {
		case <-started:
		default:
			stopWaiting()
		}
	})
	defer timer.Stop()
	defer stopWaiting()
	elector.Run(lockCtx)

	select {
	case <-started:
	default:
		if err := context.Cause(ctx); err != nil && ctx.Err() != nil {
			return Result{}, err
		}
		if lock.err != nil {
			return Result{}, fmt.Errorf("lock (Lease %s/%s): %w; nothing was changed", c.Namespace, c.stateName(), lock.err)
		}
		return Result{}, &LockHeldError{App: c.app(), Waited: c.lockTimeout()}
	}
	<-done
	if worked != nil && errors.Is(context.Cause(ctx), ErrLockLost) {
		return Result{}, ErrLockLost
	}
	return result, worked
}

// LockHeldError says that another job kept the lock for as long as this one waited.
type LockHeldError struct {
	App    string
	Waited time.Duration
}

func (e *LockHeldError) Error() string {
	return fmt.Sprintf("no lock on %s within %s: another job holds it (see `crossbill status`); nothing was changed", e.App, e.Waited)
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

func (c *Cluster) lockTimeout() time.Duration {
	if c.LockTimeout > 0 {
		return c.LockTimeout
	}
	return 4 * leaseDuration
}

// takeOver puts this job into the lock of whoever holds it, when that is asked for, and says who that
// was. In one write: a lock that was only emptied would be the other job's again at its next renewal.
func (c *Cluster) takeOver(ctx context.Context, identity string) (from string, err error) {
	if !c.Takeover {
		return "", nil
	}
	leases := c.Kube.CoordinationV1().Leases(c.Namespace)
	err = retry.OnError(writeBackoff, func(err error) bool { return ctx.Err() == nil && transient(err) }, func() error {
		lease, err := leases.Get(ctx, c.stateName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if holder := lease.Spec.HolderIdentity; holder == nil || *holder == "" || *holder == identity {
			return nil
		}
		holder, now, transitions := *lease.Spec.HolderIdentity, metav1.NowMicro(), int32(1)
		if lease.Spec.LeaseTransitions != nil {
			transitions += *lease.Spec.LeaseTransitions
		}
		seconds := int32(leaseDuration / time.Second)
		lease.Spec.HolderIdentity, lease.Spec.AcquireTime, lease.Spec.RenewTime = &identity, &now, &now
		lease.Spec.LeaseTransitions, lease.Spec.LeaseDurationSeconds = &transitions, &seconds
		if _, err := leases.Update(ctx, lease, metav1.UpdateOptions{FieldManager: fieldManager}); err != nil {
			return err
		}
		from = holder
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("taking over the lock (Lease %s/%s): %w; nothing was changed, run the command again", c.Namespace, c.stateName(), err)
	}
	if from != "" {
		c.log("lock", "taken over from %s", from)
	}
	return from, nil
}

// underLock draws the epoch and does the work. Whether the last job may still write is not the
// Lease's to say, which can be empty while that job does not know yet: the ledger says it.
func (c *Cluster) underLock(ctx context.Context, takenFrom string, before *job, v command) (Result, error) {
	j := &job{Cluster: c, locked: true}
	if err := j.readState(ctx); err != nil {
		return Result{}, err
	}
	if j.state.ResourceVersion == before.state.ResourceVersion {
		j.routed = before.routed // nobody has worked on the app since it was looked at
	} else if result, done, err := v.look(ctx, j); done || err != nil {
		return result, err
	}
	left := j.ledger.Open
	newest := j.ledger.Epoch
	if j.state.ResourceVersion == "" { // a first ledger, or one that was lost: the objects may know more
		live, err := j.newestEpoch(ctx)
		if err != nil {
			return Result{}, err
		}
		newest, left = max(newest, live), left || live > 0
	}
	j.epoch = newest + 1
	j.ledger.Epoch, j.ledger.Open = j.epoch, true
	if v.begin != nil {
		if err := v.begin(j); err != nil {
			return Result{}, err
		}
	}
	if r := j.ledger.Release; r != nil && takenFrom != "" {
		r.Takeovers = append(r.Takeovers, release.Takeover{From: takenFrom, By: j.By, At: j.now()})
	}
	if err := j.writeState(ctx); err != nil {
		return Result{}, err
	}
	if left {
		if err := j.stamp(ctx); err != nil {
			return Result{}, err
		}
	}
	result, err := v.act(ctx, j)
	if err == nil {
		err = j.close(ctx)
	}
	if err != nil && j.overtaken(ctx) {
		return Result{}, ErrLockLost // what went wrong is what the other job does
	}
	var notReady *NotReadyError
	if errors.As(err, &notReady) && j.ledger.Release != nil {
		notReady.ReleaseID = j.ledger.Release.ID
	}
	if errors.As(err, &notReady) || errors.As(err, new(*StageError)) || errors.As(err, new(*usererr.Error)) {
		_ = j.close(ctx) // after any other error a write may still be on its way
	}
	if err != nil && ctx.Err() != nil && !errors.Is(err, ErrLockLost) {
		// The elector cancels the work when it can no longer renew.
		return result, fmt.Errorf("%w (interrupted: the same command goes on from here, rollback undoes it)", err)
	}
	return result, err
}

// close notes that this job writes nothing more, together with what the work came to. When only its end
// cannot be noted, the next job takes it for one that may still write.
func (j *job) close(ctx context.Context) error {
	if ctx.Err() != nil {
		if j.unwritten {
			return ctx.Err()
		}
		return nil
	}
	j.ledger.Open = false
	err := j.writeState(ctx)
	if err != nil && !j.unwritten {
		j.log("lock", "its end could not be noted, which costs the next job some writes: %v", err)
		return nil
	}
	return err
}

// overtaken says whether a newer lock has written the ledger.
func (j *job) overtaken(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	now := &job{Cluster: j.Cluster}
	return now.readState(ctx) == nil && now.ledger.Epoch > j.epoch
}

// withoutLock does the work as a plan: the ledger is never written.
func (c *Cluster) withoutLock(ctx context.Context, j *job, v command) (Result, error) {
	j.epoch = j.ledger.Epoch + 1
	if v.begin != nil {
		if err := v.begin(j); err != nil {
			return Result{}, err
		}
	}
	return v.act(ctx, j)
}

// readState reads the ledger.
func (j *job) readState(ctx context.Context) error {
	state, err := j.Kube.CoreV1().ConfigMaps(j.Namespace).Get(ctx, j.stateName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		state = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Name: j.stateName(), Namespace: j.Namespace,
			Labels: map[string]string{"app": j.app(), "app.kubernetes.io/managed-by": fieldManager},
		}}
	case err != nil:
		return fmt.Errorf("ledger (ConfigMap %s/%s): %w", j.Namespace, j.stateName(), err)
	}
	ledger, err := release.ParseLedger(j.app(), state.Data[ledgerKey])
	if err != nil {
		return err
	}
	j.state, j.ledger = state, ledger
	return nil
}

// writeState writes the ledger. It is tried again after a fault, and when somebody has edited the
// ConfigMap's other parts; a ledger with a newer epoch is another job's lock.
func (j *job) writeState(ctx context.Context) error {
	if j.plan != nil {
		return nil
	}
	state := j.state.DeepCopy()
	if state.Data == nil {
		state.Data = map[string]string{}
	}
	text := j.ledger.String()
	state.Data[ledgerKey] = text
	if j.ledger.Release == nil {
		delete(state.Data, previousKey)
	}
	base := j.state.Data[ledgerKey] // what this write is meant to follow
	configMaps := j.Kube.CoreV1().ConfigMaps(j.Namespace)
	again := false
	return j.write(ctx, "ledger (ConfigMap "+j.Namespace+"/"+j.stateName()+")", func() error {
		if again {
			now, err := configMaps.Get(ctx, j.stateName(), metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err):
				if state.ResourceVersion != "" {
					return ErrLockLost // somebody has deleted it
				}
			case err != nil:
				return err
			case now.Data[ledgerKey] == text: // this very write was done, its answer lost
				j.state = now
				return nil
			case now.Data[ledgerKey] != base:
				return ErrLockLost
			default:
				data := state.Data
				state = now.DeepCopy()
				state.Data = data
			}
		}
		again = true
		var written *corev1.ConfigMap
		var err error
		if state.ResourceVersion == "" {
			written, err = configMaps.Create(ctx, state, metav1.CreateOptions{FieldManager: fieldManager})
			if apierrors.IsAlreadyExists(err) {
				return apierrors.NewConflict(corev1.Resource("configmaps"), j.stateName(), err) // to be looked at
			}
		} else {
			written, err = configMaps.Update(ctx, state, metav1.UpdateOptions{FieldManager: fieldManager})
		}
		if err == nil {
			j.state = written
		}
		return err
	})
}

// newestEpoch is the highest epoch on the app's objects.
func (j *job) newestEpoch(ctx context.Context) (int64, error) {
	newest := int64(0)
	note := func(object metav1.Object, err error) error {
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if epoch, err := strconv.ParseInt(object.GetAnnotations()[epochAnnotation], 10, 64); err == nil {
			newest = max(newest, epoch)
		}
		return nil
	}
	for _, track := range []release.Track{release.Primary, release.Canary} {
		d, err := j.Kube.AppsV1().Deployments(j.Namespace).Get(ctx, j.deploymentName(track), metav1.GetOptions{})
		if err := note(d, err); err != nil {
			return 0, err
		}
	}
	rule, err := j.Istio.NetworkingV1().DestinationRules(j.Namespace).Get(ctx, j.Manifests.DestinationRule.Name, metav1.GetOptions{})
	if err := note(rule, err); err != nil {
		return 0, err
	}
	route, err := j.Istio.NetworkingV1().VirtualServices(j.Namespace).Get(ctx, j.Manifests.VirtualService.Name, metav1.GetOptions{})
	return newest, note(route, err)
}

// reach notes a stage in the ledger.
func (j *job) reach(ctx context.Context, stage release.Stage) error {
	if j.ledger.Release != nil && j.ledger.Release.Stage == stage {
		return nil
	}
	if err := j.ledger.Reach(stage, j.By, j.now()); err != nil {
		return err
	}
	return j.writeState(ctx)
}

// arrive notes the stage that a command ends with: it is written with the end of the lock.
func (j *job) arrive(stage release.Stage) error {
	j.unwritten = true
	return j.ledger.Reach(stage, j.By, j.now())
}

// finish ends the release in the ledger: it is written with the end of the lock.
func (j *job) finish(outcome release.Outcome) error {
	j.unwritten = true
	return j.ledger.Finish(outcome, j.By, j.now())
}

// fence refuses an object that a newer lock has written.
func (j *job) fence(object metav1.Object) error {
	text, ok := object.GetAnnotations()[epochAnnotation]
	if !ok {
		return nil
	}
	epoch, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("%s has annotation %s: %q, which is not a number; remove it", object.GetName(), epochAnnotation, text)
	}
	if epoch > j.epoch {
		return ErrLockLost
	}
	return nil
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
