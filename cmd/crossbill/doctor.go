package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/dynamic"

	"github.com/our-org/crossbill/internal/doctor"
	"github.com/our-org/crossbill/internal/gitlab"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

type doctorOptions struct {
	cluster clusterOptions
	traffic trafficOptions
	login   loginOptions
	gitlab  gitlabOptions
	ref     string
	github  githubOptions
	code    codeOptions
	gitops  gitOpsOptions
	output  outputOptions
	image   string

	cmd      *cobra.Command
	out, log io.Writer
	missing  error // why there is no cluster
}

func newDoctorCommand() *cobra.Command {
	o := &doctorOptions{}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check the set-up before a release: what is wrong, and the fix",
		Long: `Check whether what a release needs is in place: a list of what is right (✓), what
is wrong (✗) with its fix, and what cannot be known from here (?). Nothing is
changed, and it takes less than five seconds.

The cluster: whether it answers, has the types and the namespace, allows this
account each thing that the commands do, takes a release of the manifests by dry
runs, and has a gateway for the app's host. Prometheus: whether requests are
counted by Istio's labels, often enough. The registry: whether the app's images
can be pulled. GitLab: the token, and the project's protected branch and
environment, pipeline variables, trigger token's owner, and agent. GitHub: whether
only chosen branches may use the environments with the secrets. What the tokens
for notifications may write of GitHub and GitLab. What is not configured is left
out.

For an app that Flux or Argo CD applies from Git: what applies each object, whether
it would undo a release, whether Crossbill may ask it, and whether the environment
repository has primary run what it runs.

Exit codes: 0 nothing blocks a release, 2 something does, 1 something could not be
looked at.

Environment:
  GITLAB_TOKEN            access token, scope read_api; the settings that only a
                          maintainer may see need one of a maintainer
  CROSSBILL_GITHUB_TOKEN  token that may read the repository's environments; what
                          it may write is looked at as well
  CROSSBILL_NOTIFY_GITLAB_TOKEN
                          access token of the code's project: its scopes and role
                          are looked at`,
		Example: `  # As the job that releases, with its account
  crossbill doctor --namespace production

  # The fixes of what blocks
  crossbill doctor -o json | jq -r '.items[] | select(.status == "problem") | .fix'`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	cmd.Flags().StringVar(&o.image, "image", "", "image for the dry run of a release, by digest: repository@sha256:… (default: one that does not exist)")
	o.cluster.add(cmd)
	inSection(cmd.Flags(), trafficSection, func(flags *pflag.FlagSet) {
		o.traffic.addPrometheus(flags, "URL of the Prometheus that scrapes the mesh")
	})
	inSection(cmd.Flags(), notificationSection, o.github.addRepository)
	cmd.Flags().Lookup("github-repository").Usage = "owner/name: its environments are looked at; needs a token"
	cmd.Flags().Lookup("github-token-file").Usage = "file with a token that may read environments (default $CROSSBILL_GITHUB_TOKEN)"
	inSection(cmd.Flags(), notificationSection, o.code.add)
	cmd.Flags().Lookup("notify-gitlab-project").Usage = "GitLab project of the code: what the token may write of it is looked at (default the job's project, none without a token)"
	o.gitlab.add(cmd, "read_api")
	o.gitlab.addOrigin(cmd, &o.ref)
	o.login.add(cmd)
	o.output.add(cmd)
	return cmd
}

func (o *doctorOptions) complete(cmd *cobra.Command, _ []string) error {
	o.cmd, o.out, o.log = cmd, cmd.OutOrStdout(), cmd.ErrOrStderr()
	o.cluster.complete(cmd)
	return nil
}

// validate finds bad options. That the kubeconfig or the manifests cannot be read is for the list.
func (o *doctorOptions) validate() error {
	if err := o.output.validate(); err != nil {
		return err
	}
	if o.image != "" {
		if _, err := release.ParseImage("--image", o.image); err != nil {
			return err
		}
	}
	o.missing = o.cluster.loadKubeconfig()
	o.cluster.unread = o.cluster.loadManifests()
	return o.gitops.load(o.cmd, false)
}

