package manifest

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/our-org/crossbill/internal/release"
)

// BaselineTrack is what stands for a track in the name of a baseline: new pods of what primary runs, that a canary is compared
// with.
const BaselineTrack release.Track = "baseline"

// BaselineLabel is the label by which a baseline's pods are known. All their other labels are primary's, so that what leads to
// primary leads to them as well.
const BaselineLabel = "crossbill.our-org.github.com/baseline"

// Baseline makes the baseline's Deployment out of primary's as it is live, without a number of replicas.
func (s *Set) Baseline(primary *appsv1.Deployment) (*appsv1.Deployment, error) {
	d, err := s.Beside(primary.Spec.Template, primary.Namespace, s.Image(primary))
	if err != nil {
		return nil, err
	}
	d.Name = s.Name(BaselineTrack)
	if d.Labels != nil {
		d.Labels[TrackLabel] = string(BaselineTrack)
	}
	d.Spec.Selector = primary.Spec.Selector.DeepCopy()
	for _, labels := range []*map[string]string{&d.Spec.Selector.MatchLabels, &d.Spec.Template.Labels} {
		own := maps.Clone(*labels)
		own[BaselineLabel] = "true"
		*labels = own
	}
	return d, nil
}

// IsBaseline says whether a Deployment is a baseline, and not somebody else's of that name.
func IsBaseline(d *appsv1.Deployment) bool {
	return d.Spec.Selector != nil && d.Spec.Selector.MatchLabels[BaselineLabel] != ""
}
