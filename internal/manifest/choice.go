package manifest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// choice finds an app among objects of which there may be more than one app's, as charts have them, and derives what a
// canary needs and they lack.
type choice struct {
	r     *Rendered
	set   *Set
	taken []*Object

	tracks map[release.Track]*Object // Services of the tracks that the source has
}

// of are the objects of a kind that an app is made of.
func (c *choice) of(kind string) (found []*Object) {
	for i := range c.r.Objects {
		if o := &c.r.Objects[i]; o.Kind == kind && own(o) {
			found = append(found, o)
		}
	}
	return found
}

// view is what of an object decides whether it is the app's. What does not decode is left out of it.
type view struct {
	Spec struct {
		Selector  json.RawMessage `json:"selector"`
		ClusterIP string          `json:"clusterIP"`
		Type      string          `json:"type"`
		Host      string          `json:"host"`
		Rules     []viewRule      `json:"rules"`
		Hostnames []string        `json:"hostnames"`
		Default   viewBackend     `json:"defaultBackend"`
		Subsets   json.RawMessage `json:"subsets"`
		Access    []string        `json:"accessModes"`
		Template  struct {
			metav1.ObjectMeta `json:"metadata"`
		} `json:"template"`
	} `json:"spec"`
	metav1.ObjectMeta `json:"metadata"`
}

// viewRule is a rule of an Ingress, or of a route of the Gateway API.
type viewRule struct {
	Host string `json:"host"`
	HTTP struct {
		Paths []struct {
			Path    string      `json:"path"`
			Backend viewBackend `json:"backend"`
		} `json:"paths"`
	} `json:"http"`
	Matches []struct {
		Path *struct {
			Value string `json:"value"`
		} `json:"path"`
	} `json:"matches"`
	BackendRefs []struct {
		Name string `json:"name"`
		Port int32  `json:"port"`
	} `json:"backendRefs"`
}

type viewBackend struct {
	Service struct {
		Name string `json:"name"`
		Port struct {
			Name   string `json:"name"`
			Number int32  `json:"number"`
		} `json:"port"`
	} `json:"service"`
}

func viewOf(o *Object) (v view) {
	_ = json.Unmarshal(o.Raw, &v)
	return v
}

// selects gives a Service's selector.
func (v *view) selects() (selector map[string]string) {
	_ = json.Unmarshal(v.Spec.Selector, &selector)
	return selector
}

// missing is the error of a kind that an app needs and the source does not have.
func (c *choice) missing(kind, fix string) error {
	problem := "no manifest of kind " + kind + " was found"
	var left []string
	for i := range c.r.Objects {
		if o := &c.r.Objects[i]; !slices.Contains(c.taken, o) && (!own(o) || o.Kind == kind) {
			left = append(left, o.String())
		}
	}
	if left = append(left, c.r.Skipped...); len(left) > 0 {
		problem += " (not read as one: " + strings.Join(left, ", ") + ")"
	}
	return &usererr.Error{Field: c.r.path, Problem: problem, Fix: cmp.Or(c.r.advice, fix, "add one")}
}

func (c *choice) take(o *Object) *Object {
	c.taken = append(c.taken, o)
	c.set.origins[o.Kind] = o.From
	return o
}

func (c *choice) remark(format string, args ...any) {
	c.set.remarks = append(c.set.remarks, fmt.Sprintf(format, args...))
}

func names(objects []*Object) string {
	var all []string
	for _, o := range objects {
		all = append(all, o.Name)
	}
	return strings.Join(all, ", ")
}

