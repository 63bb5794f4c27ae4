package setup

import (
	"context"
	"errors"
	"os"
	"os/exec"
)

// EnsureBrowser gives the path of a Chromium: one that is installed, else Debian's, which apt-get installs
// when this is root.
func EnsureBrowser(ctx context.Context, log func(format string, args ...any)) (string, error) {
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
