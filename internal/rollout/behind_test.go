package rollout_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// endings notes each pod of primary that is ended while traffic is, or was up to a moment ago, routed to it: an app that
// ends at once on SIGTERM would lose requests. Pods that are too many are no loss of this kind, and none here.
func (w *world) endings() *[]string {
	var found []string
	var since time.Time
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	w.server.changed = append(w.server.changed, func(e event) {
		switch e.resource {
		case "virtualservices":
			route := decode[networking.VirtualService](e.after)
			switch gets := manifest.Weights(route, w.set.Routes(route)[0]).Primary > 0; {
			case gets:
				since = time.Time{}
			case since.IsZero():
				since = time.Now()
			}
		case "pods":
			pod := decode[corev1.Pod](e.after)
			if pod.DeletionTimestamp == nil || e.before == nil || decode[corev1.Pod](e.before).DeletionTimestamp != nil || pod.Labels[manifest.TrackLabel] != string(release.Primary) {
				return
			}
			if since.IsZero() || time.Since(since) < rollout.DefaultSettleDelay {
				found = append(found, pod.Name)
			}
		}
	})
	return &found
}

// TestPromotionBehindTheCanary: no pod of primary is ended while it has traffic, by promotion or by its rollback. With traffic
// on primary they are.
func TestPromotionBehindTheCanary(t *testing.T) {
	for _, c := range []struct {
		stage, command string
		lossy          bool
	}{
		{"healthy", "promote", false},
		{"moving", "promote", false},
		{"promoted", "rollback", false},
		{"promoting", "rollback", false},
		{"moving", "rollback", false},
		{"healthy", "promote under traffic", true},
		{"rolled", "rollback", true},
	} {
		t.Run(c.command+" at "+c.stage, func(t *testing.T) {
			t.Parallel()
			at(t, c.stage, func(w *world) {
				ended := w.endings()
				w.patchRoute(`[{"op":"add","path":"/metadata/labels","value":{"seen":"x"}}]`) // the route as it is
				if c.stage == "promoting" {
					time.Sleep(rollout.DefaultSettleDelay)
				}
				j := w.job("job")
				w.must(commands[c.command](w.Context(), j))
				if lossy := len(*ended) > 0; lossy != c.lossy {
					t.Errorf("ended under traffic: %q; it did %q", *ended, w.did(j))
				}
			})
		})
	}
}

// TestPromotionThatWasUndone: the job of a promotion that changes no image dies when primary has the traffic again, and somebody
// puts primary's old pod template back. The promotion that goes on moves the traffic away before it replaces primary once more.
func TestPromotionThatWasUndone(t *testing.T) {
	at(t, configuredApp+"healthy", func(w *world) {
		before, err := json.Marshal(w.deployment(release.Primary).Spec.Template)
		w.must(nil, err)
		first := w.job("first")
		first.killOn = "update vs 100/0"
		if _, err := first.Promote(first.ctx); err == nil {
			t.Fatal("the promotion is not interrupted")
		}
		time.Sleep(150 * time.Second)
		w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/template","value":`+string(before)+`}]`)
		w.wait()
		ended := w.endings()
		w.patchRoute(`[{"op":"add","path":"/metadata/labels","value":{"seen":"x"}}]`) // the route as it is
		j := w.job("again")
		w.must(j.Promote(w.Context()))
		if len(*ended) > 0 {
			t.Errorf("ended under traffic: %q; it did %q", *ended, w.did(j))
		}
	})
}

// TestWayBackFromPromotion: a canary that has all of the traffic keeps it until primary is back, unless callers get errors from
// it.
func TestWayBackFromPromotion(t *testing.T) {
	for name, c := range map[string]struct {
		stage string
		do    func(w *world, j *job)
		want  string
	}{
		"a canary that serves": {"promoting", func(*world, *job) {},
			"update primary image 1, update vs 100/0, delete canary"},
		"a canary that serves, before primary is touched": {"moving", func(*world, *job) {},
			"update vs 100/0, delete canary"},
		"a canary that is gone": {"promoting", func(w *world, _ *job) { w.delete(release.Canary) },
			"update vs 100/0, update primary image 1"},
		"a canary that fails": {"promoting", func(_ *world, j *job) { j.Urgent = true },
			"update vs 100/0, update primary image 1, delete canary"},
		"after promotion, of a version that fails": {"promoted", func(_ *world, j *job) { j.Urgent = true },
			"update primary image 1, delete canary"},
		"after promotion, without a canary": {"promoted", func(w *world, _ *job) { w.delete(release.Canary) },
			"update primary image 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, c.stage, func(w *world) {
				w.observer.started = false
				j := w.job("job")
				c.do(w, j)
				ended := w.endings()
				w.patchRoute(`[{"op":"add","path":"/metadata/labels","value":{"seen":"x"}}]`) // the route as it is
				time.Sleep(rollout.DefaultSettleDelay)
				w.must(j.Rollback(w.Context(), "test"))
				if said := j.said("an app that ends at once on SIGTERM loses requests"); said != (len(*ended) > 0) {
					t.Errorf("ended under traffic: %q; that requests may be lost it says: %t", *ended, said)
				}
				if got, want := strings.Join(w.did(j), ", "), "note r2 rolling_back, "+c.want+", note r2 ended: rolled_back"; got != want {
					t.Errorf("it did %q, want %q", got, want)
				}
				if unrest := w.unrest("1"); unrest != "" {
					t.Error(unrest)
				}
			})
		})
	}
}

