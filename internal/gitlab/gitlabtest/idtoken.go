package gitlabtest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// User is a user of the double.
type User struct {
	ID         int64
	Login      string
	Email      string     // default login@example.com
	Identities []Identity // which the user has chosen to have in tokens
}

// Identity is what a user is at a provider of identities.
type Identity struct {
	Provider  string `json:"provider"`
	ExternUID string `json:"extern_uid"`
}

// TokenJob is the job that an ID token is made for.
type TokenJob struct {
	Pipeline    int64
	Job         string // its name; "" for one that the pipeline does not show
	ID          int64  // of the job; 0 is made of the two above
	User        string // who has pressed or retried it; "" for a job that started by itself: it runs as who started the pipeline
	Environment string
	Action      string        // environment:action; default start
	Audience    string        // aud of its id_tokens; default crossbill
	Timeout     time.Duration // of the job; default 1 hour
	At          time.Time     // when the runner took it; default now
	Claims      map[string]any
}

// issuerState is what a GitLab signs with.
type issuerState struct {
	mu     sync.Mutex
	key    *rsa.PrivateKey
	old    []jose.JSONWebKey // the keys before the last rotation
	stale  int               // how many answers still have those
	faults int
	asked  int
}

// keyPair makes keys of the kind that GitLab has. They are made once, as that takes a while.
var keyPair = func() func(i int) *rsa.PrivateKey {
	var mu sync.Mutex
	made := map[int]*rsa.PrivateKey{}
	return func(i int) *rsa.PrivateKey {
		mu.Lock()
		defer mu.Unlock()
		if made[i] == nil {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				panic(err)
			}
			made[i] = key
		}
		return made[i]
	}
}()

// SigningKey is the key that tokens are signed with now.
func (s *Server) SigningKey() *rsa.PrivateKey {
	s.issuer.mu.Lock()
	defer s.issuer.mu.Unlock()
	return s.issuer.signing()
}

func (i *issuerState) signing() *rsa.PrivateKey {
	if i.key == nil {
		i.key = keyPair(0)
	}
	return i.key
}

// RotateKey makes a new key, as an administrator does. Each of GitLab's processes keeps its settings for up to a minute: so many
// answers still have the old key, and any number of them where a cache may answer.
func (s *Server) RotateKey(stale int) {
	i := &s.issuer
	i.mu.Lock()
	defer i.mu.Unlock()
	i.old, i.stale = i.keys(), stale
	old := i.signing()
	for n := range 3 {
		if next := keyPair(n + 1); next != old {
			i.key = next
			return
		}
	}
}

// KeysAsked is how often the configuration and the keys were asked for.
func (s *Server) KeysAsked() int {
	s.issuer.mu.Lock()
	defer s.issuer.mu.Unlock()
	return s.issuer.asked
}

// keys are the public keys as GitLab shows them: the one for signing in is there too, and signs no job's token.
func (i *issuerState) keys() []jose.JSONWebKey {
	var all []jose.JSONWebKey
	for _, key := range []*rsa.PrivateKey{keyPair(9), i.signing()} {
		all = append(all, jose.JSONWebKey{Key: key.Public(), KeyID: keyID(key), Use: "sig", Algorithm: string(jose.RS256)})
	}
	return all
}

func keyID(key *rsa.PrivateKey) string {
	thumbprint, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(thumbprint)
}

