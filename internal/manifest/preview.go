package manifest

import (
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// What a preview's objects are known by: its name, and the app that it is of, shortened to what a label may have.
const (
	PreviewLabel   = "crossbill.our-org.github.com/preview"
	PreviewOfLabel = "crossbill.our-org.github.com/preview-of"
)

// PreviewPrefix is what the names of routes begin with that lead to previews.
const PreviewPrefix = "crossbill-preview-"

// PreviewTrack is what stands for a track in the names of a preview's objects.
func PreviewTrack(name string) release.Track { return release.Track("preview-" + name) }

// PreviewName is the name of a preview's objects.
func (s *Set) PreviewName(name string) string { return s.Name(PreviewTrack(name)) }

// CheckPreviewName refuses a name that the objects of a preview cannot have. field names it in errors.
func (s *Set) CheckPreviewName(field, name string) error {
	whole := s.PreviewName(name)
	switch {
	case len(validation.IsDNS1123Label(name)) > 0:
		return &usererr.Error{Field: field, Problem: fmt.Sprintf("%q is not a name of lower-case letters, digits and hyphens", name), Fix: "give for example pr-42"}
	case len(whole) > validation.DNS1035LabelMaxLength:
		return &usererr.Error{Field: field, Problem: fmt.Sprintf("%q has %d characters, and the name of a Service has at most %d", whole, len(whole), validation.DNS1035LabelMaxLength), Fix: "give a shorter name"}
	case len(validation.IsDNS1035Label(whole)) > 0: // an app may begin with a digit
		return &usererr.Error{Field: field, Problem: fmt.Sprintf("%q is not a name that a Service can have", whole), Fix: "previews need an app whose name begins with a letter"}
	}
	return nil
}

// Preview makes the manifests of a preview: the set whose Deployment of PreviewTrack and whose Service are the preview's, and
// whose pods read copies of its own. Its pods have none of the app's labels but the mesh's and those that keep names, so that
// nothing that selects the app's pods selects them; and nothing by which they could push a pod of primary off its node, or
// keep one from it. key is of the hashes of Secrets. Errors are *usererr.Error.
func (s *Set) Preview(name string, keep []string, key []byte) (*Set, error) {
	if err := s.CheckPreviewName("name", name); err != nil {
		return nil, err
	}
	if err := s.previewable(); err != nil {
		return nil, err
	}
	own := *s
	own.Deployment, own.bound = s.Deployment.DeepCopy(), false
	if err := own.previewLabels(name, keep); err != nil {
		return nil, err
	}
	own.alone()
	own.previewService(name)
	own.renameConfiguration(s.PreviewName(name) + "-")
	bound, err := own.Bind(key)
	if err != nil {
		return nil, err
	}
	for _, c := range bound.Copies.ConfigMaps {
		c.Labels, c.Annotations = previewMark(s.App, name), nil
	}
	for _, c := range bound.Copies.Secrets {
		c.Labels, c.Annotations = previewMark(s.App, name), nil
	}
	return bound, nil
}

// previewMark are the labels of a preview's objects, and more of them, as pairs.
func previewMark(app, name string, more ...string) map[string]string {
	mark := map[string]string{PreviewLabel: name, PreviewOfLabel: CopyLabelValue(app), "app.kubernetes.io/managed-by": "crossbill"}
	for i := 0; i+1 < len(more); i += 2 {
		mark[more[i]] = more[i+1]
	}
	return mark
}

// IsPreview says whether an object is one of a preview of the app.
func (s *Set) IsPreview(o metav1.Object, name string) bool {
	has := o.GetLabels()
	return has[PreviewLabel] == name && has[PreviewOfLabel] == CopyLabelValue(s.App)
}

// previewable refuses pods that cannot run beside primary's without touching what these need.
func (s *Set) previewable() error {
	pod := s.Deployment.Spec.Template.Spec
	problem := func(field, problem, fix string) error {
		return s.problem("Deployment", s.Deployment.Name, "spec.template.spec."+field, problem, fix)
	}
	for i := range pod.Volumes {
		if volume := pod.Volumes[i].PersistentVolumeClaim; volume != nil {
			return problem("volumes["+pod.Volumes[i].Name+"]", fmt.Sprintf("a preview would write to PersistentVolumeClaim %s, which is primary's", volume.ClaimName), "previews are for apps without volumes of their own")
		}
	}
	if pod.HostNetwork {
		return problem("hostNetwork", "a preview would take ports of the node from primary", "previews are for apps in the network of pods")
	}
	for i := range pod.Containers {
		if slices.ContainsFunc(pod.Containers[i].Ports, func(p corev1.ContainerPort) bool { return p.HostPort != 0 }) {
			return problem("containers["+pod.Containers[i].Name+"].ports", "a preview would take a port of the node from primary", "previews are for apps without hostPort")
		}
	}
	return nil
}

// previewLabels gives the Deployment and its pods a preview's labels.
func (s *Set) previewLabels(name string, keep []string) error {
	d := s.Deployment
	pods := ofMesh(d.Spec.Template.Labels)
	for _, key := range keep {
		if s.selects(key) {
			return &usererr.Error{Field: "preview.labels", Problem: fmt.Sprintf("%s is among the labels by which the app's pods are selected", key), Fix: "leave it out: a preview's pods must not be taken for the app's"}
		}
		if value, ok := d.Spec.Template.Labels[key]; ok {
			pods[key] = value
		}
	}
	maps.Copy(pods, previewMark(s.App, name, AppLabel, s.PreviewName(name), TrackLabel, string(PreviewTrack(name))))
	if labels.SelectorFromSet(s.Service.Spec.Selector).Matches(labels.Set(pods)) {
		return s.problem("Service", s.Service.Name, "spec.selector", "it selects by labels of the mesh alone, which a preview's pods have too", "let it select by a label that only this app's pods have")
	}
	d.Labels, d.Annotations = previewMark(s.App, name, AppLabel, s.PreviewName(name)), nil
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: previewMark(s.App, name)}
	d.Spec.Template.Labels = pods
	delete(d.Spec.Selector.MatchLabels, "app.kubernetes.io/managed-by")
	return nil
}

