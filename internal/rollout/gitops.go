package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/gitops"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Beside a GitOps controller a release writes the cluster as always, and the controller leaves alone what is in flight: Flux
// by an annotation that the release sets on the objects that Flux applies, Argo CD by what its Application says. Promotion
// commits the image before the release ends, and a rollback takes a commit back. The controller is let in again when it has
// read what Git says then, so that nothing rolls out twice, and nothing old comes back.

// GitOps is the controller that applies the app's manifests, and the repository that it applies.
type GitOps struct {
	Controller gitops.Controller
	// Objects are those that the head of the branch has for the app.
	Objects func(context.Context) ([]manifest.Object, error)
	// Image is what the head of the branch has primary run, and that commit.
	Image func(context.Context) (image, commit string, err error)
	// Commit makes a commit, and gives the head of the branch after it; Try says whether it could, and changes nothing.
	Commit func(context.Context, GitCommit) (head string, err error)
	Try    func(context.Context, GitCommit) error
}

// GitCommit is one that has primary run another image in place of one. Nothing is committed when it runs that already, but
// where Always says so. An image that is neither is somebody else's: an error.
//
// A push is fenced as every write is, although no resourceVersion spans two systems: after the head was read, which the
// push names as its parent, Holds asks whether this job still has the lock. A rollback that takes the lock of a promotion
// whose push may be on its way moves the branch, with a commit that changes nothing if need be. So that push either came
// before, and is taken back, or its parent is no longer the head, and Holds is asked again.
type GitCommit struct {
	Release  *release.Release
	From, To string
	Always   bool
	// Template is the pod template that it is to have too, whatever the app's image in it, nil to leave it as it is; and Was the
	// one that it has, nil for any.
	Template, Was *corev1.PodTemplateSpec
	Holds         func(context.Context) error
}

// heldAnnotation is on objects whose controller a release has made leave them alone, beside the controller's own annotation.
const heldAnnotation = "crossbill.our-org.github.com/held"

// controllable are the objects that a release writes and a controller may apply.
func (j *job) controllable() []object {
	return append([]object{j.track(release.Primary), j.service()}, j.ownedByOthers()...)
}

// gitOpsObjects are those that exist, as they are live.
func (j *job) gitOpsObjects(ctx context.Context) (objects []object, live []metav1.Object, err error) {
	for _, o := range j.controllable() {
		found, err := recent[metav1.Object](ctx, j, o)
		if err != nil {
			return nil, nil, err
		}
		if found != nil {
			objects, live = append(objects, o), append(live, found)
		}
	}
	return objects, live, nil
}

// controlled is the same as a controller is asked about them.
func (j *job) controlled(ctx context.Context) ([]gitops.Object, error) {
	objects, live, err := j.gitOpsObjects(ctx)
	var all []gitops.Object
	for i, o := range objects {
		one := gitops.Object{Group: groups[o.kind], Kind: o.kind, Object: live[i]}
		if o.kind == "Deployment" {
			one.Paths = gitops.ImagePaths(live[i], j.Manifests.ContainerName())
		}
		all = append(all, one)
	}
	return all, err
}

// groups are the API groups of the kinds that a release writes.
var groups = map[string]string{
	"Deployment": "apps", "Service": "", "VirtualService": "networking.istio.io", "DestinationRule": "networking.istio.io",
	"HTTPRoute": "gateway.networking.k8s.io", "GRPCRoute": "gateway.networking.k8s.io",
}

// besideController is the API server as a store, beside a controller that applies the same objects from Git.
type besideController struct{ apiServer }

