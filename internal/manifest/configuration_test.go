package manifest

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/api/hasher"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
)

// fill gives every field of a value something, to a depth; Secrets and ConfigMaps get names of their own.
func fill(v reflect.Value, random *rand.Rand, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		if depth > 0 && random.IntN(4) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), random, depth-1)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[metav1.Time]() || v.Type().PkgPath() == "k8s.io/apimachinery/pkg/api/resource" {
			return
		}
		for _, field := range v.Fields() {
			if field.CanSet() {
				fill(field, random, depth)
			}
		}
	case reflect.Slice:
		if depth > 0 && v.Type().Elem().Kind() != reflect.Uint8 {
			v.Set(reflect.MakeSlice(v.Type(), random.IntN(3), 3))
			for i := range v.Len() {
				fill(v.Index(i), random, depth-1)
			}
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("n%d", random.IntN(1000)))
	}
}

// named finds every name of a ConfigMap or a Secret in a value, by the types and the fields of the API alone.
func named(v reflect.Value, field string, found map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			named(v.Elem(), field, found)
		}
	case reflect.Slice:
		for i := range v.Len() {
			named(v.Index(i), field, found)
		}
	case reflect.Struct:
		kind := ""
		switch name := v.Type().Name(); {
		case strings.HasPrefix(name, "ConfigMap"):
			kind = "ConfigMap"
		case strings.HasPrefix(name, "Secret") && name != "SecretVolumeSource" && name != "SecurityContext":
			kind = "Secret"
		case (name == "LocalObjectReference" || name == "SecretReference") && strings.Contains(field, "Secret"):
			kind = "Secret"
		}
		for i := range v.NumField() {
			f, is := v.Type().Field(i), v.Field(i)
			switch {
			case f.Name == "SecretName" && is.Kind() == reflect.String && is.String() != "":
				found["Secret "+is.String()] = true
			case kind != "" && f.Name == "LocalObjectReference":
				found[kind+" "+is.Field(0).String()] = true
			case kind != "" && f.Name == "Name" && is.Kind() == reflect.String:
				found[kind+" "+is.String()] = true
			default:
				named(is, f.Name, found)
			}
		}
	}
}

// TestReferences: of random pods, no place is missed that names a ConfigMap or a Secret; and no container of what Bind makes
// names one of the manifests', but their copies.
func TestReferences(t *testing.T) {
	places := map[string]bool{}
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 19))
		var pod corev1.PodSpec
		fill(reflect.ValueOf(&pod).Elem(), random, 7)
		want, got := map[string]bool{}, map[string]bool{}
		named(reflect.ValueOf(pod), "", want)
		for _, r := range References(&pod) {
			got[r.Kind+" "+r.Name] = true
			places[r.Kind+" "+strings.Map(func(c rune) rune {
				if c >= '0' && c <= '9' {
					return -1
				}
				return c
			}, r.Field)] = true
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
		}
		set := bindable(pod)
		for _, r := range References(&pod) {
			switch r.Kind {
			case "ConfigMap":
				set.ConfigMaps[r.Name] = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: r.Name}, Data: map[string]string{"a": r.Name}}
			default:
				set.Secrets[r.Name] = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: r.Name}, StringData: map[string]string{"a": r.Name}}
			}
		}
		bound, err := set.Bind([]byte("key"))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range References(&bound.Deployment.Spec.Template.Spec) {
			if _, own := set.ConfigMaps[r.Name]; own && r.Kind == "ConfigMap" {
				t.Fatalf("seed %d: %s names %s, not a copy of it", seed, r.Field, r.Name)
			}
			if _, own := set.Secrets[r.Name]; own != r.Node && r.Kind == "Secret" {
				t.Fatalf("seed %d: %s (node %v) names %s", seed, r.Field, r.Node, r.Name)
			}
		}
	}
	if len(places) < 26 {
		t.Errorf("only %d places were tried", len(places))
	}
}

// bindable is a set with a pod.
func bindable(pod corev1.PodSpec) *Set {
	set := &Set{App: "app", ConfigMaps: map[string]*corev1.ConfigMap{}, Secrets: map[string]*corev1.Secret{}}
	set.Deployment = deploymentOf(pod)
	return set
}

// TestGeneratedNames: a ConfigMap or a Secret that Kustomize's generators have named by its content keeps that name.
func TestGeneratedNames(t *testing.T) {
	pod := corev1.PodSpec{Containers: []corev1.Container{{Name: "app", EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{}}, {SecretRef: &corev1.SecretEnvSource{}}}}}}
	generated := func(text string) string {
		node := kyaml.MustParse(text)
		hash, err := (&hasher.Hasher{}).Hash(node)
		if err != nil {
			t.Fatal(err)
		}
		return node.GetName() + "-" + hash
	}
	configMap := generated("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: b}\n")
	secret := generated("apiVersion: v1\nkind: Secret\nmetadata: {name: token}\ntype: Opaque\ndata: {a: Yg==}\n")
	pod.Containers[0].EnvFrom[0].ConfigMapRef.Name, pod.Containers[0].EnvFrom[1].SecretRef.Name = configMap, secret
	set := bindable(pod)
	set.ConfigMaps[configMap] = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: configMap}, Data: map[string]string{"a": "b"}}
	set.Secrets[secret] = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secret}, Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"a": []byte("b")}}
	names := func() (names []string) {
		bound, err := set.Bind([]byte("key"))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range References(&bound.Deployment.Spec.Template.Spec) {
			names = append(names, r.Name)
		}
		return names
	}
	if got, want := names(), []string{configMap, secret}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	set.ConfigMaps[configMap].Data["a"], set.Secrets[secret].Data["a"] = "c", []byte("c") // as people edit what was generated
	for i, name := range names() {
		if was := []string{configMap, secret}[i]; !strings.HasPrefix(name, was+"-") {
			t.Errorf("%s was edited, and its copy is %s", was, name)
		}
	}
}

func deploymentOf(pod corev1.PodSpec) *appsv1.Deployment {
	return &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: pod}}}
}

// TestConfigurationElsewhere: pods read only what is in their own namespace.
func TestConfigurationElsewhere(t *testing.T) {
	reads := strings.Replace(base(t, "deployment.yaml"), "        - name: app\n", "        - name: app\n          envFrom: [{configMapRef: {name: settings}}]\n", 1)
	config := func(namespace, value string) string {
		return "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: " + namespace + "}\ndata: {a: " + value + "}\n"
	}
	dir := caseFolder(t, "00-base")
	write(t, filepath.Join(dir, "deployment.yaml"), reads+config("theirs", "one"))
	for namespace, own := range map[string]bool{"theirs": true, "ours": false} {
		set, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := set.In(namespace); err != nil {
			t.Fatal(err)
		}
		if got := set.ConfigMaps["settings"] != nil; got != own {
			t.Errorf("in namespace %s: the app's own: %v, want %v", namespace, got, own)
		}
	}
	write(t, filepath.Join(dir, "deployment.yaml"), reads+config("theirs", "one")+config("ours", "two"))
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "ConfigMap settings is there a second time, in another namespace") {
		t.Errorf("two of one name: %v", err)
	}
}
