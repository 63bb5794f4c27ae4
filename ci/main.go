// Canary releases of a Qwik/Node.js app, from GitHub through GitLab into an Istio mesh
//
// The same steps run on a laptop, in GitHub Actions and in GitLab CI. check, build and publish make
// the app's image; trigger hands it to GitLab, once; canary, verify, promote, cleanup and rollback
// release it into the cluster; status, plan and report say where it is.
//
// Steps that talk to a registry, to GitLab or to a cluster run the crossbill command in a container.
// It comes from the image that --cli names, or it is built from its source.
package main

import "github.com/our-org/crossbill/ci/internal/dagger"

// Crossbill carries a release from source into the mesh.
type Crossbill struct {
	// +private
	AppDir *dagger.Directory
	// +private
	Manifests *dagger.Directory
	// +private
	Name string
	// +private
	CommandImage string
	// +private
	CommandSource *dagger.Directory
	// +private
	GoImage string
	// +private
	NodeImage string
	// +private
	AlpineImage string
	// +private
	BaseImage string
	// +private
	Registry *dagger.Service
	// +private
	RegistryUsername string
	// +private
	RegistryPassword *dagger.Secret
	// +private
	GitlabUrl string
	// +private
	Gitlab *dagger.Service
	// +private
	Project string
	// +private
	GitlabToken *dagger.Secret
	// +private
	Kubeconfig *dagger.Secret
	// +private
	KubeContext string
	// +private
	Namespace string
	// +private
	Server *dagger.Service
	// +private
	Prometheus string
	// +private
	PrometheusService *dagger.Service
	// +private
	PrometheusConfig *dagger.Secret
	// +private
	By string
	// +private
	GithubRepository string
	// +private
	GithubToken *dagger.Secret
	// +private
	EnvironmentUrl string
	// +private
	Webhook *dagger.Secret
	// +private
	Pushgateway string
	// +private
	OtlpEndpoint string
}

// New takes what is the same for every step: the app, and where registry, GitLab, cluster and
// Prometheus are. A step that lacks one of them says so.
func New(
	// Folder of the app. By default that of the module's repository.
	// +defaultPath="/app"
	// +ignore=["node_modules", "dist", "server", "sbom", "tmp"]
	appDir *dagger.Directory,

	// Folder of the app's Kubernetes manifests, with slo.yaml and trust.yaml. By default that of the module's
	// repository.
	// +defaultPath="/k8s"
	manifests *dagger.Directory,

	// Name of the app: its releases are named after it, and the image's title is.
	// +optional
	name string,

	// Image with the crossbill command, by digest. By default it is built from its source.
	// +optional
	cli string,

	// Source of the crossbill command. By default this module's repository.
	// +defaultPath="/"
	// +ignore=["**", "!go.mod", "!go.sum", "!cmd", "!cmd/**", "!internal", "!internal/**", "**/*_test.go"]
	cliSource *dagger.Directory,

	// Go image that builds the crossbill command.
	// +default="golang:1.26-alpine@sha256:7a3e50096189ad57c9f9f865e7e4aa8585ed1585248513dc5cda498e2f41812c"
	goImage string,

	// Node image that checks and builds the app.
	// +default="node:24.18.0-bookworm-slim@sha256:6f7b03f7c2c8e2e784dcf9295400527b9b1270fd37b7e9a7285cf83b6951452d"
	nodeImage string,

	// Image that the crossbill command runs in when it is built from its source.
	// +default="alpine:3.22@sha256:14358309a308569c32bdc37e2e0e9694be33a9d99e68afb0f5ff33cc1f695dce"
	alpineImage string,

	// Base of the app's image, by digest. By default distroless Node 24.
	// +optional
	baseImage string,

	// Registry that only the caller's machine reaches, for example tcp://127.0.0.1:5000. Its images are
	// then named registry.localhost:5000/….
	// +optional
	registry *dagger.Service,

	// User of the registry.
	// +optional
	registryUsername string,

	// Password or token of the registry's user.
	// +optional
	registryPassword *dagger.Secret,

	// GitLab's URL.
	// +default="https://gitlab.com"
	gitlabUrl string,

	// GitLab that only the caller's machine reaches, for example tcp://127.0.0.1:8929. It is asked by http.
	// +optional
	gitlab *dagger.Service,

	// GitLab project that deploys: group/project.
	// +optional
	project string,

	// GitLab access token of scope read_api, or api to cancel.
	// +optional
	gitlabToken *dagger.Secret,

	// Kubeconfig, for example file:$HOME/.kube/config.
	// +optional
	kubeconfig *dagger.Secret,

	// Context of the kubeconfig. By default its current one.
	// +optional
	context string,

	// Namespace of the app. By default the context's.
	// +optional
	namespace string,

	// API server that only the caller's machine reaches, for example tcp://127.0.0.1:6443. Its
	// certificate is still checked for the name in the kubeconfig.
	// +optional
	server *dagger.Service,

	// Prometheus that scrapes the mesh: its URL.
	// +optional
	prometheus string,

	// Prometheus that only the caller's machine reaches, for example tcp://127.0.0.1:9090.
	// +optional
	prometheusService *dagger.Service,

	// Credentials, CA and headers for Prometheus, in the form of its http_config.
	// +optional
	prometheusConfig *dagger.Secret,

	// Who acts, for the ledger: for example $GITLAB_USER_LOGIN. By default the container.
	// +optional
	by string,

	// GitHub repository whose Deployment of the release gets a status: owner/name. It needs a token.
	// +optional
	githubRepository string,

	// Token that may write deployments of the GitHub repository.
	// +optional
	githubToken *dagger.Secret,

	// The app's address, for the GitHub Deployment.
	// +optional
	environmentUrl string,

	// Address that gets a notice of each step of a release, as JSON that Slack shows too.
	// +optional
	webhook *dagger.Secret,

	// URL of a Prometheus Pushgateway that gets metrics of each step.
	// +optional
	pushgateway string,

	// URL of an OpenTelemetry collector that gets a release as one trace, by OTLP over HTTP.
	// +optional
	otlpEndpoint string,
) *Crossbill {
	return &Crossbill{
		AppDir: appDir, Manifests: manifests, Name: name, CommandImage: cli, CommandSource: cliSource,
		GoImage: goImage, NodeImage: nodeImage, AlpineImage: alpineImage, BaseImage: baseImage,
		Registry: registry, RegistryUsername: registryUsername, RegistryPassword: registryPassword,
		GitlabUrl: gitlabUrl, Gitlab: gitlab, Project: project, GitlabToken: gitlabToken,
		Kubeconfig: kubeconfig, KubeContext: context, Namespace: namespace, Server: server,
		Prometheus: prometheus, PrometheusService: prometheusService, PrometheusConfig: prometheusConfig,
		By: by, GithubRepository: githubRepository, GithubToken: githubToken, EnvironmentUrl: environmentUrl,
		Webhook: webhook, Pushgateway: pushgateway, OtlpEndpoint: otlpEndpoint,
	}
}

