package bundle

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/usererr"
)

func objectsIn(t *testing.T, text string) (objects []*unstructured.Unstructured) {
	t.Helper()
	for document := range strings.SplitSeq(text, "---\n") {
		raw, err := yaml.YAMLToJSON([]byte(document))
		if err != nil {
			t.Fatal(err)
		}
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(raw); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o)
	}
	return objects
}

// deployment has a field of its own in the pod and in the container.
func deployment(pod, container string) string {
	return "{apiVersion: apps/v1, kind: Deployment, metadata: {name: shop-primary}, spec: {replicas: 3, template: {metadata: {labels: {app: shop}}, spec: {" + pod +
		" containers: [{name: app, image: shop, " + container + "}]}}}}"
}

func TestPolicy(t *testing.T) {
	const restricted = "securityContext: {runAsNonRoot: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}"
	for name, test := range map[string]struct {
		policy  Policy
		objects string
		want    []string // of each violation, a part
	}{
		"as most are":                    {objects: deployment("", "ports: [{containerPort: 3000}]")},
		"in the app's namespace":         {objects: "{apiVersion: v1, kind: Service, metadata: {name: shop, namespace: shop}}"},
		"host network":                   {objects: deployment("hostNetwork: true,", ""), want: []string{"Deployment shop-primary: spec.template.spec: host namespaces: hostNetwork=true (bundle.podSecurity: baseline)"}},
		"host path":                      {objects: deployment("volumes: [{name: all, hostPath: {path: /}}],", ""), want: []string{`hostPath volumes: volume "all"`}},
		"privileged":                     {objects: deployment("", "securityContext: {privileged: true}"), want: []string{`privileged: container "app" must not set securityContext.privileged=true`}},
		"privileged init container":      {objects: deployment("initContainers: [{name: init, image: a, securityContext: {privileged: true}}],", ""), want: []string{`privileged: container "init"`}},
		"privileged is admitted":         {policy: Policy{PodSecurity: "privileged"}, objects: deployment("hostNetwork: true,", "securityContext: {privileged: true}")},
		"not restricted":                 {policy: Policy{PodSecurity: "restricted"}, objects: deployment("", ""), want: []string{"allowPrivilegeEscalation", "unrestricted capabilities", "runAsNonRoot", "seccompProfile"}},
		"restricted":                     {policy: Policy{PodSecurity: "restricted"}, objects: deployment("", restricted)},
		"a kind with permissions":        {objects: "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: all}}", want: []string{"RoleBinding all: the kind RoleBinding.rbac.authorization.k8s.io is not admitted (bundle.kinds)"}},
		"a kind that is named":           {policy: Policy{Kinds: []string{"RoleBinding"}}, objects: "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: all}}"},
		"any kind":                       {policy: Policy{Kinds: []string{"*"}}, objects: "{apiVersion: example.com/v1, kind: Anything, metadata: {name: all}}"},
		"another group's":                {objects: "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: shop}}", want: []string{"Service.serving.knative.dev is not admitted"}},
		"another group's is named":       {policy: Policy{Kinds: []string{"Service.serving.knative.dev"}}, objects: "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: shop}}"},
		"not of Kubernetes' group":       {policy: Policy{Kinds: []string{"Service.serving.knative.dev"}}, objects: "{apiVersion: v1, kind: Service, metadata: {name: shop}}", want: []string{"the kind Service is not admitted"}},
		"a pod in a kind of others":      {policy: Policy{Kinds: []string{"*"}}, objects: "{apiVersion: example.com/v1, kind: Anything, metadata: {name: all}, spec: {deep: [{jobs: {template: {spec: {hostPID: true, containers: [{name: a}]}}}}]}}", want: []string{"Anything all: spec.deep[0].jobs.template.spec: host namespaces: hostPID=true"}},
		"a pod behind one that is none":  {policy: Policy{Kinds: []string{"*"}}, objects: "{apiVersion: example.com/v1, kind: Anything, metadata: {name: all}, spec: {containers: [], template: {spec: {hostPID: true, containers: [{name: a}]}}}}", want: []string{"Anything all: spec.template.spec: host namespaces: hostPID=true"}},
		"a pod of init containers alone": {policy: Policy{Kinds: []string{"*"}}, objects: "{apiVersion: example.com/v1, kind: Anything, metadata: {name: all}, spec: {hostPID: true, initContainers: [{name: a}]}}", want: []string{"Anything all: spec: host namespaces: hostPID=true"}},
		"a Secret in another case":       {policy: Policy{Kinds: []string{"*"}}, objects: "{apiVersion: v1, kind: secret, metadata: {name: shop}, stringData: {a: b}}", want: []string{"secret shop: it holds a Secret's values in plain text (bundle.allowSecrets)"}},
		"what is no pod":                 {policy: Policy{Kinds: []string{"*"}}, objects: "{apiVersion: example.com/v1, kind: Anything, metadata: {name: all}, spec: {containers: [1]}}", want: []string{"it cannot be read as a pod"}},
		"a cron job":                     {policy: Policy{Kinds: []string{"CronJob"}}, objects: "{apiVersion: batch/v1, kind: CronJob, metadata: {name: all}, spec: {jobTemplate: {spec: {template: {spec: {hostIPC: true, containers: [{name: a}]}}}}}}", want: []string{"spec.jobTemplate.spec.template.spec: host namespaces: hostIPC=true"}},
		"a gateway":                      {objects: "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: public}}"},
		"another group's gateway":        {objects: "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: public}}", want: []string{"Gateway.gateway.networking.k8s.io is not admitted"}},
		"another namespace":              {objects: "{apiVersion: v1, kind: Service, metadata: {name: dns, namespace: kube-system}}", want: []string{`Service dns: the namespace "kube-system" is not admitted (bundle.namespaces)`}},
		"a namespace that is named":      {policy: Policy{Namespaces: []string{"istio-system"}}, objects: "{apiVersion: v1, kind: Service, metadata: {name: dns, namespace: istio-system}}"},
		"a service account":              {objects: deployment("serviceAccountName: admin,", ""), want: []string{`the service account "admin" is not admitted (bundle.serviceAccounts)`}},
		"by its old name":                {objects: deployment("serviceAccount: admin,", ""), want: []string{`the service account "admin"`}},
		"the app's own account":          {objects: deployment("serviceAccountName: shop,", "")},
		"an account that is named":       {policy: Policy{ServiceAccounts: []string{"admin"}}, objects: deployment("serviceAccountName: admin,", "")},
		"any account":                    {policy: Policy{ServiceAccounts: []string{"*"}}, objects: deployment("serviceAccountName: admin,", "")},
		"no limit":                       {policy: Policy{MaxCPU: "2", MaxMemory: "1Gi"}, objects: deployment("", ""), want: []string{"container app has no limit of cpu, and 2 is the most (bundle.maxCPU)", "container app has no limit of memory, and 1Gi is the most (bundle.maxMemory)"}},
		"within the limits":              {policy: Policy{MaxCPU: "2", MaxMemory: "1Gi"}, objects: deployment("", "resources: {limits: {cpu: 2000m, memory: 1024Mi}}")},
		"limits that are pod's":          {policy: Policy{MaxCPU: "2", MaxMemory: "1Gi"}, objects: deployment("resources: {limits: {cpu: 1, memory: 1Gi}},", "")},
		"above the limits":               {policy: Policy{MaxCPU: "2", MaxMemory: "1Gi"}, objects: deployment("", "resources: {limits: {cpu: 2001m, memory: 1025Mi}}"), want: []string{"has the limit 2001m of cpu", "has the limit 1025Mi of memory"}},
		"asks for more than it may":      {policy: Policy{MaxCPU: "2"}, objects: deployment("", "resources: {limits: {cpu: 1}, requests: {cpu: 3}}"), want: []string{"asks for 3 of cpu"}},
		"replicas":                       {policy: Policy{MaxReplicas: 3}, objects: deployment("", "")},
		"too many replicas":              {policy: Policy{MaxReplicas: 2}, objects: deployment("", ""), want: []string{"spec.replicas: 3 are more than 2 (bundle.maxReplicas)"}},
		"too many of an autoscaler":      {policy: Policy{MaxReplicas: 2}, objects: "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: shop}, spec: {maxReplicas: 30}}", want: []string{"spec.maxReplicas: 30 are more than 2"}},
		"a Secret":                       {objects: "{apiVersion: v1, kind: Secret, metadata: {name: shop}, data: {a: cGxhbnRlZA==}}", want: []string{"Secret shop: it holds a Secret's values in plain text (bundle.allowSecrets)"}},
		"a Secret of text":               {objects: "{apiVersion: v1, kind: Secret, metadata: {name: shop}, stringData: {a: planted}}", want: []string{"Secret's values"}},
		"a Secret of an odd form":        {objects: "{apiVersion: v1, kind: Secret, metadata: {name: shop}, data: planted}", want: []string{"Secret's values"}},
		"an empty Secret":                {objects: "{apiVersion: v1, kind: Secret, metadata: {name: shop}, data: {}}"},
		"a Secret that may be there":     {policy: Policy{AllowSecrets: true}, objects: "{apiVersion: v1, kind: Secret, metadata: {name: shop}, data: {a: cGxhbnRlZA==}}"},
		"a ConfigMap with containers":    {objects: "{apiVersion: v1, kind: ConfigMap, metadata: {name: shop}, data: {containers: a}}"},
		"several": {objects: deployment("hostNetwork: true, hostPID: true,", "") + "\n---\n{apiVersion: v1, kind: Pod, metadata: {name: beside}, spec: {containers: [{name: a}]}}",
			want: []string{"host namespaces: hostNetwork=true, hostPID=true", "Pod beside: the kind Pod is not admitted"}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.policy.Validate(); err != nil {
				t.Fatal(err)
			}
			got := test.policy.Check(objectsIn(t, test.objects), "shop", "shop")
			if len(got) != len(test.want) {
				t.Fatalf("%q, want %q", got, test.want)
			}
			for i, want := range test.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("%q, want %q", got[i], want)
				}
				if strings.Contains(got[i], "planted") {
					t.Errorf("%q shows a value", got[i])
				}
			}
		})
	}
}

func TestPolicyThatIsNone(t *testing.T) {
	for _, test := range []struct {
		policy Policy
		field  string
	}{
		{Policy{PodSecurity: "strict"}, "podSecurity"},
		{Policy{MaxCPU: "many"}, "maxCPU"},
		{Policy{MaxMemory: "-1Gi"}, "maxMemory"},
		{Policy{MaxCPU: "0"}, "maxCPU"},
	} {
		if err := test.policy.Validate(); err == nil || err.Field != test.field {
			t.Errorf("%+v: %v", test.policy, err)
		}
	}
}

func TestRejectionIsBadInput(t *testing.T) {
	if err := Rejection("shop@sha256:0", nil); err != nil {
		t.Error(err)
	}
	var many []string
	for range 12 {
		many = append(many, "Pod a: b")
	}
	err := Rejection("shop@sha256:0", many)
	var input *usererr.Error
	if !errors.As(err, &input) || !strings.Contains(err.Error(), "and 2 more") {
		t.Error(err)
	}
	if diff := cmp.Diff(10, strings.Count(err.Error(), "Pod a")); diff != "" {
		t.Error(diff)
	}
}
