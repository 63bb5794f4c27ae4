package main

import (
	"bytes"
	"errors"
	"testing"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// TestResults is what each error of a command means to those who are notified.
func TestResults(t *testing.T) {
	for _, test := range []struct {
		err  error
		want notify.Result
	}{
		{nil, notify.Succeeded},
		{&exitError{exitDeadline, errors.New("x")}, notify.NotReady},
		{&exitError{exitUnhealthy, errors.New("x")}, notify.Unhealthy},
		{&exitError{exitInconclusive, errors.New("x")}, notify.Inconclusive},
		{errors.New("x"), notify.Failed},
		{&usererr.Error{Field: "--image"}, notify.Refused},
		{&release.InFlightError{}, notify.Refused},
		{&rollout.StageError{Err: errors.New("x")}, notify.Refused},
	} {
		if got := resultOf(test.err); got != test.want {
			t.Errorf("%v: %s, want %s", test.err, got, test.want)
		}
	}
}

// TestNotifyingIsHarmless: without a target nothing is sent or printed; when a notification fails the command's
// own error stands.
func TestNotifyingIsHarmless(t *testing.T) {
	for name, test := range map[string]struct{ token, repository, webhook, said string }{
		"no token":       {repository: "our-org/app"},
		"no repository":  {token: "t", said: "notify.github.repository"},
		"no web address": {webhook: "hooks.example.com", said: "webhook: it is not a web address"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CROSSBILL_GITHUB_TOKEN", test.token)
			t.Setenv("CROSSBILL_GITHUB_REPOSITORY", test.repository)
			t.Setenv("CROSSBILL_WEBHOOK", test.webhook)
			var flags tellFlags
			var log bytes.Buffer
			cmd := &cobra.Command{}
			cmd.SetErr(&log)
			cmd.SetContext(t.Context())
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
