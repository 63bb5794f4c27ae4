package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/gitops"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// A preview is the image of a pull request beside the app: a Deployment, a Service and its configuration of their own, and one
// rule that leads the requests with its header there. It has no weight and no entry in the ledger: what it is stands on its
// Deployment. Its objects and its rule are written under the app's lock, so that neither a release nor another preview loses a
// change; the lock is not held while pods are waited for, since a rollback must not wait for those.
//
// Up makes the Deployment and the Service, then the rule, once there is a ready endpoint; down takes the rule away first. Both
// go on where they were ended.

// The defaults of a preview.
const (
	DefaultPreviewHeader = "x-crossbill-preview"
	DefaultPreviewLasts  = 72 * time.Hour
	DefaultPreviewLimit  = 5
)

// What a preview's Deployment says of it.
const (
	expiresAnnotation = "crossbill.our-org.github.com/preview-expires"
	headerAnnotation  = "crossbill.our-org.github.com/preview-header"
	byAnnotation      = "crossbill.our-org.github.com/preview-by"
)

const (
	previewUp   = "preview up"
	previewDown = "preview down"
)

// PreviewSpec is a preview that is wanted.
type PreviewSpec struct {
	Name     string
	Image    string        // by digest
	Commit   string        // that the image was built from, for Admit; may be empty
	Header   string        // the requests that have it with Name as its value reach the preview
	Replicas int32         // at least 1
	Lasts    time.Duration // from now on, until Guard may end it
	Limit    int           // how many previews the app may have
	Labels   []string      // of the app's pods that the preview's have too
}

// Preview is one that there is.
type Preview struct {
	Name      string    `json:"name"`
	Image     string    `json:"image,omitempty"` // "" when its Deployment is gone
	Header    string    `json:"header,omitempty"`
	Routed    bool      `json:"routed"` // requests with the header reach it
	Replicas  int32     `json:"replicas"`
	Ready     int32     `json:"ready"`
	By        string    `json:"by,omitempty"`
	StartedAt time.Time `json:"startedAt,omitzero"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"`

	ending bool
}

// over says whether nobody wants a preview any more: its time is over, or its Deployment is gone and its rule is not.
func (p *Preview) over() bool { return p.Image == "" || now().After(p.ExpiresAt) }

// match are the requests that reach it.
func (p *PreviewSpec) match() (*release.Match, error) {
	return release.ParseMatch("preview.header", "header:"+p.Header+"="+p.Name)
}

// Previews are those of the app, by their names.
func (c *Cluster) Previews(ctx context.Context) ([]Preview, error) {
	j := &job{Cluster: c, command: "preview list"}
	if err := j.readLedger(ctx); err != nil {
		return nil, err
	}
	return j.previews(ctx)
}

func (j *job) previews(ctx context.Context) ([]Preview, error) {
	list, err := j.Kube.AppsV1().Deployments(j.Namespace).List(ctx, j.ofPreviews())
	switch {
	case lacksPermission(err):
		return nil, &forbiddenError{&usererr.Error{Field: "Deployments of " + j.Namespace, Problem: err.Error(), Fix: "let this account list, get, create, patch and delete them, as in k8s/preview/rbac.yaml; nothing was changed"}}
	case err != nil:
		return nil, fmt.Errorf("Deployments of %s: %w; nothing was changed", j.Namespace, err)
	}
	routed, err := j.router().previewed(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w; nothing was changed", err)
	}
	found := []Preview{}
	for i := range list.Items {
		p := j.previewIn(&list.Items[i])
		p.Routed = slices.Contains(routed, p.Name)
		found = append(found, p)
	}
	for _, name := range routed {
		if !slices.ContainsFunc(found, func(p Preview) bool { return p.Name == name }) {
			found = append(found, Preview{Name: name, Routed: true})
		}
	}
	slices.SortFunc(found, func(a, b Preview) int { return cmp.Compare(a.Name, b.Name) })
	return found, nil
}