// deployment finds the app's Deployment, and derives primary's from one that is not named as one.
func (c *choice) deployment() error {
	all := c.of("Deployment")
	for i := range c.r.Objects {
		if o := &c.r.Objects[i]; o.Kind == "Deployment" && o.Group == "extensions" {
			return o.problem("apiVersion extensions/v1beta1 is gone since Kubernetes 1.16: use apps/v1")
		}
	}
	if len(all) == 0 {
		fix := ""
		for i := range c.r.Objects {
			if kind := c.r.Objects[i].Kind; kind == "StatefulSet" || kind == "DaemonSet" || kind == "Rollout" {
				fix = "a " + kind + " cannot have two tracks: its pods are no two sets of replicas side by side; let a Deployment run the app"
			}
		}
		return c.missing("Deployment", fix)
	}
	chosen, err := c.oneDeployment(all)
	if err != nil {
		return err
	}
	for _, other := range all {
		written := chosen.Name
		app := strings.TrimSuffix(written, "-"+string(release.Primary))
		if other != chosen && other.Namespace == chosen.Namespace && (other.Name == app+"-"+string(release.Canary) || other.Name == app+"-"+string(release.Primary)) {
			return other.problem(fmt.Sprintf("Deployment %s has the name that a track of %s has: Crossbill makes it, so remove this one", other.Name, written))
		}
	}
	s := c.set
	if err := read(&s.Deployment, c.take(chosen), nil); err != nil {
		return err
	}
	s.Written = chosen.Name
	if strings.HasSuffix(chosen.Name, "-"+string(release.Primary)) {
		return nil
	}
	d := s.Deployment
	if d.Spec.Selector == nil {
		return s.problem("Deployment", d.Name, "spec.selector", "is missing", "give it labels that only this app's pods have")
	}
	d.Name += "-" + string(release.Primary)
	was := d.Spec.Template.Labels[TrackLabel]
	for _, labels := range []*map[string]string{&d.Spec.Selector.MatchLabels, &d.Spec.Template.Labels} {
		if *labels == nil {
			*labels = map[string]string{}
		}
		(*labels)[TrackLabel] = string(release.Primary)
	}
	c.remark("Deployment %s is released as %s and %s, with the label %s; `crossbill migrate` takes one that serves already to these, since its selector cannot be changed", s.Written, d.Name, s.Name(release.Canary), TrackLabel)
	if rolling := d.Spec.Strategy.RollingUpdate; rolling != nil && rolling.MaxUnavailable != nil && !isZero(*rolling.MaxUnavailable) {
		c.remark("Deployment %s: maxUnavailable: %s gives way to 0: a rollout of primary takes no pod away before another is ready", s.Written, rolling.MaxUnavailable)
		d.Spec.Strategy.RollingUpdate = nil
	}
	if was != "" {
		c.remark("the pods' label %s: %s gives way to that of the tracks", TrackLabel, was)
	}
	return nil
}

func (c *choice) oneDeployment(all []*Object) (*Object, error) {
	if len(all) == 1 {
		return all[0], nil
	}
	if app := c.r.App; app != "" {
		for _, is := range []func(o *Object) bool{
			func(o *Object) bool { return o.Name == app+"-"+string(release.Primary) },
			func(o *Object) bool { return o.Name == app },
			func(o *Object) bool {
				pods := viewOf(o).Spec.Template.Labels
				return pods[AppLabel] == app || pods["app.kubernetes.io/name"] == app || pods["app.kubernetes.io/component"] == app
			},
		} {
			if one := only(all, is); one != nil {
				return one, nil
			}
		}
		return nil, c.several(all, fmt.Sprintf("none of the Deployments is %s: %s", app, names(all)))
	}
	if one := only(all, func(o *Object) bool { return strings.HasSuffix(o.Name, "-"+string(release.Primary)) }); one != nil {
		return one, nil
	}
	routed := c.routed()
	if one := only(all, func(o *Object) bool {
		return slices.ContainsFunc(c.of("Service"), func(s *Object) bool {
			v := viewOf(s)
			return routed[s.Name] && covers(v.selects(), viewOf(o).Spec.Template.Labels)
		})
	}); one != nil {
		return one, nil
	}
	return nil, c.several(all, "there are several Deployments, and no route shows which one is the app: "+names(all))
}

func (c *choice) several(all []*Object, problem string) error {
	return &usererr.Error{Field: "app", Problem: problem + " (" + all[0].From + ")", Fix: "name the Deployment that is to be released, for example " + strings.TrimSuffix(all[0].Name, "-"+string(release.Primary)) + "; the others are left as they are"}
}

// only is the one object of those asked for; nil if there is none, or another one.
func only(all []*Object, is func(*Object) bool) (one *Object) {
	for _, o := range all {
		if is(o) {
			if one != nil {
				return nil
			}
			one = o
		}
	}
	return one
}

// covers says whether a Service's selector selects pods, whichever track they are of.
func covers(selector, pods map[string]string) bool {
	for key, value := range selector {
		if key != TrackLabel && pods[key] != value {
			return false
		}
	}
	return len(selector) > 0
}

// routed are the names of the Services that a route leads to: of a VirtualService, an Ingress, or the Gateway API.
func (c *choice) routed() map[string]bool {
	found := map[string]bool{}
	for i := range c.r.Objects {
		o := &c.r.Objects[i]
		switch o.Kind {
		case "VirtualService":
			var vs struct {
				Spec struct {
					HTTP []struct {
						Route []struct {
							Destination struct{ Host string } `json:"destination"`
						} `json:"route"`
					} `json:"http"`
				} `json:"spec"`
			}
			_ = json.Unmarshal(o.Raw, &vs)
			for _, http := range vs.Spec.HTTP {
				for _, route := range http.Route {
					name, _, _ := strings.Cut(route.Destination.Host, ".")
					found[name] = true
				}
			}
		case "Ingress", "HTTPRoute", "GRPCRoute":
			for _, backend := range c.backends(o) {
				found[backend.service] = true
			}
		}
	}
	return found
}

