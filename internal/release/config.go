package release

import (
	"cmp"
	"slices"
)

// Config is a ConfigMap or a Secret that the pods of a release read.
type Config struct {
	Kind string `json:"kind"` // ConfigMap or Secret
	Name string `json:"name"` // as the manifests have it
	// Copy is the name of the immutable copy that the pods read; "" of one that is not in the manifests: it is others', and
	// only watched.
	Copy string `json:"copy,omitempty"`
	// Hash identifies the content of a watched one: keyed, so that nobody can try values. "": it did not exist, or could not be read.
	Hash string `json:"hash,omitempty"`
}

// Watched are those of a release's configuration that others own.
func Watched(all []Config) []Config {
	return slices.DeleteFunc(slices.Clone(all), func(c Config) bool { return c.Copy != "" })
}

// SortConfig puts configuration in the order in which the ledger keeps it.
func SortConfig(all []Config) {
	slices.SortFunc(all, func(a, b Config) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
}
