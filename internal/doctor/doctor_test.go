package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/our-org/crossbill/internal/gitops"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

func TestRun(t *testing.T) {
	input := func(field string) error {
		return &usererr.Error{Field: field, Problem: "is wrong", Fix: "correct it"}
	}
	found := Run(t.Context(), []Check{
		{Name: "a", Run: func(context.Context) ([]string, error) { return []string{"one", "two"}, nil }},
		{Name: "b", Run: func(context.Context) ([]string, error) {
			return []string{"three"}, errors.Join(input("gitops.branch"), errors.Join(nil, input("Deployment shop")), nil)
		}},
		{Name: "c", Run: func(context.Context) ([]string, error) { return nil, &UnknownError{"nobody knows"} }},
		{Name: "d", Run: func(context.Context) ([]string, error) { return nil, errors.New("no answer") }},
		{Name: "e", Run: func(context.Context) ([]string, error) { return nil, fmt.Errorf("while reading: %w", input("--x")) }},
	}, func(field string) string { return strings.ReplaceAll(field, "gitops.", "--") })
	for i := range found {
		if (found[i].Failure != nil) != (found[i].Check == "d") {
			t.Errorf("%+v", found[i])
		}
		found[i].Failure = nil
	}
	if diff := cmp.Diff([]Finding{
		{Check: "a", Status: OK, Detail: "one"}, {Check: "a", Status: OK, Detail: "two"}, {Check: "b", Status: OK, Detail: "three"},
		{Check: "b", Status: Problem, Detail: "--branch: is wrong", Fix: "correct it"}, {Check: "b", Status: Problem, Detail: "Deployment shop: is wrong", Fix: "correct it"},
		{Check: "c", Status: Unknown, Detail: "nobody knows"}, {Check: "d", Status: Problem, Detail: "no answer"},
		{Check: "e", Status: Problem, Detail: "--x: is wrong", Fix: "correct it"},
	}, found); diff != "" {
		t.Error(diff)
	}
}

// controller is one that says what a test wants; what the real ones say is tested in package gitops.
type controller struct {
	gitops.Controller
	remarks []string
	err     error
	asked   []string
}

func (c *controller) String() string { return "Flux" }

func (c *controller) Check(_ context.Context, objects []gitops.Object) ([]string, error) {
	for _, o := range objects {
		c.asked = append(c.asked, fmt.Sprint(o, o.Paths))
	}
	return c.remarks, c.err
}

