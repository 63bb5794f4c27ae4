package release

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/our-org/crossbill/internal/usererr"
)

// PreviewHandoff is what GitHub hands over to GitLab of a pull request: its image comes up beside the app, or goes.
type PreviewHandoff struct {
	App       string
	Name      string // of the preview, for example pr-42
	Down      bool   // it goes; then there is no image
	Image     string // repository@sha256:…
	Commit    string // that the image was built from, hexadecimal
	SourceURL string
}

// PreviewNamePattern is the form of a preview's name. GitLab's component has the same.
var PreviewNamePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// Action is the word for what happens: up or down.
func (h *PreviewHandoff) Action() string {
	if h.Down {
		return "down"
	}
	return "up"
}

// ID names what is handed over: the preview, what happens to it, and the digest. It is the same in every run.
func (h *PreviewHandoff) ID() string {
	id := h.Name + "-" + h.Action()
	if !h.Down {
		id += "-" + strings.TrimPrefix(DigestOf(h.Image), "sha256:")[:12]
	}
	return id
}

// whatHappens is the form of an ID behind the preview's name.
var whatHappens = regexp.MustCompile(`^-(down|up-[0-9a-f]{12})$`)

// IsSamePreview says whether an ID is of the same preview, whatever happens to it.
func (h *PreviewHandoff) IsSamePreview(id string) bool {
	rest, ok := strings.CutPrefix(id, h.Name)
	return ok && whatHappens.MatchString(rest)
}

// Check completes a handoff and refuses what could not be a preview. The errors are *usererr.Error.
func (h *PreviewHandoff) Check() error {
	if err := CheckApp("app", h.App); err != nil {
		return err
	}
	field := "preview-" + h.Action()
	if !PreviewNamePattern.MatchString(h.Name) {
		return &usererr.Error{Field: field, Problem: fmt.Sprintf("%q is not the name of a preview", h.Name), Fix: "give lower-case letters, digits and hyphens, at most 40, for example pr-42"}
	}
	if h.Down {
		if h.Image != "" || h.Commit != "" {
			return &usererr.Error{Field: field, Problem: "a preview that goes has no image and no commit", Fix: "leave both out"}
		}
		return checkSourceURL(h.SourceURL)
	}
	image, err := parseHandedOver("image", h.Image, ParseImage)
	if err != nil {
		return err
	}
	h.Image = image
	if err := CheckCommit("commit", h.Commit); err != nil {
		return err
	}
	return checkSourceURL(h.SourceURL)
}
