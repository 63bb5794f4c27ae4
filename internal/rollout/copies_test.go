package rollout_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// readingTheirs gives a set's pods a ConfigMap or a Secret of others.
func readingTheirs(set *manifest.Set, kind, name string, optional bool) *manifest.Set {
	pod := &set.Deployment.Spec.Template.Spec
	of := corev1.LocalObjectReference{Name: name}
	from := corev1.EnvFromSource{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: of, Optional: &optional}}
	if kind == "Secret" {
		from = corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: of, Optional: &optional}}
	}
	pod.Containers[0].EnvFrom = append(pod.Containers[0].EnvFrom, from)
	return set
}

// denied lets a job do nothing with a resource, but for what is allowed.
func denied(j *job, resource string, allowed ...string) {
	j.before = func(r *http.Request) error {
		if strings.Contains(r.URL.Path, "/"+resource) && !slices.Contains(allowed, r.Method) {
			return apierrors.NewForbidden(corev1.Resource(resource), "", errors.New(`User "ci" cannot do that to resource "`+resource+`" in API group "" in the namespace "prod"`))
		}
		return nil
	}
}

// TestSecretsOfOthersWithoutPermission: an app that has no Secret of its own needs no permission on Secrets.
func TestSecretsOfOthersWithoutPermission(t *testing.T) {
	for _, allowed := range [][]string{nil, {http.MethodGet}} {
		for _, plan := range []bool{true, false} {
			t.Run(fmt.Sprint(allowed, plan), func(t *testing.T) {
				at(t, "rest", func(w *world) {
					w.must(w.kube.CoreV1().Secrets(namespace).Create(w.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Data: map[string][]byte{"token": []byte("t")}}, metav1.CreateOptions{}))
					job := func(name string) *job {
						set, err := loadManifests()
						w.must(nil, err)
						j := w.job(name)
						j.Manifests = readingTheirs(set, "Secret", "theirs", false)
						denied(j, "secrets", allowed...)
						if plan {
							j.Plan = &rollout.Plan{}
						}
						return j
					}
					w.must(job("canary").Canary(w.Context(), wanted("2")))
					if plan {
						return
					}
					for _, c := range w.state().Release.Config {
						if c.Hash != "" {
							t.Errorf("%+v", c)
						}
					}
					w.must(judge(w.Context(), job("verify").Cluster, release.Healthy))
					w.must(job("promote").Promote(w.Context()))
					w.must(job("cleanup").Cleanup(w.Context()))
				})
			})
		}
	}
}

// TestConfigurationThatAppears: what pods can start without is watched as well, also while it does not exist.
func TestConfigurationThatAppears(t *testing.T) {
	for _, kind := range []string{"ConfigMap", "Secret"} {
		t.Run(kind, func(t *testing.T) {
			at(t, configuredApp+"new", func(w *world) {
				job := func(name string) *job {
					j := w.job(name)
					j.Manifests = readingTheirs(w.version("1"), kind, "theirs", true)
					return j
				}
				appear := func() {
					if kind == "Secret" {
						w.must(w.kube.CoreV1().Secrets(namespace).Create(w.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Data: map[string][]byte{"token": []byte("t")}}, metav1.CreateOptions{}))
						return
					}
					w.must(w.kube.CoreV1().ConfigMaps(namespace).Create(w.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{}))
				}
				vanish := func() {
					if kind == "Secret" {
						w.must(nil, w.kube.CoreV1().Secrets(namespace).Delete(w.Context(), "theirs", metav1.DeleteOptions{}))
						return
					}
					w.must(nil, w.kube.CoreV1().ConfigMaps(namespace).Delete(w.Context(), "theirs", metav1.DeleteOptions{}))
				}
				w.must(job("first").Canary(w.Context(), wanted("1")))
				w.observer.started = false
				result, err := job("same").Canary(w.Context(), wanted("1"))
				w.must(nil, err)
				if !slices.Contains(result.Compared, kind+" theirs") {
					t.Errorf("compared %q", result.Compared)
				}
				appear()
				r := wanted("1")
				r.ID = "appeared"
				result, err = job("appeared").Canary(w.Context(), r)
				w.must(nil, err)
				if result.Release.Stage != release.StageCanary {
					t.Fatalf("%s", result.Message)
				}
				w.must(job("back").Rollback(w.Context(), "test"))
				vanish()
				r.ID = "vanished"
				result, err = job("vanished").Canary(w.Context(), r)
				w.must(nil, err)
				if result.Release.Stage == release.StageCanary {
					t.Fatalf("%s", result.Message)
				}
				r = wanted("1")
				r.ID = "another"
				j := job("another")
				j.Manifests.ConfigMaps["settings"].Data["version"] = "2"
				w.must(j.Canary(w.Context(), r))
				appear()
				status, err := w.job("look").Status(w.Context())
				w.must(nil, err)
				if !strings.Contains(strings.Join(status.Drift, "\n"), kind+" theirs, which others own, ") {
					t.Errorf("drift %q", status.Drift)
				}
			})
		})
	}
}

