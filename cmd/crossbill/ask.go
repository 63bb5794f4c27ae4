package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// asker asks people in their chats to go on with a release that waits for one of them, while a command runs and at its end.
// Whoever notes it in the ledger first asks, so that of many commands one does. A nil asker does nothing.
type asker struct {
	ctx     context.Context
	cluster rollout.Cluster
	remind  time.Duration
	event   notify.Event // without the release
	chat    notify.Chat
	failed  func(string)

	looked  time.Time
	asked   atomic.Bool
	pending sync.WaitGroup // what is being sent holds nothing up
}

// Bounds of asking: the pause between two looks, and how long one may take.
const (
	askEvery   = time.Minute
	askTimeout = 10 * time.Second
)

// newAsker is nil when nobody is to be asked.
func (o *lifecycleOptions) newAsker(ctx context.Context, c *rollout.Cluster) *asker {
	targets, err := o.notify.targets()
	if err != nil || !o.notify.enabled || o.dryRun || !targets.Chat.Wants(notify.ChatApproval) {
		return nil
	}
	return &asker{
		ctx: context.WithoutCancel(ctx), cluster: *c, remind: o.notify.remindAfter(), chat: targets.Chat, failed: o.notify.remarks.add,
		event: notify.Event{Command: o.command, App: o.cluster.appName(), Namespace: o.cluster.namespace, By: o.by, Result: notify.Asks, StartedAt: time.Now()},
	}
}

// sometimes asks while a command runs, if it is time.
func (a *asker) sometimes() {
	if a == nil || time.Since(a.looked) < askEvery {
		return
	}
	a.looked = time.Now()
	a.ask()
}

// finish asks at the end of a command, if the release waits, and waits for what is being sent.
func (a *asker) finish(came rollout.Result, err error) {
	if a == nil {
		return
	}
	if r := came.Release; err == nil && came.Outcome == "" && r != nil && r.Stage == release.StageVerified {
		a.ask()
	}
	a.pending.Wait()
}

func (a *asker) hasAsked() bool { return a != nil && a.asked.Load() }

// ask notes in the ledger that people are asked, and asks them.
func (a *asker) ask() {
	ctx, cancel := context.WithTimeout(a.ctx, askTimeout)
	defer cancel()
	r, err := a.cluster.Ask(ctx, a.remind)
	if err != nil {
		a.failed(fmt.Sprintf("nobody was asked to go on with the release: %v", err))
		return
	}
	if r == nil {
		return
	}
	a.asked.Store(true)
	event := a.event
	event.Release, event.ReleaseID, event.FinishedAt = r, r.ID, time.Now()
	a.pending.Go(func() {
		if err := notify.All(a.ctx, []notify.Notifier{a.chat}, &event); err != nil {
			a.failed(fmt.Sprintf("notification failed: %v", err))
		}
	})
}
