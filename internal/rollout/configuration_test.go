package rollout_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
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

// version is the app's set of a version of its configuration.
func (w *world) version(version string) *manifest.Set {
	w.Helper()
	set, err := configured(version)
	if err == nil && w.gateway {
		set, err = byRoute(set)
	}
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
		first.Manifests = w.version("1")
		w.must(first.Canary(w.Context(), wanted("1")))
		if got := w.copies(); len(got) != 3 {
			t.Fatalf("copies: %q", got)
		}
		second := w.job("second")
		second.Manifests = w.version("2")
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
				t.Errorf("%s does not exist", name)
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

// versionOf is the version of the app's configuration that the pods of a Deployment would start with; "none" when it is
// missing. The server is locked.
func versionOf(s *apiServer, d *appsv1.Deployment) string {
	for _, c := range d.Spec.Template.Spec.Containers {
		for _, e := range c.Env {
			if from := e.ValueFrom; from != nil && from.ConfigMapKeyRef != nil {
				if o := s.objects[place{"configmaps", namespace, from.ConfigMapKeyRef.Name}]; o != nil {
					return decode[corev1.ConfigMap](o).Data[from.ConfigMapKeyRef.Key]
				}
			}
		}
	}
	return "none"
}

// copyEffect is the effect of a write to the app's configuration.
func copyEffect(e event, action string) effect {
	if e.kind == watch.Modified && reflect.DeepEqual(e.before.object.GetLabels(), e.after.object.GetLabels()) && e.before.object.Object["immutable"] == e.after.object.Object["immutable"] {
		return effect{} // a stamp
	}
	name := e.after.object.GetName()
	if cut := strings.LastIndex(name, "-"); cut > 0 && !strings.HasSuffix(name, "-key") {
		name = name[:cut]
	}
	return effect{action: action, object: "copy", detail: name}
}

// missing is what a pod of the tests' namespace cannot start without and is not found (pkg/kubelet: makeEnvironmentVariables, and
// the volumes' SetUpAt); "" when all is there. The server is locked.
func missing(s *apiServer, pod *corev1.Pod) string {
	for _, r := range manifest.References(&pod.Spec) {
		if !r.Optional && !r.Node && s.objects[place{strings.ToLower(r.Kind) + "s", pod.Namespace, r.Name}] == nil {
			return strings.ToLower(r.Kind) + " " + r.Name
		}
	}
	return ""
}

// TestUnchangedConfiguration: nothing is released when image, pod template and all that pods read are the same, and it is said
// what was compared. A change of any of these is a release.
func TestUnchangedConfiguration(t *testing.T) {
	const shared = "shared"
	watching := func(w *world) *manifest.Set {
		set := w.version("1")
		pod := &set.Deployment.Spec.Template.Spec
		pod.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: shared}}}}
		return set
	}
	theirs := func(w *world, value string) {
		w.must(w.kube.CoreV1().ConfigMaps(namespace).Patch(w.Context(), shared, types.MergePatchType, []byte(`{"data":{"region":"`+value+`"}}`), metav1.PatchOptions{}))
	}
	for name, test := range map[string]struct {
		change    func(w *world, set *manifest.Set)
		unchanged bool
	}{
		"nothing":              {func(*world, *manifest.Set) {}, true},
		"a ConfigMap":          {func(_ *world, set *manifest.Set) { set.ConfigMaps["pages"].Data["index.html"] = "<h1>Bye</h1>" }, false},
		"a ConfigMap's binary": {func(_ *world, set *manifest.Set) { set.ConfigMaps["pages"].BinaryData = map[string][]byte{"x": {1}} }, false},
		"a Secret":             {func(_ *world, set *manifest.Set) { set.Secrets["credentials"].StringData["token"] = "another" }, false},
		"a label of a Secret":  {func(_ *world, set *manifest.Set) { set.Secrets["credentials"].Labels = map[string]string{"a": "b"} }, true},
		"the pod template": {func(_ *world, set *manifest.Set) {
			set.Deployment.Spec.Template.Spec.Containers[0].Env[0].Value, set.Deployment.Spec.Template.Spec.Containers[0].Env[0].ValueFrom = "x", nil
		}, false},
		"what others own of it": {func(w *world, _ *manifest.Set) { theirs(w, "us") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			at(t, "new", func(w *world) {
				w.must(w.kube.CoreV1().ConfigMaps(namespace).Create(w.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: shared}, Data: map[string]string{"region": "eu"}}, metav1.CreateOptions{}))
				first := w.job("first")
				first.Manifests = watching(w)
				w.must(first.Canary(w.Context(), wanted("1")))
				w.observer.pods = map[string]map[string]string{} // what others own may change under pods
				for _, id := range []string{"r1", "other"} {
					set := watching(w)
					test.change(w, set)
					j := w.job("again")
					j.Manifests = set
					r := wanted("1")
					r.ID = id
					result, err := j.Canary(w.Context(), r)
					if err != nil {
						t.Fatal(err)
					}
					compared := "image, pod template, ConfigMap pages, ConfigMap settings, ConfigMap shared, Secret credentials"
					switch got := strings.Join(result.Compared, ", "); {
					case test.unchanged && (got != compared || !strings.Contains(result.Message, "ConfigMap shared and Secret credentials are the same")):
						t.Errorf("%s: compared %q: %s", id, got, result.Message)
					case test.unchanged && w.created(j):
						t.Errorf("%s: it did %q", id, w.did(j))
					case !test.unchanged && (result.Release.Stage != release.StageCanary || got != ""):
						t.Errorf("%s: %s after %q", id, result.Message, w.did(j))
					}
					if !test.unchanged {
						w.must(w.job("back").Rollback(w.Context(), "test"))
						j := w.job("once more")
						j.Manifests = set
						if _, err := j.Canary(w.Context(), r); refusal(err) != "stage" {
							t.Errorf("%s: what was rolled back started again: %v", id, err)
						}
						break
					}
				}
			})
		})
	}
}

