package doctor

import (
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// Uses are what decides which rights a release needs, beside the manifests.
type Uses struct {
	Commits  bool // every step is a commit: the account only reads the cluster
	Baseline bool // canaries are compared with a baseline
	Previews bool // pull requests' images run beside the app: the Role in k8s/preview/rbac.yaml too
	Hooks    []hook.Hook
}

// Rules are what the commands need in the namespace of the app: the Role in k8s/guard/rbac.yaml, or with commits the one in
// read-rbac.yaml, with the names of the manifests. A test holds them to these files, and testTheLeastRights the files to the
// commands.
func Rules(s *manifest.Set, names *release.Objects, uses Uses) []rbacv1.PolicyRule {
	rule := func(group, resource string, names []string, actions ...string) rbacv1.PolicyRule {
		r := rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
		r.Verbs = actions
		return r
	}
	const istio = "networking.istio.io"
	ledgers := []string{"crossbill-" + s.App}
	if s.Label != "" && s.Label != s.App {
		ledgers = append(ledgers, "crossbill-"+s.Label)
	}
	services := []string{names.Service}
	for _, track := range []release.Track{release.Primary, release.Canary} {
		if name := names.TrackServices[track]; name != "" {
			services = append(services, name)
		}
	}
	deployments := []string{names.Deployments[release.Primary], names.Deployments[release.Canary]}
	if uses.Baseline {
		deployments = append(deployments, s.Name(manifest.BaselineTrack))
	}
	rules := []rbacv1.PolicyRule{
		rule("", "configmaps", ledgers, "get", "list", "watch", "update"),
		rule("coordination.k8s.io", "leases", ledgers, "get", "update", "patch"),
		rule("apps", "deployments", deployments, "get", "list", "watch", "create", "patch", "delete"),
		rule("", "services", services, "get", "create", "patch"),
		rule("", "configmaps", nil, "create"),
		rule("coordination.k8s.io", "leases", nil, "create"),
		rule("", "pods", nil, "list", "watch"),
		rule("discovery.k8s.io", "endpointslices", nil, "list", "watch"),
		rule("", "events", nil, "list"),
		rule("autoscaling", "horizontalpodautoscalers", nil, "list"),
	}
	if names.Route != nil {
		routes := strings.ToLower(names.Route.Kind) + "s"
		rules = append(rules, rule(manifest.GatewayGroup, routes, []string{names.Route.Name}, "get", "patch"), rule(manifest.GatewayGroup, routes, nil, "create", "list"))
	} else {
		rules = append(rules, rule(istio, "virtualservices", nil, "create", "list"), rule(istio, "destinationrules", nil, "create", "list"))
		for _, object := range []struct {
			resource string
			release.ObjectName
		}{{"virtualservices", names.VirtualService}, {"destinationrules", names.DestinationRule}} {
			if object.Namespace == "" || object.Namespace == names.Namespace { // what is elsewhere, the Role there is for
				rules = append(rules, rule(istio, object.resource, []string{object.Name}, "get", "patch"))
			}
		}
		for _, gateway := range s.Gateways {
			rules = append(rules, rule(istio, "gateways", []string{gateway.Name}, "get"), rule(istio, "gateways", nil, "create"))
		}
	}
	if uses.Commits {
		return onlyRead(rules[2:])
	}
	for _, kind := range []string{"ConfigMap", "Secret"} {
		reads := func(r manifest.Reference) bool {
			return r.Kind == kind && !r.Node && (kind == "ConfigMap" || s.Secrets[r.Name] != nil)
		}
		if slices.ContainsFunc(manifest.References(&s.Deployment.Spec.Template.Spec), reads) {
			rules = append(rules, rule("", strings.ToLower(kind)+"s", nil, "get", "list", "create", "patch", "delete"))
		}
	}
	if uses.Previews {
		rules = append(rules, rule("apps", "deployments", nil, "get", "list", "watch", "create", "patch", "delete"), rule("", "services", nil, "get", "create", "patch"))
		if names.Route != nil {
			rules = append(rules, rule(manifest.GatewayGroup, strings.ToLower(names.Route.Kind)+"s", nil, "get", "create", "patch", "delete"))
		}
	}
	if slices.ContainsFunc(uses.Hooks, func(h hook.Hook) bool { return h.Job != "" }) {
		rules = append(rules, rule("batch", "jobs", nil, "get", "list", "create", "patch", "delete"), rule("", "pods/log", nil, "get"))
	}
	return rules
}

// onlyRead leaves of rules what changes nothing.
func onlyRead(rules []rbacv1.PolicyRule) (left []rbacv1.PolicyRule) {
	for _, rule := range rules {
		rule.Verbs = slices.DeleteFunc(slices.Clone(rule.Verbs), func(action string) bool { return !slices.Contains([]string{"get", "list", "watch"}, action) })
		if len(rule.Verbs) > 0 {
			left = append(left, rule)
		}
	}
	return left
}

// inParallel does something n times, a few at a time: an API server answers each of many at once more slowly.
func inParallel(n int, do func(i int)) {
	var all sync.WaitGroup
	next := make(chan int)
	for range min(n, 10) {
		all.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
}
