package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// writeBackoff bounds the attempts of one write: about 12 seconds.
var writeBackoff = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 8}

// write tries a read-modify-write until it holds. It is safe to try again after an unknown outcome:
// each attempt reads anew, and its write names what it read.
func (j *job) write(ctx context.Context, object string, attempt func() error) error {
	err := retry.OnError(writeBackoff, func(err error) bool { return ctx.Err() == nil && transient(err) }, attempt)
	if err == nil || errors.Is(err, ErrLockLost) || errors.As(err, new(*usererr.Error)) {
		return err
	}
	return fmt.Errorf("%s: %w; running the command again goes on from here", object, err)
}

func transient(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsInternalError(err) || apierrors.IsTimeout(err) || apierrors.IsServiceUnavailable(err) ||
		utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) || utilnet.IsTimeout(err)
}

func (j *job) dryRun() []string {
	if j.plan != nil {
		return []string{metav1.DryRunAll}
	}
	return nil
}

// patchOptions are those of every server-side apply. Force takes a field over from whoever set it,
// which for our own Deployments' fields is what a release is.
func (j *job) applyOptions(manager string) metav1.PatchOptions {
	force := true
	return metav1.PatchOptions{FieldManager: manager, Force: &force, DryRun: j.dryRun(), FieldValidation: metav1.FieldValidationStrict}
}

func (j *job) patchOptions() metav1.PatchOptions {
	return metav1.PatchOptions{FieldManager: fieldManager, DryRun: j.dryRun()}
}

func (j *job) createOptions() metav1.CreateOptions {
	return metav1.CreateOptions{FieldManager: fieldManager, DryRun: j.dryRun()}
}

// applyDeployment applies a track's Deployment under the fence and returns what is live before and
// after. size, when given, makes the number of replicas out of what is live.
func (j *job) applyDeployment(ctx context.Context, desired *appsv1.Deployment, size func(live *appsv1.Deployment) *int32) (before, after *appsv1.Deployment, err error) {
	object := "Deployment " + desired.Namespace + "/" + desired.Name
	deployments := j.Kube.AppsV1().Deployments(j.Namespace)
	err = j.write(ctx, object, func() error {
		live, err := j.deployment(ctx, desired.Name)
		if err != nil {
			return err
		}
		desired := desired.DeepCopy()
		if live != nil {
			if err := j.fence(live); err != nil {
				return err
			}
			if err := sameSelector(live, desired); err != nil {
				return err
			}
			desired.ResourceVersion = live.ResourceVersion
		}
		if size != nil {
			desired.Spec.Replicas = size(live)
		}
		metav1.SetMetaDataAnnotation(&desired.ObjectMeta, epochAnnotation, strconv.FormatInt(j.epoch, 10))
		body, err := applyBody(desired)
		if err != nil {
			return err
		}
		after, err = deployments.Patch(ctx, desired.Name, types.ApplyPatchType, body, j.applyOptions(fieldManager))
		if err != nil {
			return err
		}
		j.record(object, live, after)
		if j.applied == nil {
			j.applied = map[string]written{}
		}
		j.applied[desired.Name] = written{after.UID, after.Generation}
		before = live
		return nil
	})
	return before, after, err
}

// sameSelector refuses a Deployment that was made with another selector: selectors are immutable.
func sameSelector(live, desired *appsv1.Deployment) error {
	if live.Spec.Selector != nil && live.Spec.Selector.MatchLabels[manifest.TrackLabel] == desired.Spec.Selector.MatchLabels[manifest.TrackLabel] {
		return nil
	}
	return &usererr.Error{
		Field:   "Deployment " + live.Namespace + "/" + live.Name,
		Problem: "it was made by hand with a selector that does not name its track, and selectors cannot be changed",
		Fix:     "run `crossbill migrate`, which takes it to the two tracks without taking its traffic away",
	}
}

// deployment reads a Deployment; nil when it is not there.
func (j *job) deployment(ctx context.Context, name string) (*appsv1.Deployment, error) {
	live, err := j.Kube.AppsV1().Deployments(j.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return live, err
}

// applyBody is an object as server-side apply takes it: without what the server fills in.
func applyBody(object runtime.Object) ([]byte, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, err
	}
	delete(content, "status")
	if metadata, ok := content["metadata"].(map[string]any); ok {
		delete(metadata, "creationTimestamp")
		delete(metadata, "managedFields")
	}
	return json.Marshal(content)
}

