package commands_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/rehearsal/gitops"
	"github.com/our-org/crossbill/rehearsal/load"
	"github.com/our-org/crossbill/rehearsal/setup"
)

// startFlux starts the Flux that all tests share.
var startFlux = sync.OnceValues(func() (*gitops.Flux, error) {
	ctx := context.Background()
	programs, err := setup.EnsureFlux(ctx, "", func(string, ...any) {})
	if err != nil {
		return nil, err
	}
	return gitops.StartFlux(ctx, running, programs, filepath.Join(filepath.Dir(running.Kubeconfig), "flux"))
})

// TestGitOps releases apps that the real Flux applies from Git, under steady traffic, while others commit and ask it to apply.
func TestGitOps(t *testing.T) {
	beside := map[string]func(*testing.T){
		"a whole release":         testBesideFlux,
		"rollbacks":               testRollbackBesideFlux,
		"Git is down":             testGitDown,
		"Flux is suspended":       testFluxSuspended,
		"Flux is let in":          testFluxLetIn,
		"somebody else's commits": testSomebodyElsesCommits,
		"the least rights":        testTheLeastRightsBesideFlux,
	}
	byCommits := map[string]func(*testing.T){
		"every step by commits":           testStepsInGit,
		"rollbacks by commits":            testRollbacksInGit,
		"rollback by commits without Git": testRollbackNow,
	}
	sideBySide := func(name string, tests map[string]func(*testing.T)) {
		t.Run(name, func(t *testing.T) {
			for name, test := range tests {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					test(t)
				})
			}
		})
	}
	if *long { // one after the other: two cores are enough for one Flux with so many apps
		sideBySide("side by side", beside)
		sideBySide("by commits", byCommits)
	} else {
		maps.Copy(beside, byCommits)
		sideBySide("side by side", beside)
	}
	t.Run("jobs that die", testCrashesInGit)
	t.Run("Flux is stopped", testFluxStopped) // for all of them
}

// beside is an app that a controller applies from a repository.
type beside struct {
	*app
	git    *gitops.Repository
	by     gitops.Applied
	flux   *gitops.Kustomization // by, where that is Flux
	argo   *gitops.Application   // by, where that is Argo CD
	config string
	first  string // text of the Deployment's manifest in the first commit
	load   *load.Generator
	inGit  bool // every step is a commit
}

// flux has Flux apply an app.
func flux(x *beside) (string, error) {
	flux, err := startFlux()
	if err != nil {
		return "", err
	}
	x.flux, err = flux.Apply(x.Context(), x.name, x.git, "./apps")
	x.by = x.flux
	return "flux", err
}

// Files of the app's manifests in Git.
const (
	deploymentFile = "apps/app/deployment.yaml"
	routeFile      = "apps/app/virtual-service.yaml"
)

// newBeside has Flux bring an app into the cluster, with an image, and waits until the gateway leads to it.
func newBeside(t *testing.T, name, image string) *beside {
	t.Helper()
	return newFromGit(t, name, image, "cluster")
}

// newFromGit is newBeside with the store that a release is written to.
func newFromGit(t *testing.T, name, image, store string) *beside {
	t.Helper()
	return newBesideA(t, flux, store, name, image)
}

// newBesideA is newFromGit with a controller.
func newBesideA(t *testing.T, apply func(*beside) (controller string, err error), store, name, image string, prepare ...func(*app)) *beside {
	t.Helper()
	x := &beside{app: newApp(t, name), inGit: store == "git"}
	x.writeManifests(
		"image: registry.example.com/our-org/qwik-node-app", "image: "+exact(images[image]),
		"metadata:\n  name: ", "metadata:\n  namespace: "+x.namespace+"\n  name: ")
	x.shape(prepare)
	folder := t.TempDir()
	var err error
	if x.git, err = gitops.Serve(filepath.Join(folder, "git"), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.git.Stop)
	x.commit("Add the app", x.files())
	x.first = x.show(deploymentFile)
	x.config = filepath.Join(folder, "crossbill.yaml")
	controller, err := apply(x)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`gitops: {controller: %s, store: %s, repository: %q, path: apps/app}
analysis:
  minDuration: 5s
  objectives:
    - {name: availability, objective: 99.9, margin: 1}
`, controller, store, x.git.URL)
	if err := os.WriteFile(x.config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	x.applied()
	x.served()
	return x
}

// exact is an image as Crossbill writes it: repository and digest.
func exact(image string) string {
	repository, digest, _ := strings.Cut(image, "@")
	if slash, colon := strings.LastIndex(repository, "/"), strings.LastIndex(repository, ":"); colon > slash {
		repository = repository[:colon]
	}
	return repository + "@" + digest
}

