package gitlabtest

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The answers here show how the project is set up. They were checked against lib/api/personal_access_tokens/self_information.rb
// (any scope; a job's token gets 400), protected_environments.rb (admin_protected_environments: 403 before anything is
// looked up), branches.rb (download_code), members.rb (a query finds parts of names), files.rb (authorize_read_code) and the
// pages "Projects API" and "Branches API". They differ: the repository has no files but the agents' configurations, the role of
// a token is that of its user, and members come from Members alone, not from groups.

// Roles of members, as GitLab numbers them.
const (
	Reporter   = 20
	Developer  = 30
	Maintainer = 40
)

// role is that of the owner of the request's token.
func (s *Server) role(r *http.Request) int {
	return s.Members[s.login(r)]
}

const forbidden = `{"message":"403 Forbidden"}`

// ownToken answers GET /personal_access_tokens/self.
func (s *Server) ownToken(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	scopes, known := map[string][]string{s.APIToken: {"api"}, s.ReadToken: {"read_api"}}[r.Header.Get("PRIVATE-TOKEN")]
	switch {
	case !known:
		fail(w, http.StatusUnauthorized, `{"message":"401 Unauthorized"}`)
	case s.OfJob:
		fail(w, http.StatusBadRequest, `{"message":"400 Bad request - This endpoint requires token type to be a personal access token"}`)
	default:
		if s.Scopes != nil {
			scopes = s.Scopes
		}
		answer := map[string]any{"id": 1, "name": "crossbill", "revoked": false, "active": true, "scopes": scopes, "user_id": s.userOf(s.login(r)).ID, "expires_at": nil}
		if s.Expires != "" {
			answer["expires_at"] = s.Expires
		}
		write(w, http.StatusOK, answer)
	}
}

// setUp answers what shows how the project is set up; false if the request is about something else.
func (s *Server) setUp(w http.ResponseWriter, r *http.Request, rest string) bool {
	if r.Method != http.MethodGet {
		return false
	}
	switch part, name, _ := strings.Cut(rest, "/"); {
	case rest == "":
		project := map[string]any{"id": 7, "path_with_namespace": s.Project, "default_branch": "main"}
		if s.role(r) >= Maintainer {
			project["ci_pipeline_variables_minimum_override_role"], project["ci_forward_deployment_enabled"] = s.VariablesRole, s.ForwardDeployment
		}
		write(w, http.StatusOK, project)
	case part == "protected_environments":
		name, _ = url.PathUnescape(name)
		deployers, ok := s.ProtectedEnvironments[name]
		switch {
		case s.role(r) < Maintainer:
			fail(w, http.StatusForbidden, forbidden)
		case !ok:
			fail(w, http.StatusNotFound, `{"message":"404 Not found"}`)
		default:
			levels := []map[string]any{}
			for i, login := range deployers {
				levels = append(levels, map[string]any{"id": i + 1, "access_level": nil, "access_level_description": login, "user_id": i + 1})
			}
			write(w, http.StatusOK, map[string]any{"name": name, "deploy_access_levels": levels, "required_approval_count": 0, "approval_rules": []any{}})
		}
	case strings.HasPrefix(rest, "repository/branches/"):
		name, _ = url.PathUnescape(strings.TrimPrefix(rest, "repository/branches/"))
		switch {
		case s.role(r) < Reporter:
			fail(w, http.StatusForbidden, forbidden)
		case !slices.Contains(s.Refs, name):
			fail(w, http.StatusNotFound, `{"message":"404 Branch Not Found"}`)
		default:
			write(w, http.StatusOK, map[string]any{"name": name, "protected": slices.Contains(s.ProtectedRefs, name), "default": name == "main", "developers_can_push": false, "developers_can_merge": s.DevelopersMerge,
				"can_push": s.role(r) >= Maintainer || s.role(r) >= Developer && !slices.Contains(s.ProtectedRefs, name)})
		}
	case strings.HasPrefix(rest, "members/all/"):
		for login, level := range s.Members {
			if strconv.FormatInt(s.userOf(login).ID, 10) == strings.TrimPrefix(rest, "members/all/") {
				write(w, http.StatusOK, map[string]any{"id": s.userOf(login).ID, "username": login, "state": "active", "access_level": level})
				return true
			}
		}
		fail(w, http.StatusNotFound, `{"message":"404 Not found"}`)
	case rest == "members/all":
		rows := []map[string]any{}
		for login, level := range s.Members {
			if strings.Contains(login, r.URL.Query().Get("query")) {
				rows = append(rows, map[string]any{"id": 1, "username": login, "state": "active", "access_level": level})
			}
		}
		page(w, r, rows)
	default:
		return false
	}
	return true
}

// agentConfig answers GET of an agent's configuration, in whichever project; false if the request is about something else.
func (s *Server) agentConfig(w http.ResponseWriter, r *http.Request, project, rest string) bool {
	file, ok := strings.CutPrefix(rest, "repository/files/")
	file, raw := strings.CutSuffix(file, "/raw")
	if !ok || !raw || r.Method != http.MethodGet {
		return false
	}
	file, _ = url.PathUnescape(file)
	agent := strings.TrimSuffix(strings.TrimPrefix(file, ".gitlab/agents/"), "/config.yaml")
	text, ok := s.AgentConfigs[project+":"+agent]
	switch {
	case !ok:
		fail(w, http.StatusNotFound, `{"message":"404 Project Not Found"}`)
	case s.role(r) < Reporter:
		fail(w, http.StatusForbidden, forbidden)
	default:
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write([]byte(text))
	}
	return true
}
