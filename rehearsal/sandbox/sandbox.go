// Package sandbox runs a program again inside private Linux namespaces, so that a whole cluster
// fits on one machine without touching it.
//
// Inside there is a network of its own: every port is free, and every address of [PodCIDR] is
// local, so that any process may listen on a pod's IP. There is a process tree of its own, whose
// first process is the program: when it dies, by whatever cause, the kernel kills everything it
// started. And there is a mount table of its own. Nothing is created under a name, so nothing is
// left behind, even after kill -9.
//
// Nothing inside reaches the host's network or the Internet: fetch and build before entering.
// The host reaches in only through the [Door]s it was given.
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
)

// PodCIDR is the network whose addresses are all local inside the sandbox.
const PodCIDR = "10.244.0.0/16"

// stateVariable carries the doors from the parent to the child; its presence shows the child that
// it is one.
const stateVariable = "CROSSBILL_SANDBOX"

// A Door lets the host reach one TCP address inside the sandbox.
type Door struct {
	Name string `json:"name"`
	// Port is the preferred port on the host's 127.0.0.1; when it is taken, or 0, any free one is used.
	Port int `json:"port"`
	// Target is the address inside, host:port. It need not be listening yet when the door opens.
	Target string `json:"target"`
	// Host is the address on the host, 127.0.0.1:port. Run fills it in.
	Host string `json:"host"`
}

// Inside tells whether this process runs in the sandbox. [Enter] must still be called there.
func Inside() bool { return os.Getenv(stateVariable) != "" }

// Run starts this program again inside a new sandbox with the given arguments, waits for it and
// returns its exit code. Standard output and error are shared, standard input is empty.
//
// The child is in a process group of its own, and Run passes SIGINT, SIGTERM, SIGQUIT and SIGHUP
// on to it, each once, whether they were sent to this process or, as by Ctrl-C, to its group: the
// child decides how to end. When ctx ends, the child gets SIGTERM. When this process dies without
// warning, the kernel kills the child.
//
// An error means that the program did not start.
func Run(ctx context.Context, args []string, doors ...Door) (int, error) {
	// Pdeathsig follows the thread that forked, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	var files []*os.File
	defer func() { closeAll(files) }()
	doors = append([]Door(nil), doors...)
	for i := range doors {
		file, err := open(&doors[i])
		if err != nil {
			return 0, err
		}
		files = append(files, file)
	}
	state, err := json.Marshal(doors)
	if err != nil {
		return 0, err
	}
	c := exec.Command(self, args...)
	c.Args[0] = os.Args[0]
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.ExtraFiles = files
	c.Env = append(os.Environ(), stateVariable+"="+string(state))
	c.SysProcAttr = namespaces(os.Geteuid(), os.Getegid())

	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := c.Start(); err != nil {
		return 0, startError(err)
	}
	ended := make(chan struct{})
	go func() {
		done := ctx.Done()
		for {
			select {
			case s := <-signals:
				_ = c.Process.Signal(s)
			case <-done:
				_ = c.Process.Signal(syscall.SIGTERM)
				done = nil
			case <-ended:
				return
			}
		}
	}()
	err = c.Wait()
	close(ended)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), nil // as a shell says it
		}
		return exit.ExitCode(), nil
	case err != nil:
		return 0, fmt.Errorf("sandbox: %w", err)
	}
	return 0, nil
}

// namespaces asks for a new network, process tree and mount table. Who is not root gets them
// through a user namespace, in which he is root and no other user exists.
func namespaces(uid, gid int) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true,
	}
	if uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
	return attr
}

func startError(err error) error {
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("sandbox: this system does not let user %d make private network, process and mount namespaces (%w); "+
			"run as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "+
			"on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0), or give the container --privileged", os.Geteuid(), err)
	}
	return fmt.Errorf("sandbox: %w", err)
}

// open listens on the host for a door. The listener keeps the host's network namespace wherever
// its file descriptor goes.
func open(door *Door) (*os.File, error) {
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(door.Port))
	if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, fmt.Errorf("sandbox: door %s: %w", door.Name, err)
	}
	defer l.Close() // the file is a duplicate
	door.Host = l.Addr().String()
	return l.(*net.TCPListener).File()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Enter prepares the sandbox from the inside: loopback, pod addresses, /proc, and the doors, which
// forward until the process ends. Call it once, first of all. It returns the doors with their
// addresses on the host.
func Enter() ([]Door, error) {
	var doors []Door
	if err := json.Unmarshal([]byte(os.Getenv(stateVariable)), &doors); err != nil {
		return nil, fmt.Errorf("sandbox: this process was not started by sandbox.Run: %w", err)
	}
	if err := mountProc(); err != nil {
		return nil, err
	}
	if err := makeNetwork(); err != nil {
		return nil, err
	}
	for i, door := range doors {
		f := os.NewFile(uintptr(3+i), door.Name)
		syscall.CloseOnExec(3 + i)
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("sandbox: door %s: %w", door.Name, err)
		}
		go forward(l, door.Target)
	}
	return doors, nil
}

func mountProc() error {
	if os.Getpid() != 1 {
		return fmt.Errorf("sandbox: process id is %d, want 1: not started by sandbox.Run", os.Getpid())
	}
	// Nothing mounted from here on may reach the host's mount table.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("sandbox: make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("sandbox: mount /proc of the new process namespace (in a container, give it --privileged): %w", err)
	}
	return nil
}

func makeNetwork() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("sandbox: loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("sandbox: loopback up: %w", err)
	}
	_, pods, err := net.ParseCIDR(PodCIDR)
	if err != nil {
		return err
	}
	route := &netlink.Route{
		LinkIndex: lo.Attrs().Index,
		Dst:       pods,
		Type:      syscall.RTN_LOCAL,
		Table:     syscall.RT_TABLE_LOCAL,
		Scope:     netlink.SCOPE_HOST,
	}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("sandbox: make %s local: %w", PodCIDR, err)
	}
	return nil
}

func forward(l net.Listener, target string) {
	for {
		outside, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer outside.Close()
			inside, err := net.Dial("tcp", target)
			if err != nil {
				return // the caller sees a closed connection, as from a port where nobody listens
			}
			defer inside.Close()
			go copyHalf(inside, outside)
			copyHalf(outside, inside)
		}()
	}
}

// copyHalf passes one direction on, its end included.
func copyHalf(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.(*net.TCPConn).CloseWrite()
}
