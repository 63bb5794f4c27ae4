package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// crossbill releases as the jobs of GitLab's pipeline do: the commands of templates/release/template.yml in their order, with the
// same decisions by exit codes, and an approver who presses at once. What GitLab and its runners take for each job is not in it.
type crossbill struct {
	*lane
	mu       sync.Mutex
	releases map[string]*pipelines // by app
	has      map[int]float64       // MiB that each command that runs has had, by its process
	most     float64               // that they had together since the last reset
}

// pipelines are those of an app.
type pipelines struct {
	all    []*pipeline
	shared bool // the canary has had a share of the traffic
	cancel context.CancelFunc
	group  sync.WaitGroup
}

// pipeline is one release's.
type pipeline struct {
	pass, fail bool
	ended      string      // promoted or rolledBack; "gave way" for one that another one has replaced
	running    *os.Process // the job's
	command    string
	killed     bool
}

const gaveWay = "gave way"

// folder has an app's files, as its repository would.
func (c *crossbill) folder(a *app) string {
	return filepath.Join(c.Work, "apps", c.namespace, a.name)
}

// write writes an app's manifests and configuration.
func (c *crossbill) write(a *app) error {
	v := a.values
	if a.git == nil {
		v.Image = c.repository()
	} else {
		v.Repository = a.git.URL
	}
	for file, to := range map[string]string{"crossbill.yaml": "manifests/app.yaml", "crossbill-config.yaml": "crossbill.yaml"} {
		text, err := v.render(file)
		if err != nil {
			return err
		}
		if err := writeWhole(filepath.Join(c.folder(a), to), []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

func (c *crossbill) install(ctx context.Context, a *app) error {
	if a.s.gitops { // the first version is in Git
		text, err := a.values.render("crossbill.yaml")
		if err == nil {
			err = a.put(ctx, text)
		}
		if err == nil {
			err = c.write(a)
		}
		return err
	}
	if err := c.write(a); err != nil {
		return err
	}
	if code, out := c.command(ctx, a, nil, "canary", "--image", c.images["one"], "--release-id", a.name+"-first"); code != 0 {
		return fmt.Errorf("crossbill canary: exit code %d\n%s", code, out)
	}
	if !a.s.autoscaled {
		return nil
	}
	text, err := a.values.render("crossbill-autoscaler.yaml") // no part of a release, unless applyOthers says so
	if err != nil {
		return err
	}
	return a.put(ctx, text)
}

func (c *crossbill) release(_ context.Context, a *app, image string) error {
	if a.s.configuration {
		a.values.Configuration, a.values.Fail = badConfiguration, 30
		if err := c.write(a); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.releases[a.name]
	if of == nil {
		of = &pipelines{}
		c.releases[a.name] = of
	}
	// Not the arena's context: end() ends it.
	ctx, cancel := context.WithCancel(context.Background())
	if before := of.cancel; before != nil {
		of.cancel = func() { before(); cancel() }
	} else {
		of.cancel = cancel
	}
	p := &pipeline{}
	of.all = append(of.all, p)
	id := fmt.Sprintf("%s-%d", a.name, len(of.all))
	of.group.Go(func() { c.carry(ctx, a, p, image, id) })
	return nil
}

// carry is the pipeline: a job after the other.
func (c *crossbill) carry(ctx context.Context, a *app, p *pipeline, image, id string) {
	job := func(args ...string) int {
		args = append(args, "--release-id", id)
		code, _ := c.command(ctx, a, p, args...)
		for ctx.Err() == nil && code < 0 { // killed: GitLab runs it again
			_ = pause(ctx, retryAfter)
			code, _ = c.command(ctx, a, p, args...)
		}
		return code
	}
	note := func(set func()) {
		c.mu.Lock()
		defer c.mu.Unlock()
		set()
	}
	rollback := func(code int, on ...int) {
		ended := gaveWay
		if slices.Contains(on, code) {
			note(func() { p.fail = true })
			if job("rollback", "--reason", "the job failed") == 0 {
				ended = rolledBack
			}
		}
		note(func() { p.ended = ended })
	}
	if code := job("queue", "--image", image); code != 0 {
		rollback(code)
		return
	}
	canary := []string{"canary", "--image", image, "--weight", fmt.Sprint(a.values.Weight)}
	if a.s.configuration {
		canary = append(canary, "--again")
	}
	if code := job(canary...); code != 0 {
		rollback(code, 3, 6)
		return
	}
	verify := []string{"verify", "--interval", "1s"}
	if a.s.fleet { // all of them ask one Prometheus: the default will do
		verify = verify[:1]
	}
	if code := job(verify...); code != 0 {
		rollback(code, 3, 4, 6)
		return
	}
	note(func() { p.pass = true })
	if code := job("promote"); code != 0 {
		rollback(code, 3, 6)
		return
	}
	if code := job("cleanup"); code != 0 {
		return // it has to be run again by a person: never at rest
	}
	note(func() { p.ended = promoted })
}

// command runs crossbill, and gives its exit code, -1 if it was killed, and what it printed.
func (c *crossbill) command(ctx context.Context, a *app, p *pipeline, args ...string) (int, string) {
	full := slices.Concat([]string{filepath.Join(c.Repository, "bin", "crossbill")}, args, []string{"--config", "crossbill.yaml", "--kubeconfig", c.cluster.Kubeconfig})
	if a.s.fleet { // jobs run on other machines: here so many of them would take the processors from the probes of the apps
		full = slices.Insert(full, 0, "nice", "-n", "10")
	}
	cmd := exec.CommandContext(ctx, full[0], full[1:]...)
	var out bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.folder(a), &out, &out
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 1, err.Error()
	}
	if p != nil {
		c.mu.Lock()
		p.running, p.command = cmd.Process, args[0]
		c.mu.Unlock()
	}
	ended := make(chan struct{})
	go c.watchMemory(cmd.Process.Pid, a.s.pollEvery()/10, ended)
	_ = cmd.Wait()
	close(ended)
	c.mu.Lock()
	if p != nil {
		p.running = nil
	}
	c.mu.Unlock()
	code := cmd.ProcessState.ExitCode()
	_ = appendTo(filepath.Join(c.cluster.Logs(), c.namespace+".log"), fmt.Sprintf("%s %s: crossbill %v\n%sexit code %d after %s\n\n",
		began.Format("15:04:05.000"), a.name, args, out.String(), code, time.Since(began).Round(time.Millisecond)))
	return code, out.String()
}

// appendTo adds text to a log as a whole, beside others who do.
func appendTo(log, text string) error {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}

// watchMemory notes the most memory that a command has while it runs.
func (c *crossbill) watchMemory(pid int, every time.Duration, ended chan struct{}) {
	for {
		has := memoryOf(pid, "VmHWM")
		c.mu.Lock()
		c.has[pid] = has
		all := 0.0
		for _, one := range c.has {
			all += one
		}
		c.most = max(c.most, all)
		c.mu.Unlock()
		select {
		case <-ended:
			c.mu.Lock()
			delete(c.has, pid)
			c.mu.Unlock()
			return
		case <-time.After(every):
		}
	}
}

func (c *crossbill) look(ctx context.Context, a *app) (look, error) {
	share, err := a.weightOf(ctx, a.name+"-vs", func(to map[string]any) bool { return to["subset"] == "canary" })
	if err != nil {
		return look{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := look{share: share}
	of := c.releases[a.name]
	if of == nil {
		return now, nil
	}
	last := of.all[len(of.all)-1]
	now.pass, now.fail = last.pass, last.fail
	of.shared = of.shared || share > 0
	if of.shared && share == 0 && !now.pass { // the verdict acts before its command ends
		now.fail = true
	}
	for _, p := range of.all {
		if p.ended == "" {
			return now, nil
		}
	}
	if last.ended != gaveWay {
		now.final = last.ended
	} else { // it was refused, or verify has rolled it back itself
		now.final = rolledBack
	}
	if now.final == rolledBack {
		now.fail = true
	}
	return now, nil
}

// kill kills the job that promotes. GitLab runs it again.
func (c *crossbill) kill(_ context.Context, a *app) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.releases[a.name]
	p := of.all[len(of.all)-1]
	if p.running == nil {
		return fmt.Errorf("no job runs that could be killed")
	}
	c.logf("%s: killing crossbill %s", a.s.Name, p.command)
	return p.running.Kill()
}

func (c *crossbill) end(a *app) {
	c.mu.Lock()
	of := c.releases[a.name]
	delete(c.releases, a.name)
	c.mu.Unlock()
	if of != nil {
		of.cancel()
		of.group.Wait()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = c.kube.CoordinationV1().Leases(c.namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
	_ = os.RemoveAll(c.folder(a))
}

// weightOf is the weight that an app's route gives a destination.
func (a *app) weightOf(ctx context.Context, virtualService string, is func(destination map[string]any) bool) (int, error) {
	vs, err := a.lane.objects.Resource(kinds["VirtualService"]).Namespace(a.lane.namespace).Get(ctx, virtualService, metav1.GetOptions{})
	if err != nil {
		return -1, err
	}
	return weightIn(vs, is), nil
}

func weightIn(vs *unstructured.Unstructured, is func(destination map[string]any) bool) int {
	routes, _, _ := unstructured.NestedSlice(vs.Object, "spec", "http")
	for _, r := range routes {
		route, _ := r.(map[string]any)
		list, _ := route["route"].([]any)
		for _, d := range list {
			destination, _ := d.(map[string]any)
			to, _ := destination["destination"].(map[string]any)
			if is(to) {
				weight, _ := destination["weight"].(int64)
				return int(weight)
			}
		}
	}
	return 0
}
