package gitlabtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The answers here are about the project's code: commits with their statuses, and merge requests with their notes. They were
// checked against lib/api/commit_statuses.rb with its spec, create_commit_status_service.rb and add_job_service.rb (which
// pipeline a status goes to, which row it changes, and that the state it has already is refused with nothing changed),
// pipeline_policy.rb (a protected branch takes the right to push or merge to it), generic_commit_status.rb, lib/api/notes.rb
// with notes_helpers.rb (quick actions, who may change a note), lib/api/commits.rb, and the pages "Commits API", "Notes API"
// and "External commit statuses". They differ: a status does not change what its pipeline shows, a pipeline is never archived
// or full, a branch contains every commit, a note has no events of the system among its neighbors unless a test adds them,
// who may not merge to a protected branch is everybody below Maintainer, and nothing is limited but by faults.

// MergeRequest is one of the code.
type MergeRequest struct {
	IID         int64
	Target      string // default main
	MergedAt    time.Time
	MergeCommit string
	Commits     []string // that its changes contain
}

// Note is one on a merge request.
type Note struct {
	ID      int64
	Request int64
	Author  string
	Body    string
	System  bool
}

// CommitStatus is a status of a commit.
type CommitStatus struct {
	ID          int64
	SHA         string
	Pipeline    int64
	Name        string
	State       string
	Description string
	Address     string
	User        string
	Retried     bool // another one of its name and pipeline is newer
	CreatedAt   time.Time
}

// Notes are all notes.
func (s *Server) Notes() []Note {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.notes)
}

// AddNote adds one that no request made.
func (s *Server) AddNote(n Note) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.ID = int64(len(s.notes) + 1)
	s.notes = append(s.notes, n)
}

// Statuses are all statuses of commits, also those that a newer one has taken the place of.
func (s *Server) Statuses() []CommitStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.statuses)
}

// login is who the request's token belongs to.
func (s *Server) login(r *http.Request) string {
	return map[string]string{s.APIToken: s.APIUser, s.ReadToken: s.ReadUser}[r.Header.Get("PRIVATE-TOKEN")]
}

// code answers what is about the project's code; false if the request is about something else.
func (s *Server) code(w http.ResponseWriter, r *http.Request, rest string) bool {
	parts := strings.Split(rest, "/")
	switch {
	case len(parts) >= 3 && parts[0] == "repository" && parts[1] == "commits":
		s.commit(w, r, parts[2], parts[3:])
	case len(parts) == 2 && parts[0] == "statuses" && r.Method == http.MethodPost:
		s.setStatus(w, r, parts[1])
	case len(parts) >= 3 && parts[0] == "merge_requests" && parts[2] == "notes":
		s.routeNotes(w, r, parts[1], parts[3:])
	default:
		return false
	}
	return true
}

// commit answers a read of a commit, or of what belongs to it.
func (s *Server) commit(w http.ResponseWriter, r *http.Request, sha string, of []string) {
	whole := s.wholeSHA(sha)
	switch {
	case s.Private && s.role(r) < Reporter:
		fail(w, http.StatusForbidden, forbidden)
	case whole == "":
		fail(w, http.StatusNotFound, `{"message":"404 Commit Not Found"}`)
	case len(of) == 0:
		write(w, http.StatusOK, map[string]any{"id": whole, "short_id": whole[:8], "created_at": s.Commits[whole], "committed_date": s.Commits[whole], "authored_date": s.Commits[whole], "status": nil})
	case of[0] == "merge_requests":
		s.mergeRequests(w, r, whole)
	case of[0] == "statuses":
		rows := []map[string]any{}
		for _, row := range s.statuses {
			if query := r.URL.Query(); row.SHA != whole || row.Retried && !query.Has("all") || query.Has("name") && query.Get("name") != row.Name {
				continue
			}
			rows = append(rows, s.statusRow(row))
		}
		page(w, r, rows)
	default:
		fail(w, http.StatusNotFound, `{"error":"404 Not Found"}`)
	}
}

func (s *Server) wholeSHA(sha string) string {
	for whole := range s.Commits {
		if len(sha) >= 7 && strings.HasPrefix(whole, sha) {
			return whole
		}
	}
	return ""
}

