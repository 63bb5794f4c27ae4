package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
)

// A controller that no annotation keeps off applies what it has read of the objects when it began: a write of a release
// meanwhile is undone by that. So the write is looked at until nothing is under way that may have started before it, and made
// again where it is gone. What begins later has read it, and its settings leave it alone.

// lookAgain is when after a write a controller is asked what it applies. It watches the objects, so that it has seen the write
// by then.
const lookAgain = time.Second

// lasting makes a write that can be repeated, and sees to it that it stays.
func (j *job) lasting(ctx context.Context, o object, write func(context.Context) (metav1.Object, error)) error {
	if !j.undoable() {
		_, err := write(ctx)
		return err
	}
	until, written, before := time.Now().Add(j.timeout()), "", ""
	for over := false; ; {
		live, err := write(ctx)
		if err != nil {
			return err
		}
		version := wantedVersion(live)
		switch {
		case version == written && over:
			return nil
		case written != "" && version != written:
			j.log(o.String(), "%s has undone the change by what it had read before: it is made again", j.GitOps.Controller)
		}
		if time.Now().After(until) {
			return j.unlessBack(ctx, o, fmt.Errorf("%s: for %s, %s has been at an apply that may undo the change; %s", o, j.timeout(), j.GitOps.Controller, j.next()))
		}
		written = version
		if err := j.pause(lookAgain)(ctx); err != nil {
			return err
		}
		j.remember(o, nil)
		now, err := j.applying(ctx)
		if err != nil {
			return j.unlessBack(ctx, o, err)
		}
		if before == "" {
			before = now
		}
		over = now == "" || now != before
	}
}

// undoable says whether a controller may undo what a release writes.
func (j *job) undoable() bool {
	if j.GitOps == nil || j.planning() || j.ledger.Release == nil {
		return false
	}
	key, _ := j.GitOps.Controller.Hold()
	return key == ""
}

// applying names what the controller is applying.
func (j *job) applying(ctx context.Context) (now string, err error) {
	objects, err := j.controlled(ctx)
	if err != nil {
		return "", err
	}
	err = j.retried(ctx, j.GitOps.Controller.String(), func() error {
		now, err = j.GitOps.Controller.Applying(ctx, objects)
		return err
	})
	return now, err
}

// unlessBack is an error that holds no rollback up.
func (j *job) unlessBack(ctx context.Context, o object, err error) error {
	if j.ledger.Release.Stage != release.StageRollingBack || errors.Is(err, ErrLockLost) || ctx.Err() != nil {
		return err
	}
	j.log(o.String(), "%v; rolling back nevertheless", err)
	return nil
}

// wantedVersion changes with what an object is to be. The status of a Deployment, which changes by itself, is not that.
func wantedVersion(live metav1.Object) string {
	switch {
	case live == nil:
		return "gone"
	case live.GetGeneration() > 0:
		return fmt.Sprint(live.GetGeneration())
	}
	return live.GetResourceVersion()
}
