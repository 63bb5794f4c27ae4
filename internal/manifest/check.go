package manifest

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// check finds what does not fit together. Errors name the file, the object and the field.
func (s *Set) check() error {
	for _, check := range []func() error{s.checkDeployment, s.checkService, s.checkDestinationRule, s.checkVirtualService} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// problem is the error of a field of an object.
func (s *Set) problem(kind, name, field, problem, fix string) error {
	return &usererr.Error{Field: fmt.Sprintf("%s: %s %s: %s", s.origins[kind].file, kind, name, field), Problem: problem, Fix: fix}
}

func (s *Set) checkDeployment() error {
	problem := func(field, problem, fix string) error {
		return s.problem("Deployment", s.Deployment.Name, field, problem, fix)
	}
	pods := s.Deployment.Spec.Template.Labels
	s.App = pods[AppLabel]
	if s.App == "" {
		return problem("spec.template.metadata.labels", "the label app is missing", "add app: NAME")
	}
	if !strings.HasSuffix(s.Deployment.Name, "-"+string(release.Primary)) {
		return problem("metadata.name", "the name does not end with -primary", "use "+s.App+"-primary; the canary's name is derived from it")
	}
	for _, where := range []struct {
		field  string
		labels map[string]string
	}{{"spec.selector.matchLabels", selectorOf(s.Deployment)}, {"spec.template.metadata.labels", pods}} {
		if where.labels[TrackLabel] != string(release.Primary) {
			return problem(where.field, "the label version: primary is missing", "add it to the selector and to the pods, so that the tracks never overlap")
		}
	}
	return nil
}

func (s *Set) checkService() error {
	problem := func(problem, fix string) error {
		return s.problem("Service", s.Service.Name, "spec.selector", problem, fix)
	}
	if _, ok := s.Service.Spec.Selector[TrackLabel]; ok {
		return problem("it names a track", "remove version: the Service covers both tracks")
	}
	for key, value := range s.Service.Spec.Selector {
		if s.Deployment.Spec.Template.Labels[key] != value {
			return problem(fmt.Sprintf("%s: %s does not match the pods of Deployment %s", key, value, s.Deployment.Name), "make them equal")
		}
	}
	if len(s.Service.Spec.Selector) == 0 {
		return problem("is missing", "add app: "+s.App)
	}
	return nil
}

func (s *Set) checkDestinationRule() error {
	problem := func(field, problem, fix string) error {
		return s.problem("DestinationRule", s.DestinationRule.Name, field, problem, fix)
	}
	if !s.IsHost(s.DestinationRule.Spec.Host, s.DestinationRule.Namespace) {
		return problem("spec.host", fmt.Sprintf("%q is not the Service", s.DestinationRule.Spec.Host), "use "+s.Service.Name)
	}
	for _, track := range []release.Track{release.Primary, release.Canary} {
		if !HasSubset(s.DestinationRule, track) {
			return problem("spec.subsets", fmt.Sprintf("there is no subset %s with the label version: %s", track, track), "add the subset")
		}
	}
	return nil
}

func (s *Set) checkVirtualService() error {
	problem := func(field, problem, fix string) error {
		return s.problem("VirtualService", s.VirtualService.Name, field, problem, fix)
	}
	routes := s.Routes(s.VirtualService)
	if len(routes) == 0 {
		return problem("spec.http", "no route names both subsets of "+s.Service.Name, "give one route both destinations: primary with weight 100, canary with weight 0")
	}
	for _, r := range routes {
		if w := Weights(s.VirtualService, r); w.Primary != 100 || w.Canary != 0 {
			return problem(fmt.Sprintf("spec.http[%d].route", r.HTTP), fmt.Sprintf("the weights are %d/%d", w.Primary, w.Canary), "write the weights without a release: primary 100, canary 0")
		}
	}
	return nil
}

func selectorOf(d *appsv1.Deployment) map[string]string {
	if d.Spec.Selector == nil {
		return nil
	}
	return d.Spec.Selector.MatchLabels
}
