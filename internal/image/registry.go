package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/our-org/crossbill/internal/usererr"
)

// DefaultBase is Node 24 on distroless, without a shell and not root; the digest is the tag's of
// 2026, a multi-platform index.
const DefaultBase = "gcr.io/distroless/nodejs24-debian12:nonroot@sha256:14d42e2511532589a7c7e01a753667a74fcc96266e137e8125006b87b0c32d0a"

// Login is a user name and password, or token, of a registry.
type Login authn.AuthConfig

// Resolve gives the same login for every repository (authn.Keychain).
func (l Login) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(l)), nil
}

// Options of every call to a registry: a bounded retry, and the credentials of the keychain.
func Options(ctx context.Context, keychain authn.Keychain) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx),
		remote.WithAuthFromKeychain(keychain),
		remote.WithUserAgent("crossbill"),
		remote.WithRetryBackoff(remote.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 4}),
		remote.WithRetryStatusCodes(http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout),
	}
}

// Base loads a base image: repository@sha256:… from a registry, of an index the image of linux/amd64; or
// oci:FOLDER, an OCI image layout with one image. Its credentials are those of docker login: what is pushed
// elsewhere has its own.
func Base(ctx context.Context, reference string) (v1.Image, error) {
	return pull(ctx, "--base", reference, authn.DefaultKeychain)
}

// BaseFor loads the image for a platform from a base image that is an index.
func BaseFor(ctx context.Context, reference string, platform v1.Platform) (v1.Image, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, &usererr.Error{Field: "--base", Problem: fmt.Sprintf("%q is not an image with a digest", reference), Fix: "for several platforms give an index by digest"}
	}
	index, err := remote.Index(ref, Options(ctx, authn.DefaultKeychain)...)
	if err != nil {
		return nil, fmt.Errorf("--base %s: %w", reference, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("--base %s: %w", reference, err)
	}
	for _, m := range manifest.Manifests {
		if m.Platform != nil && m.Platform.Satisfies(platform) {
			return index.Image(m.Digest)
		}
	}
	return nil, &usererr.Error{Field: "--platform", Problem: fmt.Sprintf("%s has no image for %s", reference, platform), Fix: "leave it out, or give another --base"}
}

// Parts are the digests of the images that an index is made of; none of what is no index.
func Parts(ctx context.Context, reference string, keychain authn.Keychain) ([]string, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, &usererr.Error{Field: "image", Problem: err.Error()}
	}
	described, err := remote.Get(ref, Options(ctx, keychain)...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", reference, explain(err))
	}
	if !described.MediaType.IsIndex() {
		return nil, nil
	}
	index, err := described.ImageIndex()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", reference, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", reference, err)
	}
	var parts []string
	for _, m := range manifest.Manifests {
		parts = append(parts, m.Digest.String())
	}
	return parts, nil
}

// Earlier loads an image of the app that was pushed before, as Base does but with the credentials that
// pushes have.
func Earlier(ctx context.Context, reference string, keychain authn.Keychain) (v1.Image, error) {
	return pull(ctx, "--assets-of", reference, keychain)
}

func pull(ctx context.Context, field, reference string, keychain authn.Keychain) (v1.Image, error) {
	if folder, ok := strings.CutPrefix(reference, "oci:"); ok {
		return fromLayout(field, folder)
	}
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, &usererr.Error{Field: field, Problem: fmt.Sprintf("%q is neither oci:FOLDER nor an image with a digest", reference), Fix: "give it by digest, or a build is not the same tomorrow"}
	}
	image, err := remote.Image(ref, Options(ctx, keychain)...)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", field, reference, err)
	}
	return image, nil
}

func fromLayout(field, folder string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		return nil, &usererr.Error{Field: field, Problem: err.Error(), Fix: "give a folder with an OCI image layout"}
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", field, folder, err)
	}
	if len(manifest.Manifests) != 1 {
		return nil, &usererr.Error{Field: field, Problem: fmt.Sprintf("%s has %d images", folder, len(manifest.Manifests)), Fix: "give a layout with one"}
	}
	return index.Image(manifest.Manifests[0].Digest)
}

// Built is an image, or the index of one image for each platform.
type Built interface {
	Digest() (v1.Hash, error)
}

// WriteLayout writes an image or index into a new folder as an OCI image layout and returns oci:FOLDER@digest.
func WriteLayout(built Built, folder string) (string, error) {
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		return "", &usererr.Error{Field: "--push", Problem: folder + " is already there", Fix: "name a new folder"}
	}
	digest, err := built.Digest()
	if err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	path, err := layout.Write(folder, empty.Index)
	if err == nil {
		switch built := built.(type) {
		case v1.ImageIndex:
			err = path.AppendIndex(built)
		case v1.Image:
			err = path.AppendImage(built)
		}
	}
	if err != nil {
		return "", fmt.Errorf("image layout %s: %w", folder, errors.Join(err, os.RemoveAll(folder)))
	}
	return "oci:" + folder + "@" + digest.String(), nil
}

// Push pushes an image or index under a tag and returns repository:tag@digest, after the registry was asked
// what it has under the tag.
func Push(ctx context.Context, built Built, tag string, keychain authn.Keychain) (string, error) {
	ref, err := parseTag("--push", tag)
	if err != nil {
		return "", err
	}
	digest, err := built.Digest()
	if err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	switch built := built.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, built, Options(ctx, keychain)...)
	case v1.Image:
		err = remote.Write(ref, built, Options(ctx, keychain)...)
	}
	if err != nil {
		return "", fmt.Errorf("push to %s: %w; pushing again is safe", tag, explain(err))
	}
	had, err := Digest(ctx, tag, keychain)
	if err != nil {
		return "", err
	}
	if want := ref.Name() + "@" + digest.String(); had != want {
		return "", fmt.Errorf("pushed %s, but the registry has %s: somebody else pushed the same tag; nothing may be released by it", want, had)
	}
	return had, nil
}

// Digest asks a registry for the digest of a tag: repository:tag@digest.
func Digest(ctx context.Context, tag string, keychain authn.Keychain) (string, error) {
	ref, err := parseTag("image", tag)
	if err != nil {
		return "", err
	}
	descriptor, err := remote.Head(ref, Options(ctx, keychain)...)
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", tag, explain(err))
	}
	return ref.Name() + "@" + descriptor.Digest.String(), nil
}

func parseTag(field, tag string) (name.Tag, error) {
	ref, err := name.NewTag(tag, name.StrictValidation)
	if err != nil {
		return name.Tag{}, &usererr.Error{Field: field, Problem: err.Error(), Fix: "give registry/repository:tag"}
	}
	return ref, nil
}

// explain says what to do about a registry's refusal.
func explain(err error) error {
	refusal, ok := err.(*transport.Error)
	if !ok {
		return err
	}
	switch refusal.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w (check the credentials: docker login, or REGISTRY_USERNAME and REGISTRY_PASSWORD)", err)
	case http.StatusNotFound:
		return fmt.Errorf("%w (the repository or the tag is not there)", err)
	}
	return err
}
