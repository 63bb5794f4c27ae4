package provenance

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/our-org/crossbill/internal/httpclient"
	"github.com/our-org/crossbill/internal/httpretry"
	"github.com/our-org/crossbill/internal/usererr"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"
)

// Signer signs statements, with a key or as a GitHub workflow.
type Signer struct {
	keypair sign.Keypair
	options sign.BundleOptions
}

// NewKeySigner signs with a private key: PEM, PKCS #8, PKCS #1 or SEC 1, not encrypted; ECDSA on P-256, RSA or Ed25519.
func NewKeySigner(text []byte) (*Signer, error) {
	invalid := func(problem string) error {
		return &usererr.Error{Field: "keyFile", Problem: problem, Fix: "give an unencrypted private key as PEM, for example of `openssl ecparam -genkey -name prime256v1 -noout`"}
	}
	key, err := cryptoutils.UnmarshalPEMToPrivateKey(text, cryptoutils.SkipPassword)
	if err != nil {
		return nil, invalid("it does not hold a private key that can be read") // without err, which may quote the key
	}
	pair := &keypair{}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		if key.Curve.Params().BitSize != 256 {
			return nil, invalid("its curve is " + key.Curve.Params().Name)
		}
		pair.signer, pair.name, pair.algorithm = key, "ECDSA", protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256
	case *rsa.PrivateKey:
		details, ok := map[int]protocommon.PublicKeyDetails{2048: protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256, 3072: protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256, 4096: protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256}[key.N.BitLen()]
		if !ok {
			return nil, invalid(fmt.Sprintf("it is an RSA key of %d bits", key.N.BitLen()))
		}
		pair.signer, pair.name, pair.algorithm = key, "RSA", details
	case ed25519.PrivateKey:
		pair.signer, pair.name, pair.algorithm = key, "ED25519", protocommon.PublicKeyDetails_PKIX_ED25519
	default:
		return nil, invalid(fmt.Sprintf("it holds a %T", key))
	}
	return &Signer{keypair: pair}, nil
}

// keypair is a private key as sigstore-go wants it.
type keypair struct {
	signer    crypto.Signer
	name      string
	algorithm protocommon.PublicKeyDetails
}

func (k *keypair) GetHashAlgorithm() protocommon.HashAlgorithm {
	return protocommon.HashAlgorithm_SHA2_256
}
func (k *keypair) GetSigningAlgorithm() protocommon.PublicKeyDetails { return k.algorithm }
func (k *keypair) GetKeyAlgorithm() string                           { return k.name }
func (k *keypair) GetPublicKey() crypto.PublicKey                    { return k.signer.Public() }

func (k *keypair) GetHint() []byte { return []byte(fingerprint(k.signer.Public())) }

// fingerprint is the name that cosign gives a key; "" for a kind of key that has none.
func fingerprint(key crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (k *keypair) GetPublicKeyPem() (string, error) {
	text, err := cryptoutils.MarshalPublicKeyToPEM(k.signer.Public())
	return string(text), err
}

func (k *keypair) SignData(_ context.Context, data []byte) (signature, signed []byte, err error) {
	if k.name == "ED25519" {
		signature, err = k.signer.Sign(rand.Reader, data, crypto.Hash(0))
		return signature, data, err
	}
	sum := sha256.Sum256(data)
	signature, err = k.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	return signature, sum[:], err
}

// Sigstore's public services (https://docs.sigstore.dev/about/overview/).
const (
	PublicFulcio = "https://fulcio.sigstore.dev"
	PublicRekor  = "https://rekor.sigstore.dev"
)

// NewKeylessSigner signs as the GitHub workflow that runs this: with a key of one minute that Fulcio certifies as the
// workflow's, and an entry in Rekor's public log. The job needs `id-token: write`.
func NewKeylessSigner(ctx context.Context, fulcio, rekor string) (*Signer, error) {
	token, err := gitHubToken(ctx)
	if err != nil {
		return nil, err
	}
	pair, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		return nil, err
	}
	return &Signer{keypair: pair, options: sign.BundleOptions{
		CertificateProvider:        sign.NewFulcio(&sign.FulcioOptions{BaseURL: fulcio, Timeout: 30 * time.Second, Retries: 3, Transport: httpclient.Guard{MaxAnswer: httpclient.MaxAnswer}}),
		CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: token},
		TransparencyLogs:           []sign.Transparency{sign.NewRekor(&sign.RekorOptions{BaseURL: rekor, Timeout: 90 * time.Second, Retries: 3})},
	}}, nil
}

// gitHubToken is the identity token that the runner gives
// (https://docs.github.com/actions/reference/security/oidc#methods-for-requesting-the-oidc-token).
func gitHubToken(ctx context.Context) (string, error) {
	address, bearer := os.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), os.Getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if address == "" || bearer == "" {
		return "", &usererr.Error{Field: "keyless", Problem: "there is no identity: ACTIONS_ID_TOKEN_REQUEST_URL is not set", Fix: "give the GitHub job `permissions: id-token: write`, or sign with a key"}
	}
	at, err := url.Parse(address)
	if err != nil {
		return "", &usererr.Error{Field: "ACTIONS_ID_TOKEN_REQUEST_URL", Problem: "it is not a URL"}
	}
	query := at.Query()
	query.Set("audience", "sigstore")
	at.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+bearer)
	response, err := httpretry.Client(nil).Do(request)
	if err != nil {
		return "", fmt.Errorf("GitHub's identity token: %w", err)
	}
	defer response.Body.Close()
	var answer struct {
		Value string `json:"value"`
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GitHub's identity token: answered %s", response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return "", fmt.Errorf("GitHub's identity token: %w", err)
	}
	if answer.Value == "" {
		return "", errors.New("GitHub's identity token: the answer has none")
	}
	return answer.Value, nil
}

// sign signs a statement and returns a Sigstore bundle.
func (s *Signer) sign(ctx context.Context, statement []byte) ([]byte, error) {
	return s.bundle(ctx, &sign.DSSEData{Data: statement, PayloadType: bundle.IntotoMediaType})
}

// bundle signs content of either kind.
func (s *Signer) bundle(ctx context.Context, content sign.Content) ([]byte, error) {
	options := s.options
	options.Context = ctx
	signed, err := sign.Bundle(content, s.keypair, options)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return protojson.Marshal(signed)
}
