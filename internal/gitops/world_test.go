package gitops

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
)

// world is a branch, and what a controller has applied of it.
type world struct {
	client *dynamicfake.FakeDynamicClient

	mu      sync.Mutex
	random  *rand.Rand
	commits []string // of the branch; the last is its head
	broken  string   // why the branch cannot be read
	applies string   // why nothing can be applied
	health  time.Duration
	written []write
	shown   map[string]time.Time // when the controller's object first showed a commit
}

// write is one object that was applied.
type write struct {
	commit string
	at     time.Time
}

func newWorld(seed uint64, objects ...*unstructured.Unstructured) *world {
	return &world{random: rand.New(rand.NewPCG(seed, 1)), commits: []string{sha(0)}, shown: map[string]time.Time{}, client: fakeClient(objects...)}
}

// fakeClient is client-go's, with the optimistic lock that it lacks in patches.
func fakeClient(objects ...*unstructured.Unstructured) *dynamicfake.FakeDynamicClient {
	var all []runtime.Object
	for _, o := range objects {
		all = append(all, o.DeepCopy())
	}
	client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		kustomizations: "KustomizationList", gitRepositories: "GitRepositoryList", applications: "ApplicationList",
	}, all...)
	client.PrependReactor("patch", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		patched, err := mergePatch(client.Tracker(), a.(clienttesting.PatchAction))
		return true, patched, err
	})
	return client
}

var patching sync.Mutex

func mergePatch(tracker clienttesting.ObjectTracker, a clienttesting.PatchAction) (runtime.Object, error) {
	patching.Lock()
	defer patching.Unlock()
	found, err := tracker.Get(a.GetResource(), a.GetNamespace(), a.GetName())
	if err != nil {
		return nil, err
	}
	live := found.(*unstructured.Unstructured)
	var sent unstructured.Unstructured
	if err := json.Unmarshal(a.GetPatch(), &sent.Object); err != nil {
		return nil, err
	}
	if version := sent.GetResourceVersion(); version != "" && version != live.GetResourceVersion() {
		return nil, apierrors.NewConflict(a.GetResource().GroupResource(), a.GetName(), fmt.Errorf("it is at %s", live.GetResourceVersion()))
	}
	before, err := live.MarshalJSON()
	if err != nil {
		return nil, err
	}
	text, err := jsonpatch.MergePatch(before, a.GetPatch())
	if err != nil {
		return nil, err
	}
	after := &unstructured.Unstructured{}
	if err := after.UnmarshalJSON(text); err != nil {
		return nil, err
	}
	version, _ := strconv.Atoi(live.GetResourceVersion())
	after.SetResourceVersion(strconv.Itoa(version + 1))
	return after, tracker.Update(a.GetResource(), after, a.GetNamespace())
}

func sha(n int) string { return fmt.Sprintf("%040x", n+1) }

func (w *world) push() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.commits = append(w.commits, sha(len(w.commits)))
	return w.commits[len(w.commits)-1]
}

func (w *world) head() (commit, broken string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.commits[len(w.commits)-1], w.broken
}

// shows notes that the controller's object shows a commit.
func (w *world) shows(commit string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shown[commit].IsZero() {
		w.shown[commit] = time.Now()
	}
}

// olderAfter counts what was applied of commits before one, after that was first shown, and after another time.
func (w *world) olderAfter(commit, fetched string, at time.Time) (afterShown, afterFetched int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	shown := time.Time{}
	for one, when := range w.shown {
		if one >= commit && (shown.IsZero() || when.Before(shown)) {
			shown = when
		}
	}
	for _, write := range w.written {
		if write.commit < commit && write.at.After(shown) {
			afterShown++
		}
		if write.commit < fetched && write.at.After(at) {
			afterFetched++
		}
	}
	return afterShown, afterFetched
}

// apply applies four objects of a commit, unless something refuses it.
func (w *world) apply(ctx context.Context, commit string) (refused string) {
	w.mu.Lock()
	refused = w.applies
	w.mu.Unlock()
	for i := 0; i < 4 && refused == ""; i++ {
		w.mu.Lock()
		w.written = append(w.written, write{commit, time.Now()})
		w.mu.Unlock()
		sleep(ctx, w.upTo(300*time.Millisecond))
	}
	return refused
}

// upTo is a random time.
func (w *world) upTo(longest time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.random.Int64N(int64(longest)))
}

func (w *world) get(r reference) *unstructured.Unstructured {
	live, err := w.client.Tracker().Get(r.resource, r.namespace, r.name) // what fails for Crossbill does not for them
	if err != nil {
		panic(err)
	}
	return live.DeepCopyObject().(*unstructured.Unstructured)
}

// patch writes as the controllers do: a merge patch, which leaves alone what it does not name.
func (w *world) patch(r reference, fields map[string]any) {
	text, err := json.Marshal(fields)
	if err == nil {
		_, err = mergePatch(w.client.Tracker(), clienttesting.NewPatchAction(r.resource, r.namespace, r.name, "", text))
	}
	if err != nil {
		panic(err)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// controllerOf is the controller under test, with all that it says in a list.
func controllerOf(t *testing.T, name string, client *dynamicfake.FakeDynamicClient, options Options) (Controller, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var lines []string
	options.Log = func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, fmt.Sprintf(format, args...))
	}
	c, err := New(name, client, options)
	if err != nil {
		t.Fatal(err)
	}
	return c, func() []string { mu.Lock(); defer mu.Unlock(); return lines }
}
