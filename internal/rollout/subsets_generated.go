package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// A release adds routes ahead of each of its own, each with the same conditions and one more: testers' header first, then the
// methods of what is mirrored, then the cookies of a sticky release. They come and go in the write that moves the weights. Who
// is asked before the release's route, and has a route of their own, keeps their requests.

// ungenerated is a VirtualService without the routes that a release adds.
func ungenerated(vs *networking.VirtualService) *networking.VirtualService {
	kept := vs.DeepCopy()
	kept.Spec.Http = slices.DeleteFunc(slices.Clone(vs.Spec.Http), func(h *networkingapi.HTTPRoute) bool { return manifest.Generated(h.Name) })
	return kept
}

// removals are the operations that take off a VirtualService what releases add, the last one first.
func removals(vs *networking.VirtualService) (ops []patchOp) {
	for i, http := range slices.Backward(vs.Spec.Http) {
		if manifest.Generated(http.Name) {
			ops = append(ops, patchOp{Op: "remove", Path: fmt.Sprintf("/spec/http/%d", i)})
		}
	}
	return ops
}

// generatedOps are the operations that bring what a release adds to a VirtualService, routes and cookies, to what it should
// be, after which the release's routes are at the places that are returned: they count from there.
func (s subsets) generatedOps(live *networking.VirtualService, want traffic) (before []patchOp, places []manifest.Route, after []patchOp, err error) {
	kept := ungenerated(live)
	places = s.Manifests.Routes(kept)
	desired := kept.DeepCopy()
	desired.Spec.Http = nil
	for i, http := range kept.Spec.Http {
		if at := slices.IndexFunc(places, func(r manifest.Route) bool { return r.HTTP == i }); at >= 0 {
			desired.Spec.Http = append(desired.Spec.Http, s.generated(http, places[at], at, want)...)
		}
		desired.Spec.Http = append(desired.Spec.Http, http)
	}
	if !sameGenerated(live, desired) {
		before = removals(live)
		for i, http := range desired.Spec.Http {
			if manifest.Generated(http.Name) {
				value, err := json.Marshal(http)
				if err != nil {
					return nil, nil, nil, err
				}
				after = append(after, patchOp{"add", fmt.Sprintf("/spec/http/%d", i), json.RawMessage(value)})
			}
		}
	} else {
		places = s.Manifests.Routes(live)
		kept = live
	}
	for _, r := range places {
		for track, place := range map[release.Track]int{release.Primary: r.Primary, release.Canary: r.Canary} {
			before = append(before, s.cookieOps(kept.Spec.Http[r.HTTP].Route[place], fmt.Sprintf("/spec/http/%d/route/%d", r.HTTP, place), track, want.sticky)...)
		}
	}
	return before, places, after, nil
}

// sameGenerated says whether two VirtualServices have the same of what releases add, at the same places.
func sameGenerated(a, b *networking.VirtualService) bool {
	return slices.EqualFunc(a.Spec.Http, b.Spec.Http, func(x, y *networkingapi.HTTPRoute) bool {
		return manifest.Generated(x.Name) == manifest.Generated(y.Name) && (!manifest.Generated(x.Name) || proto.Equal(x, y))
	})
}

// generated are the routes ahead of one of the release's, in the order in which they are asked.
func (s subsets) generated(http *networkingapi.HTTPRoute, r manifest.Route, number int, want traffic) (routes []*networkingapi.HTTPRoute) {
	canary, primary := http.Route[r.Canary], http.Route[r.Primary]
	if want.match != nil {
		header, kind, value := want.match.OnHeader()
		if d := s.derived(http, fmt.Sprintf("%s%d", manifest.MatchPrefix, number), canary, "", header, comparison(kind, value)); len(d.Match) > 0 {
			routes = append(routes, d)
		}
	}
	if want.mirror > 0 {
		if d := s.mirroring(http, fmt.Sprintf("%s%d", manifest.MirrorPrefix, number), primary, canary, want.mirror); len(d.Match) > 0 {
			routes = append(routes, d)
		}
	}
	if want.sticky == pinned || want.sticky == assets {
		routes = append(routes, s.stickyRoutes(http, r, number, want.sticky)...)
	}
	return routes
}