// files are the app's manifests, by their paths in Git.
func (x *beside) files() map[string]string {
	x.Helper()
	files := map[string]string{}
	names, err := filepath.Glob(filepath.Join(x.manifests, "*.yaml"))
	if err != nil {
		x.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			x.Fatal(err)
		}
		files["apps/app/"+filepath.Base(name)] = string(text)
	}
	return files
}

func (x *beside) commit(subject string, files map[string]string) {
	x.Helper()
	if _, err := x.git.Commit(subject, files); err != nil {
		x.Fatal(err)
	}
}

func (x *beside) show(file string) string {
	x.Helper()
	text, err := x.git.Show(file)
	if err != nil {
		x.Fatal(err)
	}
	return text
}

// applied waits until the controller has read and applied all that is in Git, drift included.
func (x *beside) applied() {
	x.Helper()
	ctx, cancel := context.WithTimeout(x.Context(), time.Minute)
	defer cancel()
	head, err := x.git.Head()
	if err == nil {
		err = errors.Join(x.by.Request(ctx), x.by.WaitApplied(ctx, head))
	}
	if err == nil {
		err = errors.Join(x.by.RequestApply(ctx), x.by.WaitHandled(ctx))
	}
	if err != nil {
		x.Fatal(err)
	}
}

// run runs a command with the app's configuration.
func (x *beside) run(args ...string) (code int, out string) {
	x.Helper()
	// Under traffic what gets requests is seen, as in a cluster that has Prometheus: on a busy machine a gateway may take
	// longer for a route than any delay.
	if x.load != nil && slices.Contains([]string{"promote", "cleanup", "rollback"}, args[0]) && !slices.Contains(args, "--prometheus") {
		args = append(args, "--prometheus", running.PrometheusURL)
	}
	code, out = x.crossbill(append(args, "--config", x.config)...)
	x.Logf("crossbill %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	return code, out
}

// do runs commands that are to succeed.
func (x *beside) do(commands ...[]string) {
	x.Helper()
	for _, args := range commands {
		if args[0] == "healthy" && x.inGit {
			args = []string{"verify", "--prometheus", running.PrometheusURL, "--interval", "1s", "--max-duration", "90s"}
		}
		if args[0] == "healthy" {
			x.healthy()
			continue
		}
		if code, _ := x.run(args...); code != 0 {
			x.Fatalf("crossbill %s: exit code %d", strings.Join(args, " "), code)
		}
	}
}

// others commit what the release does not know of and have the controller apply all of Git, again and again, until they are stopped.
// Then their last commit is applied.
func (x *beside) others() (stop func()) {
	x.Helper()
	ctx, cancel := context.WithCancel(x.Context())
	pause := 3 * time.Second // each step meets some of them; more would only keep Flux from what the other tests ask
	if *long {
		pause = time.Second
	}
	last := 0
	var group sync.WaitGroup
	x.Cleanup(group.Wait)
	group.Go(func() {
		for ctx.Err() == nil {
			last++
			if err := x.commitOthers(fmt.Sprint(last)); err != nil {
				x.Error(err)
			}
			err := errors.Join(x.by.Request(ctx), x.by.RequestApply(ctx))
			if x.argo != nil { // else it would never be done
				err = errors.Join(err, x.by.WaitHandled(ctx))
			}
			if err != nil && ctx.Err() == nil {
				x.Error(err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	})
	return func() {
		x.Helper()
		cancel()
		group.Wait()
		x.applied() // the last one was perhaps not asked for
		x.eventually(func() error {
			live, err := x.kube.CoreV1().ConfigMaps(x.namespace).Get(x.Context(), x.name+"-others", metav1.GetOptions{})
			if err == nil && live.Data["value"] != fmt.Sprint(last) {
				err = fmt.Errorf("of %d commits of others, %s are applied", last, live.Data["value"])
			}
			return err
		})
	}
}

// moves are what the route's weights and primary's pods went through, without repetitions.
type moves struct {
	Weights   []int    // of the canary
	Images    []string // of primary
	Templates int      // of primary's pods
}

// watched follows the app until it is stopped.
func (x *beside) watched() (stop func() moves) {
	x.Helper()
	ctx, cancel := context.WithCancel(x.Context())
	routes, err := x.mesh.NetworkingV1().VirtualServices(x.namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		x.Fatal(err)
	}
	deployments, err := x.kube.AppsV1().Deployments(x.namespace).Watch(ctx, metav1.ListOptions{LabelSelector: "version=primary"})
	if err != nil {
		x.Fatal(err)
	}
	var m moves
	var group sync.WaitGroup
	x.Cleanup(group.Wait)
	follow := func(w watch.Interface, note func(object any) error) {
		group.Go(func() {
			for event := range w.ResultChan() {
				if event.Type == watch.Error { // the watch ends
					continue
				}
				if err := note(event.Object); err != nil {
					x.Error(err)
				}
			}
		})
	}
	follow(routes, func(object any) error {
		text, err := json.Marshal(object.(*networking.VirtualService))
		if err != nil {
			return err
		}
		weight, err := canaryWeight(text)
		m.Weights = append(m.Weights, weight)
		return err
	})
	var templates []string
	follow(deployments, func(object any) error {
		template := object.(*appsv1.Deployment).Spec.Template
		m.Images = append(m.Images, template.Spec.Containers[0].Image)
		text, err := json.Marshal(template)
		templates = append(templates, string(text))
		return err
	})
	return func() moves {
		time.Sleep(200 * time.Millisecond) // the last events
		cancel()
		group.Wait()
		m.Weights, m.Images = slices.Compact(m.Weights), slices.Compact(m.Images)
		m.Templates = len(slices.Compact(templates))
		return m
	}
}

// rests checks that Git and the cluster have one image and nothing else has changed, that the controller has the app again as it
// had before the release, and that nothing moves any more.
func (x *beside) rests(image string) {
	x.Helper()
	x.applied()
	code, out := x.crossbill("status", "-o", "json", "--config", x.config)
	var status rollout.Status
	if err := json.Unmarshal([]byte(out), &status); code != 0 || err != nil {
		x.Fatalf("crossbill status: exit code %d, %v\n%s", code, err, out)
	}
	if status.Release != nil || status.Lock != "" || x.image("canary") != "" {
		x.Errorf("at rest there is release %+v, lock %q, canary %q", status.Release, status.Lock, x.image("canary"))
	}
	want := regexp.MustCompile(`image: \S+`).ReplaceAllLiteralString(x.first, "image: "+exact(images[image]))
	if diff := cmp.Diff(want, x.show(deploymentFile)); diff != "" {
		x.Errorf("the Deployment in Git (-want +got):\n%s", diff)
	}
	if got := x.image("primary"); got != exact(images[image]) {
		x.Errorf("primary runs %s, Git has %s", got, exact(images[image]))
	}
	for name, object := range x.objects() {
		if hold := object.GetAnnotations()["kustomize.toolkit.fluxcd.io/reconcile"]; hold != "" {
			x.Errorf("%s is held: %s", name, hold)
		}
		for _, managed := range object.GetManagedFields() {
			if strings.HasPrefix(managed.Manager, "crossbill") && strings.Contains(string(managed.FieldsV1.Raw), `"f:spec"`) {
				x.Errorf("crossbill still has fields of %s: %s", name, managed.FieldsV1.Raw)
			}
		}
	}
	before := x.state()
	x.applied()
	if after := x.state(); !maps.Equal(before, after) {
		x.Errorf("at rest something changes:\n%v\n%v", before, after)
	}
}

// objects are those that a release writes, by kind.
func (x *beside) objects() map[string]metav1.Object {
	x.Helper()
	ctx, get := x.Context(), metav1.GetOptions{}
	deployment, err := x.kube.AppsV1().Deployments(x.namespace).Get(ctx, x.name+"-primary", get)
	service, other := x.kube.CoreV1().Services(x.namespace).Get(ctx, x.name+"-service", get)
	err = errors.Join(err, other)
	route, other := x.mesh.NetworkingV1().VirtualServices(x.namespace).Get(ctx, x.name+"-vs", get)
	err = errors.Join(err, other)
	rule, other := x.mesh.NetworkingV1().DestinationRules(x.namespace).Get(ctx, x.name+"-dr", get)
	if err = errors.Join(err, other); err != nil {
		x.Fatal(err)
	}
	return map[string]metav1.Object{"Deployment": deployment, "Service": service, "VirtualService": route, "DestinationRule": rule}
}

// traffic sends requests through the gateway, so many a second, until it is stopped; none may be lost.
func (x *beside) traffic(rate int) (stop func() load.Tally) {
	x.Helper()
	began := time.Now()
	x.load = load.Start("http://"+running.GatewayAddress+"/", x.name+".example.com", rate)
	x.Cleanup(x.load.Stop)
	return func() load.Tally {
		x.Helper()
		x.load.Stop()
		tally := x.load.Between(began, time.Now())
		x.Logf("%+v", tally)
		if tally.Lost != 0 || tally.Requests == 0 {
			x.Errorf("of %d requests %d were lost: %v", tally.Requests, tally.Lost, tally.Problems)
		}
		return tally
	}
}

func testBesideFlux(t *testing.T) { newBeside(t, "beside", "drains a").releases("flux", true) }

// besideRate is how many requests a second a whole release has.
const besideRate = 200

// releases is a whole release under traffic, in which others may commit. Then there are more of them until there were enough
// requests.
func (x *beside) releases(controller string, busy bool) {
	x.Helper()
	began := time.Now()
	quiet, invariants, stop := x.traffic(besideRate), x.observe(), x.watched()
	seen := &offRoute{since: map[string]time.Time{"drains b": began, "drains c": began}}
	done := func() {}
	if busy {
		done = x.others()
	}
	seen.on("drains b")
	x.do([]string{"canary", "--image", images["drains b"]})
	x.commit("Give the route a timeout", map[string]string{routeFile: strings.Replace(x.show(routeFile), "    - name: release\n", "    - name: release\n      timeout: 7s\n", 1)})
	x.applied()
	if got := x.timeout(); got != 0 {
		x.Errorf("%s has changed the route of a release in flight: timeout %s", controller, got)
	}
	x.do([]string{"shift", "--steps", "50"},
		[]string{"verify", "--prometheus", running.PrometheusURL, "--interval", "1s", "--max-duration", "90s"},
		[]string{"promote"})
	x.applied()
	x.do([]string{"cleanup"})
	seen.off("drains a")
	x.applied()
	done()
	x.rests("drains b")
	if got := x.timeout(); got != 7*time.Second {
		x.Errorf("what was committed for the route meanwhile is not applied: timeout %s", got)
	}
	want := moves{Weights: []int{0, 10, 50, 100, 0}, Images: []string{exact(images["drains a"]), exact(images["drains b"])}, Templates: 2}
	got := stop()
	if busy && x.argo != nil { // which may undo a write by what it had read before, so that it is made again
		x.Logf("%+v", got)
		got = moves{append(firsts(got.Weights), got.Weights[len(got.Weights)-1]), firsts(got.Images), want.Templates}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		x.Errorf("what the route and primary went through (-want +got):\n%s", diff)
	}
	x.committed("drains a", "drains b")
	x.more(began, seen)
	took := x.takes()
	invariants()
	seen.end()
	tally := quiet()
	run := besideRun{Controller: controller, Mode: "cluster", Requests: tally.Requests, Lost: tally.Lost, WrongVersion: seen.wrong(x.load), SecondsCommitToApplied: took.Seconds()}
	if run.WrongVersion != 0 {
		x.Errorf("%d answers by a version that was off the route", run.WrongVersion)
	}
	if busy {
		keepRun(x.T, run)
	}
}

// more releases the app until it had enough requests since a time.
func (x *beside) more(since time.Time, seen *offRoute) {
	x.Helper()
	for round, next := 0, []string{"drains c", "drains a", "drains b"}; time.Since(since).Seconds()*besideRate < float64(*trafficRequests); round++ {
		x.oneMore(next[round%len(next)], seen)
	}
}

// oneMore rolls a release of an image back, and then releases it.
func (x *beside) oneMore(image string, seen *offRoute) {
	x.Helper()
	old := x.version()
	seen.on(image)
	x.do([]string{"canary", "--again", "--image", images[image]}, []string{"rollback"})
	seen.off(image)
	x.applied()
	seen.on(image)
	x.do([]string{"canary", "--again", "--image", images[image]}, []string{"healthy"}, []string{"promote"}, []string{"cleanup"})
	seen.off(old)
	x.applied()
}

// firsts are the values of a list in the order in which they come first.
func firsts[T comparable](all []T) (found []T) {
	for _, one := range all {
		if !slices.Contains(found, one) {
			found = append(found, one)
		}
	}
	return found
}

// offRoute are the times in which versions get no traffic.
type offRoute struct {
	since map[string]time.Time
	times []off
}

func (o *offRoute) off(version string) { o.since[version] = time.Now() }

func (o *offRoute) on(version string) {
	o.times = append(o.times, off{version, o.since[version], time.Now()})
	delete(o.since, version)
}

func (o *offRoute) end() {
	for _, version := range slices.Collect(maps.Keys(o.since)) {
		o.on(version)
	}
}

// wrong counts answers of versions from a second after they were off the route.
func (o *offRoute) wrong(generator *load.Generator) (n int) {
	for _, off := range o.times {
		n += generator.Between(off.from.Add(time.Second), off.to).Versions[off.version]
	}
	return n
}

// takes is how long it takes from a commit until it is applied, when the controller is asked for it at once: the median of five.
func (x *beside) takes() time.Duration {
	x.Helper()
	var took []time.Duration
	for i := range 5 {
		began := time.Now()
		if err := x.commitOthers(fmt.Sprintf("takes %d", i)); err != nil {
			x.Fatal(err)
		}
		x.applied()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	x.Logf("from a commit to applied: %s", took)
	return took[2]
}

// commitOthers commits what no release knows of.
func (x *beside) commitOthers(value string) error {
	text := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s-others, namespace: %s}\ndata: {value: %q}\n", x.name, x.namespace, value)
	_, err := x.git.Commit("Others", map[string]string{"apps/others.yaml": text})
	return err
}

var gitOpsOut = flag.String("gitops.json", "", "TestGitOps, TestArgoCD: file for what each controller's release, and the crashes of releases by commits, came to, to which it is added")

// besideRun is what a release beside a controller came to.
type besideRun struct {
	Controller             string  `json:"controller"`
	Mode                   string  `json:"mode"` // what steers the traffic: the cluster, or commits
	Requests               int     `json:"requests"`
	Lost                   int     `json:"lost"`
	WrongVersion           int     `json:"wrongVersion"`
	SecondsCommitToApplied float64 `json:"secondsCommitToApplied"`
}

var keeping sync.Mutex

// keep changes what the file has under a name.
func keep(t *testing.T, name string, change func(before json.RawMessage) (any, error)) {
	t.Helper()
	if *gitOpsOut == "" {
		return
	}
	keeping.Lock()
	defer keeping.Unlock()
	kept := map[string]json.RawMessage{}
	text, err := os.ReadFile(*gitOpsOut)
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	after, err := change(kept[name])
	if err == nil {
		kept[name], err = json.Marshal(after)
	}
	if err != nil {
		t.Fatal(err)
	}
	writeJSON(t, *gitOpsOut, kept)
}

// keepRun adds a run to the file, in place of an earlier one of the same controller and mode.
func keepRun(t *testing.T, run besideRun) {
	t.Helper()
	t.Logf("%+v", run)
	keep(t, "runs", func(before json.RawMessage) (any, error) {
		var all []besideRun
		if before != nil {
			if err := json.Unmarshal(before, &all); err != nil {
				return nil, err
			}
		}
		all = slices.DeleteFunc(all, func(r besideRun) bool { return r.Controller == run.Controller && r.Mode == run.Mode })
		return append(all, run), nil
	})
}

// timeout is that of the live route.
func (x *beside) timeout() time.Duration {
	x.Helper()
	live, err := x.mesh.NetworkingV1().VirtualServices(x.namespace).Get(x.Context(), x.name+"-vs", metav1.GetOptions{})
	if err != nil {
		x.Fatal(err)
	}
	return live.Spec.Http[0].Timeout.AsDuration()
}

// committed checks that Git had these images in turn.
func (x *beside) committed(want ...string) {
	x.Helper()
	log, err := x.git.Git("log", "--reverse", "--format=%H", "main", "--", deploymentFile)
	if err != nil {
		x.Fatal(err)
	}
	var got []string
	for commit := range strings.Lines(log) {
		text, err := x.git.Git("show", strings.TrimSpace(commit)+":"+deploymentFile)
		if err != nil {
			x.Fatal(err)
		}
		got = append(got, strings.TrimPrefix(regexp.MustCompile(`image: \S+`).FindString(text), "image: "))
	}
	for i, image := range want {
		want[i] = exact(images[image])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		x.Errorf("images in Git (-want +got):\n%s", diff)
	}
}

func testRollbackBesideFlux(t *testing.T) {
	onlyLong(t)
	newBeside(t, "backed", "drains a").rollbacks()
}

// rollbacks are one before and one after promotion.
func (x *beside) rollbacks() {
	x.Helper()
	quiet, invariants, stop := x.traffic(200), x.observe(), x.watched()
	done := x.others()

	x.do([]string{"canary", "--image", images["drains b"]})
	x.applied()
	x.do([]string{"rollback"})
	done()
	x.rests("drains a")
	x.committed("drains a")

	done = x.others()
	x.do([]string{"canary", "--again", "--image", images["drains b"]}, []string{"healthy"}, []string{"promote"})
	x.applied()
	x.do([]string{"rollback"})
	done()
	x.rests("drains a")
	x.committed("drains a", "drains b", "drains a")

	got := stop()
	if last := len(got.Images) - 1; got.Images[last] != exact(images["drains a"]) || x.argo == nil && got.Templates != 3 {
		x.Errorf("primary went through %v, %d templates", got.Images, got.Templates)
	}
	invariants()
	quiet()
}

// testGitDown: a promotion and a rollback route the traffic without Git, say what is missing, and end when Git is back.
func testGitDown(t *testing.T) {
	onlyLong(t)
	x := newBeside(t, "down", "drains a")
	quiet, invariants := x.traffic(50), x.observe()
	without := func(command string) {
		t.Helper()
		if code, out := x.run(command); code == 0 || !strings.Contains(out, x.git.URL) || !strings.Contains(out, "connection refused") {
			t.Errorf("%s without Git: exit code %d, and no word of %s", command, code, x.git.URL)
		}
	}
	x.do([]string{"canary", "--image", images["drains b"]}, []string{"healthy"})
	x.git.Stop()
	without("promote")
	x.is(atRest, "drains b")
	x.start()
	x.do([]string{"promote"}, []string{"cleanup"})
	x.rests("drains b")

	x.do([]string{"canary", "--image", images["drains c"]})
	x.git.Stop()
	without("rollback")
	x.is(atRest, "drains b")
	x.start()
	x.do([]string{"rollback"})
	x.rests("drains b")

	x.do([]string{"canary", "--again", "--image", images["drains c"]}, []string{"healthy"}, []string{"promote"})
	x.git.Stop()
	without("rollback")
	x.is(atRest, "drains b")
	x.start()
	x.do([]string{"rollback"})
	x.rests("drains b")
	x.committed("drains a", "drains b", "drains c", "drains b")
	invariants()
	quiet()
}

func (x *beside) start() {
	x.Helper()
	if err := x.git.Start(); err != nil {
		x.Fatal(err)
	}
}

// is checks the weights, and what primary runs.
func (x *beside) is(weights manifest.WeightPair, image string) {
	x.Helper()
	if got := x.weights(); got != weights || x.image("primary") != exact(images[image]) {
		x.Errorf("weights %+v, primary %s; want %+v and %s", got, x.image("primary"), weights, images[image])
	}
}

// testFluxSuspended: no release begins that Flux could not follow; one in flight ends all the same, and says so.
func testFluxSuspended(t *testing.T) {
	onlyLong(t)
	x := newBeside(t, "suspended", "drains a")
	quiet, invariants := x.traffic(50), x.observe()
	suspend := func(suspended bool) {
		t.Helper()
		if err := x.flux.Suspend(t.Context(), suspended); err != nil {
			t.Fatal(err)
		}
	}
	says := func(command string) {
		t.Helper()
		if code, out := x.run(command); code != 0 || !strings.Contains(out, "Kustomization flux-system/suspended is suspended") {
			t.Errorf("%s: exit code %d, or no word of the suspension", command, code)
		}
	}
	doctor := func(want int, text string) {
		t.Helper()
		if code, out := x.run("doctor"); code != want || !strings.Contains(out, text) {
			t.Errorf("doctor: exit code %d, want %d and %q", code, want, text)
		}
	}
	doctor(0, "✓ controller: Flux leaves a release alone")
	suspend(true)
	doctor(2, "✗ controller: Kustomization flux-system/suspended: it is suspended")
	before := x.state()
	if code, out := x.run("canary", "--image", images["drains b"]); code != 2 || !strings.Contains(out, "Kustomization flux-system/suspended: it is suspended") {
		t.Errorf("exit code %d, or no word of the suspension", code)
	}
	if after := x.state(); !maps.Equal(before, after) {
		t.Errorf("something was changed: %v, then %v", before, after)
	}
	suspend(false)
	x.do([]string{"canary", "--image", images["drains b"]}, []string{"healthy"})
	suspend(true)
	x.do([]string{"promote"})
	says("cleanup")
	suspend(false)
	x.rests("drains b")

	x.do([]string{"canary", "--image", images["drains c"]})
	suspend(true)
	says("rollback")
	x.is(atRest, "drains b")
	suspend(false)
	x.rests("drains b")
	invariants()
	quiet()
}

// testFluxStopped: a release that has to wait for Flux says so, and goes on when Flux is back.
func testFluxStopped(t *testing.T) {
	onlyLong(t)
	x := newBeside(t, "stopped", "drains a")
	quiet, invariants := x.traffic(50), x.observe()
	flux, err := startFlux()
	if err != nil {
		t.Fatal(err)
	}
	x.do([]string{"canary", "--image", images["drains b"]}, []string{"healthy"})
	flux.Kustomize.Stop()
	x.do([]string{"promote"})
	if code, out := x.run("cleanup", "--timeout", "8s"); code == 0 || !strings.Contains(out, "is kustomize-controller running?") {
		t.Errorf("cleanup without Flux: exit code %d", code)
	}
	x.is(atRest, "drains b")
	if err := flux.Kustomize.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.do([]string{"cleanup"})
	x.rests("drains b")
	invariants()
	quiet()
}

// testFluxLetIn: somebody lets Flux into a release, which it undoes. That is said before verify's time is up, nothing is
// promoted, and a rollback ends it.
func testFluxLetIn(t *testing.T) {
	onlyLong(t)
	x := newBeside(t, "let-in", "drains a")
	quiet := x.traffic(50)
	x.do([]string{"canary", "--image", images["drains b"]})
	began := time.Now()
	time.AfterFunc(4*time.Second, func() {
		const remove = `[{"op":"remove","path":"/metadata/annotations/kustomize.toolkit.fluxcd.io~1reconcile"}]`
		x.patchRoute(remove, "somebody")
		if err := x.flux.RequestApply(x.Context()); err != nil {
			x.Error(err)
		}
	})
	code, out := x.run("verify", "--prometheus", running.PrometheusURL, "--interval", "1s", "--max-duration", "90s")
	if code != 4 || !strings.Contains(out, "somebody else has changed the release") || time.Since(began) > 45*time.Second {
		t.Errorf("verify: exit code %d after %s", code, time.Since(began))
	}
	if code, _ := x.run("promote"); code == 0 {
		t.Error("a release that Flux has undone was promoted")
	}
	x.do([]string{"rollback"})
	x.rests("drains a")
	quiet()
}

// testSomebodyElsesCommits: an image that others have Git say meanwhile is not overwritten. The release ends when they have
// put back what it began with.
func testSomebodyElsesCommits(t *testing.T) {
	x := newBeside(t, "theirs", "drains a")
	quiet := x.traffic(50)
	x.do([]string{"canary", "--image", images["drains b"]}, []string{"healthy"})
	x.commit("Another image", map[string]string{deploymentFile: strings.Replace(x.first, exact(images["drains a"]), exact(images["drains c"]), 1)})
	if code, out := x.run("promote"); code != 1 || !strings.Contains(out, digest(images["drains c"])) {
		t.Errorf("promote: exit code %d, or no word of their image", code)
	}
	x.commit("The first image", map[string]string{deploymentFile: x.first})
	x.do([]string{"rollback"})
	x.rests("drains a")
	x.committed("drains a", "drains c", "drains a")
	quiet()
}

// testTheLeastRightsBesideFlux: every command works with the Role of k8s/guard and what `gitops config` prints, asks for
// nothing else, and needs all that it prints.
func testTheLeastRightsBesideFlux(t *testing.T) {
	x := newBeside(t, "least", "drains a")
	x.leastRights(x.fluxConfig())
}

// asAccount runs commands with an account that has the Role of a file in k8s/guard, and the rights of a Role and a RoleBinding
// beside that, and no others.
func (x *beside) asAccount(file string, printed []string) (as func(args ...string), app, controller *rights) {
	x.Helper()
	app, controller = &rights{x.account(file).Rules, map[string]bool{}}, &rights{x.makeRights(printed), map[string]bool{}}
	kubeconfig := x.kubeconfigOf("crossbill")
	return func(args ...string) {
		x.Helper()
		args = append(args, "--verbose", "--kubeconfig", kubeconfig, "--namespace", x.namespace, "--manifests", x.manifests, "--config", x.config)
		if args[0] != "doctor" {
			args = append(args, "--settle-delay", "200ms")
		}
		code, out := x.command(args...)
		for again := 0; again < 5 && args[0] == "doctor" && strings.Contains(out, "checks that could not be carried out"); again++ {
			code, out = x.command(args...) // as it asks for: Flux keeps the API server from answering within its five seconds
		}
		all, forbidden := requestsIn(x.T, out)
		if code != 0 || len(all) == 0 {
			x.Fatalf("%v: exit code %d\n%s", args, code, out)
		}
		for _, request := range forbidden {
			if !courtesies(request) {
				x.Errorf("%s: %s is forbidden", args[0], request)
			}
		}
		for _, request := range all {
			if !app.use(request) && !controller.use(request) && !courtesies(request) {
				x.Errorf("%s: the Roles lack %s", args[0], request)
			}
		}
	}, app, controller
}

// leastRights releases with an account that has the rights of a Role and a RoleBinding beside its own, and no others.
func (x *beside) leastRights(printed []string) {
	x.Helper()
	as, _, controller := x.asAccount("rbac.yaml", printed)
	as("doctor")
	as("canary", "--image", images["drains b"])
	x.healthy()
	as("promote")
	as("cleanup")
	x.rests("drains b")
	as("canary", "--image", images["drains c"])
	as("rollback")
	x.rests("drains b")
	for _, part := range controller.unused() {
		x.Errorf("no command uses %s of what gitops config prints", part)
	}
}

// testStepsInGit: every step is a commit that Flux applies, and the account that runs the commands only reads.
func testStepsInGit(t *testing.T) {
	x := newFromGit(t, "by-commits", "drains a", "git")
	as, app, _ := x.asAccount("read-rbac.yaml", x.fluxConfig())
	for _, rule := range app.rules {
		for _, action := range rule.Verbs {
			if action != "get" && action != "list" && action != "watch" {
				t.Errorf("k8s/guard/read-rbac.yaml allows %s of %v", action, rule.Resources)
			}
		}
	}
	began := time.Now()
	quiet, invariants, stop := x.traffic(besideRate), x.observe(), x.watched()
	seen := &offRoute{since: map[string]time.Time{"drains b": began, "drains c": began}}
	done := x.others()
	seen.on("drains b")
	as("canary", "--image", images["drains b"])
	as("shift", "--steps", "50")
	as("verify", "--prometheus", running.PrometheusURL, "--interval", "1s", "--max-duration", "90s")
	as("promote")
	as("cleanup")
	seen.off("drains a")
	done()
	x.rests("drains b")
	want := moves{Weights: []int{0, 10, 50, 100, 0}, Images: []string{exact(images["drains a"]), exact(images["drains b"])}, Templates: 2}
	if diff := cmp.Diff(want, stop()); diff != "" {
		t.Errorf("what the route and primary went through (-want +got):\n%s", diff)
	}
	x.committed("drains a", "drains b")
	x.logCommits()
	x.more(began, seen)
	took := x.takes()
	invariants()
	seen.end()
	tally := quiet()
	run := besideRun{Controller: "flux", Mode: "git", Requests: tally.Requests, Lost: tally.Lost, WrongVersion: seen.wrong(x.load), SecondsCommitToApplied: took.Seconds()}
	if run.WrongVersion != 0 {
		t.Errorf("%d answers by a version that was off the route", run.WrongVersion)
	}
	keepRun(t, run)
}

// testRollbacksInGit takes releases back from each stage, by commits.
func testRollbacksInGit(t *testing.T) {
	onlyLong(t)
	x := newFromGit(t, "undone", "drains a", "git")
	quiet, invariants := x.traffic(200), x.observe()
	x.do([]string{"canary", "--image", images["drains b"]}, []string{"rollback", "--reason", "it is bad"})
	x.rests("drains a")
	x.do([]string{"canary", "--image", images["drains b"], "--again"},
		[]string{"healthy"}, []string{"promote"}, []string{"rollback", "--reason", "it is bad"})
	x.rests("drains a")
	invariants()
	quiet()
	x.logCommits()
}

// testRollbackNow moves the traffic back while Git is down, and puts Git right when it is back.
func testRollbackNow(t *testing.T) {
	x := newFromGit(t, "unplugged", "drains a", "git")
	quiet, invariants := x.traffic(50), x.observe()
	x.do([]string{"canary", "--image", images["drains b"]})
	x.git.Stop()
	if code, out := x.run("rollback", "--now", "--reason", "it is bad"); code == 0 || !strings.Contains(out, x.git.URL) {
		t.Errorf("without Git: exit code %d, and no word of %s", code, x.git.URL)
	}
	if got := x.weights(); got != atRest {
		t.Errorf("without Git the weights are %+v", got)
	}
	x.start()
	if err := errors.Join(x.flux.Request(t.Context()), x.flux.RequestApply(t.Context())); err != nil {
		t.Error(err)
	}
	x.do([]string{"rollback", "--now", "--reason", "it is bad"})
	x.rests("drains a")
	invariants()
	quiet()
}

func (x *beside) logCommits() {
	x.Helper()
	log, err := x.git.Git("log", "--reverse", "--format=%s", "main")
	if err != nil {
		x.Fatal(err)
	}
	x.Logf("commits:\n%s", log)
}

// fluxConfig are the objects that `gitops config` prints.
func (x *beside) fluxConfig() []string {
	x.Helper()
	own := "flux-system/" + x.name
	return x.gitOpsConfig("--controller", "flux", "--kustomization", own, "--git-repository", own)
}

// gitOpsConfig are the objects that `gitops config` prints.
func (x *beside) gitOpsConfig(names ...string) []string {
	x.Helper()
	code, out := x.command(append([]string{"gitops", "config", "--namespace", x.namespace, "--manifests", x.manifests}, names...)...)
	if code != 0 {
		x.Fatalf("gitops config: exit code %d\n%s", code, out)
	}
	return strings.Split(out, "\n---\n")
}

// makeRights makes a Role and its binding.
func (x *beside) makeRights(printed []string) []rbacv1.PolicyRule {
	x.Helper()
	if len(printed) != 2 {
		x.Fatalf("%d objects: %s", len(printed), printed)
	}
	var role rbacv1.Role
	var binding rbacv1.RoleBinding
	err := errors.Join(yaml.UnmarshalStrict([]byte(printed[0]), &role), yaml.UnmarshalStrict([]byte(printed[1]), &binding))
	if err == nil {
		_, err = x.kube.RbacV1().Roles(role.Namespace).Create(x.Context(), &role, metav1.CreateOptions{})
	}
	if err == nil {
		_, err = x.kube.RbacV1().RoleBindings(binding.Namespace).Create(x.Context(), &binding, metav1.CreateOptions{})
	}
	if err != nil {
		x.Fatal(err)
	}
	return role.Rules
}
