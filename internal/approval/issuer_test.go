package approval

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/usererr"
)

// documented is the example of GitLab's page "OpenID Connect (OIDC) Authentication Using ID Tokens".
const documented = `{
  "namespace_id": "72", "namespace_path": "my-group", "project_id": "20", "project_path": "my-group/my-project",
  "user_id": "1", "user_login": "sample-user", "user_email": "sample-user@example.com",
  "user_identities": [{"provider": "github", "extern_uid": "2435223452345"}, {"provider": "bitbucket", "extern_uid": "john.smith"}],
  "pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "ref": "feature-branch-1", "ref_type": "branch",
  "ref_path": "refs/heads/feature-branch-1", "ref_protected": "false", "environment": "test-environment2",
  "environment_protected": "false", "deployment_tier": "testing", "environment_action": "start", "runner_id": 1,
  "runner_environment": "self-hosted", "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "project_visibility": "public",
  "ci_config_ref_uri": "gitlab.example.com/my-group/my-project//.gitlab-ci.yml@refs/heads/main",
  "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b",
  "iss": "https://gitlab.example.com", "iat": 1681395193, "nbf": 1681395188, "exp": 1681398793,
  "sub": "project_path:my-group/my-project:ref_type:branch:ref:feature-branch-1", "aud": "https://vault.example.com"
}`

// TestTokensAreAsDocumented: the double's tokens have each claim of GitLab's documentation, of the same JSON type.
func TestTokensAreAsDocumented(t *testing.T) {
	w := newWorld(t)
	w.gitlab.Users = append(w.gitlab.Users, gitlabtest.User{ID: 30, Login: "mona", Identities: []gitlabtest.Identity{{Provider: "github", ExternUID: "583231"}}})
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(w.pressed("mona"), ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if err := errors.Join(json.Unmarshal([]byte(documented), &want), json.Unmarshal(payload, &got)); err != nil {
		t.Fatal(err)
	}
	for name, value := range want {
		if reflect.TypeOf(got[name]) != reflect.TypeOf(value) {
			t.Errorf("%s is %v, GitLab has %v", name, got[name], value)
		}
	}
	if _, err := parseClaims([]byte(documented), time.Unix(1681395200, 0)); err != nil {
		t.Errorf("the documented token is refused: %v", err)
	}
}

// signedWith is a token by a method and a key of its own, with the claims of a good one.
func (w *world) signedWith(algorithm jose.SignatureAlgorithm, key any, kid string) string {
	w.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", kid))
	if err != nil {
		w.t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(w.gitlab.Claims(gitlabtest.TokenJob{Pipeline: w.pipeline, User: "mona", Environment: production})).Serialize()
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// unsigned is a token of alg none.
func unsigned(token string) string {
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
	return header + "." + strings.Split(token, ".")[1] + "."
}

// TestBadTokens: what GitLab has not signed for us, for now, is refused, and says so; nothing else is asked.
func TestBadTokens(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	kid := func(w *world) string {
		signed, err := jose.ParseSigned(w.pressed("mona"), []jose.SignatureAlgorithm{jose.RS256})
		if err != nil {
			t.Fatal(err)
		}
		return signed.Signatures[0].Header.KeyID
	}
	for name, test := range map[string]struct {
		token func(w *world) string
		want  string
	}{
		"wrong audience": {func(w *world) string { return w.pressed("mona", func(j *gitlabtest.TokenJob) { j.Audience = "vault" }) }, `expected audience "crossbill" got ["vault"]`},
		"expired": {func(w *world) string {
			return w.pressed("mona", func(j *gitlabtest.TokenJob) { j.At, j.Timeout = time.Now().Add(-time.Hour), 50*time.Minute })
		}, "it expired at"},
		"not yet valid": {func(w *world) string {
			return w.pressed("mona", func(j *gitlabtest.TokenJob) { j.At = time.Now().Add(5 * time.Minute) })
		}, "it is not valid before"},
		"another issuer": {func(w *world) string {
			return w.pressed("mona", func(j *gitlabtest.TokenJob) { j.Claims = map[string]any{"iss": "https://gitlab.com"} })
		}, `issued by a different provider, expected "https://gitlab.example.com" got "https://gitlab.com"`},
		"no job's": {func(w *world) string {
			return w.pressed("mona", func(j *gitlabtest.TokenJob) { j.Claims = map[string]any{"job_id": ""} })
		}, "it has no claim job_id"},
		"a number for text": {func(w *world) string {
			return w.pressed("mona", func(j *gitlabtest.TokenJob) { j.Claims = map[string]any{"user_id": 7} })
		}, "its claims are not GitLab's"},
		"alg none":            {func(w *world) string { return unsigned(w.pressed("mona")) }, `unexpected signature algorithm "none"`},
		"alg HS256":           {func(w *world) string { return w.signedWith(jose.HS256, []byte(strings.Repeat("x", 32)), kid(w)) }, `unexpected signature algorithm "HS256"`},
		"HS256 by public key": {func(w *world) string { return w.signedWith(jose.HS256, w.gitlab.SigningKey().N.Bytes(), kid(w)) }, `unexpected signature algorithm "HS256"`},
		"alg PS256":           {func(w *world) string { return w.signedWith(jose.PS256, other, kid(w)) }, `unexpected signature algorithm "PS256"`},
		"unknown key":         {func(w *world) string { return w.signedWith(jose.RS256, other, "mine") }, `it is signed with the key "mine", which https://gitlab.example.com does not have`},
		"forged":              {func(w *world) string { return w.signedWith(jose.RS256, other, kid(w)) }, "its signature is wrong"},
		"no key named":        {func(w *world) string { return w.signedWith(jose.RS256, other, "") }, "it does not name the key"},
		"changed": {func(w *world) string {
			parts := strings.Split(w.pressed("mona"), ".")
			payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
			parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), `"mona"`, `"lisa"`, 1)))
			return strings.Join(parts, ".")
		}, "its signature is wrong"},
		"no token": {func(*world) string { return "hello" }, "malformed jwt"},
		"too long": {func(*world) string { return strings.Repeat("a", longestToken+1) }, "it has 65537 characters"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			passed, err := w.ask(Promote, test.token(w))
			if !errors.As(err, new(*usererr.Error)) || !strings.HasPrefix(err.Error(), "ID token: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, %v\nwant %s", passed, err, test.want)
			}
		})
	}
}

