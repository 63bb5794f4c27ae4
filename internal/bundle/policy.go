package bundle

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	podsecurity "k8s.io/pod-security-admission/api"
	podchecks "k8s.io/pod-security-admission/policy"

	"github.com/our-org/crossbill/internal/usererr"
)

// Policy says what a bundle may hold: the section bundle of crossbill.yaml, on the side that deploys. Who may make one says
// the image policy.
type Policy struct {
	// Kinds are the kinds of objects: Kind of Kubernetes or Istio, Kind.group of others, * for any. None: DefaultKinds.
	Kinds []string `json:"kinds,omitempty"`
	// Namespaces are those of objects, beside the app's own.
	Namespaces []string `json:"namespaces,omitempty"`
	// PodSecurity is the level of the Pod Security Standards that all pods keep: restricted, baseline or privileged. "": baseline.
	PodSecurity string `json:"podSecurity,omitempty"`
	// ServiceAccounts are those that pods may run as, beside default and the one with the app's name; * is any.
	ServiceAccounts []string `json:"serviceAccounts,omitempty"`
	// MaxCPU and MaxMemory are the highest limits of a container. None: any, or none.
	MaxCPU    string `json:"maxCPU,omitempty"`
	MaxMemory string `json:"maxMemory,omitempty"`
	// MaxReplicas is the highest number of pods of a workload, also of an autoscaler. 0: any.
	MaxReplicas int `json:"maxReplicas,omitempty"`
	// AllowSecrets lets a bundle hold Secrets, which everybody can read who can pull it.
	AllowSecrets bool `json:"allowSecrets,omitempty"`
}

// DefaultKinds are what a web service usually consists of: no permissions, no workload beside the app's, nothing that is not in
// a namespace.
var DefaultKinds = []string{
	"Deployment", "Service", "ConfigMap", "Secret", "ServiceAccount", "PersistentVolumeClaim",
	"HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "Ingress",
	"DestinationRule", "VirtualService", "Gateway", "HTTPRoute.gateway.networking.k8s.io", "GRPCRoute.gateway.networking.k8s.io",
	"ServiceMonitor.monitoring.coreos.com", "PodMonitor.monitoring.coreos.com", "PrometheusRule.monitoring.coreos.com",
}

// defaultPodSecurity keeps pods off the node: no host network, paths or ports, no privileges.
const defaultPodSecurity = podsecurity.LevelBaseline

// Validate finds what is wrong with the policy itself. The field is relative to it.
func (p *Policy) Validate() *usererr.Error {
	if _, err := podsecurity.ParseLevel(p.PodSecurity); p.PodSecurity != "" && err != nil {
		return &usererr.Error{Field: "podSecurity", Problem: fmt.Sprintf("%q is not a level", p.PodSecurity), Fix: "give restricted, baseline or privileged"}
	}
	for field, text := range map[string]string{"maxCPU": p.MaxCPU, "maxMemory": p.MaxMemory} {
		if quantity, err := resource.ParseQuantity(text); text != "" && (err != nil || quantity.Sign() <= 0) {
			return &usererr.Error{Field: field, Problem: fmt.Sprintf("%q is not an amount above 0", text), Fix: "give for example 500m or 2 of CPU, 512Mi or 2Gi of memory"}
		}
	}
	return nil
}

// Check finds the objects of an app's bundle that the policy does not admit, each with the rule, in the order of the objects.
func (p *Policy) Check(objects []*unstructured.Unstructured, app, namespace string) (violations []string) {
	for _, o := range objects {
		for _, found := range p.object(o, app, namespace) {
			violations = append(violations, fmt.Sprintf("%s %s: %s", o.GetKind(), o.GetName(), found))
		}
	}
	return violations
}

// Rejection is the error of a bundle that violates the policy; nil for no violations.
func Rejection(reference string, violations []string) error {
	if len(violations) == 0 {
		return nil
	}
	const most = 10
	shown := violations[:min(len(violations), most)]
	more := ""
	if len(violations) > most {
		more = fmt.Sprintf("; and %d more", len(violations)-most)
	}
	return &usererr.Error{
		Field: "bundle", Problem: reference + " violates the bundle policy: " + strings.Join(shown, "; ") + more,
		Fix: "correct the manifests that it was made of, or let those who deploy change the section bundle of their crossbill.yaml; nothing was changed",
	}
}

func (p *Policy) object(o *unstructured.Unstructured, app, namespace string) (found []string) {
	violates := func(rule, format string, args ...any) {
		found = append(found, fmt.Sprintf(format, args...)+" ("+rule+")")
	}
	gvk := o.GroupVersionKind()
	if !p.admitsKind(gvk.GroupKind()) {
		violates("bundle.kinds", "the kind %s is not admitted", gvk.GroupKind())
	}
	if in := o.GetNamespace(); in != "" && in != namespace && !slices.Contains(p.Namespaces, in) {
		violates("bundle.namespaces", "the namespace %q is not admitted", in)
	}
	switch {
	case isSecret(o):
		if !p.AllowSecrets && holdsValues(o.Object) {
			violates("bundle.allowSecrets", "it holds a Secret's values in plain text")
		}
		return found
	case gvk.Group == "" && gvk.Kind == "ConfigMap":
		return found
	}
	for _, field := range []string{"replicas", "maxReplicas", "maxReplicaCount"} {
		if n, ok := number(o.Object, "spec", field); ok && p.MaxReplicas > 0 && n > float64(p.MaxReplicas) {
			violates("bundle.maxReplicas", "spec.%s: %g are more than %d", field, n, p.MaxReplicas)
		}
	}
	for _, pod := range podsOf(o.Object, "", nil) {
		found = append(found, p.pod(pod, app)...)
	}
	return found
}

