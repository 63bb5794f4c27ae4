package rollout

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// shown is what the cluster shows of a track at a time.
type shown struct {
	after      time.Duration
	deployment *appsv1.Deployment
	pod        corev1.PodStatus
}

func waitingFor(reason, message string, restarts int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "app", RestartCount: restarts, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}
}

func endedWith(code int32, restarts int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "app", RestartCount: restarts, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error"}}}
}

func backingOff(code, restarts int32) corev1.ContainerStatus {
	s := waitingFor("CrashLoopBackOff", "back-off", restarts)
	s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: code}
	return s
}

func ofApp(s corev1.ContainerStatus) corev1.PodStatus {
	return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{s}}
}

func ofInit(s corev1.ContainerStatus) corev1.PodStatus {
	s.Name = "migrate"
	return corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{s}, ContainerStatuses: []corev1.ContainerStatus{waitingFor("PodInitializing", "", 0)}}
}

func refusing(reason, message string) *appsv1.Deployment {
	return &appsv1.Deployment{Status: appsv1.DeploymentStatus{Conditions: []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: reason, Message: message}}}}
}

// TestHopeless: when it is clear that a track cannot come up, and when it is not yet.
func TestHopeless(t *testing.T) {
	unschedulable := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes"}}}
	notYet := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}
	pulled := ofApp(waitingFor("ContainerCreating", "", 0))
	second, long := time.Second, time.Hour
	quota := `pods "x" is forbidden: exceeded quota: compute`
	for name, c := range map[string]struct {
		looks []shown
		want  string // "" while there is hope
		at    int    // the look that says so
	}{
		"two ends, as of an app whose proxy is not up yet": {[]shown{{0, nil, ofApp(endedWith(1, 0))}, {second, nil, ofApp(endedWith(1, 1))}, {2 * second, nil, ofApp(backingOff(1, 1))}, {long, nil, ofApp(backingOff(1, 1))}}, "", 0},
		"three ends":                      {[]shown{{0, nil, ofApp(backingOff(1, 1))}, {11 * second, nil, ofApp(endedWith(1, 2))}}, "container app of pod p does not stay up; terminated with exit code 1, 2 restarts", 1},
		"three ends, seen later":          {[]shown{{0, nil, ofApp(backingOff(137, 2))}}, "exit code 137", 0},
		"three ends, and it runs again":   {[]shown{{0, nil, corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "app", RestartCount: 5, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}}, {long, nil, notYet}}, "", 0},
		"a server that ends well":         {[]shown{{0, nil, ofApp(endedWith(0, 2))}}, "exit code 0", 0},
		"an init container that fails":    {[]shown{{0, nil, ofInit(endedWith(1, 0))}, {12 * second, nil, ofInit(endedWith(1, 2))}}, "container migrate of pod p does not stay up", 1},
		"an init container that is done":  {[]shown{{0, nil, ofInit(endedWith(0, 2))}, {long, nil, ofInit(endedWith(0, 2))}}, "", 0},
		"no image":                        {[]shown{{0, nil, ofApp(waitingFor("ErrImagePull", "not found", 0))}, {9 * second, nil, ofApp(waitingFor("ImagePullBackOff", "not found", 0))}, {10 * second, nil, ofApp(waitingFor("ImagePullBackOff", "not found", 0))}}, "cannot get its image: ImagePullBackOff not found", 2},
		"a registry that was away":        {[]shown{{0, nil, ofApp(waitingFor("ErrImagePull", "timeout", 0))}, {9 * second, nil, pulled}, {11 * second, nil, ofApp(waitingFor("ErrImagePull", "timeout", 0))}}, "", 0},
		"no image name":                   {[]shown{{0, nil, ofApp(waitingFor("InvalidImageName", "", 0))}}, "cannot get its image: InvalidImageName", 0},
		"an image that is never pulled":   {[]shown{{0, nil, ofApp(waitingFor("ErrImageNeverPull", "", 0))}}, "ErrImageNeverPull", 0},
		"a missing Secret":                {[]shown{{0, nil, ofApp(waitingFor("CreateContainerConfigError", `secret "s" not found`, 0))}, {12 * second, nil, ofApp(waitingFor("CreateContainerConfigError", `secret "s" not found`, 0))}}, `cannot be created: CreateContainerConfigError secret "s" not found`, 1},
		"a Secret that comes later":       {[]shown{{0, nil, ofApp(waitingFor("CreateContainerConfigError", `secret "s" not found`, 0))}, {5 * second, nil, notYet}, {long, nil, notYet}}, "", 0},
		"a quota":                         {[]shown{{0, refusing("FailedCreate", quota), corev1.PodStatus{}}, {10 * second, refusing("FailedCreate", quota), corev1.PodStatus{}}}, "its pods are refused: " + quota, 1},
		"a quota that gets free":          {[]shown{{0, refusing("FailedCreate", quota), corev1.PodStatus{}}, {4 * second, sized(1), corev1.PodStatus{}}, {11 * second, refusing("FailedCreate", quota), corev1.PodStatus{}}}, "", 0},
		"a webhook that does not answer":  {[]shown{{0, refusing("FailedCreate", "failed calling webhook"), corev1.PodStatus{}}, {long, refusing("FailedCreate", "failed calling webhook"), corev1.PodStatus{}}}, "", 0},
		"pods that cannot be deleted":     {[]shown{{0, refusing("FailedDelete", "x"), corev1.PodStatus{}}, {long, refusing("FailedDelete", "x"), corev1.PodStatus{}}}, "", 0},
		"no room on any node":             {[]shown{{0, nil, unschedulable}, {long, nil, unschedulable}}, "", 0},
		"it runs, and is not ready":       {[]shown{{0, nil, notYet}, {long, nil, notYet}}, "", 0},
		"the image is being pulled":       {[]shown{{0, nil, pulled}, {long, nil, pulled}}, "", 0},
		"the init containers are at work": {[]shown{{0, nil, ofApp(waitingFor("PodInitializing", "", 0))}, {long, nil, ofApp(waitingFor("PodInitializing", "", 0))}}, "", 0},
	} {
		o, start, got, at := outlook{}, time.Now(), "", 0
		for i, l := range c.looks {
			pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "migrate"}}}, Status: l.pod}
			if got, at = o.hopeless(l.deployment, []corev1.Pod{pod}, start.Add(l.after)), i; got != "" {
				break
			}
		}
		if got == "" {
			at = 0
		}
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) || at != c.at {
			t.Errorf("%s: look %d says %q, want look %d to say %q", name, at, got, c.at, c.want)
		}
	}
	leaving := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", DeletionTimestamp: &metav1.Time{}}, Status: ofApp(endedWith(1, 9))}
	if got := (outlook{}).hopeless(nil, []corev1.Pod{leaving}, time.Now()); got != "" {
		t.Errorf("a pod that ends is no sign: %q", got)
	}
}

