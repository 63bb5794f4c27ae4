package gitops

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/usererr"
)

// refreshed asks Applications to be compared anew with the head of their branch. The controller answers by removing the
// annotation, in one patch with what it has found (persistReconciliationStatus). That answers this request, and no earlier
// one, because the annotation is set only where there was none: a comparison that was under way then read the Application
// without it, and removes nothing.
type refreshed struct {
	*argo
	asked  map[reference]bool
	failed map[reference]int       // answers that were errors
	since  map[reference]time.Time // a request that is open: when it was seen first, or repeated
}

func (a *argo) refreshing() *refreshed {
	return &refreshed{a, map[reference]bool{}, map[reference]int{}, map[reference]time.Time{}}
}

// refresh asks, and gives the Application once it has answered; nil, and how that stands, until then.
func (r *refreshed) refresh(ctx context.Context, name reference) (*application, progress, error) {
	app, err := r.application(ctx, name)
	if err != nil {
		return nil, progress{}, err
	}
	if app.skipped() {
		return nil, progress{}, &usererr.Error{Field: name.String(), Problem: "it has the annotation " + skipReconcile + ", so Argo CD does not look at it", Fix: "remove the annotation"}
	}
	open, pending := app.live.GetAnnotations()[refreshAnnotation]
	switch {
	case pending:
		return nil, progress{state: name.String() + " has not answered; is Argo CD's application controller running?"}, r.repeat(ctx, app, open)
	case !r.asked[name]:
		delete(r.since, name)
		kind := "normal"
		if r.failed[name] > 0 {
			kind = "hard" // a failure to make manifests is cached
		}
		r.asked[name], err = r.ask(ctx, app, kind)
		return nil, progress{state: name.String() + " has not answered"}, err
	}
	problem := app.complaint("ComparisonError", "InvalidSpecError", "UnknownError")
	if problem == "" {
		r.failed[name] = 0
		return app, progress{}, nil
	}
	if r.failed[name] == 0 {
		r.failed[name], r.asked[name] = 1, false
		return nil, progress{state: name.String() + ": " + problem}, nil
	}
	return nil, progress{failure: fmt.Errorf("Argo CD's %s cannot be compared with Git: %s", name, problem)}, nil
}

// repeat changes a request that has been open for a while. The controller takes one that comes beside a write of its own for one
// of its own informer's resyncs, and puts it off for up to a minute (newApplicationInformerAndLister: the jitter where the
// resourceVersion is the same); another value is another event.
func (r *refreshed) repeat(ctx context.Context, app *application, open string) error {
	if r.since[app.name].IsZero() {
		r.since[app.name] = time.Now()
	}
	if time.Since(r.since[app.name]) < patience {
		return nil
	}
	r.since[app.name] = time.Now()
	other := "hard"
	if open == other {
		other = "normal"
	}
	_, err := r.ask(ctx, app, other)
	return err
}

// ask sets the annotation on the Application that was read; false where it has changed since.
func (r *refreshed) ask(ctx context.Context, app *application, kind string) (bool, error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": app.live.GetResourceVersion(), "annotations": map[string]string{refreshAnnotation: kind},
	}})
	if err != nil {
		return false, err
	}
	_, err = r.of(app.name).Patch(ctx, app.name.name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if apierrors.IsConflict(err) {
		return false, nil
	}
	return err == nil, r.explain(app.name, err)
}

var hash = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// Fetch asks each Application to be compared anew, and waits for the end of a sync of another commit.
//
// Why nothing of an earlier commit is applied afterwards: an Application is compared by one worker at a time, which starts a
// sync of the revision that it has found by writing spec-side .operation, before it writes that revision into the status
// (processAppRefreshQueueItem: autoSync, then persistReconciliationStatus). .operation stays until the sync has ended
// (setOperationState), and while it is there no other is started (SetAppOperation). So once the status has the revision, and
// .operation is gone or of that revision, an older sync has ended, and the next one is of what a later comparison finds: the
// refresh has renewed the cache of the branch's head that those use. The exceptions are a person who syncs an older revision,
// a branch that is forced back, and a second controller for the same Applications.
func (a *argo) Fetch(ctx context.Context, objects []Object) (string, error) {
	owners := a.owners(objects)
	if len(owners) == 0 {
		return "", nil
	}
	r := a.refreshing()
	commit := ""
	err := a.wait(ctx, "for Argo CD to read the repository", func(ctx context.Context) (progress, error) {
		commits := map[string]bool{}
		for _, name := range owners {
			app, now, err := r.refresh(ctx, name)
			if app == nil || err != nil {
				return now, err
			}
			if commit, now, err = a.settled(app); commit == "" || err != nil {
				return now, err
			}
			commits[commit] = true
		}
		if len(commits) > 1 { // somebody pushed between two comparisons
			a.options.Log("the branch moved while Argo CD read it: asking again")
			clear(r.asked)
			return progress{state: "the Applications of the app have different commits"}, nil
		}
		return progress{done: true}, nil
	})
	if err != nil {
		return "", err
	}
	return commit, nil
}

