package main

import (
	"bytes"
	"errors"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

func TestWhatADeploymentShows(t *testing.T) {
	inFlight := rollout.Result{Release: &release.Release{ID: "one"}, Message: "done"}
	first := inFlight
	first.Outcome = release.OutcomeFirst
	unchanged, promoted := inFlight, rollout.Result{Release: &release.Release{ID: "one", Stage: release.StagePromoted}}
	unchanged.Outcome = release.OutcomeUnchanged
	for name, test := range map[string]struct {
		command string
		result  rollout.Result
		err     error
		state   string // "" for nothing
		others  bool   // are told, though GitHub is not
	}{
		"canary has traffic":       {command: "canary", result: inFlight, state: "in_progress"},
		"first release":            {command: "canary", result: first, state: "success"},
		"primary has it":           {command: "canary", result: unchanged, state: "success"},
		"canary of a promoted one": {command: "canary", result: promoted, state: "success"},
		"canary never ready":       {command: "canary", err: &exitError{exitDeadline, errors.New("x")}, state: "failure"},
		"canary, API server down":  {command: "canary", err: errors.New("x"), state: "error"},
		"canary refused":           {command: "canary", err: &usererr.Error{Field: "--image"}},
		"another release":          {command: "canary", err: &release.InFlightError{}},
		"out of order":             {command: "promote", err: &rollout.StageError{Err: errors.New("x")}},
		"healthy waits":            {command: "verify", result: inFlight, state: "pending"},
		"unhealthy":                {command: "verify", err: &exitError{exitUnhealthy, errors.New("x")}, state: "failure"},
		"inconclusive goes on":     {command: "verify", err: &exitError{exitInconclusive, errors.New("x")}, state: "in_progress"},
		"promoted":                 {command: "promote", result: inFlight, state: "success"},
		"cleaned up":               {command: "cleanup", result: promoted, state: "success"},
		"cleanup did not finish":   {command: "cleanup", err: errors.New("x"), others: true},
		"rolled back":              {command: "rollback", result: inFlight, state: "failure"},
		"guard left it alone":      {command: "guard", result: inFlight},
		"guard rolled back":        {command: "guard", result: rollout.Result{Release: &release.Release{}, Outcome: release.OutcomeRolledBack}, state: "failure"},
		"guard cleaned up":         {command: "guard", result: rollout.Result{Release: &release.Release{}, Outcome: release.OutcomePromoted}, state: "success"},
		"nothing to roll back":     {command: "rollback", result: rollout.Result{Message: "nothing"}},
		"primary already has this": {command: "canary", result: rollout.Result{Message: "nothing"}},
	} {
		status, tell := deploymentStatus(test.command, test.result, test.err)
		if tell != (test.state != "" || test.others) || status.State != test.state {
			t.Errorf("%s: %q, want %q", name, status.State, test.state)
		}
	}
}

// TestTellingIsHarmless: without a token nothing is sent or said; when GitHub cannot be told the
// command's own outcome stands.
func TestTellingIsHarmless(t *testing.T) {
	for name, test := range map[string]struct{ token, repository, webhook, gateway, said string }{
		"no token":       {repository: "our-org/app"},
		"no repository":  {token: "t", said: "GitHub was not told"},
		"no GitHub":      {token: "t", repository: "our-org/app", said: "GitHub was not told"},
		"no web address": {webhook: "hooks.example.com", said: "--webhook-file: it does not hold a web address"},
		"no Pushgateway": {gateway: "http://127.0.0.1:1", said: "not told: Pushgateway"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CROSSBILL_GITHUB_TOKEN", test.token)
			t.Setenv("CROSSBILL_GITHUB_REPOSITORY", test.repository)
			t.Setenv("CROSSBILL_WEBHOOK", test.webhook)
			t.Setenv("CROSSBILL_PUSHGATEWAY", test.gateway)
			var flags tellFlags
			var log bytes.Buffer
			cmd := &cobra.Command{}
			cmd.SetErr(&log)
			cmd.SetContext(t.Context())
			flags.github.github.Backoff = wait.Backoff{Steps: 2}
			flags.github.github.URL = "http://127.0.0.1:1"
			id := "one"
			want := errors.New("the command's own")
			if err := flags.around(cmd, &clusterFlags{}, "promote", &id, func() (rollout.Result, error) { return rollout.Result{}, want }); err != want {
				t.Errorf("error %v", err)
			}
			if got := log.String(); (got == "") != (test.said == "") || !bytes.Contains(log.Bytes(), []byte(test.said)) {
				t.Errorf("said %q, want %q", got, test.said)
			}
		})
	}
}
