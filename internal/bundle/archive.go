package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of what a bundle holds, so that one that somebody else has made costs nobody's memory.
const (
	maxPacked   = 8 << 20
	maxUnpacked = 32 << 20
	maxFiles    = 1000
	maxPath     = 255
)

// File is a file of manifests in a bundle.
type File struct {
	Name string
	Text []byte
}

// pack makes an archive that depends on nothing but the files: they are sorted, have no time and nobody owns them.
func pack(files []File) ([]byte, error) {
	sorted := slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	total := 0
	for _, file := range sorted {
		if total += len(file.Text); total > maxUnpacked {
			return nil, fmt.Errorf("the manifests are larger than %d MiB", maxUnpacked>>20)
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: file.Name, Mode: 0o644, Size: int64(len(file.Text)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(file.Text); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		return nil, err
	}
	if packed.Len() > maxPacked {
		return nil, fmt.Errorf("the manifests are larger than %d MiB, compressed", maxPacked>>20)
	}
	return packed.Bytes(), nil
}

// unpack reads an archive that anybody may have made: files of manifests, in the order of their names. It writes nothing.
// The error says what is wrong with the archive, and quotes none of its content.
func unpack(packed []byte) ([]File, error) {
	zipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, errors.New("its archive is not compressed by gzip")
	}
	bounded := &io.LimitedReader{R: zipped, N: maxUnpacked + maxFiles*1024 + 1}
	archive := tar.NewReader(bounded)
	var files []File
	seen, left := map[string]bool{}, int64(maxUnpacked) // a sparse file is larger than what is read for it
	for entries := 0; ; entries++ {
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
			if len(files) == 0 {
				return nil, errors.New("it holds no manifests")
			}
			return files, nil
		case bounded.N <= 0:
			return nil, errTooLarge
		case err != nil:
			return nil, errors.New("its archive is damaged")
		case entries >= maxFiles:
			return nil, fmt.Errorf("it holds more than %d files", maxFiles)
		}
		if header.Typeflag == tar.TypeDir {
			continue
		}
		name, err := nameOf(header)
		if err != nil {
			return nil, err
		}
		if seen[name] {
			return nil, fmt.Errorf("it holds %s twice", name)
		}
		seen[name] = true
		text, err := io.ReadAll(io.LimitReader(archive, left+1))
		left -= int64(len(text))
		switch {
		case bounded.N <= 0 || left < 0:
			return nil, errTooLarge
		case err != nil:
			return nil, errors.New("its archive is damaged")
		}
		files = append(files, File{name, text})
	}
}

var errTooLarge = fmt.Errorf("it is larger than %d MiB, unpacked", maxUnpacked>>20)

// nameOf is the name of a file in an archive, if it may be there.
func nameOf(header *tar.Header) (string, error) {
	name := strings.TrimPrefix(header.Name, "./")
	shown := fmt.Sprintf("%.60q", header.Name)
	switch {
	case header.Typeflag == tar.TypeSymlink || header.Typeflag == tar.TypeLink:
		return "", fmt.Errorf("it holds the link %s", shown)
	case header.Typeflag != tar.TypeReg:
		return "", fmt.Errorf("it holds %s, which is no file", shown)
	case len(name) > maxPath || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return "", fmt.Errorf("it holds a file with a name that is none: %s", shown)
	case name != path.Clean(name) || path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") || strings.ContainsAny(name, `\:`):
		return "", fmt.Errorf("it holds a file outside of its folder: %s", shown)
	}
	switch base := path.Base(name); {
	case slices.Contains([]string{"kustomization.yaml", "kustomization.yml", "Kustomization", "Chart.yaml"}, base):
		return "", fmt.Errorf("it holds %s: what it carries is not rendered", name)
	case !slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(base)):
		return "", fmt.Errorf("it holds %s, which is no manifest", shown)
	}
	return name, nil
}
