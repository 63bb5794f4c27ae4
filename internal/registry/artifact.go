package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/our-org/crossbill/internal/usererr"
)

// Described is what a registry says of an image: how others refer to it, and the labels and the time of the image itself, of
// an index those of its first image.
type Described struct {
	v1.Descriptor
	Labels  map[string]string
	Created v1.Time
}

// Describe asks a registry for an image or index that is named by digest.
func Describe(ctx context.Context, option, reference string, keychain authn.Keychain) (*Described, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, &usererr.Error{Field: option, Problem: fmt.Sprintf("%q is not an image with a digest", reference), Fix: "give repository@sha256:…"}
	}
	found, err := remote.Get(ref, Options(ctx, keychain)...)
	if err != nil {
		return nil, missingIsBadInput(option, reference, err)
	}
	config, err := firstConfig(found)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", reference, explained(err))
	}
	return &Described{v1.Descriptor{MediaType: found.MediaType, Digest: found.Digest, Size: found.Size}, config.Config.Labels, config.Created}, nil
}

// firstConfig is the configuration of an image, or of the first one of an index.
func firstConfig(found *remote.Descriptor) (*v1.ConfigFile, error) {
	if !found.MediaType.IsIndex() {
		image, err := found.Image()
		if err != nil {
			return nil, err
		}
		return image.ConfigFile()
	}
	index, err := found.ImageIndex()
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(manifest.Manifests) == 0 {
		return nil, errors.New("the index is empty")
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return nil, err
	}
	return image.ConfigFile()
}

// PushByDigest pushes an image to a repository, without a tag, and returns repository@digest after it has asked the
// registry whether that is there.
func PushByDigest(ctx context.Context, image v1.Image, repository name.Repository, keychain authn.Keychain) (string, error) {
	digest, err := image.Digest()
	if err != nil {
		return "", err
	}
	ref, options := repository.Digest(digest.String()), Options(ctx, keychain)
	if err := remote.Write(ref, image, options...); err != nil {
		return "", fmt.Errorf("push to %s: %w; it is safe to push again", repository, explained(err))
	}
	if _, err := remote.Head(ref, options...); err != nil {
		return "", fmt.Errorf("pushed %s, but the registry does not have it: %w; it is safe to push again", ref, explained(err))
	}
	return ref.Name(), nil
}

// ReadArtifact reads an artifact with one layer, both of which are of the media types that are named, and no larger than
// limit. The digests are checked as it is read.
func ReadArtifact(ctx context.Context, option, reference, configType, layerType string, limit int64, keychain authn.Keychain) (*v1.Manifest, []byte, error) {
	invalid := func(problem string) error {
		return &usererr.Error{Field: option, Problem: reference + " " + problem, Fix: "give the digest that `crossbill bundle` has printed"}
	}
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, nil, &usererr.Error{Field: option, Problem: fmt.Sprintf("%q has no digest", reference), Fix: "give repository@sha256:…; a tag may name another one tomorrow"}
	}
	options := Options(ctx, keychain)
	found, err := remote.Get(ref, options...)
	if err != nil {
		return nil, nil, missingIsBadInput(option, reference, err)
	}
	if found.MediaType.IsIndex() {
		return nil, nil, invalid("is an index of images")
	}
	image, err := found.Image()
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", reference, err)
	}
	manifest, err := image.Manifest()
	if err != nil {
		return nil, nil, invalid("cannot be read: " + err.Error())
	}
	switch {
	case string(manifest.Config.MediaType) != configType:
		return nil, nil, invalid(fmt.Sprintf("is of type %q, not %q", manifest.Config.MediaType, configType))
	case len(manifest.Layers) != 1:
		return nil, nil, invalid(fmt.Sprintf("has %d layers, not one", len(manifest.Layers)))
	case string(manifest.Layers[0].MediaType) != layerType:
		return nil, nil, invalid(fmt.Sprintf("has a layer of type %q, not %q", manifest.Layers[0].MediaType, layerType))
	case manifest.Layers[0].Size > limit:
		return nil, nil, invalid(fmt.Sprintf("is larger than %d MiB", limit>>20))
	}
	layer, err := remote.Layer(ref.Context().Digest(manifest.Layers[0].Digest.String()), options...)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", reference, explained(err))
	}
	compressed, err := layer.Compressed()
	if err != nil {
		return nil, nil, missingIsBadInput(option, reference, err)
	}
	defer compressed.Close()
	content, err := io.ReadAll(io.LimitReader(compressed, limit+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%s: %w", reference, explained(err))
	case int64(len(content)) > limit:
		return nil, nil, invalid(fmt.Sprintf("is larger than %d MiB", limit>>20))
	}
	return manifest, content, nil
}

// missingIsBadInput is a registry's error; of what it does not have, the one of the option that names it.
func missingIsBadInput(option, reference string, err error) error {
	if answer, ok := errors.AsType[*transport.Error](err); ok && answer.StatusCode == http.StatusNotFound {
		return &usererr.Error{Field: option, Problem: "the registry does not have " + reference, Fix: "push it first, or correct repository and digest"}
	}
	return fmt.Errorf("%s: %w", reference, explained(err))
}
