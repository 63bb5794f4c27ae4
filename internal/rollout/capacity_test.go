package rollout_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// scale gives a track a number of replicas, as a person or an autoscaler does, and waits until it has them.
func (w *world) scale(track release.Track, replicas int) {
	w.Helper()
	w.patchDeployment(track, fmt.Sprintf(`[{"op":"replace","path":"/spec/replicas","value":%d}]`, replicas))
	w.wait()
	time.Sleep(time.Duration(replicas) * time.Second)
}

// replicas are what a track is to have; -1 when it does not exist.
func (w *world) replicas(track release.Track) int {
	w.Helper()
	d, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), w.set.Name(track), metav1.GetOptions{})
	if err != nil {
		return -1
	}
	return int(*d.Spec.Replicas)
}

// withAndWithout runs a test whose primary has an HPA, and one without.
func withAndWithout(t *testing.T, stage string, test func(t *testing.T, w *world)) {
	for name, most := range map[string]int32{"with an HPA": 30, "without": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, stage, func(w *world) {
				if most > 0 {
					w.hpa(w.set.Name(release.Primary), most)
				}
				test(t, w)
			})
		})
	}
}

// shrunk is a release at 50% whose primary, of six, has been scaled to three.
func (w *world) shrunk() {
	w.Helper()
	w.half()
	w.scale(release.Primary, 3)
}

// half is a release at 50%, with a primary of six.
func (w *world) half() {
	w.Helper()
	w.scale(release.Primary, 6)
	j := w.job("before")
	w.must(j.Canary(w.Context(), wanted("2")))
	w.must(j.Shift(w.Context(), []int{50}, 0))
}

// givenBack is how a primary that is to have six replicas gets all of the traffic: in parts when its HPA has left it three.
func (w *world) givenBack() []string {
	w.Helper()
	hpas, err := w.kube.AutoscalingV2().HorizontalPodAutoscalers(namespace).List(w.Context(), metav1.ListOptions{})
	w.must(nil, err)
	if len(hpas.Items) == 0 {
		return []string{"update primary x6", "update vs 100/0", "note r2 promoted"}
	}
	return []string{"update primary x4", "update vs 62/38", "update primary x5", "update vs 77/23", "update primary x6", "update vs 100/0", "note r2 promoted"}
}

