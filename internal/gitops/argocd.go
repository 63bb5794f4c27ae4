package gitops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/our-org/crossbill/internal/usererr"
)

// argo is Argo CD's application controller. What is said of it here was read in its version 3.5.7.
type argo struct{ cluster }

var applications = schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "applications"}

const (
	refreshAnnotation = "argocd.argoproj.io/refresh"
	skipReconcile     = "argocd.argoproj.io/skip-reconcile"
	respect           = "RespectIgnoreDifferences=true"
)

// application is an Application, as it was read.
type application struct {
	applicationSpec
	name reference
	live *unstructured.Unstructured
}

// applicationSpec is what matters here of its spec.
type applicationSpec struct {
	Source            *applicationSource  `json:"source"`
	Sources           []applicationSource `json:"sources"`
	SourceHydrator    map[string]any      `json:"sourceHydrator"`
	IgnoreDifferences []ignoreRule        `json:"ignoreDifferences"`
	SyncPolicy        struct {
		Automated *struct {
			Enabled *bool `json:"enabled"`
			Prune   bool  `json:"prune"`
		} `json:"automated"`
		SyncOptions []string `json:"syncOptions"`
	} `json:"syncPolicy"`
}

type applicationSource struct {
	RepoURL        string             `json:"repoURL"`
	TargetRevision string             `json:"targetRevision"`
	Chart          string             `json:"chart"`
	Path           string             `json:"path"`
	Ref            string             `json:"ref"`
	Kustomize      *sourceOfKustomize `json:"kustomize"`
	Helm           *sourceOfHelm      `json:"helm"`
	Plugin         map[string]any     `json:"plugin"`
	Directory      struct {
		Recurse bool   `json:"recurse"`
		Exclude string `json:"exclude"`
	} `json:"directory"`
}

// reads says whether it would apply a JSON file of a folder, which Argo CD does of a plain directory, a ledger included
// (findManifests of its reposerver/repository).
func (s *applicationSource) reads(folder string) bool {
	switch in, err := filepath.Rel(filepath.Clean("/"+s.Path), filepath.Clean("/"+folder)); {
	case err != nil || s.Directory.Exclude != "":
		return false
	case in == ".":
		return true
	default:
		return s.Directory.Recurse && in != ".." && !strings.HasPrefix(in, "../")
	}
}

func (a *argo) String() string { return "Argo CD" }

// Hold: no annotation on a live object makes Argo CD leave it alone; what its Application says does.
func (a *argo) Hold() (string, string) { return "", "" }

// application reads one.
func (a *argo) application(ctx context.Context, r reference) (*application, error) {
	live, err := a.read(ctx, r)
	if err != nil {
		return nil, err
	}
	read := &application{name: r, live: live}
	if err := inTo(live.Object["spec"], &read.applicationSpec); err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return read, nil
}

// named is the Application of an owner.
func (a *argo) named(o Owner) reference {
	return reference{applications, "Application", cmp.Or(o.Namespace, a.options.Namespace), o.Name}
}

// owners are the Applications that apply any of the objects, each once.
func (a *argo) owners(objects []Object) []reference {
	var owners []reference
	for _, object := range objects {
		owner, ok := OwnerOf(object)
		if app := a.named(owner); ok && owner.Controller == ArgoCD && !slices.Contains(owners, app) {
			owners = append(owners, app)
		}
	}
	return owners
}

// Check believes only the Application: what argocd-cm says for all of them has to be repeated there.
func (a *argo) Check(ctx context.Context, objects []Object) (remarks []string, err error) {
	var problems []error
	read := map[reference]*application{}
	first := ""
	for _, r := range a.owners(objects) {
		app, err := a.application(ctx, r)
		if isUser(err) {
			problems = append(problems, err)
			continue
		}
		if err != nil {
			return remarks, err
		}
		read[r] = app
		address, found, err := a.checkApplication(ctx, app)
		remarks, problems = append(remarks, found...), append(problems, err)
		if err := a.builds(ctx, app, objects); err != nil && !isUser(err) {
			return remarks, err
		} else if err != nil {
			problems = append(problems, err)
		}
		switch {
		case address == "":
		case first == "":
			first = address
		case !sameRepository(first, address):
			problems = append(problems, oneRepository(r, address, first, "Application"))
		}
	}
	for _, object := range objects {
		owner, owned := OwnerOf(object)
		problem := ownerProblem(ArgoCD, object, owner, owned)
		if app := read[a.named(owner)]; problem == nil && owned && app != nil && a.options.commits() {
			problem = app.checkCommitted(object)
		} else if problem == nil && owned && app != nil {
			var found []string
			found, problem = app.check(object)
			remarks = append(remarks, found...)
		}
		problems = append(problems, problem)
	}
	return remarks, errors.Join(problems...)
}

