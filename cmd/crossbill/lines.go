package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
)

// lines writes whole lines of several sources.
type lines struct {
	mutex sync.Mutex
	to    io.Writer
}

func (l *lines) exclusively(do func()) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	do()
}

func (l *lines) print(format string, values ...any) {
	l.exclusively(func() { fmt.Fprintf(l.to, format+"\n", values...) })
}

// copy writes each line of a source with a name before it.
func (l *lines) copy(name string, from io.Reader) {
	read := bufio.NewReader(from)
	for {
		line, err := read.ReadString('\n')
		if line != "" {
			l.print("%s | %s", name, strings.TrimSuffix(line, "\n"))
		}
		if err != nil {
			return
		}
	}
}

// printLine prints a value as JSON in one line.
func printLine(out io.Writer, value any) error {
	text, err := json.Marshal(value)
	if err == nil {
		_, err = fmt.Fprintf(out, "%s\n", text)
	}
	return err
}
