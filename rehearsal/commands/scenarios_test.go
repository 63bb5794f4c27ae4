package commands_test

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/rehearsal/kubelet"
	"github.com/our-org/crossbill/rehearsal/load"
)

var scenariosOut = flag.String("scenarios.json", "", "TestScenarios: file for what each came to")

// scenario is a canary that comes up and turns out bad.
type scenario struct {
	image   string
	pods    int                           // of primary; the canary gets its share of them
	weight  int                           // 10 if not given
	turns   func(a *app)                  // what happens to it once it has its share; may be nil
	bad     func(answer load.Answer) bool // besides a lost request and an error; may be nil
	leaving time.Duration                 // callers leave after this; 2 s if not given
	long    bool                          // left out of a short run
}

var scenarios = map[string]scenario{
	"crash loop after readiness":      {image: "dies"},
	"readiness flaps every 4 s":       {image: "flaps"},
	"memory grows until it is killed": {image: "eats", long: true},
	"node gone":                       {image: "two", turns: (*app).loseNode, long: true},
	"one of three pods bad":           {image: "two", pods: 6, weight: 50, turns: (*app).spoilOne, long: true},
	"requests hang":                   {image: "hangs", long: true},
	"a storm of 404s":                 {image: "not found", bad: func(answer load.Answer) bool { return answer.Code == http.StatusNotFound }},
	"not ready any more from 12 s on": {image: "fades", long: true},
}

const (
	scenarioRate = 100 // requests a second, to both tracks together
	// patience is how long callers wait before they leave.
	patience = 3 * time.Second
	// scenarioBound is how long a canary may stay on the route after the first sign that callers had of it.
	scenarioBound = 15 * time.Second
)

// scenarioResult is what a scenario came to.
type scenarioResult struct {
	Outcome      string  `json:"outcome"`
	Cause        string  `json:"cause,omitempty"`
	SecondsToOff float64 `json:"secondsToOff"` // from the first sign that callers had until it has no share of the route
	Lost         int     `json:"lost"`         // requests without an answer by any version
	Bad          int     `json:"bad"`          // answers that were errors, or what else the scenario is about
	Wrong        int     `json:"wrong"`        // requests that the canary answered more than a second after that
}

// TestScenarios lets canaries turn bad in the ways in which they do, in the real mesh: none is promoted, and each is
// off the route 15 s after the first sign.
func TestScenarios(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	results := map[string]scenarioResult{}
	lanes := make(chan struct{}, 3) // more at once starve each other on two cores, and callers lose patience
	t.Run("bad", func(t *testing.T) {
		for name, s := range scenarios {
			t.Run(name, func(t *testing.T) {
				if s.long {
					onlyLong(t)
				}
				t.Parallel()
				lanes <- struct{}{}
				defer func() { <-lanes }()
				result := s.play(t, fmt.Sprintf("scenario-%s", strings.ReplaceAll(s.image, " ", "-")+fmt.Sprint(len(name))))
				mu.Lock()
				defer mu.Unlock()
				results[name] = result
			})
		}
	})
	text, _ := json.MarshalIndent(results, "", "  ")
	t.Logf("%s", text)
	writeJSON(t, *scenariosOut, results)
}

// play lets a canary go bad under traffic, and says what came of it.
func (s scenario) play(t *testing.T, name string) (result scenarioResult) {
	a := newApp(t, name)
	if s.pods > 0 {
		a.writeManifests("replicas: 2", fmt.Sprintf("replicas: %d", s.pods))
	}
	a.must("canary", "--image", images["one"])
	traffic := load.StartImpatient("http://"+running.GatewayAddress+"/", a.served(), scenarioRate, patience)
	defer traffic.Stop()
	time.Sleep(2 * time.Second)
	a.must("canary", "--image", images[s.image], "--weight", fmt.Sprint(cmp.Or(s.weight, 10)))
	routed, off := time.Now(), a.offTheRoute()
	if s.turns != nil {
		s.turns(a)
	}
	code, out := a.crossbill("verify", "--prometheus", running.PrometheusURL, "--interval", "1s", "--max-duration", "60s")
	if code, out := a.crossbill("promote"); code == 0 && a.version() == s.image {
		t.Errorf("it was promoted\n%s", out)
	}
	time.Sleep(patience + 3*time.Second)
	status := a.status()
	result = s.seen(traffic.Answers(routed, time.Now()), off())
	switch {
	case status.Release != nil && status.Release.Verdict != nil:
		result.Outcome, result.Cause = string(status.Release.Verdict.Outcome), status.Release.Verdict.Cause
	case len(status.History) > 0:
		result.Outcome = string(status.History[0].Outcome)
		if verdict := status.History[0].Verdict; verdict != nil {
			result.Cause = verdict.Cause
		}
	}
	t.Logf("%+v\n%s", result, out[max(0, strings.LastIndex(out, "crossbill: ")):])
	if code != 3 || result.Outcome != "rolled_back" || result.SecondsToOff > scenarioBound.Seconds() || result.Wrong > 0 {
		t.Errorf("exit code %d, %+v: want it rolled back, and off %s after the first sign\n%s", code, result, scenarioBound, out)
	}
	return result
}

