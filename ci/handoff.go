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

	// Image to release, by digest: repository@sha256:….
	image string,

	// Commit that the image was built from.
	commit string,

	// Pipeline trigger token.
	triggerToken *dagger.Secret,

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
	if err := m.checkHandoff(); err != nil {
		return "", err
	}
	c, gitlab, err := m.withGitLab(ctx, m.crossbill())
	if err != nil {
		return "", err
	}
	c = c.WithSecretVariable("GITLAB_TRIGGER_TOKEN", triggerToken)
	return run(ctx, c, "trigger", gitlab, given(
		"--output", "json", "--app", m.Name, "--image", image, "--commit", commit, "--ref", ref, "--release-id", releaseId,
		"--source-url", sourceUrl, "--again", on(again), "--variables", on(variables)))
}

// Follow GitLab's pipeline of a release until it ends or waits for a person
//
// Gives what it saw as JSON, whatever it is: state is promoted, waiting, running, failed, canceled or
// rolled_back. Fails only when it saw nothing.
// +cache="never"
func (m *Crossbill) Watch(
	ctx context.Context,

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
	c, gitlab, err := m.withGitLab(ctx, m.crossbill())
	if err != nil {
		return "", err
	}
	seen, err := run(ctx, c, "watch", gitlab, m.pipeline(releaseId, pipeline), given("--timeout", timeout))
	if json.Valid([]byte(seen)) {
		return seen, nil
	}
	return "", err
}

// End a release: press GitLab's rollback button, or cancel its pipeline when the canary has not begun
//
// It can be called again. The GitLab token's user must be allowed to run the rollback job. Gives the
// pipeline and what was done as JSON.
// +cache="never"
func (m *Crossbill) Cancel(
	ctx context.Context,

	// Name of the release, as trigger gave it. This or pipeline.
	// +optional
	releaseId string,

	// Pipeline's id. This or release-id.
	// +optional
	pipeline int,
) (string, error) {
	c, gitlab, err := m.withGitLab(ctx, m.crossbill())
	if err != nil {
		return "", err
	}
	return run(ctx, c, "cancel", gitlab, m.pipeline(releaseId, pipeline))
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

	// Commit that the image is built from.
	commit string,

	// Pipeline trigger token.
	triggerToken *dagger.Secret,

	// Branch or tag of the GitLab project.
	// +default="main"
	ref string,

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
	if err := m.checkHandoff(); err != nil { // before an image is pushed that nobody is told of
		return "", err
	}
	if err := m.Check(ctx); err != nil {
		return "", err
	}
	published, err := m.Publish(ctx, address, version, commit, created, sourceUrl, signingKey)
	if err != nil {
		return "", err
	}
	image, err := byDigest(published)
	if err != nil {
		return "", err
	}
	triggered, err := m.Trigger(ctx, image, commit, triggerToken, ref, "", "", false, false)
	if err != nil {
		return "", err
	}
	var started struct {
		PipelineID int `json:"pipelineId"`
	}
	if err := json.Unmarshal([]byte(triggered), &started); err != nil {
		return "", fmt.Errorf("trigger's answer: %w", err)
	}
	return m.Watch(ctx, "", started.PipelineID, timeout)
}

// checkHandoff finds what nothing can be handed over without.
func (m *Crossbill) checkHandoff() error {
	if m.Name == "" {
		return missing("name")
	}
	return m.checkGitLab()
}

// checkGitLab finds what nothing can be asked of GitLab without.
func (m *Crossbill) checkGitLab() error {
	switch {
	case m.Project == "":
		return missing("project")
	case m.GitlabToken == nil:
		return missing("gitlab-token")
	}
	return nil
}

// withGitLab lets the command reach GitLab, and gives its flags for it.
func (m *Crossbill) withGitLab(ctx context.Context, c *dagger.Container) (*dagger.Container, []string, error) {
	if err := m.checkGitLab(); err != nil {
		return nil, nil, err
	}
	c, url := c.WithSecretVariable("GITLAB_TOKEN", m.GitlabToken), m.GitlabUrl
	if m.Gitlab != nil {
		bound, address, err := bind(ctx, c, "gitlab.localhost", m.Gitlab)
		if err != nil {
			return nil, nil, err
		}
		c, url = bound, "http://"+address
	}
	return c, given("--gitlab-url", url, "--project", m.Project), nil
}

// pipeline is the flags that name a pipeline, and ask for JSON.
func (m *Crossbill) pipeline(releaseId string, id int) []string {
	args := given("--output", "json", "--app", m.Name, "--release-id", releaseId)
	if id == 0 {
		return args
	}
	return append(args, "--pipeline="+decimal(id))
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
