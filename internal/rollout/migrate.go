package rollout

import (
	"bytes"
	"context"
	"fmt"

	"github.com/aymanbagabas/go-udiff"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/release"
)

// migration is an app that was deployed manually, as it was found.
type migration struct {
	from     string   // its Deployment; "" when only its ReplicaSets are left, or primary has taken over
	stale    []string // Deployments to remove once primary has the traffic
	image    string   // that runs, by digest
	replicas int32
	template *corev1.PodTemplateSpec // that runs; primary takes it over as it is
}

// Migrate takes an app that was deployed manually to the two tracks without taking its traffic away: a
// primary with the digest that runs beside the pods that are there, then the route, then the old pods
// go. from names the old Deployment; "" finds the one whose pods the Service selects. There is no stage in
// the ledger: each step is found from the cluster's state, so the same command continues after a crash.
func (c *Cluster) Migrate(ctx context.Context, from string) (Result, error) {
	return run(ctx, c, command[migration]{
		name: "migrate",
		look: func(ctx context.Context, j *job) (migration, *Result, error) {
			m, done, err := j.lookMigrate(ctx, from)
			if done && err == nil {
				return m, j.nothing("the app has its two tracks: nothing to do"), nil
			}
			return m, nil, err
		},
		act: func(ctx context.Context, j *job, m migration) (Result, error) { return j.migrate(ctx, m) },
	})
}

func (j *job) migrate(ctx context.Context, m migration) (Result, error) {
	j.log("ledger", "the app runs %s; it goes to Deployment %s with %d %s", release.DigestOf(m.image), j.deploymentName(release.Primary), m.replicas, plural(int(m.replicas), "replica"))
	if err := j.showDifferences(ctx, m); err != nil {
		return Result{}, err
	}
	var steps []step
	if m.from == j.deploymentName(release.Primary) {
		steps = append(steps, j.leaveOrphans(m.from))
	}
	err := inOrder(ctx, append(steps,
		func(ctx context.Context) error { return j.primaryBeside(ctx, m) },
		j.waitRollout(release.Primary, m.image),
		j.router().take,
		func(ctx context.Context) error { return j.removeOld(ctx, m) },
		j.handBack,
	)...)
	return j.result("%s is on primary and has all of the traffic; the app can be released by canary", release.DigestOf(m.image)), err
}

// leaveOrphans is the step that deletes a Deployment and leaves its pods: selectors cannot be changed, so primary
// has to be created anew under this name.
func (j *job) leaveOrphans(deployment string) step {
	return func(ctx context.Context) error {
		o := j.deployment(deployment)
		desired, err := j.Manifests.Track(release.Primary, j.Namespace, "")
		if err != nil {
			return err
		}
		before, after, err := change(ctx, j, o, func(live *appsv1.Deployment) (*write, error) {
			if live == nil || live.DeletionTimestamp != nil || sameSelector(live, desired) == nil {
				return nil, nil
			}
			return j.remove(metav1.DeletePropagationOrphan), nil
		})
		if err != nil {
			return err
		}
		if before != after {
			j.log(o.String(), "taken away from its pods, which go on serving: its selector cannot be changed")
		}
		if before == nil || after != nil && after.DeletionTimestamp == nil {
			return nil // primary is there already
		}
		return j.waitDeleted(deployment, "is gone, its pods are left")(ctx)
	}
}

// showDifferences says in what the manifests differ from what runs. That goes out with the first canary, which is judged
// with it.
func (j *job) showDifferences(ctx context.Context, m migration) error {
	runs, err := j.Manifests.Beside(*m.template, j.Namespace, m.image)
	if err != nil {
		return err
	}
	wanted, err := j.Manifests.Track(release.Primary, j.Namespace, m.image)
	if err != nil {
		return err
	}
	// As the API server would have them, under a name that is nobody's: it fills in what both leave open.
	for _, d := range []*appsv1.Deployment{runs, wanted} {
		d.Name += "-compared"
		var filled metav1.Object
		err := persist(ctx, func() (err error) {
			filled, err = j.deployment(d.Name).create(ctx, d.DeepCopy(), metav1.CreateOptions{FieldManager: fieldManager, DryRun: []string{metav1.DryRunAll}})
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: the API server refuses it: %w; nothing was changed", j.track(release.Primary), err)
		}
		d.Spec.Template = as[*appsv1.Deployment](filled).Spec.Template
	}
	was, err := yaml.Marshal(runs.Spec.Template)
	if err != nil {
		return err
	}
	will, err := yaml.Marshal(wanted.Spec.Template)
	if err != nil || bytes.Equal(was, will) {
		return err
	}
	if j.Log != nil { // in a dry run too
		diff := udiff.Unified("running", "manifests", string(was), string(will))
		j.Log(Event{At: now(), Object: j.track(release.Primary).String(), Message: "keeps the pod template that runs; the first canary brings the manifests':\n" + diff})
	}
	return nil
}

// primaryBeside creates primary with as many replicas as the app has. A Deployment that adopts the old pods
// must never be smaller than they are, so the number is there from the first write on; then it goes to
// the manager that owns it, and the apply that names it no more gives it up.
func (j *job) primaryBeside(ctx context.Context, m migration) error {
	desired, err := j.Manifests.Beside(*m.template, j.Namespace, m.image)
	if err != nil {
		return err
	}
	o := j.track(release.Primary)
	if j.planning() && m.from == desired.Name { // a dry run leaves the old one there
		desired.Spec.Replicas = &m.replicas
		j.record(o, nil, desired)
		return nil
	}
	_, after, err := j.applyDeployment(ctx, desired, func(live, desired *appsv1.Deployment) error {
		desired.Spec.Replicas = &m.replicas
		if live != nil {
			desired.Spec.Replicas = new(max(m.replicas, replicasOf(live)))
		}
		return nil
	})
	if err != nil || j.planning() {
		return err
	}
	j.log(o.String(), "applied with %s", release.DigestOf(m.image))
	if err := j.resize(ctx, desired.Name, replicasOf(after)); err != nil {
		return err
	}
	_, _, err = j.applyDeployment(ctx, desired, nil)
	return err
}

// removeOld removes what served before, in the way in which each ends its requests.
func (j *job) removeOld(ctx context.Context, m migration) error {
	for _, deployment := range m.stale {
		if err := j.deleteDeployment(ctx, deployment); err != nil {
			return err
		}
	}
	orphans, err := j.orphanedReplicaSets(ctx, j.appSelector())
	if err != nil {
		return err
	}
	for _, set := range orphans { // those that primary has not adopted
		if err := j.deleteOrphan(ctx, set.Name); err != nil {
			return err
		}
	}
	for _, deployment := range m.stale {
		if err := j.waitDeleted(deployment, "is gone with its pods")(ctx); err != nil {
			return err
		}
	}
	return nil
}

// deleteOrphan deletes a ReplicaSet without a Deployment; its pods go first.
func (j *job) deleteOrphan(ctx context.Context, name string) error {
	o := j.replicaSet(name)
	before, after, err := change(ctx, j, o, func(live *appsv1.ReplicaSet) (*write, error) {
		if live == nil || live.DeletionTimestamp != nil || metav1.GetControllerOf(live) != nil {
			return nil, nil
		}
		return j.remove(metav1.DeletePropagationForeground), nil
	})
	if err == nil && before != after {
		j.log(o.String(), "deleting")
	}
	return err
}
