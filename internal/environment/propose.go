package environment

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/our-org/crossbill/internal/usererr"
)

// NewBranch is a branch that is made for one commit.
type NewBranch struct {
	Name    string
	Options []PushOption
}

// PushOption is what the server is asked to do with a push, such as merge_request.title=Release 3f9a1c2 of a GitLab. One
// without a value is sent with an empty one.
type PushOption struct{ Key, Value string }

// Propose makes one commit of an edit on the branch's head, as the first one of a new branch. The branch itself stays as it
// is. A new branch that exists is left as it is: it is the proposal when the edit would change nothing of it, else an
// error. edit is called as by Commit. An edit that changes nothing on the branch makes no other one.
func (r *Repository) Propose(ctx context.Context, message Message, to NewBranch, edit func(*Tree) error) (Commit, error) {
	other := &Repository{
		options: r.options, branch: plumbing.NewBranchReferenceName(to.Name), endpoint: r.endpoint, client: r.client, auth: r.auth, signer: r.signer, token: r.token,
		shortest: r.shortest, longest: r.longest,
	}
	if err := other.branch.Validate(); err != nil {
		return Commit{}, fmt.Errorf("branch %q: %w", to.Name, err)
	}
	u := update{}
	for _, option := range to.Options {
		u.options = append(u.options, &packp.Option{Key: oneLine(option.Key), Value: oneLine(option.Value)})
	}
	return other.attempts(ctx, message, func(message Message, sent *[]sentCommit) (Commit, error) {
		tree, err := r.read(ctx)
		if err != nil {
			if named := r.named(err, false); named != nil {
				return Commit{}, named
			}
			return Commit{}, &attemptError{err: err}
		}
		changed, err := tree.changedBy(edit)
		if err != nil || !changed {
			return Commit{Hash: tree.Head(), Branch: r.branch.Short()}, err
		}
		other.last = tree.from // its objects are not sent again
		commit, err := other.isThere(ctx, edit)
		if err == nil && commit.Hash == "" {
			return other.send(ctx, message, tree, u, sent)
		}
		if err == nil { // what was sent has arrived, or never will
			commit.New, *sent = len(*sent) > 0 && commit.Hash == (*sent)[len(*sent)-1].hash.String(), nil
		}
		return commit, err
	})
}

// isThere gives the commit of a branch that has what an edit makes; none when there is no such branch.
func (r *Repository) isThere(ctx context.Context, edit func(*Tree) error) (Commit, error) {
	tree, err := r.read(ctx)
	if _, missing := errors.AsType[*branchError](err); missing {
		return Commit{}, nil
	}
	if err != nil {
		return Commit{}, &attemptError{err: err}
	}
	changed, err := tree.changedBy(edit)
	if err != nil {
		return Commit{}, err
	}
	if changed {
		return Commit{}, &usererr.Error{Field: fieldRepository, Problem: fmt.Sprintf("%s has a branch %s with something else", r.place(), r.branch.Short()), Fix: "look at it, then delete it"}
	}
	return Commit{Hash: tree.Head(), Branch: r.branch.Short()}, nil
}

// changedBy says whether an edit makes other files of a tree.
func (t *Tree) changedBy(edit func(*Tree) error) (bool, error) {
	if err := t.editedBy(edit); err != nil {
		return false, err
	}
	root, err := t.write(memory.NewStorage())
	return root != t.from.commit.TreeHash, err
}

func (r *Repository) noPushOptions() error {
	return &usererr.Error{Field: fieldRepository, Problem: r.place() + " takes no push options, by which a merge request is opened", Fix: "propose without a merge request, or let the server advertise them (receive.advertisePushOptions of Git; GitLab does)"}
}