// applyService applies the Service.
func (j *job) applyService(ctx context.Context) error {
	service := j.Manifests.Service.DeepCopy()
	service.APIVersion, service.Kind, service.Namespace = "v1", "Service", j.Namespace
	object := "Service " + j.Namespace + "/" + service.Name
	return j.write(ctx, object, func() error {
		body, err := applyBody(service)
		if err != nil {
			return err
		}
		services := j.Kube.CoreV1().Services(j.Namespace)
		var live *corev1.Service
		if j.plan != nil { // for its diff; the apply itself needs no reading
			live, err = services.Get(ctx, service.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				live = nil
			} else if err != nil {
				return err
			}
		}
		after, err := services.Patch(ctx, service.Name, types.ApplyPatchType, body, j.applyOptions(fieldManager))
		if err != nil {
			return err
		}
		j.record(object, live, after)
		return nil
	})
}

// sizePrimary gives primary the manifest's number of replicas. One that an HPA owns is brought back to the
// size that it had when the release began, if the HPA has shrunk it since.
func (j *job) sizePrimary(ctx context.Context, live *appsv1.Deployment, created bool) error {
	want := j.Manifests.Deployment.Spec.Replicas
	if before := j.ledger.Release.Replicas; (want == nil || live.Spec.Replicas != nil && *live.Spec.Replicas == *want) && (live.Spec.Replicas == nil || *live.Spec.Replicas >= before) {
		return nil
	}
	hpa, err := j.hpaOf(ctx, live.Name)
	switch {
	case err != nil:
		return err
	case hpa != nil && j.ledger.Release.Stage == release.StagePromoting:
		j.shrunkBy = hpa
		_, err := j.regrow(ctx)
		return err
	case hpa != nil:
		j.log("Deployment "+live.Name, "its replicas are an HPA's: left alone")
		return nil
	case want == nil, j.plan != nil && created: // only the plan has made it
		return nil
	}
	return j.applySize(ctx, live.Name, *want)
}

// hpaOf is the HPA that scales a Deployment; nil when there is none.
func (j *job) hpaOf(ctx context.Context, deployment string) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	hpas, err := j.Kube.AutoscalingV2().HorizontalPodAutoscalers(j.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("HorizontalPodAutoscalers of %s: %w", j.Namespace, err)
	}
	for i := range hpas.Items {
		if target := hpas.Items[i].Spec.ScaleTargetRef; target.Kind == "Deployment" && target.Name == deployment {
			return &hpas.Items[i], nil
		}
	}
	return nil, nil
}

// applySize gives a Deployment a number of replicas, under a manager of its own that an HPA may take it from.
func (j *job) applySize(ctx context.Context, name string, replicas int32) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": name, "namespace": j.Namespace},
		"spec":     map[string]any{"replicas": replicas},
	})
	if err != nil {
		return err
	}
	return j.write(ctx, "Deployment "+name, func() error {
		after, err := j.Kube.AppsV1().Deployments(j.Namespace).Patch(ctx, name, types.ApplyPatchType, body, j.applyOptions(sizeManager))
		if err == nil {
			j.applied[name] = written{after.UID, after.Generation}
		}
		return err
	})
}

// regrow brings a primary that its HPA has shrunk back to the size that it had when the release began, or
// as far as the HPA allows, and says whether it had to. The HPA goes on from there.
func (j *job) regrow(ctx context.Context) (grown bool, err error) {
	name := j.deploymentName(release.Primary)
	object := "Deployment " + j.Namespace + "/" + name
	want := min(j.ledger.Release.Replicas, j.shrunkBy.Spec.MaxReplicas)
	err = j.write(ctx, object, func() error {
		live, err := j.deployment(ctx, name)
		switch {
		case err != nil:
			return err
		case live == nil:
			return errors.New("somebody has deleted it")
		case live.Spec.Replicas != nil && *live.Spec.Replicas >= want:
			return nil
		}
		if err := j.fence(live); err != nil {
			return err
		}
		body, err := j.guard(live, patchOp{"replace", "/spec/replicas", want})
		if err != nil {
			return err
		}
		after, err := j.Kube.AppsV1().Deployments(j.Namespace).Patch(ctx, name, types.JSONPatchType, body, j.patchOptions())
		if err != nil {
			return err
		}
		j.record(object, live, after)
		j.applied[name], grown = written{after.UID, after.Generation}, true
		j.log(object, "brought back to %d replicas, which it had when the release began: HorizontalPodAutoscaler %s had shrunk it", want, j.shrunkBy.Name)
		return nil
	})
	return grown, err
}

