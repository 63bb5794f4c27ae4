package provenance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// double is go-containerregistry's registry with faults. It was compared with the distribution spec 1.1 and with what
// registries are known to do. It differs from real ones so: it asks for no credentials and never answers 401, 403 or 429
// by itself; it lists all attachments on one page, where a real one may give the next page's address in Link; without
// referrers support it answers 404 to a list, as the spec has it, where some answer 400 or 405; it takes a fallback tag of
// any content, as all registries do, which is how somebody can list what does not exist.
type double struct {
	next     http.Handler
	fault    func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
	requests atomic.Int64
}

func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.requests.Add(1)
	if d.fault == nil || !d.fault(w, r) {
		d.next.ServeHTTP(w, r)
	}
}

func newDouble(t *testing.T, options ...registry.Option) (*double, name.Digest) {
	t.Helper()
	d := &double{next: registry.New(append(options, registry.Logger(log.New(io.Discard, "", 0)))...)}
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	return d, push(t, strings.TrimPrefix(server.URL, "http://")+"/our-org/app")
}

var quick = remote.WithRetryBackoff(remote.Backoff{Duration: time.Millisecond, Steps: 2})

// listed makes the double list these attachments, in this order.
func (d *double) lists(t *testing.T, descriptors []v1.Descriptor, header http.Header) {
	t.Helper()
	text, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: descriptors})
	if err != nil {
		t.Fatal(err)
	}
	before := d.fault
	d.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			return before != nil && before(w, r)
		}
		w.Header().Set("Content-Type", string(types.OCIImageIndex))
		maps.Copy(w.Header(), header)
		_, _ = w.Write(text)
		return true
	}
}

func described(t *testing.T, image name.Digest, digest string) v1.Descriptor {
	t.Helper()
	hash, err := v1.NewHash(digest)
	if err != nil {
		t.Fatal(err)
	}
	return v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: 500, Digest: hash, ArtifactType: bundleMediaType}
}

func nowhere(n int) v1.Descriptor {
	return v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: 500, Digest: v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%064x", n)}, ArtifactType: bundleMediaType}
}

// TestOtherAttachments: what somebody else attaches to an image does not keep a good provenance from being found, and
// is named where there is none.
func TestOtherAttachments(t *testing.T) {
	t.Parallel()
	ours, policy := keys(t)
	for name, attachIt := range map[string]struct {
		bad  func(t *testing.T, image name.Digest)
		says string
	}{
		"too large": {func(t *testing.T, image name.Digest) {
			attachBundle(t, image, []byte(`{"a": "`+strings.Repeat("a", maxAttachmentBytes)+`"}`))
		}, "cannot be read (it is larger than 4 MiB)"},
		"not JSON":         {func(t *testing.T, image name.Digest) { attachBundle(t, image, []byte("{")) }, "is not a Sigstore bundle"},
		"JSON without end": {func(t *testing.T, image name.Digest) { attachBundle(t, image, []byte(strings.Repeat("[", 1<<20))) }, "is not a Sigstore bundle"},
		"nothing":          {func(t *testing.T, image name.Digest) { attachBundle(t, image, nil) }, "is not a Sigstore bundle"},
		"a bundle of no use": {func(t *testing.T, image name.Digest) {
			attachBundle(t, image, []byte(`{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}`))
		}, "is not a Sigstore bundle"},
	} {
		for kind, options := range map[string][]registry.Option{"referrers": {registry.WithReferrersSupport(true)}, "tag": nil} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				_, image := newDouble(t, options...)
				attachIt.bad(t, image)
				_, err := verifier(t, policy).Verify(t.Context(), image.Name(), Wanted{Commit: commit}, quick)
				if !errors.As(err, new(*RejectedError)) || !strings.Contains(err.Error(), attachIt.says) {
					t.Errorf("alone: got %v, want %q", err, attachIt.says)
				}
				if _, err := Inspect(t.Context(), image, quick); err != nil && !strings.Contains(err.Error(), "the index is empty") {
					t.Errorf("inspect: %v", err)
				}
				attachBundle(t, image, signed(t, ours, provenance(t, image.DigestStr(), good)))
				if _, err := verifier(t, policy).Verify(t.Context(), image.Name(), Wanted{Commit: commit}, quick); err != nil {
					t.Errorf("beside a good one: %v", err)
				}
			})
		}
	}
}

