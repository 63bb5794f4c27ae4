package gitops

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Repository is where Git says what an app runs.
type Repository struct {
	Git    *environment.Repository
	App    string
	Folder string // that has the app's Deployment, or the kustomization that sets its image
	Value  string // FILE:PATH of the image in a chart's values, in place of Folder; "" for none

	Deployment string // primary's
	Container  string // that runs the app

	// Render is how the app's manifests are read, but for where they are.
	Render manifest.Source
}

// Image is what the head of the branch has primary run, and that commit. A value of a chart's that is a digest is only that.
func (r *Repository) Image(ctx context.Context) (image, commit string, err error) {
	tree, err := r.Git.Read(ctx)
	if err != nil {
		return "", "", err
	}
	image, err = r.image(tree)
	return image, tree.Head(), err
}

func (r *Repository) image(tree *environment.Tree) (string, error) {
	file, at, chart := strings.Cut(r.Value, ":")
	if !chart {
		return environment.Image(tree, r.Folder, r.Deployment, r.Container)
	}
	return environment.Value(tree, file, at)
}

// ImageNames are what primary's images are called on their way through the folder's kustomizations.
func (r *Repository) ImageNames(ctx context.Context) ([]string, error) {
	if r.Value != "" {
		return nil, nil
	}
	tree, err := r.Git.Read(ctx)
	if err != nil {
		return nil, err
	}
	return environment.ImageNames(tree, r.Folder, r.Deployment)
}

// Files are those of a folder of the repository, and of the folders in it.
func (r *Repository) Files(ctx context.Context, folder string) ([]string, error) {
	tree, err := r.Git.Read(ctx)
	if err != nil {
		return nil, err
	}
	files, err := tree.Files(path.Clean("/" + folder)[1:])
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return files, err
}

// SameImage says whether what is written in Git is an image, by its digest alone where only that is written.
func SameImage(written, image string) bool {
	return written == image || strings.HasPrefix(written, "sha256:") && written == release.DigestOf(image)
}

// Change is a commit that has primary run another image.
type Change struct {
	Release  *release.Release
	From, To string // repository@sha256:…
	Always   bool   // a commit is made also when it changes nothing
	// Template is the pod template that it has to have too, whatever the app's image in it, nil to leave it; and Was the one
	// that it has, nil for any.
	Template, Was *corev1.PodTemplateSpec
	Holds         func(context.Context) error // asked after each read of the branch: an error ends it, and nothing is pushed
}

// Commit makes it, and gives the head of the branch after it. An image in Git that is neither of its two is somebody else's:
// an *usererr.Error, as is what cannot be edited.
func (r *Repository) Commit(ctx context.Context, c Change) (head string, err error) {
	made, err := r.Git.Commit(ctx, r.message(c), func(tree *environment.Tree) error {
		if err := r.edit(ctx, tree, c); err != nil {
			return err
		}
		return c.Holds(ctx)
	})
	return made.Hash, err
}

// Try says whether Commit can make a change, as far as that can be known without a push.
func (r *Repository) Try(ctx context.Context, c Change) error {
	tree, err := r.Git.Read(ctx)
	if err != nil {
		return err
	}
	return r.edit(ctx, tree, c)
}

func (r *Repository) edit(ctx context.Context, tree *environment.Tree, c Change) error {
	in, err := r.image(tree)
	if err != nil {
		return err
	}
	if !SameImage(in, c.From) && !SameImage(in, c.To) {
		return &usererr.Error{
			Field:   "gitops.repository",
			Problem: fmt.Sprintf("commit %s has primary run %s, which is neither what it ran before release %s nor that: somebody else has changed it", tree.Head()[:10], in, c.Release.ID),
			Fix:     "write there what primary runs, or roll the release back",
		}
	}
	if !SameImage(in, c.To) {
		if err := r.set(tree, c.To); err != nil {
			return err
		}
		if err := r.rendersImage(ctx, tree, c.To); err != nil {
			return err
		}
	}
	if c.Template == nil {
		return nil
	}
	return r.setTemplate(ctx, tree, c)
}

// rendersImage refuses an image that the folder does not render after it was written there. What a chart makes of a value is its own.
func (r *Repository) rendersImage(ctx context.Context, tree *environment.Tree, image string) error {
	if r.Value != "" {
		return nil
	}
	live, err := r.template(ctx, tree)
	if err != nil {
		return err
	}
	container := r.Container
	if container == "" && len(live.Spec.Containers) > 0 {
		container = live.Spec.Containers[0].Name
	}
	if is := imageOf(live, container); is != image {
		return &usererr.Error{Field: "gitops.path", Problem: "the image cannot be written there: the folder still renders " + is + ", by a component, a patch or the like", Fix: "let the manifest or the outermost kustomization's images decide it alone"}
	}
	return nil
}

