package scaffold

import (
	"bytes"
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/usererr"
)

// previewFiles are those of previews: GitHub's two workflows and, where the folder of GitLab's project is known, its pipeline file and
// crossbill.yaml.
func (a *Answers) previewFiles(githubDir string) ([]*File, error) {
	if err := a.checkPreviews(); err != nil {
		return nil, err
	}
	workflows := filepath.Join(githubDir, ".github", "workflows")
	files := []*File{
		{Path: filepath.Join(workflows, "pull-request.yml"), Text: a.pullRequest()},
		{Path: filepath.Join(workflows, "preview.yml"), Text: a.previewHandoff()},
	}
	if a.PreviewsDir == "" {
		return files, nil
	}
	settings := a.previewSettings()
	if _, err := config.Parse(config.FileName, []byte(settings)); err != nil {
		return nil, err
	}
	return append(files,
		&File{Path: filepath.Join(a.PreviewsDir, ".gitlab-ci.yml"), Text: a.previewPipeline()},
		&File{Path: filepath.Join(a.PreviewsDir, config.FileName), Text: settings},
	), nil
}

// ofWorkflow is the reference to the workflow of releases, in whose place that of previews stands.
const ofWorkflow = "/deliver.yml@"

func (a *Answers) checkPreviews() error {
	switch {
	case a.Previews == a.Project:
		return &usererr.Error{Field: "--previews", Problem: a.Previews + " is the project that releases: whoever can start its previews could start a release", Fix: "give previews a project of their own"}
	case strings.ContainsAny(a.Previews, " \t\r\n\"'{}[],:#") || !strings.Contains(a.Previews, "/"):
		return &usererr.Error{Field: "--previews", Problem: fmt.Sprintf("%q is not a project", a.Previews), Fix: "give the GitLab project that runs previews: group/project"}
	case !strings.Contains(a.Workflow, ofWorkflow):
		return &usererr.Error{Field: "--workflow", Problem: fmt.Sprintf("%q does not say where the workflows of previews are", a.Workflow), Fix: "give owner/name/.github/workflows/deliver.yml@COMMIT"}
	case a.PreviewsDir == "":
		return nil
	case a.CrossbillImage == "":
		return &usererr.Error{Field: "--crossbill-image", Problem: "is missing: the job of previews runs in it", Fix: "give the image of the command, by digest"}
	case a.Repository == "":
		return &usererr.Error{Field: "--github-repository", Problem: "is missing: the policy of previews admits what its pull requests have built", Fix: "give owner/name"}
	}
	if is, want := BranchOf(a.PreviewsDir), cmp.Or(a.Ref, "main"); is != "" && is != want { // crossbill.yaml has one gitlab.ref
		return &usererr.Error{Field: "--previews-dir", Problem: fmt.Sprintf("its branch is %s, and previews are started on %s, as releases are", is, want), Fix: "have the project of previews run on the branch " + want}
	}
	return nil
}

// previewImage is the repository of pull requests' images.
func (a *Answers) previewImage() string { return a.Image + "-previews" }

func (a *Answers) previewWorkflow(name string) string {
	return strings.Replace(a.Workflow, ofWorkflow, "/"+name+".yml@", 1) + a.Note
}

func (a *Answers) pullRequest() string {
	with := "image: " + scalar(a.previewImage())
	if a.AppDir != "" && a.AppDir != "app" {
		with += ", app_dir: " + scalar(a.AppDir)
	}
	return fmt.Sprintf(`name: pull request
on: pull_request
jobs:
  preview:
    uses: %s
    permissions: {contents: read, id-token: write, attestations: write}
    secrets: inherit
    with: {%s}
`, a.previewWorkflow("preview-image"), with)
}

func (a *Answers) previewHandoff() string {
	return fmt.Sprintf(`on:
  workflow_run: {workflows: [pull request], types: [completed]}
  pull_request_target: {types: [closed]}
jobs:
  preview:
    uses: %s
    permissions: {actions: read, contents: read, pull-requests: read, statuses: write}
    secrets: inherit
    with: {image: %s, project: %s}
`, a.previewWorkflow("preview-handoff"), scalar(a.previewImage()), scalar(a.Previews))
}

// previewPipeline is .gitlab-ci.yml of the project of previews.
func (a *Answers) previewPipeline() string {
	image := strings.ReplaceAll("^("+regexp.QuoteMeta(a.previewImage())+"@sha256:[0-9a-f]{64})?$", "'", "''")
	component := strings.Replace(a.Component, "/release@", "/preview@", 1)
	component = strings.Replace(component, "/release/template.yml", "/preview/template.yml", 1)
	return fmt.Sprintf(`spec:
  inputs:
    app: {default: "", options: ["", %s]}
    name: {default: "", regex: '^([a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?)?$'}
    action: {default: "", options: ["", up, down]}
    image: {default: "", regex: '%s'}
    commit: {default: "", regex: '^([0-9a-f]{7,64})?$'}
    preview_id: {default: "", regex: '^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$'}
    source_url: {default: "", regex: '^(https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._/-]*)?)?$'}
---
include:
  - %s: %s
    inputs:
      {app: "$[[ inputs.app ]]", name: "$[[ inputs.name ]]", action: "$[[ inputs.action ]]", image: "$[[ inputs.image ]]",
      commit: "$[[ inputs.commit ]]", preview_id: "$[[ inputs.preview_id ]]", source_url: "$[[ inputs.source_url ]]",
      %scrossbill_image: %s}
`, scalar(a.App), image, a.includeKind(), component, a.inputBranch(), a.CrossbillImage)
}

// previewSettings is crossbill.yaml of the project of previews, with the policy of whose images are admitted: those that the workflow
// of this version has built for a pull request.
func (a *Answers) previewSettings() string {
	of := *a
	of.Project, of.Ref, of.Assets, of.Repository = "", "", "", ""
	signer := regexp.QuoteMeta("https://github.com/" + strings.Replace(a.Workflow, ofWorkflow, "/preview-image.yml@", 1))
	var b bytes.Buffer
	fmt.Fprintf(&b, "%spreview:\n  imagePolicy:\n    repository: %s\n    refs: [refs/pull/*/merge]\n    identities:\n      - issuer: https://token.actions.githubusercontent.com\n        subjectPattern: %s\n", of.settings(), scalar("https://github.com/"+a.Repository), scalar(signer))
	return b.String()
}
