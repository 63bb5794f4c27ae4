package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/proposal"
	"github.com/our-org/crossbill/internal/release"
)

// cluster is a fake of the commands: each does to the ledger what the real one does, or dies before or after it. It watches
// until it is stopped, and knows no time, traffic or pods.
type cluster struct {
	t      *testing.T
	mutex  sync.Mutex
	git    Git
	ledger *release.Ledger
	policy release.QueuePolicy
	away   int // looks that the API server does not answer

	verdict release.VerdictOutcome
	dies    map[Command][]string // how the next runs of a command die: before, after, refused
	newer   proposal.History     // in Git when queue dies, before the release has its turn
	ran     []string
	atWork  int
}

func newCluster(t *testing.T, files ...*proposal.Proposal) *cluster {
	return &cluster{t: t, git: Git{History: history(files...)}, ledger: &release.Ledger{Version: release.LedgerVersion, App: "shop"}, verdict: release.Healthy, dies: map[Command][]string{}}
}

func (c *cluster) look(context.Context) (Git, State, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.away > 0 {
		c.away--
		return Git{}, State{}, errors.New("the API server is away")
	}
	l, err := release.ParseLedger("shop", c.ledger.String())
	if err == nil {
		err = l.ReadLine(c.ledger.Line())
	}
	return c.git, State{Ledger: l, Policy: c.policy}, err
}

func (c *cluster) do(ctx context.Context, s Step) int {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.atWork++; c.atWork > 1 {
		c.t.Errorf("%s beside another command", s.Command)
	}
	defer func() { c.atWork-- }()
	c.ran = append(c.ran, string(s.Command)+" "+s.Release.Commit)
	how := ""
	if left := c.dies[s.Command]; len(left) > 0 {
		how, c.dies[s.Command] = left[0], left[1:]
	}
	switch how {
	case "before":
		return 1
	case "refused":
		return 2
	case "waited":
		return 5
	case "waits":
		c.mutex.Unlock()
		<-ctx.Done()
		c.mutex.Lock()
		return 1
	}
	code := c.change(s)
	if how == "after" {
		return 1
	}
	if code == 0 && s.Command == Verify {
		c.mutex.Unlock()
		<-ctx.Done()
		c.mutex.Lock()
		return 1
	}
	return code
}

// change does what a command does.
func (c *cluster) change(s Step) int {
	l := c.ledger
	end := func(outcome release.Outcome) {
		if err := l.Finish(outcome, "run", now); err != nil {
			c.t.Error(err)
		}
	}
	reach := func(stages ...release.Stage) {
		for _, stage := range stages {
			if err := l.Reach(stage, "run", now); err != nil {
				c.t.Error(err)
			}
		}
	}
	switch s.Command {
	case Queue:
		if left, err := l.Enter(release.Queued{ID: s.Release.ID, SourceURL: s.Release.SourceURL, Again: s.Again}, c.policy, now); left != nil || err != nil {
			c.t.Error(left, err)
		}
		if l.Release != nil {
			if err := l.Supersede(s.Release.ID, "run", now); err != nil {
				return 5
			}
			end(release.OutcomeSuperseded)
		}
		if c.newer != nil {
			c.git.History, c.newer = c.newer, nil
			return 1
		}
		for l.Queue[0].ID != s.Release.ID { // it waits until what is ahead has lost its turn
			l.Leave(l.Queue[0].ID, "its canary did not start", now)
		}
		if err := l.Call(s.Release.ID, "run", now); err != nil {
			return 5
		}
	case Canary:
		if len(l.Queue) > 0 && l.Queue[0].ID != s.Release.ID && c.policy != "" {
			c.t.Errorf("the canary of %s, and release %s is before it in the line", s.Release.ID, l.Queue[0].ID)
		}
		r := inFlight(&proposal.Proposal{Handoff: s.Release}, s.Proposal, release.StageStarted)
		if _, err := l.Start(*r, "run", now); err != nil {
			c.t.Error(err)
		}
		reach(release.StageCanary)
	case Verify, Guard:
		v := l.Release.Subject()
		v.Outcome, v.Reason = c.verdict, "judged"
		if err := l.Judge(v, "run", now); err != nil {
			c.t.Error(err)
		}
		switch c.verdict {
		case release.Unhealthy:
			reach(release.StageRollingBack)
			end(release.OutcomeRolledBack)
			return 3
		case release.Inconclusive:
			return 4
		}
	case Promote:
		reach(release.StagePromoting, release.StagePromoted)
	case Cleanup:
		end(release.OutcomePromoted)
	case Rollback:
		reach(release.StageRollingBack)
		end(release.OutcomeRolledBack)
	}
	return 0
}

