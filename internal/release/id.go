package release

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// NewID names a release by what it is: the app, the image's digest and the commit that it was built
// from. The same release has the same name on every machine and in every run, so that it is found
// again instead of being started twice. 12 hexadecimal digits: among a million releases of one app, two
// share a name with a probability below 0.2%.
func NewID(app, digest, commit string) string {
	// The separator cannot occur in any of the three.
	sum := sha256.Sum256([]byte(strings.Join([]string{app, digest, commit}, "\n")))
	return hex.EncodeToString(sum[:6])
}
