package environment

import (
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/memory"
)

// maxKept bounds what is kept of heads that were read: with more, the next one is read from the beginning.
const maxKept = 128 << 20

// kept is what was read of a repository, of one head after another. An object is what its hash says, so what was read for
// one commit is right for each. Several goroutines may read and add.
type kept struct {
	*memory.Storage

	mutex sync.RWMutex
	size  int64
	large map[plumbing.Hash]bool // files that the server was asked for and that are too large
}

func newKept() *kept {
	return &kept{Storage: memory.NewStorage(), large: map[plumbing.Hash]bool{}}
}

// keptOf is what a snapshot's objects are kept in, if they are.
func keptOf(s *snapshot) (*kept, bool) {
	if s == nil {
		return nil, false
	}
	k, ok := s.objects.(*kept)
	return k, ok
}

func (k *kept) EncodedObject(kind plumbing.ObjectType, hash plumbing.Hash) (plumbing.EncodedObject, error) {
	k.mutex.RLock()
	defer k.mutex.RUnlock()
	return k.Storage.EncodedObject(kind, hash)
}

func (k *kept) add(objects *memory.Storage) error {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	for hash, o := range objects.Objects {
		if k.Objects[hash] != nil {
			continue
		}
		if _, err := k.SetEncodedObject(o); err != nil {
			return err
		}
		k.size += o.Size()
	}
	return nil
}

func (k *kept) bytes() int64 {
	k.mutex.RLock()
	defer k.mutex.RUnlock()
	return k.size
}

// isLarge says whether a file was asked for and is too large.
func (k *kept) isLarge(hash plumbing.Hash) bool {
	k.mutex.RLock()
	defer k.mutex.RUnlock()
	return k.large[hash]
}

// markLarge notes that the file, or all files in the folder, were asked for: those that are missing are too large.
func (k *kept) markLarge(hash plumbing.Hash) {
	if folder, err := object.GetTree(k, hash); err == nil {
		for _, e := range folder.Entries {
			if e.Mode != filemode.Submodule {
				k.markLarge(e.Hash)
			}
		}
	} else if _, err := k.EncodedObject(plumbing.BlobObject, hash); err != nil {
		k.mutex.Lock()
		defer k.mutex.Unlock()
		k.large[hash] = true
	}
}

// missing is what to ask for to have all files in a folder: a folder of which no file was read as a whole, so that the server
// leaves out what is too large; of another one the missing files. read says that some were.
func (k *kept) missing(hash plumbing.Hash) (wants []plumbing.Hash, read bool) {
	folder, err := object.GetTree(k, hash)
	if err != nil {
		return nil, false
	}
	leaf := true
	var files []plumbing.Hash
	for _, e := range folder.Entries {
		switch e.Mode {
		case filemode.Submodule:
		case filemode.Dir:
			inner, some := k.missing(e.Hash)
			leaf, wants, read = false, append(wants, inner...), read || some
		default:
			if _, err := k.EncodedObject(plumbing.BlobObject, e.Hash); err == nil || k.isLarge(e.Hash) {
				read = true
			} else {
				files = append(files, e.Hash)
			}
		}
	}
	switch {
	case len(wants)+len(files) == 0:
		return nil, read
	case !read, leaf && len(files) > 0 && len(folder.Entries) <= fewFiles:
		return []plumbing.Hash{hash}, read
	}
	return append(wants, files...), read
}

// onTop takes what is sent as a change of what was read.
type onTop struct {
	*memory.Storage
	below *snapshot // may be nil
}

func (o *onTop) EncodedObject(kind plumbing.ObjectType, hash plumbing.Hash) (plumbing.EncodedObject, error) {
	found, err := o.Storage.EncodedObject(kind, hash)
	if err != nil && o.below != nil {
		return o.below.objects.EncodedObject(kind, hash)
	}
	return found, err
}
