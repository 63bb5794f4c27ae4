package gitlab

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// TriggerOptions say how a release is handed over. The zero value of each field but Ref and Release is right
// for most.
type TriggerOptions struct {
	Ref     string // branch or tag of the GitLab project
	Release release.Handoff

	// Preview is handed over in place of a release. Its pipeline is "preview APP ID", in a project of its own. One that has
	// finished does not count, nor one after which something else was asked of the preview: a pull request that is opened again gets its
	// preview again, and both commands can be repeated.
	Preview *release.PreviewHandoff

	// Variables sends trigger variables (CROSSBILL_APP …) in place of typed inputs, for a GitLab
	// before 18.1.
	Variables bool
	// Again starts a new pipeline although one of this release has finished. One that has not finished is
	// still adopted. The new pipeline also releases what was rolled back before.
	Again bool
	// Jobs are the names of the pipeline's jobs, by which one that waits at its gate is known to have been rolled back.
	Jobs JobNames

	Settle  time.Duration // how long to wait for pipelines of other senders; default 10 s
	Timeout time.Duration // bound of the whole call; default 15 min
}

func (o *TriggerOptions) check(c *Client) error {
	if c.triggerToken == "" {
		return &usererr.Error{Field: "gitlabTriggerToken", Problem: "there is no token to start the pipeline with", Fix: "set GITLAB_TRIGGER_TOKEN to a pipeline trigger token of the project"}
	}
	if !refPattern.MatchString(o.Ref) {
		return badRef(o.Ref)
	}
	o.Settle, o.Timeout = cmp.Or(o.Settle, 10*time.Second), cmp.Or(o.Timeout, 15*time.Minute)
	if o.Preview != nil {
		return o.Preview.Check()
	}
	return o.Release.Check()
}

// pipelineName is the name of the pipeline.
func (o *TriggerOptions) pipelineName() string {
	if o.Preview != nil {
		return previewPrefix + o.Preview.App + " " + o.Preview.ID()
	}
	return pipelineName(o.Release.App, o.Release.ID)
}

func badRef(ref string) error {
	return &usererr.Error{Field: "gitlab.ref", Problem: fmt.Sprintf("%q is not a branch or tag", ref), Fix: "give a branch or tag of the GitLab project"}
}

// Pipeline is GitLab's pipeline of a release, or of a preview.
type Pipeline struct {
	ReleaseID string `json:"releaseId,omitempty"`
	Preview   string `json:"preview,omitempty"` // its name
	ID        int64  `json:"pipelineId"`
	URL       string `json:"url"`
	Adopted   bool   `json:"adopted"`        // it existed before, or another sender's was kept
	Status    string `json:"status"`         // GitLab's word, as last seen
	User      string `json:"user,omitempty"` // who owns the trigger token: gitlab.user

	Canceled []int64 `json:"canceled,omitempty"` // duplicates that were canceled
	Sends    int     `json:"sends"`              // POSTs that this call sent
}

// UnknownError says that a POST was sent and it is not known whether it started a pipeline. The same
// command is safe to run again: it adopts the pipeline if there is one.
type UnknownError struct {
	Name  string
	Sends int
	Cause error
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("pipeline %q: %d requests to start it had no clear answer, and it was not found: %v; run the same command again, it adopts the pipeline if there is one", e.Name, e.Sends, e.Cause)
}

func (e *UnknownError) Unwrap() error { return e.Cause }

// DuplicateError says that other pipelines of the release could not be canceled.
type DuplicateError struct {
	Kept  int64
	Left  []int64
	Cause error
}

func (e *DuplicateError) Error() string {
	instead := insteadOfCanceling(e.Cause, "cancel them in GitLab (with a token of scope api this command does it)")
	return fmt.Sprintf("pipeline %d is the release's, but %v of the same release could not be canceled: %v; %s; the lock in the cluster lets only one of them act at a time", e.Kept, e.Left, withoutURL(e.Cause), instead)
}

func (e *DuplicateError) Unwrap() error { return e.Cause }

// Trigger starts the pipeline of a release, or adopts the one that exists. The package comment says
// how, and what it does not promise.
//
// Errors: *usererr.Error (the input, a token or the project's set-up is wrong; nothing was
// started), *UnknownError, *DuplicateError (with the pipeline that was kept), or what GitLab or the
// network answered; then nothing was started by this call.
func Trigger(ctx context.Context, c *Client, o TriggerOptions) (Pipeline, error) {
	if err := o.check(c); err != nil {
		return Pipeline{}, err
	}
	s := &sender{
		Client: c, options: o, name: o.pipelineName(),
		deadline: time.Now().Add(o.Timeout),
		own:      map[int64]*gitlab.PipelineInfo{}, earlier: map[int64]bool{}, canceled: map[int64]bool{},
	}
	kept, err := s.run(ctx)
	if err != nil {
		return Pipeline{}, s.wrapUncertain(err)
	}
	p := Pipeline{ReleaseID: o.Release.ID, ID: kept.ID, URL: kept.WebURL, Status: kept.Status, Adopted: s.own[kept.ID] == nil, User: s.origins.ownerOf(kept.ID), Sends: s.sends}
	if o.Preview != nil {
		p.Preview = o.Preview.Name
	}
	for id := range s.canceled {
		p.Canceled = append(p.Canceled, id)
	}
	slices.Sort(p.Canceled)
	if len(s.left) > 0 {
		return p, &DuplicateError{Kept: kept.ID, Left: s.left, Cause: s.leftCause}
	}
	return p, nil
}
