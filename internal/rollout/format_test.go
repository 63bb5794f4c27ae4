package rollout_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// ofManifests is where a ledger has what the manifests say of a release: the hash of its pod template, or the template itself.
var ofManifests = regexp.MustCompile(`"(template|pod)": "(?:[^"\\]|\\.)*"`)

// olderLedger puts the ledger of a release at a stage in place, as the Crossbill of version 1 of the format wrote it, of
// today's manifests: those of that day had other probes.
func (w *world) olderLedger(stage string) {
	w.Helper()
	text, err := os.ReadFile("../release/testdata/version1/" + stage + ".json")
	w.must(text, err)
	w.forge(func(data map[string]string) {
		today := map[string][]string{}
		for _, found := range ofManifests.FindAllStringSubmatch(data[ledgerKey], -1) {
			today[found[1]] = append(today[found[1]], found[0])
		}
		data[ledgerKey] = ofManifests.ReplaceAllStringFunc(string(text), func(old string) string {
			name := ofManifests.FindStringSubmatch(old)[1]
			if len(today[name]) == 0 {
				w.Fatalf("%s has more of %q than a ledger of today", stage, name)
			}
			next := today[name][0]
			today[name] = today[name][1:]
			return next
		})
	})
}

// TestAReleaseSurvivesAnUpdate: each command goes on with a release that a Crossbill of version 1 of the ledger's format has
// brought to a stage, and the next one to its end.
func TestAReleaseSurvivesAnUpdate(t *testing.T) {
	type command = func(*world, *job) error
	doing := func(do func(*rollout.Cluster, context.Context) (rollout.Result, error)) command {
		return func(w *world, j *job) error { _, err := do(j.Cluster, w.Context()); return err }
	}
	promote, cleanup := doing((*rollout.Cluster).Promote), doing((*rollout.Cluster).Cleanup)
	rollback := doing(func(c *rollout.Cluster, ctx context.Context) (rollout.Result, error) { return c.Rollback(ctx, "test") })
	healthy := doing(func(c *rollout.Cluster, ctx context.Context) (rollout.Result, error) {
		return judge(ctx, c, release.Healthy)
	})
	shift := doing(func(c *rollout.Cluster, ctx context.Context) (rollout.Result, error) {
		return c.Shift(ctx, []int{25}, time.Second)
	})
	next := func(w *world, j *job) error { _, err := j.Canary(w.Context(), j.wanted("3")); return err }
	guard := doing(func(c *rollout.Cluster, ctx context.Context) (rollout.Result, error) {
		return c.Guard(ctx, rollout.Limits{Dead: time.Hour, Waiting: time.Hour})
	})
	hold := doing(func(c *rollout.Cluster, ctx context.Context) (rollout.Result, error) { return c.Hold(ctx, "a freeze") })
	resume := doing((*rollout.Cluster).Resume)
	goBack := doing(func(c *rollout.Cluster, ctx context.Context) (rollout.Result, error) {
		return c.RollbackTo(ctx, "r1", "test", true)
	})
	for name, c := range map[string]struct {
		stage, file string
		do          []command
		runs        string // on primary in the end
	}{
		"a canary is promoted":               {"canary", "canary", []command{guard, healthy, promote, cleanup}, "2"},
		"a canary gets more":                 {"canary", "canary", []command{shift, healthy, promote, cleanup}, "2"},
		"a canary goes back":                 {"canary", "canary", []command{rollback}, "1"},
		"testers' canary goes back":          {"matched", "matched", []command{rollback}, "1"},
		"a healthy one is promoted":          {"healthy", "healthy", []command{promote, cleanup}, "2"},
		"a promotion goes on":                {"promoting", "promoting", []command{promote, cleanup}, "2"},
		"a promotion is taken back":          {"promoting", "promoting", []command{rollback}, "1"},
		"a promoted one is cleaned up":       {"promoted", "promoted", []command{cleanup}, "2"},
		"a promoted one goes back":           {"promoted", "promoted", []command{rollback}, "1"},
		"a return goes on":                   {"returning", "returning", []command{goBack, cleanup}, "1"},
		"the next release":                   {"ended", "ended", []command{resume, next, healthy, promote, cleanup}, "3"},
		"on hold, then the version before":   {"ended", "ended", []command{hold, goBack, cleanup}, "1"},
		"a rollback goes on, whose job died": {"healthy", "rolling_back", []command{rollback}, "1"},
	} {
		t.Run(name, func(t *testing.T) {
			at(t, c.stage, func(w *world) {
				if c.file == "rolling_back" {
					j := w.job("dies")
					j.killOn = "update vs 100/0"
					if _, err := j.Rollback(j.ctx, "test"); !errors.Is(err, errKilled) {
						w.Fatal(err)
					}
				}
				w.olderLedger(c.file)
				for i, do := range c.do {
					if err := do(w, w.job("newer")); err != nil {
						w.Fatalf("command %d: %v", i+1, err)
					}
				}
				if unrest := w.unrest(c.runs); unrest != "" {
					t.Error(unrest)
				}
				if text := w.ledger().Data[ledgerKey]; !strings.Contains(text, `"version": 1`) {
					t.Errorf("the Crossbill before cannot read the ledger any more:\n%s", text)
				}
			})
		})
	}
}

