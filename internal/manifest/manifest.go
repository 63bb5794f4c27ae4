// Package manifest reads an app's Kubernetes and Istio manifests into typed objects and gives the
// Deployment of each track. It promises that what it returns fits together: one Service over both
// tracks, a Deployment whose selector names its track, a DestinationRule with both subsets, and a
// VirtualService that names no other.
package manifest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// TrackLabel is the label that tells the tracks apart, on pods and in subsets. It never moves.
const TrackLabel = "version"

// AppLabel names the app, on every object and pod.
const AppLabel = "app"

// Set is an app's manifests.
type Set struct {
	App             string
	Service         *corev1.Service
	Deployment      *appsv1.Deployment // primary's, and the template of the canary's
	DestinationRule *networking.DestinationRule
	VirtualService  *networking.VirtualService
	Gateways        []*networking.Gateway
	Skipped         []string // "Kind name" of what the folder holds besides: left to whoever owns it
}

// Load reads every .yaml and .yml file of a folder, in the order of their names. Errors are
// *usererr.Error and name the file.
func Load(dir string) (*Set, error) {
	names, err := files(dir)
	if err != nil {
		return nil, err
	}
	set := &Set{}
	for _, file := range names {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, &usererr.Error{Field: file, Problem: err.Error()}
		}
		if err := set.read(file, text); err != nil {
			return nil, err
		}
	}
	if err := set.check(dir); err != nil {
		return nil, err
	}
	return set, nil
}

// configFile is the configuration of Crossbill, where manifests are in the same folder; package config reads it.
const configFile = "crossbill.yaml"

// SLOFile lies beside the manifests and says what a canary is judged by; package verdict reads it.
const SLOFile = "slo.yaml"

// TrustFile lies beside the manifests and says whose images are deployed; package image/custody reads it.
const TrustFile = "trust.yaml"

func files(dir string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != dir {
			return filepath.SkipDir
		}
		if ext := filepath.Ext(path); (ext == ".yaml" || ext == ".yml") && d.Name() != configFile && d.Name() != SLOFile && d.Name() != TrustFile {
			names = append(names, path)
		}
		return nil
	})
	if err != nil {
		return nil, &usererr.Error{Field: "--manifests", Problem: err.Error(), Fix: "give the folder with the app's Kubernetes manifests"}
	}
	return names, nil
}

// read adds one file's documents to the set.
func (s *Set) read(file string, text []byte) error {
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for i := 1; ; i++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &usererr.Error{Field: file, Problem: err.Error()}
		}
		if err := s.add(document); err != nil {
			return &usererr.Error{Field: file, Problem: fmt.Sprintf("document %d: %s", i, err)}
		}
	}
}

// add puts one document where it belongs.
func (s *Set) add(document []byte) error {
	raw, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return err
	}
	if string(raw) == "null" {
		return nil // only comments
	}
	var meta struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(raw, &meta); err != nil {
		return err
	}
	if meta.Kind == "" || meta.Name == "" {
		return errors.New("has no kind or no metadata.name")
	}
	switch meta.GroupVersionKind().GroupKind().String() {
	case "Service":
		return only(&s.Service, raw, decode[corev1.Service])
	case "Deployment.apps":
		return only(&s.Deployment, raw, decode[appsv1.Deployment])
	case "DestinationRule.networking.istio.io":
		return only(&s.DestinationRule, raw, func(raw []byte) (*networking.DestinationRule, error) {
			object, err := decode[networking.DestinationRule](raw)
			return object, errors.Join(err, checkSpec(raw, &networkingapi.DestinationRule{}))
		})
	case "VirtualService.networking.istio.io":
		return only(&s.VirtualService, raw, func(raw []byte) (*networking.VirtualService, error) {
			object, err := decode[networking.VirtualService](raw)
			return object, errors.Join(err, checkSpec(raw, &networkingapi.VirtualService{}))
		})
	case "Gateway.networking.istio.io":
		gateway, err := decode[networking.Gateway](raw)
		if err := errors.Join(err, checkSpec(raw, &networkingapi.Gateway{})); err != nil {
			return err
		}
		s.Gateways = append(s.Gateways, gateway)
		return nil
	default:
		s.Skipped = append(s.Skipped, meta.Kind+" "+meta.Name)
		return nil
	}
}

func decode[T any](raw []byte) (*T, error) {
	var object T
	return &object, yaml.UnmarshalStrict(raw, &object)
}

// checkSpec finds unknown fields in an Istio object: its own decoder drops them in silence.
func checkSpec(raw []byte, spec proto.Message) error {
	var object struct {
		Spec json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		return err
	}
	if len(object.Spec) == 0 {
		return errors.New("has no spec")
	}
	return protojson.Unmarshal(object.Spec, spec)
}

