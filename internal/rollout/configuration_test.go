package rollout_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// configured gives the app's manifests two ConfigMaps and a Secret that its pods read, in a version of them. One of the
// ConfigMaps is the same in every version.
func configured(version string) (*manifest.Set, error) {
	set, err := loadManifests()
	if err != nil {
		return nil, err
	}
	pod := &set.Deployment.Spec.Template.Spec
	of := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	pod.Containers[0].Env = append(pod.Containers[0].Env,
		corev1.EnvVar{Name: "VERSION", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: of("settings"), Key: "version"}}},
		corev1.EnvVar{Name: "TOKEN", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: of("credentials"), Key: "token"}}})
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: "pages", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: of("pages")}}})
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }
	set.ConfigMaps = map[string]*corev1.ConfigMap{
		"settings": {ObjectMeta: meta("settings"), Data: map[string]string{"version": version}},
		"pages":    {ObjectMeta: meta("pages"), Data: map[string]string{"index.html": "<h1>Hello</h1>"}},
	}
	set.Secrets = map[string]*corev1.Secret{"credentials": {ObjectMeta: meta("credentials"), StringData: map[string]string{"token": planted(version)}}}
	return set, nil
}

// planted is the value of the Secret in a version of the app's configuration.
func planted(version string) string { return "s3cr3t-of-version-" + version }

// configured is the app's set of a version.
func (w *world) configured(version string) *manifest.Set {
	w.Helper()
	set, err := configured(version)
	if err != nil {
		w.Fatal(err)
	}
	return set
}

// copies are the names of the configuration of an app that is there, the key apart.
func (w *world) copies() (names []string) {
	w.Helper()
	only := metav1.ListOptions{LabelSelector: manifest.CopyLabel + "=" + w.set.App}
	configMaps, err := w.kube.CoreV1().ConfigMaps(namespace).List(w.Context(), only)
	w.must(nil, err)
	for _, c := range configMaps.Items {
		names = append(names, c.Name)
		if c.Immutable == nil || !*c.Immutable {
			w.Errorf("ConfigMap %s can change", c.Name)
		}
	}
	secrets, err := w.kube.CoreV1().Secrets(namespace).List(w.Context(), only)
	w.must(nil, err)
	for _, s := range secrets.Items {
		if s.Name == "crossbill-"+w.set.App+"-key" {
			continue
		}
		names = append(names, s.Name)
		if s.Immutable == nil || !*s.Immutable {
			w.Errorf("Secret %s can change", s.Name)
		}
	}
	slices.Sort(names)
	return names
}

// TestCopies: what pods read is made before them, under a name of its own for each content, and the tracks of a release
// that changes it read different ones.
func TestCopies(t *testing.T) {
	at(t, "new", func(w *world) {
		first := w.job("first")
		first.Manifests = w.configured("1")
		w.must(first.Canary(w.Context(), wanted("1")))
		if got := w.copies(); len(got) != 3 {
			t.Fatalf("copies: %q", got)
		}
		second := w.job("second")
		second.Manifests = w.configured("2")
		w.must(second.Canary(w.Context(), wanted("2")))
		if got := w.copies(); len(got) != 5 {
			t.Errorf("copies: %q", got)
		}
		primary, canary := w.reads(release.Primary), w.reads(release.Canary)
		if len(primary) != 3 || len(canary) != 3 || primary[0] != canary[0] || primary[1] == canary[1] || primary[2] == canary[2] {
			t.Errorf("primary reads %q, the canary %q", primary, canary)
		}
		for _, name := range slices.Concat(primary, canary) {
			if !slices.Contains(w.copies(), strings.Fields(name)[1]) {
				t.Errorf("%s is not there", name)
			}
		}
		w.must(judge(w.Context(), second.Cluster, release.Healthy))
		w.must(second.Promote(w.Context()))
		if got := fmt.Sprint(w.reads(release.Primary)); got != fmt.Sprint(canary) {
			t.Errorf("primary reads %s, its canary read %q", got, canary)
		}
	})
}

// reads is the configuration that the pods of a track are to read.
func (w *world) reads(track release.Track) (names []string) {
	w.Helper()
	d, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), w.set.Name(track), metav1.GetOptions{})
	w.must(nil, err)
	for _, r := range manifest.References(&d.Spec.Template.Spec) {
		names = append(names, r.Kind+" "+r.Name)
	}
	slices.Sort(names)
	return names
}
