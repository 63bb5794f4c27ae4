package environment

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/storage/memory"
	"github.com/skeema/knownhosts"

	"github.com/our-org/crossbill/internal/httpclient"
	"github.com/our-org/crossbill/internal/usererr"
)

// maxFile is the size from which on files are not read, where the server can leave them out: no manifest is as big.
const maxFile = 1 << 20

// history is how many commits are searched for one whose answer was lost. It is more than others push in the meantime.
const history = 64

// branchError says that the repository has no such branch.
type branchError struct{ branches []string }

func (e *branchError) Error() string { return "no such branch" }

// bounded does one exchange with the server within the time that it may take. What does not stop with its context (the
// handshake of ssh) is left behind.
func bounded[T any](ctx context.Context, timeout time.Duration, exchange func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		defer cancel()
		value, err := exchange(ctx)
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		select {
		case r := <-done: // it stopped by its context, and may know more
			return r.value, r.err
		case <-time.After(100 * time.Millisecond):
		}
		var none T
		return none, ctx.Err()
	}
}

// tip asks for the branch's head.
func (r *Repository) tip(ctx context.Context) (plumbing.Hash, error) {
	return bounded(ctx, r.options.Timeout, func(ctx context.Context) (plumbing.Hash, error) {
		session, err := r.client.NewUploadPackSession(r.endpoint, r.auth)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		defer session.Close()
		_, head, err := r.advertised(ctx, session)
		return head, err
	})
}

func (r *Repository) advertised(ctx context.Context, session transport.Session) (*packp.AdvRefs, plumbing.Hash, error) {
	refs, err := session.AdvertisedReferencesContext(ctx)
	if errors.Is(err, transport.ErrEmptyRemoteRepository) {
		return nil, plumbing.ZeroHash, &branchError{}
	}
	if err != nil {
		return nil, plumbing.ZeroHash, err
	}
	head, ok := refs.References[r.branch.String()]
	if !ok {
		missing := &branchError{}
		for name := range refs.References {
			if branch := plumbing.ReferenceName(name); branch.IsBranch() {
				missing.branches = append(missing.branches, branch.Short())
			}
		}
		return refs, plumbing.ZeroHash, missing
	}
	return refs, head, nil
}

// read gives the files of the branch's head. They are read when they are looked at, while ctx lasts.
func (r *Repository) read(ctx context.Context) (*Tree, error) { return r.readWithin(ctx, 0) }

// readWithin is read, or gives those of a head that was the branch's so lately.
func (r *Repository) readWithin(ctx context.Context, fresh time.Duration) (*Tree, error) {
	r.mutex.Lock()
	last, at := r.last, r.at
	r.mutex.Unlock()
	if last == nil || time.Since(at) >= fresh {
		var err error
		if last, err = bounded(ctx, r.options.Timeout, r.readHead); err != nil {
			return nil, err
		}
	}
	tree := newTree(last)
	if last.lazy {
		tree.fetch = func(wants []plumbing.Hash) error {
			_, err := bounded(ctx, r.options.Timeout, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, r.fetchMore(ctx, last, wants)
			})
			return err
		}
	}
	return tree, nil
}

// files leaves out what is no manifest by its size.
var files = packp.FilterBlobLimit(maxFile, packp.BlobLimitPrefixNone)

// readHead reads the branch's head: of one that was read before what has changed since, else its folders alone where the server
// gives files when they are asked for.
func (r *Repository) readHead(ctx context.Context) (*snapshot, error) {
	session, err := r.client.NewUploadPackSession(r.endpoint, r.auth)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	refs, head, err := r.advertised(ctx, session)
	if err != nil {
		return nil, err
	}
	r.mutex.Lock()
	last, lazy := r.last, !r.eager && givesObjects(refs.Capabilities)
	unmoved := last != nil && last.commit.Hash == head
	if unmoved {
		r.at = time.Now()
	}
	r.mutex.Unlock()
	if unmoved {
		return last, nil
	}
	wanted := request{wants: []plumbing.Hash{head}, depth: 1, filter: files}
	if lazy {
		wanted.filter = packp.FilterBlobNone()
	}
	objects, ok := keptOf(last)
	if ok && objects.bytes() <= maxKept && last.lazy == lazy {
		wanted.have = last
	} else {
		objects = newKept()
	}
	received, err := r.receive(ctx, session, refs, wanted)
	if wanted.have != nil && errors.Is(err, plumbing.ErrObjectNotFound) { // a file was sent as a change of one that was too large to read
		wanted.have, objects = nil, newKept()
		received, err = r.ask(ctx, wanted)
	}
	if err != nil {
		return nil, err
	}
	return r.keep(&snapshot{objects: objects, lazy: lazy}, head, received)
}

