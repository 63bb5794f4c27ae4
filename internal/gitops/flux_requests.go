package gitops

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/usererr"
)

// requestedAt makes source-controller and kustomize-controller reconcile an object at once: any value that is new to it.
const requestedAt = "reconcile.fluxcd.io/requestedAt"

// question is a request for a reconcile.
type question struct {
	before string          // what the object had answered when it was asked
	tokens map[string]bool // of the request, and of those that others have made after it
}

// request asks for one reconcile.
func (f *flux) request(ctx context.Context, r reference) (*question, error) {
	token := "crossbill-" + rand.Text()
	live, err := f.annotate(ctx, r, requestedAt, token)
	if err != nil {
		return nil, err
	}
	return &question{before: lastHandled(live), tokens: map[string]bool{token: true}}, nil
}

// answered says whether a reconcile that started after the request has ended: a controller reads the annotation when it starts
// and writes it as status.lastHandledReconcileAt when it ends, also of an object that is suspended. Somebody else's request may
// have taken the place of this one before it was read; it came later, so that its answer will do.
func (q *question) answered(live *unstructured.Unstructured) bool {
	if now := live.GetAnnotations()[requestedAt]; now != "" && now != q.before {
		q.tokens[now] = true
	}
	return q.tokens[lastHandled(live)]
}

func lastHandled(o *unstructured.Unstructured) string {
	last, _, _ := unstructured.NestedString(o.Object, "status", "lastHandledReconcileAt")
	return last
}

// fetch is one wait for a commit.
type fetch struct {
	*flux
	owners  []reference
	sources map[reference]reference // of the owners
	asked   map[reference]*question // each object that was asked
}

// Fetch first asks the GitRepositories, then looks that each Kustomization is past what they had before.
//
// Why nothing of an earlier commit can be applied afterwards: kustomize-controller reconciles one Kustomization one at a
// time (controller-runtime's queue), reads its source once, when it starts, and writes the source's revision as
// status.lastAttemptedRevision before it applies anything of it (KustomizationReconciler.reconcile). So once that shows the
// source's present revision, every reconcile that started with an earlier one has ended, and every later one reads a source
// that is at least as new: an informer's store does not go back. lastAppliedRevision would say more, but waits for health
// checks. A suspended Kustomization attempts nothing: there, the answer to a request says that what started before has ended.
// The exceptions are a controller that is replaced and whose predecessor has not noticed yet, and a branch that is forced
// back; whoever relies on this looks at the objects after Apply.
//
// Why the revision is one of a read after the request: source-controller patches conditions before the rest of the status
// (fluxcd/pkg/runtime/patch), and artifact and lastHandledReconcileAt together at the end of the reconcile.
func (f *flux) Fetch(ctx context.Context, objects []Object) (string, error) {
	w := &fetch{flux: f, owners: f.owners(objects), sources: map[reference]reference{}, asked: map[reference]*question{}}
	if len(w.owners) == 0 {
		return "", nil
	}
	var revision string
	err := f.wait(ctx, "for Flux to read the repository", func(ctx context.Context) (progress, error) {
		found, now, err := w.read(ctx)
		if err != nil || found == "" {
			return now, err
		}
		revision = found
		return w.attempted(ctx, found)
	})
	if err != nil {
		return "", err
	}
	_, commit, _ := strings.Cut(revision, "@")
	_, commit, _ = strings.Cut(commit, ":")
	if commit == "" {
		return "", fmt.Errorf("Flux names the revision %q, in which no commit is found", revision)
	}
	return commit, nil
}

// read asks all sources, and gives the revision that they have when they have answered.
func (w *fetch) read(ctx context.Context) (revision string, now progress, err error) {
	revisions := map[string]bool{}
	for _, k := range w.owners {
		source, err := w.source(ctx, k)
		if err != nil {
			return "", now, err
		}
		if w.asked[source] == nil {
			if w.asked[source], err = w.request(ctx, source); err != nil {
				delete(w.asked, source)
				return "", now, err
			}
		}
		live, err := w.flux.read(ctx, source)
		if err != nil {
			return "", now, err
		}
		var of string
		if of, now, err = w.answer(source, live); err != nil || of == "" {
			return "", now, err
		}
		revisions[of], revision = true, of
	}
	if len(revisions) > 1 { // somebody pushed between two reads
		w.options.Log("the branch moved while Flux read it: asking again")
		clear(w.asked)
		return "", progress{state: "the GitRepositories of the app have different commits"}, nil
	}
	return revision, now, nil
}

// source is the GitRepository of a Kustomization.
func (w *fetch) source(ctx context.Context, k reference) (reference, error) {
	if source, ok := w.sources[k]; ok {
		return source, nil
	}
	live, err := w.flux.read(ctx, k)
	if err != nil {
		return reference{}, err
	}
	source, ok := sourceOf(live)
	if !ok {
		return source, &usererr.Error{Field: k.String(), Problem: "it has no GitRepository as its source any more", Fix: "let its sourceRef name the GitRepository of gitops.repository"}
	}
	w.sources[k] = source
	return source, nil
}

