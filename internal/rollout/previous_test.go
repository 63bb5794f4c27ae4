package rollout_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
)

// forge changes what the ledger's ConfigMap keeps, as somebody would who may write ConfigMaps and no Deployments.
func (w *world) forge(change func(data map[string]string)) {
	w.Helper()
	state := w.ledger()
	change(state.Data)
	w.must(w.kube.CoreV1().ConfigMaps(namespace).Update(w.Context(), state, metav1.UpdateOptions{FieldManager: "somebody"}))
}

var evilImage = "evil.example.com/app@sha256:" + strings.Repeat("e", 64)

// forgeRelease makes the release in flight one whose promotion has started, with other fields as well.
func forgeRelease(t *testing.T, data map[string]string, fields map[string]any) {
	t.Helper()
	var ledger map[string]any
	if err := json.Unmarshal([]byte(data["ledger.json"]), &ledger); err != nil {
		t.Fatal(err)
	}
	if ledger["release"] == nil { // the last one once more
		ledger["release"] = ledger["history"].([]any)[0]
	}
	r := ledger["release"].(map[string]any)
	r["stage"] = "promoting"
	r["steps"] = append(r["steps"].([]any), map[string]any{"stage": "promoting", "at": "2000-01-01T00:00:00Z", "by": "somebody"})
	maps.Copy(r, fields)
	text, err := json.Marshal(ledger)
	if err != nil {
		t.Fatal(err)
	}
	data["ledger.json"] = string(text)
}

// TestForgedRelease: the note of an earlier promotion does not make a release in the ledger one that was promoted.
func TestForgedRelease(t *testing.T) {
	template := func(data map[string]string) { data["previous-template.json"] = `{"metadata":{},"spec":{}}` }
	for name, test := range map[string]struct {
		inFlight bool // the next release, which has a canary
		forge    func(data map[string]string)
	}{
		"of the image that primary runs": {true, func(data map[string]string) {
			template(data)
			forgeRelease(t, data, map[string]any{"image": image("2")})
		}},
		"of another image": {false, func(data map[string]string) {
			template(data)
			forgeRelease(t, data, map[string]any{"image": image("9"), "previous": evilImage})
		}},
		"of another image, without a template": {false, func(data map[string]string) {
			forgeRelease(t, data, map[string]any{"image": image("9"), "previous": evilImage})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			at(t, "promoted", func(w *world) {
				w.must(commands["cleanup"](w.Context(), w.job("cleanup")))
				if test.inFlight {
					w.must(w.job("canary").Canary(w.Context(), wanted("3")))
				}
				w.observer.started = false // a ledger that somebody edits is what this is about
				w.forge(test.forge)
				j := w.job("back")
				w.must(j.Rollback(w.Context(), "test"))
				if unrest := w.unrest("2"); unrest != "" || !strings.Contains(strings.Join(j.logged, "\n"), "it stays as it is") {
					t.Errorf("%s, %q", unrest, j.logged)
				}
			})
		})
	}
}

// TestForgedFirst: a release in the ledger that says that it is the app's first neither takes the place of the primary that serves,
// nor removes it.
func TestForgedFirst(t *testing.T) {
	for _, command := range []string{"canary", "rollback", "rollback, rolling back", "rollback, without a route"} {
		t.Run(command, func(t *testing.T) {
			at(t, "started", func(w *world) {
				w.observer.started = false // a ledger that somebody edits is what this is about
				w.forge(func(data map[string]string) {
					var l release.Ledger
					if err := json.Unmarshal([]byte(data["ledger.json"]), &l); err != nil {
						t.Fatal(err)
					}
					l.Release.Previous = ""
					if command == "rollback, rolling back" {
						l.Release.Stage = release.StageRollingBack
					}
					data["ledger.json"] = l.String()
				})
				if command == "rollback, without a route" {
					w.patchRoute(`[{"op":"remove","path":"/spec/http/0/route/1"}]`)
				}
				j := w.job("job")
				_, err := j.Canary(w.Context(), wanted("2"))
				if command != "canary" {
					_, err = w.job("back").Rollback(w.Context(), "test")
				}
				if (err != nil) != (command == "canary") {
					t.Errorf("%v", err)
				}
				primary := w.deployment(release.Primary)
				if primary == nil || primary.DeletionTimestamp != nil || primary.Spec.Template.Spec.Containers[0].Image != image("1") {
					t.Errorf("primary is %+v, after %v", primary, err)
				}
				if command != "canary" {
					status, err := w.job("look").Status(w.Context())
					if err != nil || status.Release != nil || status.History[0].Outcome != release.OutcomeRolledBack {
						t.Errorf("it ends as %+v, %v", status, err)
					}
				}
			})
		})
	}
}

