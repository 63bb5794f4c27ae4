package kubelet

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func has(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }

// kept is the configuration that tests have: ConfigMap c and Secret s, each with one key.
func kept(kind, name string) (content, error) {
	if kind+name == "ConfigMapc" || kind+name == "Secrets" {
		return content{"key": []byte("of " + name)}, nil
	}
	return nil, nil
}

func TestVolumesOfConfiguration(t *testing.T) {
	yes, base := true, t.TempDir()
	pod := &corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "plain", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: has("c")}}},
		{Name: "items", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", Items: []corev1.KeyToPath{{Key: "key", Path: "deep/file"}}}}},
		{Name: "both", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: has("c")}}, {Secret: &corev1.SecretProjection{LocalObjectReference: has("none"), Optional: &yes}},
		}}}},
		{Name: "missing", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "none"}}},
		{Name: "outside", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: has("c"), Items: []corev1.KeyToPath{{Key: "key", Path: "../file"}}}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}},
	}}}
	for volume, want := range map[string]string{"plain": "key: of c", "items": "deep/file: of s", "both": "key: of c"} {
		dirs, err := makeVolumes(pod, &corev1.Container{Name: "app", VolumeMounts: []corev1.VolumeMount{{Name: volume, MountPath: "/etc/app"}}}, base, kept)
		if err != nil {
			t.Fatalf("%s: %v", volume, err)
		}
		path, text, _ := strings.Cut(want, ": ")
		if got, err := os.ReadFile(filepath.Join(dirs["/etc/app"], path)); string(got) != text {
			t.Errorf("%s: %s holds %q (%v), want %q", volume, path, got, err, text)
		}
	}
	for volume, want := range map[string]string{"missing": `secret "none" not found`, "outside": "leads out of the volume", "host": "not supported"} {
		_, err := makeVolumes(pod, &corev1.Container{Name: "app", VolumeMounts: []corev1.VolumeMount{{Name: volume, MountPath: "/etc/app"}}}, base, kept)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", volume, err, want)
		}
	}
}

func TestSettingsAreTheImagesUnderThePods(t *testing.T) {
	uid, gid, yes := int64(7), int64(8), true
	img := &image{config: v1.Config{
		Entrypoint: []string{"/bin/entry"}, Cmd: []string{"cmd"}, Env: []string{"A=image", "HOST=0.0.0.0"},
		User: "65532:65533", WorkingDir: "/app",
	}}
	meta := metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"version": "canary"}}
	for _, tt := range []struct {
		name      string
		pod       corev1.PodSpec
		container corev1.Container
		args, env []string // env: what must be in it
		dir       string
		uid, gid  int
		err       string
	}{
		{name: "image alone", args: []string{"/bin/entry", "cmd"}, env: []string{"A=image", "HOST=10.0.0.1", "HOSTNAME=p"}, dir: "/app", uid: 65532, gid: 65533},
		{name: "args replace cmd", container: corev1.Container{Args: []string{"x"}}, args: []string{"/bin/entry", "x"}, dir: "/app", uid: 65532, gid: 65533},
		{name: "command replaces both", container: corev1.Container{Command: []string{"c"}, WorkingDir: "/w"}, args: []string{"c"}, dir: "/w", uid: 65532, gid: 65533},
		{name: "the pod's variables win", container: corev1.Container{Env: []corev1.EnvVar{
			{Name: "A", Value: "pod"}, {Name: "HOST", Value: "::"},
			{Name: "TRACK", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['version']"}}},
			{Name: "NS", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}},
			{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
		}}, args: []string{"/bin/entry", "cmd"}, env: []string{"A=pod", "HOST=::", "TRACK=canary", "NS=ns", "IP=10.0.0.1"}, dir: "/app", uid: 65532, gid: 65533},
		{name: "container's user over the pod's", pod: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsUser: new(int64), RunAsGroup: &gid}},
			container: corev1.Container{SecurityContext: &corev1.SecurityContext{RunAsUser: &uid, RunAsNonRoot: &yes}},
			args:      []string{"/bin/entry", "cmd"}, dir: "/app", uid: 7, gid: 8},
		{name: "root refused", pod: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: new(int64)}}, err: "runAsNonRoot"},
		{name: "configuration", container: corev1.Container{
			EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: has("c")}}, {Prefix: "S_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: has("s")}}, {ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: has("none"), Optional: &yes}}},
			Env: []corev1.EnvVar{
				{Name: "A", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: has("c"), Key: "key"}}},
				{Name: "B", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: has("s"), Key: "key"}}},
				{Name: "HOSTNAME", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: has("s"), Key: "none", Optional: &yes}}},
			}}, args: []string{"/bin/entry", "cmd"}, env: []string{"key=of c", "S_key=of s", "A=of c", "B=of s", "HOSTNAME=p"}, dir: "/app", uid: 65532, gid: 65533},
		{name: "no Secret", container: corev1.Container{Env: []corev1.EnvVar{{Name: "S", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: has("none"), Key: "key"}}}}}, err: `variable S: secret "none" not found`},
		{name: "no key", container: corev1.Container{Env: []corev1.EnvVar{{Name: "S", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: has("c"), Key: "k"}}}}}, err: "couldn't find key k in ConfigMap c"},
		{name: "no ConfigMap", container: corev1.Container{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: has("none")}}}}, err: `configmap "none" not found`},
		{name: "unknown field", container: corev1.Container{Env: []corev1.EnvVar{{Name: "F", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.x"}}}}}, err: "metadata.x"},
		{name: "exec probe", container: corev1.Container{ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{}}}}, err: "readiness probe"},
		{name: "exec hook", container: corev1.Container{Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{}}}}, err: "preStop"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &corev1.Pod{ObjectMeta: meta, Spec: tt.pod, Status: corev1.PodStatus{PodIP: "10.0.0.1"}}
			s, err := settingsOf(p, &tt.container, img, kept)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(s.args, tt.args) || s.dir != tt.dir || s.uid != tt.uid || s.gid != tt.gid {
				t.Errorf("got %+v", s)
			}
			for _, e := range tt.env {
				k, v, _ := strings.Cut(e, "=")
				if s.env[k] != v {
					t.Errorf("%s is %q, want %q", k, s.env[k], v)
				}
			}
		})
	}
}

