package pipelinefile

import (
	"fmt"
	"slices"
	"strings"
)

// ofPreviews says whether a file makes previews of pull requests, and releases nothing: a job of it runs `crossbill preview`, and
// none is a release's.
func (c *checker) ofPreviews() bool {
	found := false
	for i := range c.file.Jobs {
		job := &c.file.Jobs[i]
		r := c.roleOf(job)
		if job.Name == c.options.Gate || r.runs("canary") || r.promotes() {
			return false
		}
		found = found || r.runs("preview")
	}
	return found
}

// previewsAlone checks that no job of a file of previews can change a release, whatever starts it and in whichever order: there is
// no gate that it could be behind.
func (c *checker) previewsAlone() {
	for i := range c.file.Jobs {
		job := &c.file.Jobs[i]
		r := c.roleOf(job)
		for _, e := range slices.Concat(r.canary, r.changes, r.opaque) {
			if isPreview(e) {
				continue
			}
			c.reportAt(job, e.Line, "script", RulePreviews, fmt.Sprintf("`%s` may change a release (%s), and whoever can start previews starts it", e.Command, e.Kind), "leave it out, or write it in a form that is understood: a pipeline of previews runs `crossbill preview` alone")
		}
	}
}

// noPreviews checks that a file that releases makes no previews: a token that starts these could start a release.
func (c *checker) noPreviews() {
	for i := range c.file.Jobs {
		if job := &c.file.Jobs[i]; c.roleOf(job).runs("preview") {
			c.report(job, RulePreviews, "it makes a preview in a pipeline that releases: whoever can start previews could start a release", "give previews a project of their own, with the component preview")
		}
	}
}

func isPreview(e effect) bool { return strings.HasPrefix(e.Kind+" ", "crossbill preview ") }
