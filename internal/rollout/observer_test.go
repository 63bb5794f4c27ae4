package rollout_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

const (
	epochAnnotation = "crossbill.our-org.github.com/epoch"
	ledgerKey       = "ledger.json"
)

// observer looks at the cluster after each change and checks what must hold (DESIGN.md): no weight on a
// track without a ready endpoint (1), no route to a subset that is missing (2), nothing on primary that
// this release's canary has not proved (3), no write of an older lock after one of a newer (4), other
// people's routes, subsets, labels and annotations as they were (7), subsets whose labels stay (12), and
// capacity before traffic (13), and pods that would start again with the configuration that they have (14). That every death is followed by rest (5, 6) is for a test to see.
type observer struct {
	set      *manifest.Set
	problems []string

	route     *networking.VirtualService
	gateway   *manifest.GatewayRoute
	slices    map[string]string // the Service of each slice
	services  map[string]bool   // that are there
	rule      *networking.DestinationRule
	ready     map[string]map[string]bool // pods that are ready endpoints, by slice
	tracks    map[string]string          // of pods, by name
	ledger    *release.Ledger
	primary   *appsv1.Deployment
	epochs    map[string]int64
	canary    *appsv1.Deployment
	before    string                                // what primary was to run when the release in flight started
	content   map[string]string                     // of ConfigMaps and Secrets, by kind and name
	pods      map[string]map[string]string          // what a pod read when it got ready, by its name
	demand    int32                                 // replicas that an autoscaler gives for all of the traffic; 0: there is none
	started   bool                                  // by a test, once the app is as it is to be
	previews  map[string]*unstructured.Unstructured // their routes of the Gateway API
	previewed bool                                  // there was one
	baselines map[string]string                     // what the pods of a baseline run, by their names
}

func newObserver(set *manifest.Set) *observer {
	return &observer{set: set, slices: map[string]string{}, services: map[string]bool{}, ready: map[string]map[string]bool{}, tracks: map[string]string{}, epochs: map[string]int64{}, content: map[string]string{}, pods: map[string]map[string]string{}, previews: map[string]*unstructured.Unstructured{}, baselines: map[string]string{}}
}

func (o *observer) found(e event, format string, args ...any) {
	if o.started {
		o.problems = append(o.problems, fmt.Sprintf("%s %s/%s: ", e.kind, e.resource, e.after.object.GetName())+fmt.Sprintf(format, args...))
	}
}

// look takes in what there is.
func (o *observer) look(s *apiServer) {
	for _, k := range kinds {
		for p, object := range s.objects {
			if p.resource == k.plural {
				o.see(event{kind: watch.Added, resource: p.resource, after: object})
			}
		}
	}
}

