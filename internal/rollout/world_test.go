package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	istio "istio.io/client-go/pkg/clientset/versioned"
	istioscheme "istio.io/client-go/pkg/clientset/versioned/scheme"
	networkingclient "istio.io/client-go/pkg/clientset/versioned/typed/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	appsv1client "k8s.io/client-go/kubernetes/typed/apps/v1"
	autoscalingv2client "k8s.io/client-go/kubernetes/typed/autoscaling/v2"
	batchv1client "k8s.io/client-go/kubernetes/typed/batch/v1"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryv1client "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

type subset = networkingapi.Subset

// namespace is the one that the tests' app is in.
const namespace = "prod"

func init() {
	klog.LogToStderr(false) // leader election says there what its caller gets as an error
	klog.SetLogger(klog.Logger{})
}

// image is one of the app's images, named by a digit.
func image(digit string) string {
	return "registry.example.com/our-org/qwik-node-app@sha256:" + strings.Repeat(digit, 64)
}

// taggedImage is image 1 as people deploy it manually.
const taggedImage = "registry.example.com/our-org/qwik-node-app:v1"

// digitOf is the name of an image.
func digitOf(image string) string {
	if digest := release.DigestOf(image); digest != "" {
		return strings.TrimPrefix(digest, "sha256:")[:1]
	}
	return "?"
}

// world is a cluster with one app, at a time of its own.
type world struct {
	*testing.T
	server      *apiServer
	controllers *controllers
	observer    *observer
	set         *manifest.Set
	kube        kubernetes.Interface // a person's
	mesh        istio.Interface
	effects     []effect
	jobs        int
	applies     bool // its releases apply the other objects of the manifests
	// configured: the app's pods read configuration, and its releases change nothing else: what is called an image
	// elsewhere is a version of it here.
	configured bool
	gateway    bool // the app is routed by an HTTPRoute
	flux       *flux
	controlled bool // Flux applies the app
	git        *gitFlux
	committed  bool // its releases are commits
}

// loadManifests gives a copy of the app's for the tests' namespace.
func loadManifests() (*manifest.Set, error) {
	set, err := manifests()
	if err != nil {
		return nil, err
	}
	own := *set
	own.Service, own.Deployment = set.Service.DeepCopy(), set.Deployment.DeepCopy()
	own.VirtualService, own.DestinationRule = set.VirtualService.DeepCopy(), set.DestinationRule.DeepCopy()
	own.Gateways = slices.Clone(set.Gateways)
	for i := range own.Gateways {
		own.Gateways[i] = own.Gateways[i].DeepCopy()
	}
	own.Others = slices.Clone(set.Others)
	for i := range own.Others {
		own.Others[i] = own.Others[i].DeepCopy()
	}
	own.ConfigMaps, own.Secrets, own.Jobs = maps.Clone(set.ConfigMaps), maps.Clone(set.Secrets), maps.Clone(set.Jobs) // there are none
	return &own, nil
}

// manifests are the app's for the tests' namespace. They are shared: who changes them loads their own.
var manifests = sync.OnceValues(func() (*manifest.Set, error) {
	set, err := manifest.Load("../../k8s")
	if err == nil {
		err = set.In(namespace)
	}
	if err == nil { // as older manifests are; some stages take the route into the mesh
		set.VirtualService.Spec.Gateways = slices.DeleteFunc(set.VirtualService.Spec.Gateways, func(name string) bool { return name == manifest.MeshGateway })
	}
	return set, err
})

// moment is a cluster at some time. It never changes.
type moment struct {
	now     time.Time
	version int64
	uids    int
	objects map[place]*stored
	pods    map[string]int

	commits  []string
	artifact int

	files     []map[string][]byte
	subjects  []string
	inventory map[string]*unstructured.Unstructured
}

// stages are what many tests begin at, each made once by the commands themselves.
var stages sync.Map // of func(*testing.T) passage by name

// configuredApp is the prefix of a stage of the app that reads configuration.
const configuredApp = "configured, "

