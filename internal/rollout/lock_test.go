package rollout_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestLockOfADeadJob: the lock of a job that was killed is waited for while that job may still live, by any clock, and
// taken at once when it cannot.
func TestLockOfADeadJob(t *testing.T) {
	for name, c := range map[string]struct {
		since time.Duration // the dead job renewed the lock
		taken bool          // at once; else it is waited for
	}{
		"just now":           {0, false},
		"within clock skew":  {70 * time.Second, false},
		"longer than any":    {80 * time.Second, true},
		"yesterday's job":    {24 * time.Hour, true},
		"a clock that is on": {-30 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			at(t, "started", func(w *world) {
				j := w.job("next")
				leases := j.Kube.CoordinationV1().Leases(namespace)
				lease, err := leases.Get(w.Context(), "crossbill-qwik-node-app", metav1.GetOptions{})
				if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
					t.Fatalf("no dead job holds the lock: %+v, %v", lease, err)
				}
				renewed := metav1.NewMicroTime(time.Now().Add(-c.since))
				lease.Spec.RenewTime = &renewed
				if _, err := leases.Update(w.Context(), lease, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				if _, err := j.Canary(w.Context(), wanted("2")); err != nil {
					t.Fatal(err)
				}
				status, err := w.job("look").Status(w.Context())
				if err != nil {
					t.Fatal(err)
				}
				if waited := time.Since(start); !c.taken && waited < 15*time.Second {
					t.Errorf("it waited for %s, want 15s or more", waited)
				}
				if taken := len(status.Release.Takeovers) > 0; taken != c.taken {
					t.Errorf("taken over: %t, want %t: %+v", taken, c.taken, status.Release.Takeovers)
				}
			})
		})
	}
}
