package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// While Git or its controller is down, no commit moves traffic. RouteNow moves it in the cluster, and has the controller leave
// the route alone. The rollback that follows goes by what Git says of the route, not by what is live, so that its commits put
// Git right; when it ends, the controller gets the route back.

// RouteNow sends all of the traffic to primary in the cluster, without the ledger or a commit, where releases are commits. It is
// for a canary that has a share: once promotion has put the release on primary, what ran before is in Git alone.
func (c *Cluster) RouteNow(ctx context.Context) error {
	if c.Git == nil {
		return &usererr.Error{Field: "--now", Problem: "it is for releases whose steps are commits (gitops.store: git)", Fix: "leave it out: rollback moves the traffic first"}
	}
	direct := *c
	direct.Git = nil
	j := &job{Cluster: &direct, command: "rollback", ledger: &release.Ledger{App: c.app()}, state: &corev1.ConfigMap{}}
	route, err := j.router().read(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(route.routes, func(r routeStatus) bool { return r.weights != manifest.WeightPair{Primary: 100} }) {
		return nil
	}
	if err := j.oldPrimary(ctx); err != nil {
		return err
	}
	if j.epoch, err = epochOf(route.live); err != nil {
		return err
	}
	if err := j.holdRoute(ctx, c.Git.Controller.Hold); err != nil {
		return err
	}
	_, err = j.router().split(ctx, traffic{})
	return err
}

// oldPrimary refuses a primary that runs what the canary runs, or that serves nobody.
func (j *job) oldPrimary(ctx context.Context) error {
	primary, err := j.liveTrack(ctx, release.Primary)
	if err != nil {
		return err
	}
	canary, err := j.liveTrack(ctx, release.Canary)
	if err != nil {
		return err
	}
	if primary != nil && canary != nil && !j.unlike(primary, canary) {
		return &StageError{fmt.Errorf("%s runs what the canary runs: what it ran before is in Git alone, and rollback without --now puts it back", j.track(release.Primary))}
	}
	has, err := j.readyEndpoints(ctx, primary, release.Primary)
	if err != nil {
		return err
	}
	if has == 0 {
		return &NotReadyError{Deployment: j.deploymentName(release.Primary), Reason: "it has no ready endpoint, so the traffic stays where it is", Details: j.explain(ctx, release.Primary)}
	}
	return nil
}

// holdRoute has the controller leave the route alone, where it takes an annotation for that.
func (j *job) holdRoute(ctx context.Context, hold func() (key, value string)) error {
	key, value := hold()
	if key == "" {
		return nil
	}
	_, _, err := change(ctx, j, j.router().route(), func(live metav1.Object) (*write, error) {
		if live == nil || live.GetAnnotations()[heldAnnotation] != "" {
			return nil, nil
		}
		var ops []patchOp
		if live.GetAnnotations() == nil {
			ops = append(ops, patchOp{"add", "/metadata/annotations", map[string]string{}})
		}
		return &write{patch: append(ops, patchOp{"add", annotationPath(key), value}, patchOp{"add", annotationPath(heldAnnotation), key + "=" + value})}, nil
	})
	return err
}

// heldRoute says whether RouteNow keeps an object from its controller.
func heldRoute(live metav1.Object) bool {
	return live != nil && live.GetAnnotations()[heldAnnotation] != ""
}

// readRoute reads the route as Git has it while RouteNow keeps it from its controller: that is what commits have to change.
func (c *Cluster) readRoute(o object) object {
	if c.Git == nil {
		return o
	}
	read := o.read
	o.read = func(ctx context.Context) (metav1.Object, error) {
		live, err := read(ctx)
		if err != nil || !heldRoute(live) {
			return live, err
		}
		return gitStore{c}.asInGit(ctx, o, live)
	}
	return o
}

// asInGit is a live object with what the head of the branch says of it.
func (s gitStore) asInGit(ctx context.Context, o object, live metav1.Object) (metav1.Object, error) {
	objects, err := s.atHead(ctx)
	if err != nil {
		return nil, err
	}
	e := gitEdit{gitStore: s, object: o, live: live}
	in, err := e.in(objects)
	if in == nil || err != nil {
		return live, err
	}
	all, err := plain(live)
	if err != nil {
		return nil, err
	}
	said, err := contentOf(in)
	if err != nil {
		return nil, err
	}
	all["spec"] = said["spec"]
	text, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	viewed := e.empty()
	return viewed, json.Unmarshal(text, viewed)
}

// letIn gives the route back to its controller, which has what it is to apply in Git by now.
func (s gitStore) letIn(ctx context.Context, j *job) error {
	if s.planning() {
		return nil
	}
	direct := *s.Cluster
	direct.Git = nil
	to := &job{Cluster: &direct, command: j.command, ledger: j.ledger, state: j.state, epoch: j.epoch}
	o := to.router().route()
	live, err := look[metav1.Object](ctx, to, o)
	if err != nil || !heldRoute(live) {
		return err
	}
	if err := to.giveBack(ctx, o); err != nil {
		return err
	}
	s.log(o.String(), "%s applies it again", s.Git.Controller)
	return s.request(ctx, j)
}
