package commands_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/verdict"
	"github.com/our-org/crossbill/rehearsal/load"
)

var (
	trafficRequests = flag.Int("traffic.requests", 6000, "TestTraffic: requests at least, for each way to release")
	trafficOut      = flag.String("traffic.json", "", "TestTraffic: file for what it counts")
)

const trafficRate = 300 // requests a second

// served is what callers of an app saw.
type served struct {
	Requests     int            `json:"requests"`
	Lost         int            `json:"lost"`         // no answer by any version of the app
	WrongVersion int            `json:"wrongVersion"` // answered by a version a second after it was off the route
	Problems     map[string]int `json:"problems,omitempty"`
}

// TestTraffic releases under steady traffic through Envoy: as Crossbill does, canary by canary, every
// second one rolled back, an app that drains, and one that ends at once when it is asked to; and as the
// usual hand-written pipeline does, which waits for nothing, with the app that drains.
func TestTraffic(t *testing.T) {
	var out struct {
		Crossbill    served `json:"crossbill"`
		WithoutDrain served `json:"withoutDrain"` // Crossbill, with an app that ends at once
		Reference    served `json:"reference"`
	}
	t.Run("side by side", func(t *testing.T) {
		t.Run("drains", func(t *testing.T) {
			t.Parallel()
			out.Crossbill = traffic(t, "traffic", "drains", (*app).byCrossbill)
		})
		t.Run("ends at once", func(t *testing.T) {
			t.Parallel()
			out.WithoutDrain = traffic(t, "abrupt", "ends", (*app).byCrossbill)
		})
		t.Run("reference", func(t *testing.T) {
			t.Parallel()
			out.Reference = traffic(t, "reference", "drains", (*app).handwritten)
		})
	})
	t.Logf("Crossbill: %+v", out.Crossbill)
	t.Logf("Crossbill, an app that ends at once: %+v", out.WithoutDrain)
	t.Logf("reference: %+v", out.Reference)
	for name, c := range map[string]served{"an app that drains": out.Crossbill, "an app that ends at once": out.WithoutDrain} {
		if c.Lost != 0 || c.WrongVersion != 0 || c.Requests == 0 {
			t.Errorf("%s: of %d requests %d were lost, %d answered by the wrong version: %v", name, c.Requests, c.Lost, c.WrongVersion, c.Problems)
		}
	}
	if out.Reference.Lost == 0 {
		t.Error("the hand-written pipeline lost nothing: the traffic does not see what it should")
	}
	writeJSON(t, *trafficOut, out)
}

// off is a version that nobody should see from a time on.
type off struct {
	version  string
	from, to time.Time
}

// traffic releases again and again while requests come, and counts what they met.
func traffic(t *testing.T, name, manner string, release func(a *app, image string, round int) []off) served {
	t.Helper()
	a := newApp(t, name)
	a.must("canary", "--image", images[manner+" a"])
	host := a.served()
	begin := time.Now()
	generator := load.Start("http://"+running.GatewayAddress+"/", host, trafficRate)
	var gone []off
	names := []string{manner + " b", manner + " c", manner + " a"}
	for round := 0; round < 2 || int(time.Since(begin).Seconds()*trafficRate) < *trafficRequests; round++ {
		gone = append(gone, release(a, names[round%len(names)], round)...)
	}
	time.Sleep(2 * time.Second)
	generator.Stop()
	tally := generator.Between(begin, time.Now())
	s := served{Requests: tally.Requests, Lost: tally.Lost, Problems: tally.Problems}
	for _, o := range gone {
		s.WrongVersion += generator.Between(o.from.Add(time.Second), o.to).Versions[o.version]
	}
	return s
}

// served waits until the gateway leads to the app, and gives its host name.
func (a *app) served() (host string) {
	a.Helper()
	host = a.name + ".example.com"
	a.reached(host)
	return host
}

// reached waits until the gateway answers for a host.
func (a *app) reached(host string) {
	a.Helper()
	a.eventually(func() error {
		request, err := http.NewRequestWithContext(a.Context(), http.MethodGet, "http://"+running.GatewayAddress+"/", nil)
		if err != nil {
			return err
		}
		request.Host = host
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("the gateway answers %s", response.Status)
		}
		return nil
	})
}

