package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/gitops"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Every step of a release is a commit, which a GitOps controller applies; the cluster is only read. The ledger is a file of
// the same branch. A push is a compare-and-swap of the whole branch, and each one looks at the ledger of the head that it
// names as its parent, and at the epoch of the last step: that is the fence, so that the objects need no stamp. The canary has one
// all the same, by which one of no release is known. A step is done when the cluster shows it.

// GitStore is where an app's releases are written in an environment repository.
type GitStore struct {
	Controller gitops.Controller // that applies it
	Repository Repository
	Folder     string // that has the app's manifests
	Ledgers    string // the folder of the ledgers: each app has one in it
	// Render gives the objects of the folder in a tree, as the controller applies them.
	Render func(context.Context, *environment.Tree) ([]manifest.Object, error)

	mu    sync.Mutex
	taken *coordinationv1.Lease // the lock, from when it is taken until the ledger is committed with it
}

// Applies is what applies the app's manifests from Git; nil when nothing is known to.
func (c *Cluster) Applies() gitops.Controller {
	switch {
	case c.Git != nil:
		return c.Git.Controller
	case c.GitOps != nil:
		return c.GitOps.Controller
	}
	return nil
}

// Repository is one branch of an environment repository. See environment.Repository for what a commit keeps.
type Repository interface {
	Read(context.Context) (*environment.Tree, error)
	Commit(context.Context, environment.Message, func(*environment.Tree) error) (environment.Commit, error)
}

// lockFile is the lock beside the ledger.
const lockFile = "lock.json"

// stateFiles are those of an app's folder that are kept with the ledger.
var stateFiles = []string{ledgerKey, previousKey, serviceKey, othersKey, lineKey}

// gitStore is the store in Git.
type gitStore struct{ *Cluster }

func (s gitStore) dir(name string) string {
	return path.Join(s.Git.Ledgers, strings.TrimPrefix(name, statePrefix))
}

// file reads a file of a tree; nil when there is none.
func file(tree *environment.Tree, name string) ([]byte, error) {
	text, err := tree.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

// stateIn is what a tree keeps of an app. Its version is its content's.
func (s gitStore) stateIn(tree *environment.Tree, name string) (*corev1.ConfigMap, error) {
	state := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: s.Namespace, Labels: map[string]string{ledgerLabel: fieldManager},
	}, Data: map[string]string{}}
	var all strings.Builder
	for _, key := range stateFiles {
		text, err := file(tree, path.Join(s.dir(name), key))
		if err != nil {
			return nil, err
		}
		if text != nil {
			state.Data[key] = strings.TrimSuffix(string(text), "\n")
			fmt.Fprintf(&all, "%s %d\n%s", key, len(text), text)
		}
	}
	if state.Data[ledgerKey] == "" {
		return nil, apierrors.NewNotFound(corev1.Resource("ledgers"), s.dir(name))
	}
	state.ResourceVersion = hashOf(all.String())
	var err error
	state.Annotations, err = s.epochIn(tree, name)
	return state, err
}

// epochFile has the epoch of the lock whose job has committed a step last. It comes with the steps, not with the ledger: a ledger
// that somebody has taken back, while the steps that followed it stay, is older than this says.
const epochFile = "epoch"

// epochIn is that as the annotation of an object; none where no step was committed.
func (s gitStore) epochIn(tree *environment.Tree, name string) (map[string]string, error) {
	at := path.Join(s.dir(name), epochFile)
	text, err := file(tree, at)
	if text == nil || err != nil {
		return nil, err
	}
	epoch := strings.TrimSpace(string(text))
	if _, err := strconv.ParseInt(epoch, 10, 64); err != nil {
		return nil, fmt.Errorf("%s: %q is not a number; remove it if no job works on the app", at, epoch)
	}
	return map[string]string{epochAnnotation: epoch}, nil
}

// overtakenIn says whether a job with a newer lock has committed steps, whatever the ledger says.
func overtakenIn(state *corev1.ConfigMap, j *job) bool {
	epoch, err := epochOf(state)
	return err == nil && j.epoch > 0 && epoch > j.epoch
}

