package setup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// runnerVersion names the folder of the runner in the cache; its packages are in gitlab/runner.
const runnerVersion = "gitlab-ci-local-4.70.0"

// rsyncInFolder runs the rsync that was unpacked beside it.
const rsyncInFolder = `#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/../debian
LD_LIBRARY_PATH=$(echo "$here"/usr/lib/*-linux-gnu*) exec "$here/usr/bin/rsync" "$@"
`

// EnsureRunner returns a folder to put before PATH: it has gitlab-ci-local, and the rsync that this
// needs where there is none. module is as for Ensure.
func EnsureRunner(ctx context.Context, module string, log Log) (string, error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	if module == "" {
		if module, err = findModule(); err != nil {
			return "", err
		}
	}
	program, err := ensure(ctx, cache, runnerVersion, "bin/gitlab-ci-local", log, func(dir string) error {
		return fetchRunner(ctx, filepath.Join(module, "gitlab", "runner"), dir, log)
	})
	return filepath.Dir(program), err
}

func fetchRunner(ctx context.Context, packages, dir string, log Log) error {
	for _, tool := range []string{"npm", "git", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing: the rehearsal's GitLab jobs need it", tool)
		}
	}
	log("fetching gitlab-ci-local from the npm registry, about 5 MB")
	for _, name := range []string{"package.json", "package-lock.json"} {
		text, err := os.ReadFile(filepath.Join(packages, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	if err := run(ctx, dir, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"); err != nil {
		return err
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	if err := os.Symlink("../node_modules/.bin/gitlab-ci-local", filepath.Join(bin, "gitlab-ci-local")); err != nil {
		return err
	}
	if _, err := exec.LookPath("rsync"); err != nil {
		log("fetching rsync for it: Debian's package (nothing is installed)")
		if err := unpackDebian(ctx, filepath.Join(dir, "debian"), log, []string{"rsync"}, []string{"libpopt0"}); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(bin, "rsync"), []byte(rsyncInFolder), 0o755); err != nil {
			return err
		}
		if err := verify(ctx, filepath.Join(bin, "rsync"), "--version"); err != nil {
			return err
		}
	}
	return verify(ctx, filepath.Join(bin, "gitlab-ci-local"), "--version")
}
