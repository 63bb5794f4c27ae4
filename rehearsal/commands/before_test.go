package commands_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/rehearsal/load"
)

// TestBeforeTheFirstPercent: who reaches a canary at weight 0, by a real Envoy.
func TestBeforeTheFirstPercent(t *testing.T) {
	t.Parallel()
	for i, router := range routers {
		t.Run("testers by "+router.name, func(t *testing.T) {
			if i > 0 {
				onlyLong(t)
			}
			t.Parallel()
			testTesters(released(t, "matched-"+strings.ToLower(router.name), router.manifests))
		})
		t.Run("a mirrored crash by "+router.name, func(t *testing.T) {
			if i == 0 {
				onlyLong(t)
			}
			t.Parallel()
			testMirroredCrash(released(t, "copies-"+strings.ToLower(router.name), router.manifests))
		})
	}
	t.Run("from copies to all of the traffic", testPromotedFromCopies)
}

// routesText is what routes the app.
func (a *app) routesText() string {
	a.Helper()
	client, name, rules := a.route()
	live, err := client.Get(a.Context(), name, metav1.GetOptions{})
	if err != nil {
		a.Fatal(err)
	}
	all, found, err := unstructured.NestedSlice(live.Object, "spec", rules)
	if err != nil || !found {
		a.Fatalf("%v has no %s: %v", live.Object, rules, err)
	}
	text := ""
	for _, rule := range all {
		text += fmt.Sprintln(rule)
	}
	if rules == "http" { // weight 0 is the same as none
		text = strings.ReplaceAll(text, " weight:0]", "]")
	}
	return text
}

// asked are the versions that answer some requests with a header.
func (a *app) asked(host, header string, requests int) map[string]int {
	a.Helper()
	found := map[string]int{}
	for range requests {
		request, err := http.NewRequestWithContext(a.Context(), http.MethodGet, "http://"+running.GatewayAddress+"/", nil)
		if err != nil {
			a.Fatal(err)
		}
		request.Host = host
		if name, value, ok := strings.Cut(header, ": "); ok {
			request.Header.Set(name, value)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			a.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		found[fmt.Sprintf("%s %d", response.Header.Get("x-app-version"), response.StatusCode)]++
	}
	return found
}

// only waits until requests with a header are answered by one version, and then holds it to that.
func (a *app) only(host, header, version string) {
	a.Helper()
	want := version + " 200"
	a.eventually(func() error {
		if got := a.asked(host, header, 10); got[want] != 10 {
			return fmt.Errorf("with %q: %v, want %s", header, got, want)
		}
		return nil
	})
	if got := a.asked(host, header, 200); got[want] != 200 {
		a.Errorf("with %q: %v, want only %s", header, got, want)
	}
}

// testTesters: testers see only the canary, others never before its weight; in the end the routes are as they were.
func testTesters(a *app) {
	t := a.T
	a.foreign()
	host, atRest := a.served(), a.routesText()
	traffic := load.Start("http://"+running.GatewayAddress+"/", host, 50)
	defer traffic.Stop()
	stop := a.observe()
	for _, c := range []struct{ match, header, other string }{
		{"header:X-Canary=yes", "x-canary: yes", "x-canary: no"},
		{"cookie:track=~can.*", "cookie: a=b; track=canary; c=d", "cookie: track=no; other=canary"},
	} {
		began := time.Now()
		a.must("canary", "--again", "--image", images["two"], "--match", c.match)
		a.only(host, c.header, "two")
		a.only(host, c.other, "one")
		if drift := a.status().Drift; len(drift) > 0 {
			t.Errorf("drift %q", drift)
		}
		if got := traffic.Between(began, time.Now()).Versions; got["two"] > 0 || got["one"] == 0 {
			t.Errorf("others were answered by %v before the canary had a weight", got)
		}
		a.must("shift", "--steps", "40")
		a.only(host, c.header, "two")
		a.eventually(func() error {
			if got := a.asked(host, c.other, 20); len(got) < 2 {
				return fmt.Errorf("others at 40%%: %v", got)
			}
			return nil
		})
		a.must("rollback")
		a.only(host, c.header, "one")
		time.Sleep(2 * time.Second) // what the others got before is not of the next round
		if now := a.routesText(); now != atRest {
			t.Errorf("the routes are\n%swere\n%s", now, atRest)
		}
	}
	stop()
}

// testMirroredCrash: a version that fails each request is found by its copies, and no caller ever gets an answer of it.
func testMirroredCrash(a *app) {
	t := a.T
	host, atRest := a.served(), a.routesText()
	traffic := load.Start("http://"+running.GatewayAddress+"/", host, 100)
	defer traffic.Stop()
	time.Sleep(2 * time.Second)
	began := time.Now()
	stop := a.observe()
	a.must("canary", "--image", images["fails"], "--mirror", "50%")
	code, out := a.crossbill("verify", "--prometheus", running.PrometheusURL, "--interval", "1s", "--max-duration", "90s", "--config", byAvailability(t))
	if code != 3 || !strings.Contains(out, "mirrored requests: copies of GET and HEAD requests, whose answers no caller got") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	stop()
	time.Sleep(2 * time.Second)
	seen := traffic.Between(began, time.Now())
	t.Logf("callers: %+v; %s", seen, out[max(0, strings.LastIndex(out, "crossbill: ")):])
	if seen.Lost > 0 || seen.Versions["fails"] > 0 || seen.Versions["one"] != seen.Requests || seen.Requests < 100 {
		t.Errorf("callers saw %+v", seen)
	}
	for _, answer := range traffic.Answers(began, time.Now()) {
		if answer.Code != http.StatusOK {
			t.Errorf("a caller got %d: %+v", answer.Code, answer)
			break
		}
	}
	if now := a.routesText(); now != atRest {
		t.Errorf("the routes are\n%swere\n%s", now, atRest)
	}
}

// testPromotedFromCopies: a good version is judged healthy by its copies, and promoted from weight 0 without losing a request.
func testPromotedFromCopies(t *testing.T) {
	t.Parallel()
	a := released(t, "fromcopies")
	host, atRest := a.served(), a.routesText()
	traffic := load.Start("http://"+running.GatewayAddress+"/", host, 50)
	defer traffic.Stop()
	began := time.Now()
	stop := a.observe()
	a.must("canary", "--image", images["two"], "--mirror", "100")
	code, out := a.crossbill("verify", "--prometheus", running.PrometheusURL, "--interval", "1s", "--max-duration", "2m", "--config", byAvailability(t))
	if code != 0 || !strings.Contains(out, "mirrored requests") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if got := traffic.Between(began, time.Now()).Versions; got["two"] > 0 {
		t.Errorf("callers were answered by %v", got)
	}
	a.must("promote")
	a.must("cleanup")
	stop()
	a.only(host, "", "two")
	if seen := traffic.Between(began, time.Now()); seen.Lost > 0 {
		t.Errorf("callers saw %+v", seen)
	}
	if now := a.routesText(); now != atRest {
		t.Errorf("the routes are\n%swere\n%s", now, atRest)
	}
}
