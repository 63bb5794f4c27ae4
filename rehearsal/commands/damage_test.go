package commands_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/release"
)

// testWhatSomebodyDeletes: a rollback leads to rest whatever object of the release is gone, the ledger
// included.
func testWhatSomebodyDeletes(t *testing.T) {
	t.Parallel()
	routes := func(a *app) error {
		return a.mesh.NetworkingV1().VirtualServices(a.namespace).Delete(a.Context(), a.name+"-vs", metav1.DeleteOptions{})
	}
	rules := func(a *app) error {
		return a.mesh.NetworkingV1().DestinationRules(a.namespace).Delete(a.Context(), a.name+"-dr", metav1.DeleteOptions{})
	}
	deployment := func(track string) func(*app) error {
		return func(a *app) error {
			return a.kube.AppsV1().Deployments(a.namespace).Delete(a.Context(), a.name+"-"+track, metav1.DeleteOptions{})
		}
	}
	ledger := func(a *app) error {
		return a.kube.CoreV1().ConfigMaps(a.namespace).Delete(a.Context(), "crossbill-"+a.name, metav1.DeleteOptions{})
	}
	for name, test := range map[string]struct {
		remove   func(*app) error
		promoted bool
		routed   bool // the VirtualService is there in the end
		long     bool // left out of a short run
	}{
		"route":          {remove: routes, long: true},
		"route-promoted": {remove: routes, promoted: true},
		"subsets":        {remove: rules, routed: true, long: true},
		"primary":        {remove: deployment("primary"), routed: true},
		"canary":         {remove: deployment("canary"), routed: true},
		"ledger":         {remove: ledger, routed: true},
	} {
		t.Run(name, func(t *testing.T) {
			if test.long {
				onlyLong(t)
			}
			t.Parallel()
			a := released(t, "gone-"+name)
			a.must("canary", "--image", images["two"])
			if test.promoted {
				a.healthy()
				a.must("promote")
			}
			if err := test.remove(a); err != nil {
				t.Fatal(err)
			}
			a.must("rollback")
			status := a.status()
			primary := status.Tracks[release.Primary]
			if status.Release != nil || status.Tracks[release.Canary] != nil || primary == nil || primary.Replicas != 2 || primary.Ready != 2 || digest(primary.Image) != digest(images["one"]) {
				t.Errorf("status %+v, primary %+v", status, primary)
			}
			if test.routed && a.weights() != atRest {
				t.Errorf("weights %+v", a.weights())
			}
			if _, err := a.mesh.NetworkingV1().DestinationRules(a.namespace).Get(t.Context(), a.name+"-dr", metav1.GetOptions{}); err != nil {
				t.Error(err)
			}
			a.must("canary", "--again", "--image", images["two"]) // and the app can be released again
		})
	}
}

// testPromotionOfWhatWasNotJudged: a canary whose image somebody has changed is not promoted, and a
// verdict on it is none.
func testPromotionOfWhatWasNotJudged(t *testing.T) {
	t.Parallel()
	a := released(t, "swapped")
	a.must("canary", "--image", images["two"])
	a.healthy()
	if _, err := a.kube.AppsV1().Deployments(a.namespace).Patch(t.Context(), "swapped-canary", types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"`+images["three"]+`"}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if code, out := a.crossbill("promote"); code != 2 || !strings.Contains(out, "somebody else has changed") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if got := a.image("primary"); digest(got) != digest(images["one"]) {
		t.Errorf("primary runs %s", got)
	}
}

// testPodsThatHaveEnded: an evicted pod that lingers is no pod to wait for.
func testPodsThatHaveEnded(t *testing.T) {
	t.Parallel()
	a := released(t, "evicted")
	pod, err := a.kube.CoreV1().Pods(a.namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "evicted", Labels: map[string]string{"app": "evicted", "version": "primary"}},
		Spec:       corev1.PodSpec{NodeName: "a-node-that-is-gone", Containers: []corev1.Container{{Name: "app", Image: images["one"]}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status.Phase, pod.Status.Reason = corev1.PodFailed, "Evicted"
	if _, err := a.kube.CoreV1().Pods(a.namespace).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	a.must("canary", "--image", images["two"])
	a.healthy()
	a.must("promote", "--timeout", "20s")
	a.must("cleanup")
}

// testAFirstReleaseThatWasNotNoted: its last write was lost. It is live, so it is not rolled back.
func testAFirstReleaseThatWasNotNoted(t *testing.T) {
	t.Parallel()
	a := released(t, "unnoted")
	maps := a.kube.CoreV1().ConfigMaps(a.namespace)
	state, err := maps.Get(t.Context(), "crossbill-unnoted", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var l release.Ledger
	if err := json.Unmarshal([]byte(state.Data["ledger.json"]), &l); err != nil {
		t.Fatal(err)
	}
	l.Release, l.History = &l.History[0].Release, nil
	state.Data["ledger.json"] = l.String()
	if _, err := maps.Update(t.Context(), state, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if out := a.must("rollback"); !strings.Contains(out, "nothing to go back to") {
		t.Error(out)
	}
	if status := a.status(); status.Release != nil || status.History[0].Outcome != release.OutcomeFirst || status.Tracks[release.Primary].Ready != 2 {
		t.Errorf("status %+v", status)
	}
}

// testALedgerThatOthersLabel: what a policy engine writes beside the ledger is not a lock.
func testALedgerThatOthersLabel(t *testing.T) {
	t.Parallel()
	a := released(t, "labels")
	done := make(chan struct{})
	labeled := make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				labeled <- nil
				return
			case <-time.After(100 * time.Millisecond):
			}
			patch := `{"metadata":{"labels":{"policy/seen":"` + time.Now().Format("150405.000000") + `"}}}`
			if _, err := a.kube.CoreV1().ConfigMaps(a.namespace).Patch(a.Context(), "crossbill-labels", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				labeled <- errors.Join(errors.New("labeling"), err)
				return
			}
		}
	}()
	a.must("canary", "--image", images["two"])
	a.healthy()
	a.must("promote")
	a.must("cleanup")
	close(done)
	if err := <-labeled; err != nil {
		t.Error(err)
	}
}
