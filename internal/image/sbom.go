package image

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/our-org/crossbill/internal/usererr"
	"sigs.k8s.io/yaml"
)

// bundles are the bundler's own lists of what is in dist and in server, below the app's folder.
var bundles = []string{"sbom/dist.cdx.json", "sbom/server.cdx.json"}

// SBOM lists what is inside an image (CycloneDX 1.6): each package of the bundles, as the bundler saw it, with the hash
// that the lockfile has of it, and the base image. The same build gives the same bytes.
func SBOM(appDir, repository, digest, base string) ([]byte, error) {
	components, err := packages(appDir)
	if err != nil {
		return nil, err
	}
	if repository, digest, ok := strings.Cut(base, "@"); ok {
		url := purl(repository, digest)
		components = append(components, cdx.Component{Type: cdx.ComponentTypeContainer, BOMRef: url, PackageURL: url, Name: repository, Version: digest})
	}
	return listing(ofImage(repository, digest), components)
}

// ofImage is an image as the subject of a list.
func ofImage(repository, digest string) cdx.Component {
	image := purl(repository, digest)
	return cdx.Component{Type: cdx.ComponentTypeContainer, BOMRef: image, Name: repository, Version: digest, PackageURL: image}
}

// listing is the list of what is inside something.
func listing(of cdx.Component, components []cdx.Component) ([]byte, error) {
	slices.SortFunc(components, func(a, b cdx.Component) int { return strings.Compare(a.BOMRef, b.BOMRef) })
	refs := []string{}
	for _, c := range components {
		refs = append(refs, c.BOMRef)
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &of}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: of.BOMRef, Dependencies: &refs}}
	var text bytes.Buffer
	if err := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return nil, fmt.Errorf("SBOM: %w", err)
	}
	return text.Bytes(), nil
}

// packages are those of the bundles, each once.
func packages(appDir string) ([]cdx.Component, error) {
	hashes, err := integrity(filepath.Join(appDir, "pnpm-lock.yaml"))
	if err != nil {
		return nil, err
	}
	found := map[string]cdx.Component{}
	for _, file := range bundles {
		listed, err := bundled(filepath.Join(appDir, file))
		if err != nil {
			return nil, err
		}
		for _, c := range listed {
			key := c.Name + "@" + c.Version
			if c.Group != "" {
				key = c.Group + "/" + key
			}
			hash, ok := hashes[key]
			if !ok {
				return nil, &usererr.Error{Field: file, Problem: key + " is in the bundle but not in pnpm-lock.yaml", Fix: "install from the lockfile, and build again"}
			}
			url := "pkg:npm/" + strings.Replace(key, "@", "%40", strings.Count(key, "@")-1)
			found[key] = cdx.Component{
				Type: cdx.ComponentTypeLibrary, BOMRef: url, PackageURL: url,
				Group: c.Group, Name: c.Name, Version: c.Version, Licenses: c.Licenses, Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA512, Value: hash}},
			}
		}
	}
	return slices.Collect(maps.Values(found)), nil
}

// purl is an image's package URL (https://github.com/package-url/purl-spec).
func purl(repository, digest string) string {
	base := repository[strings.LastIndex(repository, "/")+1:]
	base, _, _ = strings.Cut(base, ":") // a tag
	url := fmt.Sprintf("pkg:oci/%s@%s", base, strings.Replace(digest, ":", "%3A", 1))
	if base == repository { // it is in no registry yet
		return url
	}
	return url + "?repository_url=" + repository
}

// bundled reads one of the bundler's lists.
func bundled(file string) ([]cdx.Component, error) {
	text, err := os.Open(file)
	if err != nil {
		return nil, &usererr.Error{Field: "image.appDir", Problem: err.Error(), Fix: "build the app first: `pnpm build` in that folder"}
	}
	defer text.Close()
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(text, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		return nil, &usererr.Error{Field: file, Problem: err.Error(), Fix: "build the app again"}
	}
	if bom.Components == nil || len(*bom.Components) == 0 {
		return nil, &usererr.Error{Field: file, Problem: "it lists nothing", Fix: "build the app again"}
	}
	return *bom.Components, nil
}

// integrity returns the SHA-512 of each package in pnpm's lockfile, as hex, by name@version.
func integrity(file string) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, &usererr.Error{Field: "image.appDir", Problem: err.Error(), Fix: "give the folder with the app's lockfile"}
	}
	var lock struct {
		Packages map[string]struct {
			Resolution struct {
				Integrity string `json:"integrity"`
			} `json:"resolution"`
		} `json:"packages"`
	}
	if err := yaml.Unmarshal(text, &lock); err != nil {
		return nil, &usererr.Error{Field: file, Problem: err.Error()}
	}
	hashes := map[string]string{}
	for key, p := range lock.Packages {
		encoded, ok := strings.CutPrefix(p.Resolution.Integrity, "sha512-")
		if !ok {
			continue // another kind of hash or of source: an error only when the package is in the bundle
		}
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, &usererr.Error{Field: file, Problem: fmt.Sprintf("%s: %v", key, err)}
		}
		hashes[key] = hex.EncodeToString(raw)
	}
	if len(hashes) == 0 {
		return nil, &usererr.Error{Field: file, Problem: "it has no packages"}
	}
	return hashes, nil
}
