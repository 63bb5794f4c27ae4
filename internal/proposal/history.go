package proposal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/usererr"
)

// Version is the file of an app from one commit of the branch on.
type Version struct {
	environment.Version
	Proposal *Proposal // nil: there is no file, or it is not right
	Err      error     // why it is not right
}

// History are the versions of an app's file, newest first.
type History []Version

// ReadHistory reads the versions back to the commit that proposed what the file names now, and to another one that is meant.
func ReadHistory(ctx context.Context, repository *environment.Repository, file, app, meant string) (h History, head string, err error) {
	read := func(versions []environment.Version) History {
		h := make(History, len(versions))
		for i, v := range versions {
			if h[i].Version = v; v.Text != nil {
				h[i].Proposal, h[i].Err = Parse(file, v.Text, app)
			}
		}
		return h
	}
	versions, head, err := repository.History(ctx, file, func(versions []environment.Version) bool {
		h := read(versions)
		return len(h) > 0 && h.proposed() < len(h)-1 && (meant == "" || h.index(meant) >= 0)
	})
	return read(versions), head, err
}

// proposed is the index of the version that proposed what the newest one names.
func (h History) proposed() int {
	i := 0
	for i+1 < len(h) && h[i+1].names(h[0].Proposal) {
		i++
	}
	return i
}

func (h History) index(commit string) int {
	for i := range h {
		if h[i].Commit == commit {
			return i
		}
	}
	return -1
}

// names says whether a version proposes the same, approved or not.
func (v *Version) names(p *Proposal) bool {
	return p != nil && v.Proposal != nil && v.Proposal.Handoff == p.Handoff && v.Proposal.Again == p.Again
}

// Current is what the file names now, and the version that proposed it. Both are nil where there is no file. The error is why
// the file is not right.
func (h History) Current() (*Proposal, *Version, error) {
	switch {
	case len(h) == 0:
		return nil, nil, nil
	case h[0].Proposal == nil:
		return nil, nil, h[0].Err
	}
	return h[0].Proposal, &h[h.proposed()], nil
}

// Approval is somebody's yes in Git to a release.
type Approval struct {
	Commit string // that brought it
	By     string // its author; with signers, the principals of the key that has signed it
	Signed bool
}

// Approval is that of a release which a commit has proposed, or why there is none. Only a later commit brings one, which
// leaves the proposal as it is; a commit that takes it away takes it back. What proposes a release anew needs a new one, and
// a commit that is not in the branch any more has proposed nothing. With signers, one of them must have signed the commit
// that brought it.
func (h History) Approval(proposed, id string, signers environment.Signers, now time.Time) (*Approval, error) {
	at := h.index(proposed)
	if at < 0 {
		return nil, fmt.Errorf("commit %.12s, which proposed release %s, is not in the branch: propose it again", proposed, id)
	}
	if h[at].Proposal == nil || h[at].Proposal.ID != id {
		return nil, fmt.Errorf("commit %.12s does not propose release %s", proposed, id)
	}
	was, brought := h[at].Proposal.Approve == id, (*Version)(nil)
	reason := errors.New("nobody has approved it in Git")
	if was {
		reason = fmt.Errorf("commit %.12s proposes the release and approves it: take the approval out, and give it by a commit of its own", proposed)
	}
	for i := at - 1; i >= 0 && h[i].names(h[at].Proposal); i-- {
		is := h[i].Proposal.Approve == id
		switch {
		case !is:
			brought, reason = nil, errors.New("nobody has approved it in Git")
		case !was:
			brought = &h[i]
		}
		was = is
		if other := h[i].Proposal.Approve; other != "" && !is {
			reason = fmt.Errorf("the approval is of release %s", other)
		}
	}
	if brought == nil {
		return nil, reason
	}
	if signers == nil {
		return &Approval{Commit: brought.Commit, By: brought.Author}, nil
	}
	by, err := signers.Signed(brought.Version, now)
	if err != nil {
		return nil, fmt.Errorf("commit %.12s approves it, and does not count: %w", brought.Commit, err)
	}
	return &Approval{Commit: brought.Commit, By: by, Signed: true}, nil
}

// Approve writes an approval of the release that the file names. id is the release that is meant; "" for the one named.
func Approve(files *environment.Tree, name, app, id string) (*Proposal, error) {
	text, err := files.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &usererr.Error{Field: name, Problem: "not found: nothing is proposed there", Fix: "propose a release first"}
	}
	if err != nil {
		return nil, err
	}
	p, err := Parse(name, text, app)
	if err != nil {
		return nil, err
	}
	if id != "" && id != p.ID {
		return nil, &usererr.Error{Field: name, Problem: fmt.Sprintf("it names release %s, not %s", p.ID, id), Fix: "look at what is proposed now"}
	}
	if p.Approve == p.ID {
		return p, nil
	}
	p.Approve = p.ID
	add := append(text, line("approve", p.ID)...)
	if read, err := Parse(name, add, app); err != nil || *read != *p { // it has another one, or is written in another way
		add = p.File()
	}
	return p, files.Write(name, add)
}
