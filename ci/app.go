package main

import (
	"context"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// Types, lint and unit tests of the app
// +check
func (m *Crossbill) Check(ctx context.Context) error {
	_, err := m.checkout().WithExec([]string{"pnpm", "check"}).Sync(ctx)
	return err
}

// The app's image as a container
//
// `dagger call build as-service up --ports 3000:3000` shows the app. The image is the one that publish
// pushes, byte for byte.
func (m *Crossbill) Build(
	// Version of the app. By default the one in package.json.
	// +optional
	version string,

	// Commit that the image is built from.
	// +optional
	commit string,

	// Time of the commit in seconds since 1970: the image's only time, so that one commit is one image.
	// +default=0
	created int,
) *dagger.Container {
	archive := m.layout(version, commit, created).
		WithExec([]string{"tar", "-cf", "/tmp/image.tar", "-C", "/tmp/image", "."}).
		File("/tmp/image.tar")
	return dag.Container().Import(archive)
}

// Push the app's image, and give repository:tag@sha256:… as the registry has it
// +cache="never"
func (m *Crossbill) Publish(
	ctx context.Context,

	// Where to push: registry/repository:tag.
	address string,

	// User of the registry.
	// +optional
	username string,

	// Password or token of the registry's user.
	// +optional
	password *dagger.Secret,

	// Version of the app. By default the one in package.json.
	// +optional
	version string,

	// Commit that the image is built from.
	// +optional
	commit string,

	// Time of the commit in seconds since 1970: the image's only time, so that one commit is one image.
	// +default=0
	created int,

	// Registry that only the caller's machine reaches, for example tcp://127.0.0.1:5000. The address
	// then begins with registry.localhost and the port.
	// +optional
	registry *dagger.Service,

	// Source repository, https://…: a label, and what the provenance says.
	// +optional
	sourceUrl string,

	// Private key as PEM. With it the image gets an SBOM, a provenance and a signature in the registry; sourceUrl
	// and commit are needed then.
	// +optional
	signingKey *dagger.Secret,
) (string, error) {
	c := m.withBuiltApp(version)
	if registry != nil {
		c = c.WithServiceBinding("registry.localhost", registry)
	}
	if password != nil {
		c = c.WithSecretVariable("REGISTRY_PASSWORD", password)
	}
	args := flag(m.imageBuild(version, commit, created), "--username", username)
	args = flag(args, "--source-url", sourceUrl)
	published, err := run(ctx, c, flag(args, "--push", address)...)
	if err != nil || signingKey == nil {
		return published, err
	}
	image, err := byDigest(published)
	if err != nil {
		return "", err
	}
	c = c.WithSecretVariable("CROSSBILL_SIGNING_KEY", signingKey)
	attest := flag([]string{"image", "attest", image, "--app-dir=/app"}, "--username", username)
	if _, err := run(ctx, c, flag(attest, "--base", m.BaseImage)...); err != nil {
		return "", err
	}
	return published, nil
}

// Show what an image is, what is attached to it, and whether the policy lets it through
//
// The policy is trust.yaml in the folder of the manifests, if it is there.
// +cache="never"
func (m *Crossbill) Inspect(
	ctx context.Context,

	// Image, by digest: repository@sha256:….
	image string,

	// Commit that it must have been built from.
	// +optional
	commit string,

	// Form of it: text or json.
	// +default="text"
	format string,
) (string, error) {
	args := []string{"image", "inspect", image, "--manifests=/manifests", "--output=" + format}
	return run(ctx, m.telling(m.Cli()).WithMountedDirectory("/manifests", m.Source.Directory(m.Manifests)), flag(args, "--commit", commit)...)
}

// packages is the app's folder with its dependencies and nothing else of it: a layer that stands
// until the lockfile changes.
func (m *Crossbill) packages() *dagger.Container {
	manifests := dag.Directory().WithDirectory("/", m.Source.Directory(m.AppDir), dagger.DirectoryWithDirectoryOpts{
		Include: []string{"package.json", "pnpm-lock.yaml", "pnpm-workspace.yaml"},
	})
	return dag.Container().From(m.NodeImage).
		WithEnvVariable("CI", "true").
		WithEnvVariable("COREPACK_ENABLE_DOWNLOAD_PROMPT", "0").
		WithExec([]string{"corepack", "enable"}).
		WithMountedCache("/pnpm/store", dag.CacheVolume("crossbill-pnpm-store")).
		WithDirectory("/app", manifests).
		WithWorkdir("/app").
		WithExec([]string{"pnpm", "install", "--frozen-lockfile", "--prefer-offline", "--store-dir", "/pnpm/store"})
}

// checkout is the app's folder, its dependencies installed.
func (m *Crossbill) checkout() *dagger.Container {
	return m.packages().WithDirectory("/app", m.Source.Directory(m.AppDir))
}

// built is a folder with the app's client and server bundles.
func (m *Crossbill) built(version string) *dagger.Directory {
	c := m.checkout()
	if version != "" {
		c = c.WithEnvVariable("APP_VERSION", version)
	}
	c = c.WithExec([]string{"pnpm", "build"})
	return dag.Directory().
		WithDirectory("dist", c.Directory("dist")).
		WithDirectory("server", c.Directory("server")).
		WithDirectory("sbom", c.Directory("sbom")).
		WithFile("pnpm-lock.yaml", c.File("pnpm-lock.yaml"))
}

func (m *Crossbill) withBuiltApp(version string) *dagger.Container {
	return m.Cli().WithMountedDirectory("/app", m.built(version))
}

// imageBuild is the command that makes the app's image: the one place that says what is in it and how
// it is run.
func (m *Crossbill) imageBuild(version, commit string, created int) []string {
	args := []string{"image", "build", "--app-dir=/app", "--name=" + m.Name, "--created=" + decimal(created)}
	args = flag(args, "--base", m.BaseImage)
	args = flag(args, "--version", version)
	return flag(args, "--revision", commit)
}

// layout is a container with the image as an OCI image layout in /tmp/image.
func (m *Crossbill) layout(version, commit string, created int) *dagger.Container {
	return m.withBuiltApp(version).
		WithExec(command(append(m.imageBuild(version, commit, created), "--push=oci:/tmp/image")))
}
