package kubelet

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// An image is one that was pulled and unpacked.
type image struct {
	id     v1.Hash // the digest of its configuration
	root   string  // folder of its files
	config v1.Config
}

// images pulls and unpacks images, each digest once.
type images struct {
	dir string

	mu    sync.Mutex
	have  map[string]*pull     // by repository@digest
	names map[v1.Hash][]string // of an image, by its ID: repository@digest, in sorted order
}

// A pull is an image that is being pulled, or was.
type pull struct {
	mu    sync.Mutex
	image *image
}

func newImages(dir string) *images {
	return &images{dir: dir, have: map[string]*pull{}, names: map[v1.Hash][]string{}}
}

// nameOf is the repository@digest that a pod's status shows for an image: the first that it was pulled by, not the one that the
// pod asks for (containerd 2: internal/cri/store/image and server/container_status.go). It is that of the time when a container
// starts, as CRI-O has it.
func (s *images) nameOf(i *image) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names[i.id][0]
}

// get returns the image of a reference, and whether it had to be fetched. A reference by digest
// that is there already needs no registry; a tag is looked up every time.
func (s *images) get(ctx context.Context, reference string) (_ *image, fetched bool, _ error) {
	ref, err := name.ParseReference(reference, name.StrictValidation)
	if err != nil {
		if ref, err = name.ParseReference(reference); err != nil {
			return nil, false, err
		}
	}
	options := []remote.Option{
		remote.WithContext(ctx),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}),
	}
	digest := ref.Identifier()
	if _, ok := ref.(name.Digest); !ok {
		d, err := remote.Head(ref, options...)
		if err != nil {
			return nil, false, err
		}
		digest = d.Digest.String()
	}
	id := ref.Context().Name() + "@" + digest
	s.mu.Lock()
	p := s.have[id]
	if p == nil {
		p = &pull{}
		s.have[id] = p
	}
	s.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.image != nil {
		return p.image, false, nil
	}
	if p.image, err = s.fetch(ref.Context().Digest(digest), options); err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[p.image.id] = append(s.names[p.image.id], id)
	slices.Sort(s.names[p.image.id])
	return p.image, true, nil
}

func (s *images) fetch(ref name.Digest, options []remote.Option) (*image, error) {
	source, err := remote.Image(ref, options...)
	if err != nil {
		return nil, err
	}
	config, err := source.ConfigFile()
	if err != nil {
		return nil, err
	}
	id, err := source.ConfigName()
	if err != nil {
		return nil, err
	}
	// A platform's image may be reached by its own digest and by its index's: unpack it once.
	hash, err := source.Digest()
	if err != nil {
		return nil, err
	}
	root := filepath.Join(s.dir, hash.Algorithm+"-"+hash.Hex)
	if _, err := os.Stat(root); err == nil {
		return &image{id: id, root: root, config: config.Config}, nil
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	temporary, err := os.MkdirTemp(s.dir, ".new-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temporary)
	if err := os.Chmod(temporary, 0o755); err != nil {
		return nil, err
	}
	files := mutate.Extract(source)
	defer files.Close()
	if err := unpack(files, temporary); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", ref, err)
	}
	if err := os.Rename(temporary, root); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return &image{id: id, root: root, config: config.Config}, nil
}

// unpack writes a tar stream into a folder, and nothing outside of it.
func unpack(stream io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	files := tar.NewReader(stream)
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unpackOne(root, h, files); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func unpackOne(root *os.Root, h *tar.Header, content io.Reader) error {
	file := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if file == "" {
		return nil
	}
	mode := h.FileInfo().Mode().Perm()
	if parent := path.Dir(file); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.MkdirAll(file, mode); err != nil {
			return err
		}
	case tar.TypeReg:
		f, err := root.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, content); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, file) // may point anywhere: it is followed under chroot
	case tar.TypeLink:
		return root.Link(strings.TrimPrefix(path.Clean("/"+h.Linkname), "/"), file)
	default:
		return nil // devices and pipes: containers get their devices anew
	}
	if mapped(h.Uid) && mapped(h.Gid) {
		if err := root.Lchown(file, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	return root.Chmod(file, mode|h.FileInfo().Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeSticky))
}
