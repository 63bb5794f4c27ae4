package proposal

import (
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/environment/gittest"
)

// served is a repository with Git's own server, and who reads it.
func served(t *testing.T) (*gittest.Repository, *environment.Repository) {
	t.Helper()
	root := t.TempDir()
	stored, err := gittest.Init(filepath.Join(root, "environment.git"))
	if err != nil {
		t.Fatal(err)
	}
	handler, err := gittest.Server(root)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	repository, err := environment.New(environment.Options{URL: server.URL + "/environment.git", Branch: "main"})
	if err != nil {
		t.Fatal(err)
	}
	return stored, repository
}

// TestApprovalInGit: an approval is a commit of its own, after the one that proposed the release and in the branch still.
func TestApprovalInGit(t *testing.T) {
	stored, repository := served(t)
	const file = "releases/shop.yaml"
	commit := func(subject string, alone bool, text []byte) string {
		t.Helper()
		hash, err := stored.Commit(subject, gittest.Change{Files: map[string]string{file: string(text)}, Alone: alone})
		if err != nil {
			t.Fatal(err)
		}
		return hash
	}
	p, q := good(), good(from("8"))
	want := func(what, proposed string, p *Proposal, by, reason string) {
		t.Helper()
		h, head, err := ReadHistory(t.Context(), repository, file, "shop", proposed)
		if err != nil {
			t.Fatal(err)
		}
		if tip, err := stored.Git("rev-parse", "main"); err != nil || tip != head {
			t.Errorf("%s: head %s, want %s (%v)", what, head, tip, err)
		}
		all, err := h.Approvals(proposed, p.ID, nil, 1, time.Now())
		var a *Approval
		if len(all) > 0 {
			a = &all[0]
		}
		switch {
		case by != "" && (a == nil || a.Commit != by || a.By == "" || a.Signed):
			t.Errorf("%s: got %+v, %v", what, a, err)
		case by == "" && (a != nil || !strings.Contains(err.Error(), reason)):
			t.Errorf("%s: got %+v, %v, want %s", what, a, err, reason)
		}
	}
	// approve edits the file as `crossbill approve --in-git` does.
	approve := func(id string) (hash string, came error) {
		t.Helper()
		made, err := repository.Commit(t.Context(), environment.Message{Subject: "approve"}, func(files *environment.Tree) error {
			_, came = Approve(files, file, "shop", id, "")
			return came
		})
		if err != nil && came == nil {
			t.Fatal(err)
		}
		return made.Hash, came
	}

	if _, err := stored.Commit("First", gittest.Change{Files: map[string]string{"README.md": "releases"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := approve(""); err == nil || !strings.Contains(err.Error(), "nothing is proposed there") {
		t.Errorf("without a proposal: %v", err)
	}
	first := commit("propose", false, append([]byte("# keep this\n"), p.File()...))
	want("proposed", first, p, "", "nobody has approved it")
	if _, err := approve(q.ID); err == nil || !strings.Contains(err.Error(), "it names release "+p.ID+", not "+q.ID) {
		t.Errorf("another release was approved: %v", err)
	}
	by := commit("in an editor", false, []byte(string(p.File())+"approve: "+p.ID+" # Mona\n"))
	want("approved in an editor", first, p, by, "")
	commit("comment", false, []byte("# a comment\n"+string(p.File())+"approve: "+p.ID+"\n"))
	want("with another comment", first, p, by, "")
	commit("take it back", false, append([]byte("# keep this\n"), p.File()...))
	want("taken back", first, p, "", "nobody has approved it")
	made, err := approve("")
	if err != nil {
		t.Fatal(err)
	}
	h, _, err := ReadHistory(t.Context(), repository, file, "shop", first)
	if a, no := h.Approvals(first, p.ID, nil, 1, time.Now()); err != nil || no != nil || len(a) != 1 || a[0].Commit != made || a[0].By != "Crossbill <crossbill@localhost>" {
		t.Errorf("approved by the command: %+v, %v, %v", a, no, err)
	}
	if text, err := stored.Git("show", "main:"+file); err != nil || !strings.HasPrefix(text, "# keep this\n") {
		t.Errorf("the comment is gone: %s %v", text, err)
	}
	if again, err := approve(p.ID); err != nil || again != made {
		t.Errorf("approved again: commit %s, %v", again, err)
	}
	second := commit("propose", false, q.File())
	want("the first, after the second was proposed", first, p, made, "")
	commit("approve", false, append(q.File(), "approve: "+q.ID+"\n"...))
	commit("broken", false, []byte("app: ["))
	want("approved, and then broken", second, q, "", "has broken or removed the file")
	commit("corrected", false, append(q.File(), "approve: "+q.ID+"\n"...))
	want("corrected with an approval", second, q, "", "brings the file back and approves the release")

	third := commit("all anew", true, q.File())
	want("forced away", second, q, "", "is not in the branch")
	commit("approved", true, append(q.File(), "approve: "+q.ID+"\n"...))
	want("forced to be approved", third, q, "", "is not in the branch")
	if h, _, err := ReadHistory(t.Context(), repository, file, "shop", ""); err != nil {
		t.Error(err)
	} else if p, by, err := h.Current(); err != nil || p.ID != q.ID || by.Commit != h[0].Commit {
		t.Errorf("current: %v %v %v", p, by, err)
	}
}

// TestSignedApproval: the commit that brings an approval has to be signed by one who may.
func TestSignedApproval(t *testing.T) {
	p := good()
	approved := *p
	approved.Approve = p.ID
	h := History{{Version: environment.Version{Commit: "b", Author: "Mona <mona@example.com>"}, Proposal: &approved}, {Version: environment.Version{Commit: "a"}, Proposal: p}}
	if a, err := h.Approvals("a", p.ID, environment.Signers{}, 1, time.Now()); a != nil || !strings.Contains(err.Error(), "commit b approves it, and does not count: it is not signed") {
		t.Errorf("got %+v, %v", a, err)
	}
}

// TestSeveralApprovals: each commit counts as whoever has made it, whatever names it adds, and each person once.
func TestSeveralApprovals(t *testing.T) {
	p := good()
	type by struct{ author, approve, names string }
	for name, c := range map[string]struct {
		commits []by // after the proposal
		want    string
	}{
		"two people":                    {[]by{{"mona", p.ID, "mona"}, {"lisa", p.ID, "mona, lisa"}}, "mona, lisa"},
		"the first without a name":      {[]by{{"mona", p.ID, ""}, {"lisa", p.ID, "lisa"}}, "mona, lisa"},
		"three":                         {[]by{{"mona", p.ID, "mona"}, {"lisa", p.ID, "lisa mona"}, {"ada", p.ID, "mona,lisa,ada"}}, "mona, lisa, ada"},
		"one":                           {[]by{{"mona", p.ID, "mona"}}, "1 of 2 approvals: only mona has approved it"},
		"one, twice":                    {[]by{{"mona", p.ID, "mona"}, {"Mona", p.ID, "mona, lisa"}}, "1 of 2 approvals: only mona has approved it"},
		"one, with two names":           {[]by{{"mona", p.ID, "mona, lisa"}}, "1 of 2 approvals: only mona has approved it"},
		"the name is there already":     {[]by{{"mona", p.ID, "mona, lisa"}, {"lisa", p.ID, "lisa, mona"}}, "1 of 2 approvals: only mona has approved it"},
		"one takes his name out":        {[]by{{"mona", p.ID, "mona"}, {"lisa", p.ID, "mona, lisa"}, {"lisa", p.ID, "mona"}}, "1 of 2 approvals: only mona has approved it"},
		"another one takes a name out":  {[]by{{"mona", p.ID, "mona"}, {"lisa", p.ID, "lisa"}}, "1 of 2 approvals: only lisa has approved it"},
		"all is taken back":             {[]by{{"mona", p.ID, "mona"}, {"lisa", p.ID, "mona, lisa"}, {"ada", "", ""}}, "nobody has approved it in Git"},
		"taken back, and half again":    {[]by{{"mona", p.ID, "mona"}, {"lisa", p.ID, "mona, lisa"}, {"ada", "", "mona"}, {"ada", p.ID, "mona, ada"}}, "1 of 2 approvals: only ada has approved it"},
		"names without an approval":     {[]by{{"mona", "", "mona"}, {"lisa", "", "mona, lisa"}}, "nobody has approved it in Git"},
		"a second one for another":      {[]by{{"mona", p.ID, "mona"}, {"lisa", "other", "mona, lisa"}}, "the approval is of release other"},
		"a comment, and the second one": {[]by{{"mona", p.ID, "mona"}, {"ada", p.ID, "mona"}, {"lisa", p.ID, "mona, lisa"}}, "mona, lisa"},
	} {
		t.Run(name, func(t *testing.T) {
			h := History{{Version: environment.Version{Commit: "proposed"}, Proposal: p}}
			for _, made := range c.commits {
				is := *p
				is.Approve, is.ApprovedBy = made.approve, made.names
				h = append(History{{Version: environment.Version{Commit: made.author, Author: made.author}, Proposal: &is}}, h...)
			}
			all, err := h.Approvals("proposed", p.ID, nil, 2, time.Now())
			var got []string
			for _, a := range all {
				got = append(got, a.By)
			}
			if err != nil {
				got = []string{err.Error()}
			}
			if text := strings.Join(got, ", "); text != c.want {
				t.Errorf("got %s, want %s", text, c.want)
			}
		})
	}
}