// service finds the Service over the app's pods.
func (c *choice) service() error {
	all := c.of("Service")
	pods := c.set.Deployment.Spec.Template.Labels
	var fit []*Object
	for _, o := range all {
		if v := viewOf(o); v.Spec.ClusterIP != corev1.ClusterIPNone && v.Spec.Type != string(corev1.ServiceTypeExternalName) && covers(v.selects(), pods) && c.ofTrack(o) == "" {
			fit = append(fit, o)
		}
	}
	var chosen *Object
	switch {
	case len(fit) == 1:
		chosen = fit[0]
	case len(fit) == 0 && len(all) == 1: // the check says what is wrong with it
		chosen = all[0]
	case len(all) == 0:
		return c.missing("Service", "")
	case len(fit) == 0:
		return c.missing("Service that selects the pods of Deployment "+c.set.Written, "give one a selector of labels that these pods have, and a cluster IP")
	default:
		routed := c.routed()
		for _, is := range []func(o *Object) bool{
			func(o *Object) bool { return routed[o.Name] },
			func(o *Object) bool { return o.Name == c.set.Written || o.Name == c.r.App },
		} {
			if chosen = only(fit, is); chosen != nil {
				break
			}
		}
		if chosen == nil {
			return &usererr.Error{Field: fit[0].From, Problem: "several Services select the app's pods: " + names(fit), Fix: "let the VirtualService lead to one of them, or remove the others"}
		}
	}
	return read(&c.set.Service, c.take(chosen), nil)
}

// destinationRule finds the DestinationRule of the Service, or makes it.
func (c *choice) destinationRule() error {
	s := c.set
	var fit []*Object
	for _, is := range []func(o *Object, v view) bool{
		func(o *Object, v view) bool { return s.IsHost(v.Spec.Host, o.Namespace) },
		func(_ *Object, v view) bool { // the check says what is wrong with its host
			return strings.Contains(string(v.Spec.Subsets), `"`+string(release.Canary)+`"`) && !c.othersHost(v.Spec.Host)
		},
	} {
		for _, o := range c.of("DestinationRule") {
			if is(o, viewOf(o)) {
				fit = append(fit, o)
			}
		}
		if len(fit) > 0 {
			break
		}
	}
	if len(fit) > 1 {
		return fit[1].problem(fmt.Sprintf("DestinationRule %s is for the same Service as %s: keep one", fit[1].Name, fit[0].Name))
	}
	subsets := func() (both []*networkingapi.Subset) {
		for _, track := range []release.Track{release.Primary, release.Canary} {
			both = append(both, &networkingapi.Subset{Name: string(track), Labels: map[string]string{TrackLabel: string(track)}})
		}
		return both
	}
	if len(fit) == 1 {
		if err := read(&s.DestinationRule, c.take(fit[0]), &networkingapi.DestinationRule{}); err != nil {
			return err
		}
		if len(s.DestinationRule.Spec.Subsets) == 0 {
			s.DestinationRule.Spec.Subsets = subsets()
			c.remark("DestinationRule %s gets the subsets of the tracks", s.DestinationRule.Name)
		}
		return nil
	}
	s.DestinationRule = &networking.DestinationRule{
		TypeMeta:   metav1.TypeMeta{APIVersion: istioGroup + "/v1", Kind: "DestinationRule"},
		ObjectMeta: metav1.ObjectMeta{Name: s.Service.Name, Namespace: s.Service.Namespace, Labels: maps.Clone(s.Service.Labels)},
		Spec:       networkingapi.DestinationRule{Host: s.Service.Name, Subsets: subsets()},
	}
	s.origins["DestinationRule"] = s.origins["Service"]
	c.remark("DestinationRule %s is made, with the subsets of the tracks", s.Service.Name)
	return nil
}

// othersHost says whether a host is a Service of the source that is not the app's.
func (c *choice) othersHost(host string) bool {
	name, _, _ := strings.Cut(host, ".")
	return slices.ContainsFunc(c.of("Service"), func(o *Object) bool { return o.Name == name && !slices.Contains(c.taken, o) })
}

