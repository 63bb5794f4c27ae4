package commands_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/rehearsal/load"
)

// releases are the arguments of queue and canary about a release that a run has handed over.
func (a *app) releases(command, image, id string, run int, more ...string) []string {
	args := append([]string{command, "--image", images[image], "--release-id", id, "--source-url", fmt.Sprintf("https://github.com/our-org/app/actions/runs/%d", run)}, more...)
	return a.arguments(args)
}

// queue runs the job queue of a release, which has its turn.
func (a *app) queue(image, id string, run int, policy string) {
	a.Helper()
	code, out := a.command(a.releases("queue", image, id, run, "--queue-policy", policy)...)
	if want := "it is the turn of release " + id; code != 0 || !strings.Contains(out, want) {
		a.Fatalf("queue of %s: exit code %d, want %q\n%s", id, code, want, out)
	}
}

// starts runs the job deploy_canary of a release.
func (a *app) starts(image, id string, run int, policy string) {
	a.Helper()
	if code, out := a.command(a.releases("canary", image, id, run, "--queue-policy", policy)...); code != 0 {
		a.Fatalf("canary %s: exit code %d\n%s", id, code, out)
	}
}

// inLine releases an app's first version and starts a canary of the next one, each with its turn in the line.
func (a *app) inLine(prefix, policy string) {
	a.Helper()
	for i, image := range []string{"one", "two"} {
		id := fmt.Sprint(prefix, i+1)
		a.queue(image, id, i+1, policy)
		a.starts(image, id, i+1, policy)
	}
}

// testQueue: an app's first release has its turn at once, the second one waits for it and shows in the line, and starts when the one
// before it has ended.
func testQueue(t *testing.T) {
	t.Parallel()
	a := newApp(t, "queued")
	a.inLine("q", "queue")

	stop := a.observe()
	waiting := program(a.releases("queue", "three", "q3", 3, "--queue-policy", "queue")...)
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- waiting.Wait() }()
	a.eventually(func() error {
		if len(a.look().Queue) == 0 {
			return fmt.Errorf("nothing waits")
		}
		return nil
	})
	if out := a.must("status"); !strings.Contains(out, "1. q3 since ") {
		t.Errorf("status:\n%s", out)
	}
	if out := a.must("status", "--all"); !strings.Contains(out, "1 in the line") {
		t.Errorf("status --all:\n%s", out)
	}
	if code, out := a.command(a.releases("canary", "three", "q3", 3, "--queue-policy", "queue")...); code != 5 || !strings.Contains(out, "is in flight") {
		t.Errorf("canary before its turn: exit code %d\n%s", code, out)
	}
	a.healthy()
	a.must("promote")
	select {
	case err := <-ended:
		t.Fatalf("it did not wait for the cleanup: %v\n%s", err, waiting.out.String())
	default:
	}
	a.must("cleanup")
	select {
	case err := <-ended:
		out := waiting.out.String()
		if err != nil || !strings.Contains(out, "release q3 waits: release q2 is in flight (stage canary)") || !strings.Contains(out, "queue: it is the turn of release q3") {
			t.Fatalf("%v\n%s", err, out)
		}
	case <-time.After(time.Minute):
		_ = waiting.Process.Kill()
		<-ended
		t.Fatalf("it waits on:\n%s", waiting.out.String())
	}
	a.starts("three", "q3", 3, "queue")
	stop()
	if status := a.status(); a.weights() != split || status.Release.ID != "q3" || len(status.Queue) > 0 || digest(a.image("primary")) != digest(images["two"]) {
		t.Errorf("weights %+v, %+v", a.weights(), status)
	}
}

// testSupersede: a canary that nobody has approved is rolled back for a newer release, whose queue waits for nothing else. The
// jobs of the old one end well.
func testSupersede(t *testing.T) {
	t.Parallel()
	a := newApp(t, "superseded")
	a.inLine("s", "supersede")
	stop := a.observe()
	a.queue("three", "s3", 3, "supersede")
	stop()
	if status := a.status(); status.Release != nil || status.History[0].ID != "s2" || status.History[0].Outcome != release.OutcomeSuperseded || a.weights() != atRest || a.image("canary") != "" {
		t.Fatalf("weights %+v, canary %q, %+v", a.weights(), a.image("canary"), status)
	}
	for _, command := range []string{"promote", "cleanup", "rollback"} {
		if out := a.must(command, "--release-id", "s2"); !strings.Contains(out, "release s2 is superseded by release s3") {
			t.Errorf("%s of the old one:\n%s", command, out)
		}
	}
	a.starts("three", "s3", 3, "supersede")
	if status := a.status(); status.Release == nil || status.Release.ID != "s3" || a.weights() != split || digest(a.image("primary")) != digest(images["one"]) {
		t.Errorf("weights %+v, %+v", a.weights(), status.Release)
	}
}

// stepsDone are the steps of its plan that a release has done.
func stepsDone(r *release.Release) (done int) {
	for i := range r.Plan {
		if r.Plan[i].Done() {
			done++
		}
	}
	return done
}

// testFollow: canary --follow is killed in each of its steps, goes on where it was each time, and leaves no step out.
func testFollow(t *testing.T) {
	t.Parallel()
	a := newApp(t, "followed")
	routeBy("HTTPRoute")(a)
	a.must("canary", "--image", images["one"])
	traffic := load.Start("http://"+running.GatewayAddress+"/", a.served(), 50)
	defer traffic.Stop()
	config := filepath.Join(t.TempDir(), "crossbill.yaml")
	text := "steps:\n- weight: 20\n- pause: 8s\n- weight: 50\n- analyze: {minRequests: 50}\nanalysis:\n  objectives:\n  - {name: availability, objective: 99.9, margin: 1}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	follow := a.arguments([]string{"canary", "--image", images["two"], "--release-id", "f2", "--config", config, "--follow", "--takeover", "--interval", "1s", "--prometheus", running.PrometheusURL})
	began := time.Now()
	var killed []int
	for at := -1; len(killed) < 3; { // at the first sight of the release, and of each later step
		job := program(follow...)
		if err := job.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- job.Wait() }()
		for seen := at; seen == at; time.Sleep(100 * time.Millisecond) {
			if r := a.look().Release; r != nil {
				seen = stepsDone(r)
			}
			select {
			case err := <-ended:
				t.Fatalf("it ended after it was killed in the steps %v: %v\n%s", killed, err, job.out.String())
			default:
			}
			if seen != at {
				at, killed = seen, append(killed, seen)
				break
			}
		}
		if err := job.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-ended
	}
	code, out := a.command(follow...)
	if code != 0 {
		t.Fatalf("killed in the steps %v, then exit code %d\n%s", killed, code, out)
	}
	r := a.status().Release
	if r == nil || r.Stage != release.StageVerified || stepsDone(r) != len(r.Plan) || r.Weight != 50 || a.weights().Canary != 50 {
		t.Errorf("killed in the steps %v: %+v, weights %+v\n%s", killed, r, a.weights(), out)
	}
	a.must("promote")
	a.must("cleanup")
	if a.weights() != atRest || digest(a.image("primary")) != digest(images["two"]) {
		t.Errorf("weights %+v, primary %s", a.weights(), a.image("primary"))
	}
	if seen := traffic.Between(began, time.Now()); seen.Lost > 0 || seen.Versions["two"] == 0 {
		t.Errorf("callers saw %+v", seen)
	}
}
