package provenance

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// AttestFiles signs one provenance of all files of a build: their SHA-256 as hex, by name. The result is a Sigstore bundle, which
// `cosign verify-blob-attestation` reads as well.
func AttestFiles(ctx context.Context, signer *Signer, files map[string]string, build Build) ([]byte, error) {
	var about []*intoto.ResourceDescriptor
	for _, name := range slices.Sorted(maps.Keys(files)) {
		about = append(about, &intoto.ResourceDescriptor{Name: name, Digest: map[string]string{"sha256": files[name]}})
	}
	predicate, err := build.provenance()
	if err != nil {
		return nil, err
	}
	text, err := statementAbout(about, provenanceType, predicate)
	if err != nil {
		return nil, err
	}
	return signer.sign(ctx, text)
}

// SignFile signs a file's content. The result is a Sigstore bundle, as `cosign sign-blob` makes it.
func SignFile(ctx context.Context, signer *Signer, content []byte) ([]byte, error) {
	return signer.bundle(ctx, &sign.PlainData{Data: content})
}

// VerifyFile says where a file comes from, which is named by its SHA-256 as hex, by a bundle of AttestFiles. The error says why the
// policy does not accept it.
func (v *Verifier) VerifyFile(provenance []byte, sha256 string, want Wanted) (*Origin, error) {
	entity, err := parseBundle(provenance)
	if err != nil {
		return nil, fmt.Errorf("it is not a Sigstore bundle: %w", err)
	}
	return v.accept(entity, "sha256:"+sha256, want)
}

// VerifyContent says who has signed a file's content, by a bundle of SignFile. The error says that it is none of the policy's
// signers.
func (v *Verifier) VerifyContent(signature, content []byte) (signedBy string, err error) {
	entity, err := parseBundle(signature)
	if err != nil {
		return "", fmt.Errorf("it is not a Sigstore bundle: %w", err)
	}
	_, signedBy, err = v.verifySignature(entity, verify.WithArtifact(bytes.NewReader(content)))
	return signedBy, err
}
