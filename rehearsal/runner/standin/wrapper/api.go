// Package api has the messages of the `wrapper` command, which starts the runner behind a server of its own. The rehearsal
// starts the runner itself.
package api

import (
	"context"
	"errors"
)

// ErrProcessNotInitialized is that of a process that is missing.
var ErrProcessNotInitialized = errors.New("process not initialized")

// Status is the runner's.
type Status int

// What it may be.
const (
	StatusUnknown Status = iota
	StatusRunning
	StatusInShutdown
	StatusStopped
)

func (Status) String() string { return "stand-in" }

// ShutdownCallback is called when the runner has ended.
type ShutdownCallback interface{ Run(context.Context) }

// ShutdownCallbackDef is what it asks.
type ShutdownCallbackDef interface {
	URL() string
	Method() string
}

// InitGracefulShutdownRequest asks the runner to end.
type InitGracefulShutdownRequest interface{ ShutdownCallbackDef() ShutdownCallbackDef }

// NewShutdownCallback returns none: no command of the rehearsal's runner is `wrapper`.
func NewShutdownCallback(any, ShutdownCallbackDef) ShutdownCallback {
	panic("stand-in for the wrapper")
}