func (s gitStore) readState(ctx context.Context, name string) (*corev1.ConfigMap, error) {
	tree, err := s.Git.Repository.Read(ctx)
	if err != nil {
		return nil, err
	}
	return s.stateIn(tree, name)
}

// writeState commits the ledger, with the lock that was taken for it, or without the one that ends with it.
func (s gitStore) writeState(ctx context.Context, j *job, next *corev1.ConfigMap) (*corev1.ConfigMap, error) {
	taken := s.pending()
	var written *corev1.ConfigMap
	_, err := s.Git.Repository.Commit(ctx, s.message(j, ledgerSays(j)), func(tree *environment.Tree) (err error) {
		state, err := s.stateIn(tree, next.Name)
		version := ""
		if err == nil {
			version = state.ResourceVersion
		} else if !apierrors.IsNotFound(err) {
			return err
		}
		switch {
		case version != next.ResourceVersion:
			return notAsRead("ledgers", next.Name)
		case version == "": // a first ledger, or one that was lost
			if err := remove(tree, path.Join(s.dir(next.Name), epochFile)); err != nil {
				return err
			}
		case overtakenIn(state, j):
			return ErrLockLost
		}
		for _, key := range stateFiles {
			if err := put(tree, path.Join(s.dir(next.Name), key), next.Data[key]); err != nil {
				return err
			}
		}
		if err := s.putPlace(tree, next.Name); err != nil {
			return err
		}
		if err := s.lockWith(tree, j, next.Name, taken); err != nil {
			return err
		}
		written, err = s.stateIn(tree, next.Name)
		return err
	})
	if saved, failed := release.ParseLedger(j.app(), j.state.Data[ledgerKey]); errors.As(err, new(*usererr.Error)) && failed == nil && saved.Epoch == j.epoch {
		return nil, &commitRefusedError{err.Error()} // this job has committed before
	}
	if err != nil {
		return nil, err
	}
	if taken != nil {
		s.settle(taken)
	}
	return written, nil
}

// lockWith has a commit of the ledger take the lock, say that its job lives, or end it.
func (s gitStore) lockWith(tree *environment.Tree, j *job, name string, taken *coordinationv1.Lease) error {
	live, err := s.leaseIn(tree, name)
	if err != nil {
		return err
	}
	switch {
	case taken != nil && versionOf(live) != taken.ResourceVersion: // another job was quicker, or its holder lives
		return ErrLockLost
	case taken != nil:
		live = taken.DeepCopy()
	case live == nil, j.epoch == 0: // a note that needs no lock, and is no sign of life of whoever has it
		return nil
	}
	if !j.ledger.Open {
		return remove(tree, path.Join(s.dir(name), lockFile))
	}
	live.Spec.RenewTime, live.Spec.Strategy = new(metav1.NowMicro()), nil // which answers whoever asked
	return s.putLease(tree, name, live)
}

// put writes a file of an app's folder, and removes it when it is to have no text.
func put(tree *environment.Tree, name, text string) error {
	if text == "" {
		return remove(tree, name)
	}
	return tree.Write(name, []byte(text+"\n"))
}

func remove(tree *environment.Tree, name string) error {
	if err := tree.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// notAsRead is the conflict of a write whose object is not as it was read any more.
func notAsRead(resource, name string) error {
	return apierrors.NewConflict(schema.GroupResource{Resource: resource}, name, errors.New("somebody has committed since it was read"))
}

// statePoll is how often somebody who watches the ledger asks for the branch.
const statePoll = 5 * time.Second

func (s gitStore) watchState(name string) *cache.ListWatch {
	list := func(ctx context.Context) (*corev1.ConfigMapList, error) {
		state, err := s.readState(ctx, name)
		if apierrors.IsNotFound(err) {
			return &corev1.ConfigMapList{}, nil
		}
		if err != nil {
			return nil, err
		}
		return &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: state.ResourceVersion}, Items: []corev1.ConfigMap{*state}}, nil
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) { return list(ctx) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			if o.SendInitialEvents != nil { // client-go lists then
				return nil, apierrors.NewBadRequest("what is in Git is listed first")
			}
			events := make(chan watch.Event)
			w := watch.NewProxyWatcher(events)
			go poll(ctx, w.StopChan(), events, list)
			return w, nil
		},
	}
}

