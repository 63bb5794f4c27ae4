package image

import (
	"bytes"
	"encoding/pem"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// commandPath is where an image has the crossbill command. Its folder is in the PATH of every usual base.
const commandPath = "usr/local/bin/crossbill"

// Command is the image of the crossbill command for a platform: a static binary on a base. Without a base (nil) it has nothing else
// but the root certificates of Mozilla's list and the name of its user, and no shell. It runs as User, and writes nothing.
func Command(base v1.Image, platform v1.Platform, binary []byte, labels Labels) (v1.Image, error) {
	files := []File{{Name: commandPath, Mode: 0o755, Content: binary}}
	if base == nil {
		base = empty.Image
		files = append([]File{
			{Name: "etc/group", Mode: 0o644, Content: []byte("root:x:0:\nnonroot:x:65532:\n")},
			{Name: "etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n")},
			{Name: "etc/ssl/certs/ca-certificates.crt", Mode: 0o644, Content: certificates()},
		}, files...)
	}
	var archive bytes.Buffer
	if err := WriteArchive(&archive, files, labels.created()); err != nil {
		return nil, fmt.Errorf("layer of the command: %w", err)
	}
	layer, err := layerIn(&archive)
	if err != nil {
		return nil, fmt.Errorf("layer of the command: %w", err)
	}
	configured := func(was *v1.ConfigFile, labels Labels) *v1.ConfigFile {
		config := was.DeepCopy()
		config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
		config.Created = v1.Time{Time: labels.created()}
		config.Config.User = User
		config.Config.Entrypoint, config.Config.Cmd = []string{"/" + commandPath}, nil
		config.Config.Env = withEnv(config.Config.Env, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
		config.Config.Labels = labels.annotations()
		return config
	}
	return build(base, labels, configured, addendum(layer, labels, "make dist"))
}

// certificates are the roots that Mozilla trusts, but for those that it trusts under conditions, which a file of certificates
// cannot say.
func certificates() []byte {
	var text []byte
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})...)
		}
	}
	return text
}
