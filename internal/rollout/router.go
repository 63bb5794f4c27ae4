package rollout

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

var tracks = []release.Track{release.Primary, release.Canary}

// mirroredMethods are those whose requests may be repeated.
var mirroredMethods = []string{"GET", "HEAD"}

// router is how traffic reaches the tracks. It alone knows the objects of its kind of routing; the order in which they are
// written and waited for is the commands'.
type router interface {
	// route is the object that leads to both tracks.
	route() object
	// backends are the objects that the route's destinations need.
	backends() []object
	// read gives what the route says as it is now, recent as this job knows it.
	read(context.Context) (routing, error)
	recent(context.Context) (routing, error)
	// look reads all that routes the app, and refuses what would make a release ineffective, or cannot be made of the routes.
	// primary is as it is live, nil for a first release.
	look(ctx context.Context, primary *appsv1.Deployment, want traffic) (routerFound, error)
	// missing is the error of a route without the release's, which Crossbill does not add to an object that others own.
	missing() error
	// ports are those of the app's Service that something leads to, live or in the manifests, each with what does.
	ports(live routing) map[uint32]string
	// endpoints is the name of the Service whose EndpointSlices have a track's endpoints.
	endpoints(release.Track) string

	// ensureBackends makes what the destinations need and is missing, and refuses what somebody has moved to other pods.
	ensureBackends(context.Context) error
	// addBackends does the same on the way back, which whatever somebody has moved does not hold up.
	addBackends(context.Context) error
	// promoteBackends gives the backends what the promotion gives the app's Service.
	promoteBackends(context.Context) error
	// backendsBack makes again by what the tracks' endpoints are seen, on the way back and before they are asked for.
	backendsBack(context.Context) error
	// backed says of which tracks the route's destination has what it needs to be named.
	backed(context.Context) (map[release.Track]bool, error)
	// ensureRoute creates a route that is missing, at rest, with the Gateways that it needs. One that exists is left as it is.
	ensureRoute(context.Context) error
	// split gives the tracks their traffic in one write, and what is live afterwards: nothing when somebody has deleted the
	// route.
	split(context.Context, traffic) (routing, error)

	// convertible says whether the route is the release's already, and refuses one that take cannot make into it.
	convertible(context.Context) (routed bool, err error)
	// take leads all of the traffic to primary, which is ready: what the route needs, then the route, at rest; then it takes
	// away what led there before. It goes on where it was ended.
	take(context.Context) error

	// previewed are the names of the previews that requests reach.
	previewed(context.Context) ([]string, error)
	// checkPreview refuses a preview that no rule can lead to.
	checkPreview(ctx context.Context, name string, match *release.Match) error
	// lead gives the preview of a name, which is ready, the requests that match; unlead takes them away.
	lead(ctx context.Context, name string, match *release.Match) error
	unlead(ctx context.Context, name string) error
}

// router is the one that the manifests have.
func (j *job) router() router {
	if j.Manifests.Route != nil {
		return services{j}
	}
	return subsets{j}
}

// sameRouter refuses manifests with another router than the release in flight has: its weights are in the other one. What ends
// a release goes by the names in the ledger.
func (j *job) sameRouter(command string) error {
	r := j.ledger.Release
	if r == nil || r.Objects == nil || command == "rollback" || command == "guard" || command == "queue" || (r.Objects.Route != nil) == (j.Manifests.Route != nil) {
		return nil
	}
	has := "VirtualService " + r.Objects.VirtualService.Name
	if r.Objects.Route != nil {
		has = r.Objects.Route.Kind + " " + r.Objects.Route.Name
	}
	return &usererr.Error{Field: "router", Problem: fmt.Sprintf("release %s is routed by %s, and the manifests name %s", r.ID, has, j.router().route()), Fix: "finish the release with the manifests that it started with, or roll it back; nothing was changed"}
}

