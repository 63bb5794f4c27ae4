package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// Start GitLab's pipeline for a release, once, or adopt the one that is there
//
// It can be called again whatever happened to the network: there is one pipeline of a release. Gives
// the pipeline as JSON.
// +cache="never"
func (m *Crossbill) Trigger(
	ctx context.Context,

	// GitLab project that deploys: group/project.
	project string,

	// Name of the app.
	app string,

	// Image to release, by digest: repository@sha256:….
	image string,

	// Commit that the image was built from.
	commit string,

	// Pipeline trigger token.
	triggerToken *dagger.Secret,

	// Access token of scope read_api, or api to cancel duplicates.
	token *dagger.Secret,

	// GitLab's URL.
	// +default="https://gitlab.com"
	gitlabUrl string,

	// GitLab that only the caller's machine reaches, for example tcp://127.0.0.1:8929. It is asked by http.
	// +optional
	gitlab *dagger.Service,

	// Branch or tag of the GitLab project.
	// +default="main"
	ref string,

	// Name of the release. By default made of app, digest and commit.
	// +optional
	releaseId string,

	// Page of the run that hands the release over.
	// +optional
	sourceUrl string,

	// Start another pipeline although one of this release has ended.
	// +optional
	again bool,

	// Send trigger variables in place of typed inputs, for a GitLab before 18.1.
	// +optional
	variables bool,
) (string, error) {
	c, url, err := m.withGitLab(ctx, gitlabUrl, gitlab, token)
	if err != nil {
		return "", err
	}
	args := []string{
		"trigger", "--output=json", "--gitlab-url=" + url, "--project=" + project, "--ref=" + ref,
		"--app=" + app, "--image=" + image, "--commit=" + commit,
	}
	args = flag(args, "--release-id", releaseId)
	args = flag(args, "--source-url", sourceUrl)
	args = toggle(args, "--again", again)
	args = toggle(args, "--variables", variables)
	return run(ctx, c.WithSecretVariable("GITLAB_TRIGGER_TOKEN", triggerToken), args...)
}

// Follow GitLab's pipeline of a release until it ends or waits for a person
//
// Gives what it saw as JSON, whatever it is: state is promoted, waiting, running, failed, canceled or
// rolled_back. Fails only when it saw nothing.
// +cache="never"
func (m *Crossbill) Watch(
	ctx context.Context,

	// GitLab project that deploys: group/project.
	project string,

	// Access token of scope read_api, or api to cancel duplicates.
	token *dagger.Secret,

	// GitLab's URL.
	// +default="https://gitlab.com"
	gitlabUrl string,

	// GitLab that only the caller's machine reaches, for example tcp://127.0.0.1:8929. It is asked by http.
	// +optional
	gitlab *dagger.Service,

	// Name of the app.
	// +optional
	app string,

	// Name of the release, as trigger gave it. This or pipeline.
	// +optional
	releaseId string,

	// Pipeline's id. This or release-id.
	// +optional
	pipeline int,

	// How long to watch, for example 30m.
	// +default="30m"
	timeout string,
) (string, error) {
	c, url, err := m.withGitLab(ctx, gitlabUrl, gitlab, token)
	if err != nil {
		return "", err
	}
	args := []string{"watch", "--output=json", "--gitlab-url=" + url, "--project=" + project, "--timeout=" + timeout}
	args = flag(args, "--app", app)
	args = flag(args, "--release-id", releaseId)
	if pipeline != 0 {
		args = flag(args, "--pipeline", decimal(pipeline))
	}
	watched := fresh(c).WithExec(command(args), dagger.ContainerWithExecOpts{Expect: dagger.ReturnTypeAny})
	seen, err := watched.Stdout(ctx)
	if err != nil || json.Valid([]byte(seen)) {
		return seen, err
	}
	why, err := watched.Stderr(ctx)
	if err != nil {
		return "", err
	}
	return "", fmt.Errorf("watch saw nothing; it can be called again: %s", why)
}

