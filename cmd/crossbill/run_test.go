package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	kustomize "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/reconcile"
	"github.com/our-org/crossbill/internal/release"
)

// TestRunArguments: each command gets what it needs, and of the flags of run those that it has. All of them are its own.
func TestRunArguments(t *testing.T) {
	digest := strings.Repeat("0a", 32)
	image := release.Handoff{App: "shop", ID: "one", Image: "registry.example.com/shop@sha256:" + digest, Commit: "3f9a1c2", SourceURL: "https://github.com/our-org/shop/actions/runs/7"}
	bundled := image
	bundled.Bundle, bundled.Image = image.Image, ""
	given := []string{"--app=shop", "--as-group=a", "--as-group=b", "--manifests=apps", "--namespace=production", "--prometheus=http://prometheus:9090", "--queue-policy=supersede", "--interval=5s", "--repository=registry.example.com/shop", "-o=json"}
	common := "--app=shop --as-group=a --as-group=b --manifests=apps --namespace=production --prometheus=http://prometheus:9090"
	for name, test := range map[string]struct {
		step reconcile.Step
		once bool
		want string
	}{
		"queue":                             {step: reconcile.Step{Command: reconcile.Queue, Release: image}, want: "queue --queue-wait=2m0s --image=" + image.Image + " --commit=3f9a1c2 --source-url=" + image.SourceURL + " --release-id=one " + common + " --queue-policy=supersede"},
		"queue, while nothing is in flight": {step: reconcile.Step{Command: reconcile.Queue, Release: image, Turn: true}, want: "queue --queue-wait=12m0s --image=" + image.Image + " --commit=3f9a1c2 --source-url=" + image.SourceURL + " --release-id=one " + common + " --queue-policy=supersede"},
		"canary":                            {step: reconcile.Step{Command: reconcile.Canary, Release: image, Proposal: "abcdef0", Again: true}, want: "canary --proposal=abcdef0 --image=" + image.Image + " --commit=3f9a1c2 --source-url=" + image.SourceURL + " --again --release-id=one " + common + " --queue-policy=supersede"},
		"follow a bundle": {step: reconcile.Step{Command: reconcile.Follow, Release: bundled, Proposal: "abcdef0"},
			want: "canary --follow --proposal=abcdef0 --bundle=" + bundled.Bundle + " --commit=3f9a1c2 --source-url=" + image.SourceURL + " --release-id=one " + strings.Replace(common, "--manifests=apps ", "", 1) + " --queue-policy=supersede"},
		"verify":      {step: reconcile.Step{Command: reconcile.Verify, Release: image}, want: "verify --watch --release-id=one " + common},
		"verify once": {step: reconcile.Step{Command: reconcile.Verify, Release: image}, once: true, want: "verify --release-id=one " + common},
		"promote":     {step: reconcile.Step{Command: reconcile.Promote, Release: image}, want: "promote --approved-in-git --release-id=one " + common},
		"cleanup":     {step: reconcile.Step{Command: reconcile.Cleanup, Release: image}, want: "cleanup --release-id=one " + common},
		"rollback":    {step: reconcile.Step{Command: reconcile.Rollback, Release: image, Reason: "too slow"}, want: "rollback --reason=too slow --release-id=one " + common},
		"guard":       {step: reconcile.Step{Command: reconcile.Guard, Release: image}, want: "guard " + common},
	} {
		root := newRootCommand()
		cmd, _, err := root.Find([]string{"run"})
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.ParseFlags(given); err != nil {
			t.Fatal(err)
		}
		got := (&runOptions{cmd: cmd, once: test.once, turn: queueTurn}).arguments(test.step)
		if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		other, _, err := root.Find(got[:1])
		if err == nil {
			err = other.ParseFlags(got[1:])
		}
		if err != nil {
			t.Errorf("%s does not take its flags: %v", name, err)
		}
	}
}

