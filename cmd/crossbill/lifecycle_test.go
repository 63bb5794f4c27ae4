package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/analysis"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/verdict"
)

// TestPerform: what a command came to is printed first and then sent, once, and neither changes how it ends.
func TestPerform(t *testing.T) {
	quiet(t)
	result := rollout.Result{Command: "verify", App: "app", Release: releaseAt(release.StageVerified), Message: "done"}
	judged := outcome{result, summaryOf(&verdict.Verification{Outcome: release.Unhealthy, Reason: "slow"})}
	unhealthy := &analysis.UnhealthyError{Reason: "slow"}
	for name, c := range map[string]struct {
		format string
		came   outcome
		err    error
		out    string // standard output starts with it
		sent   int
		broken bool // the webhook does not answer
	}{
		"success":                       {format: "text", came: outcome{Result: result}, out: "verify: done\n", sent: 1},
		"success, nobody is reached":    {format: "text", came: outcome{Result: result}, out: "verify: done\n", broken: true},
		"unhealthy, for people":         {format: "text", came: judged, err: unhealthy, sent: 1},
		"unhealthy, for programs":       {format: "json", came: judged, err: unhealthy, out: "{\n  \"schemaVersion\": 1,\n  \"command\": \"verify\"", sent: 1},
		"failed":                        {format: "json", err: errors.New("API server is down"), sent: 1},
		"refused, nothing has happened": {format: "json", err: &rollout.StageError{Err: errors.New("no release")}},
	} {
		t.Run(name, func(t *testing.T) {
			var out, log bytes.Buffer
			sent := 0
			webhook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if body, err := io.ReadAll(r.Body); err == nil && r.Method == http.MethodPost && len(body) > 0 {
					sent++
				}
				if c.format == "text" && c.out != "" && !strings.HasPrefix(out.String(), c.out) {
					t.Error("it was sent before it was printed")
				}
			}))
			defer webhook.Close()
			address := webhook.URL
			if c.broken {
				address = "not an address"
			}
			file := filepath.Join(t.TempDir(), "webhook")
			if err := os.WriteFile(file, []byte(strings.ReplaceAll(address, " ", "")), 0o600); err != nil {
				t.Fatal(err)
			}
			o := &lifecycleOptions{}
			cmd := &cobra.Command{Use: "verify", SilenceErrors: true, SilenceUsage: true}
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if err := o.complete(cmd, args); err != nil {
					return err
				}
				if err := o.validate(); err != nil {
					return err
				}
				return o.change(cmd.Context(), func(context.Context, *rollout.Cluster) (outcome, error) { return c.came, c.err })
			}
			o.add(cmd)
			o.notify.add(cmd)
			cmd.SetOut(&out)
			cmd.SetErr(&log)
			cmd.SetArgs(append((&apiServer{}).serve(t, "shop"), "-o", c.format, "--webhook-file", file))
			err := cmd.ExecuteContext(t.Context())
			if !errors.Is(err, c.err) || sent != c.sent {
				t.Errorf("it ends with %v, want %v; sent %d times, want %d", err, c.err, sent, c.sent)
			}
			if got := out.String(); !strings.HasPrefix(got, c.out) || c.out == "" && got != "" {
				t.Errorf("it prints %q, want %q", got, c.out)
			}
			if got := strings.Contains(log.String(), "notification failed"); got != c.broken {
				t.Errorf("it says %q", log.String())
			}
		})
	}
}

func TestObjectName(t *testing.T) {
	for object, want := range map[string]string{
		"Deployment shop/app-primary": "deployment/app-primary",
		"Gateway public-gateway":      "gateway/public-gateway",
	} {
		if got := objectName(object); got != want {
			t.Errorf("%s: %s, want %s", object, got, want)
		}
	}
}

// TestExitCodeOfMany: the exit code of errors that have nothing to do with each other is the first one's.
func TestExitCodeOfMany(t *testing.T) {
	down, stage, held := errors.New("API server is down"), &rollout.StageError{Err: errors.New("x")}, &rollout.LockHeldError{}
	for _, c := range []struct {
		errs []error
		want int
	}{
		{[]error{nil, nil}, 0},
		{nil, 0},
		{[]error{nil, down, stage, held}, exitFailure},
		{[]error{stage, held, nil}, exitBadInput},
		{[]error{held, stage, down}, exitLockHeld},
	} {
		err := joined(c.errs...)
		if got := exitCode(err); got != c.want {
			t.Errorf("%v: %d, want %d", c.errs, got, c.want)
		}
		for _, one := range c.errs {
			if one != nil && !errors.Is(err, one) {
				t.Errorf("%v has not %v", err, one)
			}
		}
	}
}

// TestExitCodes: the codes of docs/reference/exit-codes.md, also for an error that others wrap.
func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), exitFailure},
		{context.Canceled, exitFailure},
		{&rollout.StageError{Err: errors.New("x")}, exitBadInput},
		{&analysis.UnhealthyError{Err: rollout.ErrLockLost}, exitUnhealthy},
		{&analysis.InconclusiveError{}, exitInconclusive},
		{rollout.ErrLockLost, exitLockHeld},
		{&rollout.LockHeldError{}, exitLockHeld},
		{&release.InFlightError{Release: *releaseAt(release.StageCanary)}, exitLockHeld},
		{&analysis.NotReadyError{Cause: &rollout.NotReadyError{}, Err: rollout.ErrLockLost}, exitDeadline},
		{&analysis.TimeOverError{}, exitTimeOver},
		{&exitError{exitWaiting, errors.New("x")}, exitWaiting},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%T: %d, want %d", c.err, got, c.want)
		}
		if c.err != nil {
			if got := exitCode(errors.Join(errors.New("before"), c.err)); got != c.want {
				t.Errorf("wrapped %T: %d, want %d", c.err, got, c.want)
			}
		}
	}
}
