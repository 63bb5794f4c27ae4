package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"
)

// explainRead says what is wrong when a read is refused.
func (c *Client) explainRead(err error) error {
	switch statusOf(err) {
	case http.StatusUnauthorized:
		return &usererr.Error{Field: "GITLAB_TOKEN", Problem: "GitLab does not know this token (401): it is wrong, expired or revoked", Fix: "make a new access token with scope read_api"}
	case http.StatusForbidden:
		return &usererr.Error{Field: "GITLAB_TOKEN", Problem: "this token may not read pipelines (403)", Fix: "it needs scope read_api and the role Reporter on " + c.project}
	case http.StatusNotFound:
		return &usererr.Error{Field: "--project", Problem: fmt.Sprintf("GitLab shows no project or pipeline %s to this token (404)", c.project), Fix: "check the path, and that GITLAB_TOKEN's user is a member"}
	default:
		return err
	}
}

// neverSent says that a request did not leave this machine.
func neverSent(err error) bool {
	var dns *net.DNSError
	var op *net.OpError
	return errors.As(err, &dns) || errors.As(err, &op) && op.Op == "dial"
}

// messages are what an error answer of GitLab says. It knows four shapes.
func messages(body []byte) []string {
	var answer struct {
		Error, Message, Errors json.RawMessage
	}
	if json.Unmarshal(body, &answer) != nil {
		return nil
	}
	return slices.Concat(leaves(answer.Error), leaves(answer.Message), leaves(answer.Errors))
}

func leaves(raw json.RawMessage) []string {
	var text string
	var list []json.RawMessage
	var object map[string]json.RawMessage
	var found []string
	switch {
	case raw == nil:
	case json.Unmarshal(raw, &text) == nil:
		if text != "" {
			found = append(found, text)
		}
	case json.Unmarshal(raw, &list) == nil:
		for _, item := range list {
			found = append(found, leaves(item)...)
		}
	case json.Unmarshal(raw, &object) == nil:
		for _, item := range object {
			found = append(found, leaves(item)...)
		}
		slices.Sort(found)
	}
	return found
}

// refusals are GitLab's words for a trigger that it does not carry out, and what to do about each.
var refusals = []struct{ says, field, fix string }{
	{"reference not found", "--ref", "give a branch or tag that exists in the GitLab project"},
	{"commit not found", "--ref", "give a branch or tag that exists in the GitLab project"},
	{"ref is ambiguous", "--ref", "a branch and a tag have this name: give refs/heads/… or refs/tags/…"},
	{"ref is missing", "--ref", "give a branch or tag"},
	{"permissions to set pipeline variables", "--variables", "leave --variables out, so that typed inputs are sent; else lower the project's \"minimum role to use pipeline variables\". Some versions of GitLab refuse every trigger under the setting \"no one\" (GitLab issue 557381)"},
	{"sufficient permission to run a pipeline on", "GITLAB_TRIGGER_TOKEN", "the token's owner may not run pipelines on this protected branch: let that user merge or push to it"},
	{"insufficient permissions to create", "GITLAB_TRIGGER_TOKEN", "the token's owner needs the role Developer or more in the project"},
	{"pipelines are disabled", "--project", "turn on CI/CD in the project's settings"},
	{"pipeline will not run for the selected trigger", "--ref", "the rules of .gitlab-ci.yml on this ref let no job run: they must allow CI_PIPELINE_SOURCE \"trigger\". A GitLab before 18.1 may not read inputs: try --variables"},
	{"filtered out by workflow rules", "--ref", "workflow:rules of .gitlab-ci.yml on this ref must allow CI_PIPELINE_SOURCE \"trigger\". A GitLab before 18.1 may not read inputs: try --variables"},
	{"no stages / jobs", "--ref", "the rules of .gitlab-ci.yml on this ref let no job run: they must allow CI_PIPELINE_SOURCE \"trigger\""},
	{"inputs not defined", "--ref", ".gitlab-ci.yml on this ref does not declare these inputs: take this repository's, or send --variables"},
	{"variables needs to be a map", "--variables", "report this: it is a fault of crossbill"},
	{"token is missing", "GITLAB_TRIGGER_TOKEN", "set it, or give --trigger-token-file"},
}

// explainSend says what is wrong when GitLab refuses to start the pipeline. Nothing was started.
func (c *Client) explainSend(ctx context.Context, deadline time.Time, err error, body []byte) error {
	status := statusOf(err)
	switch status {
	case http.StatusNotFound:
		return c.explain404(ctx, deadline)
	case http.StatusUnauthorized, http.StatusForbidden:
		return &usererr.Error{Field: "GITLAB_TRIGGER_TOKEN", Problem: fmt.Sprintf("GitLab refuses it (%d)", status), Fix: "make a pipeline trigger token in the project's CI/CD settings; a job token or a webhook's request cannot start this pipeline"}
	}
	said := strings.Join(messages(body), "; ")
	for _, r := range refusals {
		if strings.Contains(strings.ToLower(said), r.says) {
			return &usererr.Error{Field: r.field, Problem: "GitLab says: " + said, Fix: r.fix}
		}
	}
	if said == "" {
		said = "nothing more"
	}
	return &usererr.Error{Field: ".gitlab-ci.yml", Problem: fmt.Sprintf("GitLab refuses the pipeline (%d) and says: %s", status, said), Fix: "check the file on this ref with `crossbill lint`, and with CI lint in GitLab"}
}

// explain404 tells apart what the trigger API deliberately does not: a wrong project and a wrong
// trigger token have the same answer. The other token sees which it is.
func (c *Client) explain404(ctx context.Context, deadline time.Time) error {
	err := c.again(ctx, deadline, "reading the project", func(o gitlab.RequestOptionFunc) (*gitlab.Response, error) {
		_, resp, err := c.read.Projects.GetProject(c.project, nil, o)
		return resp, err
	})
	switch {
	case err == nil:
		return &usererr.Error{Field: "GITLAB_TRIGGER_TOKEN", Problem: "GitLab answers 404 though the project exists: the token is wrong, revoked, of another project, or not a pipeline trigger token", Fix: "make one in " + c.project + ": Settings, CI/CD, Pipeline trigger tokens"}
	case statusOf(err) == http.StatusNotFound:
		return c.explainRead(err)
	default:
		return &usererr.Error{Field: "GITLAB_TRIGGER_TOKEN or --project", Problem: "GitLab answers 404, and the project could not be read to tell which is wrong: " + shortly(err), Fix: "check both"}
	}
}
