package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	istiofake "istio.io/client-go/pkg/clientset/versioned/fake"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// lines are findings as a person reads them.
func lines(findings []Finding) (all []string) {
	for _, f := range findings {
		line := map[Status]string{OK: "✓", Problem: "✗", Unknown: "?"}[f.Status] + " " + f.Check + ": " + f.Detail
		if f.Fix != "" {
			line += " (fix: " + f.Fix + ")"
		}
		all = append(all, line)
	}
	return all
}

func run(t *testing.T, checks ...Check) []string {
	t.Helper()
	return lines(Run(t.Context(), checks, func(field string) string { return field }))
}

// TestTheSlowAreNotWaitedFor: checks run side by side, and one that looks at no context holds nobody up.
func TestTheSlowAreNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		forever := make(chan struct{})
		defer close(forever)
		late := func(ctx context.Context) ([]string, error) {
			select {
			case <-time.After(3 * time.Second):
				return []string{"late"}, nil
			case <-ctx.Done():
				return nil, errors.New("the last answer was 503")
			}
		}
		began := time.Now()
		got := run(t,
			Check{Name: "a", Run: late}, Check{Name: "b", Run: late},
			Check{Name: "c", Run: late, After: "a"},
			Check{Name: "d", Run: func(context.Context) ([]string, error) { <-forever; return nil, nil }},
			Check{Name: "e", Run: late, Needs: "d"},
			Check{Name: "f", Run: late, After: "d"},
		)
		if diff := cmp.Diff([]string{
			"✓ a: late", "✓ b: late", "✗ c: the last answer was 503", "✗ d: there was no answer within 4s", "? e: see d first", "✗ f: there was no answer within 4s",
		}, got); diff != "" {
			t.Error(diff)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// TestAProblemIsSaidOnce: a later check that finds the same adds nothing.
func TestAProblemIsSaidOnce(t *testing.T) {
	same := func(context.Context) ([]string, error) {
		return []string{"looked"}, &usererr.Error{Field: "x", Problem: "the same"}
	}
	if diff := cmp.Diff([]string{"✓ a: looked", "✗ a: x: the same", "✓ b: looked"}, run(t, Check{Name: "a", Run: same}, Check{Name: "b", Run: same})); diff != "" {
		t.Error(diff)
	}
}

func load(t *testing.T, folder, namespace string) *manifest.Set {
	t.Helper()
	set, err := manifest.Load(folder)
	if err == nil {
		err = set.In(namespace)
	}
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// flat are rules as what they allow, one thing each.
func flat(rules []rbacv1.PolicyRule) (all []string) {
	for _, r := range Reviews("", rules) {
		a := r.Spec.ResourceAttributes
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s.%s/%s %s", a.Verb, a.Resource, a.Group, a.Subresource, a.Name)))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func roleIn(t *testing.T, file string) []rbacv1.PolicyRule {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		var role rbacv1.Role
		if err := yaml.Unmarshal([]byte(document), &role); err == nil && role.Kind == "Role" {
			return role.Rules
		}
	}
	t.Fatalf("%s has no Role", file)
	return nil
}

// rulesOn are the rules of a page's YAML block that has a word.
func rulesOn(t *testing.T, page, word string) (rules []rbacv1.PolicyRule) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
		if strings.Contains(block[1], "apiGroups") && strings.Contains(block[1], word) {
			if err := yaml.Unmarshal([]byte(block[1]), &rules); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(rules) == 0 {
		t.Fatalf("%s has no rules with %s", page, word)
	}
	return rules
}

// TestRulesAreTheRoles: what doctor asks for is what the shipped Roles, and the pages, give.
func TestRulesAreTheRoles(t *testing.T) {
	set := load(t, "../../k8s", "production")
	names, err := set.Objects("production")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(flat(roleIn(t, "../../k8s/guard/rbac.yaml")), flat(Rules(set, names, Uses{Baseline: true}))); diff != "" {
		t.Errorf("rbac.yaml:\n%s", diff)
	}
	if diff := cmp.Diff(flat(roleIn(t, "../../k8s/guard/read-rbac.yaml")), flat(Rules(set, names, Uses{Commits: true}))); diff != "" {
		t.Errorf("read-rbac.yaml:\n%s", diff)
	}
	more := func(set *manifest.Set, uses Uses) (added []string) {
		before := flat(Rules(load(t, "../../k8s", "production"), names, Uses{}))
		return slices.DeleteFunc(flat(Rules(set, names, uses)), func(r string) bool { return slices.Contains(before, r) })
	}
	without := func(rules []string) []string { // what the Role has anyway
		before := flat(Rules(set, names, Uses{}))
		return slices.DeleteFunc(rules, func(r string) bool { return slices.Contains(before, r) })
	}
	if diff := cmp.Diff(without(flat(rulesOn(t, "../../docs/guides/hooks.md", "jobs"))), more(set, Uses{Hooks: []hook.Hook{{Job: "migrate"}, {URL: "https://example.com"}}})); diff != "" {
		t.Errorf("hooks.md:\n%s", diff)
	}
	if diff := cmp.Diff(without(flat(roleIn(t, "../../k8s/preview/rbac.yaml"))), more(set, Uses{Previews: true})); diff != "" {
		t.Errorf("k8s/preview/rbac.yaml:\n%s", diff)
	}
	reading := load(t, "../../k8s", "production")
	container := &reading.Deployment.Spec.Template.Spec.Containers[0]
	container.EnvFrom = []corev1.EnvFromSource{
		{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
		{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "login"}}},
	}
	reading.Secrets = map[string]*corev1.Secret{"login": {}}
	if diff := cmp.Diff(without(flat(rulesOn(t, "../../docs/guides/security.md", "secrets"))), more(reading, Uses{})); diff != "" {
		t.Errorf("security.md:\n%s", diff)
	}
}

// TestRulesOfAGatewayRoute: a page has what an HTTPRoute needs in place of Istio's objects.
func TestRulesOfAGatewayRoute(t *testing.T) {
	set := load(t, "testdata/route", "production")
	names, err := set.Objects("production")
	if err != nil {
		t.Fatal(err)
	}
	previews := flat(Rules(set, names, Uses{Previews: true}))
	for _, rule := range flat(rulesOn(t, "../../docs/guides/previews.md", "httproutes")) {
		if !slices.Contains(previews, rule) {
			t.Errorf("the page of previews has %s, doctor does not ask for it", rule)
		}
	}
	got := flat(Rules(set, names, Uses{}))
	for _, rule := range flat(rulesOn(t, "../../docs/guides/gateway-api.md", "httproutes")) {
		if !slices.Contains(got, rule) {
			t.Errorf("the page has %s, doctor does not ask for it", rule)
		}
	}
	for _, rule := range got {
		if strings.Contains(rule, "istio") {
			t.Errorf("doctor asks for %s", rule)
		}
	}
}

// allows answers reviews as an authorizer that refuses some.
func allows(kube *fake.Clientset, refused func(*authorizationv1.ResourceAttributes) bool) {
	kube.PrependReactor("create", "selfsubjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview).DeepCopy()
		r.Status.Allowed = !refused(r.Spec.ResourceAttributes)
		return true, r, nil
	})
}

