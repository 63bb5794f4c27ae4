package rollout_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// own gives a test manifests that it may change.
func (w *world) own() *manifest.Set {
	w.Helper()
	set, err := loadManifests()
	if err == nil && w.gateway {
		set, err = byRoute(set)
	}
	if err != nil {
		w.Fatal(err)
	}
	return set
}

// TestBadInput: what is wrong is refused with the option or the object, and nothing is written.
func TestBadInput(t *testing.T) {
	for name, c := range map[string]struct {
		stage string
		run   func(w *world, j *job) error
		field string
		says  []string
	}{
		"another weight": {"started", func(w *world, j *job) error {
			r := wanted("2")
			r.Weight = 20
			_, err := j.Canary(w.Context(), r)
			return err
		}, "canary.weight", []string{"20 is not the weight", "give 10"}},
		"sticky later": {"started", func(w *world, j *job) error {
			_, err := j.Canary(w.Context(), sticky("2"))
			return err
		}, "canary.sticky", []string{"r2", "roll the release back"}},
		"testers later": {"started", func(w *world, j *job) error {
			r := wanted("2")
			r.Match = matched("2").Match
			_, err := j.Canary(w.Context(), r)
			return err
		}, "canary.match", []string{"r2", "no testers", "roll the release back"}},
		"mirroring later": {"started", func(w *world, j *job) error {
			r := wanted("2")
			r.Mirror = 5
			_, err := j.Canary(w.Context(), r)
			return err
		}, "canary.mirror", []string{"5% is not what release r2 started with: 0%", "roll the release back"}},
		"testers by a header that the route matches": {"rest", func(w *world, j *job) error {
			w.patchRoute(`[{"op":"add","path":"/spec/http/0/match","value":[{"uri":{"prefix":"/"}},{"headers":{"x-canary":{"exact":"a"}}}]}]`)
			_, err := j.Canary(w.Context(), matched("2"))
			return err
		}, "VirtualService prod/qwik-node-app-vs: spec.http[0]", []string{"x-canary", "only once"}},
		"a route that mirrors": {"rest", func(w *world, j *job) error {
			w.patchRoute(`[{"op":"add","path":"/spec/http/0/mirror","value":{"host":"other"}}]`)
			_, err := j.Canary(w.Context(), mirrored("2"))
			return err
		}, "VirtualService prod/qwik-node-app-vs: spec.http[0]", []string{"mirrors requests already", "canary.mirror"}},
		"a route of POST alone": {"rest", func(w *world, j *job) error {
			w.patchRoute(`[{"op":"add","path":"/spec/http/0/match","value":[{"method":{"exact":"POST"}}]}]`)
			_, err := j.Canary(w.Context(), mirrored("2"))
			return err
		}, "VirtualService prod/qwik-node-app-vs", []string{"none of the release's routes is for GET or HEAD"}},
		"another template, canary": {"started", func(w *world, j *job) error {
			j.Manifests = w.own()
			j.Manifests.Deployment.Spec.Template.Spec.Containers[0].Env[1].Value = "1"
			_, err := j.Canary(w.Context(), wanted("2"))
			return err
		}, "manifests", []string{"pod template", "r2"}},
		"another template, promote": {"healthy", func(w *world, j *job) error {
			j.Manifests = w.own()
			j.Manifests.Deployment.Spec.Template.Spec.Containers[0].Env[1].Value = "1"
			_, err := j.Promote(w.Context())
			return err
		}, "manifests", []string{"pod template", "promote with the manifests that canary was run with"}},
		"no steps": {"canary", func(w *world, j *job) error {
			_, err := j.Shift(w.Context(), nil, 0)
			return err
		}, "steps", []string{"missing", "10,25,50"}},
		"falling steps": {"canary", func(w *world, j *job) error {
			_, err := j.Shift(w.Context(), []int{25, 25}, 0)
			return err
		}, "steps", []string{"25 comes after 25"}},
		"a step of 100": {"canary", func(w *world, j *job) error {
			_, err := j.Shift(w.Context(), []int{25, 100}, 0)
			return err
		}, "steps", []string{"100 is not a weight", "promote"}},
		"a route without both subsets": {"rest", func(w *world, j *job) error {
			w.patchRoute(`[{"op":"remove","path":"/spec/http/0/route/1"}]`)
			_, err := j.Canary(w.Context(), wanted("2"))
			return err
		}, "VirtualService prod/qwik-node-app-vs", []string{"no http route", "primary 100, canary 0"}},
		"a route that matches cookies": {"rest", func(w *world, j *job) error {
			w.patchRoute(`[{"op":"add","path":"/spec/http/0/match","value":[{"headers":{"cookie":{"exact":"a=b"}}}]}]`)
			_, err := j.Canary(w.Context(), sticky("2"))
			return err
		}, "VirtualService prod/qwik-node-app-vs", []string{"matches a cookie"}},
		"a route that sets a cookie": {"rest", func(w *world, j *job) error {
			w.patchRoute(`[{"op":"add","path":"/spec/http/0/route/0/headers","value":{"response":{"add":{"set-cookie":"a=b"}}}}]`)
			_, err := j.Canary(w.Context(), sticky("2"))
			return err
		}, "VirtualService prod/qwik-node-app-vs", []string{"sets a cookie"}},
		"a container of another name": {"rest", func(w *world, j *job) error {
			w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/template/spec/containers/0/name","value":"other"}]`)
			_, err := j.Canary(w.Context(), wanted("2"))
			return err
		}, "Deployment prod/qwik-node-app-primary", []string{"no container"}},
		"a Deployment with another selector": {"manual", func(w *world, j *job) error {
			_, err := j.Canary(w.Context(), wanted("2"))
			return err
		}, "Deployment prod/qwik-node-app-primary", []string{"selector", "crossbill migrate"}},
		"an HPA of the old Deployment": {"manual, another name", func(w *world, j *job) error {
			w.hpa("web", 5)
			_, err := j.Migrate(w.Context(), "")
			return err
		}, "HorizontalPodAutoscaler hpa", []string{"scales Deployment web", "qwik-node-app-primary"}},
		"migrate from nobody": {"manual, another name", func(w *world, j *job) error {
			_, err := j.Migrate(w.Context(), "nobody")
			return err
		}, "from", []string{`no Deployment "nobody"`, "canary"}},
		"migrate from two": {"manual, another name", func(w *world, j *job) error {
			d, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), "web", metav1.GetOptions{})
			w.must(d, err)
			d.ObjectMeta = metav1.ObjectMeta{Name: "web-2"}
			w.must(w.kube.AppsV1().Deployments(namespace).Create(w.Context(), d, metav1.CreateOptions{}))
			_, err = j.Migrate(w.Context(), "")
			return err
		}, "from", []string{"web and web-2", "name the one"}},
		"migrate of two images": {"manual, another name", func(w *world, j *job) error {
			pods, err := w.kube.CoreV1().Pods(namespace).List(w.Context(), metav1.ListOptions{})
			w.must(pods, err)
			pod := pods.Items[0]
			w.server.mu.Lock()
			w.controllers.stopped = true
			pod.Status.ContainerStatuses[0].ImageID = image("7")
			set(w.controllers, "pods", &pod)
			w.server.mu.Unlock()
			_, err = j.Migrate(w.Context(), "")
			return err
		}, "pods of Service qwik-node-app-service", []string{"do not all run one image", "rollout"}},
		"migrate of an unknown image": {"manual, another name", func(w *world, j *job) error {
			return migrateOf(w, j, "sha256:c")
		}, "pod web-", []string{"is a tag", "by digest"}},
		"migrate of an image that its node has from another repository": {"manual, another name", func(w *world, j *job) error {
			return migrateOf(w, j, "registry.example.com/other/app@"+release.DigestOf(image("1")))
		}, "pod web-", []string{taggedImage + " is a tag", "another repository", "registry.example.com/other/app@sha256:1111", "by digest"}},
		"migrate of an image that its registry no longer has": {"manual, another name", func(w *world, j *job) error {
			j.Admit = func(_ context.Context, r *release.Release) error {
				return &usererr.Error{Field: "image", Problem: "not found: " + r.Image, Fix: "push it"}
			}
			_, err := j.Migrate(w.Context(), "")
			return err
		}, "image", []string{"not found: " + image("1")}},
		"migrate with a route that splits": {"manual, another name", func(w *world, j *job) error {
			w.patchRoute(`[{"op":"add","path":"/spec/http/1/route/-","value":{"destination":{"host":"other"},"weight":10}}]`)
			_, err := j.Migrate(w.Context(), "")
			return err
		}, "VirtualService prod/qwik-node-app-vs", []string{"one destination"}},
		"migrate with canary traffic": {"canary", func(w *world, j *job) error {
			w.forget()
			_, err := j.Migrate(w.Context(), "")
			return err
		}, "VirtualService prod/qwik-node-app-vs", []string{"the canary has traffic"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, c.stage, func(w *world) {
				j := w.job("job")
				w.observer.started = false // the test makes things that nobody else would
				err := c.run(w, j)
				var bad *usererr.Error
				if !errors.As(err, &bad) {
					t.Fatalf("%v", err)
				}
				if !strings.HasPrefix(bad.Field, c.field) || bad.Problem == "" || bad.Fix == "" {
					t.Errorf("field %q, problem %q, fix %q; want field %q", bad.Field, bad.Problem, bad.Fix, c.field)
				}
				for _, says := range c.says {
					if !strings.Contains(err.Error(), says) {
						t.Errorf("%q does not say %q", err, says)
					}
				}
				if len(j.every) > 0 {
					t.Errorf("it wrote %q", j.every)
				}
			})
		})
	}
}