// TestRollbackOfAShrunkPrimary: the way back from a promotion under traffic gives a primary that was scaled down its size before
// the rest of the traffic, also when it is to be replaced under what it has.
func TestRollbackOfAShrunkPrimary(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.shrunk()
		first := w.job("first")
		first.PromoteTraffic, first.killOn = release.Primary, "update primary image 2"
		w.must(judge(w.Context(), first.Cluster, release.Healthy))
		if _, err := first.Promote(first.ctx); err == nil {
			t.Fatal("the promotion is not interrupted")
		}
		time.Sleep(150 * time.Second)
		j := w.job("back")
		w.must(j.Rollback(w.Context(), "test"))
		want := []string{"note r2 rolling_back", "update primary image 1", "update primary x6", "update vs 100/0", "delete canary", "note r2 ended: rolled_back"}
		if diff := cmp.Diff(want, w.did(j)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// TestShrunkPrimary: primary was scaled down by what the canary serves. Whatever gives it all of the traffic brings it back to
// size first, in parts when an autoscaler may not leave it there.
func TestShrunkPrimary(t *testing.T) {
	t.Run("promote", func(t *testing.T) {
		withAndWithout(t, "rest", func(t *testing.T, w *world) {
			w.shrunk()
			j := w.job("job")
			w.must(judge(w.Context(), j.Cluster, release.Healthy))
			w.must(j.Promote(w.Context()))
			want := slices.Concat([]string{"note r2 verified healthy", "note r2 promoting", "update canary x6", "update vs 0/100", "update primary image 2"}, w.givenBack())
			if diff := cmp.Diff(want, w.did(j)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	})
	t.Run("promote under traffic", func(t *testing.T) {
		withAndWithout(t, "rest", func(t *testing.T, w *world) {
			w.shrunk()
			j := w.job("job")
			j.PromoteTraffic = release.Primary
			w.must(judge(w.Context(), j.Cluster, release.Healthy))
			w.must(j.Promote(w.Context()))
			want := slices.Concat([]string{"note r2 verified healthy", "note r2 promoting", "update primary image 2"}, w.givenBack())
			if diff := cmp.Diff(want, w.did(j)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	})
	for _, traffic := range []release.Track{release.Canary, release.Primary} {
		t.Run("an HPA that does not leave it there, traffic on "+string(traffic), func(t *testing.T) {
			at(t, "rest", func(w *world) {
				w.hpa(w.set.Name(release.Primary), 8)
				w.half()
				j := w.job("job")
				j.PromoteTraffic = traffic
				w.must(judge(w.Context(), j.Cluster, release.Healthy))
				w.server.mu.Lock()
				w.controllers.shrink[w.set.Name(release.Primary)] = 4
				w.server.mu.Unlock()
				w.observer.demand = 5 // of which it finds four enough
				w.must(j.Promote(w.Context()))
				want := map[release.Track]string{release.Canary: "vs 20/80, vs 25/75, vs 31/69, vs 38/62, vs 47/53, vs 58/42, vs 72/28, vs 90/10, vs 100/0", release.Primary: "vs 62/38, vs 77/23, vs 100/0"}[traffic]
				var routes []string
				for _, did := range w.did(j) {
					if route, ok := strings.CutPrefix(did, "update "); ok && strings.HasPrefix(route, "vs ") && !strings.HasPrefix(route, "vs 0/") {
						routes = append(routes, route)
					}
				}
				if got := strings.Join(routes, ", "); !strings.HasSuffix(got, want) {
					t.Errorf("routes %s, want %s", got, want)
				}
				if !strings.Contains(strings.Join(j.logged, "\n"), "more when HorizontalPodAutoscaler hpa has followed") {
					t.Errorf("%q", j.logged)
				}
			})
		})
	}
	t.Run("rollback", func(t *testing.T) {
		withAndWithout(t, "rest", func(t *testing.T, w *world) {
			w.shrunk()
			j := w.job("job")
			w.must(j.Rollback(w.Context(), "test"))
			want := []string{"note r2 rolling_back", "update primary x6", "update vs 100/0", "delete canary", "note r2 ended: rolled_back"}
			if diff := cmp.Diff(want, w.did(j)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	})
	t.Run("rollback against an HPA that does not leave it there", func(t *testing.T) {
		at(t, "rest", func(w *world) {
			w.hpa(w.set.Name(release.Primary), 8)
			w.shrunk()
			w.observer.started = false // it gets what there is, and this says so
			w.server.mu.Lock()
			w.controllers.shrink[w.set.Name(release.Primary)] = 4
			w.server.mu.Unlock()
			j := w.job("job")
			w.must(j.Rollback(w.Context(), "test"))
			if !strings.Contains(strings.Join(j.logged, "\n"), "it gets the traffic as it is") {
				t.Errorf("%q", j.logged)
			}
		})
	})
}

// TestUrgentRollback: a rollback does not wait for capacity while callers get errors: what primary has has to do, and the
// rest follows.
func TestUrgentRollback(t *testing.T) {
	for name, c := range map[string]struct {
		do     func(w *world, j *job)
		urgent bool
	}{
		"for another reason": {func(*world, *job) {}, false},
		"judged unhealthy":   {func(w *world, j *job) { w.must(judge(w.Context(), j.Cluster, release.Unhealthy)) }, true},
		"said to be urgent":  {func(_ *world, j *job) { j.Urgent = true }, true},
		"the canary is gone": {func(w *world, _ *job) { w.delete(release.Canary) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, "rest", func(w *world) {
				w.hpa(w.set.Name(release.Primary), 8)
				w.shrunk()
				w.observer.started = !c.urgent
				j := w.job("job")
				c.do(w, j)
				w.server.mu.Lock()
				w.controllers.slow = 30 * time.Second // pods are slow to start
				w.server.mu.Unlock()
				start := time.Now()
				back := time.Duration(0)
				log := j.Log
				j.Log = func(e rollout.Event) {
					if strings.HasPrefix(e.Message, "routes 100%") {
						back = time.Since(start)
					}
					log(e)
				}
				w.must(j.Rollback(w.Context(), "test"))
				if urgent := back < time.Second; urgent != c.urgent || back == 0 {
					t.Errorf("primary got the traffic after %s", back)
				}
				if got := w.replicas(release.Primary); got != 6 {
					t.Errorf("primary has %d replicas, want 6", got)
				}
			})
		})
	}
}

// TestNeedOfNow: the app needs more than when the release started. Promotion, shift and rollback give what is needed now,
// and the canary of the night is made larger.
func TestNeedOfNow(t *testing.T) {
	noon := func(w *world) {
		w.scale(release.Primary, 4)
		j := w.job("before")
		r := wanted("2")
		r.Weight = 50
		w.must(j.Canary(w.Context(), r))
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		time.Sleep(time.Hour)
		w.scale(release.Primary, 10)
	}
	need := func(w *world) int { // primary's 10 are for half of the traffic if an HPA says so, else for all
		hpas, err := w.kube.AutoscalingV2().HorizontalPodAutoscalers(namespace).List(w.Context(), metav1.ListOptions{})
		w.must(hpas, err)
		return 10 + 10*len(hpas.Items)
	}
	t.Run("promote", func(t *testing.T) {
		withAndWithout(t, "rest", func(t *testing.T, w *world) {
			noon(w)
			j := w.job("job")
			w.must(j.Promote(w.Context()))
			if did := strings.Join(w.did(j), ", "); w.replicas(release.Primary) != need(w) || !strings.Contains(did, fmt.Sprintf("update canary x%d, update vs 0/100", need(w))) {
				t.Errorf("primary has %d replicas, want %d; it did %q", w.replicas(release.Primary), need(w), did)
			}
		})
	})
	t.Run("shift", func(t *testing.T) {
		withAndWithout(t, "rest", func(t *testing.T, w *world) {
			noon(w)
			w.must(w.job("job").Shift(w.Context(), []int{80}, 0))
			if got, want := w.replicas(release.Canary), need(w)*8/10; got != want {
				t.Errorf("the canary has %d replicas, want %d", got, want)
			}
		})
	})
	t.Run("rollback", func(t *testing.T) {
		withAndWithout(t, "rest", func(t *testing.T, w *world) {
			noon(w)
			w.must(w.job("job").Rollback(w.Context(), "test"))
			if got := w.replicas(release.Primary); got != need(w) {
				t.Errorf("primary has %d replicas, want %d", got, need(w))
			}
		})
	})
	t.Run("fit", func(t *testing.T) {
		withAndWithout(t, "rest", func(t *testing.T, w *world) {
			noon(w)
			j := w.job("job")
			w.must(j.FitCanary(w.Context()))
			if got, want := w.replicas(release.Canary), need(w)/2; got != want {
				t.Errorf("the canary has %d replicas, want %d", got, want)
			}
			again := w.job("again")
			w.must(again.FitCanary(w.Context()))
			if len(again.every) > 0 {
				t.Errorf("run again, it wrote %q", again.every)
			}
		})
	})
}

// TestShiftDoesNotBlowUp: without an HPA, nobody has taken away from primary what the canary serves.
func TestShiftDoesNotBlowUp(t *testing.T) {
	withAndWithout(t, "rest", func(t *testing.T, w *world) {
		w.scale(release.Primary, 20)
		j := w.job("job")
		w.must(j.Canary(w.Context(), wanted("2")))
		for weight, want := range map[int]int{50: 10} {
			w.must(j.Shift(w.Context(), []int{weight}, 0))
			if got := w.replicas(release.Canary); got != want {
				t.Errorf("%d%%: %d replicas, want %d", weight, got, want)
			}
		}
		w.must(j.Shift(w.Context(), []int{90, 99}, 0))
		if got := w.replicas(release.Canary); got != 20 {
			t.Errorf("99%% of 20 are %d", got)
		}
	})
}

// TestMaximum: what an HPA does not allow is not asked for, and that is said.
func TestMaximum(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.hpa(w.set.Name(release.Primary), 12)
		w.scale(release.Primary, 4)
		j := w.job("job")
		r := wanted("2")
		r.Weight = 50
		w.must(j.Canary(w.Context(), r))
		time.Sleep(time.Hour)
		w.scale(release.Primary, 10)
		w.must(j.Rollback(w.Context(), "test"))
		if got := w.replicas(release.Primary); got != 12 {
			t.Errorf("primary has %d replicas, want 12", got)
		}
		if !strings.Contains(strings.Join(j.logged, "\n"), "would need 20 replicas; HorizontalPodAutoscaler hpa allows 12") {
			t.Errorf("%q", j.logged)
		}
	})
}

// TestScaledToZero: a primary that is scaled to nothing gets no canary; one that is scaled to nothing beside its canary comes
// back with a rollback.
func TestScaledToZero(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.observer.started = false
		w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/replicas","value":0}]`)
		w.wait()
		j := w.job("job")
		_, err := j.Canary(w.Context(), wanted("2"))
		if bad := new(usererr.Error); refusal(err) != "input" || len(j.every) > 0 || !strings.Contains(fmt.Sprint(err), "0 replicas") || !strings.Contains(fmt.Sprint(err), "scale it up") {
			t.Errorf("%v %v, after %q", bad, err, j.every)
		}
	})
	withAndWithout(t, "canary", func(t *testing.T, w *world) {
		w.observer.started = false
		w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/replicas","value":0}]`)
		w.wait()
		j := w.job("job")
		w.must(j.Rollback(w.Context(), "test"))
		if got, want := strings.Join(w.did(j), ", "), "note r2 rolling_back, update primary x2, update vs 100/0, delete canary, note r2 ended: rolled_back"; got != want {
			t.Errorf("it did %q, want %q", got, want)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestManifestsSize: a manifest's smaller number of replicas goes out once primary has all of the traffic; what somebody else
// has given it stays.
func TestManifestsSize(t *testing.T) {
	for _, theirs := range []bool{false, true} {
		at(t, "new", func(w *world) {
			j := w.job("job")
			j.Manifests = w.own()
			j.Manifests.Deployment.Spec.Replicas = new(int32(6))
			w.must(j.Canary(w.Context(), wanted("1")))
			w.observer.started = true
			if theirs {
				w.scale(release.Primary, 9)
			}
			j.Manifests.Deployment.Spec.Replicas = new(int32(4))
			w.must(j.Canary(w.Context(), wanted("2")))
			w.must(judge(w.Context(), j.Cluster, release.Healthy))
			w.must(j.Promote(w.Context()))
			if got, want := w.replicas(release.Primary), map[bool]int{true: 9, false: 4}[theirs]; got != want {
				t.Errorf("scaled by somebody %v: %d replicas, want %d", theirs, got, want)
			}
		})
	}
}

// TestCapacity: whatever the sizes, weights and bounds, with an HPA that follows its share some minutes behind: each track has
// its part of what the app needs before it gets the traffic (the observer looks), no more than that and no more than
// the HPA allows, and the same command again changes nothing. After a promotion, too, primary never has a third more
// traffic than its pods are for.
func TestCapacity(t *testing.T) {
	type plan struct {
		Demand, Least, Most, Weight int
		Steps                       []int
		Pauses                      []int // minutes before each step, and before the end
		Window                      int32 // the HPA's, in seconds
		HPA, Back, Under            bool
	}
	plans := rapid.Custom(func(t *rapid.T) plan {
		p := plan{Demand: rapid.IntRange(1, 12).Draw(t, "demand"), Weight: rapid.IntRange(1, 60).Draw(t, "weight"), HPA: rapid.Bool().Draw(t, "hpa"), Back: rapid.Bool().Draw(t, "back"), Under: rapid.Bool().Draw(t, "under")}
		p.Least = rapid.IntRange(1, p.Demand).Draw(t, "least")
		p.Most = rapid.IntRange(p.Demand, 20).Draw(t, "most")
		for at := p.Weight; len(p.Steps) < 2 && at < 99; {
			at = rapid.IntRange(at+1, 99).Draw(t, "step")
			p.Steps = append(p.Steps, at)
		}
		p.Window = rapid.SampledFrom([]int32{0, 60, 300}).Draw(t, "window")
		p.Pauses = rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 8}), len(p.Steps)+1, len(p.Steps)+1).Draw(t, "pauses")
		return p
	})
	check := func(w *world, p plan) (problems []string) {
		w.scale(release.Primary, p.Demand)
		// An HPA's whole replicas, seen from a share of the traffic, are a little more than what is needed.
		most := func(share int) int { return p.Demand + 2 + 100/share }
		if p.HPA {
			w.autoscaled(int32(p.Least), int32(p.Most), p.Window, float64(p.Demand))
		}
		j := w.job("job")
		j.Manifests = w.own()
		j.Manifests.Deployment.Spec.Replicas = nil
		if p.Under {
			j.PromoteTraffic = release.Primary
		}
		r := wanted("2")
		r.Weight = p.Weight
		w.must(j.Canary(w.Context(), r))
		sized := func(what string, weight int) {
			if got, want := w.replicas(release.Canary), (p.Demand*weight+99)/100; got < want || got > (most(100-weight)*weight+99)/100 {
				problems = append(problems, fmt.Sprintf("%s: the canary has %d replicas; %d%% of %d need %d", what, got, weight, p.Demand, want))
			}
		}
		for i, step := range p.Steps {
			time.Sleep(time.Duration(p.Pauses[i]) * time.Minute)
			had := w.replicas(release.Primary)
			w.must(j.Shift(w.Context(), []int{step}, 0))
			sized("after the step", step)
			again := w.job("again")
			w.must(again.Shift(w.Context(), []int{step}, 0))
			w.must(again.FitCanary(w.Context()))
			if did := w.did(again); len(did) > 0 && w.replicas(release.Primary) == had { // else its HPA shows another need
				problems = append(problems, fmt.Sprintf("again: %q", did))
			}
		}
		time.Sleep(time.Duration(p.Pauses[len(p.Steps)]) * time.Minute)
		if p.Back {
			w.must(j.Rollback(w.Context(), "test"))
		} else {
			w.must(judge(w.Context(), j.Cluster, release.Healthy))
			w.must(j.Promote(w.Context()))
			w.must(j.Cleanup(w.Context()))
		}
		time.Sleep(5 * time.Minute) // the HPA follows
		least := p.Demand
		if p.HPA { // its tolerance, once it has followed
			least = (p.Demand*10 + 10) / 11
		}
		if got := w.replicas(release.Primary); got < least || got > most(100-p.Steps[len(p.Steps)-1]) || p.HPA && got > p.Most {
			problems = append(problems, fmt.Sprintf("in the end primary has %d replicas", got))
		}
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		if !p.Back { // a rollback gets the traffic at once
			problems = append(problems, w.controllers.autoscaler.overloads...)
		}
		problems = append(problems, w.observer.problems...)
		w.observer.problems = nil
		return problems
	}
	for name, value := range map[string]string{"rapid.checks": "5", "rapid.seed": "16", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []plan{ // an HPA that forgets within a minute, or at once, what primary needed before promotion
		{Demand: 5, Least: 3, Most: 6, Weight: 2, Steps: []int{16, 44}, Pauses: []int{0, 8, 8}, Window: 60, HPA: true},
		{Demand: 3, Least: 1, Most: 4, Weight: 15, Steps: []int{21, 74}, Pauses: []int{1, 8, 1}, Window: 60, HPA: true, Under: true},
		{Demand: 12, Least: 1, Most: 20, Weight: 10, Steps: []int{30, 50}, Pauses: []int{1, 1, 8}, Window: 300, HPA: true},
		{Demand: 5, Least: 1, Most: 15, Weight: 17, Steps: []int{36, 52}, Pauses: []int{1, 1, 0}, HPA: true},
	} {
		at(t, "rest", func(w *world) {
			if problems := check(w, p); len(problems) > 0 {
				t.Errorf("%+v: %s", p, strings.Join(problems, "\n"))
			}
		})
	}
	rapid.Check(t, func(r *rapid.T) {
		p := plans.Draw(r, "plan")
		var problems []string
		at(t, "rest", func(w *world) { problems = check(w, p) })
		if len(problems) > 0 {
			r.Fatal(strings.Join(problems, "\n"))
		}
	})
}
