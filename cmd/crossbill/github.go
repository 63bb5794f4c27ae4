package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/notify"
)

// githubFlags say which GitHub repository is notified of a release.
type githubFlags struct {
	github    notify.GitHub
	tokenFile string
}

func (f *githubFlags) add(cmd *cobra.Command) {
	f.addSource(cmd)
	cmd.Flags().StringVar(&f.github.EnvironmentURL, "environment-url", "", "the app's address, for the Deployment")
}

// addSource adds the flags that name the repository.
func (f *githubFlags) addSource(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.github.Repository, "github-repository", "", "owner/name: its Deployment of the release gets a status (default $CROSSBILL_GITHUB_REPOSITORY, none without a token)")
	flags.StringVar(&f.tokenFile, "github-token-file", "", "file with a token that may write deployments (default $CROSSBILL_GITHUB_TOKEN)")
	flags.StringVar(&f.github.URL, "github-url", "", "URL of GitHub's API (default https://api.github.com)")
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
