package rollout

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

func sized(n int32) *appsv1.Deployment {
	return &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &n}}
}

// TestNeed: what all of the traffic needs, as the tracks' sizes show it.
func TestNeed(t *testing.T) {
	for name, c := range map[string]struct {
		sizes
		want int32
	}{
		"without an HPA, as it is":                              {sizes{primary: 20, canary: 18, share: 10, noted: 20, had: 20}, 20},
		"without an HPA, scaled up by somebody":                 {sizes{primary: 30, canary: 2, share: 90, noted: 20, had: 20}, 30},
		"without an HPA, scaled down beside the canary":         {sizes{primary: 3, canary: 3, share: 50, noted: 6, had: 6}, 6},
		"without an HPA, scaled to nothing":                     {sizes{canary: 3, share: 50, noted: 6, had: 6}, 6},
		"an HPA that has not followed yet":                      {sizes{primary: 20, canary: 10, share: 50, noted: 20, had: 20, scaled: true, least: 1}, 20},
		"an HPA that has shrunk primary by the canary's share":  {sizes{primary: 3, canary: 3, share: 50, noted: 6, had: 6, scaled: true, least: 1}, 6},
		"an HPA that is on its way":                             {sizes{primary: 18, canary: 18, share: 10, noted: 20, had: 20, scaled: true, least: 1}, 36},
		"noon, after a canary of the night":                     {sizes{primary: 10, canary: 3, share: 50, noted: 6, had: 6, scaled: true, settled: true, least: 1}, 20},
		"night, after a canary of noon":                         {sizes{primary: 2, canary: 10, share: 50, noted: 20, had: 20, scaled: true, settled: true, least: 1}, 4},
		"an HPA at its minimum":                                 {sizes{primary: 2, canary: 2, share: 10, noted: 2, had: 2, scaled: true, settled: true, least: 2}, 2},
		"an HPA at its minimum, and less is needed than before": {sizes{primary: 2, canary: 10, share: 90, noted: 20, had: 20, scaled: true, settled: true, least: 2}, 3},
		"the canary has all":                                    {sizes{primary: 1, canary: 6, share: 0, noted: 6, had: 6, scaled: true, settled: true, least: 1}, 6},
		"nothing at all":                                        {sizes{}, 1},
		"beside a baseline, an HPA that has followed":           {sizes{primary: 10, canary: 3, share: 50, noted: 6, had: 6, scaled: true, settled: true, least: 1, measured: 10}, 20},
		"beside a baseline, an HPA within its tolerance":        {sizes{primary: 2, canary: 1, share: 90, noted: 2, had: 2, scaled: true, settled: true, least: 1, measured: 3}, 4},
		"the same, soon after":                                  {sizes{primary: 2, canary: 1, share: 90, noted: 2, had: 2, scaled: true, least: 1, measured: 3}, 4},
		"beside a baseline, an HPA that has not followed yet":   {sizes{primary: 20, canary: 10, share: 50, noted: 20, had: 20, scaled: true, least: 1, measured: 10}, 20},
	} {
		if got := c.need(); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	for _, c := range []struct {
		average         int32 // in percent of the HPA's target
		primary, beside int32
		want            float64
	}{
		{91, 10, 1, 10.01}, // 10 replicas' load over 11 pods: primary needs 10
		{110, 2, 2, 4.4},   // at the end of the HPA's tolerance, which leaves primary 2
		{80, 10, 0, 8},
	} {
		hpa := &autoscalingv2.HorizontalPodAutoscaler{}
		hpa.Spec.Metrics = []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Target: autoscalingv2.MetricTarget{AverageUtilization: new(int32(100))}}}}
		hpa.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{Resource: &autoscalingv2.ResourceMetricStatus{Current: autoscalingv2.MetricValueStatus{AverageUtilization: &c.average}}}}
		hpa.Status.CurrentReplicas = c.primary
		if got := (sizes{primary: c.primary, beside: c.beside}).measures(hpa); got < c.want-0.001 || got > c.want+0.001 {
			t.Errorf("%d%% over %d and %d beside: %g, want %g", c.average, c.primary, c.beside, got, c.want)
		}
	}
	if got := forShare(25, 10); got != 3 {
		t.Errorf("a tenth of 25 is %d", got)
	}
}

