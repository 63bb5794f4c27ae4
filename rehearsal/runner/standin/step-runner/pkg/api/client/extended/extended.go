// Package extended connects to step-runner, which is not in this program.
package extended

import (
	"context"
	"errors"
	"io"

	"gitlab.com/gitlab-org/step-runner/pkg/api/client"
)

var errStandIn = errors.New("stand-in for step-runner: a job with run:, or FF_CONCRETE")

// FollowOutput is where the log goes.
type FollowOutput struct{ Logs io.Writer }

// Client is none.
type Client struct{}

// New refuses.
func New(any) (*Client, error) { return nil, errStandIn }

// CloseConn closes nothing.
func (*Client) CloseConn() error { return errStandIn }

// Cancel refuses.
func (*Client) Cancel(context.Context, string) error { return errStandIn }

// RunAndFollow refuses.
func (*Client) RunAndFollow(context.Context, *client.RunRequest, *FollowOutput) (client.Status, error) {
	return client.Status{}, errStandIn
}
