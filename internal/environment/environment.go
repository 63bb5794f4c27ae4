// Package environment reads and commits to an environment repository: the Git repository that a GitOps controller (Flux,
// Argo CD) applies. It is where Crossbill writes instead of the API server, or beside it, when Git says what runs.
//
// What it keeps:
//
//   - A commit is a compare-and-swap. Its parent is what the edit has seen, the push is never forced, and the server
//     accepts it only while the branch is still at that parent. A loser reads anew and edits anew; no edit is ever rebased.
//   - An error is not an answer. After any error of a push the server is asked for the branch, so a commit whose
//     answer was lost is found, also below commits of others, and is not made twice.
//   - A *usererr.Error means that nothing was pushed; an *UnknownError that nobody can know it yet.
//   - An edit that changes nothing makes no commit.
//   - A file is changed at the bytes of a value, a key or an item of a list (SetScalar, SetObject), checked by reading the
//     result: all else of it is what it was, and each comment is there. Or it is not changed at all.
//   - What is added is a whole file (AddObject), and removed as one.
//   - No credential is in an error, and none goes to another server than the one it was given for.
//   - A file that the server did not give is an error of the tree (Tree.Err), also where an edit overlooks it: no commit is
//     made of what was not seen.
//
// Of a large repository only the folders of the head are read (filter blob:none), and files when they are looked at, by wants
// of their hashes: GitLab's Gitaly lets everybody do so (uploadpack.allowFilter and allowAnySHA1InWant in its
// internal/git/command_description.go), as do GitHub and Gitea since 1.17 (its issue 11958). A head that has moved costs what has changed. From another
// server the files come with the first head, and then what has changed. Folders are not filtered: GitHub has only tree:0 (git@vger.kernel.org,
// 20 March 2020), and those of 100,000 files are 3 MB.
//
// GitLab's commits API (POST /projects/:id/repository/commits) would spare the folders as well, but it is no compare-and-swap
// of the branch. last_commit_id is of one file, and compared in Rails (app/services/files/multi_service.rb and base_service.rb)
// before Gitaly's UserCommitFiles takes the branch's head of that moment as the parent. Gitaly knows expected_old_oid for this, but
// the API has no parameter for it and MultiService passes none. start_sha is refused for a branch that exists, and with force
// it overwrites what others have committed (app/services/commits/create_service.rb). Its commits are Gitaly's, so they cannot
// have our signature. And no other server has it.
package environment

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"

	"github.com/our-org/crossbill/internal/httpclient"
	"github.com/our-org/crossbill/internal/usererr"
)

// The options, as crossbill.yaml names them.
const (
	fieldRepository = "gitops.repository"
	fieldBranch     = "gitops.branch"
	fieldUser       = "gitops.user"
	fieldToken      = "gitops.tokenFile"
	fieldKey        = "gitops.sshKeyFile"
	fieldKnownHosts = "gitops.knownHostsFile"
	fieldSigningKey = "gitops.signingKeyFile"
	fieldAuthor     = "gitops.author"
)

// Options are of one branch of one repository.
type Options struct {
	URL    string // https://…, ssh://git@… or git@host:path
	Branch string

	User      string // beside the token; default oauth2, which GitLab, GitHub and Gitea take
	TokenFile string // of https; "" for a repository that everybody may read

	KeyFile        string // the private key of ssh, without a passphrase
	KnownHostsFile string // the host's keys, as `ssh-keyscan` writes them

	SigningKeyFile string // a private SSH key that commits are signed with; "" for none

	AuthorName, AuthorEmail string // default Crossbill <crossbill@localhost>

	// Fresh is how long Read takes a head that was read for the branch's; 0: it asks each time. A commit always asks.
	Fresh time.Duration

	Timeout  time.Duration // of one exchange with the server; default a minute
	Attempts int           // how often a commit is tried; default 12

	Transport http.RoundTripper // of https; default http.DefaultTransport
}

// maxPack bounds what is read of a repository in one answer.
const maxPack = 512 << 20

// Repository is one branch of an environment repository. It may be used by several goroutines.
type Repository struct {
	options  Options
	branch   plumbing.ReferenceName
	endpoint *transport.Endpoint
	client   transport.Transport
	auth     transport.AuthMethod
	signer   ssh.Signer
	token    string

	shortest, longest time.Duration // of the pause before another attempt

	mutex sync.Mutex
	last  *snapshot // the head that was read last
	at    time.Time // when that was the branch's
	eager bool      // the server does not give single files, whatever it says
}

