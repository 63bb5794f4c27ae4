package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// Run a pull request's image beside the app, reached by a header alone
//
// Called again it gives the preview another image, and a new time. Returns the result as JSON.
// +cache="never"
func (m *Crossbill) PreviewUp(
	ctx context.Context,

	// Name of the preview, for example pr-42.
	name string,

	// Image to run, by digest: repository@sha256:….
	image string,

	// Commit that the image was built from. An image policy asks for it.
	// +optional
	commit string,

	// How long it lasts, for example 24h; then guard ends it. By default that of the configuration, or 72h.
	// +optional
	lasts string,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	return m.change(ctx, "preview up", timeout, flags("--name", name, "--image", image, "--commit", commit, "--lasts", lasts)...)
}

// End a preview
//
// Without such a preview there is nothing to do. Returns the result as JSON.
// +cache="never"
func (m *Crossbill) PreviewDown(
	ctx context.Context,

	// Name of the preview, for example pr-42.
	name string,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	return m.change(ctx, "preview down", timeout, flags("--name", name)...)
}

// The app's previews: image, header, and until when
// +cache="never"
func (m *Crossbill) PreviewList(
	ctx context.Context,

	// Format: text, wide, json or yaml.
	// +default="text"
	format string,
) (string, error) {
	return m.look(ctx, "preview list", format)
}

// Have GitLab bring a preview up or end it, and follow that to its end
//
// The project is another one than that which releases. Called again it adopts a pipeline that has not finished. Returns what
// watch saw as JSON: state is finished, running, failed or canceled.
// +cache="never"
func (m *Crossbill) PreviewHandoff(
	ctx context.Context,

	// GitLab project that runs previews: group/project.
	projectPath string,

	// What happens: up or down.
	action string,

	// Name of the preview, for example pr-42.
	name string,

	// Pipeline trigger token of that project.
	triggerToken *dagger.Secret,

	// Image to run, by digest: repository@sha256:…. Only up has one.
	// +optional
	image string,

	// Commit that the image was built from.
	// +optional
	commit string,

	// Page of the run that hands it over.
	// +optional
	sourceUrl string,

	// How long to watch. By default 30m.
	// +optional
	timeout string,
) (string, error) {
	i, gitlab, err := m.forGitLab(ctx)
	if err != nil {
		return "", err
	}
	i.setSecret("trigger-token", "GITLAB_TRIGGER_TOKEN", triggerToken)
	project := flags("--project", projectPath)
	triggered, err := i.run(ctx, "trigger", gitlab, project, flags("--output", "json", "--preview-"+action, name, "--image", image, "--commit", commit, "--source-url", sourceUrl))
	if err != nil {
		return "", err
	}
	var started struct {
		PipelineID int `json:"pipelineId"`
	}
	if err := json.Unmarshal([]byte(triggered), &started); err != nil {
		return "", fmt.Errorf("trigger's answer: %w", err)
	}
	return i.watch(ctx, gitlab, project, pipelineFlags("", started.PipelineID), flags("--timeout", timeout))
}
