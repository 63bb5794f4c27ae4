package main

import (
	"os"
	"strings"

	"github.com/our-org/crossbill/internal/usererr"
)

// secret reads a token from a file, or from the environment when no file is named: a flag's value can be read by
// everybody on the machine.
func secret(flag, path, variable string) (string, error) {
	if path == "" {
		return strings.TrimSpace(os.Getenv(variable)), nil
	}
	return usererr.TokenFile(flag, path)
}