// selects says whether a label is among those by which the app's Deployment, Services and subsets select pods.
func (s *Set) selects(key string) bool {
	has := func(selector map[string]string) bool { _, ok := selector[key]; return ok }
	found := key == AppLabel || key == TrackLabel || has(s.Service.Spec.Selector) || has(selectorOf(s.Deployment)) ||
		slices.ContainsFunc(s.Deployment.Spec.Selector.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool { return e.Key == key })
	for _, service := range s.Tracks {
		found = found || has(service.Spec.Selector)
	}
	if s.DestinationRule != nil {
		for _, subset := range s.DestinationRule.Spec.Subsets {
			found = found || has(subset.Labels)
		}
	}
	return found
}

// alone takes out of the pod template what would make a preview's pods matter to where others run: an anti-affinity holds for
// a pod of primary that comes later too, and a priority lets a pod take the place of another one.
func (s *Set) alone() {
	s.Deployment.Spec.Strategy = appsv1.DeploymentStrategy{}
	pod := &s.Deployment.Spec.Template.Spec
	if pod.Affinity != nil {
		pod.Affinity.PodAffinity, pod.Affinity.PodAntiAffinity = nil, nil
	}
	pod.TopologySpreadConstraints, pod.PriorityClassName, pod.Priority, pod.PreemptionPolicy = nil, "", nil, nil
}

// previewService gives the set the preview's Service: the ports of the app's, inside of the cluster.
func (s *Set) previewService(name string) {
	service := trackService(s.Service, PreviewTrack(name))
	service.Name = s.PreviewName(name)
	maps.Copy(service.Labels, previewMark(s.App, name))
	delete(service.Labels, TrackLabel)
	service.Spec.Selector = maps.Clone(s.Deployment.Spec.Selector.MatchLabels)
	service.Spec.Selector[TrackLabel] = string(PreviewTrack(name))
	s.Service = service
	if s.Tracks != nil {
		s.Tracks = maps.Clone(s.Tracks)
		s.Tracks[PreviewTrack(name)] = service
	}
}

// renameConfiguration lets the pods read ConfigMaps and Secrets of other names, with the same content.
func (s *Set) renameConfiguration(prefix string) {
	configMaps, secrets := map[string]*corev1.ConfigMap{}, map[string]*corev1.Secret{}
	for _, r := range References(&s.Deployment.Spec.Template.Spec) {
		switch name := prefix + r.Name; {
		case r.Node:
		case r.Kind == "ConfigMap" && s.ConfigMaps[r.Name] != nil:
			configMaps[name] = s.ConfigMaps[r.Name].DeepCopy()
			configMaps[name].Name, *r.name = name, name
		case r.Kind == "Secret" && s.Secrets[r.Name] != nil:
			secrets[name] = s.Secrets[r.Name].DeepCopy()
			secrets[name].Name, *r.name = name, name
		}
	}
	s.ConfigMaps, s.Secrets = configMaps, secrets
}
