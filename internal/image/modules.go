package image

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// BinarySBOM lists what a binary that Go has built is made of (CycloneDX 1.6): the modules in it, each with the hash in go.sum, and
// Go's own library. version is the binary's own.
func BinarySBOM(file, version string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("SBOM: %w", err)
	}
	info, components, err := modules(file)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	of := module(info.Main.Path, version)
	of.Type, of.Hashes = cdx.ComponentTypeApplication, &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}}
	return listing(of, slices.Collect(maps.Values(components)))
}

// CommandSBOM lists what is in an image of the crossbill command, for all of its platforms: that of each binary, and the base image,
// by digest; "" for none.
func CommandSBOM(repository, digest, version, base string, binaries ...string) ([]byte, error) {
	all := map[string]cdx.Component{}
	for _, file := range binaries {
		info, components, err := modules(file)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, components)
		own := module(info.Main.Path, version)
		all[own.BOMRef] = own
	}
	if name, digest, ok := strings.Cut(base, "@"); ok {
		on := ofImage(name, digest)
		all[on.BOMRef] = on
	}
	return listing(ofImage(repository, digest), slices.Collect(maps.Values(all)))
}

// modules are what a binary was built from, by their package URLs.
func modules(file string) (*debug.BuildInfo, map[string]cdx.Component, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("SBOM: %s: %w", file, err)
	}
	standard := module("stdlib", strings.TrimPrefix(info.GoVersion, "go"))
	components := map[string]cdx.Component{standard.BOMRef: standard}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c := module(m.Path, m.Version)
		// As cyclonedx-gomod has it: the hash of the list of the module's files (https://go.dev/ref/mod#go-sum-files).
		if encoded, ok := strings.CutPrefix(m.Sum, "h1:"); ok {
			sum, err := base64.StdEncoding.DecodeString(encoded)
			if err != nil {
				return nil, nil, fmt.Errorf("SBOM: %s: %s: %w", file, m.Path, err)
			}
			c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum)}}
		}
		components[c.BOMRef] = c
	}
	return info, components, nil
}

// module is a Go module as a component.
func module(path, version string) cdx.Component {
	url := "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
	return cdx.Component{Type: cdx.ComponentTypeLibrary, BOMRef: url, PackageURL: url, Name: path, Version: version}
}
