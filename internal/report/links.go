package report

import (
	"regexp"
	"strings"

	"github.com/our-org/crossbill/internal/release"
)

// Links lead from a release to its pages; "" where there is none.
type Links struct {
	Commit   string `json:"commit,omitempty"`
	Run      string `json:"run,omitempty"`
	Pipeline string `json:"pipeline,omitempty"`
}

// LinksOf finds the pages of a release in what the ledger keeps of it. A commit's page is beside the run
// that built it, in GitHub's scheme of addresses.
func LinksOf(r *release.Release) Links {
	links := Links{Run: webAddress(r.SourceURL), Pipeline: webAddress(r.PipelineURL)}
	if repository, _, ok := strings.Cut(links.Run, "/actions/runs/"); ok && r.Commit != "" {
		links.Commit = repository + "/commit/" + r.Commit
	}
	return links
}

var gitlabJob = regexp.MustCompile(`@gitlab-job-([0-9]+)$`)

// jobPage is the page of the GitLab job that did a step, for a release whose pipeline is known.
func jobPage(r *release.Release, by string) string {
	project, _, ok := strings.Cut(webAddress(r.PipelineURL), "/-/pipelines/")
	job := gitlabJob.FindStringSubmatch(by)
	if !ok || job == nil {
		return ""
	}
	return project + "/-/jobs/" + job[1]
}

// webAddress is an address that a browser may be led to; "" for any other.
func webAddress(text string) string {
	if strings.HasPrefix(text, "https://") || strings.HasPrefix(text, "http://") {
		return text
	}
	return ""
}