// poll reports a state each time that it has changed, until somebody stops it.
func poll(ctx context.Context, stop <-chan struct{}, events chan<- watch.Event, list func(context.Context) (*corev1.ConfigMapList, error)) {
	defer close(events)
	var last *corev1.ConfigMap
	for {
		if now, err := list(ctx); err == nil {
			event := watch.Event{Type: watch.Modified, Object: last}
			switch {
			case len(now.Items) > 0 && (last == nil || last.ResourceVersion != now.Items[0].ResourceVersion):
				last = &now.Items[0]
				event.Object = last
			case len(now.Items) == 0 && last != nil:
				event.Type, last = watch.Deleted, nil
			default:
				event.Object = nil
			}
			if event.Object != nil {
				select {
				case events <- event:
				case <-ctx.Done():
					return
				case <-stop:
					return
				}
			}
		}
		select {
		case <-time.After(statePoll):
		case <-ctx.Done():
			return
		case <-stop:
			return
		}
	}
}

// readLease gives the lock as it is in Git, or as this job is about to commit it.
func (s gitStore) readLease(ctx context.Context, name string) (*coordinationv1.Lease, error) {
	if taken := s.pending(); taken != nil {
		return taken, nil
	}
	tree, err := s.Git.Repository.Read(ctx)
	if err != nil {
		return nil, err
	}
	return s.leaseIn(tree, name)
}

func (s gitStore) leaseIn(tree *environment.Tree, name string) (*coordinationv1.Lease, error) {
	text, err := file(tree, path.Join(s.dir(name), lockFile))
	if text == nil || err != nil {
		return nil, err
	}
	lease := &coordinationv1.Lease{}
	if err := json.Unmarshal(text, &lease.Spec); err != nil {
		return nil, fmt.Errorf("%s: %w; remove it if no job works on the app", path.Join(s.dir(name), lockFile), err)
	}
	lease.Name, lease.Namespace, lease.ResourceVersion = name, s.Namespace, hashOf(string(text))
	return lease, nil
}

func versionOf(lease *coordinationv1.Lease) string {
	if lease == nil {
		return ""
	}
	return lease.ResourceVersion
}

func (s gitStore) putLease(tree *environment.Tree, name string, lease *coordinationv1.Lease) error {
	text, err := json.MarshalIndent(lease.Spec, "", "  ")
	if err != nil {
		return err
	}
	return put(tree, path.Join(s.dir(name), lockFile), string(text))
}

// asked marks a lock whose holder somebody asks whether it lives: no commit says so else.
const asked = "asked"

// writeLease takes the lock, which is committed with the ledger; it ends it, or answers who waits for it.
func (s gitStore) writeLease(ctx context.Context, next *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	taken, holder := s.pending(), holderOf(next)
	next.Spec.Strategy = nil // which answers whoever asked
	switch {
	case taken != nil && holder == "":
		s.settle(taken)
		return next, nil
	case taken != nil && holder == holderOf(taken):
		return taken, nil
	}
	tree, err := s.Git.Repository.Read(ctx)
	if err != nil {
		return nil, err
	}
	live, err := s.leaseIn(tree, next.Name)
	switch {
	case err != nil:
		return nil, err
	case versionOf(live) != next.ResourceVersion:
		return nil, notAsRead("locks", next.Name)
	case holder != "" && holder != holderOf(live):
		s.take(next)
		return next, nil
	case holder == holderOf(live) && (live == nil || !isAsked(live) && !isQuiet(live)):
		return next, nil
	}
	says := "a job of " + s.app() + " lives"
	if holder == "" {
		says = "a job of " + s.app() + " has ended"
	}
	return s.commitLease(ctx, next, says)
}

