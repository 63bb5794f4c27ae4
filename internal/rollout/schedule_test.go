package rollout_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"pgregory.net/rapid"

	"github.com/our-org/crossbill/internal/release"
)

// turn is a command that a job runs, after a pause, until it is killed, over a network that is more or less bad.
type turn struct {
	Command  string
	Takeover bool
	After    int // seconds
	Killed   int // seconds after which it is; 0 never
	Bad      int // in a hundred requests that meet a fault
	Seed     uint64
}

var turns = rapid.Custom(func(t *rapid.T) turn {
	return turn{
		Command:  rapid.SampledFrom([]string{"canary", "canary of 3", "sticky", "match", "mirror", "shift", "verify healthy", "verify unhealthy", "promote", "cleanup", "rollback", "guard"}).Draw(t, "command"),
		Takeover: rapid.Bool().Draw(t, "takeover"),
		After:    rapid.IntRange(0, 20).Draw(t, "after"),
		Killed:   rapid.IntRange(0, 15).Draw(t, "killed"),
		Bad:      rapid.SampledFrom([]int{0, 2, 10}).Draw(t, "bad"),
		Seed:     rapid.Uint64().Draw(t, "seed"),
	}
})

// rough gives a request the fault that a bad network has.
func rough(percent int, seed uint64) func(*http.Request) error {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 7))
	return func(*http.Request) error {
		mu.Lock()
		defer mu.Unlock()
		if rng.IntN(100) >= percent {
			return nil
		}
		switch rng.IntN(3) {
		case 0:
			return apierrors.NewTooManyRequests("busy", 1)
		case 1:
			return apierrors.NewInternalError(errors.New("etcd"))
		}
		return syscall.ECONNREFUSED
	}
}

// TestSchedules lets two jobs' commands work against each other with random faults. The observer finds nothing, and one rollback
// leads to rest. A schedule that fails is made smaller before it is shown.
func TestSchedules(t *testing.T) {
	for name, value := range map[string]string{"rapid.checks": "8", "rapid.seed": "16", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	for _, stage := range []string{"foreign", gatewayApp + "foreign"} {
		rapid.Check(t, func(r *rapid.T) {
			jobs := rapid.SliceOfN(rapid.SliceOfN(turns, 2, 6), 2, 2).Draw(r, "jobs")
			var problems []string
			at(t, stage, func(w *world) { problems = w.play(jobs) })
			if len(problems) > 0 {
				r.Fatal(stage + "\n" + strings.Join(problems, "\n"))
			}
		})
	}
}

// play carries a schedule out and says what is wrong with what came of it.
func (w *world) play(jobs [][]turn) (problems []string) {
	var running sync.WaitGroup
	var mu sync.Mutex
	for number, turns := range jobs {
		running.Go(func() {
			for _, turn := range turns {
				time.Sleep(time.Duration(turn.After) * time.Second)
				mu.Lock()
				j := w.job(fmt.Sprintf("job-%d", number))
				mu.Unlock()
				j.Again, j.Takeover, j.Timeout, j.LockTimeout, j.SettleDelay = true, turn.Takeover, 30*time.Second, 20*time.Second, time.Second
				j.before = rough(turn.Bad, turn.Seed)
				ctx, cancel := context.WithCancel(j.ctx)
				if turn.Killed > 0 {
					time.AfterFunc(time.Duration(turn.Killed)*time.Second, func() {
						j.mu.Lock()
						j.killed = true
						j.mu.Unlock()
						cancel()
					})
				}
				_, _ = commands[turn.Command](ctx, j)
				cancel()
			}
		})
	}
	running.Wait()
	time.Sleep(time.Minute)
	if _, err := w.job("last").Rollback(w.Context(), "the end"); err != nil {
		problems = append(problems, fmt.Sprintf("the last rollback: %v", err))
	}
	w.server.mu.Lock()
	problems = append(problems, w.observer.problems...)
	w.observer.problems = nil
	ledger := w.observer.ledger
	w.server.mu.Unlock()
	want := "1"
	for _, ended := range ledger.History {
		if ended.Outcome.Good() {
			want = digitOf(ended.Image)
			break
		}
	}
	if unrest := w.unrest(want); unrest != "" {
		problems = append(problems, unrest)
	}
	for _, ended := range ledger.History {
		if ended.Outcome == release.OutcomePromoted && (ended.Verdict == nil || ended.Verdict.Outcome != release.Healthy) {
			problems = append(problems, "release "+ended.ID+" was promoted without a healthy verdict")
		}
	}
	return problems
}
