package manifest

import (
	"maps"

	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/release"
)

// Objects are the names of what a release of these manifests is made of, for a rollback that has no manifests.
func (s *Set) Objects(namespace string) (*release.Objects, error) {
	o := &release.Objects{
		Namespace: namespace, Service: s.Service.Name, ServiceSelector: s.Service.Spec.Selector, Container: s.ContainerName(),
		Deployments: map[release.Track]string{}, Selectors: map[release.Track]map[string]string{},
	}
	if s.Route != nil {
		o.Route, o.TrackServices = &release.RouteName{Kind: s.Route.GetKind(), Name: s.Route.GetName()}, map[release.Track]string{}
		for track, service := range s.Tracks {
			o.TrackServices[track] = service.Name
		}
	} else {
		o.DestinationRule, o.Host = release.ObjectName{Namespace: s.DestinationRule.Namespace, Name: s.DestinationRule.Name}, s.DestinationRule.Spec.Host
		o.VirtualService = release.ObjectName{Namespace: s.VirtualService.Namespace, Name: s.VirtualService.Name}
	}
	for _, track := range []release.Track{release.Primary, release.Canary} {
		d, err := s.Track(track, namespace, "")
		if err != nil {
			return nil, err
		}
		o.Deployments[track], o.Selectors[track] = d.Name, selectorOf(d)
	}
	return o, nil
}

// OfObjects makes as much of an app's manifests as a rollback needs, from the names in its ledger. The pod template is
// not among it: a rollback puts back the one that the ledger keeps.
func OfObjects(app string, o *release.Objects) *Set {
	namespace := func(n release.ObjectName) string {
		if n.Namespace == "" {
			return o.Namespace
		}
		return n.Namespace
	}
	labels := o.Selectors[release.Primary]
	set := &Set{
		App:        app,
		NamesOnly:  true,
		Label:      labels[AppLabel],
		Service:    &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: o.Service, Namespace: o.Namespace, Labels: map[string]string{AppLabel: app}}, Spec: corev1.ServiceSpec{Selector: o.ServiceSelector}},
		Deployment: &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: o.Deployments[release.Primary], Namespace: o.Namespace, Labels: maps.Clone(labels)}},
	}
	set.Deployment.Spec.Selector = &metav1.LabelSelector{MatchLabels: maps.Clone(labels)}
	set.Deployment.Spec.Template.Labels = maps.Clone(labels)
	set.Deployment.Spec.Template.Spec.Containers = []corev1.Container{{Name: o.Container}}
	if o.Route != nil {
		set.Route, set.Tracks = routeOf(o), tracksOf(o)
		return set
	}
	set.DestinationRule = &networking.DestinationRule{ObjectMeta: metav1.ObjectMeta{Name: o.DestinationRule.Name, Namespace: namespace(o.DestinationRule)}}
	set.VirtualService = &networking.VirtualService{ObjectMeta: metav1.ObjectMeta{Name: o.VirtualService.Name, Namespace: namespace(o.VirtualService)}}
	set.DestinationRule.Spec.Host = o.Host
	for _, track := range []release.Track{release.Primary, release.Canary} {
		set.DestinationRule.Spec.Subsets = append(set.DestinationRule.Spec.Subsets, &networkingapi.Subset{Name: string(track), Labels: map[string]string{TrackLabel: string(track)}})
	}
	return set
}

// routeOf is a route of the Gateway API by its name.
func routeOf(o *release.Objects) *unstructured.Unstructured {
	route := &unstructured.Unstructured{}
	route.SetAPIVersion(GatewayGroup + "/v1")
	route.SetKind(o.Route.Kind)
	route.SetName(o.Route.Name)
	route.SetNamespace(o.Namespace)
	return route
}

// tracksOf are the Services of the tracks by their names. Their ports are the live Service's.
func tracksOf(o *release.Objects) map[release.Track]*corev1.Service {
	services := map[release.Track]*corev1.Service{}
	for _, track := range bothTracks {
		selector := map[string]string{}
		maps.Copy(selector, o.ServiceSelector)
		selector[TrackLabel] = string(track)
		services[track] = &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: o.TrackServices[track], Namespace: o.Namespace}, Spec: corev1.ServiceSpec{Selector: selector}}
	}
	return services
}