// offTheRoute looks until the canary has no share of the traffic any more, and gives the time of that; now, if it
// still has.
func (a *app) offTheRoute() func() time.Time {
	a.Helper()
	var mu sync.Mutex
	var off time.Time
	go func() {
		for a.Context().Err() == nil {
			vs, err := a.mesh.NetworkingV1().VirtualServices(a.namespace).Get(a.Context(), a.name+"-vs", metav1.GetOptions{})
			if err == nil && vs.Spec.Http[len(vs.Spec.Http)-1].Route[1].Weight == 0 {
				mu.Lock()
				defer mu.Unlock()
				off = time.Now()
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
	}()
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		if off.IsZero() {
			return time.Now()
		}
		return off
	}
}

// seen is what callers saw of the canary, which was off the route from a time on.
func (s scenario) seen(answers []load.Answer, off time.Time) (result scenarioResult) {
	first := off
	for _, answer := range answers {
		bad := answer.Code >= 500 || s.bad != nil && s.bad(answer)
		switch {
		case answer.Lost():
			result.Lost++
		case bad:
			result.Bad++
		}
		if noticed := answer.Sent.Add(answer.Latency); (bad || answer.Lost()) && noticed.Before(first) {
			first = noticed
		}
		if answer.Version == s.image && answer.Sent.After(off.Add(time.Second)) {
			result.Wrong++
		}
	}
	result.SecondsToOff = off.Sub(first).Round(100 * time.Millisecond).Seconds()
	return result
}

// canaryPods are the addresses of the canary's pods, by their names.
func (a *app) canaryPods() map[string]string {
	a.Helper()
	pods, err := a.kube.CoreV1().Pods(a.namespace).List(a.Context(), metav1.ListOptions{LabelSelector: "version=canary"})
	if err != nil || len(pods.Items) == 0 {
		a.Fatal("no pod of the canary's ", err)
	}
	addresses := map[string]string{}
	for _, p := range pods.Items {
		addresses[p.Name] = p.Status.PodIP
	}
	return addresses
}

// loseNode takes the nodes of all of the canary's pods away, after it has answered for a while. Once their deletion
// hangs, somebody removes the nodes, and what is left of the pods with them.
func (a *app) loseNode() {
	a.Helper()
	time.Sleep(2 * time.Second)
	for name := range a.canaryPods() {
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"true"}}}`, kubelet.GoneAnnotation)
		if _, err := a.kube.CoreV1().Pods(a.namespace).Patch(a.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			a.Fatal(err)
		}
		go a.removeHanging(name)
	}
}

// removeHanging removes a pod 5 s after its deletion began.
func (a *app) removeHanging(name string) {
	pods := a.kube.CoreV1().Pods(a.namespace)
	for ; a.Context().Err() == nil; time.Sleep(500 * time.Millisecond) {
		pod, err := pods.Get(a.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return
		}
		if err != nil || pod.DeletionTimestamp == nil {
			continue
		}
		time.Sleep(5 * time.Second)
		_ = pods.Delete(a.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}) // again, if it fails
	}
}

// spoilOne makes one of the canary's pods answer with nothing but errors.
func (a *app) spoilOne() {
	a.Helper()
	pods := a.canaryPods()
	if len(pods) != 3 {
		a.Fatalf("the canary has %d pods, want 3", len(pods))
	}
	for _, address := range pods {
		response, err := http.Get("http://" + address + ":3000/become?fail=100")
		if err != nil {
			a.Fatal(err)
		}
		response.Body.Close()
		return
	}
}
