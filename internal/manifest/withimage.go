package manifest

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	jsonutil "k8s.io/apimachinery/pkg/util/json"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// WithImage gives what a set was found in with a release's image in the app's Deployment, wherever that names one of the app's
// repository: as Track puts it there.
func (r *Rendered) WithImage(s *Set, image string) (*Rendered, error) {
	d, err := s.Track(release.Primary, "", image)
	if err != nil {
		return nil, err
	}
	filled := *r
	filled.Objects = slices.Clone(r.Objects)
	for _, name := range []string{s.Deployment.Name, strings.TrimSuffix(s.Deployment.Name, "-"+string(release.Primary))} {
		for i := range filled.Objects {
			o := &filled.Objects[i]
			if o.Kind != "Deployment" || o.Group != "apps" || o.Name != name || o.Namespace != s.Deployment.Namespace {
				continue
			}
			o.Raw, err = withImages(o.Raw, &d.Spec.Template.Spec)
			if err != nil {
				err = o.problem(err.Error())
			}
			return &filled, err
		}
	}
	return nil, &usererr.Error{Field: r.path, Problem: "Deployment " + s.Deployment.Name + " was not found in it"}
}

// withImages is a Deployment with the images of a pod, which has the same containers and volumes.
func withImages(raw []byte, pod *corev1.PodSpec) ([]byte, error) {
	object := map[string]any{}
	if err := jsonutil.Unmarshal(raw, &object); err != nil {
		return nil, err
	}
	field := func(of any, name string) any {
		fields, _ := of.(map[string]any)
		return fields[name]
	}
	spec := field(field(field(object, "spec"), "template"), "spec")
	set := func(list string, index int, image string) bool {
		items, _ := field(spec, list).([]any)
		if index >= len(items) {
			return false
		}
		item, ok := items[index].(map[string]any)
		if ok && image != "" {
			item["image"] = image
		}
		return ok
	}
	for i, c := range pod.InitContainers {
		if !set("initContainers", i, c.Image) {
			return nil, errors.New("spec.template.spec.initContainers is no list of containers")
		}
	}
	for i, c := range pod.Containers {
		if !set("containers", i, c.Image) {
			return nil, errors.New("spec.template.spec.containers is no list of containers")
		}
	}
	volumes, _ := field(spec, "volumes").([]any)
	for i, v := range pod.Volumes {
		if v.Image == nil || i >= len(volumes) {
			continue
		}
		if source, ok := field(volumes[i], "image").(map[string]any); ok {
			source["reference"] = v.Image.Reference
		}
	}
	return json.Marshal(object)
}