// rest sorts what else there is: Gateways, the ConfigMaps and Secrets of the app's namespace, and others.
func (c *choice) rest() error {
	s := c.set
	read := map[string]bool{} // by kind and name
	for _, r := range References(&s.Deployment.Spec.Template.Spec) {
		if !r.Node {
			read[r.Kind+" "+r.Name] = true
		}
	}
	for i := range c.r.Objects {
		o := &c.r.Objects[i]
		if slices.Contains(c.taken, o) {
			continue
		}
		if own(o) {
			kept, err := c.keep(o)
			if err != nil {
				return err
			}
			if kept && o.Kind == "Gateway" {
				continue
			}
			if kept && read[o.String()] && !c.readElsewhere(o.String()) {
				continue
			}
		}
		if o.Kind == "PersistentVolumeClaim" {
			if err := c.shared(o); err != nil {
				return err
			}
		}
		other := &unstructured.Unstructured{}
		if err := other.UnmarshalJSON(o.Raw); err != nil {
			return o.problem(plain(err))
		}
		s.Others = append(s.Others, other)
	}
	slices.SortStableFunc(s.Others, func(a, b *unstructured.Unstructured) int { return cmp.Compare(order(a), order(b)) })
	return nil
}

// shared looks at a volume that the pods of both tracks mount.
func (c *choice) shared(o *Object) error {
	mounted := slices.ContainsFunc(c.set.Deployment.Spec.Template.Spec.Volumes, func(v corev1.Volume) bool {
		return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == o.Name
	})
	modes := viewOf(o).Spec.Access
	has := func(mode corev1.PersistentVolumeAccessMode) bool { return slices.Contains(modes, string(mode)) }
	switch {
	case !mounted || has(corev1.ReadWriteMany) || has(corev1.ReadOnlyMany):
	case has(corev1.ReadWriteOncePod):
		return o.problem(o.String() + " is ReadWriteOncePod: the canary's pod would wait for primary's to end; keep the data outside of the pods, or in a volume that is ReadWriteMany")
	default:
		c.remark("%s is ReadWriteOnce, and the pods of both tracks mount it: they run on one node, and write to the same files", o.String())
	}
	return nil
}

// keep decodes a Gateway, or a ConfigMap or Secret that the app's pods can read: one of their namespace.
func (c *choice) keep(o *Object) (kept bool, err error) {
	s := c.set
	if own := s.Deployment.Namespace; o.Kind != "Gateway" && own != "" && o.Namespace != "" && o.Namespace != own {
		return false, nil
	}
	if o.Kind == "ConfigMap" && s.ConfigMaps[o.Name] != nil || o.Kind == "Secret" && s.Secrets[o.Name] != nil {
		return false, o.problem(fmt.Sprintf("%s %s is there a second time, in another namespace, and Deployment %s names none: which one its pods read is not known; give the Deployment metadata.namespace", o.Kind, o.Name, s.Deployment.Name))
	}
	switch o.Kind {
	case "Gateway":
		var gateway *networking.Gateway
		err = read(&gateway, o, &networkingapi.Gateway{})
		s.Gateways = append(s.Gateways, gateway)
	case "ConfigMap":
		if s.ConfigMaps == nil {
			s.ConfigMaps = map[string]*corev1.ConfigMap{}
		}
		var decoded *corev1.ConfigMap
		err = read(&decoded, o, nil)
		s.ConfigMaps[o.Name] = decoded
	case "Secret":
		if s.Secrets == nil {
			s.Secrets = map[string]*corev1.Secret{}
		}
		var decoded *corev1.Secret
		err = read(&decoded, o, nil)
		s.Secrets[o.Name] = decoded
	default:
		return false, nil
	}
	s.origins[o.String()] = o.From
	return true, err
}

// readElsewhere says whether pods of another object read a ConfigMap or Secret of the app, by its own name.
func (c *choice) readElsewhere(name string) bool {
	return slices.ContainsFunc(c.r.Objects, func(o Object) bool {
		var pods struct {
			Spec struct {
				Template corev1.PodTemplateSpec `json:"template"`
				Job      struct {
					Spec struct {
						Template corev1.PodTemplateSpec `json:"template"`
					} `json:"spec"`
				} `json:"jobTemplate"`
			} `json:"spec"`
		}
		if o.Kind == "Deployment" && o.Name == c.set.Written && own(&o) || json.Unmarshal(o.Raw, &pods) != nil {
			return false
		}
		return slices.ContainsFunc(append(References(&pods.Spec.Template.Spec), References(&pods.Spec.Job.Spec.Template.Spec)...), func(r Reference) bool { return r.Kind+" "+r.Name == name })
	})
}
