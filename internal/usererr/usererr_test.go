package usererr

import (
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
)

func TestSecureURL(t *testing.T) {
	for address, good := range map[string]bool{
		"https://gitlab.example.com":         true,
		"https://gitlab.example.com:8443/a":  true,
		"https://xn--mnchen-3ya.example":     true,
		"http://127.0.0.1":                   true,
		"http://127.0.0.1:8080/gitlab":       true,
		"http://127.8.9.10:80":               true,
		"http://[::1]:8080":                  true,
		"http://localhost:8080":              true,
		"http://localhost.:8080":             true,
		"http://LOCALHOST":                   true,
		"http://gitlab.example.com":          false,
		"http://127.evil.example":            false,
		"http://127.0.0.1.evil.example":      false,
		"http://127.0.0.1.nip.io":            false,
		"http://127.1":                       false,
		"http://127":                         false,
		"http://2130706433":                  false,
		"http://0x7f.0.0.1":                  false,
		"http://0177.0.0.1":                  false,
		"http://127.0.0.01":                  false,
		"http://127.0.0.1.":                  false,
		"http://0.0.0.0":                     false,
		"http://[::]":                        false,
		"http://[::2]":                       false,
		"http://localhost.evil.example":      false,
		"http://evil.localhost":              false, // many resolvers ask for it
		"http://localhost..":                 false,
		"http://127.0.0.1@evil.example":      false,
		"http://localhost:80@evil.example":   false,
		"https://gitlab.example.com@evil.de": false,
		"https://token@gitlab.example.com":   false,
		"http://127.0.0.1\\@evil.example":    false,
		"http://127.0.0.1%00.evil.example":   false,
		"http://127。0。0。1":                   false,
		"http://127.0.0.1\r\nX: y":           false,
		"https://gitlab.example.com\r\nX: y": false,
		"https://gitlab.example.com/\n":      false,
		"https://gitlab.example.com\t":       false,
		"https://gitlаb.example.com":         false, // its а is Cyrillic
		"https://ｇitlab.example.com":         false,
		"https://:443":                       false,
		"https://":                           false,
		"https:gitlab.example.com":           false,
		"//gitlab.example.com":               false,
		"gitlab.example.com":                 false,
		"file:///etc/passwd":                 false,
		"ftp://localhost":                    false,
		"":                                   false,
	} {
		err := SecureURL("gitlab.url", address)
		if (err == nil) != good {
			t.Errorf("%q: %v", address, err)
		}
		if wrong, ok := errors.AsType[*Error](err); err != nil && (!ok || wrong.Field != "gitlab.url") {
			t.Errorf("%q: %v, want an Error of gitlab.url", address, err)
		}
	}
}

// FuzzSecureURL: whatever is accepted goes out encrypted, or to an address of this machine.
func FuzzSecureURL(f *testing.F) {
	for _, address := range []string{"http://127.0.0.1", "http://localhost", "http://127.evil.example", "https://a@b", "http://[::1%25lo]", "http://127.1", "http://[::ffff:127.0.0.1]:1"} {
		f.Add(address)
	}
	f.Fuzz(func(t *testing.T, address string) {
		if SecureURL("x", address) != nil {
			return
		}
		u, err := url.Parse(address)
		if err != nil || u.User != nil || strings.ContainsAny(address, "\r\n") {
			t.Fatalf("%q was accepted", address)
		}
		host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
		if zoneless, _, _ := strings.Cut(host, "%"); u.Scheme != "https" && host != "localhost" && !net.ParseIP(zoneless).IsLoopback() {
			t.Errorf("%q was accepted", address)
		}
	})
}
