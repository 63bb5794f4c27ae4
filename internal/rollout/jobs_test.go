package rollout_test

import (
	"maps"
	"reflect"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/our-org/crossbill/internal/hook"
)

// jobWork is what the Jobs of a hook do.
type jobWork struct {
	takes time.Duration // 0: three seconds
	fails bool
}

// checkJob is what validation refuses of a Job (pkg/apis/batch/validation: ValidateJob, ValidateJobUpdate): a name that its
// pods could not carry, and another pod template for one that has started.
func checkJob(q request, live *stored, object *unstructured.Unstructured) error {
	kind := schema.GroupKind{Group: batchv1.GroupName, Kind: "Job"}
	if len(q.name) > 63 {
		return apierrors.NewInvalid(kind, q.name, field.ErrorList{field.TooLong(field.NewPath("metadata", "name"), "", 63)})
	}
	if live != nil && !reflect.DeepEqual(nested(live.object, "spec", "template"), nested(object, "spec", "template")) {
		return apierrors.NewInvalid(kind, q.name, field.ErrorList{field.Invalid(field.NewPath("spec", "template"), "", "field is immutable")})
	}
	return nil
}

// runJobs stands for the Job controller and the kubelet of Jobs' pods: a Job that is not suspended gets one pod, which ends
// after some time. It was checked against pkg/controller/job of Kubernetes 1.37.2. Where it differs: a Job has one pod, which is
// not made again; one that has ended is never deleted; nothing is garbage-collected. It says whether a Job runs.
func (c *controllers) runJobs() (running bool) {
	for _, job := range get[batchv1.Job](c.server, "jobs") {
		if ended, _, _ := hook.Ended(job); ended || job.DeletionTimestamp != nil {
			continue
		}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: job.Name + "-1", Namespace: job.Namespace, Labels: map[string]string{batchv1.JobNameLabel: job.Name}}, Spec: job.Spec.Template.Spec}
		maps.Copy(pod.Labels, job.Spec.Template.Labels)
		pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))}
		condition := func(kind batchv1.JobConditionType, reason, message string) {
			job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message})
		}
		work := c.work[job.Labels[hook.NameLabel]]
		if work.takes == 0 {
			work.takes = 3 * time.Second
		}
		switch {
		case job.Spec.Suspend != nil && *job.Spec.Suspend:
			continue
		case job.Status.StartTime == nil:
			c.ran[job.Annotations[hook.RunAnnotation]]++
			job.Status.StartTime, job.Status.Active = new(metav1.Now()), 1
			pod.Status.Phase = corev1.PodRunning
			set(c, "pods", pod)
			c.server.logs[pod.Name] = "log of " + job.Name + "\n"
			running = true
		case job.Spec.ActiveDeadlineSeconds != nil && time.Since(job.Status.StartTime.Time) > time.Duration(*job.Spec.ActiveDeadlineSeconds)*time.Second:
			condition(batchv1.JobFailed, "DeadlineExceeded", "Job was active longer than specified deadline")
		case missing(c.server, pod) != "": // CreateContainerConfigError, until its time is over
			running = true
			continue
		case time.Since(job.Status.StartTime.Time) < work.takes:
			running = true
			continue
		case work.fails:
			condition(batchv1.JobFailed, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
		default:
			condition(batchv1.JobComplete, "CompletionsReached", "")
		}
		set(c, "jobs", job)
	}
	return running
}