// commitLease commits the lock alone.
func (s gitStore) commitLease(ctx context.Context, next *coordinationv1.Lease, says string) (*coordinationv1.Lease, error) {
	var written *coordinationv1.Lease
	_, err := s.Git.Repository.Commit(ctx, environment.Message{Subject: s.app() + ": " + says}, func(tree *environment.Tree) error {
		live, err := s.leaseIn(tree, next.Name)
		if err != nil {
			return err
		}
		if versionOf(live) != next.ResourceVersion {
			return notAsRead("locks", next.Name)
		}
		if holderOf(next) == "" {
			return remove(tree, path.Join(s.dir(next.Name), lockFile))
		}
		if err := s.putLease(tree, next.Name, next); err != nil {
			return err
		}
		written, err = s.leaseIn(tree, next.Name)
		return err
	})
	return written, err
}

func isAsked(lease *coordinationv1.Lease) bool {
	return lease.Spec.Strategy != nil && *lease.Spec.Strategy == asked
}

// takeFree leaves a lock that was released to the loop: it is taken with the commit of the ledger.
func (gitStore) takeFree(context.Context, string, string) *coordinationv1.Lease { return nil }

// expired: a job says that it lives when it commits, or is asked.
func (gitStore) expired(lease *coordinationv1.Lease) (expired, certain bool) {
	return lease.Spec.RenewTime == nil || time.Since(lease.Spec.RenewTime.Time) > quietFor+clockSkew, false
}

func (s gitStore) places() (ledger, lock string) {
	folder := s.dir(s.stateName()) + " in Git"
	return folder, folder
}

// hasPreviews: what is in Git is a release's, and the controller would take out what is not.
func (gitStore) hasPreviews() bool { return false }

// binds: who may write the ledger in Git may write the Deployments there, too.
func (gitStore) binds() bool { return false }

// quietFor is how long a job that lives may commit nothing.
const quietFor = 15 * time.Minute

func isQuiet(lease *coordinationv1.Lease) bool {
	return lease.Spec.RenewTime == nil || time.Since(lease.Spec.RenewTime.Time) >= quietFor
}

// ask commits the question, which its holder sees: it looks as often as it would renew a lock in the cluster.
func (s gitStore) ask(ctx context.Context, lease *coordinationv1.Lease) error {
	if lease == nil || isAsked(lease) {
		return nil
	}
	next := lease.DeepCopy()
	next.Spec.Strategy = new(coordinationv1.CoordinatedLeaseStrategy(asked))
	_, err := s.commitLease(ctx, next, "somebody waits for the job of "+holderOf(lease))
	return err
}

func (s gitStore) answers(ctx context.Context) (alive bool, err error) {
	question, err := s.readLease(ctx, s.stateName())
	if question == nil || err != nil {
		return false, err
	}
	if err := s.ask(ctx, question); err != nil {
		return true, err
	}
	for began := time.Now(); time.Since(began) < silentFor; {
		select {
		case <-ctx.Done():
			return true, context.Cause(ctx)
		case <-time.After(pollPeriod):
		}
		lease, err := s.readLease(ctx, s.stateName())
		if err == nil && (lease == nil || !isAsked(lease)) {
			return lease != nil, nil
		}
	}
	return false, nil
}

func (s gitStore) pending() *coordinationv1.Lease {
	s.Git.mu.Lock()
	defer s.Git.mu.Unlock()
	return s.Git.taken
}

func (s gitStore) take(lease *coordinationv1.Lease) {
	s.Git.mu.Lock()
	defer s.Git.mu.Unlock()
	s.Git.taken = lease
}

// settle ends what take began, if nobody has taken it anew.
func (s gitStore) settle(taken *coordinationv1.Lease) {
	s.Git.mu.Lock()
	defer s.Git.mu.Unlock()
	if s.Git.taken == taken {
		s.Git.taken = nil
	}
}

