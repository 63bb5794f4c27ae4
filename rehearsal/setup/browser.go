package setup

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed package.json
var axePackages []byte

//go:embed package-lock.json
var axeLock []byte

// AxeCore is the program that audits a page's accessibility (https://github.com/dequelabs/axe-core), from the npm registry.
func AxeCore(ctx context.Context, log Log) (script string, err error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("axe-core-%.6x", sha256.Sum256(axeLock))
	path, err := ensure(ctx, cache, name, "node_modules/axe-core/axe.min.js", log, func(dir string) error {
		for name, text := range map[string][]byte{"package.json": axePackages, "package-lock.json": axeLock} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
				return err
			}
		}
		return run(ctx, dir, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	})
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(path)
	return string(text), err
}

// EnsureBrowser gives the path of a Chromium: one that is installed, else Debian's, which apt-get installs
// when this is root.
func EnsureBrowser(ctx context.Context, log Log) (string, error) {
	find := func() string {
		for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
			if path, err := exec.LookPath(name); err == nil {
				return path
			}
		}
		return ""
	}
	if path := find(); path != "" {
		return path, nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return "", errors.New("there is no chromium, and it cannot be installed here")
	}
	log("chromium: apt-get installs it")
	for _, args := range [][]string{{"update", "-q"}, {"install", "-q", "-y", "--no-install-recommends", "chromium"}} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if err := cmd.Run(); err != nil {
			return "", err
		}
	}
	if path := find(); path != "" {
		return path, nil
	}
	return "", errors.New("apt-get has installed chromium, but it is not found")
}