// checkApplication looks at what concerns all objects of an Application, and gives the address of its repository.
func (a *argo) checkApplication(ctx context.Context, app *application) (address string, remarks []string, err error) {
	var problems []error
	bad := func(problem, fix string) { problems = append(problems, app.bad(app.name.String(), problem, fix)) }
	if app.skipped() {
		bad("it has the annotation "+skipReconcile+": what a promotion commits would not be applied", "remove the annotation")
	}
	if !a.options.commits() && !slices.Contains(app.SyncPolicy.SyncOptions, respect) {
		bad("its spec.syncPolicy.syncOptions lack "+respect+": ignoreDifferences alone hide a difference, and the next sync of any commit undoes the release", "add "+respect+" to them")
	}
	switch automated := app.SyncPolicy.Automated; {
	case a.options.commits() && (!app.automated() || !automated.Prune):
		bad("it is not synced automatically, with prune: the steps of a release would not be applied", "set spec.syncPolicy.automated: {prune: true}")
	case !app.automated():
		remarks = append(remarks, app.name.String()+" is not synced automatically: what a promotion commits is applied when somebody syncs it")
	}
	if problem := app.complaint("ComparisonError", "InvalidSpecError", "UnknownError", "SyncError"); problem != "" {
		remarks = append(remarks, app.name.String()+": "+problem)
	}
	found, err := a.askable(ctx, app.name)
	remarks, problems = append(remarks, found...), append(problems, err)
	source, _, err := app.source(a.options.Repository)
	if err != nil {
		return "", remarks, errors.Join(append(problems, err)...)
	}
	switch branch := strings.TrimPrefix(source.TargetRevision, "refs/heads/"); {
	case a.options.Branch == "" || branch == a.options.Branch:
	case branch == "" || branch == "HEAD":
		remarks = append(remarks, fmt.Sprintf("%s follows the default branch of %s: releases need that to be %s", app.name, source.RepoURL, a.options.Branch))
	default:
		bad("it follows "+source.TargetRevision+", and gitops.branch is "+a.options.Branch, "name one branch in both")
	}
	if kind, _, _ := unstructured.NestedString(app.live.Object, "status", "sourceType"); kind == "Directory" && a.options.commits() && source.reads(a.options.Ledgers) {
		bad("it applies every YAML and JSON file of a folder that the ledgers are in, and a ledger is no manifest", "give gitops.releases another folder, or let spec.source.path name that of the app")
	}
	if a.options.Repository != "" && !sameRepository(source.RepoURL, a.options.Repository) {
		remarks = append(remarks, otherRepository(app.name, source.RepoURL, a.options.Repository))
	}
	return source.RepoURL, remarks, errors.Join(problems...)
}

// bad refuses an Application or one of its objects. The fix says where the Application comes from, if not from a person.
func (app *application) bad(field, problem, fix string) error {
	if from := app.from(); from != "" {
		fix += ", where the Application comes from: " + from
	}
	return &usererr.Error{Field: field, Problem: problem, Fix: fix}
}

// from is what makes an Application: an ApplicationSet, or whatever applies it from Git.
func (app *application) from() string {
	for _, owner := range app.live.GetOwnerReferences() {
		if owner.Kind == "ApplicationSet" {
			return named(owner.Kind, app.name.namespace, owner.Name)
		}
	}
	if owner, ok := OwnerOf(app.live); ok {
		return owner.String()
	}
	return ""
}

func (app *application) skipped() bool {
	return slices.Contains([]string{"1", "t", "T", "true", "TRUE", "True"}, app.live.GetAnnotations()[skipReconcile])
}

func (app *application) automated() bool {
	automated := app.SyncPolicy.Automated
	return automated != nil && (automated.Enabled == nil || *automated.Enabled)
}

// complaint is the message of the first condition of one of these types; "" for none.
func (app *application) complaint(types ...string) string {
	all, _, _ := unstructured.NestedSlice(app.live.Object, "status", "conditions")
	for _, item := range all {
		fields, _ := item.(map[string]any)
		if kind, _ := fields["type"].(string); slices.Contains(types, kind) {
			return oneLine(fmt.Sprintf("%s: %v", kind, fields["message"]))
		}
	}
	return ""
}

// source is the one source of an Application that a commit reaches, and its index among several, or -1. Of several it is the
// one of the environment repository.
func (app *application) source(repository string) (applicationSource, int, error) {
	switch {
	case app.SourceHydrator != nil:
		return applicationSource{}, 0, app.bad(app.name.String(), "it applies what its sourceHydrator writes, and Crossbill cannot know when a commit has come through that", "give it a source that is the branch of gitops.repository itself")
	case len(app.Sources) == 0 && app.Source == nil:
		return applicationSource{}, 0, app.bad(app.name.String(), "it has no source", "give it the branch of gitops.repository as its source")
	case len(app.Sources) == 0:
		if app.Source.Chart != "" || strings.HasPrefix(app.Source.RepoURL, "oci://") {
			return *app.Source, -1, app.bad(app.name.String(), "its source is a chart or an OCI artifact, which no commit changes", "give it the branch of gitops.repository as its source")
		}
		return *app.Source, -1, nil
	}
	index := -1
	for i, source := range app.Sources {
		if source.Chart != "" || repository == "" && len(app.Sources) > 1 || repository != "" && !sameRepository(source.RepoURL, repository) {
			continue
		}
		if index >= 0 {
			index = -1
			break
		}
		index = i
	}
	if index < 0 {
		return applicationSource{}, 0, app.bad(app.name.String(), "it has several sources, and not exactly one of them is gitops.repository", "name the repository once among its sources, as gitops.repository has it")
	}
	return app.Sources[index], index, nil
}

// revision is what the Application was compared with last, of a source.
func (app *application) revision(index int) string {
	return revisionIn(app.live.Object, index, "status", "sync")
}

// revisionIn is revision, or one of revisions, at a place in an object.
func revisionIn(object map[string]any, index int, at ...string) string {
	if index < 0 {
		text, _, _ := unstructured.NestedString(object, append(at, "revision")...)
		return text
	}
	all, _, _ := unstructured.NestedStringSlice(object, append(at, "revisions")...)
	if index >= len(all) {
		return ""
	}
	return all[index]
}
