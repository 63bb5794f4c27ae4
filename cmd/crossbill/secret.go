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
	data, err := os.ReadFile(path)
	if err != nil {
		return "", &usererr.Error{Field: flag, Problem: err.Error(), Fix: "give a file that contains only the token"}
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", &usererr.Error{Field: flag, Problem: path + " does not contain one token", Fix: "give a file that contains only the token"}
	}
	return token, nil
}
