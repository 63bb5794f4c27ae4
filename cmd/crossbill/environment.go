package main

import (
	"net/mail"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/usererr"
)

// environmentRepository is the one of the section gitops; nothing is asked of its server yet.
func environmentRepository(cmd *cobra.Command) (*environment.Repository, error) {
	settings := configOf(cmd).settings
	if settings == nil || settings.Value("gitops.repository") == "" {
		return nil, &usererr.Error{Field: "gitops.repository", Problem: "is missing", Fix: "name the environment repository in the section gitops of crossbill.yaml"}
	}
	author, err := mail.ParseAddress(settings.Value("gitops.author"))
	if err != nil {
		return nil, &usererr.Error{Field: "gitops.author", Problem: err.Error(), Fix: "give for example Release bot <releases@example.com>"}
	}
	return environment.New(environment.Options{
		URL: settings.Value("gitops.repository"), Branch: settings.Value("gitops.branch"),
		User: settings.Value("gitops.user"), TokenFile: settings.Value("gitops.tokenFile"),
		KeyFile: settings.Value("gitops.sshKeyFile"), KnownHostsFile: settings.Value("gitops.knownHostsFile"),
		SigningKeyFile: settings.Value("gitops.signingKeyFile"), AuthorName: author.Name, AuthorEmail: author.Address,
	})
}
