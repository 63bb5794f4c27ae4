package main

import (
	"context"
	"strconv"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// Route part of the traffic to a new image
//
// The first release of an app goes straight to primary. A canary that does not become ready is rolled
// back, and the call fails. Gives the result as JSON.
// +cache="never"
func (m *Crossbill) Canary(
	ctx context.Context,

	// Kubeconfig, for example file:$HOME/.kube/config.
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

	// Image to release, by digest: repository@sha256:….
	image string,

	// The canary's share of the traffic, in percent.
	// +default=10
	weight int,

	// Keep a browser on the version that answered it first, until the release has ended.
	// +optional
	sticky bool,

	// Name of the release. By default made of app, digest and commit.
	// +optional
	releaseId string,

	// Commit that the image was built from.
	// +optional
	commit string,

	// Page of the pipeline that runs the release.
	// +optional
	pipelineUrl string,

	// Page of the run that handed the release over.
	// +optional
	sourceUrl string,

	// Release it once more, although it has ended before.
	// +optional
	again bool,

	// Take the claim of another job of this release at once.
	// +optional
	takeover bool,

	// GitHub repository whose Deployment of the release gets a status: owner/name.
	// +optional
	githubRepository string,

	// Token that may write deployments of the GitHub repository.
	// +optional
	githubToken *dagger.Secret,

	// The app's address, for the GitHub Deployment.
	// +optional
	environmentUrl string,

	// Prometheus that scrapes the mesh: its URL.
	// +optional
	prometheus string,

	// Prometheus that only the caller's machine reaches, for example tcp://127.0.0.1:9090.
	// +optional
	prometheusService *dagger.Service,

	// Who acts, for the ledger: for example $GITLAB_USER_LOGIN. By default the container.
	// +optional
	by string,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	args := []string{"--output=json", "--image=" + image, "--weight=" + decimal(weight), "--timeout=" + timeout}
	args = flag(args, "--release-id", releaseId)
	args = flag(args, "--commit", commit)
	args = flag(args, "--pipeline-url", pipelineUrl)
	args = flag(args, "--source-url", sourceUrl)
	args = flag(args, "--by", by)
	args = toggle(args, "--sticky", sticky)
	args = toggle(args, "--again", again)
	args = toggle(args, "--takeover", takeover)
	args = flag(args, "--github-repository", githubRepository)
	args = flag(args, "--environment-url", environmentUrl)
	on := cluster{kubeconfig: kubeconfig, kubeContext: context, namespace: namespace, server: server, prometheus: prometheus, prometheusService: prometheusService, githubToken: githubToken}
	return m.run(ctx, on, "canary", args...)
}

// Give the canary more of the traffic, in steps
//
// It has to be judged again afterwards. Gives the result as JSON.
// +cache="never"
func (m *Crossbill) Shift(
	ctx context.Context,

	// Kubeconfig, for example file:$HOME/.kube/config.
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

	// Percentages, rising: the last one is where the canary stays.
	steps []int,

	// How long each step but the last is left as it is, for example 5m.
	// +default="0s"
	pause string,

	// Release that is meant. Any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// Take the claim of another job of this release at once.
	// +optional
	takeover bool,

	// GitHub repository whose Deployment of the release gets a status: owner/name.
	// +optional
	githubRepository string,

	// Token that may write deployments of the GitHub repository.
	// +optional
	githubToken *dagger.Secret,

	// The app's address, for the GitHub Deployment.
	// +optional
	environmentUrl string,

	// Prometheus that scrapes the mesh: its URL.
	// +optional
	prometheus string,

	// Prometheus that only the caller's machine reaches, for example tcp://127.0.0.1:9090.
	// +optional
	prometheusService *dagger.Service,

	// Who acts, for the ledger: for example $GITLAB_USER_LOGIN. By default the container.
	// +optional
	by string,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	args := []string{"--output=json", "--pause=" + pause, "--timeout=" + timeout}
	for _, step := range steps {
		args = flag(args, "--steps", decimal(step))
	}
	args = flag(args, "--release-id", releaseId)
	args = flag(args, "--by", by)
	args = toggle(args, "--takeover", takeover)
	args = flag(args, "--github-repository", githubRepository)
	args = flag(args, "--environment-url", environmentUrl)
	on := cluster{kubeconfig: kubeconfig, kubeContext: context, namespace: namespace, server: server, prometheus: prometheus, prometheusService: prometheusService, githubToken: githubToken}
	return m.run(ctx, on, "shift", args...)
}

// Judge the canary, and roll it back when it is unhealthy
//
// Fails when it is unhealthy, and when there is too little evidence. Gives the verdict as JSON.
// +cache="never"
func (m *Crossbill) Verify(
	ctx context.Context,

	// Kubeconfig, for example file:$HOME/.kube/config.
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

	// Release that is meant. Any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// Time after which what is not decided is inconclusive, for example 15m. By default that of slo.yaml beside
	// the manifests.
	// +optional
	maxDuration string,

	// Leave an unhealthy canary as it is.
	// +optional
	noRollback bool,

	// GitHub repository whose Deployment of the release gets a status: owner/name.
	// +optional
	githubRepository string,

	// Token that may write deployments of the GitHub repository.
	// +optional
	githubToken *dagger.Secret,

	// The app's address, for the GitHub Deployment.
	// +optional
	environmentUrl string,

	// Prometheus that scrapes the mesh: its URL.
	// +optional
	prometheus string,

	// Prometheus that only the caller's machine reaches, for example tcp://127.0.0.1:9090.
	// +optional
	prometheusService *dagger.Service,

	// Credentials, CA and headers for Prometheus, in the form of its http_config.
	// +optional
	prometheusConfig *dagger.Secret,

	// URL that is called while the canary is judged, for an app that few call; the call has to reach the
	// canary.
	// +optional
	probe string,

	// Who acts, for the ledger: for example $GITLAB_USER_LOGIN. By default the container.
	// +optional
	by string,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	args := []string{
		"--output=json", "--timeout=" + timeout,
	}
	args = flag(args, "--max-duration", maxDuration)
	args = flag(args, "--release-id", releaseId)
	args = flag(args, "--by", by)
	args = toggle(args, "--no-rollback", noRollback)
	args = flag(args, "--probe", probe)
	args = flag(args, "--github-repository", githubRepository)
	args = flag(args, "--environment-url", environmentUrl)
	on := cluster{kubeconfig: kubeconfig, kubeContext: context, namespace: namespace, server: server, prometheus: prometheus, prometheusService: prometheusService, prometheusConfig: prometheusConfig, githubToken: githubToken}
	return m.run(ctx, on, "verify", args...)
}

// Give the canary that was judged healthy all of the traffic
//
// Puts its digest on primary, waits for the rollout, and routes all traffic there. Gives the result as
// JSON.
// +cache="never"
func (m *Crossbill) Promote(
	ctx context.Context,

	// Kubeconfig, for example file:$HOME/.kube/config.
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

	// Release that is meant. Any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// How long primary is judged after it has all of the traffic, for example 10m.
	// +optional
	bake string,

	// Take the claim of another job of this release at once.
	// +optional
	takeover bool,

	// GitHub repository whose Deployment of the release gets a status: owner/name.
	// +optional
	githubRepository string,

	// Token that may write deployments of the GitHub repository.
	// +optional
	githubToken *dagger.Secret,

	// The app's address, for the GitHub Deployment.
	// +optional
	environmentUrl string,

	// Prometheus that scrapes the mesh: its URL.
	// +optional
	prometheus string,

	// Prometheus that only the caller's machine reaches, for example tcp://127.0.0.1:9090.
	// +optional
	prometheusService *dagger.Service,

	// Who acts, for the ledger: for example $GITLAB_USER_LOGIN. By default the container.
	// +optional
	by string,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	args := []string{"--output=json", "--timeout=" + timeout}
	args = flag(args, "--release-id", releaseId)
	args = flag(args, "--by", by)
	args = flag(args, "--bake", bake)
	args = toggle(args, "--takeover", takeover)
	args = flag(args, "--github-repository", githubRepository)
	args = flag(args, "--environment-url", environmentUrl)
	on := cluster{kubeconfig: kubeconfig, kubeContext: context, namespace: namespace, server: server, prometheus: prometheus, prometheusService: prometheusService, githubToken: githubToken}
	return m.run(ctx, on, "promote", args...)
}

// Remove the canary after a promotion
//
// Waits until it gets no more requests. Gives the result as JSON.
// +cache="never"
func (m *Crossbill) Cleanup(
	ctx context.Context,

	// Kubeconfig, for example file:$HOME/.kube/config.
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

	// Release that is meant. Any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// Take the claim of another job of this release at once.
	// +optional
	takeover bool,

	// Prometheus that scrapes the mesh: its URL.
	// +optional
	prometheus string,

	// Prometheus that only the caller's machine reaches, for example tcp://127.0.0.1:9090.
	// +optional
	prometheusService *dagger.Service,

	// Who acts, for the ledger: for example $GITLAB_USER_LOGIN. By default the container.
	// +optional
	by string,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	args := []string{"--output=json", "--timeout=" + timeout}
	args = flag(args, "--release-id", releaseId)
	args = flag(args, "--by", by)
	args = toggle(args, "--takeover", takeover)
	on := cluster{kubeconfig: kubeconfig, kubeContext: context, namespace: namespace, server: server, prometheus: prometheus, prometheusService: prometheusService}
	return m.run(ctx, on, "cleanup", args...)
}

// Send all traffic back to primary, then remove the canary
//
// At any time, from any stage. Gives the result as JSON.
// +cache="never"
func (m *Crossbill) Rollback(
	ctx context.Context,

	// Kubeconfig, for example file:$HOME/.kube/config.
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

	// Release that is meant. Any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// Why, for the ledger.
	// +default="asked for by a person"
	reason string,

	// GitHub repository whose Deployment of the release gets a status: owner/name.
	// +optional
	githubRepository string,

	// Token that may write deployments of the GitHub repository.
	// +optional
	githubToken *dagger.Secret,

	// The app's address, for the GitHub Deployment.
	// +optional
	environmentUrl string,

	// Prometheus that scrapes the mesh: its URL.
	// +optional
	prometheus string,

	// Prometheus that only the caller's machine reaches, for example tcp://127.0.0.1:9090.
	// +optional
	prometheusService *dagger.Service,

	// Who acts, for the ledger: for example $GITLAB_USER_LOGIN. By default the container.
	// +optional
	by string,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	args := []string{"--output=json", "--timeout=" + timeout}
	args = flag(args, "--release-id", releaseId)
	args = flag(args, "--by", by)
	args = flag(args, "--reason", reason)
	args = flag(args, "--github-repository", githubRepository)
	args = flag(args, "--environment-url", environmentUrl)
	on := cluster{kubeconfig: kubeconfig, kubeContext: context, namespace: namespace, server: server, prometheus: prometheus, prometheusService: prometheusService, githubToken: githubToken}
	return m.run(ctx, on, "rollback", args...)
}

// End a release that nobody works on any more
//
// Rolls it back, or cleans it up when it was promoted. To be run on a schedule. Gives the result as JSON.
// +cache="never"
func (m *Crossbill) Guard(
	ctx context.Context,

	// Kubeconfig, for example file:$HOME/.kube/config.
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

	// How long a release may stand still where a job must be at work.
	// +default="15m"
	dead string,

	// How long a canary may wait for its verdict, or for a person.
	// +default="24h"
	waiting string,

	// GitHub repository whose Deployment of the release gets a status: owner/name.
	// +optional
	githubRepository string,

	// Token that may write deployments of the GitHub repository.
	// +optional
	githubToken *dagger.Secret,

	// The app's address, for the GitHub Deployment.
	// +optional
	environmentUrl string,

	// Prometheus that scrapes the mesh: its URL.
	// +optional
	prometheus string,

	// Prometheus that only the caller's machine reaches, for example tcp://127.0.0.1:9090.
	// +optional
	prometheusService *dagger.Service,

	// Who acts, for the ledger: for example $GITLAB_USER_LOGIN. By default the container.
	// +optional
	by string,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	args := []string{"--output=json", "--dead=" + dead, "--waiting=" + waiting, "--timeout=" + timeout}
	args = flag(args, "--by", by)
	args = flag(args, "--github-repository", githubRepository)
	args = flag(args, "--environment-url", environmentUrl)
	on := cluster{kubeconfig: kubeconfig, kubeContext: context, namespace: namespace, server: server, prometheus: prometheus, prometheusService: prometheusService, githubToken: githubToken}
	return m.run(ctx, on, "guard", args...)
}

// Where the release is: stage, traffic, replicas, what comes next
// +cache="never"
func (m *Crossbill) Status(
	ctx context.Context,

	// Kubeconfig, for example file:$HOME/.kube/config.
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

	// All apps of the namespace that have been released.
	// +optional
	all bool,

	// Format: text, wide, json or yaml.
	// +default="text"
	format string,
) (string, error) {
	on := cluster{kubeconfig: kubeconfig, kubeContext: context, namespace: namespace, server: server}
	return m.run(ctx, on, "status", toggle([]string{"--output=" + format}, "--all", all)...)
}

// The app's past releases: who, when, how long, verdict, and why one went back
// +cache="never"
func (m *Crossbill) History(
	ctx context.Context,

	// Kubeconfig, for example file:$HOME/.kube/config.
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

	// Format: text, wide, json or yaml.
	// +default="text"
	format string,
) (string, error) {
	on := cluster{kubeconfig: kubeconfig, kubeContext: context, namespace: namespace, server: server}
	return m.run(ctx, on, "history", "--output="+format)
}

// What a verb would change now, with nothing changed
// +cache="never"
func (m *Crossbill) Plan(
	ctx context.Context,

	// Kubeconfig, for example file:$HOME/.kube/config.
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

	// Verb to plan: canary, promote, cleanup or rollback.
	verb string,

	// Image to release, by digest: repository@sha256:…. Needed for the verb canary.
	// +optional
	image string,

	// The canary's share of the traffic, in percent.
	// +default=10
	weight int,

	// Name of the release. By default made of app, digest and commit.
	// +optional
	releaseId string,

	// Commit that the image was built from.
	// +optional
	commit string,

	// Page of the pipeline that runs the release.
	// +optional
	pipelineUrl string,

	// Format: text or json.
	// +default="text"
	format string,
) (string, error) {
	args := []string{verb, "--weight=" + decimal(weight), "--output=" + format}
	args = flag(args, "--image", image)
	args = flag(args, "--release-id", releaseId)
	args = flag(args, "--commit", commit)
	args = flag(args, "--pipeline-url", pipelineUrl)
	on := cluster{kubeconfig: kubeconfig, kubeContext: context, namespace: namespace, server: server}
	return m.run(ctx, on, "plan", args...)
}

// The app's releases as one timeline: an HTML file with plots, or Markdown
// +cache="never"
func (m *Crossbill) Report(
	ctx context.Context,

	// Kubeconfig, for example file:$HOME/.kube/config.
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

	// Format: html, markdown, json, yaml or text.
	// +default="html"
	format string,

	// GitLab's URL, for what its jobs did.
	// +default="https://gitlab.com"
	gitlabUrl string,

	// GitLab project that deploys: group/project. By default its jobs are not in the report.
	// +optional
	project string,

	// GitLab access token, scope read_api.
	// +optional
	token *dagger.Secret,

	// GitHub repository whose Deployments are in the report: owner/name. It needs a token.
	// +optional
	githubRepository string,

	// Token that may read deployments of the GitHub repository.
	// +optional
	githubToken *dagger.Secret,
) (*dagger.File, error) {
	on := cluster{kubeconfig: kubeconfig, kubeContext: context, namespace: namespace, server: server, githubToken: githubToken}
	args := []string{"--html=/tmp/report.html"}
	if format != "html" {
		args = []string{"--output=" + format}
	}
	if project != "" {
		args = append(args, "--gitlab-url="+gitlabUrl, "--project="+project)
	}
	args = flag(args, "--github-repository", githubRepository)
	c, args, err := m.prepare(ctx, on, "report", args)
	if err != nil {
		return nil, err
	}
	if token != nil {
		c = c.WithSecretVariable("GITLAB_TOKEN", token)
	}
	if format == "html" {
		return fresh(c).WithExec(command(args)).File("/tmp/report.html").Sync(ctx)
	}
	out := "/tmp/report." + format
	return fresh(c).WithExec(command(args), dagger.ContainerWithExecOpts{RedirectStdout: out}).File(out).Sync(ctx)
}

func decimal(n int) string { return strconv.Itoa(n) }

// toggle appends a flag that is there or not.
func toggle(args []string, name string, on bool) []string {
	if !on {
		return args
	}
	return append(args, name)
}