// comparison is how a VirtualService compares a header's value.
func comparison(kind release.MatchKind, value string) *networkingapi.StringMatch {
	switch kind {
	case release.MatchExact:
		return &networkingapi.StringMatch{MatchType: &networkingapi.StringMatch_Exact{Exact: value}}
	case release.MatchPrefix:
		return &networkingapi.StringMatch{MatchType: &networkingapi.StringMatch_Prefix{Prefix: value}}
	case release.MatchRegex:
		return pattern(value)
	}
	return &networkingapi.StringMatch{} // it is there
}

func pattern(of string) *networkingapi.StringMatch {
	return &networkingapi.StringMatch{MatchType: &networkingapi.StringMatch_Regex{Regex: of}}
}

// only is a route with one of its destinations, under another name, with at least one match. It sets no cookie of ours.
func (j *job) only(http *networkingapi.HTTPRoute, name string, to *networkingapi.HTTPRouteDestination) *networkingapi.HTTPRoute {
	d := http.DeepCopy()
	d.Name = name
	only := to.DeepCopy()
	only.Weight = 0
	if add := added(only); strings.HasPrefix(add[setCookie], j.cookieName()+"=") {
		delete(add, setCookie)
		prune(only)
	}
	d.Route = []*networkingapi.HTTPRouteDestination{only}
	if len(d.Match) == 0 {
		d.Match = []*networkingapi.HTTPMatchRequest{{}}
	}
	return d
}

// mirroring is a route to primary of which a part of the safe requests is mirrored. Matches of other methods are left out.
func (j *job) mirroring(http *networkingapi.HTTPRoute, name string, primary, canary *networkingapi.HTTPRouteDestination, percent int) *networkingapi.HTTPRoute {
	d := j.only(http, name, primary)
	d.Mirrors = []*networkingapi.HTTPMirrorPolicy{{Destination: canary.Destination.DeepCopy(), Percentage: &networkingapi.Percent{Value: float64(percent)}}}
	d.Match = slices.DeleteFunc(d.Match, func(m *networkingapi.HTTPMatchRequest) bool {
		return m.Method != nil && !slices.Contains(mirroredMethods, m.Method.GetExact())
	})
	for _, m := range d.Match {
		if m.Method == nil {
			m.Method = pattern(strings.Join(mirroredMethods, "|"))
		}
	}
	return d
}

// refusal says why what is wanted cannot be made of a VirtualService's routes; nil when it can.
func (s subsets) refusal(vs *networking.VirtualService, want traffic) error {
	if want.sticky == pinned {
		if err := s.stickyRefusal(vs); err != nil {
			return err
		}
	}
	mirrors := want.mirror == 0
	for _, r := range s.Manifests.Routes(vs) {
		http := vs.Spec.Http[r.HTTP]
		place := fmt.Sprintf("%s: spec.http[%d]", s.virtualService(), r.HTTP)
		if want.match != nil {
			header, _, _ := want.match.OnHeader()
			if slices.ContainsFunc(http.Match, func(m *networkingapi.HTTPMatchRequest) bool { return m.Headers[header] != nil }) {
				return &usererr.Error{Field: place, Problem: fmt.Sprintf("the release's route matches the header %s already, and a route can compare a header only once", header), Fix: "choose another header or cookie for testers with canary.match"}
			}
		}
		if want.mirror > 0 && (http.Mirror != nil || len(http.Mirrors) > 0) {
			return &usererr.Error{Field: place, Problem: "the release's route mirrors requests already, and that is not the release's to change", Fix: "take the mirror out of it for the release, or release without canary.mirror"}
		}
		mirrors = mirrors || len(s.mirroring(http, "", http.Route[r.Primary], http.Route[r.Canary], want.mirror).Match) > 0
	}
	if !mirrors && len(s.Manifests.Routes(vs)) > 0 {
		return &usererr.Error{Field: s.virtualService().String(), Problem: "none of the release's routes is for GET or HEAD, and nothing else is mirrored", Fix: "release without canary.mirror"}
	}
	return nil
}
