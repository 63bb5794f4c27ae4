// Package registry reads and writes images in an OCI registry, and in OCI image layouts on disk. Push returns what the
// registry answers when it is asked afterward, so that nothing is released by a digest that does not exist.
package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/our-org/crossbill/internal/httpclient"
	"github.com/our-org/crossbill/internal/usererr"
)

// Login is a user name and password, or token, of one registry. Others get what docker login has for them.
type Login struct{ Host, Username, Password string }

// Resolve returns the login for repositories of its registry (authn.Keychain).
func (l Login) Resolve(resource authn.Resource) (authn.Authenticator, error) {
	if resource.RegistryStr() != l.Host {
		return authn.DefaultKeychain.Resolve(resource)
	}
	return authn.FromConfig(authn.AuthConfig{Username: l.Username, Password: l.Password}), nil
}

// HostOf is the registry of a reference, in the form of Login; "" if the reference names none, as oci:FOLDER.
func HostOf(reference string) string {
	ref, err := name.ParseReference(reference)
	if err != nil || strings.HasPrefix(reference, "oci:") {
		return ""
	}
	return ref.Context().RegistryStr()
}

// requestTimeout bounds one request with its answer: a layer's too. How long an answer may be, the library knows.
const requestTimeout = 10 * time.Minute

// Options are those of every call to a registry: the credentials of the keychain, and the one way to retry.
func Options(ctx context.Context, keychain authn.Keychain) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx),
		remote.WithAuthFromKeychain(keychain),
		remote.WithUserAgent("crossbill"),
		remote.WithTransport(httpclient.Guard{Transport: remote.DefaultTransport, Deadline: requestTimeout, OtherOrigins: true}),
		remote.WithRetryBackoff(remote.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 4}),
		remote.WithRetryStatusCodes(http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout),
	}
}

// CheckSource finds what Pull would not take, without a registry.
func CheckSource(option, reference string) error {
	if folder, ok := strings.CutPrefix(reference, "oci:"); ok {
		_, err := readLayout(option, folder)
		return err
	}
	if _, err := name.NewDigest(reference); err != nil {
		return &usererr.Error{Field: option, Problem: fmt.Sprintf("%q is neither oci:FOLDER nor an image with a digest", reference), Fix: "give repository@sha256:…; a tag may name another image tomorrow"}
	}
	return nil
}

// CheckTarget finds what neither Push nor WriteLayout would take, without a registry.
func CheckTarget(push string) error {
	folder, ok := strings.CutPrefix(push, "oci:")
	if !ok {
		_, err := ParseTag("push", push)
		return err
	}
	if folder == "" {
		return &usererr.Error{Field: "push", Problem: "oci: names no folder", Fix: "name a new folder"}
	}
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		return &usererr.Error{Field: "push", Problem: folder + " already exists", Fix: "name a new folder"}
	}
	return nil
}

// Pull loads an image: repository@sha256:… from a registry, of an index the image of linux/amd64; or oci:FOLDER, an
// OCI image layout with one image. Errors for bad input name the option.
func Pull(ctx context.Context, option, reference string, keychain authn.Keychain) (v1.Image, error) {
	if err := CheckSource(option, reference); err != nil {
		return nil, err
	}
	if folder, ok := strings.CutPrefix(reference, "oci:"); ok {
		return readLayout(option, folder)
	}
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, err
	}
	image, err := remote.Image(ref, Options(ctx, keychain)...)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", option, reference, explained(err))
	}
	return image, nil
}

// PullPlatform loads the image for a platform from an index, which is named by digest.
func PullPlatform(ctx context.Context, option, reference string, platform v1.Platform, keychain authn.Keychain) (v1.Image, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, &usererr.Error{Field: option, Problem: fmt.Sprintf("%q is not an image with a digest", reference), Fix: "for several platforms give an index by digest"}
	}
	index, err := remote.Index(ref, Options(ctx, keychain)...)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", option, reference, explained(err))
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", option, reference, err)
	}
	for _, m := range manifest.Manifests {
		if m.Platform != nil && m.Platform.Satisfies(platform) {
			return index.Image(m.Digest)
		}
	}
	return nil, &usererr.Error{Field: "image.platforms", Problem: fmt.Sprintf("%s has no image for %s", reference, platform), Fix: "leave the platform out, or give another " + option}
}

