package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/our-org/crossbill/rehearsal/gitops"
)

// everySoOften is how often Flux applies an app, whether there is a commit or not.
const everySoOften = "5s"

// put makes an app's objects: in the cluster, or in a repository that Flux applies from now on.
func (a *app) put(ctx context.Context, text string) error {
	if !a.s.gitops {
		return a.lane.create(ctx, a.lane.namespace, text)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var err error
	if a.git, err = gitops.Serve(filepath.Join(a.lane.Work, "git", a.name), "127.0.0.1:0"); err != nil {
		return err
	}
	commit, err := a.git.Commit("Add the app", filesOf(text))
	if err != nil {
		return err
	}
	settings := append([]gitops.Setting{gitops.Every(everySoOften), gitops.Into(a.lane.namespace)}, a.ignored()...)
	if a.applied, err = a.lane.flux.Apply(ctx, a.name, a.git, "./app", settings...); err != nil {
		return err
	}
	return a.applied.WaitApplied(ctx, commit)
}

// ignored is what Flux has to leave alone. Argo Rollouts' documentation has a GitOps tool ignore the weights of the VirtualService; the
// labels of the subsets are its controller's as well. Flagger makes these objects itself, and Crossbill has Flux leave alone what it
// releases.
func (a *app) ignored() []gitops.Setting {
	if a.lane.id.Name != "argo-rollouts" {
		return nil
	}
	return []gitops.Setting{
		gitops.Ignore(map[string]any{"kind": "VirtualService", "name": a.name + "-vs"}, "/spec/http/0/route/0/weight", "/spec/http/0/route/1/weight"),
		gitops.Ignore(map[string]any{"kind": "DestinationRule", "name": a.name + "-dr"}, "/spec/subsets/0/labels", "/spec/subsets/1/labels"),
	}
}

// filesOf are objects in files of their own.
func filesOf(text string) map[string]string {
	files := map[string]string{}
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		if strings.TrimSpace(document) != "" {
			files[fmt.Sprintf("app/%d.yaml", len(files)+1)] = strings.TrimPrefix(document, "\n") + "\n"
		}
	}
	return files
}

// commit asks for a version in Git, and asks Flux to read it, as a webhook would.
func (a *app) commit(ctx context.Context, file, image string) error {
	v := a.values
	v.Image = a.lane.exact(image)
	text, err := v.render(file)
	if err != nil {
		return err
	}
	if _, err := a.git.Commit("Release another version", filesOf(text)); err != nil {
		return err
	}
	return a.applied.Request(ctx)
}

// leaveGit has Flux remove the app.
func (a *app) leaveGit(ctx context.Context) error {
	if a.git == nil {
		return nil
	}
	defer a.git.Stop()
	if a.applied == nil {
		return nil
	}
	return a.applied.Remove(ctx)
}
