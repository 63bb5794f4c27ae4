package cluster

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/our-org/crossbill/rehearsal/istiostats"
)

var (
	//go:embed prometheus.yaml
	prometheusYAML []byte
	//go:embed mesh.yaml
	meshYAML []byte
	//go:embed audit.yaml
	auditYAML []byte
)

// meshConfig adds the gateway's access log, from which its metrics are made.
func meshConfig() []byte {
	return fmt.Appendf(meshYAML, "accessLogFile: /dev/stdout\naccessLogEncoding: TEXT\naccessLogFormat: %q\n", istiostats.Format)
}

// A Process is one program of the cluster, or one that runs beside it.
type Process struct {
	command *exec.Cmd
	closing atomic.Bool
	ended   chan struct{}
}

// Run starts a program beside the cluster's own. It lives until it is stopped or the cluster is closed; when it ends by
// itself, the cluster is broken. Its output is added to logs/name.log.
func (c *Cluster) Run(name string, env []string, program string, args ...string) (*Process, error) {
	return c.runTo(name, nil, env, program, args...)
}

func (c *Cluster) run(name string, env []string, program string, args ...string) error {
	_, err := c.runTo(name, nil, env, program, args...)
	return err
}

// runTo is Run with the process's standard output to a file of its own, unless that is nil.
func (c *Cluster) runTo(name string, stdout *os.File, env []string, program string, args ...string) (*Process, error) {
	out, err := os.OpenFile(c.logFile(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the process has its own
	p := &Process{command: exec.Command(program, args...), ended: make(chan struct{})}
	p.command.Stdout, p.command.Stderr, p.command.Dir = out, out, c.options.Dir
	if stdout != nil {
		p.command.Stdout = stdout
	}
	p.command.Env = append(os.Environ(), env...)
	// Not in the terminal's process group: Ctrl-C is for the one who then calls Close.
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.command.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c.mu.Lock()
	c.processes = append(c.processes, p)
	c.mu.Unlock()
	go func() {
		err := p.command.Wait()
		if !p.closing.Load() {
			c.report(fmt.Errorf("%s ended by itself (%v); see %s\n%s", name, err, c.logFile(name), tail(c.logFile(name))))
		}
		close(p.ended)
	}()
	return p, nil
}

// Stop kills the process, as a node that dies does. It may be stopped again.
func (p *Process) Stop() {
	if !p.closing.Swap(true) {
		_ = syscall.Kill(-p.command.Process.Pid, syscall.SIGKILL)
	}
	<-p.ended
}

// PID is the process's number inside the sandbox.
func (p *Process) PID() int { return p.command.Process.Pid }

func (c *Cluster) logFile(name string) string { return filepath.Join(c.dir("logs"), name+".log") }

func (c *Cluster) pki(name string) string { return filepath.Join(c.dir("pki"), name) }

// startControlPlane runs etcd, kube-apiserver and kube-controller-manager.
//
// Three things that belong together are off: node leases (of package kubelet), the node lifecycle controller
// that would miss them, and the admission plugin whose not-ready taint only that controller takes
// away again.
func (c *Cluster) startControlPlane() error {
	args := []string{
		"control-plane",
		c.dir("etcd"), "http://127.0.0.1:2379", "http://127.0.0.1:2380", "https://" + APIServer + "/readyz",
		"--etcd-servers=http://127.0.0.1:2379",
		"--bind-address=127.0.0.1", "--secure-port=6443", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--tls-cert-file=" + c.pki("apiserver.crt"), "--tls-private-key-file=" + c.pki("apiserver.key"), "--client-ca-file=" + c.pki("ca.crt"),
		"--requestheader-client-ca-file=" + c.pki("ca.crt"), "--requestheader-allowed-names=front",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.pki("sa.pub"), "--service-account-signing-key-file=" + c.pki("sa.key"),
		"--authorization-mode=RBAC", "--allow-privileged=true",
		"--disable-admission-plugins=TaintNodesByCondition", "--profiling=false",
		"--kubelet-preferred-address-types=InternalIP", // as kubeadm has it first: nobody here knows the node by its name
	}
	if c.options.Audit {
		args = append(args, "--audit-policy-file="+c.dir("audit.yaml"), "--audit-log-path="+c.AuditLog())
	}
	args = append(args,
		"--",
		"--kubeconfig="+c.Kubeconfig, "--bind-address=127.0.0.1", "--secure-port=10257", "--cert-dir="+c.dir("kcm"),
		"--leader-elect=false", "--use-service-account-credentials=false",
		"--service-account-private-key-file="+c.pki("sa.key"), "--root-ca-file="+c.pki("ca.crt"),
		"--cluster-signing-cert-file="+c.pki("ca.crt"), "--cluster-signing-key-file="+c.pki("ca.key"),
		"--allocate-node-cidrs=false",
		"--controllers=deployment-controller,replicaset-controller,endpointslice-controller,endpointslice-mirroring-controller,"+
			"namespace-controller,serviceaccount-controller,root-ca-certificate-publisher-controller,"+
			"garbage-collector-controller,pod-garbage-collector-controller,horizontal-pod-autoscaler-controller,job-controller",
		"--horizontal-pod-autoscaler-sync-period=2s")
	// While its heap grows to what stays, it collects garbage all the time: half as often is 170 MB more, and a fifth less to start.
	return c.run("control-plane", []string{"GOGC=400"}, c.options.TestclusterBinary, args...)
}

// startIstiod runs istiod without a certificate authority and injection, and such that it pushes nothing
// that only Istio's own build of Envoy knows. Nor does it deploy proxies for a Gateway of the Gateway API:
// such a Gateway names the Envoy that is there.
func (c *Cluster) startIstiod() error {
	return c.run("istiod", []string{
		"POD_NAME=istiod-0", "POD_NAMESPACE=istio-system", "REVISION=default", "CLUSTER_ID=Kubernetes",
		"ENABLE_CA_SERVER=false", "PILOT_CERT_PROVIDER=none",
		"INJECT_ENABLED=false", "INJECTION_WEBHOOK_CONFIG_NAME=", "VALIDATION_WEBHOOK_CONFIG_NAME=",
		"ENABLE_LEADER_ELECTION=false", "PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER=false",
		"PILOT_ENABLE_METADATA_EXCHANGE=false", "PILOT_ENABLE_ALPN_FILTER=false",
		"PILOT_DEBOUNCE_AFTER=100ms",
	}, c.options.TestclusterBinary, "istiod", "discovery",
		"--kubeconfig="+c.Kubeconfig, "--meshConfig="+c.dir("mesh.yaml"), "--networksConfig=/dev/null",
		"--httpAddr=127.0.0.1:8080", "--httpsAddr=127.0.0.1:15017", "--grpcAddr=127.0.0.1:15010", "--secureGRPCAddr=",
		"--tlsCertFile="+c.pki("istiod.crt"), "--tlsKeyFile="+c.pki("istiod.key"), "--caCertFile="+c.pki("ca.crt"),
		"--monitoringAddr=127.0.0.1:15014", "--ctrlz_port=0", "--ctrlz_address=127.0.0.1",
		"--domain=cluster.local", "--clusterID=Kubernetes")
}

// serve answers on a listener from this process, as long as the cluster lives.
func (c *Cluster) serve(l net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	c.inside.Go(func() { _ = server.Serve(l) })
	context.AfterFunc(c.alive, func() { server.Close() })
}

func (c *Cluster) startPrometheus() error {
	if err := c.runPrometheus("prometheus", Prometheus, c.dir("prometheus.yaml")); err != nil || !c.options.TwoPrometheus {
		return err
	}
	// Replicas have labels of their own, which Prometheus also makes the time of its scrapes from.
	config := c.dir("prometheus-2.yaml")
	if err := os.WriteFile(config, bytes.Replace(prometheusYAML, []byte("global:"), []byte("global:\n  external_labels: {replica: second}"), 1), 0o600); err != nil {
		return err
	}
	if err := c.runPrometheus("prometheus-2", secondPrometheus, config); err != nil {
		return err
	}
	l, err := net.Listen("tcp", prometheusReplicas)
	if err != nil {
		return fmt.Errorf("prometheus: %w", err)
	}
	c.ReplicasURL = "http://" + prometheusReplicas
	c.serve(l, alternating(Prometheus, secondPrometheus))
	return nil
}

func (c *Cluster) runPrometheus(name, address, config string) error {
	args := []string{"--config.file=" + config, "--storage.tsdb.path=" + c.dir(name), "--web.listen-address=" + address}
	if c.options.PrometheusAssets != "" {
		args = append(args, "--web.local-assets="+c.options.PrometheusAssets)
	}
	return c.run(name, nil, c.options.PrometheusBinary, args...)
}

// alternating gives each request to the next of several servers, as a load balancer without affinity does.
func alternating(addresses ...string) http.Handler {
	var next atomic.Int64
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: addresses[int(next.Add(1))%len(addresses)]})
	}, ErrorLog: log.New(io.Discard, "", 0)}
}

// startRegistry serves an OCI registry from this process; blobs lie on disk.
func (c *Cluster) startRegistry() error {
	l, err := net.Listen("tcp", Registry)
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	blobs := c.dir("registry")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	c.serve(l, registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(blobs)),
		registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	return nil
}