// previewIn is what a preview's Deployment says.
func (j *job) previewIn(d *appsv1.Deployment) Preview {
	p := Preview{
		Name: d.Labels[manifest.PreviewLabel], Image: j.Manifests.Image(d), Header: d.Annotations[headerAnnotation], By: d.Annotations[byAnnotation],
		Replicas: replicasOf(d), Ready: d.Status.ReadyReplicas, StartedAt: d.CreationTimestamp.UTC(), ending: d.DeletionTimestamp != nil,
	}
	p.Image = cmp.Or(p.Image, "unknown")                                        // somebody has renamed its container
	p.ExpiresAt, _ = time.Parse(time.RFC3339, d.Annotations[expiresAnnotation]) // unreadable: it is over
	return p
}

// PreviewUp brings a preview up, or gives it another image and a new time. It is reached once it is ready.
func (c *Cluster) PreviewUp(ctx context.Context, want PreviewSpec) (Result, error) {
	match, err := want.match()
	if err != nil {
		return Result{}, err
	}
	if err := c.waitEnded(ctx, want.Name); err != nil {
		return Result{}, err
	}
	var made *job
	result, err := run(ctx, c, command[*job]{
		name: previewUp,
		look: func(ctx context.Context, j *job) (*job, *Result, error) {
			p, err := j.lookPreview(ctx, want, match)
			return p, nil, err
		},
		act: func(ctx context.Context, j *job, p *job) (Result, error) {
			p.epoch, p.ledger, made = j.epoch, j.ledger, p
			return j.previewResult(want.Name, "made"), p.makePreview(ctx, want)
		},
	})
	if err != nil {
		return result, err
	}
	track := manifest.PreviewTrack(want.Name)
	if err := made.waitTrack(track, want.Image)(ctx); err != nil {
		return Result{}, fmt.Errorf("%w; nothing that leads to it was changed: run `crossbill preview up` with a better image, or `crossbill preview down`", err)
	}
	return run(ctx, c, command[readyPreview]{
		name: previewUp,
		look: func(ctx context.Context, j *job) (readyPreview, *Result, error) {
			ready, err := j.lookReady(ctx, want)
			return ready, nil, err
		},
		act: func(ctx context.Context, j *job, ready readyPreview) (Result, error) {
			ready.epoch, ready.ledger = j.epoch, j.ledger
			err := inOrder(ctx,
				func(ctx context.Context) error { return j.router().lead(ctx, want.Name, match) },
				j.handBackAtRest,
				func(ctx context.Context) error { return ready.removeConfiguration(ctx, want.Name) },
			)
			result := j.previewResult(want.Name, "requests with %s reach %s", match.Text(), release.DigestOf(want.Image))
			if ready.live != nil {
				p := j.previewIn(ready.live)
				p.Routed, result.Preview = true, &p
				result.Message += ", until " + p.ExpiresAt.Format(time.RFC3339)
			}
			return result, err
		},
	})
}

// readyPreview is a preview that a rule can lead to.
type readyPreview struct {
	*job                    // with its manifests
	live *appsv1.Deployment // nil in a plan
}

// previewResult is a result, of no release.
func (j *job) previewResult(name, format string, args ...any) Result {
	result := j.result("preview "+name+": "+format, args...)
	result.Release = nil
	return result
}

// waitEnded waits until a preview that ends is gone: nothing can be made of it any more.
func (c *Cluster) waitEnded(ctx context.Context, name string) error {
	j := &job{Cluster: c, command: previewUp}
	if err := j.readLedger(ctx); err != nil {
		return err
	}
	whole := c.Manifests.PreviewName(name)
	live, err := look[*appsv1.Deployment](ctx, j, c.deployment(whole))
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	if live == nil || live.DeletionTimestamp == nil {
		return nil
	}
	j.log(c.deployment(whole).String(), "is ending; waiting until it is gone")
	return j.waitDeleted(whole, "is gone")(ctx)
}

// previewJob is this job with a preview's manifests in place of the app's.
func (j *job) previewJob(ctx context.Context, want PreviewSpec) (*job, error) {
	set := cmp.Or(j.unbound, j.Manifests)
	var key []byte
	if ownsSecrets(set) {
		var err error
		if key, err = j.key(ctx); err != nil {
			return nil, err
		}
	}
	set, err := set.Preview(want.Name, want.Labels, key)
	if err != nil {
		return nil, err
	}
	c, p := *j.Cluster, *j
	c.Manifests = set
	p.Cluster, p.known = &c, nil
	return &p, nil
}

