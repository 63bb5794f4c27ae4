// Package bundle carries a release in one OCI artifact: the app's manifests and configuration as they were rendered, and the
// image by digest. What it promises: the same manifests and the same image give the same digest on every machine; a bundle
// that is read holds nothing but manifests within bounds; its Deployment runs the image that it names; and Policy.Check
// names every object that a deploying side does not want.
//
// The artifact is as Flux makes them (https://github.com/fluxcd/pkg, oci/push.go), so that an OCIRepository reads it, and
// `oras pull` and `crane export` do. It refers to the image as its subject, and is signed and verified like an image.
package bundle

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Media types of Flux's artifacts (https://fluxcd.io/flux/cheatsheets/oci-artifacts/).
const (
	ConfigMediaType  = "application/vnd.cncf.flux.config.v1+json"
	ContentMediaType = "application/vnd.cncf.flux.content.v1.tar+gzip"
)

// Annotations of a bundle's manifest, which are the labels of its configuration too.
const (
	ImageAnnotation    = "crossbill.our-org.github.com/image" // repository@sha256:…
	appAnnotation      = "crossbill.our-org.github.com/app"
	routerAnnotation   = "crossbill.our-org.github.com/router" // where it was said
	sourceAnnotation   = "org.opencontainers.image.source"
	revisionAnnotation = "org.opencontainers.image.revision"
	createdAnnotation  = "org.opencontainers.image.created"
	titleAnnotation    = "org.opencontainers.image.title" // of a layer: oras pulls it under that name
)

// Scheme is how a reference to a bundle begins where folders may be named as well.
const Scheme = "oci://"

// fileName is the one file of a bundle that crossbill makes.
const fileName = "manifests.yaml"

// Bundle is what a bundle says of itself, and what it holds.
type Bundle struct {
	Reference string             // repository@sha256:…
	Image     string             // that is released, by digest
	Source    string             // repository that it comes from; "" if not known
	Revision  string             // commit; "" if not known
	Rendered  *manifest.Rendered // with the image in the Deployment
	Set       *manifest.Set
}

// Named says whether manifests are in a bundle.
func Named(manifests string) bool { return strings.HasPrefix(manifests, Scheme) }

// Parse gives a reference to a bundle as repository@sha256:…
func Parse(option, reference string) (string, error) {
	plain := strings.TrimPrefix(reference, Scheme)
	ref, err := name.NewDigest(plain)
	if err != nil {
		return "", &usererr.Error{Field: option, Problem: fmt.Sprintf("%q names no bundle by digest", reference), Fix: "give oci://repository@sha256:…, as `crossbill bundle` prints it"}
	}
	return ref.Name(), nil
}

// Origin is what a bundle says of where it comes from.
type Origin struct {
	Source, Revision string // "" if not known
	Created          time.Time
}

// Content is what goes into a bundle: what was rendered, with the image in the app's Deployment.
type Content struct {
	App, Image string
	Rendered   *manifest.Rendered
}

// Fill puts an image that is named by digest into what was rendered. Secrets with values are refused unless they are
// allowed. Errors are *usererr.Error.
func Fill(rendered *manifest.Rendered, image string, allowSecrets bool) (*Content, error) {
	image, err := release.ParseImage("image", image)
	if err != nil {
		return nil, err
	}
	set, err := rendered.Set()
	if err != nil {
		return nil, err
	}
	if err := set.Releasable(); err != nil {
		return nil, err
	}
	if !allowSecrets {
		if err := refuseSecrets(rendered); err != nil {
			return nil, err
		}
	}
	filled, err := rendered.WithImage(set, image)
	if err != nil {
		return nil, err
	}
	return &Content{set.App, image, filled}, nil
}

// refuseSecrets names the Secrets that have values.
func refuseSecrets(rendered *manifest.Rendered) error {
	objects, err := Objects(rendered)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if isSecret(o) && holdsValues(o.Object) {
			return &usererr.Error{
				Field: "bundle.allowSecrets", Problem: fmt.Sprintf("Secret %s has values, which everybody can read who can pull the bundle", o.GetName()),
				Fix: "leave it out, so that the one in the cluster is read (an operator can make that: SealedSecret, ExternalSecret), or give --allow-secrets",
			}
		}
	}
	return nil
}

// Objects are the objects of what was rendered.
func Objects(rendered *manifest.Rendered) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	for i := range rendered.Objects {
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(rendered.Objects[i].Raw); err != nil {
			return nil, &usererr.Error{Field: rendered.Objects[i].From, Problem: rendered.Objects[i].String() + " is not a Kubernetes object"}
		}
		objects = append(objects, o)
	}
	return objects, nil
}