// keep makes a snapshot that of a commit, with objects that came with it, and the one that was read last.
func (r *Repository) keep(read *snapshot, head plumbing.Hash, objects *memory.Storage) (*snapshot, error) {
	kept, ok := keptOf(read)
	if !ok {
		return read, nil
	}
	err := kept.add(objects)
	if err != nil {
		return nil, err
	}
	if read.commit, err = object.GetCommit(kept, head); err != nil {
		return nil, fmt.Errorf("commit %s: %w", head, err)
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.last, r.at = read, time.Now()
	return read, nil
}

// givesObjects says whether a server gives single files and folders. Git has one setting for that
// (uploadpack.allowAnySHA1InWant), and two words of which either has another one too.
func givesObjects(server *capability.List) bool {
	return server.Supports(capability.Filter) && server.Supports(capability.AllowTipSHA1InWant) && server.Supports(capability.AllowReachableSHA1InWant)
}

// fetchMore reads files, and folders with all that is below them. Files that do not come are too large.
func (r *Repository) fetchMore(ctx context.Context, from *snapshot, wants []plumbing.Hash) error {
	kept, _ := keptOf(from)
	objects, err := r.ask(ctx, request{wants: wants, filter: files})
	if refused(err) {
		// The server takes no such wants, whatever it says, or no longer has the commit.
		wants = []plumbing.Hash{from.commit.TreeHash}
		if objects, err = r.ask(ctx, request{wants: []plumbing.Hash{from.commit.Hash}, depth: 1, filter: files}); err == nil {
			r.mutex.Lock()
			r.eager = true
			r.mutex.Unlock()
		}
	}
	if err != nil {
		return err
	}
	for hash, blob := range objects.Blobs {
		if blob.Size() >= maxFile { // a file that is wanted by itself comes whatever its size
			delete(objects.Objects, hash)
		}
	}
	if err := kept.add(objects); err != nil {
		return err
	}
	for _, want := range wants {
		kept.markLarge(want)
	}
	return nil
}

// refused says whether the server does not give what was asked for by its hash, in the words of Git (upload-pack.c) or JGit
// (WantNotValidException): go-git hides the kind of the error.
func refused(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "not our ref") || strings.Contains(err.Error(), "want ") && strings.Contains(err.Error(), " not valid"))
}

// ask is a request in a session of its own.
func (r *Repository) ask(ctx context.Context, wanted request) (*memory.Storage, error) {
	session, err := r.client.NewUploadPackSession(r.endpoint, r.auth)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	refs, err := session.AdvertisedReferencesContext(ctx)
	if err != nil {
		return nil, err
	}
	return r.receive(ctx, session, refs, wanted)
}

// fetch reads the branch's head, and so many commits before it as make up the depth, without what a server that can leaves
// out by the filter. No files at all are left out only where they can be asked for.
func (r *Repository) fetch(ctx context.Context, depth int, filter packp.Filter) (*snapshot, error) {
	session, err := r.client.NewUploadPackSession(r.endpoint, r.auth)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	refs, head, err := r.advertised(ctx, session)
	if err != nil {
		return nil, err
	}
	lazy := filter == packp.FilterBlobNone() && givesObjects(refs.Capabilities)
	if filter == packp.FilterBlobNone() && !lazy {
		filter = files
	}
	objects, err := r.receive(ctx, session, refs, request{wants: []plumbing.Hash{head}, depth: depth, filter: filter})
	if err != nil {
		return nil, err
	}
	commit, err := object.GetCommit(objects, head)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", head, err)
	}
	return &snapshot{commit: commit, objects: objects, lazy: lazy}, nil
}

