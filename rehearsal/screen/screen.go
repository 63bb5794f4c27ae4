// Package screen shows steps as they happen: redrawn in place on a terminal, as plain lines elsewhere.
package screen

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// Screen shows steps.
type Screen struct {
	out   io.Writer
	live  bool // a terminal: lines can be redrawn
	color bool
	width int
}

// New shows steps on a file.
func New(out *os.File) *Screen {
	s := &Screen{out: out, width: 100}
	if s.live = term.IsTerminal(int(out.Fd())); s.live {
		if width, _, err := term.GetSize(int(out.Fd())); err == nil {
			s.width = width
		}
	}
	s.color = s.live && os.Getenv("NO_COLOR") == ""
	return s
}

// The marks of a step and their colors.
const (
	green = "32"
	red   = "31"
	dim   = "2"
	bold  = "1"
)

func (s *Screen) paint(color, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// Title starts a group of steps.
func (s *Screen) Title(format string, args ...any) {
	fmt.Fprintf(s.out, "\n%s\n", s.paint(bold, fmt.Sprintf(format, args...)))
}

// Line prints a line.
func (s *Screen) Line(format string, args ...any) {
	fmt.Fprintf(s.out, format+"\n", args...)
}

// plainInterval is the time between two lines of progress where lines cannot be redrawn.
const plainInterval = 10 * time.Second

// Step runs one step and shows its name and its progress, and at the end its result and how long it took.
func (s *Screen) Step(name string, work func(progress func(string)) (result string, err error)) error {
	start := time.Now()
	var mu sync.Mutex
	detail := ""
	progress := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		detail = text
	}
	done := make(chan struct{})
	drawn := make(chan struct{})
	go func() {
		defer close(drawn)
		s.draw(name, start, func() string { mu.Lock(); defer mu.Unlock(); return detail }, done)
	}()
	result, err := work(progress)
	close(done)
	<-drawn
	mark := s.paint(green, "✓")
	if err != nil {
		mark, result = s.paint(red, "✗"), "failed"
	}
	s.clear()
	fmt.Fprintf(s.out, "  %s %-14s %s  %s\n", mark, name, result, s.paint(dim, fmt.Sprintf("%.1fs", time.Since(start).Seconds())))
	return err
}

// draw shows a step's progress until it is done.
func (s *Screen) draw(name string, start time.Time, detail func() string, done <-chan struct{}) {
	interval := plainInterval
	if s.live {
		interval = 100 * time.Millisecond
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	spinner := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	last := ""
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		text := detail()
		if s.live {
			line := fmt.Sprintf("  %c %-14s %s  %.0fs", spinner[i%len(spinner)], name, text, time.Since(start).Seconds())
			s.clear()
			fmt.Fprint(s.out, cut(line, s.width-1))
			continue
		}
		if text != last {
			fmt.Fprintf(s.out, "    %-14s %s  %.0fs\n", name, text, time.Since(start).Seconds())
			last = text
		}
	}
}

func (s *Screen) clear() {
	if s.live {
		fmt.Fprint(s.out, "\r\x1b[K")
	}
}

// cut keeps a line inside the terminal: a longer one could not be redrawn.
func cut(line string, width int) string {
	if width < 1 || utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:width-1]) + "…"
}
