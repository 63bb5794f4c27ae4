package provenance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/protobuf/proto"
)

const (
	bundleMediaType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	sbomMediaType   = "application/vnd.cyclonedx+json" // https://cyclonedx.org/specification/overview/
	emptyMediaType  = "application/vnd.oci.empty.v1+json"
	createdKey      = "org.opencontainers.image.created"
)

// Attested are the digests of what Attest attached to an image.
type Attested struct {
	SBOM       string // "" without an SBOM
	Provenance string
	Signature  string
}

// Attest attaches to an image an SBOM (CycloneDX as JSON; nil for none), a signed provenance, and a signature as cosign
// makes them. It is safe to repeat after an error.
func Attest(ctx context.Context, signer *Signer, image name.Digest, build Build, sbom []byte, created time.Time, options ...remote.Option) (*Attested, error) {
	attested := &Attested{}
	var err error
	if sbom != nil {
		if attested.SBOM, err = attach(ctx, image, sbomMediaType, sbom, nil, created, options...); err != nil {
			return nil, err
		}
		build.SBOM = attested.SBOM
	}
	provenance, err := build.provenance()
	if err != nil {
		return nil, err
	}
	if attested.Provenance, err = attachStatement(ctx, signer, image, provenanceType, provenance, created, options...); err != nil {
		return nil, err
	}
	if attested.Signature, err = attachStatement(ctx, signer, image, signatureType, nil, created, options...); err != nil {
		return nil, err
	}
	return attested, nil
}

// attachStatement signs a statement about an image and attaches it. It returns the digest of what it attached.
func attachStatement(ctx context.Context, s *Signer, image name.Digest, predicateType string, predicate proto.Message, created time.Time, options ...remote.Option) (string, error) {
	text, err := statement(image.Context().Name(), image.DigestStr(), predicateType, predicate)
	if err != nil {
		return "", err
	}
	signed, err := s.sign(ctx, text)
	if err != nil {
		return "", err
	}
	annotations := map[string]string{"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": predicateType}
	return attach(ctx, image, bundleMediaType, signed, annotations, created, options...)
}

// attach attaches content to an image and returns the digest of its manifest, which is the same for the same content
// and time.
func attach(ctx context.Context, image name.Digest, mediaType string, content []byte, annotations map[string]string, created time.Time, options ...remote.Option) (string, error) {
	options = append(slices.Clip(options), remote.WithContext(ctx))
	subject, err := remote.Head(image, options...)
	if err != nil {
		return "", fmt.Errorf("%s: %w", image, err)
	}
	layer, config := static.NewLayer(content, types.MediaType(mediaType)), static.NewLayer([]byte("{}"), emptyMediaType)
	var described []v1.Descriptor
	for _, l := range []v1.Layer{layer, config} {
		if err := remote.WriteLayer(image.Context(), l, options...); err != nil {
			return "", fmt.Errorf("attach to %s: %w; it is safe to repeat", image, err)
		}
		d, err := partial.Descriptor(l)
		if err != nil {
			return "", err
		}
		described = append(described, *d)
	}
	all := map[string]string{createdKey: created.UTC().Format(time.RFC3339)}
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
	digest, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return "", err
	}
	if err := remote.Put(image.Context().Digest(digest.String()), m, options...); err != nil {
		return "", fmt.Errorf("attach to %s: %w; it is safe to repeat", image, err)
	}
	return digest.String(), nil
}

// referrer is a manifest with the artifact type of OCI 1.1, which go-containerregistry's lacks.
type referrer struct {
	v1.Manifest
	ArtifactType string `json:"artifactType,omitempty"`
}

func (r referrer) RawManifest() ([]byte, error) { return json.Marshal(r) }

// MediaType makes it something that the registry client can put.
func (r referrer) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
