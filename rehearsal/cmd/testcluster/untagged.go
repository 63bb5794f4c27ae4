//go:build !controlplane

package main

import (
	"fmt"
	"os"
)

// Without the tag, nothing of Kubernetes and Istio is compiled: package setup builds this command with it.
func main() {
	fmt.Fprintln(os.Stderr, "testcluster: built without -tags controlplane; bin/rehearse --setup-only --control-plane-only makes the real one")
	os.Exit(2)
}
