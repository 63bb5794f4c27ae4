package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/our-org/crossbill/internal/gitops"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// GitOps is an app, and what is configured to apply it from Git.
type GitOps struct {
	Client    dynamic.Interface
	Namespace string
	Names     *release.Objects

	Controller gitops.Controller // nil: none is configured
	Missing    error             // why the repository cannot be used
	Branch     string
	// Image is what the head of the branch has primary run, and that commit.
	Image func(context.Context) (image, commit string, err error)

	objects []gitops.Object // after the first check
	unread  error           // why there are none
}

// repository is the check of the environment repository.
const repository = "repository"

// Checks are those of the controller and the repository. Without a controller only the first one is of interest.
func (g *GitOps) Checks() []Check {
	const first = "applied from Git"
	checks := []Check{{Name: first, Run: g.owners, Needs: reached}}
	if g.Controller == nil {
		return checks
	}
	return append(checks,
		Check{Name: "controller", Run: g.controller, After: first, Needs: reached},
		Check{Name: repository, Run: g.repository, After: "controller"}, // each is used by one at a time
		Check{Name: "push", Run: g.push},
	)
}

// owners reads the app's objects, and compares what applies them with what is configured.
func (g *GitOps) owners(ctx context.Context) (found []string, err error) {
	if g.unread = g.read(ctx); g.unread != nil {
		return nil, g.unread
	}
	if len(g.objects) == 0 {
		return nil, &UnknownError{"nothing of the app is in the cluster yet"}
	}
	var problems []error
	for _, o := range g.objects {
		owner, owned := gitops.OwnerOf(o)
		switch {
		case owned && g.Controller == nil:
			problems = append(problems, &usererr.Error{
				Field: o.String(), Problem: owner.String() + " applies it from Git, and would undo a release",
				Fix: "write the section gitops of crossbill.yaml, with controller: " + owner.Controller,
			})
		case owned:
			found = append(found, fmt.Sprintf("%s applies %s", owner, o))
		case g.Controller != nil && o.Kind != "Deployment": // that is for the controller's own check
			found = append(found, fmt.Sprintf("nothing applies %s", o))
		}
	}
	if g.Controller == nil && len(problems) == 0 {
		found = append(found, "nothing applies the app's objects, and no controller is configured")
	}
	return found, errors.Join(problems...)
}

// controller is the check of a release before it starts.
func (g *GitOps) controller(ctx context.Context) ([]string, error) {
	if g.unread != nil {
		return nil, &UnknownError{"the app's objects could not be read"}
	}
	remarks, err := g.Controller.Check(ctx, g.objects)
	if err == nil && len(g.objects) > 0 {
		remarks = append(remarks, g.Controller.String()+" leaves a release alone")
	}
	return remarks, err
}

// repository compares what the head of the branch has primary run with what it runs.
func (g *GitOps) repository(ctx context.Context) ([]string, error) {
	if g.Missing != nil {
		return nil, g.Missing
	}
	image, commit, err := g.Image(ctx)
	if err != nil {
		return nil, err
	}
	found := []string{fmt.Sprintf("commit %s of %s has primary run %s", commit[:min(10, len(commit))], g.Branch, image)}
	if g.unread != nil || len(g.objects) == 0 || g.objects[0].Kind != "Deployment" {
		return found, nil
	}
	live, ok := imageOf(g.objects[0], g.Names.Container)
	if !ok || gitops.SameImage(image, live) {
		return found, nil
	}
	return found, &usererr.Error{
		Field: g.objects[0].String(), Problem: "it runs " + live + ", and Git has another image: no release starts until they are equal",
		Fix: "wait until " + g.Controller.String() + " has applied the commit, or write into Git what primary runs, by its digest",
	}
}

// push says what cannot be looked at.
func (g *GitOps) push(context.Context) ([]string, error) {
	if g.Missing != nil {
		return nil, &UnknownError{"there is no credential for the repository"}
	}
	return nil, &UnknownError{"whether the credential may push to " + g.Branch + " shows only in a push"}
}

// imageOf is the image of a container of a live Deployment.
func imageOf(deployment gitops.Object, container string) (string, bool) {
	live, ok := deployment.Object.(*unstructured.Unstructured)
	if !ok {
		return "", false
	}
	containers, _, _ := unstructured.NestedSlice(live.Object, "spec", "template", "spec", "containers")
	for _, c := range containers {
		fields, _ := c.(map[string]any)
		if image, _ := fields["image"].(string); fields["name"] == container {
			return image, true
		}
	}
	return "", false
}

// kinds are those that a release writes, by the name that requests have for them.
var kinds = map[string]schema.GroupVersionResource{
	"Deployment":      {Group: "apps", Version: "v1", Resource: "deployments"},
	"Service":         {Version: "v1", Resource: "services"},
	"VirtualService":  {Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"},
	"DestinationRule": {Group: "networking.istio.io", Version: "v1", Resource: "destinationrules"},
	"HTTPRoute":       {Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"},
	"GRPCRoute":       {Group: "gateway.networking.k8s.io", Version: "v1", Resource: "grpcroutes"},
}

// read reads the objects of the app that there are, primary's Deployment first.
func (g *GitOps) read(ctx context.Context) error {
	type one struct {
		kind string
		name release.ObjectName
	}
	all := []one{{"Deployment", release.ObjectName{Name: g.Names.Deployments[release.Primary]}}, {"Service", release.ObjectName{Name: g.Names.Service}}}
	if route := g.Names.Route; route != nil {
		all = append(all, one{route.Kind, release.ObjectName{Name: route.Name}})
	} else {
		all = append(all, one{"VirtualService", g.Names.VirtualService}, one{"DestinationRule", g.Names.DestinationRule})
	}
	for _, o := range all {
		if o.name.Name == "" {
			continue
		}
		namespace := g.Namespace
		if o.name.Namespace != "" {
			namespace = o.name.Namespace
		}
		live, err := g.Client.Resource(kinds[o.kind]).Namespace(namespace).Get(ctx, o.name.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			continue
		case apierrors.IsForbidden(err):
			return &usererr.Error{Field: o.kind + " " + namespace + "/" + o.name.Name, Problem: "it may not be read: " + strings.TrimSpace(err.Error()), Fix: "give the account the Role in k8s/guard/rbac.yaml"}
		case err != nil:
			return fmt.Errorf("%s %s/%s: %w", o.kind, namespace, o.name.Name, err)
		}
		object := gitops.Object{Group: kinds[o.kind].Group, Kind: o.kind, Object: live}
		if o.kind == "Deployment" {
			object.Paths = gitops.ImagePaths(live, g.Names.Container)
		}
		g.objects = append(g.objects, object)
	}
	return nil
}