// settled is the commit that an Application was compared with, once no sync of another one is under way.
func (a *argo) settled(app *application) (commit string, now progress, err error) {
	_, index, err := app.source(a.options.Repository)
	if err != nil {
		return "", now, err
	}
	commit = app.revision(index)
	if !hash.MatchString(commit) {
		return "", progress{failure: fmt.Errorf("Argo CD's %s was compared with revision %q, which is not a commit", app.name, commit)}, nil
	}
	if operation := app.operation(); operation != nil && revisionIn(operation, index, "sync") != commit {
		return "", progress{state: fmt.Sprintf("%s is still being synced to another commit: %s", app.name, app.operationMessage())}, nil
	}
	return commit, now, nil
}

// operation is a sync that was asked for and has not ended.
func (app *application) operation() map[string]any {
	operation, _, _ := unstructured.NestedMap(app.live.Object, "operation")
	return operation
}

func (app *application) operationMessage() string {
	message, _, _ := unstructured.NestedString(app.live.Object, "status", "operationState", "message")
	return message
}

// Apply asks each Application that syncs by itself to be compared anew, which starts a sync where something differs, and waits
// for its end. A commit that changes nothing has no sync. What is not synced by itself, or not now, is a line in the log: Git
// has it, and whoever syncs applies it.
func (a *argo) Apply(ctx context.Context, objects []Object) error {
	left := a.owners(objects)
	r := a.refreshing()
	idle := map[reference]time.Time{}
	return a.wait(ctx, "for Argo CD to sync", func(ctx context.Context) (progress, error) {
		for len(left) > 0 {
			app, now, err := r.refresh(ctx, left[0])
			if app == nil || err != nil {
				return now, err
			}
			if now, err = a.synced(app, idle); !now.done || err != nil {
				return now, err
			}
			left = left[1:]
		}
		return progress{done: true}, nil
	})
}

// Applying names the syncs that are under way. A sync reads the objects when it begins (syncAppState compares anew), after the
// status says Running, and writes what it has read, ignored fields too, up to its end: after hooks and waves that is minutes.
// One that was asked for and has not started has read nothing yet.
func (a *argo) Applying(ctx context.Context, objects []Object) (string, error) {
	var all []string
	for _, name := range a.owners(objects) {
		app, err := a.application(ctx, name)
		if err != nil {
			return "", err
		}
		phase, _, _ := unstructured.NestedString(app.live.Object, "status", "operationState", "phase")
		began, _, _ := unstructured.NestedString(app.live.Object, "status", "operationState", "startedAt")
		if app.operation() != nil && phase == "Running" {
			all = append(all, fmt.Sprintf("%s since %s", name, began))
		}
	}
	return strings.Join(all, ", "), nil
}

// synced says how an Application stands that was compared a moment ago. idle is since when one has differed with no sync.
func (a *argo) synced(app *application, idle map[reference]time.Time) (progress, error) {
	_, index, err := app.source(a.options.Repository)
	if err != nil {
		return progress{}, err
	}
	phase, _, _ := unstructured.NestedString(app.live.Object, "status", "operationState", "phase")
	last := revisionIn(app.live.Object, index, "status", "operationState", "syncResult")
	status, _, _ := unstructured.NestedString(app.live.Object, "status", "sync", "status")
	switch {
	case app.operation() != nil:
		maps.DeleteFunc(idle, func(name reference, _ time.Time) bool { return name == app.name })
		return progress{state: says(app.name.String()+" is being synced", app.operationMessage())}, nil
	case status == "Synced" || last == app.revision(index) && phase == "Succeeded":
		return progress{done: true}, nil
	case last == app.revision(index) && (phase == "Failed" || phase == "Error"):
		return progress{failure: fmt.Errorf("Argo CD's %s could not be synced: %s", app.name, oneLine(app.operationMessage()))}, nil
	case !app.automated():
		a.options.Log("%s is not synced automatically: what Git has is applied when somebody syncs it", app.name)
		return progress{done: true}, nil
	}
	if problem := app.complaint("SyncError"); problem != "" {
		return progress{failure: fmt.Errorf("Argo CD's %s could not be synced: %s", app.name, problem)}, nil
	}
	if idle[app.name].IsZero() {
		idle[app.name] = time.Now()
	}
	if time.Since(idle[app.name]) < patience {
		return progress{state: app.name.String() + " differs from Git, and no sync has started"}, nil
	}
	a.options.Log("%s differs from Git, and Argo CD starts no sync; a sync window may not allow one", app.name)
	return progress{done: true}, nil
}
