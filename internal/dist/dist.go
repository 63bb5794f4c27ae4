// Package dist makes what a version of Crossbill is published as: an archive and a list of what is inside (SBOM) for each platform,
// checksums, the manifests of Homebrew and krew, and the image of the command. What it makes depends on the source, its commit and
// the version of Go alone: the same ones give the same bytes on every machine. Publish pushes the image and signs everything, by
// package provenance, as crossbill signs the images of an app.
//
// GoReleaser does the first half, and would need syft, cosign, and an engine or ko for the rest: four more tools to build or to
// trust for what is here already, to save the few lines of this package.
package dist

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/our-org/crossbill/internal/image"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/usererr"
)

// Version is what is published.
type Version struct {
	Number     string    // 1.2.3, without v (https://semver.org); with changes that are in no commit it ends with -dirty
	Commit     string    // in full
	Date       time.Time // of the commit: of everything that is made
	Repository string    // https://github.com/our-org/crossbill
	Downloads  string    // URL that the names of files follow
	Components string    // where the version's GitLab components are: HOST/group/project; "" for the default of the command
}

// Platforms are those that there are binaries for.
var Platforms = []v1.Platform{{OS: "darwin", Architecture: "amd64"}, {OS: "darwin", Architecture: "arm64"}, {OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}

// https://semver.org/#is-there-a-suggested-regular-expression-regex-to-check-a-semver-string, without build metadata: tags of images
// have no +.
var semantic = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?$`)

// dirty ends the number of a version whose source has changes that are in no commit, as `git describe` has it.
const dirty = "-dirty"

// NumberOf is the number of a version that `git describe --tags --always --dirty` names, or somebody; modified says that the source
// has changes that are in no commit. What no tag precedes is 0.0.0-g and the commit.
func NumberOf(described string, modified bool) (string, error) {
	if modified && described != "" {
		described = strings.TrimSuffix(described, dirty) + dirty
	}
	number := strings.TrimPrefix(described, "v")
	if described != "" && !semantic.MatchString(number) {
		number = "0.0.0-g" + described
	}
	if !semantic.MatchString(number) {
		return "", &usererr.Error{Field: "version", Problem: fmt.Sprintf("%q is not a version", described), Fix: "give a version as 1.2.3, or a commit"}
	}
	return number, nil
}

func (v *Version) check() error {
	switch {
	case !semantic.MatchString(v.Number):
		return &usererr.Error{Field: "version", Problem: fmt.Sprintf("%q is not a version", v.Number), Fix: "give it as 1.2.3"}
	case !regexp.MustCompile(`^[0-9a-f]{40,64}$`).MatchString(v.Commit):
		return &usererr.Error{Field: "commit", Problem: fmt.Sprintf("%q is not a commit in full", v.Commit), Fix: "give it as `git rev-parse HEAD` prints it"}
	case v.Date.IsZero():
		return &usererr.Error{Field: "created", Problem: "is missing", Fix: "give the commit's time as `git log -1 --format=%ct` prints it"}
	}
	return nil
}

// labels are those of the version's image.
func (v *Version) labels(base string) image.Labels {
	return image.Labels{Title: "crossbill", Version: v.Number, Revision: v.Commit, Source: v.Repository, Created: v.Date, Base: base}
}

// Binary is the command for a platform.
type Binary struct {
	Platform v1.Platform
	Path     string
}

// name is that of the binary's archive, and with another ending of its other files.
func (b Binary) name(v *Version, ending string) string {
	return fmt.Sprintf("crossbill_%s_%s_%s%s", v.Number, b.Platform.OS, b.Platform.Architecture, ending)
}

// Compile builds the command for platforms from the source in a folder, into another one. The environment's own flags of Go do not
// count.
func Compile(ctx context.Context, v *Version, source, into string, platforms []v1.Platform) ([]Binary, error) {
	if err := v.check(); err != nil {
		return nil, err
	}
	flags := fmt.Sprintf("-s -w -X main.version=%s -X main.versionCommit=%s -X main.versionDate=%s", v.Number, v.Commit, v.Date.UTC().Format(time.RFC3339))
	if v.Components != "" {
		flags += " -X main.versionComponents=" + v.Components
	}
	var binaries []Binary
	for _, p := range platforms {
		path, err := filepath.Abs(filepath.Join(into, p.OS+"-"+p.Architecture, "crossbill"))
		if err != nil {
			return nil, err
		}
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", path, "./cmd/crossbill")
		cmd.Dir = source
		cmd.Env = append(os.Environ(), "GOOS="+p.OS, "GOARCH="+p.Architecture, "GOFLAGS=-trimpath -buildvcs=false", "CGO_ENABLED=0", "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=", "GOFIPS140=off", "GOWORK=off")
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go build for %s: %w\n%s", p, err, text)
		}
		binaries = append(binaries, Binary{p, path})
	}
	return binaries, nil
}

// Base is what an image of the command is built on.
type Base struct {
	Name      string // of the image's folder, and the ending of its tag: "" for the image without anything else
	Reference string // by digest: an index; "" for nothing
}

// names of the parts beside the archives.
const (
	checksums = "checksums.txt"
	formula   = "crossbill.rb"
	plugin    = "crossbill.yaml"
)

// folder is that of an image's layout.
func (b Base) folder() string { return strings.TrimSuffix("image-"+b.Name, "-") }

// Write writes what is published into a folder that does not exist, or is empty: of each binary its archive and SBOM; the
// checksums; the formula and the plugin's manifest; and an image for each base, as an OCI layout. license is the license's file.
func Write(ctx context.Context, v *Version, binaries []Binary, license, into string, bases []Base, keychain authn.Keychain) error {
	if err := v.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(into, 0o755); err != nil {
		return err
	}
	if entries, err := os.ReadDir(into); err != nil || len(entries) > 0 {
		return errors.Join(err, &usererr.Error{Field: "out", Problem: into + " is not empty", Fix: "name a new folder"})
	}
	terms, err := os.ReadFile(license)
	if err != nil {
		return &usererr.Error{Field: "license", Problem: err.Error(), Fix: "give the repository's LICENSE"}
	}
	made := map[string][]byte{}
	var linux []string
	for _, b := range binaries {
		if b.Platform.OS == "linux" {
			linux = append(linux, b.Path)
		}
		if made[b.name(v, ".tar.gz")], err = archive(b, terms, v.Date); err != nil {
			return err
		}
		if made[b.name(v, ".cdx.json")], err = image.BinarySBOM(b.Path, v.Number); err != nil {
			return err
		}
	}
	for _, base := range bases {
		index, err := imageOn(ctx, v, binaries, base, keychain)
		if err != nil {
			return err
		}
		written, err := registry.WriteLayout(index, filepath.Join(into, base.folder()))
		if err != nil {
			return err
		}
		_, digest, _ := strings.Cut(written, "@")
		if made[base.folder()+".cdx.json"], err = image.CommandSBOM("crossbill", digest, v.Number, base.Reference, linux...); err != nil {
			return err
		}
	}
	sums := sumsOf(made)
	made[formula] = homebrew(v, binaries, sums)
	if made[plugin], err = krew(v, binaries, sums); err != nil {
		return err
	}
	made[checksums] = sumFile(sumsOf(made))
	for name, content := range made {
		if err := os.WriteFile(filepath.Join(into, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// archive is a binary's, with the license.
func archive(b Binary, license []byte, modified time.Time) ([]byte, error) {
	binary, err := os.ReadFile(b.Path)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	if err := image.WriteArchive(zipped, []image.File{{Name: "LICENSE", Mode: 0o644, Content: license}, {Name: "crossbill", Mode: 0o755, Content: binary}}, modified); err != nil {
		return nil, err
	}
	if err := zipped.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// sumOf is the SHA-256 of a content as hex.
func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// sumsOf are those of files, by name.
func sumsOf(files map[string][]byte) map[string]string {
	sums := map[string]string{}
	for name, content := range files {
		sums[name] = sumOf(content)
	}
	return sums
}

// sumFile has sums in the form of sha256sum.
func sumFile(sums map[string]string) []byte {
	var text bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		fmt.Fprintf(&text, "%s  %s\n", sums[name], name)
	}
	return text.Bytes()
}

// imageOn is the image of the command on a base, for the platforms of Linux.
func imageOn(ctx context.Context, v *Version, binaries []Binary, base Base, keychain authn.Keychain) (v1.ImageIndex, error) {
	var images []v1.Image
	for _, b := range binaries {
		if b.Platform.OS != "linux" {
			continue
		}
		binary, err := os.ReadFile(b.Path)
		if err != nil {
			return nil, err
		}
		var below v1.Image
		if base.Reference != "" {
			if below, err = registry.PullPlatform(ctx, "base", base.Reference, b.Platform, keychain); err != nil {
				return nil, err
			}
		}
		built, err := image.Command(below, b.Platform, binary, v.labels(base.Reference))
		if err != nil {
			return nil, err
		}
		images = append(images, built)
	}
	return image.Index(images, v.labels(base.Reference))
}
