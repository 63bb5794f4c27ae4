package rollout

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// applyService applies the Service, which selects the pods of both tracks.
func (j *job) applyService(ctx context.Context) error {
	o := j.service()
	desired := j.Manifests.Service.DeepCopy()
	desired.APIVersion, desired.Kind, desired.Namespace = "v1", "Service", j.Namespace
	_, _, err := change(ctx, j, o, func(*corev1.Service) (write, error) { return j.apply(o, desired), nil })
	return err
}
