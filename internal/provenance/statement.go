// Package custody ties an image's digest to the commit and the build that it comes from: statements about it,
// signed, attached to it in the registry, and checked before it is deployed. It promises that what Trust.Check
// lets through was signed by somebody whom the policy names, over that digest, and says which source it is of.
//
// Formats are those of the field, so that other tools can read and make them: in-toto statements v1
// (https://github.com/in-toto/attestation), SLSA provenance v1 (https://slsa.dev/spec/v1.0/provenance), CycloneDX 1.6,
// Sigstore bundles v0.3 as OCI referrers, where cosign and GitHub's attestations keep theirs.
package provenance

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Types of what a statement says.
const (
	ProvenanceType = "https://slsa.dev/provenance/v1"
	SignatureType  = "https://sigstore.dev/cosign/sign/v1" // no more than "I have signed this": cosign's
	statementType  = "https://in-toto.io/Statement/v1"
)

// Statement is an in-toto statement about one image.
type Statement struct {
	Type          string          `json:"_type"`
	Subject       []Subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

// Subject is what a statement is about.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// StatementOf says something of an image, which is named by digest.
func StatementOf(repository, digest, predicateType string, predicate any) ([]byte, error) {
	algorithm, value, ok := strings.Cut(digest, ":")
	if !ok {
		return nil, fmt.Errorf("%q is not a digest", digest)
	}
	said, err := json.Marshal(predicate)
	if err != nil {
		return nil, err
	}
	return json.Marshal(Statement{Type: statementType, Subject: []Subject{{Name: repository, Digest: map[string]string{algorithm: value}}}, PredicateType: predicateType, Predicate: said})
}

// Build is what there is to say of how an image came about.
type Build struct {
	Repository string    // of the source: https://…
	Ref        string    // refs/heads/main; "" if not known
	Commit     string    // of the source
	Builder    string    // who built: a URI
	Invocation string    // URL of the run; "" if there is none
	Base       string    // base image, by digest; "" if not known
	SBOM       string    // digest of the SBOM that is attached; "" for none
	Finished   time.Time // zero: not said
}

// Provenance is SLSA's, version 1.
type Provenance struct {
	BuildDefinition struct {
		BuildType            string               `json:"buildType"`
		ExternalParameters   map[string]any       `json:"externalParameters"`
		ResolvedDependencies []ResourceDescriptor `json:"resolvedDependencies,omitempty"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
		Metadata struct {
			InvocationID string     `json:"invocationId,omitempty"`
			FinishedOn   *time.Time `json:"finishedOn,omitempty"`
		} `json:"metadata,omitzero"`
		Byproducts []ResourceDescriptor `json:"byproducts,omitempty"`
	} `json:"runDetails"`
}

// ResourceDescriptor names an artifact (https://github.com/in-toto/attestation/blob/main/spec/v1/resource_descriptor.md).
type ResourceDescriptor struct {
	URI       string            `json:"uri,omitempty"`
	Name      string            `json:"name,omitempty"`
	Digest    map[string]string `json:"digest,omitempty"`
	MediaType string            `json:"mediaType,omitempty"`
}

// buildType says how to read the provenance that crossbill makes.
const buildType = "https://github.com/our-org/crossbill/blob/main/docs/provenance.md#provenance"

// ProvenanceOf is the provenance of a build.
func ProvenanceOf(b Build) Provenance {
	var p Provenance
	source := "git+" + b.Repository
	if b.Ref != "" {
		source += "@" + b.Ref
	}
	p.BuildDefinition.BuildType = buildType
	p.BuildDefinition.ExternalParameters = map[string]any{"source": map[string]string{"repository": b.Repository, "ref": b.Ref}}
	p.BuildDefinition.ResolvedDependencies = []ResourceDescriptor{{URI: source, Digest: map[string]string{"gitCommit": b.Commit}}}
	if repository, digest, ok := strings.Cut(b.Base, "@sha256:"); ok {
		p.BuildDefinition.ResolvedDependencies = append(p.BuildDefinition.ResolvedDependencies, ResourceDescriptor{URI: "oci://" + repository, Digest: map[string]string{"sha256": digest}})
	}
	p.RunDetails.Builder.ID = b.Builder
	p.RunDetails.Metadata.InvocationID = b.Invocation
	if !b.Finished.IsZero() {
		at := b.Finished.UTC()
		p.RunDetails.Metadata.FinishedOn = &at
	}
	if algorithm, value, ok := strings.Cut(b.SBOM, ":"); ok {
		p.RunDetails.Byproducts = []ResourceDescriptor{{Name: "sbom", MediaType: SBOMMediaType, Digest: map[string]string{algorithm: value}}}
	}
	return p
}

// Source is the repository and commit that an image was built from, as its provenance has it; "" if it does
// not say. GitHub's attestations and crossbill's have both in the first dependency with a commit.
func (p *Provenance) Source() (repository, commit string) {
	for _, d := range p.BuildDefinition.ResolvedDependencies {
		if commit := d.Digest["gitCommit"]; commit != "" {
			repository, _, _ := strings.Cut(strings.TrimPrefix(d.URI, "git+"), "@")
			return strings.TrimSuffix(repository, ".git"), commit
		}
	}
	return "", ""
}
