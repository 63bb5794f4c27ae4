package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

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

// GitHubToken is the check of what the token may write, to show releases. pages are those on commits and pull requests.
func GitHubToken(repository notify.GitHub, pages bool, now time.Time) Check {
	return Check{Name: "GitHub token", Run: func(ctx context.Context) ([]string, error) {
		rights, err := repository.Rights(ctx, pages)
		if err != nil {
			return nil, err
		}
		return shows("githubToken", "GitHub", "notify.github.pullRequest: false leaves check runs and comments out", rights, now)
	}}
}

// GitLabCode is the check of the token that shows releases where their code is in GitLab.
func GitLabCode(project notify.GitLab, now time.Time) Check {
	return Check{Name: "GitLab notes token", Run: func(ctx context.Context) ([]string, error) {
		rights, err := project.Rights(ctx)
		if hidden, ok := errors.AsType[*notify.HiddenError](err); ok {
			return nil, &UnknownError{hidden.Error() + ": ask who made the token; it takes scope api"}
		}
		if err != nil {
			return nil, err
		}
		return shows("notifyGitlabToken", "GitLab", "leave the token away", rights, now)
	}}
}

// shows are the lines about what a token may write. field is the token's, and without is how to do without the right.
func shows(field, host, without string, rights notify.Rights, now time.Time) (found []string, err error) {
	var problems []error
	for _, r := range rights.Rights {
		why := ""
		if r.Why != "" {
			why = ": " + r.Why
		}
		switch r.Has {
		case notify.Granted:
			found = append(found, "the token may write "+r.What+why)
		case notify.Lacking:
			problems = append(problems, &usererr.Error{Field: field, Problem: "it may not write " + r.What + why, Fix: "give it " + r.Needs + ", or " + without})
		default:
			if why == "" {
				why = ": " + host + " does not say of a fine-grained or an app's token what it may write"
			}
			problems = append(problems, &UnknownError{"whether the token may write " + r.What + " is unknown" + why + "; it takes " + r.Needs})
		}
	}
	if !rights.Expires.IsZero() && rights.Expires.Sub(now) < soon {
		problems = append(problems, &UnknownError{"the token expires on " + rights.Expires.Format(time.DateOnly)})
	}
	return found, errors.Join(problems...)
}