// TestForgedService: a rollback takes back of the Service what promotion has changed, whatever the ConfigMap beside the ledger
// says by then.
func TestForgedService(t *testing.T) {
	for _, stage := range []string{"canary", "promoting", "promoted", "promoted with a Service"} {
		for _, forged := range []string{`{"metadata":{"name":"qwik-node-app-service","namespace":"prod"},"spec":{"selector":{"app":"evil"},"ports":[{"port":80}]}}`, "{"} {
			at(t, stage, func(w *world) {
				w.observer.started = false // a ledger that somebody edits is what this is about
				before, err := w.kube.CoreV1().Services(namespace).Get(w.Context(), w.set.Service.Name, metav1.GetOptions{})
				w.must(before, err)
				w.forge(func(data map[string]string) { data["previous-service.json"] = forged })
				j := w.job("back")
				w.must(j.Rollback(w.Context(), "test"))
				after, err := w.kube.CoreV1().Services(namespace).Get(w.Context(), w.set.Service.Name, metav1.GetOptions{})
				w.must(after, err)
				if diff := cmp.Diff(before.Spec, after.Spec); diff != "" {
					t.Errorf("%s: %s", stage, diff)
				}
			})
		}
	}
	at(t, "rest", func(w *world) { // before a promotion that goes on after a crash has written the Service
		w.observer.started = false
		j := w.job("first")
		j.Manifests = w.moved()
		w.must(j.Canary(w.Context(), wanted("2")))
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		j.killOn = "update primary image 2"
		if _, err := j.Promote(j.ctx); err == nil {
			t.Fatal("the promotion is not interrupted")
		}
		time.Sleep(150 * time.Second)
		w.forge(func(data map[string]string) {
			data["previous-service.json"] = `{"metadata":{"name":"qwik-node-app-service","namespace":"prod"},"spec":{"selector":{"app":"evil"}}}`
		})
		again := w.job("again")
		again.Manifests = w.moved()
		w.must(again.Promote(w.Context()))
		w.must(w.job("back").Rollback(w.Context(), "test"))
		service, err := w.kube.CoreV1().Services(namespace).Get(w.Context(), w.set.Service.Name, metav1.GetOptions{})
		w.must(service, err)
		if service.Spec.Selector["app"] == "evil" {
			t.Error("the forged Service is applied")
		}
	})
}

// TestForgedTemplate: what a rollback puts on primary is what promotion found there, whatever the ConfigMap beside the
// ledger says by then; and it always brings the traffic back to primary (invariant 5).
func TestForgedTemplate(t *testing.T) {
	evil := func(data map[string]string) {
		data["previous-template.json"] = strings.ReplaceAll(data["previous-template.json"], image("1"), evilImage)
	}
	asNow := func(data map[string]string) { // as if primary had run the release before it
		data["previous-template.json"] = strings.ReplaceAll(data["previous-template.json"], image("1"), image("2"))
	}
	promoting := func(data map[string]string) {
		evil(data)
		forgeRelease(t, data, nil)
	}
	imageAlone := func(data map[string]string) {
		delete(data, "previous-template.json")
		forgeRelease(t, data, map[string]any{"previous": evilImage})
	}
	for name, test := range map[string]struct {
		stages []string
		forge  func(data map[string]string)
		says   string
	}{
		"another template":       {[]string{"promoting", "rolling", "rolled", "promoted"}, evil, "is not the one that promotion replaced"},
		"not readable":           {[]string{"promoting", "promoted"}, func(data map[string]string) { data["previous-template.json"] = "{" }, "is not the one that promotion replaced"},
		"gone":                   {[]string{"promoting", "promoted"}, func(data map[string]string) { delete(data, "previous-template.json") }, "is not the one that promotion replaced"},
		"what primary runs now":  {[]string{"promoting", "promoted"}, asNow, "is not the one that promotion replaced"},
		"before it was replaced": {[]string{"moving"}, evil, "it stays as it is"},
		"without any promotion":  {[]string{"canary", "healthy"}, promoting, "it stays as it is"},
		"without a template":     {[]string{"canary", "healthy"}, imageAlone, "it stays as it is"},
		"before promotion":       {[]string{"canary", "healthy"}, evil, ""},
	} {
		for _, stage := range test.stages {
			for _, manifests := range []bool{true, false} {
				at(t, stage, func(w *world) {
					w.observer.started = false // a ledger that somebody edits is what this is about
					w.forge(test.forge)
					j := w.job("back")
					if !manifests {
						j = w.byLedger("back")
					}
					if _, err := j.Rollback(w.Context(), "test"); err != nil {
						t.Errorf("%s at %s, manifests %v: %v", name, stage, manifests, err)
						return
					}
					if unrest := w.unrest("1"); unrest != "" {
						t.Errorf("%s at %s, manifests %v: %s", name, stage, manifests, unrest)
					}
					if got := strings.Join(j.logged, "\n"); !strings.Contains(got, test.says) || strings.Contains(got, "an older crossbill") {
						t.Errorf("%s at %s, manifests %v: logged\n%s\nwant %q", name, stage, manifests, got, test.says)
					}
					if note := w.deployment(release.Primary).Annotations["crossbill.our-org.github.com/previous-template"]; note != "" && test.says != "it stays as it is" {
						t.Errorf("%s at %s: the note stays: %s", name, stage, note)
					}
				})
			}
		}
	}
}

// TestBoundTemplate: a promotion that goes on after a crash leaves the note of the one that wrote primary, and an older
// crossbill's, which has none, is rolled back as it was.
func TestBoundTemplate(t *testing.T) {
	const note = "crossbill.our-org.github.com/previous-template"
	at(t, "promoting", func(w *world) {
		before := w.deployment(release.Primary).Annotations[note]
		if !strings.HasPrefix(before, "sha256:") || !strings.Contains(before, " "+image("1")+" r2@") {
			t.Errorf("the note is %q", before)
		}
		w.must(w.job("again").Promote(w.Context()))
		if after := w.deployment(release.Primary).Annotations[note]; after != before {
			t.Errorf("the note is %q after %q", after, before)
		}
		w.must(w.job("back").Rollback(w.Context(), "test"))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
	at(t, "promoted", func(w *world) {
		w.patchDeployment(release.Primary, `[{"op":"remove","path":"/metadata/annotations/crossbill.our-org.github.com~1previous-template"}]`)
		j := w.job("back")
		w.must(j.Rollback(w.Context(), "test"))
		if unrest := w.unrest("1"); unrest != "" || !strings.Contains(strings.Join(j.logged, "\n"), "an older crossbill") {
			t.Errorf("%s, %q", unrest, j.logged)
		}
	})
}