func TestRights(t *testing.T) {
	set := load(t, "../../k8s", "shop")
	names, err := set.Objects("shop")
	if err != nil {
		t.Fatal(err)
	}
	const fix = " (fix: apply the Role in k8s/guard/rbac.yaml with the names of your app, and bind it to this account)"
	for name, c := range map[string]struct {
		kube func(*fake.Clientset)
		want []string
	}{
		"all": {func(k *fake.Clientset) { allows(k, func(*authorizationv1.ResourceAttributes) bool { return false }) }, []string{
			fmt.Sprintf("✓ rights: this account may do all %d things that the commands do in shop", len(flat(Rules(set, names, Uses{})))),
		}},
		"some": {func(k *fake.Clientset) {
			allows(k, func(a *authorizationv1.ResourceAttributes) bool {
				return a.Name == "qwik-node-app-canary" && a.Verb != "get" || a.Resource == "pods" && a.Namespace == "shop"
			})
		}, []string{
			"✗ rights: deployments.apps qwik-node-app-canary: this account may not list, watch, create, patch, delete it in shop" + fix,
			"✗ rights: pods: this account may not list, watch it in shop" + fix,
		}},
		"no answer": {func(k *fake.Clientset) {
			k.PrependReactor("create", "selfsubjectaccessreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "selfsubjectaccessreviews"}, "", errors.New("no rule"))
			})
		}, []string{`? rights: the API server does not say what this account may do: selfsubjectaccessreviews is forbidden: no rule; ` + "`kubectl auth can-i --list --namespace shop` may"}},
		"broken": {func(k *fake.Clientset) {
			k.PrependReactor("create", "selfsubjectaccessreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewInternalError(errors.New("etcd is away"))
			})
		}, []string{"✗ rights: what this account may do: Internal error occurred: etcd is away"}},
	} {
		t.Run(name, func(t *testing.T) {
			kube := fake.NewClientset()
			c.kube(kube)
			if diff := cmp.Diff(c.want, run(t, Rights(kube, "shop", Rules(set, names, Uses{})))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCluster(t *testing.T) {
	kube := fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	c := &rollout.Cluster{Kube: kube, Namespace: "shop", Manifests: load(t, "../../k8s", "shop")}
	served := func(kinds ...string) {
		kube.Resources = []*metav1.APIResourceList{{GroupVersion: "networking.istio.io/v1"}}
		for _, kind := range kinds {
			kube.Resources[0].APIResources = append(kube.Resources[0].APIResources, metav1.APIResource{Kind: kind})
		}
	}
	check := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, run(t, append([]Check{Cluster(kube, "https://10.0.0.1:6443")}, Mesh(c)...)...)); diff != "" {
			t.Error(diff)
		}
	}
	served("VirtualService", "DestinationRule", "Gateway")
	check("✓ cluster: https://10.0.0.1:6443 answers, Kubernetes v0.0.0-master+$Format:%H$", "✓ types: VirtualService, DestinationRule, and Gateway of Istio are served", "✓ namespace: shop exists")
	served("VirtualService")
	c.Namespace = "elsewhere"
	check("✓ cluster: https://10.0.0.1:6443 answers, Kubernetes v0.0.0-master+$Format:%H$", "✗ types: cluster: the CRD of DestinationRule is missing (fix: install all of Istio's CRDs)", `✗ namespace: cluster.namespace: namespace "elsewhere" not found (fix: create it or name another one)`)
	kube.PrependReactor("get", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "namespaces"}, "elsewhere", errors.New("no rule"))
	})
	served("VirtualService", "DestinationRule", "Gateway")
	check("✓ cluster: https://10.0.0.1:6443 answers, Kubernetes v0.0.0-master+$Format:%H$", "✓ types: VirtualService, DestinationRule, and Gateway of Istio are served", "? namespace: this account may not read namespaces, and needs not: `kubectl get namespace elsewhere` shows whether it exists")
	kube.PrependReactor("get", "version", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("connection refused")
	})
	check("✗ cluster: the API server: https://10.0.0.1:6443 does not answer: connection refused (fix: check the address in the kubeconfig, and that this machine reaches it; --connect-to names another one)", "? types: see cluster first", "? namespace: see cluster first")
	kube.PrependReactor("get", "version", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewUnauthorized("Unauthorized")
	})
	check("✗ cluster: the API server: https://10.0.0.1:6443 does not know this account (fix: renew the credentials in the kubeconfig)", "? types: see cluster first", "? namespace: see cluster first")
}

