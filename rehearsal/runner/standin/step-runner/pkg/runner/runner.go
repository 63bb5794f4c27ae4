// Package runner has the names of step-runner's built-in functions. Nothing calls one.
package runner

import (
	"context"
	"io"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"gitlab.com/gitlab-org/step-runner/proto"
)

// Kind is an input's.
type Kind int

// KindString is the one that is asked for.
const KindString Kind = iota

// BuiltinResult is empty.
type BuiltinResult struct{}

// BuiltinFunction is a function.
type BuiltinFunction interface {
	Spec() *proto.Spec
	Run(context.Context, BuiltinContext) (BuiltinResult, error)
}

// BuiltinContext is what it is given.
type BuiltinContext interface {
	GetInput(string, Kind) (*structpb.Value, error)
	GetJobVars() map[string]*structpb.Value
	GetEnvs() map[string]string
	Pipe() (stdout, stderr io.Writer)
	WorkDir() string
	GracefulExitDelay() time.Duration
	ListenCancel(context.Context) (context.Context, context.CancelFunc)
}