// created says whether a job made anything.
func (w *world) created(j *job) bool {
	return slices.ContainsFunc(w.did(j), func(did string) bool { return strings.HasPrefix(did, "create") || strings.HasPrefix(did, "update") })
}

// TestConfigurationDrift: what others change of a release's configuration while it waits is named, and holds its promotion. A copy
// that somebody deletes is made again.
func TestConfigurationDrift(t *testing.T) {
	for name, test := range map[string]struct {
		change func(w *world, settings string)
		says   string // of the drift; "" when there is none
		holds  bool
	}{
		"nothing": {func(*world, string) {}, "", false},
		"a ConfigMap of others": {func(w *world, _ string) {
			w.must(w.kube.CoreV1().ConfigMaps(namespace).Patch(w.Context(), "shared", types.MergePatchType, []byte(`{"data":{"region":"us"}}`), metav1.PatchOptions{}))
		}, "ConfigMap shared, which others own, has changed since the release started", true},
		"a ConfigMap of others that is gone": {func(w *world, _ string) {
			w.must(nil, w.kube.CoreV1().ConfigMaps(namespace).Delete(w.Context(), "shared", metav1.DeleteOptions{}))
		}, "ConfigMap shared, which others own, is gone since the release started", true},
		"a Secret of others": {func(w *world, _ string) {
			w.must(w.kube.CoreV1().Secrets(namespace).Patch(w.Context(), "theirs", types.MergePatchType, []byte(`{"stringData":{},"data":{"token":"eA=="}}`), metav1.PatchOptions{}))
		}, "Secret theirs, which others own, has changed since the release started", true},
		"a copy": {func(w *world, settings string) {
			w.must(nil, w.kube.CoreV1().ConfigMaps(namespace).Delete(w.Context(), settings, metav1.DeleteOptions{}))
		}, "the copy of settings that the release's pods read, is gone", false},
		"what the canary reads": {func(w *world, settings string) {
			w.patchDeployment(release.Canary, `[{"op":"replace","path":"/spec/template/spec/volumes/0/configMap/name","value":"others"}]`)
		}, "the canary does not read ConfigMap pages-", true},
	} {
		t.Run(name, func(t *testing.T) {
			at(t, configuredApp+"rest", func(w *world) {
				w.must(w.kube.CoreV1().ConfigMaps(namespace).Create(w.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "shared"}, Data: map[string]string{"region": "eu"}}, metav1.CreateOptions{}))
				w.must(w.kube.CoreV1().Secrets(namespace).Create(w.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Data: map[string][]byte{"token": []byte("t")}}, metav1.CreateOptions{}))
				set := w.version("2")
				of := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
				set.Deployment.Spec.Template.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: of("shared")}}, {SecretRef: &corev1.SecretEnvSource{LocalObjectReference: of("theirs")}}}
				j := w.job("job")
				canary := j.wanted("2")
				j.Manifests = set
				w.must(j.Canary(w.Context(), canary))
				w.observer.started = false // somebody changes what pods read
				settings := ""
				for _, c := range w.state().Release.Config {
					if c.Name == "settings" {
						settings = c.Copy
					}
				}
				test.change(w, settings)
				w.wait()
				status, err := j.Status(w.Context())
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.Join(status.Drift, "\n"); (got == "") != (test.says == "") || !strings.Contains(got, test.says) {
					t.Errorf("drift %q, want %q", got, test.says)
				}
				if name == "a copy" {
					again := w.job("again")
					again.Manifests = set
					w.must(again.Canary(w.Context(), canary))
					if got, want := strings.Join(w.did(again), ", "), "create copy settings"; got != want {
						t.Errorf("canary again did %q, want %q", got, want)
					}
					test.change(w, settings)
				}
				w.must(judge(w.Context(), j.Cluster, release.Healthy))
				promote := w.job("promote")
				promote.Manifests = set
				_, err = promote.Promote(w.Context())
				if held := refusal(err) == "stage" && strings.Contains(err.Error(), test.says) && len(promote.every) == 0; held != test.holds || !held && err != nil {
					t.Errorf("promote: %v after %q", err, promote.every)
				}
			})
		})
	}
}

