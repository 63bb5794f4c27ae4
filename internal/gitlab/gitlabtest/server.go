// Package gitlabtest is a double of the part of GitLab's API that package handoff uses, on HTTP, with
// its status codes, shapes, pages and rate-limit headers, and with faults in a given order. It creates
// pipelines as a transaction does: an id is taken first, the row is committed perhaps later, and a
// list shows it perhaps later still.
package gitlabtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Kind is what a fault does.
type Kind string

// The faults of a POST that starts a pipeline. Refuse and Drop also befall reads.
const (
	None           Kind = "none"
	Refuse         Kind = "refuse"           // 5xx (Status), nothing created
	RefuseAfter    Kind = "refuse_after"     // 5xx (Status), but the pipeline is created, after Delay
	Drop           Kind = "drop"             // the connection ends without an answer, nothing created
	DropAfter      Kind = "drop_after"       // the same, but the pipeline is created, after Delay
	CutAnswer      Kind = "cut_answer"       // 201, created, and the connection ends in the answer
	Limit          Kind = "limit"            // 429; with Delay, headers that name the time to wait
	Throttle       Kind = "throttle"         // 400: too many pipelines in the last minute
	InvalidFile    Kind = "invalid_file"     // 422: a failed pipeline without jobs is kept
	InvalidFile201 Kind = "invalid_file_201" // the same as older GitLab answers it
	Slow           Kind = "slow"             // created, answered after Delay
)

// Fault befalls one request.
type Fault struct {
	Kind   Kind
	Status int           // of Refuse and RefuseAfter; default 502
	Delay  time.Duration // see the kinds
}

// Job is a job of a pipeline.
type Job struct {
	Name, Stage, Status string
	AllowFailure        bool
	StartedAt           time.Time
	FinishedAt          time.Time
	User                string
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
	Source     string
	Status     string // "" follows Life
	YamlErrors string
	Committed  time.Time // from when it takes effect
	Life       []Phase
	Child      int64 // pipeline that a bridge job of this one started
	Variables  map[string]string
	Inputs     map[string]any
}

// Server is one GitLab with one project. Set its fields before the first request.
type Server struct {
	Project      string
	Refs         []string
	TriggerToken string
	ReadToken    string // scope read_api
	APIToken     string // scope api

	Now   func() time.Time    // default time.Now
	Sleep func(time.Duration) // default time.Sleep

	Lag        time.Duration // how much later than its commit a list shows a pipeline
	Faults     []Fault       // of the POSTs that start a pipeline, in their order of arrival
	ReadFaults []Fault       // of all other requests
	Life       []Phase       // of every pipeline that is started

	NoVariables bool   // pipeline variables are refused whoever sends them
	Refusal     string // message of a 400 for every trigger, "" for none

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
	}
}

// Pipelines are all pipelines that were ever begun, also those that no list shows yet.
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

// Effective are the ids of the pipelines that take effect: not canceled, not without jobs.
func (s *Server) Effective() []int64 {
	var ids []int64
	for _, p := range s.Pipelines() {
		if p.Status != "canceled" && p.YamlErrors == "" {
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

// Add puts a pipeline there that nobody triggered.
func (s *Server) Add(p Pipeline) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Committed.IsZero() {
		p.Committed = s.Now()
	}
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

// ServeHTTP answers as GitLab.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/api/v4/projects/")
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

// befallRead applies the next fault of a read; true when there is no more to answer.
func (s *Server) befallRead(w http.ResponseWriter) bool {
	s.mu.Lock()
	var fault Fault
	if s.reads < len(s.ReadFaults) {
		fault = s.ReadFaults[s.reads]
	}
	s.reads++
	s.mu.Unlock()
	switch fault.Kind {
	case Refuse:
		s.unavailable(w, fault)
	case Drop:
		panic(http.ErrAbortHandler)
	case Limit:
		s.limited(w, fault)
	case Slow:
		s.Sleep(fault.Delay)
		return false
	default:
		return false
	}
	return true
}

func (s *Server) authorized(w http.ResponseWriter, r *http.Request, project, rest string) {
	switch token := r.Header.Get("PRIVATE-TOKEN"); {
	case token != "" && token != s.ReadToken && token != s.APIToken:
		fail(w, http.StatusUnauthorized, `{"message":"401 Unauthorized"}`)
		return
	case token == "" || project != s.Project && project != "7":
		fail(w, http.StatusNotFound, `{"message":"404 Project Not Found"}`)
		return
	case r.Method == http.MethodPost && token != s.APIToken:
		fail(w, http.StatusForbidden, `{"error":"insufficient_scope","error_description":"The request requires higher privileges than provided by the access token.","scope":"ai_workflows api"}`)
		return
	}
	parts := strings.Split(rest, "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case rest == "":
		write(w, http.StatusOK, map[string]any{"id": 7, "path_with_namespace": s.Project})
	case rest == "pipelines":
		s.list(w, r)
	case parts[0] == "pipelines" && len(parts) >= 2:
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
			if now := s.status(p); now != "success" && now != "failed" {
				p.Status = "canceled"
			}
			write(w, http.StatusOK, s.whole(p))
		default:
			fail(w, http.StatusNotFound, `{"error":"404 Not Found"}`)
		}
	case parts[0] == "jobs" && len(parts) == 3 && r.Method == http.MethodPost:
		s.press(w, parts[1], parts[2])
	default:
		fail(w, http.StatusNotFound, `{"error":"404 Not Found"}`)
	}
}

// press plays a manual job, or retries one that has ended: its pipeline runs again.
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
			jobs := slices.Clone(phase.Jobs)
			jobs[i].Status = "pending"
			p.Status, p.Life = "", []Phase{{Status: "running", Jobs: jobs}}
			write(w, http.StatusOK, map[string]any{"id": jobID(p, i), "name": j.Name, "stage": j.Stage, "status": "pending"})
			return
		}
	}
	fail(w, http.StatusNotFound, `{"message":"404 Not found"}`)
}

