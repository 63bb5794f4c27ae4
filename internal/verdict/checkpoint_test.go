package verdict

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/our-org/crossbill/internal/release"
)

// noisy is a block of some seconds.
func noisy(random *rand.Rand, at time.Duration, n int) Block {
	b := Block{Elapsed: at, WarmUp: at < 30*time.Second, Pairs: make([]Pair, n)}
	for i := range b.Pairs {
		p := &b.Pairs[i]
		p.Canary, p.Primary = Tally{Events: float64(random.IntN(200))}, Tally{Events: float64(random.IntN(2000))}
		p.Canary.Bad, p.Primary.Bad = min(p.Canary.Events, float64(random.IntN(4))), min(p.Primary.Events, float64(random.IntN(30)))
	}
	return b
}

// TestRecordOfADay: a watch of 24 hours fits into 100 KB, and judged again it gives the verdict that was given, and
// all of its evidence, whatever was merged meanwhile and however often it was written down.
func TestRecordOfADay(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	record := Record{Method: Method, Test: DefaultSLO().Test()}
	live := record.Test.Begin()
	var judged Judgment
	var events Pair
	for at := 15 * time.Second; at <= 24*time.Hour; at += 15 * time.Second {
		b := noisy(random, at, len(record.Test.Objectives))
		events = events.add(b.Pairs[0])
		judged = live.Add(b)
		record.Blocks = append(record.Blocks, b)
		record.fold()
		if at%(3*time.Hour+15*time.Second) == 0 { // another job goes on
			text, err := json.Marshal(record)
			if err != nil {
				t.Fatal(err)
			}
			kept, err := ParseRecord(string(text))
			if err != nil {
				t.Fatal(err)
			}
			record = *kept
		}
	}
	text, err := json.Marshal(record)
	if err != nil || len(text) > 100_000 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	again, used, err := record.Replay(nil)
	if diff := cmp.Diff(judged, again); err != nil || used != len(record.Blocks) || diff != "" {
		t.Errorf("judged again, %d of %d blocks, %v: %s", used, len(record.Blocks), err, diff)
	}
	var kept Pair
	for _, b := range record.Blocks {
		kept = kept.add(b.Pairs[0])
	}
	if kept != events || record.Requests() != events.Canary.Events {
		t.Errorf("%+v of %+v events are kept, %v requests", kept, events, record.Requests())
	}
	if all := record.Judgments(); len(all) != len(record.Blocks) || !reflect.DeepEqual(all[len(all)-1], judged) {
		t.Errorf("the last of %d judgments is %+v", len(all), all[len(all)-1])
	}
	if j, _, err := record.Replay(&record.Test); err != nil || j.Reason == "" {
		t.Errorf("another test: %+v, %v", j, err)
	}
}

// TestCheckpointIsWhole: a state that is saved and loaded goes on as if it had not been.
func TestCheckpointIsWhole(t *testing.T) {
	for _, whole := range []bool{false, true} {
		random := rand.New(rand.NewPCG(5, 6))
		test := DefaultSLO().Test()
		test.Whole = whole
		one, other := test.Begin(), test.Begin()
		for at := 5 * time.Second; at <= 20*time.Minute; at += 5 * time.Second {
			b := noisy(random, at, len(test.Objectives))
			if random.IntN(4) == 0 { // events that wait for primary's
				b.Pairs[0].Primary = Tally{}
			}
			text, err := json.Marshal(other.save(0))
			if err != nil {
				t.Fatal(err)
			}
			var c Checkpoint
			if err := json.Unmarshal(text, &c); err != nil || c.check(test, 0) != nil {
				t.Fatal(err, c.check(test, 0))
			}
			other = test.load(&c)
			if diff := cmp.Diff(one.Add(b), other.Add(b)); diff != "" {
				t.Fatalf("after %s: %s", at, diff)
			}
		}
		if !reflect.DeepEqual(one, other) {
			t.Errorf("a part of the state is not saved:\n%+v\n%+v", one, other)
		}
	}
}

// TestRecordIsTheState: after each look the record has what the state has, however sparse the traffic is: a look without events may
// weigh what has waited for primary's.
func TestRecordIsTheState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		test := DefaultSLO().Test()
		test.Whole, test.Baseline = rapid.Bool().Draw(t, "whole"), rapid.Bool().Draw(t, "baseline")
		record, live := Record{Method: Method, Test: test}, test.Begin()
		idle, kept := 0, 0
		flows := rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3})
		for i := range rapid.IntRange(1, 40).Draw(t, "looks") {
			b := Block{Elapsed: time.Duration(i+1) * 15 * time.Second, WarmUp: i < 2, Pairs: make([]Pair, len(test.Objectives))}
			flow := flows.Draw(t, "flow")
			for k := range b.Pairs {
				if k > 0 && rapid.Bool().Draw(t, "none") { // histograms arrive later
					continue
				}
				p := drawPair(t, "")
				if flow&1 != 0 {
					b.Pairs[k].Canary = p.Canary
				}
				if flow&2 != 0 {
					b.Pairs[k].Primary = p.Primary
				}
			}
			j := record.add(live, b)
			if i == 0 && flow == 0 && len(record.Blocks) > 0 {
				t.Fatal("a block is kept, and nothing was counted")
			}
			want, got := live.save(0), record.state().save(0)
			got.Elapsed = want.Elapsed
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("the state after %s, and the record's (-want +got): %s", b.Elapsed, diff)
			}
			if flow == 0 && !j.Decided {
				idle++
			} else {
				idle, kept = 0, len(record.Blocks)
			}
			if more := len(record.Blocks) - kept; idle > 0 && more > 4 {
				t.Fatalf("%d of %d looks without events are kept", more, idle)
			}
		}
	})
}

// TestDamagedCheckpoint: a record whose checkpoint does not fit is refused.
func TestDamagedCheckpoint(t *testing.T) {
	test := DefaultSLO().Test()
	for name, change := range map[string]func(*Checkpoint){
		"more blocks":    func(c *Checkpoint) { c.Blocks = 1 },
		"fewer streams":  func(c *Checkpoint) { c.Streams = c.Streams[1:] },
		"fewer experts":  func(c *Checkpoint) { c.Streams[0].Harm.Primary = nil },
		"no evidence":    func(c *Checkpoint) { c.Runs = nil },
		"fewer capitals": func(c *Checkpoint) { c.Runs[0].Each = nil },
	} {
		r := Record{Test: test, Checkpoint: test.Begin().save(0)}
		change(r.Checkpoint)
		if r.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if (&Record{Test: test, Checkpoint: test.Begin().save(0), Witnessed: &Witnessed{Unhealthy: "it restarts", Cause: Restarts}}).judgment().Outcome != release.Unhealthy {
		t.Error("what was witnessed is not judged")
	}
}
