package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	fake "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// bundles is a registry with an image of the sample app, keys, and the app's manifests.
type bundles struct {
	image string
	dir   string
	asked func() int // requests so far
	down  func()     // from here on
}

func newBundles(t *testing.T) *bundles {
	t.Helper()
	quiet(t)
	for _, variable := range []string{"REGISTRY_USERNAME", "REGISTRY_PASSWORD", "SOURCE_DATE_EPOCH", "CROSSBILL_SIGNING_KEY", "CROSSBILL_REQUIRE_PROVENANCE", "CROSSBILL_MANIFESTS"} {
		t.Setenv(variable, "")
	}
	next, asked, down := fake.New(fake.Logger(log.New(io.Discard, "", 0)), fake.WithReferrersSupport(true)), 0, false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; down {
			w.WriteHeader(http.StatusNotImplemented)
			return
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	b := &bundles{dir: t.TempDir(), asked: func() int { return asked }, down: func() { down = true }}
	b.image = b.push(t, strings.TrimPrefix(server.URL, "http://")+"/our-org/qwik-node-app")
	writeKey(t, b.dir, "ours")
	writeKey(t, b.dir, "theirs")
	return b
}

func (b *bundles) push(t *testing.T, repository string) string {
	t.Helper()
	built, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	config, err := built.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config = v1.Config{Labels: map[string]string{"org.opencontainers.image.source": "https://github.com/our-org/app", "org.opencontainers.image.revision": "c0ffee0"}}
	if built, err = mutate.ConfigFile(built, config); err != nil {
		t.Fatal(err)
	}
	pushed, err := registry.Push(t.Context(), built, repository+":1", registry.Login{})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(pushed, ":1@", "@", 1)
}

// manifests copies the sample app's manifests, changed, and adds files.
func (b *bundles) manifests(t *testing.T, old, changed string, more map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "k8s")
	found := old == ""
	files := map[string]string{}
	names, err := filepath.Glob("../../k8s/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		found = found || strings.Contains(string(text), old)
		files[filepath.Base(name)] = string(text)
		if old != "" {
			files[filepath.Base(name)] = strings.ReplaceAll(string(text), old, changed)
		}
	}
	if !found {
		t.Fatalf("no manifest has %q", old)
	}
	maps.Copy(files, more)
	writeFiles(t, dir, files)
	return dir
}

// make makes a bundle of a folder.
func (b *bundles) make(t *testing.T, manifests string, more ...string) string {
	t.Helper()
	r := runLine(t, append([]string{"bundle", "--image", b.image, "--manifests", manifests}, more...)...)
	if r.code != 0 {
		t.Fatal(r.err)
	}
	return strings.TrimSpace(r.out)
}

func (b *bundles) sign(t *testing.T, reference, key string) {
	t.Helper()
	if r := runLine(t, "image", "attest", reference, "--ref", "refs/heads/main", "--key-file", filepath.Join(b.dir, key+".pem")); r.code != 0 {
		t.Fatal(r.err)
	}
}

// TestBundle: it is made, twice the same, shown, compared and released.
func TestBundle(t *testing.T) {
	b := newBundles(t)
	reference := b.make(t, "../../k8s")
	host, _, _ := strings.Cut(b.image, "/")
	shown := func(text string) string {
		return anyDigest.ReplaceAllString(strings.ReplaceAll(text, host, "registry.example.com"), "sha256:…")
	}
	file := filepath.Join(b.dir, "metadata.json")
	if again := b.make(t, b.manifests(t, "", "", nil), "--metadata-file", file, "--repository", host+"/our-org/qwik-node-app"); again != reference {
		t.Errorf("%s, then %s of the same in another folder", reference, again)
	}
	metadata, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("testdata", "golden", "bundle.json"), []byte(shown(string(metadata))))
	inspected := runLine(t, "bundle", "inspect", reference)
	if inspected.code != 0 {
		t.Error(inspected.err)
	}
	golden(t, filepath.Join("testdata", "golden", "bundle-inspect.txt"), []byte(shown(inspected.out)))
	same := runLine(t, "bundle", "diff", "oci://"+reference, b.manifests(t, "image: registry.example.com/our-org/qwik-node-app", "image: "+b.image, nil))
	if same.code != 0 || same.out != "no change\n" {
		t.Errorf("%s%s", same.out, same.err)
	}
	changed := b.make(t, b.manifests(t, `value: "5000"`, `value: "6000"`, nil))
	diff := runLine(t, "bundle", "diff", "oci://"+reference, "oci://"+changed)
	golden(t, filepath.Join("testdata", "golden", "bundle-diff.txt"), []byte(shown(diff.out)))

	server := (&apiServer{}).serve(t, "shop")
	server = server[:len(server)-2] // without --manifests
	for _, line := range []string{"--bundle oci://" + reference, "--bundle " + reference, "--manifests oci://" + reference, "--manifests oci://" + reference + " --image " + b.image} {
		r := runLine(t, append(append([]string{"canary", "--dry-run"}, strings.Fields(line)...), server...)...)
		if r.code != 0 || !strings.Contains(r.out, "image: "+b.image) {
			t.Errorf("%s: exit code %d\n%s%s", line, r.code, r.out, r.err)
		}
	}
	t.Setenv("CROSSBILL_MANIFESTS", "oci://"+reference)
	if r := runLine(t, append([]string{"canary", "--dry-run"}, server...)...); r.code != 0 {
		t.Errorf("by the variable: %s", r.err)
	}
}

