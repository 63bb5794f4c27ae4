package rollout_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// commands are all that change something, as a job runs them.
var commands = map[string]func(context.Context, *job) (rollout.Result, error){
	"canary":      func(ctx context.Context, j *job) (rollout.Result, error) { return j.Canary(ctx, j.wanted("2")) },
	"canary of 3": func(ctx context.Context, j *job) (rollout.Result, error) { return j.Canary(ctx, j.wanted("3")) },
	"shift": func(ctx context.Context, j *job) (rollout.Result, error) {
		return j.Shift(ctx, []int{25, 60}, time.Minute)
	},
	"verify healthy": func(ctx context.Context, j *job) (rollout.Result, error) {
		return judge(ctx, j.Cluster, release.Healthy)
	},
	"verify unhealthy": func(ctx context.Context, j *job) (rollout.Result, error) {
		return judge(ctx, j.Cluster, release.Unhealthy)
	},
	"promote under traffic": func(ctx context.Context, j *job) (rollout.Result, error) {
		j.PromoteTraffic = release.Primary
		return j.Promote(ctx)
	},
	"promote":  func(ctx context.Context, j *job) (rollout.Result, error) { return j.Promote(ctx) },
	"cleanup":  func(ctx context.Context, j *job) (rollout.Result, error) { return j.Cleanup(ctx) },
	"rollback": func(ctx context.Context, j *job) (rollout.Result, error) { return j.Rollback(ctx, "a test") },
	"cleanup warm": func(ctx context.Context, j *job) (rollout.Result, error) {
		j.KeepWarm = 10 * time.Minute
		return j.Cleanup(ctx)
	},
	"return": func(ctx context.Context, j *job) (rollout.Result, error) {
		return j.RollbackTo(ctx, "r1", "a test", false)
	},
	"previous": func(ctx context.Context, j *job) (rollout.Result, error) {
		return j.RollbackTo(ctx, rollout.Previous, "a test", false)
	},
	"guard": func(ctx context.Context, j *job) (rollout.Result, error) {
		return j.Guard(ctx, rollout.Limits{Dead: time.Second, Waiting: time.Second})
	},
	"guard early": func(ctx context.Context, j *job) (rollout.Result, error) {
		return j.Guard(ctx, rollout.Limits{Dead: time.Hour, Waiting: time.Hour})
	},
	"hold":    func(ctx context.Context, j *job) (rollout.Result, error) { return j.Hold(ctx, "a test") },
	"resume":  func(ctx context.Context, j *job) (rollout.Result, error) { return j.Resume(ctx) },
	"migrate": func(ctx context.Context, j *job) (rollout.Result, error) { return j.Migrate(ctx, "") },
}

// refusal names what kind of refusal an error is.
func refusal(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.As(err, new(*release.InFlightError)):
		return "in flight"
	case errors.As(err, new(*rollout.StageError)):
		return "stage"
	case errors.As(err, new(*usererr.Error)):
		return "input"
	}
	return err.Error()
}

// stageCase is a command at a stage: what it changes, in order, or how it refuses.
type stageCase struct{ stage, command, changes, refusal string }

// ofGateway is what a command changes where an HTTPRoute is the router.
func ofGateway(changes string) string {
	return strings.NewReplacer("create dr", "create service-primary, create service-canary", "create public-gateway, ", "").Replace(changes)
}