// TestRunRefused: before anything is asked of a server.
func TestRunRefused(t *testing.T) {
	folder := t.TempDir()
	git := "gitops: {repository: 'https://gitlab.example.com/our-org/environment.git'"
	policy := "\napproval: {issuer: 'https://gitlab.example.com', project: our-org/infrastructure, environment: production}"
	for name, test := range map[string]struct {
		config, want string
		args         []string
	}{
		"no app":                  {git + "}", "--app: is missing", []string{"run", "--prometheus", "http://p"}},
		"a format for one result": {git + "}", "--output: yaml is not for what goes on", []string{"run", "--app", "shop", "--prometheus", "http://p", "-o", "yaml"}},
		"no Prometheus":           {git + "}", "--prometheus: is missing", []string{"run", "--app", "shop"}},
		"a ledger in Git":         {git + ", controller: flux, store: git, path: apps}", "gitops.store: run reads the ledger in the cluster", []string{"run", "--app", "shop", "--prometheus", "http://p"}},
		"no repository":           {"app: shop", "gitops.repository: is missing", []string{"run", "--prometheus", "http://p"}},
		"a policy":                {git + "}" + policy, "which no commit gives; leave the section out and name who may approve in gitops.allowedSignersFile", []string{"run", "--app", "shop", "--prometheus", "http://p"}},
		"a policy, to approve":    {git + "}" + policy, "which no commit gives", []string{"approve", "--in-git", "--app", "shop"}},
		"no signers":              {git + ", allowedSignersFile: nobody}", "gitops.allowedSignersFile: ", []string{"run", "--app", "shop", "--prometheus", "http://p"}},
		"health of what ends":     {git + "}", "--health-address: does not go together with --once", []string{"run", "--app", "shop", "--prometheus", "http://p", "--once", "--health-address", ":8080"}},
		"health nowhere":          {git + "}", `--health-address: "8080" is not an address with a port; give for example :8080`, []string{"run", "--app", "shop", "--prometheus", "http://p", "--health-address", "8080"}},
		"two without signatures":  {git + ", approvals: 2}", "gitops.approvals: 2 people have to approve, and without signatures one who may push can be all of them; name who may approve in gitops.allowedSignersFile", []string{"run", "--app", "shop", "--prometheus", "http://p"}},
		"not a registry's":        {git + "}", "--repository: ", []string{"run", "--app", "shop", "--prometheus", "http://p", "--repository", "A b"}},
		"approved by an operator": {git + "}", "--approve-as-operator: does not go together with --in-git", []string{"approve", "--in-git", "--app", "shop", "--approve-as-operator"}},
	} {
		file := filepath.Join(folder, "crossbill.yaml")
		if err := os.WriteFile(file, []byte(test.config), 0o600); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		root := newRootCommand()
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetArgs(append(test.args, "--config", file))
		if code := execute(t.Context(), root); code != exitBadInput || !strings.Contains(out.String(), test.want) {
			t.Errorf("%s: exit code %d, %s", name, code, out.String())
		}
	}
}

