package kubelet

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// settings are how a container's process runs: the pod's wishes over the image's.
type settings struct {
	args     []string
	env      map[string]string
	dir      string
	uid, gid int
	readOnly bool // the root file system
}

// settingsOf refuses what this kubelet cannot do, so that no manifest seems to work that would
// be treated otherwise in a real cluster.
func settingsOf(p *corev1.Pod, c *corev1.Container, i *image, read configuration) (settings, error) {
	if err := supported(p, c); err != nil {
		return settings{}, err
	}
	s := settings{dir: or(or(c.WorkingDir, i.config.WorkingDir), "/")}
	entrypoint, cmd := i.config.Entrypoint, i.config.Cmd
	if len(c.Command) > 0 {
		entrypoint, cmd = c.Command, nil
	}
	if len(c.Args) > 0 {
		cmd = c.Args
	}
	if s.args = slices.Concat(entrypoint, cmd); len(s.args) == 0 {
		return settings{}, fmt.Errorf("no command specified")
	}
	var err error
	if s.env, err = environment(p, c, i.config.Env, read); err != nil {
		return settings{}, err
	}
	if err := s.setUser(p, c, i.config.User); err != nil {
		return settings{}, err
	}
	if c.SecurityContext != nil && c.SecurityContext.ReadOnlyRootFilesystem != nil {
		s.readOnly = *c.SecurityContext.ReadOnlyRootFilesystem
	}
	return s, nil
}

func supported(p *corev1.Pod, c *corev1.Container) error {
	if len(p.Spec.InitContainers) > 0 {
		return fmt.Errorf("init containers are not supported in the rehearsal")
	}
	for name, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
		if probe != nil && probe.HTTPGet == nil && probe.TCPSocket == nil {
			return fmt.Errorf("the %s probe is neither httpGet nor tcpSocket: not supported in the rehearsal", name)
		}
	}
	if l := c.Lifecycle; l != nil {
		if l.PostStart != nil {
			return fmt.Errorf("postStart hooks are not supported in the rehearsal")
		}
		if l.PreStop != nil && l.PreStop.Sleep == nil && l.PreStop.HTTPGet == nil {
			return fmt.Errorf("the preStop hook is neither sleep nor httpGet: not supported in the rehearsal")
		}
	}
	return nil
}

func environment(p *corev1.Pod, c *corev1.Container, image []string, read configuration) (map[string]string, error) {
	env := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, e := range image {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	env["HOSTNAME"] = p.Name
	env["HOST"] = p.Status.PodIP // see the package comment
	if err := read.from(c.EnvFrom, env); err != nil {
		return nil, err
	}
	for _, e := range c.Env {
		value, ok := e.Value, true
		if e.ValueFrom != nil {
			var err error
			if value, ok, err = read.variable(p, e.ValueFrom); err != nil {
				return nil, fmt.Errorf("variable %s: %w", e.Name, err)
			}
		}
		if ok {
			env[e.Name] = value
		}
	}
	return env, nil
}

// field is a pod's field in the downward API's notation.
func field(p *corev1.Pod, path string) (string, error) {
	for prefix, values := range map[string]map[string]string{"metadata.labels['": p.Labels, "metadata.annotations['": p.Annotations} {
		if key, ok := strings.CutPrefix(path, prefix); ok && strings.HasSuffix(key, "']") {
			return values[strings.TrimSuffix(key, "']")], nil
		}
	}
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return string(p.UID), nil
	case "spec.nodeName":
		return p.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName, nil
	case "status.podIP", "status.podIPs":
		return p.Status.PodIP, nil
	case "status.hostIP", "status.hostIPs":
		return p.Status.HostIP, nil
	}
	return "", fmt.Errorf("field %s is not supported in the rehearsal", path)
}

func (s *settings) setUser(p *corev1.Pod, c *corev1.Container, image string) error {
	user, group, _ := strings.Cut(image, ":")
	var err error
	if s.uid, err = strconv.Atoi(or(user, "0")); err != nil {
		return fmt.Errorf("the image's user %q is a name: use a number, which Kubernetes can check", image)
	}
	if s.gid, err = strconv.Atoi(or(group, "0")); err != nil {
		return fmt.Errorf("the image's group %q is a name: use a number", image)
	}
	var nonRoot bool
	take := func(uid, gid *int64, must *bool) {
		if uid != nil {
			s.uid = int(*uid)
		}
		if gid != nil {
			s.gid = int(*gid)
		}
		if must != nil {
			nonRoot = *must
		}
	}
	if sc := p.Spec.SecurityContext; sc != nil {
		take(sc.RunAsUser, sc.RunAsGroup, sc.RunAsNonRoot)
	}
	if sc := c.SecurityContext; sc != nil {
		take(sc.RunAsUser, sc.RunAsGroup, sc.RunAsNonRoot)
	}
	if nonRoot && s.uid == 0 {
		return fmt.Errorf("container has runAsNonRoot and image will run as root")
	}
	return nil
}

// command is the process to start in a root file system.
func (s settings) command(root *rootfs) (*exec.Cmd, error) {
	path, err := s.lookPath(root.dir)
	if err != nil {
		return nil, err
	}
	c := &exec.Cmd{Path: path, Args: s.args, Dir: s.dir, Env: []string{}}
	for _, name := range slices.Sorted(maps.Keys(s.env)) {
		c.Env = append(c.Env, name+"="+s.env[name])
	}
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: root.dir, Setpgid: true}
	if mapped(s.uid) && mapped(s.gid) {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(s.uid), Gid: uint32(s.gid)}
	}
	return c, nil
}

// lookPath finds the program in the image, through the container's PATH when it is a bare name.
func (s settings) lookPath(root string) (string, error) {
	name := s.args[0]
	switch {
	case filepath.IsAbs(name):
		return name, nil
	case strings.Contains(name, "/"):
		return filepath.Join(s.dir, name), nil
	}
	for _, dir := range filepath.SplitList(s.env["PATH"]) {
		path := filepath.Join("/", dir, name)
		// Lstat: a link's target is inside the image, where this process does not look.
		if info, err := os.Lstat(filepath.Join(root, path)); err == nil && !info.IsDir() {
			return path, nil
		}
	}
	return "", fmt.Errorf("executable file not found in the image's $PATH")
}

// mapped tells whether a user or group id exists in this user namespace. In the sandbox of
// someone who is not root only 0 does; pods then run as he himself does.
func mapped(id int) bool {
	for _, r := range idRanges() {
		if id >= r.first && id-r.first < r.count {
			return true
		}
	}
	return false
}

type idRange struct{ first, count int }

// idRanges are the user ids of this user namespace; package sandbox maps groups alike.
var idRanges = sync.OnceValue(func() (ranges []idRange) {
	b, _ := os.ReadFile("/proc/self/uid_map") // unreadable: no id but our own
	for line := range strings.Lines(string(b)) {
		var r idRange
		var outside int
		if _, err := fmt.Sscan(line, &r.first, &outside, &r.count); err == nil {
			ranges = append(ranges, r)
		}
	}
	return ranges
})