// migrateOf migrates an app whose nodes give an imageID for what it runs.
func migrateOf(w *world, j *job, imageID string) error {
	w.Helper()
	pods, err := w.kube.CoreV1().Pods(namespace).List(w.Context(), metav1.ListOptions{})
	w.must(pods, err)
	w.server.mu.Lock()
	w.controllers.stopped = true
	for i := range pods.Items {
		pods.Items[i].Status.ContainerStatuses[0].ImageID = imageID
		set(w.controllers, "pods", &pods.Items[i])
	}
	w.server.mu.Unlock()
	_, err = j.Migrate(w.Context(), "")
	return err
}

// TestMessages: what the refusals of a stage say.
func TestMessages(t *testing.T) {
	for _, c := range []struct{ stage, command, says string }{
		{"new", "promote", "no release is in flight"},
		{"rolled_back", "promote", "rolled_back (test)"},
		{"started", "promote", "has no verdict: run verify"},
		{"unhealthy", "promote", "was judged unhealthy (a test)"},
		{"canary", "cleanup", "cleanup follows promote"},
		{"rolling_back", "canary", "finish with rollback"},
		{"rolled_back", "canary", "--again"},
		{"canary", "canary of 3", "release r2 (sha256:2222222222222222222222222222222222222222222222222222222222222222) is in flight"},
	} {
		at(t, c.stage, func(w *world) {
			_, err := commands[c.command](w.Context(), w.job("job"))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s at %s: %v, want %q", c.command, c.stage, err, c.says)
			}
		})
	}
}

