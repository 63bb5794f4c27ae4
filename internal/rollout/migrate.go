package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// migration is an app that was deployed by hand, as it was found.
type migration struct {
	from     string   // its Deployment; "" when only its ReplicaSets are left, or primary has taken over
	stale    []string // Deployments to remove once primary has the traffic
	image    string   // that runs, by digest
	replicas int32
}

// Migrate takes an app that was deployed by hand to the two tracks without taking its traffic away: a
// primary with the digest that runs beside the pods that are there, then the route, then the old pods
// go. from names the old Deployment; "" finds the one whose pods the Service selects. There is no stage in
// the ledger: each step is found from the cluster's state, so the same command goes on after a death.
func (c *Cluster) Migrate(ctx context.Context, from string) (Result, error) {
	var m migration
	return c.run(ctx, command{
		look: func(ctx context.Context, j *job) (result Result, done bool, err error) {
			m, done, err = j.lookMigrate(ctx, from)
			return j.result("migrate", "the app has its two tracks: nothing to do"), done, err
		},
		act: func(ctx context.Context, j *job) (Result, error) { return j.migrate(ctx, m) },
	})
}

func (j *job) lookMigrate(ctx context.Context, from string) (m migration, done bool, err error) {
	if r := j.ledger.Release; r != nil {
		return m, false, &release.InFlightError{Release: *r}
	}
	list, err := j.Kube.AppsV1().Deployments(j.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return m, false, fmt.Errorf("Deployments of %s: %w; nothing was changed", j.Namespace, err)
	}
	desired, err := j.Manifests.Track(release.Primary, j.Namespace, "")
	if err != nil {
		return m, false, err
	}
	selected := labels.SelectorFromSet(j.Manifests.Service.Spec.Selector)
	var primary, old *appsv1.Deployment
	for i := range list.Items {
		d := &list.Items[i]
		ours := sameSelector(d, desired) == nil && d.Name == desired.Name
		switch {
		case ours:
			primary = d
		case !selected.Matches(labels.Set(d.Spec.Template.Labels)):
		case d.Name == j.deploymentName(release.Canary):
			m.stale = append(m.stale, d.Name)
		case from != "" && d.Name != from:
		case old != nil:
			return m, false, &usererr.Error{Field: "--from", Problem: fmt.Sprintf("the Service selects the pods of Deployments %s and %s", old.Name, d.Name), Fix: "name the one that the traffic goes to; delete the others first if nobody needs them"}
		default:
			old = d
		}
	}
	orphans, err := j.orphanedReplicaSets(ctx, selected) // a migration that died has left them
	if err != nil {
		return m, false, err
	}
	routed, err := j.convertible(ctx)
	if err != nil {
		return m, false, err
	}
	switch {
	case primary != nil && old == nil && len(m.stale) == 0 && len(orphans) == 0 && routed:
		return m, true, nil
	case primary == nil && old == nil && len(orphans) == 0:
		problem := "no Deployment has pods that the Service selects"
		if from != "" {
			problem = fmt.Sprintf("there is no Deployment %q whose pods the Service selects", from)
		}
		return m, false, &usererr.Error{Field: "--from", Problem: problem, Fix: "for an app that is not deployed yet run canary: its first release goes straight to primary"}
	}
	if primary != nil { // begun before
		if m.image = j.Manifests.Image(primary); release.DigestOf(m.image) == "" {
			return m, false, &usererr.Error{Field: "Deployment " + primary.Name, Problem: "its image is a tag", Fix: "give it the image by digest"}
		}
		m.replicas = replicasOf(primary)
	}
	if old != nil {
		if err := j.scaledByOthers(ctx, old.Name, desired.Name); err != nil {
			return m, false, err
		}
		m.from, m.replicas = old.Name, max(m.replicas, replicasOf(old))
		if old.Name != desired.Name {
			m.stale = append(m.stale, old.Name)
		}
	}
	if m.image == "" {
		m.image, err = j.runningDigest(ctx, old, selected)
	}
	return m, false, err
}

