package main

import (
	"context"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// Where the release is: stage, traffic, replicas, and what comes next
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
	return m.look(ctx, "status", format, flags("--all", boolean(all))...)
}

// The app's past releases: who, when, how long, verdict, and why one was rolled back
// +cache="never"
func (m *Crossbill) History(
	ctx context.Context,

	// Format: text, wide, json or yaml.
	// +default="text"
	format string,
) (string, error) {
	return m.look(ctx, "history", format)
}

// What a command would change now, without changing anything
// +cache="never"
func (m *Crossbill) Plan(
	ctx context.Context,

	// Command to plan: canary, promote, cleanup or rollback.
	command string,

	// Image to release, by digest: repository@sha256:…. Needed for the command canary.
	// +optional
	image string,

	// The canary's share of the traffic, in percent. By default that of the configuration, or 10.
	// +optional
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
	args := flags("--image", image, "--weight", number(weight), "--release-id", releaseId, "--commit", commit, "--pipeline-url", pipelineUrl)
	return m.look(ctx, "plan", format, append(args, command)...)
}

// The app's releases as one timeline: an HTML file with plots, or Markdown
//
// With --gitlab-token it has what GitLab's jobs did, with --github-token what GitHub was notified of.
// +cache="never"
func (m *Crossbill) Report(
	ctx context.Context,

	// Format: html, markdown, json, yaml or text.
	// +default="html"
	format string,
) (*dagger.File, error) {
	i := m.crossbill()
	m.addCode(i)
	m.addBundleRegistry(i)
	m.addGitops(i)
	where, err := m.addCluster(ctx, i)
	if err != nil {
		return nil, err
	}
	if m.GitlabToken != nil {
		gitlab, err := m.addGitLab(ctx, i)
		if err != nil {
			return nil, err
		}
		where = append(where, gitlab...)
	}
	if format != "html" {
		printed, err := i.run(ctx, "report", where, flags("--output", format))
		return dag.File("report."+format, printed), err
	}
	const file = "/tmp/report.html"
	ran, err := i.exec(ctx, "report", where, flags("--html", file))
	if err != nil {
		return nil, err
	}
	return ran.File(file), nil
}
