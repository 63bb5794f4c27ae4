package manifest

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/our-org/crossbill/internal/release"
)

// imagePlace is a place in a pod that names an image.
type imagePlace struct {
	field string // below the pod's spec
	image *string
}

// imagePlaces are all places in a pod that name an image.
func imagePlaces(pod *corev1.PodSpec) (places []imagePlace) {
	for i := range pod.InitContainers {
		places = append(places, imagePlace{fmt.Sprintf("initContainers[%s].image", pod.InitContainers[i].Name), &pod.InitContainers[i].Image})
	}
	for i := range pod.Containers {
		if c := &pod.Containers[i]; c.Name != "istio-proxy" || c.Image != "auto" { // Istio puts its own in
			places = append(places, imagePlace{fmt.Sprintf("containers[%s].image", c.Name), &c.Image})
		}
	}
	for i := range pod.Volumes {
		if v := &pod.Volumes[i]; v.Image != nil {
			places = append(places, imagePlace{fmt.Sprintf("volumes[%s].image.reference", v.Name), &v.Image.Reference})
		}
	}
	return places
}

// repositoryOf is the repository of an image, however its name is written; "" if it is no image.
func repositoryOf(image string) string {
	ref, err := name.ParseReference(image)
	if err != nil {
		return ""
	}
	return ref.Context().Name()
}

// releaseImage puts a release's image in every place of a pod that names one of the app's repository: a migration that
// runs before the app is a part of the release too. app is the index of the container that runs the app.
func releaseImage(pod *corev1.PodSpec, app int, image string) {
	repositories := []string{repositoryOf(pod.Containers[app].Image), repositoryOf(image)}
	pod.Containers[app].Image = image
	for _, place := range imagePlaces(pod) {
		if repository := repositoryOf(*place.image); repository != "" && slices.Contains(repositories, repository) {
			*place.image = image
		}
	}
}

// Tagged gives the images in the pod template that are neither the release's nor named by digest, if all of them are
// admitted by allow, a list of repositories, with * for a part of a name: what a tag names can be another image on
// primary than the one that the canary proved.
func (s *Set) Tagged(allow []string) (admitted []string, err error) {
	index, err := s.container()
	if err != nil {
		return nil, err
	}
	pod := s.Deployment.Spec.Template.Spec.DeepCopy()
	own := repositoryOf(pod.Containers[index].Image)
	pod.Containers[index].Image = ""
	return tagged(pod, own, allow, func(field, problem, fix string) error {
		return s.problem("Deployment", s.Deployment.Name, "spec.template.spec."+field, problem, fix)
	})
}

// tagged is Tagged for one pod of an app whose images are in its own repository.
func tagged(pod *corev1.PodSpec, own string, allow []string, problem func(field, problem, fix string) error) (admitted []string, err error) {
	for _, place := range imagePlaces(pod) {
		image := *place.image
		if image == "" || own != "" && repositoryOf(image) == own || release.DigestOf(image) != "" {
			continue
		}
		if !allowed(allow, image) {
			return nil, problem(place.field,
				fmt.Sprintf("%q names an image by tag, which can be another one on primary than on the canary", image),
				"name it by digest (`crossbill image digest` prints it), or list its repository in canary.allowTags")
		}
		admitted = append(admitted, image)
	}
	return admitted, nil
}

// allowed says whether an image's repository is in a list.
func allowed(list []string, image string) bool {
	canonical := repositoryOf(image)
	written := strings.TrimSuffix(image, ":"+tagOf(image))
	for _, pattern := range list {
		for _, repository := range []string{written, canonical, strings.TrimPrefix(canonical, "index.")} {
			if ok, err := path.Match(pattern, repository); ok && err == nil {
				return true
			}
		}
	}
	return false
}

func tagOf(image string) string {
	ref, err := name.NewTag(image)
	if err != nil {
		return ""
	}
	return ref.TagStr()
}

// Releasable refuses what takes capacity away while a release is put in place, or keeps it from being put in place.
func (s *Set) Releasable() error {
	problem := func(field, problem, fix string) error {
		return s.problem("Deployment", s.Deployment.Name, field, problem, fix)
	}
	spec := s.Deployment.Spec
	const fix = "use type RollingUpdate with maxUnavailable: 0 and maxSurge: 25%, or leave spec.strategy out"
	switch rolling := spec.Strategy.RollingUpdate; {
	case spec.Paused:
		return problem("spec.paused", "a paused Deployment never gets the release", "remove it")
	case spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return problem("spec.strategy.type", "Recreate ends every pod of primary before the release's first one is ready", fix)
	case rolling == nil:
		return nil
	case rolling.MaxUnavailable != nil && !isZero(*rolling.MaxUnavailable):
		return problem("spec.strategy.rollingUpdate.maxUnavailable", fmt.Sprintf("%s lets a roll-out take pods of primary away before the release's are ready", rolling.MaxUnavailable), fix)
	case rolling.MaxSurge != nil && isZero(*rolling.MaxSurge):
		return problem("spec.strategy.rollingUpdate.maxSurge", "0 lets a roll-out make no pod before it has taken one away", fix)
	}
	return nil
}

// isZero says whether a number or a percentage is 0.
func isZero(n intstr.IntOrString) bool {
	return n.IntValue() == 0 && strings.TrimSuffix(n.String(), "%") == "0"
}

// keepCapacity lets a roll-out take no pod away before another one is ready. Kubernetes' default would take a quarter.
func keepCapacity(spec *appsv1.DeploymentSpec) {
	rolling := &appsv1.RollingUpdateDeployment{MaxUnavailable: new(intstr.FromInt32(0))}
	if was := spec.Strategy.RollingUpdate; was != nil && was.MaxSurge != nil && !isZero(*was.MaxSurge) {
		rolling.MaxSurge = was.MaxSurge
	}
	spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: rolling}
}
