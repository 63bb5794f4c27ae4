package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// How long a container that has ended waits for its next start. The same for images that cannot be pulled.
	firstBackOff = 10 * time.Second
	lastBackOff  = 5 * time.Minute
	// How often a kubelet looks for containers that have ended.
	relist = time.Second
	// A process that lived this long before it ended starts the back-off anew.
	longLife = 10 * time.Minute
)

// A container is one container of a pod: a process that is kept running.
type container struct {
	pod  *pod
	spec *corev1.Container

	status corev1.ContainerStatus // guarded by pod.mu
	over   bool                   // ended and not to be started again; guarded by pod.mu
	pid    int                    // of the process that runs, or that ran last; guarded by pod.mu
}

func newContainer(p *pod, spec *corev1.Container) *container {
	c := &container{pod: p, spec: spec}
	c.status = corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, Started: new(bool)}
	c.status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	return c
}

// change changes the status under the pod's lock and has it published.
func (c *container) change(f func(s *corev1.ContainerStatus)) {
	c.pod.mu.Lock()
	f(&c.status)
	c.pod.mu.Unlock()
	c.pod.touch()
}

func (c *container) wait(reason, message string) {
	c.change(func(s *corev1.ContainerStatus) {
		s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
		s.Ready, s.Started = false, new(bool)
	})
}

func (c *container) event(kind, reason, format string, args ...any) {
	if c.pod.lost() {
		return
	}
	c.pod.k.events.Eventf(c.pod.current(), kind, reason, format, args...)
}

// sleep waits, and tells whether the container is still wanted.
func (c *container) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.pod.deleting:
	case <-c.pod.ctx.Done():
	}
	return false
}

// run keeps the container's process running until the pod is deleted or killed, or until the
// process has ended and the restart policy leaves it at that.
func (c *container) run() {
	image := c.pull()
	if image == nil {
		return
	}
	backOff := time.Duration(0) // the first restart is at once, as a kubelet's is
	for {
		began := time.Now()
		process, err := c.process(image)
		if err != nil {
			c.event(corev1.EventTypeWarning, "Failed", "Error: %v", err)
			c.wait(reasonOf(err), err.Error())
			if !c.sleep(firstBackOff) {
				return
			}
			continue
		}
		code := process.run()
		if c.pod.stopping() {
			return
		}
		policy := c.pod.current().Spec.RestartPolicy
		if policy == corev1.RestartPolicyNever || policy == corev1.RestartPolicyOnFailure && code == 0 {
			c.pod.mu.Lock()
			c.over = true
			c.pod.mu.Unlock()
			c.pod.touch()
			return
		}
		if time.Since(began) > longLife {
			backOff = 0
		}
		if backOff > 0 {
			c.event(corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", c.spec.Name, c.pod.name)
			c.wait("CrashLoopBackOff", fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s",
				backOff, c.spec.Name, c.pod.name, c.pod.namespace))
			if !c.sleep(backOff) {
				return
			}
		}
		backOff = next(backOff)
		c.change(func(s *corev1.ContainerStatus) { s.RestartCount++ })
	}
}

func next(backOff time.Duration) time.Duration {
	return min(max(2*backOff, firstBackOff), lastBackOff)
}

// pull returns the container's image, however often it must ask; nil when the pod ends before.
func (c *container) pull() *image {
	backOff := firstBackOff
	for {
		began := time.Now()
		image, fetched, err := c.pod.k.images.get(c.pod.ctx, c.spec.Image)
		if err == nil {
			if fetched {
				c.event(corev1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %s", c.spec.Image, time.Since(began).Round(time.Millisecond))
			}
			name := c.pod.k.images.nameOf(image)
			c.change(func(s *corev1.ContainerStatus) { s.ImageID = name })
			return image
		}
		if c.pod.stopping() {
			return nil
		}
		c.event(corev1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", c.spec.Image, err)
		c.wait("ErrImagePull", err.Error())
		if !c.sleep(firstBackOff) {
			return nil
		}
		c.event(corev1.EventTypeNormal, "BackOff", "Back-off pulling image %q", c.spec.Image)
		c.wait("ImagePullBackOff", fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %v", c.spec.Image, err))
		if !c.sleep(backOff) {
			return nil
		}
		backOff = next(backOff)
	}
}

// A configError is a pod that cannot be run as it is written.
type configError struct{ error }

func reasonOf(err error) string {
	var config configError
	if errors.As(err, &config) {
		return "CreateContainerConfigError"
	}
	return "RunContainerError"
}

// A process is one life of a container.
type process struct {
	c       *container
	command *exec.Cmd
	root    *rootfs
	log     *os.File
	began   metav1.Time
	exited  chan struct{}
	unwell  chan string // why a probe wants the process restarted
	oom     atomic.Bool // killed because of its memory
}

// process starts the container's process.
func (c *container) process(image *image) (*process, error) {
	object := c.pod.current()
	read := c.pod.k.configuration(c.pod.ctx, object.Namespace)
	settings, err := settingsOf(object, c.spec, image, read)
	if err != nil {
		return nil, configError{err}
	}
	volumes, err := makeVolumes(object, c.spec, filepath.Join(c.pod.dir, "volumes"), read)
	if err != nil {
		return nil, configError{err}
	}
	root, err := mountRootfs(filepath.Join(c.pod.dir, c.spec.Name), image.root, volumes, settings.readOnly)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(c.pod.k.logsDir(), logName(object.Namespace, object.Name, c.spec.Name)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		root.unmount()
		return nil, err
	}
	p := &process{c: c, root: root, log: log, exited: make(chan struct{}), unwell: make(chan string, 1)}
	if p.command, err = settings.command(root); err == nil {
		p.command.Stdout, p.command.Stderr = log, log
		err = start(p.command, object.Name)
	}
	if err != nil {
		log.Close()
		root.unmount()
		return nil, fmt.Errorf("start %q: %w", settings.args, err)
	}
	p.began = metav1.Now()
	go func() {
		_ = p.command.Wait() // the state is read from ProcessState
		close(p.exited)
	}()
	c.event(corev1.EventTypeNormal, "Started", "Started container %s", c.spec.Name)
	c.change(func(s *corev1.ContainerStatus) {
		started := c.spec.StartupProbe == nil
		s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: p.began}}
		c.pid = p.command.Process.Pid
		s.ContainerID = p.id()
		s.Started = &started
		s.Ready = started && c.spec.ReadinessProbe == nil
	})
	return p, nil
}

// start starts a process under a host name of its own.
func start(c *exec.Cmd, hostname string) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread keeps the host name and ends with this goroutine
		err := syscall.Unshare(syscall.CLONE_NEWUTS)
		if err == nil {
			err = syscall.Sethostname([]byte(hostname[:min(len(hostname), 63)]))
		}
		if err != nil {
			started <- fmt.Errorf("host name: %w", err)
			return
		}
		started <- c.Start()
	}()
	return <-started
}