// patchOp is one operation of a JSON patch (RFC 6902).
type patchOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// guard makes a patch hold only for the resourceVersion that was read (a conflict otherwise), and
// stamps the epoch. Lists of VirtualService and DestinationRule are atomic under server-side apply,
// so these two are changed by such patches: only the named fields change, whatever else is there.
func (j *job) guard(object metav1.Object, ops ...patchOp) ([]byte, error) {
	epoch := strconv.FormatInt(j.epoch, 10)
	guarded := []patchOp{{"replace", "/metadata/resourceVersion", object.GetResourceVersion()}}
	if object.GetAnnotations() == nil {
		guarded = append(guarded, patchOp{"add", "/metadata/annotations", map[string]string{epochAnnotation: epoch}})
	} else {
		// ~1 is "/" in a JSON pointer.
		guarded = append(guarded, patchOp{"add", "/metadata/annotations/crossbill.our-org.github.com~1epoch", epoch})
	}
	return json.Marshal(append(guarded, ops...))
}

// route gives the canary a weight in percent and primary the rest, in every http route that is the
// release's.
func (j *job) route(ctx context.Context, weight int) error {
	name := j.Manifests.VirtualService.Name
	object := "VirtualService " + j.Namespace + "/" + name
	services := j.Istio.NetworkingV1().VirtualServices(j.Namespace)
	return j.write(ctx, object, func() error {
		live, err := services.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := j.fence(live); err != nil {
			return err
		}
		routes := j.Manifests.Routes(live)
		if len(routes) == 0 && weight == 0 && !j.Manifests.Named(live, release.Canary) {
			return nil // nothing leads to the canary: there is no traffic to take away
		}
		if len(routes) == 0 {
			return routeMissing(object)
		}
		sticky := j.stickyNow(weight)
		if sticky == pinned {
			if err := j.stickyRefusal(live); err != nil {
				return err
			}
		}
		ops, routes, insert, err := j.stickyOps(live, sticky)
		if err != nil {
			return err
		}
		want := manifest.WeightPair{Primary: int32(100 - weight), Canary: int32(weight)}
		for i, r := range routes {
			if manifest.Weights(live, j.Manifests.Routes(live)[i]) == want {
				continue
			}
			path := fmt.Sprintf("/spec/http/%d/route/", r.HTTP)
			ops = append(ops,
				patchOp{"add", fmt.Sprintf("%s%d/weight", path, r.Primary), &want.Primary},
				patchOp{"add", fmt.Sprintf("%s%d/weight", path, r.Canary), &want.Canary})
		}
		if ops = append(ops, insert...); len(ops) == 0 {
			return nil
		}
		if err := j.patchRoute(ctx, live, ops); err != nil {
			return err
		}
		j.log(object, "routes %d %% to primary, %d %% to canary%s", want.Primary, want.Canary, map[stickiness]string{
			free: "", pinned: "; browsers stay where they are", assets: "; pages that are open still get the canary's assets",
		}[sticky])
		return nil
	})
}

// patchRoute carries operations out on a VirtualService as it was read.
func (j *job) patchRoute(ctx context.Context, live *networking.VirtualService, ops []patchOp) error {
	body, err := j.guard(live, ops...)
	if err != nil {
		return err
	}
	after, err := j.Istio.NetworkingV1().VirtualServices(j.Namespace).Patch(ctx, live.Name, types.JSONPatchType, body, j.patchOptions())
	if err != nil {
		return err
	}
	j.record("VirtualService "+j.Namespace+"/"+live.Name, live, after)
	return nil
}

func routeMissing(object string) error {
	return &usererr.Error{
		Field:   object,
		Problem: "no http route in the cluster names both subsets of the Service",
		Fix:     "apply the manifest's route (primary 100, canary 0) to it; Crossbill never adds routes to an object that others own",
	}
}

func subsetMoved(object string, track release.Track) error {
	return &usererr.Error{
		Field:   object,
		Problem: fmt.Sprintf("its subset %s selects other pods than those labelled %s: %s", track, manifest.TrackLabel, track),
		Fix:     fmt.Sprintf("give the subset the label %s: %s, or its other users a subset of another name", manifest.TrackLabel, track),
	}
}

