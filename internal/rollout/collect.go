package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/release"
)

// collect is the step that deletes the copies that nothing refers to any more. It is a courtesy: a copy that stays costs
// nothing, and no release is held up by it.
func (j *job) collect(ctx context.Context) error {
	err := j.collectCopies(ctx)
	switch {
	case err == nil, errors.Is(err, ErrLockLost), ctx.Err() != nil:
		return err
	}
	j.log("configuration", "copies that nothing reads any more are left to the next release: %v", err)
	return nil
}

func (j *job) collectCopies(ctx context.Context) error {
	var kept map[string]bool
	for _, kind := range []string{"ConfigMap", "Secret"} {
		if !j.reads(kind) {
			continue
		}
		j.forgetCopies(kind) // this job may have made some
		copies, err := j.copiesOf(ctx, kind)
		if err != nil {
			return err
		}
		if kept == nil && len(copies) > 0 {
			if kept, err = j.keptCopies(ctx); kept == nil || err != nil {
				return err
			}
		}
		for _, name := range slices.Sorted(maps.Keys(copies)) {
			if kept[kind+" "+name] || name == j.keyName() {
				continue
			}
			if err := j.deleteCopy(ctx, j.configuration(kind, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// keptCopies are what something refers to: the Deployments as they are live, hooks that run, what a rollback would put back, and the
// last good releases, which can be returned to. Nil while a roll-out goes on, whose old pods read what no Deployment names.
func (j *job) keptCopies(ctx context.Context) (map[string]bool, error) {
	kept := map[string]bool{}
	keep := func(template corev1.PodTemplateSpec) {
		for name := range referenced(template) {
			kept[name] = true
		}
	}
	for _, track := range tracks {
		if j.planning() { // it has deleted nothing, and put nothing back
			break
		}
		live, err := recent[*appsv1.Deployment](ctx, j, j.track(track))
		if err == nil && live != nil && (live.DeletionTimestamp != nil || !isRolledOut(live)) { // something has come of it since
			live, err = j.liveTrack(ctx, track)
		}
		switch {
		case err != nil:
			return nil, err
		case live == nil:
			continue
		case !isRolledOut(live):
			return nil, nil
		}
		keep(live.Spec.Template)
	}
	started := j.startedJobs("")
	for i := range j.ledger.History { // a rollback leaves one that runs to its end, and its pods may have yet to start
		for _, h := range j.ledger.History[i].Hooks {
			if h.Job != "" && h.State == release.HookStarted {
				started = append(started, h.Job)
			}
		}
	}
	for _, name := range started {
		live, err := recent[*batchv1.Job](ctx, j, j.batchJob(name))
		if err != nil {
			return nil, err
		}
		if live == nil {
			continue
		}
		if ended, _, _ := hook.Ended(live); !ended {
			keep(live.Spec.Template)
		}
	}
	pods := []string{j.previous}
	for _, r := range j.lastGood() {
		for _, c := range r.Config {
			kept[c.Kind+" "+c.Copy] = true
		}
		pods = append(pods, r.Pod)
	}
	for _, text := range pods {
		var template corev1.PodTemplateSpec
		if json.Unmarshal([]byte(text), &template) == nil {
			keep(template)
		}
	}
	return kept, nil
}

func isRolledOut(d *appsv1.Deployment) bool {
	done, _, err := rolledOut(d, metav1.Time{})
	return done && err == nil
}

// lastGood are the release in flight, unless it is rolling back, and the last good ones of the history.
func (j *job) lastGood() (found []*release.Release) {
	left := j.keepReleases()
	if r := j.ledger.Release; r != nil && r.Stage != release.StageRollingBack {
		found = append(found, r)
	}
	for i := range j.ledger.History {
		if f := &j.ledger.History[i]; f.Outcome.Good() && (left > 0 || f.Pod != "") {
			found = append(found, &f.Release)
			left--
		}
	}
	return found
}

// deleteCopy deletes a copy of this app.
func (j *job) deleteCopy(ctx context.Context, o object) error {
	before, after, err := change(ctx, j, o, func(live metav1.Object) (*write, error) {
		if live == nil || live.GetDeletionTimestamp() != nil || !j.ownCopy(live) {
			return nil, nil
		}
		return j.remove(metav1.DeletePropagationBackground), nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	if before != nil && after == nil {
		j.log(o.String(), "deleted: no release that can be returned to reads it")
	}
	return nil
}
