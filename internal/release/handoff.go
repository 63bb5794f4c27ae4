package release

import (
	"fmt"
	"regexp"

	"github.com/our-org/crossbill/internal/usererr"
)

// Handoff is what GitHub hands over to GitLab to release: an image, or a bundle, which names its image.
type Handoff struct {
	App       string `json:"app"`
	ID        string `json:"releaseId"`        // default: NewID of app, digest, commit and bundle
	Image     string `json:"image,omitempty"`  // repository@sha256:…, or
	Bundle    string `json:"bundle,omitempty"` // repository@sha256:…
	Commit    string `json:"commit"`           // that the image was built from, hexadecimal
	SourceURL string `json:"sourceUrl,omitempty"`
}

// The forms of what is handed over. .gitlab-ci.yml has the same patterns, so that GitLab checks them as well. None admits a
// character that could end a line, a quote or a word of a shell.
var (
	AppPattern       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?$`)
	ImagePattern     = regexp.MustCompile(`^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}$`)
	SourceURLPattern = regexp.MustCompile(`^https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._/-]*)?$`)
)

// Check completes a handoff and refuses what could not be a release. The errors are *usererr.Error.
func (h *Handoff) Check() error {
	if err := CheckApp("app", h.App); err != nil {
		return err
	}
	if err := h.checkContent(); err != nil {
		return err
	}
	if err := CheckCommit("commit", h.Commit); err != nil {
		return err
	}
	if err := checkSourceURL(h.SourceURL); err != nil {
		return err
	}
	if h.ID == "" {
		h.ID = NewID(h.App, DigestOf(h.Image), h.Commit, h.Bundle)
	}
	return CheckNewID("releaseId", h.ID, h.App, DigestOf(h.Image), h.Commit, h.Bundle)
}

// CheckApp checks the name of an app.
func CheckApp(field, app string) error {
	if !AppPattern.MatchString(app) {
		return &usererr.Error{Field: field, Problem: fmt.Sprintf("%q is not the name of an app", app), Fix: "use lower-case letters, digits and hyphens, at most 53"}
	}
	return nil
}

// checkContent checks what is released: one of an image and a bundle, by digest.
func (h *Handoff) checkContent() error {
	field, given, parse := "image", &h.Image, ParseImage
	if h.Bundle != "" {
		if h.Image != "" {
			return &usererr.Error{Field: "bundle", Problem: "a bundle and an image are given", Fix: "leave the image out: the bundle names it"}
		}
		field, given, parse = "bundle", &h.Bundle, ParseBundle
	}
	reference, err := parseHandedOver(field, *given, parse)
	if err != nil {
		return err
	}
	*given = reference
	return nil
}

// parseHandedOver reads an image or a bundle by digest, in the form that GitLab's side takes.
func parseHandedOver(field, given string, parse func(field, reference string) (string, error)) (string, error) {
	reference, err := parse(field, given)
	if err != nil {
		return "", err
	}
	if !ImagePattern.MatchString(reference) {
		return "", &usererr.Error{Field: field, Problem: fmt.Sprintf("%q has no sha256 digest or no registry", given), Fix: "give registry/repository@sha256:…"}
	}
	return reference, nil
}

func checkSourceURL(url string) error {
	if url != "" && (!SourceURLPattern.MatchString(url) || len(url) > 500) {
		return &usererr.Error{Field: "sourceUrl", Problem: fmt.Sprintf("%q is not a plain web address", url), Fix: "give https://host/path, without query"}
	}
	return nil
}

// NewerThan says whether the run that has handed over this release is a newer one than another release's: the order of the
// line.
func (h *Handoff) NewerThan(other *Handoff) bool { return newer(h.SourceURL, other.SourceURL) }
