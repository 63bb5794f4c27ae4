package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// handed is a release that waits, handed over by a run.
func handed(digit string, run int) release.Queued {
	return release.Queued{ID: "r" + digit, Image: image(digit), By: "queue of r" + digit, SourceURL: fmt.Sprintf("https://github.com/our-org/app/actions/runs/%d", run)}
}

// queues gives a job a line.
func (j *job) queues(policy release.QueuePolicy) *job {
	j.Line = rollout.Line{Policy: policy, Wait: time.Hour, Turn: 10 * time.Minute}
	return j
}

// came is what a job came to.
type came struct {
	result rollout.Result
	err    error
}

// queueing starts a job that waits; its end is read from the channel.
func (w *world) queueing(ctx context.Context, policy release.QueuePolicy, q release.Queued, waits ...func(context.Context, string)) (*job, chan came) {
	j, done := w.job("queue").queues(policy), make(chan came, 1)
	if len(waits) > 0 {
		j.Line.Waits = waits[0]
	}
	go func() {
		result, err := j.Queue(ctx, q)
		done <- came{result, err}
	}()
	return j, done
}

// lines are what waits, by the ledger.
func (w *world) line() string {
	w.Helper()
	var ids []string
	for _, q := range w.read().Queue {
		ids = append(ids, q.ID)
	}
	return strings.Join(ids, " ")
}

// read is the ledger as it is.
func (w *world) read() *release.Ledger {
	w.Helper()
	ledger, err := release.ParseLedger(w.set.App, w.ledger().Data["ledger.json"])
	if err != nil {
		w.Fatal(err)
	}
	if err := ledger.ReadLine(w.ledger().Data["line.json"]); err != nil {
		w.Fatal(err)
	}
	return ledger
}

// still says whether a job waits still, a while from now.
func still(done chan came) bool {
	time.Sleep(time.Minute)
	return len(done) == 0
}

// TestQueue: two releases wait for the one in flight, the older one comes later and goes first. Each starts when the one
// before it has ended.
func TestQueue(t *testing.T) {
	at(t, "canary", func(w *world) {
		var said []string
		_, third := w.queueing(w.Context(), release.QueueInOrder, handed("4", 14), func(_ context.Context, message string) { said = append(said, message) })
		time.Sleep(time.Minute)
		_, second := w.queueing(w.Context(), release.QueueInOrder, handed("3", 13))
		if !still(second) || !still(third) || w.line() != "r3 r4" {
			t.Fatalf("line %q", w.line())
		}
		status, err := w.job("look").Status(w.Context())
		w.must(status, err)
		all, err := rollout.StatusOfAll(w.Context(), w.kube, nil, "")
		w.must(all, err)
		if len(status.Queue) != 2 || len(all[0].Queue) != 2 || status.Queue[0].By != "queue of r3" {
			t.Errorf("status %+v, of all %+v", status.Queue, all[0].Queue)
		}
		front := w.job("front")
		front.ReleaseID = "r2"
		w.must(judge(w.Context(), front.Cluster, release.Healthy))
		w.must(front.Promote(w.Context()))
		w.must(front.Cleanup(w.Context()))
		if c := <-second; c.err != nil || c.result.Message != "it is the turn of release r3" || c.result.Release != nil {
			t.Fatalf("%+v", c)
		}
		if !still(third) || w.read().Queue[0].CalledAt.IsZero() {
			t.Fatalf("the next one did not wait: %+v", w.read().Queue)
		}
		late := w.job("late").queues(release.QueueInOrder)
		if _, err := late.Canary(w.Context(), wanted("4")); !errors.As(err, new(*release.InLineError)) || len(late.every) > 0 {
			t.Errorf("r4 before its turn: %v, after %q", err, late.every)
		}
		again, err := w.job("queue").queues(release.QueueInOrder).Queue(w.Context(), handed("3", 13)) // the job was lost, and is run again
		if err != nil || again.Message != "it is the turn of release r3" {
			t.Errorf("%+v, %v", again, err)
		}
		w.must(w.job("canary").queues(release.QueueInOrder).Canary(w.Context(), wanted("3")))
		if !still(third) || w.line() != "r4" {
			t.Fatalf("line %q", w.line())
		}
		again, err = w.job("queue").queues(release.QueueInOrder).Queue(w.Context(), handed("3", 13))
		if err != nil || !strings.Contains(again.Message, "release r3 is in flight") {
			t.Errorf("%+v, %v", again, err)
		}
		w.must(w.job("back").Rollback(w.Context(), "it is bad"))
		if c := <-third; c.err != nil || c.result.Message != "it is the turn of release r4" {
			t.Errorf("%+v", c)
		}
		if len(said) < 3 || said[0] != "release r4 waits: release r2 is in flight (stage canary)" || len(slices.Compact(slices.Clone(said))) != len(said) {
			t.Errorf("it said %q", said)
		}
	})
}