// TestANewerLedgerIsLeftAlone: no command changes anything of an app whose ledger, or line, a newer Crossbill has written, not
// even its lock.
func TestANewerLedgerIsLeftAlone(t *testing.T) {
	commands := map[string]func(*job, context.Context) (any, error){
		"canary":      func(j *job, ctx context.Context) (any, error) { return j.Canary(ctx, j.wanted("3")) },
		"shift":       func(j *job, ctx context.Context) (any, error) { return j.Shift(ctx, []int{25}, time.Second) },
		"promote":     func(j *job, ctx context.Context) (any, error) { return j.Promote(ctx) },
		"cleanup":     func(j *job, ctx context.Context) (any, error) { return j.Cleanup(ctx) },
		"rollback":    func(j *job, ctx context.Context) (any, error) { return j.Rollback(ctx, "test") },
		"rollback to": func(j *job, ctx context.Context) (any, error) { return j.RollbackTo(ctx, "r1", "test", true) },
		"hold":        func(j *job, ctx context.Context) (any, error) { return j.Hold(ctx, "test") },
		"resume":      func(j *job, ctx context.Context) (any, error) { return j.Resume(ctx) },
		"guard": func(j *job, ctx context.Context) (any, error) {
			return j.Guard(ctx, rollout.Limits{Dead: time.Hour, Waiting: time.Hour})
		},
		"approve": func(j *job, ctx context.Context) (any, error) { return j.Approve(ctx) },
		"verify":  func(j *job, ctx context.Context) (any, error) { return judge(ctx, j.Cluster, release.Unhealthy) },
		"migrate": func(j *job, ctx context.Context) (any, error) { return j.Migrate(ctx, "qwik-node-app") },
		"status":  func(j *job, ctx context.Context) (any, error) { return j.Status(ctx) },
		"queue": func(j *job, ctx context.Context) (any, error) {
			j.Line.Policy = release.QueueInOrder
			return j.Queue(ctx, release.Queued{ID: "r3", Image: image("3")})
		},
		"queue --leave": func(j *job, ctx context.Context) (any, error) { return j.Leave(ctx, "r3", "test") },
	}
	for what, forge := range map[string]func(data map[string]string){
		"version": func(data map[string]string) {
			data[ledgerKey] = strings.Replace(data[ledgerKey], `"version": 1`, `"version": 3`, 1)
		},
		"field": func(data map[string]string) {
			data[ledgerKey] = strings.Replace(data[ledgerKey], `"version": 1`, `"version": 2, "freeze": "2027"`, 1)
		},
		"line": func(data map[string]string) { data["line.json"] = `{"queue": [{"id": "r9", "lane": "fast"}]}` },
	} {
		t.Run(what, func(t *testing.T) {
			at(t, "healthy", func(w *world) {
				w.observer.started = false // which reads ledgers
				w.forge(forge)
				for name, do := range commands {
					before := w.server.version
					_, err := do(w.job(name), w.Context())
					if newer, ok := errors.AsType[*release.NewerLedgerError](err); !ok || newer.App != w.set.App {
						t.Errorf("%s: %v", name, err)
					}
					if w.server.version != before {
						t.Errorf("%s has written something", name)
					}
				}
				status, err := w.job("look").StatusOfObjects(w.Context(), "newer")
				if err != nil || status.Problem != "newer" || status.Weights.Canary != 10 || len(status.Tracks) != 2 {
					t.Errorf("%v, %+v", err, status)
				}
			})
		})
	}
}

// TestOvertakenByANewerCrossbill: a job whose app a newer Crossbill takes over has lost its lock, and says so.
func TestOvertakenByANewerCrossbill(t *testing.T) {
	at(t, "healthy", func(w *world) {
		j := w.job("older")
		j.before = func(r *http.Request) error {
			if r.Method != http.MethodPatch || !strings.Contains(r.URL.Path, "/deployments/") {
				return nil
			}
			j.before = nil
			w.observer.started = false // which reads ledgers
			w.forge(func(data map[string]string) {
				data[ledgerKey] = strings.Replace(data[ledgerKey], `"version": 1`, `"version": 3`, 1)
			})
			return nil
		}
		if _, err := j.Promote(w.Context()); !errors.Is(err, rollout.ErrLockLost) {
			t.Error(err)
		}
	})
}
