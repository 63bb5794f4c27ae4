package rollout

import (
	"context"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// Ask notes that people are asked to go on with a release that waits for one of them, if it is time for that, and gives the
// release: who calls it asks them then. Of several that call it at the same time, one gets the release, and none waits for
// another: nil says that nobody has to be asked, or that somebody is at work. remind is how long after the first time they
// are asked again; 0: never.
func (c *Cluster) Ask(ctx context.Context, remind time.Duration) (*release.Release, error) {
	asked := false
	result, err := run(ctx, c, command[struct{}]{
		name: "ask", aside: true,
		look: func(_ context.Context, j *job) (struct{}, *Result, error) {
			if j.ledger.Open || !j.ledger.AskDue(remind, now()) || j.ReleaseID != "" && j.ledger.Release.ID != j.ReleaseID {
				return struct{}{}, j.nothing("nobody has to be asked"), nil
			}
			return struct{}{}, nil, nil
		},
		start:   func(j *job, _ struct{}) error { j.ledger.Ask(j.By, now()); return nil },
		started: func() { asked = true },
		noted:   func(j *job) Result { return j.result("people are asked") },
	})
	if !asked {
		return nil, err
	}
	return result.Release, nil
}
