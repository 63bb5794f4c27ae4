// Package cluster starts a real Kubernetes control plane and an Istio mesh on this machine: etcd,
// kube-apiserver, kube-controller-manager, istiod with its validation webhook, one node whose pods
// are processes (package kubelet), an Envoy as ingress gateway, a registry and Prometheus. On demand
// further Envoys are the sidecars of callers in the mesh ([Cluster.StartCaller]).
//
// It belongs inside a sandbox (package sandbox): it uses the components' usual ports, and pods
// have addresses of [sandbox.PodCIDR]. It uses no network.
//
// The components are linked into other programs (see package setup); this package only starts
// them and stays small.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/our-org/crossbill/rehearsal/kubelet"
	"github.com/our-org/crossbill/rehearsal/sandbox"
)

// Addresses inside the sandbox.
const (
	APIServer  = "127.0.0.1:6443"
	Gateway    = "127.0.0.1:80" // once a Gateway object with port 80 exists
	Registry   = "127.0.0.1:5000"
	Prometheus = "127.0.0.1:9090"
	// With a second Prometheus: it, and a proxy that asks the two in turn.
	secondPrometheus, prometheusReplicas = "127.0.0.1:9190", "127.0.0.1:9290"

	EnvoyAdmin   = "127.0.0.1:15000"
	nodeName     = "rehearsal"
	nodeIP       = "10.244.254.1"
	firstPodIP   = "10.244.0.1"     // those of proxies are behind lastPodIP
	lastPodIP    = "10.244.249.254" // no test makes that many pods
	istiodReady  = "http://127.0.0.1:8080/ready"
	istiodConfig = "https://127.0.0.1:15017/validate"
)

// Doors are the doors that let the host reach a cluster in a sandbox.
func Doors() []sandbox.Door {
	return []sandbox.Door{
		{Name: "gateway", Port: 8080, Target: Gateway},
		{Name: "apiserver", Port: 6443, Target: APIServer},
		{Name: "prometheus", Port: 9090, Target: Prometheus},
		{Name: "registry", Port: 5000, Target: Registry},
		{Name: "envoy-admin", Port: 15000, Target: EnvoyAdmin},
	}
}

// Options say what to start the cluster from.
type Options struct {
	// Dir is an empty folder for everything that the cluster writes: data, images, logs/. It is
	// left to the caller to remove it.
	Dir string
	// TestclusterBinary, EnvoyBinary and PrometheusBinary are programs; package setup has them.
	TestclusterBinary, EnvoyBinary, PrometheusBinary string
	// PrometheusAssets is the folder of Prometheus's web pages. May be empty: then only its API works.
	PrometheusAssets string
	// GatewayAPI is a file with the kinds of the Gateway API; package setup has it.
	GatewayAPI string
	// TwoPrometheus starts a second one that scrapes the same, at other moments.
	TwoPrometheus bool
	// Audit has the API server note each request in [Cluster.AuditLog]: who asked for what, without what was said.
	Audit bool
	// Namespace is made besides istio-system, and is the kubeconfig's default. Empty means demo.
	Namespace string
	// Log takes lines of progress. May be nil.
	Log func(format string, args ...any)
}

// A Cluster is a running cluster.
type Cluster struct {
	Kubeconfig        string // path of the administrator's kubeconfig, everything inline
	RESTConfig        *rest.Config
	Namespace         string
	PrometheusURL     string
	ReplicasURL       string        // of two that answer in turn, as behind an unlucky load balancer; empty without TwoPrometheus
	RegistryHost      string        // host:port, plain HTTP
	GatewayAddress    string        // host:port
	ControlPlaneReady time.Duration // from Start's begin until all but gateway and Prometheus was ready

	options Options
	alive   context.Context // of what runs in this process
	stop    context.CancelFunc
	inside  sync.WaitGroup

	mu        sync.Mutex
	processes []*Process
	callers   []*Caller
	broken    chan error // holds one: the first component that ended by itself
}

// Start starts a cluster and returns when it takes objects, runs pods and routes traffic: the API
// server, the controllers, the node and istiod are ready, Istio's kinds are established, and the
// namespace has its default service account. When ctx ends before, everything started so far is
// stopped. An error names the component and its log.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if !sandbox.Inside() {
		return nil, errors.New("cluster: not inside a sandbox: it would take ports and addresses of this machine")
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.Namespace == "" {
		o.Namespace = "demo"
	}
	c := &Cluster{
		Kubeconfig: filepath.Join(o.Dir, "kubeconfig"), Namespace: o.Namespace,
		PrometheusURL: "http://" + Prometheus, RegistryHost: Registry, GatewayAddress: Gateway,
		options: o, broken: make(chan error, 1),
	}
	c.alive, c.stop = context.WithCancel(context.Background())
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := c.start(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("cluster: %w", err)
	}
	return c, nil
}