// atStages says what each command changes at each stage, in order, or how it refuses. "" and "" is a command that
// has nothing to do.
var atStages = []stageCase{
	{"new", "canary", "note r2 started, create service, create dr, create primary image 2 x1, update primary x2, create public-gateway, create vs 100/0, note r2 ended: first", ""},
	{"new", "canary of 3", "note r3 started, create service, create dr, create primary image 3 x1, update primary x2, create public-gateway, create vs 100/0, note r3 ended: first", ""},
	{"new", "shift", "", "stage"},
	{"new", "verify healthy", "", "stage"},
	{"new", "verify unhealthy", "", "stage"},
	{"new", "promote", "", "stage"},
	{"new", "cleanup", "", ""},
	{"new", "rollback", "", ""},
	{"new", "guard", "", ""},
	{"new", "guard early", "", ""},
	{"new", "migrate", "", "input"},
	{"rest", "canary", "note r2 started, create canary image 2 x1, update vs 90/10, note r2 canary 10%", ""},
	{"rest", "canary of 3", "note r3 started, create canary image 3 x1, update vs 90/10, note r3 canary 10%", ""},
	{"rest", "shift", "", "stage"},
	{"rest", "verify healthy", "", "stage"},
	{"rest", "verify unhealthy", "", "stage"},
	{"rest", "promote", "", ""},
	{"rest", "cleanup", "", ""},
	{"rest", "rollback", "", ""},
	{"rest", "guard", "", ""},
	{"rest", "guard early", "", ""},
	{"rest", "migrate", "", ""},
	{"started", "canary", "create canary image 2 x1, update vs 90/10, note r2 canary 10%", ""},
	{"started", "canary of 3", "", "in flight"},
	{"started", "shift", "", "stage"},
	{"started", "verify healthy", "", "stage"},
	{"started", "verify unhealthy", "", "stage"},
	{"started", "promote", "", "stage"},
	{"started", "cleanup", "", "stage"},
	{"started", "rollback", "note r2 rolling_back, note r2 ended: rolled_back", ""},
	{"started", "guard", "note r2 rolling_back, note r2 ended: rolled_back", ""},
	{"started", "guard early", "", ""},
	{"started", "migrate", "", "in flight"},
	{"canary", "canary", "", ""},
	{"canary", "canary of 3", "", "in flight"},
	{"canary", "shift", "note r2 canary 25%, update vs 75/25, update canary x2, note r2 canary 60%, update vs 40/60", ""},
	{"canary", "verify healthy", "note r2 verified healthy", ""},
	{"canary", "verify unhealthy", "note r2 verified unhealthy", ""},
	{"canary", "promote", "", "stage"},
	{"canary", "cleanup", "", "stage"},
	{"canary", "rollback", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"canary", "guard", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"canary", "guard early", "", ""},
	{"canary", "migrate", "", "in flight"},
	{"healthy", "canary", "", ""},
	{"healthy", "canary of 3", "", "in flight"},
	{"healthy", "shift", "note r2 canary 25%, update vs 75/25, update canary x2, note r2 canary 60%, update vs 40/60", ""},
	{"healthy", "verify healthy", "", ""},
	{"healthy", "verify unhealthy", "note r2 verified unhealthy", ""},
	{"healthy", "promote", "note r2 promoting, update canary x2, update vs 0/100, update primary image 2, update vs 100/0, note r2 promoted", ""},
	{"healthy", "cleanup", "", "stage"},
	{"healthy", "rollback", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"healthy", "guard", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"healthy", "guard early", "", ""},
	{"healthy", "migrate", "", "in flight"},
	{"unhealthy", "canary", "", ""},
	{"unhealthy", "canary of 3", "", "in flight"},
	{"unhealthy", "shift", "", "stage"},
	{"unhealthy", "verify healthy", "note r2 verified healthy", ""},
	{"unhealthy", "verify unhealthy", "", ""},
	{"unhealthy", "promote", "", "stage"},
	{"unhealthy", "cleanup", "", "stage"},
	{"unhealthy", "rollback", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"unhealthy", "guard", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"unhealthy", "guard early", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"unhealthy", "migrate", "", "in flight"},
	{"inconclusive", "canary", "", ""},
	{"inconclusive", "canary of 3", "", "in flight"},
	{"inconclusive", "shift", "", "stage"},
	{"inconclusive", "verify healthy", "note r2 verified healthy", ""},
	{"inconclusive", "verify unhealthy", "note r2 verified unhealthy", ""},
	{"inconclusive", "promote", "", "stage"},
	{"inconclusive", "cleanup", "", "stage"},
	{"inconclusive", "rollback", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"inconclusive", "guard", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"inconclusive", "guard early", "", ""},
	{"inconclusive", "migrate", "", "in flight"},
	{"promoting", "canary", "", ""},
	{"promoting", "canary of 3", "", "in flight"},
	{"promoting", "shift", "", ""},
	{"promoting", "verify healthy", "", "stage"},
	{"promoting", "verify unhealthy", "", "stage"},
	{"promoting", "promote", "update vs 100/0, note r2 promoted", ""},
	{"promoting", "cleanup", "", "stage"},
	{"promoting", "rollback", "note r2 rolling_back, update primary image 1, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"promoting", "guard", "note r2 rolling_back, update primary image 1, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"promoting", "guard early", "", ""},
	{"promoting", "migrate", "", "in flight"},
	{"rolling", "promote", "update vs 100/0, note r2 promoted", ""},
	{"rolling", "rollback", "note r2 rolling_back, update vs 100/0, update primary image 1, delete canary, note r2 ended: rolled_back", ""},
	{"rolling", "guard", "note r2 rolling_back, update vs 100/0, update primary image 1, delete canary, note r2 ended: rolled_back", ""},
	{"rolled", "rollback", "note r2 rolling_back, update primary image 1, delete canary, note r2 ended: rolled_back", ""},
	{"rolled", "cleanup", "delete canary, note r2 ended: promoted", ""},
	{"moving", "promote", "update primary image 2, update vs 100/0, note r2 promoted", ""},
	{"moving", "rollback", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"moving", "guard", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"promoted", "canary", "", ""},
	{"promoted", "canary of 3", "", "in flight"},
	{"promoted", "shift", "", ""},
	{"promoted", "verify healthy", "", "stage"},
	{"promoted", "verify unhealthy", "", "stage"},
	{"promoted", "promote", "", ""},
	{"promoted", "cleanup", "delete canary, note r2 ended: promoted", ""},
	{"promoted", "rollback", "note r2 rolling_back, update vs 0/100, update primary image 1, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"promoted", "guard", "delete canary, note r2 ended: promoted", ""},
	{"promoted", "guard early", "", ""},
	{"promoted", "migrate", "", "in flight"},
	{"rolling_back", "canary", "", "stage"},
	{"rolling_back", "canary of 3", "", "in flight"},
	{"rolling_back", "shift", "", "stage"},
	{"rolling_back", "verify healthy", "", "stage"},
	{"rolling_back", "verify unhealthy", "", "stage"},
	{"rolling_back", "promote", "", "stage"},
	{"rolling_back", "cleanup", "", "stage"},
	{"rolling_back", "rollback", "update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"rolling_back", "guard", "update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"rolling_back", "guard early", "update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"rolling_back", "migrate", "", "in flight"},
	{"ended", "canary", "", ""},
	{"ended", "canary of 3", "note r3 started, create canary image 3 x1, update vs 90/10, note r3 canary 10%", ""},
	{"ended", "shift", "", "stage"},
	{"ended", "verify healthy", "", "stage"},
	{"ended", "verify unhealthy", "", "stage"},
	{"ended", "promote", "", ""},
	{"ended", "cleanup", "", ""},
	{"ended", "rollback", "", ""},
	{"ended", "guard", "", ""},
	{"ended", "guard early", "", ""},
	{"ended", "migrate", "", ""},
	{"rolled_back", "canary", "", "stage"},
	{"rolled_back", "canary of 3", "note r3 started, create canary image 3 x1, update vs 90/10, note r3 canary 10%", ""},
	{"rolled_back", "shift", "", "stage"},
	{"rolled_back", "verify healthy", "", "stage"},
	{"rolled_back", "verify unhealthy", "", "stage"},
	{"rolled_back", "promote", "", "stage"},
	{"rolled_back", "cleanup", "", ""},
	{"rolled_back", "rollback", "", ""},
	{"rolled_back", "guard", "", ""},
	{"rolled_back", "guard early", "", ""},
	{"rolled_back", "migrate", "", ""},
	{"promoted", "cleanup warm", "delete canary, note r2 ended: promoted", ""}, // callers in the mesh would get the old version
	{"promoted in the mesh", "cleanup warm", "update canary image 1, note r2 ended: promoted", ""},
	{"warm", "return", "note r1 started, note r1 promoting, update vs 0/100, update primary image 1, update vs 100/0, note r1 promoted, delete canary, note r1 ended: returned", ""},
	{"warm", "canary", "", ""},
	{"warm", "canary of 3", "note r3 started, update canary image 3, update vs 90/10, note r3 canary 10%", ""},
	{"warm", "cleanup", "", ""},
	{"warm", "rollback", "", ""},
	{"warm", "guard", "", ""},
	{"warm", "migrate", "delete canary", ""},
	{"new", "return", "", "input"},
	{"new", "previous", "", "stage"},
	{"rest", "return", "", ""},
	{"rest", "previous", "", "stage"},
	{"canary", "return", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"canary", "previous", "", "stage"},
	{"promoted", "return", "note r2 rolling_back, update vs 0/100, update primary image 1, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"ended", "return", "note r1 started, create canary image 1 x2, note r1 promoting, update vs 0/100, update primary image 1, update vs 100/0, note r1 promoted, delete canary, note r1 ended: returned", ""},
	{"ended", "previous", "note r1 started, create canary image 1 x2, note r1 promoting, update vs 0/100, update primary image 1, update vs 100/0, note r1 promoted, delete canary, note r1 ended: returned", ""},
	{"next", "return", "note r3 rolling_back, update vs 100/0, delete canary, note r3 ended: rolled_back, note r1 started, create canary image 1 x2, note r1 promoting, update vs 0/100, update primary image 1, update vs 100/0, note r1 promoted, delete canary, note r1 ended: returned", ""},
	{"next", "previous", "", "stage"},
	{"rolled_back", "return", "", ""},
	{"returning", "return", "update primary image 1, update vs 100/0, note r1 promoted, delete canary, note r1 ended: returned", ""},
	{"returning", "previous", "update primary image 1, update vs 100/0, note r1 promoted, delete canary, note r1 ended: returned", ""},
	{"returning", "canary", "", "in flight"},
	{"returning", "shift", "", ""},
	{"returning", "verify healthy", "", "stage"},
	{"returning", "promote", "", "stage"},
	{"returning", "cleanup", "", "stage"},
	{"returning", "rollback", "note r1 rolling_back, update vs 100/0, delete canary, note r1 ended: rolled_back", ""},
	{"returning", "guard", "note r1 rolling_back, update vs 100/0, delete canary, note r1 ended: rolled_back", ""},
	{"returning", "guard early", "", ""},
	{"returning to primary", "return", "update vs 100/0, note r1 promoted, delete canary, note r1 ended: returned", ""},
	{"returning to primary", "rollback", "note r1 rolling_back, update primary image 2, update vs 100/0, delete canary, note r1 ended: rolled_back", ""},
	{"returned", "return", "delete canary, note r1 ended: returned", ""},
	{"returned", "cleanup", "delete canary, note r1 ended: returned", ""},
	{"returned", "guard", "delete canary, note r1 ended: returned", ""},
	{"returned", "guard early", "", ""},
	{"returned", "promote", "", ""},
	{"returned", "rollback", "note r1 rolling_back, update vs 0/100, update primary image 2, update vs 100/0, delete canary, note r1 ended: rolled_back", ""},
	{"new", "hold", "note hold", ""},
	{"new", "resume", "", ""},
	{"rest", "hold", "note hold", ""},
	{"canary", "hold", "note hold", ""},
	{"canary", "resume", "", ""},
	{"planned", "canary", "", ""},
	{"planned", "step", "", "stage"},
	{"planned", "promote", "", "stage"},
	{"planned", "shift", "note r2 canary 25%, update vs 75/25, update canary x2, note r2 canary 60%, update vs 40/60", ""},
	{"planned healthy", "promote", "", "stage"},
	{"planned healthy", "step", "", "stage"},
	{"planned healthy", "rollback", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	{"planned paused", "step", "note r2 verified healthy at step 4, note r2 canary 25%, update vs 75/25", ""},
	{"planned half taken", "step", "update vs 75/25", ""},
	{"planned half taken", "verify healthy", "note r2 verified healthy at step 6", ""},
	{"canary", "step", "", "stage"},
	{"rest", "step", "", "stage"},
	{"promoting", "step", "", "stage"},
	{"rolling_back", "step", "", "stage"},
	{"held", "hold", "", ""},
	{"held", "resume", "note resume", ""},
	{"held", "canary", "", "stage"},
	{"held", "rollback", "", ""},
	{"held", "guard", "", ""},
	{"held in flight", "canary", "", ""},
	{"held in flight", "canary of 3", "", "in flight"},
	{"held in flight", "shift", "note r2 canary 25%, update vs 75/25, update canary x2, note r2 canary 60%, update vs 40/60", ""},
	{"held in flight", "verify healthy", "note r2 verified healthy", ""},
	{"held in flight", "rollback", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
}

// TestCommands runs each command at each stage. What is refused or has nothing to do writes nothing at
// all; and a command that succeeded changes nothing when it is run again (invariant 6).
func TestCommands(t *testing.T) {
	for _, c := range byBothRouters(atStages, func(c *stageCase) *string { return &c.stage }, func(c *stageCase) string { return c.command }) {
		if plain, gateway := byGateway(c.stage); gateway {
			c.changes = ofGateway(c.changes)
			if plain == "promoted" && c.command == "cleanup warm" { // the app's own Service selects primary: nobody gets past the route
				c.changes = "update canary image 1, note r2 ended: promoted"
			}
		}
		t.Run(c.command+" at "+c.stage, func(t *testing.T) {
			t.Parallel()
			at(t, c.stage, func(w *world) {
				j := w.job("job")
				_, err := commands[c.command](w.Context(), j)
				if diff := cmp.Diff(c.refusal, refusal(err)); diff != "" {
					t.Errorf("refusal (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(c.changes, strings.Join(w.did(j), ", ")); diff != "" {
					t.Errorf("changes (-want +got):\n%s", diff)
				}
				if c.changes == "" && !strings.HasPrefix(c.command, "verify") && len(j.every) > 0 {
					t.Errorf("it wrote %q", j.every)
				}
				if c.refusal != "" {
					return
				}
				again := w.job("again")
				again.Again = true
				_, _ = commands[c.command](w.Context(), again)
				if did := w.did(again); len(did) > 0 && c.command != "canary of 3" {
					t.Errorf("run again, it changed %q", did)
				}
			})
		})
	}
}