// TestADeadlineOfAnotherRollout: the controller keeps the condition of the rollout before for a while.
func TestADeadlineOfAnotherRollout(t *testing.T) {
	before, now := metav1.NewTime(time.Unix(1000, 0)), metav1.NewTime(time.Unix(2000, 0))
	with := func(at metav1.Time, ready int32) *appsv1.Deployment {
		d := sized(2)
		d.Status = appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: ready, Conditions: []appsv1.DeploymentCondition{
			{Type: appsv1.DeploymentProgressing, Reason: "ProgressDeadlineExceeded", LastUpdateTime: at},
		}}
		return d
	}
	if done, _, err := rolledOut(with(before, 1), before); done || err != nil {
		t.Errorf("another rollout's deadline: %v, %v", done, err)
	}
	if _, _, err := rolledOut(with(now, 1), before); err == nil {
		t.Error("this rollout's deadline is overlooked")
	}
	if done, _, err := rolledOut(with(before, 2), before); !done || err != nil {
		t.Errorf("a rollout that is complete: %v, %v", done, err)
	}
	behind := with(before, 2)
	behind.Generation = 3
	if done, _, _ := rolledOut(behind, before); done {
		t.Error("a status of an older generation counts")
	}
}

// TestOtherImages: what pods run is known from the digest that their node pulled, of the app's container alone.
func TestOtherImages(t *testing.T) {
	pod := func(name, container, imageID string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: container, ImageID: imageID}}}}
	}
	pods := []corev1.Pod{
		pod("right", "app", "registry.example.com/app@sha256:a"), pod("mirrored", "app", "mirror.example.com/app@sha256:a"), pod("dockershim", "app", "docker-pullable://app@sha256:a"),
		pod("local", "app", "sha256:c"), pod("not started", "app", ""), pod("sidecar", "istio-proxy", "proxyv2@sha256:d"), pod("wrong", "app", "registry.example.com/app@sha256:b"),
	}
	want := map[string]reported{"sha256:b": {"registry.example.com/app@sha256:b", "wrong"}}
	if got := otherImages(pods, "app", "sha256:a"); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	got := otherImages([]corev1.Pod{pod("dockershim", "app", "docker-pullable://registry.example.com/app@sha256:b")}, "app", "sha256:a")
	if want := (reported{"registry.example.com/app@sha256:b", "dockershim"}); got["sha256:b"] != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestSameConfigs: an image that shares a platform with the one wanted is it only for pods that ask for the one wanted.