// setTemplate writes a pod template, and looks that the folder renders it then. One of somebody else's stays on the way back.
func (r *Repository) setTemplate(ctx context.Context, tree *environment.Tree, c Change) error {
	live, err := r.template(ctx, tree)
	if err != nil {
		return err
	}
	before, after, err := r.compared(live, c.Template)
	if err != nil || reflect.DeepEqual(before, after) {
		return err
	}
	if c.Was != nil {
		_, was, err := r.compared(live, c.Was)
		switch {
		case err != nil:
			return err
		case !reflect.DeepEqual(before, was) && c.Release.Stage == release.StageRollingBack:
			return nil
		case !reflect.DeepEqual(before, was):
			return &usererr.Error{
				Field: "gitops.path", Problem: fmt.Sprintf("commit %s has another pod template than when release %s started: somebody else has changed it", tree.Head()[:10], c.Release.ID),
				Fix: "roll the release back, and start it again with that template",
			}
		}
	}
	if r.Value != "" {
		return &usererr.Error{Field: "gitops.value", Problem: "the release changes the pod template too, and a chart's templates cannot be edited", Fix: "change the chart in Git, then release the image with it"}
	}
	if err := environment.SetTemplate(tree, r.Folder, r.Deployment, before, after); err != nil {
		return err
	}
	if live, err = r.template(ctx, tree); err != nil {
		return err
	}
	if before, after, err = r.compared(live, c.Template); err != nil || reflect.DeepEqual(before, after) {
		return err
	}
	return &usererr.Error{Field: "gitops.path", Problem: "the pod template cannot be written there: what the folder renders is still another one, by patches or the like", Fix: "write what the release has there, in a commit of your own"}
}

// template is the pod template that a folder renders for primary.
func (r *Repository) template(ctx context.Context, tree *environment.Tree) (*corev1.PodTemplateSpec, error) {
	objects, err := r.Rendered(ctx, tree)
	if err != nil {
		return nil, err
	}
	var live appsv1.Deployment
	found, err := manifest.Find(objects, "Deployment", r.Deployment, &live)
	if err == nil && !found {
		err = &usererr.Error{Field: "gitops.path", Problem: "it has no Deployment " + r.Deployment, Fix: "name the folder of the repository with the app's manifests"}
	}
	return &live.Spec.Template, err
}

// compared are the pod template that is rendered and one that is to be, as JSON, with the same images of the app. Those of other
// containers are a part of the template.
func (r *Repository) compared(live, template *corev1.PodTemplateSpec) (is, wanted map[string]any, err error) {
	target := template.DeepCopy()
	app := imageOf(target, r.Container)
	for _, list := range [][]corev1.Container{target.Spec.InitContainers, target.Spec.Containers} {
		for i := range list {
			if list[i].Image == app {
				list[i].Image = cmp.Or(imageOf(live, list[i].Name), list[i].Image)
			}
		}
	}
	if is, err = asJSON(live); err == nil {
		wanted, err = asJSON(target)
	}
	return is, wanted, err
}

// imageOf is the image of a container; "" where there is none of the name.
func imageOf(template *corev1.PodTemplateSpec, name string) string {
	for _, c := range slices.Concat(template.Spec.InitContainers, template.Spec.Containers) {
		if c.Name == name {
			return c.Image
		}
	}
	return ""
}

func asJSON(template *corev1.PodTemplateSpec) (m map[string]any, err error) {
	text, err := json.Marshal(template)
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	return m, err
}

func (r *Repository) set(tree *environment.Tree, image string) error {
	file, at, chart := strings.Cut(r.Value, ":")
	if !chart {
		return environment.SetImage(tree, r.Folder, r.Deployment, r.Container, image)
	}
	in, err := environment.Value(tree, file, at)
	if err != nil {
		return err
	}
	if strings.HasPrefix(in, "sha256:") {
		image = release.DigestOf(image)
	}
	return environment.SetValue(tree, file, at, image)
}

// message says of a commit what it does, why, and who wanted it.
func (r *Repository) message(c Change) environment.Message {
	of := c.Release
	back := of.Stage == release.StageRollingBack
	m := environment.Message{
		Subject: fmt.Sprintf("%s: %s release %s", r.App, map[bool]string{false: "promote", true: "roll back"}[back], of.ID),
		Body:    fmt.Sprintf("Primary runs %s\nin place of %s.", c.To, c.From),
		Always:  c.Always,
	}
	if c.From == c.To {
		m.Body = fmt.Sprintf("Primary runs %s\nwith another pod template.", c.To)
	}
	if c.Always {
		m.Body = fmt.Sprintf("Primary runs %s, as before the release.\nThis commit keeps out the push of a job that has lost its lock.", c.To)
	}
	if of.Return != nil && !back {
		m.Subject = fmt.Sprintf("%s: return to release %s", r.App, of.ID)
	}
	if reason := cmp.Or(of.Reason, returnReason(of)); reason != "" {
		m.Body += "\n\nWhy: " + reason
	}
	m.Trailers = Trailers(of)
	return m
}

