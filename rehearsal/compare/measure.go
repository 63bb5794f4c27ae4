package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// audit is who has asked the API server for what, by namespace.
type audit struct {
	mu     sync.Mutex
	events map[string][]event
}

type event struct {
	at    time.Time
	agent string
	write bool
}

// follow reads the audit log as it grows, and goes on with the next one when the API server starts that: after 100 MB.
func follow(ctx context.Context, file string) (*audit, error) {
	log, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	a := &audit{events: map[string][]event{}}
	go func() {
		for ctx.Err() == nil {
			a.read(ctx, log, func() bool { return replaced(log, file) })
			log.Close()
			if log, err = os.Open(file); err != nil {
				fmt.Fprintln(os.Stderr, "the audit log:", err)
				return
			}
		}
		log.Close()
	}()
	return a, nil
}

// replaced says whether a file has another one's place by now.
func replaced(log *os.File, file string) bool {
	own, err := log.Stat()
	if err != nil {
		return true
	}
	now, err := os.Stat(file)
	return err == nil && !os.SameFile(own, now)
}

// read reads a log until it is full: then nothing is added to it any more.
func (a *audit) read(ctx context.Context, log io.Reader, full func() bool) {
	lines := bufio.NewReaderSize(log, 1<<20)
	var partial []byte
	for last := false; ctx.Err() == nil; {
		text, err := lines.ReadBytes('\n')
		if partial = append(partial, text...); err == nil {
			a.add(partial)
			partial = partial[:0]
			continue
		}
		if last || !errors.Is(err, io.EOF) {
			return
		}
		if last = full(); !last { // else what came before it was full is read, too
			_ = pause(ctx, 50*time.Millisecond)
		}
	}
}

// add counts a line: a watch when it starts, everything else when it has ended.
func (a *audit) add(text []byte) {
	var e struct { // of audit.k8s.io
		Stage, UserAgent string
		Verb             string // get, list, watch, patch, …
		ObjectRef        struct{ Namespace string }
		StageTimestamp   time.Time
	}
	if json.Unmarshal(text, &e) != nil || e.ObjectRef.Namespace == "" {
		return
	}
	want := "ResponseComplete"
	if e.Verb == "watch" {
		want = "ResponseStarted"
	}
	if e.Stage != want {
		return
	}
	agent, _, _ := strings.Cut(e.UserAgent, "/")
	agent, _, _ = strings.Cut(agent, " ")
	write := e.Verb != "get" && e.Verb != "list" && e.Verb != "watch"
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events[e.ObjectRef.Namespace] = append(a.events[e.ObjectRef.Namespace], event{e.StageTimestamp, agent, write})
}

// count counts the requests of an agent in a namespace in a time.
func (a *audit) count(namespace, agent string, from, to time.Time) (reads, writes int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events[namespace] {
		if e.agent != agent || e.at.Before(from) || e.at.After(to) {
			continue
		}
		if e.write {
			writes++
		} else {
			reads++
		}
	}
	return reads, writes
}

// memoryOf is what /proc says of a process, in MiB: VmRSS is what it has, VmHWM the most that it had.
func memoryOf(pid int, field string) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		var kib float64
		if strings.HasPrefix(line, field+":") {
			if _, err := fmt.Sscanf(strings.TrimPrefix(line, field+":"), "%f kB", &kib); err == nil {
				return kib / 1024
			}
		}
	}
	return 0
}

// measureMemory begins to measure what carries a lane's release out. What it gives ends that, and says the most.
func (l *lane) measureMemory() func() float64 {
	if c, ok := l.system.(*crossbill); ok {
		c.mu.Lock()
		c.most = 0
		c.mu.Unlock()
		return func() float64 {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.most
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan float64, 1)
	go func() {
		most := 0.0
		for ctx.Err() == nil {
			most = max(most, memoryOf(l.controller.pid(), "VmRSS"))
			_ = pause(ctx, time.Second)
		}
		result <- most
	}()
	return func() float64 {
		cancel()
		return <-result
	}
}
