package release

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestHookRuns: what a hook does is noted once for each point and step, ends once, and is read again as it was noted.
func TestHookRuns(t *testing.T) {
	start := time.Date(2026, 5, 4, 3, 2, 1, 5e6, time.UTC)
	r := &Release{ID: "r2", StartedAt: start}
	r.StartHook(HookRun{Point: BeforeStep, Name: "smoke", Step: 10, StartedAt: start, By: "me", Job: "a"})
	r.StartHook(HookRun{Point: BeforeStep, Name: "smoke", Step: 25, StartedAt: start, By: "me", Job: "b"})
	again := r.StartHook(HookRun{Point: BeforeStep, Name: "smoke", Step: 10, StartedAt: start.Add(time.Hour), By: "you", Job: "c"})
	if again.By != "me" || len(r.Hooks) != 2 || r.HookRun(BeforeCanary, "smoke", 0) != nil {
		t.Errorf("%+v", r.Hooks)
	}
	again.End(false, strings.Repeat("ü", 600), start.Add(time.Minute))
	if got := r.HookRun(BeforeStep, "smoke", 10); got.State != HookFailed || len([]rune(got.Message)) != hookMessage+1 || got.String() != "hook smoke at beforeStep 10%" {
		t.Errorf("%+v", got)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	read := &Release{}
	if err := json.Unmarshal(text, read); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r.Hooks, read.Hooks); diff != "" {
		t.Errorf("(-noted +read):\n%s", diff)
	}
	if one, other := r.HookKey(BeforeStep, "smoke", 10), read.HookKey(BeforeStep, "smoke", 10); one != other || !strings.HasPrefix(one, "r2/beforeStep/smoke/10/") {
		t.Errorf("%q and %q", one, other)
	}
	read.StartedAt = start.Add(time.Minute)
	if r.HookKey(BeforeStep, "smoke", 10) == read.HookKey(BeforeStep, "smoke", 10) {
		t.Error("a release that is started again has the keys of the one before")
	}
}
