// Package gitops knows the controllers that apply an app's manifests from Git, Flux and Argo CD: what of theirs applies an
// object, whether they would undo a release of it, and how they are asked to read the repository. Flux leaves alone what
// carries an annotation; Argo CD what its Application says. What they do to a release, and which settings keep the peace, was
// measured with Flux 2.9 (kustomize-controller 1.9.6) and Argo CD 3.5.7.
package gitops

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"

	"github.com/our-org/crossbill/internal/usererr"
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

// String is the object for people: Deployment shop/shop-primary.
func (o Object) String() string { return named(o.Kind, o.GetNamespace(), o.GetName()) }

// Controller is what applies the app's manifests. Its errors are *usererr.Error where somebody has to change something, and
// the API server's own else.
type Controller interface {
	// String is its name for people: Flux, Argo CD.
	String() string
	// Hold is the annotation that makes it leave a live object as it is; without a key it knows none. An apply that looked
	// at the object before the annotation was there still writes it; Apply, which waits for that one too, is the end of it.
	Hold() (key, value string)
	// Check refuses a release of these objects that the controller would undo, or that it would never be let in again after:
	// it names the object and the fix. remarks is what is worth a line in the log. It writes nothing.
	Check(ctx context.Context, objects []Object) (remarks []string, err error)
	// Fetch asks the controller to read the repository, waits until it has, and gives the commit that whatever it applies
	// from now on comes from, or from a later one. Nothing that it started to apply from an earlier one is under way any more.
	// objects are those of Check; where nothing applies any of them there is nobody to ask, and the commit is empty.
	Fetch(ctx context.Context, objects []Object) (commit string, err error)
	// Apply asks the controller to apply what it has read, and waits until it has tried. An object that it could not apply
	// is an error.
	Apply(ctx context.Context, objects []Object) error
	// Applying names what is being applied now and may have read the objects some time ago; empty for nothing. Another name
	// is of what started later. A controller that leaves held objects alone applies nothing to them.
	Applying(ctx context.Context, objects []Object) (string, error)
}

// Options are of a controller in the cluster.
type Options struct {
	Namespace  string // of Argo CD's Applications; default argocd
	Branch     string // that the controller has to follow; empty for any
	Repository string // that the controller has to read, as Git takes its address; empty for any
	Signed     bool   // Crossbill signs its commits
	Value      string // FILE:PATH of the image in a chart's values; empty for none
	Ledgers    string // folder of the ledgers in it, where every step of a release is a commit; empty where Crossbill writes the cluster beside the controller

	// ImageNames are what the app's images are called in Git, on their way through its kustomizations; nil for no more than what is live.
	ImageNames func(context.Context) ([]string, error)
	// Files are those of a folder of the repository, and of the folders in it; nil where it cannot be read.
	Files func(ctx context.Context, folder string) ([]string, error)

	Timeout time.Duration // of each Fetch and Apply; default 5 minutes
	Poll    time.Duration // between two looks; default half a second

	Log func(format string, args ...any) // what is worth a line while waiting; nil for nothing
}

// commits says whether every step of a release is a commit.
func (o Options) commits() bool { return o.Ledgers != "" }

// called are the image names, read when they are first asked for.
func (c *cluster) called(ctx context.Context) func() ([]string, error) {
	return sync.OnceValues(func() ([]string, error) {
		if c.options.ImageNames == nil {
			return nil, nil
		}
		return c.options.ImageNames(ctx)
	})
}

// New is a controller by its name, as gitops.controller has it. It asks the cluster nothing.
func New(controller string, client dynamic.Interface, options Options) (Controller, error) {
	if options.Namespace == "" {
		options.Namespace = "argocd"
	}
	if options.Timeout <= 0 {
		options.Timeout = 5 * time.Minute
	}
	if options.Poll <= 0 {
		options.Poll = 500 * time.Millisecond
	}
	if options.Log == nil {
		options.Log = func(string, ...any) {}
	}
	c := cluster{client: client, options: options}
	switch controller {
	case Flux:
		return &flux{c}, nil
	case ArgoCD:
		return &argo{c}, nil
	}
	return nil, &usererr.Error{Field: "gitops.controller", Problem: fmt.Sprintf("%q is not a controller that Crossbill knows", controller), Fix: "give flux or argocd"}
}