func (c *cluster) set(change func()) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	change()
}

// loop is one process.
func (c *cluster) loop() *Loop {
	return &Loop{Look: c.look, Do: c.do, Say: func(Event) {}, Interval: 30 * time.Second}
}

func (c *cluster) want(what string, commands ...string) {
	c.t.Helper()
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if diff := cmp.Diff(commands, c.ran); diff != "" {
		c.t.Errorf("%s: %s", what, diff)
	}
}

// running runs a process until what it is given returns.
func (c *cluster) running(while func()) {
	c.t.Helper()
	ctx, stop := context.WithCancel(c.t.Context())
	ended := make(chan error)
	go func() { ended <- c.loop().Run(ctx) }()
	while()
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		c.t.Errorf("it has ended with %v", err)
	}
	if c.atWork != 0 {
		c.t.Error("a command is at work after the process has ended")
	}
}

func TestLoop(t *testing.T) {
	first, second, third := of(1).Commit, of(2).Commit, of(3).Commit
	approved := of(1, "approve")
	for name, test := range map[string]struct {
		prepare func(*cluster)
		then    func(*cluster) // a minute later
		want    []string
	}{
		"healthy and approved": {
			then: func(c *cluster) { c.git.History = history(of(1), approved) },
			want: []string{"canary " + first, "verify " + first, "promote " + first, "cleanup " + first},
		},
		"unhealthy, and not started again": {
			prepare: func(c *cluster) { c.verdict = release.Unhealthy },
			then:    func(c *cluster) { c.git.History = history(of(1), approved) },
			want:    []string{"canary " + first, "verify " + first},
		},
		"inconclusive": {
			prepare: func(c *cluster) { c.verdict = release.Inconclusive },
			want:    []string{"canary " + first, "verify " + first, "rollback " + first},
		},
		"once more": {
			prepare: func(c *cluster) { c.verdict = release.Unhealthy },
			then:    func(c *cluster) { c.git.History = history(of(1), of(1, "again")) },
			want:    []string{"canary " + first, "verify " + first, "canary " + first, "verify " + first},
		},
		"superseded while it waits": {
			prepare: func(c *cluster) { c.policy = release.QueueSupersede },
			then:    func(c *cluster) { c.git.History = history(of(1), of(2)) },
			want:    []string{"canary " + first, "verify " + first, "queue " + second, "canary " + second, "verify " + second},
		},
		"superseded, and then again before it starts": {
			prepare: func(c *cluster) { c.policy = release.QueueSupersede },
			then:    func(c *cluster) { c.git.History, c.newer = history(of(1), of(2)), history(of(1), of(2), of(3)) },
			want:    []string{"canary " + first, "verify " + first, "queue " + second, "queue " + third, "canary " + third, "verify " + third},
		},
		"superseded by one that is refused": {
			prepare: func(c *cluster) { c.policy = release.QueueSupersede },
			then: func(c *cluster) {
				c.git.History, c.dies[Canary] = history(of(1), of(2)), []string{"refused", "refused"}
				go func() {
					time.Sleep(75 * time.Second) // between two looks
					c.set(func() { c.git.History, c.dies = history(of(1), of(2), of(3)), nil })
				}()
			},
			want: []string{"canary " + first, "verify " + first, "queue " + second, "canary " + second, "canary " + second, "queue " + third, "canary " + third, "verify " + third},
		},
		"in order": {
			prepare: func(c *cluster) { c.policy = release.QueueInOrder },
			then:    func(c *cluster) { c.git.History = history(of(1), approved, of(2)) },
			want:    []string{"canary " + first, "verify " + first, "promote " + first, "cleanup " + first, "canary " + second, "verify " + second},
		},
		"commands that die": {
			prepare: func(c *cluster) {
				c.dies = map[Command][]string{Canary: {"before", "refused", "after"}, Promote: {"after"}, Cleanup: {"before"}}
			},
			then: func(c *cluster) { c.git.History = history(of(1), approved) },
			want: []string{"canary " + first, "canary " + first, "canary " + first, "verify " + first, "promote " + first, "cleanup " + first, "cleanup " + first},
		},
		"a newer one while it waits for its turn": {
			prepare: func(c *cluster) {
				c.policy, c.ledger.Queue, c.dies[Queue] = release.QueueSupersede, []release.Queued{{ID: "x"}}, []string{"waits"}
			},
			then: func(c *cluster) { c.git.History = history(of(1), of(2)) },
			want: []string{"queue " + first, "queue " + second, "canary " + second, "verify " + second},
		},
		"Git is away": {
			then: func(c *cluster) { c.git = Git{Problem: errors.New("no answer")} },
			want: []string{"canary " + first, "verify " + first},
		},
		"the API server is away": {
			then: func(c *cluster) { c.git.History, c.away = history(of(1), approved), 3 },
			want: []string{"canary " + first, "verify " + first, "promote " + first, "cleanup " + first},
		},
		"the ledger is lost": {
			then: func(c *cluster) { c.ledger = &release.Ledger{Version: release.LedgerVersion, App: "shop"} },
			want: []string{"canary " + first, "verify " + first, "canary " + first, "verify " + first},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, of(1))
				if test.prepare != nil {
					test.prepare(c)
				}
				c.running(func() {
					time.Sleep(5 * time.Minute)
					if test.then != nil {
						c.set(func() { test.then(c) })
					}
					time.Sleep(30 * time.Minute)
				})
				c.want(name, test.want...)
			})
		})
	}
}

