// Package signing makes the key that a rehearsal's pipeline signs images with, and the policy that trusts it.
package signing

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/provenance"
)

// Key writes a private key into a file in dir, and gives the policy (trust.yaml) that admits images which were
// built from the repository and signed by it.
func Key(dir, repository string) (file, policy string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", "", err
	}
	file = filepath.Join(dir, "signing.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		return "", "", err
	}
	text, err := yaml.Marshal(provenance.Policy{Repository: repository, Keys: []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))}})
	return file, string(text), err
}
