package nodebase

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// TestAProgramRunsInTheImage assembles the image around a small dynamic program instead of Node, and
// runs it with nothing but the image's files.
func TestAProgramRunsInTheImage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("chroot needs root")
	}
	const program = "/bin/ls"
	image, err := Build(program)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Build(program)
	if err != nil {
		t.Fatal(err)
	}
	one, _ := image.Digest()
	two, _ := again.Digest()
	if one != two {
		t.Errorf("two builds: %s and %s", one, two)
	}
	root := t.TempDir()
	content := mutate.Extract(image)
	defer content.Close()
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(root, h.Name)
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(target, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/"+nodePath, "/etc")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "group\nnsswitch.conf\npasswd\nssl\n" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestMissingLibrary(t *testing.T) {
	if _, err := locate("libnowhere.so.9"); err == nil {
		t.Error("it is found")
	}
}
