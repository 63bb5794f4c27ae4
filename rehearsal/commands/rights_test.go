package commands_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/release"
)

// asked is one request to the API server, in the words of its authorizer.
type asked struct{ action, group, resource, namespace, name string }

func (r asked) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s.%s %s/%s", r.action, r.resource, r.group, r.namespace, r.name))
}

var verboseLine = regexp.MustCompile(`(?m)^(GET|POST|PUT|PATCH|DELETE) (https?://\S+) (\d+)`)

// requestsIn are the requests that a command with --verbose has said it made, and those of them that were forbidden.
func requestsIn(t *testing.T, out string) (all, forbidden []asked) {
	t.Helper()
	for _, line := range verboseLine.FindAllStringSubmatch(out, -1) {
		u, err := url.Parse(line[2])
		if err != nil {
			t.Fatal(err)
		}
		request, ok := askedBy(line[1], u)
		if !ok {
			continue
		}
		if all = append(all, request); line[3] == "403" {
			forbidden = append(forbidden, request)
		}
		if request.action == "patch" && line[3] == "201" { // server-side apply of a new object: the API server asks for both
			request.action = "create"
			all = append(all, request)
		}
	}
	return all, forbidden
}

// askedBy reads a request as k8s.io/apiserver's RequestInfoFactory does, as far as the commands make them; false for what
// is not about an object, such as discovery.
func askedBy(method string, u *url.URL) (r asked, ok bool) {
	path := strings.Split(strings.Trim(u.Path, "/"), "/")
	switch {
	case path[0] == "api" && len(path) > 2:
		path = path[2:]
	case path[0] == "apis" && len(path) > 3:
		r.group, path = path[1], path[3:]
	default:
		return r, false
	}
	if path[0] == "namespaces" && len(path) > 2 {
		r.namespace, path = path[1], path[2:]
	}
	r.resource = path[0]
	if len(path) > 1 {
		r.name = path[1]
	}
	query := u.Query()
	named, isNamed := strings.CutPrefix(query.Get("fieldSelector"), "metadata.name=")
	switch r.action = map[string]string{"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get"}[method]; {
	case method != "GET" || r.name != "":
		return r, true
	case query.Get("watch") != "":
		r.action = "watch"
	default:
		r.action = "list"
	}
	if isNamed { // RBAC holds such a list or watch against resourceNames
		r.name = named
	}
	return r, true
}

// rights is a Role, and what of it was used.
type rights struct {
	rules []rbacv1.PolicyRule
	used  map[string]bool // "rule/resource/action", "rule/name"
}

func (r *rights) use(a asked) (allowed bool) {
	for i, rule := range r.rules {
		if slices.Contains(rule.APIGroups, a.group) && slices.Contains(rule.Resources, a.resource) && slices.Contains(rule.Verbs, a.action) &&
			(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.name)) {
			r.used[fmt.Sprint(i, a.resource, a.action)], r.used[fmt.Sprint(i, a.name)] = true, true
			return true
		}
	}
	return false
}

// unused are the parts of the Role that no request needed.
func (r *rights) unused() (unused []string) {
	for i, rule := range r.rules {
		for _, resource := range rule.Resources {
			for _, action := range rule.Verbs {
				if !r.used[fmt.Sprint(i, resource, action)] {
					unused = append(unused, fmt.Sprintf("rule %d: %s %s %v", i+1, action, resource, rule.ResourceNames))
				}
			}
		}
		for _, name := range rule.ResourceNames {
			if !r.used[fmt.Sprint(i, name)] {
				unused = append(unused, fmt.Sprintf("rule %d: the name %s", i+1, name))
			}
		}
	}
	return unused
}

