package main

import (
	"os"
	"regexp"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/approval"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// approvalOptions say who approves that a command goes on. The policy is in crossbill.yaml alone: whoever may call a
// command could give a flag.
type approvalOptions struct {
	tokenFile string
	operator  bool

	gate approval.Gate // after load
}

func (o *approvalOptions) add(cmd *cobra.Command) {
	inSection(cmd.Flags(), approvalSection, func(flags *pflag.FlagSet) {
		flags.StringVar(&o.tokenFile, "id-token-file", "", "file with GitLab's ID token of the job (default $CROSSBILL_ID_TOKEN)")
		flags.BoolVar(&o.operator, "approve-as-operator", false, "go on without a verified approval, as a person with rights in the cluster; the ledger says so, and who (--by)")
	})
}

// load finds the policy and the token. Nothing is sent.
func (o *approvalOptions) load(cmd *cobra.Command, by string) error {
	if o.operator && (os.Getenv("GITLAB_CI") == "true" || os.Getenv("GITHUB_ACTIONS") == "true") {
		return &usererr.Error{Field: "--approve-as-operator", Problem: "this is a job, and no person with rights in the cluster", Fix: "give the job an ID token, or run the command yourself"}
	}
	token, err := secret("--id-token-file", o.tokenFile, "CROSSBILL_ID_TOKEN")
	if err != nil {
		return err
	}
	o.gate = approval.Gate{Policy: configOf(cmd).Approval, Token: token, Operator: o.operator, By: by}
	if p := o.gate.Policy; p != nil {
		o.gate.Verifier = &approval.Verifier{Issuer: p.Issuer, Audience: p.Audience}
	}
	return nil
}

// apply makes a cluster's commands ask.
func (o *approvalOptions) apply(c *rollout.Cluster) { c.Gate = o.gate.Ask }

// authorPattern is what names an author: a login, an e-mail address, or what an identity provider calls them.
var authorPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+@\[\]-]{0,199}$`)

// checkAuthors finds what is no name of an author.
func checkAuthors(authors []string) error {
	for _, author := range authors {
		if !authorPattern.MatchString(author) {
			return &usererr.Error{Field: "--author", Problem: "\"" + author + "\" is not a login or an e-mail address", Fix: "give for example mona, or mona@example.com"}
		}
	}
	return nil
}