// TestKeyRotated: GitLab's new key is believed, also when a cache or a process of GitLab's still has the old one; the old key is
// not believed any more.
func TestKeyRotated(t *testing.T) {
	w := newWorld(t)
	old := w.pressed("mona")
	w.gitlab.RotateKey(1)
	asked := w.gitlab.KeysAsked()
	if _, err := w.ask(Promote, w.pressed("mona")); err != nil {
		t.Errorf("new key: %v", err)
	}
	if n := w.gitlab.KeysAsked() - asked; n != 3 {
		t.Errorf("%d requests, want the configuration, the keys, and once more the keys", n)
	}
	if _, err := w.ask(Promote, old); err == nil || !strings.Contains(err.Error(), "does not have") {
		t.Errorf("old key: %v", err)
	}
}

// faults are a number of the same fault.
func faults(kind gitlabtest.Kind, n int) []gitlabtest.Fault {
	return slices.Repeat([]gitlabtest.Fault{{Kind: kind, Delay: time.Minute}}, n)
}

// TestIssuerUnreachable: an outage is waited out, for a bounded time; a longer one is an error that says what is safe, and is
// no refusal. Answers without end and redirects count as one.
func TestIssuerUnreachable(t *testing.T) {
	for name, test := range map[string]struct {
		faults []gitlabtest.Fault
		want   string // of an UnreachableError; "" passes
		most   time.Duration
	}{
		"down then back":     {faults(gitlabtest.Refuse, 3), "", 10 * time.Second},
		"dropped then back":  {faults(gitlabtest.Drop, 2), "", 10 * time.Second},
		"keys down for once": {append(faults(gitlabtest.None, 1), faults(gitlabtest.Refuse, 2)...), "", 10 * time.Second},
		"limited, then back": {[]gitlabtest.Fault{{Kind: gitlabtest.Limit, Delay: 5 * time.Second}}, "", 10 * time.Second},
		"down for long":      {faults(gitlabtest.Refuse, 100), "answered 502 Bad Gateway", 10 * time.Second},
		"gone for long":      {faults(gitlabtest.Drop, 100), "EOF", 10 * time.Second},
		"slow for long":      {faults(gitlabtest.Slow, 100), "context deadline exceeded", askFor + time.Second},
		"huge":               {faults(gitlabtest.Huge, 100), "answered more than 1048576 bytes", time.Second},
		"huge keys":          {append(faults(gitlabtest.None, 1), faults(gitlabtest.Huge, 100)...), "answered more than 1048576 bytes", time.Second},
		"redirect":           {faults(gitlabtest.Redirect, 100), "redirects a GET to https://elsewhere.example.com", time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				token := w.pressed("mona")
				w.gitlab.KeyFaults = append(faults(gitlabtest.None, w.gitlab.KeysAsked()), test.faults...)
				started := time.Now()
				_, err := w.ask(Promote, token)
				if took := time.Since(started); took > test.most {
					t.Errorf("it took %s, want at most %s", took, test.most)
				}
				unreachable, is := errors.AsType[*UnreachableError](err)
				switch {
				case test.want == "" && err != nil:
					t.Error(err)
				case test.want != "" && (!is || !strings.Contains(err.Error(), test.want)):
					t.Errorf("%v, want %s", err, test.want)
				case is && errors.As(unreachable, new(*usererr.Error)):
					t.Error("an outage is called bad input")
				case is && !strings.Contains(err.Error(), "nothing was changed") || is && !strings.Contains(err.Error(), "rollback needs no token"):
					t.Errorf("it does not say what is safe: %v", err)
				}
				w.gitlab.Wait()
			})
		})
	}
}

