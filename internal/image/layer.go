package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/our-org/crossbill/internal/usererr"
)

// Layer packs folders of a directory under a path in the image. The same files give the same bytes:
// entries are sorted, owned by root, readable by all (and executable, if they are), writable by none
// but root, and all of one time. Anything that is neither a file nor a folder is an error.
func Layer(dir string, folders []string, under string, modified time.Time) (v1.Layer, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	if err := w.WriteHeader(header(under[1:]+"/", tar.TypeDir, 0o755, 0, modified)); err != nil {
		return nil, err
	}
	for _, folder := range folders {
		if err := pack(w, filepath.Join(dir, folder), path.Join(under[1:], folder), modified); err != nil {
			return nil, err
		}
	}
	return layerOf(w, &buffer)
}

// File is a file of an archive.
type File struct {
	Name    string // its path, without a slash in front
	Mode    int64
	Content []byte
}

// WriteArchive writes files in their order into an archive, owned by root and all of one time.
func WriteArchive(w io.Writer, files []File, modified time.Time) error {
	archive := tar.NewWriter(w)
	for _, f := range files {
		if err := writeFile(archive, f.Name, f.Mode, f.Content, modified); err != nil {
			return err
		}
	}
	return archive.Close()
}

// layerOf finishes an archive and makes it a layer.
func layerOf(w *tar.Writer, archive *bytes.Buffer) (v1.Layer, error) {
	if err := w.Close(); err != nil {
		return nil, err
	}
	return layerIn(archive)
}

// layerIn makes an archive a layer.
func layerIn(archive *bytes.Buffer) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil },
		tarball.WithCompressedCaching) // else it is compressed again for its digest, its size, and each write
}

// pack writes one folder.
func pack(w *tar.Writer, dir, under string, modified time.Time) error {
	var names []string
	entries := map[string]fs.DirEntry{}
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		names = append(names, name)
		entries[name] = entry
		return err
	})
	if err != nil {
		return err
	}
	sort.Strings(names)
	for _, name := range names {
		relative, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		target := path.Join(under, filepath.ToSlash(relative))
		switch entry := entries[name]; {
		case entry.IsDir():
			err = w.WriteHeader(header(target+"/", tar.TypeDir, 0o755, 0, modified))
		case entry.Type().IsRegular():
			err = packFile(w, name, target, modified)
		default:
			err = fmt.Errorf("%s is neither a file nor a folder", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func packFile(w *tar.Writer, name, target string, modified time.Time) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	mode := int64(0o644)
	if info.Mode()&0o100 != 0 { // as git, which keeps no more of a file's mode either
		mode = 0o755
	}
	return writeFile(w, target, mode, text, modified)
}

func writeFile(w *tar.Writer, name string, mode int64, content []byte, modified time.Time) error {
	if err := w.WriteHeader(header(name, tar.TypeReg, mode, int64(len(content)), modified)); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

func header(name string, kind byte, mode, size int64, modified time.Time) *tar.Header {
	return &tar.Header{Name: name, Typeflag: kind, Mode: mode, Size: size, ModTime: modified, Format: tar.FormatPAX}
}

// Assets packs the files under a folder of an earlier image of the app that the built app in appDir lacks, so that
// pages of the earlier version that are still open find what they ask for. It takes only what that version built
// itself, not what it took over in turn. The names must contain a hash of the content: a file that exists in both with
// other bytes is an error. The layer is nil when there is nothing to add.
func Assets(earlier v1.Image, appDir, folder string, modified time.Time) (v1.Layer, error) {
	files, err := ownFiles(earlier, path.Join(workingDir[1:], folder)+"/")
	if err != nil {
		return nil, fmt.Errorf("the earlier image: %w", err)
	}
	for name, content := range files {
		present, err := os.ReadFile(filepath.Join(appDir, strings.TrimPrefix(name, workingDir[1:]+"/")))
		if err != nil {
			continue
		}
		if !bytes.Equal(present, content) {
			return nil, &usererr.Error{Field: "assetsOf", Problem: fmt.Sprintf("%s exists in both versions with other bytes: its name has no hash of its content", name), Fix: "give image.assetsFolder the folder of files whose names do"}
		}
		delete(files, name)
	}
	if len(files) == 0 {
		return nil, nil
	}
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := writeFile(w, name, 0o644, files[name], modified); err != nil {
			return nil, err
		}
	}
	return layerOf(w, &buffer)
}

// ownFiles reads the files below a prefix that an image of Build's got from its own app, which is the last layer.
func ownFiles(image v1.Image, prefix string) (map[string][]byte, error) {
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	if len(layers) == 0 {
		return nil, errors.New("it has no layers")
	}
	content, err := layers[len(layers)-1].Uncompressed()
	if err != nil {
		return nil, err
	}
	defer content.Close()
	files := map[string][]byte{}
	for reader := tar.NewReader(content); ; {
		entry, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if entry.Typeflag != tar.TypeReg || !strings.HasPrefix(entry.Name, prefix) || !fs.ValidPath(entry.Name) {
			continue
		}
		if files[entry.Name], err = io.ReadAll(reader); err != nil {
			return nil, err
		}
	}
}