// New checks the options and reads the credentials; it asks no server. Errors are *usererr.Error.
func New(options Options) (*Repository, error) {
	if options.Timeout <= 0 {
		options.Timeout = time.Minute
	}
	if options.Attempts <= 0 {
		options.Attempts = 12
	}
	if options.AuthorName == "" {
		options.AuthorName = "Crossbill"
	}
	if options.AuthorEmail == "" {
		options.AuthorEmail = "crossbill@localhost"
	}
	r := &Repository{options: options, branch: plumbing.NewBranchReferenceName(options.Branch), shortest: 100 * time.Millisecond, longest: 5 * time.Second}
	if options.Branch == "" || strings.HasPrefix(options.Branch, "refs/") || r.branch.Validate() != nil {
		return nil, &usererr.Error{Field: fieldBranch, Problem: fmt.Sprintf("%q is not the name of a branch", options.Branch), Fix: "give the branch that the GitOps controller applies, such as main"}
	}
	for _, text := range []string{options.AuthorName, options.AuthorEmail} {
		if strings.ContainsFunc(text, func(c rune) bool { return unicode.IsControl(c) || c == '<' || c == '>' }) {
			return nil, &usererr.Error{Field: fieldAuthor, Problem: fmt.Sprintf("%q cannot be in a commit", text), Fix: "give a name and an address without < and >"}
		}
	}
	if err := r.connectTo(); err != nil {
		return nil, err
	}
	if options.SigningKeyFile != "" {
		signer, err := privateKey(fieldSigningKey, options.SigningKeyFile)
		if err != nil {
			return nil, err
		}
		r.signer = signer
	}
	return r, nil
}

// connectTo chooses the transport by the address. It does not repeat an address that may hold a credential.
func (r *Repository) connectTo() error {
	bad := func(problem, fix string) error {
		return &usererr.Error{Field: fieldRepository, Problem: problem, Fix: fix}
	}
	address := r.options.URL
	scheme, rest, hasScheme := strings.Cut(address, "://")
	authority, _, _ := strings.Cut(rest, "/")
	switch {
	case strings.ContainsFunc(address, func(c rune) bool { return unicode.IsControl(c) || unicode.IsSpace(c) }):
		return bad("the address has spaces or line breaks", "give https://gitlab.example.com/group/environment.git")
	case scheme == "https" || scheme == "http":
		if strings.Contains(authority, "@") {
			return bad("the address holds a user or password", "give the user as "+fieldUser+" and the token as "+fieldToken)
		}
		if strings.ContainsAny(rest, "?#") {
			return bad("the address has a query or fragment", "give the address that `git clone` takes")
		}
		if err := usererr.SecureURL(fieldRepository, address); err != nil {
			return err
		}
		return r.useHTTP()
	case scheme == "ssh" && hasScheme:
		u, err := url.Parse(address)
		if err != nil || u.Hostname() == "" {
			return bad("it is not an address of a repository", "give ssh://git@gitlab.example.com/group/environment.git")
		}
		if _, password := u.User.Password(); password {
			return bad("the address holds a password", "give a private key as "+fieldKey)
		}
		return r.useSSH()
	case !hasScheme && scpLike(address):
		return r.useSSH()
	}
	return bad("it is not an address of a repository", "give https://gitlab.example.com/group/environment.git or git@gitlab.example.com:group/environment.git")
}

// scpLike says whether an address is one such as git@host:path.
func scpLike(address string) bool {
	host, path, ok := strings.Cut(address, ":")
	user, name, hasUser := strings.Cut(host, "@")
	return ok && hasUser && user != "" && name != "" && path != "" && !strings.ContainsAny(host, "/\\")
}