func replicasOf(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// orphanedReplicaSets are those without a Deployment whose pods the Service selects.
func (j *job) orphanedReplicaSets(ctx context.Context, selected labels.Selector) ([]string, error) {
	sets, err := j.Kube.AppsV1().ReplicaSets(j.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("ReplicaSets of %s: %w; nothing more was changed", j.Namespace, err)
	}
	var names []string
	for _, set := range sets.Items {
		if metav1.GetControllerOf(&set) == nil && set.DeletionTimestamp == nil && selected.Matches(labels.Set(set.Spec.Template.Labels)) {
			names = append(names, set.Name)
		}
	}
	return names, nil
}

// runningDigest is the image that the app's pods run, by the digest that their node pulled.
func (j *job) runningDigest(ctx context.Context, old *appsv1.Deployment, selected labels.Selector) (string, error) {
	pods, err := j.Kube.CoreV1().Pods(j.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selected.String()})
	if err != nil {
		return "", fmt.Errorf("pods of Service %s: %w; nothing was changed", j.Manifests.Service.Name, err)
	}
	if old != nil {
		own, err := metav1.LabelSelectorAsSelector(old.Spec.Selector)
		if err != nil {
			return "", err
		}
		pods.Items = slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
			return !own.Matches(labels.Set(p.Labels)) || p.Labels[manifest.TrackLabel] == string(release.Canary)
		})
	}
	found := map[string]string{} // by image
	for _, pod := range pods.Items {
		for i, container := range pod.Spec.Containers {
			if len(pod.Spec.Containers) > 1 && container.Name != "app" && container.Name != j.app() {
				continue // a sidecar
			}
			id := ""
			for _, status := range pod.Status.ContainerStatuses {
				if status.Name == pod.Spec.Containers[i].Name {
					id = status.ImageID
				}
			}
			image, err := byDigest(container.Image, id)
			if err != nil {
				return "", &usererr.Error{Field: "pod " + pod.Name, Problem: err.Error(), Fix: "give its Deployment the image by digest"}
			}
			found[image] = pod.Name
		}
	}
	if len(found) != 1 {
		var each []string
		for image, pod := range found {
			each = append(each, fmt.Sprintf("pod %s runs %s", pod, image))
		}
		slices.Sort(each)
		if len(each) == 0 {
			each = []string{"it has none"}
		}
		return "", &usererr.Error{Field: "pods of Service " + j.Manifests.Service.Name, Problem: "they do not all run one image: " + strings.Join(each, ", "), Fix: "finish the roll-out that is under way, then run migrate"}
	}
	for image := range found {
		return image, nil
	}
	return "", nil
}

// byDigest names an image by its digest: its own, or that of the imageID which the node gives.
func byDigest(image, imageID string) (string, error) {
	if release.DigestOf(image) != "" {
		return release.ParseImage("image", image)
	}
	_, digest, ok := strings.Cut(imageID, "@")
	ref, err := name.ParseReference(image)
	if err != nil || !ok {
		return "", fmt.Errorf("its image %s is a tag, and its node does not say the digest (imageID %q)", image, imageID)
	}
	return release.ParseImage("imageID", ref.Context().Name()+"@"+digest)
}

// scaledByOthers refuses an HPA that would lose its Deployment.
func (j *job) scaledByOthers(ctx context.Context, old, primary string) error {
	if old == primary {
		return nil
	}
	hpa, err := j.hpaOf(ctx, old)
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	if hpa == nil {
		return nil
	}
	return &usererr.Error{Field: "HorizontalPodAutoscaler " + hpa.Name, Problem: fmt.Sprintf("it scales Deployment %s, which goes", old), Fix: "let it scale " + primary + " (that may be done before there is one), then run migrate"}
}

// convertible says whether the VirtualService has the release's route already, and refuses one that migrate
// cannot make into it: one that splits traffic, or has no route to the Service.
func (j *job) convertible(ctx context.Context) (routed bool, err error) {
	live, err := j.Istio.NetworkingV1().VirtualServices(j.Namespace).Get(ctx, j.Manifests.VirtualService.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("VirtualService %s: %w; nothing was changed", j.Manifests.VirtualService.Name, err)
	}
	object := "VirtualService " + j.Namespace + "/" + live.Name
	for _, r := range j.Manifests.Routes(live) {
		if manifest.Weights(live, r).Canary != 0 {
			return false, &usererr.Error{Field: object, Problem: "the canary has traffic", Fix: "end that release first: route 100 to primary"}
		}
	}
	if routed = len(j.Manifests.Routes(live)) > 0; routed || len(j.plain(live)) > 0 {
		return routed, nil
	}
	return false, &usererr.Error{Field: object, Problem: "it has no http route that leads to the Service alone, with one destination", Fix: "give it such a route (or the manifest's, primary 100 and canary 0, once primary has pods), then run migrate"}
}

