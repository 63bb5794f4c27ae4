package gitops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

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

// SameImage says whether what is written in Git is an image, by its digest alone where only that is written.
func SameImage(written, image string) bool {
	return written == image || strings.HasPrefix(written, "sha256:") && written == release.DigestOf(image)
}

// Change is a commit that has primary run another image.
type Change struct {
	Release  *release.Release
	From, To string                      // repository@sha256:…
	Always   bool                        // a commit is made also when it changes nothing
	Holds    func(context.Context) error // asked after each read of the branch: an error ends it, and nothing is pushed
}

// Commit makes it, and gives the head of the branch after it. An image in Git that is neither of its two is somebody else's:
// an *usererr.Error.
func (r *Repository) Commit(ctx context.Context, c Change) (head string, err error) {
	made, err := r.Git.Commit(ctx, r.message(c), func(tree *environment.Tree) error {
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
		if err := r.set(tree, c.To); err != nil {
			return err
		}
		return c.Holds(ctx)
	})
	return made.Hash, err
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
	if c.Always {
		m.Body = fmt.Sprintf("Primary runs %s, as before the release.\nThis commit keeps out the push of a job that has lost its lock.", c.To)
	}
	if of.Return != nil && !back {
		m.Subject = fmt.Sprintf("%s: return to release %s", r.App, of.ID)
	}
	if reason := cmp.Or(of.Reason, returnReason(of)); reason != "" {
		m.Body += "\n\nWhy: " + reason
	}
	verdict := ""
	if v := of.Verdict; v != nil {
		verdict = string(v.Outcome)
		if v.Reason != "" {
			verdict += " (" + v.Reason + ")"
		}
	}
	m.Trailers = []environment.Trailer{
		{Key: "Release", Value: of.ID}, {Key: "Source-Commit", Value: of.Commit}, {Key: "Verdict", Value: verdict},
		{Key: "Pipeline", Value: of.PipelineURL}, {Key: "Approved-By", Value: of.Approvers()},
	}
	return m
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
	dir, err := os.MkdirTemp("", "crossbill-environment-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := checkOut(tree, dir); err != nil {
		return nil, err
	}
	source := r.Render
	source.Path = filepath.Join(dir, filepath.FromSlash(r.Folder))
	if file, _, chart := strings.Cut(r.Value, ":"); chart {
		source.Values = []string{filepath.Join(dir, filepath.FromSlash(file))}
	}
	rendered, err := manifest.Render(ctx, source)
	if bad, ok := errors.AsType[*usererr.Error](err); ok {
		inGit := func(text string) string { return strings.ReplaceAll(text, dir+string(filepath.Separator), "") }
		return nil, &usererr.Error{Field: inGit(bad.Field), Problem: "in commit " + tree.Head()[:10] + ": " + inGit(bad.Problem), Fix: bad.Fix}
	}
	if err != nil {
		return nil, err
	}
	return rendered.Objects, nil
}

// checkOut writes the files of a tree into a folder.
func checkOut(tree *environment.Tree, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	files, err := tree.Files("")
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := tree.Read(file)
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