// only decodes a kind of which an app has exactly one.
func only[T any](place **T, raw []byte, decode func([]byte) (*T, error)) error {
	if *place != nil {
		return errors.New("is a second one of its kind: one app has one Service, Deployment, DestinationRule and VirtualService")
	}
	object, err := decode(raw)
	if err != nil {
		return err
	}
	*place = object
	return nil
}

// check finds what does not fit together.
func (s *Set) check(dir string) error {
	problem := func(what, problem, fix string) error {
		return &usererr.Error{Field: fmt.Sprintf("%s in %s", what, dir), Problem: problem, Fix: fix}
	}
	missing := func(kind string) error {
		return problem(kind, "is missing", "add one manifest of that kind")
	}
	switch {
	case s.Service == nil:
		return missing("Service")
	case s.Deployment == nil:
		return missing("Deployment")
	case s.DestinationRule == nil:
		return missing("DestinationRule")
	case s.VirtualService == nil:
		return missing("VirtualService")
	}

	deployment := "Deployment " + s.Deployment.Name
	s.App = s.Deployment.Spec.Template.Labels[AppLabel]
	if s.App == "" {
		return problem(deployment, "its pods have no label app", "label them app: NAME")
	}
	if !strings.HasSuffix(s.Deployment.Name, "-"+string(release.Primary)) {
		return problem(deployment, "its name does not end with -primary", "name it "+s.App+"-primary; the canary's is derived from it")
	}
	for _, labels := range []map[string]string{selectorOf(s.Deployment), s.Deployment.Spec.Template.Labels} {
		if labels[TrackLabel] != string(release.Primary) {
			return problem(deployment, "its selector or its pods' labels lack version: primary", "give both the label, so that the tracks never overlap")
		}
	}

	service := "Service " + s.Service.Name
	if _, ok := s.Service.Spec.Selector[TrackLabel]; ok {
		return problem(service, "its selector names a track", "remove version from it: the Service is over both tracks")
	}
	for key, value := range s.Service.Spec.Selector {
		if s.Deployment.Spec.Template.Labels[key] != value {
			return problem(service, fmt.Sprintf("its selector %s: %s does not match the pods of %s", key, value, deployment), "make them equal")
		}
	}
	if len(s.Service.Spec.Selector) == 0 {
		return problem(service, "it has no selector", "select app: "+s.App)
	}

	rule := "DestinationRule " + s.DestinationRule.Name
	if !s.IsHost(s.DestinationRule.Spec.Host, s.DestinationRule.Namespace) {
		return problem(rule, fmt.Sprintf("its host %q is not the Service", s.DestinationRule.Spec.Host), "name the host "+s.Service.Name)
	}
	for _, track := range []release.Track{release.Primary, release.Canary} {
		if !HasSubset(s.DestinationRule, track) {
			return problem(rule, fmt.Sprintf("it has no subset %s with label version: %s", track, track), "add the subset")
		}
	}

	route := "VirtualService " + s.VirtualService.Name
	routes := s.Routes(s.VirtualService)
	if len(routes) == 0 {
		return problem(route, "no http route names both subsets of "+s.Service.Name, "give one route both destinations, primary with weight 100 and canary with weight 0")
	}
	for _, r := range routes {
		if w := Weights(s.VirtualService, r); w.Primary != 100 || w.Canary != 0 {
			return problem(route, fmt.Sprintf("http route %d has weights %d/%d", r.HTTP, w.Primary, w.Canary), "write the route at rest: primary 100, canary 0")
		}
	}
	return nil
}

func selectorOf(d *appsv1.Deployment) map[string]string {
	if d.Spec.Selector == nil {
		return nil
	}
	return d.Spec.Selector.MatchLabels
}

// IsHost says whether an Istio host means the app's Service, written short or in full. namespace is
// that of the object that names it.
func (s *Set) IsHost(host, namespace string) bool {
	if host == s.Service.Name {
		return true
	}
	short, rest, _ := strings.Cut(host, ".")
	ns, domain, _ := strings.Cut(rest, ".")
	if short != s.Service.Name || !(domain == "" || domain == "svc" || strings.HasPrefix(domain, "svc.")) {
		return false
	}
	return namespace == "" || ns == namespace
}

// HasSubset says whether a DestinationRule has the subset of a track.
func HasSubset(rule *networking.DestinationRule, track release.Track) bool {
	return slices.ContainsFunc(rule.Spec.Subsets, func(s *networkingapi.Subset) bool {
		return s.Name == string(track) && s.Labels[TrackLabel] == string(track)
	})
}

// StickyPrefix begins the names of the http routes that a sticky release adds and removes.
const StickyPrefix = "crossbill-sticky-"

