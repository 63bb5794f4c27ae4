package doctor

import (
	"context"
	"errors"

	"github.com/our-org/crossbill/internal/registry"
)

// Registry is the check whether the app's images can be pulled from their repository. pull says whether the registry knows it.
func Registry(repository string, pull func(context.Context) (exists bool, err error)) Check {
	return Check{Name: "registry", Run: func(ctx context.Context) ([]string, error) {
		exists, err := pull(ctx)
		away := new(registry.AwayError)
		switch {
		case errors.As(err, &away): // it is the nodes that pull
			return nil, &UnknownError{away.Error() + ". The nodes of the cluster have to reach it"}
		case err != nil:
			return nil, err
		case !exists:
			return nil, &UnknownError{repository + " may be pulled from as far as its registry says, but has no images yet"}
		}
		return []string{repository + " may be pulled from"}, nil
	}}
}
