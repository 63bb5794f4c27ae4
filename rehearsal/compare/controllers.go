package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// kinds are those that apps are made of.
var kinds = map[string]schema.GroupVersionResource{
	"Deployment":              {Group: "apps", Version: "v1", Resource: "deployments"},
	"Service":                 {Version: "v1", Resource: "services"},
	"ConfigMap":               {Version: "v1", Resource: "configmaps"},
	"HorizontalPodAutoscaler": {Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
	"Gateway":                 {Group: "networking.istio.io", Version: "v1", Resource: "gateways"},
	"VirtualService":          {Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"},
	"DestinationRule":         {Group: "networking.istio.io", Version: "v1", Resource: "destinationrules"},
	"Rollout":                 {Group: "argoproj.io", Version: "v1alpha1", Resource: "rollouts"},
	"AnalysisTemplate":        {Group: "argoproj.io", Version: "v1alpha1", Resource: "analysistemplates"},
	"AnalysisRun":             {Group: "argoproj.io", Version: "v1alpha1", Resource: "analysisruns"},
	"Canary":                  {Group: "flagger.app", Version: "v1beta1", Resource: "canaries"},
}

// create makes the objects of a text in a namespace.
func (r *arena) create(ctx context.Context, namespace, text string) error {
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		var u unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(document), &u.Object); err != nil {
			return fmt.Errorf("%w in\n%s", err, document)
		}
		if len(u.Object) == 0 {
			continue
		}
		kind, ok := kinds[u.GetKind()]
		if !ok {
			return fmt.Errorf("kind %q in\n%s", u.GetKind(), document)
		}
		if _, err := r.objects.Resource(kind).Namespace(namespace).Create(ctx, &u, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create %s %s: %w", u.GetKind(), u.GetName(), err)
		}
	}
	return nil
}

// controller is the process of one, which is started again when it ends, as its Deployment would have it.
type controller struct {
	name         string // that it has as a user agent
	program, log string
	args, env    []string

	mu      sync.Mutex
	command *exec.Cmd
	ended   chan struct{} // of that command
	stopped bool
	again   int
}

// start starts it, and keeps it running until it is stopped.
func (c *controller) start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run()
}

func (c *controller) run() error {
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer out.Close() // the process has its own
	cmd := exec.Command(c.program, c.args...)
	cmd.Args[0] = c.name
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, append(os.Environ(), c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	c.command, c.ended = cmd, ended
	go func() {
		_ = cmd.Wait()
		close(ended)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.stopped || c.command != cmd {
			return
		}
		c.again++
		time.AfterFunc(restartAfter, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if !c.stopped && c.command == cmd {
				_ = c.run()
			}
		})
	}()
	return nil
}

// kill kills it as the kernel does, and starts it again as a kubelet does.
func (c *controller) kill() error {
	c.mu.Lock()
	cmd, ended := c.command, c.ended
	c.command = nil // it has not ended by itself
	c.mu.Unlock()
	_ = cmd.Process.Kill()
	<-ended
	time.Sleep(restartAfter)
	return c.start()
}

func (c *controller) stop() {
	c.mu.Lock()
	c.stopped = true
	cmd, ended := c.command, c.ended
	c.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Kill()
		<-ended
	}
}

// restarts is how often it has ended by itself.
func (c *controller) restarts() int {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.again
}

func (c *controller) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.command == nil {
		return 0
	}
	return c.command.Process.Pid
}

// argoRollouts releases by a patch of the Rollout's image.
type argoRollouts struct{ *lane }

func (g *argoRollouts) rollout(ctx context.Context, a *app) (*unstructured.Unstructured, error) {
	return g.objects.Resource(kinds["Rollout"]).Namespace(g.namespace).Get(ctx, a.name, metav1.GetOptions{})
}

func (g *argoRollouts) install(ctx context.Context, a *app) error {
	text, err := a.values.render("argo-rollouts.yaml")
	if err != nil {
		return err
	}
	if err := a.put(ctx, text); err != nil {
		return err
	}
	return eventually(ctx, a.s.patience(), func() error {
		u, err := g.rollout(ctx, a)
		if err != nil {
			return err
		}
		if s := argoStatus(u); s.Phase != "Healthy" || s.StableRS == "" || s.observed != u.GetGeneration() {
			return fmt.Errorf("Rollout %s is %q: %s", a.name, s.Phase, s.Message)
		}
		return nil
	})
}

func (g *argoRollouts) release(ctx context.Context, a *app, image string) error {
	if a.git != nil {
		return a.commit(ctx, "argo-rollouts.yaml", image)
	}
	patch := []map[string]any{{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}}
	if a.s.configuration { // as kustomize does it: another name for other content
		v := a.values
		v.ConfigMap, v.Configuration, v.Fail = a.name+"-settings-2", badConfiguration, 30
		text, err := v.render("argo-rollouts.yaml")
		if err != nil {
			return err
		}
		_, text, _ = strings.Cut(text, "\n---\napiVersion: v1\nkind: ConfigMap")
		if err := g.create(ctx, g.namespace, "apiVersion: v1\nkind: ConfigMap"+text); err != nil {
			return err
		}
		patch = []map[string]any{{"op": "replace", "path": "/spec/template/spec/containers/0/envFrom/0/configMapRef/name", "value": v.ConfigMap}}
	}
	text, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = g.objects.Resource(kinds["Rollout"]).Namespace(g.namespace).Patch(ctx, a.name, types.JSONPatchType, text, metav1.PatchOptions{})
	return err
}