// lookPreview refuses a preview that cannot be made.
func (j *job) lookPreview(ctx context.Context, want PreviewSpec, match *release.Match) (*job, error) {
	if err := j.previewsWritten(); err != nil {
		return nil, err
	}
	p, err := j.previewJob(ctx, want)
	if err != nil {
		return nil, err
	}
	if err := j.releasable(nil); err != nil {
		return nil, err
	}
	primary, err := j.liveTrack(ctx, release.Primary)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w; nothing was changed", err)
	case primary == nil:
		return nil, &StageError{fmt.Errorf("%s not found: a preview runs beside an app that was released; nothing was changed", j.track(release.Primary))}
	}
	for _, o := range []object{p.track(manifest.PreviewTrack(want.Name)), p.service()} {
		live, err := o.read(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; nothing was changed", o, err)
		}
		if err := j.ofPreview(ctx, o, live, want.Name); err != nil {
			return nil, err
		}
	}
	if err := j.withinLimit(ctx, want); err != nil {
		return nil, err
	}
	if err := j.router().checkPreview(ctx, want.Name, match); err != nil {
		return nil, err
	}
	return p, j.admit(ctx, &release.Release{ID: want.Name, Image: want.Image, Commit: want.Commit})
}

// previewsWritten refuses previews where the cluster is only read.
func (j *job) previewsWritten() error {
	if j.store().hasPreviews() {
		return nil
	}
	return &usererr.Error{Field: "gitops.store", Problem: "it is git, and a preview is written to the cluster", Fix: "set gitops.store to cluster, or do without previews of this app"}
}

// withinLimit refuses one preview too many.
func (j *job) withinLimit(ctx context.Context, want PreviewSpec) error {
	all, err := j.previews(ctx)
	if err != nil {
		return err
	}
	var others []string
	for _, p := range all {
		if p.Name != want.Name && p.Image != "" && !p.ending {
			others = append(others, fmt.Sprintf("%s (until %s)", p.Name, p.ExpiresAt.Format(time.RFC3339)))
		}
	}
	if len(others) < want.Limit {
		return nil
	}
	return &usererr.Error{
		Field: "preview.limit", Problem: fmt.Sprintf("%s has %d %s already: %s", j.app(), len(others), plural(len(others), "preview"), strings.Join(others, ", ")),
		Fix: "end one with `crossbill preview down`, or raise the limit; nothing was changed",
	}
}

// makePreview makes a preview's objects. This job has its manifests.
func (j *job) makePreview(ctx context.Context, want PreviewSpec) error {
	if err := j.ensurePreviewConfiguration(ctx, nil); err != nil {
		return err
	}
	track := manifest.PreviewTrack(want.Name)
	desired, err := j.Manifests.Track(track, j.Namespace, want.Image)
	if err != nil {
		return err
	}
	desired.Spec.Replicas = new(max(1, want.Replicas))
	desired.Annotations = map[string]string{
		expiresAnnotation: now().Add(want.Lasts).Format(time.RFC3339), headerAnnotation: want.Header + ": " + want.Name, byAnnotation: j.By,
	}
	_, after, err := j.applyDeployment(ctx, desired, func(live, _ *appsv1.Deployment) error {
		if live == nil {
			return nil
		}
		return j.ofPreview(ctx, j.track(track), live, want.Name)
	})
	if err != nil {
		return err
	}
	j.log(j.track(track).String(), "applied with %s", release.DigestOf(want.Image))
	if err := j.ensurePreviewConfiguration(ctx, after); err != nil {
		return err
	}
	service := j.Manifests.Service.DeepCopy()
	service.Namespace = j.Namespace
	service.OwnerReferences = ownedBy(after)
	_, _, err = change(ctx, j, j.service(), func(live *corev1.Service) (*write, error) {
		if live != nil {
			if err := j.ofPreview(ctx, j.service(), live, want.Name); err != nil {
				return nil, err
			}
		}
		return j.apply(service.DeepCopy()), nil
	})
	return err
}

