package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// Start GitLab's pipeline for a release, once, or adopt the one that exists
//
// It can be called again whatever happened to the network: a release has one pipeline. Returns the pipeline as JSON.
// +cache="never"
func (m *Crossbill) Trigger(
	ctx context.Context,

	// Commit that the image was built from.
	commit string,

	// Pipeline trigger token.
	triggerToken *dagger.Secret,

	// Image to release, by digest: repository@sha256:…. Give this or bundle.
	// +optional
	image string,

	// Bundle to release, by digest: repository@sha256:…. It has the manifests and names the image.
	// +optional
	bundle string,

	// Branch or tag of the GitLab project. By default that of the configuration, or main.
	// +optional
	ref string,

	// Name of the release. By default made of app, digest and commit.
	// +optional
	releaseId string,

	// Page of the run that hands the release over.
	// +optional
	sourceUrl string,

	// Start another pipeline although one of this release has finished.
	// +optional
	again bool,

	// Send trigger variables in place of typed inputs, for a GitLab before 18.1.
	// +optional
	variables bool,
) (string, error) {
	i, gitlab, err := m.forGitLab(ctx)
	if err != nil {
		return "", err
	}
	i.setSecret("trigger-token", "GITLAB_TRIGGER_TOKEN", triggerToken)
	return i.run(ctx, "trigger", gitlab, flags(
		"--output", "json", "--image", image, "--bundle", bundle, "--commit", commit, "--ref", ref, "--release-id", releaseId,
		"--source-url", sourceUrl, "--again", boolean(again), "--variables", boolean(variables)))
}

// Hand a release over by one commit in the environment repository, which GitLab's pipeline starts from
//
// The section gitops of the configuration says which repository it is. It can be called again: a release is proposed once,
// and an older one does not take the place of a newer one. Returns the commit as JSON.
// +cache="never"
func (m *Crossbill) Propose(
	ctx context.Context,

	// Commit that the image was built from.
	commit string,

	// Image to release, by digest: repository@sha256:…. Give this or bundle.
	// +optional
	image string,

	// Bundle to release, by digest: repository@sha256:…. It has the manifests and names the image.
	// +optional
	bundle string,

	// Page of the run that hands the release over: by its number an older release is known.
	// +optional
	sourceUrl string,

	// Propose it although it is older than the release that is named, or has finished before.
	// +optional
	again bool,

	// Let GitLab open a merge request.
	// +optional
	mergeRequest bool,
) (string, error) {
	i := m.crossbill()
	m.addGitops(i)
	return i.run(ctx, "propose", flags(
		"--output", "json", "--app", m.AppName, "--image", image, "--bundle", bundle, "--commit", commit, "--source-url", sourceUrl,
		"--again", boolean(again), "--merge-request", boolean(mergeRequest)))
}

// Follow GitLab's pipeline of a release until it ends or waits for an approver
//
// Returns what it saw as JSON, whatever it is: state is promoted, waiting, running, failed, canceled or rolled_back.
// Fails only when it saw nothing.
// +cache="never"
func (m *Crossbill) Watch(
	ctx context.Context,

	// Name of the release, as trigger gave it. Give this or pipeline.
	// +optional
	releaseId string,

	// Id of the pipeline. Give this or release-id.
	// +optional
	pipeline int,

	// How long to watch. By default 30m.
	// +optional
	timeout string,
) (string, error) {
	i, gitlab, err := m.forGitLab(ctx)
	if err != nil {
		return "", err
	}
	return i.watch(ctx, gitlab, pipelineFlags(releaseId, pipeline), flags("--timeout", timeout))
}

// End a release: start GitLab's rollback job, or cancel its pipeline when the canary has not started
//
// It can be called again. The GitLab token's user must be allowed to run the rollback job. Returns the pipeline and
// what was done as JSON.
// +cache="never"
func (m *Crossbill) Cancel(
	ctx context.Context,

	// Name of the release, as trigger gave it. Give this or pipeline.
	// +optional
	releaseId string,

	// Id of the pipeline. Give this or release-id.
	// +optional
	pipeline int,
) (string, error) {
	i, gitlab, err := m.forGitLab(ctx)
	if err != nil {
		return "", err
	}
	return i.run(ctx, "cancel", gitlab, pipelineFlags(releaseId, pipeline))
}

// Carry the app from source to GitLab: check, publish, bundle, trigger, watch
//
// What GitHub Actions does on main, from a laptop. GitLab's approval gate stays: the release waits there for an
// approver. Returns what watch saw as JSON.
// +cache="never"
func (m *Crossbill) Release(
	ctx context.Context,

	// Where to push: registry/repository:tag.
	address string,

	// Commit that the image is built from.
	sourceCommit string,

	// Pipeline trigger token.
	triggerToken *dagger.Secret,

	// Branch or tag of the GitLab project. By default that of the configuration, or main.
	// +optional
	ref string,

	// Version of the app. By default the one in package.json.
	// +optional
	appVersion string,

	// Time of the commit in seconds since 1970: the image's only time, so that one commit is one image.
	// +default=0
	created int,

	// How long to watch. By default 30m.
	// +optional
	timeout string,

	// Source repository, https://…: a label, and what the provenance says.
	// +optional
	sourceUrl string,

	// Private key as PEM, to sign the image with.
	// +optional
	signingKey *dagger.Secret,

	// Branch or tag of the source's commit, for example refs/heads/main: what the provenance says, and image policies ask.
	// +optional
	sourceRef string,
) (string, error) {
	if m.GitlabToken == nil { // before an image is pushed that is handed over to nobody
		return "", missing("gitlab-token")
	}
	if err := m.Check(ctx); err != nil {
		return "", err
	}
	published, err := m.Publish(ctx, address, appVersion, sourceCommit, created, sourceUrl, signingKey, sourceRef)
	if err != nil {
		return "", err
	}
	image, err := byDigest(published)
	if err != nil {
		return "", err
	}
	bundle, err := m.Bundle(ctx, image, "", false, signingKey, sourceRef)
	if err != nil {
		return "", err
	}
	triggered, err := m.Trigger(ctx, sourceCommit, triggerToken, "", bundle, ref, "", "", false, false)
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

// forGitLab is the command with what it reaches GitLab by, and its flags for it.
func (m *Crossbill) forGitLab(ctx context.Context) (*invocation, []string, error) {
	if m.GitlabToken == nil {
		return nil, nil, missing("gitlab-token")
	}
	i := m.crossbill()
	gitlab, err := m.addGitLab(ctx, i)
	return i, gitlab, err
}

// addGitLab lets the command reach GitLab, and returns its flags for it.
func (m *Crossbill) addGitLab(ctx context.Context, i *invocation) ([]string, error) {
	i.setSecret("gitlab-token", "GITLAB_TOKEN", m.GitlabToken)
	if m.GitlabService == nil {
		return nil, nil
	}
	address, err := i.bind(ctx, "gitlab-service", "gitlab.localhost", m.GitlabService)
	return []string{"--gitlab-url=http://" + address}, err
}

// watch follows a pipeline. Its exit code is the state's, which is in the answer.
func (i *invocation) watch(ctx context.Context, args ...[]string) (string, error) {
	seen, err := i.run(ctx, "watch", args...)
	if json.Valid([]byte(seen)) {
		return seen, nil
	}
	return "", err
}

// pipelineFlags name a pipeline, and ask for JSON.
func pipelineFlags(releaseId string, id int) []string {
	return flags("--output", "json", "--release-id", releaseId, "--pipeline", number(id))
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
