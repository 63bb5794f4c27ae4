package sandbox_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/our-org/crossbill/rehearsal/sandbox"
)

// The test binary plays three parts: the test, the parent process that opens the sandbox (part
// "run"), and the child inside it.
func TestMain(m *testing.M) {
	switch {
	case sandbox.Inside():
		if err := child(); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(7)
	case os.Getenv("SANDBOX_TEST_PART") == "run":
		port, _ := strconv.Atoi(os.Getenv("SANDBOX_TEST_PORT"))
		code, err := sandbox.Run(context.Background(), nil, sandbox.Door{Name: "web", Port: port, Target: "10.244.1.2:80"})
		if err != nil {
			fmt.Println("error:", err)
		}
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// child serves a page on a pod's address, starts a grandchild, says that it is up, and waits for
// a signal.
func child() error {
	doors, err := sandbox.Enter()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "10.244.1.2:80")
	if err != nil {
		return err
	}
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "inside") }))
	}()
	if err := exec.Command("sleep", os.Getenv("SANDBOX_TEST_SLEEP")).Start(); err != nil {
		return err
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	fmt.Printf("up %s pid=%d processes=%d\n", doors[0].Host, os.Getpid(), len(processes))
	<-signals
	select {
	case <-signals: // to many programs a second one means "at once"
		fmt.Println("signaled twice")
	case <-time.After(100 * time.Millisecond):
		fmt.Println("in order")
	}
	return nil
}

// start runs the parent in a process group of its own and waits until the child is up.
func start(t *testing.T, sleep string) (parent *exec.Cmd, host string, lines *bufio.Scanner) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent = exec.Command(self)
	parent.Env = append(os.Environ(), "SANDBOX_TEST_PART=run", "SANDBOX_TEST_SLEEP="+sleep)
	parent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-parent.Process.Pid, syscall.SIGKILL) })
	lines = bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatalf("the child said nothing: %v", lines.Err())
	}
	var pid, processes int
	if _, err := fmt.Sscanf(lines.Text(), "up %s pid=%d processes=%d", &host, &pid, &processes); err != nil {
		t.Fatalf("child: %q: %v", lines.Text(), err)
	}
	if pid != 1 || processes != 2 {
		t.Errorf("pid %d and %d processes inside, want pid 1 and 2 processes: /proc is not the sandbox's", pid, processes)
	}
	return parent, host, lines
}

// sleepers counts the processes on the host that run `sleep <seconds>`.
func sleepers(t *testing.T, seconds string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		b, _ := os.ReadFile(f) // a process may end while we look
		if string(b) == "sleep\x00"+seconds+"\x00" {
			n++
		}
	}
	return n
}

func waitGone(t *testing.T, seconds string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); sleepers(t, seconds) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a process of the sandbox is still alive")
		}
	}
}

func TestDoorReachesPodAddressInside(t *testing.T) {
	_, host, _ := start(t, "100001")
	response, err := http.Get("http://" + host)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if string(body) != "inside" {
		t.Errorf("got %q through the door, want %q", body, "inside")
	}
}

func TestKillOfTheParentLeavesNothing(t *testing.T) {
	const seconds = "100002"
	parent, _, _ := start(t, seconds)
	if sleepers(t, seconds) != 1 {
		t.Fatal("the grandchild does not run: the test would prove nothing")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitGone(t, seconds)
}

func TestSignalsLetTheChildEndInOrder(t *testing.T) {
	for i, tt := range []struct {
		name string
		send func(parent int) error
	}{
		{"SIGINT to the process group, as Ctrl-C does", func(p int) error { return syscall.Kill(-p, syscall.SIGINT) }},
		{"SIGINT to the parent alone", func(p int) error { return syscall.Kill(p, syscall.SIGINT) }},
		{"SIGTERM to the parent alone", func(p int) error { return syscall.Kill(p, syscall.SIGTERM) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seconds := fmt.Sprint(100010 + i)
			parent, _, lines := start(t, seconds)
			if err := tt.send(parent.Process.Pid); err != nil {
				t.Fatal(err)
			}
			if !lines.Scan() || lines.Text() != "in order" {
				t.Errorf("child said %q, want %q", lines.Text(), "in order")
			}
			err := parent.Wait()
			if got := parent.ProcessState.ExitCode(); got != 7 {
				t.Errorf("exit code %d (%v), want the child's 7", got, err)
			}
			waitGone(t, seconds)
		})
	}
}

func TestDoorPrefersItsPortAndFallsBackToAFreeOne(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	t.Setenv("SANDBOX_TEST_PORT", port)
	if _, host, _ := start(t, "100003"); host == "127.0.0.1:"+port {
		t.Errorf("door at %s, which another program holds", host)
	}
	l.Close()
	if _, host, _ := start(t, "100004"); host != "127.0.0.1:"+port {
		t.Errorf("door at %s, want its preferred port %s", host, port)
	}
}