// crossbill is the command in a container. The engine gives every exec the address of its own trace
// collector: the command's steps are not for that one.
func (m *Crossbill) crossbill() *dagger.Container {
	c := m.Cli("development").WithEnvVariable("OTEL_SDK_DISABLED", "true")
	return withVariable(c, "CROSSBILL_OTLP_ENDPOINT", m.OtlpEndpoint)
}

// withRegistry lets the command read and write images.
func (m *Crossbill) withRegistry(c *dagger.Container) *dagger.Container {
	if m.Registry != nil {
		c = c.WithServiceBinding("registry.localhost", m.Registry)
	}
	if m.RegistryPassword == nil {
		return c
	}
	return c.WithEnvVariable("REGISTRY_USERNAME", m.RegistryUsername).WithSecretVariable("REGISTRY_PASSWORD", m.RegistryPassword)
}

// withGitHub lets the command read and write GitHub's Deployment of a release.
func (m *Crossbill) withGitHub(c *dagger.Container) *dagger.Container {
	return withSecret(withVariable(c, "CROSSBILL_GITHUB_REPOSITORY", m.GithubRepository), "CROSSBILL_GITHUB_TOKEN", m.GithubToken)
}

// The crossbill command in a container, to run or to publish
//
// Publish it once and give its digest as --cli, and runners with an empty engine pull it in seconds;
// it is also the image of runners that may not run an engine at all.
func (m *Crossbill) Cli(
	// Version that the command says it is.
	// +default="development"
	version string,
) *dagger.Container {
	if m.CommandImage != "" {
		return dag.Container().From(m.CommandImage)
	}
	binary := dag.Container().From(m.GoImage).
		WithEnvVariable("CGO_ENABLED", "0").
		WithMountedCache("/go/pkg/mod", dag.CacheVolume("crossbill-go-modules")).
		WithEnvVariable("GOCACHE", "/go/build").
		WithMountedCache("/go/build", dag.CacheVolume("crossbill-go-build")).
		WithMountedDirectory("/source", m.CommandSource).
		WithWorkdir("/source").
		WithExec([]string{"go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -X main.version=" + version, "-o", "/crossbill", "./cmd/crossbill"}).
		File("/crossbill")
	return dag.Container().From(m.AlpineImage).
		WithFile("/usr/local/bin/crossbill", binary).
		WithUser("65532:65532").
		WithEntrypoint([]string{"crossbill"})
}
