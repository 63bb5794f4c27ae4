package main

import (
	"context"
	"slices"
	"strings"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// deploying are the commands that an image policy is asked before.
var deploying = []string{"canary", "shift", "promote", "preview up"}

// gated are the commands that an approval policy can be asked before.
var gated = []string{"canary", "shift", "approve", "promote"}

// change runs a command that writes to the cluster and notifies others, and returns its JSON.
func (m *Crossbill) change(ctx context.Context, command, timeout string, args ...string) (string, error) {
	i := m.crossbill()
	m.addRegistry(i)
	cluster, err := m.addCluster(ctx, i)
	if err != nil {
		return "", err
	}
	var prometheus []string
	if !slices.Contains([]string{"approve", "hold", "resume", "preview up"}, command) { // which ask for no metrics
		if prometheus, err = m.addPrometheus(ctx, i); err != nil {
			return "", err
		}
	}
	m.addCode(i)
	m.addGitops(i)
	i.setSecret("webhook-url", "CROSSBILL_WEBHOOK", m.WebhookUrl)
	i.setSecret("chat-addresses", "CROSSBILL_CHAT", m.ChatAddresses)
	if slices.Contains(gated, command) {
		i.setSecret("id-token", "CROSSBILL_ID_TOKEN", m.IdToken)
	}
	if m.RequireProvenance && slices.Contains(deploying, command) {
		args = append(args, "--require-provenance=true")
	}
	result, err := i.run(ctx, command, cluster, prometheus, flags("--output", "json", "--timeout", timeout, "--by", m.By, "--app", m.AppName), args)
	if err == nil {
		logMessage(result)
	}
	return result, err
}

// look runs a command that only reads, and returns what it printed.
func (m *Crossbill) look(ctx context.Context, command, format string, args ...string) (string, error) {
	i := m.crossbill()
	m.addBundleRegistry(i)
	m.addGitops(i)
	cluster, err := m.addCluster(ctx, i)
	if err != nil {
		return "", err
	}
	return i.run(ctx, command, cluster, flags("--output", format), args)
}

// addCluster gives the command the manifests and the kubeconfig, and returns its flags for them.
func (m *Crossbill) addCluster(ctx context.Context, i *invocation) ([]string, error) {
	if m.KubeconfigFile == nil {
		return nil, missing("kubeconfig-file")
	}
	manifests := m.addManifests(i)
	args := flags("--manifests", manifests, "--kubeconfig", i.mountSecret("kubeconfig-file", "kubeconfig", m.KubeconfigFile))
	if m.KubernetesService == nil {
		return args, nil
	}
	address, err := i.bind(ctx, "kubernetes-service", "kubernetes.localhost", m.KubernetesService)
	return append(args, "--connect-to="+address), err
}

// addGitops lets the command read the environment repository, which may have the ledger, and commit to it, by files that no
// function's flags name.
func (m *Crossbill) addGitops(i *invocation) {
	for _, file := range []struct {
		argument, variable string
		secret             *dagger.Secret
	}{
		{"gitops-token", "CROSSBILL_GITOPS_TOKEN_FILE", m.GitopsToken},
		{"gitops-ssh-key", "CROSSBILL_GITOPS_SSH_KEY_FILE", m.GitopsSshKey},
		{"gitops-signing-key", "CROSSBILL_GITOPS_SIGNING_KEY_FILE", m.GitopsSigningKey},
	} {
		if file.secret != nil {
			i.setVariable(file.variable, i.mountSecret(file.argument, file.argument, file.secret))
		}
	}
	if m.GitopsKnownHosts != nil {
		const path = "/run/gitops-known-hosts"
		i.container = i.container.WithMountedFile(path, m.GitopsKnownHosts)
		i.setVariable("CROSSBILL_GITOPS_KNOWN_HOSTS_FILE", path)
	}
}

// addBundleRegistry lets a command that only reads fetch the manifests, if they are in a bundle.
func (m *Crossbill) addBundleRegistry(i *invocation) {
	if m.ManifestsBundle != "" {
		m.addRegistry(i)
	}
}

// addManifests gives the command the manifests, and returns where they are: in a folder, or in the registry.
func (m *Crossbill) addManifests(i *invocation) string {
	i.container = i.container.WithMountedDirectory(manifestsFolder, m.ManifestsDir) // crossbill.yaml may name files there, beside a bundle as well
	if m.ManifestsBundle != "" {
		return "oci://" + strings.TrimPrefix(m.ManifestsBundle, "oci://")
	}
	return manifestsFolder
}

// addPrometheus lets the command reach Prometheus, and returns its flags for it.
func (m *Crossbill) addPrometheus(ctx context.Context, i *invocation) ([]string, error) {
	var args []string
	if m.PrometheusHttpConfig != nil {
		args = flags("--prometheus-config", i.mountSecret("prometheus-http-config", "prometheus.yaml", m.PrometheusHttpConfig))
	}
	if m.PrometheusService == nil {
		return args, nil
	}
	address, err := i.bind(ctx, "prometheus-service", "prometheus.localhost", m.PrometheusService)
	return append(args, "--prometheus=http://"+address), err
}
