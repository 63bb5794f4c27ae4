package release

import "time"

// Warm says that the canary's Deployment has the pods of a release that primary ran before, ready and without traffic, so that
// a return to it only moves the route.
type Warm struct {
	Release string    `json:"release"`
	Until   time.Time `json:"until"`
}

// Lasts says whether pods are to be kept still.
func (w *Warm) Lasts(now time.Time) bool { return w != nil && now.Before(w.Until) }