// TestIssuerIsItself: keys come from the issuer, which has to call itself by the name in the policy, by https.
func TestIssuerIsItself(t *testing.T) {
	for name, test := range map[string]struct {
		change func(w *world)
		want   string
	}{
		"keys elsewhere": {func(w *world) { w.gitlab.KeysAt = "https://keys.example.com/oauth/discovery/keys" }, `has its keys at "https://keys.example.com/oauth/discovery/keys", which is another host`},
		"keys by http":   {func(w *world) { w.gitlab.KeysAt = "http://gitlab.example.com/oauth/discovery/keys" }, "which is another host"},
		"another name":   {func(w *world) { w.gitlab.URL = "https://gitlab.example.org" }, `what is at https://gitlab.example.com calls itself "https://gitlab.example.org"`},
		"by http":        {func(w *world) { w.policy.Issuer = "http://gitlab.example.com" }, "use https"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			token := w.pressed("mona")
			test.change(w)
			w.ledger.Policy = nil // it is the issuer that is tried, not the move to another
			if _, err := w.ask(Promote, token); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "approval.issuer: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
}

// TestWeakKeyIsNotBelieved: a key of GitLab's that is too short, or is there to encrypt, signs nothing.
func TestWeakKeyIsNotBelieved(t *testing.T) {
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := newWorld(t).gitlab.SigningKey()
	for name, key := range map[string]jose.JSONWebKey{
		"short":          {Key: short.Public(), Use: "sig"},
		"for encryption": {Key: good.Public(), Use: "enc"},
		"for PS256":      {Key: good.Public(), Use: "sig", Algorithm: "PS256"},
		"private":        {Key: good, Use: "sig"},
		"symmetric":      {Key: []byte(strings.Repeat("x", 300)), Use: "sig"},
	} {
		if usable(key) {
			t.Errorf("a %s key is believed", name)
		}
	}
	if !usable(jose.JSONWebKey{Key: good.Public(), Use: "sig", Algorithm: "RS256"}) {
		t.Error("a good key is not believed")
	}
}

// TestTokenIsAskedOnce: a command that asks twice, because the ledger has moved, asks the issuer once.
func TestTokenIsAskedOnce(t *testing.T) {
	w := newWorld(t)
	gate, asked := w.gate(w.pressed("mona")), w.gitlab.KeysAsked()
	for range 2 {
		if _, err := gate.Ask(context.Background(), Promote, w.ledger, w.ledger.Release); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.gitlab.KeysAsked() - asked; n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

// FuzzClaims: whatever a signed token says, it is either read without what is missing, or refused; nothing it says is decided
// to be an approval unless all of it fits.
func FuzzClaims(f *testing.F) {
	f.Add(documented, int64(1681395200))
	f.Add(`{"iat":1,"exp":2,"aud":["a"]}`, int64(1))
	f.Add(`{"iat":-9223372036854775808,"exp":9223372036854775807}`, int64(0))
	f.Fuzz(func(t *testing.T, payload string, now int64) {
		claims, err := parseClaims([]byte(payload), time.Unix(now%1e12, 0))
		if err != nil {
			return
		}
		if claims.UserID == "" || claims.Job == "" || claims.Pipeline == "" || claims.ID == "" {
			t.Fatalf("read without what makes it an approval: %+v", claims)
		}
		p := &Policy{Issuer: "https://g.example.com", Project: "a/b", Environment: "e"}
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, policy: p}
		w.ledger = ledgerOf(claims)
		passed, err := p.Decide(Question{Promote, w.ledger.Release, w.ledger, claims})
		if err != nil {
			return
		}
		if claims.Project != "a/b" || claims.Environment != "e" || claims.RefProtected != "true" || claims.EnvironmentProtected != "true" ||
			claims.EnvironmentAction != "start" || claims.UserID == "1" || passed.Approval.By != claims.UserLogin {
			t.Fatalf("approved by %s", fmt.Sprint(claims))
		}
	})
}
