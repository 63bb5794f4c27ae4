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

	"github.com/our-org/crossbill/internal/httpclient"
	"github.com/our-org/crossbill/internal/usererr"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"
)

// explainRead turns the refusal of a read into what is wrong and how to fix it.
func (c *Client) explainRead(err error) error {
	if wrong := misdirected(err); wrong != nil {
		return wrong
	}
	switch statusOf(err) {
	case http.StatusUnauthorized:
		return &usererr.Error{Field: "gitlabToken", Problem: "GitLab does not know this token (401): it is wrong, expired or revoked", Fix: "create an access token with scope read_api"}
	case http.StatusForbidden:
		return &usererr.Error{Field: "gitlabToken", Problem: "this token may not read pipelines (403)", Fix: "it needs scope read_api and the role Reporter on " + c.project}
	case http.StatusNotFound:
		return &usererr.Error{Field: "gitlab.project", Problem: fmt.Sprintf("GitLab shows no project or pipeline %s to this token (404)", c.project), Fix: "check the path, and that the token's user is a member"}
	default:
		return err
	}
}

// misdirected is what is wrong with the address of a server that redirects elsewhere, nil for other errors.
func misdirected(err error) error {
	if refused, ok := errors.AsType[*httpclient.RedirectError](err); ok {
		return &usererr.Error{Field: "gitlab.url", Problem: refused.Error(), Fix: "check gitlab.url and gitlab.project"}
	}
	return nil
}

// neverSent says whether a request did not leave this machine.
func neverSent(err error) bool {
	var dns *net.DNSError
	var op *net.OpError
	return errors.As(err, &dns) || errors.As(err, &op) && op.Op == "dial"
}

// messagesIn are the messages in an error answer of GitLab, which has four shapes.
func messagesIn(body []byte) []string {
	var answer struct {
		Error, Message, Errors json.RawMessage
	}
	if json.Unmarshal(body, &answer) != nil {
		return nil
	}
	return slices.Concat(texts(answer.Error), texts(answer.Message), texts(answer.Errors))
}

// texts are all texts in a JSON value.
func texts(raw json.RawMessage) []string {
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
			found = append(found, texts(item)...)
		}
	case json.Unmarshal(raw, &object) == nil:
		for _, item := range object {
			found = append(found, texts(item)...)
		}
		slices.Sort(found)
	}
	return found
}

// refusals are GitLab's messages for a trigger that it refuses, and how to fix each.
var refusals = []struct{ contains, field, fix string }{
	{"reference not found", "gitlab.ref", "give a branch or tag that exists in the GitLab project"},
	{"commit not found", "gitlab.ref", "give a branch or tag that exists in the GitLab project"},
	{"ref is ambiguous", "gitlab.ref", "a branch and a tag have this name: give refs/heads/… or refs/tags/…"},
	{"ref is missing", "gitlab.ref", "give a branch or tag"},
	{"permissions to set pipeline variables", "variables", "do not send variables, so that typed inputs are sent; else lower the project's \"minimum role to use pipeline variables\". Some versions of GitLab refuse every trigger under the setting \"no one\" (GitLab issue 557381)"},
	{"sufficient permission to run a pipeline on", "gitlabTriggerToken", "the token's owner may not run pipelines on this protected branch: let that user merge or push to it"},
	{"insufficient permissions to create", "gitlabTriggerToken", "the token's owner needs the role Developer or more in the project"},
	{"pipelines are disabled", "gitlab.project", "turn on CI/CD in the project's settings"},
	{"pipeline will not run for the selected trigger", "gitlab.ref", "the rules of .gitlab-ci.yml on this ref let no job run: they must allow CI_PIPELINE_SOURCE \"trigger\". A GitLab before 18.1 may not read inputs: send variables"},
	{"filtered out by workflow rules", "gitlab.ref", "workflow:rules of .gitlab-ci.yml on this ref must allow CI_PIPELINE_SOURCE \"trigger\". A GitLab before 18.1 may not read inputs: send variables"},
	{"no stages / jobs", "gitlab.ref", "the rules of .gitlab-ci.yml on this ref let no job run: they must allow CI_PIPELINE_SOURCE \"trigger\""},
	{"inputs not defined", "gitlab.ref", ".gitlab-ci.yml on this ref does not declare these inputs: use this repository's file, or send variables"},
	{"external validation failed", "gitlab.project", "the validation service of this GitLab rejects the pipeline: ask its administrators"},
	{"identity verification is required", "gitlabTriggerToken", "the token's owner has to verify their identity in GitLab"},
	{"pipeline has too many deployments", "gitlab.project", "ask the administrators for a higher limit (ci_pipeline_deployments)"},
	{"project has too many active jobs", "gitlab.project", "wait until jobs of the project have finished, or ask the administrators for a higher limit (ci_active_jobs)"},
	{"variables needs to be a map", "variables", "report this: it is a bug in Crossbill"},
	{"token is missing", "gitlabTriggerToken", "set GITLAB_TRIGGER_TOKEN"},
}

// explainSend turns the refusal to start a pipeline into what is wrong and how to fix it. Nothing was started.
func (c *Client) explainSend(ctx context.Context, deadline time.Time, err error, body []byte) error {
	status := statusOf(err)
	switch status {
	case http.StatusNotFound:
		return c.explain404(ctx, deadline)
	case http.StatusUnauthorized, http.StatusForbidden:
		return &usererr.Error{Field: "gitlabTriggerToken", Problem: fmt.Sprintf("GitLab refuses it (%d)", status), Fix: "create a pipeline trigger token in the project's CI/CD settings; a job token or a webhook's request cannot start this pipeline"}
	}
	reason := strings.Join(messagesIn(body), "; ")
	for _, r := range refusals {
		if strings.Contains(strings.ToLower(reason), r.contains) {
			return &usererr.Error{Field: r.field, Problem: "GitLab: " + reason, Fix: r.fix}
		}
	}
	if reason == "" {
		reason = "no reason"
	}
	return &usererr.Error{Field: ".gitlab-ci.yml", Problem: fmt.Sprintf("GitLab refuses the pipeline (%d): %s", status, reason), Fix: "check the file on this ref with `crossbill lint`, and with CI lint in GitLab; if it is valid, the reason is GitLab's own"}
}

// explain404 distinguishes a wrong project from a wrong trigger token, which the trigger API deliberately answers
// in the same way: the access token sees the project.
func (c *Client) explain404(ctx context.Context, deadline time.Time) error {
	err := c.repeat(ctx, deadline, "reading the project", func(o gitlab.RequestOptionFunc) error {
		_, _, err := c.read.Projects.GetProject(c.project, nil, o)
		return err
	})
	switch {
	case err == nil:
		return &usererr.Error{Field: "gitlabTriggerToken", Problem: "GitLab answers 404 though the project exists: the token is wrong, revoked, of another project, or not a pipeline trigger token", Fix: "create one in " + c.project + ": Settings, CI/CD, Pipeline trigger tokens"}
	case statusOf(err) == http.StatusNotFound:
		return c.explainRead(err)
	default:
		return &usererr.Error{Field: "gitlabTriggerToken, gitlab.project", Problem: "GitLab answers 404, and the project could not be read to see which is wrong: " + withoutURL(err), Fix: "check both"}
	}
}
