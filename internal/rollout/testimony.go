package rollout

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// testimony is what both tracks' pods went through. It is pure: times are given to it. These are its rules. Whatever
// happens to a pod that is deleted, or that its node has evicted, is not held against it: so a drain of nodes, a pod that
// is evicted and replaced, and a canary that is made smaller are no harm. The canary is unhealthy when
//
//   - a container of one of its pods ended since the canary got its traffic, sidecars included: out of memory, or for
//     whatever reason. Not if the same container of primary did so in the minute before, or as the canary's did;
//   - one of its pods that was ready is not ready any more. While primary's pods lose their readiness as well, the
//     canary's must do so three times more often;
//   - it has fewer ready endpoints than it had, for longer than its pods take to start (10 s to 60 s) while primary is
//     whole. Pods that it is to have in addition, by a shift or an autoscaler, are not missing: it never had them;
//   - a pod that is new crashes three times before it is ready;
//   - its nodes have evicted two of its pods, and none of primary's.
//
// And it is not healthy as long as it has fewer ready endpoints than it is to have, nor while its baseline has.
//
// What happened before the first look shows in the times that kubelets wrote: those of restarts since the canary got
// its traffic, and a readiness that is much younger than its containers. Clocks may differ by clockTolerance.
type testimony struct {
	since   time.Time
	looking time.Time // since when; zero while what there is is being read
	slices  map[string]sets.Set[string]
	tracks  map[release.Track]*trackSeen
}

// The times of the rules.
const (
	clockTolerance = 5 * time.Second
	settling       = 2 * time.Second  // until it is known whether primary's pods suffer as well
	together       = time.Minute      // within which what happens to both tracks has one cause
	leastStart     = 10 * time.Second // that a pod has to come back, and mostStart
	mostStart      = time.Minute
	crashesOfNew   = 3
	flapsBeyond    = 3
)

// trackSeen is what is known of a track.
type trackSeen struct {
	live     *appsv1.Deployment // nil when it is gone
	selector string
	wanted   int
	pods     map[types.UID]*podSeen
	troubles []trouble
	reached  int       // ready endpoints that it had at once, and is still to have
	missing  time.Time // since when it has fewer, while primary is whole; zero if it has not
}

// podSeen is what was last seen of a pod.
type podSeen struct {
	pod       *corev1.Pod
	wasReady  bool
	unready   bool                 // it was ready and is not: noted
	crashes   int                  // before it was ready
	ended     map[string]time.Time // when a container last ended, as far as it was noted
	evicted   bool
	readiness time.Time // of what was noted last
}

// trouble is what happened to a pod.
type trouble struct {
	at        time.Time // when it was seen
	cause     string
	container string // that ended
	evicted   bool
	text      string
}

func newTestimony(since time.Time, tracks ...release.Track) *testimony {
	t := &testimony{since: since, slices: map[string]sets.Set[string]{}, tracks: map[release.Track]*trackSeen{}}
	for _, track := range tracks {
		t.tracks[track] = &trackSeen{pods: map[types.UID]*podSeen{}}
	}
	return t
}

// opened says that all that there is has been seen.
func (t *testimony) opened(now time.Time) {
	t.looking = now
	for _, seen := range t.tracks {
		seen.reached = min(seen.wanted, t.ready(seen))
		for _, was := range seen.pods {
			if condition := readyCondition(was.pod); condition != nil && !leaving(was.pod) && t.late(was.pod, condition) {
				seen.flapped(was, condition, now)
			}
		}
	}
}

// late says whether a pod's readiness has changed after the traffic came, and long after its containers started: it was
// ready before.
func (t *testimony) late(pod *corev1.Pod, condition *corev1.PodCondition) bool {
	started, ok := startOf(pod)
	changed := condition.LastTransitionTime.Time
	return ok && changed.After(t.since.Add(clockTolerance)) && changed.Sub(started) > 2*max(mostStart, t.startUp(slices.Min))
}

func (t *testimony) selectorOf(track release.Track) string { return t.tracks[track].selector }

func (t *testimony) deployment(track release.Track, d *appsv1.Deployment, deleted bool) {
	seen := t.tracks[track]
	if seen.live = d; deleted {
		seen.live = nil
	}
	if deleted || d.DeletionTimestamp != nil || track == baseline && !manifest.IsBaseline(d) {
		seen.wanted = 0
		return
	}
	seen.wanted = int(replicasOf(d))
	if seen.selector = metav1.FormatLabelSelector(d.Spec.Selector); track == release.Primary {
		seen.selector = withoutBaseline(seen.selector)
	}
}

func (t *testimony) endpoints(slice *discoveryv1.EndpointSlice, deleted bool) {
	if t.slices[slice.Name] = readyPods(slice); deleted {
		delete(t.slices, slice.Name)
	}
}

