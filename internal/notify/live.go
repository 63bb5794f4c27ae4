package notify

import (
	"context"
	"time"
)

// Live notifies of a command while it goes on, in the background: it holds nothing up. What comes faster than it may be sent
// is left out, but for the newest.
type Live struct {
	newest chan *Event
	stop   context.CancelFunc
	done   chan struct{}
}

// LiveEvery is the pause between two events that Live sends. GitHub takes 500 writes an hour of a token; a release makes two
// with each.
const LiveEvery = 2 * time.Minute

// NewLive starts one for some targets; failed is given the first error alone. Stop ends it.
func NewLive(ctx context.Context, targets []Notifier, failed func(error)) *Live {
	ctx, stop := context.WithCancel(ctx)
	l := &Live{newest: make(chan *Event, 1), stop: stop, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for said := false; ; {
			select {
			case <-ctx.Done():
				return
			case e := <-l.newest:
				if err := All(ctx, targets, e); err != nil && !said {
					said = true
					failed(err)
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(LiveEvery):
			}
		}
	}()
	return l
}

// Show gives it an event, in the place of one that has not been sent yet. Nil shows nothing. One goroutine calls it.
func (l *Live) Show(e *Event) {
	if l == nil {
		return
	}
	select {
	case <-l.newest:
	default:
	}
	l.newest <- e
}

// Stop ends it, after what is being sent: nothing that is older may follow what is sent next.
func (l *Live) Stop() {
	if l != nil {
		l.stop()
		<-l.done
	}
}
