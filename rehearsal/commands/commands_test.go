package commands_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

var (
	atRest = manifest.WeightPair{Primary: 100}
	split  = manifest.WeightPair{Primary: 90, Canary: 10}
)

func digest(ref string) string { return release.DigestOf(ref) }

// healthy puts a healthy verdict on the release in flight; verify's own tests need traffic.
func (a *app) healthy() {
	a.Helper()
	if err := judge(a.Context(), a.cluster("judge", nil)); err != nil {
		a.Fatal(err)
	}
}

func judge(ctx context.Context, c *rollout.Cluster) error {
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if status.Release == nil {
		return errors.New("no release to judge")
	}
	v := status.Release.Subject()
	v.Outcome, v.Reason, v.At = release.Healthy, "test", time.Now()
	_, err = c.Judge(ctx, v, false)
	return err
}

// released is an app with a first release, of manifests that may be prepared.
func released(t *testing.T, name string, prepare ...func(*app)) *app {
	a := newApp(t, name)
	a.shape(prepare)
	a.must("canary", "--image", images["one"])
	if got := a.weights(); got != atRest {
		t.Fatalf("weights after the first release: %+v", got)
	}
	return a
}

// TestCommands runs the tests side by side, each with its own app and namespace.
func TestCommands(t *testing.T) {
	t.Parallel()
	t.Run("a whole release", testLifecycle)
	t.Run("rollback from every stage", testRollbackFromEveryStage)
	t.Run("a canary that never gets ready is rolled back", testACanaryThatNeverGetsReadyIsRolledBack)
	t.Run("bad input changes nothing", testBadInputChangesNothing)
	t.Run("a pipeline of which nothing is left to do", testAPipelineOfWhichNothingIsLeftToDo)
	t.Run("an app that somebody else deployed", testAnAppThatSomebodyElseDeployed)
	t.Run("a route that somebody else took away", testARouteThatSomebodyElseTookAway)
	t.Run("a rollback beside a canary", testARollbackBesideACanary)
	t.Run("a release that nobody works on", testAReleaseThatNobodyWorksOn)
	t.Run("the least rights", testTheLeastRights)
	t.Run("the rights of migrate", testTheRightsOfMigrate)
	t.Run("the job's identity", testTheJobsIdentity)
	t.Run("a canceled job", testACanceledJob)
	t.Run("drift", testDrift)
	t.Run("what somebody deletes", testWhatSomebodyDeletes)
	t.Run("promotion of what was not judged", testPromotionOfWhatWasNotJudged)
	t.Run("pods that have ended", testPodsThatHaveEnded)
	t.Run("the configuration of pods that restart", testTheConfigurationOfPodsThatRestart)
	t.Run("a first release that was not noted", testAFirstReleaseThatWasNotNoted)
	t.Run("a ledger that others label", testALedgerThatOthersLabel)
	t.Run("a write that comes late", testAWriteThatComesLate)
	t.Run("a creation that comes late", testACreationThatComesLate)
	t.Run("an answer that comes late", testAnAnswerThatComesLate)
	t.Run("a promoted release that turns out bad", testAPromotedReleaseThatTurnsOutBad)
	t.Run("a canary gets more in steps", testACanaryGetsMoreInSteps)
	t.Run("an app that nobody calls is probed", testProbe)
	t.Run("what a sticky release adds goes without a trace", testStickyRoutes)
	t.Run("pods that outlive their Deployment", testPodsThatOutliveTheirDeployment)
	t.Run("notifications and reports", testNotifications)
	t.Run("only what is trusted", testOnlyWhatIsTrusted)
	t.Run("hooks", testHooks)
	t.Run("a second release waits", testQueue)
	t.Run("a newer release supersedes", testSupersede)
	t.Run("a release that is followed is killed", testFollow)
}