// lookRelease refuses a release that a controller would undo, or that would end with another image or other manifests than Git
// has.
func (s besideController) lookRelease(ctx context.Context, j *job, found *canaryFound) error {
	git := s.GitOps
	found.want.Git = &release.Git{Controller: git.Controller.String()}
	if err := j.lookController(ctx, git.Controller, found.primary); err != nil {
		return err
	}
	image, commit, err := git.Image(ctx)
	if err != nil {
		return err
	}
	if !gitops.SameImage(image, found.want.Previous) {
		return &usererr.Error{
			Field:   "gitops.repository",
			Problem: fmt.Sprintf("commit %s has primary run %s, and it runs %s", short(commit), image, found.want.Previous),
			Fix:     "wait until " + git.Controller.String() + " has applied that commit, or write there what primary runs, exactly so; nothing was changed",
		}
	}
	in, err := git.Objects(ctx)
	if err != nil {
		return err
	}
	return j.lookInGit(ctx, in, &found.want)
}

// lookController refuses a release of what a controller does not apply as it has to.
func (j *job) lookController(ctx context.Context, controller gitops.Controller, primary *appsv1.Deployment) error {
	if primary == nil {
		return &usererr.Error{Field: j.track(release.Primary).String(), Problem: "not found: it is " + controller.String() + " that makes it, from Git", Fix: "commit the first version to the repository; releases follow it"}
	}
	objects, err := j.controlled(ctx)
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	remarks, err := controller.Check(ctx, objects)
	for _, remark := range remarks {
		j.say(controller.String(), "%s", remark)
	}
	return err
}

// lookInGit compares the manifests with what Git has. A pod template that is another one there, promotion writes with the image;
// what it cannot write is refused: the controller would put the old one back once the release has ended.
func (j *job) lookInGit(ctx context.Context, in []manifest.Object, want *release.Release) error {
	if err := j.lookServiceInGit(in); err != nil {
		return err
	}
	before, after, err := j.gitAndOwn(in, want.Image)
	if err != nil {
		return err
	}
	different, err := differences(before, after)
	if err != nil {
		return err
	}
	commit := GitCommit{Release: want, From: want.Previous, To: want.Image}
	if different.Empty() {
		return j.GitOps.Try(ctx, commit)
	}
	if key, _ := j.GitOps.Controller.Hold(); key == "" {
		return &usererr.Error{
			Field:   "manifests",
			Problem: fmt.Sprintf("they differ from Git in more than the image, and %s would put that back on primary as soon as promotion writes it: %s", j.GitOps.Controller, strings.Join(topmost(different), ", ")),
			Fix:     "commit the pod template to the repository first, then release the image; nothing was changed",
		}
	}
	commit.Template = &after.Spec.Template
	if err := j.GitOps.Try(ctx, commit); err != nil {
		return err
	}
	text, err := templateText(before)
	if err != nil {
		return err
	}
	want.Git.Template = text
	j.say("Git", "promotion commits with the image what the manifests have differently: %s", strings.Join(topmost(different), ", "))
	return nil
}

func (j *job) lookServiceInGit(in []manifest.Object) error {
	var service corev1.Service
	if ok, err := manifest.Find(in, "Service", j.Manifests.Service.Name, &service); !ok || err != nil || apiequality.Semantic.DeepEqual(service.Spec, j.Manifests.Service.Spec) {
		return err
	}
	return &usererr.Error{
		Field:   j.service().String(),
		Problem: "Git has it differently, and would put that back after the release",
		Fix:     "commit the Service to the repository first; nothing was changed",
	}
}

// gitAndOwn is primary's Deployment by what Git has and by the manifests, with an image.
func (j *job) gitAndOwn(in []manifest.Object, image string) (git, own *appsv1.Deployment, err error) {
	var found appsv1.Deployment
	if ok, err := manifest.Find(in, "Deployment", j.deploymentName(release.Primary), &found); err != nil {
		return nil, nil, err
	} else if !ok {
		return nil, nil, &usererr.Error{Field: "gitops.path", Problem: "it has no " + j.track(release.Primary).String(), Fix: "name the folder of the repository with the app's manifests"}
	}
	theirs := *j.Manifests
	theirs.Deployment = &found
	if git, err = theirs.Track(release.Primary, j.Namespace, image); err == nil {
		own, err = j.Manifests.Track(release.Primary, j.Namespace, image)
	}
	return git, own, err
}