// TestDetails: what a Deployment and its pods say of themselves in an error.
func TestDetails(t *testing.T) {
	d := refusing("FailedCreate", "exceeded quota")
	d.Name, d.Spec.Paused = "shop-canary", true
	d.Status.Conditions = append(d.Status.Conditions,
		appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded", Message: "timed out"},
		appsv1.DeploymentCondition{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionFalse, Reason: "MinimumReplicasUnavailable", Message: "no minimum"})
	got := deploymentDetails(d)
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "migrate"}}}}
	for _, status := range []corev1.PodStatus{ofInit(backingOff(3, 1)), ofInit(endedWith(0, 0)), ofApp(endedWith(137, 1)), ofApp(corev1.ContainerStatus{Name: "app", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}), {Reason: "Evicted", Message: "low on memory"}} {
		pod.Status = status
		got = append(got, podDetails(pod)...)
	}
	want := []string{
		"it is paused: `kubectl rollout resume deployment/shop-canary` lets it go on", "FailedCreate: exceeded quota", "ProgressDeadlineExceeded: timed out",
		"pod p, container migrate: CrashLoopBackOff back-off; terminated with exit code 3, 1 restart",
		"pod p, container app: terminated with exit code 137, 1 restart",
		"pod p: Evicted low on memory",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestForeignText: what a container, an event or a condition says stays a part of one line, for a terminal and for the log of a
// job too.
func TestForeignText(t *testing.T) {
	const foreign = "boom\n\x1b[0Ksection_end:1:x\r\x1b[0K\tdone\n"
	ended := endedWith(1, 2)
	ended.State.Terminated.Message = foreign
	waits := waitingFor("ErrImagePull", foreign, 0)
	unscheduled := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: foreign}}}
	texts := deploymentDetails(refusing("FailedCreate", foreign))
	for _, status := range []corev1.PodStatus{ofApp(ended), ofApp(waits), unscheduled, {Reason: "Evicted", Message: foreign}} {
		texts = append(texts, podDetails(corev1.Pod{Status: status})...)
	}
	texts = append(texts, lastEvents([]corev1.Event{{Reason: "Failed", Message: foreign}}, func(corev1.ObjectReference) bool { return true })...)
	texts = append(texts, refusedPods(refusing("FailedCreate", foreign)), signOf(corev1.Pod{}, ended).reason, signOf(corev1.Pod{}, waits).reason)
	for _, text := range texts {
		if want := "boom \uFFFD[0Ksection_end:1:x\uFFFD\uFFFD[0K done"; !strings.HasSuffix(text, want) {
			t.Errorf("%q does not end in %q", text, want)
		}
	}
	if len(texts) != 9 {
		t.Errorf("%d texts: %q", len(texts), texts)
	}
}
