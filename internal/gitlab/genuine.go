package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/usererr"
)

// fromTrigger is the source of a pipeline that a trigger token started. A job token's is "pipeline", an access token's
// "api", a person's "web" (https://docs.gitlab.com/ci/jobs/job_rules/#ci_pipeline_source-predefined-variable).
const fromTrigger = "trigger"

// origins are what is known of who starts the pipelines of releases. Everybody who may run pipelines in the project can
// make one with a release's name; GitLab itself says each one's source, ref and user, and those of an existing pipeline
// never change.
type origins struct {
	mu      sync.Mutex
	owner   string                   // of the trigger token: configured, or seen in the answer to our own POST
	reader  string                   // the access token's user, once it was asked for
	asked   bool                     // for the reader
	details map[int64]*originDetails // of pipelines
	named   map[int64]bool           // strangers that the log names
}

// originDetails are what only a pipeline by itself shows, not a list.
type originDetails struct {
	user string
	tag  bool
}

// learn notes who started the pipeline of our own POST, and so owns the trigger token for certain. It gives who was
// taken for the owner, if that is somebody else.
func (o *origins) learn(user string) (other string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if user == "" || strings.EqualFold(o.owner, user) {
		return ""
	}
	other, o.owner = o.owner, user
	return other
}

// ownerOf is who started a genuine pipeline: as far as it is known, the owner of the trigger token.
func (o *origins) ownerOf(id int64) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if known := o.details[id]; known != nil {
		return known.user
	}
	return o.owner
}

// genuine are those of some pipelines that the trigger token started on a ref. The others are named in the log once, and
// left alone.
//
// Errors: *usererr.Error, when it is not known whether the pipeline's user owns the trigger token; or what GitLab or the
// network answered.
func (c *Client) genuine(ctx context.Context, deadline time.Time, ref string, rows []*gitlab.PipelineInfo) ([]*gitlab.PipelineInfo, error) {
	c.origins.mu.Lock()
	defer c.origins.mu.Unlock()
	var found []*gitlab.PipelineInfo
	for _, p := range rows {
		why, err := c.stranger(ctx, deadline, ref, p)
		switch {
		case err != nil:
			return nil, err
		case why == "":
			found = append(found, p)
		case !c.origins.named[p.ID]:
			c.origins.named[p.ID] = true
			c.logf("pipeline %d has the release's name, but is not the release's: %s; it is left alone: %s", p.ID, why, p.WebURL)
		}
	}
	return found, nil
}

// stranger says why a pipeline is not the trigger token's; "" if it is.
func (c *Client) stranger(ctx context.Context, deadline time.Time, ref string, p *gitlab.PipelineInfo) (string, error) {
	short, tag := strings.CutPrefix(ref, "refs/tags/")
	short, branch := strings.CutPrefix(short, "refs/heads/")
	if p.Source != fromTrigger {
		return fmt.Sprintf("its source is %q, not a trigger token", p.Source), nil
	}
	if p.Ref != short {
		return fmt.Sprintf("it runs on %q, not on %q", p.Ref, short), nil
	}
	details, err := c.details(ctx, deadline, p.ID)
	if err != nil {
		return "", err
	}
	if tag && !details.tag || branch && details.tag {
		return "it does not run on " + ref, nil
	}
	if owner := c.origins.owner; owner != "" {
		if strings.EqualFold(details.user, owner) {
			return "", nil
		}
		return fmt.Sprintf("%q started it, not %q", details.user, owner), nil
	}
	return "", c.checkReader(ctx, deadline, p, details.user)
}

// details reads who started a pipeline, once.
func (c *Client) details(ctx context.Context, deadline time.Time, id int64) (*originDetails, error) {
	if known := c.origins.details[id]; known != nil {
		return known, nil
	}
	p, err := c.pipeline(ctx, deadline, id)
	if err != nil {
		return nil, err
	}
	read := &originDetails{tag: p.Tag}
	if p.User != nil {
		read.user = p.User.Username
	}
	c.origins.details[id] = read
	return read, nil
}

// checkReader accepts a pipeline of the access token's own user, who is ours. Of any other it is not known whether the
// trigger token is theirs, and a wrong guess would adopt a stranger's pipeline, or cancel a good one.
func (c *Client) checkReader(ctx context.Context, deadline time.Time, p *gitlab.PipelineInfo, user string) error {
	if err := c.askReader(ctx, deadline); err != nil {
		return err
	}
	if user != "" && strings.EqualFold(user, c.origins.reader) {
		return nil
	}
	return &usererr.Error{Field: "gitlab.user", Problem: fmt.Sprintf("pipeline %d has the release's name, and %q started it: it is not known whether the trigger token is theirs, so it is neither adopted nor canceled (%s)", p.ID, user, p.WebURL), Fix: "give the login of the trigger token's owner, which `crossbill trigger -o json` prints as user"}
}

// askReader reads the access token's user, once.
func (c *Client) askReader(ctx context.Context, deadline time.Time) error {
	if c.origins.asked {
		return nil
	}
	err := c.repeat(ctx, deadline, "reading the access token's user", func(o gitlab.RequestOptionFunc) error {
		user, _, err := c.read.Users.CurrentUser(o)
		if err == nil && user != nil {
			c.origins.reader = user.Username
		}
		return err
	})
	if err != nil && !slices.Contains([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound}, statusOf(err)) {
		return errors.Join(err, misdirected(err))
	}
	c.origins.asked = true // a token that may not read its user has none that is known
	return nil
}
