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
	// Hash identifies the content of a watched one: keyed, so that nobody can try values. Absent: it did not exist. "": it could
	// not be read.
	Hash string `json:"hash,omitempty"`
}

// Absent stands for the content of what does not exist.
const Absent = "none"

// Watched are those of a release's configuration that others own.
func Watched(all []Config) []Config {
	return slices.DeleteFunc(slices.Clone(all), func(c Config) bool { return c.Copy != "" })
}

// SortConfig puts configuration in the order in which the ledger keeps it.
func SortConfig(all []Config) {
	slices.SortFunc(all, func(a, b Config) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
}

// Same says whether two releases are of the same: the image, the pod template with the copies that it names, and what is
// watched, as far as both know its content.
func (r *Release) Same(other *Release) bool {
	return r.Digest() == other.Digest() && r.Template == other.Template && len(r.Changed(other)) == 0
}

// Changed are those of a release's watched configuration whose content is known not to be what it was with another release.
func (r *Release) Changed(since *Release) []Config {
	return slices.DeleteFunc(Watched(r.Config), func(c Config) bool {
		was := since.watched(c)
		return was == "" || c.Hash == "" || was == c.Hash
	})
}

// Compared are those of a release's configuration that are known to be what they were with another release of the same pod
// template.
func (r *Release) Compared(since *Release) []Config {
	return slices.DeleteFunc(slices.Clone(r.Config), func(c Config) bool {
		return c.Copy == "" && (c.Hash == "" || since == nil || since.watched(c) != c.Hash)
	})
}

// watched is the hash of a watched ConfigMap or Secret; "" when it is not known.
func (r *Release) watched(of Config) string {
	for _, c := range r.Config {
		if c.Kind == of.Kind && c.Name == of.Name && c.Copy == "" {
			return c.Hash
		}
	}
	return ""
}
