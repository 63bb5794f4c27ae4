package registry

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/empty"

	"github.com/our-org/crossbill/internal/usererr"
)

func TestRequireFound(t *testing.T) {
	const unknown = "@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	pushed := func(t *testing.T, repository string) string {
		t.Helper()
		published, err := Push(t.Context(), empty.Image, repository+":1", authn.DefaultKeychain)
		if err != nil {
			t.Fatal(err)
		}
		_, digest, _ := strings.Cut(published, "@")
		return repository + "@" + digest
	}
	missing := func(_ *testing.T, repository string) string { return repository + unknown }
	answers := func(status int) func(http.Handler) http.Handler {
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		}
	}
	for name, test := range map[string]struct {
		registry func(http.Handler) http.Handler
		image    func(t *testing.T, repository string) string
		field    string // of the error
		warning  string
	}{
		"found":                    {registry: plain, image: pushed},
		"digest not found":         {registry: plain, image: missing, field: "image"},
		"a tag":                    {registry: plain, image: func(_ *testing.T, r string) string { return r + ":1" }, field: "image"},
		"refuses this machine":     {registry: answers(http.StatusUnauthorized), image: missing, warning: "401"},
		"forbids it":               {registry: answers(http.StatusForbidden), image: missing, warning: "403"},
		"is out of order":          {registry: answers(http.StatusInternalServerError), image: missing, warning: "500"},
		"nobody listens":           {registry: plain, image: func(*testing.T, string) string { return "127.0.0.1:1/our-org/app" + unknown }, warning: "refused"},
		"a name that no DNS knows": {registry: plain, image: func(*testing.T, string) string { return "registry.invalid/our-org/app" + unknown }, warning: "registry.invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			var warnings []string
			err := RequireFound(t.Context(), test.image(t, serve(t, test.registry)), authn.DefaultKeychain, func(err error) { warnings = append(warnings, err.Error()) })
			var input *usererr.Error
			if errors.As(err, &input) != (test.field != "") || (err != nil && input.Field != test.field) {
				t.Errorf("error %v, want one of the field %q", err, test.field)
			}
			if got := strings.Join(warnings, "\n"); !strings.Contains(got, test.warning) || (got == "") != (test.warning == "") {
				t.Errorf("warning %q, want %q", got, test.warning)
			}
		})
	}
}

// TestRequireFoundAsksOnce: a registry that is out of order does not keep a release waiting.
func TestRequireFoundAsksOnce(t *testing.T) {
	asked := map[string]int{}
	repository := serve(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked[r.Method+" "+r.URL.Path]++; r.URL.Path != "/v2/" {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
	})
	const digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	warned := 0
	if err := RequireFound(t.Context(), repository+"@"+digest, authn.DefaultKeychain, func(error) { warned++ }); err != nil || warned != 1 {
		t.Errorf("%v, %d warnings", err, warned)
	}
	if n := asked["HEAD /v2/our-org/app/manifests/"+digest]; n != 1 {
		t.Errorf("asked %v", asked)
	}
}

func TestRequireFoundEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := RequireFound(ctx, "127.0.0.1:1/a@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", authn.DefaultKeychain, func(err error) { t.Errorf("warned: %v", err) })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
