package registry

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/our-org/crossbill/internal/usererr"
)

// artifact is one with a layer.
func artifact(t *testing.T, content string) v1.Image {
	t.Helper()
	made, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer([]byte(content), "text/plain"))
	if err != nil {
		t.Fatal(err)
	}
	return mutate.ConfigMediaType(made, "application/x-thing")
}

func TestPushByDigestAndReadArtifact(t *testing.T) {
	repository, err := name.NewRepository(serve(t, plain))
	if err != nil {
		t.Fatal(err)
	}
	reference, err := PushByDigest(t.Context(), artifact(t, "content"), repository, authn.DefaultKeychain)
	if err != nil {
		t.Fatal(err)
	}
	read := func(reference, config, layer string, limit int64) ([]byte, error) {
		_, content, err := ReadArtifact(t.Context(), "bundle", reference, config, layer, limit, authn.DefaultKeychain)
		return content, err
	}
	if content, err := read(reference, "application/x-thing", "text/plain", 7); err != nil || string(content) != "content" {
		t.Errorf("%q, %v", content, err)
	}
	for what, refused := range map[string]func() ([]byte, error){
		"is of type":      func() ([]byte, error) { return read(reference, "application/x-other", "text/plain", 7) },
		"a layer of type": func() ([]byte, error) { return read(reference, "application/x-thing", "text/html", 7) },
		"is larger than":  func() ([]byte, error) { return read(reference, "application/x-thing", "text/plain", 6) },
		"has no digest":   func() ([]byte, error) { return read(repository.Name()+":1", "application/x-thing", "text/plain", 7) },
		"does not have": func() ([]byte, error) {
			return read(repository.Name()+"@sha256:"+strings.Repeat("0", 64), "application/x-thing", "text/plain", 7)
		},
	} {
		_, err := refused()
		var input *usererr.Error
		if !errors.As(err, &input) || input.Field != "bundle" || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want %q", err, what)
		}
	}
}

// TestReadArtifactChecksTheDigest: a registry that answers with other bytes than were asked for is not believed, and one that is
// out of order is not bad input.
func TestReadArtifactChecksTheDigest(t *testing.T) {
	fault := ""
	repository, err := name.NewRepository(serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodGet && fault == "other" && strings.Contains(r.URL.Path, "/blobs/"):
				_, _ = w.Write(bytes.Repeat([]byte("x"), 7))
			case r.Method == http.MethodGet && fault == "down" && strings.Contains(r.URL.Path, "/blobs/"):
				w.WriteHeader(http.StatusNotImplemented)
			default:
				h.ServeHTTP(w, r)
			}
		})
	}))
	if err != nil {
		t.Fatal(err)
	}
	reference, err := PushByDigest(t.Context(), artifact(t, "content"), repository, authn.DefaultKeychain)
	if err != nil {
		t.Fatal(err)
	}
	for _, fault = range []string{"other", "down"} {
		_, _, err := ReadArtifact(t.Context(), "bundle", reference, "application/x-thing", "text/plain", 100, authn.DefaultKeychain)
		if err == nil || errors.As(err, new(*usererr.Error)) {
			t.Errorf("%s: %v", fault, err)
		}
	}
}

func TestDescribe(t *testing.T) {
	at := serve(t, plain)
	config := &v1.ConfigFile{Config: v1.Config{Labels: map[string]string{"a": "b"}}}
	image, err := mutate.ConfigFile(empty.Image, config)
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	for tag, pushable := range map[string]Pushable{"image": image, "index": index} {
		pushed, err := Push(t.Context(), pushable, at+":"+tag, authn.DefaultKeychain)
		if err != nil {
			t.Fatal(err)
		}
		digest, err := pushable.Digest()
		if err != nil {
			t.Fatal(err)
		}
		described, err := Describe(t.Context(), "image", pushed, authn.DefaultKeychain)
		if err != nil || described.Digest != digest || described.Labels["a"] != "b" || described.Size == 0 {
			t.Errorf("%s: %v, %+v", tag, err, described)
		}
	}
	for _, reference := range []string{at + ":image", at + "@sha256:" + strings.Repeat("0", 64)} {
		if _, err := Describe(t.Context(), "image", reference, authn.DefaultKeychain); !errors.As(err, new(*usererr.Error)) {
			t.Errorf("%s: %v", reference, err)
		}
	}
}