// earlier is the stage that another one goes on from. What has no earlier one begins with nothing.
var earlier = map[string]string{
	"foreign": "rest", "held": "rest", "started": "rest", "sticky": "rest", "promoted with a Service": "rest", "promoted in the mesh": "rest", "warm": "promoted in the mesh",
	"matched": "rest", "mirrored": "rest", "mirrored healthy": "mirrored",
	"beside": "rest", "beside half": "rest", "beside healthy": "beside", "beside moving": "beside healthy", "beside promoting": "beside healthy", "beside promoted": "beside healthy",
	"planned": "rest", "planned healthy": "planned", "planned paused": "planned healthy", "planned next": "planned healthy", "planned half taken": "planned next",
	"canary": "rest", "held in flight": "canary", "rolling_back": "canary", "rolled_back": "canary", "unhealthy": "canary", "inconclusive": "canary", "healthy": "canary",
	"promoting": "healthy", "moving": "healthy", "rolling": "healthy", "rolled": "healthy", "promoted": "healthy", "ended": "promoted",
	"next": "ended", "next healthy, promoted": "next", "returning": "ended", "returning to primary": "ended", "returned": "ended",
}

// byApp splits a stage into the prefix of its app and the rest.
func byApp(stage string) (app, plain string) {
	plain = stage
	for _, prefix := range []string{gatewayApp, configuredApp, othersApp, fluxApp, gitApp} {
		plain = strings.TrimPrefix(plain, prefix)
	}
	return strings.TrimSuffix(stage, plain), plain
}

// passage is a stage: as its command has left the cluster, for the stages that go on from it, and some time later.
type passage struct{ left, settled *moment }

// through is a stage, which is made once.
func through(t *testing.T, stage string) passage {
	t.Helper()
	var once sync.Once
	var made passage
	entry, _ := stages.LoadOrStore(stage, func(t *testing.T) passage {
		once.Do(func() {
			app, plain := byApp(stage)
			var start *moment
			if before, ok := earlier[plain]; ok {
				start = through(t, app+before).left
			}
			inWorld(t, stage, start, func(w *world) {
				if start == nil {
					w.begin(app, plain)
				} else {
					w.bring(plain)
				}
				left := w.moment()
				if plain != "new" && !strings.HasPrefix(plain, "manual") {
					time.Sleep(150 * time.Second) // whoever was killed is dead, by any clock, and all that is made is ready
				}
				made = passage{left, w.moment()}
			})
		})
		return made
	})
	found := entry.(func(*testing.T) passage)(t)
	if found.settled == nil {
		t.Fatalf("stage %s could not be prepared", stage)
	}
	return found
}

// at runs a test in a cluster whose app is at a stage of the release of image 2, on a primary that runs image
// 1; with the prefix, of the release of version 2 of its configuration. In the end no invariant has been broken.
func at(t *testing.T, stage string, test func(w *world)) {
	t.Helper()
	inWorld(t, stage, through(t, stage).settled, test)
}

// moment is the cluster as it is.
func (w *world) moment() *moment {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	newObserver(w.set).look(w.server) // so that no world has to read the objects again
	for _, o := range w.server.objects {
		o.text()
	}
	if w.controlled || w.committed {
		w.flux.mu.Lock()
		defer w.flux.mu.Unlock()
	}
	return &moment{files: slices.Clone(w.git.repository.commits), subjects: slices.Clone(w.git.repository.subjects), inventory: w.git.inventory, commits: slices.Clone(w.flux.commits), artifact: w.flux.artifact, now: time.Now(), version: w.server.version, uids: w.server.uids, objects: maps.Clone(w.server.objects), pods: maps.Clone(w.controllers.pods)}
}

// inWorld runs a test in a cluster of its own, new or as it was at a moment.
func inWorld(t *testing.T, stage string, start *moment, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		plain, gateway := byGateway(stage)
		set, err := manifests()
		if gateway {
			set, err = gatewaySet()
		}
		if err != nil {
			t.Fatal(err)
		}
		w := &world{T: t, server: newAPIServer(), set: set, observer: newObserver(set), configured: strings.HasPrefix(plain, configuredApp), gateway: gateway}
		if w.configured {
			w.set = w.version("1")
		}
		w.controllers = newControllers(w.server)
		w.server.changed = append(w.server.changed, w.observer.see, w.note)
		w.kube, w.mesh = w.clients("them", w.server)
		w.flux = newFlux(w)
		w.git = &gitFlux{flux: w.flux, repository: &repository{}}
		if start != nil {
			time.Sleep(time.Until(start.now))
			w.server.version, w.server.uids, w.controllers.pods = start.version, start.uids, maps.Clone(start.pods)
			for p, o := range start.objects {
				own := *o
				w.server.objects[p] = &own
			}
			w.observer.look(w.server)
			w.observer.started = true
			w.flux.commits, w.flux.artifact = slices.Clone(start.commits), start.artifact
			w.git.repository.commits, w.git.repository.subjects, w.git.inventory = slices.Clone(start.files), slices.Clone(start.subjects), start.inventory
			w.applies, w.controlled, w.committed = strings.HasPrefix(plain, othersApp), strings.HasPrefix(plain, fluxApp), strings.HasPrefix(plain, gitApp)
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer func() {
			cancel()
			synctest.Wait()
		}()
		go w.controllers.run(ctx)
		if strings.HasPrefix(plain, fluxApp) {
			go w.flux.run(ctx)
		}
		if strings.HasPrefix(plain, gitApp) {
			go w.git.run(ctx)
		}
		if start == nil {
			w.must(w.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}))
			if gateway {
				w.makeGateway()
			}
		}
		test(w)
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		for _, problem := range w.observer.problems {
			t.Error(problem)
		}
	})
}

