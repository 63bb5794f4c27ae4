package commands_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/rehearsal/load"
)

// TestAnchors names what users of other progressive-delivery tools complain about most, and shows that
// it does not happen here. Lost requests and versions that answer when they should not are in
// TestTraffic.
func TestAnchors(t *testing.T) {
	t.Parallel()
	t.Run("subset labels that move", testSubsetLabelsThatMove)
	t.Run("scale-down by a timer", testScaleDownByATimer)
	t.Run("primary fails during promotion", testPrimaryFailsDuringPromotion)
	t.Run("primary shrunk by its HPA before promotion", testPrimaryShrunkByItsHPA)
	t.Run("foreign routes deleted, GitOps apply refused after a release", testWhatOthersOwnStaysTheirs)
	t.Run("GitOps apply resets the weights in the middle of a release", testWeightsResetInTheMiddle)
	t.Run("a new release supersedes a running canary", testANewReleaseSupersedes)
	t.Run("a lock that wedges every later run", testALockThatWedges)
	t.Run("two leaders", testTwoLeaders)
	t.Run("one HPA over both tracks", testOneHPAOverBothTracks)
	t.Run("a canary that nobody called passes", testVerifyWithoutTraffic)
	t.Run("nobody knows who promoted", testNobodyKnowsWhoPromoted)
}

// testSubsetLabelsThatMove: the observer of every test sees that ours never do; a DestinationRule in which
// somebody else has moved them is refused before anything is routed by it.
func testSubsetLabelsThatMove(t *testing.T) {
	t.Parallel()
	a := released(t, "moving")
	if _, err := a.mesh.NetworkingV1().DestinationRules(a.namespace).Patch(t.Context(), "moving-dr", types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/subsets/1/labels","value":{"pod-template-hash":"5d8f"}}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if code, out := a.crossbill("canary", "--image", images["two"]); code != 2 || !strings.Contains(out, "subset canary") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if a.weights() != atRest || a.image("canary") != "" {
		t.Errorf("weights %+v, canary %q", a.weights(), a.image("canary"))
	}
}

