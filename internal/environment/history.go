package environment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
)

// Version is what a file is from one commit on, until another one changes it.
type Version struct {
	Commit string
	At     time.Time // when it was committed, as the commit says
	Author string    // Name <address>, as the commit says
	Text   []byte    // nil: there is no file

	signed    []byte // what a signature of the commit is made of
	signature string
}

// How many commits a history begins with, and how many it is looked for in at most.
const (
	firstDepth = 64
	mostDepth  = 64 << 8
)

// History gives the versions of a file on the branch, newest first, and the branch's head. A merge is one commit of the
// branch: what it brings is its own, whoever has made the commits that are merged. Older versions are read until enough says
// that they are, or there are none.
func (r *Repository) History(ctx context.Context, name string, enough func([]Version) bool) (versions []Version, head string, err error) {
	for depth := firstDepth; ; depth *= 4 {
		var read *snapshot
		err := r.retry(ctx, func() (err error) {
			read, err = bounded(ctx, r.options.Timeout, func(ctx context.Context) (*snapshot, error) {
				return r.fetchHistory(ctx, depth, name)
			})
			return err
		})
		if err != nil {
			return nil, "", r.unreachable(ctx, err)
		}
		versions, whole, err := read.versions(name)
		if err != nil || whole || depth >= mostDepth || enough(versions) {
			return versions, read.commit.Hash.String(), err
		}
	}
}

// fetchHistory reads the commits with the file, and with all others that a server sends that gives no single ones.
func (r *Repository) fetchHistory(ctx context.Context, depth int, name string) (*snapshot, error) {
	r.mutex.Lock()
	eager := r.eager
	r.mutex.Unlock()
	if eager {
		return r.fetch(ctx, depth, files)
	}
	read, err := r.fetch(ctx, depth, packp.FilterBlobNone())
	if err != nil || !read.lazy {
		return read, err
	}
	wants, err := read.texts(name)
	if err != nil || len(wants) == 0 {
		return read, err
	}
	texts, err := r.ask(ctx, request{wants: wants, filter: files})
	if refused(err) {
		return r.fetch(ctx, depth, files)
	}
	if err != nil {
		return nil, err
	}
	for _, text := range texts.Blobs {
		if text.Size() >= maxFile {
			continue
		}
		if _, err := read.objects.SetEncodedObject(text); err != nil {
			return nil, err
		}
	}
	return read, nil
}

// texts are the hashes of what a file has been in the commits that were read.
func (s *snapshot) texts(name string) (all []plumbing.Hash, err error) {
	for commit := s.commit; ; {
		hash, err := s.blob(commit, name)
		if err != nil {
			return nil, err
		}
		if !hash.IsZero() && !slices.Contains(all, hash) && s.objects.HasEncodedObject(hash) != nil {
			all = append(all, hash)
		}
		if commit.NumParents() == 0 {
			return all, nil
		}
		if commit, err = object.GetCommit(s.objects, commit.ParentHashes[0]); errors.Is(err, plumbing.ErrObjectNotFound) {
			return all, nil // below what was read
		} else if err != nil {
			return nil, err
		}
	}
}

// versions are those of a file in the commits that were read. whole says that there are no older ones.
func (s *snapshot) versions(name string) (versions []Version, whole bool, err error) {
	commit := s.commit
	is, err := s.blob(commit, name)
	if err != nil {
		return nil, false, err
	}
	for {
		var before *object.Commit
		was := plumbing.ZeroHash
		if whole = commit.NumParents() == 0; !whole {
			before, err = object.GetCommit(s.objects, commit.ParentHashes[0])
			if errors.Is(err, plumbing.ErrObjectNotFound) {
				return versions, false, nil // below what was read: whether this commit has changed it is not known
			}
			if err == nil {
				was, err = s.blob(before, name)
			}
			if err != nil {
				return nil, false, err
			}
		}
		if is != was {
			version, err := s.version(commit, name)
			if err != nil {
				return nil, false, err
			}
			versions = append(versions, version)
		}
		if whole {
			return versions, true, nil
		}
		commit, is = before, was
	}
}

// blob is the hash of a file in a commit; zero where there is none.
func (s *snapshot) blob(commit *object.Commit, name string) (plumbing.Hash, error) {
	dir, base, err := newTree(&snapshot{commit: commit, objects: s.objects}).find(name, false)
	if err != nil || dir == nil || dir.entries[base] == nil {
		return plumbing.ZeroHash, err
	}
	return dir.entries[base].hash, nil
}

func (s *snapshot) version(commit *object.Commit, name string) (Version, error) {
	v := Version{Commit: commit.Hash.String(), At: commit.Committer.When.UTC(), Author: fmt.Sprintf("%s <%s>", commit.Author.Name, commit.Author.Email), signature: commit.PGPSignature}
	var err error
	if hash, failed := s.blob(commit, name); failed != nil {
		return v, failed
	} else if !hash.IsZero() {
		if v.Text, err = newTree(&snapshot{commit: commit, objects: s.objects}).Read(name); err != nil {
			return v, err
		}
	}
	v.signed, err = unsigned(commit)
	return v, err
}

// unsigned is the text of a commit that its signature is made of.
func unsigned(commit *object.Commit) ([]byte, error) {
	text := &plumbing.MemoryObject{}
	if err := commit.EncodeWithoutSignature(text); err != nil {
		return nil, err
	}
	reader, err := text.Reader()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(reader)
}
