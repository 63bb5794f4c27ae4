package commands_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// TestObserver shows the observer each thing that it is there to see.
func TestObserver(t *testing.T) {
	set, err := manifest.Load("../../k8s")
	if err != nil {
		t.Fatal(err)
	}
	const one, two = "sha256:1111111111111111111111111111111111111111111111111111111111111111", "sha256:2222222222222222222222222222222222222222222222222222222222222222"
	repository := "registry.example.com/app@"
	meta := func(name, epoch string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Annotations: map[string]string{"crossbill.our-org.github.com/epoch": epoch}}
	}
	route := func(epoch string, canary int32, theirs string) *networking.VirtualService {
		vs := set.VirtualService.DeepCopy()
		vs.ObjectMeta = meta(vs.Name, epoch)
		vs.Spec.Http[0].Route[0].Weight, vs.Spec.Http[0].Route[1].Weight = 100-canary, canary
		vs.Spec.Http = append(vs.Spec.Http, &networkingapi.HTTPRoute{Name: theirs})
		return vs
	}
	rule := func(label string) *networking.DestinationRule {
		r := set.DestinationRule.DeepCopy()
		r.Spec.Subsets[1].Labels["version"] = label
		return r
	}
	primary := func(epoch, digest string) *appsv1.Deployment {
		d, err := set.Track(release.Primary, "default", repository+digest)
		if err != nil {
			t.Fatal(err)
		}
		d.ObjectMeta = meta(d.Name, epoch)
		reads := corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "config-" + digest[7:8]}}
		d.Spec.Template.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &reads}}
		return d
	}
	config := func(name, of string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{releaseKey: of}}
	}
	ledger := func(change func(*release.Ledger)) *corev1.ConfigMap {
		l := &release.Ledger{Version: release.LedgerVersion, App: set.App, Epoch: 5}
		if _, err := l.Start(release.Release{ID: "r", Image: repository + two, Previous: repository + one}, "test", time.Now()); err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(l)
		}
		return &corev1.ConfigMap{Data: map[string]string{"ledger.json": l.String()}}
	}
	pod := func(name, track string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"version": track}}}
	}
	endpoints := func(ready bool, service string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}}, Endpoints: []discoveryv1.Endpoint{
			{TargetRef: &corev1.ObjectReference{Name: "p"}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}},
			{TargetRef: &corev1.ObjectReference{Name: "c"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}},
		}}
	}
	start := []runtime.Object{ledger(nil), config("config-1", one), config("config-2", two), pod("p", "primary"), pod("c", "canary"), rule("canary"), primary("5", one), route("5", 0, "theirs"), endpoints(true, set.Service.Name)}

	routed := &app{T: t, name: set.App}
	routed.writeManifests()
	routeBy("HTTPRoute")(routed)
	toPrimary, toCanary := set.Service.Name+"-primary", set.Service.Name+"-canary"
	httpRoute := func(epoch string, canary int, more string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{}
		text := fmt.Sprintf(`{"kind": "HTTPRoute", "metadata": {"name": "route", "annotations": {"crossbill.our-org.github.com/epoch": %q}}, "spec": {"rules": [
			{"name": "release", "backendRefs": [{"name": %q, "weight": %d}, {"name": %q, "weight": %d}]}%s]}}`, epoch, toPrimary, 100-canary, toCanary, canary, more)
		if err := json.Unmarshal([]byte(text), o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	theirs := func(timeout string) string {
		return fmt.Sprintf(`, {"name": "theirs", "backendRefs": [{"name": "other"}], "timeouts": {"request": %q}}`, timeout)
	}
	added := func(name string) string {
		mirror := fmt.Sprintf(`[{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": %q}}}]`, toCanary)
		return fmt.Sprintf(`, {"name": %q, "backendRefs": [{"name": %q, "weight": 100}], "filters": %s}`, manifest.MirrorPrefix+name, toPrimary, mirror)
	}
	service := func(name string) *corev1.Service {
		return &corev1.Service{ObjectMeta: meta(name, "5")}
	}
	rest, split := httpRoute("5", 0, theirs("3s")), httpRoute("5", 10, theirs("3s"))
	with := func(then ...runtime.Object) []runtime.Object {
		return append([]runtime.Object{ledger(nil), pod("p", "primary"), pod("c", "canary"), service(toPrimary), endpoints(true, toPrimary)}, then...)
	}
	healthy := func(l *release.Ledger) {
		l.Release.Stage = release.StagePromoting
		l.Release.Verdict = &release.Verdict{Outcome: release.Healthy, Digest: two}
	}
	for name, c := range map[string]struct {
		then []runtime.Object
		want string // "" is nothing
	}{
		"by HTTPRoute, weight on ready pods":               {with(service(toCanary), rest, endpoints(true, toCanary), split), ""},
		"by HTTPRoute, ready endpoints of another Service": {with(service(toCanary), rest, endpoints(true, set.Service.Name), split), "weight 10 on canary, which has no ready endpoint"},
		"by HTTPRoute, copies without a ready endpoint":    {with(service(toCanary), rest, endpoints(false, toCanary), httpRoute("5", 0, theirs("3s")+added("0"))), "weight 1 on canary, which has no ready endpoint"},
		"by HTTPRoute, endpoints that go under a weight":   {with(service(toCanary), rest, endpoints(true, toCanary), split, endpoints(false, toCanary)), "weight 10 on canary, which has no ready endpoint"},
		"by HTTPRoute, a backend that does not exist":      {with(endpoints(true, toCanary), rest), "names Service " + toCanary + ", which does not exist"},
		"by HTTPRoute, a rule of others that is changed":   {with(service(toCanary), rest, httpRoute("5", 0, theirs("4s"))), "other people's routes were"},
		"by HTTPRoute, a write of an older lock":           {with(service(toCanary), rest, httpRoute("4", 0, theirs("3s"))), "HTTPRoute route was written by lock 4 after lock 5"},
		"weight on ready pods":                             {[]runtime.Object{route("5", 10, "theirs")}, ""},
		"weight without a ready endpoint":                  {[]runtime.Object{endpoints(false, set.Service.Name), route("5", 10, "theirs")}, "weight 10 on canary, which has no ready endpoint"},
		"endpoints that go under a weight":                 {[]runtime.Object{route("5", 10, "theirs"), endpoints(false, set.Service.Name)}, "weight 10 on canary, which has no ready endpoint"},
		"a subset whose labels moved":                      {[]runtime.Object{rule("other")}, "the labels of subset canary have moved"},
		"a route of others that is changed":                {[]runtime.Object{route("5", 0, "mine")}, "other people's routes were"},
		"promotion of what was proved":                     {[]runtime.Object{ledger(healthy), primary("5", two)}, ""},
		"promotion without a verdict":                      {[]runtime.Object{primary("5", two)}, "primary takes sha256:2222"},
		"a write of an older lock":                         {[]runtime.Object{primary("4", one)}, "was written by lock 4 after lock 5"},
		"a write before the ledger":                        {[]runtime.Object{primary("6", one)}, "was written by lock 6, the ledger knows 5"},
		"a ledger that falls back":                         {[]runtime.Object{ledger(func(l *release.Ledger) { l.Epoch = 4 })}, "the ledger's epoch fell"},
		"the configuration of another image":               {[]runtime.Object{config("config-1", two), primary("5", one)}, "runs registry.example.com/app@" + one + " with the configuration of " + two},
		"configuration that somebody reads, deleted":       {nil, "Deployment qwik-node-app-primary reads ConfigMap config-1, which does not exist"},
		"two releases at a time":                           {[]runtime.Object{ledger(func(l *release.Ledger) { l.Release.ID = "s" })}, "release s began before r had ended"},
	} {
		var changes []change
		watched, objects := &app{T: t, manifests: "../../k8s"}, append(slices.Clone(start), c.then...)
		if strings.HasPrefix(name, "by HTTPRoute") {
			watched, objects = routed, c.then
		}
		for i, object := range objects {
			changes = append(changes, change{false, int64(i), watch.Event{Type: watch.Modified, Object: object}})
		}
		if name == "configuration that somebody reads, deleted" {
			changes = append(changes, change{false, int64(len(changes)), watch.Event{Type: watch.Deleted, Object: config("config-1", one)}})
		}
		problems, _ := watched.replay(changes)
		if found := strings.Join(problems, "\n"); (c.want == "") != (found == "") || !strings.Contains(found, c.want) {
			t.Errorf("%s: found %q, want %q", name, found, c.want)
		}
	}
}
