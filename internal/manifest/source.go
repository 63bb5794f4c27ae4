package manifest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/our-org/crossbill/internal/usererr"
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
	AllowLookup bool      // a chart's lookup finds nothing, as with `helm template`, and is no error
	AllowRemote bool      // a kustomization may name what is fetched from elsewhere
	Stdin       io.Reader // what - stands for

	// Gateway is the mesh's gateway of the VirtualService that is made where the source has none, for Hosts, or for those of
	// its Ingress or HTTPRoute; "" to make none.
	Gateway string
	Hosts   []string

	// Router is what leads to the tracks, where the source has both: RouterVirtualService or RouterHTTPRoute. "": what it has;
	// with Gateway, a VirtualService.
	Router string
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
	r := &Rendered{App: source.App, Router: source.Router, path: source.Path, gateway: source.Gateway, hosts: source.Hosts}
	if r.Router == "" && r.gateway != "" {
		r.Router = RouterVirtualService
	}
	if err := r.addSource(ctx, source); err != nil {
		return nil, err
	}
	return r, r.addRoute()
}

// mostInput bounds what is read from the standard input.
const mostInput = 32 << 20

func (r *Rendered) addSource(ctx context.Context, source Source) error {
	if source.Path == "-" {
		return r.addInput(source)
	}
	info, err := os.Stat(source.Path)
	switch {
	case err != nil:
		return &usererr.Error{Field: "manifests", Problem: err.Error(), Fix: "give a folder with the app's manifests, a kustomization, a Helm chart, or - for the standard input"}
	case info.IsDir():
		return r.addFolder(ctx, source)
	case strings.HasSuffix(source.Path, ".tgz") || strings.HasSuffix(source.Path, ".tar.gz"):
		return r.addChart(ctx, source)
	}
	return r.addFile(source.Path)
}

func (r *Rendered) addFile(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return &usererr.Error{Field: file, Problem: err.Error(), Fix: "make the file readable"}
	}
	return r.addText(file, text, written)
}

func (r *Rendered) addInput(source Source) error {
	bad := func(problem string) error {
		return &usererr.Error{Field: "manifests", Problem: problem, Fix: "write the manifests to the standard input, for example `helm template shop | crossbill … --manifests -`"}
	}
	if source.Stdin == nil {
		return bad("- is the standard input, and there is none")
	}
	text, err := io.ReadAll(io.LimitReader(source.Stdin, mostInput+1))
	switch {
	case err != nil:
		return bad("the standard input: " + err.Error())
	case len(text) > mostInput:
		return bad(fmt.Sprintf("the standard input has more than %d MiB", mostInput>>20))
	case len(bytes.TrimSpace(text)) == 0:
		return bad("nothing was written to the standard input")
	}
	return r.addText("standard input", text, written)
}