// TestAnotherGoesOn: processes that end after each look bring a release to its end between them, each command once.
func TestAnotherGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, of(1))
		for i := range 6 {
			if i == 3 {
				c.git.History = history(of(1), of(1, "approve"))
			}
			c.running(func() { time.Sleep(time.Second) })
		}
		first := of(1).Commit
		c.want("all", slices.Concat([]string{"canary " + first}, []string{"verify " + first, "verify " + first, "verify " + first}, []string{"promote " + first, "cleanup " + first})...)
	})
}

// TestPatience: what does not succeed is tried again after longer and longer pauses, at once when Git says something else.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, of(1))
		for range 100 {
			c.dies[Canary] = append(c.dies[Canary], "refused")
		}
		c.running(func() {
			time.Sleep(time.Hour)
			if n := len(c.ran); n < 6 || n > 12 {
				t.Errorf("%d attempts in an hour", n)
			}
			c.set(func() { c.git.History, c.dies, c.ran = history(of(1), of(2)), nil, nil })
			time.Sleep(31 * time.Second)
			c.want("another one", "canary "+of(2).Commit, "verify "+of(2).Commit)
		})
	})
}

func TestOnce(t *testing.T) {
	first := of(1).Commit
	for name, test := range map[string]struct {
		files   []*proposal.Proposal
		prepare func(*cluster)
		want    []string
		err     string
	}{
		"nothing": {err: ""},
		"its turn": {files: []*proposal.Proposal{of(1)}, prepare: func(c *cluster) {
			c.policy, c.ledger.Queue, c.dies[Queue] = release.QueueInOrder, []release.Queued{{ID: "x"}}, []string{"waited"}
		}, want: []string{"queue " + first}},
		"Git":       {prepare: func(c *cluster) { c.git.Problem = errors.New("no answer") }, err: "no answer"},
		"unhealthy": {files: []*proposal.Proposal{of(1)}, prepare: func(c *cluster) { c.verdict = release.Unhealthy }, want: []string{"canary " + first, "verify " + first}},
		"refused":   {files: []*proposal.Proposal{of(1)}, prepare: func(c *cluster) { c.dies[Canary] = []string{"refused"} }, want: []string{"canary " + first}, err: "canary ended with exit code 2"},
	} {
		c := newCluster(t, test.files...)
		if test.prepare != nil {
			test.prepare(c)
		}
		c.dies[Verify] = []string{"after"}
		if c.verdict == release.Unhealthy {
			c.dies[Verify] = nil
		}
		err := c.loop().Once(t.Context())
		if err != nil != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %v", name, err)
		}
		c.want(name, test.want...)
	}

	c := newCluster(t, of(1))
	c.ledger.Release = inFlight(of(1), "c0", release.StageVerified)
	if err := c.loop().Once(t.Context()); err != nil {
		t.Error(err)
	}
	c.git.History = history(of(1), of(1, "approve"))
	if err := c.loop().Once(t.Context()); err != nil {
		t.Error(err)
	}
	c.want("waits, and is approved", "guard "+first, "promote "+first, "cleanup "+first)
	if text := fmt.Sprint(&ExitError{Promote, 5}); !strings.Contains(text, "run the same command again") {
		t.Error(text)
	}
}