// ofPreview refuses an object of a preview's name that is somebody else's, or that a newer lock has written. A ledger that was
// lost does not know of previews: its epochs may be lower.
func (j *job) ofPreview(ctx context.Context, o object, live metav1.Object, name string) error {
	if live == nil {
		return nil
	}
	if j.Manifests.IsPreview(live, name) {
		epoch, err := epochOf(live)
		if err == nil && epoch > j.epoch && j.epoch > 0 && j.overtaken(ctx) {
			return ErrLockLost
		}
		return err
	}
	return &usererr.Error{Field: "name", Problem: o.String() + " is there, and is not a preview's", Fix: "give the preview another name; nothing was changed"}
}

// ownedBy makes what a preview is reached by go with its Deployment, whoever deletes it, and whenever it was made.
func ownedBy(d *appsv1.Deployment) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: d.Name, UID: d.UID}}
}

// lookReady looks at a preview that is to be reached: it is as it was made, and it is ready.
func (j *job) lookReady(ctx context.Context, want PreviewSpec) (ready readyPreview, err error) {
	if ready.job, err = j.previewJob(ctx, want); err != nil || j.planning() {
		return ready, err
	}
	track := manifest.PreviewTrack(want.Name)
	o := ready.track(track)
	if ready.live, err = ready.liveTrack(ctx, track); err != nil {
		return ready, fmt.Errorf("%w; nothing more was changed", err)
	}
	if ready.live == nil || ready.live.DeletionTimestamp != nil {
		return ready, &StageError{fmt.Errorf("%s: somebody has ended the preview meanwhile; nothing leads to it", o)}
	}
	if image := j.Manifests.Image(ready.live); image != want.Image {
		return ready, &StageError{fmt.Errorf("%s: somebody has given the preview another image meanwhile, %s", o, image)}
	}
	serves, err := ready.serves(ctx, ready.live, track)
	if err == nil && !serves {
		err = &NotReadyError{Deployment: o.name, Reason: "it was ready, and has no ready endpoint any more"}
	}
	return ready, err
}

// handBackAtRest gives the app's objects back to whoever owns them, unless a release in flight has them.
func (j *job) handBackAtRest(ctx context.Context) error {
	if j.ledger.Release != nil {
		return nil
	}
	return j.handBack(ctx)
}

// PreviewDown ends a preview: first the rule that leads to it, then the rest. It needs no manifests but their names.
func (c *Cluster) PreviewDown(ctx context.Context, name string) (Result, error) {
	return c.endPreview(ctx, name, false)
}

// EndPreviews ends the previews of the app that nobody wants any more, and gives their names. While a living job works on the
// app it leaves them to the next time. Where the account may not list Deployments, there are none.
func (c *Cluster) EndPreviews(ctx context.Context) (ended []string, err error) {
	if !c.store().hasPreviews() {
		return nil, nil
	}
	all, err := c.Previews(ctx)
	if errors.As(err, new(*forbiddenError)) {
		return nil, nil
	}
	all = slices.DeleteFunc(all, func(p Preview) bool { return !p.over() || p.ending && !p.Routed })
	if len(all) == 0 || err != nil {
		return nil, err
	}
	if _, alive, err := c.liveLock(ctx); alive || err != nil {
		return nil, err
	}
	for i := range all {
		if _, failed := c.endPreview(ctx, all[i].Name, true); failed != nil {
			err = errors.Join(err, fmt.Errorf("preview %s: %w", all[i].Name, failed))
			continue
		}
		ended = append(ended, all[i].Name)
	}
	return ended, err
}

