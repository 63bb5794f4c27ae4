package proposal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
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

// Approvals are those of a release which a commit has proposed, each of another person, or why there are not so many. Only a later
// commit brings one, which leaves the proposal as it is; a commit that takes it away takes it back. The first commit names the
// release, and each further one adds a name to those that approve: whose approval it is, is not what the file says, but who has made
// the commit. What proposes a release anew needs new ones, and a commit that is not in the branch any more has proposed nothing. With
// signers, one of them must have signed the commit that brought one.
func (h History) Approvals(proposed, id string, signers environment.Signers, number int, now time.Time) ([]Approval, error) {
	given, err := h.given(proposed, id)
	if err != nil {
		return nil, err
	}
	var all []Approval
	var invalid error
	for _, v := range given {
		one := Approval{Commit: v.Commit, By: v.Author}
		if signers != nil {
			by, err := signers.Signed(v.Version, now)
			if err != nil {
				invalid = fmt.Errorf("commit %.12s approves it, and does not count: %w", v.Commit, err)
				continue
			}
			one.By, one.Signed = by, true
		}
		if !slices.ContainsFunc(all, func(a Approval) bool { return samePerson(a.By, one.By) }) {
			all = append(all, one)
		}
	}
	switch {
	case len(all) >= max(number, 1):
		return all, nil
	case len(all) == 0:
		return nil, invalid
	}
	names := make([]string, len(all))
	for i, a := range all {
		names[i] = a.By
	}
	err = fmt.Errorf("%d of %d approvals: only %s has approved it", len(all), number, strings.Join(names, ", "))
	if invalid != nil {
		err = fmt.Errorf("%w; %w", err, invalid)
	}
	return nil, err
}

// Of says whether it is a person's.
func (a Approval) Of(person string) bool { return samePerson(a.By, person) }

// samePerson says whether two principals have a name in common: a file of signers may give one person several.
func samePerson(a, b string) bool {
	names := strings.Split(strings.ToLower(b), ",")
	return slices.ContainsFunc(strings.Split(strings.ToLower(a), ","), func(name string) bool { return slices.Contains(names, name) })
}

// given are the versions that approve a release which a commit has proposed, and that no later one has taken back; oldest first.
func (h History) given(proposed, id string) (given []*Version, err error) {
	at := h.index(proposed)
	if at < 0 {
		return nil, fmt.Errorf("commit %.12s, which proposed release %s, is not in the branch: propose it again", proposed, id)
	}
	if h[at].Proposal == nil || h[at].Proposal.ID != id {
		return nil, fmt.Errorf("commit %.12s does not propose release %s", proposed, id)
	}
	nobody := errors.New("nobody has approved it in Git")
	reason, was, names := nobody, h[at].Proposal.Approve == id, h[at].Proposal.approvers()
	if was {
		reason = fmt.Errorf("commit %.12s proposes the release and approves it: take the approval out, and give it by a commit of its own", proposed)
	}
	added := map[*Version][]string{} // the names that a version has added; none: it has named the release
	for i := at - 1; i >= 0 && (h[i].Proposal == nil || h[i].names(h[at].Proposal)); i-- {
		v := &h[i]
		if v.Proposal == nil {
			given = nil
			continue
		}
		now := v.Proposal.approvers()
		if h[i+1].Proposal == nil { // it proposes it again
			was, names, reason = v.Proposal.Approve == id, now, nobody
			if was {
				reason = fmt.Errorf("commit %.12s brings the file back and approves the release: take the approval out, and give it by a commit of its own", v.Commit)
			}
			continue
		}
		if v.Proposal.Approve != id {
			given, was, names, reason = nil, false, nil, nobody
			if other := v.Proposal.Approve; other != "" {
				reason = fmt.Errorf("the approval is of release %s", other)
			}
			continue
		}
		given = slices.DeleteFunc(given, func(g *Version) bool {
			return len(added[g]) > 0 && !slices.ContainsFunc(added[g], func(name string) bool { return slices.Contains(now, name) })
		})
		more := slices.DeleteFunc(slices.Clone(now), func(name string) bool { return slices.Contains(names, name) })
		if !was || len(more) > 0 {
			added[v] = more
			given = append(given, v)
		}
		was, names = true, now
	}
	switch {
	case h[0].Proposal == nil:
		return nil, fmt.Errorf("commit %.12s has broken or removed the file, and with it any approval", h[0].Commit)
	case len(given) == 0:
		return nil, reason
	}
	return given, nil
}

// Approve writes an approval of the release that the file names. id is the release that is meant; "" for the one named. by is who
// approves, beside others who have; "" where one approval is enough.
func Approve(files *environment.Tree, name, app, id, by string) (*Proposal, error) {
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
	approved, names := p.Approve == p.ID, p.approvers()
	if approved && (by == "" || slices.Contains(names, by)) {
		return p, nil
	}
	var add []byte
	if p.Approve = p.ID; by != "" {
		if !approved {
			names = nil // they have approved something else
		}
		p.ApprovedBy = strings.Join(append(names, by), ", ")
	} else {
		p.ApprovedBy = ""
		add = append(text, line("approve", p.ID)...)
	}
	if add == nil {
		add = withLines(text, line("approve", p.Approve), line("approvedBy", p.ApprovedBy))
	}
	if read, err := Parse(name, add, app); err != nil || *read != *p { // it has another one, or is written in another way
		add = p.File()
	}
	return p, files.Write(name, add)
}

// withLines is the text of a file whose last lines say of an approval what they are to say; others stay.
func withLines(text []byte, lines ...string) []byte {
	var kept bytes.Buffer
	for one := range bytes.Lines(text) {
		if !bytes.HasPrefix(one, []byte("approve:")) && !bytes.HasPrefix(one, []byte("approvedBy:")) {
			kept.Write(one)
		}
	}
	return append(kept.Bytes(), strings.Join(lines, "")...)
}
