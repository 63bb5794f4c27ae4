package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/scaffold"
	"github.com/our-org/crossbill/internal/usererr"
)

type initOptions struct {
	answers              scaffold.Answers
	gitlabDir, githubDir string
	dryRun, yes          bool
	overwrite            bool
	output               outputOptions

	cmd      *cobra.Command
	in       *bufio.Reader // nil: nobody can be asked
	out, log io.Writer
}

func newInitCommand() *cobra.Command {
	o := &initOptions{}
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write the files for the first release: crossbill.yaml and both pipelines",
		Long: `Write crossbill.yaml, GitLab's .gitlab-ci.yml, and GitHub's release.yml. The two
pipeline files refer to what Crossbill publishes, by version, and hold nothing to
keep up with.

It looks at what is there: the manifests, the app and its image, the namespace, and
the repository's remotes. What a flag does not say it asks for on a terminal, at
most six questions. Each file is shown first, as a diff. A file that exists and
would be another one is kept, unless you say so. Run it again at any time: what is
as it is to be is left alone.

Usually the two pipeline files are in two repositories: give each its folder.
crossbill.yaml is then written to both. No secret is asked for or written; doctor
checks the set-up afterward.`,
		Example: `  # Answer the questions
  crossbill init

  # GitHub's repository is here, GitLab's is beside it
  crossbill init --github-dir . --gitlab-dir ../infrastructure

  # Without a question, as a program
  crossbill init --app shop --image registry.example.com/our-org/shop --project our-org/infrastructure --yes

  # With previews of pull requests, whose project is checked out beside it
  crossbill init --yes --project our-org/infrastructure --previews our-org/previews --previews-dir ../previews \
    --crossbill-image registry.example.com/our-org/crossbill@sha256:3ad1…

  # See what it would write
  crossbill init --dry-run --yes --project our-org/infrastructure`,
		Args:        cobra.NoArgs,
		RunE:        runs(o),
		Annotations: map[string]string{unconfigured: "true"},
	}
	flags, a := cmd.Flags(), &o.answers
	flags.StringVar(&a.App, "app", "", "name of the app (default: the manifests')")
	flags.StringVar(&a.Image, "image", "", "repository of the app's images, without a tag (default: the manifests')")
	flags.StringVar(&a.Project, "project", "", "GitLab project that deploys: group/project (default: that of a remote)")
	flags.StringVar(&a.Context, "context", "", "context of the kubeconfig: with GitLab's agent group/project:agent (default: the current one)")
	flags.StringVar(&a.Namespace, "namespace", "", "namespace of the app (default: the manifests', else production)")
	flags.StringVar(&a.Prometheus, "prometheus", "", "URL of the Prometheus that scrapes the mesh (default http://prometheus.istio-system.svc:9090)")
	flags.StringVar(&a.Manifests, "manifests", "", "the app's manifests in GitHub's repository: a folder, a kustomization, or a Helm chart (default: what is there)")
	flags.StringVar(&a.AppDir, "app-dir", "", "folder of the app's source (default: the one with package.json)")
	flags.StringVar(&a.GitLabURL, "gitlab-url", "", "GitLab's URL (default: that of the remote with the project, else https://gitlab.com)")
	flags.StringVar(&a.Repository, "github-repository", "", "owner/name: its Deployment of a release gets a status (default: that of a remote)")
	flags.StringVar(&a.Component, "component", "", "what .gitlab-ci.yml includes: a component, an https address, or a path in the project that begins with / (default: the component of this version)")
	flags.StringVar(&a.Workflow, "workflow", "", "what release.yml calls: owner/name/.github/workflows/deliver.yml@COMMIT (default: the workflow of this version)")
	flags.StringVar(&a.CrossbillImage, "crossbill-image", "", "image of the command for GitLab's jobs, by digest (default: they run in Dagger's engine)")
	flags.StringVar(&a.Module, "dagger-module", "", "Dagger module of GitLab's jobs, without --crossbill-image (default: the module of this version)")
	flags.StringVar(&a.Previews, "previews", "", "also write the workflows of previews, which this GitLab project runs: group/project, not the one that releases (default: none)")
	flags.StringVar(&a.PreviewsDir, "previews-dir", "", "folder of that project's repository: its pipeline file and crossbill.yaml are written too (default: they are not)")
	flags.StringVar(&o.gitlabDir, "gitlab-dir", ".", "folder of GitLab's repository")
	flags.StringVar(&o.githubDir, "github-dir", ".", "folder of GitHub's repository")
	flags.BoolVarP(&o.yes, "yes", "y", false, "ask nothing: take the defaults, and write what is new")
	flags.BoolVar(&o.overwrite, "overwrite", false, "also write over files that exist")
	flags.BoolVar(&o.dryRun, "dry-run", false, "show the files, and write nothing")
	o.output.add(cmd)
	return cmd
}