// TestQueueOfAFirstRelease: an app without a ledger gets one with its line. The first release has its turn at once, also when
// its job is run again, and the second one waits for it.
func TestQueueOfAFirstRelease(t *testing.T) {
	for _, stage := range []string{"new", gatewayApp + "new"} {
		for _, policy := range []release.QueuePolicy{release.QueueInOrder, release.QueueSupersede} {
			at(t, stage, func(w *world) {
				first, second := handed("1", 11), handed("2", 12)
				for range 2 {
					if result, err := w.job("queue").queues(policy).Queue(w.Context(), first); err != nil || result.Message != "it is the turn of release r1" {
						t.Fatalf("%s, %s: %+v, %v", stage, policy, result, err)
					}
				}
				if apps, err := rollout.Apps(w.Context(), w.kube, nil, ""); err != nil || len(apps) != 1 || !apps[0].Unreleased || apps[0].Err == nil {
					t.Errorf("%s, %s: apps %+v, %v", stage, policy, apps, err)
				}
				w.must(w.job("canary").queues(policy).Canary(w.Context(), wanted("1")))
				if result, err := w.job("queue").queues(policy).Queue(w.Context(), second); err != nil || result.Message != "it is the turn of release r2" {
					t.Errorf("%s, %s: %+v, %v", stage, policy, result, err)
				}
				w.must(w.job("canary").queues(policy).Canary(w.Context(), wanted("2")))
				if apps, err := rollout.Apps(w.Context(), w.kube, nil, ""); err != nil || apps[0].Unreleased || apps[0].Err != nil {
					t.Errorf("%s, %s: apps %+v, %v", stage, policy, apps, err)
				}
			})
		}
	}
}

