package hook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// What a hook's Job carries: whose it is, by label, and by annotation which run of a hook it is, and what it was made of.
const (
	OfLabel            = "crossbill.our-org.github.com/hook-of"
	NameLabel          = "crossbill.our-org.github.com/hook"
	RunAnnotation      = "crossbill.our-org.github.com/hook-run"
	TemplateAnnotation = "crossbill.our-org.github.com/hook-template"
)

// keptFor is how long a Job that has ended is there to be looked at, in seconds. No release is left alone for so long: its
// result is noted before.
const keptFor = 7 * 24 * 60 * 60

// Run is a hook at a point of a release.
type Run struct {
	Hook      Hook
	App       string
	Namespace string
	Release   *release.Release
	Step      int // of beforeStep: the weight that the canary is about to get
}

// Key is what the run is known by.
func (r Run) Key() string { return r.Release.HookKey(r.Hook.Point, r.Hook.Name, r.Step) }

// Weight is the canary's share of the traffic, in percent: the one that it is about to get, if the run is before a step.
func (r Run) Weight() int {
	switch r.Hook.Point {
	case release.BeforeStep:
		return r.Step
	case release.BeforePromotion:
		return r.Release.Weight
	}
	return 0
}

// JobName is the name of the run's Job, the same each time: it is made of release, point, hook and step.
func (r Run) JobName() string {
	sum := sha256.Sum256([]byte(r.App + "\n" + r.Key()))
	app := strings.TrimRight(r.App[:min(len(r.App), 20)], "-")
	return app + "-" + r.Hook.Name + "-" + hex.EncodeToString(sum[:5])
}

// Header is how a tester's request reaches the canary, as name: value; "" when no header does so for certain.
func Header(m *release.Match) string {
	if m == nil {
		return ""
	}
	value := m.Value
	switch m.Kind {
	case release.MatchRegex: // which text it matches is not known
		return ""
	case release.MatchPresent:
		value = "1"
	}
	if m.Cookie != "" {
		return "cookie: " + m.Cookie + "=" + value
	}
	return m.Header + ": " + value
}

// Environment is what the run's containers are given.
func (r Run) Environment() []corev1.EnvVar {
	return []corev1.EnvVar{
		{Name: "CROSSBILL_RELEASE_ID", Value: r.Release.ID},
		{Name: "CROSSBILL_IMAGE", Value: r.Release.Image},
		{Name: "CROSSBILL_POINT", Value: string(r.Hook.Point)},
		{Name: "CROSSBILL_WEIGHT", Value: strconv.Itoa(r.Weight())},
		{Name: "CROSSBILL_MATCH_HEADER", Value: Header(r.Release.Match)},
	}
}

// Job is the run's Job, made of one in the manifests. It is suspended: it runs nothing before the ledger says that it has
// started.
func (r Run) Job(set *manifest.Set) (*batchv1.Job, error) {
	template, err := set.Job(r.Hook.Job, r.Release)
	if err != nil {
		return nil, err
	}
	hash, err := templateHash(set.Jobs[r.Hook.Job])
	if err != nil {
		return nil, err
	}
	job := &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Name: r.JobName(), Namespace: r.Namespace, Labels: maps.Clone(template.Labels), Annotations: maps.Clone(template.Annotations)},
		Spec:       template.Spec,
	}
	ours := map[string]string{OfLabel: manifest.CopyLabelValue(r.App), NameLabel: r.Hook.Name}
	for key, value := range ours {
		metav1.SetMetaDataLabel(&job.ObjectMeta, key, value)
		metav1.SetMetaDataLabel(&job.Spec.Template.ObjectMeta, key, value)
	}
	metav1.SetMetaDataAnnotation(&job.ObjectMeta, RunAnnotation, r.Key())
	metav1.SetMetaDataAnnotation(&job.ObjectMeta, TemplateAnnotation, hash)
	spec := &job.Spec
	spec.Suspend, spec.TTLSecondsAfterFinished = new(true), new(int32(keptFor))
	if spec.BackoffLimit == nil || r.Hook.Retries != nil {
		spec.BackoffLimit = new(int32(r.Hook.retries())) //nolint:gosec // at most 10
	}
	if most := int64(math.Ceil(r.Hook.Lasts().Seconds())); spec.ActiveDeadlineSeconds == nil || *spec.ActiveDeadlineSeconds > most {
		spec.ActiveDeadlineSeconds = &most
	}
	given := r.Environment()
	for _, containers := range [][]corev1.Container{spec.Template.Spec.InitContainers, spec.Template.Spec.Containers} {
		for i := range containers {
			containers[i].Env = append(slices.DeleteFunc(containers[i].Env, func(e corev1.EnvVar) bool {
				return slices.ContainsFunc(given, func(t corev1.EnvVar) bool { return t.Name == e.Name })
			}), given...)
		}
	}
	return job, nil
}

func templateHash(template *batchv1.Job) (string, error) {
	text, err := json.Marshal(template)
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), err
}

// Foreign says why a Job of the run's name is not the run's; "" if it is.
func Foreign(live, wanted *batchv1.Job) string {
	switch {
	case live.Annotations[RunAnnotation] == "":
		return "a release did not make it"
	case live.Annotations[RunAnnotation] != wanted.Annotations[RunAnnotation]:
		return fmt.Sprintf("it is of another run (%s)", live.Annotations[RunAnnotation])
	case live.Annotations[TemplateAnnotation] != wanted.Annotations[TemplateAnnotation]:
		return "the Job in the manifests has changed since it was started"
	}
	return ""
}

// Ended says whether a Job has ended, whether well, and what its controller says of it.
func Ended(live *batchv1.Job) (ended, passed bool, message string) {
	for _, c := range live.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete:
			return true, true, ""
		case batchv1.JobFailed:
			return true, false, strings.TrimSuffix(c.Reason+": "+c.Message, ": ")
		}
	}
	return false, false, ""
}