func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = "content of " + h.Name
			h.Size = int64(len(content))
		}
		h.Uid, h.Gid = os.Getuid(), os.Getgid()
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpackKeepsFilesModesAndLinks(t *testing.T) {
	dir := t.TempDir()
	if err := unpack(bytes.NewReader(archive(t,
		tar.Header{Name: "app/bin", Typeflag: tar.TypeReg, Mode: 0o755}, // its folder has no entry
		tar.Header{Name: "secret/", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/app/bin"},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "app/bin"},
	)), dir); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]fs.FileMode{"app": fs.ModeDir | 0o755, "app/bin": 0o755, "secret": fs.ModeDir | 0o700, "hard": 0o755} {
		if info, err := os.Lstat(filepath.Join(dir, file)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v, want mode %s", file, info, err, want)
		}
	}
	if target, err := os.Readlink(filepath.Join(dir, "link")); err != nil || target != "/app/bin" {
		t.Errorf("link leads to %q (%v), want /app/bin", target, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "hard")); err != nil || string(b) != "content of app/bin" {
		t.Errorf("hard link holds %q (%v)", b, err)
	}
}

// Whatever an image holds, nothing outside its folder changes.
func FuzzUnpackStaysInside(f *testing.F) {
	f.Add(archive(f, tar.Header{Name: "../outside", Typeflag: tar.TypeReg, Mode: 0o644}))
	f.Add(archive(f, tar.Header{Name: "/outside", Typeflag: tar.TypeReg, Mode: 0o644}))
	f.Add(archive(f, tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: ".."}, tar.Header{Name: "up/outside", Typeflag: tar.TypeReg, Mode: 0o644}))
	f.Add(archive(f, tar.Header{Name: "to", Typeflag: tar.TypeSymlink, Linkname: "../witness"}, tar.Header{Name: "to", Typeflag: tar.TypeReg, Mode: 0o644}))
	f.Add(archive(f, tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "../witness"}, tar.Header{Name: "hard", Typeflag: tar.TypeReg, Mode: 0o600}))
	f.Fuzz(func(t *testing.T, b []byte) {
		outer := t.TempDir()
		witness, dir := filepath.Join(outer, "witness"), filepath.Join(outer, "image")
		if err := os.WriteFile(witness, []byte("untouched"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = unpack(bytes.NewReader(b), dir) // a bad archive is an error or not, but never an escape
		got, err := os.ReadFile(witness)
		info, _ := os.Stat(witness)
		entries, _ := os.ReadDir(outer)
		if err != nil || string(got) != "untouched" || info.Mode() != 0o644 || len(entries) != 2 {
			t.Errorf("outside the folder: %s %q %v", fmt.Sprint(entries), got, err)
		}
	})
}

func TestBackOffDoublesToItsEnd(t *testing.T) {
	got := []string{}
	for b := next(0); len(got) < 7; b = next(b) {
		got = append(got, b.String())
	}
	if want := "10s 20s 40s 1m20s 2m40s 5m0s 5m0s"; strings.Join(got, " ") != want {
		t.Errorf("back-off %v, want %s", got, want)
	}
}

// TestAnImageIsOneByItsConfiguration: under another digest it is the same image, and is named by the first digest of all.
func TestAnImageIsOneByItsConfiguration(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	repository, err := name.NewRepository(strings.TrimPrefix(server.URL, "http://") + "/our-org/app")
	if err != nil {
		t.Fatal(err)
	}
	imageOf := func(user string) v1.Image {
		image, err := mutate.Config(empty.Image, v1.Config{User: user})
		if err != nil {
			t.Fatal(err)
		}
		return image
	}
	push := func(image v1.Image, note string) string {
		index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
		index = mutate.Annotations(index, map[string]string{"note": note}).(v1.ImageIndex)
		digest, err := index.Digest()
		if err != nil {
			t.Fatal(err)
		}
		ref := repository.Digest(digest.String())
		if err := remote.WriteIndex(ref, index); err != nil {
			t.Fatal(err)
		}
		return ref.Name()
	}
	app := imageOf("1")
	names := []string{push(app, "a"), push(app, "b"), push(app, "c")}
	slices.Sort(names)
	other := push(imageOf("2"), "a")
	s := newImages(t.TempDir())
	for _, c := range []struct{ asked, shown string }{{names[1], names[1]}, {names[2], names[1]}, {other, other}, {names[0], names[0]}, {names[1], names[0]}} {
		image, _, err := s.get(t.Context(), c.asked)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.nameOf(image); got != c.shown {
			t.Errorf("%s is shown as %s, want %s", c.asked, got, c.shown)
		}
	}
}