// request is what a server is asked for.
type request struct {
	wants  []plumbing.Hash
	have   *snapshot    // what of it was read is not sent again; nil for none
	depth  int          // of commits; zero for what is none
	filter packp.Filter // what a server that can leaves out
}

// receive reads what a server answers.
func (r *Repository) receive(ctx context.Context, session transport.UploadPackSession, refs *packp.AdvRefs, wanted request) (*memory.Storage, error) {
	request := packp.NewUploadPackRequestFromCapabilities(refs.Capabilities)
	request.Wants = slices.Clone(wanted.wants)
	request.Depth = packp.DepthCommits(wanted.depth)
	if err := request.Capabilities.Set(capability.Shallow); err != nil {
		return nil, err
	}
	if wanted.have != nil {
		request.Haves = []plumbing.Hash{wanted.have.commit.Hash}
		request.Shallows = []plumbing.Hash{wanted.have.commit.Hash}
		// Git looks at what such a commit has only for a thin pack: see --objects-edge-aggressive in pack-objects.
		if err := request.Capabilities.Set(capability.ThinPack); err != nil {
			return nil, err
		}
	}
	if refs.Capabilities.Supports(capability.NoProgress) {
		if err := request.Capabilities.Set(capability.NoProgress); err != nil {
			return nil, err
		}
	}
	if refs.Capabilities.Supports(capability.Filter) {
		if err := request.Capabilities.Set(capability.Filter); err != nil {
			return nil, err
		}
		request.Filter = wanted.filter
	}
	answer, err := session.UploadPack(ctx, request)
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	var pack io.Reader = answer
	switch {
	case request.Capabilities.Supports(capability.Sideband64k):
		pack = sideband.NewDemuxer(sideband.Sideband64k, answer)
	case request.Capabilities.Supports(capability.Sideband):
		pack = sideband.NewDemuxer(sideband.Sideband, answer)
	}
	objects := &onTop{Storage: memory.NewStorage(), below: wanted.have}
	parser, err := packfile.NewParserWithStorage(packfile.NewScanner(pack), objects)
	if err != nil {
		return nil, err
	}
	if _, err := parser.Parse(); err != nil {
		return nil, fmt.Errorf("the answer of the server ends early or is damaged: %w", err)
	}
	return objects.Storage, nil
}

// landed finds the first of some commits in the branch's history.
func (r *Repository) landed(ctx context.Context, sent []sentCommit) (plumbing.Hash, error) {
	return bounded(ctx, r.options.Timeout, func(ctx context.Context) (plumbing.Hash, error) {
		head, err := r.fetch(ctx, history, packp.FilterTreeDepth(0)) // the commits alone
		if err != nil {
			return plumbing.ZeroHash, err
		}
		seen := map[plumbing.Hash]bool{}
		for next := []plumbing.Hash{head.commit.Hash}; len(next) > 0; {
			hash := next[0]
			next = next[1:]
			for _, commit := range sent {
				if commit.hash == hash {
					return hash, nil
				}
			}
			commit, err := object.GetCommit(head.objects, hash)
			if seen[hash] || err != nil { // below what was fetched
				continue
			}
			seen[hash] = true
			next = append(next, commit.ParentHashes...)
		}
		return plumbing.ZeroHash, nil
	})
}

// update is what a push makes of the branch.
type update struct {
	old, new plumbing.Hash // old is zero for a branch that must not exist yet
	options  []*packp.Option
}

