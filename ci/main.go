// Canary releases of a Qwik/Node.js app, from GitHub through GitLab into an Istio mesh
//
// The same steps run on a laptop, in GitHub Actions and in GitLab CI. check, build and publish make the app's image;
// trigger hands it to GitLab, once; canary, verify, promote, cleanup and rollback release it into the cluster; status,
// plan and report say where it is.
//
// Where releases go is in crossbill.yaml: namespace, Prometheus, GitLab project, notifications. What stands before a
// function is only what that file cannot have: folders, secrets, and services that only the caller's machine reaches.
//
// Functions that talk to a registry, to GitLab or to a cluster run the crossbill command in a container. It comes from
// the image that --cli-image names, or it is built from its source.
package main

import (
	"fmt"
	"strings"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// Crossbill carries a release from its source into the mesh.
type Crossbill struct {
	// +private
	ConfigFile *dagger.File
	// +private
	ManifestsDir *dagger.Directory
	// +private
	ManifestsBundle string
	// +private
	AppDir *dagger.Directory
	// +private
	CliImage string
	// +private
	CliSource *dagger.Directory
	// +private
	GoImage string
	// +private
	NodeImage string
	// +private
	AlpineImage string
	// +private
	RegistryService *dagger.Service
	// +private
	RegistryHost string
	// +private
	RegistryUsername string
	// +private
	RegistryPassword *dagger.Secret
	// +private
	GitlabService *dagger.Service
	// +private
	GitlabToken *dagger.Secret
	// +private
	KubeconfigFile *dagger.Secret
	// +private
	KubernetesService *dagger.Service
	// +private
	PrometheusService *dagger.Service
	// +private
	PrometheusHttpConfig *dagger.Secret
	// +private
	GithubToken *dagger.Secret
	// +private
	NotifyGitlabToken *dagger.Secret
	// +private
	WebhookUrl *dagger.Secret
	// +private
	ChatAddresses *dagger.Secret
	// +private
	IdToken *dagger.Secret
	// +private
	GitopsToken *dagger.Secret
	// +private
	GitopsSshKey *dagger.Secret
	// +private
	GitopsKnownHosts *dagger.File
	// +private
	GitopsSigningKey *dagger.Secret
	// +private
	By string
	// +private
	AppName string
	// +private
	RequireProvenance bool
}

// New takes what is the same for every function. A function that lacks one of them says so.
//
// Each name has two words, for Dagger also fills arguments from .env files: by a variable of the same name without
// separators. The variables that such files usually have are one word, or have an underscore.
func New(
	// Configuration of the releases: crossbill.yaml. By default that of the module's repository.
	// +defaultPath="/crossbill.yaml"
	configFile *dagger.File,

	// Folder of the app's Kubernetes manifests. By default k8s in the module's repository.
	// +defaultPath="/k8s"
	manifestsDir *dagger.Directory,

	// Bundle that the manifests come from in place of a folder, by digest: repository@sha256:…. It names the image that
	// canary releases.
	// +optional
	manifestsBundle string,

	// Folder of the app. By default app in the module's repository.
	// +defaultPath="/app"
	// +ignore=["node_modules", "dist", "server", "sbom", "tmp", ".git", ".github", ".crossbill"]
	appDir *dagger.Directory,

	// Image with the crossbill command, by digest. By default the command is built from its source.
	// +optional
	cliImage string,

	// Source of the crossbill command. By default the module's repository.
	// +defaultPath="/"
	// +ignore=["**", "!go.mod", "!go.sum", "!LICENSE", "!.ci", "!.ci/dist", "!.ci/dist/**", "!cmd", "!cmd/**", "!internal", "!internal/**", "!templates", "!templates/**", "**/*_test.go"]
	cliSource *dagger.Directory,

	// Images in place of the module's own, where those cannot be pulled, by digest: node=…, go=… or alpine=… (which the
	// command runs in).
	// +optional
	toolImages []string,

	// Registry that only the caller's machine reaches, for example tcp://127.0.0.1:5000. Its images are then named
	// registry.localhost:5000/….
	// +optional
	registryService *dagger.Service,

	// Registry that user and password are for, for example registry.example.com; default: that of the image or bundle that a
	// function names, and of a release by image that of the manifests, if they name one.
	// +optional
	registryHost string,

	// User of the registry.
	// +optional
	registryUsername string,

	// Password or token of the registry's user.
	// +optional
	registryPassword *dagger.Secret,

	// GitLab that only the caller's machine reaches, for example tcp://127.0.0.1:8929. It is asked by http.
	// +optional
	gitlabService *dagger.Service,

	// GitLab access token of scope read_api, or api to cancel.
	// +optional
	gitlabToken *dagger.Secret,

	// Kubeconfig, for example file:$HOME/.kube/config.
	// +optional
	kubeconfigFile *dagger.Secret,

	// API server that only the caller's machine reaches, for example tcp://127.0.0.1:6443. Its certificate is still
	// checked for the name in the kubeconfig.
	// +optional
	kubernetesService *dagger.Service,

	// Prometheus that only the caller's machine reaches, for example tcp://127.0.0.1:9090.
	// +optional
	prometheusService *dagger.Service,

	// Credentials, CA and headers for Prometheus, in the form of its http_config.
	// +optional
	prometheusHttpConfig *dagger.Secret,

	// Token that may write deployments of the GitHub repository that the configuration names; and check runs or statuses, and
	// comments, to show releases on commits and pull requests.
	// +optional
	githubToken *dagger.Secret,

	// GitLab access token of scope api that shows releases on the commits and merge requests of the project that the
	// configuration names by notify.gitlab.project, and its server by notify.gitlab.url.
	// +optional
	notifyGitlabToken *dagger.Secret,

	// Address that is notified of each step of a release, in JSON that Slack shows too.
	// +optional
	webhookUrl *dagger.Secret,

	// Addresses of chats that people read of releases in, one a line: as Slack, Teams, Discord and Google Chat show them, or
	// in the form of shoutrrr.
	// +optional
	chatAddresses *dagger.Secret,

	// GitLab's ID token of the job, env:CROSSBILL_ID_TOKEN: it proves to promote who has started the job.
	// +optional
	idToken *dagger.Secret,

	// Token that may push to the environment repository of the section gitops, for https.
	// +optional
	gitopsToken *dagger.Secret,

	// Private SSH key that may push to it, for ssh.
	// +optional
	gitopsSshKey *dagger.Secret,

	// Public keys of its server, as ssh-keyscan writes them, for ssh.
	// +optional
	gitopsKnownHosts *dagger.File,

	// Private SSH key that its commits are signed with.
	// +optional
	gitopsSigningKey *dagger.Secret,

	// Who acts, for the ledger: for example $GITLAB_USER_LOGIN. By default the container.
	// +optional
	by string,

	// App that is meant, for the functions that change the cluster: manifests of another one are refused. By default the
	// configuration's, else the manifests'.
	// +optional
	appName string,

	// Go on only with an image policy: without one, an image's origin is not checked.
	// +optional
	requireProvenance bool,
) (*Crossbill, error) {
	m := &Crossbill{
		ConfigFile: configFile, ManifestsDir: manifestsDir, ManifestsBundle: manifestsBundle, AppDir: appDir, CliImage: cliImage, CliSource: cliSource,
		GoImage: goImage, NodeImage: nodeImage, AlpineImage: alpineImage,
		RegistryService: registryService, RegistryHost: registryHost, RegistryUsername: registryUsername, RegistryPassword: registryPassword,
		GitlabService: gitlabService, GitlabToken: gitlabToken, KubeconfigFile: kubeconfigFile, KubernetesService: kubernetesService,
		PrometheusService: prometheusService, PrometheusHttpConfig: prometheusHttpConfig, GithubToken: githubToken, NotifyGitlabToken: notifyGitlabToken, WebhookUrl: webhookUrl, ChatAddresses: chatAddresses,
		IdToken: idToken, GitopsToken: gitopsToken, GitopsSshKey: gitopsSshKey, GitopsKnownHosts: gitopsKnownHosts, GitopsSigningKey: gitopsSigningKey,
		By: by, AppName: appName, RequireProvenance: requireProvenance,
	}
	return m, m.useImages(toolImages)
}

// The images that the module works with. The base of the app's image is in the configuration.
const (
	goImage     = "golang:1.26-alpine@sha256:7a3e50096189ad57c9f9f865e7e4aa8585ed1585248513dc5cda498e2f41812c"
	nodeImage   = "node:24.18.0-bookworm-slim@sha256:6f7b03f7c2c8e2e784dcf9295400527b9b1270fd37b7e9a7285cf83b6951452d"
	alpineImage = "alpine:3.22@sha256:14358309a308569c32bdc37e2e0e9694be33a9d99e68afb0f5ff33cc1f695dce"
)

// useImages puts the images that the caller named in place of the module's own.
func (m *Crossbill) useImages(named []string) error {
	images := map[string]*string{"go": &m.GoImage, "node": &m.NodeImage, "alpine": &m.AlpineImage}
	for _, text := range named {
		name, image, _ := strings.Cut(text, "=")
		if images[name] == nil || image == "" {
			return failure(2, fmt.Sprintf("--tool-images: %q is not NAME=IMAGE with the name go, node or alpine", text))
		}
		*images[name] = image
	}
	return nil
}

// The command runs in workFolder, where crossbill.yaml is, and the manifests beside it: the file may name files there.
const (
	workFolder      = "/work"
	manifestsFolder = workFolder + "/k8s"
)

// crossbill is the command in a container, beside its configuration. The engine gives every exec the address of its
// own trace collector: the command's traces are not for that one.
func (m *Crossbill) crossbill() *invocation {
	c := m.command("development").
		WithEnvVariable("OTEL_SDK_DISABLED", "true").
		WithMountedFile(workFolder+"/crossbill.yaml", m.ConfigFile).
		WithWorkdir(workFolder)
	return &invocation{container: c}
}

// addRegistry lets the command read and write images.
func (m *Crossbill) addRegistry(i *invocation) {
	if m.RegistryService != nil {
		i.container = i.container.WithServiceBinding("registry.localhost", m.RegistryService)
	}
	if m.RegistryPassword != nil {
		i.setVariable("REGISTRY_HOST", m.RegistryHost)
		i.setVariable("REGISTRY_USERNAME", m.RegistryUsername)
		i.setSecret("registry-password", "REGISTRY_PASSWORD", m.RegistryPassword)
	}
}

// addCode lets the command read and write what GitHub and GitLab show of a release where its code is.
func (m *Crossbill) addCode(i *invocation) {
	i.setSecret("github-token", "CROSSBILL_GITHUB_TOKEN", m.GithubToken)
	i.setSecret("notify-gitlab-token", "CROSSBILL_NOTIFY_GITLAB_TOKEN", m.NotifyGitlabToken)
}

// The crossbill command in a container, to run or to publish
//
// Publish it once and give its digest as --cli-image, and runners with an empty engine pull it in seconds; it is also
// the image of runners that may not run an engine at all. The registry's login is for --registry-host: publish names the
// repository only after this function.
func (m *Crossbill) Cli(
	// Version that the command says it is.
	// +default="development"
	cliVersion string,
) (*dagger.Container, error) {
	c := m.command(cliVersion)
	switch {
	case m.RegistryPassword == nil:
		return c, nil
	case m.RegistryHost == "":
		return nil, missing("registry-host")
	}
	return c.WithRegistryAuth(m.RegistryHost, m.RegistryUsername, m.RegistryPassword), nil
}

// command is the crossbill command in a container.
func (m *Crossbill) command(version string) *dagger.Container {
	if m.CliImage != "" {
		return dag.Container().From(m.CliImage)
	}
	binary := m.compiler().
		WithExec([]string{"go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -X main.version=" + version, "-o", "/crossbill", "./cmd/crossbill"}).
		File("/crossbill")
	return dag.Container().From(m.AlpineImage).
		WithFile("/usr/local/bin/crossbill", binary).
		WithUser("65532:65532").
		WithEntrypoint([]string{"crossbill"})
}

// What a version of Crossbill is published as
//
// It is `make dist`: archives for four platforms, their SBOMs, checksums, the manifests of Homebrew and krew, and the
// image as an OCI layout. The same source, commit and Go give the same bytes as anywhere else.
func (m *Crossbill) Dist(
	// The version: 1.2.3, or what `git describe` prints.
	cliVersion string,

	// Commit of the source, in full.
	sourceCommit string,

	// Time of the commit in seconds since 1970.
	created int,
) *dagger.Directory {
	return m.compiler().
		WithExec([]string{"go", "run", "./.ci/dist", "build", "-version", cliVersion, "-commit", sourceCommit, "-created", decimal(created), "-out", "/dist"}).
		Directory("/dist")
}

// compiler has Go, and the source of the command.
func (m *Crossbill) compiler() *dagger.Container {
	return dag.Container().From(m.GoImage).
		WithEnvVariable("CGO_ENABLED", "0").
		WithMountedCache("/go/pkg/mod", dag.CacheVolume("crossbill-go-modules")).
		WithEnvVariable("GOCACHE", "/go/build").
		WithMountedCache("/go/build", dag.CacheVolume("crossbill-go-build")).
		WithMountedDirectory("/source", m.CliSource).
		WithWorkdir("/source")
}
