package provenance

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Image is all that a registry has of an image: what it is, and what is attached to it. Only Verifier.Verify says whether
// an attachment can be believed.
type Image struct {
	Reference   string            `json:"image"`
	MediaType   string            `json:"mediaType"`
	Platforms   []string          `json:"platforms,omitempty"`
	SizeBytes   int64             `json:"sizeBytes"` // compressed, of the first platform
	CreatedAt   time.Time         `json:"createdAt"`
	User        string            `json:"user"`
	Command     []string          `json:"command"`
	Labels      map[string]string `json:"labels,omitempty"`
	Attachments []Attachment      `json:"attachments"`
	Skipped     []string          `json:"skipped,omitempty"` // attachments that cannot be read or were not looked at
}

// Attachment is something that is attached to an image.
type Attachment struct {
	Digest    string  `json:"digest"`
	MediaType string  `json:"mediaType"`
	CreatedAt string  `json:"createdAt,omitempty"`
	Kind      string  `json:"kind"` // sbom, provenance, signature, unreadable, or a predicate's type
	Packages  int     `json:"packages,omitempty"`
	Origin    *Origin `json:"origin,omitempty"` // what a provenance says: not verified
	Problem   string  `json:"problem,omitempty"`
}

// Inspect reads an image's description and attachments.
func Inspect(ctx context.Context, image name.Digest, options ...remote.Option) (*Image, error) {
	options = append(slices.Clip(options), remote.WithContext(ctx))
	descriptor, err := remote.Get(image, options...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", image, err)
	}
	inspected := &Image{Reference: image.Name(), MediaType: string(descriptor.MediaType), Attachments: []Attachment{}}
	first, platforms, err := firstImage(descriptor)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", image, err)
	}
	inspected.Platforms = platforms
	if err := inspected.describe(first); err != nil {
		return nil, fmt.Errorf("%s: %w", image, err)
	}
	looked, err := readAttachments(ctx, image, []string{bundleMediaType, sbomMediaType}, options, func(a attachment) bool {
		inspected.Attachments = append(inspected.Attachments, a.described())
		return false
	})
	if err == nil {
		err = looked.failed
	}
	if err != nil {
		return nil, err
	}
	inspected.Skipped = append(fewer(looked.skipped), looked.unseen...)
	slices.SortFunc(inspected.Attachments, func(a, b Attachment) int {
		return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Digest, b.Digest))
	})
	return inspected, nil
}

// firstImage is the image itself, or the first one of an index and the platforms of all.
func firstImage(descriptor *remote.Descriptor) (v1.Image, []string, error) {
	if !descriptor.MediaType.IsIndex() {
		image, err := descriptor.Image()
		return image, nil, err
	}
	index, err := descriptor.ImageIndex()
	if err != nil {
		return nil, nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, nil, err
	}
	if len(manifest.Manifests) == 0 {
		return nil, nil, errors.New("the index is empty")
	}
	var platforms []string
	for _, m := range manifest.Manifests {
		if m.Platform != nil {
			platforms = append(platforms, m.Platform.String())
		}
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	return image, platforms, err
}

// describe fills in what an image's own manifest and configuration have.
func (i *Image) describe(image v1.Image) error {
	manifest, err := image.Manifest()
	if err != nil {
		return err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	i.SizeBytes = manifest.Config.Size
	for _, l := range manifest.Layers {
		i.SizeBytes += l.Size
	}
	if platform := config.Platform(); i.Platforms == nil && platform != nil {
		i.Platforms = []string{platform.String()}
	}
	i.CreatedAt, i.User, i.Labels = config.Created.Time, config.Config.User, config.Config.Labels
	i.Command = slices.Concat(config.Config.Entrypoint, config.Config.Cmd)
	return nil
}

// described is what an attachment says of itself.
func (a attachment) described() Attachment {
	d := Attachment{Digest: a.digest, MediaType: a.mediaType, CreatedAt: a.created}
	if a.mediaType == sbomMediaType {
		d.Kind = "sbom"
		var bom cdx.BOM
		if err := cdx.NewBOMDecoder(bytes.NewReader(a.content), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
			d.Problem = err.Error()
		} else if bom.Components != nil {
			d.Packages = len(*bom.Components)
		}
		return d
	}
	entity, err := parseBundle(a.content)
	if err != nil {
		d.Kind, d.Problem = "unreadable", err.Error()
		return d
	}
	s, err := unverified(entity)
	if err != nil {
		d.Kind, d.Problem = "unreadable", err.Error()
		return d
	}
	switch s.GetPredicateType() {
	case signatureType:
		d.Kind = "signature"
	case provenanceType:
		d.Kind = "provenance"
		p, err := predicateOf(s)
		if err == nil {
			d.Origin, err = p.origin()
		}
		if err != nil {
			d.Problem = err.Error()
		}
	default:
		d.Kind = s.GetPredicateType()
	}
	return d
}
