package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/our-org/crossbill/internal/usererr"
)

const (
	// askTaken is how often the status of a route is read while it is waited for.
	askTaken = 100 * time.Millisecond
	// refusedFor is how long a controller may say no before it counts: what it needs may be newer than what it has read.
	refusedFor = 15 * time.Second
)

// parentStatus is what the status of a route says of one of its parents.
type parentStatus struct {
	parent string
	yes    bool   // accepted and resolved, as it is now
	no     string // why not, if a controller says so of the route as it is now
	lacks  bool   // no is only of backends
}

// takenBy says of each parent of a route whether a controller has taken the route as it is. Any controller will do.
func takenBy(live *unstructured.Unstructured) ([]parentStatus, error) {
	var route struct {
		metav1.ObjectMeta `json:"metadata"`
		Spec              gateway.CommonRouteSpec `json:"spec"`
		Status            gateway.RouteStatus     `json:"status"`
	}
	object := map[string]any{"metadata": map[string]any{"generation": live.GetGeneration(), "namespace": live.GetNamespace()}, "status": live.Object["status"]}
	if spec, ok := live.Object["spec"].(map[string]any); ok {
		object["spec"] = map[string]any{"parentRefs": spec["parentRefs"]}
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object, &route); err != nil {
		return nil, err
	}
	var found []parentStatus
	for _, parent := range route.Spec.ParentRefs {
		one := parentStatus{parent: parentName(parent, route.Namespace)}
		for _, status := range route.Status.Parents {
			if !sameParent(parent, status.ParentRef, route.Namespace) {
				continue
			}
			yes := 0
			for _, condition := range status.Conditions {
				if condition.Type != string(gateway.RouteConditionAccepted) && condition.Type != string(gateway.RouteConditionResolvedRefs) {
					continue
				}
				switch now := condition.ObservedGeneration == 0 || condition.ObservedGeneration >= route.Generation; {
				case now && condition.Status == metav1.ConditionTrue:
					yes++
				case now && condition.Status == metav1.ConditionFalse && one.no == "":
					one.no = fmt.Sprintf("%s is False, %s: %s", condition.Type, condition.Reason, condition.Message)
					one.lacks = condition.Type == string(gateway.RouteConditionResolvedRefs)
				}
			}
			one.yes = one.yes || yes == 2
		}
		found = append(found, one)
	}
	return found, nil
}