func TestSameConfigs(t *testing.T) {
	for name, c := range map[string]struct {
		want, got       []string
		anyway, ifAsked bool
	}{
		"an index anew":          {[]string{"amd", "arm"}, []string{"amd", "arm"}, true, true},
		"a platform of it":       {[]string{"amd", "arm"}, []string{"arm"}, true, true},
		"an index that has it":   {[]string{"amd"}, []string{"amd", "arm"}, false, true},
		"one platform built new": {[]string{"amd", "arm"}, []string{"amd", "arm2"}, false, true},
		"another image":          {[]string{"amd", "arm"}, []string{"amd2", "arm2"}, false, false},
		"no image":               {[]string{"amd", "arm"}, nil, false, false},
	} {
		if anyway, ifAsked := sameConfigs(c.want, c.got, false), sameConfigs(c.want, c.got, true); anyway != c.anyway || ifAsked != c.ifAsked {
			t.Errorf("%s: %t, and %t for pods that ask for it; want %t and %t", name, anyway, ifAsked, c.anyway, c.ifAsked)
		}
	}
	digest := "sha256:" + strings.Repeat("a", 64)
	pod := func(containers ...corev1.Container) corev1.Pod {
		return corev1.Pod{Spec: corev1.PodSpec{Containers: containers}}
	}
	app := corev1.Container{Name: "app", Image: "mirror.example.com/app:1@" + digest}
	sidecar, replaced := app, app
	sidecar.Name, replaced.Image = "proxy", "mirror.example.com/app:1"
	for name, c := range map[string]struct {
		pods []corev1.Pod
		want bool
	}{
		"all":            {[]corev1.Pod{pod(app), pod(corev1.Container{Name: "proxy"}, app)}, true},
		"not all":        {[]corev1.Pod{pod(app), pod(replaced)}, false},
		"a sidecar does": {[]corev1.Pod{pod(sidecar, replaced)}, false},
	} {
		if got := askFor(c.pods, "app", digest); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestRegistryThatIsAway: a registry that does not answer is no obstacle, unless the pods ask for another image than the release's;
// one that does not have an image, or does not give it, is.
func TestRegistryThatIsAway(t *testing.T) {
	wanted, other := "registry.example.com/app@sha256:"+strings.Repeat("a", 64), "registry.example.com/app@sha256:"+strings.Repeat("b", 64)
	answers := func(code int) error {
		return fmt.Errorf("of the image: %w", &transport.Error{StatusCode: code})
	}
	away := errors.New("connection refused")
	for name, c := range map[string]struct {
		asks       string // of the pods
		want, got  error  // of the wanted image, and of the other one
		other      string // its configuration
		says, logs string
	}{
		"the same image":                    {asks: wanted, other: "sha256:c", logs: "it is the same image"},
		"another image":                     {asks: wanted, other: "sha256:d", says: "puts another image in its place"},
		"another image by a webhook":        {asks: other, other: "sha256:d", says: "puts another image in its place"},
		"not in the registry":               {asks: wanted, got: answers(404), says: "404"},
		"not for this account":              {asks: wanted, got: answers(403), says: "403"},
		"not without a login":               {asks: wanted, got: answers(401), says: "401"},
		"too many requests":                 {asks: wanted, want: answers(429), logs: "not known whether pod p runs sha256:aaaa"},
		"too many requests for another one": {asks: wanted, got: answers(429), logs: "not known whether pod p runs sha256:aaaa"},
		"an outage":                         {asks: wanted, got: answers(503), logs: "503"},
		"no answer":                         {asks: wanted, got: away, logs: "connection refused"},
		"no answer, and a webhook":          {asks: other, got: away, says: "connection refused"},
	} {
		var logged []string
		pod := corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: c.asks}}}
		j := &job{Cluster: &Cluster{
			Manifests: &manifest.Set{Deployment: &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: pod}}}},
			Log:       func(e Event) { logged = append(logged, e.Message) },
			Configs: func(_ context.Context, _, reported string) ([]string, error) {
				if reported == wanted {
					return []string{"sha256:c"}, c.want
				}
				return []string{c.other}, c.got
			},
		}}
		err := j.checkImages(t.Context(), release.Canary, wanted, []corev1.Pod{{
			ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: pod,
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "app", ImageID: other}}},
		}})
		var notReady *NotReadyError
		if c.says == "" && err != nil || c.says != "" && (!errors.As(err, &notReady) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
		if log := strings.Join(logged, "\n"); c.logs == "" && log != "" || !strings.Contains(log, c.logs) {
			t.Errorf("%s: it logs %q, want %q", name, log, c.logs)
		}
	}
}

// TestProgress: what comes and goes holds no wait up: between two generations there is as much progress as there are
// pods to wait for, however often they change.
func TestProgress(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		const pods = 4
		count := rapid.IntRange(0, pods)
		marks := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) mark {
			return mark{updated: int32(count.Draw(t, "updated")), available: int32(count.Draw(t, "available")), ready: count.Draw(t, "ready"), left: int32(count.Draw(t, "left"))}
		}), 0, 200).Draw(r, "marks")
		best := &mark{left: pods}
		progress := 0
		for _, m := range marks {
			if further(&best, m) {
				progress++
			}
			if further(&best, m) {
				r.Fatalf("%+v twice is progress", m)
			}
		}
		if progress > 4*pods {
			r.Errorf("%d times progress in %d marks", progress, len(marks))
		}
		next := *best
		next.generation++
		next.updated = 0
		if !further(&best, next) || !further(&best, mark{generation: next.generation, updated: 1, left: 9}) {
			r.Error("a new generation is no progress, or none follows it")
		}
	})
}

