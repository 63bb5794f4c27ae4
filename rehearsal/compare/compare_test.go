package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/rehearsal/load"
)

var update = flag.Bool("update", false, "write the pages of the recorded figures anew")

// TestPage makes the pages of figures that were recorded: an old one, and the one of the documentation.
func TestPage(t *testing.T) {
	for figures, file := range map[string]string{"testdata/compare.json": "testdata/compare.md", "figures.json": "../../docs/compare.md"} {
		r, err := readReport(figures)
		if err != nil {
			t.Fatal(err)
		}
		got := r.page()
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("the page differs from %s (-want +got); go test . -update writes it:\n%s", file, diff)
		}
	}
}

// TestFieldsOfFigures holds compare.json to the names that others read.
func TestFieldsOfFigures(t *testing.T) {
	r := report{Records: []record{{Scenario: scenarios[0].Name, systemID: systems[0], Run: 1, Outcome: promoted, Right: true}}}
	text, err := r.json()
	if err != nil {
		t.Fatal(err)
	}
	var figures struct {
		Scenarios []struct{ Results []map[string]any }
	}
	if err := json.Unmarshal(text, &figures); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"system", "configuration", "runs", "right", "secondsToDecision", "secondsToRest", "lost", "exposed", "wrongVersion", "apiRequests", "memoryMiB"} {
		if _, ok := figures.Scenarios[0].Results[0][field]; !ok {
			t.Errorf("no field %q in %s", field, text)
		}
	}
}

// made are answers of a version to requests that were sent at some second.
func made(from, to int, version string, code uint16, latency time.Duration) (answers []load.Answer) {
	for s := from; s < to; s++ {
		answers = append(answers, load.Answer{Sent: second(s), Version: version, Code: code, Latency: latency})
	}
	return answers
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func second(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }

func named(t *testing.T, name string) scenario {
	t.Helper()
	i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("no scenario %q", name)
	}
	return scenarios[i]
}

