// Package usererr has the error for input that only its author can correct. It keeps the promise that bad
// input names the option, the problem and the fix, and changes nothing.
package usererr

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"unicode"
)

// Error is bad input from a person or a file. Nothing has been changed when it is returned; the command
// exits with code 2.
type Error struct {
	Field   string // the option, file or object that is wrong, as the user wrote it
	Problem string // what is wrong with it
	Fix     string // what to do about it; may be empty
}

func (e *Error) Error() string {
	if e.Fix == "" {
		return fmt.Sprintf("%s: %s", e.Field, e.Problem)
	}
	return fmt.Sprintf("%s: %s; %s", e.Field, e.Problem, e.Fix)
}

// SecureURL refuses an address that a token must not be sent to: anything but https, except on this machine.
func SecureURL(field, address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Hostname() == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return &Error{Field: field, Problem: fmt.Sprintf("%q is not a web address", address), Fix: "give https://gitlab.example.com"}
	case u.User != nil:
		return &Error{Field: field, Problem: "the address holds a user or password", Fix: "give tokens by environment or file"}
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return &Error{Field: field, Problem: "tokens would travel without encryption", Fix: "use https"}
	case strings.ContainsFunc(u.Hostname(), func(r rune) bool { return r > unicode.MaxASCII }):
		return &Error{Field: field, Problem: fmt.Sprintf("the host of %q has letters that may look like others", address), Fix: "give its name in ASCII (xn--…)"}
	}
	return nil
}

// TokenFile reads a file that contains one token and nothing else. Its error names the file, never what is in it.
func TokenFile(field, path string) (string, error) {
	const fix = "give a file that contains only the token"
	data, err := os.ReadFile(path)
	if err != nil {
		return "", &Error{Field: field, Problem: err.Error(), Fix: fix}
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", &Error{Field: field, Problem: path + " does not contain one token", Fix: fix}
	}
	return token, nil
}

// loopback says whether a host is this machine: localhost itself (RFC 6761, 6.3; names below it are looked up by many
// resolvers), or a whole loopback address. 127.evil.example is a name like any other, and what 127.1 is, resolvers differ in.
func loopback(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