// testScaleDownByATimer: a canary at weight 0 that somebody still calls, by a route of their own, keeps its
// pods.
func testScaleDownByATimer(t *testing.T) {
	t.Parallel()
	a := released(t, "timer")
	a.must("canary", "--image", images["two"])
	_, err := a.mesh.NetworkingV1().VirtualServices(a.namespace).Patch(t.Context(), "testers", types.ApplyPatchType, []byte(
		`{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"testers"},"spec":{"hosts":["testers.example.com"],"gateways":["public-gateway"],
		"http":[{"route":[{"destination":{"host":"timer-service","subset":"canary"}}]}]}}`), metav1.PatchOptions{FieldManager: "testers"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.mesh.NetworkingV1().Gateways(a.namespace).Patch(t.Context(), "public-gateway", types.JSONPatchType,
		[]byte(`[{"op":"add","path":"/spec/servers/0/hosts/-","value":"testers.example.com"}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	a.reached(running.GatewayAddress, "testers.example.com")
	a.healthy()
	a.must("promote")
	testers := load.Start("http://"+running.GatewayAddress+"/", "testers.example.com", 20)
	code, out := a.crossbill("cleanup", "--prometheus", running.PrometheusURL, "--timeout", "8s")
	if code == 0 || !strings.Contains(out, "still gets requests") || a.image("canary") == "" {
		t.Errorf("a canary that is called: exit code %d, canary %q\n%s", code, a.image("canary"), out)
	}
	testers.Stop()
	a.must("cleanup", "--prometheus", running.PrometheusURL)
	if a.image("canary") != "" {
		t.Error("the canary is still there")
	}
}

// testPrimaryFailsDuringPromotion: primary's new pods cannot be made. The traffic stays with copies that
// are proven, at every moment, and all of it goes back to the old primary.
func testPrimaryFailsDuringPromotion(t *testing.T) {
	t.Parallel()
	a := released(t, "failing")
	stop := a.observe()
	a.must("canary", "--image", images["two"])
	a.healthy()
	policies := a.kube.AdmissionregistrationV1()
	_, err := policies.ValidatingAdmissionPolicies().Create(t.Context(), &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "no-new-primary"},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}}}},
			Validations: []admissionv1.Validation{{Expression: "object.metadata.labels['version'] != 'primary'", Message: "there is no room"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = policies.ValidatingAdmissionPolicyBindings().Create(t.Context(), &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "no-new-primary"},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "no-new-primary", ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
			MatchResources: &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": a.namespace}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a.eventually(func() error { // until the policy is in force
		_, err := a.kube.CoreV1().Pods(a.namespace).Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-", Labels: map[string]string{"version": "primary"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "none"}}},
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil {
			return errors.New("a pod of primary can still be made")
		}
		return nil
	})
	if code, out := a.crossbill("promote", "--timeout", "5s"); code != 6 || !strings.Contains(out, "0 of 2 replicas updated, 2 available") || !strings.Contains(out, "rolled back") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if a.weights() != atRest || a.image("canary") != "" || digest(a.image("primary")) != digest(images["one"]) {
		t.Errorf("weights %+v, canary %q, primary %s", a.weights(), a.image("canary"), a.image("primary"))
	}
	stop()
}

// scale sets primary's replicas, as an HPA does.
func (a *app) scale(replicas int32) error {
	deployments := a.kube.AppsV1().Deployments(a.namespace)
	scale, err := deployments.GetScale(a.Context(), a.name+"-primary", metav1.GetOptions{})
	if err != nil || scale.Spec.Replicas == replicas {
		return err
	}
	scale.Spec.Replicas, scale.ResourceVersion = replicas, "" // whatever the controller wrote meanwhile
	_, err = deployments.UpdateScale(a.Context(), a.name+"-primary", scale, metav1.UpdateOptions{FieldManager: "hpa"})
	return err
}

// testPrimaryShrunkByItsHPA: primary is as large as it was before it gets all of the traffic again; when
// its HPA does not let it grow, the traffic stays where it is.
func testPrimaryShrunkByItsHPA(t *testing.T) {
	t.Parallel()
	a := released(t, "shrunk")
	minimum := int32(1)
	_, err := a.kube.AutoscalingV2().HorizontalPodAutoscalers(a.namespace).Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "shrunk"},
		Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: &minimum, MaxReplicas: 5, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "shrunk-primary"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	shrink := func(to int32) {
		t.Helper()
		if err := a.scale(to); err != nil {
			t.Fatal(err)
		}
	}
	shrink(3)
	a.must("canary", "--image", images["two"])
	a.must("shift", "--steps", "60")
	a.healthy()
	shrink(1) // 40% of the traffic need no more

	// An HPA that insists.
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
				_ = a.scale(1)
			}
		}
	}()
	code, out := a.crossbill("promote", "--timeout", "20s")
	close(done)
	<-ended
	if code == 0 || !strings.Contains(out, "raise minReplicas") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	// The canary, which has grown for it, has all of the traffic until primary has the capacity.
	if want := (manifest.WeightPair{Canary: 100}); a.weights() != want {
		t.Errorf("weights %+v", a.weights())
	}
	a.must("promote")
	if status := a.status(); *status.Weights != atRest || status.Tracks[release.Primary].Ready != 3 {
		t.Errorf("status %+v, %+v", status.Weights, status.Tracks[release.Primary])
	}
	a.must("cleanup")
}

// testWeightsResetInTheMiddle: an apply of the VirtualService as git has it, which no server-side apply
// refuses, takes the canary's traffic away. Nothing is promoted on that, and nobody fights over it.
func testWeightsResetInTheMiddle(t *testing.T) {
	t.Parallel()
	a := released(t, "reset")
	a.must("canary", "--image", images["two"])
	if _, err := a.mesh.NetworkingV1().VirtualServices(a.namespace).Patch(t.Context(), "reset-vs", types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/http/0/route/0/weight","value":100},{"op":"replace","path":"/spec/http/0/route/1/weight","value":0}]`), metav1.PatchOptions{FieldManager: "kubectl-client-side-apply"}); err != nil {
		t.Fatal(err)
	}
	if drift := strings.Join(a.status().Drift, "\n"); !strings.Contains(drift, "the canary has weight 0, the release gave it 10") {
		t.Errorf("drift %q", drift)
	}
	if code, out := a.crossbill("verify", "--prometheus", running.PrometheusURL, "--max-duration", "4s", "--interval", "1s"); code != 4 {
		t.Errorf("exit code %d\n%s", code, out)
	}
	a.healthy() // it was, before
	if code, out := a.crossbill("promote"); code != 2 || !strings.Contains(out, "somebody else has changed release") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	a.must("rollback")
}

func testANewReleaseSupersedes(t *testing.T) {
	t.Parallel()
	a := released(t, "supersede")
	a.must("canary", "--image", images["two"])
	before := a.state()
	if code, out := a.crossbill("canary", "--image", images["three"]); code != 5 || !strings.Contains(out, "in flight") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if after := a.state(); !maps.Equal(before, after) {
		t.Errorf("it changed something: %v, then %v", before, after)
	}
	a.must("rollback")
	a.must("canary", "--image", images["three"])
}

func (a *app) start(args ...string) *process {
	a.Helper()
	p := program(a.arguments(args)...)
	if err := p.Start(); err != nil {
		a.Fatal(err)
	}
	return p
}

// canaryIsThere waits until a canary's Deployment is.
func (a *app) canaryIsThere() {
	a.Helper()
	a.eventually(func() error {
		if a.image("canary") == "" {
			return errors.New("there is no canary yet")
		}
		return nil
	})
}

// testALockThatWedges: a job is killed with the lock in its hand. The next one goes on by itself when the
// lock has expired, without anybody's help.
func testALockThatWedges(t *testing.T) {
	t.Parallel()
	a := released(t, "wedge")
	stop := a.observe()
	dead := a.start("canary", "--image", images["two"])
	a.canaryIsThere()
	if err := dead.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = dead.Wait()
	begin := time.Now()
	a.must("canary", "--image", images["two"])
	if waited := time.Since(begin); waited > 40*time.Second {
		t.Errorf("the next job waited %s", waited)
	}
	if a.weights() != split {
		t.Errorf("weights %+v", a.weights())
	}
	a.must("rollback")
	stop()
}

// testTwoLeaders: a job is stopped in its middle, another takes its lock and ends the release, and the
// first wakes up. It can change nothing more.
func testTwoLeaders(t *testing.T) {
	t.Parallel()
	a := released(t, "leaders")
	stop := a.observe()
	asleep := a.start("canary", "--image", images["unready"]) // it never ends before it is stopped
	a.canaryIsThere()
	if err := asleep.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	a.must("rollback")
	before := a.state()
	if err := asleep.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	_ = asleep.Wait()
	if code := asleep.ProcessState.ExitCode(); code != 5 || !strings.Contains(asleep.out.String(), "another job has taken the lock") {
		t.Errorf("exit code %d\n%s", code, asleep.out.String())
	}
	after := a.state()
	delete(before, "Lease crossbill-leaders") // it may take an empty lock, and gives it back
	delete(after, "Lease crossbill-leaders")
	if !maps.Equal(before, after) {
		t.Errorf("it changed something: %v, then %v", before, after)
	}
	stop()
}

// testOneHPAOverBothTracks: what an HPA averages is what the scale subresource selects, which here is one
// track.
func testOneHPAOverBothTracks(t *testing.T) {
	t.Parallel()
	a := released(t, "average")
	a.must("canary", "--image", images["two"])
	for _, track := range []string{"primary", "canary"} {
		scale, err := a.kube.AppsV1().Deployments(a.namespace).GetScale(t.Context(), "average-"+track, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pods, err := a.kube.CoreV1().Pods(a.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: scale.Status.Selector})
		if err != nil {
			t.Fatal(err)
		}
		for _, pod := range pods.Items {
			if pod.Labels["version"] != track {
				t.Errorf("the scale of %s selects %s (%s)", track, pod.Name, scale.Status.Selector)
			}
		}
		if len(pods.Items) == 0 {
			t.Errorf("the scale of %s selects no pod: %s", track, scale.Status.Selector)
		}
	}
}

func testNobodyKnowsWhoPromoted(t *testing.T) {
	t.Parallel()
	a := released(t, "audit")
	a.must("canary", "--image", images["two"])
	a.healthy()
	if _, err := a.cluster("jane@gitlab-job-17", nil).Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.must("cleanup")
	who := ""
	for _, step := range a.status().History[0].Steps {
		who += fmt.Sprintf("%s by %s\n", step.Stage, step.By)
	}
	if !strings.Contains(who, "promoting by jane@gitlab-job-17") {
		t.Errorf("the ledger says:\n%s", who)
	}
}