// TestAnotherRelease: a command that names a release does nothing to another one.
func TestAnotherRelease(t *testing.T) {
	for _, command := range []string{"shift", "verify healthy", "promote", "cleanup", "rollback"} {
		at(t, "healthy", func(w *world) {
			j := w.job("job")
			j.ReleaseID = "r9"
			_, err := commands[command](w.Context(), j)
			if !errors.As(err, new(*release.InFlightError)) || !strings.Contains(err.Error(), "r9 was meant") || len(j.every) > 0 {
				t.Errorf("%s: %v, after %q", command, err, j.every)
			}
		})
	}
}

// TestAgain: a digest that was rolled back is released once more when that is asked for.
func TestAgain(t *testing.T) {
	at(t, "rolled_back", func(w *world) {
		other := wanted("2")
		other.ID = "r2b"
		j := w.job("job")
		if _, err := j.Canary(w.Context(), other); !errors.As(err, new(*rollout.StageError)) || !strings.Contains(err.Error(), "was rolled back in release r2") || len(j.every) > 0 {
			t.Errorf("%v, after %q", err, j.every)
		}
		j.Again = true
		if _, err := j.Canary(w.Context(), wanted("2")); err != nil {
			t.Error(err)
		}
		if got, want := strings.Join(w.did(j), ", "), "note r2 started, create canary image 2 x1, update vs 90/10, note r2 canary 10%"; got != want {
			t.Errorf("it did %q, want %q", got, want)
		}
	})
}

// TestUnchanged: a release of what primary runs is over at once.
func TestUnchanged(t *testing.T) {
	at(t, "rest", func(w *world) {
		r := wanted("1")
		r.ID = "same"
		j := w.job("job")
		result, err := j.Canary(w.Context(), r)
		if err != nil || result.Outcome != release.OutcomeUnchanged {
			t.Errorf("%+v, %v", result, err)
		}
		if got, want := strings.Join(w.did(j), ", "), "note same started, note same ended: unchanged"; got != want {
			t.Errorf("it did %q, want %q", got, want)
		}
	})
}

// TestAdmission: an image that may not be deployed gets no further; what is refused wrote nothing.
func TestAdmission(t *testing.T) {
	for _, c := range []struct{ stage, command string }{{"rest", "canary"}, {"started", "canary"}, {"canary", "shift"}, {"healthy", "promote"}, {"promoting", "promote"}} {
		at(t, c.stage, func(w *world) {
			no := errors.New("not signed")
			j := w.job("job")
			asked := ""
			j.Admit = func(_ context.Context, r *release.Release) error {
				asked = r.Image
				return no
			}
			if _, err := commands[c.command](w.Context(), j); !errors.Is(err, no) || asked != image("2") || len(j.every) > 0 {
				t.Errorf("%s at %s: %v, asked for %q, after %q", c.command, c.stage, err, asked, j.every)
			}
			j.Admit = func(context.Context, *release.Release) error { return nil }
			if _, err := commands[c.command](w.Context(), j); err != nil {
				t.Errorf("%s at %s: %v", c.command, c.stage, err)
			}
		})
	}
}