// ensureSubsets creates the DestinationRule or adds the subsets that it lacks.
func (j *job) ensureSubsets(ctx context.Context) error {
	rule := j.Manifests.DestinationRule.DeepCopy()
	rule.Namespace = j.Namespace
	object := "DestinationRule " + j.Namespace + "/" + rule.Name
	rules := j.Istio.NetworkingV1().DestinationRules(j.Namespace)
	return j.write(ctx, object, func() error {
		live, err := rules.Get(ctx, rule.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			after, err := rules.Create(ctx, rule, j.createOptions())
			if err != nil {
				return err
			}
			j.record(object, (*networking.DestinationRule)(nil), after)
			j.log(object, "created with subsets primary and canary")
			return nil
		}
		if err != nil {
			return err
		}
		if err := j.fence(live); err != nil {
			return err
		}
		var ops []patchOp
		for _, track := range []release.Track{release.Primary, release.Canary} {
			if !manifest.HasSubset(live, track) {
				if slices.ContainsFunc(live.Spec.Subsets, func(s *networkingapi.Subset) bool { return s.Name == string(track) }) {
					return subsetMoved(object, track)
				}
				ops = append(ops, patchOp{"add", "/spec/subsets/-", map[string]any{"name": track, "labels": map[string]any{manifest.TrackLabel: track}}})
			}
		}
		if len(ops) == 0 {
			return nil
		}
		if len(live.Spec.Subsets) == 0 {
			ops = append([]patchOp{{"add", "/spec/subsets", []any{}}}, ops...)
		}
		body, err := j.guard(live, ops...)
		if err != nil {
			return err
		}
		after, err := rules.Patch(ctx, rule.Name, types.JSONPatchType, body, j.patchOptions())
		if err != nil {
			return err
		}
		j.record(object, live, after)
		j.log(object, "added the missing subsets")
		return nil
	})
}

// ensureRoute creates what carries traffic and is missing: Gateways and the VirtualService at rest.
// What is there is left as it is.
func (j *job) ensureRoute(ctx context.Context) error {
	for _, gateway := range j.Manifests.Gateways {
		gateway := gateway.DeepCopy()
		gateway.Namespace = j.Namespace
		object := "Gateway " + j.Namespace + "/" + gateway.Name
		gateways := j.Istio.NetworkingV1().Gateways(j.Namespace)
		err := j.write(ctx, object, func() error {
			_, err := gateways.Get(ctx, gateway.Name, metav1.GetOptions{})
			if !apierrors.IsNotFound(err) {
				return err
			}
			after, err := gateways.Create(ctx, gateway, j.createOptions())
			if err != nil {
				return err
			}
			j.record(object, (*networking.Gateway)(nil), after)
			j.log(object, "created")
			return nil
		})
		if err != nil {
			return err
		}
	}
	if j.routed {
		return nil
	}
	route := j.Manifests.VirtualService.DeepCopy()
	route.Namespace = j.Namespace
	object := "VirtualService " + j.Namespace + "/" + route.Name
	services := j.Istio.NetworkingV1().VirtualServices(j.Namespace)
	return j.write(ctx, object, func() error {
		live, err := services.Get(ctx, route.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			after, err := services.Create(ctx, route, j.createOptions())
			if err != nil {
				return err
			}
			j.record(object, (*networking.VirtualService)(nil), after)
			j.log(object, "created: 100 %% to primary")
			return nil
		}
		if err != nil {
			return err
		}
		if len(j.Manifests.Routes(live)) == 0 {
			return routeMissing(object)
		}
		return nil
	})
}

// deleteDeployment deletes a track's Deployment under the fence; its pods go first.
func (j *job) deleteDeployment(ctx context.Context, name string) error {
	object := "Deployment " + j.Namespace + "/" + name
	return j.write(ctx, object, func() error {
		live, err := j.deployment(ctx, name)
		if err != nil || live == nil {
			return err
		}
		if err := j.fence(live); err != nil {
			return err
		}
		if live.DeletionTimestamp != nil {
			return nil
		}
		policy := metav1.DeletePropagationForeground
		err = j.Kube.AppsV1().Deployments(j.Namespace).Delete(ctx, name, metav1.DeleteOptions{
			Preconditions:     &metav1.Preconditions{UID: &live.UID, ResourceVersion: &live.ResourceVersion},
			PropagationPolicy: &policy,
			DryRun:            j.dryRun(),
		})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		j.record(object, live, (*appsv1.Deployment)(nil))
		j.log(object, "deleting")
		return nil
	})
}