// lookUncontrolled refuses objects that a controller applies of which nothing is configured.
func (j *job) lookUncontrolled() error {
	for _, o := range j.controllable() {
		live := j.recall(o) // what canary has read; what it has not, it does not change either
		if live == nil {
			continue
		}
		if owner, ok := gitops.OwnerOf(live); ok {
			return &usererr.Error{
				Field:   o.String(),
				Problem: fmt.Sprintf("%s applies it from Git, and would undo the release", owner),
				Fix:     "write the section gitops of crossbill.yaml (docs/guides/gitops.md); nothing was changed",
			}
		}
	}
	return nil
}

// keepOff is the step that makes the controller leave alone what the release writes, and waits for an apply that it has
// started before.
func (j *job) keepOff(ctx context.Context) error {
	changed, err := j.hold(ctx)
	if !changed || err != nil || j.planning() {
		return err
	}
	return j.haveApplied(ctx)
}

// haveApplied has the controller apply what it has read, and waits until it has tried. What it reports is said.
func (j *job) haveApplied(ctx context.Context) error {
	objects, err := j.controlled(ctx)
	if err != nil {
		return err
	}
	if err := j.GitOps.Controller.Apply(ctx, objects); err != nil {
		if ctx.Err() != nil {
			return err
		}
		j.log(j.GitOps.Controller.String(), "%v", err)
	}
	return nil
}

// hold annotates what the release writes, where its controller takes an annotation for that. What carries it already stays as
// somebody has set it.
func (j *job) hold(ctx context.Context) (changed bool, err error) {
	if j.GitOps == nil {
		return false, nil
	}
	key, value := j.GitOps.Controller.Hold()
	if key == "" {
		return false, nil
	}
	objects, _, err := j.gitOpsObjects(ctx)
	if err != nil {
		return false, err
	}
	for _, o := range objects {
		before, after, err := change(ctx, j, o, func(live metav1.Object) (*write, error) {
			if live == nil || live.GetAnnotations()[key] == value {
				return nil, nil
			}
			if _, ok := gitops.OwnerOf(live); !ok {
				return nil, nil
			}
			return j.patch(patchOp{"add", annotationPath(key), value}, patchOp{"add", annotationPath(heldAnnotation), key + "=" + value}), nil
		})
		if err != nil {
			return changed, err
		}
		if before != after {
			changed = true
			j.log(o.String(), "%s leaves it alone until the release has ended", j.GitOps.Controller)
		}
	}
	return changed, nil
}

// keepOffIfPossible is hold on the way back: a cleanup that died may have let the controller in, with what the rollback takes
// back. What fails holds no rollback up.
func (j *job) keepOffIfPossible(ctx context.Context) error {
	_, err := j.hold(ctx)
	if err == nil || errors.Is(err, ErrLockLost) || ctx.Err() != nil {
		return err
	}
	j.log(j.GitOps.Controller.String(), "%v; rolling back nevertheless", err)
	return nil
}

