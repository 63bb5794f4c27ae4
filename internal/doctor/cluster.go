package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"

	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// reached is the check of the cluster that all others of it need.
const reached = "cluster"

// Broken is a check of what is known to be wrong: of a kubeconfig or of manifests that cannot be read.
func Broken(name string, err error) Check {
	return Check{Name: name, Run: func(context.Context) ([]string, error) { return nil, err }}
}

// BrokenCluster is the check of a cluster that the kubeconfig does not name.
func BrokenCluster(err error) Check { return Broken(reached, err) }

// Cluster is the check whether the API server answers this account.
func Cluster(kube kubernetes.Interface, server string) Check {
	return Check{Name: reached, Run: func(ctx context.Context) ([]string, error) {
		version, err := discovery.ToDiscoveryInterfaceWithContext(kube.Discovery()).ServerVersionWithContext(ctx)
		switch {
		case apierrors.IsUnauthorized(err):
			return nil, &usererr.Error{Field: "the API server", Problem: server + " does not know this account", Fix: "renew the credentials in the kubeconfig"}
		case err != nil:
			return nil, &usererr.Error{Field: "the API server", Problem: server + " does not answer: " + err.Error(), Fix: "check the address in the kubeconfig, and that this machine reaches it; --connect-to names another one"}
		}
		return []string{fmt.Sprintf("%s answers, Kubernetes %s", server, version.GitVersion)}, nil
	}}
}

// Mesh are the checks whether the cluster has what the manifests are written for: the types, and the namespace.
func Mesh(c *rollout.Cluster) []Check {
	return []Check{
		{Name: "types", Needs: reached, Run: func(ctx context.Context) ([]string, error) {
			served := "VirtualService, DestinationRule, and Gateway of Istio are served"
			if route := c.Manifests.Route; route != nil {
				served = route.GetKind() + " of the Gateway API is served"
			}
			return orError(served, c.Served(ctx))
		}},
		{Name: "namespace", Needs: reached, Run: func(ctx context.Context) ([]string, error) {
			_, err := c.Kube.CoreV1().Namespaces().Get(ctx, c.Namespace, metav1.GetOptions{})
			if apierrors.IsForbidden(err) {
				return nil, &UnknownError{"this account may not read namespaces, and needs not: `kubectl get namespace " + c.Namespace + "` shows whether it exists"}
			}
			return orError(c.Namespace+" exists", c.CheckNamespace(ctx))
		}},
	}
}

func orError(found string, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	return []string{found}, nil
}

// Rights is the check whether this account may do all that the rules say, in a namespace. The API server is asked by its own
// SelfSubjectAccessReview, which everybody may create: unlike SelfSubjectRulesReview it knows every kind of authorizer.
func Rights(kube kubernetes.Interface, namespace string, rules []rbacv1.PolicyRule) Check {
	return Check{Name: "rights", Needs: reached, Run: func(ctx context.Context) ([]string, error) {
		reviews := Reviews(namespace, rules)
		answers := make([]error, len(reviews))
		inParallel(len(reviews), func(i int) { answers[i] = review(ctx, kube, &reviews[i]) })
		var lacking []*authorizationv1.ResourceAttributes
		for i, err := range answers {
			switch {
			case apierrors.IsForbidden(err), apierrors.IsNotFound(err), apierrors.IsMethodNotSupported(err):
				return nil, &UnknownError{"the API server does not say what this account may do: " + err.Error() + "; `kubectl auth can-i --list --namespace " + namespace + "` may"}
			case err != nil:
				return nil, fmt.Errorf("what this account may do: %w", err)
			case !reviews[i].Status.Allowed:
				lacking = append(lacking, reviews[i].Spec.ResourceAttributes)
			}
		}
		if len(lacking) == 0 {
			return []string{fmt.Sprintf("this account may do all %d things that the commands do in %s", len(reviews), namespace)}, nil
		}
		return nil, errors.Join(refusals(lacking)...)
	}}
}

// Reviews are the questions that the rules come to.
func Reviews(namespace string, rules []rbacv1.PolicyRule) (all []authorizationv1.SelfSubjectAccessReview) {
	for _, rule := range rules {
		names := rule.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, resource := range rule.Resources {
			resource, part, _ := strings.Cut(resource, "/")
			for _, name := range names {
				for _, action := range rule.Verbs {
					asked := &authorizationv1.ResourceAttributes{Namespace: namespace, Group: rule.APIGroups[0], Resource: resource, Subresource: part, Name: name}
					asked.Verb = action
					all = append(all, authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: asked}})
				}
			}
		}
	}
	return all
}

func review(ctx context.Context, kube kubernetes.Interface, r *authorizationv1.SelfSubjectAccessReview) error {
	answer, err := kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, r, metav1.CreateOptions{})
	if err == nil {
		r.Status = answer.Status
	}
	return err
}

// refusals are the problems of what an account may not do, one for each object.
func refusals(lacking []*authorizationv1.ResourceAttributes) (problems []error) {
	of := func(a *authorizationv1.ResourceAttributes) string {
		name := a.Resource
		if a.Subresource != "" {
			name += "/" + a.Subresource
		}
		if a.Group != "" {
			name += "." + a.Group
		}
		return strings.TrimSpace(name + " " + a.Name)
	}
	var objects []string
	actions := map[string][]string{}
	for _, a := range lacking {
		if !slices.Contains(objects, of(a)) {
			objects = append(objects, of(a))
		}
		if !slices.Contains(actions[of(a)], a.Verb) {
			actions[of(a)] = append(actions[of(a)], a.Verb)
		}
	}
	for _, object := range objects {
		problems = append(problems, &usererr.Error{
			Field: object, Problem: fmt.Sprintf("this account may not %s it in %s", strings.Join(actions[object], ", "), lacking[0].Namespace),
			Fix: "apply the Role in k8s/guard/rbac.yaml with the names of your app, and bind it to this account",
		})
	}
	return problems
}

// Release is the check whether the manifests and the API server would take a release: what canary --dry-run does. A release
// in flight, or a hold, is why it cannot be known now.
func Release(try func(context.Context) error, busy func(error) bool) Check {
	return Check{Name: "dry run", After: repository, Needs: reached, Run: func(ctx context.Context) ([]string, error) {
		err := try(ctx)
		if err != nil && busy(err) {
			return nil, &UnknownError{"no release can start now: " + err.Error()}
		}
		return orError("the API server takes a release of these manifests", err)
	}}
}
