package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// githubFlags say which GitHub repository is told how far a release is.
type githubFlags struct {
	github         notify.GitHub
	tokenFile      string
	environmentURL string
}

func (f *githubFlags) add(cmd *cobra.Command) {
	f.addSource(cmd)
	cmd.Flags().StringVar(&f.environmentURL, "environment-url", "", "the app's address, for the Deployment")
}

// addSource adds the flags that name the repository.
func (f *githubFlags) addSource(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.github.Repository, "github-repository", "", "owner/name: its Deployment of the release gets a status (default $CROSSBILL_GITHUB_REPOSITORY, none without a token)")
	flags.StringVar(&f.tokenFile, "github-token-file", "", "file with a token that may write deployments (default $CROSSBILL_GITHUB_TOKEN)")
	flags.StringVar(&f.github.URL, "github-url", "", "URL of GitHub's API (default https://api.github.com)")
}

func (f *githubFlags) tell(ctx context.Context, log io.Writer, releaseID string, status notify.DeploymentStatus) {
	g, named, err := f.source()
	if err == nil && !named {
		return
	}
	if err == nil {
		err = g.Tell(ctx, releaseID, status)
	}
	if err != nil {
		fmt.Fprintf(log, "crossbill: GitHub was not told (%s): %v; the release itself is not touched by this\n", status.State, err)
		return
	}
	fmt.Fprintf(log, "GitHub: deployment of release %s is %s\n", releaseID, status.State)
}

// source is the repository that the flags name; false when there is no token for it.
func (f *githubFlags) source() (g notify.GitHub, named bool, err error) {
	g = f.github
	if g.Repository == "" {
		g.Repository = os.Getenv("CROSSBILL_GITHUB_REPOSITORY")
	}
	g.Token, err = secret("--github-token-file", f.tokenFile, "CROSSBILL_GITHUB_TOKEN")
	return g, g.Token != "", err
}

// deploymentStatus is what a command's end means for the Deployment, no state when nothing; false when nobody is
// told, as of a command that was refused.
func deploymentStatus(command string, result rollout.Result, err error) (notify.DeploymentStatus, bool) {
	said := func(state, text string) (notify.DeploymentStatus, bool) {
		return notify.DeploymentStatus{State: state, Description: command + ": " + text}, true
	}
	if err != nil {
		switch exitCode(err) {
		case exitUnhealthy, exitDeadline:
			return said("failure", err.Error())
		case exitInconclusive:
			return said("in_progress", err.Error())
		case exitFailure:
			if command == "cleanup" { // GitHub goes on to show what promote said: it has all of the traffic
				return said("", err.Error())
			}
			return said("error", err.Error())
		}
		return notify.DeploymentStatus{}, false
	}
	if result.Release == nil { // there was nothing to do
		return notify.DeploymentStatus{}, false
	}
	switch {
	case command == "guard" && result.Outcome == "": // it left the release alone
		return notify.DeploymentStatus{}, false
	case command == "rollback", result.Outcome == release.OutcomeRolledBack:
		return said("failure", result.Message)
	case command == "promote", result.Outcome != "", result.Release.Stage == release.StagePromoted:
		return said("success", result.Message)
	case command == "verify":
		return said("pending", result.Message+"; waits for a person to promote it")
	default:
		return said("in_progress", result.Message)
	}
}
