package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Name is the name of a track's Deployment.
func (s *Set) Name(track release.Track) string {
	return strings.TrimSuffix(s.Deployment.Name, string(release.Primary)) + string(track)
}

// Track makes the Deployment of a track in a namespace, with its image in every container that runs one of the app's
// repository. A roll-out of it takes no pod away before another is ready. It leaves out the replicas, because the
// caller knows their number (an HPA's, the manifest's, or a share of primary's).
func (s *Set) Track(track release.Track, namespace, image string) (*appsv1.Deployment, error) {
	d := s.Deployment.DeepCopy()
	d.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
	d.Name, d.Namespace = s.Name(track), namespace
	d.Spec.Replicas = nil
	for _, labels := range []map[string]string{d.Labels, d.Spec.Selector.MatchLabels, d.Spec.Template.Labels} {
		if labels != nil {
			labels[TrackLabel] = string(track)
		}
	}
	container, err := s.container()
	if err != nil {
		return nil, err
	}
	releaseImage(&d.Spec.Template.Spec, container, image)
	keepCapacity(&d.Spec)
	return d, nil
}

// container is the index of the container that runs the app in the manifest.
func (s *Set) container() (int, error) {
	template := s.Deployment.Spec.Template
	containers := template.Spec.Containers
	named := template.Annotations["kubectl.kubernetes.io/default-container"]
	if i := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == named }); i >= 0 {
		return i, nil
	}
	if i := appContainer(containers, s.App, s.Label); i >= 0 {
		return i, nil
	}
	if i := appContainer(containers, s.Written, template.Labels["app.kubernetes.io/name"], template.Labels["app.kubernetes.io/component"]); i >= 0 {
		return i, nil
	}
	if i := s.served(containers); i >= 0 {
		return i, nil
	}
	return 0, &usererr.Error{
		Field:   fmt.Sprintf("%s: Deployment %s: spec.template.spec.containers", s.origins["Deployment"], s.Deployment.Name),
		Problem: fmt.Sprintf("none of the %d containers is named app or %s", len(containers), s.App),
		Fix:     "name the container that runs the app `app`, or name it in the pods' annotation kubectl.kubernetes.io/default-container",
	}
}

// served is the index of the only container that has a port of the Service; -1 if there is none, or another.
func (s *Set) served(containers []corev1.Container) int {
	found := -1
	for i := range containers {
		pod := corev1.PodSpec{Containers: containers[i : i+1]}
		if s.Service == nil || !slices.ContainsFunc(s.Service.Spec.Ports, func(p corev1.ServicePort) bool { return Declares(pod, TargetOf(p), p.Protocol) }) {
			continue
		}
		if found >= 0 {
			return -1
		}
		found = i
	}
	return found
}

// appContainer is the index of the container that runs an app: the only one, or the one named app or like the
// app. Others are sidecars. It is -1 if there is none.
func appContainer(containers []corev1.Container, names ...string) int {
	if len(containers) == 1 {
		return 0
	}
	return slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == "app" || slices.Contains(names, c.Name) })
}

// AppImage is the image that a pod runs an app with, whose container is named app or otherwise; "" if none is the app's.
func AppImage(pod corev1.PodSpec, names ...string) string {
	if i := appContainer(pod.Containers, names...); i >= 0 {
		return pod.Containers[i].Image
	}
	return ""
}

// Repository is the image repository of the app, by the manifest; "" if the image is no reference.
func (s *Set) Repository() string {
	i, err := s.container()
	if err != nil {
		return ""
	}
	return repositoryOf(s.Deployment.Spec.Template.Spec.Containers[i].Image)
}

// RunsIn is the name of the container that runs the app in a live pod template: the only one, or the one that the manifest
// names, or that is named app or like the app; "" if none is.
func (s *Set) RunsIn(pod corev1.PodSpec) string {
	if i := appContainer(pod.Containers, s.ContainerName(), s.App, s.Label); i >= 0 {
		return pod.Containers[i].Name
	}
	return ""
}

// Beside makes primary's Deployment out of a live pod template: as it is, with the labels by which primary, the Service
// and the subsets find its pods, and the image by digest.
func (s *Set) Beside(live corev1.PodTemplateSpec, namespace, image string) (*appsv1.Deployment, error) {
	d, err := s.Track(release.Primary, namespace, image)
	if err != nil {
		return nil, err
	}
	template, wanted := live.DeepCopy(), d.Spec.Template.Labels
	delete(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	asked := []map[string]string{d.Spec.Selector.MatchLabels, s.Service.Spec.Selector}
	if s.Route != nil {
		asked = append(asked, s.Tracks[release.Primary].Spec.Selector)
	} else {
		for _, subset := range s.DestinationRule.Spec.Subsets {
			if subset.Name == string(release.Primary) {
				asked = append(asked, subset.Labels)
			}
		}
	}
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	for _, labels := range asked {
		for key := range labels {
			template.Labels[key] = wanted[key]
		}
	}
	for i := range template.Spec.Containers {
		if template.Spec.Containers[i].Name == s.RunsIn(live.Spec) {
			template.Spec.Containers[i].Image = image
		}
	}
	d.Spec.Template = *template
	return d, nil
}

// Image is the image of the app's container in a live Deployment of either track.
func (s *Set) Image(d *appsv1.Deployment) string {
	name := s.ContainerName()
	for _, c := range d.Spec.Template.Spec.Containers {
		if c.Name == name {
			return c.Image
		}
	}
	return ""
}

// ContainerName is the name of the container that runs the app; "" if the manifest leaves that open.
func (s *Set) ContainerName() string {
	index, err := s.container()
	if err != nil {
		return ""
	}
	return s.Deployment.Spec.Template.Spec.Containers[index].Name
}

// TemplateHash identifies the pod template without its image. With it, primary's template is compared with the
// one that the canary proved.
func (s *Set) TemplateHash() (string, error) {
	d, err := s.Track(release.Primary, "", "")
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(d.Spec.Template)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}
