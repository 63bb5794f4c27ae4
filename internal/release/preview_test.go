package release

import (
	"errors"
	"strings"
	"testing"

	"github.com/our-org/crossbill/internal/usererr"
)

// TestPreviewHandoff: what is handed over of a pull request has a name that is the same in every run, and of nothing else.
func TestPreviewHandoff(t *testing.T) {
	image := "registry.example.com/our-org/shop-previews@sha256:" + strings.Repeat("5b", 32)
	for name, test := range map[string]struct {
		h     PreviewHandoff
		id    string
		field string
	}{
		"up":                   {PreviewHandoff{App: "shop", Name: "pr-42", Image: image, Commit: "c0ffee0"}, "pr-42-up-5b5b5b5b5b5b", ""},
		"down":                 {PreviewHandoff{App: "shop", Name: "pr-42", Down: true}, "pr-42-down", ""},
		"the longest name":     {PreviewHandoff{App: "shop", Name: strings.Repeat("a", 40), Image: image, Commit: "c0ffee0"}, strings.Repeat("a", 40) + "-up-5b5b5b5b5b5b", ""},
		"a long name":          {PreviewHandoff{App: "shop", Name: strings.Repeat("a", 41), Down: true}, "", "preview-down"},
		"no name":              {PreviewHandoff{App: "shop", Image: image, Commit: "c0ffee0"}, "", "preview-up"},
		"a name with a quote":  {PreviewHandoff{App: "shop", Name: "pr'42", Down: true}, "", "preview-down"},
		"up by tag":            {PreviewHandoff{App: "shop", Name: "pr-42", Image: "registry.example.com/our-org/shop:1", Commit: "c0ffee0"}, "", "image"},
		"up without a commit":  {PreviewHandoff{App: "shop", Name: "pr-42", Image: image}, "", "commit"},
		"down with an image":   {PreviewHandoff{App: "shop", Name: "pr-42", Down: true, Image: image}, "", "preview-down"},
		"an app of no name":    {PreviewHandoff{App: "Shop", Name: "pr-42", Down: true}, "", "app"},
		"an address of a page": {PreviewHandoff{App: "shop", Name: "pr-42", Down: true, SourceURL: "https://github.com/a?b"}, "", "sourceUrl"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.h.Check()
			var wrong *usererr.Error
			switch {
			case test.field != "":
				if !errors.As(err, &wrong) || wrong.Field != test.field {
					t.Errorf("%v, want a problem of %s", err, test.field)
				}
			case err != nil:
				t.Error(err)
			case test.h.ID() != test.id || !IDPattern.MatchString(test.id):
				t.Errorf("id %q, want %q", test.h.ID(), test.id)
			}
		})
	}
}
