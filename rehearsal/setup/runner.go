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

// inFolder is a script that runs a program of an unpacked Debian package beside it.
func inFolder(program string) string {
	return `#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/../debian
LD_LIBRARY_PATH=$(echo "$here"/usr/lib/*-linux-gnu*) exec "$here/usr/bin/` + program + `" "$@"
`
}

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
		if err := os.WriteFile(filepath.Join(bin, "rsync"), []byte(inFolder("rsync")), 0o755); err != nil {
			return err
		}
		if err := verify(ctx, filepath.Join(bin, "rsync"), "--version"); err != nil {
			return err
		}
	}
	return verify(ctx, filepath.Join(bin, "gitlab-ci-local"), "--version")
}

const actVersion = "v0.2.89"

// EnsureAct returns a folder to put before PATH: it has act, which runs GitHub workflows, and jq where
// this machine has none.
func EnsureAct(ctx context.Context, log Log) (string, error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	program, err := ensure(ctx, cache, "act-"+actVersion, "bin/act", log, func(dir string) error {
		return fetchAct(ctx, dir, log)
	})
	return filepath.Dir(program), err
}

func fetchAct(ctx context.Context, dir string, log Log) error {
	log("building act %s from its Go module, about a minute", actVersion)
	bin := filepath.Join(dir, "bin")
	install := exec.CommandContext(ctx, "go", "install", "github.com/nektos/act@"+actVersion)
	install.Dir = dir
	install.Env = append(os.Environ(), "GOBIN="+bin, "GOWORK=off")
	if out, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("go install act: %w\n%s", err, out)
	}
	if _, err := exec.LookPath("jq"); err != nil {
		log("fetching jq: Debian's package (nothing is installed)")
		if err := unpackDebian(ctx, filepath.Join(dir, "debian"), log, []string{"jq", "libjq1", "libonig5"}, nil); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(bin, "jq"), []byte(inFolder("jq")), 0o755); err != nil {
			return err
		}
		if err := verify(ctx, filepath.Join(bin, "jq"), "--version"); err != nil {
			return err
		}
	}
	return verify(ctx, filepath.Join(bin, "act"), "--version")
}