// endPreview ends a preview; over: only if nobody has given it a new time.
func (c *Cluster) endPreview(ctx context.Context, name string, over bool) (Result, error) {
	if err := c.Manifests.CheckPreviewName("name", name); err != nil {
		return Result{}, err
	}
	goes := false
	result, err := run(ctx, c, command[struct{}]{
		name: previewDown,
		look: func(ctx context.Context, j *job) (_ struct{}, nothing *Result, err error) {
			goes, nothing, err = j.lookDown(ctx, name, over)
			return struct{}{}, nothing, err
		},
		act: func(ctx context.Context, j *job, _ struct{}) (Result, error) {
			err := inOrder(ctx, func(ctx context.Context) error { return j.router().unlead(ctx, name) }, j.handBackAtRest)
			return j.previewResult(name, "nothing leads to it"), err
		},
	})
	if err != nil || !goes {
		return result, err
	}
	if err := (&job{Cluster: c, command: previewDown}).drainPreview(ctx, name); err != nil {
		return Result{}, err
	}
	return run(ctx, c, command[struct{}]{
		name: previewDown,
		look: func(ctx context.Context, j *job) (_ struct{}, nothing *Result, err error) {
			if over { // somebody may have given it a new time while it was drained
				if goes, nothing, err = j.lookDown(ctx, name, over); goes {
					nothing = nil
				}
			}
			return struct{}{}, nothing, err
		},
		act: func(ctx context.Context, j *job, _ struct{}) (Result, error) {
			return j.previewResult(name, "it is gone"), j.removePreview(ctx, name)
		},
	})
}

// drainPreview waits until a preview that nothing leads to gets no more requests, but no longer than for any canary that is
// rolled back.
func (j *job) drainPreview(ctx context.Context, name string) error {
	whole := j.Manifests.PreviewName(name)
	if j.Drained != nil && !j.planning() {
		bounded, cancel := context.WithTimeout(ctx, drainFor)
		defer cancel()
		err := j.Drained(bounded, whole)
		if err == nil {
			j.log(j.deployment(whole).String(), "gets no more requests: its counters stand still")
		}
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		j.log(j.deployment(whole).String(), "it cannot be seen whether it still gets requests: %v", err)
	}
	return j.settle(j.router().route(), "that nothing leads to the preview")(ctx)
}

// lookDown says whether there is something of a preview that goes, and gives a result when nothing leads to it.
func (j *job) lookDown(ctx context.Context, name string, over bool) (goes bool, unled *Result, err error) {
	if err := j.previewsWritten(); err != nil {
		return false, nil, err
	}
	routed, err := j.router().previewed(ctx)
	if err != nil {
		return false, nil, fmt.Errorf("%w; nothing was changed", err)
	}
	led, o := slices.Contains(routed, name), j.deployment(j.Manifests.PreviewName(name))
	live, err := look[*appsv1.Deployment](ctx, j, o)
	if err != nil {
		return false, nil, fmt.Errorf("%w; nothing was changed", err)
	}
	there := live != nil && j.Manifests.IsPreview(live, name)
	switch {
	case there && over && !new(j.previewIn(live)).over():
		unled = new(j.previewResult(name, "somebody has given it a new time: nothing to do"))
		return false, unled, nil
	case !there && !led:
		unled = new(j.previewResult(name, "there is none: nothing to do"))
	case !led:
		unled = new(j.previewResult(name, "nothing leads to it"))
	}
	return there || led, unled, nil
}

// removePreview deletes a preview's Deployment, which nothing leads to, after its pods. The rest is owned by it, and goes with it.
func (j *job) removePreview(ctx context.Context, name string) error {
	routed, err := j.router().previewed(ctx)
	if err != nil {
		return err
	}
	if slices.Contains(routed, name) && !j.planning() {
		return &StageError{fmt.Errorf("preview %s: somebody has brought it up again meanwhile; run the command again if it is to go", name)}
	}
	return j.deleteOfPreview(ctx, j.deployment(j.Manifests.PreviewName(name)), name, metav1.DeletePropagationForeground)
}

// deleteOfPreview deletes an object if it is a preview's.
func (j *job) deleteOfPreview(ctx context.Context, o object, name string, policy metav1.DeletionPropagation) error {
	before, after, err := change(ctx, j, o, func(live metav1.Object) (*write, error) {
		if live == nil || live.GetDeletionTimestamp() != nil || !j.Manifests.IsPreview(live, name) {
			return nil, nil
		}
		return j.remove(policy), j.ofPreview(ctx, o, live, name)
	})
	if err == nil && before != nil && after == nil {
		j.log(o.String(), "deleting")
	}
	return err
}