func (s *Server) mergeRequests(w http.ResponseWriter, r *http.Request, sha string) {
	rows := []map[string]any{}
	for _, mr := range slices.Backward(s.MergeRequests) {
		if mr.MergeCommit != sha && !slices.Contains(mr.Commits, sha) {
			continue
		}
		row := map[string]any{"id": mr.IID + 100, "iid": mr.IID, "project_id": 7, "target_project_id": 7, "source_project_id": 7, "target_branch": cmp.Or(mr.Target, "main"), "state": "opened", "merged_at": nil, "merge_commit_sha": nil, "squash_commit_sha": nil}
		if len(mr.Commits) > 0 {
			row["sha"] = mr.Commits[len(mr.Commits)-1]
		}
		if !mr.MergedAt.IsZero() {
			row["state"], row["merged_at"] = "merged", mr.MergedAt
		}
		if mr.MergeCommit != "" {
			row["merge_commit_sha"] = mr.MergeCommit
		}
		rows = append(rows, row)
	}
	page(w, r, rows)
}

func (s *Server) statusRow(c CommitStatus) map[string]any {
	row := map[string]any{"id": c.ID, "sha": c.SHA, "ref": "main", "status": c.State, "name": c.Name, "target_url": nil, "description": nil, "created_at": c.CreatedAt, "started_at": nil, "finished_at": nil, "allow_failure": false, "coverage": nil, "pipeline_id": c.Pipeline, "author": map[string]any{"id": 1, "username": c.User}}
	if c.Address != "" {
		row["target_url"] = c.Address
	}
	if c.Description != "" {
		row["description"] = c.Description
	}
	return row
}