// TestOlderThanPrimary: an image that is older than the one that primary runs is refused before anything is written,
// unless it is wanted again; the way back is asked nothing.
func TestOlderThanPrimary(t *testing.T) {
	at(t, "rest", func(w *world) {
		from := func(digit, run string) *job {
			j := w.job("job")
			j.Admit = func(_ context.Context, r *release.Release) error {
				r.Origin = &release.Origin{Commit: digit, Run: "https://github.com/our-org/app/actions/runs/" + run}
				return nil
			}
			return j
		}
		second := from("2", "15")
		w.must(second.Canary(w.Context(), wanted("2")))
		w.must(judge(w.Context(), second.Cluster, release.Healthy))
		w.must(second.Promote(w.Context()))
		w.must(second.Cleanup(w.Context()))
		older := from("3", "9")
		_, err := older.Canary(w.Context(), wanted("3"))
		if want := "it was built in run 9, primary's in run 15; --again releases it nevertheless; nothing was changed"; refusal(err) != "stage" || !strings.Contains(err.Error(), want) || len(older.every) > 0 {
			t.Errorf("%v after %q, want %q", err, older.every, want)
		}
		older.Again = true
		w.must(older.Canary(w.Context(), wanted("3")))
		ledger, err := release.ParseLedger(w.set.App, w.ledger().Data["ledger.json"])
		if err != nil || ledger.Release.Origin.Older == "" || ledger.Serving.Digest != release.DigestOf(image("2")) {
			t.Errorf("%v, %+v", err, ledger.Release.Origin)
		}
		w.must(w.job("back").Rollback(w.Context(), "test"))
		if unrest := w.unrest("2"); unrest != "" {
			t.Error(unrest)
		}
		if _, err := from("3", "16").Canary(w.Context(), release.Release{ID: "r4", Image: image("4"), Weight: 10}); err != nil {
			t.Errorf("a newer one: %v", err)
		}
	})
}

