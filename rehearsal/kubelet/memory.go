package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// watchMemory kills the process when it and its children have more memory than the container's limit.
func (p *process) watchMemory(ctx context.Context) {
	limit := p.c.spec.Resources.Limits.Memory().Value()
	if limit == 0 {
		return
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.exited:
			return
		case <-tick.C:
		}
		if memory(p.command.Process.Pid) > limit {
			p.oom.Store(true)
			p.signal(syscall.SIGKILL)
			return
		}
	}
}

// memory is what a process and its children have in memory that is theirs alone, in bytes; 0 when they are gone.
func memory(pid int) int64 {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	text, err := os.ReadFile(filepath.Join(proc, "statm"))
	if err != nil {
		return 0
	}
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(text), &size, &resident, &shared); err != nil {
		return 0
	}
	total := (resident - shared) * int64(os.Getpagesize())
	children, _ := os.ReadFile(filepath.Join(proc, "task", strconv.Itoa(pid), "children")) // gone: none
	for child := range strings.FieldsSeq(string(children)) {
		if id, err := strconv.Atoi(child); err == nil {
			total += memory(id)
		}
	}
	return total
}
