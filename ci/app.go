package main

import (
	"context"
	"strings"

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
	appVersion string,

	// Commit that the image is built from.
	// +optional
	sourceCommit string,

	// Time of the commit in seconds since 1970: the image's only time, so that a commit always gives the same image.
	// +default=0
	created int,
) *dagger.Container {
	archive := m.layout(appVersion, sourceCommit, created).
		WithExec([]string{"tar", "-cf", "/tmp/image.tar", "-C", "/tmp/image", "."}).
		File("/tmp/image.tar")
	return dag.Container().Import(archive)
}

// Push the app's image, and return repository:tag@sha256:… as the registry has it
// +cache="never"
func (m *Crossbill) Publish(
	ctx context.Context,

	// Where to push: registry/repository:tag.
	address string,

	// Version of the app. By default the one in package.json.
	// +optional
	appVersion string,

	// Commit that the image is built from.
	// +optional
	sourceCommit string,

	// Time of the commit in seconds since 1970: the image's only time, so that a commit always gives the same image.
	// +default=0
	created int,

	// Source repository, https://…: a label, and what the provenance says.
	// +optional
	sourceUrl string,

	// Private key as PEM. With it the image gets an SBOM, a provenance and a signature in the registry; it needs
	// source-url and source-commit.
	// +optional
	signingKey *dagger.Secret,

	// Branch or tag of the source's commit, for example refs/heads/main: what the provenance says, and image policies ask.
	// +optional
	sourceRef string,
) (string, error) {
	i := m.withBuiltApp(appVersion)
	published, err := i.run(ctx, "image", imageBuild(appVersion, sourceCommit, created), flags("--source-url", sourceUrl, "--push", address))
	if err != nil || signingKey == nil {
		return published, err
	}
	image, err := byDigest(published)
	if err != nil {
		return "", err
	}
	i.setSecret("signing-key", "CROSSBILL_SIGNING_KEY", signingKey)
	_, err = i.run(ctx, "image", []string{"attest", image, "--app-dir=/app"}, flags("--ref", sourceRef))
	return published, err
}

// Push the manifests as a bundle that names the image, and return repository@sha256:… as the registry has it
//
// The same manifests and the same image are the same bundle. GitLab's jobs need nothing else: not the manifests, and not
// the image's name.
// +cache="never"
func (m *Crossbill) Bundle(
	ctx context.Context,

	// Image that it names, by digest: repository@sha256:….
	image string,

	// Where to push: registry/repository. By default the image's.
	// +optional
	repository string,

	// Take Secrets with values into it, which everybody who can pull it can read.
	// +optional
	allowSecrets bool,

	// Private key as PEM. With it the bundle gets a provenance and a signature in the registry.
	// +optional
	signingKey *dagger.Secret,

	// Branch or tag of the source's commit, for example refs/heads/main: what the provenance says, and image policies ask.
	// +optional
	sourceRef string,
) (string, error) {
	i := m.crossbill()
	m.addRegistry(i)
	i.container = i.container.WithMountedDirectory(manifestsFolder, m.ManifestsDir)
	printed, err := i.run(ctx, "bundle", flags("--image", image, "--manifests", manifestsFolder, "--app", m.AppName, "--repository", repository, "--allow-secrets", boolean(allowSecrets)))
	bundle := strings.TrimSpace(printed)
	if err != nil || signingKey == nil {
		return bundle, err
	}
	i.setSecret("signing-key", "CROSSBILL_SIGNING_KEY", signingKey)
	_, err = i.run(ctx, "image", []string{"attest", bundle}, flags("--ref", sourceRef))
	return bundle, err
}

// Show what an image is, what is attached to it, and whether the policy admits it
//
// The policy is that of the configuration, or trust.yaml in the folder of the manifests.
// +cache="never"
func (m *Crossbill) Inspect(
	ctx context.Context,

	// Image, by digest: repository@sha256:….
	image string,

	// Commit that it must have been built from.
	// +optional
	commit string,

	// Format: text or json.
	// +default="text"
	format string,
) (string, error) {
	i := m.crossbill()
	m.addRegistry(i)
	i.container = i.container.WithMountedDirectory(manifestsFolder, m.ManifestsDir)
	return i.run(ctx, "image", []string{"inspect", image, "--manifests=" + manifestsFolder}, flags("--output", format, "--commit", commit))
}

// packages is the app's folder with its dependencies, and of the rest only what pnpm reads to install them: a layer that
// stays until one of these files changes.
func (m *Crossbill) packages() *dagger.Container {
	manifests := dag.Directory().WithDirectory("/", m.AppDir, dagger.DirectoryWithDirectoryOpts{
		Include: []string{"package.json", "pnpm-lock.yaml", "pnpm-workspace.yaml", ".npmrc", ".pnpmfile.cjs", ".pnpmfile.mjs", "patches/**"},
	})
	return dag.Container().From(m.NodeImage).
		WithEnvVariable("CI", "true").
		WithMountedCache("/pnpm/store", dag.CacheVolume("crossbill-pnpm-store")).
		WithDirectory("/app", manifests).
		WithWorkdir("/app").
		WithEnvVariable("COREPACK_ENABLE_DOWNLOAD_PROMPT", "0").
		WithExec([]string{"sh", "-c", "corepack enable pnpm && corepack install"}). // it holds pnpm against the hash in package.json
		WithExec([]string{"pnpm", "install", "--frozen-lockfile", "--prefer-offline", "--store-dir", "/pnpm/store"})
}

// checkout is the app's folder, its dependencies installed.
func (m *Crossbill) checkout() *dagger.Container {
	return m.packages().WithDirectory("/app", m.AppDir)
}

// built is a folder with the app's client and server bundles.
func (m *Crossbill) built(version string) *dagger.Directory {
	c := m.checkout()
	if version != "" {
		c = c.WithEnvVariable("APP_VERSION", version)
	}
	built := c.WithExec([]string{"pnpm", "build"}).Directory("/app")
	return dag.Directory().WithDirectory("/", built, dagger.DirectoryWithDirectoryOpts{
		Include: []string{"dist/**", "server/**", "sbom/**", "pnpm-lock.yaml"}, // not every build lists its contents in sbom
	})
}

// withBuiltApp is the command with the built app in /app.
func (m *Crossbill) withBuiltApp(version string) *invocation {
	i := m.crossbill()
	m.addRegistry(i)
	i.container = i.container.WithMountedDirectory("/app", m.built(version))
	return i
}

// imageBuild is the command that makes the app's image, after "image": the one place that says what is in
// it and how it is run.
func imageBuild(version, commit string, created int) []string {
	return append([]string{"build", "--app-dir=/app"}, flags(
		"--created", decimal(created), "--version", version, "--revision", commit)...)
}

// layout is a container with the image as an OCI image layout in /tmp/image.
func (m *Crossbill) layout(version, commit string, created int) *dagger.Container {
	return m.withBuiltApp(version).container.
		WithExec(commandLine("image", imageBuild(version, commit, created), []string{"--push=oci:/tmp/image"}))
}
