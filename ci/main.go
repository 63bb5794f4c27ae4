// Canary releases of a Qwik/Node.js app, from GitHub through GitLab into an Istio mesh
//
// The same steps run on a laptop, in GitHub Actions and in GitLab CI. check, build and publish make
// the app's image; trigger hands it to GitLab, once; canary, verify, promote, cleanup and rollback
// release it into the cluster; status, plan and report say where it is.
//
// Steps that talk to a registry, to GitLab or to a cluster run the crossbill command in a container.
// It comes from the image that --cli names, or it is built from this repository's source.
package main

import (
	"context"
	"time"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// Crossbill carries a release from source into the mesh.
type Crossbill struct {
	// +private
	Source *dagger.Directory
	// +private
	AppDir string
	// +private
	Name string
	// +private
	Manifests string
	// +private
	CommandImage string
	// +private
	GoImage string
	// +private
	NodeImage string
	// +private
	AlpineImage string
	// +private
	BaseImage string
	// +private
	Webhook *dagger.Secret
	// +private
	Pushgateway string
	// +private
	OtlpEndpoint string
	// +private
	RegistryUsername string
	// +private
	RegistryPassword *dagger.Secret
}

func New(
	// Repository with the app, its manifests and the source of the crossbill command.
	// +defaultPath="/"
	// +ignore=["**", "!go.mod", "!go.sum", "!cmd", "!cmd/**", "!handoff", "!handoff/**", "!image", "!image/**", "!manifest", "!manifest/**", "!release", "!release/**", "!report", "!report/**", "!rollout", "!rollout/**", "!telemetry", "!telemetry/**", "!verdict", "!verdict/**", "!k8s", "!k8s/**", "!app", "!app/**", "app/node_modules", "app/dist", "app/server", "app/sbom", "**/*_test.go"]
	source *dagger.Directory,

	// Folder of the app in the repository.
	// +default="app"
	appDir string,

	// Name of the app, for the image's title.
	// +default="qwik-node-app"
	name string,

	// Folder of the app's Kubernetes manifests in the repository.
	// +default="k8s"
	manifests string,

	// Image with the crossbill command, by digest. By default it is built from the repository.
	// +optional
	cli string,

	// Go image that builds the crossbill command.
	// +default="golang:1.26-alpine@sha256:7a3e50096189ad57c9f9f865e7e4aa8585ed1585248513dc5cda498e2f41812c"
	goImage string,

	// Node image that checks and builds the app.
	// +default="node:24.18.0-bookworm-slim@sha256:6f7b03f7c2c8e2e784dcf9295400527b9b1270fd37b7e9a7285cf83b6951452d"
	nodeImage string,

	// Image that the crossbill command runs in when it is built from the repository.
	// +default="alpine:3.22@sha256:14358309a308569c32bdc37e2e0e9694be33a9d99e68afb0f5ff33cc1f695dce"
	alpineImage string,

	// Base of the app's image, by digest. By default distroless Node 24.
	// +optional
	baseImage string,

	// Address that gets a notice of each step of a release, as JSON that Slack shows too.
	// +optional
	webhook *dagger.Secret,

	// URL of a Prometheus Pushgateway that gets metrics of each step.
	// +optional
	pushgateway string,

	// URL of an OpenTelemetry collector that gets a release as one trace, by OTLP over HTTP.
	// +optional
	otlpEndpoint string,

	// User of a registry that is not public, for the steps that read what is attached to an image.
	// +optional
	registryUsername string,

	// Password or token of that user.
	// +optional
	registryPassword *dagger.Secret,
) *Crossbill {
	return &Crossbill{
		Source: source, AppDir: appDir, Name: name, Manifests: manifests, CommandImage: cli,
		GoImage: goImage, NodeImage: nodeImage, AlpineImage: alpineImage, BaseImage: baseImage,
		Webhook: webhook, Pushgateway: pushgateway, OtlpEndpoint: otlpEndpoint,
		RegistryUsername: registryUsername, RegistryPassword: registryPassword,
	}
}

// telling is a container whose crossbill tells what it does whom the caller has named, and may read their
// registry.
func (m *Crossbill) telling(c *dagger.Container) *dagger.Container {
	if m.Webhook != nil {
		c = c.WithSecretVariable("CROSSBILL_WEBHOOK", m.Webhook)
	}
	if m.RegistryPassword != nil {
		c = c.WithEnvVariable("REGISTRY_USERNAME", m.RegistryUsername).WithSecretVariable("REGISTRY_PASSWORD", m.RegistryPassword)
	}
	if m.Pushgateway != "" {
		c = c.WithEnvVariable("CROSSBILL_PUSHGATEWAY", m.Pushgateway)
	}
	if m.OtlpEndpoint != "" {
		c = c.WithEnvVariable("OTEL_EXPORTER_OTLP_ENDPOINT", m.OtlpEndpoint)
	}
	return c
}

// The crossbill command in a container, to run or to publish
//
// Publish it once and give its digest as --cli, and runners with an empty engine pull it in seconds;
// it is also the image of runners that may not run an engine at all.
func (m *Crossbill) Cli() *dagger.Container {
	if m.CommandImage != "" {
		return dag.Container().From(m.CommandImage)
	}
	source := dag.Directory().WithDirectory("/", m.Source, dagger.DirectoryWithDirectoryOpts{
		Exclude: []string{m.AppDir, m.Manifests},
	})
	binary := dag.Container().From(m.GoImage).
		WithEnvVariable("CGO_ENABLED", "0").
		WithMountedCache("/go/pkg/mod", dag.CacheVolume("crossbill-go-modules")).
		WithEnvVariable("GOCACHE", "/go/build").
		WithMountedCache("/go/build", dag.CacheVolume("crossbill-go-build")).
		WithMountedDirectory("/source", source).
		WithWorkdir("/source").
		WithExec([]string{"go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", "/crossbill", "./cmd/crossbill"}).
		File("/crossbill")
	return dag.Container().From(m.AlpineImage).
		WithFile("/usr/local/bin/crossbill", binary).
		WithUser("65532:65532").
		WithEntrypoint([]string{"crossbill"})
}

// run runs the crossbill command in a container and gives its standard output. A failure keeps the
// command's own exit code, which `dagger call` ends with.
func run(ctx context.Context, c *dagger.Container, args ...string) (string, error) {
	return fresh(c).WithExec(command(args)).Stdout(ctx)
}

// fresh makes every exec that follows a new one: what it does outside is not in Dagger's cache.
func fresh(c *dagger.Container) *dagger.Container {
	return c.WithEnvVariable("CROSSBILL_CALLED", time.Now().Format(time.RFC3339Nano))
}

func command(args []string) []string { return append([]string{"crossbill"}, args...) }

// flag appends a flag that has a value.
func flag(args []string, name, value string) []string {
	if value == "" {
		return args
	}
	return append(args, name+"="+value)
}
