package rollout

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// A sticky release keeps a browser on the version that answered it first, by a cookie. While the canary
// has traffic, each http route of the release has two more ahead of it, which lead the cookies of the two
// tracks to them, and sets the cookie on its own answers. All of that is added and removed in the write
// that moves the weights, so there is no state with only a part of it.

// setCookie is the response header that a destination adds.
const setCookie = "set-cookie"

// stickiness is what of a sticky release is in the routes.
type stickiness int

const (
	free   stickiness = iota // nothing
	pinned                   // browsers stay on their track
	moved                    // all are on the canary, and known to be; they go where the weights lead
	assets                   // the canary's browsers get its assets, all else of theirs goes to primary
)

// String is what a log adds about the routes.
func (s stickiness) String() string {
	return map[stickiness]string{pinned: "; browsers stay where they are", assets: "; open pages still get the canary's assets"}[s]
}

// stickinessAt is what the routes of the release in flight should have at a weight.
func (j *job) stickinessAt(weight int) stickiness {
	if r := j.ledger.Release; r == nil || r.Sticky == nil || weight == 0 {
		return free
	}
	if weight == 100 || j.ledger.Release.Stage == release.StagePromoting { // traffic that returns in parts: both run the release
		return moved
	}
	return pinned
}

// stickyRefusal says why a VirtualService's routes cannot be made sticky; nil when they can.
func (s subsets) stickyRefusal(vs *networking.VirtualService) error {
	for _, r := range s.Manifests.Routes(vs) {
		http := vs.Spec.Http[r.HTTP]
		for _, match := range http.Match {
			if match.Headers["cookie"] != nil {
				return &usererr.Error{Field: s.virtualService().String(), Problem: "its route matches a cookie already, which a sticky release needs to do", Fix: "release without `sticky`"}
			}
		}
		for _, d := range http.Route {
			if cookie := added(d)[setCookie]; cookie != "" && !strings.HasPrefix(cookie, s.cookieName()+"=") {
				return &usererr.Error{Field: s.virtualService().String(), Problem: "its route sets a cookie already, and a route can add only one", Fix: "set that cookie in the app, or release without `sticky`"}
			}
		}
	}
	return nil
}

func added(d *networkingapi.HTTPRouteDestination) map[string]string {
	return d.GetHeaders().GetResponse().GetAdd()
}

func (j *job) cookieName() string { return "crossbill-" + j.app() }

// cookie is a track's cookie in this release: that of an earlier one means nothing.
func (j *job) cookie(track release.Track) string {
	return fmt.Sprintf("%s=%s.%s", j.cookieName(), release.NewID(j.app(), j.ledger.Release.Digest(), j.ledger.Release.ID, ""), track)
}

// stickyRoutes are the routes ahead of one of the release's. Pinned: the same route for the cookie of each
// track. Assets: for the canary's cookie its assets, and for pages primary with its own cookie, so that a
// page which comes from there gets its assets from there as well, while what an open page of the canary
// asks for otherwise leaves its cookie alone.
func (s subsets) stickyRoutes(http *networkingapi.HTTPRoute, r manifest.Route, number int, want stickiness) []*networkingapi.HTTPRoute {
	canary, primary := http.Route[r.Canary], http.Route[r.Primary]
	named := func(name string) string { return fmt.Sprintf("%s%s-%d", manifest.StickyPrefix, name, number) }
	if want == pinned {
		return []*networkingapi.HTTPRoute{
			s.derived(http, named("canary"), canary, "", "cookie", pattern(s.cookiePattern(release.Canary))),
			s.derived(http, named("primary"), primary, "", "cookie", pattern(s.cookiePattern(release.Primary))),
		}
	}
	pages := s.derived(http, named("pages"), primary, "", "accept", pattern("text/html.*"))
	if len(pages.Match) == 0 {
		return nil
	}
	to := pages.Route[0]
	if to.Headers == nil {
		to.Headers = &networkingapi.Headers{}
	}
	if to.Headers.Response == nil {
		to.Headers.Response = &networkingapi.Headers_HeaderOperations{}
	}
	if to.Headers.Response.Add == nil {
		to.Headers.Response.Add = map[string]string{}
	}
	to.Headers.Response.Add[setCookie] = s.cookieHeader(release.Primary)
	routes := []*networkingapi.HTTPRoute{pages}
	if of := s.derived(http, named("assets"), canary, s.ledger.Release.Sticky.Assets, "cookie", pattern(s.cookiePattern(release.Canary))); len(of.Match) > 0 {
		routes = append([]*networkingapi.HTTPRoute{of}, routes...)
	}
	return routes
}

