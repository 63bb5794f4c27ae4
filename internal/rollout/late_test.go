package rollout_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// late has a command's first write to an object sent, and lets it arrive, its answer lost, when goOn is called.
func (w *world) late(command, path string) (goOn func() error) {
	w.Helper()
	j := w.job("old")
	sent, arrives, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var once atomic.Bool
	j.before = func(r *http.Request) error {
		if r.Method != http.MethodPatch || !strings.HasSuffix(r.URL.Path, path) || r.URL.Query().Get("dryRun") != "" || !once.CompareAndSwap(false, true) {
			return nil
		}
		close(sent)
		<-arrives
		if _, err := w.server.RoundTrip(r.Clone(context.WithoutCancel(r.Context()))); err != nil {
			return err
		}
		return syscall.ECONNRESET
	}
	go func() {
		_, err := commands[command](w.Context(), j)
		ended <- err
	}()
	<-sent
	return func() error { close(arrives); return <-ended }
}

// TestLateCreationOfASuccessor: what a job that has lost its lock creates late does not overwrite what its successor has made
// meanwhile: neither the canary of the next release, nor primary with all of the traffic, nor the size of its own release's canary.
func TestLateCreationOfASuccessor(t *testing.T) {
	for stage, track := range map[string]release.Track{"rest": release.Canary, "new": release.Primary} {
		routers(t, stage, func(w *world) {
			w.observer.started = false
			goOn := w.late("canary", "/deployments/"+w.set.Name(track))
			w.must(w.job("back").Rollback(w.Context(), "it is bad"))
			w.must(w.job("next").Canary(w.Context(), wanted("3")))
			if err := goOn(); !errors.Is(err, rollout.ErrLockLost) {
				t.Errorf("%v", err)
			}
			w.wait()
			if is := w.running(track); is != "3" {
				t.Errorf("%s of the next release runs image %s", track, is)
			}
		})
	}
	routers(t, "rest", func(w *world) {
		w.observer.started = false
		goOn := w.late("canary", "/deployments/"+w.set.Name(release.Canary))
		next := w.job("next")
		next.Takeover = true
		w.must(next.Canary(w.Context(), wanted("2")))
		w.must(w.job("shift").Shift(w.Context(), []int{60}, 0))
		if err := goOn(); !errors.Is(err, rollout.ErrLockLost) {
			t.Errorf("%v", err)
		}
		if n := w.replicas(release.Canary); n != 2 {
			t.Errorf("%d replicas under 60%%", n)
		}
	})
}