// End a release: press GitLab's rollback button, or cancel its pipeline when the canary has not begun
//
// It can be called again. Gives the pipeline and what was done as JSON.
// +cache="never"
func (m *Crossbill) Cancel(
	ctx context.Context,

	// GitLab project that deploys: group/project.
	project string,

	// Access token of scope api, whose user may run the rollback job.
	token *dagger.Secret,

	// GitLab's URL.
	// +default="https://gitlab.com"
	gitlabUrl string,

	// GitLab that only the caller's machine reaches, for example tcp://127.0.0.1:8929. It is asked by http.
	// +optional
	gitlab *dagger.Service,

	// Name of the app.
	// +optional
	app string,

	// Name of the release, as trigger gave it. This or pipeline.
	// +optional
	releaseId string,

	// Pipeline's id. This or release-id.
	// +optional
	pipeline int,
) (string, error) {
	c, url, err := m.withGitLab(ctx, gitlabUrl, gitlab, token)
	if err != nil {
		return "", err
	}
	args := []string{"cancel", "--output=json", "--gitlab-url=" + url, "--project=" + project}
	args = flag(args, "--app", app)
	args = flag(args, "--release-id", releaseId)
	if pipeline != 0 {
		args = flag(args, "--pipeline", decimal(pipeline))
	}
	return run(ctx, c, args...)
}

// Carry the app from source to GitLab: check, publish, trigger, watch
//
// What GitHub Actions does on main, from a laptop. GitLab's gate stays: the release waits there for a
// person. Gives what watch saw as JSON.
// +cache="never"
func (m *Crossbill) Release(
	ctx context.Context,

	// Where to push: registry/repository:tag.
	address string,

	// GitLab project that deploys: group/project.
	project string,

	// Commit that the image is built from.
	commit string,

	// Pipeline trigger token.
	triggerToken *dagger.Secret,

	// Access token of scope read_api, or api to cancel duplicates.
	token *dagger.Secret,

	// GitLab's URL.
	// +default="https://gitlab.com"
	gitlabUrl string,

	// GitLab that only the caller's machine reaches, for example tcp://127.0.0.1:8929. It is asked by http.
	// +optional
	gitlab *dagger.Service,

	// Branch or tag of the GitLab project.
	// +default="main"
	ref string,

	// User of the registry.
	// +optional
	username string,

	// Password or token of the registry's user.
	// +optional
	password *dagger.Secret,

	// Registry that only the caller's machine reaches, for example tcp://127.0.0.1:5000. The address
	// then begins with registry.localhost and the port.
	// +optional
	registry *dagger.Service,

	// Version of the app. By default the one in package.json.
	// +optional
	version string,

	// Time of the commit in seconds since 1970: the image's only time, so that one commit is one image.
	// +default=0
	created int,

	// How long to watch, for example 30m.
	// +default="30m"
	timeout string,

	// Source repository, https://…: a label, and what the provenance says.
	// +optional
	sourceUrl string,

	// Private key as PEM, to sign the image with.
	// +optional
	signingKey *dagger.Secret,
) (string, error) {
	if err := m.Check(ctx); err != nil {
		return "", err
	}
	published, err := m.Publish(ctx, address, username, password, version, commit, created, registry, sourceUrl, signingKey)
	if err != nil {
		return "", err
	}
	image, err := byDigest(published)
	if err != nil {
		return "", err
	}
	triggered, err := m.Trigger(ctx, project, m.Name, image, commit, triggerToken, token, gitlabUrl, gitlab, ref, "", "", false, false)
	if err != nil {
		return "", err
	}
	var pipeline struct {
		PipelineID int `json:"pipelineId"`
	}
	if err := json.Unmarshal([]byte(triggered), &pipeline); err != nil {
		return "", fmt.Errorf("trigger's answer: %w", err)
	}
	return m.Watch(ctx, project, token, gitlabUrl, gitlab, m.Name, "", pipeline.PipelineID, timeout)
}

// withGitLab is the crossbill command with what it needs to talk to GitLab, and GitLab's URL.
func (m *Crossbill) withGitLab(ctx context.Context, url string, service *dagger.Service, token *dagger.Secret) (*dagger.Container, string, error) {
	c := m.telling(m.Cli()).WithSecretVariable("GITLAB_TOKEN", token)
	if service == nil {
		return c, url, nil
	}
	address, err := bind(ctx, service, "gitlab.localhost")
	if err != nil {
		return nil, "", err
	}
	return c.WithServiceBinding("gitlab.localhost", service), "http://" + address, nil
}

// byDigest turns repository:tag@digest into repository@digest, which is what may be deployed.
func byDigest(published string) (string, error) {
	tagged, digest, ok := strings.Cut(strings.TrimSpace(published), "@")
	if !ok {
		return "", fmt.Errorf("publish gave no digest: %q", published)
	}
	if at := strings.LastIndex(tagged, ":"); at > strings.LastIndex(tagged, "/") {
		tagged = tagged[:at]
	}
	return tagged + "@" + digest, nil
}
