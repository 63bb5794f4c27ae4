package setup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/mod/modfile"
)

const gitlabRunner = "gitlab.com/gitlab-org/gitlab-runner"

// EnsureGitLabRunner returns the path of GitLab's own runner, after building it if it is not in the cache yet: 2 to 5
// minutes on two cores the first time. module is as for Ensure.
func EnsureGitLabRunner(ctx context.Context, module string, log Log) (string, error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	if module == "" {
		if module, err = findModule(); err != nil {
			return "", err
		}
	}
	module = filepath.Join(module, "runner")
	name, err := gitlabRunnerName(module)
	if err != nil {
		return "", err
	}
	return ensure(ctx, cache, name, "gitlab-runner", log, func(dir string) error {
		return buildGitLabRunner(ctx, module, dir, log)
	})
}

// gitlabRunnerName is the name of its folder in the cache. It changes with every file of the module: the versions, and the
// stand-ins.
func gitlabRunnerName(module string) (string, error) {
	path := filepath.Join(module, "go.mod")
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	mod, err := modfile.Parse(path, b, nil)
	if err != nil {
		return "", err
	}
	version := ""
	for _, r := range mod.Require {
		if r.Mod.Path == gitlabRunner {
			version = r.Mod.Version
		}
	}
	if version == "" {
		return "", fmt.Errorf("%s does not require %s", path, gitlabRunner)
	}
	hash := sha256.New()
	err = fs.WalkDir(os.DirFS(module), ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(module, file))
		fmt.Fprintln(hash, file, len(b))
		hash.Write(b)
		return err
	})
	if err != nil {
		return "", err
	}
	fmt.Fprintln(hash, runtime.GOARCH)
	return "gitlab-runner-" + version[strings.LastIndex(version, "-")+1:] + "-" + hex.EncodeToString(hash.Sum(nil))[:12], nil
}

func buildGitLabRunner(ctx context.Context, module, dir string, log Log) error {
	for _, tool := range []string{"go", "git", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing: GitLab's runner needs it", tool)
		}
	}
	log("building GitLab's runner, from source")
	log("this happens once; it takes 2 to 5 minutes on two cores, seconds when all is compiled")
	source, err := folderOf(ctx, module, gitlabRunner)
	if err != nil {
		return err
	}
	version, err := os.ReadFile(filepath.Join(source, "VERSION"))
	if err != nil {
		return err
	}
	ldflags := "-ldflags=-s -w -X " + gitlabRunner + "/common.VERSION=" + strings.TrimSpace(string(version))
	program := filepath.Join(dir, "gitlab-runner")
	if err := compile(ctx, module, "GitLab's runner", 1050, log, ldflags, "-o", program, "."); err != nil {
		return err
	}
	return verify(ctx, program, "run", "--help")
}