// TestVerifyRollsBack: an unhealthy verdict and the start of the rollback are one write of the ledger.
func TestVerifyRollsBack(t *testing.T) {
	for _, c := range []struct {
		outcome release.VerdictOutcome
		want    string
	}{
		{release.Unhealthy, "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back"},
		{release.Inconclusive, "note r2 verified inconclusive"},
		{release.Healthy, "note r2 verified healthy"},
	} {
		at(t, "canary", func(w *world) {
			j := w.job("job")
			_, err := judgeAnd(w.Context(), j.Cluster, c.outcome, true)
			if got := strings.Join(w.did(j), ", "); err != nil || got != c.want {
				t.Errorf("%s: it did %q, %v; want %q", c.outcome, got, err, c.want)
			}
		})
	}
	at(t, "canary", func(w *world) {
		j := w.job("job")
		j.refuses = "DELETE /apis/apps/v1/namespaces/prod/deployments/qwik-node-app-canary"
		var failed *rollout.RollbackError
		_, err := judgeAnd(w.Context(), j.Cluster, release.Unhealthy, true)
		if !errors.As(err, &failed) || errors.Unwrap(err) == nil || !strings.Contains(err.Error(), "a test does not allow it") {
			t.Errorf("%v", err)
		}
		j.refuses = ""
		if _, err := j.Rollback(w.Context(), "again"); err != nil {
			t.Error(err)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestGuardLeavesTheLiving: a release whose job is alive is left alone.
func TestGuardLeavesTheLiving(t *testing.T) {
	at(t, "rest", func(w *world) {
		_, goOn := w.hold("canary", 3)
		time.Sleep(time.Minute)
		j := w.job("guard")
		result, err := commands["guard"](w.Context(), j)
		if err != nil || !strings.Contains(result.Message, "works on it") || len(j.every) > 0 {
			t.Errorf("%+v, %v, after %q", result, err, j.every)
		}
		if err := goOn(); err != nil {
			t.Error(err)
		}
	})
}

// TestPlan: a dry run writes nothing, and has the changes of the real run in their order.
func TestPlan(t *testing.T) {
	for _, c := range crashes {
		if c.command == "verify healthy" {
			continue
		}
		t.Run(c.command+" at "+c.stage, func(t *testing.T) {
			t.Parallel()
			planned, commits := []string{}, []string{}
			at(t, c.stage, func(w *world) {
				j := w.job("plan")
				j.Plan = &rollout.Plan{}
				before := w.server.version
				if _, err := commands[c.command](w.Context(), j); err != nil {
					t.Error(err)
				}
				for _, change := range j.Plan.Changes {
					_, name, _ := strings.Cut(change.Object, "/")
					if strings.HasSuffix(name, "(at promotion)") || onlyHolds(change.Diff) {
						continue
					}
					if kind, _, _ := strings.Cut(change.Object, " "); kind == "ConfigMap" || kind == "Secret" {
						name = "copy"
					}
					planned = append(planned, change.Action+" "+strings.TrimPrefix(name, w.set.App+"-"))
					if change.Diff == "" || strings.Contains(change.Diff, "resourceVersion") || strings.Contains(change.Diff, epochAnnotation) {
						t.Errorf("diff of %s: %s", change.Object, change.Diff)
					}
				}
				for _, note := range j.Plan.Notes {
					if to, ok := strings.CutPrefix(note, "Git: a commit makes primary run "); ok {
						commits = append(commits, "commit "+digitOf(strings.Fields(to)[0]))
					}
				}
				if w.server.version != before || len(w.did(j)) > 0 {
					t.Errorf("it wrote %q", w.did(j))
				}
				if len(j.logged) > 0 {
					t.Errorf("it says that it did %q", j.logged)
				}
			})
			done := []string{}
			for _, e := range withoutFault(t, c.stage, c.command).effects {
				if e.action == "commit" {
					commits = slices.DeleteFunc(commits, func(planned string) bool { return planned == e.String() })
				} else if e.action != "note" {
					done = append(done, e.action+" "+e.object)
				}
			}
			if diff := cmp.Diff(once(done), once(planned)); diff != "" {
				t.Errorf("-done +planned:\n%s", diff)
			}
			if len(commits) > 0 {
				t.Errorf("planned, and not done: %q", commits)
			}
		})
	}
}

// onlyHolds says whether a diff has nothing but the annotations that keep a controller off.
func onlyHolds(diff string) bool {
	holds := false
	for line := range strings.SplitSeq(diff, "\n") {
		if !strings.HasPrefix(line, "+") && !strings.HasPrefix(line, "-") || strings.HasPrefix(line, "+++") || strings.HasPrefix(line, "---") {
			continue
		}
		switch text := strings.TrimSpace(line[1:]); {
		case strings.HasPrefix(text, heldKey), strings.HasPrefix(text, holdKey):
			holds = true
		case text != "annotations:" && !strings.HasPrefix(text, "apiVersion:") && !strings.HasPrefix(text, "kind:"):
			return false
		}
	}
	return holds
}

// TestPlanWithoutARoute: a plan of a release whose VirtualService is missing has its creation.
func TestPlanWithoutARoute(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.observer.started = false
		w.must(nil, w.mesh.NetworkingV1().VirtualServices(namespace).Delete(w.Context(), w.set.VirtualService.Name, metav1.DeleteOptions{}))
		j := w.job("plan")
		j.Plan = &rollout.Plan{}
		if _, err := j.Canary(w.Context(), wanted("2")); err != nil || !slices.ContainsFunc(j.Plan.Changes, func(c rollout.Change) bool {
			return c.Action == "create" && strings.HasPrefix(c.Object, "VirtualService ")
		}) {
			t.Errorf("%+v, %v", j.Plan.Changes, err)
		}
		w.must(w.job("job").Canary(w.Context(), wanted("2")))
	})
}

// once leaves out the later of two changes of one object that follow each other: a plan has both in one.
func once(changes []string) []string {
	kept := []string{}
	for _, c := range changes {
		_, object, _ := strings.Cut(c, " ")
		if len(kept) > 0 && strings.HasSuffix(kept[len(kept)-1], " "+object) {
			continue
		}
		kept = append(kept, c)
	}
	return kept
}

// TestPlanOfARefusedWrite: what the API server would refuse is refused in the dry run.
func TestPlanOfARefusedWrite(t *testing.T) {
	at(t, "rest", func(w *world) {
		j := w.job("plan")
		j.Plan = &rollout.Plan{}
		j.before = func(r *http.Request) error { return only(r, "qwik-node-app-canary", forbidden("canary")) }
		if _, err := j.Canary(w.Context(), wanted("2")); refusal(err) != "input" || !strings.Contains(err.Error(), "a test does not allow it") {
			t.Errorf("%v", err)
		}
	})
}

// TestDrift: what somebody else has changed of a release in flight is said, and keeps promote from going on.
func TestDrift(t *testing.T) {
	for name, c := range map[string]struct {
		stage string
		do    func(w *world)
		want  string // "" is none
	}{
		"nothing":    {"healthy", func(*world) {}, ""},
		"promoted":   {"promoted", func(*world) {}, ""},
		"promoting":  {"promoting", func(w *world) { w.patchRoute(`[{"op":"replace","path":"/spec/http/0/route/0/weight","value":50}]`) }, ""},
		"the weight": {"healthy", func(w *world) { w.patchRoute(`[{"op":"replace","path":"/spec/http/0/route/1/weight","value":20}]`) }, "the canary has weight 20, the release gave it 10"},
		"the route":  {"healthy", func(w *world) { w.patchRoute(`[{"op":"remove","path":"/spec/http/0/route/1"}]`) }, "VirtualService or its route is gone"},
		"the image": {"healthy", func(w *world) {
			w.patchDeployment(release.Canary, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"`+image("3")+`"}]`)
		}, "canary runs " + image("3")},
		"primary's image": {"healthy", func(w *world) {
			w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"`+image("3")+`"}]`)
		}, "primary runs " + image("3")},
		"the canary":        {"healthy", func(w *world) { w.delete(release.Canary) }, "the Deployment of canary is gone"},
		"a canary promoted": {"promoted", func(w *world) { w.delete(release.Canary) }, ""},
		"sticky routes gone": {"sticky", func(w *world) {
			w.patchRoute(`[{"op":"remove","path":"/spec/http/0"},{"op":"remove","path":"/spec/http/0"}]`)
		}, "routes that keep browsers on a version are gone"},
		"testers":              {"matched", func(*world) {}, ""},
		"copies":               {"mirrored", func(*world) {}, ""},
		"testers' routes gone": {"matched", func(w *world) { w.patchRoute(`[{"op":"remove","path":"/spec/http/0"}]`) }, "routes that lead testers to the canary are gone"},
		"copies gone":          {"mirrored", func(w *world) { w.patchRoute(`[{"op":"remove","path":"/spec/http/1"}]`) }, "routes that mirror requests to the canary are gone"},
		"copies of others": {"mirrored", func(w *world) {
			w.patchRoute(`[{"op":"replace","path":"/spec/http/1/mirrors/0/percentage/value","value":5}]`)
		}, "copies of 5% of the safe requests, the release gave it 60%"},
		"copies of all":         {"mirrored", func(w *world) { w.patchRoute(`[{"op":"remove","path":"/spec/http/1/mirrors/0/percentage"}]`) }, "copies of 100% of the safe requests"},
		"testers' routes added": {"healthy", func(w *world) { w.patchRoute(`[{"op":"add","path":"/spec/http/0/name","value":"crossbill-match-x"}]`) }, "routes that lead testers to the canary, which the release did not make"},
		"sticky routes added":   {"healthy", func(w *world) { w.patchRoute(`[{"op":"add","path":"/spec/http/0/name","value":"crossbill-sticky-x"}]`) }, "routes that keep browsers on a version"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, c.stage, func(w *world) {
				w.observer.started = false
				c.do(w)
				j := w.job("job")
				status, err := j.Status(w.Context())
				if err != nil {
					t.Fatal(err)
				}
				if found := strings.Join(status.Drift, "\n"); (found == "") != (c.want == "") || !strings.Contains(found, c.want) {
					t.Errorf("drift %q, want %q", found, c.want)
				}
				if c.stage == "healthy" && c.want != "" {
					if _, err := j.Promote(w.Context()); !errors.As(err, new(*rollout.StageError)) || !strings.Contains(err.Error(), c.want) || len(j.every) > 0 {
						t.Errorf("promote: %v, after %q", err, j.every)
					}
				}
			})
		})
	}
}

