package gitops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/our-org/crossbill/internal/usererr"
)

// cluster reaches the controllers' own objects.
type cluster struct {
	client  dynamic.Interface
	options Options
}

// reference is one of a controller's objects.
type reference struct {
	resource        schema.GroupVersionResource
	kind            string
	namespace, name string
}

func (r reference) String() string { return named(r.kind, r.namespace, r.name) }

func (c *cluster) of(r reference) dynamic.ResourceInterface {
	return c.client.Resource(r.resource).Namespace(r.namespace)
}

// read gives an object. What somebody has to change is an error that names it: a right, or what is not found.
func (c *cluster) read(ctx context.Context, r reference) (*unstructured.Unstructured, error) {
	found, err := c.of(r).Get(ctx, r.name, metav1.GetOptions{})
	return found, c.explain(r, err)
}

// mayRequest proves, without a write, that the object may be annotated: the API server looks at rights in a dry run too.
func (c *cluster) mayRequest(ctx context.Context, r reference) error {
	_, err := c.of(r).Patch(ctx, r.name, types.MergePatchType, []byte("{}"), metav1.PatchOptions{FieldManager: fieldManager, DryRun: []string{metav1.DryRunAll}})
	if apierrors.IsForbidden(err) {
		return c.explain(r, err)
	}
	return nil // a webhook that knows no dry run says nothing about rights
}

// askable says whether an object may be annotated. Where every step is a commit, and the account only reads, it need not: what
// applies the commits looks for them at its own interval.
func (c *cluster) askable(ctx context.Context, r reference) (remarks []string, err error) {
	err = c.mayRequest(ctx, r)
	if err != nil && c.options.commits() {
		return []string{fmt.Sprintf("%s may not be annotated, so that each step waits for its interval", r)}, nil
	}
	return nil, err
}

const fieldManager = "crossbill"

// annotate writes one annotation, and gives the object as it is then.
func (c *cluster) annotate(ctx context.Context, r reference, key, value string) (*unstructured.Unstructured, error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{key: value}}})
	if err != nil {
		return nil, err
	}
	live, err := c.of(r).Patch(ctx, r.name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	return live, c.explain(r, err)
}

func (c *cluster) explain(r reference, err error) error {
	group := r.resource.Resource + "." + r.resource.Group
	switch {
	case apierrors.IsForbidden(err):
		return &usererr.Error{
			Field: r.String(), Problem: "Crossbill may not read or annotate it: " + oneLine(err.Error()),
			Fix: fmt.Sprintf("give Crossbill's account get and patch on %s in namespace %s; `crossbill gitops config` prints the Role", group, r.namespace),
		}
	case noSuchKind(err):
		return &usererr.Error{
			Field: r.String(), Problem: "this cluster has no " + group + ": a controller in another cluster applies the app here, and cannot be asked from here",
			Fix: "let a controller in this cluster apply the app, or remove the owner's labels and annotations if nothing applies it any more",
		}
	case apierrors.IsNotFound(err):
		return &usererr.Error{
			Field: r.String(), Problem: "is not found, and the app's objects say that it applies them",
			Fix: "create it again, or remove its labels and annotations from the objects if nothing applies them any more; if another cluster has it, let a controller in this one apply the app",
		}
	case err != nil:
		return fmt.Errorf("%s: %w", r, err)
	}
	return nil
}

// noSuchKind separates a kind that the API server does not have from an object that is not found: the former is answered
// outside of any registry, which client-go marks.
func noSuchKind(err error) bool {
	return apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// patience is how long a controller may say that it fails before that is believed: it tries again by itself.
const patience = 5 * time.Second

// progress is how what is waited for stands.
type progress struct {
	done    bool
	state   string // for the error at the deadline
	failure error  // what the controller says of itself; it may pass
}

// wait looks until it is done, for the options' timeout at most. what completes "waited 5m". An error of look that cannot
// pass ends it, and so does a failure that has stood for a while.
func (c *cluster) wait(ctx context.Context, what string, look func(context.Context) (progress, error)) error {
	bounded, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	state := "the API server has not answered"
	var failingSince time.Time
	for {
		now, err := look(bounded)
		switch {
		case err != nil && bounded.Err() == nil:
			if !passing(err) {
				return err
			}
			state = err.Error()
		case err != nil: // of a request that was cut off: what was known before says more
		case now.done:
			return nil
		case now.failure == nil:
			state, failingSince = now.state, time.Time{}
		case failingSince.IsZero():
			state, failingSince = now.failure.Error(), time.Now()
		case time.Since(failingSince) >= patience:
			return now.failure
		}
		select {
		case <-time.After(c.options.Poll):
		case <-bounded.Done():
			if ctx.Err() != nil {
				return fmt.Errorf("stopped while waiting %s: %w", what, context.Cause(ctx))
			}
			return fmt.Errorf("waited %s %s: %s; run the command again, which goes on from here", c.options.Timeout, what, oneLine(state))
		}
	}
}

// passing says whether another look may be answered otherwise.
func passing(err error) bool {
	return !isUser(err) && !apierrors.IsUnauthorized(err) && !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err)
}

// isUser says whether somebody has to change something.
func isUser(err error) bool { return errors.As(err, new(*usererr.Error)) }

// oneLine is a controller's text for an error of ours: it may be long, and of many lines.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > 400 {
		return string(runes[:400]) + "…"
	}
	return text
}

// sameRepository says whether two addresses lead to one path, whatever the protocol, the host and the suffix: a controller
// may reach the server by another name. Addresses are https://…, ssh://… or git@host:path.
func sameRepository(a, b string) bool { return repositoryPath(a) == repositoryPath(b) }

func repositoryPath(address string) string {
	place := address
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		place = u.Path
	} else if _, after, ok := strings.Cut(address, ":"); ok {
		place = after
	}
	return strings.TrimSuffix(path.Clean("/"+place), ".git")
}
