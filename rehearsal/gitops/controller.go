package gitops

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/our-org/crossbill/rehearsal/cluster"
)

// Applied is a folder of a repository that a controller applies to the cluster.
type Applied interface {
	// Request asks the controller to read the repository now, as a webhook would. A new commit is then applied.
	Request(ctx context.Context) error
	// RequestApply asks it to apply what it has read, whether there is something new or not: drift is then undone.
	RequestApply(ctx context.Context) error
	// WaitApplied waits until it has applied a commit, or a later one. What it leaves alone counts as applied.
	WaitApplied(ctx context.Context, commit string) error
	// WaitHandled waits until it has answered the last request to apply what it has read.
	WaitHandled(ctx context.Context) error
}

// A Controller is one program of a GitOps tool.
type Controller struct {
	cluster       *cluster.Cluster
	name, program string
	args, env     []string
	health        string // a URL
	process       *cluster.Process
}

// startAll starts controllers, and returns when all are ready.
func startAll(ctx context.Context, all ...*Controller) error {
	for _, c := range all {
		if err := c.launch(); err != nil {
			return err
		}
	}
	for _, c := range all {
		if err := await(ctx, c.ready); err != nil {
			return err
		}
	}
	return nil
}

// Start starts it, and returns when it is ready.
func (c *Controller) Start(ctx context.Context) error { return startAll(ctx, c) }

func (c *Controller) launch() (err error) {
	c.process, err = c.cluster.Run(c.name, c.env, c.program, c.args...)
	return err
}

// Stop kills it.
func (c *Controller) Stop() { c.process.Stop() }

// Memory is what it has in memory now, in bytes.
func (c *Controller) Memory() (int, error) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.process.PID()), "status"))
	if err != nil {
		return 0, err
	}
	_, line, _ := strings.Cut(string(status), "\nVmRSS:")
	line, _, _ = strings.Cut(line, "kB")
	kilobytes, err := strconv.Atoi(strings.TrimSpace(line))
	return kilobytes * 1024, err
}

func (c *Controller) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.health, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("%s is not ready: %w", c.name, err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is not ready: %s", c.name, response.Status)
	}
	return nil
}

func object(version, kind, name string, spec map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": kind, "metadata": map[string]any{"name": name}}}
	if spec != nil {
		u.Object["spec"] = spec
	}
	return u
}

// makeNamespace makes one that may be there.
func makeNamespace(ctx context.Context, objects dynamic.Interface, name string) error {
	_, err := objects.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Create(ctx, object("v1", "Namespace", name, nil), metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	return nil
}