func or[T ~string](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// parentName names a parent for people.
func parentName(p gateway.ParentReference, namespace string) string {
	return fmt.Sprintf("%s %s/%s", or(p.Kind, "Gateway"), or(p.Namespace, gateway.Namespace(namespace)), p.Name)
}

// sameParent says whether two references of a route in a namespace name the same parent.
func sameParent(a, b gateway.ParentReference, namespace string) bool {
	port := func(p gateway.ParentReference) gateway.PortNumber {
		if p.Port == nil {
			return 0
		}
		return *p.Port
	}
	return or(a.Group, gateway.GroupName) == or(b.Group, gateway.GroupName) && parentName(a, namespace) == parentName(b, namespace) &&
		or(a.SectionName, "") == or(b.SectionName, "") && port(a) == port(b)
}

// untaken are the parents by which the route is not taken, each with why; refused says that a controller says so.
func untaken(all []parentStatus) (why []string, refused bool) {
	for _, one := range all {
		switch {
		case one.yes:
		case one.no != "":
			why, refused = append(why, one.parent+": "+one.no), true
		default:
			why = append(why, one.parent+": no controller has said anything of the route as it is")
		}
	}
	return why, refused
}

// waitTaken waits until a controller has taken a route as it was written, for each of its parents.
func (s services) waitTaken(ctx context.Context, written *unstructured.Unstructured) error {
	o := s.route()
	return s.waiting(ctx, func(bounded context.Context) error {
		live, since := written, time.Time{}
		for {
			all, err := takenBy(live)
			if err != nil {
				return fmt.Errorf("%s: its status is not readable: %w", o, err)
			}
			why, refused := untaken(all)
			if len(why) == 0 {
				s.log(o.String(), "taken by %d %s", len(all), plural(len(all), "parent"))
				return nil
			}
			if !refused {
				since = time.Time{}
			} else if since.IsZero() {
				since = time.Now()
			}
			if refused && time.Since(since) >= refusedFor {
				return s.notTaken(why)
			}
			select {
			case <-time.After(askTaken):
			case <-bounded.Done():
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return s.notTaken(why)
			}
			next, err := look[*unstructured.Unstructured](bounded, s.job, o)
			switch {
			case bounded.Err() != nil:
			case err != nil && !transient(err):
				return err
			case err == nil && next == nil:
				return fmt.Errorf("%s: somebody has deleted it; create it as the manifest has it, then %s", o, s.next())
			case err == nil:
				live = next
			}
		}
	})
}

// notTaken is the error of a route that no controller takes.
func (s services) notTaken(why []string) error {
	return fmt.Errorf("%s: the route is not taken by %s; correct that, then %s", s.route(), strings.Join(why, "; "), s.next())
}

// checkTaken refuses a route that no controller has taken. That backends are missing is for who makes them.
func (s services) checkTaken(live *unstructured.Unstructured, backed bool) error {
	all, err := takenBy(live)
	if err != nil {
		return fmt.Errorf("%s: its status is not readable: %w", s.route(), err)
	}
	if all = slices.DeleteFunc(all, func(t parentStatus) bool { return t.lacks && !backed }); len(all) == 0 {
		return nil
	}
	if why, _ := untaken(all); len(why) > 0 {
		return &usererr.Error{
			Field: s.route().String(), Problem: "it is not taken by " + strings.Join(why, "; "),
			Fix: "check that the parents that it names exist, that their listeners admit its namespace and hostnames, and that their controller runs",
		}
	}
	return nil
}

// checkGateways refuses Gateways that are missing, or that their controller could not program. One that may not be read is left
// to the status of the route.
func (s services) checkGateways(ctx context.Context, parents []gateway.ParentReference) error {
	for _, p := range parents {
		if or(p.Group, gateway.GroupName) != gateway.GroupName || or(p.Kind, "Gateway") != "Gateway" {
			continue
		}
		o, err := s.gatewayObject("Gateway", string(or(p.Namespace, gateway.Namespace(s.Namespace))), string(p.Name))
		if err != nil {
			return err
		}
		o.kind = "Gateway." + gateway.GroupName
		live, err := o.read(ctx)
		switch {
		case err != nil && lacksPermission(err):
			s.log(o.String(), "cannot be read: whether it is programmed is not checked")
			continue
		case err != nil:
			return fmt.Errorf("%s: %w; nothing was changed", o, err)
		case live == nil:
			return &usererr.Error{Field: s.route().String() + ": spec.parentRefs", Problem: o.String() + " not found", Fix: "create it, or name one that exists"}
		}
		if no := notProgrammed(as[*unstructured.Unstructured](live)); no != "" {
			return &usererr.Error{Field: o.String(), Problem: no, Fix: "correct what its controller says of it: until then it may not listen"}
		}
	}
	return nil
}

// notProgrammed says why a Gateway is not programmed, if its controller says so; "" if not.
func notProgrammed(live *unstructured.Unstructured) string {
	conditions, _, _ := unstructured.NestedSlice(live.Object, "status", "conditions")
	for _, c := range conditions {
		if condition, ok := c.(map[string]any); ok && condition["type"] == string(gateway.GatewayConditionProgrammed) && condition["status"] == string(metav1.ConditionFalse) {
			return fmt.Sprintf("it is not programmed, %v: %v", condition["reason"], condition["message"])
		}
	}
	return ""
}

// errNoGatewayAPI is what a cluster without the Gateway API is refused with.
func errNoGatewayAPI(kind string) error {
	return &usererr.Error{Field: "cluster", Problem: fmt.Sprintf("it has no %s of %s/v1: the CRDs of the Gateway API are missing", kind, gateway.GroupName), Fix: "install its standard channel (https://gateway-api.sigs.k8s.io), or lead to the app by a VirtualService"}
}

var errNoKinds = errors.New("there is no client for the kinds of the Gateway API")

// routeServed refuses a cluster that does not have the kind of the route.
func (c *Cluster) routeServed() error {
	if c.Kinds == nil {
		return errNoKinds
	}
	gvk := c.Manifests.Route.GroupVersionKind()
	resource, err := c.Kinds.resource(gvk)
	if err != nil {
		return fmt.Errorf("the API server does not answer: %w; nothing was changed", err)
	}
	if resource == nil {
		return errNoGatewayAPI(gvk.Kind)
	}
	return nil
}
