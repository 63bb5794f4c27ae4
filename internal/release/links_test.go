package release

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLinks(t *testing.T) {
	const run, pipeline = "https://github.com/our-org/app/actions/runs/7", "https://gitlab.example.com/infra/deploy/-/pipelines/9"
	for name, test := range map[string]struct {
		release Release
		want    Links
		wantJob string // of jane@gitlab-job-11
	}{
		"everything":         {Release{SourceURL: run, PipelineURL: pipeline, Commit: "c0ffee"}, Links{"https://github.com/our-org/app/commit/c0ffee", run, pipeline}, "https://gitlab.example.com/infra/deploy/-/jobs/11"},
		"nothing":            {Release{}, Links{}, ""},
		"no commit":          {Release{SourceURL: run}, Links{RunURL: run}, ""},
		"not GitHub's run":   {Release{SourceURL: "https://ci.example.com/7", Commit: "c0ffee"}, Links{RunURL: "https://ci.example.com/7"}, ""},
		"not GitLab's":       {Release{PipelineURL: "https://ci.example.com/9"}, Links{PipelineURL: "https://ci.example.com/9"}, ""},
		"a script as a page": {Release{SourceURL: "javascript:alert(1)", PipelineURL: "javascript:alert(1)/-/pipelines/9", Commit: "c0ffee"}, Links{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.release.Links()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if got := test.release.JobURL("jane@gitlab-job-11"); got != test.wantJob {
				t.Errorf("job %q, want %q", got, test.wantJob)
			}
			if got := test.release.JobURL("jane@laptop"); got != "" {
				t.Errorf("job of a laptop %q, want none", got)
			}
		})
	}
}