// TestSupersedeOfAnotherRouter: what gives way is rolled back by the names that it started with.
func TestSupersedeOfAnotherRouter(t *testing.T) {
	at(t, "canary", func(w *world) {
		set, err := gatewaySet()
		if err != nil {
			t.Fatal(err)
		}
		j := w.job("queue").queues(release.QueueSupersede)
		j.Manifests = set
		if result, err := j.Queue(w.Context(), handed("3", 13)); err != nil || result.Message != "it is the turn of release r3" || w.read().History[0].Outcome != release.OutcomeSuperseded {
			t.Errorf("%+v, %v", result, err)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestQueueRefuses: by default nothing waits, and nothing is written.
func TestQueueRefuses(t *testing.T) {
	for _, policy := range []release.QueuePolicy{"", release.QueueRefuse} {
		at(t, "canary", func(w *world) {
			j := w.job("queue").queues(policy)
			result, err := j.Queue(w.Context(), handed("3", 13))
			if err != nil || !strings.Contains(result.Message, "queue.policy is refuse") || len(j.every) > 0 {
				t.Errorf("%+v, %v, after %q", result, err, j.every)
			}
			if _, err := w.job("canary").queues(policy).Canary(w.Context(), wanted("3")); refusal(err) != "in flight" {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestQueueOnHold: the line waits while the app is on hold, and goes on after it.
func TestQueueOnHold(t *testing.T) {
	for _, policy := range []release.QueuePolicy{release.QueueInOrder, release.QueueSupersede} {
		at(t, "held in flight", func(w *world) {
			_, done := w.queueing(w.Context(), policy, handed("3", 13))
			if !still(done) || w.read().Release.ID != "r2" {
				t.Fatal("it did not wait")
			}
			w.must(w.job("person").Rollback(w.Context(), "an incident"))
			if !still(done) {
				t.Fatal("it did not wait for the hold")
			}
			w.must(w.job("person").Resume(w.Context()))
			if c := <-done; c.err != nil || c.result.Message != "it is the turn of release r3" {
				t.Errorf("%+v", c)
			}
		})
	}
}

// TestSupersede: a canary that nobody has approved gives way: it is rolled back first, and its pipeline's later jobs end
// well. It can be released again; its digest is not known to be bad.
func TestSupersede(t *testing.T) {
	for _, stage := range []string{"started", "canary", "healthy"} {
		at(t, stage, func(w *world) {
			j, done := w.queueing(w.Context(), release.QueueSupersede, handed("3", 13))
			if c := <-done; c.err != nil || c.result.Message != "it is the turn of release r3" {
				t.Fatalf("%s: %+v", stage, c)
			}
			if did := strings.Join(w.did(j), ", "); !strings.Contains(did, "note r2 rolling_back") || !strings.HasSuffix(did, "note r2 ended: superseded") {
				t.Errorf("%s: it did %q", stage, did)
			}
			for _, started := range []bool{false, true} {
				if started {
					w.must(w.job("canary").queues(release.QueueSupersede).Canary(w.Context(), wanted("3")))
				}
				for _, command := range []string{"canary", "shift", "promote", "cleanup", "rollback", "verify healthy"} {
					old := w.job("old").queues(release.QueueSupersede)
					old.ReleaseID = "r2"
					result, err := commands[command](w.Context(), old)
					if err != nil || result.SupersededBy != "r3" || !strings.Contains(result.Message, "release r2 is superseded by release r3") || len(old.every) > 0 {
						t.Errorf("%s, %s of the old one: %+v, %v, after %q", stage, command, result, err, old.every)
					}
				}
			}
			w.must(w.job("back").Rollback(w.Context(), "it is bad"))
			other := wanted("2")
			other.ID = "r2b"
			if _, err := w.job("later").Canary(w.Context(), other); err != nil {
				t.Errorf("%s: the same digest later: %v", stage, err)
			}
		})
	}
}

// TestSupersedeWaits for what does not give way: a release that somebody has approved, or that is on its way to primary.
func TestSupersedeWaits(t *testing.T) {
	for _, stage := range []string{"promoting", "promoted", "rolling_back"} {
		at(t, stage, func(w *world) {
			j, done := w.queueing(w.Context(), release.QueueSupersede, handed("3", 13))
			if !still(done) || w.read().Release == nil || w.read().Release.SupersededBy != "" {
				t.Errorf("%s: it did not wait: %q", stage, w.did(j))
			}
			w.must(w.job("end").Rollback(w.Context(), "the end"))
			if stage == "promoted" {
				t.Log(<-done)
				return
			}
			if c := <-done; c.err != nil {
				t.Errorf("%s: %v", stage, c.err)
			}
		})
	}
	at(t, "healthy", func(w *world) {
		person := w.job("person")
		person.Gate = func(context.Context, string, *release.Ledger, *release.Release) (*release.Passed, error) {
			return &release.Passed{Approval: &release.Approval{Kind: release.ApprovalVerified, By: "ann", Command: "approve"}}, nil
		}
		w.must(person.Approve(w.Context()))
		_, done := w.queueing(w.Context(), release.QueueSupersede, handed("3", 13))
		if !still(done) || w.read().Release.Stage != release.StageVerified {
			t.Errorf("an approved release gave way: %+v", w.read().Release)
		}
		w.must(w.job("end").Rollback(w.Context(), "the end"))
		<-done
	})
}

// TestSupersededAtWork: a job that is at work on a release when that gives way ends well.
func TestSupersededAtWork(t *testing.T) {
	for _, command := range []string{"canary", "shift"} {
		at(t, map[string]string{"canary": "rest", "shift": "canary"}[command], func(w *world) {
			j, goOn := w.hold(command, 3)
			_, done := w.queueing(w.Context(), release.QueueSupersede, handed("3", 13))
			if c := <-done; c.err != nil {
				t.Errorf("%s: %v", command, c.err)
			}
			j.ReleaseID = "r2"
			if err := goOn(); command == "canary" && err != nil {
				t.Errorf("%s: %v", command, err)
			}
		})
	}
}

// TestSupersedeLeavesARollbackAlone: whoever waits takes over a rollback whose job is dead, and none that lives.
func TestSupersedeLeavesARollbackAlone(t *testing.T) {
	for _, lives := range []bool{true, false} {
		at(t, "canary", func(w *world) {
			dead := w.job("queue").queues(release.QueueSupersede)
			dead.killOn = "note r2 rolling_back"
			_, _ = dead.Queue(dead.ctx, handed("3", 13))
			goOn := func() error { return nil }
			if lives {
				_, goOn = w.hold("rollback", 3)
			}
			epoch := w.read().Epoch
			_, done := w.queueing(w.Context(), release.QueueSupersede, handed("3", 13))
			if lives && (!still(done) || w.read().Epoch != epoch) {
				t.Errorf("it did not wait: lock %d, before %d", w.read().Epoch, epoch)
			}
			if err := goOn(); err != nil {
				t.Errorf("the rollback: %v", err)
			}
			if c := <-done; c.err != nil || c.result.Message != "it is the turn of release r3" || w.read().History[0].Outcome != release.OutcomeSuperseded {
				t.Errorf("lives %v: %+v", lives, c)
			}
			if unrest := w.unrest("1"); unrest != "" {
				t.Error(unrest)
			}
		})
	}
}

// TestSupersedeInTheLine: the older one that waits ends well and at once, and so does an older one that comes late.
func TestSupersedeInTheLine(t *testing.T) {
	at(t, "promoted", func(w *world) {
		_, third := w.queueing(w.Context(), release.QueueSupersede, handed("3", 13))
		if !still(third) {
			t.Fatal("it did not wait")
		}
		_, fourth := w.queueing(w.Context(), release.QueueSupersede, handed("4", 14))
		if c := <-third; c.err != nil || c.result.SupersededBy != "r4" {
			t.Errorf("%+v", c)
		}
		late, err := w.job("late").queues(release.QueueSupersede).Queue(w.Context(), handed("5", 12))
		if err != nil || late.SupersededBy != "r4" {
			t.Errorf("%+v, %v", late, err)
		}
		canary, err := w.job("canary").queues(release.QueueSupersede).Canary(w.Context(), wanted("3"))
		if err != nil || canary.SupersededBy != "r4" {
			t.Errorf("its canary: %+v, %v", canary, err)
		}
		w.must(w.job("end").Cleanup(w.Context()))
		if c := <-fourth; c.err != nil || c.result.Message != "it is the turn of release r4" {
			t.Errorf("%+v", c)
		}
	})
}

// TestAgainInTheLine: what is wanted again and what is newer wait for each other. The second in the line does not take the place
// of the first one once that has started; who comes later does.
func TestAgainInTheLine(t *testing.T) {
	const policy = release.QueueSupersede
	again, newer := handed("3", 11), handed("4", 14)
	again.Again = true
	for _, line := range [][]release.Queued{{again, newer}, {newer, again}} {
		at(t, "promoted", func(w *world) {
			first, second := line[0], line[1]
			_, one := w.queueing(w.Context(), policy, first)
			time.Sleep(time.Minute)
			_, two := w.queueing(w.Context(), policy, second)
			if !still(one) || !still(two) || w.line() != first.ID+" "+second.ID {
				t.Fatalf("line %q", w.line())
			}
			w.must(w.job("end").Cleanup(w.Context()))
			if c := <-one; c.err != nil || c.result.Message != "it is the turn of release "+first.ID {
				t.Fatalf("%s: %+v", first.ID, c)
			}
			w.must(w.job("canary").queues(policy).Canary(w.Context(), wanted(first.ID[1:])))
			if !still(two) || w.read().Release.ID != first.ID || w.read().Release.SupersededBy != "" {
				t.Fatalf("%s did not wait for %s: %+v", second.ID, first.ID, w.read().Release)
			}
			if first.Again {
				_, three := w.queueing(w.Context(), policy, handed("5", 15))
				if c := <-two; c.err != nil || c.result.SupersededBy != "r5" {
					t.Errorf("%s: %+v", second.ID, c)
				}
				if c := <-three; c.err != nil || c.result.Message != "it is the turn of release r5" {
					t.Errorf("the newest: %+v", c)
				}
				return
			}
			w.must(w.job("back").Rollback(w.Context(), "it is bad"))
			if c := <-two; c.err != nil || c.result.Message != "it is the turn of release "+second.ID {
				t.Errorf("%s: %+v", second.ID, c)
			}
		})
	}
}

// TestNewestBehindAgain: what comes after a release has started takes its place, also when the first in the line has waited together
// with that release, and lets it finish.
func TestNewestBehindAgain(t *testing.T) {
	const policy = release.QueueSupersede
	at(t, "promoted", func(w *world) {
		again := handed("3", 11)
		again.Again = true
		_, first := w.queueing(w.Context(), policy, handed("4", 14))
		time.Sleep(time.Minute)
		_, second := w.queueing(w.Context(), policy, again)
		time.Sleep(time.Minute)
		w.must(w.job("end").Cleanup(w.Context()))
		if c := <-first; c.err != nil || c.result.Message != "it is the turn of release r4" {
			t.Fatalf("%+v", c)
		}
		w.must(w.job("canary").queues(policy).Canary(w.Context(), wanted("4")))
		if !still(second) {
			t.Fatalf("%+v", <-second)
		}
		_, newest := w.queueing(w.Context(), policy, handed("5", 15))
		if !still(newest) || w.line() != "r3 r5" {
			t.Fatalf("line %q", w.line())
		}
		if f := w.read().Find("r4"); f == nil || f.SupersededBy != "r5" {
			t.Fatalf("r4 has not given way: %+v", w.read().Release)
		}
		if c := <-second; c.err != nil || c.result.Message != "it is the turn of release r3" {
			t.Errorf("%+v", c)
		}
	})
}

// TestSupersededWhileItStarts: a newer release takes the turn just before the older one is put in flight.
func TestSupersededWhileItStarts(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.must(w.job("queue").queues(release.QueueSupersede).Queue(w.Context(), handed("3", 13)))
		j, once := w.job("canary").queues(release.QueueSupersede), false
		j.before = func(r *http.Request) error {
			if !once && r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/configmaps/") {
				once = true
				newer, err := w.job("queue").queues(release.QueueSupersede).Queue(w.Context(), handed("4", 14))
				if err != nil || newer.Message != "it is the turn of release r4" {
					t.Errorf("%+v, %v", newer, err)
				}
			}
			return nil
		}
		result, err := j.Canary(w.Context(), wanted("3"))
		if err != nil || result.SupersededBy != "r4" || !once || len(w.did(j)) > 0 {
			t.Errorf("%+v, %v, after %q", result, err, w.did(j))
		}
		w.must(w.job("canary").queues(release.QueueSupersede).Canary(w.Context(), wanted("4")))
	})
}

// TestSupersededBetweenReads: a release gives way after a job of it has read the ledger, and before that reads what is live.
func TestSupersededBetweenReads(t *testing.T) {
	for _, command := range []string{"shift", "promote"} {
		at(t, "healthy", func(w *world) {
			j, once := w.job(command).queues(release.QueueSupersede), false
			j.ReleaseID = "r2"
			j.before = func(r *http.Request) error {
				if !once && strings.Contains(r.URL.Path, "/virtualservices/") {
					once = true
					newer, err := w.job("queue").queues(release.QueueSupersede).Queue(w.Context(), handed("3", 13))
					if err != nil || newer.Message != "it is the turn of release r3" {
						t.Errorf("%+v, %v", newer, err)
					}
				}
				return nil
			}
			result, err := commands[command](w.Context(), j)
			if err != nil || result.SupersededBy != "r3" || !once || len(w.did(j)) > 0 {
				t.Errorf("%s: %+v, %v, after %q", command, result, err, w.did(j))
			}
		})
	}
}

// TestDeadInTheLine: what does not take its turn, or took it and did not start, loses it. Its later jobs end well, and it can
// enter again.
func TestDeadInTheLine(t *testing.T) {
	for _, called := range []bool{false, true} {
		at(t, "canary", func(w *world) {
			ctx, kill := context.WithCancel(w.Context())
			dead, gone := w.queueing(ctx, release.QueueInOrder, handed("3", 13))
			time.Sleep(time.Minute)
			if !called {
				kill()
				if c := <-gone; c.err == nil || !strings.Contains(c.err.Error(), "keeps its place") {
					t.Errorf("%+v", c)
				}
			}
			_, next := w.queueing(w.Context(), release.QueueInOrder, handed("4", 14))
			if !still(next) || w.line() != "r3 r4" {
				t.Fatalf("line %q", w.line())
			}
			w.must(w.job("back").Rollback(w.Context(), "it is bad"))
			ended := time.Now()
			if c := <-next; c.err != nil || c.result.Message != "it is the turn of release r4" {
				t.Fatalf("%+v", c)
			}
			most := map[bool]time.Duration{false: 3 * time.Minute, true: 11 * time.Minute}[called]
			if took := time.Since(ended); took > most {
				t.Errorf("called %v: it took %s", called, took)
			}
			kill()
			w.must(w.job("canary").queues(release.QueueInOrder).Canary(w.Context(), wanted("4")))
			late := w.job("late").queues(release.QueueInOrder)
			if result, err := late.Canary(w.Context(), wanted("3")); err != nil || !strings.Contains(result.Message, "has left the line") || len(late.every) > 0 {
				t.Errorf("%+v, %v, after %q", result, err, late.every)
			}
			w.must(w.job("back").Rollback(w.Context(), "it is bad"))
			if result, err := w.job("late").queues(release.QueueInOrder).Canary(w.Context(), wanted("3")); err != nil || result.Release == nil || result.Release.ID != "r3" {
				t.Errorf("when nobody is in its way: %+v, %v", result, err)
			}
			_ = dead
		})
	}
}

// TestQueueEnds: who has waited for long enough leaves the line, and what was released already does not come into it.
func TestQueueEnds(t *testing.T) {
	at(t, "canary", func(w *world) {
		j := w.job("queue").queues(release.QueueInOrder)
		j.Line.Wait = 10 * time.Minute
		_, err := j.Queue(w.Context(), handed("3", 13))
		if !errors.As(err, new(*rollout.WaitedError)) || !strings.Contains(err.Error(), "release r2 is in flight") || w.line() != "" || w.read().HasLeft("r3") == nil {
			t.Errorf("%v, line %q", err, w.line())
		}
		_, done := w.queueing(w.Context(), release.QueueInOrder, handed("3", 13))
		if !still(done) || w.line() != "r3" || w.read().HasLeft("r3") != nil {
			t.Errorf("once more: line %q", w.line())
		}
		person := w.job("person")
		w.must(person.Leave(w.Context(), "r3", "taken out by ann"))
		if result, err := person.Leave(w.Context(), "r3", "taken out by ann"); err != nil || !strings.Contains(result.Message, "is not in the line") {
			t.Errorf("%+v, %v", result, err)
		}
	})
	at(t, "rest", func(w *world) {
		result, err := w.job("queue").queues(release.QueueInOrder).Queue(w.Context(), release.Queued{ID: "r1"})
		if err != nil || !strings.Contains(result.Message, "release r1 has finished (first)") {
			t.Errorf("%+v, %v", result, err)
		}
	})
}
