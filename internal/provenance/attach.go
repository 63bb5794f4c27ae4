package provenance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	bundleMediaType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	emptyMediaType  = "application/vnd.oci.empty.v1+json"
	mostAttached    = 64      // what is attached to one image, of which more is not looked at
	mostBytes       = 4 << 20 // of one of them
)

// Attached is something in the registry that refers to an image
// (https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers).
type Attached struct {
	Digest    string // of its manifest
	MediaType string // of its content
	Created   string
	Content   []byte
}

// Attach puts content beside an image. The same content twice is there twice, but for the same time it is the
// same bytes.
func Attach(ctx context.Context, image name.Digest, mediaType string, content []byte, annotations map[string]string, created time.Time, options ...remote.Option) (digest string, err error) {
	options = append(options, remote.WithContext(ctx))
	subject, err := remote.Head(image, options...)
	if err != nil {
		return "", fmt.Errorf("%s: %w", image, err)
	}
	layer, config := static.NewLayer(content, types.MediaType(mediaType)), static.NewLayer([]byte("{}"), emptyMediaType)
	var described []v1.Descriptor
	for _, l := range []v1.Layer{layer, config} {
		if err := remote.WriteLayer(image.Context(), l, options...); err != nil {
			return "", fmt.Errorf("attaching to %s: %w; doing it again is safe", image, err)
		}
		d, err := partial.Descriptor(l)
		if err != nil {
			return "", err
		}
		described = append(described, *d)
	}
	all := map[string]string{"org.opencontainers.image.created": created.UTC().Format(time.RFC3339)}
	maps.Copy(all, annotations)
	m := referrer{
		Manifest: v1.Manifest{
			SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: described[1], Layers: described[:1], Annotations: all,
			Subject: &v1.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		},
		ArtifactType: mediaType,
	}
	raw, err := m.RawManifest()
	if err != nil {
		return "", err
	}
	sum, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return "", err
	}
	if err := remote.Put(image.Context().Digest(sum.String()), m, options...); err != nil {
		return "", fmt.Errorf("attaching to %s: %w; doing it again is safe", image, err)
	}
	return sum.String(), nil
}

// Say signs a statement about an image and attaches it.
func Say(ctx context.Context, s *Signer, image name.Digest, predicateType string, predicate any, created time.Time, options ...remote.Option) (digest string, err error) {
	text, err := StatementOf(image.Context().Name(), image.DigestStr(), predicateType, predicate)
	if err != nil {
		return "", err
	}
	signed, err := s.Sign(ctx, text)
	if err != nil {
		return "", err
	}
	annotations := map[string]string{"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": predicateType}
	return Attach(ctx, image, bundleMediaType, signed, annotations, created, options...)
}

// referrer is a manifest with the artifact type of OCI 1.1, which go-containerregistry's lacks.
type referrer struct {
	v1.Manifest
	ArtifactType string `json:"artifactType,omitempty"`
}

func (r referrer) RawManifest() ([]byte, error) { return json.Marshal(r) }

// MediaType makes it something that the registry client can put.
func (r referrer) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// List reads what is attached to an image and is of one of the media types.
func List(ctx context.Context, image name.Digest, mediaTypes []string, options ...remote.Option) ([]Attached, error) {
	options = append(options, remote.WithContext(ctx))
	index, err := remote.Referrers(image, options...)
	if err != nil {
		return nil, fmt.Errorf("what is attached to %s: %w", image, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("what is attached to %s: %w", image, err)
	}
	var all []Attached
	for i, d := range manifest.Manifests {
		if i == mostAttached {
			break
		}
		found, err := read(image, d, mediaTypes, options)
		if err != nil {
			return nil, fmt.Errorf("%s, attached to %s: %w", d.Digest, image, err)
		}
		if found != nil {
			all = append(all, *found)
		}
	}
	return all, nil
}

// read gives one attached thing; nil when it is of no media type that is wanted.
func read(image name.Digest, d v1.Descriptor, mediaTypes []string, options []remote.Option) (*Attached, error) {
	described, err := remote.Get(image.Context().Digest(d.Digest.String()), options...)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(described.Manifest))
	if err != nil || len(m.Layers) != 1 {
		return nil, nil // an index, or something with parts: not ours
	}
	for _, mediaType := range mediaTypes {
		if string(m.Layers[0].MediaType) != mediaType {
			continue
		}
		layer, err := remote.Layer(image.Context().Digest(m.Layers[0].Digest.String()), options...)
		if err != nil {
			return nil, err
		}
		content, err := layer.Compressed() // as it is in the registry; its digest is checked as it is read
		if err != nil {
			return nil, err
		}
		defer content.Close()
		text, err := io.ReadAll(io.LimitReader(content, mostBytes+1))
		if err != nil {
			return nil, err
		}
		if len(text) > mostBytes {
			return nil, fmt.Errorf("it is larger than %d MB", mostBytes>>20)
		}
		return &Attached{Digest: d.Digest.String(), MediaType: mediaType, Created: m.Annotations["org.opencontainers.image.created"], Content: text}, nil
	}
	return nil, nil
}