func (o *initOptions) complete(cmd *cobra.Command, _ []string) error {
	o.cmd, o.out, o.log = cmd, cmd.OutOrStdout(), cmd.ErrOrStderr()
	if in := cmd.InOrStdin(); !o.yes && (!isFile(in) || isatty.IsTerminal(in.(*os.File).Fd())) {
		o.in = bufio.NewReader(in)
	}
	return nil
}

// isFile says whether the input is one of the process's own: in a test it is not, and stands for a terminal.
func isFile(in io.Reader) bool {
	_, ok := in.(*os.File)
	return ok
}

func (o *initOptions) validate() error {
	for flag, dir := range map[string]string{"--gitlab-dir": o.gitlabDir, "--github-dir": o.githubDir, "--previews-dir": cmp.Or(o.answers.PreviewsDir, ".")} {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return &usererr.Error{Field: flag, Problem: fmt.Sprintf("%q is not a folder", dir), Fix: "give the folder of a repository that is checked out"}
		}
	}
	if o.answers.PreviewsDir != "" && o.answers.Previews == "" {
		return &usererr.Error{Field: "--previews-dir", Problem: "is given without a project", Fix: "give the GitLab project that runs previews with --previews"}
	}
	return o.output.validate()
}

func (o *initOptions) run(ctx context.Context) error {
	if err := o.answer(ctx); err != nil {
		return err
	}
	files, err := scaffold.Files(o.answers, o.gitlabDir, o.githubDir)
	if err != nil {
		return err
	}
	actions, err := o.write(files)
	if err != nil {
		return err
	}
	v := view{data: actions, text: func(out io.Writer) error {
		for _, a := range actions {
			if _, err := fmt.Fprintf(out, "init: %s: %s\n", a.File, a.Action); err != nil {
				return err
			}
		}
		return nil
	}}
	for _, a := range actions {
		v.names = append(v.names, "file/"+a.File)
	}
	return o.output.print(o.out, v)
}

const gitlabCom = "https://gitlab.com"