// TestBundleIsRejected: by whom it was made, and by what it holds, each named, before anything is asked of the cluster.
func TestBundleIsRejected(t *testing.T) {
	b := newBundles(t)
	reference := b.make(t, "../../k8s")
	signed := b.make(t, b.manifests(t, `value: "5000"`, `value: "6000"`, nil))
	b.sign(t, signed, "ours")
	privileged := b.make(t, b.manifests(t, "automountServiceAccountToken: false", "hostNetwork: true", map[string]string{
		"role.yaml": "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: all}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}}",
	}))
	b.sign(t, privileged, "ours")
	elsewhere := b.make(t, b.manifests(t, "name: qwik-node-app-service", "namespace: kube-system\n  name: qwik-node-app-service", nil))
	strict := filepath.Join(b.dir, "crossbill.yaml")
	writeFiles(t, b.dir, map[string]string{"crossbill.yaml": "bundle: {maxReplicas: 1, maxCPU: 10m, podSecurity: restricted}\n"})
	trusted := " --trust " + filepath.Join(b.dir, "ours.yaml") + " --commit c0ffee0"
	other := b.push(t, strings.Split(b.image, "@")[0])
	server := &apiServer{}
	flags := server.serve(t, "shop")
	flags = flags[:len(flags)-2]
	for name, test := range map[string]struct {
		line string
		want []string
	}{
		"nobody signed it":       {"canary --bundle " + reference + trusted, []string{reference + " is rejected by the image policy", "it has no provenance"}},
		"somebody else did":      {"canary --bundle " + signed + strings.Replace(trusted, "ours", "theirs", 1), []string{"is rejected by the image policy", "signed by no key that the policy names"}},
		"of another commit":      {"canary --bundle " + signed + strings.Replace(trusted, "c0ffee0", "c0ffee1", 1), []string{"is rejected by the image policy", "c0ffee1"}},
		"of no commit":           {"canary --bundle " + signed + strings.Replace(trusted, " --commit c0ffee0", "", 1), []string{"--commit: is missing"}},
		"no policy":              {"canary --require-provenance --bundle " + signed, []string{"there is no image policy"}},
		"shift":                  {"shift --steps 20 --manifests oci://" + reference + strings.Replace(trusted, " --commit c0ffee0", "", 1), []string{"it has no provenance"}},
		"promote":                {"promote --manifests oci://" + reference + strings.Replace(trusted, " --commit c0ffee0", "", 1), []string{"it has no provenance"}},
		"migrate":                {"migrate --manifests oci://" + privileged, []string{"violates the bundle policy"}},
		"what it holds":          {"canary --bundle " + privileged + trusted, []string{privileged + " violates the bundle policy", "Deployment qwik-node-app-primary: spec.template.spec: host namespaces: hostNetwork=true (bundle.podSecurity: baseline)", "RoleBinding all: the kind RoleBinding.rbac.authorization.k8s.io is not admitted (bundle.kinds)", "nothing was changed"}},
		"promote what it holds":  {"promote --manifests oci://" + privileged, []string{"violates the bundle policy"}},
		"another namespace":      {"canary --bundle " + elsewhere, []string{`Service qwik-node-app-service: the namespace "kube-system" is not admitted (bundle.namespaces)`}},
		"a policy of the file's": {"canary --bundle " + signed + " --config " + strict, []string{"(bundle.maxReplicas)", "(bundle.maxCPU)"}},
		"another image":          {"canary --manifests oci://" + signed + " --image " + other, []string{"--image: " + other + " is another image than the bundle's"}},
		"a bundle and an image":  {"canary --bundle " + signed + " --image " + b.image, []string{"--bundle: an image is given as well"}},
		"a bundle and manifests": {"canary --bundle " + signed + " --manifests k8s", []string{"--bundle: --manifests is given as well"}},
		"a tag":                  {"canary --bundle oci://registry.example.com/app:1", []string{`--bundle: "oci://registry.example.com/app:1" names no bundle by digest`}},
		"manifests by tag":       {"promote --manifests oci://registry.example.com/app:1", []string{`--manifests: "oci://registry.example.com/app:1" names no bundle by digest`}},
		"an image":               {"canary --bundle " + b.image, []string{"is of type"}},
		"an id of another":       {"canary --bundle " + signed + " --release-id " + release.NewID("qwik-node-app", release.DigestOf(b.image), "", ""), []string{"--release-id: "}},
		"one of another app":     {"canary --bundle " + signed + " --app shop", []string{`--app: "shop" is meant`}},
	} {
		t.Run(name, func(t *testing.T) {
			server.requests = nil
			r := runLine(t, append(strings.Fields(test.line), flags...)...)
			for _, want := range test.want {
				if r.code != exitBadInput || !strings.Contains(r.err, want) || r.out != "" {
					t.Errorf("exit code %d, %s\nwant %s", r.code, r.err, want)
				}
			}
			if len(server.requests) > 0 {
				t.Errorf("asked %q of the cluster", server.requests)
			}
		})
	}
	if r := runLine(t, "bundle", "inspect", privileged); r.code != exitBadInput || !strings.Contains(r.out, "violations:") || !strings.Contains(r.err, "hostNetwork=true") {
		t.Errorf("inspect: exit code %d, %s%s", r.code, r.out, r.err)
	}
}

