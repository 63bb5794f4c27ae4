package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/proposal"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// proposals is what the environment repository says of an app's releases.
type proposals struct {
	app, file  string
	repository *environment.Repository
	signers    environment.Signers // who may approve; nil: who may push
	needs      int                 // so many of them have to

	head    string // whose history this is
	history proposal.History
	found   string // the commit that was looked for
}

// newProposals finds the repository and who may approve. With an approval policy there is nothing that a commit could approve.
func newProposals(cmd *cobra.Command, app string) (*proposals, error) {
	if configOf(cmd).Approval != nil {
		return nil, &usererr.Error{
			Field: "approval", Problem: "the policy asks for ID tokens of GitLab's jobs, which no commit gives",
			Fix: "leave the section out and name who may approve in gitops.allowedSignersFile, or release with GitLab's pipeline",
		}
	}
	settings := configOf(cmd).settings
	file, err := proposal.Path(settings.Value("gitops.releases"), app)
	if err != nil {
		return nil, err
	}
	g := &proposals{app: app, file: file}
	if g.repository, err = environmentRepository(cmd); err != nil {
		return nil, err
	}
	if name := settings.Value("gitops.allowedSignersFile"); name != "" {
		g.signers, err = environment.ReadSigners(name)
	}
	if g.needs = configOf(cmd).GitOps.Approvals; err == nil && g.needs > 1 && g.signers == nil {
		err = &usererr.Error{
			Field: "gitops.approvals", Problem: fmt.Sprintf("%d people have to approve, and without signatures one who may push can be all of them", g.needs),
			Fix: "name who may approve in gitops.allowedSignersFile",
		}
	}
	return g, err
}

// read gives the history of the app's file, back to a commit that is meant. What was read is kept while the branch stays.
func (g *proposals) read(ctx context.Context, meant string) (proposal.History, error) {
	tree, err := g.repository.Read(ctx)
	if err != nil || tree.Head() == g.head && meant == g.found {
		return g.history, err
	}
	history, head, err := proposal.ReadHistory(ctx, g.repository, g.file, g.app, meant)
	if err != nil {
		return nil, err
	}
	g.history, g.head, g.found = history, head, meant
	return history, nil
}

// approvals are those of a release, as its ledger keeps them. The error of one that not enough have approved is a *usererr.Error.
func (g *proposals) approvals(ctx context.Context, r *release.Release) ([]release.Approval, error) {
	refused := func(problem string) error {
		return &usererr.Error{Field: "approval", Problem: problem, Fix: "approve it with `crossbill approve --in-git`; nothing was changed"}
	}
	if r.Proposal == "" {
		return nil, refused("release " + r.ID + " was not proposed in the environment repository")
	}
	history, err := g.read(ctx, r.Proposal)
	if err != nil {
		return nil, err
	}
	found, missing := history.Approvals(r.Proposal, r.ID, g.signers, g.needs, time.Now())
	if missing != nil {
		return nil, refused(missing.Error())
	}
	all := make([]release.Approval, len(found))
	for i, one := range found {
		all[i] = release.Approval{Kind: release.ApprovalCommit, By: one.By, Commit: one.Commit}
		if one.Signed {
			all[i].Kind = release.ApprovalSigned
		}
	}
	return all, nil
}
