package manifest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// check finds what does not fit together. Errors name the file, the object and the field.
func (s *Set) check() error {
	for _, check := range []func() error{s.checkDeployment, s.checkConfiguration, s.checkService, s.checkProtocols, s.checkDestinationRule, s.checkVirtualService, s.checkRoute} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// problem is the error of a field of an object.
func (s *Set) problem(kind, name, field, problem, fix string) error {
	file := cmp.Or(s.origins[kind+" "+name], s.origins[kind])
	return &usererr.Error{Field: fmt.Sprintf("%s: %s %s: %s", file, kind, name, field), Problem: problem, Fix: fix}
}

func (s *Set) checkDeployment() error {
	problem := func(field, problem, fix string) error {
		return s.problem("Deployment", s.Deployment.Name, field, problem, fix)
	}
	pods := s.Deployment.Spec.Template.Labels
	app := strings.TrimSuffix(s.Deployment.Name, "-"+string(release.Primary))
	s.App, s.Label = app, pods[AppLabel]
	for _, where := range []struct {
		field  string
		labels map[string]string
	}{{"spec.selector.matchLabels", selectorOf(s.Deployment)}, {"spec.template.metadata.labels", pods}} {
		if where.labels[TrackLabel] != string(release.Primary) {
			return problem(where.field, "the label version: primary is missing", "add it to the selector and to the pods, so that the tracks never overlap")
		}
	}
	selector := s.Deployment.Spec.Selector
	if len(selector.MatchLabels)+len(selector.MatchExpressions) < 2 {
		return problem("spec.selector.matchLabels", "version: primary alone selects the pods of other apps as well", "add a label that only this app's pods have, for example app.kubernetes.io/name: "+app)
	}
	if slices.ContainsFunc(selector.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool { return e.Key == TrackLabel }) {
		return problem("spec.selector.matchExpressions", "it names the label version", "leave that to matchLabels, so that the canary's selector can be derived")
	}
	switch selects, err := s.Selector(release.Primary); {
	case err != nil:
		return problem("spec.selector", err.Error(), "correct it")
	case !selects.Matches(labels.Set(pods)):
		return problem("spec.selector", "it does not select the pods of its own template", "give spec.template.metadata.labels every label of the selector")
	}
	return nil
}

// Selector is the selector of a track's Deployment. It is how its pods are found.
func (s *Set) Selector(track release.Track) (labels.Selector, error) {
	return metav1.LabelSelectorAsSelector(s.labelSelector(track))
}

// labelSelector is the manifest's, for a track.
func (s *Set) labelSelector(track release.Track) *metav1.LabelSelector {
	selector := s.Deployment.Spec.Selector.DeepCopy()
	selector.MatchLabels[TrackLabel] = string(track)
	return selector
}

// podLabels are the labels of a track's pods.
func (s *Set) podLabels(track release.Track) map[string]string {
	pods := maps.Clone(s.Deployment.Spec.Template.Labels)
	pods[TrackLabel] = string(track)
	return pods
}

func (s *Set) checkService() error {
	problem := func(problem, fix string) error {
		return s.problem("Service", s.Service.Name, "spec.selector", problem, fix)
	}
	switch track, ok := s.Service.Spec.Selector[TrackLabel]; {
	case s.Route == nil && ok:
		return problem("it names a track", "remove version: the Service covers both tracks")
	case s.Route != nil && track != string(release.Primary):
		return problem(fmt.Sprintf("it selects %s: %s: whoever calls it past %s %s is to get primary", TrackLabel, track, s.Route.GetKind(), s.Route.GetName()), "write version: primary")
	}
	for key, value := range s.Service.Spec.Selector {
		if s.Deployment.Spec.Template.Labels[key] != value {
			return problem(fmt.Sprintf("%s: %s does not match the pods of Deployment %s", key, value, s.Deployment.Name), "make them equal")
		}
	}
	if len(s.Service.Spec.Selector) == 0 {
		return problem("is missing", fmt.Sprintf("add a label that the pods of %s have", s.Deployment.Name))
	}
	nowhere := func(port corev1.ServicePort) bool {
		target := TargetOf(port)
		return target.Type == intstr.String && !Declares(s.Deployment.Spec.Template.Spec, target, port.Protocol)
	}
	// One may lead to a sidecar that is injected; not all of them do.
	if ports := s.Service.Spec.Ports; len(ports) > 0 && !slices.ContainsFunc(ports, func(p corev1.ServicePort) bool { return !nowhere(p) }) {
		return s.problem("Service", s.Service.Name, "spec.ports", fmt.Sprintf("port %d leads to port %s, which no container of Deployment %s has", ports[0].Port, ports[0].TargetPort.StrVal, s.Deployment.Name), "give a container port that name")
	}
	return nil
}

// TargetOf is the port of the pods that a Service's port leads to: the same one where it names none.
func TargetOf(port corev1.ServicePort) intstr.IntOrString {
	if port.TargetPort == intstr.FromInt32(0) || port.TargetPort == intstr.FromString("") {
		return intstr.FromInt32(port.Port)
	}
	return port.TargetPort
}

// Declares says whether a container of a pod, or a sidecar among its init containers, declares a port.
func Declares(pod corev1.PodSpec, target intstr.IntOrString, protocol corev1.Protocol) bool {
	containers := slices.Clone(pod.Containers)
	for _, c := range pod.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	tcp := func(p corev1.Protocol) bool { return p == "" || p == corev1.ProtocolTCP }
	for _, c := range containers {
		for _, port := range c.Ports {
			same := port.Protocol == protocol || tcp(port.Protocol) && tcp(protocol)
			if same && (target.Type == intstr.String && port.Name == target.StrVal || target.Type == intstr.Int && port.ContainerPort == target.IntVal) {
				return true
			}
		}
	}
	return false
}

func (s *Set) checkDestinationRule() error {
	if s.Route != nil {
		return nil
	}
	problem := func(field, problem, fix string) error {
		return s.problem("DestinationRule", s.DestinationRule.Name, field, problem, fix)
	}
	if !s.IsHost(s.DestinationRule.Spec.Host, s.DestinationRule.Namespace) {
		return problem("spec.host", fmt.Sprintf("%q is not the Service", s.DestinationRule.Spec.Host), "use "+s.Service.Name+s.inFull(s.DestinationRule.Namespace))
	}
	for _, track := range []release.Track{release.Primary, release.Canary} {
		if !HasSubset(s.DestinationRule, track) {
			return problem("spec.subsets", fmt.Sprintf("there is no subset %s with the label version: %s", track, track), "add the subset")
		}
		if lacking := s.Lacking(s.DestinationRule, track, s.podLabels(track)); lacking != "" {
			return problem("spec.subsets", fmt.Sprintf("subset %s asks for the label %s, which no pod of the track has", track, lacking), fmt.Sprintf("let it have the label version: %s alone", track))
		}
	}
	return nil
}

func (s *Set) checkVirtualService() error {
	if s.Route != nil {
		return nil
	}
	problem := func(field, problem, fix string) error {
		return s.problem("VirtualService", s.VirtualService.Name, field, problem, fix)
	}
	routes := s.Routes(s.VirtualService)
	if len(routes) == 0 {
		return problem("spec.http", "no route names both subsets of "+s.Service.Name, "give one route both destinations: primary with weight 100, canary with weight 0"+s.inFull(s.VirtualService.Namespace))
	}
	for _, r := range routes {
		if w := Weights(s.VirtualService, r); w.Primary != 100 || w.Canary != 0 {
			return problem(fmt.Sprintf("spec.http[%d].route", r.HTTP), fmt.Sprintf("the weights are %d/%d", w.Primary, w.Canary), "write the weights without a release: primary 100, canary 0")
		}
	}
	return nil
}

// inFull says how the Service is named from another namespace.
func (s *Set) inFull(from string) string {
	if own := s.Service.Namespace; own != "" && from != own {
		return fmt.Sprintf(" (from namespace %s its host is %s.%s.svc.cluster.local)", from, s.Service.Name, own)
	}
	return ""
}

func selectorOf(d *appsv1.Deployment) map[string]string {
	if d.Spec.Selector == nil {
		return nil
	}
	return d.Spec.Selector.MatchLabels
}