// TestBundleOfAnImageThatNobodySigned: the bundle is admitted, and its image is not.
func TestBundleOfAnImageThatNobodySigned(t *testing.T) {
	b := newBundles(t)
	reference := b.make(t, "../../k8s")
	b.sign(t, reference, "ours")
	server := &apiServer{}
	flags := server.serve(t, "shop")
	canary := append([]string{"canary", "--bundle", reference, "--trust", filepath.Join(b.dir, "ours.yaml"), "--commit", "c0ffee0"}, flags[:len(flags)-2]...)
	r := runLine(t, canary...)
	if r.code != exitBadInput || !strings.Contains(r.err, b.image+" is rejected by the image policy") || !strings.Contains(r.err, "bundle: made from https://github.com/our-org/app at c0ffee0 (refs/heads/main), signed by key ") {
		t.Errorf("exit code %d, %s", r.code, r.err)
	}
	if len(server.writes) > 0 {
		t.Errorf("written: %q", server.writes)
	}
	b.sign(t, b.image, "ours")
	if r := runLine(t, append(canary, "--dry-run")...); r.code != 0 || !strings.Contains(r.out, "image: "+b.image) {
		t.Errorf("signed: exit code %d, %s", r.code, r.err)
	}
	if shown := runLine(t, "image", "inspect", reference); !strings.Contains(shown.out, "bundle    of "+b.image+"\n") || strings.Contains(shown.out, "command") {
		t.Errorf("%s%s", shown.out, shown.err)
	}
	// A later commit that changes the configuration alone has a bundle of its own, and the older image.
	later := b.make(t, b.manifests(t, "DRAIN_MS", "DRAIN_MS_", nil), "--revision", "abcdef0")
	b.sign(t, later, "ours")
	canary[2] = later
	if r := runLine(t, append(canary, "--dry-run")...); r.code != exitBadInput || !strings.Contains(r.err, later+" is rejected by the image policy") {
		t.Errorf("a later bundle as the older commit's: exit code %d, %s", r.code, r.err)
	}
	if r := runLine(t, append(canary, "--commit", "abcdef0", "--dry-run")...); r.code != 0 || !strings.Contains(r.err, "bundle: made from https://github.com/our-org/app at abcdef0") || !strings.Contains(r.err, "built from https://github.com/our-org/app at c0ffee0") {
		t.Errorf("a later bundle: exit code %d, %s", r.code, r.err)
	}
	var inspected struct{ Attachments []struct{ Kind string } }
	shown := runLine(t, "image", "inspect", reference, "--trust", filepath.Join(b.dir, "ours.yaml"), "-o", "json")
	if err := json.Unmarshal([]byte(shown.out), &inspected); err != nil || shown.code != 0 || len(inspected.Attachments) != 2 {
		t.Errorf("inspect: exit code %d, %v, %s%s", shown.code, err, shown.out, shown.err)
	}
}

