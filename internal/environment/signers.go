package environment

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/our-org/crossbill/internal/usererr"
)

const (
	fieldAllowedSigners = "gitops.allowedSignersFile"
	namespace           = "git" // of signatures of commits
)

// sign signs a text as `ssh-keygen -Y sign -n git` does.
func sign(key ssh.Signer, text []byte) (string, error) {
	made, err := sshsig.Sign(bytes.NewReader(text), key, sshsig.HashSHA512, namespace)
	if err != nil {
		return "", &usererr.Error{Field: fieldSigningKey, Problem: err.Error(), Fix: "make one with `ssh-keygen -t ed25519`"}
	}
	return string(sshsig.Armor(made)), nil
}

// Signers are those whose signatures count: a file of ssh-keygen's (ALLOWED SIGNERS in its manual).
type Signers []signer

type signer struct {
	principal   string // as the file names them
	key         string // as SSH writes it
	after, till time.Time
}

// ReadSigners reads the file. Errors are *usererr.Error.
func ReadSigners(file string) (Signers, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, &usererr.Error{Field: fieldAllowedSigners, Problem: err.Error(), Fix: "give a file as `ssh-keygen -Y verify` takes it"}
	}
	signers, err := parseSigners(text)
	if bad, ok := errors.AsType[*usererr.Error](err); ok {
		bad.Field = fieldAllowedSigners + ": " + file + bad.Field
		return nil, bad
	}
	return signers, err
}

// parseSigners reads the text of a file. The field of an error is the line.
func parseSigners(text []byte) (Signers, error) {
	var signers Signers
	lines := bufio.NewScanner(bytes.NewReader(text))
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		one, err := parseSigner(line)
		if err != nil {
			err.Field = fmt.Sprintf(":%d", number)
			return nil, err
		}
		if one != nil {
			signers = append(signers, *one)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, &usererr.Error{Problem: err.Error(), Fix: "write one signer a line"}
	}
	if len(signers) == 0 {
		return nil, &usererr.Error{Problem: "it names nobody who signs commits", Fix: "write for example mona@example.com ssh-ed25519 AAAA…"}
	}
	return signers, nil
}

// parseSigner reads a line; nil when it is about other signatures than those of commits.
func parseSigner(line string) (*signer, *usererr.Error) {
	bad := func(problem string) *usererr.Error {
		return &usererr.Error{Problem: problem, Fix: "write for example mona@example.com ssh-ed25519 AAAA…"}
	}
	principals, rest, _ := strings.Cut(line, " ")
	if quoted, ok := strings.CutPrefix(line, `"`); ok {
		if principals, rest, ok = strings.Cut(quoted, `"`); !ok {
			return nil, bad("a quote does not end")
		}
	}
	key, _, options, more, err := ssh.ParseAuthorizedKey([]byte(rest))
	if err != nil || len(more) > 0 || principals == "" {
		return nil, bad("it has no principal with a public key")
	}
	s := &signer{principal: principals, key: string(key.Marshal())}
	for _, option := range options {
		name, value, _ := strings.Cut(option, "=")
		value = strings.Trim(value, `"`)
		switch strings.ToLower(name) {
		case "namespaces":
			if !slices.Contains(strings.Split(value, ","), namespace) {
				return nil, nil
			}
		case "valid-after":
			s.after, err = signerTime(value)
		case "valid-before":
			s.till, err = signerTime(value)
		default: // cert-authority among them
			return nil, bad(fmt.Sprintf("the option %s is not known", name))
		}
		if err != nil {
			return nil, bad(fmt.Sprintf("%s is not a time such as 20260131 or 202601311200Z", option))
		}
	}
	return s, nil
}

// signerTime reads a time as ssh-keygen does, but that one without Z is not of this machine's time zone.
func signerTime(text string) (time.Time, error) {
	text = strings.TrimSuffix(text, "Z")
	for _, form := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(form) == len(text) {
			return time.ParseInLocation(form, text, time.UTC)
		}
	}
	return time.Time{}, errors.New("no time")
}

// SignsAs says as whom the repository's key signs commits: the first principal of its line in the file.
func (r *Repository) SignsAs(signers Signers) (principal string, err error) {
	if r.signer == nil {
		return "", &usererr.Error{Field: fieldSigningKey, Problem: "is missing, and only signed commits approve", Fix: "give your private key"}
	}
	key := string(r.signer.PublicKey().Marshal())
	for _, one := range signers {
		if one.key == key {
			principal, _, _ = strings.Cut(one.principal, ",")
			return strings.ReplaceAll(principal, " ", "-"), nil
		}
	}
	return "", &usererr.Error{Field: fieldSigningKey, Problem: "its key " + ssh.FingerprintSHA256(r.signer.PublicKey()) + " is nobody's who may approve", Fix: "name its public half in gitops.allowedSignersFile"}
}

// Signed says who has signed the commit of a version: the principals of the key, as the file has them. Times are held
// against now: what a commit says of its own time is up to whoever makes it.
func (s Signers) Signed(v Version, now time.Time) (principal string, err error) {
	if v.signature == "" {
		return "", errors.New("it is not signed")
	}
	signature, err := sshsig.Unarmor([]byte(v.signature))
	if err != nil {
		return "", errors.New("it has no SSH signature")
	}
	if err := sshsig.Verify(bytes.NewReader(v.signed), signature, signature.PublicKey, signature.HashAlgorithm, namespace); err != nil {
		return "", fmt.Errorf("its signature is not right: %w", err)
	}
	key := string(signature.PublicKey.Marshal())
	expired := false
	for _, one := range s {
		switch {
		case one.key != key:
		case now.Before(one.after) || !one.till.IsZero() && now.After(one.till):
			expired = true
		default:
			return one.principal, nil
		}
	}
	if expired {
		return "", fmt.Errorf("its key %s is not valid now", ssh.FingerprintSHA256(signature.PublicKey))
	}
	return "", fmt.Errorf("its key %s is nobody's who may", ssh.FingerprintSHA256(signature.PublicKey))
}
