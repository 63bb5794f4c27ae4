package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/our-org/crossbill/internal/image"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/rehearsal/cluster"
	"github.com/our-org/crossbill/rehearsal/gitops"
)

// arena is a cluster in which systems release.
type arena struct {
	*options
	cluster *cluster.Cluster
	kube    kubernetes.Interface
	objects dynamic.Interface
	images  map[string]string // references by behavior, by digest
	audit   *audit
	faults  *faults
	flux    *gitops.Flux // if there is a scenario with it
	number  atomic.Int64 // of apps, for their names
	ports   atomic.Int64

	mu     sync.Mutex
	report report
}

func newArena(ctx context.Context, o *options, c *cluster.Cluster) (*arena, error) {
	r := &arena{options: o, cluster: c}
	config := rest.CopyConfig(c.RESTConfig)
	config.UserAgent = "compare"
	config.QPS = -1
	var err error
	if r.kube, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if r.objects, err = dynamic.NewForConfig(config); err != nil {
		return nil, err
	}
	if r.images, err = pushImages(ctx, o.Work, c.RegistryHost); err != nil {
		return nil, err
	}
	for _, peer := range o.Peers {
		if err := c.Establish(ctx, peer.Kinds); err != nil {
			return nil, err
		}
	}
	if r.audit, err = follow(ctx, c.AuditLog()); err != nil {
		return nil, err
	}
	if r.faults, err = serveFaults(ctx); err != nil {
		return nil, err
	}
	if o.besideFlux() {
		if r.flux, err = gitops.StartFlux(ctx, c, o.Flux, filepath.Join(o.Work, "flux")); err != nil {
			return nil, err
		}
	}
	if slices.ContainsFunc(o.scenarios(), func(s scenario) bool { return s.autoscaled }) {
		if err := r.serveMetrics(ctx); err != nil {
			return nil, err
		}
	}
	err = r.create(ctx, "istio-system", `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public-gateway}
spec:
  selector: {istio: ingressgateway}
  servers:
    - port: {number: 80, name: http, protocol: HTTP}
      hosts: ["*.example.com"]
`)
	if err != nil {
		return nil, err
	}
	r.report = newReport(o)
	if o.Add == "" {
		return r, nil
	}
	earlier, err := readReport(o.Add)
	if err != nil {
		return nil, err
	}
	r.report, err = r.report.plus(earlier, o.renews()...)
	return r, err
}

// pushImages pushes an image for each behavior of the app.
func pushImages(ctx context.Context, work, to string) (map[string]string, error) {
	layer, err := image.Layer(work, []string{"app"}, "/srv", time.Unix(0, 0))
	if err != nil {
		return nil, err
	}
	base, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	pushed := map[string]string{}
	for name, env := range behaviors {
		config, err := base.ConfigFile()
		if err != nil {
			return nil, err
		}
		config = config.DeepCopy()
		config.Config.Entrypoint, config.Config.User = []string{"/srv/app"}, image.User
		config.Config.Env = append([]string{"VERSION=" + name, "DRAIN=5s"}, env...)
		made, err := mutate.ConfigFile(base, config)
		if err != nil {
			return nil, err
		}
		tag := to + "/compare/app:" + strings.NewReplacer(" ", "-", ".", "-").Replace(name)
		if pushed[name], err = registry.Push(ctx, made, tag, authn.DefaultKeychain); err != nil {
			return nil, err
		}
	}
	return pushed, nil
}

// repository is that of the app's images.
func (r *arena) repository() string { return r.cluster.RegistryHost + "/compare/app" }

// exact is an image by its digest alone, as it has to be in Git.
func (r *arena) exact(image string) string { return r.repository() + "@" + digest(image) }

// lane is where one system releases one app after the other: a namespace, with a controller of its own.
type lane struct {
	*arena
	id         systemID
	namespace  string
	controller *controller // nil for Crossbill
	system     system
}

// agents are what the audit log knows the systems by.
var agents = map[string]string{ours: "crossbill", "argo-rollouts": "rollouts-controller", "flagger": "flagger"}