// setStatus answers POST /projects/:id/statuses/:sha.
func (s *Server) setStatus(w http.ResponseWriter, r *http.Request, sha string) {
	var body struct {
		State       string `json:"state"`
		Name        string `json:"name"`
		Context     string `json:"context"`
		Address     string `json:"target_url"`
		Description string `json:"description"`
		Pipeline    int64  `json:"pipeline_id"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	name := cmp.Or(body.Name, body.Context, "default")
	if s.role(r) < Developer {
		fail(w, http.StatusForbidden, forbidden)
		return
	}
	if _, ok := s.Commits[sha]; !ok {
		fail(w, http.StatusNotFound, `{"message":"404 Commit Not Found"}`)
		return
	}
	var in *Pipeline
	for _, p := range slices.Backward(s.pipelines) { // the newest
		if cmp.Or(p.SHA, pipelineSHA) == sha && (body.Pipeline == 0 || p.ID == body.Pipeline) {
			in = p
			break
		}
	}
	if in == nil && body.Pipeline != 0 {
		fail(w, http.StatusNotFound, `{"message":"404 Pipeline for pipeline_id, sha and ref Not Found"}`)
		return
	}
	if ref := "main"; (in == nil || in.Ref == ref) && slices.Contains(s.ProtectedRefs, ref) && s.role(r) < Maintainer && !s.DevelopersMerge {
		fail(w, http.StatusForbidden, forbidden)
		return
	}
	if utf8.RuneCountInString(body.Address) > 255 || utf8.RuneCountInString(body.Description) > 255 || len(name) > 255 {
		fail(w, http.StatusBadRequest, `{"message":{"target_url":["is too long (maximum is 255 characters)"]}}`)
		return
	}
	if in == nil {
		in = &Pipeline{ID: s.nextID(), Ref: "main", SHA: sha, Source: "external", Status: body.State, Committed: s.Now()}
		s.pipelines = append(s.pipelines, in)
	}
	at := slices.IndexFunc(s.statuses, func(c CommitStatus) bool {
		return c.Pipeline == in.ID && c.Name == name && c.User == s.login(r) && (c.State == "running" || c.State == "pending")
	})
	row := CommitStatus{ID: int64(len(s.statuses) + 1), SHA: sha, Pipeline: in.ID, Name: name, State: "created", User: s.login(r), CreatedAt: s.Now()}
	if at >= 0 {
		row = s.statuses[at]
	}
	refuse := func(event, from string) {
		fail(w, http.StatusBadRequest, fmt.Sprintf(`{"message":"Cannot transition status via :%s from :%s (Reason(s): Status cannot transition via \"%s\")"}`, event, from, event))
	}
	switch state := body.State; {
	case state == "running" && row.State == "running":
		refuse("run", row.State)
		return
	case state == "pending" && row.State != "created":
		refuse("enqueue", row.State)
		return
	case !slices.Contains([]string{"pending", "running", "success", "failed", "canceled", "skipped"}, state):
		fail(w, http.StatusBadRequest, `{"error":"state does not have a valid value"}`)
		return
	}
	row.State = body.State
	row.Address, row.Description = cmp.Or(body.Address, row.Address), cmp.Or(body.Description, row.Description)
	if at >= 0 {
		s.statuses[at] = row
	} else {
		for i, before := range s.statuses {
			if before.Pipeline == in.ID && before.Name == name {
				s.statuses[i].Retried = true
			}
		}
		s.statuses = append(s.statuses, row)
	}
	write(w, http.StatusCreated, s.statusRow(row))
}

// quickAction is a line that GitLab takes out of a note, and carries out.
var quickAction = regexp.MustCompile(`(?m)^/[a-z_]+.*$`)

// longestNote is how many characters a note may have.
const longestNote = 1_000_000

// routeNotes answers a request about the notes of a merge request.
func (s *Server) routeNotes(w http.ResponseWriter, r *http.Request, request string, of []string) {
	iid, _ := strconv.ParseInt(request, 10, 64)
	if !slices.ContainsFunc(s.MergeRequests, func(mr MergeRequest) bool { return mr.IID == iid }) || s.role(r) < Reporter {
		fail(w, http.StatusNotFound, `{"message":"404 Not found"}`)
		return
	}
	if r.Method == http.MethodGet && len(of) == 0 {
		rows := []map[string]any{}
		for _, n := range s.notes {
			if n.Request == iid {
				rows = append(rows, noteRow(n))
			}
		}
		if r.URL.Query().Get("sort") != "asc" {
			slices.Reverse(rows)
		}
		page(w, r, rows)
		return
	}
	var body struct {
		Body string `json:"body"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	text := quickAction.ReplaceAllString(body.Body, "")
	if r.Method != http.MethodDelete && (strings.TrimSpace(text) == "" || utf8.RuneCountInString(text) > longestNote) {
		fail(w, http.StatusBadRequest, `{"message":"400 Bad request - Note {:note=>[\"is too long (maximum is 1000000 characters)\"]}"}`)
		return
	}
	if r.Method == http.MethodPost && len(of) == 0 {
		n := Note{ID: 1, Request: iid, Author: s.login(r), Body: text}
		for _, other := range s.notes {
			n.ID = max(n.ID, other.ID+1)
		}
		s.notes = append(s.notes, n)
		write(w, http.StatusCreated, noteRow(n))
		return
	}
	at := -1
	if len(of) == 1 {
		at = slices.IndexFunc(s.notes, func(n Note) bool { return n.Request == iid && strconv.FormatInt(n.ID, 10) == of[0] })
	}
	switch {
	case at < 0:
		fail(w, http.StatusNotFound, `{"message":"404 Not found"}`)
	case s.notes[at].System || s.notes[at].Author != s.login(r) && s.role(r) < Maintainer:
		fail(w, http.StatusForbidden, forbidden)
	case r.Method == http.MethodPut:
		s.notes[at].Body = text
		write(w, http.StatusOK, noteRow(s.notes[at]))
	case r.Method == http.MethodDelete:
		s.notes = slices.Delete(s.notes, at, at+1)
		w.WriteHeader(http.StatusNoContent)
	default:
		fail(w, http.StatusMethodNotAllowed, `{"error":"405 Not Allowed"}`)
	}
}

func noteRow(n Note) map[string]any {
	//nolint:misspell // GitLab writes it so
	return map[string]any{"id": n.ID, "type": nil, "body": n.Body, "author": map[string]any{"id": 1, "username": n.Author, "state": "active"}, "system": n.System, "noteable_iid": n.Request, "noteable_type": "MergeRequest", "internal": false}
}