// plain are the http routes with one destination, the app's Service.
func (j *job) plain(vs *networking.VirtualService) []int {
	var found []int
	for i, http := range vs.Spec.Http {
		if len(http.Route) == 1 && http.Route[0].Destination != nil && j.Manifests.IsHost(http.Route[0].Destination.Host, vs.Namespace) {
			found = append(found, i)
		}
	}
	return found
}

func (j *job) migrate(ctx context.Context, m migration) (Result, error) {
	j.log("ledger", "the app runs %s; it goes to Deployment %s with %d %s", release.DigestOf(m.image), j.deploymentName(release.Primary), m.replicas, plural(int(m.replicas), "replica"))
	if m.from == j.deploymentName(release.Primary) {
		if err := j.leaveOrphans(ctx, m.from); err != nil {
			return Result{}, err
		}
	}
	if err := j.primaryBeside(ctx, m); err != nil {
		return Result{}, err
	}
	if err := j.waitRollout(ctx, release.Primary); err != nil {
		return Result{}, err
	}
	if err := j.applyService(ctx); err != nil { // ready pods of ours are there: its selector may change
		return Result{}, err
	}
	if err := j.waitEndpoints(ctx, release.Primary, ""); err != nil {
		return Result{}, err
	}
	if err := j.ensureSubsets(ctx); err != nil {
		return Result{}, err
	}
	if err := j.settle(ctx, "DestinationRule "+j.Namespace+"/"+j.Manifests.DestinationRule.Name, "the subsets"); err != nil {
		return Result{}, err
	}
	if err := j.convertRoute(ctx); err != nil {
		return Result{}, err
	}
	if err := j.ensureRoute(ctx); err != nil {
		return Result{}, err
	}
	if err := j.settle(ctx, "VirtualService "+j.Namespace+"/"+j.Manifests.VirtualService.Name, "the route"); err != nil {
		return Result{}, err
	}
	if err := j.removeOld(ctx, m); err != nil {
		return Result{}, err
	}
	if err := j.handBack(ctx); err != nil {
		return Result{}, err
	}
	return j.result("migrate", "%s is on primary and has all of the traffic; the app can be released by canary", release.DigestOf(m.image)), nil
}