// stamp puts this lock's epoch on every object that the last holder could still write.
func (j *job) stamp(ctx context.Context) error {
	for _, track := range []release.Track{release.Primary, release.Canary} {
		name := j.deploymentName(track)
		deployments := j.Kube.AppsV1().Deployments(j.Namespace)
		err := j.stampOne(ctx, "Deployment "+name,
			func() (metav1.Object, error) { return deployments.Get(ctx, name, metav1.GetOptions{}) },
			func(body []byte) error {
				_, err := deployments.Patch(ctx, name, types.JSONPatchType, body, j.patchOptions())
				return err
			})
		if err != nil {
			return err
		}
	}
	rules, rule := j.Istio.NetworkingV1().DestinationRules(j.Namespace), j.Manifests.DestinationRule.Name
	err := j.stampOne(ctx, "DestinationRule "+rule,
		func() (metav1.Object, error) { return rules.Get(ctx, rule, metav1.GetOptions{}) },
		func(body []byte) error {
			_, err := rules.Patch(ctx, rule, types.JSONPatchType, body, j.patchOptions())
			return err
		})
	if err != nil {
		return err
	}
	services, service := j.Istio.NetworkingV1().VirtualServices(j.Namespace), j.Manifests.VirtualService.Name
	return j.stampOne(ctx, "VirtualService "+service,
		func() (metav1.Object, error) { return services.Get(ctx, service, metav1.GetOptions{}) },
		func(body []byte) error {
			_, err := services.Patch(ctx, service, types.JSONPatchType, body, j.patchOptions())
			return err
		})
}

func (j *job) stampOne(ctx context.Context, object string, get func() (metav1.Object, error), patch func([]byte) error) error {
	return j.write(ctx, object, func() error {
		live, err := get()
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := j.fence(live); err != nil {
			return err
		}
		body, err := j.guard(live)
		if err != nil {
			return err
		}
		return patch(body)
	})
}

// handBack gives up the ownership of fields in the VirtualService and the DestinationRule that our
// patches took, so that the next unforced apply of whoever owns them succeeds: the objects are again
// as the manifest has them.
func (j *job) handBack(ctx context.Context) error {
	if j.plan != nil {
		return nil
	}
	services, service := j.Istio.NetworkingV1().VirtualServices(j.Namespace), j.Manifests.VirtualService.Name
	err := j.disown(ctx, "VirtualService "+service,
		func() (metav1.Object, error) { return services.Get(ctx, service, metav1.GetOptions{}) },
		func(body []byte) error {
			_, err := services.Patch(ctx, service, types.JSONPatchType, body, j.patchOptions())
			return err
		})
	if err != nil {
		return err
	}
	rules, rule := j.Istio.NetworkingV1().DestinationRules(j.Namespace), j.Manifests.DestinationRule.Name
	return j.disown(ctx, "DestinationRule "+rule,
		func() (metav1.Object, error) { return rules.Get(ctx, rule, metav1.GetOptions{}) },
		func(body []byte) error {
			_, err := rules.Patch(ctx, rule, types.JSONPatchType, body, j.patchOptions())
			return err
		})
}

func (j *job) disown(ctx context.Context, object string, get func() (metav1.Object, error), patch func([]byte) error) error {
	return j.write(ctx, object, func() error {
		live, err := get()
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := j.fence(live); err != nil {
			return err
		}
		ours := func(e metav1.ManagedFieldsEntry) bool { return e.Manager == fieldManager }
		if !slices.ContainsFunc(live.GetManagedFields(), ours) {
			return nil
		}
		others := slices.DeleteFunc(slices.Clone(live.GetManagedFields()), ours)
		if len(others) == 0 {
			others = []metav1.ManagedFieldsEntry{{}} // the API server's sign for "nobody"; an empty list changes nothing
		}
		body, err := json.Marshal([]patchOp{
			{"replace", "/metadata/resourceVersion", live.GetResourceVersion()},
			{"replace", "/metadata/managedFields", others},
		})
		if err != nil {
			return err
		}
		return patch(body)
	})
}
