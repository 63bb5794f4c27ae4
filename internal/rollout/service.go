package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// The Service is both tracks': it never changes while a canary is in flight (invariant 14). A canary only makes one
// that is missing; a change that fits both tracks as they are live is applied at promotion, when primary runs the
// release, and taken back by a rollback.

func (j *job) liveService(ctx context.Context) (*corev1.Service, error) {
	found, err := look[*corev1.Service](ctx, j, j.service())
	if err != nil {
		err = fmt.Errorf("%w; nothing was changed", err)
	}
	return found, err
}

// desiredService is the manifest's.
func (c *Cluster) desiredService() *corev1.Service {
	desired := c.Manifests.Service.DeepCopy()
	desired.APIVersion, desired.Kind, desired.Namespace = "v1", "Service", c.Namespace
	return desired
}

// applyService applies the manifest's Service. A first release leaves one that is somebody else's as it is, whenever it has come.
func (j *job) applyService(ctx context.Context) error {
	o := j.service()
	_, _, err := change(ctx, j, o, func(live *corev1.Service) (*write, error) {
		if j.first() {
			if err := j.checkFirstService(live); err != nil {
				return nil, err
			}
		}
		return j.apply(j.desiredService()), nil
	})
	return err
}

// ensureService creates a Service that is missing. One that exists is left as it is.
func (j *job) ensureService(ctx context.Context) error {
	o := j.service()
	before, _, err := change(ctx, j, o, func(live *corev1.Service) (*write, error) {
		if live != nil {
			return nil, nil
		}
		return j.apply(j.desiredService()), nil
	})
	if err == nil && before == nil {
		j.log(o.String(), "created")
	}
	return err
}

// pods are a track's, as a Service sees them.
type pods struct {
	of   string // what they are, for a message
	spec corev1.PodTemplateSpec
}

// checkService refuses a Service, live or the manifest's, that does not fit the pods of both tracks: of primary as it
// is live, of the canary as it will be.
func (j *job) checkService(live *corev1.Service, primary *appsv1.Deployment, route routing) error {
	canary, err := j.Manifests.Track(release.Canary, j.Namespace, "")
	if err != nil {
		return err
	}
	desired := j.desiredService()
	both := []pods{{"primary, as they are live,", primary.Spec.Template}, {"the canary, as the manifest has them,", canary.Spec.Template}}
	if err := j.selects(desired, both, "the manifest"); err != nil {
		return err
	}
	if err := j.leads(desired, live, both, "the manifest"); err != nil || live == nil {
		return err
	}
	if err := j.selects(live, both, "the cluster"); err != nil {
		return err
	}
	if err := j.leads(live, live, both, "the cluster"); err != nil {
		return err
	}
	return j.keepsPorts(live, desired, route)
}

// inTwo is how a change of what both tracks share is released.
const inTwo = "release it in two steps: first the pods, so that they fit the Service as it was and as it will be; then, when primary runs them, the Service"

// selects checks that a Service selects the pods of both tracks.
func (j *job) selects(service *corev1.Service, both []pods, where string) error {
	for _, track := range both {
		if own := j.Manifests.Service.Spec.Selector[manifest.TrackLabel]; own != "" && own != track.spec.Labels[manifest.TrackLabel] {
			continue // the route leads to the other track by a Service of its own
		}
		for _, key := range slices.Sorted(maps.Keys(service.Spec.Selector)) {
			if value := service.Spec.Selector[key]; track.spec.Labels[key] != value {
				return &usererr.Error{
					Field:   j.service().String() + ": spec.selector",
					Problem: fmt.Sprintf("%s: %s, in %s, does not select the pods of %s which would get no traffic", key, value, where, track.of),
					Fix:     inTwo,
				}
			}
		}
	}
	return nil
}

// leads checks that the ports of a Service lead to ports of both tracks' containers. One that no container declares may
// be served all the same, by an injected sidecar for example: it is taken where the live Service has it already.
func (j *job) leads(service, live *corev1.Service, both []pods, where string) error {
	for _, port := range service.Spec.Ports {
		target, declared := manifest.TargetOf(port), 0
		for _, track := range both {
			if manifest.Declares(track.spec.Spec, target, port.Protocol) {
				declared++
			}
		}
		if declared == len(both) || declared == 0 && live != nil && slices.ContainsFunc(live.Spec.Ports, func(p corev1.ServicePort) bool {
			return p.Port == port.Port && manifest.TargetOf(p) == target
		}) {
			continue
		}
		for _, track := range both {
			if !manifest.Declares(track.spec.Spec, target, port.Protocol) {
				return &usererr.Error{
					Field:   j.service().String() + ": spec.ports",
					Problem: fmt.Sprintf("port %d, in %s, leads to port %s, which no container of the pods of %s has", port.Port, where, target.String(), track.of),
					Fix:     inTwo + " (a container port is declared in ports, by containerPort and name)",
				}
			}
		}
	}
	return nil
}

