package main

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sort"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// differences names what differs between the file systems of two images, one line each; none when they are
// the same.
func differences(a, b v1.Image) ([]string, error) {
	filesA, err := files(a)
	if err != nil {
		return nil, err
	}
	filesB, err := files(b)
	if err != nil {
		return nil, err
	}
	var lines []string
	for name, inA := range filesA {
		inB, ok := filesB[name]
		switch {
		case !ok:
			lines = append(lines, name+": only in the first")
		case inA != inB:
			lines = append(lines, fmt.Sprintf("%s: %s, then %s", name, inA, inB))
		}
	}
	for name := range filesB {
		if _, ok := filesA[name]; !ok {
			lines = append(lines, name+": only in the second")
		}
	}
	sort.Strings(lines)
	return lines, nil
}

// files describes each file of an image.
func files(image v1.Image) (map[string]string, error) {
	content := mutate.Extract(image)
	defer content.Close()
	described := map[string]string{}
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return described, nil
		}
		if err != nil {
			return nil, err
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return nil, err
		}
		described[h.Name] = fmt.Sprintf("mode %o, owner %d:%d, time %d, link %q, sha256 %x", h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), h.Linkname, sum.Sum(nil)[:6])
	}
}