// clients are the real ones, over a network.
func (w *world) clients(by string, network http.RoundTripper) (kubernetes.Interface, istio.Interface) {
	w.Helper()
	network = agent{by, network}
	config := rest.Config{Host: "http://cluster.test", QPS: -1, ContentConfig: rest.ContentConfig{ContentType: runtime.ContentTypeJSON, AcceptContentTypes: runtime.ContentTypeJSON}}
	client := &http.Client{Transport: network}
	of := func(path string, group schema.GroupVersion) rest.Interface {
		return w.remembered(config, client, path, group, scheme.Codecs)
	}
	return &kubeClients{
		core: corev1client.New(of("/api", corev1.SchemeGroupVersion)), apps: appsv1client.New(of("/apis", appsv1.SchemeGroupVersion)),
		batch: batchv1client.New(of("/apis", batchv1.SchemeGroupVersion)), autoscaling: autoscalingv2client.New(of("/apis", autoscalingv2.SchemeGroupVersion)),
		coordination: coordinationv1client.New(of("/apis", coordinationv1.SchemeGroupVersion)), slices: discoveryv1client.New(of("/apis", discoveryv1.SchemeGroupVersion)),
		discovery: made(w, discovery.NewDiscoveryClientForConfigAndClient, &config, client),
	}, &meshClients{networking: networkingclient.New(w.remembered(config, client, "/apis", networking.SchemeGroupVersion, istioscheme.Codecs))}
}

func made[T any](w *world, by func(*rest.Config, *http.Client) (T, error), config *rest.Config, client *http.Client) T {
	w.Helper()
	c, err := by(config, client)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// kubeClients are those of a clientset that somebody uses here: it takes longer to make all of them than a command runs.
type kubeClients struct {
	kubernetes.Interface // nil: another client panics
	core                 *corev1client.CoreV1Client
	apps                 *appsv1client.AppsV1Client
	batch                *batchv1client.BatchV1Client
	autoscaling          *autoscalingv2client.AutoscalingV2Client
	coordination         *coordinationv1client.CoordinationV1Client
	slices               *discoveryv1client.DiscoveryV1Client
	discovery            *discovery.DiscoveryClient
}

func (c *kubeClients) CoreV1() corev1client.CoreV1Interface    { return c.core }
func (c *kubeClients) AppsV1() appsv1client.AppsV1Interface    { return c.apps }
func (c *kubeClients) BatchV1() batchv1client.BatchV1Interface { return c.batch }
func (c *kubeClients) AutoscalingV2() autoscalingv2client.AutoscalingV2Interface {
	return c.autoscaling
}
func (c *kubeClients) CoordinationV1() coordinationv1client.CoordinationV1Interface {
	return c.coordination
}
func (c *kubeClients) DiscoveryV1() discoveryv1client.DiscoveryV1Interface { return c.slices }
func (c *kubeClients) Discovery() discovery.DiscoveryInterfaces            { return c.discovery }

// meshClients is the same of Istio's.
type meshClients struct {
	istio.Interface
	networking *networkingclient.NetworkingV1Client
}

func (c *meshClients) NetworkingV1() networkingclient.NetworkingV1Interface { return c.networking }

// agent names who sends a request.
type agent struct {
	name string
	next http.RoundTripper
}

func (a agent) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", a.name)
	return a.next.RoundTrip(r)
}