// ensurePreviewConfiguration makes the copies that a preview's pods read, whose names are those of their content, and has them
// go with the preview's Deployment, once that is known.
func (j *job) ensurePreviewConfiguration(ctx context.Context, owner *appsv1.Deployment) error {
	for _, c := range j.Manifests.Copies.ConfigMaps {
		if err := j.ensurePreviewCopy(ctx, j.configMap(c.Name), c.DeepCopy(), owner); err != nil {
			return err
		}
	}
	for _, c := range j.Manifests.Copies.Secrets {
		if err := j.ensurePreviewCopy(ctx, j.secret(c.Name), c.DeepCopy(), owner); err != nil {
			return err
		}
	}
	return nil
}

func (j *job) ensurePreviewCopy(ctx context.Context, o object, desired metav1.Object, owner *appsv1.Deployment) error {
	desired.SetNamespace(o.namespace)
	_, _, err := change(ctx, j, o, func(live metav1.Object) (*write, error) {
		switch {
		case live == nil:
			return j.create(desired, false), nil
		case !sameContent(live, desired):
			return nil, &usererr.Error{Field: o.String(), Problem: "it does not have the content that its name says: somebody else has made it, or changed it", Fix: "delete it and run the command again"}
		case owner == nil || len(live.GetOwnerReferences()) > 0:
			return nil, nil
		}
		return &write{patch: []patchOp{{"add", "/metadata/ownerReferences", ownedBy(owner)}}}, nil
	})
	return err
}

// removeConfiguration deletes the copies of a preview that its pods do not read any more: those that this job's manifests do not
// have.
func (j *job) removeConfiguration(ctx context.Context, name string) error {
	only := labeled(manifest.PreviewLabel + "=" + name + "," + manifest.PreviewOfLabel + "=" + manifest.CopyLabelValue(j.app()))
	old, copies := map[string]object{}, j.Manifests.Copies
	if len(copies.ConfigMaps) > 0 {
		list, err := j.Kube.CoreV1().ConfigMaps(j.Namespace).List(ctx, only)
		if err != nil {
			return fmt.Errorf("ConfigMaps of %s: %w; %s", j.Namespace, err, j.next())
		}
		for i := range list.Items {
			old["ConfigMap "+list.Items[i].Name] = j.configMap(list.Items[i].Name)
		}
	}
	if len(copies.Secrets) > 0 {
		list, err := j.Kube.CoreV1().Secrets(j.Namespace).List(ctx, only)
		if err != nil {
			return fmt.Errorf("Secrets of %s: %w; %s", j.Namespace, err, j.next())
		}
		for i := range list.Items {
			old["Secret "+list.Items[i].Name] = j.secret(list.Items[i].Name)
		}
	}
	for _, c := range copies.ConfigMaps {
		delete(old, "ConfigMap "+c.Name)
	}
	for _, c := range copies.Secrets {
		delete(old, "Secret "+c.Name)
	}
	for _, of := range slices.Sorted(maps.Keys(old)) {
		if err := j.deleteOfPreview(ctx, old[of], name, metav1.DeletePropagationBackground); err != nil {
			return err
		}
	}
	return nil
}

// ofPreviews selects the objects of all previews of the app.
func (j *job) ofPreviews() metav1.ListOptions {
	return labeled(manifest.PreviewOfLabel + "=" + manifest.CopyLabelValue(j.app()))
}

// controlledRoute refuses a route that a controller applies, where previews are rules in it: it would take them out.
func (j *job) controlledRoute(o object, live metav1.Object) error {
	owner, owned := gitops.OwnerOf(live)
	if !owned && j.GitOps == nil {
		return nil
	}
	by := fmt.Sprint(owner)
	if !owned {
		by = j.GitOps.Controller.String()
	}
	return &usererr.Error{
		Field: o.String(), Problem: fmt.Sprintf("%s applies it from Git, and would take the rule of a preview out of it", by),
		Fix: "lead to the app by an HTTPRoute (docs/guides/gateway-api.md), beside which a preview has a route of its own; nothing was changed",
	}
}