func testLifecycle(t *testing.T) {
	t.Parallel()
	a := released(t, "whole")
	stop := a.observe()
	if out := a.must("plan", "canary", "--image", images["two"]); !strings.Contains(out, "create Deployment ns-whole/whole-canary") || !strings.Contains(out, "+      weight: 10") {
		t.Errorf("plan of the canary:\n%s", out)
	}
	before := a.state()
	a.must("plan", "canary", "--image", images["two"])
	if after := a.state(); !maps.Equal(before, after) {
		t.Errorf("plan changed something: %v, then %v", before, after)
	}

	a.must("canary", "--image", images["two"])
	if a.weights() != split || digest(a.image("canary")) != digest(images["two"]) {
		t.Fatalf("weights %+v, canary %s", a.weights(), a.image("canary"))
	}
	if code, out := a.crossbill("promote"); code != 2 || !strings.Contains(out, "no verdict") {
		t.Errorf("promotion without a verdict: exit code %d\n%s", code, out)
	}
	if code, out := a.crossbill("canary", "--image", images["three"]); code != 5 || !strings.Contains(out, "in flight") {
		t.Errorf("a second release beside the first: exit code %d\n%s", code, out)
	}
	if code, out := a.crossbill("cleanup"); code != 2 || !strings.Contains(out, "follows promote") {
		t.Errorf("cleanup before promotion: exit code %d\n%s", code, out)
	}
	a.healthy()
	before = a.state()
	for _, command := range []string{"verify", "promote", "cleanup", "rollback"} { // the buttons of another pipeline
		args := []string{command, "--release-id", "another"}
		if command == "verify" {
			args = append(args, "--prometheus", running.PrometheusURL)
		}
		if code, out := a.crossbill(args...); code != 5 || !strings.Contains(out, "in flight") {
			t.Errorf("%s of another release: exit code %d\n%s", command, code, out)
		}
	}
	if after := a.state(); !maps.Equal(before, after) {
		t.Errorf("commands of another release changed something: %v, then %v", before, after)
	}
	a.must("promote")
	if a.weights() != atRest || digest(a.image("primary")) != digest(images["two"]) {
		t.Fatalf("weights %+v, primary %s", a.weights(), a.image("primary"))
	}
	a.must("cleanup")
	if got := a.image("canary"); got != "" {
		t.Errorf("the canary is still there: %s", got)
	}
	stop()

	// Everything again: nothing changes.
	before = a.state()
	for _, args := range [][]string{{"canary", "--image", images["two"]}, {"promote"}, {"cleanup"}, {"rollback"}} {
		a.must(args...)
	}
	if after := a.state(); !maps.Equal(before, after) {
		t.Errorf("running the commands again changed something:\n%v\n%v", before, after)
	}
	var status rollout.Status
	if err := json.Unmarshal([]byte(a.must("status", "-o", "json")), &status); err != nil {
		t.Fatal(err)
	}
	if len(status.History) != 2 || status.History[0].Outcome != release.OutcomePromoted || status.History[1].Outcome != release.OutcomeFirst || status.Release != nil || status.Lock != "" {
		t.Errorf("status %+v", status)
	}
	html := filepath.Join(t.TempDir(), "report.html")
	a.must("report", "--html", html)
	if text, err := os.ReadFile(html); err != nil || !strings.Contains(string(text), "promoted") {
		t.Errorf("report: %v", err)
	}
}

func testRollbackFromEveryStage(t *testing.T) {
	t.Parallel()
	a := released(t, "back")
	stop := a.observe()
	for i, steps := range [][]string{{"canary"}, {"canary", "verify"}, {"canary", "verify", "promote"}} {
		if i > 0 {
			if code, out := a.crossbill("canary", "--image", images["two"]); code != 2 || !strings.Contains(out, "has finished before: rolled_back") {
				t.Errorf("a release that was rolled back starts again by itself: exit code %d\n%s", code, out)
			}
		}
		a.must("canary", "--again", "--image", images["two"])
		for _, step := range steps[1:] {
			if step == "verify" {
				a.healthy()
				continue
			}
			a.must(step)
		}
		a.must("rollback", "--reason", "test")
		if a.weights() != atRest || a.image("canary") != "" || digest(a.image("primary")) != digest(images["one"]) {
			t.Fatalf("after %v and rollback: weights %+v, canary %q, primary %s", steps, a.weights(), a.image("canary"), a.image("primary"))
		}
	}
	stop()
}