// see takes a change in.
func (o *observer) see(e event) {
	gone := e.kind == watch.Deleted
	switch e.resource {
	case "virtualservices":
		before := o.route
		o.route = decode[networking.VirtualService](e.after)
		o.written(e)
		o.kept(e)
		if gone {
			o.route = nil
			break
		}
		if before != nil {
			if was, is := o.foreignRoutes(before), o.foreignRoutes(o.route); !slices.Equal(was, is) {
				o.found(e, "other people's routes were %q, now they are %q", was, is)
			}
		}
		o.capacity(e, before)
	case "httproutes":
		if name := e.after.object.GetName(); e.after.object.GetLabels()[manifest.PreviewLabel] != "" {
			o.written(e)
			if o.previews[name] = e.after.object; gone {
				delete(o.previews, name)
			}
			break
		}
		o.gatewayChange(e)
	case "destinationrules":
		before := o.rule
		o.rule = decode[networking.DestinationRule](e.after)
		o.written(e)
		o.kept(e)
		if gone {
			o.rule = nil
			break
		}
		for _, s := range o.rule.Spec.Subsets {
			if (s.Name == "primary" || s.Name == "canary") && !maps.Equal(s.Labels, map[string]string{manifest.TrackLabel: s.Name}) {
				o.found(e, "the labels of subset %s have moved: %v", s.Name, s.Labels)
			}
		}
		if before != nil {
			for _, s := range before.Spec.Subsets {
				if s.Name != "primary" && s.Name != "canary" && !slices.ContainsFunc(o.rule.Spec.Subsets, func(x *subset) bool { return x.String() == s.String() }) {
					o.found(e, "somebody's subset %s is gone or changed", s.Name)
				}
			}
		}
	case "services":
		o.services[e.after.object.GetName()] = !gone
		o.written(e)
		o.kept(e)
		if service := decode[corev1.Service](e.after); e.before != nil && o.ledger != nil && o.ledger.Release != nil && o.ledger.Release.Previous != "" {
			was, between := decode[corev1.Service](e.before), slices.Contains([]release.Stage{release.StagePromoting, release.StagePromoted, release.StageRollingBack}, o.ledger.Release.Stage)
			if !maps.Equal(was.Spec.Selector, service.Spec.Selector) || !between && !apiequality.Semantic.DeepEqual(was.Spec, service.Spec) {
				o.found(e, "the Service changes under a release in flight, from %v to %v", was.Spec, service.Spec)
			}
		}
	case "deployments":
		o.previewed = o.previewed || e.after.object.GetLabels()[manifest.PreviewLabel] != ""
		o.written(e)
		o.kept(e)
		if d := decode[appsv1.Deployment](e.after); d.Name == o.set.Name(release.Primary) {
			o.onPrimary(e, d)
			o.primary = d
			if gone {
				o.primary = nil
			}
		} else if d.Name == o.set.Name(release.Canary) {
			if o.canary = d; gone {
				o.canary = nil
			}
		}
	case "configmaps", "secrets":
		o.ledgerChange(e)
		o.configuration(e)
	case "serviceaccounts", "roles", "poddisruptionbudgets", "networkpolicies":
		o.written(e)
		o.kept(e)
		o.shared(e)
	case "endpointslices":
		slice := decode[discoveryv1.EndpointSlice](e.after)
		ready := map[string]bool{}
		for _, endpoint := range slice.Endpoints {
			if endpoint.TargetRef != nil && endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
				ready[endpoint.TargetRef.Name] = true
			}
		}
		o.slices[slice.Name] = slice.Labels[discoveryv1.LabelServiceName]
		if o.ready[slice.Name] = ready; gone {
			delete(o.ready, slice.Name)
		}
	case "pods":
		o.pod(e)
		o.tracks[e.after.object.GetName()] = e.after.object.GetLabels()[manifest.TrackLabel]
		if name := e.after.object.GetName(); e.after.object.GetLabels()[manifest.BaselineLabel] != "" {
			o.tracks[name] = string(manifest.BaselineTrack) // it has primary's label, and is none of primary's
			if o.baselines[name] = decode[corev1.Pod](e.after).Spec.Containers[0].Image; gone {
				delete(o.baselines, name)
			}
		}
	}
	o.besidePrimary(e)
	o.routing(e)
}

// shared checks that no other object changes under a release in flight before its promotion, and that none is made that its
// pods do not need to start.
func (o *observer) shared(e event) {
	if o.ledger == nil || o.ledger.Release == nil || o.ledger.Release.Previous == "" || e.kind == watch.Deleted {
		return
	}
	before := slices.Contains([]release.Stage{release.StageStarted, release.StageCanary, release.StageVerified}, o.ledger.Release.Stage)
	if made := e.before == nil && e.resource != "serviceaccounts"; before && (made || e.before != nil && specChanged(kindOf(e.resource), e.before.object, e.after.object)) {
		o.found(e, "it changes at stage %s", o.ledger.Release.Stage)
	}
}

// besidePrimary checks that callers of primary never get another version of a baseline.
func (o *observer) besidePrimary(e event) {
	for pod, image := range o.baselines {
		if o.primary != nil && o.set.Image(o.primary) != image {
			o.found(e, "pod %s serves %s beside primary, which has %s", pod, image, o.set.Image(o.primary))
		}
	}
}

func (o *observer) readyOn(track release.Track) int {
	n := 0
	for slice, ready := range o.ready {
		if o.set.Route != nil && o.slices[slice] != o.set.Tracks[track].Name {
			continue
		}
		for pod := range ready {
			if o.tracks[pod] == string(track) {
				n++
			}
		}
	}
	return n
}

