package gitlab

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Coordinator is the part of GitLab that a runner talks to: it hands out jobs, and takes their logs, artifacts and ends. It was
// checked against GitLab's source (lib/api/ci/runner.rb and helpers/runner.rb, update_build_state_service.rb,
// append_build_trace_service.rb, commit_status.rb, auto_retry.rb, drop_running_service.rb), and by GitLab Runner 19.4.0 itself.
//
// It differs: there is one runner, which takes every job, whatever its tags; a request for a job is answered at once, not held
// until there is one; the answer to it is not acknowledged by the runner (allow_runner_job_acknowledgement), so that a job whose
// answer is lost counts as running, as it does where that feature flag is off; logs are whole at once, so that a final update is
// accepted but not completed (202), or its checksum refused (412), only where a fault says so; artifacts do not expire, and
// have no size limit; a resource group's first job in the queue is next (process_mode: unordered); a job whose runner is gone is
// failed when the test says so ([Execution.Abandon]), and not after an hour.
type Coordinator struct {
	// Token is the runner's.
	Token string

	mu       sync.Mutex
	all      []*Execution
	update   int            // changes with the queue
	maximum  time.Duration  // of a job, by the runner's settings; 0 for none
	interval int            // seconds between updates of a log, as a header asks for it; 0 for none
	graceful *bool          // whether the runner can cancel gracefully, as it first said
	faults   []*Fault       // that are still to come
	requests []string       // that were made, with their answers
	groups   map[string]int // executions that hold resource groups
}

// Call is one of the runner's requests.
type Call string

// The requests that can meet a fault.
const (
	CallRequest   Call = "request"   // for a job
	CallTrace     Call = "trace"     // of a log
	CallRunning   Call = "running"   // an update of a job that runs
	CallFinal     Call = "final"     // an update of a job that has ended
	CallArtifacts Call = "artifacts" // an upload
	CallDownload  Call = "download"  // of another job's artifacts
)

// Fault befalls the next requests of a kind.
type Fault struct {
	Call   Call
	Status int  // of the answer; 0: the connection ends without one
	After  bool // GitLab has done what the request asks for
	Forget int  // of a 416 to a log: so many bytes of it are gone
	Times  int  // how many of them; 0 is one
}

// Execution is a job that is given to a runner. A job that is retried is another one.
type Execution struct {
	ID  int64
	Job string

	coordinator *Coordinator
	pipeline    *Pipeline
	token       string
	payload     map[string]any
	group       string // resource group
	status      string // pending, running, canceling; success, failed, canceled
	reason      string
	exitCode    int
	trace       []byte
	artifacts   []byte
	started     time.Time
	touched     time.Time // by the runner
	ended       chan struct{}
}

func newCoordinator() *Coordinator {
	return &Coordinator{Token: "glrt-rehearsal-runner", groups: map[string]int{}}
}

// SetMaximumTimeout is the maximum job timeout in the runner's settings; 0 is none.
func (c *Coordinator) SetMaximumTimeout(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.maximum = d
}

// SetTraceInterval asks for an update of logs so often; 0 leaves it to the runner. GitLab asks for 3 seconds while somebody looks
// at the job's page, otherwise for 60.
func (c *Coordinator) SetTraceInterval(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interval = int(d.Seconds())
}

// Befall lets faults happen to the next requests of their kinds.
func (c *Coordinator) Befall(faults ...Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range faults {
		if f.Times == 0 {
			f.Times = 1
		}
		c.faults = append(c.faults, &f)
	}
}

// Forget takes back the faults that have not happened yet, and says how many they are.
func (c *Coordinator) Forget() (left int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	left, c.faults = len(c.faults), nil
	return left
}

// Requests are what the runner has asked, with what it was answered, without those for a job that got none.
func (c *Coordinator) Requests() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.requests...)
}

// execution makes one that no runner gets yet.
func (c *Coordinator) execution(job, group string) *Execution {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := &Execution{ID: int64(5000 + len(c.all)), Job: job, coordinator: c, group: group, status: "created", ended: make(chan struct{})}
	e.token = fmt.Sprintf("glcbt-job-%d", e.ID)
	c.all = append(c.all, e)
	return e
}

