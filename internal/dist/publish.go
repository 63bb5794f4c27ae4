package dist

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/usererr"
)

// What Publish adds to the folder: Sigstore bundles, and the images as repository:tag@digest, one a line.
const (
	signature = checksums + ".sigstore.json" // of the checksums
	statement = "provenance.sigstore.json"   // about every file
	pushed    = "images.txt"
)

// Publish pushes the images of a folder that Write has written to a repository, and attaches to each its SBOM, a signed provenance,
// and a signature; and signs the folder's files. build says who builds, of which ref and when; the rest is the version's. It returns
// the images as repository:tag@digest. It can be repeated after an error.
func Publish(ctx context.Context, folder, repository string, signer *provenance.Signer, build provenance.Build, keychain authn.Keychain) ([]string, error) {
	if _, err := name.NewRepository(repository, name.StrictValidation); err != nil {
		return nil, &usererr.Error{Field: "push", Problem: fmt.Sprintf("%q is not a repository", repository), Fix: "give registry/repository, without a tag"}
	}
	sums, err := readSums(folder)
	if err != nil {
		return nil, err
	}
	if err := checkSums(folder, sums, false); err != nil {
		return nil, err
	}
	layouts, err := filepath.Glob(filepath.Join(folder, "image*", "index.json"))
	if err != nil || len(layouts) == 0 {
		return nil, &usererr.Error{Field: "dist", Problem: folder + " has no image", Fix: "make it with `make dist`"}
	}
	var images []string
	for _, at := range layouts {
		reference, labels, err := publishImage(ctx, filepath.Dir(at), repository, signer, build, keychain)
		if err != nil {
			return nil, err
		}
		images = append(images, reference)
		build.Repository, build.Commit = labels.source, labels.commit
	}
	return images, signFiles(ctx, folder, sums, images, signer, build)
}

// described is what an image says of its version.
type described struct {
	version, commit, source, base string
}

// readImage reads the one image of a layout.
func readImage(at string) (index v1.ImageIndex, d described, err error) {
	outer, err := layout.ImageIndexFromPath(at)
	if err != nil {
		return nil, d, err
	}
	listed, err := outer.IndexManifest()
	if err != nil {
		return nil, d, err
	}
	if len(listed.Manifests) != 1 {
		return nil, d, fmt.Errorf("it has %d images", len(listed.Manifests))
	}
	if index, err = outer.ImageIndex(listed.Manifests[0].Digest); err != nil {
		return nil, d, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, d, err
	}
	says := func(what string) string { return manifest.Annotations["org.opencontainers.image."+what] }
	return index, described{version: says("version"), commit: says("revision"), source: says("source"), base: says("base.name")}, nil
}

// publishImage pushes the image of a layout, and attaches what belongs to it.
func publishImage(ctx context.Context, at, repository string, signer *provenance.Signer, build provenance.Build, keychain authn.Keychain) (string, described, error) {
	index, d, err := readImage(at)
	if err != nil {
		return "", d, &usererr.Error{Field: "dist", Problem: fmt.Sprintf("%s: %v", at, err), Fix: "make it again with `make dist`"}
	}
	if strings.HasSuffix(d.version, dirty) {
		return "", d, &usererr.Error{Field: "dist", Problem: fmt.Sprintf("version %s has changes that are in no commit", d.version), Fix: "commit them, and make it again with `make dist`"}
	}
	sbom, err := os.ReadFile(at + ".cdx.json")
	if err != nil {
		return "", d, &usererr.Error{Field: "dist", Problem: err.Error(), Fix: "make it again with `make dist`"}
	}
	tag := repository + ":" + d.version + strings.TrimPrefix(filepath.Base(at), "image")
	reference, err := registry.Push(ctx, index, tag, keychain)
	if err != nil {
		return "", d, err
	}
	digest, err := name.NewDigest(reference)
	if err != nil {
		return "", d, err
	}
	build.Repository, build.Commit, build.Base = d.source, d.commit, d.base
	_, err = provenance.Attest(ctx, signer, digest.Context().Digest(digest.DigestStr()), build, sbom, build.FinishedAt, registry.Options(ctx, keychain)...)
	return reference, d, err
}

// signFiles signs the files that have sums, and the file with the sums.
func signFiles(ctx context.Context, folder string, sums map[string]string, images []string, signer *provenance.Signer, build provenance.Build) error {
	listed, err := os.ReadFile(filepath.Join(folder, checksums))
	if err != nil {
		return err
	}
	signed, err := provenance.SignFile(ctx, signer, listed)
	if err != nil {
		return err
	}
	all := maps.Clone(sums)
	all[checksums] = sumOf(listed)
	about, err := provenance.AttestFiles(ctx, signer, all, build)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{signature: signed, statement: about, pushed: []byte(strings.Join(images, "\n") + "\n")} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

var sumLine = regexp.MustCompile(`^([0-9a-f]{64})  ([A-Za-z0-9._-]+)$`)

// readSums reads the checksums in a folder: SHA-256 as hex, by file.
func readSums(folder string) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(folder, checksums))
	if err != nil {
		return nil, &usererr.Error{Field: "dist", Problem: err.Error(), Fix: "give the folder with what was published"}
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(text)) {
		match := sumLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if match == nil {
			return nil, &usererr.Error{Field: "dist", Problem: fmt.Sprintf("%s has the line %q", checksums, line), Fix: "get it again"}
		}
		sums[match[2]] = match[1]
	}
	return sums, nil
}

// checkSums holds the files of a folder to their sums. With some, one that is missing is as good.
func checkSums(folder string, sums map[string]string, some bool) error {
	var wrong error
	for _, file := range slices.Sorted(maps.Keys(sums)) {
		content, err := os.ReadFile(filepath.Join(folder, file))
		switch {
		case errors.Is(err, fs.ErrNotExist) && some:
		case err != nil:
			wrong = cmp.Or(wrong, err)
		case sumOf(content) != sums[file]:
			wrong = cmp.Or(wrong, error(&usererr.Error{Field: "dist", Problem: fmt.Sprintf("%s is not the file that %s has", file, checksums), Fix: "get or make it again"}))
		}
	}
	return wrong
}

// Verify says where the files in a folder come from, which were published and fetched: all of them, or some beside checksums.txt and
// what signs it. The policy is as for images. The error says which file is not what was published.
func Verify(policy *provenance.Verifier, folder string, want provenance.Wanted) (*provenance.Origin, error) {
	content := map[string][]byte{}
	for _, file := range []string{checksums, signature, statement} {
		text, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil {
			return nil, &usererr.Error{Field: "dist", Problem: err.Error(), Fix: "fetch it beside the other files"}
		}
		content[file] = text
	}
	if _, err := policy.VerifyContent(content[signature], content[checksums]); err != nil {
		return nil, fmt.Errorf("%s: %w", checksums, err)
	}
	origin, err := policy.VerifyFile(content[statement], sumOf(content[checksums]), want)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", checksums, err)
	}
	sums, err := readSums(folder)
	if err != nil {
		return nil, err
	}
	return origin, checkSums(folder, sums, true)
}
