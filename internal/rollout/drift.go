package rollout

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// configurationDrift is what is not as the release in flight has it of what pods read.
type configurationDrift struct {
	changed []string // what others own, or what a track's template names
	missing []string // copies
	unseen  []string // what this account may not read
}

// readsConfiguration compares what pods read with what the release in flight started with, while its canary waits.
func (j *job) readsConfiguration(ctx context.Context, live map[release.Track]*appsv1.Deployment) (found configurationDrift, err error) {
	r := j.ledger.Release
	if r == nil || len(r.Config) == 0 || r.Stage != release.StageCanary && r.Stage != release.StageVerified {
		return found, nil
	}
	found.changed = j.otherReferences(live)
	for _, c := range r.Config {
		if c.Copy == "" && c.Hash == "" {
			continue
		}
		name := cmp.Or(c.Copy, c.Name)
		text, err := j.compare(ctx, c, name)
		switch {
		case errors.As(err, new(*forbiddenError)) || lacksPermission(err):
			found.unseen = append(found.unseen, c.Kind+" "+name)
			j.log(c.Kind+" "+j.Namespace+"/"+name, "this account may not read it: whether it is as it was when the release started is not known")
		case errors.As(err, new(*usererr.Error)): // the key is gone
			found.unseen = append(found.unseen, c.Kind+" "+name)
			j.log(c.Kind+" "+j.Namespace+"/"+name, "%v", err)
		case err != nil:
			return found, err
		case text != "" && c.Copy != "":
			found.missing = append(found.missing, text)
		case text != "":
			found.changed = append(found.changed, text)
		}
	}
	return found, nil
}

// compare says how a ConfigMap or a Secret of the release in flight differs from what it was; "" when it does not.
func (j *job) compare(ctx context.Context, c release.Config, name string) (string, error) {
	if c.Copy != "" {
		copies, err := j.copiesOf(ctx, c.Kind)
		if err != nil || copies[name] != nil {
			return "", err
		}
	}
	o := j.configuration(c.Kind, name)
	live, err := o.read(ctx)
	switch {
	case err != nil && !apierrors.IsForbidden(err):
		return "", fmt.Errorf("%s: %w", o, err)
	case err != nil:
		return "", err
	case c.Copy != "" && live == nil:
		return fmt.Sprintf("%s %s, the copy of %s that the release's pods read, is gone; run canary again, which makes it once more", c.Kind, name, c.Name), nil
	case c.Copy != "": // somebody else has made it, and it cannot change
		return "", nil
	case live == nil && c.Hash == release.Absent:
		return "", nil
	case c.Hash == release.Absent:
		return fmt.Sprintf("%s %s, which others own, has appeared since the release started", c.Kind, name), nil
	case live == nil:
		return fmt.Sprintf("%s %s, which others own, is gone since the release started", c.Kind, name), nil
	}
	hash, err := j.contentHash(ctx, live)
	if err != nil || hash == c.Hash {
		return "", err
	}
	return fmt.Sprintf("%s %s, which others own, has changed since the release started", c.Kind, name), nil
}

// otherReferences are the places in which a track's pods no longer read what they are to read: the release's on the canary,
// and on primary what it had before.
func (j *job) otherReferences(live map[release.Track]*appsv1.Deployment) (found []string) {
	if canary := live[release.Canary]; canary != nil {
		names := referenced(canary.Spec.Template)
		for _, c := range j.ledger.Release.Config {
			if name := c.Kind + " " + cmp.Or(c.Copy, c.Name); !names[name] {
				found = append(found, fmt.Sprintf("the canary does not read %s, which the release gave it", name))
			}
		}
	}
	var before corev1.PodTemplateSpec
	if primary := live[release.Primary]; primary != nil && json.Unmarshal([]byte(j.previous), &before) == nil {
		names := referenced(primary.Spec.Template)
		for name := range referenced(before) {
			if !names[name] {
				found = append(found, fmt.Sprintf("primary does not read %s, which it did when the release started", name))
			}
		}
	}
	return found
}

// referenced are the ConfigMaps and Secrets that the containers of a pod template read.
func referenced(template corev1.PodTemplateSpec) map[string]bool {
	names := map[string]bool{}
	for _, r := range manifest.References(&template.Spec) {
		if !r.Node {
			names[r.Kind+" "+r.Name] = true
		}
	}
	return names
}
