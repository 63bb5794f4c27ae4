package gitlabtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
)

// trigger answers POST /projects/:id/trigger/pipeline.
func (s *Server) trigger(w http.ResponseWriter, r *http.Request, project string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	s.mu.Lock()
	var fault Fault
	if s.posts < len(s.Faults) {
		fault = s.Faults[s.posts]
	}
	s.posts++
	s.bodies = append(s.bodies, string(body))
	s.mu.Unlock()

	switch fault.Kind {
	case Refuse:
		s.unavailable(w, fault)
		return
	case Drop:
		panic(http.ErrAbortHandler)
	case Limit:
		s.limited(w, fault)
		return
	}
	var request triggerRequest
	if err := json.Unmarshal(body, &request); err != nil {
		fail(w, http.StatusBadRequest, `{"error":"variables needs to be a map of key-valued strings"}`)
		return
	}
	if !s.accepts(w, project, request, fault) {
		return
	}
	p := s.create(request.Ref, request.Variables, request.Inputs, fault)
	switch fault.Kind {
	case RefuseAfter:
		s.unavailable(w, fault)
	case DropAfter:
		panic(http.ErrAbortHandler)
	case InvalidFile:
		fail(w, http.StatusUnprocessableEntity, `{"message":{"base":["jobs config should contain at least one visible job"]}}`)
	case Rejected:
		fail(w, http.StatusUnprocessableEntity, `{"message":{"base":["External validation failed"]}}`)
	case CutAnswer:
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"id":%d,"iid":`, p.ID)
		panic(http.ErrAbortHandler)
	default:
		if fault.Kind == Slow {
			s.Sleep(fault.Delay)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		write(w, http.StatusCreated, s.whole(p))
	}
}

// triggerRequest is the body of a POST that starts a pipeline.
type triggerRequest struct {
	Ref, Token string
	Variables  map[string]string
	Inputs     map[string]any
}

// accepts answers a request that GitLab refuses, and says whether it accepts it.
func (s *Server) accepts(w http.ResponseWriter, project string, request triggerRequest, fault Fault) bool {
	s.mu.Lock()
	known := project == s.Project || project == "7"
	token, refusal := s.TriggerToken, s.Refusal
	s.mu.Unlock()
	switch {
	case request.Ref == "":
		fail(w, http.StatusBadRequest, `{"error":"ref is missing"}`)
		return false
	case request.Token == "":
		fail(w, http.StatusBadRequest, `{"error":"token is missing"}`)
		return false
	case !known || request.Token != token: // the same answer, so that projects cannot be guessed
		fail(w, http.StatusNotFound, `{"message":"404 Not Found"}`)
		return false
	case !slices.Contains(s.Refs, request.Ref):
		refuse(w, "Reference not found")
		return false
	case s.NoVariables && len(request.Variables) > 0:
		refuse(w, "Insufficient permissions to set pipeline variables")
		return false
	case refusal != "":
		refuse(w, refusal)
		return false
	case fault.Kind == Throttle:
		refuse(w, "Too many pipelines created in the last minute. Try again later.")
		return false
	}
	return true
}

func (s *Server) create(ref string, variables map[string]string, inputs map[string]any, fault Fault) *Pipeline {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, id := variables["CROSSBILL_APP"], variables["CROSSBILL_RELEASE_ID"]
	if inputs != nil {
		app, _ = inputs["app"].(string)
		id, _ = inputs["release_id"].(string)
	}
	name := "release " + app + " " + id
	if preview, ok := inputs["preview_id"].(string); ok { // the name says the file of the project
		name = "preview " + app + " " + preview
	}
	p := &Pipeline{
		ID: s.nextID(), Name: name, Ref: ref, Source: "trigger",
		Committed: s.Now(), Life: s.Life, Variables: variables, Inputs: inputs,
	}
	switch fault.Kind {
	case RefuseAfter, DropAfter:
		p.Committed = p.Committed.Add(fault.Delay)
	case InvalidFile, InvalidFile201:
		p.Name, p.Status, p.YamlErrors = "", "failed", "jobs config should contain at least one visible job"
	case Rejected, Rejected201: // before PopulateMetadata in Ci::CreatePipelineService, which gives the name
		p.Name, p.Status = "", "failed"
	}
	s.pipelines = append(s.pipelines, p)
	return p
}
