package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// run runs the crossbill command in a container and gives what it printed, also when it failed.
func run(ctx context.Context, c *dagger.Container, name string, args ...[]string) (string, error) {
	ran, failed := ended(ctx, c, name, args...)
	if ran == nil {
		return "", failed
	}
	printed, err := ran.Stdout(ctx)
	return printed, cmp.Or(failed, err)
}

// ended is the container after the crossbill command. Its failure is what it said last, with its exit code.
func ended(ctx context.Context, c *dagger.Container, name string, args ...[]string) (*dagger.Container, error) {
	ran := fresh(c).WithExec(command(name, args...), dagger.ContainerWithExecOpts{Expect: dagger.ReturnTypeAny})
	code, err := ran.ExitCode(ctx)
	if err != nil {
		return nil, err
	}
	if code == 0 {
		return ran, nil
	}
	said, err := ran.Stderr(ctx)
	if err != nil {
		return nil, err
	}
	return ran, failure(code, said[max(0, strings.LastIndex("\n"+said, "\ncrossbill: ")):])
}

// fresh makes every exec that follows a new one: what it does outside is not in Dagger's cache.
func fresh(c *dagger.Container) *dagger.Container {
	return c.WithEnvVariable("CROSSBILL_CALLED", time.Now().Format(time.RFC3339Nano))
}

func command(name string, args ...[]string) []string {
	return append([]string{"crossbill", name}, slices.Concat(args...)...)
}

// given makes flags of pairs of name and value. What is empty is left to the command's own default.
func given(pairs ...string) []string {
	var args []string
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			args = append(args, pairs[i]+"="+pairs[i+1])
		}
	}
	return args
}

// on is the value of a flag that is there or not.
func on(is bool) string {
	if !is {
		return ""
	}
	return "true"
}

func decimal(n int) string { return strconv.Itoa(n) }

// missing is the error of a step that needs an argument of the constructor's.
func missing(argument string) error {
	return failure(2, fmt.Sprintf("--%s is missing: give it before the function, dagger call --%[1]s … FUNCTION", argument))
}

// failure is an error that `dagger call` ends with an exit code for: it has the form of a failed exec's.
func failure(code int, text string) error {
	return &gqlerror.Error{Message: text, Extensions: map[string]any{
		"_type": "EXEC_ERROR", "cmd": []string{}, "exitCode": code, "stdout": "", "stderr": "",
	}}
}

func withVariable(c *dagger.Container, name, value string) *dagger.Container {
	if value == "" {
		return c
	}
	return c.WithEnvVariable(name, value)
}

func withSecret(c *dagger.Container, name string, secret *dagger.Secret) *dagger.Container {
	if secret == nil {
		return c
	}
	return c.WithSecretVariable(name, secret)
}