// message is that of a commit of a release.
func (s gitStore) message(j *job, says string) environment.Message {
	m := environment.Message{Subject: s.app() + ": " + says}
	r := j.ledger.Release
	if r == nil && len(j.ledger.History) > 0 {
		r = &j.ledger.History[0].Release
	}
	if r == nil {
		return m
	}
	m.Trailers = gitops.Trailers(r)
	return m
}

// ledgerSays is what a commit of the ledger does, in a few words.
func ledgerSays(j *job) string {
	l := j.ledger
	saved, err := release.ParseLedger(j.app(), j.state.Data[ledgerKey])
	switch r := l.Release; {
	case r != nil && l.Open && (err != nil || saved.Epoch != l.Epoch):
		return fmt.Sprintf("release %s: %s begins", r.ID, j.command)
	case r != nil:
		return fmt.Sprintf("release %s is at stage %s", r.ID, r.Stage)
	case l.Open:
		return j.command + " begins"
	case len(l.History) > 0:
		return fmt.Sprintf("release %s has finished: %s", l.History[0].ID, l.History[0].Outcome)
	}
	return "note of " + j.command
}

// fence refuses a commit on a ledger that is not the one that this job has written.
func (s gitStore) fence(tree *environment.Tree, j *job) error {
	state, err := s.stateIn(tree, s.stateName())
	if apierrors.IsNotFound(err) {
		return ErrLockLost // somebody has removed it
	}
	if err != nil {
		return err
	}
	if state.Data[ledgerKey] != j.state.Data[ledgerKey] || overtakenIn(state, j) {
		return ErrLockLost
	}
	return nil
}

// carryOut commits a write, and waits until the cluster shows it.
func (s gitStore) carryOut(ctx context.Context, j *job, o object, live metav1.Object, w *write) (metav1.Object, error) {
	if s.planning() {
		return s.tryOut(ctx, o, live, w)
	}
	if w.apply != nil { // so that a canary of no release is known by it
		j.stampOnto(w.apply)
	}
	e := gitEdit{gitStore: s, object: o, live: live, write: w}
	made, err := s.Git.Repository.Commit(ctx, s.message(j, e.says(j)), func(tree *environment.Tree) error {
		if err := s.fence(tree, j); err != nil {
			return err
		}
		if err := e.edit(ctx, tree); err != nil || !tree.Changed() {
			return err
		}
		return put(tree, path.Join(s.dir(s.stateName()), epochFile), strconv.FormatInt(j.epoch, 10))
	})
	if errors.As(err, new(*usererr.Error)) {
		return nil, &commitRefusedError{err.Error()}
	}
	if err != nil {
		return nil, err
	}
	return s.waitApplied(ctx, j, &e, made.Hash)
}

// fenceOff has nothing to do: each commit asks the ledger.
func (gitStore) fenceOff(context.Context, *job) error { return nil }

// dryApply only reads the cluster: what the API server would say is not known.
func (gitStore) dryApply(context.Context, *job, *appsv1.Deployment) (*appsv1.Deployment, error) {
	return nil, nil
}

// writers: the controller owns all fields.
func (gitStore) writers() (sets.Set[string], metav1.ManagedFieldsOperationType) {
	return sets.New(gitops.Managers...), ""
}

// tryOut is what a write would make of an object; nothing is committed.
func (s gitStore) tryOut(ctx context.Context, o object, live metav1.Object, w *write) (metav1.Object, error) {
	tree, err := s.Git.Repository.Read(ctx)
	if err != nil {
		return nil, err
	}
	e := gitEdit{gitStore: s, object: o, live: live, write: w}
	if err := e.edit(ctx, tree); err != nil {
		return nil, err
	}
	return e.planned()
}

// appliedPoll is how often the cluster is asked whether it shows a commit.
const appliedPoll = 250 * time.Millisecond