// routing checks what traffic meets now.
func (o *observer) routing(e event) {
	o.gatewayRouting(e)
	if o.previewed {
		o.previewRouting(e)
	}
	if o.route == nil || o.set.Route != nil {
		return
	}
	for _, http := range o.route.Spec.Http {
		for _, to := range slices.Concat(http.Mirrors, []*networkingapi.HTTPMirrorPolicy{{Destination: http.Mirror}}) {
			if to.Destination == nil || !o.set.IsHost(to.Destination.Host, o.route.Namespace) {
				continue
			}
			track := to.Destination.Subset
			if o.rule == nil || !slices.ContainsFunc(o.rule.Spec.Subsets, func(s *subset) bool { return s.Name == track }) {
				o.found(e, "http route %q mirrors to subset %s, which is missing", http.Name, track)
			}
			if need := o.neededFor(to.Percentage.GetValue()); o.readyOn(release.Track(track)) < need && o.mirroring(e) {
				o.found(e, "http route %q mirrors %g%% to %s, which has %d ready endpoints and needs %d", http.Name, to.Percentage.GetValue(), track, o.readyOn(release.Track(track)), need)
			}
			if methods := methodsOf(http); methods != "GET|HEAD" {
				o.found(e, "http route %q mirrors %s", http.Name, methods)
			}
		}
		for _, d := range http.Route {
			track := release.Track(d.GetDestination().GetSubset())
			if track == "" || !o.set.IsHost(d.Destination.Host, o.route.Namespace) {
				continue
			}
			if o.rule == nil || !slices.ContainsFunc(o.rule.Spec.Subsets, func(s *subset) bool { return s.Name == string(track) }) {
				o.found(e, "the route names subset %s, which is missing", track)
			}
			if (d.Weight > 0 || len(http.Route) == 1) && (track == release.Primary || track == release.Canary) && o.readyOn(track) == 0 {
				o.found(e, "http route %q has weight %d on %s, which has no ready endpoint", http.Name, d.Weight, track)
			}
		}
	}
}

// neededFor is how many endpoints a share of the traffic needs, at least one.
func (o *observer) neededFor(percent float64) int {
	if o.ledger == nil || o.ledger.Release == nil {
		return 1
	}
	return max(1, int(math.Ceil(float64(o.ledger.Release.Replicas)*percent/100)))
}

// mirroring says whether a change is one of the routes: what somebody does to the pods later is not theirs.
func (o *observer) mirroring(e event) bool {
	return e.resource == "virtualservices" || e.resource == "httproutes" || o.readyOn(release.Canary) == 0
}

// methodsOf are the methods that a route is for.
func methodsOf(http *networkingapi.HTTPRoute) string {
	var all []string
	for _, m := range http.Match {
		all = append(all, cmp.Or(m.Method.GetExact(), m.Method.GetRegex(), "every method"))
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), "|")
}

// capacity checks that a track which is given more traffic has its part of what the app had.
func (o *observer) capacity(e event, before *networking.VirtualService) {
	if before == nil || o.set.Route != nil {
		return
	}
	routes, was := o.set.Routes(o.route), o.set.Routes(before)
	if len(routes) == 0 || len(was) == 0 {
		return
	}
	o.enough(e, manifest.Weights(o.route, routes[0]), manifest.Weights(before, was[0]))
}

// enough is the same of weights.
func (o *observer) enough(e event, now, then manifest.WeightPair) {
	if o.ledger == nil || o.ledger.Release == nil {
		return
	}
	for _, t := range []struct {
		track      release.Track
		now, then_ int32
	}{{release.Primary, now.Primary, then.Primary}, {release.Canary, now.Canary, then.Canary}} {
		need := (o.ledger.Release.Replicas*t.now + 99) / 100
		if o.demand > 0 && t.track == release.Primary { // what its HPA takes away may be in what is needed by estimate
			need = o.demand * t.now / 130
		}
		if t.now > t.then_ && o.readyOn(t.track) < int(need) {
			o.found(e, "%s gets %d%% with %d ready endpoints; it needs %d", t.track, t.now, o.readyOn(t.track), need)
		}
	}
}

func (o *observer) foreignRoutes(vs *networking.VirtualService) []string {
	ours := map[int]bool{}
	for _, r := range o.set.Routes(vs) {
		ours[r.HTTP] = true
	}
	var foreign []string
	for i, http := range vs.Spec.Http {
		// A plain route to the app is migrate's to convert.
		plain := len(http.Route) == 1 && o.set.IsHost(http.Route[0].GetDestination().GetHost(), vs.Namespace) && http.Route[0].Destination.Subset == ""
		if !ours[i] && !plain && !manifest.Generated(http.Name) && !strings.HasPrefix(http.Name, manifest.PreviewPrefix) {
			foreign = append(foreign, http.String())
		}
	}
	return foreign
}

// kept checks that labels and annotations of others stay.
func (o *observer) kept(e event) {
	if e.before == nil || e.before.object.GetUID() != e.after.object.GetUID() {
		return
	}
	for what, of := range map[string]func(metav1.Object) map[string]string{"label": metav1.Object.GetLabels, "annotation": metav1.Object.GetAnnotations} {
		for key, value := range of(e.before.object) {
			if strings.HasPrefix(key, "theirs/") && of(e.after.object)[key] != value {
				o.found(e, "somebody's %s %s is gone or changed", what, key)
			}
		}
	}
}