// must ends the test when something that prepares it fails.
func (w *world) must(_ any, err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// job is a command's view of the cluster, with a network of its own.
type job struct {
	*rollout.Cluster
	*network
	name   string
	logged []string
}

// job is a new one. Each has another name, so that its writes can be identified.
func (w *world) job(name string) *job {
	w.Helper()
	w.jobs++
	j := &job{name: fmt.Sprintf("%s-%d", name, w.jobs)}
	ctx, cancel := context.WithCancel(w.Context())
	j.network = &network{world: w, by: j.name, ctx: ctx, kill: cancel}
	j.Cluster = &rollout.Cluster{Namespace: namespace, Manifests: w.set, By: j.name}
	if w.configured {
		j.Manifests = w.version("2")
	}
	j.API = &rollout.Contact{}
	j.Kube, j.Istio = w.clients(j.name, j.API.Wrap(j.network))
	j.Kinds = rollout.NewKinds(w.dynamic(j.name, j.API.Wrap(j.network)), j.Kube.Discovery())
	if j.ApplyOthers = w.applies; w.applies {
		j.Manifests = w.withOthers()
	}
	if w.controlled {
		j.GitOps = w.gitOps(j)
	}
	if w.committed {
		w.inGit(j)
	}
	var mu sync.Mutex
	j.Log = func(e rollout.Event) {
		mu.Lock()
		defer mu.Unlock()
		j.logged = append(j.logged, e.Object+": "+e.Message)
	}
	return j
}

// fault is what happens to one write of a job.
type fault string

const (
	none     fault = ""
	never    fault = "never arrives"        // the connection is refused
	silent   fault = "is done, answer lost" // the connection breaks behind it
	dies     fault = "is done, the job is killed"
	refused  fault = "is refused, each time"
	outdated fault = "meets a conflict"
)

var errKilled = errors.New("the job was killed")

// network is a job's way to the API server. It counts the job's writes, but for dry runs and those to its Lease, which
// leader election sends at times of its own.
type network struct {
	world *world
	by    string
	ctx   context.Context
	kill  context.CancelFunc

	mu      sync.Mutex
	at      int // which write meets the fault, from 1
	fault   fault
	seen    int
	hit     string                    // the write that met it
	killOn  string                    // the effect after which the job is killed
	before  func(*http.Request) error // says what becomes of a request, when it is set
	killed  bool
	took    time.Duration
	refuses string // method and path that are refused from now on
	every   []string
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	what := r.Method + " " + r.URL.Path
	counts := r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "/leases") && r.URL.Query().Get("dryRun") == ""
	if counts && !n.killed {
		n.seen++
		n.every = append(n.every, what)
	}
	hit := counts && n.seen == n.at && n.hit == ""
	if hit {
		n.hit = what
		if n.fault == refused {
			n.refuses = what
		}
	}
	killed, refuse, before := n.killed, counts && n.refuses == what, n.before
	n.mu.Unlock()
	if killed {
		return nil, errKilled
	}
	if before != nil {
		if err := before(r); err != nil {
			if _, ok := err.(interface{ Status() metav1.Status }); ok {
				return failure(r, err), nil
			}
			return nil, err
		}
	}
	switch {
	case refuse:
		return failure(r, forbidden(what)), nil
	case hit && n.fault == never:
		return nil, syscall.ECONNREFUSED
	case hit && n.fault == outdated && r.Method != http.MethodPost:
		return failure(r, conflict(request{}, "somebody was faster")), nil
	}
	effects := len(n.world.by(n.by))
	response, err := n.world.server.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if now := n.world.by(n.by); n.killOn != "" && len(now) > effects && strings.HasPrefix(now[len(now)-1].String(), n.killOn) {
		hit = true
		n.fault = dies
	}
	switch {
	case hit && n.fault == dies:
		n.mu.Lock()
		n.killed = true
		n.mu.Unlock()
		n.kill()
		response.Body.Close()
		return nil, errKilled
	case hit && n.fault == silent:
		response.Body.Close()
		return nil, syscall.ECONNRESET
	}
	return response, nil
}

func forbidden(what string) error {
	return apierrors.NewForbidden(schema.GroupResource{}, what, errors.New("a test does not allow it"))
}

// effect is a write that has changed something beside who may write it next.
type effect struct{ by, action, object, detail string }

func (e effect) String() string {
	return strings.Join(strings.Fields(e.action+" "+e.object+" "+e.detail), " ")
}

// note takes the effect of a change.
func (w *world) note(e event) {
	if e.by == "" || e.by == "them" {
		return
	}
	if found := w.describe(e); found.action != "" {
		found.by = e.by
		w.effects = append(w.effects, found)
	}
}

// by are the effects of a job.
func (w *world) by(job string) []effect {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.effects), func(e effect) bool { return e.by != job })
}

// did says what a job has done, in order.
func (w *world) did(j *job) []string {
	done := []string{}
	for _, e := range w.by(j.name) {
		done = append(done, e.String())
	}
	return done
}

