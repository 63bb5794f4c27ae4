package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/analysis"
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
		{&analysis.NotReadyError{Cause: errors.New("x")}, notify.NotReady},
		{&analysis.UnhealthyError{Reason: "x", Err: rollout.ErrLockLost}, notify.Unhealthy},
		{&analysis.InconclusiveError{Reason: "x", Err: &usererr.Error{}}, notify.Inconclusive},
		{errors.New("x"), notify.Failed},
		{&usererr.Error{Field: "--image"}, notify.Refused},
		{&release.InFlightError{}, notify.Refused},
		{&rollout.WaitedError{}, notify.Waited},
		{&rollout.StageError{Err: errors.New("x")}, notify.Refused},
	} {
		if got := resultOf(test.err); got != test.want {
			t.Errorf("%v: %s, want %s", test.err, got, test.want)
		}
	}
}

// TestNotifyingIsHarmless: without a target nothing is sent or printed; a notification that fails is
// printed, and nothing more.
func TestNotifyingIsHarmless(t *testing.T) {
	for name, test := range map[string]struct{ token, repository, webhook, said string }{
		"no token":       {repository: "our-org/app"},
		"no repository":  {token: "t", said: "notify.github.repository"},
		"no web address": {webhook: "hooks.example.com", said: "webhook: it is not a web address"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CROSSBILL_GITHUB_TOKEN", test.token)
			t.Setenv("CROSSBILL_WEBHOOK", test.webhook)
			var o notifyOptions
			var log bytes.Buffer
			cmd := &cobra.Command{}
			cmd.SetContext(t.Context())
			o.add(cmd)
			o.github.github.Repository = test.repository
			o.send(t.Context(), &log, &notify.Event{Command: "promote", ReleaseID: "one"}, rollout.Result{}, errors.New("the command's own"))
			if got := log.String(); (got == "") != (test.said == "") || !bytes.Contains(log.Bytes(), []byte(test.said)) {
				t.Errorf("said %q, want %q", got, test.said)
			}
			log.Reset()
			o.waits(t.Context(), &log, &notify.Event{Command: "queue", ReleaseID: "one"}) // for GitHub alone
			if got := log.String(); (got == "") != (test.token == "") || !strings.Contains(got, test.said) && test.token != "" {
				t.Errorf("in the line: said %q, want %q", got, test.said)
			}
		})
	}
}
