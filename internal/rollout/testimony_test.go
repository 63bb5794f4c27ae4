package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/release"
)

// story is what happens to both tracks' pods, by a clock of its own. It gives what Kubernetes gives: statuses as kubelets
// and the node controller write them, by the second (checked against Kubernetes 1.37: pkg/kubelet/status,
// prober, pkg/controller/nodelifecycle, tainteviction), and EndpointSlices.
type story struct {
	*testing.T
	t    *testimony
	now  time.Time
	pods map[string]*corev1.Pod
	took time.Duration // that a pod takes to get ready
}

// begin is the time at which the canary gets its traffic; the witness looks from a second later on.
var begin = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// newStory has some pods of primary and of the canary, all of them ready before the traffic came.
func newStory(t *testing.T, primary, canary int) *story {
	s := &story{T: t, t: newTestimony(begin, tracks...), now: begin.Add(-time.Minute), pods: map[string]*corev1.Pod{}, took: 2 * time.Second}
	s.want(release.Primary, primary)
	s.want(release.Canary, canary)
	for i := range primary {
		s.comes(release.Primary, fmt.Sprintf("p%d", i+1))
	}
	for i := range canary {
		s.comes(release.Canary, fmt.Sprintf("c%d", i+1))
	}
	return s
}

// opens lets the witness see what there is.
func (s *story) opens() {
	s.now = begin.Add(time.Second)
	s.t.opened(s.now)
}

func (s *story) want(track release.Track, n int) {
	d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: new(int32(n)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"version": string(track)}}}}
	s.t.deployment(track, d, false)
}

func trackOf(name string) release.Track {
	if name[0] == 'p' {
		return release.Primary
	}
	return release.Canary
}

// see lets the witness see a pod as it is, and who is a ready endpoint.
func (s *story) see(name string) {
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "slice"}}
	for _, pod := range s.pods {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Name: pod.Name}, Conditions: discoveryv1.EndpointConditions{Ready: new(isReadyPod(pod) && pod.DeletionTimestamp == nil)}})
	}
	s.t.endpoints(slice, false)
	if pod := s.pods[name]; pod != nil {
		s.t.pod(trackOf(name), pod.DeepCopy(), false, s.now)
	}
}

// starts makes a pod that is not ready yet.
func (s *story) starts(track release.Track, name string) {
	at := metav1.NewTime(s.now)
	s.pods[name] = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: at},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "migrate"}, {Name: "istio-proxy", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}},
			Containers:     []corev1.Container{{Name: "app"}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, StartTime: &at, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: at}},
			InitContainerStatuses: []corev1.ContainerStatus{
				{Name: "migrate", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: at, Reason: "Completed"}}},
				{Name: "istio-proxy", State: running(at)},
			},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: running(at)}},
		},
	}
	s.see(name)
}

func running(at metav1.Time) corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}}
}

// comes makes a pod that gets ready.
func (s *story) comes(track release.Track, name string) {
	s.starts(track, name)
	s.pods[name].Status.Conditions[0].LastTransitionTime = metav1.NewTime(s.now.Add(s.took))
	s.pods[name].Status.Conditions[0].Status = corev1.ConditionTrue
	s.see(name)
}

// ready sets the readiness of pods.
func (s *story) ready(is bool, names ...string) {
	for _, name := range names {
		c := &s.pods[name].Status.Conditions[0]
		c.Status, c.LastTransitionTime = map[bool]corev1.ConditionStatus{true: corev1.ConditionTrue, false: corev1.ConditionFalse}[is], metav1.NewTime(s.now)
		s.see(name)
	}
}

// dies lets a container of a pod end, and start again.
func (s *story) dies(name, container, reason string, code int32) {
	status := &s.pods[name].Status
	for _, list := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses} {
		for i := range list {
			if list[i].Name == container {
				end := &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(s.now), Reason: reason, ExitCode: code}
				list[i].State = corev1.ContainerState{Terminated: end}
				s.see(name)
				list[i].LastTerminationState, list[i].State = corev1.ContainerState{Terminated: end}, running(metav1.NewTime(s.now))
				list[i].RestartCount++
				s.see(name)
			}
		}
	}
}

