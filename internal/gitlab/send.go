package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/httpretry"
	"github.com/our-org/crossbill/internal/usererr"
)

// answer is what came of one POST: exactly one of started, refused, unknown and cause is set.
type answer struct {
	started *gitlab.PipelineInfo
	user    string // who started it
	refused error  // GitLab will not start it, however often it is asked
	unknown error  // it may or may not have started
	cause   error  // it has not started, and asking again later may help
	why     string
	wait    time.Duration
}

// send sends one POST.
func (s *sender) send(ctx context.Context) answer {
	s.sends++
	p, resp, err := s.once.PipelineTriggers.RunPipelineTrigger(s.project, s.request(), gitlab.WithContext(ctx))
	if err == nil && p == nil {
		err = errNull
	}
	if err == nil {
		return answerOf201(p)
	}
	var body []byte
	if failure, ok := errors.AsType[*gitlab.ErrorResponse](err); ok {
		body = failure.Body
	}
	status := statusOf(err)
	wrong := misdirected(err)
	switch {
	case wrong != nil:
		return answer{refused: wrong}
	case status == 0 && neverSent(err):
		return answer{cause: err, why: "GitLab cannot be reached"}
	case status == 0, status >= 500, status == http.StatusRequestTimeout:
		return answer{unknown: err}
	case status == http.StatusTooManyRequests:
		return answer{cause: err, why: "GitLab's rate limit (429)", wait: askedWait(resp, httpretry.MinWait)}
	case status == http.StatusBadRequest && strings.Contains(string(body), "Too many pipelines created"):
		return answer{cause: err, why: "GitLab's limit of pipelines per minute", wait: askedWait(resp, time.Minute)}
	default:
		return answer{refused: s.explainSend(ctx, s.deadline, err, body)}
	}
}

// answerOf201 reads a 201, which GitLab also answers for a pipeline that can have no jobs.
func answerOf201(p *gitlab.Pipeline) answer {
	if p.YamlErrors != "" {
		return answer{refused: &usererr.Error{Field: ".gitlab-ci.yml", Problem: fmt.Sprintf("GitLab created pipeline %d without jobs, since the file has errors: %s", p.ID, p.YamlErrors), Fix: "see " + p.WebURL}}
	}
	if p.Status == "failed" {
		return answer{refused: &usererr.Error{Field: "gitlab.project", Problem: fmt.Sprintf("GitLab created pipeline %d without jobs, and failed it", p.ID), Fix: fmt.Sprintf("see %s for the reason: a limit of the project, an external validation, or that the trigger token's owner is not verified", p.WebURL)}}
	}
	started := answer{started: &gitlab.PipelineInfo{ID: p.ID, Status: p.Status, Source: string(p.Source), WebURL: p.WebURL, Ref: p.Ref, SHA: p.SHA}}
	if p.User != nil {
		started.user = p.User.Username
	}
	return started
}

// values are the inputs of the pipeline.
func (o *TriggerOptions) values() map[string]string {
	if p := o.Preview; p != nil {
		return map[string]string{"app": p.App, "preview_id": p.ID(), "name": p.Name, "action": p.Action(), "image": p.Image, "commit": p.Commit, "source_url": p.SourceURL}
	}
	r := o.Release
	values := map[string]string{"app": r.App, "release_id": r.ID, "commit": r.Commit, "source_url": r.SourceURL}
	if r.Bundle != "" { // a file of an earlier version, which has no such input, is not started
		values["bundle"] = r.Bundle
	} else {
		values["image"] = r.Image
	}
	if o.Again {
		values["again"] = "yes"
	}
	return values
}

// request is the body of the POST: the token travels in it, not in the address.
func (s *sender) request() *gitlab.RunPipelineTriggerOptions {
	values := s.options.values()
	request := &gitlab.RunPipelineTriggerOptions{Ref: &s.options.Ref, Token: &s.triggerToken}
	if s.options.Variables {
		request.Variables = map[string]string{}
		for name, value := range values {
			request.Variables["CROSSBILL_"+strings.ToUpper(name)] = value
		}
		return request
	}
	request.Inputs = gitlab.PipelineInputsOption{}
	for name, value := range values {
		request.Inputs[name] = gitlab.NewPipelineInputValue(value)
	}
	return request
}

// askedWait is how long a refusal asks to wait, otherwise if it does not.
func askedWait(resp *gitlab.Response, otherwise time.Duration) time.Duration {
	if resp == nil {
		return otherwise
	}
	return httpretry.Wait(otherwise, httpretry.MaxWait, 0, resp.Response)
}
