// Package gitops knows the controllers that apply an app's manifests from Git, Flux and Argo CD: what of theirs applies an
// object, whether they would undo a release of it, and how they are asked to read the repository. Flux leaves alone what
// carries an annotation; Argo CD what its Application says. What they do to a release, and which settings keep the peace, was
// measured with Flux 2.9 (kustomize-controller 1.9.6) and Argo CD 3.5.7.
package gitops

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The controllers, as gitops.controller names them.
const (
	Flux   = "flux"
	ArgoCD = "argocd"
)

// Object is a live object that a release writes.
type Object struct {
	Group, Kind string
	metav1.Object
	// Paths are the fields that a release changes of it, as JSON pointers; "" in them is all.
	Paths []string
}

// Controller is what applies the app's manifests. Its errors are *usererr.Error where somebody has to change something, and
// the API server's own else.
type Controller interface {
	// String is its name for people: Flux, Argo CD.
	String() string
	// Hold is the annotation that makes it leave a live object as it is; without a key it knows none.
	Hold() (key, value string)
	// Check refuses a release of these objects that the controller would undo, or that it would never be let in again after:
	// it names the object and the fix. remarks is what is worth a line in the log. It writes nothing.
	Check(ctx context.Context, objects []Object) (remarks []string, err error)
	// Fetch asks the controller to read the repository, waits until it has, and gives the commit that whatever it applies
	// from now on comes from. objects are those of Check.
	Fetch(ctx context.Context, objects []Object) (commit string, err error)
	// Apply asks the controller to apply what it has read, and waits until it has tried. An object that it could not apply
	// is an error.
	Apply(ctx context.Context, objects []Object) error
}
