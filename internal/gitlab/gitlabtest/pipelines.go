package gitlabtest

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/our-org/crossbill/internal/pipelinefile"
)

func (s *Server) nextID() int64 { return int64(1000 + len(s.pipelines)) }

func (s *Server) status(p *Pipeline) string {
	if p.Status != "" {
		return p.Status
	}
	return s.phase(p).Status
}

func (s *Server) phase(p *Pipeline) Phase {
	now := Phase{Status: "created"}
	for _, phase := range p.Life {
		if !s.Now().Before(p.Committed.Add(phase.After)) {
			now = phase
		}
	}
	return now
}

// find gives a pipeline that is committed.
func (s *Server) find(id string) *Pipeline {
	for _, p := range s.pipelines {
		if strconv.FormatInt(p.ID, 10) == id && !s.Now().Before(p.Committed) {
			return p
		}
	}
	return nil
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	rows := []map[string]any{}
	for _, p := range s.pipelines {
		visible := !s.Now().Before(p.Committed.Add(s.Lag))
		if !visible || query.Has("name") && query.Get("name") != p.Name ||
			query.Has("source") && query.Get("source") != p.Source ||
			query.Has("ref") && query.Get("ref") != p.Ref ||
			query.Has("sha") && query.Get("sha") != cmp.Or(p.SHA, pipelineSHA) ||
			query.Has("status") && query.Get("status") != s.status(p) ||
			query.Has("yaml_errors") && (query.Get("yaml_errors") == "true") != (p.YamlErrors != "") {
			continue
		}
		rows = append(rows, s.row(p))
	}
	if query.Get("sort") != "asc" { // GitLab's default: newest first
		slices.Reverse(rows)
	}
	page(w, r, rows)
}

const pipelineSHA = "a91957a858320c0e17f3a0eca7cfacbff50ea29a"

// row is a pipeline as a list shows it.
func (s *Server) row(p *Pipeline) map[string]any {
	return map[string]any{
		"id": p.ID, "iid": p.ID - 999, "project_id": 7, "sha": cmp.Or(p.SHA, pipelineSHA),
		"ref": p.Ref, "status": s.status(p), "source": p.Source, "name": p.Name,
		"created_at": p.Committed, "updated_at": s.Now(),
		"web_url": fmt.Sprintf("https://gitlab.example.com/%s/-/pipelines/%d", s.Project, p.ID),
	}
}

// whole is a pipeline as it is shown by itself.
func (s *Server) whole(p *Pipeline) map[string]any {
	row := s.row(p)
	row["before_sha"], row["tag"] = strings.Repeat("0", 40), p.Tag
	row["yaml_errors"] = nil
	if p.YamlErrors != "" {
		row["yaml_errors"] = p.YamlErrors
	}
	user := s.userOf(s.starter(p))
	row["user"] = map[string]any{"id": user.ID, "username": user.Login, "name": "Release bot", "state": "active"}
	row["started_at"], row["finished_at"], row["duration"], row["coverage"] = nil, nil, nil, nil
	row["detailed_status"] = map[string]any{"text": s.status(p), "label": s.status(p), "group": s.status(p)}
	return row
}

// cancel answers POST /projects/:id/pipelines/:pipeline_id/cancel. Its jobs are canceled with it, but for those that have finished or
// are manual (CANCELABLE_STATUSES in app/models/concerns/ci/has_status.rb). One that blocks keeps the pipeline at its gate
// (lib/gitlab/ci/status/composite.rb).
func (s *Server) cancel(w http.ResponseWriter, p *Pipeline) {
	if now := s.status(p); now != "success" && now != "failed" {
		jobs := slices.Clone(s.phase(p).Jobs)
		for i, j := range jobs {
			if slices.Contains([]string{"created", "waiting_for_resource", "preparing", "pending", "running", "scheduled"}, j.Status) {
				jobs[i].Status = "canceled"
			}
		}
		after := "canceled"
		if len(jobs) > 0 {
			var latest []pipelinefile.SimulatedJob
			for _, j := range jobs {
				if !j.Retried {
					latest = append(latest, pipelinefile.SimulatedJob{Status: j.Status, AllowFailure: j.AllowFailure})
				}
			}
			after = pipelinefile.StatusOf(latest)
		}
		p.Status, p.Life = after, []Phase{{Status: after, Jobs: jobs}}
	}
	write(w, http.StatusOK, s.whole(p))
}