// push sends a commit as the one that the branch is at from then on, if it is where it was. lost says that the request went
// out and no answer came back.
func (r *Repository) push(ctx context.Context, u update, objects storer.EncodedObjectStorer, hashes []plumbing.Hash) (lost bool, err error) {
	var pack bytes.Buffer
	if _, err := packfile.NewEncoder(&pack, objects, false).Encode(hashes, 0); err != nil {
		return false, err
	}
	sending := make(chan struct{})
	_, err = bounded(ctx, r.options.Timeout, func(ctx context.Context) (struct{}, error) {
		session, err := r.client.NewReceivePackSession(r.endpoint, r.auth)
		if err != nil {
			return struct{}{}, err
		}
		defer session.Close()
		refs, head, err := r.advertised(ctx, session)
		if _, missing := errors.AsType[*branchError](err); err != nil && (!missing || !u.old.IsZero() || refs == nil) {
			return struct{}{}, err
		}
		if head != u.old {
			return struct{}{}, &refusal{status: "the branch is at " + head.String(), moved: true}
		}
		if len(u.options) > 0 && !refs.Capabilities.Supports(capability.PushOptions) {
			return struct{}{}, r.noPushOptions()
		}
		if err := ctx.Err(); err != nil {
			return struct{}{}, err
		}
		var words bytes.Buffer
		request := packp.NewReferenceUpdateRequestFromCapabilities(refs.Capabilities)
		if refs.Capabilities.Supports(capability.Sideband64k) {
			if err := request.Capabilities.Set(capability.Sideband64k); err != nil {
				return struct{}{}, err
			}
		}
		if request.Options = u.options; len(u.options) > 0 {
			if err := request.Capabilities.Set(capability.PushOptions); err != nil {
				return struct{}{}, err
			}
		}
		request.Progress = &words
		request.Commands = []*packp.Command{{Name: r.branch, Old: u.old, New: u.new}}
		request.Packfile = io.NopCloser(&pack)
		close(sending)
		report, err := session.ReceivePack(ctx, request)
		return struct{}{}, r.reported(report, err, words.String())
	})
	select {
	case <-sending:
		var refused *refusal
		status := answerOf(err)
		return err != nil && !errors.As(err, &refused) && (status < 400 || status >= 500), err
	default:
		return false, err
	}
}

