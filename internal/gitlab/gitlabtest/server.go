// Package gitlabtest is a double of the part of GitLab's API that package gitlab uses, on HTTP, with its status
// codes, shapes, pages and rate-limit headers, and with faults in a given order. It creates pipelines as a
// transaction does: an id is taken first, the row is committed perhaps later, and a list shows it perhaps later
// still.
//
// Starting a pipeline was checked against GitLab's source (triggers.rb, pipeline_trigger_service.rb), the rest
// against its API documentation, and all shapes against its client library, by a test. ID tokens were checked against
// lib/gitlab/ci/jwt.rb and jwt_v2.rb, user_project_token_claims.rb, jwks_controller.rb, enqueue_job_service.rb (a job runs as
// who pressed it) and the page "OpenID Connect (OIDC) Authentication Using ID Tokens".
//
// It differs: there is one project, pipelines show what Life says and run nothing, a pressed job makes its pipeline run, and
// access tokens have no roles beyond their scopes. Of ID tokens: groups_direct, target_audience and job_source are left out,
// every user is a developer, every ref is a branch, and no pipeline is a merge request's, so that job_project_path is always
// project_path. A protected environment names its deployers one by one, and has no approval rules of its own. Pressing a job
// does not make the skipped jobs after it run as who pressed it. A rotated key is gone at once.
package gitlabtest

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Job is a job of a pipeline.
type Job struct {
	Name, Stage, Status string
	AllowFailure        bool
	Retried             bool // an earlier attempt
	StartedAt           time.Time
	FinishedAt          time.Time
	User                string // who pressed or retried it; "" for none
	Environment         string // only for who may press it
}

// Phase is what a pipeline shows from a time after its creation on.
type Phase struct {
	After  time.Duration
	Status string
	Jobs   []Job
}

// Pipeline is a pipeline of the double.
type Pipeline struct {
	ID         int64
	Name       string
	Ref        string
	SHA        string // of its commit; "" for one that all of these have
	Tag        bool   // Ref is a tag
	Source     string
	Status     string // "" follows Life
	YamlErrors string
	Committed  time.Time // from when it takes effect
	Life       []Phase
	Child      int64  // pipeline that a bridge job of this one started
	User       string // who started it; "" for the trigger token's owner
	Variables  map[string]string
	Inputs     map[string]any
}

// Server is one GitLab with one project. Set its fields before the first request.
type Server struct {
	Project      string
	Refs         []string
	TriggerToken string
	ReadToken    string                    // scope read_api
	APIToken     string                    // scope api
	Lint         func(content string) Lint // default: the content itself

	Now   func() time.Time    // default time.Now
	Sleep func(time.Duration) // default time.Sleep

	Lag        time.Duration // how much later than its commit a list shows a pipeline
	Faults     []Fault       // of the POSTs that start a pipeline, in their order of arrival
	ReadFaults []Fault       // of all other requests
	Life       []Phase       // of every pipeline that is started

	NoVariables bool   // pipeline variables are refused whoever sends them
	Refusal     string // message of a 400 for every trigger, "" for none

	URL                   string               // of this GitLab, and so the issuer of its ID tokens; default https://gitlab.example.com
	TriggerUser           string               // who owns the trigger token
	APIUser               string               // who owns the access token of scope api
	ReadUser              string               // who owns the one of scope read_api; "" if it may not say
	Users                 []User               // who is not here is made when first named
	ProtectedRefs         []string             // default main
	ProtectedEnvironments map[string][]string  // with the logins of those who may deploy; a GitLab without Premium has none
	Members               map[string]int       // roles by login, of the tokens' users too
	VariablesRole         string               // ci_pipeline_variables_minimum_override_role; only a maintainer's token sees it
	ForwardDeployment     bool                 // ci_forward_deployment_enabled, likewise; default true
	Scopes                []string             // of each token, in place of its own
	Expires               string               // of each token, as a date; "" for never
	OfJob                 bool                 // the tokens are no access tokens but a job's
	AgentConfigs          map[string]string    // of agents for Kubernetes, by PROJECT:AGENT
	Commits               map[string]time.Time // of the project's code, whole hashes, with when they were made
	DevelopersMerge       bool                 // who has that role may merge to the protected refs
	MergeRequests         []MergeRequest       // of the code
	Private               bool                 // the code is hidden from who is no member
	KeyFaults             []Fault              // of requests for the OpenID configuration and the keys
	KeysAt                string               // where the configuration says that the keys are; default below URL

	issuer    issuerState
	notes     []Note
	statuses  []CommitStatus
	mu        sync.Mutex
	pipelines []*Pipeline
	posts     int
	reads     int
	bodies    []string
	underWay  sync.WaitGroup // requests of Transport
}

// New gives a GitLab with a project infra/deploy, a ref main and three tokens.
func New() *Server {
	return &Server{
		Project: "infra/deploy", Refs: []string{"main"},
		TriggerToken: "glptt-trigger", ReadToken: "glpat-read", APIToken: "glpat-api",
		Now: time.Now, Sleep: time.Sleep,
		Life: []Phase{{Status: "running"}},
		URL:  "https://gitlab.example.com", TriggerUser: "release-bot", APIUser: "operator", ReadUser: "release-bot", ProtectedRefs: []string{"main"},
		Users: []User{{ID: 1, Login: "release-bot"}}, ForwardDeployment: true,
	}
}

