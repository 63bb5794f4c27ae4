// Package provenance ties an image's digest to the commit and the build that it comes from: signed statements about
// the image, attached to it in the registry, and verified before it is deployed. An image that Verifier.Verify admits has a
// provenance about its digest that somebody whom the policy names has signed, and that names the policy's repository.
//
// Formats are those of the field, so that other tools read and write them: in-toto statements v1
// (https://github.com/in-toto/attestation), SLSA provenance v1 (https://slsa.dev/spec/v1.0/provenance), Sigstore bundles
// v0.3 as OCI referrers, where cosign and GitHub's attestations keep theirs.
package provenance

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Types of predicates.
const (
	provenanceType = "https://slsa.dev/provenance/v1"
	signatureType  = "https://sigstore.dev/cosign/sign/v1" // cosign's: it has no content
)

// buildType says how to read the provenance that crossbill makes.
const buildType = "https://github.com/our-org/crossbill/blob/main/docs/guides/provenance.md#build-type"

// Build describes how an image was built.
type Build struct {
	Repository string    // of the source: https://…
	Ref        string    // refs/heads/main; "" if not known
	Commit     string    // of the source
	Builder    string    // who built: a URI
	Invocation string    // URL of the run; "" if there is none
	Base       string    // base image, by digest; "" if not known
	AssetsOf   string    // image whose assets are included, by digest; "" for none
	Image      string    // that a bundle names, by digest; "" of an image
	SBOM       string    // digest of the SBOM that is attached; "" for none
	FinishedAt time.Time // zero: not known
}

// FillIn completes a build by GitHub's variables, where it runs in a workflow
// (https://docs.github.com/actions/reference/workflows-and-actions/variables).
func (b *Build) FillIn(env func(string) string) {
	fill := func(field *string, value string) { *field = cmp.Or(*field, value) }
	server, repository := env("GITHUB_SERVER_URL"), env("GITHUB_REPOSITORY")
	if env("GITHUB_ACTIONS") == "true" && repository != "" {
		fill(&b.Repository, server+"/"+repository)
		fill(&b.Ref, env("GITHUB_REF"))
		fill(&b.Builder, server+"/"+env("GITHUB_WORKFLOW_REF"))
		fill(&b.Invocation, server+"/"+repository+"/actions/runs/"+env("GITHUB_RUN_ID"))
	}
	fill(&b.Builder, "https://github.com/our-org/crossbill/laptop")
}

// provenance describes the build in SLSA's terms.
func (b Build) provenance() (*slsa.Provenance, error) {
	parameters, err := structpb.NewStruct(map[string]any{"source": map[string]any{"repository": b.Repository, "ref": b.Ref}})
	if err != nil {
		return nil, err
	}
	source := "git+" + b.Repository
	if b.Ref != "" {
		source += "@" + b.Ref
	}
	dependencies := []*intoto.ResourceDescriptor{{Uri: source, Digest: map[string]string{"gitCommit": b.Commit}}}
	for _, image := range []struct{ name, reference string }{{"", b.Base}, {"assets", b.AssetsOf}, {"image", b.Image}} {
		if repository, digest, ok := strings.Cut(image.reference, "@sha256:"); ok {
			dependencies = append(dependencies, &intoto.ResourceDescriptor{Name: image.name, Uri: "oci://" + repository, Digest: map[string]string{"sha256": digest}})
		}
	}
	details := &slsa.RunDetails{Builder: &slsa.Builder{Id: b.Builder}}
	if b.Invocation != "" || !b.FinishedAt.IsZero() {
		details.Metadata = &slsa.BuildMetadata{InvocationId: b.Invocation}
	}
	if !b.FinishedAt.IsZero() {
		details.Metadata.FinishedOn = timestamppb.New(b.FinishedAt)
	}
	if algorithm, value, ok := strings.Cut(b.SBOM, ":"); ok {
		details.Byproducts = []*intoto.ResourceDescriptor{{Name: "sbom", MediaType: sbomMediaType, Digest: map[string]string{algorithm: value}}}
	}
	return &slsa.Provenance{
		BuildDefinition: &slsa.BuildDefinition{BuildType: buildType, ExternalParameters: parameters, ResolvedDependencies: dependencies},
		RunDetails:      details,
	}, nil
}

// statement is the JSON of a statement about an image, which is named by digest. A nil predicate is an empty one.
func statement(repository, digest, predicateType string, predicate proto.Message) ([]byte, error) {
	algorithm, value, ok := strings.Cut(digest, ":")
	if !ok {
		return nil, fmt.Errorf("%q is not a digest", digest)
	}
	return statementAbout([]*intoto.ResourceDescriptor{{Name: repository, Digest: map[string]string{algorithm: value}}}, predicateType, predicate)
}

// statementAbout is the same about whatever has a digest.
func statementAbout(about []*intoto.ResourceDescriptor, predicateType string, predicate proto.Message) ([]byte, error) {
	content := &structpb.Struct{}
	if predicate != nil {
		text, err := protojson.Marshal(predicate)
		if err == nil {
			err = protojson.Unmarshal(text, content)
		}
		if err != nil {
			return nil, err
		}
	}
	text, err := protojson.Marshal(&intoto.Statement{
		Type:          intoto.StatementTypeUri,
		Subject:       about,
		PredicateType: predicateType,
		Predicate:     content,
	})
	if err != nil {
		return nil, err
	}
	var compact bytes.Buffer // protojson varies its spaces on purpose
	err = json.Compact(&compact, text)
	return compact.Bytes(), err
}

// unverified is the statement of a bundle, whoever signed it.
func unverified(entity verify.SignedEntity) (*intoto.Statement, error) {
	content, err := entity.SignatureContent()
	if err != nil {
		return nil, err
	}
	envelope := content.EnvelopeContent()
	if envelope == nil {
		return nil, errors.New("it signs no statement")
	}
	return envelope.Statement()
}
