package gitlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/httpretry"
)

// Bounds of sends whose answer was lost.
const (
	unansweredWindow = 75 * time.Second // how long such a POST may still take effect
	maxUncertain     = 4                // how many may be sent
)

// sender is one call of Trigger.
type sender struct {
	*Client
	options  TriggerOptions
	name     string
	deadline time.Time

	own      map[int64]*gitlab.PipelineInfo // that this call started; a list may show them late
	earlier  map[int64]bool                 // attempts that had finished before this call, or were overtaken
	canceled map[int64]bool                 // by this call

	sends     int
	uncertain int // sends without a clear answer
	throttled int // sends that started nothing
	left      []int64
	leftCause error
}

// wrapUncertain keeps an error from saying that nothing was started when that is not known.
func (s *sender) wrapUncertain(err error) error {
	var unknown *UnknownError
	if s.uncertain == 0 || errors.As(err, &unknown) {
		return err
	}
	return &UnknownError{Name: s.name, Sends: s.uncertain, Cause: err}
}

// run adopts a pipeline, or starts one. Attempts that finished before this call are not weighed against one that is open.
func (s *sender) run(ctx context.Context) (*gitlab.PipelineInfo, error) {
	rows, err := s.pipelinesNamed(ctx, s.deadline.Add(unansweredWindow), s.name)
	if err != nil {
		return nil, err
	}
	for _, p := range rows {
		if s.earlier[p.ID], err = s.over(ctx, s.deadline, p, s.options.Jobs); err != nil {
			return nil, err
		}
	}
	if err := s.leaveOvertaken(ctx, rows); err != nil {
		return nil, err
	}
	kept, err := s.keepLowest(ctx, rows)
	if err == nil && kept == nil {
		kept, err = s.newestEarlier(ctx, rows)
	}
	if err != nil {
		return nil, err
	}
	if kept == nil {
		return s.sendUntilKnown(ctx)
	}
	s.logf("adopting pipeline %d (%s)", kept.ID, kept.Status)
	kept, err = s.reconcileFor(ctx, s.options.Settle)
	if err == nil && kept == nil {
		kept, err = s.newestEarlier(ctx, rows)
	}
	if err == nil && kept == nil {
		return nil, fmt.Errorf("pipeline %q was adopted and then canceled by somebody else; run the same command again to start another", s.name)
	}
	return kept, err
}

// leaveOvertaken counts open pipelines of a preview as earlier ones if something else was asked of the preview since: they would run
// before that.
func (s *sender) leaveOvertaken(ctx context.Context, rows []*gitlab.PipelineInfo) error {
	if s.options.Preview == nil {
		return nil
	}
	open := slices.DeleteFunc(slices.Clone(rows), func(p *gitlab.PipelineInfo) bool { return withoutEffect(p.Status) || s.earlier[p.ID] })
	if len(open) == 0 {
		return nil
	}
	since, err := s.newestOther(ctx, open[0].ID)
	if err != nil || since == 0 {
		return err
	}
	for _, p := range open {
		if p.ID < since {
			s.logf("pipeline %d is left alone: pipeline %d of the same preview is newer", p.ID, since)
			s.earlier[p.ID] = true
		}
	}
	return nil
}

// newestOther is the newest pipeline after an id that asks something else of the same preview; 0 when there is none.
func (s *sender) newestOther(ctx context.Context, after int64) (int64, error) {
	options := &gitlab.ListProjectPipelinesOptions{
		ListOptions: gitlab.ListOptions{PerPage: 100, Page: 1},
		Source:      new(fromTrigger), YamlErrors: new(false), OrderBy: new("id"), Sort: new("desc"),
	}
	for range longestList {
		page, next, err := s.pipelinesPage(ctx, s.deadline, options)
		if err != nil {
			return 0, err
		}
		others := slices.DeleteFunc(slices.Clone(page), func(p *gitlab.PipelineInfo) bool {
			id, ok := strings.CutPrefix(p.Name, previewPrefix+s.options.Preview.App+" ")
			return !ok || p.Name == s.name || p.ID < after || withoutEffect(p.Status) || !s.options.Preview.IsSamePreview(id)
		})
		if others, err = s.genuine(ctx, s.deadline, s.options.Ref, others); err != nil {
			return 0, err
		}
		if len(others) > 0 {
			return others[0].ID, nil
		}
		if next == 0 || len(page) == 0 || page[len(page)-1].ID < after {
			break
		}
		options.Page = next
	}
	return 0, nil
}

// newestEarlier is the release's newest attempt that had finished before this call, nil where those do not count.
func (s *sender) newestEarlier(ctx context.Context, rows []*gitlab.PipelineInfo) (*gitlab.PipelineInfo, error) {
	if s.options.Again || s.options.Preview != nil {
		return nil, nil
	}
	rows, err := s.withoutStrangers(ctx, slices.DeleteFunc(slices.Clone(rows), func(p *gitlab.PipelineInfo) bool { return !s.earlier[p.ID] }))
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return rows[len(rows)-1], nil
}

