package main

import (
	"context"
	"net/url"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// cluster is the cluster that a verb talks to, as its arguments name it.
type cluster struct {
	kubeconfig        *dagger.Secret
	kubeContext       string
	namespace         string
	server            *dagger.Service
	prometheus        string
	prometheusService *dagger.Service
	prometheusConfig  *dagger.Secret // in the form of Prometheus's http_config; nil for none
	githubToken       *dagger.Secret // to tell GitHub; nil for not
}

// run runs a verb of the crossbill command against the cluster.
func (m *Crossbill) run(ctx context.Context, on cluster, verb string, args ...string) (string, error) {
	c, args, err := m.prepare(ctx, on, verb, args)
	if err != nil {
		return "", err
	}
	return run(ctx, c, args...)
}

// prepare is the container that a verb runs in, and its command line.
func (m *Crossbill) prepare(ctx context.Context, on cluster, verb string, args []string) (*dagger.Container, []string, error) {
	c := m.telling(m.Cli()).
		WithMountedDirectory("/manifests", m.Source.Directory(m.Manifests)).
		WithMountedSecret("/run/secrets/kubeconfig", on.kubeconfig, dagger.ContainerWithMountedSecretOpts{Mode: 0o444})
	all := []string{verb, "--kubeconfig=/run/secrets/kubeconfig", "--manifests=/manifests"}
	all = flag(all, "--context", on.kubeContext)
	all = flag(all, "--namespace", on.namespace)
	if on.server != nil {
		address, err := bind(ctx, on.server, "kubernetes.localhost")
		if err != nil {
			return nil, nil, err
		}
		c = c.WithServiceBinding("kubernetes.localhost", on.server)
		all = flag(all, "--connect-to", address)
	}
	if on.githubToken != nil {
		c = c.WithSecretVariable("CROSSBILL_GITHUB_TOKEN", on.githubToken)
	}
	if on.prometheusConfig != nil {
		c = c.WithMountedSecret("/run/secrets/prometheus.yaml", on.prometheusConfig, dagger.ContainerWithMountedSecretOpts{Mode: 0o444})
		all = append(all, "--prometheus-config=/run/secrets/prometheus.yaml")
	}
	prometheus := on.prometheus
	if on.prometheusService != nil {
		address, err := bind(ctx, on.prometheusService, "prometheus.localhost")
		if err != nil {
			return nil, nil, err
		}
		c = c.WithServiceBinding("prometheus.localhost", on.prometheusService)
		prometheus = "http://" + address
	}
	return c, append(flag(all, "--prometheus", prometheus), args...), nil
}

// bind starts a service and gives its host:port under the name that it is bound to a container with.
func bind(ctx context.Context, service *dagger.Service, name string) (string, error) {
	if _, err := service.Start(ctx); err != nil {
		return "", err
	}
	endpoint, err := service.Endpoint(ctx, dagger.ServiceEndpointOpts{Scheme: "tcp"})
	if err != nil {
		return "", err
	}
	at, err := url.Parse(endpoint)
	if err != nil {
		return "", err
	}
	return name + ":" + at.Port(), nil
}