// TestRecoveryNeedsNoRegistry: what ends a release goes by the ledger where the manifests are in a bundle.
func TestRecoveryNeedsNoRegistry(t *testing.T) {
	b := newBundles(t)
	reference := b.make(t, "../../k8s")
	b.down()
	before := b.asked()
	server := &apiServer{ledgers: map[string]*release.Ledger{"qwik-node-app": ledgerOf(t, "qwik-node-app", true)}}
	flags := server.serve(t, "shop")
	for _, command := range []string{"rollback", "cleanup", "guard"} {
		r := runLine(t, append([]string{command, "--dry-run", "--manifests", "oci://" + reference}, flags[:len(flags)-2]...)...)
		if !strings.Contains(r.err, "the manifests are in a bundle, which this command does without; going by the ledger of qwik-node-app") || strings.Contains(r.err, "warning") {
			t.Errorf("%s: exit code %d, %s%s", command, r.code, r.out, r.err)
		}
	}
	if asked := b.asked() - before; asked > 0 {
		t.Errorf("the registry was asked %d times", asked)
	}
	if r := runLine(t, append([]string{"promote", "--manifests", "oci://" + reference}, flags[:len(flags)-2]...)...); r.code != exitFailure {
		t.Errorf("promote: exit code %d, %s", r.code, r.err)
	}
}

// TestPlantedValues: no command about bundles shows a Secret's value, in any format, and none is pushed without consent.
func TestPlantedValues(t *testing.T) {
	b := newBundles(t)
	const planted, other = "pl4nted-v4lue", "0th3r-v4lue"
	const encoded, encodedOther = "cGw0bnRlZC12NGx1ZQ==", "MHRoM3ItdjRsdWU="
	secret := func(value, data string) map[string]string {
		return map[string]string{"secret.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData: {PASSWORD: " + value + "}\ndata: {TOKEN: " + data + "}\n"}
	}
	const old, changed = "          env:\n", "          envFrom: [{secretRef: {name: app}}]\n          env:\n"
	first, second := b.manifests(t, old, changed, secret(planted, encoded)), b.manifests(t, old, changed, secret(other, encodedOther))
	var all strings.Builder
	run := func(code int, args ...string) {
		t.Helper()
		r := runLine(t, args...)
		if r.code != code {
			t.Errorf("%q: exit code %d, want %d: %s", args, r.code, code, r.err)
		}
		all.WriteString(r.out + r.err)
	}
	before := b.asked()
	run(exitBadInput, "bundle", "--image", b.image, "--manifests", first)
	if b.asked() != before {
		t.Error("the registry was asked")
	}
	file := filepath.Join(b.dir, "metadata.json")
	one, two := b.make(t, first, "--allow-secrets", "--metadata-file", file), b.make(t, second, "--allow-secrets")
	for _, format := range formats {
		run(0, "bundle", "--image", b.image, "--manifests", first, "--allow-secrets", "-o", format)
		run(exitBadInput, "bundle", "inspect", one, "-o", format)
		for _, sides := range [][2]string{{"oci://" + one, "oci://" + two}, {first, second}, {"oci://" + one, second}, {"../../k8s", first}, {first, "../../k8s"}} {
			run(0, "bundle", "diff", sides[0], sides[1], "-o", format)
		}
	}
	run(exitBadInput, "bundle", "inspect", one, "-o", manifestsFormat)
	flags := (&apiServer{}).serve(t, "shop")
	flags = flags[:len(flags)-2]
	run(exitBadInput, append([]string{"canary", "--bundle", one}, flags...)...)
	writeFiles(t, b.dir, map[string]string{"crossbill.yaml": "bundle: {allowSecrets: true}\n"})
	allowed := []string{"--config", filepath.Join(b.dir, "crossbill.yaml")}
	for _, format := range formats {
		run(0, append(append([]string{"canary", "--dry-run", "--verbose", "--bundle", one, "-o", format}, allowed...), flags...)...)
	}
	run(0, append([]string{"bundle", "inspect", one}, allowed...)...)
	metadata, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all.Write(metadata)
	// Manifests that cannot be read are not quoted either.
	for _, broken := range []string{
		"apiVersion: v1\nkind: Secret\nmetadata: {name: app}\ndata: {TOKEN: " + planted + "}\n",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData: {A: *" + planted + "}\n",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData: {A: !!float " + planted + "}\n",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: app}\ndata: {A: !!binary " + planted + "}\n",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData: {A: !" + planted + "! b}\n",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData: " + planted + "\n",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData:\n  A: a\n " + planted + "\n",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData: [" + planted + "]\n",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData: {A: " + planted + ", A: " + planted + "}\n",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData: {A: {B: " + planted + "}}\n",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData: \"" + planted + "\n",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData: &" + planted + "\n  A: *" + planted + "b\n",
	} {
		run(exitBadInput, "bundle", "--image", b.image, "--allow-secrets", "--manifests", b.manifests(t, "", "", map[string]string{"secret.yaml": broken}))
	}
	text := all.String()
	for _, value := range []string{planted, other, encoded, encodedOther} {
		if i := strings.Index(text, value); i >= 0 {
			t.Errorf("%s is shown: …%s…", value, text[max(0, i-300):min(len(text), i+100)])
		}
	}
	if !strings.Contains(text, "PASSWORD: '*** (after)'") {
		t.Error("no changed value is shown as one")
	}
}