// answer is the revision of a source that has answered.
func (w *fetch) answer(source reference, live *unstructured.Unstructured) (revision string, now progress, err error) {
	ready := condition(live, "Ready")
	observed, _, _ := unstructured.NestedInt64(live.Object, "status", "observedGeneration")
	switch {
	case suspended(live):
		return "", now, &usererr.Error{Field: source.String(), Problem: "it is suspended, so Flux does not read the repository", Fix: resume(source)}
	case !w.asked[source].answered(live):
		return "", progress{state: fmt.Sprintf("%s has not answered; is source-controller running?", source)}, nil
	case ready.Status == metav1.ConditionFalse:
		return "", progress{failure: fmt.Errorf("Flux's %s cannot be read: %s", source, oneLine(ready.Message))}, nil
	case ready.Status != metav1.ConditionTrue || observed != live.GetGeneration():
		return "", progress{state: says(source.String()+" is being read", ready.Message)}, nil
	}
	revision, _, _ = unstructured.NestedString(live.Object, "status", "artifact", "revision")
	return revision, progress{state: source.String() + " has no artifact"}, nil
}

// attempted looks that every Kustomization is at a revision.
func (w *fetch) attempted(ctx context.Context, revision string) (progress, error) {
	for _, k := range w.owners {
		live, err := w.flux.read(ctx, k)
		if err != nil {
			return progress{}, err
		}
		if last, _, _ := unstructured.NestedString(live.Object, "status", "lastAttemptedRevision"); last == revision {
			continue
		}
		if w.asked[k] == nil { // its watch of the source may do it; a suspended one answers only to this
			if w.asked[k], err = w.request(ctx, k); err != nil {
				delete(w.asked, k)
				return progress{}, err
			}
			return progress{state: k.String() + " has not answered; is kustomize-controller running?"}, nil
		}
		now := w.behind(k, live)
		if !now.done {
			return now, nil
		}
		w.options.Log("%s is suspended: it applies nothing until it is resumed", k)
	}
	return progress{done: true}, nil
}

// behind says how a Kustomization stands that has not started with the revision.
func (w *fetch) behind(k reference, live *unstructured.Unstructured) progress {
	ready := condition(live, "Ready")
	switch {
	case !w.asked[k].answered(live):
		return progress{state: says(k.String()+" has not answered; is kustomize-controller running?", ready.Message)}
	case suspended(live):
		return progress{done: true}
	case ready.Status == metav1.ConditionFalse && ready.Reason != "DependencyNotReady":
		return progress{failure: fmt.Errorf("Flux's %s cannot start with the commit: %s", k, oneLine(ready.Message))}
	}
	return progress{state: says(k.String()+" has not started with the commit", ready.Message)}
}

// Apply asks each Kustomization once, and waits for the end of a reconcile that started after that. What it cannot apply is an
// error; that something of it is not healthy, or could not be pruned, is a line in the log: it was applied.
func (f *flux) Apply(ctx context.Context, objects []Object) error {
	left := f.owners(objects)
	asked := map[reference]*question{}
	return f.wait(ctx, "for Flux to apply what it has read", func(ctx context.Context) (now progress, err error) {
		for _, k := range left {
			if asked[k] == nil {
				if asked[k], err = f.request(ctx, k); err != nil {
					delete(asked, k)
					return now, err
				}
			}
		}
		for len(left) > 0 {
			live, err := f.read(ctx, left[0])
			if err != nil {
				return now, err
			}
			if now = f.tried(left[0], live, asked[left[0]]); !now.done {
				return now, nil
			}
			left = left[1:]
		}
		return progress{done: true}, nil
	})
}

// Applying implements Controller: a release's objects carry the annotation, and Apply has waited for what began before.
func (f *flux) Applying(context.Context, []Object) (string, error) { return "", nil }

// tried says how a Kustomization stands that was asked to apply.
func (f *flux) tried(k reference, live *unstructured.Unstructured, asked *question) progress {
	ready := condition(live, "Ready")
	switch {
	case !asked.answered(live):
		return progress{state: says(k.String()+" has not finished", ready.Message)}
	case suspended(live):
		f.options.Log("%s is suspended: it applies nothing until it is resumed", k)
		return progress{done: true}
	case ready.Status == metav1.ConditionTrue:
		return progress{done: true}
	case ready.Status != metav1.ConditionFalse:
		return progress{state: says(k.String()+" is at it again", ready.Message)}
	}
	switch ready.Reason {
	case "HealthCheckFailed", "PruneFailed":
		f.options.Log("%s has applied the commit, and is not ready: %s", k, oneLine(ready.Message))
		return progress{done: true}
	case "DependencyNotReady", "HealthCheckCanceled": // it goes on by itself
		return progress{state: says(k.String(), ready.Message)}
	}
	return progress{failure: fmt.Errorf("Flux's %s could not apply the commit: %s", k, oneLine(ready.Message))}
}

// says adds to a state what the controller says of it.
func says(state, message string) string {
	if message == "" {
		return state
	}
	return state + ": " + message
}
