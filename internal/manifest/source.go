package manifest

import (
	"context"
	"io"
)

// Source is where an app's manifests are rendered from.
type Source struct {
	Path        string    // a folder, or - for Stdin
	App         string    // the app that is meant, where the manifests have several; "" for the only one
	Subfolders  bool      // a folder is read with the folders in it
	Values      []string  // files of a chart's values; a later one wins
	ReleaseName string    // a chart's; "" for the app's name
	Namespace   string    // a chart's
	KubeVersion string    // a chart's; "" for DefaultKubeVersion
	AllowRemote bool      // a kustomization may name what is fetched from elsewhere
	Stdin       io.Reader // what - stands for
}

// Read renders a source and finds the app in it. Errors are *usererr.Error and name the file.
func Read(ctx context.Context, source Source) (*Set, error) {
	rendered, err := Render(ctx, source)
	if err != nil {
		return nil, err
	}
	return rendered.Set()
}

// Load reads the manifests of a folder.
func Load(dir string) (*Set, error) {
	return Read(context.Background(), Source{Path: dir})
}

// Render gives the objects of a source, the same for the same files wherever they are. Errors are *usererr.Error and name
// the file.
func Render(ctx context.Context, source Source) (*Rendered, error) {
	r := &Rendered{App: source.App, path: source.Path}
	return r, r.addFolder(ctx, source)
}
