package rollout

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// lookRelease refuses a release that cannot be written in Git, before its first commit.
func (s gitStore) lookRelease(ctx context.Context, j *job, found *canaryFound) error {
	if err := j.lookController(ctx, s.Git.Controller, found.primary); err != nil {
		return err
	}
	if i := slices.IndexFunc(j.Hooks, func(h hook.Hook) bool { return h.Job != "" }); i >= 0 {
		return &usererr.Error{Field: "hooks", Problem: fmt.Sprintf("%s is a Job, which only the API server can make, and gitops.store is git", j.Hooks[i].Name), Fix: "call an address in its place; nothing was changed"}
	}
	hpa, err := j.hpaOf(ctx, found.primary.Name)
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	if hpa != nil {
		return &usererr.Error{Field: "HorizontalPodAutoscaler " + hpa.Name, Problem: "it sets the replicas of " + j.track(release.Primary).String() + ", and a commit of what primary needs for all of the traffic would take them from it", Fix: "set gitops.store to cluster for this app, where an HPA keeps them; nothing was changed"}
	}
	in, err := s.atHead(ctx)
	if err != nil {
		return err
	}
	if err := j.lookServiceInGit(in); err != nil {
		return err
	}
	return s.tryRelease(ctx, j, found)
}

// tryRelease makes the edits of a release without a commit: the canary, its share, and primary.
func (s gitStore) tryRelease(ctx context.Context, j *job, found *canaryFound) error {
	for _, track := range tracks {
		desired, err := j.Manifests.Track(track, j.Namespace, found.want.Image)
		if err != nil {
			return err
		}
		var live *appsv1.Deployment
		if track == release.Primary {
			live = found.primary
		} else if live, err = j.liveTrack(ctx, track); err != nil {
			return err
		}
		if err := j.nameFree(live); err != nil {
			return err
		}
		o := j.deployment(desired.Name)
		var is metav1.Object // nil, and no pointer to nothing
		if live != nil {
			is = live
		}
		if _, err := s.tryOut(ctx, o, is, j.apply(desired)); err != nil {
			return err
		}
	}
	return j.onPlan(found.want, func(j *job, ctx context.Context) error {
		_, err := j.router().split(ctx, traffic{weight: max(found.want.Weight, 1)})
		return err
	})(ctx)
}