// newLane makes a lane.
func (r *arena) newLane(ctx context.Context, id systemID, name string) (*lane, error) {
	l := &lane{arena: r, id: id, namespace: strings.ReplaceAll(name+"-"+id.String(), "/", "-")}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.namespace}}
	if _, err := r.kube.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	err := eventually(ctx, time.Minute, func() error {
		_, err := r.kube.CoreV1().ServiceAccounts(l.namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if err != nil {
		return nil, err
	}
	port := func() string { return strconv.FormatInt(18100+r.ports.Add(1), 10) }
	switch id.Name {
	case ours:
		l.system = &crossbill{lane: l, releases: map[string]*pipelines{}, has: map[int]float64{}}
		return l, nil
	case "argo-rollouts":
		l.system = &argoRollouts{l}
		l.controller = &controller{program: r.Peers[id.Name].Program, env: []string{"POD_NAMESPACE=" + l.namespace}, args: []string{
			"--kubeconfig", r.cluster.Kubeconfig, "--namespaced", "--namespace", l.namespace, "--healthzPort", port(), "--metricsPort", port()}}
	case "flagger":
		l.system = &flagger{l}
		l.controller = &controller{program: r.Peers[id.Name].Program, args: []string{
			"-kubeconfig", r.cluster.Kubeconfig, "-metrics-server", r.cluster.PrometheusURL, "-mesh-provider", "istio", "-namespace", l.namespace,
			"-port", port(), "-log-level", "info"}}
	}
	l.controller.name = agents[id.Name]
	l.controller.log = filepath.Join(r.cluster.Logs(), l.namespace+".log")
	return l, l.controller.start()
}

// close ends a lane's controller.
func (l *lane) close() {
	if l.controller != nil {
		l.controller.stop()
	}
}

// app is an app in a lane, for one release.
type app struct {
	lane   *lane
	s      scenario
	name   string
	values values
	host   string
	latest string // the image that was asked for last

	git     *gitops.Repository    // where its objects are, beside Flux
	applied *gitops.Kustomization // by which Flux applies them
}

func (l *lane) newApp(s scenario) *app {
	a := &app{lane: l, s: s, name: fmt.Sprintf("app-%d", l.number.Add(1)), latest: l.images["one"]}
	a.host = a.name + ".example.com"
	a.values = settings(s, l.id)
	if l.Short {
		a.values.shorten()
	}
	a.values.App, a.values.Namespace, a.values.Image, a.values.Prometheus = a.name, l.namespace, l.exact(l.images["one"]), l.cluster.PrometheusURL
	if s.outage {
		a.values.Faults = l.faults.address(a.name)
	}
	if s.configuration {
		a.values.ConfigMap, a.values.Configuration = a.name+"-settings", goodConfiguration
	}
	return a
}

// serves waits until ten answers in a row come from the first version.
func (a *app) serves(ctx context.Context) error {
	before, _ := a.s.versions()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	return eventually(ctx, a.s.patience(), func() error {
		for range 10 {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.lane.cluster.GatewayAddress+"/", nil)
			if err != nil {
				return err
			}
			request.Host = a.host
			response, err := client.Do(request)
			if err != nil {
				return err
			}
			response.Body.Close()
			got := response.Header.Get("x-app-version")
			if a.s.configuration {
				got = response.Header.Get("x-app-configuration")
			}
			if response.StatusCode != http.StatusOK || got != before {
				return fmt.Errorf("%s answers %s, version %q", a.host, response.Status, got)
			}
		}
		return nil
	})
}

// eventually asks until there is no error, or until a time has passed.
func eventually(ctx context.Context, within time.Duration, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// pods are those of an app, with those that end.
func (a *app) pods(ctx context.Context) ([]corev1.Pod, error) {
	// Flagger gives primary's pods a label of its own.
	list, err := a.lane.kube.CoreV1().Pods(a.lane.namespace).List(ctx, metav1.ListOptions{
		ResourceVersion: "0", LabelSelector: fmt.Sprintf("app in (%s,%s-primary)", a.name, a.name)})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// atRest says whether an app has its pods, all ready, none that ends, and all of the image that an outcome leaves.
func (a *app) atRest(pods []corev1.Pod, image string) bool {
	if len(pods) < a.values.Replicas || len(pods) > a.values.Replicas && !a.s.autoscaled {
		return false
	}
	for _, p := range pods {
		if p.DeletionTimestamp != nil || digest(p.Spec.Containers[0].Image) != digest(image) || !ready(p) {
			return false
		}
	}
	return true
}

func digest(reference string) string {
	_, digest, _ := strings.Cut(reference, "@")
	return digest
}

func ready(p corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// remove deletes an app and waits until its pods are gone.
func (a *app) remove(ctx context.Context) error {
	a.lane.system.end(a)
	if err := a.leaveGit(ctx); err != nil {
		return err
	}
	for _, kind := range []string{"Canary", "Rollout", "HorizontalPodAutoscaler", "AnalysisRun", "AnalysisTemplate", "VirtualService", "DestinationRule", "Service", "Deployment", "ConfigMap"} {
		client := a.lane.objects.Resource(kinds[kind]).Namespace(a.lane.namespace)
		list, err := client.List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) { // of a controller that is left out
			continue
		}
		if err != nil {
			return err
		}
		for _, o := range list.Items {
			if name := o.GetName(); name != a.name && !strings.HasPrefix(name, a.name+"-") && name != "crossbill-"+a.name {
				continue
			}
			if err := client.Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
	}
	return eventually(ctx, time.Minute, func() error {
		pods, err := a.pods(ctx)
		if err == nil && len(pods) > 0 {
			err = fmt.Errorf("%s still has %d pods", a.name, len(pods))
		}
		return err
	})
}

// faults says how many of the answers of an app are to fail, in percent.
type faults struct {
	listener net.Listener
	mu       sync.Mutex
	percent  map[string]float64
}

func serveFaults(ctx context.Context) (*faults, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &faults{listener: l, percent: map[string]float64{}}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		fmt.Fprint(w, f.percent[strings.TrimPrefix(r.URL.Path, "/")])
	})}
	go func() { _ = server.Serve(l) }()
	context.AfterFunc(ctx, func() { server.Close() })
	return f, nil
}

func (f *faults) address(app string) string {
	return "http://" + f.listener.Addr().String() + "/" + app
}

func (f *faults) set(app string, percent float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.percent[app] = percent
}

// task is releases of one scenario by several systems at the same time.
type task struct {
	s       scenario
	run     int // from 1
	systems []systemID
}

func (t task) String() string {
	var names []string
	for _, s := range t.systems {
		names = append(names, s.String())
	}
	return fmt.Sprintf("%s, run %d: %s", t.s.Name, t.run, strings.Join(names, ", "))
}

// expected is how long a task takes, at most as a rule: one that would not end in time is not started.
func (t task) expected() time.Duration {
	longest := 2 * time.Minute
	for _, id := range t.systems {
		switch {
		case id.Config == docs:
			longest = max(longest, 12*time.Minute)
		case t.s.Long:
			longest = max(longest, 5*time.Minute)
		case t.s.Right != promoted && t.s.Bound > 0, t.s.second, t.s.Image == "crash":
			longest = max(longest, min(t.s.bound(id), 3*time.Minute)+time.Minute)
		}
	}
	return longest
}

// tasks are what is to be done, in order: one run of everything before the second of anything. Those that take minutes are
// done once, beside the others; as often as any where there are no others.
func tasks(o *options) (short, long []task) {
	var tightOnes, docsOnes []systemID
	for _, id := range o.systems() {
		if o.Left[id.Name] != "" {
			continue
		}
		if id.Config == docs {
			docsOnes = append(docsOnes, id)
		} else {
			tightOnes = append(tightOnes, id)
		}
	}
	for run := 1; run <= o.Runs; run++ {
		for _, s := range o.scenarios() {
			if !s.Long && len(tightOnes) > 0 {
				short = append(short, task{s, run, tightOnes})
			}
		}
	}
	runs := 1
	if len(short) == 0 {
		runs = o.Runs
	}
	for run := 1; run <= runs; run++ {
		for _, s := range o.scenarios() {
			if s.Long && len(tightOnes) > 0 {
				long = append(long, task{s, run, tightOnes})
			}
		}
	}
	var byDocs []task
	for _, s := range o.scenarios() {
		if s.Docs && len(docsOnes) > 0 {
			byDocs = append(byDocs, task{s, 1, docsOnes})
		}
	}
	return short, inTurn(long, byDocs)
}

func inTurn(a, b []task) (all []task) {
	for i := range max(len(a), len(b)) {
		if i < len(a) {
			all = append(all, a[i])
		}
		if i < len(b) {
			all = append(all, b[i])
		}
	}
	return all
}

// longSide is how many of the tasks that take minutes run beside others.
const longSide = 2

// run does all tasks until they are done or the time is over. What there is is written after each.
func (r *arena) run(ctx context.Context) error {
	deadline := r.Started.Add(time.Duration(r.Minutes * float64(time.Minute)))
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	short, long := tasks(r.options)
	r.logf("%d releases, side by side; the run ends by %s", count(short)+count(long), deadline.Format("15:04:05"))
	var workers sync.WaitGroup
	errs := make(chan error, r.Side+longSide)
	work := func(name string, queue *queue) {
		workers.Go(func() {
			if err := r.work(ctx, name, queue); err != nil && ctx.Err() == nil {
				errs <- err
			}
		})
	}
	shorts, longs := &queue{tasks: short, until: deadline}, &queue{tasks: long, until: deadline}
	for i := range min(r.Side, len(short)) {
		work(fmt.Sprintf("s%d", i+1), shorts)
	}
	lanes := longSide
	if len(short) == 0 {
		lanes = r.Side
	}
	for i := range min(lanes, len(long)) {
		work(fmt.Sprintf("l%d", i+1), longs)
	}
	workers.Wait()
	if r.Fleet > 0 && ctx.Err() == nil {
		if err := r.fleet(ctx); err != nil && ctx.Err() == nil {
			errs <- err
		}
	}
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		all = append(all, cause)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Left = append(append(shorts.left(), longs.left()...), r.report.Left...)
	if err := r.write(); err != nil {
		all = append(all, err)
	}
	if err := r.keepLogs(); err != nil {
		all = append(all, err)
	}
	fmt.Println(r.report.summary())
	fmt.Printf("figures: %s; page: %s; logs: %s\n", r.Out, r.Page, r.logs())
	return errors.Join(all...)
}

// logs is the folder for what the systems have written.
func (r *arena) logs() string { return filepath.Join(filepath.Dir(r.Out), "logs", "compare") }

// keepLogs copies what the systems have written in their lanes.
func (r *arena) keepLogs() error {
	for _, id := range systems {
		files, err := filepath.Glob(filepath.Join(r.cluster.Logs(), "*-"+strings.ReplaceAll(id.String(), "/", "-")+".log"))
		if err != nil {
			return err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if err := writeWhole(filepath.Join(r.logs(), filepath.Base(file)), text); err != nil {
				return err
			}
		}
	}
	return nil
}

func count(tasks []task) (n int) {
	for _, t := range tasks {
		n += len(t.systems)
	}
	return n
}

// queue gives tasks out, as long as they would end in time.
type queue struct {
	mu    sync.Mutex
	tasks []task
	until time.Time
}

func (q *queue) next() (task, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, t := range q.tasks {
		if time.Until(q.until) > t.expected() {
			q.tasks = append(q.tasks[:i:i], q.tasks[i+1:]...)
			return t, true
		}
	}
	return task{}, false
}

// left are the tasks that nobody has done.
func (q *queue) left() (names []string) {
	for _, t := range q.tasks {
		names = append(names, t.String())
	}
	return names
}

// work does tasks one after the other, in lanes of its own.
func (r *arena) work(ctx context.Context, name string, queue *queue) error {
	lanes := map[systemID]*lane{}
	defer func() {
		for _, l := range lanes {
			l.close()
		}
	}()
	for {
		t, ok := queue.next()
		if !ok || ctx.Err() != nil {
			return nil
		}
		var own []*lane
		for _, id := range t.systems {
			if lanes[id] == nil {
				var err error
				if lanes[id], err = r.newLane(ctx, id, name); err != nil {
					return err
				}
			}
			own = append(own, lanes[id])
		}
		r.logf("%s: starts", t)
		records := r.compete(ctx, t, own)
		r.mu.Lock()
		r.report.add(records...)
		err := r.write()
		r.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// compete has systems release the same at the same time. A release that the end of the time cut off is no record.
func (r *arena) compete(ctx context.Context, t task, lanes []*lane) (records []record) {
	ready := newBarrier(len(lanes))
	all := make([]*record, len(lanes))
	var group sync.WaitGroup
	for i, l := range lanes {
		group.Go(func() {
			a := l.newApp(t.s)
			defer func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
				defer cancel()
				if err := a.remove(ctx); err != nil {
					r.logf("%s: %s: %v", t.s.Name, l.id, err)
				}
			}()
			played, err := a.play(ctx, ready)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				r.logf("%s: %s: not measured: %v", t.s.Name, l.id, err)
				return
			}
			played.Run = t.run
			all[i] = played
			r.logf("%s: %s", t.s.Name, played)
		})
	}
	group.Wait()
	for _, one := range all {
		if one != nil {
			records = append(records, *one)
		}
	}
	return records
}

// barrier holds those who come until all have.
type barrier struct {
	group sync.WaitGroup
	all   chan struct{}
	since time.Time // when all had come; read it after all is closed
}

func newBarrier(n int) *barrier {
	b := &barrier{all: make(chan struct{})}
	b.group.Add(n)
	go func() {
		b.group.Wait()
		b.since = time.Now()
		close(b.all)
	}()
	return b
}

// come says that one is here, ready or not.
func (b *barrier) come() { b.group.Done() }

func (b *barrier) wait(ctx context.Context) {
	select {
	case <-b.all:
	case <-ctx.Done():
	}
}

func (r *arena) logf(format string, args ...any) {
	fmt.Printf("%5.0fs  %s\n", time.Since(r.Started).Seconds(), fmt.Sprintf(format, args...))
}

// write writes the figures and the page. The caller holds r.mu.
func (r *arena) write() error {
	text, err := r.report.json()
	if err != nil {
		return err
	}
	if err := writeWhole(r.Out, text); err != nil {
		return err
	}
	return writeWhole(r.Page, []byte(r.report.page()))
}
