// Package image builds the image of a Node app without a container engine: the built app, without node_modules, on a
// base image that has Node. The same files on the same base give the same digest. It also lists what is inside (SBOM). The
// image of the crossbill command itself is built here too.
package image

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/our-org/crossbill/internal/usererr"
)

// DefaultBase is Node 24 on distroless, without a shell and not root: a multi-platform index.
const DefaultBase = "gcr.io/distroless/nodejs24-debian12:nonroot@sha256:14d42e2511532589a7c7e01a753667a74fcc96266e137e8125006b87b0c32d0a"

// How every image of an app runs.
const (
	User       = "65532:65532"      // "nonroot" of distroless images
	Node       = "/nodejs/bin/node" // where distroless images have it
	workingDir = "/app"
	entryPoint = "server/entry.fastify.js"
)

// ports are the app's: requests, and metrics.
var ports = []string{"3000/tcp", "9464/tcp"}

// folders of a built app that go into the image. The server is a bundle: there is no node_modules.
var folders = []string{"dist", "server"}

// Labels are the descriptions of an image (OCI image spec, annotations).
type Labels struct {
	Title    string
	Version  string
	Revision string    // commit
	Source   string    // URL of the repository
	Created  time.Time // time of the commit, so that the same commit gives the same image; zero is the Unix epoch
	Base     string    // reference of the base image
	AssetsOf string    // repository@digest of the image whose assets are included; "" for none
}

// AssetsOfLabel is the label that names the image whose assets are included.
const AssetsOfLabel = "com.github.our-org.crossbill.assets-of"

// annotations are the labels under their standard keys, without empty ones.
func (l Labels) annotations() map[string]string {
	m := map[string]string{
		"org.opencontainers.image.title":     l.Title,
		"org.opencontainers.image.version":   l.Version,
		"org.opencontainers.image.revision":  l.Revision,
		"org.opencontainers.image.source":    l.Source,
		"org.opencontainers.image.base.name": l.Base,
		AssetsOfLabel:                        l.AssetsOf,
		"org.opencontainers.image.created":   l.created().Format(time.RFC3339),
	}
	maps.DeleteFunc(m, func(_, value string) bool { return value == "" })
	return m
}

func (l Labels) created() time.Time {
	if l.Created.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	return l.Created.UTC()
}

// Build puts a built app (a folder with dist and server) on a base image, with other layers in between if some
// are given.
func Build(base v1.Image, appDir string, labels Labels, below ...v1.Layer) (v1.Image, error) {
	if err := CheckApp(appDir); err != nil {
		return nil, err
	}
	app, err := Layer(appDir, folders, workingDir, labels.created())
	if err != nil {
		return nil, fmt.Errorf("layer of %s: %w", appDir, err)
	}
	var layers []mutate.Addendum
	for _, layer := range below {
		layers = append(layers, addendum(layer, labels, "crossbill image build --assets-of"))
	}
	return build(base, labels, configured, append(layers, addendum(app, labels, "crossbill image build"))...)
}

// addendum is a layer and the command that made it.
func addendum(layer v1.Layer, labels Labels, command string) mutate.Addendum {
	return mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{Author: "crossbill", CreatedBy: command, Created: v1.Time{Time: labels.created()}}}
}

// build puts layers on a base image, and gives it the configuration that is made of the base's.
func build(base v1.Image, labels Labels, configured func(*v1.ConfigFile, Labels) *v1.ConfigFile, layers ...mutate.Addendum) (v1.Image, error) {
	image, err := mutate.Append(base, layers...)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("base image: %w", err)
	}
	if image, err = mutate.ConfigFile(image, configured(config, labels)); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	image = mutate.MediaType(mutate.ConfigMediaType(image, types.OCIConfigJSON), types.OCIManifestSchema1)
	return mutate.Annotations(image, labels.annotations()).(v1.Image), nil
}

// configured is a base image's configuration with what runs the app.
func configured(base *v1.ConfigFile, labels Labels) *v1.ConfigFile {
	config := base.DeepCopy()
	config.Created = v1.Time{Time: labels.created()}
	config.Config.WorkingDir = workingDir
	config.Config.User = User
	config.Config.Entrypoint = []string{Node}
	config.Config.Cmd = []string{entryPoint}
	config.Config.Env = withEnv(config.Config.Env, "NODE_ENV", "production")
	config.Config.ExposedPorts = map[string]struct{}{}
	for _, port := range ports {
		config.Config.ExposedPorts[port] = struct{}{}
	}
	config.Config.Labels = labels.annotations()
	return config
}

// Index puts images for several platforms under one digest. The platform of each is that of its configuration.
func Index(images []v1.Image, labels Labels) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, image := range images {
		config, err := image.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("image: %w", err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: config.Platform()}})
	}
	return mutate.Annotations(index, labels.annotations()).(v1.ImageIndex), nil
}

func withEnv(env []string, key, value string) []string {
	others := slices.DeleteFunc(slices.Clone(env), func(s string) bool { return strings.HasPrefix(s, key+"=") })
	return append(others, key+"="+value)
}

// CheckApp returns an error for a folder that is not a built app.
func CheckApp(dir string) error {
	for _, file := range []string{entryPoint, "dist"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			return &usererr.Error{Field: "image.appDir", Problem: fmt.Sprintf("%s has no %s", dir, file), Fix: "build the app first: `pnpm build` in that folder"}
		}
	}
	return nil
}
