package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// How requests with a preview's header reach it.
//
// A VirtualService gets a route ahead of each of the release's, and of what a release adds to these: it is the first that
// matches that counts. A VirtualService of the preview's own would not do: of two for one host a gateway asks the older one's
// routes first, of which one matches everything, and sidecars know the older one alone.
//
// Beside an HTTPRoute or a GRPCRoute the preview has one of its own, and the app's stays as it is. The Gateway API orders the
// rules of all routes for a host together, the most specific match first, whichever route it is in. So the preview's has the
// matches of the app's rules with its header, each of them also with the methods that a release mirrors, since a method comes
// before a header; testers' rules have one header too, and are in the older route: who sends both headers is a tester.

// previewRouteName is the name of a preview's route ahead of one of the release's.
func previewRouteName(name string, number int) string {
	return fmt.Sprintf("%s%s-%d", manifest.PreviewPrefix, name, number)
}

// previewOfRoute is the preview that a route leads to, by the route's name; "" for another route.
func previewOfRoute(route string) string {
	rest, ok := strings.CutPrefix(route, manifest.PreviewPrefix)
	at := strings.LastIndex(rest, "-")
	if !ok || at <= 0 || strings.Trim(rest[at+1:], "0123456789") != "" || at == len(rest)-1 {
		return ""
	}
	return rest[:at]
}

func previewHeaderTaken(place, header string) error {
	return &usererr.Error{Field: place, Problem: fmt.Sprintf("the release's route matches the header %s already, and a route can compare a header only once", header), Fix: "choose another header with preview.header"}
}

