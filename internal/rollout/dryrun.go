package rollout

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// rehearse finds what the API server would refuse of a release, by server-side dry runs, and what would make primary
// differ from the canary. Nothing is written. takeOver: fields of primary are to be taken over first.
func (j *job) rehearse(ctx context.Context, found *canaryFound) (takeOver bool, err error) {
	switch {
	case found.same:
		return false, nil
	case found.primary == nil:
		return false, j.rehearseFirst(ctx, found.want)
	}
	if !found.router.routed() {
		backends := func(j *job, ctx context.Context) error { return j.router().ensureBackends(ctx) }
		route := func(j *job, ctx context.Context) error { return j.router().ensureRoute(ctx) }
		if err := inOrder(ctx, j.onPlan(found.want, backends), j.onPlan(found.want, route)); err != nil {
			return false, err
		}
	}
	desired, err := j.Manifests.Track(release.Canary, j.Namespace, found.want.Image)
	if err != nil {
		return false, err
	}
	if found.trial == nil {
		found.trial, err = j.store().dryApply(ctx, j, desired)
	}
	if found.trial == nil || err != nil {
		return false, err
	}
	if err := j.lookCanaryName(ctx, found.trial); err != nil {
		return false, err
	}
	return j.judgeTemplates(found.primary, found.trial)
}

// lookCanaryName refuses a release whose canary would have the name of somebody else's Deployment. A trial has a resource version
// only if there is a Deployment already.
func (j *job) lookCanaryName(ctx context.Context, trial *appsv1.Deployment) error {
	if trial.ResourceVersion == "" {
		return nil
	}
	return j.canaryNameFree(ctx)
}

func (j *job) canaryNameFree(ctx context.Context) error {
	live, err := j.liveTrack(ctx, release.Canary)
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	return j.nameFree(live)
}

// rehearseFirst rehearses the first release of an app, which has none of its objects yet.
func (j *job) rehearseFirst(ctx context.Context, want release.Release) error {
	return j.onPlan(want, func(j *job, ctx context.Context) error { _, err := j.canaryFirst(ctx); return err })(ctx)
}

// onPlan does a part of a release as a plan of its own, and gives what the API server would refuse of it as an error.
func (j *job) onPlan(want release.Release, part func(*job, context.Context) error) step {
	return func(ctx context.Context) error {
		planned, ledger := *j.Cluster, *j.ledger
		planned.Plan = &Plan{}
		if _, err := ledger.Start(want, j.By, now()); err != nil {
			return err
		}
		err := part(&job{Cluster: &planned, command: j.command, epoch: math.MaxInt64, ledger: &ledger, state: j.state}, ctx)
		return j.beforehand(err)
	}
}

// tryApply is a dry run of an apply of an object, whatever is live.
func (j *job) tryApply(ctx context.Context, o object, desired runtime.Object) (made metav1.Object, err error) {
	planned := *j.Cluster
	planned.Plan = &Plan{}
	trial := &job{Cluster: &planned}
	err = persist(ctx, func() (err error) {
		made, err = apiServer{&planned}.carryOut(ctx, trial, o, nil, trial.apply(desired.DeepCopyObject().(metav1.Object)))
		return err
	})
	return made, err
}

// beforehand is the error of a dry run before the lock. What the API server refuses for good is bad input. That a
// webhook takes no dry runs refuses nothing.
func (j *job) beforehand(err error) error {
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "does not support dry run"):
		j.log("dry run", "%v; whether the API server takes the release is seen when it is written", err)
		return nil
	case !refusedForGood(err):
		return fmt.Errorf("%w; nothing was changed", err)
	}
	where, _, _ := strings.Cut(err.Error(), ": ") // every error of a write begins with its object
	return refusal(where, err)
}

// refusal is a refused write as bad input: what the API server says of which field, and what to do about it.
func refusal(where string, err error) *usererr.Error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return &usererr.Error{Field: where, Problem: err.Error()}
	}
	what := status.Status().Message
	if details := status.Status().Details; details != nil && len(details.Causes) == 1 && details.Causes[0].Field != "" {
		where, what = where+": "+details.Causes[0].Field, details.Causes[0].Message
	}
	fix := "correct the manifests"
	switch {
	case apierrors.IsUnauthorized(err):
		fix = "check the credentials"
	case lacksPermission(err):
		fix = "give this account the permission"
	case apierrors.IsForbidden(err):
		fix = "correct the manifests, or what forbids it in the cluster"
	}
	return &usererr.Error{Field: where, Problem: "the API server refuses it: " + what, Fix: fix + "; nothing was changed"}
}

// refusedForGood says whether the API server has refused a write and would refuse it again.
func refusedForGood(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || transient(err) {
		return false
	}
	code := status.Status().Code
	return code >= http.StatusBadRequest && code < http.StatusInternalServerError && code != http.StatusRequestTimeout && code != http.StatusGone
}

// lacksPermission says whether it is the account that may not do something, not a policy that forbids it.
func lacksPermission(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), `" cannot `)
}