func (j *job) cookiePattern(track release.Track) string {
	return `(.*;\s*)?` + regexp.QuoteMeta(j.cookie(track)) + `(;.*)?`
}

func (j *job) cookieHeader(track release.Track) string {
	return j.cookie(track) + "; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax"
}

// derived is a route with one of its destinations, for requests that have a header as well, and a path if
// one is given. Matches that have such a condition of their own are left out: both would have to hold.
func (j *job) derived(http *networkingapi.HTTPRoute, name string, to *networkingapi.HTTPRouteDestination, path, header string, value *networkingapi.StringMatch) *networkingapi.HTTPRoute {
	d := j.only(http, name, to)
	d.Match = slices.DeleteFunc(d.Match, func(m *networkingapi.HTTPMatchRequest) bool {
		return m.Headers[header] != nil || path != "" && m.Uri != nil
	})
	for _, m := range d.Match {
		if m.Headers == nil {
			m.Headers = map[string]*networkingapi.StringMatch{}
		}
		m.Headers[header] = value
		if path != "" {
			m.Uri = &networkingapi.StringMatch{MatchType: &networkingapi.StringMatch_Prefix{Prefix: path}}
		}
	}
	return d
}

// prune drops header operations that do nothing.
func prune(d *networkingapi.HTTPRouteDestination) {
	if r := d.GetHeaders().GetResponse(); r != nil && len(r.Add)+len(r.Set)+len(r.Remove) == 0 {
		d.Headers.Response = nil
	}
	if h := d.GetHeaders(); h != nil && h.Request == nil && h.Response == nil {
		d.Headers = nil
	}
}

// cookieOps set a track's cookie on the answers of a destination, or take it off with whatever only it
// needed.
func (s subsets) cookieOps(d *networkingapi.HTTPRouteDestination, path string, track release.Track, want stickiness) []patchOp {
	headers := d.GetHeaders()
	response := headers.GetResponse()
	has := added(d)[setCookie]
	if want == pinned || want == moved && track == release.Canary {
		cookie := s.cookieHeader(track)
		switch {
		case has == cookie:
			return nil
		case headers == nil:
			return []patchOp{{"add", path + "/headers", map[string]any{"response": map[string]any{"add": map[string]string{setCookie: cookie}}}}}
		case response == nil:
			return []patchOp{{"add", path + "/headers/response", map[string]any{"add": map[string]string{setCookie: cookie}}}}
		case len(response.Add) == 0:
			return []patchOp{{"add", path + "/headers/response/add", map[string]string{setCookie: cookie}}}
		}
		return []patchOp{{"add", path + "/headers/response/add/" + setCookie, cookie}}
	}
	switch {
	case !strings.HasPrefix(has, s.cookieName()+"="):
		return nil
	case len(response.Add) > 1:
		return []patchOp{{Op: "remove", Path: path + "/headers/response/add/" + setCookie}}
	case len(response.Set) > 0 || len(response.Remove) > 0:
		return []patchOp{{Op: "remove", Path: path + "/headers/response/add"}}
	case headers.Request != nil:
		return []patchOp{{Op: "remove", Path: path + "/headers/response"}}
	}
	return []patchOp{{Op: "remove", Path: path + "/headers"}}
}