func (w *world) describe(e event) effect {
	set := w.set
	object := strings.TrimPrefix(e.after.object.GetName(), set.App+"-")
	action := map[watch.EventType]string{watch.Added: "create", watch.Modified: "update", watch.Deleted: "delete"}[e.kind]
	switch e.resource {
	case "configmaps":
		was, is := "", ""
		if e.before != nil {
			was = ledgerText(set, e.before)
		}
		if _, ok := e.after.object.GetLabels()[manifest.CopyLabel]; ok {
			return copyEffect(e, action)
		}
		if e.kind == watch.Deleted {
			return effect{}
		}
		if before, after := e.before != nil && holdsOn(set, e.before), holdsOn(set, e.after); before != after {
			return effect{action: "note", detail: map[bool]string{true: "hold", false: "resume"}[after]}
		}
		if is = ledgerText(set, e.after); was == is {
			return effect{}
		}
		return effect{action: "note", detail: is}
	case "secrets":
		return copyEffect(e, action)
	case "leases":
		return effect{}
	case "deployments":
		d, was := decode[appsv1.Deployment](e.after), &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: new(int32)}}
		if e.before != nil {
			was = decode[appsv1.Deployment](e.before)
		}
		if d.DeletionTimestamp != nil || e.kind == watch.Deleted {
			if was.DeletionTimestamp != nil {
				return effect{}
			}
			return effect{action: "delete", object: object, detail: map[bool]string{true: "but not its pods"}[slices.Contains(d.Finalizers, metav1.FinalizerOrphanDependents)]}
		}
		var details []string
		if before := e.before; before == nil || w.runs(d) != w.runs(was) {
			details = append(details, "image "+w.runs(d))
		} else if templateOf(d.Spec.Template) != templateOf(was.Spec.Template) {
			details = append(details, "template")
		}
		if *d.Spec.Replicas != *was.Spec.Replicas {
			details = append(details, fmt.Sprintf("x%d", *d.Spec.Replicas))
		}
		if len(details) == 0 {
			return effect{}
		}
		return effect{action: action, object: object, detail: strings.Join(details, " ")}
	case "httproutes":
		if e.before != nil && e.kind != watch.Deleted && !specChanged(kindOf(e.resource), e.before.object, e.after.object) {
			return effect{}
		}
		if e.after.object.GetLabels()[manifest.PreviewLabel] != "" {
			return effect{action: action, object: object, detail: "route"}
		}
		return effect{action: action, object: object, detail: gatewaySplit(set, e.after)}
	case "virtualservices":
		detail := splitOf(set, decode[networking.VirtualService](e.after))
		if e.before != nil && !specChanged(kindOf(e.resource), e.before.object, e.after.object) {
			return effect{}
		}
		return effect{action: action, object: object, detail: detail}
	}
	if e.before != nil && e.kind != watch.Deleted && !specChanged(kindOf(e.resource), e.before.object, e.after.object) && e.after.object.GetDeletionTimestamp() == nil {
		return effect{}
	}
	if e.after.object.GetDeletionTimestamp() != nil {
		action = "delete"
	}
	return effect{action: action, object: object}
}

// splitOf is how a VirtualService splits the traffic.
func splitOf(set *manifest.Set, vs *networking.VirtualService) string {
	routes := set.Routes(vs)
	if len(routes) == 0 {
		return "no route"
	}
	w := manifest.Weights(vs, routes[0])
	text := fmt.Sprintf("%d/%d", w.Primary, w.Canary)
	var sticky []string
	for _, http := range vs.Spec.Http {
		for kind, prefix := range map[string]string{" match": manifest.MatchPrefix, " mirror": manifest.MirrorPrefix} {
			if strings.HasPrefix(http.Name, prefix) {
				text += kind
			}
		}
		if kind, ok := strings.CutPrefix(http.Name, manifest.StickyPrefix); ok {
			sticky = append(sticky, strings.TrimSuffix(kind, "-0"))
		}
	}
	if len(sticky) > 0 {
		text += " sticky " + strings.Join(sticky, "+")
	}
	for _, http := range vs.Spec.Http {
		if name, ok := strings.CutPrefix(http.Name, manifest.PreviewPrefix); ok {
			text += " preview " + strings.TrimSuffix(name, "-0")
		}
	}
	return text
}

