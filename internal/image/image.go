// Package image builds the app's image without a container engine: the built app on top of a Node
// base image, pushed to a registry, and named by its digest. It promises that the same files and the
// same base give the same digest, and that what it returns is what the registry has.
package image

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/our-org/crossbill/internal/usererr"
)

// What every image of the app is run with: the one place that says so.
const (
	WorkingDir = "/app"
	User       = "65532:65532"      // "nonroot" of distroless images
	Node       = "/nodejs/bin/node" // where distroless images have it
	Entry      = "server/entry.fastify.js"
)

// Ports are the app's: requests, and metrics.
var Ports = []string{"3000/tcp", "9464/tcp"}

// Folders of a built app that go into the image. The server is a bundle: there is no node_modules.
var Folders = []string{"dist", "server"}

// Labels are the descriptions of an image (OCI image spec, annotations).
type Labels struct {
	Title    string
	Version  string
	Revision string    // commit
	Source   string    // URL of the repository
	Created  time.Time // of the commit, so that the same commit is the same image; zero: the Unix epoch
	Base     string    // reference of the base image
}

// Map gives the labels under their standard keys; empty ones are left out.
func (l Labels) Map() map[string]string {
	m := map[string]string{
		"org.opencontainers.image.title":     l.Title,
		"org.opencontainers.image.version":   l.Version,
		"org.opencontainers.image.revision":  l.Revision,
		"org.opencontainers.image.source":    l.Source,
		"org.opencontainers.image.base.name": l.Base,
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

// Build puts a built app (a folder with dist and server) on a base image, above other layers if some are
// given.
func Build(base v1.Image, appDir string, labels Labels, below ...v1.Layer) (v1.Image, error) {
	if err := checkApp(appDir); err != nil {
		return nil, err
	}
	layer, err := Layer(appDir, Folders, WorkingDir, labels.created())
	if err != nil {
		return nil, fmt.Errorf("layer of %s: %w", appDir, err)
	}
	added := func(layer v1.Layer, by string) mutate.Addendum {
		return mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{Author: "crossbill", CreatedBy: by, Created: v1.Time{Time: labels.created()}}}
	}
	var layers []mutate.Addendum
	for _, layer := range below {
		layers = append(layers, added(layer, "crossbill image build --assets-of"))
	}
	image, err := mutate.Append(base, append(layers, added(layer, "crossbill image build"))...)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("base image: %w", err)
	}
	config = config.DeepCopy()
	config.Created = v1.Time{Time: labels.created()}
	config.Config.WorkingDir = WorkingDir
	config.Config.User = User
	config.Config.Entrypoint = []string{Node}
	config.Config.Cmd = []string{Entry}
	config.Config.Env = setEnv(config.Config.Env, "NODE_ENV", "production")
	config.Config.ExposedPorts = map[string]struct{}{}
	for _, port := range Ports {
		config.Config.ExposedPorts[port] = struct{}{}
	}
	config.Config.Labels = labels.Map()
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	image = mutate.MediaType(mutate.ConfigMediaType(image, types.OCIConfigJSON), types.OCIManifestSchema1)
	return mutate.Annotations(image, labels.Map()).(v1.Image), nil
}

// Index puts images for several platforms under one digest. Each says itself which it is for.
func Index(images []v1.Image, labels Labels) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, image := range images {
		config, err := image.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("image: %w", err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: config.Platform()}})
	}
	return mutate.Annotations(index, labels.Map()).(v1.ImageIndex), nil
}

func setEnv(env []string, name, value string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(s string) bool { return len(s) > len(name) && s[:len(name)+1] == name+"=" })
	return append(env, name+"="+value)
}

// checkApp finds a folder that is not a built app.
func checkApp(dir string) error {
	for _, file := range []string{Entry, "dist"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			return &usererr.Error{Field: "--app-dir", Problem: fmt.Sprintf("%s has no %s", dir, file), Fix: "build the app first: `pnpm build` in that folder"}
		}
	}
	return nil
}