// TestRunManifests: k8s/run is what the API server takes, and what the command asks for.
func TestRunManifests(t *testing.T) {
	decode := func(text string, into any) {
		t.Helper()
		if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	var listed kustomize.Kustomization
	decode(read(t, "k8s/run/kustomization.yaml"), &listed)
	if diff := cmp.Diff([]string{"rbac.yaml", "deployment.yaml"}, listed.Resources); diff != "" {
		t.Error(diff)
	}
	var d appsv1.Deployment
	decode(read(t, "k8s/run/deployment.yaml"), &d)
	var role rbacv1.Role
	var binding rbacv1.RoleBinding
	first, second, _ := strings.Cut(read(t, "k8s/run/rbac.yaml"), "\n---\n")
	decode(first, &role)
	decode(second, &binding)

	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	if !*c.SecurityContext.ReadOnlyRootFilesystem || *pod.SecurityContext.RunAsUser != 65532 || c.Resources.Limits.Memory().IsZero() {
		t.Error("the pod may do more than it needs")
	}
	if pod.ServiceAccountName != binding.Subjects[0].Name || binding.RoleRef.Name != role.Name || !strings.Contains(read(t, "k8s/guard/rbac.yaml"), "kind: ServiceAccount\nmetadata:\n  name: "+pod.ServiceAccountName+"\n") {
		t.Error("the account has not both Roles")
	}
	for _, name := range []string{"REGISTRY_HOST", "REGISTRY_USERNAME", "REGISTRY_PASSWORD"} {
		if !slices.ContainsFunc(c.Env, func(v corev1.EnvVar) bool {
			return v.Name == name && v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil && *v.ValueFrom.SecretKeyRef.Optional
		}) {
			t.Errorf("the commands do not get %s", name)
		}
	}
	root := newRootCommand()
	cmd, _, err := root.Find(c.Command[1:2])
	if err == nil {
		err = cmd.ParseFlags(c.Command[2:])
	}
	if err != nil {
		t.Fatal(err)
	}
	health := httptest.NewServer(&reconcile.Health{})
	defer health.Close()
	for path, probe := range map[string]*corev1.Probe{"/health": c.LivenessProbe, "/ready": c.ReadinessProbe} {
		if probe.HTTPGet.Path != path || probe.HTTPGet.Port.StrVal != c.Ports[0].Name || cmd.Flag("health-address").Value.String() != fmt.Sprintf(":%d", c.Ports[0].ContainerPort) {
			t.Errorf("the probe of %s asks %+v", path, probe.HTTPGet)
		}
		if answer, err := http.Get(health.URL + probe.HTTPGet.Path); err != nil || answer.StatusCode == http.StatusNotFound {
			t.Errorf("%s: %v, %v", path, answer, err)
		}
	}
	app := cmd.Flag("app").Value.String()
	if names := role.Rules[0].ResourceNames; !slices.Equal(names, []string{leaseName(app)}) {
		t.Errorf("the Role is for %v", names)
	}
}

// TestApproveInGit: a signed approval counts as its signer's, and only where that one may; the same again makes no commit.
func TestApproveInGit(t *testing.T) {
	f := newForge(t, map[string]string{"README.md": "releases"})
	keys := t.TempDir()
	var names []byte
	for _, who := range []string{"mona", "lisa", "eve"} {
		key := filepath.Join(keys, who)
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		public, err := os.ReadFile(key + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		if who != "eve" {
			names = append(append(names, who+"@example.com "...), public...)
		}
	}
	allowed := writeFile(t, string(names))
	if r := inProcess(t, append(proposing(1), "--config", f.config)...); r.code != 0 {
		t.Fatal(r.err)
	}
	proposed := f.git("rev-parse", "main")
	signers, err := environment.ReadSigners(allowed)
	if err != nil {
		t.Fatal(err)
	}
	repository, err := environment.New(environment.Options{URL: f.url + "/environment.git", Branch: "main", TokenFile: writeFile(t, pushToken)})
	if err != nil {
		t.Fatal(err)
	}
	approve := func(signer string) ran {
		f.configure(map[string]string{"signingKeyFile": filepath.Join(keys, signer)})
		return inProcess(t, "approve", "--in-git", "--app", "shop", "--config", f.config)
	}
	look := func(needs int) ([]release.Approval, error) {
		git := &proposals{app: "shop", file: "releases/shop.yaml", repository: repository, signers: signers, needs: needs}
		text := f.git("show", "main:releases/shop.yaml")
		_, id, _ := strings.Cut(text, "releaseId: ")
		id, _, _ = strings.Cut(id, "\n")
		return git.approvals(t.Context(), &release.Release{ID: strings.Trim(id, `"`), Proposal: proposed})
	}
	if _, err := look(1); err == nil || !strings.Contains(err.Error(), "nobody has approved it in Git; approve it with `crossbill approve --in-git`") {
		t.Errorf("before: %v", err)
	}
	if r := approve("eve"); r.code != 0 {
		t.Fatal(r.err)
	}
	if _, err := look(1); exitCode(err) != exitBadInput || !strings.Contains(err.Error(), "is nobody's who may") {
		t.Errorf("by eve: %v", err)
	}
	f.configure(map[string]string{"signingKeyFile": filepath.Join(keys, "mona"), "allowedSignersFile": allowed})
	if r := inProcess(t, "approve", "--in-git", "--app", "shop", "--config", f.config); r.code != exitBadInput || !strings.Contains(r.err, "it has an approval that does not count: commit ") || !strings.Contains(r.err, "is nobody's who may") {
		t.Errorf("by mona, beside eve's: %+v", r)
	}
	f.push("Take it back", map[string]string{"releases/shop.yaml": f.git("show", proposed+":releases/shop.yaml") + "\n"})
	if r := approve("mona"); r.code != 0 || !strings.Contains(r.out, "is approved by commit ") {
		t.Fatal(r)
	}
	if a, err := look(1); err != nil || len(a) != 1 || a[0].Kind != release.ApprovalSigned || a[0].By != "mona@example.com" || a[0].Commit != f.git("rev-parse", "main") {
		t.Errorf("by mona: %+v, %v", a, err)
	}
	commits := f.commits()
	if r := approve("mona"); r.code != 0 || !strings.Contains(r.out, "is approved already") || f.commits() != commits {
		t.Errorf("once more: %+v", r)
	}

	// Two have to, each with a key of their own.
	two := func(signer string) ran {
		f.configure(map[string]string{"signingKeyFile": filepath.Join(keys, signer), "allowedSignersFile": allowed})
		text, err := os.ReadFile(f.config)
		if err == nil {
			err = os.WriteFile(f.config, append(text, "  approvals: 2\n"...), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return inProcess(t, "approve", "--in-git", "--app", "shop", "--config", f.config)
	}
	if r := two("eve"); r.code != exitBadInput || !strings.Contains(r.err, "gitops.signingKeyFile: its key SHA256:") || f.commits() != commits {
		t.Errorf("by eve: %+v", r)
	}
	if r := two("mona"); r.code != 0 {
		t.Fatal(r.err)
	}
	if _, err := look(2); err == nil || !strings.Contains(err.Error(), "1 of 2 approvals: only mona@example.com has approved it; approve it with") {
		t.Errorf("mona twice: %v", err)
	}
	if r := two("lisa"); r.code != 0 {
		t.Fatal(r.err)
	}
	all, err := look(2)
	if err != nil || len(all) != 2 || all[1].By != "lisa@example.com" || !strings.HasSuffix(f.git("show", "main:releases/shop.yaml"), "\napprovedBy: mona@example.com, lisa@example.com") {
		t.Errorf("by two: %+v, %v\n%s", all, err, f.git("show", "main:releases/shop.yaml"))
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