// keepsPorts refuses to take a port away that a route leads to.
func (j *job) keepsPorts(live, desired *corev1.Service, route routing) error {
	used := j.router().ports(route)
	has := func(s *corev1.Service, number uint32) bool {
		return slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return uint32(p.Port) == number })
	}
	for _, number := range slices.Sorted(maps.Keys(used)) {
		if has(live, number) && !has(desired, number) {
			return &usererr.Error{
				Field:   j.service().String() + ": spec.ports",
				Problem: fmt.Sprintf("the manifest takes port %d away, which %s leads to", number, used[number]),
				Fix:     "keep it beside the new one until no route names it, then remove it in a release of its own",
			}
		}
	}
	return nil
}

// othersService says whether no release has written a Service, and it selects other pods than the manifest's.
func (j *job) othersService(live *corev1.Service) bool {
	if live == nil {
		return false
	}
	_, stamped := live.Annotations[epochAnnotation]
	return !stamped && !maps.Equal(live.Spec.Selector, j.Manifests.Service.Spec.Selector)
}

// checkFirstService refuses to take over a Service of pods that are not the app's, which a first release would do.
func (j *job) checkFirstService(live *corev1.Service) error {
	if !j.othersService(live) {
		return nil
	}
	return &usererr.Error{
		Field:   j.service().String() + ": spec.selector",
		Problem: "somebody has made it, and it selects other pods than the manifest's: a first release would take them away from it",
		Fix:     "write the selector that it has into the manifest and run `crossbill migrate`, or delete the Service if nobody needs it",
	}
}

// serviceBefore is what a promotion is about to change of the Service, as an apply that takes it back; "" when the
// Service is as the manifest has it.
func (j *job) serviceBefore(live *corev1.Service) (string, error) {
	desired, err := content(j.desiredService())
	if err != nil || live == nil {
		return "", err
	}
	is, err := content(live)
	if err != nil || covers(is, desired) {
		return "", err
	}
	before := common(desired, is)
	owned, err := corev1apply.ExtractService(live, fieldManager)
	if err != nil {
		return "", err
	}
	applied, err := runtime.DefaultUnstructuredConverter.ToUnstructured(owned)
	if err != nil {
		return "", err
	}
	merge(before, common(applied, is)) // what the last release applied and this one does not name
	text, err := json.Marshal(before)
	return string(text), err
}

// lookPromotedService gives what a promotion that starts now changes of the Service, as it is before, and refuses a
// change that does not fit both tracks: the manifests may be others than the canary's.
func (j *job) lookPromotedService(ctx context.Context) (before string, err error) {
	if j.ledger.Release.Stage != release.StageVerified {
		return "", nil
	}
	live, err := j.liveService(ctx)
	if err != nil {
		return "", err
	}
	if before, err = j.serviceBefore(live); err != nil || before == "" {
		return "", err
	}
	primary, err := j.liveTrack(ctx, release.Primary)
	if err != nil || primary == nil {
		return "", err
	}
	route, err := j.router().read(ctx)
	if err != nil {
		return "", err
	}
	return before, j.checkService(live, primary, route)
}

// promoteService is the step that applies the manifest's Service after primary has taken the release.
func (j *job) promoteService(ctx context.Context) error {
	if j.previousService == "" {
		return nil
	}
	o := j.service()
	_, _, err := change(ctx, j, o, func(live *corev1.Service) (*write, error) {
		desired := j.desiredService().DeepCopy()
		before, err := j.serviceBefore(live)
		if err != nil {
			return nil, err
		}
		note := "" // as for primary's pod template: of what is live, and a promotion that goes on after a crash leaves it
		switch {
		case before != "":
			note = hashOf(before)
		case live != nil:
			note = live.Annotations[previousAnnotation]
		}
		if note != "" {
			metav1.SetMetaDataAnnotation(&desired.ObjectMeta, previousAnnotation, note)
		}
		return j.apply(desired), nil
	})
	if err != nil {
		return err
	}
	j.log(j.service().String(), "applied as the manifest has it: it fits both tracks")
	return inOrder(ctx, j.router().promoteBackends, j.waitEndpoints(release.Primary, ""))
}

