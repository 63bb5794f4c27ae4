package provenance

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Bounds of what is read of an image's attachments, since anybody who can push can attach. What is beyond them is not
// looked at, and is said not to have been.
const (
	maxAttachments     = 256
	maxAttachmentBytes = 4 << 20
	maxListBytes       = 16 << 20
	maxTotalBytes      = 128 << 20
	maxTime            = 2 * time.Minute
)

// attachment is something in the registry that refers to an image
// (https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers).
type attachment struct {
	digest    string // of its manifest
	mediaType string // of its content
	created   string
	content   []byte
}

// looked is what became of reading attachments.
type looked struct {
	skipped []string // each that cannot be read, whatever the registry does, with why
	unseen  []string // what was not looked at, in words
	failed  error    // of the registry, about one of them: another time it may answer
}

// readAttachments gives what is attached to an image and is of one of the media types to visit, one after the other,
// until that says that it has seen enough. What one attachment is does not hold up the others. The error is that nothing
// could be listed.
func readAttachments(ctx context.Context, image name.Digest, mediaTypes []string, options []remote.Option, visit func(attachment) (enough bool)) (*looked, error) {
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	m := &meter{}
	options = append(slices.Clip(options), remote.WithContext(ctx), remote.WithTransport(m))
	listed, err := list(image, options)
	if errors.Is(err, errTooLarge) {
		return &looked{unseen: []string{fmt.Sprintf("the list of its attachments is larger than %d MiB and was not read: somebody hides the provenance; remove what does not belong there", maxListBytes>>20)}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("attachments of %s: %w", image, err)
	}
	l := &looked{}
	if m.pages.Load() {
		l.unseen = append(l.unseen, "the registry has further pages of attachments, which were not read")
	}
	candidates := slices.DeleteFunc(listed, func(d v1.Descriptor) bool {
		return d.ArtifactType != "" && d.ArtifactType != emptyMediaType && !slices.Contains(mediaTypes, d.ArtifactType)
	})
	for i, d := range fromBothEnds(candidates) {
		if i == maxAttachments || m.total.Load() > maxTotalBytes {
			l.unseen = append(l.unseen, fmt.Sprintf("%d more of its %d attachments were not looked at: somebody may hide the provenance; remove what does not belong there", len(candidates)-i, len(listed)))
			break
		}
		found, err := readAttachment(image, d, mediaTypes, options)
		switch {
		case ctx.Err() != nil:
			l.failed = fmt.Errorf("attachments of %s: after %d of %d: %w", image, i, len(candidates), cmp.Or(context.Cause(ctx), err))
			return l, nil
		case err != nil && lasts(err):
			l.skipped = append(l.skipped, fmt.Sprintf("%s cannot be read (%v)", short(d.Digest.String()), err))
		case err != nil:
			l.failed = cmp.Or(l.failed, fmt.Errorf("%s, attached to %s: %w", d.Digest, image, err))
		case found != nil && visit(*found):
			return l, nil
		}
	}
	return l, nil
}

// list are the descriptors of all that is attached to an image.
func list(image name.Digest, options []remote.Option) ([]v1.Descriptor, error) {
	index, err := remote.Referrers(image, options...)
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	return manifest.Manifests, nil
}

// fromBothEnds are the items in turn from the front and from the back: what somebody attaches in great numbers before or
// after a provenance does not keep it from being looked at.
func fromBothEnds[T any](items []T) []T {
	mixed := make([]T, 0, len(items))
	for front, back := 0, len(items)-1; front <= back; front, back = front+1, back-1 {
		if mixed = append(mixed, items[front]); front < back {
			mixed = append(mixed, items[back])
		}
	}
	return mixed
}

// readAttachment reads one attachment; nil when it is of none of the media types.
func readAttachment(image name.Digest, d v1.Descriptor, mediaTypes []string, options []remote.Option) (*attachment, error) {
	described, err := remote.Get(image.Context().Digest(d.Digest.String()), options...)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(described.Manifest))
	if err != nil || len(m.Layers) != 1 {
		return nil, nil // an index, or something with parts: not ours
	}
	mediaType := string(m.Layers[0].MediaType)
	if !slices.Contains(mediaTypes, mediaType) {
		return nil, nil
	}
	layer, err := remote.Layer(image.Context().Digest(m.Layers[0].Digest.String()), options...)
	if err != nil {
		return nil, err
	}
	content, err := layer.Compressed() // as it is in the registry; its digest is checked as it is read
	if err != nil {
		return nil, err
	}
	defer content.Close()
	text, err := io.ReadAll(io.LimitReader(content, maxAttachmentBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxAttachmentBytes {
		return nil, errTooLarge
	}
	return &attachment{digest: d.Digest.String(), mediaType: mediaType, created: m.Annotations[createdKey], content: text}, nil
}

var errTooLarge = fmt.Errorf("it is larger than %d MiB", maxAttachmentBytes>>20)

// lasts says whether an attachment will be as unreadable another time: it is too large, or the registry does not have
// it. All else may be the registry's fault, or the network's.
func lasts(err error) bool {
	if errors.Is(err, errTooLarge) {
		return true
	}
	answer, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return false
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	}
	return answer.StatusCode < http.StatusInternalServerError
}

// meter is the registry's transport, and bounds what is read through it.
type meter struct {
	total atomic.Int64
	pages atomic.Bool // the list of attachments has a next page, which go-containerregistry does not ask for
}

func (m *meter) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := remote.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	bound := int64(maxAttachmentBytes + 1) // so that the one byte too many is seen
	if strings.Contains(r.URL.Path, "/referrers/") || strings.Contains(r.URL.Path, "/manifests/sha256-") {
		bound = maxListBytes
		if strings.Contains(answer.Header.Get("Link"), "next") {
			m.pages.Store(true)
		}
	}
	answer.Body = &metered{ReadCloser: answer.Body, left: bound, total: &m.total}
	return answer, nil
}

// metered is a body that ends with an error where it is too large.
type metered struct {
	io.ReadCloser
	left  int64
	total *atomic.Int64
}

func (m *metered) Read(into []byte) (int, error) {
	if m.left <= 0 {
		return 0, errTooLarge
	}
	n, err := m.ReadCloser.Read(into[:min(int64(len(into)), m.left)])
	m.left -= int64(n)
	m.total.Add(int64(n))
	return n, err
}
