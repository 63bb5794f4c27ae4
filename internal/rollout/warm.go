package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/our-org/crossbill/internal/release"
)

// leaveCanary is the step with which a cleanup ends: the canary is removed, or gets the pods that primary ran before, ready for
// all of the traffic and without any, so that a return to them takes seconds. Pods that do not get ready keep no cleanup up.
func (j *job) leaveCanary(ctx context.Context) error {
	target, err := j.warmable(ctx)
	if err != nil {
		return err
	}
	if target == nil {
		return j.removeCanary(j.waitDrained)(ctx)
	}
	err = inOrder(ctx, j.warm(target), j.handBack)
	if errors.As(err, new(*NotReadyError)) {
		j.log(j.track(release.Canary).String(), "%v; it is not kept", err)
		return j.removeCanary(j.waitDrained)(ctx)
	}
	if err == nil {
		j.ledger.Warm = &release.Warm{Release: target.ID, Until: now().Add(j.KeepWarm)}
		j.log(j.track(release.Canary).String(), "keeps the pods of release %s, without traffic, until %s: `rollback --to %s` only moves the route", target.ID, j.ledger.Warm.Until.Format(time.RFC3339), target.ID)
	}
	return err
}

// warmable is the release that primary ran before, if its pods can be kept; nil if not.
func (j *job) warmable(ctx context.Context) (*release.Finished, error) {
	if j.KeepWarm == 0 || j.ledger.Release.Return != nil {
		return nil, nil
	}
	o := j.track(release.Canary).String()
	primary, err := recent[*appsv1.Deployment](ctx, j, j.track(release.Primary))
	if err != nil || primary == nil {
		return nil, err
	}
	var target *release.Finished
	if kept := j.ledger.Returnable(); len(kept) > 0 {
		before := &appsv1.Deployment{}
		if err := json.Unmarshal([]byte(j.previous), &before.Spec.Template); err == nil {
			if pod, err := podOf(before); err == nil && pod == kept[0].Pod && j.boundTo(primary, kept[0].Image, pod) {
				target = &kept[0]
			}
		}
	}
	if target == nil {
		j.log(o, "what primary ran before is no release that can be returned to: its pods are not kept")
		return nil, nil
	}
	canary, err := j.liveTrack(ctx, release.Canary)
	if err != nil || canary == nil || canary.DeletionTimestamp != nil || j.foreign(canary) {
		return nil, err
	}
	route, err := j.router().read(ctx)
	if err != nil || route.live == nil {
		return nil, err
	}
	ways := route.past
	if j.Drained == nil { // else it shows whether anybody in the mesh calls the canary past the route
		ways = route.ways()
	}
	if len(ways) > 0 { // they would get the old version
		j.log(o, "the pods of release %s are not kept: they would get requests, from %s", target.ID, strings.Join(ways, ", "))
		return nil, nil
	}
	return target, nil
}

// warm is the step that gives the canary, which is drained first, the pods of a release.
func (j *job) warm(target *release.Finished) step {
	return func(ctx context.Context) error {
		canary, err := j.liveTrack(ctx, release.Canary)
		if err != nil {
			return err
		}
		primary, err := recent[*appsv1.Deployment](ctx, j, j.track(release.Primary))
		if err != nil {
			return err
		}
		if canary == nil || primary == nil {
			return fmt.Errorf("%s or %s: somebody has deleted it; %s", j.track(release.Canary), j.track(release.Primary), j.next())
		}
		desired, err := j.with(release.Canary, primary, target.Image, target.Pod)
		if err != nil {
			return err
		}
		if runs, err := j.runs(canary, target.Pod); err != nil {
			return err
		} else if !runs {
			if err := j.waitDrained(ctx); err != nil {
				return err
			}
		}
		_, _, err = j.applyDeployment(ctx, desired, func(live, desired *appsv1.Deployment) error {
			desired.Spec.Replicas = new(max(j.ledger.Release.Replicas, replicasOf(live)))
			return nil
		})
		if err != nil {
			return err
		}
		return j.waitTrack(release.Canary, target.Image)(ctx)
	}
}