// Route is the place of one http route that a release moves: its index, and those of its two
// destinations.
type Route struct{ HTTP, Primary, Canary int }

// Routes gives the http routes that name both subsets of the app's Service and nothing else: those
// are the release's. All others are other people's.
func (s *Set) Routes(vs *networking.VirtualService) []Route {
	var routes []Route
	for i, http := range vs.Spec.Http {
		r := Route{HTTP: i, Primary: -1, Canary: -1}
		for j, destination := range http.Route {
			if destination.Destination == nil || !s.IsHost(destination.Destination.Host, vs.Namespace) {
				continue
			}
			switch destination.Destination.Subset {
			case string(release.Primary):
				r.Primary = j
			case string(release.Canary):
				r.Canary = j
			}
		}
		if len(http.Route) == 2 && r.Primary >= 0 && r.Canary >= 0 {
			routes = append(routes, r)
		}
	}
	return routes
}

// Named says whether any http route leads to a track's subset of the app's Service.
func (s *Set) Named(vs *networking.VirtualService, track release.Track) bool {
	return slices.ContainsFunc(vs.Spec.Http, func(http *networkingapi.HTTPRoute) bool {
		return slices.ContainsFunc(http.Route, func(r *networkingapi.HTTPRouteDestination) bool {
			return r.Destination != nil && r.Destination.Subset == string(track) && s.IsHost(r.Destination.Host, vs.Namespace)
		})
	})
}

// WeightPair is how a route splits the traffic, in percent.
type WeightPair struct {
	Primary int32 `json:"primary"`
	Canary  int32 `json:"canary"`
}

// Weights reads a route's weights.
func Weights(vs *networking.VirtualService, r Route) WeightPair {
	route := vs.Spec.Http[r.HTTP].Route
	return WeightPair{Primary: route[r.Primary].Weight, Canary: route[r.Canary].Weight}
}

// Name is the name of a track's Deployment.
func (s *Set) Name(track release.Track) string {
	return strings.TrimSuffix(s.Deployment.Name, string(release.Primary)) + string(track)
}

// Track gives the Deployment of a track in a namespace, with its image. It has no replicas: their
// number is the caller's (an HPA's, the manifest's, or a share of primary's).
func (s *Set) Track(track release.Track, namespace, image string) (*appsv1.Deployment, error) {
	d := s.Deployment.DeepCopy()
	d.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
	d.Name, d.Namespace = s.Name(track), namespace
	d.Spec.Replicas = nil
	for _, labels := range []map[string]string{d.Labels, d.Spec.Selector.MatchLabels, d.Spec.Template.Labels} {
		if labels != nil {
			labels[TrackLabel] = string(track)
		}
	}
	container, err := s.container()
	if err != nil {
		return nil, err
	}
	d.Spec.Template.Spec.Containers[container].Image = image
	return d, nil
}

// container is the index of the container that runs the app in the manifest.
func (s *Set) container() (int, error) {
	containers := s.Deployment.Spec.Template.Spec.Containers
	if i := appContainer(containers, s.App); i >= 0 {
		return i, nil
	}
	return 0, &usererr.Error{
		Field:   "Deployment " + s.Deployment.Name,
		Problem: fmt.Sprintf("has %d containers and none is named app or %s", len(containers), s.App),
		Fix:     "name the one that runs the app's image `app`",
	}
}

// appContainer is the index of the container that runs an app: the only one, or the one named app or
// like the app (others are sidecars); -1 when there is none.
func appContainer(containers []corev1.Container, app string) int {
	if len(containers) == 1 {
		return 0
	}
	return slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == "app" || c.Name == app })
}

// AppImage is the image that pods run an app with; "" when no container is the app's.
func AppImage(pod corev1.PodSpec, app string) string {
	if i := appContainer(pod.Containers, app); i >= 0 {
		return pod.Containers[i].Image
	}
	return ""
}

// Image is the image of the app's container in a live Deployment of either track.
func (s *Set) Image(d *appsv1.Deployment) string {
	name := s.ContainerName()
	for _, c := range d.Spec.Template.Spec.Containers {
		if c.Name == name {
			return c.Image
		}
	}
	return ""
}

// ContainerName is the name of the container that runs the app; "" if the manifest does not say.
func (s *Set) ContainerName() string {
	index, err := s.container()
	if err != nil {
		return ""
	}
	return s.Deployment.Spec.Template.Spec.Containers[index].Name
}

// TemplateHash names the pod template but for its image, so that what the canary proved and what
// primary gets can be compared.
func (s *Set) TemplateHash() (string, error) {
	d, err := s.Track(release.Primary, "", "")
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(d.Spec.Template)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}
