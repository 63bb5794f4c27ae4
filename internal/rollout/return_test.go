package rollout_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

const boundAnnotation = "crossbill.our-org.github.com/releases"

// returnable are the ids of the releases that the ledger keeps the pod template of, and that primary notes as its own.
func (w *world) returnable() (kept, noted []string) {
	w.Helper()
	ledger, err := release.ParseLedger(w.set.App, w.ledger().Data[ledgerKey])
	w.must(ledger, err)
	hashes := strings.Fields(w.deployment(release.Primary).Annotations[boundAnnotation])
	for _, f := range ledger.Returnable() {
		kept = append(kept, f.ID)
		for _, hash := range hashes {
			if hash == fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(f.Image+"\n"+f.Pod))) {
				noted = append(noted, f.ID)
			}
		}
	}
	return kept, noted
}

// TestPodIsKept: the ledger keeps what primary ran as a release that ended well, and primary notes it: of the last releases
// that can be returned to, and of none that was rolled back.
func TestPodIsKept(t *testing.T) {
	for stage, want := range map[string][]string{"rest": {"r1"}, "ended": {"r2", "r1"}, "rolled_back": {"r1"}, "promoted": {"r1"}} {
		at(t, stage, func(w *world) {
			kept, noted := w.returnable()
			if diff := cmp.Diff(want, kept); diff != "" {
				t.Errorf("%s (-want +got):\n%s", stage, diff)
			}
			if diff := cmp.Diff(kept, noted); diff != "" {
				t.Errorf("%s: primary does not note what the ledger keeps (-kept +noted):\n%s", stage, diff)
			}
			if stage != "promoted" {
				return
			}
			hashes := w.deployment(release.Primary).Annotations[boundAnnotation]
			w.must(w.job("back").Rollback(w.Context(), "test"))
			if back := w.deployment(release.Primary).Annotations[boundAnnotation]; back == hashes || len(strings.Fields(back)) != 1 {
				t.Errorf("after the rollback primary notes %q, before it %q", back, hashes)
			}
			if kept, noted := w.returnable(); !cmp.Equal(kept, want) || !cmp.Equal(noted, want) {
				t.Errorf("after the rollback %q are kept, %q are noted", kept, noted)
			}
		})
	}
	at(t, "ended", func(w *world) {
		for digit := 3; digit <= 5; digit++ {
			j := w.job("more")
			j.KeepReleases = 3
			w.must(j.Canary(w.Context(), wanted(fmt.Sprint(digit))))
			w.must(judge(w.Context(), j.Cluster, release.Healthy))
			w.must(j.Promote(w.Context()))
			w.must(j.Cleanup(w.Context()))
		}
		want := []string{"r5", "r4", "r3"}
		if kept, noted := w.returnable(); !cmp.Equal(kept, want) || !cmp.Equal(noted, want) {
			t.Errorf("%q are kept, %q are noted; want %q", kept, noted, want)
		}
	})
}

// edit changes the ledger as somebody does who may write ConfigMaps.
func (w *world) edit(change func(*release.Ledger)) {
	w.Helper()
	state := w.ledger()
	ledger, err := release.ParseLedger(w.set.App, state.Data[ledgerKey])
	w.must(ledger, err)
	change(ledger)
	state.Data[ledgerKey] = ledger.String()
	w.must(w.kube.CoreV1().ConfigMaps(namespace).Update(w.Context(), state, metav1.UpdateOptions{}))
}

