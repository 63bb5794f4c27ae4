package gitlab

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/our-org/crossbill/internal/pipelinefile"

	"github.com/our-org/crossbill/internal/release"
)

// TestBothSidesCheckTheSame: what Trigger accepts is what .gitlab-ci.yml accepts, and no value of
// either can leave the quotes that the scripts put it in.
func TestBothSidesCheckTheSame(t *testing.T) {
	data, err := os.ReadFile("../../.gitlab-ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	file, err := pipelinefile.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]*regexp.Regexp{"image": release.ImagePattern, "release_id": release.IDPattern, "commit": release.CommitPattern, "source_url": release.SourceURLPattern}
	values := rapid.OneOf(
		rapid.StringMatching(release.ImagePattern.String()), rapid.StringMatching(`registry\.example\.com/our-org/(qwik-node-app|[a-z]+)@sha256:[0-9a-f]{64}`), rapid.StringMatching(release.AppPattern.String()), rapid.StringMatching(release.CommitPattern.String()),
		rapid.StringMatching(release.SourceURLPattern.String()), rapid.StringMatching(`[a-z0-9]{1,9}[-'"$;\n a-z@:/]{1,9}`), rapid.String(),
	)
	// GitLab's side also names the app's own repository.
	ours["image"] = regexp.MustCompile(`^registry\.example\.com/our-org/qwik-node-app@sha256:[0-9a-f]{64}$`)
	ours["bundle"] = ours["image"]
	if apps := file.Inputs["app"].Options; !slices.Contains(apps, "") || slices.ContainsFunc(apps, func(app string) bool { return app != "" && !release.AppPattern.MatchString(app) }) {
		t.Errorf("apps %q: the empty one must be among them, and every other one must be one that Trigger accepts", apps)
	}
	for name, pattern := range ours {
		theirs := regexp.MustCompile(file.Inputs[name].Regex)
		if !theirs.MatchString("") || *file.Inputs[name].Default != "" {
			t.Errorf("input %s: the default must be empty and valid, else no other source can make a pipeline", name)
		}
		rapid.Check(t, func(r *rapid.T) {
			value := values.Draw(r, "value")
			if value == "" {
				return
			}
			if pattern.MatchString(value) != theirs.MatchString(value) {
				r.Errorf("%s: %q is valid on one side only", name, value)
			}
			if ours[name] == ours["image"] && theirs.MatchString(value) && !release.ImagePattern.MatchString(value) {
				r.Errorf("%s: %q could be released, but not triggered", name, value)
			}
			if pattern.MatchString(value) && strings.ContainsAny(value, "'\"`$\\;&|<>(){} \t\r\n\x00*?![]#") {
				r.Errorf("%s: %q could leave its quotes", name, value)
			}
		})
	}
}
