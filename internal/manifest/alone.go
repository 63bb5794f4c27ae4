package manifest

import (
	"context"
	"fmt"
	"io"
	"log"
	"sync"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
)

// renderTimeout bounds a rendering: a template can go on for ever, and what is fetched may never come.
const renderTimeout = time.Minute

// libraries is held while one of the libraries renders: Kustomize's has state of its own that is not safe side by side. Both
// write warnings to the log package, with values in them that may be secret.
var libraries sync.Mutex

// alone runs a library that renders: one at a time, for so long, without its log. What it panics of is an error of at.
func alone(ctx context.Context, at string, render func() error) error {
	ctx, cancel := context.WithTimeout(ctx, renderTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		libraries.Lock()
		defer libraries.Unlock()
		out := log.Writer()
		log.SetOutput(io.Discard)
		defer log.SetOutput(out)
		defer func() {
			if p := recover(); p != nil {
				done <- &usererr.Error{Field: at, Problem: fmt.Sprintf("the library that renders it failed: %v", p)}
			}
		}()
		done <- render()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return &usererr.Error{Field: at, Problem: "it was not rendered in time: " + ctx.Err().Error(), Fix: "look for a loop in a template, or for what is fetched"}
	}
}