// Trailers say of a commit which release it is about, how that was judged, and who has approved it.
func Trailers(r *release.Release) []environment.Trailer {
	verdict := ""
	if v := r.Verdict; v != nil {
		verdict = string(v.Outcome)
		if v.Reason != "" {
			verdict += " (" + v.Reason + ")"
		}
	}
	return []environment.Trailer{
		{Key: "Release", Value: r.ID}, {Key: "Source-Commit", Value: r.Commit}, {Key: "Verdict", Value: verdict},
		{Key: "Pipeline", Value: r.PipelineURL}, {Key: "Approved-By", Value: r.Approvers()},
	}
}

func returnReason(r *release.Release) string {
	if r.Return == nil {
		return ""
	}
	return r.Return.Reason
}

// Objects are those that the head of the branch has for the app: it is rendered as the app's manifests are.
func (r *Repository) Objects(ctx context.Context) ([]manifest.Object, error) {
	tree, err := r.Git.Read(ctx)
	if err != nil {
		return nil, err
	}
	return r.Rendered(ctx, tree)
}

// Rendered are the objects of the folder in a tree. Of a repository with many apps only the folders are read that this one's
// kustomizations name, unless it does not render so.
func (r *Repository) Rendered(ctx context.Context, tree *environment.Tree) ([]manifest.Object, error) {
	folders := map[string]bool{}
	addNamed(tree, path.Clean("/" + r.Folder)[1:], folders)
	objects, err := r.renderedFrom(ctx, tree, slices.Sorted(maps.Keys(folders)))
	if err != nil && !folders[""] && tree.Err() == nil && ctx.Err() == nil {
		objects, err = r.renderedFrom(ctx, tree, []string{""})
	}
	return objects, err
}

// renderedFrom are the objects of the folder, from some folders of the repository.
func (r *Repository) renderedFrom(ctx context.Context, tree *environment.Tree, folders []string) ([]manifest.Object, error) {
	dir, err := os.MkdirTemp("", "crossbill-environment-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	source := r.Render
	source.Path = filepath.Join(dir, filepath.FromSlash(r.Folder))
	var files []string
	if file, _, chart := strings.Cut(r.Value, ":"); chart {
		source.Values = []string{filepath.Join(dir, filepath.FromSlash(file))}
		files = append(files, file)
	}
	for _, folder := range folders {
		inside, err := tree.Files(folder)
		if err != nil {
			return nil, err
		}
		files = append(files, inside...)
	}
	if err := checkOut(tree, dir, files); err != nil {
		return nil, err
	}
	rendered, err := manifest.Render(ctx, source)
	if bad, ok := errors.AsType[*usererr.Error](err); ok {
		inGit := func(text string) string { return strings.ReplaceAll(text, dir+string(filepath.Separator), "") }
		return nil, &usererr.Error{Field: inGit(bad.Field), Problem: "in commit " + tree.Head()[:10] + ": " + inGit(bad.Problem), Fix: inGit(bad.Fix)}
	}
	if err != nil {
		return nil, err
	}
	return rendered.Objects, nil
}

// addNamed adds a folder and those that its kustomization names, and so on. Kustomize reads files of the folder and below it, and
// folders elsewhere.
func addNamed(tree *environment.Tree, folder string, folders map[string]bool) {
	if files, err := tree.Files(folder); err != nil || len(files) == 0 || folders[folder] {
		return
	}
	folders[folder] = true
	for _, name := range []string{"kustomization.yaml", "kustomization.yml", "Kustomization"} {
		text, err := tree.Read(path.Join(folder, name))
		if err != nil {
			continue
		}
		var content yaml.Node
		if yaml.Unmarshal(text, &content) != nil {
			continue // rendering it says so
		}
		for nodes := []*yaml.Node{&content}; len(nodes) > 0; nodes = nodes[1:] {
			nodes = append(nodes, nodes[0].Content...)
			if to := nodes[0].Value; nodes[0].Kind == yaml.ScalarNode && filepath.IsLocal(path.Join(folder, to)) {
				addNamed(tree, path.Clean("/" + path.Join(folder, to))[1:], folders)
			}
		}
	}
}

// checkOut writes files of a tree into a folder.
func checkOut(tree *environment.Tree, dir string, files []string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, file := range files {
		text, err := tree.Read(file)
		if err := tree.Err(); err != nil {
			return err
		}
		if errors.As(err, new(*usererr.Error)) { // too large for a manifest
			continue
		}
		if err != nil {
			return err
		}
		if err := root.MkdirAll(path.Dir(file), 0o700); err != nil {
			return err
		}
		if err := root.WriteFile(file, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}