func TestJudge(t *testing.T) {
	at := times{asked: second(0), decided: second(10), off: second(10), rest: second(20), end: second(25)}
	passed := times{asked: second(0), decided: second(10), rest: second(20), end: second(25)}
	for name, test := range map[string]struct {
		scenario, outcome string
		times             times
		answers           [][]load.Answer
		want              record
	}{
		"a good version": {
			"good version", promoted, passed, [][]load.Answer{made(0, 15, "one", 200, 0), made(15, 25, "good", 200, 0)},
			record{Right: true, SecondsToDecision: 10, SecondsToRest: 20, Requests: 20},
		},
		"a good version that is rolled back": {
			"good version", rolledBack, at, [][]load.Answer{made(0, 25, "one", 200, 0)},
			record{SecondsToDecision: 10, SecondsToRest: 20, Requests: 20},
		},
		"errors of a bad version, one of them after the route was taken away": {
			"30% errors", rolledBack, at, [][]load.Answer{made(0, 25, "one", 200, 0), made(8, 10, "fails 30", 500, 0), made(9, 10, "fails 30", 200, 0), made(12, 13, "fails 30", 500, 0)},
			record{Right: true, SecondsToDecision: 10, SecondsToRest: 20, Requests: 24, Exposed: 3, WrongVersion: 1},
		},
		"the second in which a route arrives": {
			"30% errors", rolledBack, at, [][]load.Answer{made(10, 12, "fails 30", 200, 0)},
			record{Right: true, SecondsToDecision: 10, SecondsToRest: 20, Requests: 2},
		},
		"errors of the old version are not the new one's": {
			"30% errors", rolledBack, at, [][]load.Answer{made(0, 5, "one", 500, 0)},
			record{Right: true, SecondsToDecision: 10, SecondsToRest: 20, Requests: 5},
		},
		"a bad version that is promoted": {
			"30% errors", promoted, passed, [][]load.Answer{made(0, 25, "fails 30", 500, 0)},
			record{SecondsToDecision: 10, SecondsToRest: 20, Requests: 20, Exposed: 25},
		},
		"the old version after the promotion": {
			"good version", promoted, passed, [][]load.Answer{made(20, 25, "one", 200, 0)},
			record{Right: true, SecondsToDecision: 10, SecondsToRest: 20, WrongVersion: 3},
		},
		"slow answers": {
			"slow answers", rolledBack, at, [][]load.Answer{made(5, 7, "slow", 200, 700*time.Millisecond), made(5, 7, "slow", 500, 0), made(5, 7, "one", 200, time.Second)},
			record{Right: true, SecondsToDecision: 10, SecondsToRest: 20, Requests: 6, Exposed: 2},
		},
		"lost requests": {
			"good version", promoted, passed, [][]load.Answer{made(1, 3, "", 503, 0), made(3, 4, "", 0, 0), made(22, 23, "", 503, 0)},
			record{Right: true, SecondsToDecision: 10, SecondsToRest: 20, Requests: 3, Lost: 4},
		},
		"nobody decides": {
			"30% errors", undecided, times{asked: second(0), end: second(25)}, [][]load.Answer{made(0, 25, "fails 30", 500, 0)},
			record{Requests: 25, Exposed: 25},
		},
		"either outcome": {
			"0.5% errors", rolledBack, at, nil, record{Right: true, SecondsToDecision: 10, SecondsToRest: 20},
		},
		"neither outcome": {
			"0.5% errors", undecided, times{asked: second(0), end: second(25)}, nil, record{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := named(t, test.scenario).judge(test.outcome, test.times, slices.Concat(test.answers...))
			test.want.Scenario, test.want.Outcome = test.scenario, test.outcome
			if diff := cmp.Diff(test.want, *got, cmp.AllowUnexported(record{})); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestConfigurationIsTheVersion: where the image stays, answers are known by their configuration.
func TestConfigurationIsTheVersion(t *testing.T) {
	s := named(t, "configuration only")
	at := times{asked: second(0), off: second(10), rest: second(20), end: second(25)}
	answer := load.Answer{Sent: second(5), Version: "one", Config: badConfiguration, Code: 500}
	if got := s.judge(rolledBack, at, []load.Answer{answer}); got.Exposed != 1 {
		t.Errorf("got %+v, want one bad answer", got)
	}
}

func TestAtRest(t *testing.T) {
	pod := func(image string, ready bool) corev1.Pod {
		p := corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "registry/app@" + image}}}}
		if ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		return p
	}
	ends := pod("new", true)
	ends.DeletionTimestamp = &metav1.Time{Time: start}
	for name, test := range map[string]struct {
		pods []corev1.Pod
		want bool
	}{
		"all new":        {[]corev1.Pod{pod("new", true), pod("new", true)}, true},
		"one old":        {[]corev1.Pod{pod("new", true), pod("old", true)}, false},
		"one not ready":  {[]corev1.Pod{pod("new", true), pod("new", false)}, false},
		"one that ends":  {[]corev1.Pod{pod("new", true), ends}, false},
		"one is missing": {[]corev1.Pod{pod("new", true)}, false},
		"one too many":   {[]corev1.Pod{pod("new", true), pod("new", true), pod("new", true)}, false},
	} {
		if got := (&app{values: values{Replicas: 2}}).atRest(test.pods, "other/name:tag@new"); got != test.want {
			t.Errorf("%s: got %t, want %t", name, got, test.want)
		}
	}
	scaled := &app{s: scenario{autoscaled: true}, values: values{Replicas: 2}}
	if three := []corev1.Pod{pod("new", true), pod("new", true), pod("new", true)}; !scaled.atRest(three, "name@new") || scaled.atRest(three[:1], "name@new") {
		t.Error("an app with an HPA may have more pods than it needs, and not fewer")
	}
}

func TestLooks(t *testing.T) {
	rollout := func(generation int64, status string) *unstructured.Unstructured {
		var u unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(status), &u.Object); err != nil {
			t.Fatal(err)
		}
		u.SetGeneration(generation)
		return &u
	}
	for name, test := range map[string]struct {
		status string
		share  int
		want   look
	}{
		"a status of the generation before": {"status: {observedGeneration: '1', phase: Healthy, stableRS: a, currentPodHash: a}", 0, look{}},
		"under way":                         {"status: {observedGeneration: '2', phase: Progressing, stableRS: a, currentPodHash: b}", 10, look{share: 10}},
		"its analysis has passed": {
			"status: {observedGeneration: '2', phase: Progressing, stableRS: a, currentPodHash: b, canary: {currentStepAnalysisRunStatus: {status: Successful}}}", 10, look{pass: true, share: 10},
		},
		"its analysis has failed": {
			"status: {observedGeneration: '2', phase: Progressing, stableRS: a, currentPodHash: b, canary: {currentStepAnalysisRunStatus: {status: Failed}}}", 10, look{fail: true, share: 10},
		},
		"aborted, with a share": {"status: {observedGeneration: '2', phase: Degraded, abort: true, stableRS: a, currentPodHash: b}", 10, look{fail: true, share: 10}},
		"aborted":               {"status: {observedGeneration: '2', phase: Degraded, abort: true, stableRS: a, currentPodHash: b}", 0, look{fail: true, final: rolledBack}},
		"promoted":              {"status: {observedGeneration: '2', phase: Healthy, stableRS: b, currentPodHash: b}", 0, look{pass: true, final: promoted}},
	} {
		u := rollout(2, test.status)
		if got := argoStatus(u).look(u.GetGeneration(), test.share); got != test.want {
			t.Errorf("Argo Rollouts, %s: got %+v, want %+v", name, got, test.want)
		}
	}
	for phase, want := range map[string]look{
		"Initialized": {}, "Progressing": {}, "Promoting": {pass: true}, "Finalising": {pass: true},
		"Succeeded": {pass: true, final: promoted}, "Failed": {fail: true, final: rolledBack},
	} {
		if got := flaggerLook(phase, 0); got != want {
			t.Errorf("Flagger, %s: got %+v, want %+v", phase, got, want)
		}
	}
}