// pod takes a pod as it is now.
func (t *testimony) pod(track release.Track, pod *corev1.Pod, deleted bool, now time.Time) {
	seen := t.tracks[track]
	was := seen.pods[pod.UID]
	if deleted {
		delete(seen.pods, pod.UID)
		return
	}
	first := was == nil
	if first {
		was = &podSeen{ended: map[string]time.Time{}}
		seen.pods[pod.UID] = was
	}
	was.pod = pod
	if pod.Status.Phase == corev1.PodFailed && pod.Status.Reason == "Evicted" && !was.evicted {
		was.evicted = true
		seen.troubles = append(seen.troubles, trouble{at: now, evicted: true, cause: CauseNotReady, text: fmt.Sprintf("pod %s was evicted by its node: %s", pod.Name, pod.Status.Message)})
	}
	if leaving(pod) {
		return
	}
	t.containers(seen, was, first, now)
	t.readiness(seen, was, now)
}

// leaving says whether a pod is to go, or has gone: nothing that happens to it is the app's doing.
func leaving(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

// containers notes which of a pod's containers have ended since they were last looked at.
func (t *testimony) containers(seen *trackSeen, was *podSeen, first bool, now time.Time) {
	pod := was.pod
	sidecars := map[string]bool{}
	for _, c := range pod.Spec.InitContainers {
		sidecars[c.Name] = c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	for _, status := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
		end := lastEnd(status)
		if end == nil || !end.FinishedAt.After(was.ended[status.Name]) {
			continue
		}
		sidecar, init := sidecars[status.Name]
		if init && !sidecar && end.ExitCode == 0 { // it has done its work
			continue
		}
		was.ended[status.Name] = end.FinishedAt.Time
		switch {
		case t.looking.IsZero() && !end.FinishedAt.After(t.since.Add(clockTolerance)):
			continue // before the traffic
		case !was.wasReady && !isReadyPod(pod) && (!first || !t.looking.IsZero() || pod.CreationTimestamp.After(t.since)):
			was.crashes = max(was.crashes+1, int(status.RestartCount)) // it is new, and had no traffic
			continue
		case t.looking.IsZero() && pod.CreationTimestamp.After(t.since) && end.FinishedAt.Sub(pod.CreationTimestamp.Time) <= 2*mostStart:
			continue // it was added by a shift or an autoscaler, and may not have been ready yet
		}
		cause, how := CauseRestarts, fmt.Sprintf("ended with exit code %d (%s)", end.ExitCode, end.Reason)
		switch {
		case end.Reason == "OOMKilled":
			cause, how = CauseOOMKilled, "was killed: out of memory"
		case end.ExitCode == 137:
			how = "was killed (exit code 137): by a liveness probe, or out of memory"
		}
		kind := "container"
		switch {
		case sidecar:
			kind = "sidecar"
		case init:
			kind = "init container"
		}
		at := now
		if t.looking.IsZero() && end.FinishedAt.Time.Before(now) { // it happened before anybody looked
			at = end.FinishedAt.Time
		}
		seen.troubles = append(seen.troubles, trouble{at: at, cause: cause, container: status.Name, text: fmt.Sprintf("%s %s of pod %s %s, %d %s", kind, status.Name, pod.Name, how, status.RestartCount, plural(int(status.RestartCount), "restart"))})
	}
}

// lastEnd is the newest end of a container; nil if it has not ended yet.
func lastEnd(status corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	if status.State.Terminated != nil {
		return status.State.Terminated
	}
	return status.LastTerminationState.Terminated
}

// readiness notes that a pod which was ready is not, or was not meanwhile.
func (t *testimony) readiness(seen *trackSeen, was *podSeen, now time.Time) {
	condition := readyCondition(was.pod)
	if condition == nil {
		return
	}
	ready := condition.Status == corev1.ConditionTrue
	changed := condition.LastTransitionTime.Time
	if was.wasReady && !was.unready && (!ready || changed.After(was.readiness)) { // the latter are two changes in one
		seen.flapped(was, condition, now)
	}
	was.unready = was.wasReady && !ready
	was.wasReady = was.wasReady || ready
	was.readiness = changed
}

// flapped notes that a pod has lost its readiness, and may have it again.
func (s *trackSeen) flapped(was *podSeen, condition *corev1.PodCondition, now time.Time) {
	text := fmt.Sprintf("pod %s was not ready meanwhile, until %s", was.pod.Name, condition.LastTransitionTime.UTC().Format(time.TimeOnly))
	if condition.Status != corev1.ConditionTrue {
		text = fmt.Sprintf("pod %s was ready and is not", was.pod.Name)
		if condition.Message != "" {
			text += ": " + condition.Message
		}
		was.wasReady, was.unready = true, true
	}
	s.troubles = append(s.troubles, trouble{at: now, cause: CauseNotReady, text: text})
}

func readyCondition(pod *corev1.Pod) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodReady {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

func isReadyPod(pod *corev1.Pod) bool {
	c := readyCondition(pod)
	return c != nil && c.Status == corev1.ConditionTrue
}

// startOf is when the last of a pod's containers started; false if they do not say.
func startOf(pod *corev1.Pod) (last time.Time, ok bool) {
	for _, status := range pod.Status.ContainerStatuses {
		if running := status.State.Running; running != nil && running.StartedAt.After(last) {
			last = running.StartedAt.Time
		}
	}
	return last, !last.IsZero()
}

// startUp is how long the app's pods take to get ready, the shortest or the longest time that is known.
func (t *testimony) startUp(of func([]time.Duration) time.Duration) time.Duration {
	var known []time.Duration
	for _, seen := range t.tracks {
		for _, p := range seen.pods {
			if c := readyCondition(p.pod); c != nil && c.Status == corev1.ConditionTrue && p.pod.Status.StartTime != nil {
				known = append(known, c.LastTransitionTime.Sub(p.pod.Status.StartTime.Time))
			}
		}
	}
	if len(known) == 0 {
		return 0
	}
	return of(known)
}

// ready is how many pods of a track are ready endpoints.
func (t *testimony) ready(seen *trackSeen) int {
	n := 0
	for _, p := range seen.pods {
		if leaving(p.pod) {
			continue
		}
		for _, names := range t.slices {
			if names.Has(p.pod.Name) {
				n++
				break
			}
		}
	}
	return n
}

// look says what is known by now.
func (t *testimony) look(now time.Time) Witnessed {
	primary, canary := t.tracks[release.Primary], t.tracks[release.Canary]
	ready := t.ready(canary)
	found := Witnessed{PrimaryWhole: primary.wanted > 0 && t.ready(primary) >= primary.wanted}
	if ready < canary.wanted {
		found.Hold = fmt.Sprintf("%d of the canary's %d pods %s ready", ready, canary.wanted, map[bool]string{true: "is", false: "are"}[ready == 1])
	}
	if beside := t.tracks[baseline]; beside != nil && found.Hold == "" {
		if ready, wanted := t.ready(beside), max(1, beside.wanted); ready < wanted {
			found.Hold = fmt.Sprintf("%d of the baseline's %d %s ready: the canary is compared with less than it is to be", ready, wanted, map[bool]string{true: "pod is", false: "pods are"}[wanted == 1])
		}
	}
	canary.reached = min(canary.wanted, max(canary.reached, ready))
	switch {
	case ready >= canary.reached || !found.PrimaryWhole:
		canary.missing = time.Time{}
	case canary.missing.IsZero():
		canary.missing = now
	}
	if bad := t.blamed(primary, canary, now); bad != nil {
		found.Unhealthy, found.Cause = bad.text+"; primary's pods are not affected", bad.cause
		return found
	}
	if slices.ContainsFunc(canary.troubles, func(b trouble) bool { return now.Sub(b.at) < settling }) {
		found.Hold = canary.troubles[len(canary.troubles)-1].text
	}
	for _, p := range canary.pods {
		if p.crashes >= crashesOfNew && !p.wasReady && !leaving(p.pod) {
			found.Unhealthy, found.Cause = fmt.Sprintf("pod %s crashed %d times before it was ready", p.pod.Name, p.crashes), CauseRestarts
			return found
		}
	}
	if gone := now.Sub(canary.missing); !canary.missing.IsZero() && gone >= t.patience() {
		found.Unhealthy, found.Cause = fmt.Sprintf("the canary has %d ready %s for %s and had %d, while primary has all of its own", ready, plural(ready, "endpoint"), gone.Round(time.Second), canary.reached), CauseNotReady
	}
	return found
}

// patience is how long a pod that is gone has to be replaced.
func (t *testimony) patience() time.Duration {
	return min(mostStart, max(leastStart, 2*t.startUp(slices.Max)))
}

// blamed is the first trouble of the canary that is its own; nil if there is none.
func (t *testimony) blamed(primary, canary *trackSeen, now time.Time) *trouble {
	evictions, flaps := 0, 0
	for i := range canary.troubles {
		bad := &canary.troubles[i]
		if now.Sub(bad.at) < settling {
			break
		}
		shared := primary.suffered(bad)
		switch {
		case bad.evicted:
			if evictions++; evictions > 1 && shared == 0 {
				return bad
			}
		case bad.container != "":
			if shared == 0 {
				return bad
			}
		default:
			if flaps++; shared == 0 || flaps >= flapsBeyond*max(1, primary.flaps()) {
				return bad
			}
		}
	}
	return nil
}

// suffered is how often a track went through the same as the other one, at the same time.
func (s *trackSeen) suffered(other *trouble) int {
	n := 0
	for _, own := range s.troubles {
		if own.container == other.container && own.evicted == other.evicted && own.at.After(other.at.Add(-together)) && !own.at.After(other.at.Add(settling)) {
			n++
		}
	}
	return n
}

// flaps is how often pods of a track lost their readiness.
func (s *trackSeen) flaps() int {
	n := 0
	for _, own := range s.troubles {
		if own.container == "" && !own.evicted {
			n++
		}
	}
	return n
}