func TestRelease(t *testing.T) {
	busy := errors.New("release x is in flight")
	try := func(err error) []string {
		return run(t, Release(func(context.Context) error { return err }, func(err error) bool { return errors.Is(err, busy) }))
	}
	for want, err := range map[string]error{
		"✓ dry run: the API server takes a release of these manifests":        nil,
		"? dry run: no release can start now: release x is in flight":         busy,
		"✗ dry run: Deployment shop/app: the API server refuses it: no quota": fmt.Errorf("Deployment shop/app: the API server refuses it: no quota"),
	} {
		if diff := cmp.Diff([]string{want}, try(err)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestGatewaysOfIstio(t *testing.T) {
	proxy := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "proxy", Namespace: "istio-system", Labels: map[string]string{"istio": "ingressgateway"}}}
	for name, c := range map[string]struct {
		change func(*manifest.Set)
		hosts  []string // of the Gateway that is live; nil: none is
		pods   []runtime.Object
		forbid string
		want   []string
	}{
		"made by the first release": {pods: []runtime.Object{proxy}, want: []string{"✓ gateway: Gateway shop/public-gateway is made by the first release and has app.example.com"}},
		"live":                      {hosts: []string{"istio-system/*", "./*.example.com"}, pods: []runtime.Object{proxy}, want: []string{"✓ gateway: Gateway shop/public-gateway exists and has app.example.com"}},
		"another host": {hosts: []string{"istio-system/*", "shop.example.com", "*.app.example.com"}, pods: []runtime.Object{proxy}, want: []string{
			"✗ gateway: Gateway shop/public-gateway: it has none of the hosts of VirtualService qwik-node-app-vs: app.example.com, qwik-node-app-service (fix: add the app's host to its servers, or name another gateway)"}},
		"no proxy": {hosts: []string{"*"}, want: []string{
			"✓ gateway: Gateway shop/public-gateway exists and has app.example.com, qwik-node-app-service",
			"? gateway: Gateway shop/public-gateway: no pod has its selector, istio=ingressgateway: nothing listens, unless its proxies run outside of the cluster"}},
		"the pods are hidden": {hosts: []string{"app.example.com"}, forbid: "pods", want: []string{
			"✓ gateway: Gateway shop/public-gateway exists and has app.example.com",
			"? gateway: Gateway shop/public-gateway: this account may not see the gateway's pods, and needs not: `kubectl get pods -A -l istio=ingressgateway` does"}},
		"hidden": {forbid: "gateways", want: []string{
			"? gateway: Gateway shop/public-gateway may not be read: `kubectl get gateways.networking.istio.io -n shop public-gateway -o yaml` shows its hosts"}},
		"missing": {change: func(s *manifest.Set) { s.VirtualService.Spec.Gateways = []string{"istio-system/other", "mesh"} }, want: []string{
			"✗ gateway: VirtualService qwik-node-app-vs: spec.gateways: Gateway istio-system/other not found (fix: create it, or name one that exists)"}},
		"none": {change: func(s *manifest.Set) { s.VirtualService.Spec.Gateways = nil }, want: []string{"✓ gateway: VirtualService qwik-node-app-vs names no gateway: the app is called from within the mesh"}},
	} {
		t.Run(name, func(t *testing.T) {
			set := load(t, "../../k8s", "shop")
			if c.change != nil {
				c.change(set)
			}
			kube, mesh := fake.NewClientset(c.pods...), istiofake.NewSimpleClientset()
			if c.hosts != nil {
				live := set.Gateways[0].DeepCopy()
				live.Namespace, live.Spec.Servers[0].Hosts = "shop", c.hosts
				if _, err := mesh.NetworkingV1().Gateways("shop").Create(t.Context(), live, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			forbidden := func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: c.forbid}, "", errors.New("no rule"))
			}
			if c.forbid != "" {
				kube.PrependReactor("list", c.forbid, forbidden)
				mesh.PrependReactor("get", c.forbid, forbidden)
			}
			route := &Route{Kube: kube, Istio: mesh, Manifests: set, Namespace: "shop"}
			if diff := cmp.Diff(c.want, run(t, route.Checks()[0])); diff != "" {
				t.Error(diff)
			}
		})
	}
	set := load(t, "../../k8s", "shop")
	route := &Route{Manifests: set, Namespace: "shop"}
	set.VirtualService.Spec.Gateways = []string{"public-gateway"}
	if diff := cmp.Diff([]string{"? mesh: VirtualService qwik-node-app-vs does not route callers in the mesh: its gateways lack `mesh`. They reach a canary at any weight, if there are any"}, run(t, route.Checks()[1])); diff != "" {
		t.Error(diff)
	}
}

