package commands_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/rehearsal/load"
)

// testPreview: a preview is reached by its header alone, by a real Envoy, while a whole release goes by, and ends under
// traffic.
func testPreview(a *app) {
	t := a.T
	host, atRest := a.served(), a.routesText()
	a.must("preview", "up", "--name", "pr-42", "--image", images["three"])
	a.only(host, "x-crossbill-preview: pr-42", "three")
	a.only(host, "x-crossbill-preview: pr-4", "one")
	address := "http://" + running.GatewayAddress + "/"
	others, headers := load.Start(address, host, 100), load.StartWith(address, host, "x-crossbill-preview", "pr-42", 50)
	defer others.Stop()
	defer headers.Stop()
	began := time.Now()
	a.must("canary", "--image", images["two"], "--weight", "30")
	a.healthy()
	a.must("promote")
	a.must("cleanup")
	for time.Since(began) < 25*time.Second { // a few thousand requests
		time.Sleep(time.Second)
	}
	seen, reached := others.Between(began, time.Now()), headers.Between(began, time.Now())
	t.Logf("others: %+v; with the header: %+v", seen, reached)
	if seen.Lost > 0 || seen.Versions["three"] > 0 || seen.Versions["two"] == 0 || seen.Requests < 2000 {
		t.Errorf("others saw %+v", seen)
	}
	if reached.Lost > 0 || reached.Versions["three"] != reached.Requests || reached.Requests < 1000 {
		t.Errorf("with the header: %+v", reached)
	}
	var list struct{ Items []rollout.Preview }
	code, out := a.command("preview", "list", "-o", "json", "--kubeconfig", running.Kubeconfig, "--namespace", a.namespace, "--manifests", a.manifests)
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 || len(list.Items) != 1 || !list.Items[0].Routed || list.Items[0].Ready != 1 {
		t.Errorf("list: %v, exit code %d\n%s", err, code, out)
	}
	ending := time.Now()
	a.must("preview", "down", "--name", "pr-42", "--settle-delay", "2s")
	a.only(host, "x-crossbill-preview: pr-42", "two")
	a.eventually(func() error { return a.noPreviews() })
	if ended := headers.Between(ending, time.Now()); ended.Lost > 0 || ended.Versions["three"]+ended.Versions["two"] != ended.Requests {
		t.Errorf("with the header, while it ended: %+v", ended)
	}
	if now := a.routesText(); now != atRest {
		t.Errorf("the routes are\n%swere\n%s", now, atRest)
	}
}

// TestPreviewByMetadata: the same of gRPC calls, by a GRPCRoute: a preview gets those with its header, and no others.
func TestPreviewByMetadata(t *testing.T) {
	t.Parallel()
	a := wireApp(t, "preview-grpcroute", "grpc", routeBy("GRPCRoute"))
	client := a.calls()
	track := func(headers ...string) (string, error) {
		var header metadata.MD
		_, err := client.Check(metadata.AppendToOutgoingContext(t.Context(), headers...), &health.HealthCheckRequest{}, grpc.Header(&header))
		return strings.Join(header.Get("x-app-track"), " "), err
	}
	all := func(want string, headers ...string) {
		t.Helper()
		a.eventually(func() error {
			if got, err := track(headers...); err != nil || got != want {
				return fmt.Errorf("calls with %v get to %q (%w), want %q", headers, got, err, want)
			}
			return nil
		})
		for n := range 200 {
			if got, err := track(headers...); err != nil || got != want {
				t.Errorf("call %d with %v gets to %q (%v), want %q", n, headers, got, err, want)
				break
			}
		}
	}
	all("primary")
	a.must("preview", "up", "--name", "pr-42", "--image", images["wire b"])
	all("preview-pr-42", "x-crossbill-preview", "pr-42")
	all("primary", "x-crossbill-preview", "pr-4")
	all("primary")
	a.must("preview", "down", "--name", "pr-42", "--settle-delay", "2s")
	all("primary", "x-crossbill-preview", "pr-42")
	a.eventually(func() error { return a.noPreviews() })
}

// noPreviews is an error while something of a preview is left.
func (a *app) noPreviews() error {
	ctx, of := a.Context(), metav1.ListOptions{LabelSelector: manifest.PreviewOfLabel + "=" + a.name}
	deployments, err := a.kube.AppsV1().Deployments(a.namespace).List(ctx, of)
	if err != nil {
		return err
	}
	services, err := a.kube.CoreV1().Services(a.namespace).List(ctx, of)
	if err != nil {
		return err
	}
	if left := len(deployments.Items) + len(services.Items); left > 0 {
		return fmt.Errorf("%d objects are left", left)
	}
	return nil
}

// TestRightsOfPreviews: the commands work with exactly both Roles, use all of the second one, and ask for nothing else.
func TestRightsOfPreviews(t *testing.T) {
	t.Parallel()
	a := newApp(t, "previewrights")
	granted := &rights{a.account("rbac.yaml").Rules, map[string]bool{}}
	a.must("canary", "--image", images["one"])
	second := &rights{a.account("../preview/rbac.yaml").Rules, map[string]bool{}}
	kubeconfig := a.kubeconfigOf("crossbill")
	for _, args := range [][]string{
		{"preview", "up", "--name", "pr-1", "--image", images["two"]},
		{"preview", "up", "--name", "pr-1", "--image", images["three"]},
		{"preview", "list"}, {"preview", "down", "--name", "pr-1"}, {"guard"},
	} {
		code, out := a.command(append(args, "--verbose", "--kubeconfig", kubeconfig, "--namespace", a.namespace, "--manifests", a.manifests)...)
		if code != 0 {
			t.Fatalf("%v: exit code %d\n%s", args, code, out)
		}
		all, forbidden := requestsIn(t, out)
		for _, r := range forbidden {
			if !courtesies(r) {
				t.Errorf("%v: %v is forbidden", args, r)
			}
		}
		for _, r := range all {
			one, other := granted.use(r), second.use(r)
			if !one && !other && !courtesies(r) {
				t.Errorf("%v: the Roles lack %v", args, r)
			}
		}
	}
	for _, part := range second.unused() {
		t.Errorf("no command uses %s", part)
	}
}