// previewed are the previews that routes of the VirtualService lead to.
func (s subsets) previewed(ctx context.Context) (names []string, err error) {
	live, err := look[*networking.VirtualService](ctx, s.job, s.route())
	if live == nil || err != nil {
		return nil, err
	}
	for _, http := range live.Spec.Http {
		if name := previewOfRoute(http.Name); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

func (s subsets) checkPreview(ctx context.Context, name string, match *release.Match) error {
	live, err := look[*networking.VirtualService](ctx, s.job, s.route())
	switch {
	case err != nil:
		return fmt.Errorf("%w; nothing was changed", err)
	case live == nil || len(s.Manifests.Routes(live)) == 0:
		return s.missing()
	}
	if err := s.controlledRoute(s.route(), live); err != nil {
		return err
	}
	_, err = s.leadOps(live, name, match)
	return err
}

// lead gives the VirtualService the routes of a preview, or other ones in their place.
func (s subsets) lead(ctx context.Context, name string, match *release.Match) error {
	before, after, err := change(ctx, s.job, s.route(), func(live *networking.VirtualService) (*write, error) {
		if live == nil {
			return nil, s.missing()
		}
		ops, err := s.leadOps(live, name, match)
		if len(ops) == 0 || err != nil {
			return nil, err
		}
		return s.patch(ops...), nil
	})
	if err == nil && before != after {
		s.log(s.route().String(), "leads requests with %s to preview %s", match.Text(), name)
	}
	return err
}

// leadOps are the operations that bring a preview's routes to what they should be. They hold for the version that was read.
func (s subsets) leadOps(live *networking.VirtualService, name string, match *release.Match) ([]patchOp, error) {
	kept := live.DeepCopy()
	kept.Spec.Http = slices.DeleteFunc(kept.Spec.Http, func(h *networkingapi.HTTPRoute) bool { return previewOfRoute(h.Name) == name })
	header, kind, value := match.OnHeader()
	var desired []*networkingapi.HTTPRoute
	bases, done, ours := s.Manifests.Routes(kept), 0, 0
	if len(bases) == 0 {
		return nil, s.missing()
	}
	for i, http := range kept.Spec.Http {
		at := i // the route that is added to, of those that a release adds
		for at < len(kept.Spec.Http)-1 && manifest.Generated(kept.Spec.Http[at].Name) {
			at++
		}
		if done < len(bases) && bases[done].HTTP == at {
			base := kept.Spec.Http[at]
			d := s.derived(base, previewRouteName(name, done), s.toPreview(base.Route[bases[done].Primary], name), "", header, comparison(kind, value))
			d.Mirror, d.Mirrors, d.MirrorPercentage = nil, nil, nil //nolint:staticcheck // who writes the deprecated one means it
			if len(d.Match) > 0 {
				desired = append(desired, d)
				ours++
			}
			done++
		}
		desired = append(desired, http)
	}
	if ours == 0 {
		return nil, previewHeaderTaken(s.route().String(), header)
	}
	if slices.EqualFunc(desired, live.Spec.Http, func(a, b *networkingapi.HTTPRoute) bool { return a.String() == b.String() }) {
		return nil, nil
	}
	ops := unleadOps(live, name)
	for i, http := range desired {
		if previewOfRoute(http.Name) != name {
			continue
		}
		value, err := json.Marshal(http)
		if err != nil {
			return nil, err
		}
		ops = append(ops, patchOp{"add", fmt.Sprintf("/spec/http/%d", i), json.RawMessage(value)})
	}
	return ops, nil
}

// toPreview is primary's destination with the preview's Service in place of the app's, and no subset.
func (s subsets) toPreview(primary *networkingapi.HTTPRouteDestination, name string) *networkingapi.HTTPRouteDestination {
	to := primary.DeepCopy()
	_, domain, full := strings.Cut(to.Destination.Host, ".")
	to.Destination.Host, to.Destination.Subset = s.Manifests.PreviewName(name), ""
	if full {
		to.Destination.Host += "." + domain
	}
	return to
}

// unleadOps take a preview's routes off a VirtualService, the last one first.
func unleadOps(live *networking.VirtualService, name string) (ops []patchOp) {
	for i, http := range slices.Backward(live.Spec.Http) {
		if previewOfRoute(http.Name) == name {
			ops = append(ops, patchOp{Op: "remove", Path: fmt.Sprintf("/spec/http/%d", i)})
		}
	}
	return ops
}

func (s subsets) unlead(ctx context.Context, name string) error {
	before, after, err := change(ctx, s.job, s.route(), func(live *networking.VirtualService) (*write, error) {
		if live == nil {
			return nil, nil
		}
		ops := unleadOps(live, name)
		if len(ops) == 0 {
			return nil, nil
		}
		return s.patch(ops...), nil
	})
	if err == nil && before != after {
		s.log(s.route().String(), "leads to preview %s no more", name)
	}
	return err
}

// previewRoute is the route of a preview beside the app's.
func (s services) previewRoute(name string) (object, error) {
	return s.gatewayObject(s.route().kind, s.Namespace, s.Manifests.PreviewName(name))
}

func (s services) previewed(ctx context.Context) (names []string, err error) {
	routes, err := s.previewRoutes(ctx)
	for i := range routes {
		if routes[i].GetDeletionTimestamp() == nil {
			names = append(names, routes[i].GetLabels()[manifest.PreviewLabel])
		}
	}
	return names, err
}

// previewRoutes are the routes of all previews of the app.
func (s services) previewRoutes(ctx context.Context) ([]unstructured.Unstructured, error) {
	resource := s.Kinds.client.Resource(schema.GroupVersionResource{Group: manifest.GatewayGroup, Version: "v1", Resource: strings.ToLower(s.route().kind) + "s"})
	list, err := resource.Namespace(s.Namespace).List(ctx, s.ofPreviews())
	if err != nil {
		return nil, fmt.Errorf("%ss of %s: %w", s.route().kind, s.Namespace, err)
	}
	return list.Items, nil
}

func (s services) checkPreview(ctx context.Context, name string, match *release.Match) error {
	desired, err := s.desiredPreview(ctx, name, match)
	if err != nil {
		return err
	}
	o, err := s.previewRoute(name)
	if err != nil {
		return err
	}
	live, err := o.read(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w; nothing was changed", o, err)
	}
	if err := s.ofPreview(ctx, o, live, name); err != nil {
		return err
	}
	rules, _, err := unstructured.NestedSlice(desired.Object, "spec", "rules")
	if err != nil {
		return err
	}
	if much := tooMuch(rules); much != "" {
		return &usererr.Error{Field: o.String(), Problem: "it would have " + much + " one for each of " + s.route().String(), Fix: "split that route into several, or do without previews"}
	}
	return nil
}

// desiredPreview is the route of a preview: the parents, the hosts and the rules of the app's as it is, for its header.
func (s services) desiredPreview(ctx context.Context, name string, match *release.Match) (*unstructured.Unstructured, error) {
	app, err := look[*unstructured.Unstructured](ctx, s.job, s.route())
	if err != nil {
		return nil, err
	}
	if app == nil {
		return nil, s.missing()
	}
	g, err := manifest.ReadGatewayRoute(app)
	if err != nil {
		return nil, err
	}
	all, _, err := unstructured.NestedSlice(app.Object, "spec", "rules")
	if err != nil {
		return nil, err
	}
	bases := s.Manifests.Rules(g)
	if len(bases) == 0 {
		return nil, s.missing()
	}
	var rules []any
	for i, r := range bases {
		rule := s.previewRule(all[r.HTTP].(map[string]any), r, name, match) // it was read as one
		if rule["name"] = previewRouteName(name, i); len(rule["matches"].([]any)) > 0 {
			rules = append(rules, rule)
		}
	}
	if len(rules) == 0 {
		header, _, _ := match.OnHeader()
		return nil, previewHeaderTaken(s.route().String(), header)
	}
	desired := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"rules": rules}}}
	for _, list := range []string{"parentRefs", "hostnames"} {
		if value, ok, _ := unstructured.NestedSlice(app.Object, "spec", list); ok {
			desired.Object["spec"].(map[string]any)[list] = value
		}
	}
	desired.SetAPIVersion(manifest.GatewayGroup + "/v1")
	desired.SetKind(s.route().kind)
	desired.SetName(s.Manifests.PreviewName(name))
	desired.SetNamespace(s.Namespace)
	desired.SetLabels(map[string]string{manifest.PreviewLabel: name, manifest.PreviewOfLabel: manifest.CopyLabelValue(s.app()), ledgerLabel: fieldManager})
	return desired, nil
}

