// Package manifest reads an app's Kubernetes and Istio manifests into typed objects and makes the Deployment of
// each track from them.
//
// It keeps this invariant: the objects of a loaded Set fit together. There is a Deployment whose selector names its track, and
// either one Service over both tracks, a DestinationRule with both subsets, and a VirtualService whose routes name no other
// subsets; or an HTTPRoute or GRPCRoute, a Service for each track that it leads to, and the app's own Service over primary.
package manifest

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/release"
)

// TrackLabel is the label that distinguishes the tracks, on pods and in subsets. Its values never change.
const TrackLabel = "version"

// AppLabel is the label that names an app, or what an app is a part of. An app's own name is its Deployment's.
const AppLabel = "app"

// configFile may be beside the manifests; package config reads it.
const configFile = "crossbill.yaml"

// SLOFile is beside the manifests and says what a canary is judged by; package verdict reads it.
const SLOFile = "slo.yaml"

// TrustFile is beside the manifests and says which images are admitted; package provenance reads it.
const TrustFile = "trust.yaml"

// Set is an app's manifests.
type Set struct {
	App             string // the Deployment's name without -primary
	Label           string // of the pods, by which ledgers before 0.2 name the app
	Written         string // the Deployment's name in the source
	NamesOnly       bool   // the set was made from the names in a ledger: it has no pod template
	Service         *corev1.Service
	Deployment      *appsv1.Deployment // primary's, and the template of the canary's
	DestinationRule *networking.DestinationRule
	VirtualService  *networking.VirtualService
	Gateways        []*networking.Gateway

	// Route is the HTTPRoute or GRPCRoute of the Gateway API that leads to both tracks, and Tracks are the Services that it
	// leads to, one for each: then there is no VirtualService and no DestinationRule, and Service selects primary alone. Nil:
	// it is the VirtualService that does, by the subsets of the DestinationRule.
	Route  *unstructured.Unstructured
	Tracks map[release.Track]*corev1.Service

	ConfigMaps map[string]*corev1.ConfigMap // by name: of those, pods get copies
	Secrets    map[string]*corev1.Secret

	// Copies and Config are what Bind makes of these.
	Copies Copies
	Config []release.Config
	bound  bool

	// Jobs are what hooks are made of, by name: see TakeJobs.
	Jobs map[string]*batchv1.Job

	// Others are the objects that a canary has no opinion on, in the order in which they are applied.
	Others  []*unstructured.Unstructured
	Skipped []string // what is no object of the release, with why
	remarks []string // on how the source was read

	origins map[string]string // the file of each kind, or of an object as "Kind name"
}

// In says which namespace the app is in, for what the manifests leave open, and checks them again.
func (s *Set) In(namespace string) error {
	if s.NamesOnly { // the ledger names all namespaces, and no routes
		return nil
	}
	objects := []metav1.Object{s.Service, s.Deployment}
	if s.Route != nil {
		objects = append(objects, s.Route, s.Tracks[release.Primary], s.Tracks[release.Canary])
	} else {
		objects = append(objects, s.DestinationRule, s.VirtualService)
	}
	for _, o := range objects {
		if o.GetNamespace() == "" {
			o.SetNamespace(namespace)
		}
	}
	// What is in another namespace is not read by the app's pods: the one that they read is others'.
	elsewhere := func(o metav1.Object) bool {
		return o.GetNamespace() != "" && o.GetNamespace() != s.Deployment.Namespace
	}
	maps.DeleteFunc(s.ConfigMaps, func(_ string, c *corev1.ConfigMap) bool { return elsewhere(c) })
	maps.DeleteFunc(s.Secrets, func(_ string, c *corev1.Secret) bool { return elsewhere(c) })
	return s.check()
}

// Remarks are what a reader of the source may not expect of how it was read.
func (s *Set) Remarks() []string {
	remarks := slices.Clone(s.remarks)
	if left := s.left(); len(left) > 0 {
		remarks = append(remarks, "left alone, to be applied separately if at all: "+strings.Join(left, ", "))
	}
	return remarks
}

// left names what is in the source and is left alone.
func (s *Set) left() (names []string) {
	for _, o := range s.Others {
		names = append(names, strings.TrimSpace(o.GetKind()+" "+cmp.Or(o.GetName(), o.GetGenerateName())))
	}
	return append(names, s.Skipped...)
}