func readLayout(option, folder string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		return nil, &usererr.Error{Field: option, Problem: err.Error(), Fix: "give a folder with an OCI image layout"}
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", option, folder, err)
	}
	if len(manifest.Manifests) != 1 {
		return nil, &usererr.Error{Field: option, Problem: fmt.Sprintf("%s has %d images", folder, len(manifest.Manifests)), Fix: "give a layout with one"}
	}
	return index.Image(manifest.Manifests[0].Digest)
}

// describe asks for what a reference by digest names.
func describe(ctx context.Context, reference string, keychain authn.Keychain) (ref name.Digest, found *remote.Descriptor, err error) {
	if ref, err = name.NewDigest(reference); err != nil {
		return ref, nil, &usererr.Error{Field: "image", Problem: err.Error(), Fix: "give repository@sha256:…"}
	}
	if found, err = remote.Get(ref, Options(ctx, keychain)...); err != nil {
		return ref, nil, fmt.Errorf("%s: %w", reference, explained(err))
	}
	return ref, found, nil
}

// IndexDigests are the digests of the images in an index; none when the reference is to an image.
func IndexDigests(ctx context.Context, reference string, keychain authn.Keychain) ([]string, error) {
	_, described, err := describe(ctx, reference, keychain)
	if err != nil {
		return nil, err
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
	var digests []string
	for _, m := range manifest.Manifests {
		digests = append(digests, m.Digest.String())
	}
	return digests, nil
}

// ConfigDigests are the digests of the configurations of an image, or of all images in an index. A configuration names
// the content of every layer: images that have the same one are the same, whatever their own digests are.
func ConfigDigests(ctx context.Context, reference string, keychain authn.Keychain) ([]string, error) {
	ref, found, err := describe(ctx, reference, keychain)
	if err != nil {
		return nil, err
	}
	if !found.MediaType.IsIndex() {
		manifest, err := v1.ParseManifest(bytes.NewReader(found.Manifest))
		if err == nil && manifest.Config.Digest == (v1.Hash{}) {
			err = errors.New("it names no configuration")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", reference, err)
		}
		return []string{manifest.Config.Digest.String()}, nil
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(found.Manifest))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", reference, err)
	}
	var digests []string
	for _, m := range index.Manifests {
		if m.Platform != nil && m.Platform.OS == "unknown" { // an attestation: no node runs it
			continue
		}
		of, err := ConfigDigests(ctx, ref.Context().Digest(m.Digest.String()).Name(), keychain)
		if err != nil {
			return nil, err
		}
		digests = append(digests, of...)
	}
	return digests, nil
}

// Pushable is an image, or an index of images.
type Pushable interface {
	Digest() (v1.Hash, error)
}

// WriteLayout writes an image or index into a new folder as an OCI image layout and returns oci:FOLDER@digest.
func WriteLayout(pushable Pushable, folder string) (string, error) {
	if err := CheckTarget("oci:" + folder); err != nil {
		return "", err
	}
	digest, err := pushable.Digest()
	if err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	path, err := layout.Write(folder, empty.Index)
	if err == nil {
		switch pushable := pushable.(type) {
		case v1.ImageIndex:
			err = path.AppendIndex(pushable)
		case v1.Image:
			err = path.AppendImage(pushable)
		}
	}
	if err != nil {
		return "", fmt.Errorf("image layout %s: %w", folder, errors.Join(err, os.RemoveAll(folder)))
	}
	return "oci:" + folder + "@" + digest.String(), nil
}

