package release

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/our-org/crossbill/internal/usererr"
)

// NewID names a release by what it is: the app, the image's digest, the commit that it was built
// from, and the bundle, "" when the manifests come from elsewhere. A bundle names its image by digest, so
// its own digest stands for both, wherever it is kept: who hands it over need not read it. The same release
// has the same name on every machine and in every run, so that it is found again instead of being started
// twice. 12 hexadecimal digits: among a million releases of one app, two share a name with a probability
// below 0.2%.
func NewID(app, digest, commit, bundle string) string {
	// The separator cannot occur in any of them.
	parts := []string{app, digest, commit}
	if bundle != "" {
		parts = []string{app, "", commit, bundle[strings.LastIndex(bundle, "@")+1:]}
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:6])
}

// madePattern is the form of what NewID makes.
var madePattern = regexp.MustCompile(`^[0-9a-f]{12}$`)

// CheckNewID checks a release's id against what is released. One of NewID's form must be NewID's: else a pipeline that
// has the name of one release could release another image. Every other name may be chosen freely.
func CheckNewID(field, id, app, digest, commit, bundle string) error {
	if err := CheckID(field, id); err != nil {
		return err
	}
	made := NewID(app, digest, commit, bundle)
	if !madePattern.MatchString(id) || id == made {
		return nil
	}
	of := "commit " + commit
	if commit == "" {
		of = "no commit"
	}
	what := digest
	if bundle != "" {
		what = "bundle " + bundle
	}
	return &usererr.Error{Field: field, Problem: fmt.Sprintf("%q is not the id of app %s, %s and %s: theirs is %s", id, app, what, of, made), Fix: "give the image or the bundle and the commit that it was made of, or leave it out; a name of your own must not be 12 hexadecimal digits"}
}
