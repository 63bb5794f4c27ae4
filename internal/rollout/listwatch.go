package rollout

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// watchable lists and watches objects of a kind.
type watchable[L runtime.Object] interface {
	List(ctx context.Context, o metav1.ListOptions) (L, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// listWatch lists and watches the objects that the selectors of some options leave.
func listWatch[L runtime.Object](objects watchable[L], selected metav1.ListOptions) *cache.ListWatch {
	only := func(o metav1.ListOptions) metav1.ListOptions {
		o.LabelSelector, o.FieldSelector = selected.LabelSelector, selected.FieldSelector
		return o
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return objects.List(ctx, only(o))
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return objects.Watch(ctx, only(o))
		},
	}
}

// until follows the objects of a list and watch until seen is done with one of them, or fails. Once they are listed, synced
// is asked as well, if there is one. Lost watches begin again. When ctx ends first, the error is its own.
//
// It is client-go's watchtools.UntilWithSync, whose end can be missed by a goroutine that then waits for ever: its
// eventProcessor signals without the lock (tools/watch/informerwatcher.go).
func until(ctx context.Context, objects cache.ListerWatcher, kind runtime.Object, synced func(cache.Store) (bool, error), seen func(watch.Event) (bool, error)) error {
	ctx, stop := context.WithCancel(ctx)
	events := make(chan watch.Event)
	send := func(what watch.EventType, object any) {
		if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = last.Obj
		}
		select {
		case events <- watch.Event{Type: what, Object: object.(runtime.Object)}:
		case <-ctx.Done():
		}
	}
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{ListerWatcher: objects, ObjectType: kind, Handler: cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { send(watch.Added, object) },
		UpdateFunc: func(_, object any) { send(watch.Modified, object) },
		DeleteFunc: func(object any) { send(watch.Deleted, object) },
	}})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		informer.RunWithContext(ctx)
	}()
	defer func() {
		stop()
		<-ended
	}()
	var listed <-chan struct{}
	if synced != nil {
		listed = informer.HasSyncedChecker().Done()
	}
	for {
		var done bool
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-listed:
			listed = nil
			done, err = synced(store)
		case event := <-events:
			done, err = seen(event)
		}
		if done || err != nil {
			return err
		}
	}
}

// named selects the object of a name.
func named(name string) metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: "metadata.name=" + name}
}

// labeled selects the objects that a selector names.
func labeled(selector string) metav1.ListOptions { return metav1.ListOptions{LabelSelector: selector} }
