package provenance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Chain is all that a registry knows of an image: what it is, and what is attached to it. Only Trust.Check says
// whether what is attached can be believed.
type Chain struct {
	Image     string            `json:"image"`
	MediaType string            `json:"mediaType"`
	Platforms []string          `json:"platforms,omitempty"`
	Size      int64             `json:"size"` // compressed, in bytes, of the first platform
	Created   time.Time         `json:"created"`
	User      string            `json:"user"`
	Command   []string          `json:"command"`
	Labels    map[string]string `json:"labels,omitempty"`
	Attached  []Link            `json:"attached"`
}

// Link is something that is attached to an image.
type Link struct {
	Digest    string  `json:"digest"`
	MediaType string  `json:"mediaType"`
	Created   string  `json:"created,omitempty"`
	Kind      string  `json:"kind"` // sbom, provenance, signature, or a predicate's type
	Packages  int     `json:"packages,omitempty"`
	Origin    *Origin `json:"origin,omitempty"` // of a provenance; as it says, unchecked
	Problem   string  `json:"problem,omitempty"`
}

// Inspect reads the chain of an image.
func Inspect(ctx context.Context, image name.Digest, options ...remote.Option) (*Chain, error) {
	options = append(options, remote.WithContext(ctx))
	described, err := remote.Get(image, options...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", image, err)
	}
	c := &Chain{Image: image.Name(), MediaType: string(described.MediaType), Attached: []Link{}}
	one, err := c.first(described)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", image, err)
	}
	if err := c.describe(one); err != nil {
		return nil, fmt.Errorf("%s: %w", image, err)
	}
	attached, err := List(ctx, image, []string{bundleMediaType, SBOMMediaType}, options...)
	if err != nil {
		return nil, err
	}
	for _, a := range attached {
		c.Attached = append(c.Attached, linkOf(a))
	}
	slices.SortStableFunc(c.Attached, func(a, b Link) int { return strings.Compare(a.Created, b.Created) })
	return c, nil
}

// first is the image, or of an index its first one.
func (c *Chain) first(described *remote.Descriptor) (v1.Image, error) {
	if !described.MediaType.IsIndex() {
		return described.Image()
	}
	index, err := described.ImageIndex()
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(manifest.Manifests) == 0 {
		return nil, fmt.Errorf("the index is empty")
	}
	for _, m := range manifest.Manifests {
		if m.Platform != nil {
			c.Platforms = append(c.Platforms, m.Platform.String())
		}
	}
	return index.Image(manifest.Manifests[0].Digest)
}

func (c *Chain) describe(one v1.Image) error {
	manifest, err := one.Manifest()
	if err != nil {
		return err
	}
	config, err := one.ConfigFile()
	if err != nil {
		return err
	}
	c.Size = manifest.Config.Size
	for _, l := range manifest.Layers {
		c.Size += l.Size
	}
	if platform := config.Platform(); c.Platforms == nil && platform != nil {
		c.Platforms = []string{platform.String()}
	}
	c.Created, c.User, c.Labels = config.Created.Time, config.Config.User, config.Config.Labels
	c.Command = slices.Concat(config.Config.Entrypoint, config.Config.Cmd)
	return nil
}

func linkOf(a Attached) Link {
	l := Link{Digest: a.Digest, MediaType: a.MediaType, Created: a.Created}
	if a.MediaType == SBOMMediaType {
		l.Kind = "sbom"
		var bom cdx.BOM
		if err := cdx.NewBOMDecoder(bytes.NewReader(a.Content), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
			l.Problem = err.Error()
		} else if bom.Components != nil {
			l.Packages = len(*bom.Components)
		}
		return l
	}
	entity, err := parse(a.Content)
	if err == nil {
		var said *Statement
		if said, err = unverified(entity); err == nil {
			return l.saying(said)
		}
	}
	l.Kind, l.Problem = "unreadable", err.Error()
	return l
}

func (l Link) saying(said *Statement) Link {
	switch said.PredicateType {
	case SignatureType:
		l.Kind = "signature"
	case ProvenanceType:
		l.Kind = "provenance"
		var p Provenance
		if err := json.Unmarshal(said.Predicate, &p); err != nil {
			l.Problem = err.Error()
			return l
		}
		l.Origin = &Origin{Builder: p.RunDetails.Builder.ID}
		l.Origin.Repository, l.Origin.Commit = p.Source()
	default:
		l.Kind = said.PredicateType
	}
	return l
}