// holdsValues says whether a Secret has any.
func holdsValues(secret map[string]any) bool {
	for _, field := range []string{"data", "stringData"} {
		if values, isMap := secret[field].(map[string]any); secret[field] != nil && (!isMap || len(values) > 0) {
			return true
		}
	}
	return false
}

func number(o map[string]any, path ...string) (float64, bool) {
	value, _, _ := unstructured.NestedFieldNoCopy(o, path...)
	switch n := value.(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

// admitsKind says whether the policy names a kind. A name without a group means Kubernetes' own kinds and Istio's alone.
func (p *Policy) admitsKind(kind schema.GroupKind) bool {
	kinds := p.Kinds
	if len(kinds) == 0 {
		kinds = DefaultKinds
	}
	return slices.ContainsFunc(kinds, func(named string) bool {
		name, group, grouped := strings.Cut(named, ".")
		switch {
		case named == "*":
			return true
		case name != kind.Kind:
			return false
		case grouped:
			return group == kind.Group
		}
		return slices.Contains([]string{"", "apps", "autoscaling", "batch", "policy", "networking.k8s.io", "rbac.authorization.k8s.io", "networking.istio.io"}, kind.Group)
	})
}

// podIn is a pod, or the template of one, somewhere in an object.
type podIn struct {
	field string
	meta  *metav1.ObjectMeta
	spec  *corev1.PodSpec
	err   error // it cannot be read as one
}

// podsOf are all pods in an object, of whatever kind: what has a list of containers is one, and may hold more: an API server
// drops fields that it does not know.
func podsOf(value any, field string, meta map[string]any) (pods []podIn) {
	switch value := value.(type) {
	case []any:
		for i, item := range value {
			pods = append(pods, podsOf(item, fmt.Sprintf("%s[%d]", field, i), nil)...)
		}
	case map[string]any:
		if slices.ContainsFunc([]string{"containers", "initContainers", "ephemeralContainers"}, func(list string) bool { _, ok := value[list].([]any); return ok }) {
			pods = append(pods, readPod(value, field, meta))
		}
		own, _ := value["metadata"].(map[string]any)
		for _, key := range sortedKeys(value) {
			pods = append(pods, podsOf(value[key], strings.TrimPrefix(field+"."+key, "."), own)...)
		}
	}
	return pods
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func readPod(spec map[string]any, field string, meta map[string]any) podIn {
	pod := podIn{field: field, meta: &metav1.ObjectMeta{}, spec: &corev1.PodSpec{}}
	pod.err = runtime.DefaultUnstructuredConverter.FromUnstructured(spec, pod.spec)
	if text, err := json.Marshal(meta); pod.err == nil && err == nil {
		pod.err = json.Unmarshal(text, pod.meta)
	}
	return pod
}

// pod finds what the policy does not admit of a pod.
func (p *Policy) pod(pod podIn, app string) (found []string) {
	violates := func(rule, format string, args ...any) {
		found = append(found, pod.field+": "+fmt.Sprintf(format, args...)+" ("+rule+")")
	}
	level := defaultPodSecurity
	if p.PodSecurity != "" {
		level = podsecurity.Level(p.PodSecurity)
	}
	rule := "bundle.podSecurity: " + string(level)
	if pod.err != nil {
		violates(rule, "it cannot be read as a pod")
		return found
	}
	for _, result := range evaluator.EvaluatePod(podsecurity.LevelVersion{Level: level, Version: podsecurity.LatestVersion()}, pod.meta, pod.spec) {
		if !result.Allowed {
			violates(rule, "%s: %s", result.ForbiddenReason, result.ForbiddenDetail)
		}
	}
	for _, account := range []string{pod.spec.ServiceAccountName, pod.spec.DeprecatedServiceAccount} {
		if account != "" && account != "default" && account != app && !slices.Contains(p.ServiceAccounts, account) && !slices.Contains(p.ServiceAccounts, "*") {
			violates("bundle.serviceAccounts", "the service account %q is not admitted", account)
			break
		}
	}
	for _, c := range slices.Concat(pod.spec.InitContainers, pod.spec.Containers) {
		for _, bound := range []struct {
			rule, most string
			resource   corev1.ResourceName
		}{{"bundle.maxCPU", p.MaxCPU, corev1.ResourceCPU}, {"bundle.maxMemory", p.MaxMemory, corev1.ResourceMemory}} {
			if bound.most == "" {
				continue
			}
			most := resource.MustParse(bound.most) // Validate has parsed it
			limit, limited := c.Resources.Limits[bound.resource]
			if !limited && pod.spec.Resources != nil {
				limit, limited = pod.spec.Resources.Limits[bound.resource]
			}
			request := c.Resources.Requests[bound.resource]
			switch {
			case !limited:
				violates(bound.rule, "container %s has no limit of %s, and %s is the most", c.Name, bound.resource, bound.most)
			case limit.Cmp(most) > 0:
				violates(bound.rule, "container %s has the limit %s of %s, and %s is the most", c.Name, limit.String(), bound.resource, bound.most)
			case request.Cmp(most) > 0:
				violates(bound.rule, "container %s asks for %s of %s, and %s is the most", c.Name, request.String(), bound.resource, bound.most)
			}
		}
	}
	return found
}

// evaluator has Kubernetes' own checks of the Pod Security Standards.
var evaluator = func() podchecks.Evaluator {
	made, err := podchecks.NewEvaluator(podchecks.DefaultChecks(), nil)
	if err != nil {
		panic(err) // they are the library's own
	}
	return made
}()
