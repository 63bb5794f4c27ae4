package gitlab

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// asRunner is a runner that asks for what a test says.
type asRunner struct {
	*testing.T
	gitlab   *GitLab
	pipeline *Pipeline
	job      struct {
		ID        int64
		Token     string
		Variables []variable
		Steps     []struct {
			Name   string
			Script []string
		}
		Dependencies []struct {
			ID          int64
			Name, Token string
		}
		RunnerInfo struct{ Timeout int } `json:"runner_info"`
	}
}

// coordinated is a pipeline whose jobs the test runs as a runner.
func coordinated(t *testing.T) *asRunner {
	t.Helper()
	sample, err := os.ReadFile("../../crossbill.yaml")
	if err != nil {
		t.Fatal(err)
	}
	kube := filepath.Join(t.TempDir(), "kubeconfig")
	write(t, kube, "kind: Config\n", 0o600)
	g, err := Start(Options{
		Dir: t.TempDir(), Repository: "../..", Config: sample, Manifests: "../../k8s", Images: "^.*$", Kube: kube,
		Environment: "production/qwik-node-app",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	p, err := g.Add(t.Context(), map[string]any{"app": "qwik-node-app", "release_id": "r1"})
	if err != nil {
		t.Fatal(err)
	}
	return &asRunner{T: t, gitlab: g, pipeline: p}
}

// ask makes a request, and gives its status and what the answer says of the job; 0 when no answer came.
func (r *asRunner) ask(method, path, body string, headers ...string) (status int, answer http.Header, text string) {
	r.Helper()
	request, err := http.NewRequestWithContext(r.Context(), method, r.gitlab.URL+"/api/v4/"+path, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	request.Header.Set("JOB-TOKEN", r.job.Token)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return 0, nil, ""
	}
	defer response.Body.Close()
	all, err := io.ReadAll(response.Body)
	if err != nil {
		r.Fatal(err)
	}
	return response.StatusCode, response.Header, string(all)
}

// request asks for a job, as a runner that can cancel gracefully or not.
func (r *asRunner) request(graceful bool) int {
	r.Helper()
	status, _, text := r.ask("POST", "jobs/request", fmt.Sprintf(`{"token": %q, "info": {"features": {"cancel_gracefully": %v}}}`, r.gitlab.Coordinator.Token, graceful))
	if status == http.StatusCreated {
		if err := json.Unmarshal([]byte(text), &r.job); err != nil {
			r.Fatal(err)
		}
	}
	return status
}

func (r *asRunner) put(body string) (int, string) {
	r.Helper()
	status, answer, _ := r.ask("PUT", fmt.Sprintf("jobs/%d", r.job.ID), body)
	return status, answer.Get("Job-Status")
}

func (r *asRunner) patch(from int, text string) (status int, where, job string) {
	r.Helper()
	status, answer, _ := r.ask("PATCH", fmt.Sprintf("jobs/%d/trace", r.job.ID), text, "Content-Range", fmt.Sprintf("%d-%d", from, from+len(text)-1))
	return status, answer.Get("Range"), answer.Get("Job-Status")
}

func (r *asRunner) upload(files ...string) int {
	r.Helper()
	var archive, form bytes.Buffer
	z := zip.NewWriter(&archive)
	for i := 0; i < len(files); i += 2 {
		f, err := z.Create(files[i])
		if err == nil {
			_, err = io.WriteString(f, files[i+1])
		}
		if err != nil {
			r.Fatal(err)
		}
	}
	m := multipart.NewWriter(&form)
	part, err := m.CreateFormFile("file", "artifacts.zip")
	if err := errors.Join(err, z.Close()); err != nil {
		r.Fatal(err)
	}
	_, _ = part.Write(archive.Bytes())
	if err := m.Close(); err != nil {
		r.Fatal(err)
	}
	status, _, _ := r.ask("POST", fmt.Sprintf("jobs/%d/artifacts", r.job.ID), form.String(), "Content-Type", m.FormDataContentType())
	return status
}

func (r *asRunner) start(job string) *Execution {
	r.Helper()
	e, err := r.pipeline.Start(job)
	if err != nil {
		r.Fatal(err)
	}
	return e
}

// done is a job that succeeds.
func (r *asRunner) done(job string, files ...string) {
	r.Helper()
	e := r.start(job)
	if status := r.request(true); status != http.StatusCreated {
		r.Fatalf("%s: the request for a job: %d", job, status)
	}
	if status := r.upload(files...); status != http.StatusCreated {
		r.Errorf("%s: the upload: %d", job, status)
	}
	if status, is := r.put(`{"state": "success"}`); status != http.StatusOK || is != "success" {
		r.Errorf("%s: the end: %d, %s", job, status, is)
	}
	if _, err := r.pipeline.Wait(r.Context(), e); err != nil {
		r.Error(err)
	}
}

// TestCoordinatorHandsOut: a runner gets the jobs that are given to it, as GitLab writes them, and nothing more; artifacts go by
// needs.
func TestCoordinatorHandsOut(t *testing.T) {
	r := coordinated(t)
	if status := r.request(true); status != http.StatusNoContent {
		t.Errorf("without a job: %d", status)
	}
	if status, _, _ := r.ask("POST", "jobs/request", `{"token": "other"}`); status != http.StatusForbidden {
		t.Errorf("with another token: %d", status)
	}
	if got := r.pipeline.Pending(); !slices.Equal(got, []string{"queue"}) {
		t.Errorf("pending: %v", got)
	}
	r.done("queue", "queue.json", "{}")
	r.gitlab.Coordinator.SetMaximumTimeout(time.Minute)
	r.gitlab.SetVariable("RUNNER_SCRIPT_TIMEOUT", "5s")
	e := r.start("deploy_canary")
	if _, err := r.pipeline.Start("deploy_canary"); err == nil {
		t.Error("it was given twice")
	}
	if status := r.request(true); status != http.StatusCreated || r.job.ID != e.ID || r.job.RunnerInfo.Timeout != 60 {
		t.Fatalf("%d, job %+v", status, r.job)
	}
	if status := r.request(true); status != http.StatusNoContent {
		t.Errorf("the same job again: %d", status)
	}
	if len(r.job.Steps) != 2 || r.job.Steps[0].Name != "script" || r.job.Steps[1].Name != "after_script" {
		t.Fatalf("steps: %+v", r.job.Steps)
	}
	script := strings.Join(r.job.Steps[0].Script, "\n")
	for _, want := range []string{"APP='qwik-node-app'", "RELEASE_ID='r1'", "trap true TERM", "crossbill canary"} {
		if !strings.Contains(script, want) {
			t.Errorf("the script has no %q:\n%s", want, script)
		}
	}
	if strings.Contains(script, "$[[") {
		t.Errorf("inputs are left:\n%s", script)
	}
	if len(r.job.Dependencies) != 1 || r.job.Dependencies[0].Name != "queue" {
		t.Errorf("dependencies: %+v", r.job.Dependencies)
	}
	if status, _, text := r.ask("GET", fmt.Sprintf("jobs/%d/artifacts", r.job.Dependencies[0].ID), "", "JOB-TOKEN", r.job.Dependencies[0].Token); status != http.StatusOK || !strings.HasPrefix(text, "PK") {
		t.Errorf("its artifacts: %d", status)
	}
	last := map[string]variable{}
	for _, v := range r.job.Variables {
		last[v.Key] = v
	}
	for key, want := range map[string]variable{
		"KUBECONFIG":            {Key: "KUBECONFIG", Value: "kind: Config\n", File: true},
		"RUNNER_SCRIPT_TIMEOUT": {Key: "RUNNER_SCRIPT_TIMEOUT", Value: "5s"}, // the project's wins over the file's
		"GITLAB_USER_LOGIN":     {Key: "GITLAB_USER_LOGIN", Value: "release-bot", Public: true},
		"CI_JOB_TIMEOUT":        {Key: "CI_JOB_TIMEOUT", Value: "60", Public: true},
	} {
		if diff := cmp.Diff(want, last[key]); diff != "" {
			t.Error(diff)
		}
	}
	if token := last["CROSSBILL_ID_TOKEN"]; !token.Masked || token.Value == "" || last["CI_JOB_STARTED_AT"].Value == "" {
		t.Errorf("token %+v, started at %+v", token, last["CI_JOB_STARTED_AT"])
	}
	if text, err := r.pipeline.Artifact("queue.json"); err != nil || string(text) != "{}" {
		t.Errorf("artifact: %q, %v", text, err)
	}
}

// TestCoordinatorTakesLogs: a log has no gaps and nothing twice, whatever is sent again.
func TestCoordinatorTakesLogs(t *testing.T) {
	r := coordinated(t)
	e := r.start("queue")
	r.request(true)
	for _, c := range []struct {
		from   int
		text   string
		status int
		where  string
	}{
		{0, "one\n", 202, "0-4"},
		{0, "one\n", 202, "0-4"}, // its answer was lost
		{8, "three\n", 416, "0-4"},
		{0, "one\ntwo\n", 416, "0-4"},
		{4, "two\n", 202, "0-8"},
	} {
		if status, where, job := r.patch(c.from, c.text); status != c.status || where != c.where || job != "running" && status == 202 {
			t.Errorf("from %d %q: %d, %s, %s; want %d, %s", c.from, c.text, status, where, job, c.status, c.where)
		}
	}
	if status, _, _ := r.ask("PATCH", fmt.Sprintf("jobs/%d/trace", r.job.ID), "x"); status != http.StatusBadRequest {
		t.Errorf("without a range: %d", status)
	}
	if e.Log() != "one\ntwo\n" {
		t.Errorf("log %q", e.Log())
	}
	r.gitlab.Coordinator.Befall(Fault{Call: CallTrace, Status: 416, Forget: 4}, Fault{Call: CallTrace}, Fault{Call: CallTrace, After: true}, Fault{Call: CallTrace, Status: 500})
	for i, want := range []struct {
		from, status int
		log          string
	}{{8, 416, "one\n"}, {4, 0, "one\n"}, {4, 0, "one\nnew\n"}, {4, 500, "one\nnew\n"}, {4, 202, "one\nnew\n"}} {
		if status, _, _ := r.patch(want.from, "new\n"); status != want.status || e.Log() != want.log {
			t.Errorf("%d: %d, log %q; want %d, %q", i, status, e.Log(), want.status, want.log)
		}
	}
	if r.gitlab.Coordinator.Forget() != 0 {
		t.Error("faults are left")
	}
	if status, _, _ := r.ask("PATCH", fmt.Sprintf("jobs/%d/trace", r.job.ID), "x", "JOB-TOKEN", "other", "Content-Range", "8-8"); status != http.StatusForbidden {
		t.Errorf("with another token: %d", status)
	}
}

// TestCoordinatorCancels: gracefully where the runner has said that it can, whatever the job then ends with; otherwise at once.
func TestCoordinatorCancels(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		r := coordinated(t)
		e := r.start("queue")
		r.request(graceful)
		e.Cancel()
		during, status, end := "canceling", http.StatusOK, "canceled"
		if !graceful {
			during, status = "canceled", http.StatusForbidden
		}
		if _, _, job := r.patch(0, "x"); job != during {
			t.Errorf("graceful %v: the log's answer says %q", graceful, job)
		}
		for _, state := range []string{"running", "failed"} {
			want := during
			if state == "failed" {
				want = end
			}
			if code, job := r.put(fmt.Sprintf(`{"state": %q, "failure_reason": "script_failure", "exit_code": 1}`, state)); code != status || job != want {
				t.Errorf("graceful %v: %s: %d, %q", graceful, state, code, job)
			}
		}
		if _, err := r.pipeline.Wait(t.Context(), e); !errors.Is(err, ErrCanceled) {
			t.Errorf("graceful %v: %v", graceful, err)
		}
		if got := r.pipeline.State("queue"); got != "canceled" {
			t.Errorf("graceful %v: the job is %s", graceful, got)
		}
		if status, job := r.put(`{"state": "success"}`); status != http.StatusForbidden || job != "canceled" {
			t.Errorf("graceful %v: an update afterwards: %d, %s", graceful, status, job)
		}
	}
}

// TestCoordinatorEnds: a job fails with its exit code, is retried by itself for the reasons that the file names, waits for its
// resource group, and is failed when its runner is gone.
func TestCoordinatorEnds(t *testing.T) {
	r := coordinated(t)
	e := r.start("queue")
	ended := make(chan error, 1)
	go func() {
		_, err := r.pipeline.Wait(t.Context(), e)
		ended <- err
	}()
	for range 3 { // and its two retries
		for r.request(true) != http.StatusCreated {
			time.Sleep(10 * time.Millisecond)
		}
		r.put(`{"state": "failed", "failure_reason": "runner_system_failure"}`)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "runner_system_failure") {
		t.Errorf("after three of them: %v", err)
	}
	if err := r.pipeline.Retry("queue", "jane"); err != nil {
		t.Fatal(err)
	}
	r.done("queue")
	r.done("deploy_canary")

	first := r.start("verify_canary")
	r.request(true)
	r.gitlab.Coordinator.Befall(Fault{Call: CallFinal, Status: 202}, Fault{Call: CallFinal, After: true})
	if status, _ := r.put(`{"state": "failed", "failure_reason": "script_failure", "exit_code": 3}`); status != 202 || first.Status() != "running" {
		t.Errorf("not completed: %d, it is %s", status, first.Status())
	}
	if status, _, _ := r.ask("PUT", fmt.Sprintf("jobs/%d", r.job.ID), `{"state": "failed", "failure_reason": "script_failure", "exit_code": 3}`); status != 0 {
		t.Errorf("no answer: %d", status)
	}
	if _, err := r.pipeline.Wait(t.Context(), first); err == nil || first.ExitCode() != 3 {
		t.Errorf("%v, exit code %d", err, first.ExitCode())
	}
	if got := r.pipeline.Pending(); !slices.Contains(got, "rollback_after_verify") {
		t.Errorf("pending after a failed verification: %v", got)
	}

	other, err := r.gitlab.Add(t.Context(), map[string]any{"app": "qwik-node-app", "release_id": "r2"})
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range []string{"queue", "deploy_canary"} {
		if err := other.simulation.Finish(job, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.pipeline.Retry("verify_canary", "jane"); err != nil {
		t.Fatal(err)
	}
	again := r.start("verify_canary")
	if status := r.request(true); status != http.StatusCreated || r.job.ID != again.ID {
		t.Fatalf("verify_canary again: %d", status)
	}
	if _, err := other.Start("verify_canary"); err != nil {
		t.Fatal(err)
	}
	if status := r.request(true); status != http.StatusNoContent {
		t.Errorf("beside a job of the same resource group: %d", status)
	}
	again.Abandon()
	if _, err := r.pipeline.Wait(t.Context(), again); err == nil || again.Reason() != "stuck_or_timeout_failure" {
		t.Errorf("without its runner: %v, %s", err, again.Reason())
	}
	if status := r.request(true); status != http.StatusCreated || r.job.ID == again.ID {
		t.Errorf("after it: %d", status)
	}
}
