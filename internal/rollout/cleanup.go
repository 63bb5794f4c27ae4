package rollout

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
)

// Cleanup drains and deletes the canary of a promoted release, or gives it the pods that primary ran before, and ends the
// release.
func (c *Cluster) Cleanup(ctx context.Context) (Result, error) {
	return run(ctx, c, command[struct{}]{
		name: "cleanup",
		look: func(ctx context.Context, j *job) (struct{}, *Result, error) {
			nothing, err := j.lookCleanup(ctx)
			return struct{}{}, nothing, err
		},
		act: func(ctx context.Context, j *job, _ struct{}) (Result, error) { return j.cleanup(ctx) },
	})
}

func (j *job) lookCleanup(ctx context.Context) (*Result, error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return nil, err
	}
	r := j.ledger.Release
	if r == nil {
		if late, err := j.orphaned(ctx); late && j.ledger.Warm != nil || err != nil { // it was kept, and its time is over
			return nil, err
		}
		return j.nothing("no release is in flight: nothing to do"), nil
	}
	if r.Stage != release.StagePromoted {
		return nil, &StageError{fmt.Errorf("release %s is at stage %s: cleanup follows promote; to end the release now run rollback", r.ID, r.Stage)}
	}
	j.goByLedger()
	return nil, j.stillReleased(ctx)
}

// stillReleased refuses to end a promoted release whose image primary no longer runs: who applies manifests from Git puts
// back what Git has. The canary is what is left of the release then.
func (j *job) stillReleased(ctx context.Context) error {
	r, o := j.ledger.Release, j.track(release.Primary)
	live, err := j.liveTrack(ctx, release.Primary)
	if err != nil {
		return err
	}
	if live == nil {
		return &StageError{fmt.Errorf("%s not found: somebody has deleted it since promotion; nothing was changed, rollback makes it again as it was before release %s", o, r.ID)}
	}
	image := j.Manifests.Image(live)
	if image == "" || release.DigestOf(image) == r.Digest() {
		return nil
	}
	return &StageError{fmt.Errorf("%s runs %s since %s changed it, not %s, which release %s promoted; nothing was changed: put that image where the old one comes from and run cleanup again once primary runs it, or run rollback, which ends the release", o, image, j.otherManager(live), r.Image, r.ID)}
}

// otherManager is who else has changed a Deployment's image last.
func (j *job) otherManager(live *appsv1.Deployment) string {
	var last metav1.ManagedFieldsEntry
	for _, entry := range live.ManagedFields {
		if ours(entry) || entry.Subresource != "" || entry.FieldsV1 == nil || !strings.Contains(entry.FieldsV1.GetRawString(), `"f:image"`) {
			continue
		}
		if last.Time == nil || entry.Time != nil && entry.Time.After(last.Time.Time) {
			last = entry
		}
	}
	return cmp.Or(last.Manager, "somebody else")
}

func (j *job) cleanup(ctx context.Context) (Result, error) {
	r := j.ledger.Release
	if r == nil {
		return j.removeOrphan(ctx)
	}
	after := j.hooks(release.AfterPromotion, 0) // of a promotion whose job has died
	if r.Return != nil {
		after = j.afterRollback
	}
	if err := inOrder(ctx, j.routeBack(free), j.leaveCanary, j.collect, after, j.letIn); err != nil {
		return Result{}, err
	}
	outcome, failed := release.OutcomePromoted, j.failedAt(release.AfterPromotion)
	if r.Return != nil {
		outcome, failed = release.OutcomeReturned, j.failedAt(release.AfterRollback)
	}
	if warm := j.ledger.Warm; warm != nil {
		return j.finish(outcome, "%s is released; the pods of release %s are kept until %s%s", r.Digest(), warm.Release, warm.Until.Format(time.RFC3339), failed)
	}
	return j.finish(outcome, "%s is released; the canary is gone%s", r.Digest(), failed)
}

// removeCanary is the step that deletes the canary, which has no weight any more, when it is drained, and the baseline, and
// gives back what others own.
func (j *job) removeCanary(drain step) step {
	return func(ctx context.Context) error {
		return inOrder(ctx,
			j.deleteDrained(drain),
			j.removeBesides,
			j.handBack,
		)
	}
}

// deleteDrained is the step that deletes the canary's Deployment, if there is one, when it is drained, and waits until it is
// gone with its pods.
func (j *job) deleteDrained(drain step) step {
	return func(ctx context.Context) error {
		j.ledger.Warm = nil
		live, err := j.liveTrack(ctx, release.Canary)
		if err == nil && live == nil && j.planning() {
			j.Plan.removeMade(j.track(release.Canary))
		}
		if err != nil || live == nil {
			return err
		}
		if j.foreign(live) {
			j.log(j.track(release.Canary).String(), "stays: no release has made it")
			return nil
		}
		if live.DeletionTimestamp == nil { // else its pods end already
			if err := drain(ctx); err != nil {
				return err
			}
		}
		if err := j.deleteDeployment(ctx, live.Name); err != nil {
			return err
		}
		return j.waitGone(release.Canary)(ctx)
	}
}