// account makes the objects of one of k8s/guard's files, with the app's names.
func (a *app) account(file string, edits ...string) *rbacv1.Role {
	t := a.T
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../k8s/guard", file))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	var role rbacv1.Role
	for _, document := range strings.Split(strings.NewReplacer(append(edits, "qwik-node-app", a.name)...).Replace(string(text)), "\n---\n") {
		var kind metav1.TypeMeta
		var account corev1.ServiceAccount
		var binding rbacv1.RoleBinding
		err := yaml.Unmarshal([]byte(document), &kind)
		switch kind.Kind {
		case "ServiceAccount":
			if err = yaml.UnmarshalStrict([]byte(document), &account); err == nil {
				_, err = a.kube.CoreV1().ServiceAccounts(a.namespace).Create(ctx, &account, metav1.CreateOptions{})
			}
		case "Role":
			if err = yaml.UnmarshalStrict([]byte(document), &role); err == nil {
				_, err = a.kube.RbacV1().Roles(a.namespace).Create(ctx, &role, metav1.CreateOptions{})
			}
		case "RoleBinding":
			if err = yaml.UnmarshalStrict([]byte(document), &binding); err == nil {
				for i := range binding.Subjects {
					binding.Subjects[i].Namespace = a.namespace
				}
				_, err = a.kube.RbacV1().RoleBindings(a.namespace).Create(ctx, &binding, metav1.CreateOptions{})
			}
		default:
			err = fmt.Errorf("%s has a %q", file, kind.Kind)
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	return &role
}

// kubeconfigOf is a kubeconfig of the service account that rbac.yaml makes.
func (a *app) kubeconfigOf(account string) string {
	t := a.T
	t.Helper()
	token, err := a.kube.CoreV1().ServiceAccounts(a.namespace).CreateToken(t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(running.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.AuthInfos[config.Contexts[config.CurrentContext].AuthInfo] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, kubeconfig); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

// courtesies are what the commands ask for and do without: whether a dead pod's node is gone, who else in the cluster
// has a route for the app's host, and whether there are previews. A Role of one namespace cannot grant them. What it may do itself, everybody may ask
// (system:basic-user).
func courtesies(r asked) bool {
	if r.resource == "selfsubjectaccessreviews" {
		return true
	}
	if r.action == "list" && r.resource == "deployments" && r.name == "" { // previews
		return true
	}
	elsewhere := r.namespace == "" && r.action == "list" && slices.Contains([]string{"virtualservices", "destinationrules", "pods"}, r.resource)
	return elsewhere || r.action == "get" && (r.resource == "nodes" || r.resource == "namespaces")
}

// testTheLeastRights: every command works with exactly the Role of k8s/guard, asks for nothing else, and there is no part
// of the Role that none of them uses. Without the lock's Lease they say what is missing.
func testTheLeastRights(t *testing.T) {
	t.Parallel()
	a := newApp(t, "rights")
	role := a.account("rbac.yaml")
	kubeconfig := a.kubeconfigOf("crossbill")
	granted := &rights{role.Rules, map[string]bool{}}
	as := func(want int, args ...string) {
		t.Helper()
		manifests := []string{"--manifests", a.manifests}
		if slices.Contains(args, "--manifests") {
			manifests = nil
		}
		args = append(append(args, "--verbose", "--kubeconfig", kubeconfig, "--namespace", a.namespace), manifests...)
		switch args[0] {
		case "canary", "shift", "promote", "cleanup", "rollback":
			args = append(args, "--settle-delay", "200ms")
		}
		code, out := a.command(args...)
		if code != want {
			t.Fatalf("%v: exit code %d, want %d\n%s", args, code, want, out)
		}
		all, forbidden := requestsIn(t, out)
		for _, request := range forbidden {
			if !courtesies(request) {
				t.Errorf("%s: %s is forbidden", args[0], request)
			}
		}
		for _, request := range all {
			if !granted.use(request) && !courtesies(request) {
				t.Errorf("%s: the Role lacks %s", args[0], request)
			}
		}
		if len(all) == 0 {
			t.Errorf("%v asks nothing:\n%s", args, out)
		}
	}
	as(0, "doctor") // before the first release
	as(0, "canary", "--image", images["one"])
	as(0, "plan", "canary", "--image", images["two"])
	a.writeManifests("    - name: http\n      port: 80\n", "    - name: http\n      appProtocol: http\n      port: 80\n")
	as(0, "canary", "--image", images["two"])
	as(0, "shift", "--steps", "20")
	as(0, "status")
	as(0, "history")
	a.env = []string{"KUBE_FEATURE_WatchListClient=false"} // client-go's own switch: as beside an API server that does not stream lists
	as(4, "verify", "--prometheus", running.PrometheusURL, "--max-duration", "3s", "--interval", "1s")
	a.healthy()
	as(0, "promote")
	a.env = nil
	as(0, "cleanup")
	as(0, "canary", "--image", images["three"], "--sticky", "--baseline")
	as(0, "rollback", "--app", a.name, "--manifests", "none")
	as(6, "canary", "--image", images["unready"], "--timeout", "3s")
	as(0, "guard")
	as(0, "report")
	for _, part := range granted.unused() {
		t.Errorf("no command uses %s of the Role", part)
	}

	role.Rules = slices.DeleteFunc(role.Rules, func(r rbacv1.PolicyRule) bool { return slices.Contains(r.Resources, "leases") })
	role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"get"}})
	ctx := t.Context()
	if _, err := a.kube.RbacV1().Roles(a.namespace).Update(ctx, role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	a.eventually(func() error { // the API server's authorizer takes a moment
		began := time.Now()
		code, out := a.command("doctor", "--kubeconfig", kubeconfig, "--namespace", a.namespace, "--manifests", a.manifests)
		if took := time.Since(began); code != 2 || took > 5*time.Second || !strings.Contains(out, "✗ rights: leases.coordination.k8s.io crossbill-"+a.name+": this account may not update, patch it in "+a.namespace) {
			return fmt.Errorf("doctor without the right to the lock, after %s: exit code %d\n%s", took, code, out)
		}
		return nil
	})
	cluster := a.quiet("without", nil)
	restricted, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cluster.Kube, cluster.Istio = clients(t, restricted)
	cluster.LockTimeout, cluster.Again = 3*time.Second, true
	a.eventually(func() error { // the API server's authorizer takes a moment
		_, err := cluster.Canary(ctx, release.Release{ID: "without", Image: images["three"], Weight: 10})
		if err == nil || !strings.Contains(err.Error(), "forbidden") {
			return fmt.Errorf("a release without the right to the lock: %v", err)
		}
		return nil
	})
}

// testTheRightsOfMigrate: migrate needs the second Role too, all of it and nothing else.
func testTheRightsOfMigrate(t *testing.T) {
	t.Parallel()
	granted := &rights{used: map[string]bool{}}
	var second []rbacv1.PolicyRule
	for name, old := range map[string]string{"rights-other": "web", "rights-bare": "rights-bare-primary", "rights-died": "rights-died-primary"} {
		a := manualApp(t, name, old, map[string]string{"rights-other": "version: v1", "rights-bare": "tier: web", "rights-died": "tier: web"}[name])
		args := []string{"migrate", "--verbose", "--namespace", a.namespace, "--manifests", a.manifests, "--settle-delay", "200ms"}
		if name == "rights-died" { // an earlier migrate, after it had deleted the old Deployment
			orphan := metav1.DeletePropagationOrphan
			ledger := release.Ledger{Version: release.LedgerVersion, App: name, Epoch: 1, Open: true}
			_, err := a.kube.CoreV1().ConfigMaps(a.namespace).Create(t.Context(), &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: "crossbill-" + name}, Data: map[string]string{"ledger.json": ledger.String()},
			}, metav1.CreateOptions{})
			if err == nil {
				err = a.kube.AppsV1().Deployments(a.namespace).Delete(t.Context(), old, metav1.DeleteOptions{PropagationPolicy: &orphan})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		a.account("rbac.yaml")
		role := a.account("migrate-rbac.yaml", "[qwik-node-app]", "["+old+"]")
		first := &rights{a.account("rbac.yaml").Rules, map[string]bool{}}
		granted.rules = role.Rules
		second = role.Rules
		code, out := a.command(append(args, "--kubeconfig", a.kubeconfigOf("crossbill"))...)
		if code != 0 {
			t.Fatalf("%s: exit code %d\n%s", name, code, out)
		}
		all, _ := requestsIn(t, out)
		for _, request := range all {
			if !granted.use(request) && !first.use(request) && !courtesies(request) {
				t.Errorf("%s: the Roles lack %s", name, request)
			}
		}
	}
	granted.rules = second
	for _, part := range granted.unused() {
		if !strings.Contains(part, "the name") { // another one in each case
			t.Errorf("migrate does not use %s", part)
		}
	}
}

// blocks are the YAML blocks of a page that have a kind.
func blocks(t *testing.T, page string) (found []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs/guides", page))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
		if strings.Contains(block[1], "\nkind: ") {
			found = append(found, block[1])
		}
	}
	return found
}

// testTheJobsIdentity: a release by what docs/guides/adopt.md sets up. GitLab's agent may only impersonate, and Kubernetes
// knows the job by its project and its environment. A job of another environment may not even read.
//
// The groups and the extra values are those of GitLab's documentation (Using GitLab CI/CD with a Kubernetes cluster,
// "Impersonate the CI/CD job"); the environments' slugs are made as Gitlab::Slug::Environment does. The agent itself is not
// here: it would send the same headers.
func testTheJobsIdentity(t *testing.T) {
	t.Parallel()
	a := newApp(t, "identity")
	a.account("rbac.yaml")
	ctx := t.Context()
	var impersonates rbacv1.ClusterRole
	var binding rbacv1.RoleBinding
	found := blocks(t, "adopt.md")
	if len(found) != 2 {
		t.Fatalf("the page has %d objects", len(found))
	}
	if err := errors.Join(yaml.UnmarshalStrict([]byte(found[0]), &impersonates), yaml.UnmarshalStrict([]byte(found[1]), &binding)); err != nil {
		t.Fatal(err)
	}
	binding.Namespace = a.namespace
	_, err1 := a.kube.RbacV1().ClusterRoles().Create(ctx, &impersonates, metav1.CreateOptions{})
	_, err2 := a.kube.RbacV1().RoleBindings(a.namespace).Create(ctx, &binding, metav1.CreateOptions{})
	_, err3 := a.kube.CoreV1().ServiceAccounts(a.namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "gitlab-agent"}}, metav1.CreateOptions{})
	_, err4 := a.kube.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: impersonates.Name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "gitlab-agent", Namespace: a.namespace}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: impersonates.Name},
	}, metav1.CreateOptions{})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	agent := a.kubeconfigOf("gitlab-agent")
	const project, gate, canary, review = "42", "production/qwik-node-app", "production/qwik-node-app-canary", "review/qwik-node-app"
	job := func(environment, tier string) *clientcmdapi.AuthInfo {
		config, err := clientcmd.LoadFromFile(agent)
		if err != nil {
			t.Fatal(err)
		}
		info := config.AuthInfos[config.Contexts[config.CurrentContext].AuthInfo]
		info.Impersonate = "gitlab:ci_job:1074499489"
		info.ImpersonateGroups = []string{
			"gitlab:ci_job", "gitlab:group:23", "gitlab:group_env_tier:23:" + tier, "gitlab:project:" + project,
			"gitlab:project_env:" + project + ":" + slug(environment), "gitlab:project_env_tier:" + project + ":" + tier,
		}
		info.ImpersonateUserExtra = map[string][]string{
			"agent.gitlab.com/id": {"7"}, "agent.gitlab.com/config_project_id": {"41"}, "agent.gitlab.com/project_id": {project}, "agent.gitlab.com/ci_pipeline_id": {"1001"},
			"agent.gitlab.com/ci_job_id": {"1074499489"}, "agent.gitlab.com/username": {"jane"}, "agent.gitlab.com/environment_slug": {slug(environment)}, "agent.gitlab.com/environment_tier": {tier},
		}
		return info
	}
	as := func(want int, environment, tier string, args ...string) {
		t.Helper()
		config, err := clientcmd.LoadFromFile(agent)
		if err != nil {
			t.Fatal(err)
		}
		config.AuthInfos[config.Contexts[config.CurrentContext].AuthInfo] = job(environment, tier)
		kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
		if err := clientcmd.WriteToFile(*config, kubeconfig); err != nil {
			t.Fatal(err)
		}
		code, out := a.command(append(args, "--kubeconfig", kubeconfig, "--namespace", a.namespace, "--manifests", a.manifests, "--settle-delay", "200ms")...)
		if code != want || want != 0 && !strings.Contains(out, "forbidden") {
			t.Fatalf("%v in %s: exit code %d, want %d\n%s", args, environment, code, want, out)
		}
	}
	as(1, review, "development", "canary", "--image", images["one"])
	as(0, canary, "other", "canary", "--image", images["one"])
	as(0, canary, "other", "canary", "--image", images["two"])
	a.healthy()
	as(1, review, "production", "promote")
	as(0, gate, "production", "promote")
	as(0, canary, "other", "cleanup")
	if code, out := a.command("cleanup", "--kubeconfig", agent, "--namespace", a.namespace, "--manifests", a.manifests); code != 1 || !strings.Contains(out, "forbidden") {
		t.Errorf("the agent itself: exit code %d\n%s", code, out)
	}
}

// slug is CI_ENVIRONMENT_SLUG of an environment whose name has a slash.
func slug(environment string) string {
	short := regexp.MustCompile(`-+`).ReplaceAllString(regexp.MustCompile(`[^a-z0-9]`).ReplaceAllString(environment, "-"), "-")
	hash := sha256.Sum256([]byte(environment))
	suffix := new(big.Int).SetBytes(hash[:]).Text(36)
	return strings.TrimSuffix(short[:min(17, len(short))], "-") + "-" + suffix[len(suffix)-6:]
}