// queue gives it to the runner that asks next.
func (c *Coordinator) queue(e *Execution, payload map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.status, e.payload = "pending", payload
	c.update++
}

func (c *Coordinator) maximumTimeout() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.maximum
}

// Status is GitLab's word for the job.
func (e *Execution) Status() string {
	e.coordinator.mu.Lock()
	defer e.coordinator.mu.Unlock()
	return e.status
}

// Reason is GitLab's word for why it failed.
func (e *Execution) Reason() string {
	e.coordinator.mu.Lock()
	defer e.coordinator.mu.Unlock()
	return e.reason
}

// ExitCode is that of its script.
func (e *Execution) ExitCode() int {
	e.coordinator.mu.Lock()
	defer e.coordinator.mu.Unlock()
	return e.exitCode
}

// Log is what the job has printed, without the runner's stamps and colors.
func (e *Execution) Log() string {
	e.coordinator.mu.Lock()
	defer e.coordinator.mu.Unlock()
	return stamps.ReplaceAllString(string(e.trace), "")
}

// stamps are the runner's time and stream before each line, its sections, and colors.
var stamps = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT[\d:.]+Z \d\d[OE][+ ]|section_(?:start|end):\d+:\w+(?:\[[^\]]*\])?\r|\x1b\[[0-9;]*[mK]`)

// Started is when a runner took it; zero when none has.
func (e *Execution) Started() time.Time {
	e.coordinator.mu.Lock()
	defer e.coordinator.mu.Unlock()
	return e.started
}

// Cancel is the button. A job that runs is canceled gracefully if its runner said that it can: the runner reads it in the answer
// to its next update.
func (e *Execution) Cancel() {
	c := e.coordinator
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case e.status == "pending":
		e.end("canceled", "")
	case e.status == "running" && c.graceful != nil && *c.graceful:
		e.status = "canceling"
	case e.status == "running":
		e.end("canceled", "")
	}
}

// ForceCancel is the button that a job shows which is being canceled.
func (e *Execution) ForceCancel() {
	e.coordinator.mu.Lock()
	defer e.coordinator.mu.Unlock()
	if e.live() {
		e.end("canceled", "")
	}
}

// Abandon is what GitLab does with a job that has had no update for an hour.
func (e *Execution) Abandon() {
	e.coordinator.mu.Lock()
	defer e.coordinator.mu.Unlock()
	if e.live() {
		e.end("failed", "stuck_or_timeout_failure")
	}
}

// Live says whether the job has not ended, as far as GitLab knows.
func (e *Execution) Live() bool {
	e.coordinator.mu.Lock()
	defer e.coordinator.mu.Unlock()
	return e.live()
}

// Untouched is for how long the runner has sent nothing.
func (e *Execution) Untouched() time.Duration {
	e.coordinator.mu.Lock()
	defer e.coordinator.mu.Unlock()
	return time.Since(e.touched)
}

func (e *Execution) live() bool {
	return e.status == "pending" || e.status == "running" || e.status == "canceling"
}

func (e *Execution) end(status, reason string) {
	if e.status != "pending" && e.group != "" {
		e.coordinator.groups[e.group]--
	}
	e.status, e.reason = status, reason
	e.coordinator.update++
	close(e.ended)
}

// ServeHTTP answers a runner.
func (c *Coordinator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	call, answer := c.callOf(r, body)
	fault := c.next(call)
	if fault != nil && !fault.After {
		c.note(r, call, "%s", fault.answer())
		c.befall(w, fault, r)
		return
	}
	recorded := httptest.NewRecorder()
	answer(recorded)
	if fault != nil {
		c.note(r, call, "%d, but %s", recorded.Code, fault.answer())
		c.befall(w, fault, r)
		return
	}
	if recorded.Code != http.StatusNoContent {
		c.note(r, call, "%d", recorded.Code)
	}
	for name, values := range recorded.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(recorded.Code)
	_, _ = w.Write(recorded.Body.Bytes())
}

func (f *Fault) answer() string {
	if f.Status == 0 {
		return "no answer"
	}
	return strconv.Itoa(f.Status)
}

func (c *Coordinator) note(r *http.Request, call Call, format string, args ...any) {
	c.requests = append(c.requests, fmt.Sprintf("%s %s %s (%s): ", time.Now().UTC().Format("15:04:05.0"), r.Method, r.URL.Path, call)+fmt.Sprintf(format, args...))
}

// next is the fault that a request meets.
func (c *Coordinator) next(call Call) *Fault {
	for i, f := range c.faults {
		if f.Call == call {
			if f.Times--; f.Times == 0 {
				c.faults = append(c.faults[:i:i], c.faults[i+1:]...)
			}
			return f
		}
	}
	return nil
}

func (c *Coordinator) befall(w http.ResponseWriter, f *Fault, r *http.Request) {
	if f.Status == 0 {
		panic(http.ErrAbortHandler)
	}
	if e := c.of(r); e != nil && f.Status == http.StatusRequestedRangeNotSatisfiable {
		e.trace = e.trace[:max(0, len(e.trace)-f.Forget)]
		w.Header().Set("Range", fmt.Sprintf("0-%d", len(e.trace)))
		w.Header().Set("Job-Status", e.status)
	}
	w.WriteHeader(f.Status)
}

// path is a job of the API.
var path = regexp.MustCompile(`^/api/v4/jobs/(\d+)(/trace|/artifacts)?$`)

func (c *Coordinator) of(r *http.Request) *Execution {
	found := path.FindStringSubmatch(r.URL.Path)
	if found == nil {
		return nil
	}
	for _, e := range c.all {
		if strconv.FormatInt(e.ID, 10) == found[1] {
			return e
		}
	}
	return nil
}

// callOf is what a request is, and how it is answered.
func (c *Coordinator) callOf(r *http.Request, body []byte) (Call, func(http.ResponseWriter)) {
	notFound := func(w http.ResponseWriter) { http.Error(w, `{"error":"404 Not Found"}`, http.StatusNotFound) }
	if r.URL.Path == "/api/v4/jobs/request" && r.Method == http.MethodPost {
		return CallRequest, func(w http.ResponseWriter) { c.request(w, body) }
	}
	if r.URL.Path == "/api/v4/runners/verify" && r.Method == http.MethodPost {
		return "", func(w http.ResponseWriter) { c.verify(w, body) }
	}
	found := path.FindStringSubmatch(r.URL.Path)
	if found == nil {
		return "", notFound
	}
	switch e := c.of(r); {
	case found[2] == "/artifacts" && r.Method == http.MethodGet:
		return CallDownload, func(w http.ResponseWriter) { e.download(w, r) }
	case found[2] == "/artifacts" && r.Method == http.MethodPost:
		return CallArtifacts, func(w http.ResponseWriter) { e.whileLive(w, r, "", func() { e.upload(w, r, body) }) }
	case found[2] == "/trace" && r.Method == http.MethodPatch:
		return CallTrace, func(w http.ResponseWriter) { e.whileLive(w, r, "", func() { e.patch(w, r, body) }) }
	case found[2] == "" && r.Method == http.MethodPut:
		var update struct {
			Token, State  string
			FailureReason string `json:"failure_reason"`
			ExitCode      int    `json:"exit_code"`
		}
		_ = json.Unmarshal(body, &update)
		call := CallFinal
		if update.State == "running" {
			call = CallRunning
		}
		return call, func(w http.ResponseWriter) {
			e.whileLive(w, r, update.Token, func() { e.put(w, update.State, update.FailureReason, update.ExitCode) })
		}
	}
	return "", notFound
}

func (c *Coordinator) verify(w http.ResponseWriter, body []byte) {
	var sent struct{ Token string }
	if json.Unmarshal(body, &sent) != nil || sent.Token != c.Token {
		http.Error(w, `{"message":"403 Forbidden"}`, http.StatusForbidden)
		return
	}
	answerJSON(w, http.StatusOK, map[string]any{"id": 1, "token": c.Token, "token_expires_at": nil})
}

// request hands out the first job that no resource group holds back.
func (c *Coordinator) request(w http.ResponseWriter, body []byte) {
	var sent struct {
		Token      string
		LastUpdate string `json:"last_update"`
		Info       struct {
			Features struct {
				CancelGracefully bool `json:"cancel_gracefully"`
			}
		}
	}
	if json.Unmarshal(body, &sent) != nil || sent.Token != c.Token {
		http.Error(w, `{"message":"403 Forbidden"}`, http.StatusForbidden)
		return
	}
	if c.graceful == nil { // GitLab keeps what it hears first for up to 55 minutes
		c.graceful = &sent.Info.Features.CancelGracefully
	}
	now := strconv.Itoa(c.update)
	w.Header().Set("X-GitLab-Last-Update", now)
	if sent.LastUpdate == now {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	for _, e := range c.all {
		if e.status != "pending" || e.group != "" && c.groups[e.group] > 0 {
			continue
		}
		e.status, e.started, e.touched = "running", time.Now(), time.Now()
		variables, _ := e.payload["variables"].([]variable)
		e.payload["variables"] = append(variables, variable{Key: "CI_JOB_STARTED_AT", Value: e.started.UTC().Format(time.RFC3339), Public: true})
		if e.group != "" {
			c.groups[e.group]++
		}
		c.update++
		answerJSON(w, http.StatusCreated, e.payload)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// whileLive answers a request of a job that runs; any other is forbidden, with what has become of the job.
func (e *Execution) whileLive(w http.ResponseWriter, r *http.Request, token string, answer func()) {
	if token == "" {
		token = r.Header.Get("JOB-TOKEN")
	}
	if e == nil || token != e.token {
		http.Error(w, `{"message":"403 Forbidden"}`, http.StatusForbidden)
		return
	}
	if e.status != "running" && e.status != "canceling" {
		w.Header().Set("Job-Status", e.status)
		http.Error(w, `{"message":"403 Forbidden - Job is not running"}`, http.StatusForbidden)
		return
	}
	e.touched = time.Now()
	answer()
}

func (e *Execution) patch(w http.ResponseWriter, r *http.Request, body []byte) {
	first, _, found := strings.Cut(r.Header.Get("Content-Range"), "-")
	start, err := strconv.Atoi(first)
	if !found || err != nil {
		http.Error(w, `{"error":"400 Missing header Content-Range"}`, http.StatusBadRequest)
		return
	}
	if start == len(e.trace) {
		e.trace = append(e.trace, body...)
	}
	w.Header().Set("Range", fmt.Sprintf("0-%d", len(e.trace)))
	if len(e.trace) != start+len(body) { // what was sent before, and its answer was lost, is accepted
		http.Error(w, `{"error":"416 Range Not Satisfiable"}`, http.StatusRequestedRangeNotSatisfiable)
		return
	}
	w.Header().Set("Job-Status", e.status)
	if e.coordinator.interval > 0 {
		w.Header().Set("X-GitLab-Trace-Update-Interval", strconv.Itoa(e.coordinator.interval))
	}
	w.WriteHeader(http.StatusAccepted)
}

// put takes an update. Whatever a canceled job ends with, it is canceled.
func (e *Execution) put(w http.ResponseWriter, state, reason string, exitCode int) {
	ended := map[string]string{"success": "success", "failed": "failed"}[state]
	switch {
	case state == "running":
	case ended == "":
		w.WriteHeader(http.StatusBadRequest)
		return
	case e.status == "canceling":
		e.exitCode = exitCode
		e.end("canceled", "")
	default:
		e.exitCode = exitCode
		e.end(ended, reason)
	}
	w.Header().Set("Job-Status", e.status)
	answerJSON(w, http.StatusOK, http.StatusOK)
}

func (e *Execution) upload(w http.ResponseWriter, r *http.Request, body []byte) {
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	file, _, err := r.FormFile("file")
	if err == nil {
		e.artifacts, err = io.ReadAll(file)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answerJSON(w, http.StatusCreated, http.StatusCreated)
}

// download answers with the dependency's own token.
func (e *Execution) download(w http.ResponseWriter, r *http.Request) {
	switch {
	case e == nil || r.Header.Get("JOB-TOKEN") != e.token:
		http.Error(w, `{"message":"403 Forbidden"}`, http.StatusForbidden)
	case e.artifacts == nil:
		http.Error(w, `{"message":"404 Not Found"}`, http.StatusNotFound)
	default:
		w.Header().Set("Content-Type", "application/zip")
		_, _ = w.Write(e.artifacts)
	}
}

func answerJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}
