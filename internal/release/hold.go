package release

import (
	"fmt"
	"time"
)

// Hold keeps new releases of an app from starting, until somebody resumes it. What is in flight goes on.
type Hold struct {
	By      string    `json:"by"`
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason"`
	Release string    `json:"release,omitempty"` // that was taken back; "" when somebody has put the app on hold
}

// String says who holds an app, since when, and why.
func (h *Hold) String() string {
	text := fmt.Sprintf("on hold since %s by %s", h.Since.Format(time.RFC3339), h.By)
	if h.Release != "" {
		text += ", who has taken release " + h.Release + " back"
	}
	if h.Reason != "" {
		text += ": " + h.Reason
	}
	return text
}