// leaveOrphans deletes a Deployment and leaves its pods: selectors cannot be changed, so primary has to be
// made anew under this name.
func (j *job) leaveOrphans(ctx context.Context, deployment string) error {
	object := "Deployment " + j.Namespace + "/" + deployment
	err := j.write(ctx, object, func() error {
		live, err := j.deployment(ctx, deployment)
		if err != nil || live == nil || live.DeletionTimestamp != nil {
			return err
		}
		if err := j.fence(live); err != nil {
			return err
		}
		desired, err := j.Manifests.Track(release.Primary, j.Namespace, "")
		if err != nil || sameSelector(live, desired) == nil {
			return err
		}
		policy := metav1.DeletePropagationOrphan
		err = j.Kube.AppsV1().Deployments(j.Namespace).Delete(ctx, deployment, metav1.DeleteOptions{
			Preconditions:     &metav1.Preconditions{UID: &live.UID, ResourceVersion: &live.ResourceVersion},
			PropagationPolicy: &policy, DryRun: j.dryRun(),
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		j.record(object, live, (*appsv1.Deployment)(nil))
		j.log(object, "taken away from its pods, which go on serving: its selector cannot be changed")
		return nil
	})
	if err != nil || j.plan != nil {
		return err
	}
	return j.waitNoDeployment(ctx, deployment, "is gone, its pods are left")
}

// primaryBeside makes primary with as many replicas as the app has. A Deployment that adopts the old pods
// must never be smaller than they are, so the number is there from the first write on; then it goes to
// the manager that owns it, and the apply that names it no more gives it up.
func (j *job) primaryBeside(ctx context.Context, m migration) error {
	desired, err := j.Manifests.Track(release.Primary, j.Namespace, m.image)
	if err != nil {
		return err
	}
	object := "Deployment " + j.Namespace + "/" + desired.Name
	if j.plan != nil && m.from == desired.Name { // a dry run leaves the old one there
		desired.Spec.Replicas = &m.replicas
		j.record(object, (*appsv1.Deployment)(nil), desired)
		return nil
	}
	_, after, err := j.applyDeployment(ctx, desired, func(live *appsv1.Deployment) *int32 {
		size := m.replicas
		if live != nil {
			size = max(size, replicasOf(live))
		}
		return &size
	})
	if err != nil || j.plan != nil {
		return err
	}
	j.log(object, "applied with %s", release.DigestOf(m.image))
	if err := j.applySize(ctx, desired.Name, replicasOf(after)); err != nil {
		return err
	}
	_, _, err = j.applyDeployment(ctx, desired, nil)
	return err
}

// convertRoute makes each plain route of the VirtualService the release's, at rest. All else in it stays.
func (j *job) convertRoute(ctx context.Context) error {
	service := j.Manifests.VirtualService.Name
	object := "VirtualService " + j.Namespace + "/" + service
	return j.write(ctx, object, func() error {
		live, err := j.Istio.NetworkingV1().VirtualServices(j.Namespace).Get(ctx, service, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil // ensureRoute makes it
		}
		if err != nil {
			return err
		}
		if err := j.fence(live); err != nil {
			return err
		}
		if len(j.Manifests.Routes(live)) > 0 {
			return nil
		}
		var ops []patchOp
		for _, i := range j.plain(live) {
			both, err := bothTracks(live.Spec.Http[i].Route[0])
			if err != nil {
				return err
			}
			ops = append(ops, patchOp{"replace", fmt.Sprintf("/spec/http/%d/route", i), both})
		}
		if err := j.patchRoute(ctx, live, ops); err != nil {
			return err
		}
		j.routed = true
		j.log(object, "leads to primary by subset; the canary has weight 0")
		return nil
	})
}

// bothTracks is a destination as two, with all else that it has.
func bothTracks(plain *networkingapi.HTTPRouteDestination) ([]any, error) {
	var both []any
	for track, weight := range map[release.Track]int32{release.Primary: 100, release.Canary: 0} {
		d := plain.DeepCopy()
		d.Destination.Subset, d.Weight = string(track), weight
		text, err := json.Marshal(d)
		if err != nil {
			return nil, err
		}
		var value map[string]any
		if err := json.Unmarshal(text, &value); err != nil {
			return nil, err
		}
		value["weight"] = weight // a 0 is left out otherwise
		if track == release.Primary {
			both = append([]any{value}, both...)
		} else {
			both = append(both, value)
		}
	}
	return both, nil
}

// removeOld removes what served before, in the way in which each ends its requests.
func (j *job) removeOld(ctx context.Context, m migration) error {
	for _, deployment := range m.stale {
		if err := j.deleteDeployment(ctx, deployment); err != nil {
			return err
		}
	}
	orphans, err := j.orphanedReplicaSets(ctx, labels.SelectorFromSet(j.Manifests.Service.Spec.Selector))
	if err != nil {
		return err
	}
	for _, set := range orphans { // those that primary has not adopted
		object := "ReplicaSet " + j.Namespace + "/" + set
		err := j.write(ctx, object, func() error {
			policy := metav1.DeletePropagationForeground
			err := j.Kube.AppsV1().ReplicaSets(j.Namespace).Delete(ctx, set, metav1.DeleteOptions{PropagationPolicy: &policy, DryRun: j.dryRun()})
			if err == nil {
				j.log(object, "deleting")
			}
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if j.plan != nil {
		return nil
	}
	for _, deployment := range m.stale {
		if err := j.waitNoDeployment(ctx, deployment, "is gone with its pods"); err != nil {
			return err
		}
	}
	return nil
}