// TestObjects renders the objects of each scenario for each system, all of kinds that can be made and removed.
func TestObjects(t *testing.T) {
	for _, id := range systems {
		for _, s := range append(slices.Clone(scenarios), fleet) {
			v := settings(s, id)
			v.App, v.Namespace, v.Image = "app-1", "ns", "registry/app@sha256:0"
			if s.outage {
				v.Faults = "http://127.0.0.1:1/app-1"
			}
			if s.configuration {
				v.ConfigMap, v.Configuration = "app-1-settings", goodConfiguration
			}
			text, err := v.render(id.Name + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			found := map[string]bool{}
			for document := range strings.SplitSeq("\n"+text, "\n---\n") {
				var u unstructured.Unstructured
				if err := yaml.UnmarshalStrict([]byte(document), &u.Object); err != nil {
					t.Fatalf("%s, %s: %v in\n%s", id, s.Name, err, document)
				}
				if len(u.Object) == 0 {
					continue
				}
				if _, ok := kinds[u.GetKind()]; !ok || u.GetName() != "app-1" && !strings.HasPrefix(u.GetName(), "app-1-") {
					t.Errorf("%s, %s: %s %s is of no known kind, or has another app's name", id, s.Name, u.GetKind(), u.GetName())
				}
				found[u.GetKind()] = true
			}
			if found["ConfigMap"] != s.configuration || !found["Deployment"] && !found["Rollout"] {
				t.Errorf("%s, %s: has %v", id, s.Name, found)
			}
			if strings.Contains(text, "<no value>") {
				t.Errorf("%s, %s: a value is missing in\n%s", id, s.Name, text)
			}
		}
	}
}

// TestScenarios: every image of a scenario is made, and every name can be chosen and linked to.
func TestScenarios(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range append(slices.Clone(scenarios), fleet) {
		if _, ok := behaviors[s.Image]; !ok {
			t.Errorf("%s: no image %q", s.Name, s.Image)
		}
		if !slices.Contains([]string{promoted, rolledBack, either}, s.Right) {
			t.Errorf("%s: %q is no outcome", s.Name, s.Right)
		}
		if seen[anchor(s.Name)] {
			t.Errorf("%s: another one has the anchor %s", s.Name, anchor(s.Name))
		}
		seen[anchor(s.Name)] = true
	}
}

// TestTasks: one run of everything comes before the second of anything, and what would not end in time is not started.
func TestTasks(t *testing.T) {
	o := &options{Runs: 2, Left: map[string]string{"flagger": "not built"}}
	short, long := tasks(o)
	for i, one := range short {
		if want := 1 + i/(len(short)/2); one.run != want {
			t.Errorf("task %d is of run %d, want %d", i, one.run, want)
		}
	}
	for _, one := range append(slices.Clone(short), long...) {
		for _, id := range one.systems {
			if id.Name == "flagger" || one.s.Long && one.run > 1 {
				t.Errorf("%s: should not be there", one)
			}
		}
	}
	o.Scenarios = "^low traffic"
	if none, alone := tasks(o); len(none) != 0 || len(alone) != 4 || alone[3].run != 2 {
		t.Errorf("without others there are %v and %v, want two runs of two", none, alone)
	}
	q := &queue{tasks: long, until: time.Now().Add(6 * time.Minute)}
	got, ok := q.next()
	if !ok || got.systems[0].Config == docs {
		t.Errorf("got %s, want one that ends within 6 minutes", got)
	}
	if len(q.left()) != len(long)-1 {
		t.Errorf("%d tasks are left of %d", len(q.left()), len(long))
	}
	q.until = time.Now().Add(time.Minute)
	if got, ok := q.next(); ok {
		t.Errorf("got %s within a minute", got)
	}
}

func TestAudit(t *testing.T) {
	a := &audit{events: map[string][]event{}}
	for _, line := range []string{
		`{"stage":"ResponseStarted","verb":"watch","userAgent":"flagger/v0","objectRef":{"namespace":"ns"},"stageTimestamp":"2026-01-02T03:04:06.000000Z"}`,
		`{"stage":"ResponseComplete","verb":"watch","userAgent":"flagger/v0","objectRef":{"namespace":"ns"},"stageTimestamp":"2026-01-02T03:04:07.000000Z"}`,
		`{"stage":"ResponseComplete","verb":"get","userAgent":"flagger/v0","objectRef":{"namespace":"ns"},"stageTimestamp":"2026-01-02T03:04:07.000000Z"}`,
		`{"stage":"ResponseComplete","verb":"patch","userAgent":"flagger/v0","objectRef":{"namespace":"ns"},"stageTimestamp":"2026-01-02T03:04:08.000000Z"}`,
		`{"stage":"ResponseComplete","verb":"patch","userAgent":"crossbill/v1 (linux)","objectRef":{"namespace":"ns"},"stageTimestamp":"2026-01-02T03:04:08.000000Z"}`,
		`{"stage":"ResponseComplete","verb":"patch","userAgent":"flagger/v0","objectRef":{"namespace":"other"},"stageTimestamp":"2026-01-02T03:04:08.000000Z"}`,
		`{"stage":"ResponseComplete","verb":"patch","userAgent":"flagger/v0","objectRef":{"namespace":"ns"},"stageTimestamp":"2026-01-02T03:05:08.000000Z"}`,
		`{"stage":"Respon`,
	} {
		a.add([]byte(line))
	}
	if reads, writes := a.count("ns", "flagger", second(0), second(20)); reads != 2 || writes != 1 {
		t.Errorf("got %d reads and %d writes, want 2 and 1", reads, writes)
	}
}

// TestAuditLogs: the API server goes on in a new file when one is full. What is in either counts, also what came just before that.
func TestAuditLogs(t *testing.T) {
	const line = `{"stage":"ResponseComplete","verb":"get","userAgent":"flagger/v0","objectRef":{"namespace":"ns"},"stageTimestamp":"2026-01-02T03:04:07.000000Z"}` + "\n"
	counts := func(a *audit) int { reads, _ := a.count("ns", "flagger", second(0), second(20)); return reads }
	a, log := &audit{events: map[string][]event{}}, bytes.NewBufferString(line)
	a.read(t.Context(), log, func() bool { log.WriteString(line); return true })
	if n := counts(a); n != 2 {
		t.Errorf("%d requests of 2", n)
	}

	file := filepath.Join(t.TempDir(), "audit.log")
	add := func() {
		if err := appendTo(file, line); err != nil {
			t.Fatal(err)
		}
	}
	add()
	a, err := follow(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	for want := 2; want < 5; want++ {
		if err := os.Rename(file, fmt.Sprintf("%s.%d", file, want)); err != nil {
			t.Fatal(err)
		}
		add()
		err := eventually(t.Context(), 10*time.Second, func() error {
			if n := counts(a); n != want {
				return fmt.Errorf("%d requests of %d", n, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestRatios: a release is compared with Crossbill's beside it, and the median of that is given.
func TestRatios(t *testing.T) {
	r := report{}
	for run, times := range [][2]float64{{10, 20}, {10, 10}, {20, 60}} {
		r.Records = append(r.Records, record{Scenario: "s", systemID: systems[0], Run: run + 1, Right: true, SecondsToRest: times[0]},
			record{Scenario: "s", systemID: systems[1], Run: run + 1, Right: true, SecondsToRest: times[1]})
	}
	r.Records = append(r.Records, record{Scenario: "s", systemID: systems[0], Run: 4, Right: true, SecondsToRest: 10},
		record{Scenario: "s", systemID: systems[1], Run: 4, SecondsToRest: 20}) // wrong, and no ratio
	if got := r.result("s", systems[1]); got.Ratios["secondsToRest"] != 2 || *got.SecondsToRest != (spread{20, 10, 60}) || got.Right != 3 || got.SecondsToDecision != nil {
		t.Errorf("got %+v", got)
	}
}

// TestPlus: figures of the same are added up, and each run has its number; figures of anything else are refused.
func TestPlus(t *testing.T) {
	base := func() report {
		return report{
			invocation: invocation{Command: "second"}, RequestsPerSecond: 100,
			Facts: facts{Machine: "2 cores", Processor: "p", System: "s", Versions: map[string]string{"crossbill": "v1", "flagger": "v2"}},
		}
	}
	one := func(run int, rest float64, id systemID) record {
		return record{Scenario: "s", systemID: id, Run: run, Right: true, SecondsToRest: rest}
	}
	earlier := base()
	earlier.Command, earlier.Facts.Versions = "first", map[string]string{"crossbill": "v1", "argo-rollouts": "v3"}
	earlier.add(one(1, 10, systems[0]), one(1, 20, systems[1]))
	both, err := base().plus(earlier)
	if err != nil {
		t.Fatal(err)
	}
	both.add(one(1, 10, systems[0]), one(1, 40, systems[1]))
	third, err := base().plus(both)
	if err != nil {
		t.Fatal(err)
	}
	third.add(one(1, 10, systems[0]), one(1, 30, systems[1]))
	got := third.result("s", systems[1])
	if got.Runs != 3 || got.Ratios["secondsToRest"] != 3 {
		t.Errorf("got %+v, want three runs with a median ratio of 3", got)
	}
	var commands []string
	for _, i := range append(third.Earlier, third.invocation) {
		commands = append(commands, fmt.Sprintf("%s: %d", i.Command, i.Releases))
	}
	if diff := cmp.Diff([]string{"first: 2", "second: 2", "second: 2"}, commands); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"crossbill": "v1", "flagger": "v2", "argo-rollouts": "v3"}, third.Facts.Versions); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for want, change := range map[string]func(r *report){
		"the version of flagger (v1 there, v2 now)":   func(r *report) { r.Facts.Versions["flagger"] = "v1" },
		"the machine (4 cores there, 2 cores now)":    func(r *report) { r.Facts.Machine = "4 cores" },
		"the requests per second (80 there, 100 now)": func(r *report) { r.RequestsPerSecond = 80 },
		"its system (t there, s now)":                 func(r *report) { r.Facts.System = "t" },
	} {
		other := base()
		change(&other)
		if _, err := base().plus(other); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
}

// TestRenew: figures of a scenario that is run again with another Crossbill take the place of the earlier ones, and the page
// says so; those of another controller do not.
func TestRenew(t *testing.T) {
	figures := func(crossbill, flagger string) report {
		return report{Facts: facts{Versions: map[string]string{"crossbill": crossbill, "flagger": flagger}}}
	}
	one := func(scenario string, rest float64) record {
		return record{Scenario: scenario, systemID: systems[0], Run: 1, Right: true, SecondsToRest: rest}
	}
	again, kept := scenarios[0].Name, scenarios[1].Name
	earlier := figures("v1", "f1")
	earlier.add(one(again, 10), one(kept, 20))
	now, err := figures("v2", "f1").plus(earlier, again)
	if err != nil {
		t.Fatal(err)
	}
	now.add(one(again, 30))
	for name, want := range map[string]float64{again: 30, kept: 20} {
		if got := now.result(name, systems[0]); got.Runs != 1 || got.SecondsToRest.Median != want {
			t.Errorf("%s: got %+v, want one run of %g s", name, got, want)
		}
	}
	page := now.page()
	if want := "(#" + anchor(again) + ") was run again, with Crossbill v2"; !strings.Contains(page, want) || !strings.Contains(page, "Versions: Crossbill 1, ") {
		t.Errorf("the page does not say %q, or that the other figures are of v1:\n%s", want, page[:min(3000, len(page))])
	}
	if _, err := figures("v2", "f2").plus(earlier, again); err == nil || !strings.Contains(err.Error(), "the version of flagger (f1 there, f2 now)") {
		t.Errorf("%v, want an error", err)
	}
	for _, args := range [][]string{{"-renew"}, {"-renew", "-add", "f"}, {"-renew", "-scenarios", "HPA"}} {
		if _, err := parse(args); err == nil || !strings.Contains(err.Error(), "-renew: ") {
			t.Errorf("%q: %v, want an error", args, err)
		}
	}
}

// TestShort: a short run fails for what Crossbill did, and for nothing else.
func TestShort(t *testing.T) {
	of := func(id systemID, right bool) record {
		return record{Scenario: shortScenario, systemID: id, Right: right}
	}
	for name, test := range map[string]struct {
		records []record
		good    bool
	}{
		"all are right":        {[]record{of(systems[0], true), of(systems[1], true)}, true},
		"another one is wrong": {[]record{of(systems[0], true), of(systems[1], false)}, true},
		"Crossbill alone":      {[]record{of(systems[0], true)}, true},
		"Crossbill is wrong":   {[]record{of(systems[0], false), of(systems[1], true)}, false},
		"Crossbill is missing": {[]record{of(systems[1], true)}, false},
	} {
		r := report{Records: test.records}
		if err := r.short(); (err == nil) != test.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	o, err := parse([]string{"-short"})
	if err != nil {
		t.Fatal(err)
	}
	short, long := tasks(o)
	if len(short) != 1 || len(long) != 0 || len(short[0].systems) != 3 || filepath.Base(o.Out) == "compare.json" {
		t.Errorf("got %v, %v, and figures in %s; want one scenario, all systems, and no figures that are a measurement's", short, long, o.Out)
	}
	if _, err := parse([]string{"-short", "-fleet", "5"}); err == nil {
		t.Error("-short with -fleet is no error")
	}
}

// TestBesideFlux: Flux is started, and compiled the first time, only for those who ask for it.
func TestBesideFlux(t *testing.T) {
	for _, test := range []struct {
		args []string
		left bool
		want int
	}{
		{nil, false, 0}, {[]string{"-gitops"}, false, 2}, {[]string{"-scenarios", "Flux, good"}, false, 1}, {[]string{"-scenarios", "^good"}, false, 0}, {[]string{"-gitops"}, true, 0},
	} {
		o, err := parse(test.args)
		if err != nil {
			t.Fatal(err)
		}
		if test.left {
			o.Left = map[string]string{flux: "not built"}
		}
		beside := slices.DeleteFunc(o.scenarios(), func(s scenario) bool { return !s.gitops })
		if len(beside) != test.want || o.besideFlux() != (test.want > 0) {
			t.Errorf("%v: %d scenarios, want %d", test.args, len(beside), test.want)
		}
	}
}

// TestFilesOf: an object is a file, so that a commit of one is none of another.
func TestFilesOf(t *testing.T) {
	got := filesOf("kind: A\nx: 1\n---\nkind: B\n\n---\n")
	if diff := cmp.Diff(map[string]string{"app/1.yaml": "kind: A\nx: 1\n", "app/2.yaml": "kind: B\n\n"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestBadFlags(t *testing.T) {
	for flags, want := range map[string]string{
		"-runs=0": "-runs", "-rate=5": "-rate", "-side-by-side=9": "-side-by-side", "-minutes=1": "-minutes", "-scenarios=(": "-scenarios",
		"-scenarios=nothing-like-it": "-scenarios", "-systems=none": "-systems", "more": "more", "-fleet=201": "-fleet",
	} {
		if _, err := parse([]string{flags}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", flags, err, want)
		}
	}
}

func TestCommand(t *testing.T) {
	for want, args := range map[string][]string{
		"make compare":        nil,
		"make compare DOCS=1": {"-page", "docs/compare.md"},
		"make compare DOCS=1 COMPARE='-minutes 30 -runs 5'": {"-page", "docs/compare.md", "-minutes", "30", "-runs", "5"},
		"make compare COMPARE='-scenarios ^30% errors'":     {"-page", "out/x.md", "-out", "out/x.json", "-scenarios", "^30% errors"},
	} {
		page := "out/compare.md"
		if len(args) > 1 {
			page = args[1]
		}
		if got := command(args, page); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestControllerIsStartedAgain: one that ends by itself, and one that is killed.
func TestControllerIsStartedAgain(t *testing.T) {
	c := &controller{name: "sleeper", program: "/bin/sleep", args: []string{"60"}, log: filepath.Join(t.TempDir(), "log")}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	first := c.pid()
	if err := c.kill(); err != nil {
		t.Fatal(err)
	}
	second := c.pid()
	if second == first || second == 0 || c.restarts() != 0 {
		t.Errorf("killed: process %d after %d, %d ends by itself", second, first, c.restarts())
	}
	p, err := os.FindProcess(second)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); c.restarts() == 0 || c.pid() == second; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it was not started again")
		}
	}
}