// discover answers a request for the configuration or the keys; false when it is for neither.
func (s *Server) discover(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path != "/.well-known/openid-configuration" && r.URL.Path != "/oauth/discovery/keys" {
		return false
	}
	i := &s.issuer
	i.mu.Lock()
	i.asked++
	var fault Fault
	if i.faults < len(s.KeyFaults) {
		fault = s.KeyFaults[i.faults]
	}
	i.faults++
	keys := i.keys()
	if r.URL.Path == "/oauth/discovery/keys" && i.old != nil && (i.stale > 0 || !strings.Contains(r.Header.Get("Cache-Control"), "no-cache")) {
		keys = i.old
		i.stale--
	}
	i.mu.Unlock()
	switch fault.Kind {
	case Refuse:
		s.unavailable(w, fault)
		return true
	case Drop:
		panic(http.ErrAbortHandler)
	case Limit:
		s.limited(w, fault)
		return true
	case Huge:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"keys":[],"padding":%q}`, strings.Repeat("x", 4<<20))
		return true
	case Redirect:
		http.Redirect(w, r, "https://elsewhere.example.com"+r.URL.Path, http.StatusFound)
		return true
	case Slow:
		s.Sleep(fault.Delay)
	}
	if r.URL.Path == "/oauth/discovery/keys" {
		w.Header().Set("Cache-Control", "max-age=86400, public, must-revalidate, no-transform")
		write(w, http.StatusOK, jose.JSONWebKeySet{Keys: keys})
		return true
	}
	jwks := s.URL + "/oauth/discovery/keys"
	if s.KeysAt != "" {
		jwks = s.KeysAt
	}
	write(w, http.StatusOK, map[string]any{
		"issuer": s.URL, "jwks_uri": jwks, "authorization_endpoint": s.URL + "/oauth/authorize", "token_endpoint": s.URL + "/oauth/token",
		"id_token_signing_alg_values_supported": []string{"RS256"}, "response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
	})
	return true
}

// UserOf is a user by login. One that is not known is made.
func (s *Server) UserOf(login string) User {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.userOf(login)
}

func (s *Server) userOf(login string) User {
	for _, u := range s.Users {
		if strings.EqualFold(u.Login, login) {
			return u
		}
	}
	u := User{ID: int64(100 + len(s.Users)), Login: login}
	s.Users = append(s.Users, u)
	return u
}

// MayDeploy says whether a user may run a job for an environment. An automatic job of a user who may not is failed
// (protected_environment_failure), and nobody else can press a manual one.
func (s *Server) MayDeploy(environment, login string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mayDeploy(environment, login)
}

func (s *Server) mayDeploy(environment, login string) bool {
	may, protected := s.ProtectedEnvironments[environment]
	return !protected || slices.ContainsFunc(may, func(m string) bool { return strings.EqualFold(m, login) })
}

// IDToken is the token that a job gets, signed.
func (s *Server) IDToken(j TokenJob) string {
	token, err := s.Sign(s.Claims(j))
	if err != nil {
		panic(err)
	}
	return token
}

// Sign signs claims as GitLab does.
func (s *Server) Sign(claims map[string]any) (string, error) {
	key := s.SigningKey()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: keyID(key)}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(claims).Serialize()
}

// Claims are the claims of a job's token, as GitLab's source makes them: numbers and truth values are text, but for runner_id.
func (s *Server) Claims(j TokenJob) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.byID(j.Pipeline)
	if p == nil {
		panic(fmt.Sprintf("gitlabtest: there is no pipeline %d", j.Pipeline))
	}
	login := j.User
	if login == "" {
		login = s.starter(p)
	}
	user := s.userOf(login)
	if user.Email == "" {
		user.Email = user.Login + "@example.com"
	}
	at := j.At
	if at.IsZero() {
		at = s.Now()
	}
	timeout := j.Timeout
	if timeout == 0 {
		timeout = time.Hour
	}
	audience := j.Audience
	if audience == "" {
		audience = "crossbill"
	}
	id := j.ID
	if id == 0 {
		id = p.ID * 100
		for i, shown := range s.phase(p).Jobs {
			if shown.Name == j.Job {
				id = jobID(p, i)
			}
		}
	}
	namespace := path.Dir(s.Project)
	refPath := "refs/heads/" + p.Ref
	claims := map[string]any{
		"namespace_id": "5", "namespace_path": namespace, "project_id": "7", "project_path": s.Project,
		"job_namespace_id": "5", "job_namespace_path": namespace, "job_project_id": "7", "job_project_path": s.Project,
		"user_id": strconv.FormatInt(user.ID, 10), "user_login": user.Login, "user_email": user.Email, "user_access_level": "developer",
		"pipeline_id": strconv.FormatInt(p.ID, 10), "pipeline_source": p.Source, "job_id": strconv.FormatInt(id, 10),
		"ref": p.Ref, "ref_type": "branch", "ref_path": refPath, "ref_protected": strconv.FormatBool(slices.Contains(s.ProtectedRefs, p.Ref)),
		"runner_id": 1, "runner_environment": "self-hosted", "sha": pipelineSHA, "project_visibility": "private",
		"ci_config_ref_uri": strings.TrimPrefix(strings.TrimPrefix(s.URL, "https://"), "http://") + "/" + s.Project + "//.gitlab-ci.yml@" + refPath, "ci_config_sha": pipelineSHA,
		"jti": uuid(), "iss": s.URL, "iat": at.Unix(), "nbf": at.Unix() - 5, "exp": at.Add(timeout).Unix(),
		"sub": "project_path:" + s.Project + ":ref_type:branch:ref:" + p.Ref, "aud": audience,
	}
	if j.Environment != "" {
		_, protected := s.ProtectedEnvironments[j.Environment]
		action := j.Action
		if action == "" {
			action = "start"
		}
		maps.Copy(claims, map[string]any{"environment": j.Environment, "environment_protected": strconv.FormatBool(protected), "deployment_tier": "production", "environment_action": action})
	}
	if len(user.Identities) > 0 {
		claims["user_identities"] = user.Identities
	}
	maps.Copy(claims, j.Claims)
	return claims
}

// starter is who started a pipeline: whom its jobs run as until somebody presses or retries them.
func (s *Server) starter(p *Pipeline) string {
	if p.User != "" {
		return p.User
	}
	return s.TriggerUser
}

func (s *Server) byID(id int64) *Pipeline {
	for _, p := range s.pipelines {
		if p.ID == id {
			return p
		}
	}
	return nil
}

func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	text := hex.EncodeToString(b[:])
	return strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-")
}
