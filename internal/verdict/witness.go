package verdict

// Witnessed is what is seen of the tracks beside their counters: their pods. Counters have the requests that a
// canary answered, and not those that found no pod of it.
type Witnessed struct {
	// Unhealthy is why the canary is unhealthy whatever its counters say; "" if nothing does.
	Unhealthy string `json:"unhealthy,omitempty"`
	Cause     Cause  `json:"cause,omitempty"` // of Unhealthy
	// PrimaryWhole says that all of primary's wanted pods are ready endpoints. Errors of the Service that belong to
	// no track are then the canary's.
	PrimaryWhole bool `json:"primaryWhole,omitempty"`
}

// The causes that the witness finds, or that need it.
const (
	Restarts     Cause = "restarts"     // a container of the canary restarted
	OOMKilled    Cause = "oom_killed"   // a container of the canary ran out of memory
	NotReady     Cause = "not_ready"    // a pod of the canary lost its readiness, or fewer are ready than wanted
	Unattributed Cause = "unattributed" // callers of the Service got errors that belong to no track
)