// TestReturn: primary has the pod template that it had, byte for byte, the app is on hold for what was taken back, and what
// was taken back can be returned to in its turn.
func TestReturn(t *testing.T) {
	at(t, "ended", func(w *world) {
		podOf := func(id string) string {
			ledger, err := release.ParseLedger(w.set.App, w.ledger().Data[ledgerKey])
			w.must(ledger, err)
			for _, f := range ledger.Returnable() {
				if f.ID == id {
					return f.Pod
				}
			}
			return ""
		}
		first, second := podOf("r1"), podOf("r2")
		j := w.job("back")
		result, err := j.RollbackTo(w.Context(), "r1", "orders are lost", true)
		if err != nil || result.Outcome != release.OutcomeReturned || result.Release.ID != "r1" || result.Release.Return.From != "r2" {
			t.Fatalf("%+v, %v", result, err)
		}
		if diff := cmp.Diff(first, podOf("r1")); diff != "" || first == "" {
			t.Errorf("what primary runs (-as release r1 +now):\n%s", diff)
		}
		status, err := w.job("look").Status(w.Context())
		w.must(status, err)
		if h := status.Hold; h == nil || h.Release != "r2" || h.Reason != "orders are lost" || h.By != j.name {
			t.Errorf("the hold is %+v", h)
		}
		if _, err := w.job("merge").Canary(w.Context(), wanted("3")); refusal(err) != "stage" || !strings.Contains(err.Error(), "who has taken release r2 back: orders are lost") {
			t.Errorf("the next merge: %v", err)
		}
		w.must(w.job("person").Resume(w.Context()))
		if _, err := w.job("again").Canary(w.Context(), wanted("2")); refusal(err) != "stage" || !strings.Contains(err.Error(), "--again") {
			t.Errorf("what was taken back: %v", err)
		}
		w.must(w.job("forth").RollbackTo(w.Context(), "r2", "it was not the release", false))
		if diff := cmp.Diff(second, podOf("r2")); diff != "" || second == "" {
			t.Errorf("what primary runs (-as release r2 +now):\n%s", diff)
		}
		if unrest := w.unrest("2"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestReturnPastUnchanged: a release that found its image on primary is no release to go back from: what is taken back is the one
// that put the image there. That holds as long as nobody else has put another one there.
func TestReturnPastUnchanged(t *testing.T) {
	at(t, "ended", func(w *world) {
		docs := wanted("2")
		docs.ID = "docs"
		if result, err := w.job("merge").Canary(w.Context(), docs); err != nil || result.Outcome != release.OutcomeUnchanged {
			t.Fatalf("%+v, %v", result, err)
		}
		result, err := w.job("back").RollbackTo(w.Context(), rollout.Previous, "orders are lost", true)
		if err != nil || result.Outcome != release.OutcomeReturned || result.Release.ID != "r1" || result.Release.Return.From != "r2" {
			t.Fatalf("%+v, %v", result, err)
		}
		if h := w.read().Hold; h == nil || h.Release != "r2" {
			t.Errorf("the hold is %+v", h)
		}
		w.must(w.job("person").Resume(w.Context()))
		docs = wanted("1")
		docs.ID = "more-docs"
		if result, err := w.job("merge").Canary(w.Context(), docs); err != nil || result.Outcome != release.OutcomeUnchanged {
			t.Fatalf("%+v, %v", result, err)
		}
		if result, err := w.job("back").RollbackTo(w.Context(), rollout.Previous, "", true); err != nil || !strings.Contains(result.Message, "release r1 was returned to") {
			t.Errorf("%+v, %v", result, err)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
	at(t, "ended", func(w *world) {
		w.edit(func(l *release.Ledger) { // as a release of what somebody had put on primary leaves it
			l.History = append([]release.Finished{{Release: release.Release{ID: "found", Image: image("7")}, Outcome: release.OutcomeUnchanged}}, l.History...)
		})
		if result, err := w.job("back").RollbackTo(w.Context(), rollout.Previous, "", true); err != nil || !strings.Contains(result.Message, "already runs release r2") {
			t.Errorf("%+v, %v", result, err)
		}
	})
}

// TestBadReturn: what cannot be returned to is refused with what to do instead, before anything is written.
func TestBadReturn(t *testing.T) {
	history := func(change func(*release.Finished)) func(*world) {
		return func(w *world) {
			w.edit(func(l *release.Ledger) { change(l.Find("r1")) })
		}
	}
	for name, c := range map[string]struct {
		do    func(*world)
		to    string
		kind  string
		says  []string
		stage string
	}{
		"nobody":        {func(*world) {}, "r9", "input", []string{`"r9" is no release`, "give one of r2, r1"}, "ended"},
		"rolled back":   {func(*world) {}, "r2", "input", []string{"ended as rolled_back", "give one of r1"}, "rolled_back"},
		"not kept":      {history(func(f *release.Finished) { f.Pod = "" }), "r1", "input", []string{"not kept any more", "rollback.keepReleases", "canary --image " + image("1") + " --again"}, "ended"},
		"another image": {history(func(f *release.Finished) { f.Image = image("7") }), "r1", "input", []string{"does not note", "canary --image"}, "ended"},
		"another pod": {history(func(f *release.Finished) {
			f.Pod = strings.Replace(f.Pod, image("1"), image("7"), 1)
		}), "r1", "input", []string{"does not note"}, "ended"},
		"called good": {func(w *world) {
			w.edit(func(l *release.Ledger) {
				l.Find("r2").Outcome, l.Find("r2").Pod = release.OutcomePromoted, l.Find("r1").Pod
			})
		}, "r2", "input", []string{"does not note"}, "rolled_back"},
		"no names": {func(w *world) {
			w.edit(func(l *release.Ledger) { l.Find("r1").Objects, l.Find("r2").Objects = nil, nil })
		}, "r1", "input", []string{"does not name the app's objects"}, "ended"},
		"configuration gone": {history(func(f *release.Finished) {
			f.Config = []release.Config{{Kind: "ConfigMap", Name: "web", Copy: "web-abc"}}
		}), "r1", "input", []string{"its configuration is gone: ConfigMap prod/web-abc"}, "ended"},
		"another Service": {func(w *world) {
			w.must(w.kube.CoreV1().Services(namespace).Patch(w.Context(), w.set.Service.Name, types.JSONPatchType, []byte(`[{"op":"add","path":"/spec/selector/tier","value":"web"}]`), metav1.PatchOptions{}))
		}, "r1", "input", []string{"release r1", "tier: web"}, "ended"},
		"no route": {func(w *world) { w.patchRoute(`[{"op":"remove","path":"/spec/http/0/route/1"}]`) }, "r1", "input", []string{"no http route"}, "ended"},
		"paused": {func(w *world) {
			w.patchDeployment(release.Primary, `[{"op":"add","path":"/spec/paused","value":true}]`)
		}, "r1", "input", []string{"paused"}, "ended"},
		"no primary": {func(w *world) { w.delete(release.Primary) }, "r1", "stage", []string{"not found"}, "ended"},
		"a new app":  {func(*world) {}, rollout.Previous, "stage", []string{"no release before"}, "new"},
		"taken back": {func(w *world) { w.must(w.job("back").Rollback(w.Context(), "test")) }, "r2", "", nil, "returning"},
		"rolling back": {func(w *world) {
			j := w.job("back")
			j.killOn = "note r1 rolling_back"
			_, _ = j.Rollback(j.ctx, "test")
		}, "r1", "stage", []string{"finish with rollback"}, "returning"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, c.stage, func(w *world) {
				w.observer.started = false // the test makes things that nobody else would
				c.do(w)
				j := w.job("job")
				_, err := j.RollbackTo(w.Context(), c.to, "test", true)
				if refusal(err) != c.kind || len(j.every) > 0 {
					t.Fatalf("%v, after %q", err, j.every)
				}
				for _, says := range c.says {
					if !strings.Contains(err.Error(), says) {
						t.Errorf("%q does not say %q", err, says)
					}
				}
			})
		})
	}
}

// TestForgedReturn: who may write the ledger, and no Deployment, deploys nothing by it, before a return or while it is under
// way.
func TestForgedReturn(t *testing.T) {
	for _, stage := range []string{"returning", "returning to primary"} {
		at(t, stage, func(w *world) {
			w.edit(func(l *release.Ledger) {
				l.Release.Pod = strings.ReplaceAll(l.Release.Pod, `"containers":[`, `"hostNetwork":true,"containers":[`)
			})
			if _, err := w.job("again").RollbackTo(w.Context(), "r1", "test", true); refusal(err) != "stage" || !strings.Contains(err.Error(), "rollback ends the return") {
				t.Errorf("%s: %v", stage, err)
			}
			for _, track := range []release.Track{release.Primary, release.Canary} {
				if w.deployment(track).Spec.Template.Spec.HostNetwork {
					t.Errorf("%s: %s has what the ledger said", stage, track)
				}
			}
			w.must(w.job("back").Rollback(w.Context(), "test"))
			if unrest := w.unrest("2"); unrest != "" {
				t.Errorf("%s: %s", stage, unrest)
			}
		})
	}
}

// TestKeepWarm: a return to pods that are kept only moves the route; they are no orphan while they are kept, and guard and
// cleanup remove them afterwards.
func TestKeepWarm(t *testing.T) {
	at(t, "warm", func(w *world) {
		started := time.Now()
		j := w.job("back")
		j.killOn = "update vs 0/100"
		_, _ = j.RollbackTo(j.ctx, "r1", "test", true)
		if took := time.Since(started); took > 3*time.Second {
			t.Errorf("the traffic was there after %s", took)
		}
		if got, want := strings.Join(w.did(j), ", "), "note hold, note r1 promoting, update vs 0/100"; got != want {
			t.Errorf("it did %q, want %q", got, want)
		}
	})
	for _, command := range []string{"guard", "cleanup", "rollback"} {
		at(t, "warm", func(w *world) {
			status, err := w.job("look").Status(w.Context())
			w.must(status, err)
			if status.Warm == nil || status.Warm.Release != "r1" {
				t.Fatalf("warm is %+v", status.Warm)
			}
			time.Sleep(time.Until(status.Warm.Until))
			j := w.job("late")
			if _, err := commands[command](w.Context(), j); err != nil || strings.Join(w.did(j), ", ") != "delete canary" {
				t.Errorf("%s did %q, %v", command, w.did(j), err)
			}
			if status, err = w.job("look").Status(w.Context()); err != nil || status.Warm != nil {
				t.Errorf("%s: warm is %+v, %v", command, status.Warm, err)
			}
			if unrest := w.unrest("2"); unrest != "" {
				t.Errorf("%s: %s", command, unrest)
			}
		})
	}
}

// TestKeepWarmPastTheRoute: callers in the mesh could reach what is kept past the route; where counters show that none does, it
// is kept.
func TestKeepWarmPastTheRoute(t *testing.T) {
	for name, drained := range map[string]func(context.Context, string) error{"not known": nil, "nobody calls": func(context.Context, string) error { return nil }} {
		at(t, "promoted", func(w *world) {
			j := w.job("cleanup")
			j.Drained, j.KeepWarm = drained, 10*time.Minute
			w.must(j.Cleanup(w.Context()))
			status, err := w.job("look").Status(w.Context())
			w.must(status, err)
			if kept := status.Warm != nil && status.Tracks[release.Canary] != nil; kept != (drained != nil) {
				t.Errorf("%s: kept: %v, %+v", name, kept, status.Warm)
			}
		})
	}
}

// TestReturnPlan: a dry run shows the writes, and makes none.
func TestReturnPlan(t *testing.T) {
	for _, stage := range []string{"ended", "next"} {
		at(t, stage, func(w *world) {
			j := w.job("plan")
			j.Plan = &rollout.Plan{}
			if _, err := j.RollbackTo(w.Context(), "r1", "test", true); err != nil || len(w.did(j)) > 0 {
				t.Errorf("%s: %v, after %q", stage, err, w.did(j))
			}
			var objects []string
			for _, change := range j.Plan.Changes {
				objects = append(objects, change.Action+" "+change.Object)
			}
			if text := strings.Join(objects, ", "); !strings.Contains(text, "Deployment prod/qwik-node-app-primary") || !strings.Contains(text, "VirtualService") {
				t.Errorf("%s: the plan is %s", stage, text)
			}
		})
	}
}

// TestReturnWithoutManifests: the ledger names the objects.
func TestReturnWithoutManifests(t *testing.T) {
	at(t, "ended", func(w *world) {
		app, err := rollout.FindApp(w.Context(), w.kube, namespace, w.set.App)
		w.must(app, err)
		j := w.job("back")
		j.Manifests = app.Manifests
		w.must(j.RollbackTo(w.Context(), rollout.Previous, "test", true))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestForeignCanaryIsNotKeptWarm: somebody else's Deployment of the canary's name keeps no promoted release from its end, and is refused
// before a return begins.
func TestForeignCanaryIsNotKeptWarm(t *testing.T) {
	at(t, "promoted in the mesh", func(w *world) {
		w.observer.started = false
		w.delete(release.Canary)
		w.somebodys(release.Canary, true)
		if _, err := commands["cleanup warm"](w.Context(), w.job("cleanup")); err != nil || w.read().Release != nil || !w.theirs(release.Canary) {
			t.Errorf("%v, in flight %+v", err, w.read().Release)
		}
	})
	at(t, "ended", func(w *world) {
		w.observer.started = false
		w.somebodys(release.Canary, true)
		j := w.job("back")
		_, err := j.RollbackTo(w.Context(), "r1", "test", true)
		if !errors.As(err, new(*usererr.Error)) || len(j.every) > 0 || w.read().Release != nil || w.read().Hold != nil {
			t.Errorf("%v, after %q", err, j.every)
		}
	})
}