func annotationPath(key string) string {
	return "/metadata/annotations/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

// commitRelease is the step of a promotion that has Git say what primary runs.
func (j *job) commitRelease(ctx context.Context) error {
	r := j.ledger.Release
	return j.commitImage(ctx, r.Previous, r.Image)
}

// commitImage has Git make primary run an image in place of another one, with the pod template that goes with it.
func (j *job) commitImage(ctx context.Context, from, to string) error {
	r := j.ledger.Release
	if j.GitOps == nil || from == to && (r.Git == nil || r.Git.Template == "") {
		return nil
	}
	if j.planning() {
		if in, _, err := j.GitOps.Image(ctx); err == nil && gitops.SameImage(in, to) && (r.Git == nil || r.Git.Template == "") {
			return nil
		}
		j.say("Git", "a commit makes primary run %s in place of %s", to, release.Shortly(from))
		return nil
	}
	if r.Git == nil { // the section is newer than the release
		r.Git = &release.Git{Controller: j.GitOps.Controller.String()}
	}
	c := GitCommit{Release: r, From: from, To: to, Always: r.Git.PushOpen && r.Stage == release.StageRollingBack, Holds: j.holds}
	err := j.gitTemplates(&c)
	if err == nil {
		r.Git.Commit, err = j.GitOps.Commit(ctx, c)
	}
	if errors.Is(err, ErrLockLost) {
		return err
	}
	if err != nil {
		says := fmt.Errorf("the commit of %s: %w; the traffic is where it belongs, and %s; %s", release.Shortly(to), err, j.stillOff(), j.next())
		if errors.As(err, new(*usererr.Error)) {
			return &commitRefusedError{says.Error()}
		}
		return says
	}
	r.Git.PushOpen = false
	j.log("Git", "commit %s has primary run %s", short(r.Git.Commit), release.Shortly(to))
	return nil
}

// commitRefusedError says that Git refuses the commit of what the cluster has already. It is no *usererr.Error, of which nothing
// was changed.
type commitRefusedError struct{ says string }

func (e *commitRefusedError) Error() string { return e.says }

// gitTemplates are the pod templates of a commit of a release: none when Git had the release's own before it.
func (j *job) gitTemplates(c *GitCommit) error {
	r := c.Release
	if r.Git.Template == "" {
		return nil
	}
	before := &corev1.PodTemplateSpec{}
	if err := json.Unmarshal([]byte(r.Git.Template), before); err != nil {
		return fmt.Errorf("%s: a pod template is not readable: %w", j.ledgerName(), err)
	}
	back := r.Stage == release.StageRollingBack
	if j.Manifests.NamesOnly { // then what the release has is not known
		c.Template = before
		return nil
	}
	d, err := j.Manifests.Track(release.Primary, j.Namespace, r.Image)
	if err != nil {
		return err
	}
	if c.Was, c.Template = before, &d.Spec.Template; back {
		c.Was, c.Template = c.Template, c.Was
	}
	return nil
}

func (j *job) stillOff() string {
	return j.GitOps.Controller.String() + " leaves the release's objects alone"
}

func short(commit string) string { return commit[:min(len(commit), 10)] }

// letIn is the step with which a release ends.
func (j *job) letIn(ctx context.Context) error { return j.store().letIn(ctx, j) }

// letIn sees to it that Git has what primary runs, and that the controller has read that.
func (s besideController) letIn(ctx context.Context, j *job) error {
	switch r := j.ledger.Release; {
	case s.planning() && r != nil && r.Stage == release.StageRollingBack && r.Reached(release.StagePromoting):
		return j.commitImage(ctx, r.Image, r.Previous)
	case s.planning():
		return nil
	}
	primary, err := j.liveTrack(ctx, release.Primary)
	if err != nil {
		return err
	}
	image := ""
	if primary != nil {
		image = j.Manifests.Image(primary)
	}
	if err := j.takeBack(ctx, image); err != nil {
		return err
	}
	objects, live, err := j.gitOpsObjects(ctx)
	if err != nil {
		return err
	}
	key, _ := j.GitOps.Controller.Hold()
	if key != "" && !slices.ContainsFunc(live, j.heldBack) {
		return nil
	}
	if err := j.waitFetched(ctx, image); errors.As(err, new(*StageError)) {
		return err
	} else if err != nil {
		return fmt.Errorf("%w; %s until then: %s", err, j.stillOff(), j.next())
	}
	for i, o := range objects {
		if !j.heldBack(live[i]) {
			continue
		}
		if err := j.giveBack(ctx, o); err != nil {
			return err
		}
	}
	j.log(j.GitOps.Controller.String(), "applies the app's objects again")
	return j.lookApplied(ctx, primary)
}

// takeBack takes the commit of a promotion back that is rolled back, and leaves an image of somebody else's: Git decides.
func (j *job) takeBack(ctx context.Context, image string) error {
	r := j.ledger.Release
	if r == nil || image == "" || r.Stage != release.StageRollingBack || !r.Reached(release.StagePromoting) {
		return nil
	}
	in, _, err := j.GitOps.Image(ctx)
	if err == nil && !gitops.SameImage(in, r.Image) && !gitops.SameImage(in, image) {
		return nil // it is said when the controller has read it
	}
	return j.commitImage(ctx, r.Image, image)
}

// sameGitOps refuses to go on with a release beside a controller by a command that does not know of it. What ends a release for
// its callers' sake goes back first.
func (j *job) sameGitOps(command string) error {
	if slices.Contains([]string{"canary", "shift", "promote", "cleanup"}, command) && j.GitOps == nil {
		return j.lookLeft()
	}
	return nil
}

// lookLeft refuses to end a release that has kept a controller off, by a command that does not know of it.
func (j *job) lookLeft() error {
	r := j.ledger.Release
	if r == nil || r.Git == nil {
		return nil
	}
	return &usererr.Error{
		Field:   "gitops.controller",
		Problem: fmt.Sprintf("is missing, and release %s was started beside %s", r.ID, r.Git.Controller),
		Fix:     "run the same command with the section gitops that canary was run with",
	}
}

// heldBack says whether the release keeps something of an object from its controller: that leaves it alone, or does not own
// all of its fields.
func (j *job) heldBack(live metav1.Object) bool {
	if live.GetAnnotations()[heldAnnotation] != "" {
		return true
	}
	_, ok := gitops.OwnerOf(live)
	return ok && slices.ContainsFunc(live.GetManagedFields(), ours)
}

// heldByNone says whether primary is kept from its controller by a release that no ledger has: it was lost.
func (j *job) heldByNone(ctx context.Context) (bool, error) {
	if j.GitOps == nil {
		return false, nil
	}
	primary, err := recent[*appsv1.Deployment](ctx, j, j.track(release.Primary))
	return primary != nil && primary.Annotations[heldAnnotation] != "", err
}

// giveBack takes the annotations of a release from an object, and gives its fields back.
func (j *job) giveBack(ctx context.Context, o object) error {
	_, _, err := change(ctx, j, o, func(live metav1.Object) (*write, error) {
		if live == nil || !j.heldBack(live) {
			return nil, nil
		}
		var ops []patchOp
		if key, _, _ := strings.Cut(live.GetAnnotations()[heldAnnotation], "="); key != "" {
			if _, there := live.GetAnnotations()[key]; there {
				ops = append(ops, patchOp{Op: "remove", Path: annotationPath(key)})
			}
			ops = append(ops, patchOp{Op: "remove", Path: annotationPath(heldAnnotation)})
		}
		given, err := othersFields(live, func(e metav1.ManagedFieldsEntry) bool { return ours(e) || e.Manager == sizeManager })
		return &write{patch: append(ops, given)}, err
	})
	return err
}

// fetchAgain is how long after a controller has read the repository it is asked once more, when somebody has committed since.
const fetchAgain = 2 * time.Second

// waitFetched waits until the controller has read the head of the branch, and that is what is to run. An image of somebody
// else's is Git's word, and is said.
func (j *job) waitFetched(ctx context.Context, image string) error {
	objects, err := j.controlled(ctx)
	if err != nil {
		return err
	}
	controller, until := j.GitOps.Controller, time.Now().Add(j.timeout())
	for {
		fetched, err := controller.Fetch(ctx, objects)
		if err != nil {
			return err
		}
		in, head, err := j.GitOps.Image(ctx)
		switch {
		case err != nil:
			return err
		case fetched == "":
			j.log(controller.String(), "nothing of it applies the app any more")
			return nil
		case fetched == head:
			return j.agreed(ctx, in, head, image)
		case time.Now().After(until):
			return fmt.Errorf("%s has read commit %s, and the branch is at %s", controller, short(fetched), short(head))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(fetchAgain):
		}
	}
}

// agreed compares what a commit has primary run with what it runs.
func (j *job) agreed(ctx context.Context, in, commit, image string) error {
	r := j.ledger.Release
	promoted := r != nil && r.Stage == release.StagePromoted
	if gitops.SameImage(in, image) {
		if promoted && r.Git != nil && r.Git.Template != "" {
			return j.templateAgreed(ctx, commit)
		}
		return nil
	}
	if promoted && gitops.SameImage(in, r.Previous) {
		what := "somebody has taken its commit back"
		if r.Git == nil || r.Git.Commit == "" {
			what = "it was promoted without a commit"
		}
		return &StageError{fmt.Errorf("commit %s has primary run %s, and not %s, which release %s promoted: %s; rollback ends the release, or commit that image and run cleanup", short(commit), release.Shortly(r.Previous), r.Digest(), r.ID, what)}
	}
	j.log("Git", "commit %s has primary run %s, which no release of the ledger has put there: %s rolls it out, without a canary", short(commit), in, j.GitOps.Controller)
	return nil
}

// templateAgreed compares the pod template that a commit has with the one that was promoted.
func (j *job) templateAgreed(ctx context.Context, commit string) error {
	if j.Manifests.NamesOnly {
		return nil
	}
	in, err := j.GitOps.Objects(ctx)
	if err != nil {
		return err
	}
	r := j.ledger.Release
	before, after, err := j.gitAndOwn(in, r.Image)
	if err != nil {
		return err
	}
	different, err := differences(before, after)
	if err != nil || different.Empty() {
		return err
	}
	return &StageError{fmt.Errorf("commit %s does not have the pod template that release %s promoted: %s; rollback ends the release, or commit that and run cleanup", short(commit), r.ID, strings.Join(topmost(different), ", "))}
}

// lookApplied has the controller apply what it has read, and looks at what became of primary.
func (j *job) lookApplied(ctx context.Context, before *appsv1.Deployment) error {
	if err := j.haveApplied(ctx); err != nil {
		return err
	}
	after, err := j.liveTrack(ctx, release.Primary)
	if err != nil || after == nil || before == nil {
		return err
	}
	different, err := differences(before, after)
	if err == nil && !different.Empty() {
		j.log(j.track(release.Primary).String(), "%s has changed its pod template: %s", j.GitOps.Controller, strings.Join(topmost(different), ", "))
	}
	return err
}

// letInAgain says which object of a release somebody has let its controller into again.
func letInAgain(live metav1.Object) []string {
	key, value, held := strings.Cut(live.GetAnnotations()[heldAnnotation], "=")
	if !held || live.GetAnnotations()[key] == value {
		return nil
	}
	return []string{fmt.Sprintf("the annotation %s: %s is gone from %s, so that its controller undoes the release; rollback ends the release, or put it back as it was", key, value, live.GetName())}
}

// returnableInGit refuses a return to another pod template than the one that Git has, which the controller would put back.
func (j *job) returnableInGit(target *release.Finished) error {
	serves := j.ledger.Serves()
	if j.GitOps == nil || serves == nil || serves.Template == target.Template {
		return nil
	}
	return j.unreturnable(target, "its pod template is not the one that Git has, which "+j.GitOps.Controller.String()+" would put back")
}

// lookMigrateGitOps refuses to replace objects that a controller applies from Git.
func (j *job) lookMigrateGitOps() error {
	if j.Applies() != nil {
		return &usererr.Error{Field: "gitops.controller", Problem: "migrate replaces objects that a controller applies from Git", Fix: "suspend it for the app, run migrate without the section gitops, commit the new manifests, and resume it"}
	}
	return j.lookUncontrolled()
}