func TestGatewaysOfTheGatewayAPI(t *testing.T) {
	gateway := func(hostname string) *unstructured.Unstructured {
		listener := map[string]any{"name": "http"}
		if hostname != "" {
			listener["hostname"] = hostname
		}
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": map[string]any{"namespace": "gateways", "name": "public"},
			"spec": map[string]any{"listeners": []any{listener}},
		}}
	}
	for name, c := range map[string]struct {
		live   *unstructured.Unstructured
		forbid bool
		want   string
	}{
		"any hostname": {live: gateway(""), want: "✓ gateway: Gateway gateways/public exists, and has a listener for the route"},
		"wildcard":     {live: gateway("*.example.com"), want: "✓ gateway: Gateway gateways/public exists, and has a listener for the route"},
		"another":      {live: gateway("other.example.com"), want: "✗ gateway: Gateway gateways/public: no listener has a hostname of the route: shop.example.com (fix: add a listener for the app's hostname, or name another Gateway)"},
		"missing":      {want: "✗ gateway: HTTPRoute shop: spec.parentRefs: Gateway gateways/public not found (fix: create it, or name one that exists)"},
		"hidden":       {forbid: true, want: "? gateway: Gateway gateways/public may not be read: `kubectl get gateways.gateway.networking.k8s.io -n gateways public -o yaml` shows its listeners"},
	} {
		t.Run(name, func(t *testing.T) {
			client := dynamicfake.NewSimpleDynamicClient(runtime.NewScheme())
			if c.live != nil { // the double would guess another plural
				if _, err := client.Resource(gatewayAPI).Namespace("gateways").Create(t.Context(), c.live, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if c.forbid {
				client.PrependReactor("get", "gateways", func(clienttesting.Action) (bool, runtime.Object, error) {
					return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "gateways"}, "public", errors.New("no rule"))
				})
			}
			route := &Route{Dynamic: client, Manifests: load(t, "testdata/route", "production"), Namespace: "production"}
			if diff := cmp.Diff([]string{c.want}, run(t, route.Checks()...)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