func TestGitOps(t *testing.T) {
	object := func(apiVersion, kind, name string, byFlux bool) *unstructured.Unstructured {
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"namespace": "shop", "name": name}}}
		if byFlux {
			o.SetLabels(map[string]string{"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"})
		}
		return o
	}
	deployment := func(byFlux bool) *unstructured.Unstructured {
		o := object("apps/v1", "Deployment", "shop-primary", byFlux)
		containers := []any{map[string]any{"name": "proxy", "image": "registry.example.com/proxy@sha256:2"}, map[string]any{"name": "app", "image": "registry.example.com/shop@sha256:1"}}
		if err := unstructured.SetNestedSlice(o.Object, containers, "spec", "template", "spec", "containers"); err != nil {
			t.Fatal(err)
		}
		return o
	}
	app := func(byFlux bool) []*unstructured.Unstructured {
		return []*unstructured.Unstructured{deployment(byFlux), object("v1", "Service", "shop", false), object("networking.istio.io/v1", "VirtualService", "shop-vs", byFlux), object("networking.istio.io/v1", "DestinationRule", "shop-dr", byFlux)}
	}
	refused := &usererr.Error{Field: "Kustomization flux-system/apps", Problem: "it is suspended", Fix: "resume it"}
	const inGit = "✓ repository: commit 0123456789 of main has primary run registry.example.com/shop@sha256:1"
	const push = "? push: whether the credential may push to main shows only in a push"
	for _, c := range []struct {
		name       string
		live       []*unstructured.Unstructured
		client     func(*clienttesting.Fake)
		names      func(*release.Objects)
		controller *controller
		missing    error
		image      string
		unread     error
		want       []string
	}{
		{name: "nothing in the cluster", want: []string{"? applied from Git: nothing of the app is in the cluster yet"}},
		{name: "nobody applies it", live: app(false), want: []string{"✓ applied from Git: nothing applies the app's objects, and no controller is configured"}},
		{name: "applied, and not configured", live: app(true), want: []string{
			"✗ applied from Git: Deployment shop/shop-primary: Flux's Kustomization flux-system/apps applies it from Git, and would undo a release (fix: write the section gitops of crossbill.yaml, with controller: flux)",
			"✗ applied from Git: VirtualService shop/shop-vs: Flux's Kustomization flux-system/apps applies it from Git, and would undo a release (fix: write the section gitops of crossbill.yaml, with controller: flux)",
			"✗ applied from Git: DestinationRule shop/shop-dr: Flux's Kustomization flux-system/apps applies it from Git, and would undo a release (fix: write the section gitops of crossbill.yaml, with controller: flux)",
		}},
		{name: "as it should be", live: app(true), controller: &controller{remarks: []string{"GitRepository flux-system/env is not ready"}}, want: []string{
			"✓ applied from Git: Flux's Kustomization flux-system/apps applies Deployment shop/shop-primary",
			"✓ applied from Git: nothing applies Service shop/shop",
			"✓ applied from Git: Flux's Kustomization flux-system/apps applies VirtualService shop/shop-vs",
			"✓ applied from Git: Flux's Kustomization flux-system/apps applies DestinationRule shop/shop-dr",
			"✓ controller: GitRepository flux-system/env is not ready", "✓ controller: Flux leaves a release alone", inGit, push,
		}},
		{name: "refused", live: app(true)[:1], controller: &controller{err: refused}, want: []string{
			"✓ applied from Git: Flux's Kustomization flux-system/apps applies Deployment shop/shop-primary",
			"✗ controller: Kustomization flux-system/apps: it is suspended (fix: resume it)", inGit, push,
		}},
		{name: "routed by an HTTPRoute", controller: &controller{}, names: func(o *release.Objects) { o.Route = &release.RouteName{Kind: "HTTPRoute", Name: "shop-route"} },
			live: []*unstructured.Unstructured{object("gateway.networking.k8s.io/v1", "HTTPRoute", "shop-route", true)}, want: []string{
				"✓ applied from Git: Flux's Kustomization flux-system/apps applies HTTPRoute shop/shop-route", "✓ controller: Flux leaves a release alone", inGit, push,
			}},
		{name: "another image in Git", live: app(true)[:1], controller: &controller{}, image: "registry.example.com/shop:one", want: []string{
			"✓ applied from Git: Flux's Kustomization flux-system/apps applies Deployment shop/shop-primary", "✓ controller: Flux leaves a release alone",
			"✓ repository: commit 0123456789 of main has primary run registry.example.com/shop:one",
			"✗ repository: Deployment shop/shop-primary: it runs registry.example.com/shop@sha256:1, and Git has another image: no release starts until they are equal (fix: wait until Flux has applied the commit, or write into Git what primary runs, by its digest)", push,
		}},
		{name: "the repository is away", live: app(true)[:1], controller: &controller{}, unread: errors.New("no answer"), want: []string{
			"✓ applied from Git: Flux's Kustomization flux-system/apps applies Deployment shop/shop-primary", "✓ controller: Flux leaves a release alone", "✗ repository: no answer", push,
		}},
		{name: "no credential", live: app(true)[:1], controller: &controller{}, missing: &usererr.Error{Field: "gitops.tokenFile", Problem: "no such file"}, want: []string{
			"✓ applied from Git: Flux's Kustomization flux-system/apps applies Deployment shop/shop-primary", "✓ controller: Flux leaves a release alone",
			"✗ repository: gitops.tokenFile: no such file (fix: )", "? push: there is no credential for the repository",
		}},
		{name: "may not read", controller: &controller{}, client: func(f *clienttesting.Fake) {
			f.PrependReactor("get", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "shop", errors.New("no rule"))
			})
		}, want: []string{
			`✗ applied from Git: Service shop/shop: it may not be read: services "shop" is forbidden: no rule (fix: give the account the Role in k8s/guard/rbac.yaml)`,
			"? controller: the app's objects could not be read", inGit, push,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var live []runtime.Object
			for _, o := range c.live {
				live = append(live, o)
			}
			client := dynamicfake.NewSimpleDynamicClient(runtime.NewScheme(), live...)
			if c.client != nil {
				c.client(&client.Fake)
			}
			g := &GitOps{
				Client: client, Namespace: "shop", Missing: c.missing, Branch: "main",
				Names: &release.Objects{Service: "shop", Container: "app", Deployments: map[release.Track]string{release.Primary: "shop-primary"}, VirtualService: release.ObjectName{Name: "shop-vs"}, DestinationRule: release.ObjectName{Name: "shop-dr"}},
				Image: func(context.Context) (string, string, error) {
					if c.image == "" {
						c.image = "registry.example.com/shop@sha256:1"
					}
					return c.image, "0123456789abcdef", c.unread
				},
			}
			if c.names != nil {
				c.names(g.Names)
			}
			if c.controller != nil {
				g.Controller = c.controller
			}
			var got []string
			for _, f := range Run(t.Context(), g.Checks(), func(field string) string { return field }) {
				line := map[Status]string{OK: "✓", Problem: "✗", Unknown: "?"}[f.Status] + " " + f.Check + ": " + f.Detail
				if f.Status == Problem && f.Failure == nil {
					line += " (fix: " + f.Fix + ")"
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if c.name == "as it should be" {
				if diff := cmp.Diff("Deployment shop/shop-primary [/spec/template/spec/containers/1/image]", c.controller.asked[0]); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}