// argo is what a Rollout says.
type argo struct {
	Phase, Message, StableRS, CurrentPodHash string
	ObservedGeneration                       string
	Abort                                    bool
	Canary                                   struct {
		CurrentStepAnalysisRunStatus struct{ Status string }
	}
	observed int64
}

func argoStatus(u *unstructured.Unstructured) (s argo) {
	text, _ := json.Marshal(u.Object["status"])
	_ = json.Unmarshal(text, &s)
	s.observed, _ = strconv.ParseInt(s.ObservedGeneration, 10, 64)
	return s
}

func (g *argoRollouts) look(ctx context.Context, a *app) (look, error) {
	u, err := g.rollout(ctx, a)
	if err != nil {
		return look{}, err
	}
	share, err := a.weightOf(ctx, a.name+"-vs", func(to map[string]any) bool { return to["subset"] == "canary" })
	if err != nil {
		return look{}, err
	}
	if containers, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers"); a.git != nil && len(containers) > 0 {
		if c, _ := containers[0].(map[string]any); digest(fmt.Sprint(c["image"])) != digest(a.latest) { // Flux has not applied it yet
			return look{share: share}, nil
		}
	}
	s := argoStatus(u)
	return s.look(u.GetGeneration(), share), nil
}

// look reads a status. What is of an older generation says nothing of the release.
func (s argo) look(generation int64, share int) look {
	now := look{share: share}
	if s.observed != generation {
		return now
	}
	step := s.Canary.CurrentStepAnalysisRunStatus.Status
	now.fail = s.Abort || s.Phase == "Degraded" || step == "Failed" || step == "Error"
	done := s.CurrentPodHash == s.StableRS && s.Phase == "Healthy"
	now.pass = !now.fail && (step == "Successful" || done)
	switch {
	case done:
		now.final = promoted
	case s.Phase == "Degraded" && share == 0:
		now.final = rolledBack
	}
	return now
}

func (g *argoRollouts) kill(context.Context, *app) error { return g.controller.kill() }

// end notes what the analyses have measured, which goes with them.
func (g *argoRollouts) end(a *app) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	runs, err := g.objects.Resource(kinds["AnalysisRun"]).Namespace(g.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	log, err := os.OpenFile(g.controller.log, os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return
	}
	defer log.Close()
	for _, run := range runs.Items {
		if strings.HasPrefix(run.GetName(), a.name+"-") {
			text, _ := json.Marshal(run.Object["status"])
			fmt.Fprintf(log, "AnalysisRun %s: %s\n", run.GetName(), text)
		}
	}
}

// flagger releases by a patch of the Deployment's image, or of its ConfigMap.
type flagger struct{ *lane }

func (f *flagger) phase(ctx context.Context, a *app) (string, error) {
	u, err := f.objects.Resource(kinds["Canary"]).Namespace(f.namespace).Get(ctx, a.name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	phase, _, err := unstructured.NestedString(u.Object, "status", "phase")
	return phase, err
}

func (f *flagger) install(ctx context.Context, a *app) error {
	text, err := a.values.render("flagger.yaml")
	if err != nil {
		return err
	}
	if err := a.put(ctx, text); err != nil {
		return err
	}
	return eventually(ctx, a.s.patience(), func() error {
		phase, err := f.phase(ctx, a)
		if err == nil && phase != "Initialized" {
			err = fmt.Errorf("Canary %s is %q", a.name, phase)
		}
		return err
	})
}

func (f *flagger) release(ctx context.Context, a *app, image string) error {
	if a.git != nil {
		return a.commit(ctx, "flagger.yaml", image)
	}
	kind, name, path, value := "Deployment", a.name, "/spec/template/spec/containers/0/image", any(image)
	if a.s.configuration {
		kind, name, path, value = "ConfigMap", a.values.ConfigMap, "/data", map[string]string{"CONFIGURATION": badConfiguration, "FAIL": "30"}
	}
	text, err := json.Marshal([]map[string]any{{"op": "replace", "path": path, "value": value}})
	if err != nil {
		return err
	}
	_, err = f.objects.Resource(kinds[kind]).Namespace(f.namespace).Patch(ctx, name, types.JSONPatchType, text, metav1.PatchOptions{})
	return err
}

func (f *flagger) look(ctx context.Context, a *app) (look, error) {
	phase, err := f.phase(ctx, a)
	if err != nil {
		return look{}, err
	}
	share, err := a.weightOf(ctx, a.name, func(to map[string]any) bool { return to["host"] == a.name+"-canary" })
	return flaggerLook(phase, share), err
}

func flaggerLook(phase string, share int) look {
	now := look{share: share}
	switch phase {
	case "Promoting", "Finalising":
		now.pass = true
	case "Succeeded":
		now.pass, now.final = true, promoted
	case "Failed":
		now.fail, now.final = true, rolledBack
	}
	return now
}

func (f *flagger) kill(context.Context, *app) error { return f.controller.kill() }

func (f *flagger) end(*app) {}