// traffic is what the tracks are to get: the canary's share in percent, the rest is primary's; what browsers are held to; and
// what reaches the canary beside its share.
type traffic struct {
	weight int
	sticky stickiness
	match  *release.Match // requests of testers; nil: none
	mirror int            // percent of the safe requests to primary that the canary gets a copy of
}

// String is what a log says of the routes.
func (t traffic) String() string {
	text := fmt.Sprintf("routes %d%% to primary, %d%% to canary", 100-t.weight, t.weight)
	if t.match != nil {
		text += " and requests with " + t.match.Text()
	}
	if t.mirror > 0 {
		text += fmt.Sprintf(", and copies of %d%% of the safe requests", t.mirror)
	}
	return text + t.sticky.String()
}

// routing is what a live route says of the app.
type routing struct {
	kind   string        // of its object
	live   metav1.Object // nil: not found
	routes []routeStatus // those that a release may change: they lead to both tracks, and to nothing else
	// leads says to which tracks anything in it does.
	leads map[release.Track]bool
	// What a release adds is there: routes of testers, and what holds browsers to a track.
	matched, pinned bool
	// mirrors are the percentages of the routes that it adds for copies.
	mirrors []float64
	// unsplit says which places in it lead to both tracks by their shares of the pods.
	unsplit []string
	// past are the ways to the canary that it leaves beside the release's routes, and unrouted the callers that none of it
	// routes.
	past, unrouted []string
}

// routeStatus is one route of the release.
type routeStatus struct {
	place   string // where it is, for a message; "" when it is the only one
	weights manifest.WeightPair
}

// ways are all those to the canary beside the release's routes.
func (r routing) ways() []string { return slices.Concat(r.past, r.unrouted) }

// routerFound is what a command that starts a release finds of what routes the app.
type routerFound struct {
	routing
	backed bool // the destinations of both tracks have what they need
}

// routed says whether the route is there.
func (f routerFound) routed() bool { return f.live != nil }

// trafficAt is what the release in flight gives its tracks at a weight: testers reach the canary until primary has the release
// itself, and copies do until the canary has a share.
func (j *job) trafficAt(weight int) traffic {
	to := traffic{weight: weight, sticky: j.stickinessAt(weight)}
	r := j.ledger.Release
	if r == nil || r.Stage == release.StageRollingBack || r.Stage == release.StagePromoted || r.Stage == release.StagePromoting && weight == 0 {
		return to
	}
	if to.match = r.Match; weight == 0 {
		to.mirror = r.Mirror
	}
	return to
}

// route is the step that gives the canary a weight in percent and primary the rest, in every route that is the release's.
func (j *job) route(weight int) step {
	return func(ctx context.Context) error {
		router := j.router()
		return j.lasting(ctx, router.route(), func(ctx context.Context) (metav1.Object, error) {
			after, err := router.split(ctx, j.trafficAt(weight))
			if err == nil && after.live == nil && !j.planning() { // a plan may just have planned to create it
				err = fmt.Errorf("%s: somebody has deleted it, so nobody gets the traffic; create it as the manifest has it, then %s", router.route(), j.next())
			}
			return after.live, err
		})
	}
}

// routeBack is the step that takes the canary's traffic away. If somebody has deleted the route, there is none.
func (j *job) routeBack(sticky stickiness) step {
	return func(ctx context.Context) error {
		router := j.router()
		return j.lasting(ctx, router.route(), func(ctx context.Context) (metav1.Object, error) {
			after, err := router.split(ctx, traffic{sticky: sticky})
			return after.live, err
		})
	}
}

// liveShare is how much of the traffic primary has as the routes are now, in percent: all when nothing splits it.
func (j *job) liveShare(ctx context.Context) (int, error) {
	live, err := j.router().recent(ctx)
	if err != nil {
		return 100, err
	}
	share := 100
	for _, r := range live.routes {
		share = min(share, int(r.weights.Primary))
	}
	return share, nil
}
