package config

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/our-org/crossbill/internal/approval"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// Plan is the section steps as a release takes it with it, nil without one. The file was checked when it was read.
func (c *Config) Plan() (release.Plan, error) {
	steps, err := c.planSteps()
	return release.NewPlan(steps), err
}

// planSteps are the steps as they were written.
func (c *Config) planSteps() (steps []release.PlanStep, err error) {
	for i, s := range c.Steps {
		step := release.PlanStep{Weight: s.Weight, Pause: release.Duration(s.Pause.Duration), Approve: s.Approve != nil}
		if a := s.Analyze; a != nil {
			step.Analyze = &release.Analyze{MinRequests: a.MinRequests, MinDuration: release.Duration(a.MinDuration.Duration), MaxDuration: release.Duration(a.MaxDuration.Duration)}
		}
		if s.Match != "" {
			if step.Match, err = release.ParseMatch(fmt.Sprintf("steps[%d].match", i), s.Match); err != nil {
				return nil, err
			}
		}
		if s.Mirror != "" {
			if step.Mirror, err = release.ParseMirror(fmt.Sprintf("steps[%d].mirror", i), s.Mirror); err != nil {
				return nil, err
			}
		}
		steps = append(steps, step)
	}
	return steps, nil
}

// steps finds steps that do not fit together, or that nobody could take.
func (d *decoder) steps(c *Config) {
	steps, err := c.planSteps()
	if input, ok := errors.AsType[*usererr.Error](err); ok {
		d.section("", input)
		return
	}
	if input := release.CheckPlan("steps", steps); input != nil {
		d.section("", input)
		return
	}
	d.approvals(c, steps)
	for i, s := range steps {
		if s.Analyze != nil {
			d.section("", analyzable(fmt.Sprintf("steps[%d].analyze", i), s.Analyze, c.Analysis))
		}
	}
}

// approvals finds an approval that nobody could give, and one that is missing.
func (d *decoder) approvals(c *Config, steps []release.PlanStep) {
	asked := false
	for i, s := range steps {
		switch {
		case s.Approve && i < len(steps)-1 && c.Approval == nil:
			d.section("", &usererr.Error{
				Field: fmt.Sprintf("steps[%d].approve", i), Problem: "crossbill.yaml has no section approval: nobody could be asked",
				Fix: "add the section, or remove the step; an approval as the last step is the gate of promote",
			})
		case s.Approve:
			asked = true
		case s.Weight > 0 && i > 0 && !asked && c.Approval != nil && slices.Contains(c.Approval.Before, approval.Shift):
			d.section("", &usererr.Error{
				Field: fmt.Sprintf("steps[%d]", i), Problem: "approval.before has shift, and nobody is asked before this step",
				Fix: "write `- approve: {}` before it, or remove shift from approval.before",
			})
		case s.Weight > 0: // the first step is what canary starts with
			asked = false
		}
	}
}

// analyzable finds a step's analysis that could never pass.
func analyzable(field string, a *release.Analyze, slo *verdict.SLO) *usererr.Error {
	if slo == nil {
		slo = verdict.DefaultSLO()
	}
	least, most := slo.MinDuration.Duration, slo.MaxDuration.Duration
	if a.MinDuration > 0 {
		least = time.Duration(a.MinDuration)
	}
	if a.MaxDuration > 0 {
		most = time.Duration(a.MaxDuration)
	}
	if least >= most {
		return &usererr.Error{Field: field, Problem: fmt.Sprintf("its minDuration (%s) is not below its maxDuration (%s)", release.Duration(least), release.Duration(most)), Fix: "give both in the step, for example minDuration: 10m and maxDuration: 30m"}
	}
	return nil
}
