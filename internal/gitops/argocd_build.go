package gitops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	kustomize "sigs.k8s.io/kustomize/api/types"
)

// sourceOfKustomize is what a source says to kustomize.
type sourceOfKustomize struct {
	NamePrefix            string            `json:"namePrefix"`
	NameSuffix            string            `json:"nameSuffix"`
	Namespace             string            `json:"namespace"`
	Images                []string          `json:"images"`
	Patches               []kustomize.Patch `json:"patches"`
	Components            []string          `json:"components"`
	CommonLabels          map[string]string `json:"commonLabels"`
	LabelWithoutSelector  bool              `json:"labelWithoutSelector"`
	LabelIncludeTemplates bool              `json:"labelIncludeTemplates"`
	CommonAnnotations     map[string]string `json:"commonAnnotations"`
	Replicas              []struct {
		Name string `json:"name"`
	} `json:"replicas"`
}

// sourceOfHelm is what a source says to Helm.
type sourceOfHelm struct {
	ValueFiles []string `json:"valueFiles"`
	Values     string   `json:"values"`
	// ValuesObject wins over Values.
	ValuesObject   map[string]any  `json:"valuesObject"`
	Parameters     []helmParameter `json:"parameters"`
	FileParameters []helmParameter `json:"fileParameters"`
}

type helmParameter struct {
	Name string `json:"name"`
}

// builds refuses an Application that makes something else of these objects than Git says. Those of several sources that do not come
// from gitops.repository change nothing of it. What directory.jsonnet says concerns other files than manifests.
func (a *argo) builds(ctx context.Context, app *application, objects []Object) error {
	objects = slices.DeleteFunc(slices.Clone(objects), func(o Object) bool {
		owner, ok := OwnerOf(o)
		return !ok || owner.Controller != ArgoCD || a.named(owner) != app.name
	})
	refuse := func(problem, fix string) error { return app.bad(app.name.String(), problem, fix) }
	source, index, err := app.source(a.options.Repository)
	if err != nil {
		return nil // which is said
	}
	if file, err := a.overriding(ctx, app, source); err != nil || file != "" && len(objects) > 0 {
		return cmp.Or(err, refuse("it takes what "+file+" in Git says before all else there, whatever a commit changes", "move that into the kustomization.yaml or the values of the folder, and remove the file"))
	}
	if a.options.Value != "" {
		return a.buildsChart(app, objects, refuse)
	}
	at := "spec.source."
	if index >= 0 {
		at = fmt.Sprintf("spec.sources[%d].", index)
	}
	settings := []setting{{
		field: at + "plugin", does: "makes %s of the folder by a program that Crossbill does not know", fix: "let Argo CD apply the folder without it",
		changes: func(Object) (bool, error) { return source.Plugin != nil, nil },
	}}
	if k := source.Kustomize; k != nil {
		settings = append(settings, a.kustomizes(at+"kustomize.", k, a.called(ctx))...)
	}
	return a.changed(settings, objects, refuse)
}

// overriding is a file in the folder of a source with settings of an Application, as an image updater writes them
// (mergeSourceParameters of reposerver/repository); "" for none.
func (a *argo) overriding(ctx context.Context, app *application, source applicationSource) (string, error) {
	if a.options.Files == nil {
		return "", nil
	}
	files, err := a.options.Files(ctx, source.Path)
	if err != nil {
		return "", err
	}
	for _, name := range []string{".argocd-source.yaml", ".argocd-source-" + app.name.name + ".yaml"} {
		if file := clean(source.Path, name); slices.Contains(files, file) {
			return file, nil
		}
	}
	return "", nil
}

// kustomizes are the settings of a source for kustomize, which Argo CD writes into the kustomization.yaml (kustomize.Build of
// util/kustomize). Without selectors and templates, labels are harmless.
func (a *argo) kustomizes(at string, k *sourceOfKustomize, called func() ([]string, error)) []setting {
	settings := []setting{
		renames(at+"namePrefix", k.NamePrefix), renames(at+"nameSuffix", k.NameSuffix), movesTo(at+"namespace", k.Namespace), adds(at+"components", k.Components),
		{
			field: at + "commonLabels", does: "changes the labels of the pods of %s", fix: "set labelWithoutSelector: true beside it, and leave labelIncludeTemplates out",
			changes: func(o Object) (bool, error) {
				return o.Kind == "Deployment" && len(k.CommonLabels) > 0 && (!k.LabelWithoutSelector || k.LabelIncludeTemplates), nil
			},
		},
		{
			field: at + "commonAnnotations", does: "changes the annotations of the pods of %s", fix: "write them as commonAnnotations" + intoFolder,
			changes: func(o Object) (bool, error) { return o.Kind == "Deployment" && len(k.CommonAnnotations) > 0, nil },
		},
	}
	for i, text := range k.Images {
		settings = append(settings, retags(fmt.Sprintf("%simages[%d]", at, i), imageIn(text), called))
	}
	for i, patch := range k.Patches {
		settings = append(settings, a.patches(fmt.Sprintf("%spatches[%d]", at, i), patch))
	}
	for i, replicas := range k.Replicas {
		settings = append(settings, setting{
			field: fmt.Sprintf("%sreplicas[%d]", at, i), does: "decides how many pods %s has, which steps of a release change", fix: "write the number into the manifest, and remove it here",
			changes: func(o Object) (bool, error) {
				return a.options.commits() && o.Kind == "Deployment" && strings.Contains(o.GetName(), replicas.Name), nil
			},
		})
	}
	return settings
}