// TestLeaves: what an HPA leaves primary after a promotion, by its window, bounds and policies, and what its metrics ask for.
func TestLeaves(t *testing.T) {
	at := time.Unix(100_000, 0)
	r := func(ago time.Duration, before int32) *release.Release { // half of the traffic for ten minutes, then promotion
		return &release.Release{Replicas: 10, PrimaryReplicas: before, Steps: []release.Step{
			{Stage: release.StageStarted, At: at.Add(-time.Hour)},
			{Stage: release.StageCanary, At: at.Add(-ago - 10*time.Minute), Weight: 50},
			{Stage: release.StagePromoting, At: at.Add(-ago), Weight: 100},
		}}
	}
	hpa := func(least, window int32, rules autoscalingv2.HPAScalingRules) *autoscalingv2.HorizontalPodAutoscaler {
		h := &autoscalingv2.HorizontalPodAutoscaler{}
		if least > 0 {
			h.Spec.MinReplicas = &least
		}
		if window >= 0 {
			rules.StabilizationWindowSeconds = &window
		}
		h.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &rules}
		return h
	}
	pods := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 1, PeriodSeconds: 60}
	half := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 50, PeriodSeconds: 120}
	for name, c := range map[string]struct {
		hpa     *autoscalingv2.HorizontalPodAutoscaler
		ago     time.Duration
		before  int32
		shrinks bool
		want    int32
	}{
		"without behavior":                    {&autoscalingv2.HorizontalPodAutoscaler{}, time.Minute, 5, false, 5},
		"the default window, soon":            {hpa(0, -1, autoscalingv2.HPAScalingRules{}), time.Minute, 5, false, 5},
		"the default window, later":           {hpa(0, -1, autoscalingv2.HPAScalingRules{}), 4 * time.Minute, 5, false, 1},
		"no window":                           {hpa(3, 0, autoscalingv2.HPAScalingRules{}), time.Second, 5, false, 3},
		"a long window":                       {hpa(0, 1800, autoscalingv2.HPAScalingRules{}), time.Minute, 10, false, 10},
		"a long window, and it has followed":  {hpa(0, 1800, autoscalingv2.HPAScalingRules{}), time.Minute, 6, false, 6},
		"one that was seen to shrink primary": {hpa(2, 1800, autoscalingv2.HPAScalingRules{}), time.Minute, 10, true, 2},
		"a queue's length": {&autoscalingv2.HorizontalPodAutoscaler{
			Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
				Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(0))}},
				Metrics:  []autoscalingv2.MetricSpec{{External: &autoscalingv2.ExternalMetricSource{Target: autoscalingv2.MetricTarget{AverageValue: new(resource.MustParse("30"))}}}},
			},
			Status: autoscalingv2.HorizontalPodAutoscalerStatus{CurrentReplicas: 5, CurrentMetrics: []autoscalingv2.MetricStatus{{External: &autoscalingv2.ExternalMetricStatus{Current: autoscalingv2.MetricValueStatus{AverageValue: new(resource.MustParse("54"))}}}}},
		}, time.Minute, 5, false, 9},
		"never down":                   {hpa(0, 0, autoscalingv2.HPAScalingRules{SelectPolicy: new(autoscalingv2.DisabledPolicySelect)}), time.Minute, 5, false, 10},
		"one pod a minute":             {hpa(0, 0, autoscalingv2.HPAScalingRules{Policies: []autoscalingv2.HPAScalingPolicy{pods}}), time.Minute, 5, false, 8},
		"the larger of two policies":   {hpa(0, 0, autoscalingv2.HPAScalingRules{Policies: []autoscalingv2.HPAScalingPolicy{pods, half}}), time.Minute, 5, false, 5},
		"the smaller of two policies":  {hpa(0, 0, autoscalingv2.HPAScalingRules{SelectPolicy: new(autoscalingv2.MinChangePolicySelect), Policies: []autoscalingv2.HPAScalingPolicy{pods, half}}), time.Minute, 5, false, 8},
		"no fewer than it has to have": {hpa(20, 0, autoscalingv2.HPAScalingRules{}), time.Minute, 5, false, 10},
	} {
		if got := leaves(c.hpa, r(c.ago, c.before), at, c.shrinks); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	for before, need := range map[int32]int32{1: 2, 2: 3, 3: 4, 10: 12} { // with 10% on the canary, need is before/90%, rounded up
		tenth := &release.Release{Replicas: need, PrimaryReplicas: before, Steps: []release.Step{
			{Stage: release.StageStarted, At: at.Add(-time.Hour)},
			{Stage: release.StageCanary, At: at.Add(-20 * time.Minute), Weight: 10},
			{Stage: release.StagePromoting, At: at.Add(-time.Minute), Weight: 100},
		}}
		if part := bearable(leaves(&autoscalingv2.HorizontalPodAutoscaler{}, tenth, at, false), need); part < 100 {
			t.Errorf("%d replicas had 90%% of the traffic a minute ago, and get %d%%", before, part)
		}
	}
	for name, c := range map[string]struct {
		target  autoscalingv2.MetricTarget
		current autoscalingv2.MetricValueStatus
		want    float64
	}{
		"utilization":   {autoscalingv2.MetricTarget{AverageUtilization: new(int32(50))}, autoscalingv2.MetricValueStatus{AverageUtilization: new(int32(75))}, 6},
		"average":       {autoscalingv2.MetricTarget{AverageValue: new(resource.MustParse("25"))}, autoscalingv2.MetricValueStatus{AverageValue: new(resource.MustParse("12500m"))}, 2},
		"value":         {autoscalingv2.MetricTarget{Value: new(resource.MustParse("100"))}, autoscalingv2.MetricValueStatus{Value: new(resource.MustParse("50"))}, 2},
		"another value": {autoscalingv2.MetricTarget{Value: new(resource.MustParse("100"))}, autoscalingv2.MetricValueStatus{AverageUtilization: new(int32(75))}, 0},
	} {
		h := &autoscalingv2.HorizontalPodAutoscaler{
			Spec:   autoscalingv2.HorizontalPodAutoscalerSpec{Metrics: []autoscalingv2.MetricSpec{{}, {Resource: &autoscalingv2.ResourceMetricSource{Target: c.target}}}},
			Status: autoscalingv2.HorizontalPodAutoscalerStatus{CurrentReplicas: 4, CurrentMetrics: []autoscalingv2.MetricStatus{{}, {Resource: &autoscalingv2.ResourceMetricStatus{Current: c.current}}}},
		}
		if got, _ := measures(h, anyMetric); got != c.want {
			t.Errorf("%s asks for %g replicas, want %g", name, got, c.want)
		}
	}
}

// TestByDigest: a tag's digest is what the node says that the tag's own repository has.
func TestByDigest(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	const hub, app = "index.docker.io/library/app@", "registry.example.com/app@"
	for _, c := range []struct{ image, imageID, want string }{
		{"registry.example.com/app:1", app + digest, app + digest},
		{"registry.example.com/app:1", "docker-pullable://" + app + digest, app + digest},
		{"app:1", "docker.io/library/app@" + digest, hub + digest},
		{"registry.example.com/app:1@" + digest, "registry.example.com/other@" + digest, app + digest},
		{"registry.example.com/app:1", "registry.example.com/other@" + digest, ""},
		{"registry.example.com/app:1", "mirror.example.com/app@" + digest, ""},
		{"app:1", "quay.io/app@" + digest, ""},
		{"app:1", digest, ""},
		{"app:1", "", ""},
	} {
		if got, err := byDigest(c.image, c.imageID); got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s, of which the node says %q, is %q, %v; want %q", c.image, c.imageID, got, err, c.want)
		}
	}
}