// TestCleanupLooks: a release whose image somebody has taken from primary does not end as released, and writes nothing. It
// ends when primary runs it again, or by a rollback.
func TestCleanupLooks(t *testing.T) {
	image1 := `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"` + image("1") + `"}]`
	image2 := strings.Replace(image1, image("1"), image("2"), 1)
	for name, c := range map[string]struct {
		do   func(w *world)
		says string
		then func(w *world, j *job) (rollout.Result, error)
		want release.Outcome
	}{
		"the old image, and the new one again": {func(w *world) { w.patchDeployment(release.Primary, image1) }, "runs " + image("1") + " since ", func(w *world, j *job) (rollout.Result, error) {
			w.patchDeployment(release.Primary, image2)
			time.Sleep(time.Minute)
			return j.Cleanup(w.Context())
		}, release.OutcomePromoted},
		"the old image, and back": {func(w *world) { w.patchDeployment(release.Primary, image1) }, "or run rollback, which ends the release", func(w *world, j *job) (rollout.Result, error) {
			return j.Rollback(w.Context(), "test")
		}, release.OutcomeRolledBack},
		"primary is gone": {func(w *world) { w.delete(release.Primary) }, "somebody has deleted it since promotion", func(w *world, j *job) (rollout.Result, error) {
			return j.Rollback(w.Context(), "test")
		}, release.OutcomeRolledBack},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, "promoted", func(w *world) {
				w.observer.started = false
				c.do(w)
				j := w.job("job")
				if _, err := j.Cleanup(w.Context()); !errors.As(err, new(*rollout.StageError)) || !strings.Contains(err.Error(), c.says) || len(j.every) > 0 {
					t.Errorf("cleanup: %v, after %q", err, j.every)
				}
				if result, err := c.then(w, w.job("next")); err != nil || result.Outcome != c.want {
					t.Errorf("%+v, %v", result, err)
				}
			})
		})
	}
}