func testACanaryThatNeverGetsReadyIsRolledBack(t *testing.T) {
	t.Parallel()
	a := released(t, "never")
	stop := a.observe()
	for name, c := range map[string]struct{ says, within string }{
		"unready": {"503", "8s"},
		"crash":   {"restarting failed container", "1m"}, // it waits until the second end, no longer
	} {
		code, out := a.crossbill("canary", "--image", images[name], "--timeout", c.within)
		if code != 6 || !strings.Contains(out, "rolled back") || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit code %d, want 6 and %q\n%s", name, code, c.says, out)
		}
		if a.weights() != atRest || a.image("canary") != "" {
			t.Errorf("%s: weights %+v, canary %q", name, a.weights(), a.image("canary"))
		}
	}
	stop()
}

// testWhatOthersOwnStaysTheirs: foreign routes and annotations, replicas under an HPA, and the next
// unforced apply of a GitOps tool.
func testWhatOthersOwnStaysTheirs(t *testing.T) {
	t.Parallel()
	a := newApp(t, "foreign")
	ctx := t.Context()
	const route = `{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"foreign-vs","annotations":{"gitops/owner":"them"}},"spec":{
		"hosts":["foreign.example.com"],"gateways":["public-gateway"],"http":[
		{"name":"theirs","match":[{"uri":{"prefix":"/theirs"}}],"route":[{"destination":{"host":"other"}}],"timeout":"3s"},
		{"name":"release","route":[{"destination":{"host":"foreign-service","subset":"primary"},"weight":100},{"destination":{"host":"foreign-service","subset":"canary"},"weight":0}]}]}}`
	routes := a.mesh.NetworkingV1().VirtualServices(a.namespace)
	gitops := func() error {
		_, err := routes.Patch(ctx, "foreign-vs", types.ApplyPatchType, []byte(route), metav1.PatchOptions{FieldManager: "gitops"})
		return err
	}
	if err := gitops(); err != nil {
		t.Fatal(err)
	}
	a.must("canary", "--image", images["one"])
	minimum := int32(3)
	_, err := a.kube.AutoscalingV2().HorizontalPodAutoscalers(a.namespace).Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "foreign"},
		Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: &minimum, MaxReplicas: 5, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "foreign-primary"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.scale(3); err != nil {
		t.Fatal(err)
	}

	for _, end := range [][]string{{"promote", "cleanup"}, {"rollback"}} {
		image := map[string]string{"promote": images["two"], "rollback": images["three"]}[end[0]]
		a.must("canary", "--image", image)
		if err := gitops(); err == nil {
			t.Error("a GitOps tool reset the weights in the middle of a release without a conflict")
		}
		if a.weights() != split {
			t.Fatalf("weights %+v", a.weights())
		}
		a.healthy()
		for _, command := range end {
			a.must(command)
		}
		live, err := routes.Get(ctx, "foreign-vs", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if theirs := live.Spec.Http[0]; theirs.Name != "theirs" || theirs.Timeout.GetSeconds() != 3 || live.Annotations["gitops/owner"] != "them" {
			t.Errorf("after %v their route is %v, their annotation %q", end, theirs, live.Annotations["gitops/owner"])
		}
		if err := gitops(); err != nil {
			t.Errorf("after %v the GitOps tool's next apply fails: %v", end, err)
		}
		primary, err := a.kube.AppsV1().Deployments(a.namespace).Get(ctx, "foreign-primary", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if *primary.Spec.Replicas != 3 {
			t.Errorf("after %v primary has %d replicas, its HPA wants 3", end, *primary.Spec.Replicas)
		}
	}
}

func testBadInputChangesNothing(t *testing.T) {
	t.Parallel()
	a := released(t, "input")
	a.must("canary", "--image", images["two"])
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("apiVersion: v1\nkind: Config\nclusters: {"), 0o644); err != nil {
		t.Fatal(err)
	}
	badManifests, noSubset := t.TempDir(), t.TempDir()
	for _, file := range []string{"service.yaml", "deployment.yaml", "gateway.yaml", "destination-rule.yaml", "virtual-service.yaml"} {
		text, err := os.ReadFile(filepath.Join(a.manifests, file))
		if err != nil {
			t.Fatal(err)
		}
		for dir, change := range map[string][2]string{badManifests: {"kind: Deployment", "kind: {"}, noSubset: {"- name: canary\n      labels", "- name: other\n      labels"}} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(strings.ReplaceAll(string(text), change[0], change[1])), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	common := []string{"--kubeconfig", running.Kubeconfig, "--namespace", a.namespace, "--manifests", a.manifests}
	with := func(args ...string) []string { return append(append([]string{}, common...), args...) }
	before := a.state()
	for _, c := range []struct {
		name string
		args []string
		want string // names the field
	}{
		{"no kubeconfig", []string{"status", "--manifests", a.manifests}, "--kubeconfig"},
		{"a missing kubeconfig", append([]string{"status"}, with("--kubeconfig", "/nonexistent")...), "--kubeconfig"},
		{"a broken kubeconfig", append([]string{"status"}, with("--kubeconfig", broken)...), "--kubeconfig"},
		{"an unknown context", append([]string{"status"}, with("--context", "nowhere")...), "--context"},
		{"a manifest that does not parse", append([]string{"promote"}, with("--manifests", badManifests)...), "deployment.yaml"},
		{"a manifest without a subset", append([]string{"promote"}, with("--manifests", noSubset)...), "no subset canary"},
		{"an image by tag", append([]string{"canary", "--image", "registry.example.com/app:1"}, common...), "--image"},
		{"weight 0", append([]string{"canary", "--image", images["two"], "--weight", "0"}, common...), "--weight"},
		{"weight 100", append([]string{"canary", "--image", images["two"], "--weight", "100"}, common...), "--weight"},
		{"a weight that is no number", append([]string{"canary", "--image", images["two"], "--weight", "ten"}, common...), "weight"},
		{"a missing namespace", append([]string{"canary", "--image", images["two"]}, with("--namespace", "nowhere")...), "--namespace"},
		{"a server that is no Prometheus", append([]string{"verify", "--prometheus", "http://" + running.RegistryHost}, common...), "--prometheus"},
		{"Prometheus that is no URL", append([]string{"verify", "--prometheus", "prometheus"}, common...), "--prometheus"},
		{"an unknown command", []string{"deploy"}, "deploy"},
		{"an unknown flag", append([]string{"status", "--nope"}, common...), "--nope"},
		{"an unknown output", append([]string{"status", "-o", "xml"}, common...), "--output"},
	} {
		code, out := a.command(c.args...)
		if code != 2 || !strings.Contains(out, c.want) {
			t.Errorf("%s: exit code %d, want 2 and %q:\n%s", c.name, code, c.want, out)
		}
	}
	if after := a.state(); !maps.Equal(before, after) {
		t.Errorf("bad input changed something:\n%v\n%v", before, after)
	}
}

// testVerifyWithoutTraffic: no requests are never a pass, and change nothing.
func testVerifyWithoutTraffic(t *testing.T) {
	t.Parallel()
	a := released(t, "silent")
	a.must("canary", "--image", images["two"])
	code, out := a.crossbill("verify", "--prometheus", running.PrometheusURL, "--max-duration", "4s", "--interval", "1s")
	if code != 4 || !strings.Contains(out, "no request reached") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if a.weights() != split {
		t.Errorf("weights %+v", a.weights())
	}
	if code, out := a.crossbill("promote"); code != 2 || !strings.Contains(out, "inconclusive") {
		t.Errorf("promotion on an inconclusive verdict: exit code %d\n%s", code, out)
	}
}
