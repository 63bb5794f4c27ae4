package main

import (
	"bytes"
	"testing"
)

// ran is what a command line came to.
type ran struct {
	code     int
	out, err string
}

// runLine runs a command line.
func runLine(t *testing.T, args ...string) ran {
	t.Helper()
	var out, errOut bytes.Buffer
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errOut)
	code := execute(t.Context(), root)
	return ran{code, out.String(), errOut.String()}
}

// runCommand runs a command line and gives its exit code and output.
func runCommand(t *testing.T, args ...string) (int, string) {
	t.Helper()
	r := runLine(t, args...)
	return r.code, r.out
}