// Push pushes an image or index under a tag and returns repository:tag@digest, after it has asked the registry
// what the tag names now.
func Push(ctx context.Context, pushable Pushable, tag string, keychain authn.Keychain) (string, error) {
	ref, err := ParseTag("push", tag)
	if err != nil {
		return "", err
	}
	digest, err := pushable.Digest()
	if err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	switch pushable := pushable.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, pushable, Options(ctx, keychain)...)
	case v1.Image:
		err = remote.Write(ref, pushable, Options(ctx, keychain)...)
	}
	if err != nil {
		return "", fmt.Errorf("push to %s: %w; it is safe to push again", tag, explained(err))
	}
	got, err := Digest(ctx, tag, keychain)
	if err != nil {
		return "", err
	}
	if want := ref.Name() + "@" + digest.String(); got != want {
		return "", fmt.Errorf("pushed %s, but the registry has %s: somebody else pushed the same tag; release neither", want, got)
	}
	return got, nil
}

// Digest asks a registry for the digest of a tag and returns repository:tag@digest.
func Digest(ctx context.Context, tag string, keychain authn.Keychain) (string, error) {
	ref, err := ParseTag("image", tag)
	if err != nil {
		return "", err
	}
	descriptor, err := remote.Head(ref, Options(ctx, keychain)...)
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", tag, explained(err))
	}
	return ref.Name() + "@" + descriptor.Digest.String(), nil
}

// ParseTag is an image that is named by its tag.
func ParseTag(option, tag string) (name.Tag, error) {
	if strings.Contains(tag, "@") {
		return name.Tag{}, &usererr.Error{Field: option, Problem: fmt.Sprintf("%q has a digest", tag), Fix: "give registry/repository:tag without one"}
	}
	ref, err := name.NewTag(tag, name.StrictValidation)
	if err != nil {
		return name.Tag{}, &usererr.Error{Field: option, Problem: fmt.Sprintf("%q is not registry/repository:tag", tag), Fix: "give all three"}
	}
	return ref, nil
}

// explained is a registry's error with what to do about it.
func explained(err error) error {
	answer, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return err
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w (check the credentials: docker login, or REGISTRY_USERNAME and REGISTRY_PASSWORD for the registry REGISTRY_HOST)", err)
	case http.StatusNotFound:
		return fmt.Errorf("%w (the repository, tag or digest was not found)", err)
	}
	return err
}

// nothing is a digest that no image has.
const nothing = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

// Readable finds out whether a repository can be pulled from with a login, by asking for an image that it does not have.
// exists: the registry knows the repository. Errors for a refused login are *usererr.Error, an *AwayError says that the registry
// does not answer.
func Readable(ctx context.Context, option, repository string, keychain authn.Keychain) (exists bool, err error) {
	ref, err := name.NewDigest(repository + "@" + nothing)
	if err != nil {
		return false, &usererr.Error{Field: option, Problem: err.Error(), Fix: "give registry/repository"}
	}
	_, err = remote.Head(ref, append(Options(ctx, keychain), remote.WithRetryStatusCodes())...)
	answer, ok := errors.AsType[*transport.Error](err)
	switch {
	case err == nil:
		return true, nil
	case !ok:
		return false, &AwayError{repository, err}
	case answer.StatusCode == http.StatusUnauthorized, answer.StatusCode == http.StatusForbidden:
		return false, &usererr.Error{
			Field: option, Problem: fmt.Sprintf("%s may not be pulled from with this login, or does not exist: HTTP %d", repository, answer.StatusCode),
			Fix: "log in with docker login, or set REGISTRY_USERNAME and REGISTRY_PASSWORD for this registry",
		}
	case answer.StatusCode != http.StatusNotFound:
		return false, fmt.Errorf("%s: %w", repository, err)
	}
	// The answer to HEAD has no body: whether it is the image or the repository that is not known, only GET says.
	_, err = remote.Get(ref, append(Options(ctx, keychain), remote.WithRetryStatusCodes())...)
	if answer, ok = errors.AsType[*transport.Error](err); !ok {
		return err == nil, err
	}
	unknown := slices.ContainsFunc(answer.Errors, func(d transport.Diagnostic) bool { return d.Code == transport.NameUnknownErrorCode })
	return !unknown, nil
}

// AwayError says that a registry does not answer.
type AwayError struct {
	Repository string
	Err        error
}

func (e *AwayError) Error() string {
	return fmt.Sprintf("the registry of %s does not answer: %v", e.Repository, e.Err)
}
func (e *AwayError) Unwrap() error { return e.Err }
