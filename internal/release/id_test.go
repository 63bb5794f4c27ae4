package release

import (
	"errors"
	"strings"
	"testing"

	"github.com/our-org/crossbill/internal/usererr"
)

func TestCheckNewID(t *testing.T) {
	const app, commit = "shop", "c0ffee0"
	digest, other := "sha256:"+strings.Repeat("0a", 32), "sha256:"+strings.Repeat("0b", 32)
	bundle, otherBundle := "registry.example.com/shop@sha256:"+strings.Repeat("0c", 32), "registry.example.com/shop@sha256:"+strings.Repeat("0d", 32)
	made, bundled := NewID(app, digest, commit, ""), NewID(app, "", commit, bundle)
	for name, test := range map[string]struct {
		id, app, digest, commit, bundle string
		good                            bool
	}{
		"its own":                    {made, app, digest, commit, "", true},
		"without a commit":           {NewID(app, digest, "", ""), app, digest, "", "", true},
		"another image's":            {made, app, other, commit, "", false},
		"another app's":              {made, "shop2", digest, commit, "", false},
		"another commit's":           {made, app, digest, "c0ffee1", "", false},
		"the same commit, longer":    {made, app, digest, "c0ffee0c0ffee0", "", false},
		"the commit is left out":     {made, app, digest, "", "", false},
		"a name":                     {"mine", app, digest, commit, "", true},
		"a name with a hyphen":       {"2026-11-26", app, digest, commit, "", true},
		"13 digits":                  {made + "0", app, other, commit, "", true},
		"11 digits":                  {made[1:], app, other, commit, "", true},
		"12 digits by chance":        {"202611261641", app, digest, commit, "", false},
		"12 letters, not all digits": {"releaseabcde", app, digest, commit, "", true},
		"what is no id":              {strings.ToUpper(made) + "A", app, digest, commit, "", false},
		"with a newline":             {made + "\n", app, digest, commit, "", false},
		"a bundle's":                 {bundled, app, digest, commit, bundle, true},
		"with what the bundle names": {bundled, app, other, commit, bundle, true},
		"another bundle's":           {bundled, app, digest, commit, otherBundle, false},
		"an image's, of a bundle":    {made, app, digest, commit, bundle, false},
		"a bundle's, of an image":    {bundled, app, digest, commit, "", false},
		"nothing":                    {"", app, digest, commit, "", false},
	} {
		err := CheckNewID("--release-id", test.id, test.app, test.digest, test.commit, test.bundle)
		input, ok := errors.AsType[*usererr.Error](err)
		if (err == nil) != test.good || err != nil && (!ok || input.Field != "--release-id" || input.Fix == "") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzReleaseID: what is accepted as an id can be part of a pipeline's name and of a label, and one of the made form is
// accepted for one digest alone.
func FuzzReleaseID(f *testing.F) {
	for _, id := range []string{"mine", "0123456789ab", "-a", "a-", "a b", "A", "a\n", strings.Repeat("a", 64), "ａ"} {
		f.Add(id)
	}
	a, b := "sha256:"+strings.Repeat("0a", 32), "sha256:"+strings.Repeat("0b", 32)
	f.Fuzz(func(t *testing.T, id string) {
		first, second := CheckNewID("x", id, "shop", a, "", ""), CheckNewID("x", id, "shop", b, "", "")
		if first == nil && (len(id) == 0 || len(id) > 63 || strings.ToLower(id) != id || strings.ContainsAny(id, " \n'\"$./_")) {
			t.Errorf("%q was accepted", id)
		}
		if len(id) == 12 && strings.Trim(id, "0123456789abcdef") == "" && first == nil && second == nil {
			t.Errorf("%q was accepted for two digests", id)
		}
	})
}
