package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Layer packs folders of a directory under a path in the image. The same files give the same bytes:
// entries are sorted, owned by root, readable by all (and executable, if they are), writable by none
// but root, and all of one time. What is neither file nor folder is refused.
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
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil })
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
	if err := w.WriteHeader(header(target, tar.TypeReg, mode, int64(len(text)), modified)); err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

func header(name string, kind byte, mode, size int64, modified time.Time) *tar.Header {
	return &tar.Header{Name: name, Typeflag: kind, Mode: mode, Size: size, ModTime: modified, Format: tar.FormatPAX}
}
