package commands_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/rehearsal/load"
)

// manualApp deploys an app as people do manually: one Deployment by that name, whose selector is the app's
// label alone, an image by its tag, a Service, and a route without subsets beside somebody else's.
func manualApp(t *testing.T, name, deployment, track string) *app {
	t.Helper()
	a := newApp(t, name)
	text, err := os.ReadFile(filepath.Join(a.manifests, "deployment.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	manifest := string(text)
	for _, change := range [][2]string{
		{"    matchLabels:\n      app: " + name + "\n      version: primary", "    matchLabels:\n      app: " + name},
		{"version: primary", track},
		{"name: " + name + "-primary", "name: " + deployment},
		{"image: registry.example.com/our-org/" + name, "image: " + running.RegistryHost + "/test/app:drains-a"},
		{"maxUnavailable: 0", "maxUnavailable: 25%"},
	} {
		if !strings.Contains(manifest, change[0]) {
			t.Fatalf("the manifest has another form: no %q", change[0])
		}
		manifest = strings.ReplaceAll(manifest, change[0], change[1])
	}
	route := fmt.Sprintf(`{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"%[1]s-vs","annotations":{"team":"theirs"}},"spec":{"hosts":["%[1]s.example.com"],"gateways":["public-gateway"],
		"http":[{"name":"theirs","match":[{"uri":{"prefix":"/theirs"}}],"route":[{"destination":{"host":"other"}}]},
		{"route":[{"destination":{"host":"%[1]s-service","port":{"number":80}},"headers":{"response":{"set":{"x-by":"hand"}}}}],"timeout":"9s"}]}}`, name)
	service, err := os.ReadFile(filepath.Join(a.manifests, "service.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := os.ReadFile(filepath.Join(a.manifests, "gateway.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	kubectl := metav1.PatchOptions{FieldManager: "kubectl"}
	ctx := t.Context()
	_, err1 := a.kube.AppsV1().Deployments(a.namespace).Patch(ctx, deployment, types.ApplyPatchType, []byte(manifest), kubectl)
	_, err2 := a.kube.CoreV1().Services(a.namespace).Patch(ctx, name+"-service", types.ApplyPatchType, service, kubectl)
	_, err3 := a.mesh.NetworkingV1().Gateways(a.namespace).Patch(ctx, "public-gateway", types.ApplyPatchType, gateway, kubectl)
	_, err4 := a.mesh.NetworkingV1().VirtualServices(a.namespace).Patch(ctx, name+"-vs", types.ApplyPatchType, []byte(route), kubectl)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	a.eventually(func() error {
		d, err := a.kube.AppsV1().Deployments(a.namespace).Get(ctx, deployment, metav1.GetOptions{})
		if err == nil && d.Status.ReadyReplicas < 2 {
			err = errors.New("the manually deployed app is not ready")
		}
		return err
	})
	return a
}

// migrated says what is not as migrate leaves an app; "" when all is.
func (a *app) migrated(old string) string {
	a.Helper()
	status, err := a.cluster("look", nil).Status(a.Context())
	if err != nil {
		return err.Error()
	}
	primary := status.Tracks[release.Primary]
	switch {
	case status.Weights == nil || *status.Weights != atRest:
		return fmt.Sprintf("weights %+v", status.Weights)
	case primary == nil || digest(primary.Image) != digest(images["drains a"]) || primary.Ready != 2 || primary.Replicas != 2:
		return fmt.Sprintf("primary %+v, want 2 of %s", primary, digest(images["drains a"]))
	}
	vs, err := a.mesh.NetworkingV1().VirtualServices(a.namespace).Get(a.Context(), a.name+"-vs", metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	if http := vs.Spec.Http; len(http) != 2 || http[0].Name != "theirs" || http[1].Timeout.GetSeconds() != 9 || http[1].Route[0].Headers.GetResponse().GetSet()["x-by"] != "hand" || http[1].Route[1].Destination.GetPort().GetNumber() != 80 || vs.Annotations["team"] != "theirs" {
		return fmt.Sprintf("what others set is not as it was: %v", http)
	}
	sets, err := a.kube.AppsV1().ReplicaSets(a.namespace).List(a.Context(), metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for _, set := range sets.Items {
		if owner := metav1.GetControllerOf(&set); set.DeletionTimestamp == nil && (owner == nil || owner.Name != a.name+"-primary") {
			return fmt.Sprintf("ReplicaSet %s is left", set.Name)
		}
	}
	if old != a.name+"-primary" {
		if _, err := a.kube.AppsV1().Deployments(a.namespace).Get(a.Context(), old, metav1.GetOptions{}); err == nil {
			return old + " is left"
		}
	}
	return ""
}

// TestMigrate takes apps of both layouts to the two tracks under traffic.
func TestMigrate(t *testing.T) {
	t.Parallel()
	for _, layout := range []struct{ name, deployment, track string }{
		{"migrate-same", "migrate-same-primary", "version: primary"}, // the new Deployment adopts the old pods
		{"migrate-bare", "migrate-bare-primary", "tier: web"},        // it does not
		{"migrate-other", "web", "version: v1"},
	} {
		t.Run(layout.name, func(t *testing.T) {
			if layout.name == "migrate-bare" {
				onlyLong(t)
			}
			t.Parallel()
			a := manualApp(t, layout.name, layout.deployment, layout.track)
			host := a.served()
			traffic := load.Start("http://"+running.GatewayAddress+"/", host, 100)
			defer traffic.Stop()
			time.Sleep(time.Second)

			if layout.name == "migrate-same" {
				if code, out := a.crossbill("canary", "--image", images["drains b"]); code != 2 || !strings.Contains(out, "crossbill migrate") {
					t.Errorf("canary of an app that was deployed manually: exit code %d\n%s", code, out)
				}
			}
			before := a.state()
			if code, out := a.crossbill("migrate", "--from", "nobody"); layout.deployment == "web" && (code != 2 || !strings.Contains(out, "--from")) {
				t.Errorf("exit code %d\n%s", code, out)
			}
			out := a.must("plan", "migrate")
			for _, want := range []string{"create Deployment", "create DestinationRule", "update VirtualService", "delete Deployment"} {
				if !strings.Contains(out, want) {
					t.Errorf("the plan does not %s:\n%s", want, out)
				}
			}
			if after := a.state(); !maps.Equal(before, after) && layout.deployment == "web" {
				t.Errorf("a plan or a refusal changed something: %v, then %v", before, after)
			}
			a.must("migrate", "--settle-delay", "1s")
			if wrong := a.migrated(layout.deployment); wrong != "" {
				t.Error(wrong)
			}
			before = a.state()
			if out := a.must("migrate"); !strings.Contains(out, "nothing to do") {
				t.Errorf("a second migrate:\n%s", out)
			}
			if after := a.state(); !maps.Equal(before, after) {
				t.Errorf("a second migrate changed something: %v, then %v", before, after)
			}

			a.must("canary", "--image", images["drains b"])
			a.healthy()
			a.must("promote")
			a.must("cleanup")
			if primary := a.status().Tracks[release.Primary]; primary.Ready != 2 || digest(primary.Image) != digest(images["drains b"]) {
				t.Errorf("primary %+v", primary)
			}
			time.Sleep(time.Second)
			tally := traffic.Between(time.Time{}, time.Now().Add(-time.Second))
			t.Logf("%d requests, %d lost", tally.Requests, tally.Lost)
			if tally.Lost > 0 || tally.Requests < 500 {
				t.Errorf("of %d requests %d were lost: %v", tally.Requests, tally.Lost, tally.Problems)
			}
		})
	}
	t.Run("an HPA of the old Deployment", func(t *testing.T) {
		t.Parallel()
		a := manualApp(t, "migrate-hpa", "web", "version: v1")
		_, err := a.kube.AutoscalingV2().HorizontalPodAutoscalers(a.namespace).Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
			ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 5, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		before := a.state()
		if code, out := a.crossbill("migrate"); code != 2 || !strings.Contains(out, "HorizontalPodAutoscaler web") {
			t.Errorf("exit code %d\n%s", code, out)
		}
		if after := a.state(); !maps.Equal(before, after) {
			t.Errorf("a refusal changed something: %v, then %v", before, after)
		}
	})
}

// servedBy watches how many pods of the app's Service are ready, and says when they ever were fewer than
// two.
func (a *app) servedBy() (stop func() []string) {
	a.Helper()
	ctx, cancel := context.WithCancel(a.Context())
	w, err := a.kube.DiscoveryV1().EndpointSlices(a.namespace).Watch(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + a.name + "-service"})
	if err != nil {
		a.Fatal(err)
	}
	var problems []string
	var watching sync.WaitGroup
	watching.Go(func() {
		ready, most := map[string]int{}, 0
		for event := range w.ResultChan() {
			slice, ok := event.Object.(*discoveryv1.EndpointSlice)
			if !ok {
				continue
			}
			n := 0
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready != nil && *e.Conditions.Ready {
					n++
				}
			}
			if ready[slice.Name] = n; event.Type == watch.Deleted {
				delete(ready, slice.Name)
			}
			sum := 0
			for _, n := range ready {
				sum += n
			}
			if most = max(most, sum); most >= 2 && sum < 2 {
				problems = append(problems, fmt.Sprintf("%d ready endpoints at revision %s", sum, slice.ResourceVersion))
			}
		}
	})
	return func() []string { cancel(); watching.Wait(); return problems }
}

// TestMigrateCrashes lets writes of a migration fail in each way; the same command then finishes it, and the
// app has had all of its pods all the while.
func TestMigrateCrashes(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	cases, stride := 0, strideOfCrashes()
	t.Run("matrix", func(t *testing.T) {
		for short, f := range map[string]fault{"never": never, "silent": silent, "dies": dies} {
			t.Run(short, func(t *testing.T) {
				if short != "dies" {
					onlyLong(t)
				}
				t.Parallel()
				for at := 1; ; at += stride {
					name := fmt.Sprintf("migrate-%s-%d", short, at)
					a := manualApp(t, name, name+"-primary", "version: primary")
					stop := a.servedBy()
					ctx, cancel := context.WithCancel(t.Context())
					network := &faulty{counts: writes, at: at, fault: f, kill: cancel}
					_, first := a.quiet("job", network.config()).Migrate(ctx, "")
					cancel()
					again := a.quiet("next", nil)
					again.Takeover = true
					_, err := again.Migrate(t.Context(), "")
					where := fmt.Sprintf("request %d (%s) %s (the first run ended with: %v)", at, network.what, f, first)
					if err != nil {
						t.Errorf("%s: again: %v", where, err)
					} else if wrong := a.migrated(name + "-primary"); wrong != "" {
						t.Errorf("%s: %s", where, wrong)
					}
					for _, problem := range stop() {
						t.Errorf("%s: %s", where, problem)
					}
					if network.what == "" {
						return
					}
					mu.Lock()
					cases++
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("%d cases", cases)
	atLeast := 2
	if *long {
		atLeast = 9
	}
	if cases < atLeast {
		t.Errorf("only %d cases", cases)
	}
}