// state is the app's ledger.
func (w *world) state() *release.Ledger {
	w.Helper()
	ledger, err := release.ParseLedger(w.set.App, w.ledger().Data[ledgerKey])
	if err != nil {
		w.Fatal(err)
	}
	return ledger
}

// TestMissingConfiguration: without what pods need to start no release starts.
func TestMissingConfiguration(t *testing.T) {
	at(t, configuredApp+"rest", func(w *world) {
		run := func(optional bool, key string) ([]string, error) {
			set := w.version("2")
			set.Deployment.Spec.Template.Spec.Containers[0].Env[0] = corev1.EnvVar{Name: "REGION", ValueFrom: &corev1.EnvVarSource{
				SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "theirs"}, Key: key, Optional: &optional},
			}}
			j := w.job("job")
			r := j.wanted("2")
			j.Manifests = set
			j.Plan = &rollout.Plan{}
			_, err := j.Canary(w.Context(), r)
			return j.every, err
		}
		if wrote, err := run(false, "token"); refusal(err) != "input" || !strings.Contains(err.Error(), "containers[app].env[REGION]: Secret prod/theirs not found, and the manifests do not have it") || len(wrote) > 0 {
			t.Errorf("%v after %q", err, wrote)
		}
		if _, err := run(true, "token"); err != nil {
			t.Errorf("optional: %v", err)
		}
		w.must(w.kube.CoreV1().Secrets(namespace).Create(w.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Data: map[string][]byte{"token": []byte("t")}}, metav1.CreateOptions{}))
		if _, err := run(false, "other"); refusal(err) != "input" || !strings.Contains(err.Error(), `has no key "other"`) {
			t.Errorf("%v", err)
		}
		if _, err := run(false, "token"); err != nil {
			t.Errorf("%v", err)
		}
	})
}