// sendUntilKnown sends and reconciles until there is a pipeline.
func (s *sender) sendUntilKnown(ctx context.Context) (*gitlab.PipelineInfo, error) {
	for {
		answer := s.send(ctx)
		window, err := s.reconciliation(ctx, answer)
		if err != nil {
			return nil, err
		}
		kept, err := s.reconcileFor(ctx, window)
		if kept != nil && window == 0 { // another sender's: its row may be the first of several
			kept, err = s.reconcileFor(ctx, s.options.Settle)
		}
		switch {
		case err != nil:
			return nil, err
		case kept != nil:
			return kept, nil
		case len(s.own) > 0:
			return nil, fmt.Errorf("pipeline %q was started and then canceled by somebody else; run the same command again to start another", s.name)
		case s.uncertain >= maxUncertain:
			return nil, &UnknownError{Name: s.name, Sends: s.uncertain, Cause: answer.unknown}
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
	}
}

// reconciliation notes the answer to a POST and gives how long to reconcile after it. When nothing was started it
// waits before that, as long as GitLab asks for.
func (s *sender) reconciliation(ctx context.Context, a answer) (time.Duration, error) {
	switch {
	case a.refused != nil:
		return 0, a.refused
	case a.started != nil:
		s.own[a.started.ID] = a.started
		s.logf("started pipeline %d as %s", a.started.ID, a.user)
		if other := s.origins.learn(a.user); other != "" {
			s.logf("gitlab.user is %q, but the trigger token is %q's: correct it, else other commands will not take this pipeline", other, a.user)
		}
		return s.options.Settle, nil
	case a.unknown != nil:
		s.uncertain++
		s.logf("no clear answer (%s): waiting %s for the pipeline to appear", withoutURL(a.unknown), unansweredWindow)
		return unansweredWindow, nil
	}
	wait := max(a.wait, httpretry.Wait(httpretry.MinWait, 30*time.Second, s.throttled, nil))
	s.throttled++
	if time.Now().Add(wait).After(s.deadline) {
		return 0, fmt.Errorf("GitLab did not accept the pipeline within %s: %w; run the same command again later", s.options.Timeout, a.cause)
	}
	s.logf("%s; sending again in %s", a.why, wait.Round(time.Second))
	return 0, sleep(ctx, wait)
}

// reconcileFor reconciles for a while, with growing pauses, and gives the pipeline that is kept at the end of it,
// nil when there is none.
func (s *sender) reconcileFor(ctx context.Context, d time.Duration) (*gitlab.PipelineInfo, error) {
	until := time.Now().Add(d)
	for pause := time.Second; ; pause = min(pause*2, 10*time.Second) {
		kept, err := s.reconcile(ctx)
		left := time.Until(until)
		if err != nil || left <= 0 {
			return kept, err
		}
		if err := sleep(ctx, min(pause, left)); err != nil {
			return nil, err
		}
	}
}

// withoutStrangers leaves out pipelines that neither this call nor another with the same trigger token started.
func (s *sender) withoutStrangers(ctx context.Context, rows []*gitlab.PipelineInfo) ([]*gitlab.PipelineInfo, error) {
	var own, others []*gitlab.PipelineInfo
	for _, p := range rows {
		if s.own[p.ID] != nil {
			own = append(own, p)
		} else {
			others = append(others, p)
		}
	}
	others, err := s.genuine(ctx, s.deadline.Add(unansweredWindow), s.options.Ref, others)
	return append(own, others...), err
}

// reconcile lists the release's pipelines, keeps the one with the lowest id and cancels the others.
func (s *sender) reconcile(ctx context.Context) (*gitlab.PipelineInfo, error) {
	rows, err := s.pipelinesNamed(ctx, s.deadline.Add(unansweredWindow), s.name)
	if err != nil {
		return nil, err
	}
	for _, p := range s.own {
		if !slices.ContainsFunc(rows, func(row *gitlab.PipelineInfo) bool { return row.ID == p.ID }) {
			rows = append(rows, p)
		}
	}
	return s.keepLowest(ctx, rows)
}

// keepLowest keeps, of pipelines that are no earlier attempts, the one with the lowest id, and cancels the others.
func (s *sender) keepLowest(ctx context.Context, rows []*gitlab.PipelineInfo) (*gitlab.PipelineInfo, error) {
	rows = slices.DeleteFunc(slices.Clone(rows), func(p *gitlab.PipelineInfo) bool {
		return withoutEffect(p.Status) || s.earlier[p.ID] || s.canceled[p.ID] && p.Status != "manual" // what GitLab left at its gate is not canceled
	})
	rows, err := s.withoutStrangers(ctx, rows)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	slices.SortFunc(rows, func(a, b *gitlab.PipelineInfo) int { return cmp.Compare(a.ID, b.ID) })
	s.left, s.leftCause = nil, nil
	for _, p := range rows[1:] {
		if err := s.cancelDuplicate(ctx, s.deadline.Add(unansweredWindow), p); err != nil {
			delete(s.canceled, p.ID)
			if ctx.Err() != nil {
				return nil, err
			}
			s.left, s.leftCause = append(s.left, p.ID), err
			continue
		}
		s.canceled[p.ID] = true
		s.logf("canceled pipeline %d: %d is the release's", p.ID, rows[0].ID)
	}
	return rows[0], nil
}
