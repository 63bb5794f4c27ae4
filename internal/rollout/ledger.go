package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
)

// The keys of the ledger's ConfigMap.
const (
	ledgerKey   = "ledger.json"
	previousKey = "previous-template.json"
	serviceKey  = "previous-service.json"
	othersKey   = "previous-others.json"
	lineKey     = "line.json"
)

// ledgerLabel selects the ledgers of all apps.
const ledgerLabel = "app.kubernetes.io/managed-by"

func (j *job) ledgerName() string {
	ledger, _ := j.store().places()
	return "ledger (" + ledger + ")"
}

// readLedger reads the ledger; that of an app without one is empty.
func (j *job) readLedger(ctx context.Context) error {
	state, err := j.store().readState(ctx, j.stateName())
	if apierrors.IsNotFound(err) {
		state, err = j.readLedgerByLabel(ctx, err)
	}
	switch {
	case apierrors.IsNotFound(err):
		state = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Name: j.stateName(), Namespace: j.Namespace,
			Labels: map[string]string{"app": j.app(), ledgerLabel: fieldManager},
		}}
	case err != nil:
		return fmt.Errorf("%s: %w; nothing was changed", j.ledgerName(), err)
	}
	return j.parseLedger(state)
}

func (j *job) parseLedger(state *corev1.ConfigMap) error {
	ledger, err := release.ParseLedger(j.app(), state.Data[ledgerKey])
	if err != nil {
		return err
	}
	if err := ledger.ReadLine(state.Data[lineKey]); err != nil {
		return err
	}
	j.resumed = ledger.Release != nil
	j.state, j.ledger, j.previous, j.previousService, j.previousOthers = state, ledger, state.Data[previousKey], state.Data[serviceKey], ""
	if ledger.Release != nil {
		j.previousOthers = state.Data[othersKey]
	}
	return nil
}

// justRead is a ledger that this process has read a moment ago.
type justRead struct {
	state *corev1.ConfigMap
	at    time.Time
}

// justReadFor is how long a ledger that was read serves a command that begins: it is only ever written as it was read.
const justReadFor = time.Second

// firstLedger is readLedger for what a command begins with: what the check before it has just read serves as well.
func (j *job) firstLedger(ctx context.Context) error {
	if first := j.ledgerRead; first != nil {
		j.ledgerRead = nil
		if time.Since(first.at) < justReadFor {
			return j.parseLedger(first.state)
		}
	}
	return j.readLedger(ctx)
}

// drawEpoch gives this job the next epoch, in the ledger as it will be committed. unclean: the job before may
// still write. That is not the Lease's to say, which can be empty while that job does not know yet: the ledger
// says it.
func (j *job) drawEpoch(ctx context.Context) (unclean bool, err error) {
	unclean, newest := j.ledger.Open, j.ledger.Epoch
	if j.state.ResourceVersion == "" { // a first ledger, or one that was lost: the objects may know more
		live, err := j.newestEpoch(ctx)
		if err != nil {
			return false, err
		}
		newest, unclean = max(newest, live), unclean || live > 0
	}
	stepped, err := epochOf(j.state) // an older ledger that somebody has restored
	if err != nil {
		return false, err
	}
	newest = max(newest, stepped)
	j.epoch = newest + 1
	j.ledger.Epoch, j.ledger.Open = j.epoch, true
	return unclean, nil
}

// commit writes the ledger as it is in memory. It is tried again after a fault, and when somebody has edited
// the ConfigMap's other parts; a ledger that somebody else has written is another job's lock.
func (j *job) commit(ctx context.Context) error {
	if j.planning() {
		return nil
	}
	j.ledger.Fit(len(j.state.Data[lineKey]) + len(j.previous) + len(j.previousService) + len(j.previousOthers))
	text, base, others := j.ledger.String(), j.state.Data[ledgerKey], j.previousOthers
	if j.ledger.Release == nil {
		others = ""
	}
	following := j.state // what this write follows
	return j.retried(ctx, j.ledgerName(), func() error {
		if following == nil {
			live, err := j.store().readState(ctx, j.stateName())
			switch {
			case apierrors.IsNotFound(err) && j.state.ResourceVersion == "":
				live = j.state
			case apierrors.IsNotFound(err):
				return ErrLockLost // somebody has deleted it
			case err != nil:
				return err
			case live.Data[ledgerKey] == text && live.Data[othersKey] == others: // this very write was done, its answer lost
				j.state = live
				return nil
			case live.Data[ledgerKey] != base, !j.mayStart(live):
				return ErrLockLost
			}
			following = live
		}
		next := following.DeepCopy()
		following = nil
		if next.Data == nil {
			next.Data = map[string]string{}
		}
		next.Data[ledgerKey], next.Data[previousKey] = text, j.previous
		if j.previous == "" || j.ledger.Release == nil {
			delete(next.Data, previousKey)
		}
		if next.Data[serviceKey] = j.previousService; j.previousService == "" || j.ledger.Release == nil {
			delete(next.Data, serviceKey)
		}
		if next.Data[othersKey] = others; others == "" {
			delete(next.Data, othersKey)
		}
		if next.Data[lineKey] = j.lineIn(next); next.Data[lineKey] == "" {
			delete(next.Data, lineKey)
		}
		written, err := j.store().writeState(ctx, j, next)
		if err == nil {
			j.state = written
		}
		return err
	})
}

// uncommitted says whether the ledger in memory says more than the one that was committed.
func (j *job) uncommitted() bool {
	saved, err := release.ParseLedger(j.app(), j.state.Data[ledgerKey])
	if err != nil {
		return true
	}
	saved.Open = j.ledger.Open
	return saved.String() != j.ledger.String()
}

// reach is the step that commits a stage.
func (j *job) reach(stage release.Stage) step {
	return func(ctx context.Context) error {
		if err := j.ledger.Reach(stage, j.By, now()); err != nil {
			return err
		}
		if !j.uncommitted() {
			return nil
		}
		return j.commit(ctx)
	}
}

// close commits the result of the work, and that this job writes nothing more. When only the latter fails, the
// next job assumes that this one may still write.
func (j *job) close(ctx context.Context) error {
	uncommitted := j.uncommitted()
	if ctx.Err() != nil {
		if uncommitted {
			return ctx.Err()
		}
		return nil
	}
	j.ledger.Open = false
	err := j.commit(ctx)
	if err != nil && !uncommitted {
		j.log("lock", "its end could not be noted, which costs the next job some writes: %v", err)
		return nil
	}
	return err
}

// overtaken says whether a newer lock has written the ledger.
func (j *job) overtaken(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Is(j.holds(ctx), ErrLockLost)
}

// holds looks whether this job still has the lock. The error is ErrLockLost when a newer lock has written the ledger: in
// whatever format, since this job could read it before.
func (j *job) holds(ctx context.Context) error {
	now := &job{Cluster: j.Cluster}
	err := now.readLedger(ctx)
	if errors.As(err, new(*release.NewerLedgerError)) || err == nil && now.ledger.Epoch > j.epoch {
		return ErrLockLost
	}
	return err
}
