package gitlabtest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Kind is what a fault does.
type Kind string

// The faults of a POST that starts a pipeline. Refuse and Drop also befall reads.
const (
	None           Kind = "none"
	Refuse         Kind = "refuse"           // 5xx (Status), nothing created
	RefuseAfter    Kind = "refuse_after"     // 5xx (Status), but the pipeline is created, after Delay
	Drop           Kind = "drop"             // the connection ends without an answer, nothing created
	DropAfter      Kind = "drop_after"       // the same, but the pipeline is created, after Delay
	CutAnswer      Kind = "cut_answer"       // 201, created, and the connection ends in the answer
	Limit          Kind = "limit"            // 429; with Delay, headers that name the time to wait
	Throttle       Kind = "throttle"         // 400: too many pipelines in the last minute
	InvalidFile    Kind = "invalid_file"     // 422: a failed pipeline without jobs is kept
	InvalidFile201 Kind = "invalid_file_201" // the same as older GitLab answers it
	Rejected       Kind = "rejected"         // 422: as InvalidFile, but for another reason, which only the answer has
	Rejected201    Kind = "rejected_201"     // the same as older GitLab answers it, without the reason
	Slow           Kind = "slow"             // created, answered after Delay
	Huge           Kind = "huge"             // of keys: 4 MiB of them
	Redirect       Kind = "redirect"         // of keys: to another host
)

// Fault befalls one request.
type Fault struct {
	Kind   Kind
	Status int           // of Refuse and RefuseAfter; default 502
	Delay  time.Duration // see the kinds
}

// befallRead applies the next fault of a read; true when there is no more to answer.
func (s *Server) befallRead(w http.ResponseWriter) bool {
	s.mu.Lock()
	var fault Fault
	if s.reads < len(s.ReadFaults) {
		fault = s.ReadFaults[s.reads]
	}
	s.reads++
	s.mu.Unlock()
	switch fault.Kind {
	case Refuse:
		s.unavailable(w, fault)
	case Drop:
		panic(http.ErrAbortHandler)
	case Limit:
		s.limited(w, fault)
	case Slow:
		s.Sleep(fault.Delay)
		return false
	default:
		return false
	}
	return true
}

func (s *Server) unavailable(w http.ResponseWriter, fault Fault) {
	status := fault.Status
	if status == 0 {
		status = http.StatusBadGateway
	}
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<html><head><title>%d %s</title></head></html>", status, http.StatusText(status))
}

func (s *Server) limited(w http.ResponseWriter, fault Fault) {
	for name := range w.Header() {
		if strings.HasPrefix(strings.ToLower(name), "ratelimit") {
			delete(w.Header(), name)
		}
	}
	if fault.Delay > 0 {
		s.limitHeaders(w, 0)
		w.Header().Set("RateLimit-Reset", strconv.FormatInt(s.Now().Add(fault.Delay).Unix(), 10))
		w.Header().Set("Retry-After", strconv.Itoa(int(fault.Delay.Seconds())))
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusTooManyRequests)
	fmt.Fprint(w, "Retry later\n")
}

func (s *Server) limitHeaders(w http.ResponseWriter, remaining int) {
	reset := s.Now().Add(time.Minute)
	h := w.Header()
	h.Set("RateLimit-Limit", "60")
	h.Set("RateLimit-Observed", strconv.Itoa(60-remaining))
	h.Set("RateLimit-Remaining", strconv.Itoa(remaining))
	h.Set("RateLimit-Reset", strconv.FormatInt(reset.Unix(), 10))
	h.Set("RateLimit-ResetTime", reset.UTC().Format(http.TimeFormat))
}
