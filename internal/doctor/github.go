package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/usererr"
)

// GitHub is the check of the environments that hold the secrets of the workflow: only chosen branches may use them.
func GitHub(repository notify.GitHub, names ...string) Check {
	return Check{Name: "GitHub environments", Run: func(ctx context.Context) (found []string, err error) {
		environments, err := repository.Environments(ctx)
		if hidden, ok := errors.AsType[*notify.HiddenError](err); ok {
			return nil, &UnknownError{hidden.Error() + ": a maintainer finds them in Settings > Environments"}
		}
		if err != nil {
			return nil, err
		}
		var problems []error
		for _, name := range names {
			e, ok := environments[name]
			field := "environment " + name + " of " + repository.Repository
			switch {
			case !ok:
				problems = append(problems, &usererr.Error{Field: field, Problem: "it does not exist", Fix: "create it in Settings > Environments, for main alone (docs/guides/adopt.md#4-set-up-github)"})
			case e.Any:
				problems = append(problems, &usererr.Error{Field: field, Problem: "the workflow of any branch may read its secrets", Fix: "set its deployment branches to main"})
			case e.Protected:
				found = append(found, "environment "+name+" is for protected branches alone")
			case e.Hidden:
				problems = append(problems, &UnknownError{"environment " + name + " is for chosen branches; which ones this token may not see"})
			default:
				found = append(found, fmt.Sprintf("environment %s is for %s alone", name, strings.Join(e.Branches, ", ")))
			}
		}
		return found, errors.Join(problems...)
	}}
}