func (r *Repository) useHTTP() (err error) {
	if r.endpoint, err = transport.NewEndpoint(strings.TrimSuffix(r.options.URL, "/")); err != nil {
		return &usererr.Error{Field: fieldRepository, Problem: "it is not an address of a repository"}
	}
	if r.options.KeyFile != "" {
		return &usererr.Error{Field: fieldKey, Problem: "a key is for ssh, and " + fieldRepository + " is https", Fix: "give a token as " + fieldToken + ", or an address such as git@gitlab.example.com:group/environment.git"}
	}
	r.client = githttp.NewClient(httpclient.NewFor(r.options.Transport, 0, maxPack))
	if r.options.TokenFile == "" {
		return nil
	}
	if r.token, err = usererr.TokenFile(fieldToken, r.options.TokenFile); err != nil {
		return err
	}
	if strings.ContainsFunc(r.token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return &usererr.Error{Field: fieldToken, Problem: r.options.TokenFile + " does not contain one token", Fix: "give a file that contains only the token"}
	}
	user := r.options.User
	if user == "" {
		user = "oauth2"
	}
	if strings.ContainsFunc(user, func(c rune) bool { return unicode.IsControl(c) || c == ':' }) {
		return &usererr.Error{Field: fieldUser, Problem: "it has a colon or line break", Fix: "give the name that the token belongs to, or leave it out"}
	}
	r.auth = &githttp.BasicAuth{Username: user, Password: r.token}
	return nil
}

func (r *Repository) useSSH() error {
	var err error
	if r.endpoint, err = transport.NewEndpoint(r.options.URL); err != nil {
		return &usererr.Error{Field: fieldRepository, Problem: "it is not an address of a repository"}
	}
	switch {
	case r.options.TokenFile != "":
		return &usererr.Error{Field: fieldToken, Problem: "a token is for https, and " + fieldRepository + " is ssh", Fix: "give a private key as " + fieldKey + ", or an https address"}
	case r.options.KeyFile == "":
		return &usererr.Error{Field: fieldKey, Problem: "it is missing", Fix: "give the file with the private key of a deploy key that may write"}
	case r.options.KnownHostsFile == "":
		return &usererr.Error{Field: fieldKnownHosts, Problem: "it is missing: any host could answer", Fix: "write one with `ssh-keyscan`, and compare it with what the host's operator publishes"}
	}
	key, err := privateKey(fieldKey, r.options.KeyFile)
	if err != nil {
		return err
	}
	if _, err := os.Stat(r.options.KnownHostsFile); err != nil {
		return &usererr.Error{Field: fieldKnownHosts, Problem: err.Error()}
	}
	hosts, err := gitssh.NewKnownHostsDb(r.options.KnownHostsFile)
	if err != nil {
		return &usererr.Error{Field: fieldKnownHosts, Problem: err.Error(), Fix: "write it with `ssh-keyscan`"}
	}
	user := r.endpoint.User
	if user == "" {
		user = gitssh.DefaultUsername
	}
	port := r.endpoint.Port
	if port == 0 {
		port = gitssh.DefaultPort
	}
	r.client = gitssh.NewClient(nil)
	r.auth = &gitssh.PublicKeys{User: user, Signer: key, HostKeyCallbackHelper: gitssh.HostKeyCallbackHelper{
		HostKeyCallback:   hosts.HostKeyCallback(),
		HostKeyAlgorithms: hosts.HostKeyAlgorithms(fmt.Sprintf("%s:%d", r.endpoint.Host, port)),
	}}
	return nil
}

func init() {
	gitssh.DefaultSSHConfig = nil // the address is the one that was given, not what ~/.ssh/config makes of it
}

// privateKey reads a private SSH key.
func privateKey(field, file string) (ssh.Signer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, &usererr.Error{Field: field, Problem: err.Error(), Fix: "give a file with a private SSH key"}
	}
	key, err := ssh.ParsePrivateKey(text)
	switch _, locked := errors.AsType[*ssh.PassphraseMissingError](err); {
	case locked:
		return nil, &usererr.Error{Field: field, Problem: file + " has a passphrase", Fix: "give a key of its own without one: `ssh-keygen -t ed25519 -N ''`"}
	case err != nil:
		return nil, &usererr.Error{Field: field, Problem: file + " does not contain a private SSH key", Fix: "make one with `ssh-keygen -t ed25519`"}
	}
	return key, nil
}

// Read gives the files of the branch's head, as it was within Options.Fresh. ctx is also of what the tree reads later.
func (r *Repository) Read(ctx context.Context) (*Tree, error) {
	var tree *Tree
	err := r.retry(ctx, func() (err error) {
		tree, err = r.readWithin(ctx, r.options.Fresh)
		return err
	})
	if err != nil {
		return nil, r.unreachable(ctx, err)
	}
	if once := tree.fetch; once != nil {
		tree.fetch = func(wants []plumbing.Hash) error {
			if err := r.retry(ctx, func() error { return once(wants) }); err != nil {
				return r.unreachable(ctx, err)
			}
			return nil
		}
	}
	return tree, nil
}