// restoreService is the step that takes back what a promotion has changed of the Service. What is kept beside the ledger is
// only believed if promotion has noted its hash on the Service: see previousAnnotation.
func (j *job) restoreService(ctx context.Context) error {
	if j.previousService == "" {
		return nil
	}
	o := j.service()
	before, after, err := change(ctx, j, o, func(live *corev1.Service) (*write, error) {
		switch {
		case live == nil:
			j.log(o.String(), "stays as it is: somebody has deleted it")
			return nil, nil
		case live.Annotations[previousAnnotation] != hashOf(j.previousService): // not written by the promotion, or by an older crossbill's
			j.log(o.String(), "stays as it is: promotion has not changed it, or %s does not keep what it was", j.ledgerName())
			return nil, nil
		}
		previous := &unstructured.Unstructured{}
		if err := utiljson.Unmarshal([]byte(j.previousService), &previous.Object); err != nil { // integers stay integers
			return nil, fmt.Errorf("%s: the Service as it was before is not readable: %w", j.ledgerName(), err)
		}
		previous.SetAPIVersion("v1")
		previous.SetKind("Service")
		return j.apply(previous), nil
	})
	if err == nil && before != after {
		j.log(o.String(), "put back as it was before the release")
	}
	return err
}

// content is an object as plain data, without what nobody applies.
func content(o metav1.Object) (map[string]any, error) {
	object, err := plain(o)
	if err != nil {
		return nil, err
	}
	for _, key := range []string{"status", "apiVersion", "kind"} { // clients leave these two out of what they read
		delete(object, key)
	}
	metadata, _ := object["metadata"].(map[string]any)
	for _, key := range []string{"creationTimestamp", "managedFields", "resourceVersion", "uid", "generation"} {
		delete(metadata, key)
	}
	if annotations, ok := metadata["annotations"].(map[string]any); ok {
		delete(annotations, previousAnnotation)
		delete(annotations, epochAnnotation)
		if len(annotations) == 0 {
			delete(metadata, "annotations")
		}
	}
	return object, nil
}

// covers says whether a live Service has all that is wanted of it: an apply would change nothing. Its selector and its
// ports are those that are wanted, and no others.
func covers(is, want map[string]any) bool {
	for key, wanted := range want {
		switch wanted := wanted.(type) {
		case map[string]any:
			has, _ := is[key].(map[string]any)
			if key == "selector" && len(has) != len(wanted) || !covers(has, wanted) {
				return false
			}
		case []any:
			has, _ := is[key].([]any)
			if key == "ports" && !coversPorts(has, wanted) || key != "ports" && !reflect.DeepEqual(has, wanted) {
				return false
			}
		default:
			if !reflect.DeepEqual(is[key], wanted) {
				return false
			}
		}
	}
	return true
}

func coversPorts(is, want []any) bool {
	return len(is) == len(want) && !slices.ContainsFunc(want, func(w any) bool {
		wanted := maps.Clone(w.(map[string]any))
		for key, value := range map[string]any{"protocol": "TCP", "targetPort": wanted["port"]} { // as the API server fills in
			if wanted[key] == nil {
				wanted[key] = value
			}
		}
		return !slices.ContainsFunc(is, func(i any) bool { return covers(i.(map[string]any), wanted) })
	})
}

// common is what an object has of the fields that another one names. Lists are taken as a whole.
func common(named, is map[string]any) map[string]any {
	found := map[string]any{}
	for key, value := range named {
		has, ok := is[key]
		if !ok {
			continue
		}
		inner, isMap := value.(map[string]any)
		if hasInner, ok := has.(map[string]any); isMap && ok && key != "selector" {
			has = common(inner, hasInner)
		}
		found[key] = has
	}
	return found
}

// merge adds to an object what another one has beside it.
func merge(into, from map[string]any) {
	for key, value := range from {
		inner, isMap := into[key].(map[string]any)
		more, both := value.(map[string]any)
		switch {
		case isMap && both:
			merge(inner, more)
		case into[key] == nil:
			into[key] = value
		}
	}
}