// Artifact makes a bundle. subject is the image, as its registry describes it; nil where the bundle goes to another
// repository, where nothing refers to the image.
func Artifact(c *Content, subject *v1.Descriptor, origin Origin) (v1.Image, error) {
	packed, err := pack([]File{{fileName, c.Rendered.YAML()}})
	if err != nil {
		return nil, &usererr.Error{Field: "manifests", Problem: err.Error(), Fix: "leave out what the release does not need"}
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed)), nil }, tarball.WithMediaType(ContentMediaType))
	if err != nil {
		return nil, err
	}
	annotations := map[string]string{ImageAnnotation: c.Image, appAnnotation: c.App, createdAnnotation: origin.Created.UTC().Format(time.RFC3339)}
	for key, value := range map[string]string{sourceAnnotation: origin.Source, revisionAnnotation: origin.Revision, routerAnnotation: c.Rendered.Router} {
		if value != "" {
			annotations[key] = value
		}
	}
	made, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{Layer: layer, Annotations: map[string]string{titleAnnotation: "manifests.tar.gz"}})
	if err != nil {
		return nil, err
	}
	config, err := made.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Created, config.Config.Labels = v1.Time{Time: origin.Created.UTC()}, annotations // `image attest` reads the labels
	if made, err = mutate.ConfigFile(made, config); err != nil {
		return nil, err
	}
	made = mutate.Annotations(mutate.ConfigMediaType(made, ConfigMediaType), annotations).(v1.Image)
	if subject != nil { // last: every change after it leaves it out
		made = mutate.Subject(made, *subject).(v1.Image)
	}
	return made, nil
}

// Push describes the image in its registry, and pushes the bundle to a repository, that of the image for "". It returns the
// bundle's reference. What origin leaves open the image's labels say.
func Push(ctx context.Context, c *Content, repository string, origin Origin, keychain authn.Keychain) (string, error) {
	image, err := registry.Describe(ctx, "image", c.Image, keychain)
	if err != nil {
		return "", err
	}
	own, err := name.NewDigest(c.Image)
	if err != nil {
		return "", err
	}
	to, subject := own.Context(), &image.Descriptor
	if repository != "" {
		if to, err = ParseRepository("repository", repository); err != nil {
			return "", err
		}
		if to.Name() != own.Context().Name() {
			subject = nil
		}
	}
	origin.Source = cmp.Or(origin.Source, image.Labels[sourceAnnotation])
	origin.Revision = cmp.Or(origin.Revision, image.Labels[revisionAnnotation])
	if origin.Created.IsZero() {
		origin.Created = image.Created.Time
	}
	if origin.Created.IsZero() {
		origin.Created = time.Unix(0, 0)
	}
	made, err := Artifact(c, subject, origin)
	if err != nil {
		return "", err
	}
	return registry.PushByDigest(ctx, made, to, keychain)
}

// ParseRepository is a repository without tag and digest.
func ParseRepository(option, repository string) (name.Repository, error) {
	parsed, err := name.NewRepository(strings.TrimPrefix(repository, Scheme), name.StrictValidation)
	if err != nil {
		return name.Repository{}, &usererr.Error{Field: option, Problem: fmt.Sprintf("%q is not a repository", repository), Fix: "give registry/name, without tag or digest"}
	}
	return parsed, nil
}

// Pull reads a bundle, which is named by digest. Who made it is not checked: that is for the image policy, before. Errors for
// what is no bundle, or contradicts itself, are *usererr.Error and name the option.
func Pull(ctx context.Context, option, reference string, keychain authn.Keychain) (*Bundle, error) {
	reference, err := Parse(option, reference)
	if err != nil {
		return nil, err
	}
	found, packed, err := registry.ReadArtifact(ctx, option, reference, ConfigMediaType, ContentMediaType, maxPacked, keychain)
	if err != nil {
		return nil, err
	}
	return read(option, reference, found, packed)
}

// read takes a bundle apart, and compares what it says of its image with what it holds.
func read(option, reference string, found *v1.Manifest, packed []byte) (*Bundle, error) {
	invalid := func(problem string) error {
		return &usererr.Error{Field: option, Problem: reference + ": " + problem, Fix: "give one that `crossbill bundle` has made"}
	}
	files, err := unpack(packed)
	if err != nil {
		return nil, invalid(err.Error())
	}
	b := &Bundle{Reference: reference, Source: found.Annotations[sourceAnnotation], Revision: found.Annotations[revisionAnnotation]}
	if b.Image, err = release.ParseImage(option, found.Annotations[ImageAnnotation]); err != nil {
		return nil, invalid(fmt.Sprintf("it names no image by digest in its annotation %s", ImageAnnotation))
	}
	if found.Subject != nil && found.Subject.Digest.String() != release.DigestOf(b.Image) {
		return nil, invalid(fmt.Sprintf("it names the image %s, and refers to %s", b.Image, found.Subject.Digest))
	}
	var text bytes.Buffer
	for _, file := range files {
		fmt.Fprintf(&text, "---\n%s\n", file.Text)
	}
	if b.Rendered, err = manifest.RenderedFrom(reference, text.Bytes()); err != nil {
		return nil, err
	}
	b.Rendered.App, b.Rendered.Router = found.Annotations[appAnnotation], found.Annotations[routerAnnotation]
	if b.Set, err = b.Rendered.Set(); err != nil {
		return nil, err
	}
	if runs := b.Set.Image(b.Set.Deployment); runs != b.Image {
		return nil, invalid(fmt.Sprintf("it names the image %s, and its Deployment %s runs %q", b.Image, b.Set.Deployment.Name, runs))
	}
	return b, nil
}
