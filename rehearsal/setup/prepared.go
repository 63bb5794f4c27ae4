package setup

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// PreparedVariable names a control plane that was published with [Publish], for whoever does not want to compile one:
// registry.example.com/our-org/control-plane@sha256:….
const PreparedVariable = "REHEARSAL_CONTROL_PLANE"

// What a prepared control plane is in a registry: an image with one layer, the program, and the name of its folder in the cache
// as an annotation. The name says what it was made of, so that one for other sources is not taken.
const (
	preparedLayer  = types.MediaType("application/vnd.crossbill.control-plane.v1+gzip")
	preparedConfig = types.MediaType("application/vnd.crossbill.control-plane.config.v1+json")
	preparedName   = "io.crossbill.control-plane"
)

// Prepared is the prepared control plane that the environment names; nil if it names none.
func Prepared() (*name.Digest, error) {
	text := os.Getenv(PreparedVariable)
	if text == "" {
		return nil, nil
	}
	reference, err := name.NewDigest(text, name.StrictValidation)
	if err != nil {
		return nil, fmt.Errorf("%s: %q is not a reference by digest; give registry/repository@sha256:…, as make publish-control-plane prints it, or nothing to build it here", PreparedVariable, text)
	}
	return &reference, nil
}

// options are those of every request to a registry.
func options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
}

// FetchPrepared brings the prepared control plane into the cache, if the environment names one and none is there. An error says why
// it has to be built. [Ensure] does the same.
func FetchPrepared(ctx context.Context, module string, log Log) error {
	cache, s, err := placeOf(module)
	if err != nil {
		return err
	}
	return fetchPrepared(ctx, cache, s, log)
}

func fetchPrepared(ctx context.Context, cache string, s source, log Log) error {
	reference, err := Prepared()
	if err != nil || reference == nil {
		return err
	}
	_, err = ensure(ctx, cache, s.name, "testcluster", log, func(dir string) error {
		return fetchTestcluster(ctx, *reference, s.name, dir, log)
	})
	if err != nil {
		return fmt.Errorf("the prepared control plane %s cannot be used: %w", reference, err)
	}
	return nil
}

// fetchTestcluster brings a prepared control plane into a folder. Nothing is taken but what has the digest of the reference, and
// was made of the sources that want names.
func fetchTestcluster(ctx context.Context, reference name.Digest, want, dir string, log Log) error {
	image, err := remote.Image(reference, options(ctx)...) // checks the manifest's digest
	if err != nil {
		return err
	}
	manifest, err := image.Manifest()
	if err != nil {
		return err
	}
	if made := manifest.Annotations[preparedName]; made != want {
		return fmt.Errorf("it is %q, and this checkout needs %s", made, want)
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	if len(layers) != 1 || manifest.Layers[0].MediaType != preparedLayer {
		return fmt.Errorf("it has %d layers, the first of type %s; want one of type %s", len(layers), manifest.Layers[0].MediaType, preparedLayer)
	}
	log("fetching the control plane %s, %d MB", reference, manifest.Layers[0].Size/1e6)
	program := filepath.Join(dir, "testcluster")
	if err := unpackLayer(layers[0], program); err != nil {
		return err
	}
	return verify(ctx, program, "version")
}

// unpackLayer writes what a layer holds into a file, and checks the layer's digest.
func unpackLayer(layer v1.Layer, program string) error {
	compressed, err := layer.Compressed() // fails at its end when its digest is another one
	if err != nil {
		return err
	}
	defer compressed.Close()
	text, err := gzip.NewReader(compressed)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, text)
	if err == nil {
		_, err = io.Copy(io.Discard, compressed) // what follows the program is part of what has the digest
	}
	return errors.Join(err, out.Close())
}

// CheckRepository says what is wrong with one to publish to.
func CheckRepository(repository string) error {
	if _, err := name.NewRepository(repository, name.StrictValidation); err != nil {
		return fmt.Errorf("%q is not a repository; give one with its registry, as in registry.example.com/our-org/control-plane", repository)
	}
	return nil
}

// Publish pushes the control plane of this checkout into a repository, and returns the reference to give to others as
// [PreparedVariable]. The same program has the same digest.
func Publish(ctx context.Context, module, repository string, log Log) (reference string, err error) {
	to, err := name.NewRepository(repository, name.StrictValidation)
	if err != nil {
		return "", err
	}
	program, s, err := ensureTestcluster(ctx, module, log)
	if err != nil {
		return "", err
	}
	return publish(ctx, to, s.name, program, log)
}

func publish(ctx context.Context, to name.Repository, made, program string, log Log) (reference string, err error) {
	text, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	compressed := gzipped(string(text))
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), preparedConfig)
	if image, err = mutate.AppendLayers(image, static.NewLayer(compressed, preparedLayer)); err != nil {
		return "", err
	}
	image = mutate.Annotations(image, map[string]string{preparedName: made}).(v1.Image)
	digest, err := image.Digest()
	if err != nil {
		return "", err
	}
	log("pushing %s, %d MB", made, len(compressed)/1e6)
	if err := remote.Write(to.Tag(made), image, options(ctx)...); err != nil {
		return "", err
	}
	return to.Digest(digest.String()).String(), nil
}

func gzipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, text) // into memory: there is nothing to fail
	_ = w.Close()
	return b.Bytes()
}