func (o *doctorOptions) run(ctx context.Context) error {
	checks, err := o.checks()
	if err != nil {
		return err
	}
	named := func(field string) string { return field }
	if settings := configOf(o.cmd).settings; settings != nil {
		named = settings.Name
	}
	findings := doctor.Run(ctx, checks, named)
	v := view{data: findings, text: func(out io.Writer) error { return writeFindings(out, findings) }}
	problems, failures := 0, 0
	for _, f := range findings {
		switch {
		case f.Failure != nil:
			failures++
		case f.Status == doctor.Problem:
			problems++
			v.names = append(v.names, "problem/"+f.Check)
		}
	}
	if err := o.output.print(o.out, v); err != nil {
		return err
	}
	switch {
	case problems > 0:
		return &exitError{exitBadInput, fmt.Errorf("problems that block a release: %d; nothing was changed", problems)}
	case failures > 0:
		return fmt.Errorf("checks that could not be carried out: %d; run the command again", failures)
	}
	return nil
}

// checks are all that there are, in the order in which a person would look.
func (o *doctorOptions) checks() ([]doctor.Check, error) {
	var checks []doctor.Check
	if o.cluster.unread != nil {
		checks = append(checks, doctor.Broken("manifests", o.cluster.unread))
	}
	inCluster, err := o.clusterChecks()
	if err != nil {
		return nil, err
	}
	evidence, err := o.evidenceChecks()
	if err != nil {
		return nil, err
	}
	checks = append(append(checks, inCluster...), evidence...)
	if o.cluster.set != nil {
		images, err := o.registryCheck()
		if err != nil {
			return nil, err
		}
		checks = append(checks, images...)
	}
	handoff, err := o.handoffChecks()
	return append(checks, handoff...), err
}

// handoffChecks are those of GitLab and GitHub, where there is a token for them.
func (o *doctorOptions) handoffChecks() (checks []doctor.Check, err error) {
	connection, err := o.gitlab.connection(o.log)
	if err != nil {
		return nil, err
	}
	connection.Log = nil // it counts attempts
	switch {
	case connection.Project == "":
	case connection.Token == "":
		checks = append(checks, doctor.Broken("GitLab project", &doctor.UnknownError{Why: "there is no token to look with: set GITLAB_TOKEN"}))
	default:
		client, err := gitlab.Connect(connection)
		if err != nil {
			checks = append(checks, doctor.Broken("GitLab project", err))
			break
		}
		app, of := o.cluster.appName(), configOf(o.cmd)
		project := &doctor.GitLab{Client: client, Project: connection.Project, Ref: o.ref, User: o.gitlab.user, Environment: "production/" + app, Context: o.cluster.overrides.CurrentContext, Now: time.Now()}
		if of.Approval != nil {
			project.Environment, project.Approvers = of.Approval.Environment, of.Approval.Approvers
		}
		project.Canary = project.Environment + "-canary"
		policy := release.QueuePolicy(of.Queue.Policy)
		project.Queues = policy == release.QueueInOrder || policy == release.QueueSupersede
		checks = append(checks, project.Checks()...)
	}
	github, named, err := o.github.source()
	if err == nil && named && github.Repository != "" {
		wanted := configOf(o.cmd).Notify.GitHub.PullRequest
		checks = append(checks, doctor.GitHub(github, "publishing", "handoff"), doctor.GitHubToken(github, wanted == nil || *wanted, time.Now()))
	}
	code, codeErr := o.code.source()
	if codeErr == nil && code.Token != "" && code.Project != "" && (!named || !o.code.byDefault(o.cmd)) {
		checks = append(checks, doctor.GitLabCode(code, time.Now()))
	}
	return checks, errors.Join(err, codeErr)
}