// TestNewPodsThatFail: promotion's new pods do not come up. The canary keeps the traffic until a rollback has put primary back.
func TestNewPodsThatFail(t *testing.T) {
	at(t, "moving", func(w *world) {
		ended := w.endings()
		w.patchRoute(`[{"op":"add","path":"/metadata/labels","value":{"seen":"x"}}]`)
		w.server.mu.Lock()
		w.controllers.slow = time.Hour
		w.server.mu.Unlock()
		j := w.job("job")
		j.Timeout = 30 * time.Second
		if _, err := j.Promote(w.Context()); err == nil {
			t.Fatal("promoted")
		}
		status, err := j.Status(w.Context())
		if err != nil || *status.Weights != (manifest.WeightPair{Canary: 100}) || len(status.Drift) > 0 {
			t.Errorf("%+v, %q, %v", status.Weights, status.Drift, err)
		}
		w.server.mu.Lock()
		w.controllers.slow = 0
		w.server.mu.Unlock()
		w.must(j.Rollback(w.Context(), "test"))
		if len(*ended) > 0 {
			t.Errorf("ended under traffic: %q", *ended)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestStickyPromotion: while the canary has all of the traffic, browsers of both tracks go to it and become its own, so that
// a rollback finds them again.
func TestStickyPromotion(t *testing.T) {
	at(t, "sticky", func(w *world) {
		var seen []string
		w.server.mu.Lock()
		w.server.changed = append(w.server.changed, func(e event) {
			if e.resource != "virtualservices" || e.kind == "DELETED" {
				return
			}
			vs := decode[networking.VirtualService](e.after)
			r := w.set.Routes(vs)[0]
			cookie := func(place int) bool {
				return vs.Spec.Http[r.HTTP].Route[place].GetHeaders().GetResponse().GetAdd()["set-cookie"] != ""
			}
			if now := fmt.Sprintf("%s %v %v", splitOf(w.set, vs), cookie(r.Primary), cookie(r.Canary)); len(seen) == 0 || seen[len(seen)-1] != now {
				seen = append(seen, now)
			}
		})
		w.server.mu.Unlock()
		j := w.job("job")
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		w.must(j.Promote(w.Context()))
		w.must(j.Rollback(w.Context(), "test"))
		want := []string{"0/100 false true", "100/0 false false", "0/100 false true", "100/0 sticky assets+pages false false", "100/0 false false"}
		if strings.Join(seen, "; ") != strings.Join(want, "; ") {
			t.Errorf("%q, want %q", seen, want)
		}
	})
}

// TestCapacityIsSaid: what promotion takes or risks is said before, also in a plan.
func TestCapacityIsSaid(t *testing.T) {
	for traffic, says := range map[release.Track]string{
		release.Canary:  "promotion gives it 2 replicas, enough for all of the traffic",
		release.Primary: "an app that ends at once on SIGTERM loses requests",
	} {
		at(t, "healthy", func(w *world) {
			if traffic == release.Primary {
				d, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), w.set.Name(release.Primary), metav1.GetOptions{})
				w.must(d, err)
				if d.Spec.Template.Spec.Containers[0].Lifecycle != nil {
					t.Fatal("the example has a preStop hook now: take it off here")
				}
			}
			plan := w.job("plan")
			plan.Plan, plan.PromoteTraffic = &rollout.Plan{}, traffic
			w.must(plan.Promote(w.Context()))
			if !strings.Contains(strings.Join(plan.Plan.Notes, "\n"), says) {
				t.Errorf("the plan says %q", plan.Plan.Notes)
			}
			j := w.job("job")
			j.PromoteTraffic = traffic
			w.must(j.Promote(w.Context()))
			if !strings.Contains(strings.Join(j.logged, "\n"), says) {
				t.Errorf("it says %q", j.logged)
			}
		})
	}
}