// imageIn reads an image as `kustomize edit set image` takes it: NAME=NEW:TAG, NAME:TAG or NAME@DIGEST.
func imageIn(text string) kustomize.Image {
	name, image, renamed := strings.Cut(text, "=")
	if !renamed {
		return kustomize.Image{Name: repositoryOf(text)}
	}
	return kustomize.Image{Name: name, NewName: repositoryOf(image)}
}

// buildsChart refuses an Application whose chart does not take the image from the value that a commit changes.
func (a *argo) buildsChart(app *application, objects []Object, refuse func(problem, fix string) error) error {
	file, value, _ := strings.Cut(a.options.Value, ":")
	sources := app.Sources
	if len(sources) == 0 && app.Source != nil {
		sources = []applicationSource{*app.Source}
	}
	var problems []error
	reads := false
	for i, source := range sources {
		at := "spec.source.helm."
		if len(app.Sources) > 0 {
			at = fmt.Sprintf("spec.sources[%d].helm.", i)
		}
		files := a.valueFiles(source, sources)
		place := slices.Index(files, file)
		if place < 0 {
			continue
		}
		reads = true
		problems = append(problems, a.changed(source.Helm.overrides(at, value, files[place+1:]), objects, refuse))
	}
	if !reads && len(sources) > 0 {
		problems = append(problems, refuse("no chart of it reads "+file+", where gitops.value has the image", "name it last of the helm.valueFiles of its chart"))
	}
	return errors.Join(problems...)
}

// valueFiles are those of a source's chart, by their place in gitops.repository, in their order: a later one wins. Those that are
// elsewhere have another name.
func (a *argo) valueFiles(source applicationSource, sources []applicationSource) []string {
	if source.Helm == nil || len(source.Helm.ValueFiles) == 0 {
		if source.Chart != "" || !a.isRepository(source) {
			return nil
		}
		return []string{clean(source.Path, "values.yaml")}
	}
	var files []string
	for _, file := range source.Helm.ValueFiles {
		ref, rest, _ := strings.Cut(file, "/")
		from := slices.IndexFunc(sources, func(s applicationSource) bool { return s.Ref != "" && "$"+s.Ref == ref })
		switch {
		case strings.Contains(file, "://"):
		case from >= 0 && a.isRepository(sources[from]):
			file = clean("", rest)
		case from < 0 && source.Chart == "" && a.isRepository(source) && strings.HasPrefix(file, "/"):
			file = clean("", file)
		case from < 0 && source.Chart == "" && a.isRepository(source):
			file = clean(source.Path, file)
		default:
			file = "the chart's " + file
		}
		files = append(files, file)
	}
	return files
}

func (a *argo) isRepository(source applicationSource) bool {
	return a.options.Repository == "" || sameRepository(source.RepoURL, a.options.Repository)
}

// clean is the place of a file in a repository.
func clean(folder, file string) string { return path.Clean("/" + path.Join(folder, file))[1:] }

// overrides are the settings for Helm that come after the file with a value; later are the files after it.
func (h *sourceOfHelm) overrides(at, value string, later []string) []setting {
	if h == nil {
		return nil
	}
	keys := strings.Split(value, ".")
	decides := func(field string, yes bool) setting {
		return setting{
			field: at + field, does: "decides " + value + " for %s, whatever a commit says of it in gitops.value", fix: "remove it there",
			changes: func(Object) (bool, error) { return yes, nil },
		}
	}
	settings := []setting{{
		field: at + "valueFiles", does: "may decide " + value + " for %s after the file of gitops.value: " + strings.Join(later, ", "), fix: "name that file last of them",
		changes: func(Object) (bool, error) { return len(later) > 0, nil },
	}}
	inText, err := documentsOf(h.Values)
	settings = append(settings, decides("values", err != nil || len(h.ValuesObject) == 0 && slices.ContainsFunc(inText, func(part any) bool { return writes(part, keys) })),
		decides("valuesObject", h.ValuesObject != nil && writes(h.ValuesObject, keys)))
	sets := func(parameter helmParameter) bool {
		return overlap(strings.ReplaceAll(parameter.Name, ".", "/"), strings.Join(keys, "/"))
	}
	for i, parameter := range h.Parameters {
		settings = append(settings, decides(fmt.Sprintf("parameters[%d]", i), sets(parameter)))
	}
	for i, parameter := range h.FileParameters {
		settings = append(settings, decides(fmt.Sprintf("fileParameters[%d]", i), sets(parameter)))
	}
	return settings
}