func (o *doctorOptions) clusterChecks() ([]doctor.Check, error) {
	if o.missing != nil {
		return []doctor.Check{doctor.BrokenCluster(o.missing)}, nil
	}
	kube, err := o.cluster.client()
	if err != nil {
		return nil, err
	}
	checks := []doctor.Check{doctor.Cluster(kube, o.cluster.config.Host)}
	if o.cluster.set == nil {
		return checks, nil
	}
	c, err := o.cluster.cluster()
	if err != nil {
		return append(checks, doctor.Broken("manifests", err)), nil
	}
	c.Log = func(rollout.Event) {}
	if err := o.gitops.apply(o.cmd, &o.cluster, c); err != nil {
		return append(checks, doctor.Broken("repository", err)), nil
	}
	names, err := o.cluster.set.Objects(o.cluster.namespace)
	if err != nil {
		return append(checks, doctor.Broken("manifests", err)), nil
	}
	client, err := dynamic.NewForConfig(o.cluster.config)
	if err != nil {
		return nil, &usererr.Error{Field: "--kubeconfig", Problem: err.Error()}
	}
	hooks := configOf(o.cmd).Hooks
	checks = append(checks, doctor.Mesh(c)...)
	checks = append(checks, doctor.Rights(kube, o.cluster.namespace, doctor.Rules(c.Manifests, names, doctor.Uses{Commits: c.Git != nil, Baseline: configOf(o.cmd).Canary.Baseline, Previews: configOf(o.cmd).HasPreviews(), Hooks: hooks})))
	route := &doctor.Route{Kube: kube, Istio: c.Istio, Dynamic: client, Manifests: c.Manifests, Namespace: o.cluster.namespace}
	checks = append(checks, route.Checks()...)
	git := &doctor.GitOps{Client: client, Namespace: o.cluster.namespace, Names: names}
	if o.gitops.settings != nil {
		git.Controller, git.Image, git.Missing, git.Branch = c.Applies(), o.gitops.image(o.cmd, &o.cluster, c), o.gitops.missing, o.gitops.settings.Value("gitops.branch")
	}
	return append(append(checks, git.Checks()...), doctor.Release(func(ctx context.Context) error { return o.try(ctx, *c) }, func(err error) bool {
		return exitCode(err) == exitLockHeld || errors.As(err, new(*rollout.StageError))
	})), nil
}

// try is a dry run of a release.
func (o *doctorOptions) try(ctx context.Context, c rollout.Cluster) error {
	given := release.Release{ID: "doctor", Image: o.image, Weight: 10}
	switch {
	case given.Image != "":
	case o.cluster.bundle != nil:
		given.Image = o.cluster.bundle.Image
	default:
		given.Image = cmp.Or(o.cluster.set.Repository(), "registry.example.com/app") + "@sha256:" + strings.Repeat("0", 64)
	}
	c.Plan, c.Again, c.AllowTags = &rollout.Plan{}, true, configOf(o.cmd).Canary.AllowTags
	_, err := c.Canary(ctx, given)
	return err
}

func (o *doctorOptions) evidenceChecks() ([]doctor.Check, error) {
	if o.traffic.prometheus == "" || o.cluster.set == nil {
		return nil, nil
	}
	slo, _, err := configOf(o.cmd).SLO("", o.cluster.manifests)
	if err != nil {
		return []doctor.Check{doctor.Broken("analysis", err)}, nil
	}
	source, err := o.traffic.sourceOf(o.cluster.namespace, verdict.SourceOptions{Indicators: slo.Indicators()})
	if err != nil {
		return []doctor.Check{doctor.Broken("Prometheus", err)}, nil
	}
	evidence := &doctor.Evidence{Source: source, URL: o.traffic.prometheus, Primary: o.cluster.set.Name(release.Primary), MaxDuration: slo.MaxDuration.Duration, Now: time.Now}
	return evidence.Checks(), nil
}

func (o *doctorOptions) registryCheck() ([]doctor.Check, error) {
	repository := o.cluster.set.Repository()
	if repository == "" {
		return nil, nil
	}
	keychain, err := o.login.keychain(repository)
	if err != nil {
		return nil, err
	}
	return []doctor.Check{doctor.Registry(repository, func(ctx context.Context) (bool, error) {
		return registry.Readable(ctx, "registry", repository, keychain)
	})}, nil
}

// writeFindings writes a line for each, and one for its fix.
func writeFindings(out io.Writer, findings []doctor.Finding) error {
	for _, f := range findings {
		if _, err := fmt.Fprintf(out, "%s %s: %s\n", map[doctor.Status]string{doctor.OK: "✓", doctor.Problem: "✗", doctor.Unknown: "?"}[f.Status], f.Check, f.Detail); err != nil {
			return err
		}
		if f.Fix != "" {
			if _, err := fmt.Fprintf(out, "  fix: %s\n", f.Fix); err != nil {
				return err
			}
		}
	}
	return nil
}