// written checks that locks write an object in their order, each after the ledger knows it.
func (o *observer) written(e event) {
	epoch, err := strconv.ParseInt(e.after.object.GetAnnotations()[epochAnnotation], 10, 64)
	if err != nil {
		return
	}
	name := e.resource + "/" + e.after.object.GetName()
	if epoch < o.epochs[name] {
		o.found(e, "written by lock %d after lock %d", epoch, o.epochs[name])
	}
	if o.ledger != nil && epoch > o.ledger.Epoch {
		o.found(e, "written by lock %d, the ledger knows %d", epoch, o.ledger.Epoch)
	}
	o.epochs[name] = epoch
	if e.kind == watch.Deleted {
		delete(o.epochs, name)
	}
}

// onPrimary checks that primary takes only what the canary of the release in flight was judged healthy
// with, or goes back to what it had.
func (o *observer) onPrimary(e event, d *appsv1.Deployment) {
	if o.primary == nil || o.primary.UID != d.UID || o.ledger == nil || e.kind == watch.Deleted {
		return
	}
	was, is := o.identity(o.primary.Spec.Template), o.identity(d.Spec.Template)
	if was == is {
		return
	}
	digest := release.DigestOf(o.set.Image(d))
	switch r := o.ledger.Release; {
	case r == nil:
		o.found(e, "primary takes %s without a release in flight", is)
	case is == o.before, digest != r.Digest() && digest == release.DigestOf(r.Previous), r.Previous == "" && digest == r.Digest():
	case r.Return != nil && digest == r.Digest() && r.Stage == release.StagePromoting && slices.ContainsFunc(o.ledger.Returnable(), func(f release.Finished) bool { return f.Image == r.Image && f.Pod == r.Pod }):
	case digest != r.Digest(), r.Verdict == nil || r.Verdict.Digest != digest || r.Verdict.Template != r.Template || r.Verdict.Outcome != release.Healthy, r.Stage != release.StagePromoting:
		o.found(e, "primary takes %s at stage %s with verdict %+v", is, r.Stage, r.Verdict)
	case o.canary != nil && is != o.identity(o.canary.Spec.Template):
		o.found(e, "primary takes %s, its canary ran %s", is, o.identity(o.canary.Spec.Template))
	}
}

// identity is what the pods of a template run and read.
func (o *observer) identity(t corev1.PodTemplateSpec) string {
	text := release.DigestOf(o.set.Image(&appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: t}}))
	for _, r := range manifest.References(&t.Spec) {
		text += " " + r.Kind + "/" + r.Name
	}
	return text
}

// pod keeps what a pod reads when it gets ready.
func (o *observer) pod(e event) {
	p := decode[corev1.Pod](e.after)
	if e.kind == watch.Deleted || p.DeletionTimestamp != nil {
		delete(o.pods, p.Name)
		return
	}
	if o.pods[p.Name] != nil || !isReady(p) {
		return
	}
	o.pods[p.Name] = map[string]string{}
	for _, r := range manifest.References(&p.Spec) {
		name := r.Kind + "/" + r.Name
		o.pods[p.Name][name] = o.content[name]
	}
}

// configuration checks that each pod would start again with what it started with.
func (o *observer) configuration(e event) {
	name, text := e.after.object.GetKind()+"/"+e.after.object.GetName(), ""
	if e.kind != watch.Deleted {
		text = fmt.Sprint(e.after.object.Object["data"], e.after.object.Object["binaryData"])
	}
	o.content[name] = text
	for pod, reads := range o.pods {
		if was, ok := reads[name]; ok && was != text {
			o.found(e, "pod %s would start again with another content", pod)
		}
	}
}

// ledgerChange checks that the ledger goes forward, one release after the other.
func (o *observer) ledgerChange(e event) {
	if _, copied := e.after.object.GetLabels()[manifest.CopyLabel]; copied || e.resource != "configmaps" || !strings.HasPrefix(e.after.object.GetName(), "crossbill-") {
		return
	}
	if e.kind == watch.Deleted {
		o.ledger = nil
		return
	}
	before := o.ledger
	ledger, err := ledgerIn(e.after, o.set.App)
	if err != nil {
		return // a test has damaged it
	}
	o.ledger = ledger
	if before == nil || before.Release == nil && ledger.Release != nil {
		var was corev1.PodTemplateSpec
		if o.before = ""; json.Unmarshal([]byte(decode[corev1.ConfigMap](e.after).Data["previous-template.json"]), &was) == nil {
			o.before = o.identity(was)
		}
	}
	if before == nil {
		return
	}
	if ledger.Epoch < before.Epoch {
		o.found(e, "the ledger's epoch fell from %d to %d", before.Epoch, ledger.Epoch)
	}
	if before.Release != nil && ledger.Release != nil && before.Release.ID != ledger.Release.ID {
		o.found(e, "release %s started before %s had ended", ledger.Release.ID, before.Release.ID)
	}
}