// start overlaps what does not depend on each other.
func (c *Cluster) start(ctx context.Context) error {
	began := time.Now()
	for _, dir := range []string{c.dir("logs"), c.dir("pki"), c.dir("targets")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	ca, err := issueAll(c.dir("pki"))
	if err != nil {
		return err
	}
	if err := c.writeFiles(); err != nil {
		return err
	}
	if err := c.startControlPlane(); err != nil {
		return err
	}
	if err := c.startRegistry(); err != nil {
		return err
	}
	if err := c.startPrometheus(); err != nil {
		return err
	}
	istio, err := c.definitions(ctx)
	if err != nil {
		return err
	}
	gatewayAPI, err := definitionsIn(c.options.GatewayAPI)
	if err != nil {
		return err
	}
	a, err := newObjects(c.RESTConfig)
	if err != nil {
		return err
	}
	if err := c.await(ctx, "kube-apiserver", a.ready); err != nil {
		return err
	}
	c.options.Log("API server ready after %s", since(began))
	if err := c.startKubelet(); err != nil {
		return err
	}
	if err := c.all(
		func() error { return a.prepare(ctx, c.Namespace, ca.pem) },
		func() error { return a.establish(ctx, istio) },
	); err != nil {
		return err
	}
	c.options.Log("Istio's kinds established after %s", since(began))
	if err := c.startIstiod(); err != nil {
		return err
	}
	if err := c.all(
		func() error { return c.await(ctx, "istiod", answers(istiodReady)) },
		func() error { return c.await(ctx, "kubelet", a.nodeReady) },
		func() error { return c.await(ctx, "control-plane", a.serviceAccount(c.Namespace)) },
		func() error { return a.gatewayAPI(ctx, gatewayAPI) }, // istiod takes these kinds up when they appear
	); err != nil {
		return err
	}
	c.ControlPlaneReady = time.Since(began)
	c.options.Log("control plane ready after %s", since(began))
	if err := c.startGateway(); err != nil {
		return err
	}
	if err := c.all(
		func() error { return c.await(ctx, "envoy", answers("http://"+EnvoyAdmin+"/ready")) },
		func() error { return c.await(ctx, "prometheus", answers("http://"+Prometheus+"/-/ready")) },
		func() error {
			if !c.options.TwoPrometheus {
				return nil
			}
			return c.await(ctx, "prometheus-2", answers("http://"+secondPrometheus+"/-/ready"))
		},
	); err != nil {
		return err
	}
	c.options.Log("gateway and Prometheus ready after %s", since(began))
	select {
	case err := <-c.broken: // something that nobody had to wait for
		return err
	default:
		return nil
	}
}

// KubeconfigFor returns the administrator's kubeconfig for another address of the API server, for
// instance a door's: 127.0.0.1:port.
func (c *Cluster) KubeconfigFor(address string) ([]byte, error) {
	return kubeconfig(c.dir("pki"), "https://"+address, c.Namespace)
}

// AuditLog is the file of an Audit: an event of audit.k8s.io on each line.
func (c *Cluster) AuditLog() string { return filepath.Join(c.Logs(), "audit.log") }

// Logs is the folder of the components' and the containers' logs.
func (c *Cluster) Logs() string { return c.dir("logs") }

// Broken yields an error when a component ends by itself.
func (c *Cluster) Broken() <-chan error { return c.broken }

// Close ends every component and every pod's process, at once and without ceremony: the data is
// thrown away.
func (c *Cluster) Close() {
	c.stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.processes {
		p.Stop()
	}
	c.inside.Wait()
}

func (c *Cluster) dir(name string) string { return filepath.Join(c.options.Dir, name) }

// startKubelet runs the node's pods in this process.
func (c *Cluster) startKubelet() error {
	client, err := kubernetes.NewForConfig(c.RESTConfig)
	if err != nil {
		return err
	}
	c.inside.Go(func() {
		err := kubelet.Run(c.alive, kubelet.Options{
			Client: client, Node: nodeName, NodeIP: netip.MustParseAddr(nodeIP),
			FirstIP: netip.MustParseAddr(firstPodIP), LastIP: netip.MustParseAddr(lastPodIP),
			Dir: c.options.Dir, Log: c.options.Log,
		})
		if err != nil {
			c.report(err)
		}
	})
	return nil
}

// writeFiles writes what the components read.
func (c *Cluster) writeFiles() error {
	config, err := c.KubeconfigFor(APIServer)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"kubeconfig": config, "mesh.yaml": meshConfig(), "prometheus.yaml": prometheusYAML, "audit.yaml": auditYAML,
	} {
		if err := os.WriteFile(c.dir(name), content, 0o600); err != nil {
			return err
		}
	}
	if c.RESTConfig, err = clientcmd.RESTConfigFromKubeConfig(config); err != nil {
		return err
	}
	c.RESTConfig.QPS = -1 // no limit: nobody else is on this API server
	return nil
}

// all runs functions side by side and returns their errors.
func (c *Cluster) all(functions ...func() error) error {
	errs := make([]error, len(functions))
	var group sync.WaitGroup
	for i, f := range functions {
		group.Go(func() { errs[i] = f() })
	}
	group.Wait()
	return errors.Join(errs...)
}

// await asks until there is no error, or until a component has ended or ctx has.
func (c *Cluster) await(ctx context.Context, name string, ask func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case err := <-c.broken:
			c.report(err) // the others wait as well
			return err
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; see %s\n%s", name, err, c.logFile(name), tail(c.logFile(name)))
		case <-tick.C:
		}
	}
}

// report keeps the first error.
func (c *Cluster) report(err error) {
	select {
	case c.broken <- err:
	default:
	}
}

// answers asks a URL for status 200.
func answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		return nil
	}
}

func since(began time.Time) time.Duration { return time.Since(began).Round(10 * time.Millisecond) }

// tail is the end of a log.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-10):], []byte("\n")))
}