// waitApplied asks the controller to apply a commit, and waits until the object is as the commit has it.
func (s gitStore) waitApplied(ctx context.Context, j *job, e *gitEdit, commit string) (metav1.Object, error) {
	began := time.Now()
	failed := s.request(ctx, j)
	if e.removes() { // what was live has all that is wanted, and more
		if err := s.applyAll(ctx, j); err != nil {
			return nil, err
		}
	}
	for {
		live, err := e.object.read(ctx)
		if err != nil {
			return nil, err
		}
		differs := e.differs(live)
		if differs == "" {
			s.log("Git", "commit %s: %s, applied after %.1fs", short(commit), e.says(j), time.Since(began).Seconds())
			if e.wanted == nil {
				return nil, nil
			}
			return live, nil
		}
		if time.Since(began) > s.timeout() {
			return nil, &notAppliedError{commit: commit, object: e.object.String(), differs: differs, controller: s.Git.Controller.String(), failed: failed, next: j.next()}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(appliedPoll):
		}
	}
}

// notAppliedError says that a commit was pushed, and that the cluster does not show it.
type notAppliedError struct {
	commit, object, differs, controller, next string

	failed error
}

func (e *notAppliedError) Error() string {
	text := fmt.Sprintf("commit %s is in Git, and %s has not applied it: %s: %s", short(e.commit), e.controller, e.object, e.differs)
	if e.failed != nil {
		text += " (" + e.failed.Error() + ")"
	}
	return text + "; when it applies again, " + e.next
}

// applyAll has the controller apply what it has read, and waits until it has.
func (s gitStore) applyAll(ctx context.Context, j *job) error {
	objects, err := j.controlled(ctx)
	if err != nil {
		return err
	}
	if err := s.Git.Controller.Apply(ctx, objects); err != nil {
		return fmt.Errorf("%w; when it applies again, %s", err, j.next())
	}
	return nil
}

// request has the controller read the repository.
func (s gitStore) request(ctx context.Context, j *job) error {
	objects, err := j.controlled(ctx)
	if err != nil {
		return err
	}
	_, err = s.Git.Controller.Fetch(ctx, objects)
	if err != nil && ctx.Err() == nil {
		s.log(s.Git.Controller.String(), "%v", err)
	}
	return err
}

func (s gitStore) catchUp(ctx context.Context, j *job) error {
	if s.planning() {
		return nil
	}
	began, requested := time.Now(), false
	var failed error
	for {
		behind, err := s.behindGit(ctx, j)
		if behind == "" || err != nil {
			return err
		}
		if !requested {
			s.log("Git", "waiting until the cluster is as Git has it: %s", behind)
			failed, requested = s.request(ctx, j), true
		}
		if time.Since(began) > s.timeout() {
			text := fmt.Sprintf("%s has not applied what Git has: %s", s.Git.Controller, behind)
			if failed != nil {
				text += " (" + failed.Error() + ")"
			}
			return errors.New(text + "; when it applies again, run the same command again")
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(appliedPoll):
		}
	}
}

// atHead are the objects of the folder at the head of the branch.
func (s gitStore) atHead(ctx context.Context) ([]manifest.Object, error) {
	tree, err := s.Git.Repository.Read(ctx)
	if err != nil {
		return nil, err
	}
	return s.Git.Render(ctx, tree)
}

// behindGit says which object is not as the head of the branch has it; "" when all are.
func (s gitStore) behindGit(ctx context.Context, j *job) (string, error) {
	objects, err := s.atHead(ctx)
	if err != nil {
		return "", err
	}
	for _, o := range append(j.controllable(), j.track(release.Canary)) {
		live, err := o.read(ctx)
		if err != nil {
			return "", fmt.Errorf("%s: %w", o, err)
		}
		j.remember(o, live)
		e := gitEdit{gitStore: s, object: o, live: live}
		if e.wanted, err = e.in(objects); err != nil {
			return "", err
		}
		canary := as[*appsv1.Deployment](live)
		if e.wanted == nil && (o.name != j.deploymentName(release.Canary) || canary != nil && j.foreign(canary)) { // it is nobody's in Git
			continue
		}
		if differs := e.differs(live); differs != "" {
			return o.String() + ": " + differs, nil
		}
	}
	return "", nil
}
