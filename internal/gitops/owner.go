package gitops

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/usererr"
)

// Owner is what applies an object from Git.
type Owner struct {
	Controller      string // Flux or ArgoCD
	Kind            string // Kustomization, HelmRelease or Application
	Namespace, Name string // Namespace is empty where the object does not say it: then it is the one of Argo CD itself
}

// String is the owner for people: Flux's Kustomization flux-system/apps.
func (o Owner) String() string {
	whose := map[string]string{Flux: "Flux's ", ArgoCD: "Argo CD's "}[o.Controller]
	return whose + o.object()
}

// object is the owner without its controller: Kustomization flux-system/apps.
func (o Owner) object() string { return named(o.Kind, o.Namespace, o.Name) }

func named(kind, namespace, name string) string {
	if namespace == "" {
		return kind + " " + name
	}
	return kind + " " + namespace + "/" + name
}

// Where the controllers write whose an object is: ssa.ResourceManager.SetOwnerLabels of fluxcd/pkg for Kustomizations,
// helm-controller's post-renderer for HelmReleases, and util/argo/resource_tracking.go of Argo CD.
const (
	kustomizationLabels = "kustomize.toolkit.fluxcd.io/"
	helmReleaseLabels   = "helm.toolkit.fluxcd.io/"
	trackingID          = "argocd.argoproj.io/tracking-id"
	instanceLabel       = "app.kubernetes.io/instance"
)

// Managers are the field managers of what the controllers write.
var Managers = append([]string{"kustomize-controller"}, argoManagers...)

// argoManagers are those of Argo CD.
var argoManagers = []string{"argocd-controller", "argocd-application-controller"}

// OwnerOf says what applies an object from Git, by what the controllers write into it; false for nothing that is known. Argo
// CD's tracking by label alone is believed where Argo CD is among the object's managers: Helm charts set that label too.
// It asks nobody, so the owner may be gone.
func OwnerOf(o metav1.Object) (Owner, bool) {
	labels := o.GetLabels()
	for _, by := range []struct{ kind, prefix string }{{"Kustomization", kustomizationLabels}, {"HelmRelease", helmReleaseLabels}} {
		if name, namespace := labels[by.prefix+"name"], labels[by.prefix+"namespace"]; name != "" && namespace != "" {
			return Owner{Controller: Flux, Kind: by.kind, Namespace: namespace, Name: name}, true
		}
	}
	if application, ok := trackedBy(o.GetAnnotations()[trackingID]); ok {
		return application, true
	}
	if name := labels[instanceLabel]; name != "" && managedByArgo(o) {
		return Owner{Controller: ArgoCD, Kind: "Application", Name: name}, true
	}
	return Owner{}, false
}

// trackedBy reads APP:GROUP/KIND:NAMESPACE/NAME. APP has its namespace before it, as NAMESPACE_NAME, where that is not Argo
// CD's own; neither has an underscore in it.
func trackedBy(id string) (Owner, bool) {
	application, _, ok := strings.Cut(id, ":")
	if !ok || application == "" {
		return Owner{}, false
	}
	owner := Owner{Controller: ArgoCD, Kind: "Application", Name: application}
	if namespace, name, ok := strings.Cut(application, "_"); ok {
		owner.Namespace, owner.Name = namespace, name
	}
	return owner, true
}

func managedByArgo(o metav1.Object) bool {
	return slices.ContainsFunc(o.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return slices.Contains(argoManagers, entry.Manager)
	})
}

// ownerProblem refuses an object that something else applies than what the configured controller can be asked about, and a
// Deployment that nothing does.
func ownerProblem(controller string, object Object, owner Owner, owned bool) error {
	bad := func(problem, fix string) error {
		return &usererr.Error{Field: object.String(), Problem: problem, Fix: fix}
	}
	switch {
	case !owned && object.Kind == "Deployment":
		return bad("gitops.controller is "+controller+", and nothing of it applies this object",
			"put its manifest where "+map[string]string{Flux: "a Kustomization", ArgoCD: "an Application"}[controller]+" applies it; without gitops.controller Crossbill releases it as nobody else's")
	case owned && owner.Controller != controller:
		return bad("gitops.controller is "+controller+", and "+owner.String()+" applies it", "set gitops.controller: "+owner.Controller)
	case owned && owner.Kind == "HelmRelease":
		return bad(owner.String()+" applies it, and Crossbill cannot keep helm-controller from a live object: an upgrade of the chart would undo the release",
			"let a Kustomization apply the app's manifests")
	}
	return nil
}

func oneRepository(r reference, address, other, kind string) error {
	return &usererr.Error{
		Field: r.String(), Problem: fmt.Sprintf("it applies %s, and another %s applies objects of the same app from %s", address, kind, other),
		Fix: "keep the app's manifests in one repository: one commit has to be the whole release",
	}
}

func otherRepository(r reference, address, configured string) string {
	return fmt.Sprintf("%s reads %s, and gitops.repository is %s: if these are two repositories, no commit of Crossbill's arrives", r, address, configured)
}