// ledgerText is what a ledger says of the release in flight, or of the one that ended last.
func ledgerText(set *manifest.Set, s *stored) string {
	ledger, err := ledgerIn(s, set.App)
	switch {
	case err != nil:
		return "an unreadable ledger"
	case ledger.Release != nil:
		r := ledger.Release
		text := fmt.Sprintf("%s %s", r.ID, r.Stage)
		if r.Stage == release.StageCanary {
			text += fmt.Sprintf(" %d%%", r.Weight)
		}
		if r.Stage == release.StageVerified {
			text += " " + string(r.Verdict.Outcome)
			if at := r.Plan.At(); len(r.Plan) > 0 {
				text += fmt.Sprintf(" at step %d", at+1)
			}
		}
		return text
	case len(ledger.History) > 0:
		return fmt.Sprintf("%s ended: %s", ledger.History[0].ID, ledger.History[0].Outcome)
	}
	return ""
}

// holdsOn says whether a ledger has the app on hold.
func holdsOn(set *manifest.Set, s *stored) bool {
	ledger, err := ledgerIn(s, set.App)
	return err == nil && ledger.Hold != nil
}

// wanted is a release of an image, or of a version of the app's configuration, which the job then has.
func (j *job) wanted(digit string) release.Release {
	if !j.world.configured {
		return wanted(digit)
	}
	j.Manifests = j.world.version(digit)
	return release.Release{ID: "r" + digit, Image: image("1"), Weight: 10}
}

// runs is what a Deployment runs, as a digit.
func (w *world) runs(d *appsv1.Deployment) string {
	if w.configured {
		return versionOf(w.server, d)
	}
	image := w.set.Image(d)
	if release.DigestOf(image) == "" { // by what its tag is
		image = w.controllers.pulled[image]
	}
	return digitOf(image)
}

// wanted is a release of an image.
func wanted(digit string) release.Release {
	return release.Release{ID: "r" + digit, Image: image(digit), Weight: 10}
}

// begin makes a new app, at rest after its first release or before it.
func (w *world) begin(app, stage string) {
	w.Helper()
	others := strings.Contains(app, othersApp)
	if others {
		w.makeOthers()
	}
	defer func() { w.observer.started = true }()
	switch {
	case stage == "new":
		return
	case strings.HasPrefix(stage, "manual"):
		w.deployManually(stage)
		return
	case stage != "rest":
		w.Fatalf("no stage %q", stage)
	}
	first := w.job("first")
	w.must(first.Canary(w.Context(), first.wanted("1")))
	w.applies = others
	if w.controlled = strings.Contains(app, fluxApp); w.controlled {
		w.adopt()
	}
	if w.committed = strings.Contains(app, gitApp); w.committed {
		w.commitApp()
	}
}

