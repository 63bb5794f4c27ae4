package gitlabtest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

// press plays a manual job, or retries one that has ended, as the owner of the access token: its pipeline runs again.
func (s *Server) press(w http.ResponseWriter, id, action string) {
	for _, p := range s.pipelines {
		phase := s.phase(p)
		for i, j := range phase.Jobs {
			if strconv.FormatInt(jobID(p, i), 10) != id {
				continue
			}
			if action == "play" && j.Status != "manual" {
				fail(w, http.StatusBadRequest, `{"message":"400 Bad request - Unplayable Job"}`)
				return
			}
			if action == "retry" && !slices.Contains([]string{"success", "failed", "canceled", "canceling"}, j.Status) { // Ci::Build#retryable?
				fail(w, http.StatusForbidden, `{"message":"403 Forbidden - Job is not retryable"}`)
				return
			}
			if !s.mayDeploy(j.Environment, s.APIUser) {
				fail(w, http.StatusForbidden, `{"message":"403 Forbidden"}`)
				return
			}
			jobs := slices.Clone(phase.Jobs)
			jobs[i].Status, jobs[i].User = "pending", s.APIUser
			p.Status, p.Life = "", []Phase{{Status: "running", Jobs: jobs}}
			write(w, http.StatusOK, map[string]any{"id": jobID(p, i), "name": j.Name, "stage": j.Stage, "status": "pending"})
			return
		}
	}
	fail(w, http.StatusNotFound, `{"message":"404 Not found"}`)
}

func jobID(p *Pipeline, i int) int64 { return p.ID*100 + int64(i) }

func (s *Server) jobs(w http.ResponseWriter, r *http.Request, p *Pipeline) {
	rows := []map[string]any{}
	for i, j := range s.phase(p).Jobs {
		if j.Retried && r.URL.Query().Get("include_retried") != "true" {
			continue
		}
		row := map[string]any{
			"id": jobID(p, i), "name": j.Name, "stage": j.Stage, "status": j.Status, "ref": p.Ref,
			"allow_failure": j.AllowFailure, "web_url": fmt.Sprintf("https://gitlab.example.com/%s/-/jobs/%d", s.Project, jobID(p, i)),
			"pipeline": map[string]any{"id": p.ID, "project_id": 7, "ref": p.Ref, "status": s.status(p)},
		}
		if !j.StartedAt.IsZero() {
			row["started_at"] = j.StartedAt
		}
		if !j.FinishedAt.IsZero() {
			row["finished_at"] = j.FinishedAt
		}
		if j.User != "" {
			row["user"] = map[string]any{"id": 1, "username": j.User, "state": "active"}
		}
		rows = append(rows, row)
	}
	slices.Reverse(rows) // newest first
	page(w, r, rows)
}

func (s *Server) bridges(w http.ResponseWriter, r *http.Request, p *Pipeline) {
	rows := []map[string]any{}
	if p.Child != 0 {
		row := map[string]any{"id": p.ID*100 + 99, "name": "child", "stage": "deploy", "status": "running", "downstream_pipeline": nil}
		if child := s.find(strconv.FormatInt(p.Child, 10)); child != nil {
			row["downstream_pipeline"] = s.row(child)
		}
		rows = append(rows, row)
	}
	page(w, r, rows)
}