// TestSharedCopy: two apps whose configuration has one name and one content share a copy, whatever epochs they have.
func TestSharedCopy(t *testing.T) {
	at(t, configuredApp+"rest", func(w *world) {
		w.ahead(`"labels":{"` + manifest.CopyLabel + `":"another"},`)
		for _, version := range []string{"2", "3"} {
			j := w.job("job")
			w.must(j.Canary(w.Context(), j.wanted(version)))
			w.must(judge(w.Context(), j.Cluster, release.Healthy))
			w.must(j.Promote(w.Context()))
			w.must(j.Cleanup(w.Context()))
		}
	})
}

// ahead gives a copy that every version of the configuration has the epoch of a much later lock.
func (w *world) ahead(metadata string) {
	w.Helper()
	for _, name := range w.copies() {
		if strings.HasPrefix(name, "pages-") {
			w.must(w.kube.CoreV1().ConfigMaps(namespace).Patch(w.Context(), name, types.MergePatchType, []byte(`{"metadata":{`+metadata+`"annotations":{"crossbill.our-org.github.com/epoch":"1000"}}}`), metav1.PatchOptions{}))
		}
	}
}

// TestLostLedgerWithNewerCopies: copies may be all that knows the newest lock. It is outrun in one step.
func TestLostLedgerWithNewerCopies(t *testing.T) {
	at(t, configuredApp+"rest", func(w *world) {
		w.ahead("")
		w.forget()
		j := w.job("job")
		w.must(j.Canary(w.Context(), j.wanted("2")))
		if epoch := w.state().Epoch; epoch != 1001 {
			t.Errorf("epoch %d", epoch)
		}
	})
}

// TestNothingInFlight: an error before a release is noted does not say that a rollback ends it.
func TestNothingInFlight(t *testing.T) {
	for _, stage := range []string{"new", "rest"} {
		for _, plan := range []bool{true, false} {
			at(t, configuredApp+stage, func(w *world) {
				j := w.job("job")
				denied(j, "secrets", http.MethodGet)
				if plan {
					j.Plan = &rollout.Plan{}
				}
				_, err := j.Canary(w.Context(), j.wanted("2"))
				if err == nil {
					t.Fatal("it may not make Secrets")
				}
				status, failed := w.job("look").Status(w.Context())
				w.must(nil, failed)
				if got, want := strings.Contains(err.Error(), "rollback ends the release"), status.Release != nil; got != want {
					t.Errorf("plan %v, in flight %v: %v", plan, want, err)
				}
			})
		}
	}
}

