package rollout_test

import (
	"errors"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// TestLateVerdict: an unhealthy verdict that comes after promotion has started takes the lock from nobody.
func TestLateVerdict(t *testing.T) {
	at(t, "healthy", func(w *world) {
		_, goOn := w.hold("promote", 3)
		j := w.job("verify")
		if _, err := judgeAnd(w.Context(), j.Cluster, release.Unhealthy, true); !errors.As(err, new(*rollout.StageError)) {
			t.Errorf("%v, want a StageError", err)
		}
		w.wait() // a job that has lost its lock notices
		if err := goOn(); err != nil {
			t.Errorf("the promotion: %v", err)
		}
	})
}

// TestVerdictOfALostRollback: the verdict is in the ledger, and the error says so, when another job takes over the
// rollback that follows from it, or when that rollback cannot even fence off the job before.
func TestVerdictOfALostRollback(t *testing.T) {
	at(t, "canary", func(w *world) {
		hold := "DELETE"
		j, held, back, ended := w.job("verify"), make(chan struct{}), make(chan struct{}), make(chan error, 1)
		j.before = func(r *http.Request) error {
			if r.Method == hold {
				hold = ""
				close(held)
				<-back
			}
			return nil
		}
		go func() {
			_, err := judgeAnd(w.Context(), j.Cluster, release.Unhealthy, true)
			ended <- err
		}()
		<-held
		if _, err := w.job("other").Rollback(w.Context(), "test"); err != nil {
			t.Error(err)
		}
		close(back)
		if err := <-ended; !errors.As(err, new(*rollout.RollbackError)) || !errors.Is(err, rollout.ErrLockLost) {
			t.Errorf("%v, want a RollbackError that is ErrLockLost", err)
		}
	})
	at(t, "rest", func(w *world) {
		first := w.job("first")
		first.killOn = "update vs 90/10"
		_, _ = first.Canary(first.ctx, wanted("2"))
		if _, err := w.job("resumed").Canary(w.Context(), wanted("2")); err != nil {
			t.Fatal(err)
		}
		shift := w.job("shift")
		shift.killOn = "note r2 canary 25%"
		_, _ = shift.Shift(shift.ctx, []int{25}, 0) // its lock did not end in order
		j := w.job("verify")
		j.at, j.fault = 2, refused // the first stamp
		_, err := judgeAnd(w.Context(), j.Cluster, release.Unhealthy, true)
		if !errors.As(err, new(*rollout.RollbackError)) || !strings.Contains(err.Error(), "rollback continues from here") {
			t.Errorf("%v, want a RollbackError that says how to continue", err)
		}
		if _, err := w.job("next").Rollback(w.Context(), "test"); err != nil {
			t.Error(err)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestNext: an error of an unfinished rollback names the command that can finish it, whichever command it ends.
func TestNext(t *testing.T) {
	at(t, "canary", func(w *world) {
		j := w.job("job")
		j.at, j.fault = 2, refused // its first write after the ledger
		_, err := judgeAnd(w.Context(), j.Cluster, release.Unhealthy, true)
		if err == nil || !strings.Contains(err.Error(), "rollback continues from here") || strings.Contains(err.Error(), "same command") {
			t.Errorf("%v", err)
		}
	})
	at(t, "manual", func(w *world) {
		j := w.job("job")
		j.at, j.fault = 5, refused // the creation of primary, after two dry runs of it
		if _, err := j.Migrate(w.Context(), ""); err == nil || !strings.Contains(err.Error(), "the same command continues from here") || strings.Contains(err.Error(), "rollback") {
			t.Errorf("%v", err)
		}
	})
}

// TestNoRightToTheLock: a job that may not read the lock says that it changed nothing.
func TestNoRightToTheLock(t *testing.T) {
	at(t, "rest", func(w *world) {
		j := w.job("job")
		j.before = func(r *http.Request) error {
			if strings.Contains(r.URL.Path, "/leases") {
				return forbidden("leases")
			}
			return nil
		}
		if _, err := j.Canary(w.Context(), wanted("2")); err == nil || !strings.Contains(err.Error(), "lock (Lease") || !strings.HasSuffix(err.Error(), "nothing was changed") {
			t.Errorf("%v", err)
		}
	})
}

// loseAnswer lets one request of a job arrive and its answer get lost.
func (w *world) loseAnswer(j *job, this func(*http.Request) bool) {
	lost := false
	j.before = func(r *http.Request) error {
		if lost || !this(r) {
			return nil
		}
		lost = true
		if _, err := w.server.RoundTrip(r); err != nil {
			return err
		}
		return syscall.ECONNRESET
	}
}

// TestTakeoverWithoutAnswer: a takeover whose answer is lost is noted all the same.
func TestTakeoverWithoutAnswer(t *testing.T) {
	at(t, "canary", func(w *world) {
		_, goOn := w.hold("shift", 3)
		j := w.job("taker")
		j.Takeover = true
		w.loseAnswer(j, func(r *http.Request) bool {
			return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/leases")
		})
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		if err := goOn(); !errors.Is(err, rollout.ErrLockLost) {
			t.Errorf("%v, want ErrLockLost", err)
		}
		status, err := w.job("look").Status(w.Context())
		if err != nil || len(status.Release.Takeovers) != 1 || !strings.HasPrefix(status.Release.Takeovers[0].From, "holder-") {
			t.Errorf("%+v, %v", status.Release, err)
		}
	})
}

// TestRegrownWithoutAnswer: an autoscaler shrinks primary while promotion waits, and the answer to scaling it back is
// lost. What was added is waited for before primary gets all of the traffic.
func TestRegrownWithoutAnswer(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.hpa(w.set.Name(release.Primary), 8)
		w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/replicas","value":6}]`)
		w.wait()
		j := w.job("job")
		w.must(j.Canary(w.Context(), wanted("2")))
		w.must(j.Shift(w.Context(), []int{50}, 0))
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		w.server.mu.Lock()
		w.controllers.shrink[w.set.Name(release.Primary)] = 4
		w.server.mu.Unlock()
		regrown := 0
		w.loseAnswer(j, func(r *http.Request) bool {
			if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, w.set.Name(release.Primary)) && r.Header.Get("Content-Type") == "application/json-patch+json" {
				regrown++
			}
			if regrown != 1 {
				return false
			}
			w.server.mu.Lock()
			delete(w.controllers.shrink, w.set.Name(release.Primary))
			w.server.mu.Unlock()
			return true
		})
		w.must(j.Promote(w.Context()))
		if did := strings.Join(w.did(j), ", "); !strings.HasSuffix(did, "update primary x6, update vs 100/0, note r2 promoted") {
			t.Errorf("it did %q", did)
		}
		if !strings.Contains(strings.Join(j.logged[len(j.logged)-4:], "\n"), "every replica is ready") {
			t.Errorf("nobody waited for what was added: %q", j.logged)
		}
	})
}

// TestSizeAfterTheWait: primary grows while canary waits for the lock of a dead job. The canary is sized for it as it is then.
func TestSizeAfterTheWait(t *testing.T) {
	at(t, "rest", func(w *world) {
		dead := w.job("dead")
		dead.at, dead.fault = 1, never
		dead.before = func(r *http.Request) error { // it has the lock, and dies before it writes the ledger
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/configmaps") {
				dead.mu.Lock()
				dead.killed = true
				dead.mu.Unlock()
				dead.kill()
				return errKilled
			}
			return nil
		}
		_, _ = dead.Canary(dead.ctx, wanted("2"))
		j, ended := w.job("job"), make(chan error, 1)
		want := wanted("2")
		want.Weight = 50
		go func() {
			_, err := j.Canary(w.Context(), want)
			ended <- err
		}()
		time.Sleep(5 * time.Second)
		w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/replicas","value":6}]`)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		d, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), w.set.Name(release.Canary), metav1.GetOptions{})
		if err != nil || *d.Spec.Replicas != 3 {
			t.Errorf("the canary has %v replicas, want 3 (%v)", *d.Spec.Replicas, err)
		}
		status, err := j.Status(w.Context())
		if err != nil || *status.Weights != (manifest.WeightPair{Primary: 50, Canary: 50}) {
			t.Errorf("%+v, %v", status, err)
		}
	})
}

// TestForeignReplicaSet: a ReplicaSet that the Service selects and that the job may list but not change holds no
// rollback up.
func TestForeignReplicaSet(t *testing.T) {
	at(t, "manual", func(w *world) {
		first := w.job("first")
		first.killOn = "delete primary but not its pods"
		_, _ = first.Migrate(first.ctx, "")
		w.wait()
		time.Sleep(20 * time.Second)
		j := w.job("job")
		j.before = func(r *http.Request) error { // the permissions that the guide named before 0.2
			if strings.Contains(r.URL.Path, "/replicasets/") && r.Method == http.MethodPatch {
				return forbidden(r.URL.Path)
			}
			return nil
		}
		if _, err := j.Migrate(w.Context(), ""); err != nil {
			t.Error(err)
		}
	})
}