// reported is the error of a push by the server's report. Without a word on the branch it is no success.
func (r *Repository) reported(report *packp.ReportStatus, err error, words string) error {
	if report != nil {
		if report.UnpackStatus != "ok" {
			return &refusal{status: "unpack: " + report.UnpackStatus, words: words}
		}
		for _, status := range report.CommandStatuses {
			if status.ReferenceName != r.branch {
				continue
			}
			if status.Error() != nil {
				return &refusal{status: status.Status, words: words}
			}
			return nil
		}
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// refusal is the server's word that the branch was not changed.
type refusal struct {
	status string // of the branch
	words  string // what the server printed beside it
	moved  bool   // somebody else was first
}

func (e *refusal) Error() string {
	if words := firstWords(e.words); words != "" {
		return e.status + " (" + words + ")"
	}
	return e.status
}

// final says whether a refusal is the same however often the push is tried: what a hook or a rule of the server decides.
// The rest is a lost race, or a server that is not well.
func (e *refusal) final() bool {
	if e.moved {
		return false
	}
	status, words := strings.ToLower(e.status), strings.ToLower(e.words)
	for _, passing := range []string{"internal api", "internal error", "unreachable", "try again", "timeout", "timed out", "temporarily", "unavailable"} {
		if strings.Contains(words, passing) || strings.Contains(status, passing) {
			return false
		}
	}
	for _, rule := range []string{"declined", "protected", "not allowed", "denied", "prohibited", "rule violations", "read-only", "read only", "forbidden"} {
		if strings.Contains(status, rule) {
			return true
		}
	}
	return false
}

// answerOf is the status of an HTTP answer in an error; 0 for none.
func answerOf(err error) int {
	switch {
	case errors.Is(err, transport.ErrAuthenticationRequired):
		return http.StatusUnauthorized
	case errors.Is(err, transport.ErrAuthorizationFailed):
		return http.StatusForbidden
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return http.StatusNotFound
	}
	if answer, ok := errors.AsType[*githttp.Err](opened(err)); ok {
		return answer.StatusCode()
	}
	return 0
}

// opened gives what go-git's errors are about, which they do not unwrap.
func opened(err error) error {
	if unexpected, ok := errors.AsType[*plumbing.UnexpectedError](err); ok {
		return unexpected.Err
	}
	if permanent, ok := errors.AsType[*plumbing.PermanentError](err); ok {
		return permanent.Err
	}
	return err
}

// named is an error that another attempt would meet again, as a *usererr.Error; nil for one that may pass. pushing says
// that it is of a push.
func (r *Repository) named(err error, pushing bool) error {
	err = opened(err)
	if wrong, ok := errors.AsType[*usererr.Error](err); ok {
		return wrong
	}
	if missing, ok := errors.AsType[*branchError](err); ok {
		return r.noBranch(missing)
	}
	if refused, ok := errors.AsType[*refusal](err); ok {
		if !refused.final() {
			return nil
		}
		return &usererr.Error{
			Field:   fieldBranch,
			Problem: fmt.Sprintf("the server refuses the push to %s of %s: %s", r.branch.Short(), r.place(), r.words(err)),
			Fix:     "let the credential's owner push to the protected branch (of GitLab: Allowed to push; of GitHub: a bypass of the rule), or change what the hook asks for",
		}
	}
	if unknown, ok := errors.AsType[*net.DNSError](err); ok && unknown.IsNotFound {
		return &usererr.Error{Field: fieldRepository, Problem: "host " + r.endpoint.Host + " was not found", Fix: "correct the address, or look at the name service where this runs"}
	}
	does := "read"
	if pushing {
		does = "push to"
	}
	if r.endpoint.Protocol == "ssh" {
		return r.namedSSH(err, does)
	}
	return r.namedHTTP(err, does)
}

// namedHTTP is named for https.
func (r *Repository) namedHTTP(err error, does string) error {
	give := "give a token that may read the repository: of GitLab a project access token or deploy token, of GitHub one with contents: read"
	if does != "read" {
		give = "give a token that may write the repository and push to the branch: of GitLab a project access token with write_repository (a job token pushes only to its own project, and only when that allows it), of GitHub one with contents: write"
	}
	if redirect, ok := errors.AsType[*httpclient.RedirectError](err); ok {
		return &usererr.Error{Field: fieldRepository, Problem: redirect.Error()}
	}
	if size, ok := errors.AsType[*httpclient.SizeError](err); ok {
		return &usererr.Error{Field: fieldRepository, Problem: size.Error(), Fix: "give a repository that has manifests, not builds"}
	}
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &usererr.Error{Field: fieldRepository, Problem: r.words(untrusted), Fix: "add the certificate of your authority to those of this machine (SSL_CERT_FILE), or correct the address"}
	}
	words := r.words(err)
	switch status := answerOf(err); {
	case status == http.StatusUnauthorized && r.token == "":
		return &usererr.Error{Field: fieldToken, Problem: "the server wants credentials to " + does + " " + r.place(), Fix: give}
	case status == http.StatusUnauthorized:
		return &usererr.Error{Field: fieldToken, Problem: "the server does not accept the token for " + r.place() + ": " + words, Fix: give}
	case status == http.StatusForbidden:
		return &usererr.Error{Field: fieldToken, Problem: "the token may not " + does + " " + r.place() + ": " + words, Fix: give}
	case status == http.StatusNotFound:
		return &usererr.Error{Field: fieldRepository, Problem: r.place() + " was not found, or the token may not see it: " + words, Fix: "correct the address, or " + give}
	case status == http.StatusRequestTimeout || status == http.StatusTooManyRequests:
		return nil
	case status >= 400 && status < 500:
		return &usererr.Error{Field: fieldRepository, Problem: r.place() + ": " + words, Fix: "give the address that `git clone` takes"}
	}
	return nil
}

func (r *Repository) noBranch(missing *branchError) error {
	problem := fmt.Sprintf("%s has no branch %q", r.place(), r.branch.Short())
	if n := len(missing.branches); n > 0 && n <= 8 {
		problem += "; it has " + printable(strings.Join(slices.Sorted(slices.Values(missing.branches)), ", "))
	}
	return &usererr.Error{Field: fieldBranch, Problem: problem, Fix: "give the branch that the GitOps controller applies, or make it with a first commit"}
}

// namedSSH is named for ssh, whose servers only have words.
func (r *Repository) namedSSH(err error, does string) error {
	words := r.words(err)
	text := strings.ToLower(words)
	switch {
	case knownhosts.IsHostKeyChanged(err):
		return &usererr.Error{Field: fieldKnownHosts, Problem: "the key of " + r.endpoint.Host + " is not the one in " + r.options.KnownHostsFile, Fix: "compare it with what the host's operator publishes: somebody may stand between"}
	case knownhosts.IsHostUnknown(err), strings.Contains(text, "no common algorithm for host key"):
		return &usererr.Error{Field: fieldKnownHosts, Problem: r.options.KnownHostsFile + " has no key of " + r.endpoint.Host, Fix: "add it with `ssh-keyscan`, and compare it with what the host's operator publishes"}
	case strings.Contains(text, "unable to authenticate"):
		return &usererr.Error{Field: fieldKey, Problem: r.endpoint.Host + " does not accept the key", Fix: "add its public key as a deploy key that may write"}
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return &usererr.Error{Field: fieldRepository, Problem: r.place() + " was not found, or the key may not see it", Fix: "correct the address, or add the public key as a deploy key of the repository"}
	}
	for _, right := range []string{"denied", "not allowed", "not authorized", "read only", "read-only", "write access"} {
		if strings.Contains(text, right) {
			return &usererr.Error{Field: fieldKey, Problem: "the key may not " + does + " " + r.place() + ": " + words, Fix: "let the deploy key write, and push to the branch if that is protected"}
		}
	}
	return nil
}

// place names the repository without what a credential could be in.
func (r *Repository) place() string {
	return r.endpoint.Host + "/" + strings.TrimPrefix(r.endpoint.Path, "/")
}

// words are what an error says, in one line, without the credential.
func (r *Repository) words(err error) string {
	text := err.Error()
	if answer, ok := errors.AsType[*githttp.Err](err); ok {
		text = fmt.Sprintf("status %d %s", answer.StatusCode(), answer.Reason)
	}
	if r.token != "" {
		text = strings.ReplaceAll(text, r.token, "…")
	}
	return firstWords(text)
}

// firstWords are the first of a server's words in one line.
func firstWords(text string) string {
	text = oneLine(text)
	if runes := []rune(text); len(runes) > 300 {
		text = string(runes[:300]) + "…"
	}
	return text
}

// oneLine is a text in one line, with one space for all that is not printed.
func oneLine(text string) string { return strings.Join(strings.Fields(printable(text)), " ") }

// printable is a text in one line, with a space for each character that is not printed.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, " "))
}

// retry does what may be done again, with pauses, until it succeeds, another attempt would change nothing, or there were
// enough.
func (r *Repository) retry(ctx context.Context, do func() error) error {
	for attempt := 1; ; attempt++ {
		err := do()
		if err == nil || r.named(err, false) != nil || attempt >= min(4, r.options.Attempts) {
			return err
		}
		if err := r.pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// pause waits before another attempt: longer each time, and for everybody differently, since those that lost one race
// would meet again.
func (r *Repository) pause(ctx context.Context, attempt int) error {
	longest := min(r.shortest<<min(attempt, 10), r.longest)
	timer := time.NewTimer(r.shortest/2 + rand.N(longest))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// unreachable is what is left of an error of reading: nothing was pushed.
func (r *Repository) unreachable(ctx context.Context, err error) error {
	if named := r.named(err, false); named != nil {
		return named
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s was not read: %w", r.place(), context.Cause(ctx))
	}
	return r.noAnswer(err)
}

// noAnswer is the error of a server that cannot be read, however often it was tried.
func (r *Repository) noAnswer(err error) error {
	return &usererr.Error{Field: fieldRepository, Problem: r.place() + " cannot be read: " + r.words(opened(err)), Fix: "look whether the server can be reached from here, then run the command again"}
}
