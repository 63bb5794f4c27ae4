package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/our-org/crossbill/ci/internal/dagger"
)

// progress is where a function says what a person wants to read in the log.
var progress io.Writer = os.Stderr

// invocation is the crossbill command in a container, and the secrets that the caller gave it.
type invocation struct {
	container *dagger.Container
	secrets   []givenSecret
}

// givenSecret is a secret and the argument that it came with.
type givenSecret struct {
	argument string
	secret   *dagger.Secret
}

func (i *invocation) setVariable(name, value string) {
	if value != "" {
		i.container = i.container.WithEnvVariable(name, value)
	}
}

// setSecret gives the command a secret as an environment variable.
func (i *invocation) setSecret(argument, variable string, secret *dagger.Secret) {
	if secret != nil {
		i.container = i.container.WithSecretVariable(variable, secret)
		i.secrets = append(i.secrets, givenSecret{argument, secret})
	}
}

// mountSecret gives the command a secret as a file that its user can read, and returns the file's path.
func (i *invocation) mountSecret(argument, name string, secret *dagger.Secret) string {
	path := "/run/secrets/" + name
	i.container = i.container.WithMountedSecret(path, secret, dagger.ContainerWithMountedSecretOpts{Mode: 0o444})
	i.secrets = append(i.secrets, givenSecret{argument, secret})
	return path
}

// bind starts a service, gives it a name in the container, and returns name:port.
func (i *invocation) bind(ctx context.Context, argument, name string, service *dagger.Service) (string, error) {
	if _, err := service.Start(ctx); err != nil {
		return "", failure(1, fmt.Sprintf("--%s does not answer: %v; check that the server runs, and that the address has the form tcp://HOST:PORT", argument, err))
	}
	endpoint, err := service.Endpoint(ctx, dagger.ServiceEndpointOpts{Scheme: "tcp"})
	if err != nil {
		return "", err
	}
	at, err := url.Parse(endpoint)
	if err != nil {
		return "", err
	}
	i.container = i.container.WithServiceBinding(name, service)
	return name + ":" + at.Port(), nil
}

// resultFile has the standard output of the command. It is the function's result, which `dagger call` prints: on
// the exec's own standard output it would be in the log as well, hundreds of lines of JSON.
const (
	resultFile = "/tmp/crossbill-result"
	toResult   = `exec "$@" >` + resultFile
)

// run runs the crossbill command and returns what it printed, also when it failed.
func (i *invocation) run(ctx context.Context, command string, args ...[]string) (string, error) {
	ran, failed := i.exec(ctx, command, args...)
	if ran == nil {
		return "", failed
	}
	printed, err := ran.File(resultFile).Contents(ctx)
	return printed, cmp.Or(failed, err)
}

// exec returns the container in which the crossbill command has run. Its failure is the last thing that the command
// said, with the command's exit code.
func (i *invocation) exec(ctx context.Context, command string, args ...[]string) (*dagger.Container, error) {
	line := append([]string{"sh", "-c", toResult, "sh"}, commandLine(command, args...)...)
	ran := fresh(i.container).WithExec(line, dagger.ContainerWithExecOpts{Expect: dagger.ReturnTypeAny})
	code, err := ran.ExitCode(ctx)
	if err != nil {
		return nil, i.explain(ctx, err)
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

// explain names the argument whose secret is the reason why the engine could not start the command. The engine itself
// only says that it failed to prepare mounts.
func (i *invocation) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	for _, given := range i.secrets {
		if _, unread := given.secret.Plaintext(ctx); unread != nil {
			return failure(2, fmt.Sprintf("--%s: the secret cannot be read: %v; give env:NAME of a variable that is set, or file:PATH of a file that exists", given.argument, unread))
		}
	}
	return err
}

// logMessage puts a result's message into the log: the one line of its JSON that a person looks for.
func logMessage(result string) {
	var said struct{ Command, Message string }
	if json.Unmarshal([]byte(result), &said) == nil && said.Message != "" {
		fmt.Fprintf(progress, "%s: %s\n", said.Command, said.Message)
	}
}

// fresh makes every exec that follows a new one: what it does outside is not in Dagger's cache.
func fresh(c *dagger.Container) *dagger.Container {
	return c.WithEnvVariable("CROSSBILL_CALLED", time.Now().Format(time.RFC3339Nano))
}

func commandLine(command string, args ...[]string) []string {
	return slices.Concat([]string{"crossbill"}, strings.Fields(command), slices.Concat(args...))
}

// flags makes flags of pairs of name and value. An empty value is left to the command's own default.
func flags(pairs ...string) []string {
	var args []string
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			args = append(args, pairs[i]+"="+pairs[i+1])
		}
	}
	return args
}

// boolean is the value of a flag that is set or left out.
func boolean(set bool) string {
	if !set {
		return ""
	}
	return "true"
}

func decimal(n int) string { return strconv.Itoa(n) }

// number is the value of a flag that is left out when it is 0.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return decimal(n)
}

// missing is the error of a function that needs an argument of the constructor.
func missing(argument string) error {
	return failure(2, fmt.Sprintf("--%s is missing: give it before the function, dagger call --%[1]s … FUNCTION", argument))
}

// failure is an error that `dagger call` ends with an exit code for: it has the form of a failed exec's.
func failure(code int, text string) error {
	return &gqlerror.Error{Message: text, Extensions: map[string]any{
		"_type": "EXEC_ERROR", "cmd": []string{}, "exitCode": code, "stdout": "", "stderr": "",
	}}
}
