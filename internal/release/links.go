package release

import (
	"regexp"
	"strings"
)

// Links are the pages of a release; "" where there is none.
type Links struct {
	CommitURL   string `json:"commitUrl,omitempty"`
	RunURL      string `json:"runUrl,omitempty"`
	PipelineURL string `json:"pipelineUrl,omitempty"`
}

// Links finds the pages of a release in what the ledger keeps of it. The page of a commit is beside the run
// that built it, in GitHub's scheme of addresses.
func (r *Release) Links() Links {
	links := Links{RunURL: webAddress(r.SourceURL), PipelineURL: webAddress(r.PipelineURL)}
	if repository, _, ok := strings.Cut(links.RunURL, "/actions/runs/"); ok && r.Commit != "" {
		links.CommitURL = repository + "/commit/" + r.Commit
	}
	return links
}

var gitlabJob = regexp.MustCompile(`@gitlab-job-([0-9]+)$`)

// JobURL is the page of the GitLab job that did a step of the release; by is the step's. It is "" when the
// pipeline is not known, or when somebody else did it.
func (r *Release) JobURL(by string) string {
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