// bring takes an app to a stage from the earlier one.
func (w *world) bring(stage string) {
	w.Helper()
	w.jobs = 1 // the first release's
	before := w.job("before")
	run := func(_ rollout.Result, err error) {
		w.Helper()
		if err != nil && !before.killed {
			w.Fatalf("preparing stage %s: %v", stage, err)
		}
	}
	ctx := before.ctx
	switch stage {
	case "foreign":
		w.observer.started = false // others have their own things in the app's objects
		if w.gateway {
			w.foreignGateway()
			break
		}
		w.patchRoute(`[{"op":"add","path":"/metadata/annotations","value":{"theirs/note":"n"}},{"op":"add","path":"/metadata/labels","value":{"theirs/label":"l"}},
			{"op":"add","path":"/spec/http/0","value":{"name":"theirs","match":[{"uri":{"prefix":"/theirs"}}],"route":[{"destination":{"host":"other"}}],"timeout":"3s"}}]`)
		w.patchRule(`[{"op":"add","path":"/metadata/annotations","value":{"theirs/note":"n"}},{"op":"add","path":"/spec/subsets/-","value":{"name":"theirs","labels":{"team":"x"}}}]`)
		w.patchDeployment(release.Primary, `[{"op":"add","path":"/metadata/annotations/theirs~1note","value":"n"},{"op":"add","path":"/metadata/labels/theirs~1label","value":"l"}]`)
	case "started":
		before.killOn = "note r2 started"
		run(before.Canary(ctx, before.wanted("2")))
	case "canary":
		run(before.Canary(ctx, before.wanted("2")))
	case "beside half":
		before.killOn = "update baseline x1"
		run(before.Canary(ctx, besides("2")))
	case "sticky", "matched", "mirrored", "planned", "beside":
		of := map[string]func(string) release.Release{"sticky": sticky, "matched": matched, "mirrored": mirrored, "planned": planned, "beside": besides}[stage]
		run(before.Canary(ctx, of("2")))
	case "healthy", "unhealthy", "inconclusive":
		run(judge(ctx, before.Cluster, release.VerdictOutcome(stage)))
	case "mirrored healthy", "planned healthy", "beside healthy":
		run(judge(ctx, before.Cluster, release.Healthy))
	case "promoting", "beside promoting":
		before.killOn = "update primary image 2"
		run(before.Promote(ctx))
	case "moving", "beside moving": // the canary has all of the traffic, primary is as it was
		before.killOn = "update vs 0/100"
		run(before.Promote(ctx))
	case "rolling": // primary is replaced under its traffic
		before.killOn, before.PromoteTraffic = "update primary image 2", release.Primary
		run(before.Promote(ctx))
	case "rolled":
		before.PromoteTraffic = release.Primary
		run(before.Promote(ctx))
	case "promoted", "beside promoted":
		run(before.Promote(ctx))
	case "promoted with a Service", "promoted in the mesh":
		if stage == "promoted with a Service" {
			before.Manifests = w.moved()
		} else {
			before.KeepWarm = 10 * time.Minute
			if !w.gateway { // nobody gets past the release's route
				w.patchRoute(`[{"op":"add","path":"/spec/gateways/-","value":"mesh"}]`)
			}
		}
		run(before.Canary(ctx, before.wanted("2")))
		run(judge(ctx, before.Cluster, release.Healthy))
		run(before.Promote(ctx))
	case "warm":
		before.KeepWarm = 10 * time.Minute
		run(before.Cleanup(ctx))
	case "ended":
		run(before.Cleanup(ctx))
	case "next":
		run(before.Canary(ctx, wanted("3")))
	case "next healthy, promoted":
		run(judge(ctx, before.Cluster, release.Healthy))
		run(before.Promote(ctx))
	case "returning", "returning to primary", "returned":
		before.killOn = map[string]string{"returning": "update vs 0/100", "returning to primary": "update primary image 1", "returned": "note r1 promoted"}[stage]
		run(before.RollbackTo(ctx, "r1", "test", true))
	case "planned paused":
		time.Sleep(10 * time.Minute)
	case "planned next":
		time.Sleep(10 * time.Minute)
		run(before.Pass(ctx, 2))
	case "planned half taken":
		before.killOn = "note r2 canary 25%"
		run(before.Give(ctx, 3))
	case "held", "held in flight":
		run(before.Hold(ctx, "an incident"))
	case "rolling_back":
		before.killOn = "note r2 rolling_back"
		run(before.Rollback(ctx, "test"))
	case "rolled_back":
		run(before.Rollback(ctx, "test"))
	default:
		w.Fatalf("no way to stage %q", stage)
	}
}

// running is what a track runs, as a digit.
func (w *world) running(track release.Track) string {
	w.Helper()
	d := w.deployment(track)
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	return w.runs(d)
}

// patchRoute changes the VirtualService as a person would.
func (w *world) patchRoute(patch string) {
	w.Helper()
	w.must(w.mesh.NetworkingV1().VirtualServices(namespace).Patch(w.Context(), w.set.VirtualService.Name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}))
}

func (w *world) patchDeployment(track release.Track, patch string) {
	w.Helper()
	w.must(w.kube.AppsV1().Deployments(namespace).Patch(w.Context(), w.set.Name(track), types.JSONPatchType, []byte(patch), metav1.PatchOptions{}))
}

// deployManually makes the app as people do who do not know of tracks: one Deployment whose selector is the app's label
// alone, an image by its tag, and a route without subsets beside somebody else's.
func (w *world) deployManually(layout string) {
	w.Helper()
	ctx := w.Context()
	d, label := w.set.Deployment.DeepCopy(), map[string]string{"manual": "version: primary", "manual, bare": "tier: web", "manual, another name": "version: v1"}[layout]
	if layout == "manual, another name" {
		d.Name = "web"
	}
	key, value, _ := strings.Cut(label, ": ")
	d.Labels, d.Spec.Selector.MatchLabels = map[string]string{"app": w.set.App}, map[string]string{"app": w.set.App}
	d.Spec.Template.Labels = map[string]string{"app": w.set.App, key: value}
	d.Spec.Template.Spec.Containers[0].Image = taggedImage
	w.must(w.kube.AppsV1().Deployments(namespace).Create(ctx, d, metav1.CreateOptions{}))
	w.must(w.kube.CoreV1().Services(namespace).Create(ctx, w.set.Service.DeepCopy(), metav1.CreateOptions{}))
	vs := w.set.VirtualService.DeepCopy()
	vs.Annotations = map[string]string{"theirs/team": "x"}
	vs.Spec.Http = []*networkingapi.HTTPRoute{
		{Name: "theirs", Match: []*networkingapi.HTTPMatchRequest{{Uri: &networkingapi.StringMatch{MatchType: &networkingapi.StringMatch_Prefix{Prefix: "/theirs"}}}}, Route: []*networkingapi.HTTPRouteDestination{{Destination: &networkingapi.Destination{Host: "other"}}}},
		{Route: []*networkingapi.HTTPRouteDestination{{
			Destination: &networkingapi.Destination{Host: w.set.Service.Name, Port: &networkingapi.PortSelector{Number: 80}},
			Headers:     &networkingapi.Headers{Response: &networkingapi.Headers_HeaderOperations{Set: map[string]string{"x-by": "them"}}},
		}}},
	}
	w.must(w.mesh.NetworkingV1().VirtualServices(namespace).Create(ctx, vs, metav1.CreateOptions{}))
	time.Sleep(time.Minute)
}

