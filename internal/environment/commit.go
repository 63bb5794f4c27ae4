package environment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/memory"
)

// Message is of a commit. Texts of others may be in it: no value adds a line or a trailer of its own.
type Message struct {
	Subject  string
	Body     string // paragraphs; may be empty
	Trailers []Trailer
	Time     time.Time // of the commit; zero for now
	Always   bool      // the commit is made also when the edit changes nothing
}

// Trailer is a line at the end of a message that programs read, such as Release: shop-3f9a1c2. One without a value is left
// out.
type Trailer struct{ Key, Value string }

var trailerKey = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]*$`)

// String is the message as Git writes it.
func (m Message) String() string {
	var text strings.Builder
	text.WriteString(oneLine(m.Subject) + "\n")
	var body []string
	for line := range strings.SplitSeq(strings.TrimSpace(strings.ToValidUTF8(m.Body, " ")), "\n") {
		body = append(body, strings.TrimRight(printable(line), " "))
	}
	if all := strings.Join(body, "\n"); all != "" {
		text.WriteString("\n" + all + "\n")
	}
	for i, t := range slices.DeleteFunc(slices.Clone(m.Trailers), func(t Trailer) bool { return oneLine(t.Value) == "" }) {
		if i == 0 {
			text.WriteString("\n")
		}
		text.WriteString(t.Key + ": " + oneLine(t.Value) + "\n")
	}
	return text.String()
}

func (m Message) check() error {
	if oneLine(m.Subject) == "" {
		return errors.New("a commit has no subject")
	}
	for _, t := range m.Trailers {
		if !trailerKey.MatchString(t.Key) {
			return fmt.Errorf("%q is not the key of a trailer", t.Key)
		}
	}
	return nil
}

// Commit is where the branch is after an edit.
type Commit struct {
	Hash   string
	Branch string
	New    bool // it was made by this edit; else the edit changed nothing, and it is the head
}

// UnknownError says that a commit was sent and nobody could be asked whether it arrived. It does not unwrap: whatever Err is,
// it is no *usererr.Error, of which nothing was pushed.
type UnknownError struct {
	Commit string
	Err    error
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("commit %s was sent, and whether it arrived is not known: %v; run the command again, which looks first", e.Commit, e.Err)
}

// Commit makes one commit of an edit on the branch's head. edit is called for every head that somebody else was quicker to
// move, each time with the files of that head; what it did to an earlier one is forgotten. Its own error ends it, and
// nothing is pushed then.
func (r *Repository) Commit(ctx context.Context, message Message, edit func(*Tree) error) (Commit, error) {
	return r.attempts(ctx, message, func(message Message, sent *[]sentCommit) (Commit, error) {
		return r.commitOnce(ctx, message, edit, sent)
	})
}

// attempts makes a commit until it is made, or another attempt would change nothing.
func (r *Repository) attempts(ctx context.Context, message Message, once func(Message, *[]sentCommit) (Commit, error)) (Commit, error) {
	if err := message.check(); err != nil {
		return Commit{}, err
	}
	if message.Time.IsZero() {
		message.Time = time.Now()
	}
	message.Time = message.Time.UTC().Truncate(time.Second) // the same commit in every attempt on one head

	var sent []sentCommit
	give := func(err error) (Commit, error) {
		if len(sent) > 0 {
			return Commit{}, &UnknownError{Commit: sent[len(sent)-1].hash.String(), Err: err}
		}
		return Commit{}, err
	}
	for attempt := 1; ; attempt++ {
		commit, err := once(message, &sent)
		switch failed, isAttempt := errors.AsType[*attemptError](err); {
		case err == nil:
			return commit, nil
		case !isAttempt: // of the edit
			return give(err)
		case r.named(failed.err, failed.pushing) != nil:
			return give(r.named(failed.err, failed.pushing))
		case ctx.Err() == nil && attempt >= r.options.Attempts:
			return give(r.exhausted(failed, attempt))
		case r.pause(ctx, attempt) != nil:
			return give(fmt.Errorf("stopped before the commit to %s was made: %w", r.branch.Short(), context.Cause(ctx)))
		}
	}
}

// exhausted is the error after the last attempt.
func (r *Repository) exhausted(failed *attemptError, attempts int) error {
	if !failed.pushing {
		return r.noAnswer(failed.err)
	}
	return fmt.Errorf("%s of %s was not changed in %d attempts: %s; run the command again", r.branch.Short(), r.place(), attempts, r.words(opened(failed.err)))
}

// sentCommit is one that was sent, and whose answer was lost. It may still arrive while the branch is at its parent, and
// never after that.
type sentCommit struct{ hash, parent plumbing.Hash }

// attemptError is of the server: another attempt may succeed.
type attemptError struct {
	err     error
	pushing bool
}

func (e *attemptError) Error() string { return e.err.Error() }

func (r *Repository) commitOnce(ctx context.Context, message Message, edit func(*Tree) error, sent *[]sentCommit) (Commit, error) {
	tree, err := r.read(ctx)
	if err != nil {
		return Commit{}, &attemptError{err: err}
	}
	if len(*sent) > 0 {
		// Others may have committed on top of it.
		found, err := r.landed(ctx, *sent)
		if err != nil {
			return Commit{}, &attemptError{err: err}
		}
		if !found.IsZero() {
			return Commit{Hash: found.String(), Branch: r.branch.Short(), New: true}, nil
		}
		*sent = slices.DeleteFunc(*sent, func(c sentCommit) bool { return c.parent != tree.from.commit.Hash })
	}
	if err := tree.editedBy(edit); err != nil {
		return Commit{}, err
	}
	return r.send(ctx, message, tree, update{old: tree.from.commit.Hash}, sent)
}

// editedBy edits a tree. A file that the server did not give makes it another attempt's, whatever the edit has made of that.
func (t *Tree) editedBy(edit func(*Tree) error) error {
	err := edit(t)
	if t.failed != nil {
		return &attemptError{err: t.failed}
	}
	return err
}

// send makes the commit of what an edit has made of a tree and pushes it. A tree without a change makes none.
func (r *Repository) send(ctx context.Context, message Message, tree *Tree, u update, sent *[]sentCommit) (Commit, error) {
	objects := memory.NewStorage()
	root, err := tree.write(objects)
	if err != nil {
		return Commit{}, err
	}
	parent := tree.from.commit
	if root == parent.TreeHash && !message.Always {
		return Commit{Hash: parent.Hash.String(), Branch: r.branch.Short()}, nil
	}
	if u.new, err = r.build(message, root, parent.Hash, objects); err != nil {
		return Commit{}, err
	}
	hashes := slices.Collect(maps.Keys(objects.Objects))
	lost, err := r.push(ctx, u, objects, hashes)
	if err == nil {
		_, _ = r.keep(&snapshot{objects: tree.from.objects, lazy: tree.from.lazy}, u.new, objects) // else it is read again
		return Commit{Hash: u.new.String(), Branch: r.branch.Short(), New: true}, nil
	}
	if lost {
		*sent = append(*sent, sentCommit{u.new, parent.Hash})
	}
	// Whatever the error says, the server knows; also when the caller has stopped.
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if head, asked := r.tip(ask); asked == nil && head == u.new {
		return Commit{Hash: u.new.String(), Branch: r.branch.Short(), New: true}, nil
	}
	return Commit{}, &attemptError{err: err, pushing: true}
}

// build makes the commit.
func (r *Repository) build(message Message, tree, parent plumbing.Hash, objects *memory.Storage) (plumbing.Hash, error) {
	who := object.Signature{Name: r.options.AuthorName, Email: r.options.AuthorEmail, When: message.Time}
	commit := &object.Commit{Author: who, Committer: who, Message: message.String(), TreeHash: tree, ParentHashes: []plumbing.Hash{parent}}
	if r.signer != nil {
		text, err := unsigned(commit)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		if commit.PGPSignature, err = sign(r.signer, text); err != nil {
			return plumbing.ZeroHash, err
		}
	}
	encoded := objects.NewEncodedObject()
	if err := commit.Encode(encoded); err != nil {
		return plumbing.ZeroHash, err
	}
	return objects.SetEncodedObject(encoded)
}