func TestBadBundleLines(t *testing.T) {
	quiet(t)
	for _, variable := range []string{"REGISTRY_USERNAME", "REGISTRY_PASSWORD", "SOURCE_DATE_EPOCH", "CROSSBILL_MANIFESTS"} {
		t.Setenv(variable, "")
	}
	image := "--image registry.invalid/app@sha256:" + hex
	for line, want := range map[string]string{
		"":                      "--image: is missing",
		"--image app:1":         `--image: "app:1"`,
		image:                   "--manifests: stat k8s",
		image + " --created -1": "--created: -1 is not a time",
		image + " --manifests ../../k8s --repository a:1": `--repository: "a:1" is not a repository`,
		image + " --manifests oci://app@sha256:" + hex:    "is a bundle already",
		image + " --metadata-file /nonexistent/a":         "--metadata-file: ",
		image + " --username u":                           "--password-file: is missing",
		image + " --manifests ../../docs":                 "no manifest of kind",
		"inspekt":                                         `unknown command "inspekt"`,
		"inspect":                                         "REPOSITORY@DIGEST: is missing",
		"inspect app:1":                                   `REPOSITORY@DIGEST: "app:1" names no bundle by digest`,
		"diff a":                                          "OLD NEW: 1 are given",
		"diff oci://app:1 k8s":                            `OLD: "oci://app:1" names no bundle by digest`,
		"diff /nonexistent ../../k8s":                     "/nonexistent",
	} {
		t.Run(line, func(t *testing.T) {
			r := runLine(t, append([]string{"bundle"}, strings.Fields(line)...)...)
			if r.code != exitBadInput || !strings.Contains(r.err, want) || r.out != "" {
				t.Errorf("exit code %d, %s%s\nwant %s", r.code, r.out, r.err, want)
			}
		})
	}
}

// TestBundleOfAnotherRelease: shift and promote take no other bundle than the one that the release was started with.
func TestBundleOfAnotherRelease(t *testing.T) {
	b := newBundles(t)
	one, two := b.make(t, "../../k8s"), b.make(t, b.manifests(t, `value: "5000"`, `value: "6000"`, nil))
	for name, test := range map[string]struct{ started, image, given, want string }{
		"its own":       {one, b.image, one, ""},
		"another":       {one, b.image, two, "was started with the bundle " + one},
		"another image": {"", "registry.example.com/our-org/app@sha256:" + hex, two, "is of the image registry.example.com/our-org/app@sha256:" + hex},
		"of files":      {"", b.image, two, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := &clusterOptions{manifests: "oci://" + test.given}
			if err := o.loadManifests(); err != nil {
				t.Fatal(err)
			}
			admitted := false
			c := &rollout.Cluster{Admit: func(context.Context, *release.Release) error { admitted = true; return nil }}
			requireBundle(c, o.bundle)
			err := c.Admit(t.Context(), &release.Release{ID: "r1", Image: test.image, Bundle: test.started})
			if test.want == "" {
				if err != nil || !admitted {
					t.Errorf("%v, admitted %t", err, admitted)
				}
				return
			}
			if exitCode(err) != exitBadInput || !strings.Contains(err.Error(), test.want) || admitted {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}
