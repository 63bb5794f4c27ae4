package commands_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

var (
	manyApps = flag.String("many.apps", "10", "TestManyApps: how many apps are released side by side, one run for each number")
	manyOut  = flag.String("many.json", "", "TestManyApps: file for what it measures")
)

// commandCost is what a command costs while a number of apps are released at the same time.
type commandCost struct {
	Apps     int     `json:"apps"`
	Command  string  `json:"command"`
	Requests int     `json:"requests"`      // to the API server by one command, at most; without watches and lock
	OwnMs    float64 `json:"ownMs"`         // that these took, the median of the apps
	Seconds  float64 `json:"medianSeconds"` // from begin to end, with the waits for pods
	P95      float64 `json:"p95Seconds"`
}

// TestManyApps releases many apps side by side against one API server, four to a namespace: every one
// comes to rest on its own image, and a command asks no more of the API server than for a single app.
func TestManyApps(t *testing.T) {
	if !*long { // else times are measured, beside nothing
		t.Parallel()
	}
	var out struct {
		Commands []commandCost    `json:"commands"`
		Memory   map[string]int64 `json:"commandPeakKiB"` // of `crossbill canary`, by how many apps there are
	}
	out.Memory = map[string]int64{}
	for _, text := range strings.Split(*manyApps, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		commands, memory := releaseManyApps(t, n)
		out.Commands = append(out.Commands, commands...)
		out.Memory[text] = memory
	}
	t.Log("apps  command           requests   own ms  median s   p95 s")
	for _, v := range out.Commands {
		t.Logf("%4d  %-13s  %8d  %7.0f  %8.2f  %6.2f", v.Apps, v.Command, v.Requests, v.OwnMs, v.Seconds, v.P95)
		if v.Requests > mostRequests && (v.Command != "first" || v.Requests > mostOfFirst) {
			t.Errorf("%s beside %d apps: %d requests", v.Command, v.Apps, v.Requests)
		}
	}
	t.Logf("memory of `crossbill canary`, KiB, by apps: %v", out.Memory)
	writeJSON(t, *manyOut, out)
}

// releaseManyApps releases n apps at the same time.
func releaseManyApps(t *testing.T, n int) (commands []commandCost, maxRSS int64) {
	t.Helper()
	apps := make([]*app, n)
	for i := range apps {
		a := &app{T: t, name: fmt.Sprintf("many-%d-%d", n, i), namespace: fmt.Sprintf("ns-many-%d-%d", n, i/4)}
		a.kube, a.mesh = clients(t, running.RESTConfig)
		a.writeManifests("replicas: 2", "replicas: 1")
		a.makeNamespace()
		apps[i] = a
	}
	type cost struct {
		requests   int
		own, total time.Duration
	}
	step := func(command string, run func(ctx context.Context, c *rollout.Cluster) error) {
		t.Helper()
		costs, failed := make([]cost, n), make([]error, n)
		var all sync.WaitGroup
		for i, a := range apps {
			c, count := a.counted()
			c.Timeout, c.Again = 5*time.Minute, true
			all.Go(func() {
				begin := time.Now()
				failed[i] = run(t.Context(), c)
				costs[i] = cost{len(count.seen) - 2*count.conflicts, count.took, time.Since(begin)}
			})
		}
		all.Wait()
		for i, err := range failed {
			if err != nil {
				t.Fatalf("%s of app %d of %d: %v", command, i, n, err)
			}
		}
		at := func(share float64, by func(cost) time.Duration) time.Duration {
			slices.SortFunc(costs, func(a, b cost) int { return int(by(a) - by(b)) })
			return by(costs[int(share*float64(n-1))])
		}
		own, total := func(c cost) time.Duration { return c.own }, func(c cost) time.Duration { return c.total }
		most := slices.MaxFunc(costs, func(a, b cost) int { return a.requests - b.requests }).requests
		commands = append(commands, commandCost{n, command, most, at(0.5, own).Seconds() * 1000, at(0.5, total).Seconds(), at(0.95, total).Seconds()})
	}
	canary := func(name string) func(context.Context, *rollout.Cluster) error {
		return func(ctx context.Context, c *rollout.Cluster) error {
			_, err := c.Canary(ctx, wanted(c, images[name]))
			return err
		}
	}
	step("first", canary("one"))
	step("canary", canary("two"))
	step("status", func(ctx context.Context, c *rollout.Cluster) error { _, err := c.Status(ctx); return err })
	c, count := apps[0].counted()
	begin := time.Now()
	all, err := rollout.StatusOfAll(t.Context(), c.Kube, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	inFlight := 0
	for _, s := range all {
		if strings.HasPrefix(s.App, fmt.Sprintf("many-%d-", n)) && s.Release != nil && s.Release.Stage == release.StageCanary && s.Tracks[release.Canary].Ready == 1 {
			inFlight++
		}
	}
	t.Logf("status of all %d apps: %s, %d requests", len(all), time.Since(begin).Round(time.Millisecond), len(count.seen))
	if inFlight != n || len(count.seen) > 6 {
		t.Errorf("%d of %d apps are shown with a canary, in %d requests", inFlight, n, len(count.seen))
	}
	commands = append(commands, commandCost{n, "status of all", len(count.seen), count.took.Seconds() * 1000, time.Since(begin).Seconds(), time.Since(begin).Seconds()})
	if code, out := apps[0].command("status", "--all", "--kubeconfig", running.Kubeconfig, "--namespace", apps[0].namespace); code != 0 || !strings.Contains(out, apps[0].name+"  canary  1/1 10%  1/1") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	for _, a := range apps {
		a.healthy()
	}
	step("promote", func(ctx context.Context, c *rollout.Cluster) error { _, err := c.Promote(ctx); return err })
	step("cleanup", func(ctx context.Context, c *rollout.Cluster) error { _, err := c.Cleanup(ctx); return err })
	for _, a := range apps {
		status, err := a.cluster("look", nil).Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		primary := status.Tracks[release.Primary]
		if status.Release != nil || *status.Weights != atRest || status.Tracks[release.Canary] != nil || primary == nil || digest(primary.Image) != digest(images["two"]) {
			t.Errorf("%s is not at rest on its new image: %+v", a.name, status)
		}
	}
	maxRSS = apps[0].memory("canary", "--image", images["three"])
	apps[0].must("rollback")
	for _, a := range apps { // their pods make room
		if err := a.kube.AppsV1().Deployments(a.namespace).Delete(t.Context(), a.name+"-primary", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return commands, maxRSS
}

// memory runs the command and gives the most memory that it had, in KiB. The kernel's account of a child
// begins with what its parent had, so the process is asked itself while it runs.
func (a *app) memory(args ...string) (most int64) {
	a.Helper()
	p := a.start(args...)
	ended := make(chan error, 1)
	go func() { ended <- p.Wait() }()
	for {
		select {
		case err := <-ended:
			if err != nil {
				a.Fatalf("%v\n%s", err, p.out.String())
			}
			return most
		case <-time.After(10 * time.Millisecond):
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmHWM:" {
				if kib, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
					most = max(most, kib)
				}
			}
		}
	}
}
