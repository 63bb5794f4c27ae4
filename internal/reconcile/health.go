package reconcile

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// Health is what a process says to whoever asks whether it works: /health for whether it has to be started anew, /ready for
// whether it has found what it needs. The zero value waits for both, and is alive.
type Health struct {
	// Silent is how long a loop may not come round; what it waits for is bounded by less.
	Silent time.Duration

	mutex         sync.Mutex
	read, settled bool
	round         time.Time // zero: it has not started, as where another process leads
}

// Read notes that the repository could be read.
func (h *Health) Read() { h.note(func() { h.read = true }) }

// Settled notes that it is known who leads, this process or another one.
func (h *Health) Settled() { h.note(func() { h.settled = true }) }

// Round notes that the loop has come round, or waits for a command that it has asked to stop.
func (h *Health) Round() { h.note(func() { h.round = time.Now() }) }

func (h *Health) note(what func()) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	what()
}

// Alive says why the process has to be started anew; nil when it has not.
func (h *Health) Alive() error {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if silent := time.Since(h.round); !h.round.IsZero() && silent > h.Silent {
		return fmt.Errorf("the loop has not come round for %s, and %s are admitted", silent.Round(time.Second), h.Silent)
	}
	return nil
}

// Ready says what the process waits for; nil when for nothing.
func (h *Health) Ready() error {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	switch {
	case !h.read:
		return errors.New("the environment repository could not be read yet")
	case !h.settled:
		return errors.New("it is not known yet which process leads")
	}
	return nil
}

// ServeHTTP answers 200 with "ok", or 503 with why not.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	asked := map[string]func() error{"/health": h.Alive, "/ready": h.Ready}[r.URL.Path]
	if asked == nil {
		http.NotFound(w, r)
		return
	}
	text := "ok"
	err := asked()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		text = err.Error()
	}
	_, _ = io.WriteString(w, text+"\n")
}