// previewRule is one of the release's rules for a preview's header, which leads to the preview alone.
func (s services) previewRule(rule map[string]any, r manifest.Route, name string, match *release.Match) map[string]any {
	header, _, _ := match.OnHeader()
	matches := []any{}
	for _, m := range s.matchesOf(rule) {
		if hasHeader(m, header) {
			continue // both would have to hold
		}
		headers, _ := m["headers"].([]any)
		m["headers"] = append(headers, headerMatch(match))
		matches = append(matches, m)
		if s.isHTTP() && m["method"] == nil {
			for _, method := range mirroredMethods {
				matches = append(matches, ofMethod(m, method))
			}
		}
	}
	d := runtime.DeepCopyJSON(rule)
	to := d["backendRefs"].([]any)[r.Primary].(map[string]any)
	to["name"], to["weight"] = s.Manifests.PreviewName(name), int64(1)
	filters, _ := d["filters"].([]any)
	filters = slices.DeleteFunc(filters, func(f any) bool { return f.(map[string]any)["type"] == "RequestMirror" })
	if d["filters"] = filters; len(filters) == 0 {
		delete(d, "filters")
	}
	d["matches"], d["backendRefs"] = matches, []any{to}
	return d
}

// lead makes the route of a preview, and waits until a controller has taken it.
func (s services) lead(ctx context.Context, name string, match *release.Match) error {
	desired, err := s.desiredPreview(ctx, name, match)
	if err != nil {
		return err
	}
	d, err := look[*appsv1.Deployment](ctx, s.job, s.deployment(s.Manifests.PreviewName(name)))
	if err != nil {
		return err
	}
	if d != nil { // a plan has not made it
		desired.SetOwnerReferences(ownedBy(d))
	}
	o, err := s.previewRoute(name)
	if err != nil {
		return err
	}
	_, after, err := change(ctx, s.job, o, func(live *unstructured.Unstructured) (*write, error) {
		if live != nil {
			if err := s.ofPreview(ctx, o, live, name); err != nil {
				return nil, err
			}
		}
		return s.apply(desired.DeepCopy()), nil
	})
	if err != nil {
		return err
	}
	s.log(o.String(), "leads requests with %s to preview %s", match.Text(), name)
	return s.withRoute(desired).waitTaken(ctx, after)
}

// withRoute is the same with another route in place of the app's.
func (s services) withRoute(route *unstructured.Unstructured) services {
	set, c, j := *s.Manifests, *s.Cluster, *s.job
	set.Route = route
	c.Manifests = &set
	j.Cluster = &c
	return services{&j}
}

func (s services) unlead(ctx context.Context, name string) error {
	o, err := s.previewRoute(name)
	if err != nil {
		return err
	}
	return s.deleteOfPreview(ctx, o, name, metav1.DeletePropagationBackground)
}