// answer fills in what no flag says, by what is there and by asking.
func (o *initOptions) answer(ctx context.Context) error {
	a := &o.answers
	before := &config.Config{}
	if file := filepath.Join(o.githubDir, config.FileName); exists(file) {
		var err error
		if before, err = config.Load(file, os.Getenv); err != nil {
			return err
		}
	}
	manifests := before.Manifests
	if below, err := filepath.Rel(o.githubDir, manifests); manifests != "" && err == nil && filepath.IsLocal(below) { // as it is in the file
		manifests = filepath.ToSlash(below)
	}
	found := scaffold.Look(ctx, o.githubDir, cmp.Or(a.Manifests, manifests), cmp.Or(a.App, before.App), a.AppDir)
	if found.Problem != nil {
		warn(o.cmd, explain(o.cmd, found.Problem))
	}
	if found.AppDir != "" && found.Package != "" && found.Package != "pnpm" {
		warn(o.cmd, "the app is built with "+found.Package+": the workflow builds with pnpm. Build the image in a job of your own, and pass its digest (docs/commands/init.md)")
	} else if found.AppDir == "" && found.Dockerfile {
		warn(o.cmd, "the app has a Dockerfile, and no package.json: build the image in a job of your own, and pass its digest to the workflow (docs/commands/init.md)")
	} else if len(found.Missing) > 0 {
		warn(o.cmd, path.Join(found.AppDir, "package.json")+" has no script "+strings.Join(found.Missing, " and no script ")+", which the workflow runs: add it, or pass the digest of an image that you build (docs/commands/init.md)")
	}
	remotes := scaffold.RemotesOf(o.gitlabDir)
	a.Manifests = cmp.Or(a.Manifests, found.Manifests, "k8s")
	a.AppDir, a.Assets = cmp.Or(a.AppDir, found.AppDir), found.Assets
	a.Repository = cmp.Or(a.Repository, before.Notify.GitHub.Repository, found.Repository)
	a.Branch = scaffold.BranchOf(o.githubDir)
	a.Ref = cmp.Or(before.GitLab.Ref, scaffold.BranchOf(o.gitlabDir))
	for _, q := range []struct {
		question, flag string
		into           *string
		otherwise      string
	}{
		{"Name of the app", "app", &a.App, cmp.Or(before.App, found.App)},
		{"Repository of its images, without a tag", "image", &a.Image, found.Image},
		{"GitLab project that deploys, group/project", "project", &a.Project, cmp.Or(before.GitLab.Project, remotes.GitLab(), found.Project)},
		{"Context of the kubeconfig, with GitLab's agent group/project:agent; empty for the current one", "context", &a.Context, before.Cluster.Context},
		{"Namespace of the app", "namespace", &a.Namespace, cmp.Or(before.Cluster.Namespace, found.Namespace, "production")},
		{"URL of the Prometheus that scrapes the mesh", "prometheus", &a.Prometheus, cmp.Or(before.Prometheus.URL, "http://prometheus.istio-system.svc:9090")},
	} {
		if o.cmd.Flags().Changed(q.flag) {
			continue
		}
		var err error
		if *q.into, err = o.ask(q.question, q.otherwise); err != nil {
			return err
		}
	}
	a.GitLabURL = cmp.Or(a.GitLabURL, before.GitLab.URL)
	switch url := slices.Concat(remotes, found.Remotes).URL(a.Project); {
	case a.GitLabURL != "" || a.Project == "" || url == gitlabCom:
	case url != "":
		a.GitLabURL = url
	case a.Project != before.GitLab.Project:
		warn(o.cmd, "no remote shows which GitLab has "+a.Project+": "+gitlabCom+" is assumed; give --gitlab-url if it is another one")
	}
	o.refer(buildVersion())
	return nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

var released = regexp.MustCompile(`^v?([0-9]+\.[0-9]+\.[0-9]+)$`)

// refer fills in what the files refer to, by the version that this command was built from. One with changes that are in no commit
// has none.
func (o *initOptions) refer(b buildInfo) {
	if b.Modified {
		return
	}
	a, by := &o.answers, b.Commit
	component := by
	if match := released.FindStringSubmatch(b.Version); match != nil {
		component = match[1]
		if by == "" {
			by = "v" + match[1]
		} else if a.Workflow == "" {
			a.Note = " # " + match[1]
		}
	}
	if by == "" {
		return
	}
	a.Component = cmp.Or(a.Component, b.Components+"/release@"+component)
	a.Workflow = cmp.Or(a.Workflow, b.repository()+"/.github/workflows/deliver.yml@"+by)
	if a.CrossbillImage == "" {
		a.Module = cmp.Or(a.Module, b.Module+"@"+by)
	}
}

// ask asks a question on the terminal; without one the default is the answer.
func (o *initOptions) ask(question, otherwise string) (string, error) {
	if o.in == nil {
		return otherwise, nil
	}
	shown := ""
	if otherwise != "" {
		shown = " [" + otherwise + "]"
	}
	fmt.Fprintf(o.log, "%s%s: ", question, shown)
	line, err := o.in.ReadString('\n')
	if err != nil && (!errors.Is(err, io.EOF) || line == "") {
		return "", &usererr.Error{Field: "--yes", Problem: "there was no answer", Fix: "answer the questions, or give flags and --yes; nothing was written"}
	}
	return cmp.Or(strings.TrimSpace(line), otherwise), nil
}

// written says what became of a file.
type written struct {
	File   string `json:"file"`
	Action string `json:"action"` // created, overwritten, kept, unchanged; with --dry-run would be …
}

// write shows each file, and writes those that are meant. Nothing is written before it is known that all can be.
func (o *initOptions) write(files []*scaffold.File) (actions []written, err error) {
	kept := func(f *scaffold.File) bool { return f.Exists && !f.Unchanged() && !o.overwrite }
	if i := slices.IndexFunc(files, kept); i >= 0 && o.in == nil && !o.dryRun {
		fmt.Fprint(o.log, files[i].Diff())
		return nil, &usererr.Error{Field: files[i].Path, Problem: "it exists, and is another one", Fix: "give --overwrite, or move it away; nothing was written"}
	}
	for _, f := range files {
		action := map[bool]string{true: "overwritten", false: "created"}[f.Exists]
		if f.Warning != "" {
			warn(o.cmd, f.Warning)
			actions = append(actions, written{f.Path, "kept"})
			continue
		}
		if f.Unchanged() {
			actions = append(actions, written{f.Path, "unchanged"})
			continue
		}
		fmt.Fprint(o.log, f.Diff())
		switch {
		case o.dryRun:
			actions = append(actions, written{f.Path, "would be " + action})
			continue
		case o.in != nil && (!f.Exists || !o.overwrite):
			question, otherwise := "Write "+f.Path+"? yes or no", "yes"
			if f.Exists {
				question, otherwise = "Write over "+f.Path+"? yes or no", "no"
			}
			answer, err := o.ask(question, otherwise)
			if err != nil {
				return actions, err
			}
			if !strings.HasPrefix(strings.ToLower(answer), "y") {
				actions = append(actions, written{f.Path, "kept"})
				if !f.Exists {
					actions[len(actions)-1].Action = "not written"
				}
				continue
			}
		}
		if err := f.Write(); err != nil {
			return actions, fmt.Errorf("%s: %w; run the command again", f.Path, err)
		}
		actions = append(actions, written{f.Path, action})
	}
	return actions, nil
}