// TestCollect: the last five good releases keep what their pods read; what is older goes, and what Crossbill has not made stays.
func TestCollect(t *testing.T) {
	at(t, configuredApp+"rest", func(w *world) {
		w.must(w.kube.CoreV1().ConfigMaps(namespace).Create(w.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings-theirs"}}, metav1.CreateOptions{}))
		for n := 2; n <= 8; n++ {
			j := w.job("job")
			w.must(j.Canary(w.Context(), j.wanted(fmt.Sprint(n))))
			w.must(judge(w.Context(), j.Cluster, release.Healthy))
			w.must(j.Promote(w.Context()))
			w.must(j.Cleanup(w.Context()))
			time.Sleep(time.Minute)
		}
		var versions []string
		for _, name := range w.copies() {
			if strings.HasPrefix(name, "settings-") {
				c, err := w.kube.CoreV1().ConfigMaps(namespace).Get(w.Context(), name, metav1.GetOptions{})
				w.must(nil, err)
				versions = append(versions, c.Data["version"])
			}
		}
		slices.Sort(versions)
		if got, want := strings.Join(versions, " "), "3 4 5 6 7 8"; got != want {
			t.Errorf("versions %s are left, want %s", got, want)
		}
		w.must(w.kube.CoreV1().ConfigMaps(namespace).Get(w.Context(), "settings-theirs", metav1.GetOptions{}))
		j := w.job("bad")
		w.must(j.Canary(w.Context(), j.wanted("9")))
		before := w.copies()
		w.must(w.job("back").Rollback(w.Context(), "test"))
		if after := w.copies(); len(after) != len(before)-4 {
			t.Errorf("copies %q after %q", after, before)
		}
	})
}

// TestNoSecrets: nothing that Crossbill writes down, says or logs has a value of a Secret, or the key of its hashes.
func TestNoSecrets(t *testing.T) {
	at(t, configuredApp+"new", func(w *world) {
		var said []string
		note := func(j *job, result rollout.Result, err error) {
			text, failed := json.Marshal(result)
			w.must(nil, failed)
			said = append(said, string(text), fmt.Sprint(err))
			said = append(said, j.logged...)
			if j.Plan != nil {
				text, failed := json.Marshal(j.Plan)
				w.must(nil, failed)
				said = append(said, string(text))
			}
			status, failed := w.job("look").Status(w.Context())
			w.must(nil, failed)
			text, failed = json.Marshal(status)
			w.must(nil, failed)
			said = append(said, string(text))
		}
		for _, step := range []string{"canary of 1", "canary of 2", "shift", "promote", "verify", "promote", "cleanup", "canary of 3", "rollback", "taken"} {
			for _, plan := range []bool{true, false} {
				j := w.job(step)
				j.By = "job"
				if plan {
					j.Plan = &rollout.Plan{}
				}
				command, of, _ := strings.Cut(step, " of ")
				switch command {
				case "canary":
					r := j.wanted(of)
					result, err := j.Canary(w.Context(), r)
					note(j, result, err)
				case "verify":
					result, err := judge(w.Context(), j.Cluster, release.Healthy)
					note(j, result, err)
				case "taken": // by somebody who made another one of that name
					r := j.wanted("4")
					bound := w.copyOf(j)
					bound.Data = map[string][]byte{"token": []byte(planted("taken"))}
					_, _ = w.kube.CoreV1().Secrets(namespace).Create(w.Context(), bound, metav1.CreateOptions{})
					result, err := j.Canary(w.Context(), r)
					if err == nil && !plan {
						t.Error("another Secret of that name was taken for the copy")
					}
					note(j, result, err)
				default:
					result, err := commands[command](w.Context(), j)
					note(j, result, err)
				}
			}
		}
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		var key string
		for p, o := range w.server.objects {
			if p.resource == "secrets" && strings.HasSuffix(p.name, "-key") {
				key, _, _ = unstructured.NestedString(o.object.Object, "data", "key")
			}
		}
		for _, e := range w.server.history {
			if e.resource != "secrets" {
				said = append(said, string(e.after.text()))
			}
		}
		if len(key) < 40 {
			t.Fatalf("key %q", key)
		}
		raw, err := base64.StdEncoding.DecodeString(key)
		if err != nil {
			t.Fatal(err)
		}
		secrets := []string{key, string(raw), fmt.Sprintf("%x", raw)}
		for _, version := range []string{"1", "2", "3", "4", "taken"} {
			secrets = append(secrets, planted(version), base64.StdEncoding.EncodeToString([]byte(planted(version))))
		}
		for _, text := range said {
			for _, secret := range secrets {
				if strings.Contains(text, secret) {
					t.Errorf("%q is in %.300s", secret, text)
				}
			}
		}
		if len(said) < 100 {
			t.Errorf("only %d texts", len(said))
		}
	})
}

// copyOf is the copy of a job's Secret, under the name that it will have.
func (w *world) copyOf(j *job) *corev1.Secret {
	w.Helper()
	key, err := w.kube.CoreV1().Secrets(namespace).Get(w.Context(), "crossbill-"+w.set.App+"-key", metav1.GetOptions{})
	w.must(nil, err)
	bound, err := j.Manifests.Bind(key.Data["key"])
	w.must(nil, err)
	made := bound.Copies.Secrets[0].DeepCopy()
	made.Labels, made.Immutable = nil, nil
	return made
}
