package manifest

import (
	"fmt"
	"maps"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// TakeJobs takes Jobs, by name, out of the other objects: hooks are made of them, and nobody applies them as they are. It
// refuses one whose pods would get the app's traffic, or count as a track's.
func (s *Set) TakeJobs(names ...string) error {
	if s.NamesOnly {
		return nil
	}
	jobs := maps.Clone(s.Jobs)
	if jobs == nil {
		jobs = map[string]*batchv1.Job{}
	}
	for _, name := range names {
		if jobs[name] != nil {
			continue
		}
		at := slices.IndexFunc(s.Others, func(o *unstructured.Unstructured) bool {
			return o.GetKind() == "Job" && o.GroupVersionKind().Group == batchv1.GroupName && o.GetName() == name
		})
		if at < 0 {
			return &usererr.Error{Field: "hooks: job " + name, Problem: "the manifests have no Job of this name", Fix: "add it to them, or name another one"}
		}
		job := &batchv1.Job{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(s.Others[at].Object, job, true); err != nil {
			return &usererr.Error{Field: "Job " + name, Problem: err.Error(), Fix: "correct it"}
		}
		if err := s.checkJob(job); err != nil {
			return err
		}
		jobs[name] = job
	}
	s.Others = slices.DeleteFunc(slices.Clone(s.Others), func(o *unstructured.Unstructured) bool {
		return o.GetKind() == "Job" && o.GroupVersionKind().Group == batchv1.GroupName && jobs[o.GetName()] != nil
	})
	s.Jobs = jobs
	return nil
}

func (s *Set) checkJob(job *batchv1.Job) error {
	problem := func(field, problem, fix string) error {
		return &usererr.Error{Field: "Job " + job.Name + ": " + field, Problem: problem, Fix: fix}
	}
	pod := job.Spec.Template.Spec
	switch {
	case job.Namespace != "" && s.Deployment.Namespace != "" && job.Namespace != s.Deployment.Namespace:
		return problem("metadata.namespace", fmt.Sprintf("it is in namespace %q, the app is in %q", job.Namespace, s.Deployment.Namespace), "remove it: a hook runs beside the app")
	case len(pod.Containers) == 0:
		return problem("spec.template.spec.containers", "there is none", "give one")
	case pod.RestartPolicy != corev1.RestartPolicyNever && pod.RestartPolicy != corev1.RestartPolicyOnFailure:
		return problem("spec.template.spec.restartPolicy", "it is neither Never nor OnFailure", "give Never: the pods of a Job end")
	case job.Spec.ManualSelector != nil && *job.Spec.ManualSelector || job.Spec.Selector != nil:
		return problem("spec.selector", "the Job of a hook is made anew in each release, and its selector with it", "remove spec.selector and spec.manualSelector")
	}
	own := labels.Set(job.Spec.Template.Labels)
	for what, selector := range s.selectors() {
		if len(selector) > 0 && labels.SelectorFromSet(selector).Matches(own) {
			return problem("spec.template.metadata.labels", fmt.Sprintf("%s selects its pods: they would get the app's traffic, or count as the app's", what), "give the pods of the Job other labels, for example "+AppLabel+": "+job.Name)
		}
	}
	return nil
}

// selectors are those of everything of the manifests that picks the app's pods, by what it is.
func (s *Set) selectors() map[string]map[string]string {
	found := map[string]map[string]string{"Service " + s.Service.Name: s.Service.Spec.Selector}
	for _, service := range s.Tracks {
		found["Service "+service.Name] = service.Spec.Selector
	}
	for _, track := range []release.Track{release.Primary, release.Canary} {
		found["Deployment "+s.Name(track)] = s.labelSelector(track).MatchLabels
	}
	for _, o := range s.Others {
		if o.GetKind() == "Service" && o.GroupVersionKind().Group == "" {
			found["Service "+o.GetName()], _, _ = unstructured.NestedStringMap(o.Object, "spec", "selector")
		}
	}
	return found
}

// Job is a Job that was taken, with a release's image in every container that runs one of the app's repository, and with the
// release's copies of the ConfigMaps and Secrets that its pods read. What the release has no copy of is read as it is live.
func (s *Set) Job(name string, r *release.Release) (*batchv1.Job, error) {
	taken := s.Jobs[name]
	if taken == nil {
		return nil, &usererr.Error{Field: "hooks: job " + name, Problem: "there are no manifests with this Job", Fix: "give the manifests that canary was run with"}
	}
	job := taken.DeepCopy()
	pod := &job.Spec.Template.Spec
	index, err := s.container()
	if err != nil {
		return nil, err
	}
	repositories := []string{repositoryOf(s.Deployment.Spec.Template.Spec.Containers[index].Image), repositoryOf(r.Image)}
	for _, place := range imagePlaces(pod) {
		if repository := repositoryOf(*place.image); repository != "" && slices.Contains(repositories, repository) {
			*place.image = r.Image
		}
	}
	for _, reference := range References(pod) {
		for _, c := range r.Config {
			if !reference.Node && c.Copy != "" && c.Kind == reference.Kind && c.Name == reference.Name {
				*reference.name = c.Copy
			}
		}
	}
	return job, nil
}

// TaggedJobs is Tagged for the Jobs that were taken.
func (s *Set) TaggedJobs(allow []string) (admitted []string, err error) {
	index, err := s.container()
	if err != nil {
		return nil, err
	}
	own := repositoryOf(s.Deployment.Spec.Template.Spec.Containers[index].Image)
	for _, name := range slices.Sorted(maps.Keys(s.Jobs)) {
		found, err := tagged(s.Jobs[name].Spec.Template.Spec.DeepCopy(), own, allow, func(field, problem, fix string) error {
			return &usererr.Error{Field: "Job " + name + ": spec.template.spec." + field, Problem: problem, Fix: fix}
		})
		if err != nil {
			return nil, err
		}
		admitted = append(admitted, found...)
	}
	return admitted, nil
}