// TestStatus: where an app is, at some stages.
func TestStatus(t *testing.T) {
	type brief struct {
		Stage           release.Stage
		Weights         *manifest.WeightPair
		Primary, Canary *rollout.TrackStatus
		History         int
		Expired         bool
	}
	track := func(digit string, size int32) *rollout.TrackStatus {
		return &rollout.TrackStatus{Image: image(digit), Replicas: size, Ready: size}
	}
	for stage, want := range map[string]brief{
		"new":      {},
		"rest":     {Weights: &manifest.WeightPair{Primary: 100}, Primary: track("1", 2), History: 1},
		"started":  {Stage: release.StageStarted, Weights: &manifest.WeightPair{Primary: 100}, Primary: track("1", 2), History: 1, Expired: true},
		"canary":   {Stage: release.StageCanary, Weights: &manifest.WeightPair{Primary: 90, Canary: 10}, Primary: track("1", 2), Canary: track("2", 1), History: 1},
		"promoted": {Stage: release.StagePromoted, Weights: &manifest.WeightPair{Primary: 100}, Primary: track("2", 2), Canary: track("2", 2), History: 1},
		"ended":    {Weights: &manifest.WeightPair{Primary: 100}, Primary: track("2", 2), History: 2},
	} {
		at(t, stage, func(w *world) {
			s, err := w.job("look").Status(w.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := brief{Weights: s.Weights, Primary: s.Tracks[release.Primary], Canary: s.Tracks[release.Canary], History: len(s.History), Expired: s.Expired}
			if s.Release != nil {
				got.Stage = s.Release.Stage
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", stage, diff)
			}
			all, err := rollout.StatusOfAll(w.Context(), w.kube, nil, "")
			if err != nil {
				t.Fatal(err)
			}
			if stage == "new" {
				if len(all) != 0 {
					t.Errorf("%+v", all)
				}
				return
			}
			one := all[0]
			got = brief{Weights: want.Weights, Primary: one.Tracks[release.Primary], Canary: one.Tracks[release.Canary], History: want.History, Expired: one.Expired}
			if one.Release != nil {
				got.Stage = one.Release.Stage
			}
			if diff := cmp.Diff(want, got); diff != "" || len(all) != 1 || one.App != w.set.App || one.Namespace != namespace || one.Problem != "" || one.Last == nil {
				t.Errorf("%s, of all (-want +got):\n%s%+v", stage, diff, all)
			}
		})
	}
}

// TestDamagedLedger: a ledger that cannot be read stops every command, and is named among all.
func TestDamagedLedger(t *testing.T) {
	at(t, "canary", func(w *world) {
		configMaps := w.kube.CoreV1().ConfigMaps(namespace)
		state, err := configMaps.Get(w.Context(), "crossbill-"+w.set.App, metav1.GetOptions{})
		w.must(state, err)
		state.Data[ledgerKey] = "{"
		w.must(configMaps.Update(w.Context(), state, metav1.UpdateOptions{}))
		for name, run := range commands {
			j := w.job("job")
			if _, err := run(w.Context(), j); err == nil || !strings.Contains(err.Error(), "not readable") || len(j.every) > 0 {
				t.Errorf("%s: %v, after %q", name, err, j.every)
			}
		}
		w.must(configMaps.Create(w.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: state.Labels}}, metav1.CreateOptions{}))
		all, err := rollout.StatusOfAll(w.Context(), w.kube, nil, namespace)
		if err != nil || len(all) != 1 || !strings.Contains(all[0].Problem, "not readable") {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

// TestUnreadable: a read that fails is an error that names the object, and nothing is written.
func TestUnreadable(t *testing.T) {
	for _, c := range []struct{ stage, command, path string }{
		{"rest", "canary", "configmaps"}, {"rest", "canary", "deployments"}, {"rest", "canary", "virtualservices"},
		{"healthy", "promote", "deployments"}, {"healthy", "promote", "virtualservices"},
		{"canary", "shift", "virtualservices"}, {"canary", "guard", "leases"},
		{"manual", "migrate", "deployments"}, {"manual", "migrate", "replicasets"}, {"manual", "migrate", "virtualservices"}, {"manual", "migrate", "pods"},
		{"manual, another name", "migrate", "horizontalpodautoscalers"},
	} {
		at(t, c.stage, func(w *world) {
			j := w.job("job")
			j.before = func(r *http.Request) error {
				if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/"+c.path) {
					return forbidden(c.path)
				}
				return nil
			}
			if _, err := commands[c.command](w.Context(), j); !apierrors.IsForbidden(err) || len(j.every) > 0 {
				t.Errorf("%s at %s without %s: %v, after %q", c.command, c.stage, c.path, err, j.every)
			}
		})
	}
	at(t, "rest", func(w *world) {
		for _, path := range []string{"configmaps", "deployments", "leases"} {
			j := w.job("job")
			j.before = func(r *http.Request) error {
				if strings.Contains(r.URL.Path, "/"+path) {
					return forbidden(path)
				}
				return nil
			}
			if _, err := rollout.StatusOfAll(w.Context(), j.Kube, nil, ""); !apierrors.IsForbidden(err) {
				t.Errorf("status of all without %s: %v", path, err)
			}
		}
	})
}

// TestPreflight finds what would make every command fail.
func TestPreflight(t *testing.T) {
	for name, c := range map[string]struct {
		do    func(w *world, j *job)
		field string
	}{
		"all is well": {func(*world, *job) {}, ""},
		"no Istio": {func(w *world, _ *job) {
			w.server.missing = map[string]bool{"VirtualService": true, "DestinationRule": true, "Gateway": true}
		}, "cluster"},
		"no Gateway":      {func(w *world, _ *job) { w.server.missing["Gateway"] = true }, "cluster"},
		"no namespace":    {func(_ *world, j *job) { j.Namespace = "other" }, "cluster.namespace"},
		"other manifests": {func(w *world, j *job) { j.Manifests = w.own(); j.Manifests.Service.Namespace = "other" }, "Service qwik-node-app-service"},
		"may not see it": {func(_ *world, j *job) {
			j.before = func(r *http.Request) error { return only(r, "/namespaces/prod", forbidden("namespaces")) }
		}, ""},
		"no answer": {func(_ *world, j *job) { j.before = func(*http.Request) error { return errors.New("no route to host") } }, "error"},
		"an error of its": {func(_ *world, j *job) {
			j.before = func(r *http.Request) error {
				return only(r, "/namespaces/prod", apierrors.NewInternalError(errors.New("etcd")))
			}
		}, "error"},
	} {
		at(t, "new", func(w *world) {
			j := w.job("job")
			c.do(w, j)
			err := j.Preflight(w.Context())
			var bad *usererr.Error
			switch {
			case c.field == "":
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			case c.field == "error":
				if err == nil || errors.As(err, &bad) || !strings.Contains(err.Error(), "nothing was changed") {
					t.Errorf("%s: %v", name, err)
				}
			case !errors.As(err, &bad) || bad.Field != c.field || bad.Fix == "":
				t.Errorf("%s: %v, want field %s", name, err, c.field)
			}
		})
	}
}

// only is an error for the requests to one path.
func only(r *http.Request, path string, err error) error {
	if strings.HasSuffix(r.URL.Path, path) {
		return err
	}
	return nil
}

// TestWatchAll: a watch of all apps asks for nothing while it looks, and sees what changes.
func TestWatchAll(t *testing.T) {
	at(t, "canary", func(w *world) {
		j, lists := w.job("look"), 0
		j.before = func(r *http.Request) error {
			if r.URL.Query().Get("watch") == "" {
				lists++
			}
			return nil
		}
		ctx, stop := context.WithCancel(w.Context())
		defer stop()
		var changes atomic.Int64
		watched, err := rollout.WatchAll(ctx, j.Kube, nil, "", func() { changes.Add(1) })
		w.must(watched, err)
		look := watched.Apps
		atFirst := lists
		for range 5 {
			time.Sleep(2 * time.Second)
			all, err := look()
			w.must(all, err)
			if len(all) != 1 || all[0].Release == nil || all[0].Release.Stage != release.StageCanary || all[0].Tracks[release.Canary].Ready != 1 {
				t.Fatalf("%+v", all)
			}
		}
		if lists != atFirst || lists > 6 {
			t.Errorf("%d requests at first, %d after five looks", atFirst, lists)
		}
		before := changes.Load()
		if _, err := w.job("other").Rollback(w.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if changes.Load() == before {
			t.Error("no change was noted")
		}
		if all, err := look(); err != nil || len(all) != 1 || all[0].Release != nil || all[0].Last == nil || all[0].Last.Outcome != release.OutcomeRolledBack {
			t.Errorf("%+v, %v", all, err)
		}
	})
}
