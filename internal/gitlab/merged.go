package gitlab

import (
	"context"
	"fmt"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/usererr"
)

// Merged is a pipeline file as GitLab itself reads it: with everything that it includes, and with the defaults of its
// inputs.
type Merged struct {
	Valid            bool
	YAML             string
	Errors, Warnings []string
}

// mergeTimeout bounds all attempts to have a file merged.
const mergeTimeout = 2 * time.Minute

// Merge asks GitLab's CI lint to read a pipeline file in the project: a static check, which starts nothing, so that it is
// repeated like a read. The token needs scope api, and a role that may run pipelines.
func (c *Client) Merge(ctx context.Context, content string) (Merged, error) {
	var result *gitlab.ProjectLintResult
	err := c.repeat(ctx, time.Now().Add(mergeTimeout), "asking GitLab for the merged pipeline file", func(option gitlab.RequestOptionFunc) (err error) {
		result, _, err = c.read.Validate.ProjectNamespaceLint(c.project, &gitlab.ProjectNamespaceLintOptions{Content: &content, DryRun: new(false)}, option)
		return err
	})
	switch status := statusOf(err); {
	case status == 401 || status == 403 || status == 404:
		return Merged{}, &usererr.Error{Field: "gitlabToken", Problem: fmt.Sprintf("GitLab does not merge pipeline files of %s for it: HTTP %d", c.project, status), Fix: "give a token of scope api whose user may run pipelines in the project"}
	case err != nil:
		return Merged{}, fmt.Errorf("%w; nothing was changed, run it again", err)
	}
	return Merged{result.Valid, result.MergedYaml, result.Errors, result.Warnings}, nil
}