// Pipelines are all pipelines that were ever started, also those that no list shows yet.
func (s *Server) Pipelines() []Pipeline {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Pipeline, len(s.pipelines))
	for i, p := range s.pipelines {
		all[i] = *p
		all[i].Status = s.status(p)
	}
	return all
}

// Effective are the ids of the pipelines that take effect: not canceled, nor failed while they were created, which leaves them without
// name and jobs.
func (s *Server) Effective() []int64 {
	var ids []int64
	for _, p := range s.Pipelines() {
		if p.Status != "canceled" && p.Name != "" {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// Posts is how many POSTs to start a pipeline have arrived.
func (s *Server) Posts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.posts
}

// Bodies are the bodies of those POSTs.
func (s *Server) Bodies() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bodies)
}

// Add adds a pipeline that no request started: unless it says otherwise, with the trigger token on main.
func (s *Server) Add(p Pipeline) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Committed.IsZero() {
		p.Committed = s.Now()
	}
	p.Ref, p.Source = cmp.Or(p.Ref, "main"), cmp.Or(p.Source, "trigger")
	p.ID = s.nextID()
	s.pipelines = append(s.pipelines, &p)
	return p.ID
}

// Show sets what a pipeline shows from now on.
func (s *Server) Show(id int64, status string, jobs []Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pipelines {
		if p.ID == id {
			p.Life = []Phase{{Status: status, Jobs: jobs}}
		}
	}
}

// ServeHTTP answers as GitLab does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/api/v4/projects/")
	if !ok && r.Method == http.MethodGet && s.discover(w, r) {
		return
	}
	if !ok && r.Method == http.MethodGet && r.URL.Path == "/api/v4/user" {
		s.limitHeaders(w, 60)
		if !s.befallRead(w) {
			s.currentUser(w, r)
		}
		return
	}
	if !ok && r.Method == http.MethodGet && r.URL.Path == "/api/v4/personal_access_tokens/self" {
		s.ownToken(w, r)
		return
	}
	if !ok {
		fail(w, http.StatusNotFound, `{"error":"404 Not Found"}`)
		return
	}
	escaped, rest, _ := strings.Cut(path, "/")
	project, _ := url.PathUnescape(escaped)
	s.limitHeaders(w, 60)
	if rest == "trigger/pipeline" && r.Method == http.MethodPost {
		s.trigger(w, r, project)
		return
	}
	if !s.befallRead(w) {
		s.authorized(w, r, project, rest)
	}
}

// currentUser answers who owns an access token.
func (s *Server) currentUser(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	login, known := map[string]string{s.APIToken: s.APIUser, s.ReadToken: s.ReadUser}[r.Header.Get("PRIVATE-TOKEN")]
	switch {
	case !known:
		fail(w, http.StatusUnauthorized, `{"message":"401 Unauthorized"}`)
	case login == "":
		fail(w, http.StatusForbidden, `{"error":"insufficient_scope","error_description":"The request requires higher privileges than provided by the access token.","scope":"api read_user read_api"}`)
	default:
		user := s.userOf(login)
		write(w, http.StatusOK, map[string]any{"id": user.ID, "username": user.Login, "name": user.Login, "state": "active"})
	}
}

// authorized answers a request with an access token, if the token may make it.
func (s *Server) authorized(w http.ResponseWriter, r *http.Request, project, rest string) {
	switch token := r.Header.Get("PRIVATE-TOKEN"); {
	case token != "" && token != s.ReadToken && token != s.APIToken:
		fail(w, http.StatusUnauthorized, `{"message":"401 Unauthorized"}`)
		return
	case token != "" && s.agentConfig(w, r, project, rest):
		return
	case token == "" || project != s.Project && project != "7":
		fail(w, http.StatusNotFound, `{"message":"404 Project Not Found"}`)
		return
	case r.Method != http.MethodGet && token != s.APIToken:
		fail(w, http.StatusForbidden, `{"error":"insufficient_scope","error_description":"The request requires higher privileges than provided by the access token.","scope":"ai_workflows api"}`)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.route(w, r, rest)
}

// route answers an authorized request; rest is its path below the project.
func (s *Server) route(w http.ResponseWriter, r *http.Request, rest string) {
	parts := strings.Split(rest, "/")
	switch {
	case s.setUp(w, r, rest), s.code(w, r, rest):
	case rest == "pipelines":
		s.list(w, r)
	case rest == "ci/lint" && r.Method == http.MethodPost:
		s.lint(w, r)
	case parts[0] == "pipelines":
		s.routePipeline(w, r, parts)
	case parts[0] == "jobs" && len(parts) == 3 && r.Method == http.MethodPost:
		s.press(w, parts[1], parts[2])
	default:
		fail(w, http.StatusNotFound, `{"error":"404 Not Found"}`)
	}
}

// routePipeline answers a request about one pipeline: pipelines, its id, and perhaps what of it.
func (s *Server) routePipeline(w http.ResponseWriter, r *http.Request, parts []string) {
	p := s.find(parts[1])
	switch {
	case p == nil:
		fail(w, http.StatusNotFound, `{"message":"404 Not found"}`)
	case len(parts) == 2:
		write(w, http.StatusOK, s.whole(p))
	case parts[2] == "jobs":
		s.jobs(w, r, p)
	case parts[2] == "bridges":
		s.bridges(w, r, p)
	case parts[2] == "cancel" && r.Method == http.MethodPost:
		s.cancel(w, p)
	default:
		fail(w, http.StatusNotFound, `{"error":"404 Not Found"}`)
	}
}
