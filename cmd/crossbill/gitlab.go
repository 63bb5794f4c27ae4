package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/gitlab"
	"github.com/our-org/crossbill/internal/notify"
)

// gitlabOptions say which project of which GitLab deploys.
type gitlabOptions struct {
	url, project     string
	user             string // of trigger, watch and cancel
	tokenFile        string
	triggerTokenFile string // of trigger alone
}

func (o *gitlabOptions) add(cmd *cobra.Command, scope string) {
	inSection(cmd.Flags(), gitlabSection, func(flags *pflag.FlagSet) {
		flags.StringVar(&o.url, "gitlab-url", "https://gitlab.com", "GitLab's URL")
		flags.StringVar(&o.project, "project", "", "GitLab project that deploys: group/project")
		flags.StringVar(&o.tokenFile, "token-file", "", "file with an access token of scope "+scope+" (default $GITLAB_TOKEN)")
	})
	_ = cmd.MarkFlagFilename("token-file")
}

// addOrigin adds the flags that distinguish a release's pipeline from others of its name.
func (o *gitlabOptions) addOrigin(cmd *cobra.Command, ref *string) {
	inSection(cmd.Flags(), gitlabSection, func(flags *pflag.FlagSet) {
		flags.StringVar(ref, "ref", "main", "branch or tag of the GitLab project that releases run on")
		flags.StringVar(&o.user, "gitlab-user", "", "login of the trigger token's owner (default: as it is seen in GitLab's answer to trigger, else the access token's user)")
	})
}

func (o *gitlabOptions) addTriggerToken(cmd *cobra.Command) {
	inSection(cmd.Flags(), gitlabSection, func(flags *pflag.FlagSet) {
		flags.StringVar(&o.triggerTokenFile, "trigger-token-file", "", "file with the pipeline trigger token (default $GITLAB_TRIGGER_TOKEN)")
	})
	_ = cmd.MarkFlagFilename("trigger-token-file")
}

// connection is GitLab's as the options and the environment say. Nothing is sent.
func (o *gitlabOptions) connection(log io.Writer) (gitlab.Connection, error) {
	token, err := secret("--token-file", o.tokenFile, "GITLAB_TOKEN")
	if err != nil {
		return gitlab.Connection{}, err
	}
	triggerToken, err := secret("--trigger-token-file", o.triggerTokenFile, "GITLAB_TRIGGER_TOKEN")
	if err != nil {
		return gitlab.Connection{}, err
	}
	start := time.Now()
	return gitlab.Connection{URL: o.url, Project: o.project, User: o.user, Token: token, TriggerToken: triggerToken, Log: func(line string) {
		fmt.Fprintf(log, "%6.1fs  %s\n", time.Since(start).Seconds(), line)
	}}, nil
}

// handoffOptions are those of the commands that talk to GitLab alone.
type handoffOptions struct {
	gitlab  gitlabOptions
	output  outputOptions
	timeout time.Duration

	client   *gitlab.Client // after validate
	out, log io.Writer
}

func (o *handoffOptions) add(cmd *cobra.Command, scope string, timeout time.Duration) {
	positiveDuration(cmd.Flags(), &o.timeout, "timeout", timeout, "bound of the whole command")
	o.gitlab.add(cmd, scope)
	o.output.add(cmd)
}

func (o *handoffOptions) complete(cmd *cobra.Command, _ []string) error {
	o.out, o.log = cmd.OutOrStdout(), cmd.ErrOrStderr()
	return nil
}

func (o *handoffOptions) validate() error {
	if err := o.output.validate(); err != nil {
		return err
	}
	connection, err := o.gitlab.connection(o.log)
	if err != nil {
		return err
	}
	o.client, err = gitlab.Connect(connection)
	return err
}

// trace sends the trace of a command of the handoff.
func (o *handoffOptions) trace(ctx context.Context, command, app, releaseID string, started time.Time, err error) {
	traceHandoff(ctx, o.log, command, app, releaseID, started, err)
}

// traceHandoff sends the trace of a command that hands a release over.
func traceHandoff(ctx context.Context, log io.Writer, command, app, releaseID string, started time.Time, err error) {
	if !notify.TracesConfigured() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceTimeout)
	defer cancel()
	event := &notify.Event{Command: command, App: app, ReleaseID: releaseID, Result: notify.Succeeded, StartedAt: started, FinishedAt: time.Now()}
	if err != nil && exitCode(err) != exitWaiting {
		event.Result, event.ExitCode, event.Message = notify.Failed, exitCode(err), err.Error()
	}
	if failed := (notify.Traces{Version: buildVersion().Version}).Notify(ctx, event); failed != nil {
		fmt.Fprintf(log, "crossbill: notification failed: %v\n", failed)
	}
}

// traceTimeout bounds the sending of a trace.
const traceTimeout = 20 * time.Second

// addTarget adds the flags that name a pipeline.
func addTarget(cmd *cobra.Command, target *gitlab.Target) {
	flags := cmd.Flags()
	flags.Int64Var(&target.PipelineID, "pipeline", 0, "the pipeline's id")
	flags.StringVar(&target.ReleaseID, "release-id", "", "the release's id, as trigger printed it")
	flags.StringVar(&target.App, "app", "", "name of the app, to find the release among many pipelines")
}

// addJobNames adds the flags that name jobs of the pipeline.
func addJobNames(cmd *cobra.Command, names *gitlab.JobNames) {
	inSection(cmd.Flags(), gitlabSection, func(flags *pflag.FlagSet) {
		flags.StringVar(&names.Canary, "canary-job", "deploy_canary", "job that starts the canary")
		flags.StringVar(&names.Verify, "verify-job", "verify_canary", "job that judges the canary")
		flags.StringVar(&names.Promote, "promote-job", "promote_to_production", "job that promotes the release, behind the approval gate")
		flags.StringVar(&names.Rollback, "rollback-job", "rollback", "manual job that rolls back; the names of the automatic ones start with it")
	})
}

// pipelineName is a pipeline as -o name prints it.
func pipelineName(id int64) []string { return []string{fmt.Sprintf("pipeline/%d", id)} }