// deleted lets pods be deleted: each ends with its containers killed, and is gone.
func (s *story) deleted(names ...string) {
	for _, name := range names {
		s.pods[name].DeletionTimestamp = new(metav1.NewTime(s.now))
		s.see(name)
		s.ready(false, name)
		s.dies(name, "app", "Error", 143)
		pod := s.pods[name]
		delete(s.pods, name)
		s.see(name)
		s.t.pod(trackOf(name), pod, true, s.now)
	}
}

func (s *story) evicted(name string) {
	s.pods[name].Status.Phase, s.pods[name].Status.Reason, s.pods[name].Status.Message = corev1.PodFailed, "Evicted", "The node was low on resource: memory."
	s.ready(false, name)
	s.dies(name, "app", "Error", 137)
}

// pass lets time go by, with a look each second, and gives the first that says unhealthy, or else the last.
func (s *story) pass(d time.Duration) (w Witnessed) {
	for end := s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(time.Second)
		if w = s.t.look(s.now); w.Unhealthy != "" {
			return w
		}
	}
	return w
}

// TestTestimony holds the rules: what is a canary's own harm, how soon it shows, and what is not. A case ends
// in what is seen within 15 seconds of its end.
func TestTestimony(t *testing.T) {
	for name, c := range map[string]struct {
		primary, canary int
		before          func(s *story) // the witness looks
		then            func(s *story)
		within          time.Duration // default 15 seconds
		cause, says     string        // "" is not unhealthy
		hold            bool
	}{
		"nothing": {within: time.Hour},

		"a crash":                                {then: func(s *story) { s.dies("c1", "app", "Error", 1) }, cause: CauseRestarts, says: "container app of pod c1 ended with exit code 1 (Error)"},
		"it ends of its own accord":              {then: func(s *story) { s.dies("c1", "app", "Completed", 0) }, cause: CauseRestarts},
		"out of memory":                          {then: func(s *story) { s.dies("c1", "app", "OOMKilled", 137) }, cause: CauseOOMKilled, says: "container app of pod c1 was killed: out of memory, "},
		"killed":                                 {then: func(s *story) { s.dies("c1", "app", "Error", 137) }, cause: CauseRestarts, says: "by a liveness probe, or out of memory"},
		"a sidecar crashes":                      {then: func(s *story) { s.dies("c1", "istio-proxy", "Error", 1) }, cause: CauseRestarts, says: "sidecar istio-proxy of pod c1"},
		"an init container runs again and fails": {then: func(s *story) { s.dies("c1", "migrate", "Error", 3) }, cause: CauseRestarts, says: "init container migrate of pod c1"},
		"one of three crashes":                   {canary: 3, then: func(s *story) { s.dies("c3", "app", "Error", 1) }, cause: CauseRestarts},
		"it crashed before its traffic":          {before: func(s *story) { s.dies("c1", "app", "Error", 1) }},
		"it crashed before anybody looked": {before: func(s *story) {
			s.now = begin.Add(20 * time.Second)
			s.dies("c1", "app", "Error", 1)
			s.forget()
		}, cause: CauseRestarts},
		"one that was added crashed while it started, before anybody looked": {before: func(s *story) {
			s.now = begin.Add(time.Minute)
			s.starts(release.Canary, "c1")
			s.now = s.now.Add(5 * time.Second)
			s.dies("c1", "app", "Error", 1)
			s.ready(true, "c1")
			s.forget()
		}},
		"primary's crash": {then: func(s *story) { s.dies("p1", "app", "Error", 1) }},
		"both crash, the canary first": {then: func(s *story) {
			s.dies("c1", "app", "Error", 1)
			s.now = s.now.Add(time.Second)
			s.dies("p1", "app", "Error", 1)
		}},
		"the sidecars of both, primary first": {then: func(s *story) {
			s.dies("p1", "istio-proxy", "Error", 1)
			s.pass(30 * time.Second)
			s.dies("c1", "istio-proxy", "Error", 1)
		}},
		"primary's sidecar, the canary's app": {then: func(s *story) { s.dies("p1", "istio-proxy", "Error", 1); s.dies("c1", "app", "Error", 1) }, cause: CauseRestarts},
		"both crashed before anybody looked, half an hour apart": {before: func(s *story) {
			s.now = begin.Add(20 * time.Second)
			s.dies("p1", "app", "Error", 1)
			s.now = begin.Add(30 * time.Minute)
			s.dies("c1", "app", "Error", 1)
			s.forget()
		}, cause: CauseRestarts},
		"primary crashed long before anybody looked": {before: func(s *story) {
			s.now = begin.Add(20 * time.Second)
			s.dies("p1", "app", "Error", 1)
			s.now = begin.Add(30 * time.Minute)
			s.forget()
		}, then: func(s *story) { s.dies("c1", "app", "Error", 1) }, cause: CauseRestarts},
		"primary crashed long ago": {then: func(s *story) {
			s.dies("p1", "app", "Error", 1)
			s.pass(2 * time.Minute)
			s.dies("c1", "app", "Error", 1)
		}, cause: CauseRestarts},
		"not ready":                            {then: func(s *story) { s.ready(false, "c1") }, cause: CauseNotReady, says: "pod c1 was ready and is not", hold: true},
		"one of three is not ready":            {canary: 3, then: func(s *story) { s.ready(false, "c2") }, cause: CauseNotReady},
		"it flaps between two looks":           {then: func(s *story) { s.ready(false, "c1"); s.ready(true, "c1") }, cause: CauseNotReady},
		"it flaps within one event":            {then: func(s *story) { s.now = s.now.Add(4 * time.Second); s.ready(true, "c1") }, cause: CauseNotReady, says: "was not ready meanwhile"},
		"it flapped before anybody looked":     {before: func(s *story) { s.now = begin.Add(3 * time.Minute); s.ready(true, "c1"); s.forget() }, cause: CauseNotReady},
		"it got ready just before its traffic": {before: func(s *story) { s.now = begin.Add(3 * time.Second); s.ready(true, "c1"); s.forget() }},
		"primary flaps":                        {then: func(s *story) { s.ready(false, "p1"); s.ready(true, "p1") }},
		"both flap":                            {then: func(s *story) { s.ready(false, "c1", "p1"); s.ready(true, "c1", "p1") }},
		"primary flaps, the canary thrice":     {then: func(s *story) { s.ready(false, "p1"); s.ready(true, "p1"); s.flaps("c1", 3) }, cause: CauseNotReady},
		"primary flaps, the canary twice":      {then: func(s *story) { s.ready(false, "p1"); s.ready(true, "p1"); s.flaps("c1", 2) }},
		"the canary's node is gone":            {then: func(s *story) { s.ready(false, "c1") }, cause: CauseNotReady},
		"a node of both is gone":               {canary: 2, then: func(s *story) { s.ready(false, "c1", "p1") }, within: 5 * time.Minute, hold: true},
		"a node of both is gone, primary's back": {canary: 2, then: func(s *story) {
			s.ready(false, "c1", "p1")
			s.pass(20 * time.Second)
			s.deleted("c1", "p1")
			s.comes(release.Primary, "p9")
		}, cause: CauseNotReady, says: "the canary has 1 ready endpoint for 10s and had 2, while primary has all of its own"},

		"deleted and not replaced": {canary: 3, then: func(s *story) { s.deleted("c1") }, cause: CauseNotReady, says: "2 ready endpoints for 10s and had 3", hold: true},
		"deleted, replaced soon":   {then: func(s *story) { s.deleted("c1"); s.pass(8 * time.Second); s.comes(release.Canary, "c2") }, within: time.Minute},
		"replaced as slowly as it starts": {before: func(s *story) { s.took = 25 * time.Second; s.comes(release.Canary, "c1"); s.forget() }, then: func(s *story) {
			s.deleted("c1")
			s.starts(release.Canary, "c2")
			s.pass(25 * time.Second)
			s.ready(true, "c2")
		}, within: time.Minute},
		"a drain of a node of both": {canary: 2, then: func(s *story) {
			s.deleted("c1", "p1")
			s.starts(release.Canary, "c8")
			s.starts(release.Primary, "p8")
			s.pass(50 * time.Second)
			s.ready(true, "p8")
			s.pass(5 * time.Second)
			s.ready(true, "c8")
		}, within: time.Minute},
		"rolling of all nodes": {canary: 2, then: func(s *story) {
			for i, n := range []string{"p1", "c1", "p2", "c2"} {
				s.deleted(n)
				s.starts(trackOf(n), fmt.Sprintf("%c%d", n[0], 7+i))
				s.pass(6 * time.Second)
				s.ready(true, fmt.Sprintf("%c%d", n[0], 7+i))
			}
		}, within: time.Minute},
		"an autoscaler adds pods": {then: func(s *story) {
			s.want(release.Canary, 4)
			s.starts(release.Canary, "c2")
			s.starts(release.Canary, "c3")
		}, within: 5 * time.Minute, hold: true},
		"an autoscaler takes pods away": {canary: 4, then: func(s *story) { s.want(release.Canary, 2); s.deleted("c3", "c4") }, within: time.Minute},
		"a pod that is added is slow": {then: func(s *story) {
			s.want(release.Canary, 2)
			s.starts(release.Canary, "c2")
			s.dies("c2", "app", "Error", 1)
			s.pass(time.Minute)
			s.ready(true, "c2")
		}, within: time.Minute},
		"a pod that is added crashes": {then: func(s *story) {
			s.want(release.Canary, 2)
			s.starts(release.Canary, "c2")
			for range 3 {
				s.now = s.now.Add(10 * time.Second)
				s.dies("c2", "app", "Error", 1)
			}
		}, cause: CauseRestarts, says: "pod c2 crashed 3 times before it was ready"},
		"evicted by its node, replaced": {then: func(s *story) { s.evicted("c1"); s.comes(release.Canary, "c2") }, within: time.Minute},
		"evicted again and again": {then: func(s *story) {
			s.evicted("c1")
			s.comes(release.Canary, "c2")
			s.pass(30 * time.Second)
			s.evicted("c2")
			s.comes(release.Canary, "c3")
		}, cause: CauseNotReady, says: "low on resource: memory"},
		"evicted, primary's pods too": {then: func(s *story) {
			s.evicted("c1")
			s.comes(release.Canary, "c2")
			s.pass(30 * time.Second)
			s.evicted("p1")
			s.comes(release.Primary, "p8")
			s.evicted("c2")
			s.comes(release.Canary, "c3")
		}, within: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			if c.primary == 0 {
				c.primary = 2
			}
			if c.canary == 0 {
				c.canary = 1
			}
			if c.within == 0 {
				c.within = 15 * time.Second
			}
			s := newStory(t, c.primary, c.canary)
			if c.before != nil {
				c.before(s)
			}
			if late := s.now; late.After(begin) {
				s.opens()
				s.now = late.Add(time.Second)
			} else {
				s.opens()
			}
			if w := s.pass(5 * time.Second); c.then != nil && w.Unhealthy != "" {
				t.Fatalf("before anything happened: %+v", w)
			}
			if c.then != nil {
				c.then(s)
			}
			held := s.t.look(s.now).Hold != ""
			w := s.pass(c.within)
			if (w.Unhealthy != "") != (c.cause != "") || w.Cause != c.cause || !strings.Contains(w.Unhealthy, c.says) {
				t.Errorf("%+v, want cause %q: %q", w, c.cause, c.says)
			}
			if c.hold && !held {
				t.Errorf("a healthy verdict was not held")
			}
			if c.cause == "" && !c.hold && w.Hold != "" {
				t.Errorf("in the end: %q", w.Hold)
			}
		})
	}
}

// forget lets the witness begin anew with what there is now, as that of another job does.
func (s *story) forget() {
	now := s.now
	s.t = newTestimony(begin, tracks...)
	s.now = now.Add(time.Second)
	s.want(release.Primary, 2)
	s.want(release.Canary, 1)
	for name := range s.pods {
		s.see(name)
	}
}

func (s *story) flaps(name string, times int) {
	for range times {
		s.ready(false, name)
		s.now = s.now.Add(4 * time.Second)
		s.ready(true, name)
		s.now = s.now.Add(4 * time.Second)
	}
}

// TestPrimaryWhole: primary is whole when each pod that it is to have is a ready endpoint.
func TestPrimaryWhole(t *testing.T) {
	s := newStory(t, 2, 1)
	s.opens()
	if !s.t.look(s.now).PrimaryWhole {
		t.Error("not whole with all of its pods")
	}
	s.want(release.Primary, 3)
	if s.t.look(s.now).PrimaryWhole {
		t.Error("whole with two of three")
	}
	s.comes(release.Primary, "p3")
	s.ready(false, "p1")
	if s.t.look(s.now).PrimaryWhole {
		t.Error("whole with one that is not ready")
	}
}
