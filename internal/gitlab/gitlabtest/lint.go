package gitlabtest

import (
	"encoding/json"
	"net/http"
)

// Lint is what CI lint makes of a pipeline file. This GitLab does not read YAML: a test says what the answer is.
type Lint struct {
	Merged           string
	Errors, Warnings []string
}

// lint answers POST ci/lint. As in GitLab, a file that is not valid is an answer with status 200, and without content it
// is a bad request. Unlike there, dry_run and include_jobs are not looked at.
func (s *Server) lint(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Content *string `json:"content"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil || request.Content == nil {
		fail(w, http.StatusBadRequest, `{"error":"content is missing"}`)
		return
	}
	answer := Lint{Merged: *request.Content}
	if s.Lint != nil {
		answer = s.Lint(*request.Content)
	}
	list := func(texts []string) []string { return append([]string{}, texts...) }
	write(w, http.StatusOK, map[string]any{
		"valid": len(answer.Errors) == 0, "merged_yaml": answer.Merged, "errors": list(answer.Errors), "warnings": list(answer.Warnings), "includes": []any{},
	})
}