// TestManyAttachments: the work is bounded, and what was not looked at is said.
func TestManyAttachments(t *testing.T) {
	t.Parallel()
	ours, policy := keys(t)
	d, image := newDouble(t, registry.WithReferrersSupport(true))
	annotations := map[string]string{"dev.sigstore.bundle.predicateType": provenanceType}
	digest, err := attach(t.Context(), image, bundleMediaType, signed(t, ours, provenance(t, image.DigestStr(), good)), annotations, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	many := make([]v1.Descriptor, 10_000)
	for i := range many {
		many[i] = nowhere(i)
	}
	for _, test := range []struct {
		at       int // the good one
		requests int64
		says     string // "" for an image that is admitted
	}{
		{0, 10, ""},
		{len(many) - 1, 10, ""},
		{100, 2*maxAttachments + 10, ""},
		{5000, 2*maxAttachments + 10, "9744 more of its 10000 attachments were not looked at: somebody may hide the provenance"},
	} {
		listed := append([]v1.Descriptor(nil), many...)
		listed[test.at] = described(t, image, digest)
		d.fault = nil
		d.lists(t, listed, nil)
		d.requests.Store(0)
		_, err := verifier(t, policy).Verify(t.Context(), image.Name(), Wanted{Commit: commit}, quick)
		switch {
		case test.says == "" && err != nil:
			t.Errorf("at %d: %v", test.at, err)
		case test.says != "" && (!errors.As(err, new(*RejectedError)) || !strings.Contains(err.Error(), test.says) || len(err.Error()) > 4000):
			t.Errorf("at %d: got %v, want %q", test.at, err, test.says)
		}
		if n := d.requests.Load(); n > test.requests {
			t.Errorf("at %d: %d requests", test.at, n)
		}
	}
	// Signatures, SBOMs and the like cost nothing.
	for i := range many {
		many[i].ArtifactType = "application/vnd.example"
	}
	many[5000] = described(t, image, digest)
	d.fault = nil
	d.lists(t, many, nil)
	if _, err := verifier(t, policy).Verify(t.Context(), image.Name(), Wanted{Commit: commit}, quick); err != nil {
		t.Errorf("among other kinds: %v", err)
	}
	d.fault = nil
	d.lists(t, nil, http.Header{"Link": {`</v2/our-org/app/referrers/x?last=y>; rel="next"`}})
	if _, err := verifier(t, policy).Verify(t.Context(), image.Name(), Wanted{Commit: commit}, quick); err == nil || !strings.Contains(err.Error(), "further pages of attachments, which were not read") {
		t.Errorf("more pages: %v", err)
	}
	d.fault = nil
	d.lists(t, []v1.Descriptor{{Annotations: map[string]string{"a": strings.Repeat("a", maxListBytes)}}}, nil)
	if _, err := verifier(t, policy).Verify(t.Context(), image.Name(), Wanted{Commit: commit}, quick); !errors.As(err, new(*RejectedError)) || !strings.Contains(err.Error(), "the list of its attachments is larger than 16 MiB") {
		t.Errorf("a long list: %v", err)
	}
}

// TestRegistryFault: a registry that does not answer about one attachment has rejected nothing, and does not hold up
// another one that is good.
func TestRegistryFault(t *testing.T) {
	t.Parallel()
	ours, policy := keys(t)
	for name, test := range map[string]struct {
		answer   func(w http.ResponseWriter)
		rejected string // "" for a fault
	}{
		"500":          {func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) }, ""},
		"503":          {func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }, ""},
		"429":          {func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) }, ""},
		"403":          {func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }, ""},
		"cut off":      {func(w http.ResponseWriter) { w.Header().Set("Content-Length", "100"); _, _ = io.WriteString(w, "{") }, ""},
		"slow":         {func(http.ResponseWriter) { time.Sleep(time.Second) }, ""},
		"other bytes":  {func(w http.ResponseWriter) { _, _ = io.WriteString(w, "{}") }, ""},
		"404":          {func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, "cannot be read"},
		"not accepted": {func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadRequest) }, "cannot be read"},
	} {
		for _, kind := range []string{"manifests", "blobs", "referrers"} {
			if kind == "referrers" && (test.rejected != "" || name == "other bytes") {
				continue // there these are the answers of a registry without such a list, and an empty one
			}
			t.Run(name+" of "+kind, func(t *testing.T) {
				t.Parallel()
				d, image := newDouble(t, registry.WithReferrersSupport(true))
				digest, err := attach(t.Context(), image, bundleMediaType, signed(t, ours, provenance(t, image.DigestStr(), good)), nil, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				broken := true
				first := ""
				d.fault = func(w http.ResponseWriter, r *http.Request) bool {
					if !broken || !strings.Contains(r.URL.Path, "/"+kind+"/") || kind == "manifests" && !strings.HasSuffix(r.URL.Path, digest) {
						return false
					}
					if first == "" {
						first = r.URL.Path
					}
					if r.URL.Path == first {
						if kind == "referrers" { // of another type it says that the registry has no such list
							w.Header().Set("Content-Type", string(types.OCIImageIndex))
						}
						test.answer(w)
					}
					return r.URL.Path == first
				}
				ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
				defer cancel()
				_, err = verifier(t, policy).Verify(ctx, image.Name(), Wanted{Commit: commit}, quick)
				switch rejected := errors.As(err, new(*RejectedError)); {
				case err == nil || !strings.Contains(err.Error(), "nothing was changed"):
					t.Errorf("%v", err)
				case rejected != (test.rejected != "") || !strings.Contains(err.Error(), test.rejected):
					t.Errorf("rejected: %v; %v", rejected, err)
				}
				if kind == "referrers" || name == "slow" {
					return
				}
				attachBundle(t, image, signed(t, ours, provenance(t, image.DigestStr(), good)))
				if _, err := verifier(t, policy).Verify(t.Context(), image.Name(), Wanted{Commit: commit}, quick); err != nil {
					t.Errorf("beside another one: %v", err)
				}
			})
		}
	}
}