func jobID(p *Pipeline, i int) int64 { return p.ID*100 + int64(i) }

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

func (s *Server) jobs(w http.ResponseWriter, r *http.Request, p *Pipeline) {
	rows := []map[string]any{}
	for i, j := range s.phase(p).Jobs {
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

// row is a pipeline as a list shows it.
func (s *Server) row(p *Pipeline) map[string]any {
	return map[string]any{
		"id": p.ID, "iid": p.ID - 999, "project_id": 7, "sha": "a91957a858320c0e17f3a0eca7cfacbff50ea29a",
		"ref": p.Ref, "status": s.status(p), "source": p.Source, "name": p.Name,
		"created_at": p.Committed, "updated_at": s.Now(),
		"web_url": fmt.Sprintf("https://gitlab.example.com/%s/-/pipelines/%d", s.Project, p.ID),
	}
}

// whole is a pipeline as it is shown by itself.
func (s *Server) whole(p *Pipeline) map[string]any {
	row := s.row(p)
	row["before_sha"], row["tag"] = strings.Repeat("0", 40), false
	row["yaml_errors"] = nil
	if p.YamlErrors != "" {
		row["yaml_errors"] = p.YamlErrors
	}
	row["user"] = map[string]any{"id": 1, "username": "release-bot", "name": "Release bot", "state": "active"}
	row["started_at"], row["finished_at"], row["duration"], row["coverage"] = nil, nil, nil, nil
	row["detailed_status"] = map[string]any{"text": s.status(p), "label": s.status(p), "group": s.status(p)}
	return row
}

// page answers one page of a list, with GitLab's headers for it.
func page(w http.ResponseWriter, r *http.Request, rows []map[string]any) {
	number, size := positive(r.URL.Query().Get("page"), 1), min(positive(r.URL.Query().Get("per_page"), 20), 100)
	pages := max(1, (len(rows)+size-1)/size)
	h := w.Header()
	h.Set("X-Total", strconv.Itoa(len(rows)))
	h.Set("X-Total-Pages", strconv.Itoa(pages))
	h.Set("X-Per-Page", strconv.Itoa(size))
	h.Set("X-Page", strconv.Itoa(number))
	h.Set("X-Next-Page", "")
	h.Set("X-Prev-Page", "")
	if number < pages {
		h.Set("X-Next-Page", strconv.Itoa(number+1))
		next := *r.URL
		query := next.Query()
		query.Set("page", strconv.Itoa(number+1))
		next.RawQuery = query.Encode()
		h.Set("Link", fmt.Sprintf(`<http://%s%s>; rel="next"`, r.Host, next.RequestURI()))
	}
	if number > 1 {
		h.Set("X-Prev-Page", strconv.Itoa(number-1))
	}
	from := min((number-1)*size, len(rows))
	write(w, http.StatusOK, rows[from:min(from+size, len(rows))])
}

func positive(text string, otherwise int) int {
	if n, err := strconv.Atoi(text); err == nil && n > 0 {
		return n
	}
	return otherwise
}

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
	var request struct {
		Ref, Token string
		Variables  map[string]string
		Inputs     map[string]any
	}
	if err := json.Unmarshal(body, &request); err != nil {
		fail(w, http.StatusBadRequest, `{"error":"variables needs to be a map of key-valued strings"}`)
		return
	}
	s.mu.Lock()
	known := project == s.Project || project == "7"
	token, refusal := s.TriggerToken, s.Refusal
	s.mu.Unlock()
	switch {
	case request.Ref == "":
		fail(w, http.StatusBadRequest, `{"error":"ref is missing"}`)
		return
	case request.Token == "":
		fail(w, http.StatusBadRequest, `{"error":"token is missing"}`)
		return
	case !known || request.Token != token: // the same answer, so that projects cannot be guessed
		fail(w, http.StatusNotFound, `{"message":"404 Not Found"}`)
		return
	case !slices.Contains(s.Refs, request.Ref):
		refuse(w, "Reference not found")
		return
	case s.NoVariables && len(request.Variables) > 0:
		refuse(w, "Insufficient permissions to set pipeline variables")
		return
	case refusal != "":
		refuse(w, refusal)
		return
	case fault.Kind == Throttle:
		refuse(w, "Too many pipelines created in the last minute. Try again later.")
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

func (s *Server) create(ref string, variables map[string]string, inputs map[string]any, fault Fault) *Pipeline {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, id := variables["CROSSBILL_APP"], variables["CROSSBILL_RELEASE_ID"]
	if inputs != nil {
		app, _ = inputs["app"].(string)
		id, _ = inputs["release_id"].(string)
	}
	p := &Pipeline{
		ID: s.nextID(), Name: "release " + app + " " + id, Ref: ref, Source: "trigger",
		Committed: s.Now(), Life: s.Life, Variables: variables, Inputs: inputs,
	}
	switch fault.Kind {
	case RefuseAfter, DropAfter:
		p.Committed = p.Committed.Add(fault.Delay)
	case InvalidFile, InvalidFile201:
		p.Status, p.YamlErrors = "failed", "jobs config should contain at least one visible job"
	}
	s.pipelines = append(s.pipelines, p)
	return p
}

func (s *Server) unavailable(w http.ResponseWriter, fault Fault) {
	status := fault.Status
	if status == 0 {
		status = http.StatusBadGateway
	}
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<html><head><title>%d %s</title></head></html>", status, http.StatusText(status))
}

func (s *Server) limited(w http.ResponseWriter, fault Fault) {
	for name := range w.Header() {
		if strings.HasPrefix(strings.ToLower(name), "ratelimit") {
			delete(w.Header(), name)
		}
	}
	if fault.Delay > 0 {
		s.limitHeaders(w, 0)
		w.Header().Set("RateLimit-Reset", strconv.FormatInt(s.Now().Add(fault.Delay).Unix(), 10))
		w.Header().Set("Retry-After", strconv.Itoa(int(fault.Delay.Seconds())))
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusTooManyRequests)
	fmt.Fprint(w, "Retry later\n")
}

func (s *Server) limitHeaders(w http.ResponseWriter, remaining int) {
	reset := s.Now().Add(time.Minute)
	h := w.Header()
	h.Set("RateLimit-Limit", "60")
	h.Set("RateLimit-Observed", strconv.Itoa(60-remaining))
	h.Set("RateLimit-Remaining", strconv.Itoa(remaining))
	h.Set("RateLimit-Reset", strconv.FormatInt(reset.Unix(), 10))
	h.Set("RateLimit-ResetTime", reset.UTC().Format(http.TimeFormat))
}

func refuse(w http.ResponseWriter, message string) {
	write(w, http.StatusBadRequest, map[string]any{"message": map[string]any{"base": []string{message}}})
}

func fail(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprint(w, body)
}

func write(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

// Transport carries requests to the server without a network, so that it also works under a simulated
// clock. A connection that the server ends early is an error, as on a real one, and what the server
// does goes on when the caller gives up.
func (s *Server) Transport() http.RoundTripper { return transport{s} }

// Wait waits until the server has done with all requests of Transport, also those given up.
func (s *Server) Wait() { s.underWay.Wait() }

type transport struct{ server *Server }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	type result struct {
		response *http.Response
		err      error
	}
	inner := r.Clone(r.Context())
	if inner.Body == nil {
		inner.Body = http.NoBody
	}
	done := make(chan result, 1)
	t.server.underWay.Go(func() {
		recorder := httptest.NewRecorder()
		defer func() {
			switch cause := recover(); cause {
			case nil:
				done <- result{response: recorder.Result()}
			case http.ErrAbortHandler:
				if recorder.Code == http.StatusCreated { // the answer had begun
					response := recorder.Result()
					response.Body = io.NopCloser(io.MultiReader(recorder.Body, brokenBody{}))
					done <- result{response: response}
					return
				}
				done <- result{err: io.EOF}
			default:
				panic(cause)
			}
		}()
		t.server.ServeHTTP(recorder, inner)
	})
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case got := <-done:
		if got.response != nil {
			got.response.Request = r
		}
		return got.response, got.err
	}
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
