package main

import (
	"context"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// Where the release is: stage, traffic, replicas, what comes next
// +cache="never"
func (m *Crossbill) Status(
	ctx context.Context,

	// All apps of the namespace that have been released.
	// +optional
	all bool,

	// Format: text, wide, json or yaml.
	// +default="text"
	format string,
) (string, error) {
	return m.look(ctx, "status", format, given("--all", on(all))...)
}

// The app's past releases: who, when, how long, verdict, and why one went back
// +cache="never"
func (m *Crossbill) History(
	ctx context.Context,

	// Format: text, wide, json or yaml.
	// +default="text"
	format string,
) (string, error) {
	return m.look(ctx, "history", format)
}

// What a command would change now, with nothing changed
// +cache="never"
func (m *Crossbill) Plan(
	ctx context.Context,

	// Command to plan: canary, promote, cleanup or rollback.
	command string,

	// Image to release, by digest: repository@sha256:…. Needed for the command canary.
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
	args := given("--image", image, "--weight", decimal(weight), "--release-id", releaseId, "--commit", commit, "--pipeline-url", pipelineUrl)
	return m.look(ctx, "plan", format, append(args, command)...)
}

// The app's releases as one timeline: an HTML file with plots, or Markdown
//
// With a GitLab project and token it has what GitLab's jobs did, with a GitHub repository and token what
// GitHub was told.
// +cache="never"
func (m *Crossbill) Report(
	ctx context.Context,

	// Format: html, markdown, json, yaml or text.
	// +default="html"
	format string,
) (*dagger.File, error) {
	c, where, err := m.withCluster(ctx, m.withGitHub(m.crossbill()))
	if err != nil {
		return nil, err
	}
	if m.Project != "" {
		var gitlab []string
		if c, gitlab, err = m.withGitLab(ctx, c); err != nil {
			return nil, err
		}
		where = append(where, gitlab...)
	}
	if format != "html" {
		printed, err := run(ctx, c, "report", where, given("--output", format))
		return dag.File("report."+format, printed), err
	}
	const file = "/tmp/report.html"
	ran, err := ended(ctx, c, "report", where, given("--html", file))
	if err != nil {
		return nil, err
	}
	return ran.File(file), nil
}
