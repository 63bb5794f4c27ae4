package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/our-org/crossbill/internal/usererr"
)

// foundTimeout bounds the question whether a registry has an image.
const foundTimeout = 5 * time.Second

// RequireFound asks an image's registry, once, whether it has the image: pods that cannot pull it would only fail
// at the deadline of their Deployment. A registry that says no is an error. One that does not answer, or that
// refuses this machine, is a warning: the nodes of a cluster may reach other registries, with other credentials.
func RequireFound(ctx context.Context, reference string, keychain authn.Keychain, warn func(error)) error {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return &usererr.Error{Field: "image", Problem: err.Error(), Fix: "give repository@sha256:…"}
	}
	asked, cancel := context.WithTimeout(ctx, foundTimeout)
	defer cancel()
	_, err = remote.Head(ref, append(Options(asked, keychain), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))...)
	var answer *transport.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound:
		return &usererr.Error{
			Field: "image", Problem: fmt.Sprintf("%s has no image %s", ref.RegistryStr(), reference),
			Fix: "push it first, or correct repository and digest; nothing was changed",
		}
	}
	warn(fmt.Errorf("%s: its registry was not asked: %w; whether the pods can pull it shows when they start", reference, explained(err)))
	return nil
}
