package approval

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/our-org/crossbill/internal/httpretry"
	"github.com/our-org/crossbill/internal/usererr"
)

// Bounds of what is taken from outside.
const (
	longestToken  = 64 << 10 // GitLab's have 2 KiB, and more with 200 groups
	longestAnswer = 1 << 20
	askFor        = time.Minute // for all that the issuer is asked, with the repetitions
	shortestKey   = 2048        // bits, as RFC 7518 has it for RS256
)

// Verifier checks the signature of ID tokens.
type Verifier struct {
	Issuer   string
	Audience string

	Transport http.RoundTripper // default http.DefaultTransport
	Now       func() time.Time  // default time.Now
}

// UnreachableError says that the issuer could not be asked for its keys, a few times in a row. Nothing was changed.
type UnreachableError struct {
	Issuer string
	Err    error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("the approval cannot be verified now: %s does not give its keys: %v; nothing was changed: what has traffic keeps it, and a canary is watched on. "+
		"Run the job again when it answers; rollback needs no token", e.Issuer, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Verify gives the claims of a token that the issuer has signed for the audience, and that is valid now. A token that is not
// is a *usererr.Error; an issuer that cannot be asked an *UnreachableError.
func (v *Verifier) Verify(ctx context.Context, token string) (*Claims, error) {
	if err := usererr.SecureURL("approval.issuer", v.Issuer); err != nil {
		return nil, err
	}
	if len(token) > longestToken {
		return nil, badToken(fmt.Sprintf("it has %d characters", len(token)))
	}
	now := time.Now
	if v.Now != nil {
		now = v.Now
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	keys := &issuerKeys{issuer: v.Issuer, client: httpretry.Client(v.Transport)}
	verified, err := oidc.NewVerifier(v.Issuer, keys, &oidc.Config{
		ClientID: v.Audience, SupportedSigningAlgs: []string{oidc.RS256},
		SkipExpiryCheck: true, // parseClaims is stricter
	}).Verify(ctx, token)
	switch {
	case keys.unreachable != nil:
		return nil, &UnreachableError{v.Issuer, keys.unreachable}
	case keys.wrong != nil:
		return nil, keys.wrong
	case err != nil:
		return nil, badToken(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "oidc: "), "failed to verify signature: "))
	}
	var payload json.RawMessage
	if err := verified.Claims(&payload); err != nil {
		return nil, badToken(err.Error())
	}
	claims, err := parseClaims(payload, now())
	if err != nil {
		return nil, badToken(err.Error())
	}
	return claims, nil
}

// badToken is the error of a token that proves nothing.
func badToken(problem string) *usererr.Error {
	return &usererr.Error{Field: "ID token", Problem: problem, Fix: "run the job again: GitLab makes a new token for each run; nothing was changed"}
}

// issuerKeys asks the issuer for the keys that it signs with: its OpenID configuration, then the keys, past every cache: GitLab
// lets its keys be kept for a day, in which a revoked one would be believed. A key that is not among them is asked for once
// more: each of GitLab's processes learns of a new key within a minute.
type issuerKeys struct {
	issuer string
	client *http.Client

	unreachable error
	wrong       *usererr.Error // with what the issuer says of itself
}

// VerifySignature is called with a token whose algorithm was checked.
func (k *issuerKeys) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	signed, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil || len(signed.Signatures) != 1 {
		return nil, errors.New("it has not one signature")
	}
	id := signed.Signatures[0].Header.KeyID
	if id == "" {
		return nil, errors.New("it does not name the key that signed it")
	}
	address, err := k.keysAddress(ctx)
	if err != nil {
		return nil, err
	}
	for range 2 {
		var set jose.JSONWebKeySet
		if err := k.get(ctx, address, &set); err != nil {
			return nil, err
		}
		named := slices.DeleteFunc(set.Key(id), func(key jose.JSONWebKey) bool { return !usable(key) })
		for _, key := range named {
			if payload, err := signed.Verify(key); err == nil {
				return payload, nil
			}
		}
		if len(named) > 0 {
			return nil, errors.New("its signature is wrong")
		}
	}
	return nil, fmt.Errorf("it is signed with the key %q, which %s does not have", id, k.issuer)
}

// usable says whether a key may have signed a token.
func usable(key jose.JSONWebKey) bool {
	public, ok := key.Key.(interface{ Size() int }) // *rsa.PublicKey
	return ok && 8*public.Size() >= shortestKey && key.IsPublic() && (key.Use == "" || key.Use == "sig") && (key.Algorithm == "" || key.Algorithm == string(jose.RS256))
}

// keysAddress is where the issuer says that its keys are: on the same host.
func (k *issuerKeys) keysAddress(ctx context.Context) (string, error) {
	var configuration struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := k.get(ctx, strings.TrimSuffix(k.issuer, "/")+"/.well-known/openid-configuration", &configuration); err != nil {
		return "", err
	}
	if configuration.Issuer != k.issuer {
		k.wrong = &usererr.Error{Field: "approval.issuer", Problem: fmt.Sprintf("what is at %s calls itself %q", k.issuer, configuration.Issuer), Fix: "give the address that it calls itself, which is iss in its tokens"}
		return "", k.wrong
	}
	if !sameOrigin(k.issuer, configuration.JWKSURI) {
		k.wrong = &usererr.Error{Field: "approval.issuer", Problem: fmt.Sprintf("%s has its keys at %q, which is another host", k.issuer, configuration.JWKSURI), Fix: "keys are only taken from the issuer itself"}
		return "", k.wrong
	}
	return configuration.JWKSURI, nil
}

// get reads a JSON document. Whatever goes wrong with it means that the issuer cannot be asked now.
func (k *issuerKeys) get(ctx context.Context, address string, into any) error {
	err := k.read(ctx, address, into)
	if err != nil {
		k.unreachable = err
	}
	return err
}

func (k *issuerKeys) read(ctx context.Context, address string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "crossbill")
	request.Header.Set("Cache-Control", "no-cache")
	response, err := k.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", address, response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, longestAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", address, err)
	case len(text) > longestAnswer:
		return fmt.Errorf("%s answered more than %d bytes", address, longestAnswer)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s did not answer with JSON: %w", address, err)
	}
	return nil
}

func sameOrigin(a, b string) bool {
	x, err := url.Parse(a)
	if err != nil {
		return false
	}
	y, err := url.Parse(b)
	return err == nil && x.Scheme == y.Scheme && x.Host == y.Host && y.User == nil
}