// TestTakenName: a name of a copy that somebody has given to something else is refused before any pod is made, so that the
// release may start again without more ado.
func TestTakenName(t *testing.T) {
	at(t, configuredApp+"rest", func(w *world) {
		j := w.job("job")
		r := j.wanted("2")
		taken := w.copyOf(j)
		taken.Data = map[string][]byte{"token": []byte("other")}
		w.must(w.kube.CoreV1().Secrets(namespace).Create(w.Context(), taken, metav1.CreateOptions{}))
		if _, err := j.Canary(w.Context(), r); refusal(err) != "input" || !strings.Contains(err.Error(), "does not have the content that its name says") {
			t.Errorf("%v", err)
		}
		w.must(w.job("back").Rollback(w.Context(), "test"))
		if live, err := w.kube.CoreV1().Secrets(namespace).Get(w.Context(), taken.Name, metav1.GetOptions{}); err != nil || string(live.Data["token"]) != "other" {
			t.Errorf("somebody's Secret: %v", err)
		}
		w.must(nil, w.kube.CoreV1().Secrets(namespace).Delete(w.Context(), taken.Name, metav1.DeleteOptions{}))
		j = w.job("again")
		w.must(j.Canary(w.Context(), j.wanted("2")))
	})
}

// TestUntried: a release that made nothing at first, and pods later, was tried.
func TestUntried(t *testing.T) {
	at(t, configuredApp+"rest", func(w *world) {
		j := w.job("refused")
		denied(j, "secrets", http.MethodGet)
		if _, err := j.Canary(w.Context(), j.wanted("2")); err == nil || !w.state().Release.Untried {
			t.Fatalf("%v", err)
		}
		j = w.job("again")
		w.must(j.Canary(w.Context(), j.wanted("2")))
		w.must(w.job("back").Rollback(w.Context(), "test"))
		j = w.job("once more")
		if _, err := j.Canary(w.Context(), j.wanted("2")); refusal(err) != "stage" {
			t.Errorf("what was rolled back started again: %v", err)
		}
	})
}

// TestFailedFirstReleaseLeavesNothing: nor any copy.
func TestFailedFirstReleaseLeavesNothing(t *testing.T) {
	at(t, configuredApp+"new", func(w *world) {
		j := w.job("job")
		j.killOn = "create primary"
		_, _ = j.Canary(j.ctx, j.wanted("1"))
		time.Sleep(2 * time.Minute)
		if len(w.copies()) != 3 {
			t.Errorf("copies %q", w.copies())
		}
		w.must(w.job("back").Rollback(w.Context(), "test"))
		if len(w.copies()) != 0 {
			t.Errorf("copies %q", w.copies())
		}
	})
}

// TestLateDeletion: a copy that a late job deletes after a new one has listed it is made again before the pods that read it.
func TestLateDeletion(t *testing.T) {
	for _, what := range []string{http.MethodPatch, http.MethodPut} { // the lock is taken; the ledger is committed
		at(t, configuredApp+"rest", func(w *world) {
			dead := w.job("dead")
			dead.killOn = "create canary"
			_, _ = dead.Canary(dead.ctx, dead.wanted("2"))
			w.observer.started = false
			w.delete(release.Canary)
			time.Sleep(2 * time.Minute)
			j := w.job("job")
			r := j.wanted("2")
			name := w.copyOf(j).Name
			deleted := false
			j.before = func(r *http.Request) error {
				if !deleted && r.Method == what && (strings.Contains(r.URL.Path, "/leases") || what == http.MethodPut && strings.HasSuffix(r.URL.Path, "/configmaps/crossbill-"+w.set.App)) {
					deleted = true
					w.must(nil, w.kube.CoreV1().Secrets(namespace).Delete(w.Context(), name, metav1.DeleteOptions{}))
				}
				return nil
			}
			w.must(j.Canary(w.Context(), r))
			if !deleted || !slices.Contains(w.copies(), name) {
				t.Errorf("%s: deleted %v, copies %q", what, deleted, w.copies())
			}
		})
	}
}