// hpa makes an autoscaler of a Deployment.
func (w *world) hpa(deployment string, most int32) {
	w.Helper()
	w.must(w.kube.AutoscalingV2().HorizontalPodAutoscalers(namespace).Create(w.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "hpa"},
		Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: most, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: deployment}},
	}, metav1.CreateOptions{}))
}

// forget deletes the ledger.
func (w *world) forget() {
	w.Helper()
	w.must(nil, w.kube.CoreV1().ConfigMaps(namespace).Delete(w.Context(), "crossbill-"+w.set.App, metav1.DeleteOptions{}))
}

// delete deletes a track as a person would.
func (w *world) delete(track release.Track) {
	w.Helper()
	policy := metav1.DeletePropagationForeground
	w.must(nil, w.kube.AppsV1().Deployments(namespace).Delete(w.Context(), w.set.Name(track), metav1.DeleteOptions{PropagationPolicy: &policy}))
	w.wait()
}

func (w *world) patchRule(patch string) {
	w.Helper()
	w.must(w.mesh.NetworkingV1().DestinationRules(namespace).Patch(w.Context(), w.set.DestinationRule.Name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}))
}

// wait is long enough for the controllers to do what they can.
func (w *world) wait() { time.Sleep(10 * time.Second) }

// unrest says what is not as it is when no release is in flight and primary runs an image; "" when all is.
func (w *world) unrest(digit string) string {
	w.Helper()
	status, err := w.job("look").Status(w.Context())
	if err != nil {
		return err.Error()
	}
	primary := status.Tracks[release.Primary]
	switch {
	case status.Release != nil:
		return fmt.Sprintf("release %s is in flight at %s", status.Release.ID, status.Release.Stage)
	case status.Weights == nil || *status.Weights != manifest.WeightPair{Primary: 100}:
		return fmt.Sprintf("weights are %+v", status.Weights)
	case status.Warm != nil && time.Now().Before(status.Warm.Until): // then the canary has what primary ran
		if c := status.Tracks[release.Canary]; c == nil || !w.configured && c.Image == primary.Image || c.Ready < primary.Ready {
			return fmt.Sprintf("warm is %+v, the canary is %+v", status.Warm, c)
		}
	case status.Tracks[release.Canary] != nil:
		return "the canary is there"
	case primary == nil:
		return "primary is gone"
	case len(w.besideLeft()) > 0:
		return "of a baseline there are left " + strings.Join(w.besideLeft(), ", ")
	case w.running(release.Primary) != digit:
		return fmt.Sprintf("primary is %+v and runs %s, want image %s", primary, w.running(release.Primary), digit)
	case status.Lock != "" && !status.Expired:
		return "the lock is held by " + status.Lock
	}
	if w.controlled {
		if unrest := w.unrestOfFlux(digit); unrest != "" {
			return unrest
		}
	}
	if w.committed {
		return w.unrestOfGit(digit)
	}
	if w.gateway {
		return w.unrestOfGateway(digit)
	}
	vs, err := w.mesh.NetworkingV1().VirtualServices(namespace).Get(w.Context(), w.set.VirtualService.Name, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	rule, err := w.mesh.NetworkingV1().DestinationRules(namespace).Get(w.Context(), w.set.DestinationRule.Name, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	for _, object := range []metav1.Object{vs, rule} {
		if slices.ContainsFunc(object.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool { return e.Manager == "crossbill" }) {
			return object.GetName() + " has fields that crossbill still owns"
		}
	}
	if w.applies {
		return w.unrestOfOthers(digit != "1")
	}
	return ""
}
