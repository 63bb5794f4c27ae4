package main

import (
	"context"
	"net/url"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// change runs a command that writes to the cluster and tells who is to be told, and gives its JSON.
func (m *Crossbill) change(ctx context.Context, command, timeout string, args ...string) (string, error) {
	c, where, err := m.withCluster(ctx, m.withRegistry(m.crossbill()))
	if err != nil {
		return "", err
	}
	c, prometheus, err := m.withPrometheus(ctx, c)
	if err != nil {
		return "", err
	}
	c = withVariable(withSecret(m.withGitHub(c), "CROSSBILL_WEBHOOK", m.Webhook), "CROSSBILL_PUSHGATEWAY", m.Pushgateway)
	how := given("--output", "json", "--timeout", timeout, "--by", m.By, "--environment-url", m.EnvironmentUrl)
	return run(ctx, c, command, where, prometheus, how, args)
}

// look runs a command that only reads, and gives what it printed.
func (m *Crossbill) look(ctx context.Context, command, format string, args ...string) (string, error) {
	c, where, err := m.withCluster(ctx, m.crossbill())
	if err != nil {
		return "", err
	}
	return run(ctx, c, command, where, given("--output", format), args)
}

// withCluster gives the command the manifests and the kubeconfig, and its flags for them.
func (m *Crossbill) withCluster(ctx context.Context, c *dagger.Container) (*dagger.Container, []string, error) {
	if m.Kubeconfig == nil {
		return nil, nil, missing("kubeconfig")
	}
	c = withSecretFile(c.WithMountedDirectory("/manifests", m.Manifests), "kubeconfig", m.Kubeconfig)
	args := given("--manifests", "/manifests", "--kubeconfig", secretFile("kubeconfig"), "--context", m.KubeContext, "--namespace", m.Namespace)
	if m.Server == nil {
		return c, args, nil
	}
	c, address, err := bind(ctx, c, "kubernetes.localhost", m.Server)
	return c, append(args, "--connect-to="+address), err
}

// withPrometheus lets the command reach Prometheus, and gives its flags for it.
func (m *Crossbill) withPrometheus(ctx context.Context, c *dagger.Container) (*dagger.Container, []string, error) {
	var args []string
	if m.PrometheusConfig != nil {
		c, args = withSecretFile(c, "prometheus.yaml", m.PrometheusConfig), given("--prometheus-config", secretFile("prometheus.yaml"))
	}
	if m.PrometheusService == nil {
		return c, append(args, given("--prometheus", m.Prometheus)...), nil
	}
	c, address, err := bind(ctx, c, "prometheus.localhost", m.PrometheusService)
	return c, append(args, "--prometheus=http://"+address), err
}

func secretFile(name string) string { return "/run/secrets/" + name }

// withSecretFile mounts a secret so that the command's user can read it.
func withSecretFile(c *dagger.Container, name string, secret *dagger.Secret) *dagger.Container {
	return c.WithMountedSecret(secretFile(name), secret, dagger.ContainerWithMountedSecretOpts{Mode: 0o444})
}

// bind starts a service, binds it to a container under a name, and gives its name:port.
func bind(ctx context.Context, c *dagger.Container, name string, service *dagger.Service) (*dagger.Container, string, error) {
	if _, err := service.Start(ctx); err != nil {
		return nil, "", err
	}
	endpoint, err := service.Endpoint(ctx, dagger.ServiceEndpointOpts{Scheme: "tcp"})
	if err != nil {
		return nil, "", err
	}
	at, err := url.Parse(endpoint)
	if err != nil {
		return nil, "", err
	}
	return c.WithServiceBinding(name, service), name + ":" + at.Port(), nil
}