func (p *process) id() string { return fmt.Sprintf("process://%d", p.command.Process.Pid) }

// run probes the process until it ends, or ends it when a probe, the pod's deletion or the pod's
// kill wants that. It returns the exit code, after the status says so.
func (p *process) run() int {
	// Probes of readiness go on while the process drains, as a kubelet's do; the others do not.
	readiness, stopReadiness := context.WithCancel(p.c.pod.ctx)
	defer stopReadiness()
	life, stopLife := context.WithCancel(readiness)
	defer stopLife()
	go p.probe(readiness, life)
	go p.watchMemory(readiness)
	select {
	case <-p.exited:
		p.c.sleep(time.Until(time.Now().Truncate(relist).Add(relist)))
	case why := <-p.unwell:
		stopLife()
		p.c.event(corev1.EventTypeNormal, "Killing", "%s", why)
		p.end()
	case <-p.c.pod.deleting:
		stopLife()
		p.c.event(corev1.EventTypeNormal, "Killing", "Stopping container %s", p.c.spec.Name)
		p.end()
	case <-p.c.pod.ctx.Done():
		p.signal(syscall.SIGKILL)
		<-p.exited
	}
	stopReadiness()
	p.signal(syscall.SIGKILL) // what the process leaves behind in its group
	p.log.Close()
	p.root.unmount()
	code, signal := exit(p.command.ProcessState)
	reason := "Completed"
	if code != 0 {
		reason = "Error"
	}
	if p.oom.Load() {
		reason = "OOMKilled"
	}
	p.c.change(func(s *corev1.ContainerStatus) {
		terminated := &corev1.ContainerStateTerminated{
			ExitCode: int32(code), Signal: int32(signal), Reason: reason,
			StartedAt: p.began, FinishedAt: metav1.Now(), ContainerID: p.id(),
		}
		s.State = corev1.ContainerState{Terminated: terminated}
		s.LastTerminationState = corev1.ContainerState{}
		if !p.c.pod.stopping() {
			s.LastTerminationState.Terminated = terminated
		}
		s.Ready, s.Started = false, new(bool)
	})
	return code
}

// signal reaches the whole process group.
func (p *process) signal(s syscall.Signal) { _ = syscall.Kill(-p.command.Process.Pid, s) }

func exit(state *os.ProcessState) (code, signal int) {
	status := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal()), int(status.Signal())
	}
	return status.ExitStatus(), 0
}

// end ends the process in order: the preStop hook, SIGTERM, SIGKILL when the grace period is
// over. The hook's time is part of the grace period, with two seconds left for SIGTERM.
func (p *process) end() {
	object := p.c.pod.current()
	grace := 30 * time.Second
	if s := object.Spec.TerminationGracePeriodSeconds; s != nil {
		grace = time.Duration(*s) * time.Second
	}
	if s := object.DeletionGracePeriodSeconds; s != nil { // what the one who deleted it asked for
		grace = time.Duration(*s) * time.Second
	}
	ctx, cancel := context.WithTimeout(p.c.pod.ctx, grace)
	defer cancel()
	p.preStop(ctx, object)
	if ctx.Err() != nil && p.c.pod.ctx.Err() == nil && grace > 0 {
		var extra context.CancelFunc
		ctx, extra = context.WithTimeout(p.c.pod.ctx, 2*time.Second)
		defer extra()
	}
	_ = p.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return
	case <-ctx.Done():
	}
	p.signal(syscall.SIGKILL)
	<-p.exited
}

func (p *process) preStop(ctx context.Context, object *corev1.Pod) {
	if p.c.spec.Lifecycle == nil || p.c.spec.Lifecycle.PreStop == nil {
		return
	}
	hook := p.c.spec.Lifecycle.PreStop
	switch {
	case hook.Sleep != nil:
		t := time.NewTimer(time.Duration(hook.Sleep.Seconds) * time.Second)
		defer t.Stop()
		select {
		case <-t.C:
		case <-p.exited:
		case <-ctx.Done():
		}
	case hook.HTTPGet != nil:
		if err := httpGet(ctx, object.Status.PodIP, p.c.spec, hook.HTTPGet); err != nil {
			p.c.event(corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed: %v", err)
		}
	}
}