// testAPromotedReleaseThatTurnsOutBad: a bake rolls back what only all of the traffic shows, proves
// nothing without traffic, and lets a good release be.
func testAPromotedReleaseThatTurnsOutBad(t *testing.T) {
	t.Parallel()
	a := released(t, "bake")
	bake := func(image string, want int, says string) {
		t.Helper()
		a.must("canary", "--again", "--image", images[image])
		a.healthy()
		code, out := a.crossbill("promote", "--bake", "20s", "--interval", "1s", "--min-requests", "50", "--prometheus", running.PrometheusURL, "--config", byAvailability(t))
		if code != want || !strings.Contains(out, says) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s", image, code, want, says, out)
		}
	}
	if code, out := a.crossbill("promote", "--bake", "8s"); code != 2 || !strings.Contains(out, "--prometheus") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	bake("drains a", 4, "bake: inconclusive: no request reached")
	a.must("cleanup")
	generator := load.Start("http://"+running.GatewayAddress+"/", a.served(), 100)
	defer generator.Stop()
	bake("fails", 3, "rolled back in ")
	if digest(a.image("primary")) != digest(images["drains a"]) || a.weights() != atRest {
		t.Errorf("primary runs %s", a.image("primary"))
	}
	bake("drains b", 0, "baked: availability: 100.00%")
	a.must("cleanup")
}

// byCrossbill releases an image by canary, in steps; every second one is rolled back, and then released again.
func (a *app) byCrossbill(image string, round int) []off {
	a.Helper()
	ctx := a.Context()
	source, err := verdict.NewSource(verdict.SourceOptions{URL: running.PrometheusURL, Namespace: a.namespace})
	if err != nil {
		a.Fatal(err)
	}
	c := a.quiet("traffic", nil)
	c.Again, c.Drained = true, source.Quiet
	want := release.Release{ID: fmt.Sprintf("traffic-%d", round), Image: images[image], Weight: 10}
	var gone []off
	step := func(err error) {
		a.Helper()
		if err != nil {
			a.Fatal(err)
		}
	}
	if round%2 == 1 {
		_, err := c.Canary(ctx, want)
		step(err)
		time.Sleep(time.Second)
		_, err = c.Rollback(ctx, "traffic")
		step(err)
		back := time.Now()
		time.Sleep(3 * time.Second)
		gone = append(gone, off{image, back, time.Now()})
	}
	old := a.version()
	_, err = c.Canary(ctx, want)
	step(err)
	time.Sleep(time.Second)
	_, err = c.Shift(ctx, []int{25, 50}, time.Second)
	step(err)
	time.Sleep(time.Second)
	a.healthy()
	_, err = c.Promote(ctx)
	step(err)
	promoted := time.Now()
	_, err = c.Cleanup(ctx)
	step(err)
	return append(gone, off{old, promoted, time.Now()})
}

// version is what primary runs, by its name among the images.
func (a *app) version() string {
	a.Helper()
	live := a.image("primary")
	for name, reference := range images {
		if digest(reference) == digest(live) {
			return name
		}
	}
	a.Fatalf("primary runs %s", live)
	return ""
}

// handwritten releases as the usual hand-written pipeline does: it applies the canary's Deployment and the
// route at once; then sets primary's image, routes everything to primary and deletes the canary, and
// waits for nothing. Between its two jobs a person looks for some seconds.
func (a *app) handwritten(image string, _ int) []off {
	a.Helper()
	ctx := a.Context()
	set, err := manifest.Load(a.manifests)
	if err != nil {
		a.Fatal(err)
	}
	deployments := a.kube.AppsV1().Deployments(a.namespace)
	apply := func(d *appsv1.Deployment) {
		a.Helper()
		d.Spec.Replicas = new(int32)
		*d.Spec.Replicas = 1
		if d.Name == set.Name(release.Primary) {
			*d.Spec.Replicas = 2
		}
		text, err := json.Marshal(d)
		if err == nil {
			_, err = deployments.Patch(ctx, d.Name, types.ApplyPatchType, text, metav1.PatchOptions{FieldManager: "by-hand", Force: new(true)})
		}
		if err != nil {
			a.Fatal(err)
		}
	}
	route := func(primary, canary int) {
		a.Helper()
		patch := fmt.Sprintf(`[{"op":"replace","path":"/spec/http/0/route/0/weight","value":%d},{"op":"replace","path":"/spec/http/0/route/1/weight","value":%d}]`, primary, canary)
		if _, err := a.mesh.NetworkingV1().VirtualServices(a.namespace).Patch(ctx, set.VirtualService.Name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			a.Fatal(err)
		}
	}
	track := func(track release.Track) *appsv1.Deployment {
		a.Helper()
		d, err := set.Track(track, a.namespace, images[image])
		if err != nil {
			a.Fatal(err)
		}
		return d
	}
	apply(track(release.Canary))
	route(90, 10)
	time.Sleep(5 * time.Second)
	old := a.version()
	apply(track(release.Primary))
	route(100, 0)
	if err := deployments.Delete(context.WithoutCancel(ctx), set.Name(release.Canary), metav1.DeleteOptions{}); err != nil {
		a.Fatal(err)
	}
	switched := time.Now() // the pipeline says that the new version has all of the traffic
	time.Sleep(5 * time.Second)
	return []off{{old, switched, time.Now()}}
}
