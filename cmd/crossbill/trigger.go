package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/gitlab"
	"github.com/our-org/crossbill/internal/usererr"
)

// gitlabFlags are the flags of the commands that talk to GitLab. Tokens come from the environment or from
// files: a flag's value can be read by everybody on the machine.
type gitlabFlags struct {
	url, project          string
	tokenFile, triggerSrc string
	output                outputOptions
}

func (f *gitlabFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.url, "gitlab-url", "https://gitlab.com", "GitLab's URL")
	cmd.Flags().StringVar(&f.project, "project", "", "GitLab project that deploys: group/project")
	cmd.Flags().StringVar(&f.tokenFile, "token-file", "", "file with an access token of scope read_api, or api to cancel duplicates (default $GITLAB_TOKEN)")
	f.output.add(cmd)
}

func (f *gitlabFlags) connect(cmd *cobra.Command) (*gitlab.Client, error) {
	if err := f.output.validate(); err != nil {
		return nil, err
	}
	token, err := secret("--token-file", f.tokenFile, "GITLAB_TOKEN")
	if err != nil {
		return nil, err
	}
	triggerToken, err := secret("--trigger-token-file", f.triggerSrc, "GITLAB_TRIGGER_TOKEN")
	if err != nil {
		return nil, err
	}
	start := time.Now()
	return gitlab.Connect(gitlab.Connection{
		URL: f.url, Project: f.project, Token: token, TriggerToken: triggerToken,
		Log: func(line string) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%6.1fs  %s\n", time.Since(start).Seconds(), line)
		},
	})
}

// secret reads a token from a file, or from the environment when no file is named.
func secret(flag, path, variable string) (string, error) {
	if path == "" {
		return strings.TrimSpace(os.Getenv(variable)), nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", &usererr.Error{Field: flag, Problem: err.Error(), Fix: "give a file that holds the token alone"}
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", &usererr.Error{Field: flag, Problem: path + " does not hold one token", Fix: "give a file that holds the token alone"}
	}
	return token, nil
}

func newTriggerCommand() *cobra.Command {
	var flags gitlabFlags
	var options gitlab.TriggerOptions
	cmd := &cobra.Command{
		Use:   "trigger --project GROUP/PROJECT --app NAME --image REPOSITORY@sha256:… --commit SHA",
		Short: "Start GitLab's pipeline for a release, once, or adopt the one that is there",
		Long: `Start GitLab's pipeline for a release, once, or adopt the one that is there.

The pipeline is found by its name, "release APP ID". Whatever happens to the
network, the same command can be run again. When several pipelines of one
release appear, the lowest id is kept and the others are canceled.

Environment:
  GITLAB_TRIGGER_TOKEN  pipeline trigger token (or --trigger-token-file)
  GITLAB_TOKEN          access token, scope read_api, or api to cancel
                        duplicates (or --token-file)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.connect(cmd)
			if err != nil {
				return err
			}
			begun := time.Now()
			p, err := gitlab.Trigger(cmd.Context(), c, options)
			trace(cmd, "trigger", options.Release.App, p.ReleaseID, begun, err)
			if p.ID == 0 {
				return err
			}
			return errors.Join(err, flags.printPipeline(cmd, p))
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&flags.triggerSrc, "trigger-token-file", "", "file with the pipeline trigger token (default $GITLAB_TRIGGER_TOKEN)")
	cmd.Flags().StringVar(&options.Ref, "ref", "main", "branch or tag of the GitLab project")
	cmd.Flags().StringVar(&options.Release.App, "app", "", "name of the app")
	cmd.Flags().StringVar(&options.Release.Image, "image", "", "image to release, by digest: repository@sha256:…")
	cmd.Flags().StringVar(&options.Release.Commit, "commit", "", "commit that the image was built from")
	cmd.Flags().StringVar(&options.Release.ID, "release-id", "", "name of the release (default: made of app, digest and commit)")
	cmd.Flags().StringVar(&options.Release.SourceURL, "source-url", "", "page of the run that hands the release over")
	cmd.Flags().BoolVar(&options.Variables, "variables", false, "send trigger variables in place of typed inputs, for a GitLab before 18.1")
	cmd.Flags().BoolVar(&options.Again, "again", false, "start another pipeline although one of this release has ended")
	cmd.Flags().DurationVar(&options.Settle, "settle", 10*time.Second, "how long to look for pipelines that other senders have started")
	cmd.Flags().DurationVar(&options.Timeout, "timeout", 15*time.Minute, "bound of the whole command")
	return cmd
}

func (f *gitlabFlags) printPipeline(cmd *cobra.Command, p gitlab.Pipeline) error {
	how := "started"
	if p.Adopted {
		how = "adopted"
	}
	next := ""
	if p.Status == "failed" || p.Status == "success" {
		next = "; it has ended: retry its jobs in GitLab, or give --again"
	}
	return f.output.print(cmd.OutOrStdout(), view{
		data:  p,
		text:  line("trigger: %s pipeline %d (%s) of release %s: %s%s", how, p.ID, p.Status, p.ReleaseID, p.URL, next),
		names: []string{fmt.Sprintf("pipeline/%d", p.ID)},
	})
}
