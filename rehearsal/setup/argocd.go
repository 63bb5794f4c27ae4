package setup

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// ArgoCD is the other GitOps controller.
type ArgoCD struct {
	// Program is rehearsal/argocd: application-controller, repo-server and their store.
	Program string
	// Tools is a folder for PATH, with what the repo-server runs.
	Tools string
	// Kinds is a file with its CustomResourceDefinitions.
	Kinds string
}

const argocd = "github.com/argoproj/argo-cd/v3"

// EnsureArgoCD returns Argo CD, after building it if it is not in the cache yet: about 10 minutes on two cores the first time.
// module is as for Ensure.
func EnsureArgoCD(ctx context.Context, module string, log Log) (ArgoCD, error) {
	cache, err := cacheFolder()
	if err != nil {
		return ArgoCD{}, err
	}
	if module == "" {
		if module, err = findModule(); err != nil {
			return ArgoCD{}, err
		}
	}
	module = filepath.Join(module, "argocd")
	name, err := controllerName(module, "argocd", argocd, "github.com/alicebob/miniredis/v2")
	if err != nil {
		return ArgoCD{}, err
	}
	program, err := ensure(ctx, cache, name, "argocd", log, func(dir string) error {
		return buildArgoCD(ctx, module, dir, log)
	})
	dir := filepath.Dir(program)
	return ArgoCD{Program: program, Tools: filepath.Join(dir, "tools"), Kinds: filepath.Join(dir, "crds.yaml")}, err
}

func buildArgoCD(ctx context.Context, module, dir string, log Log) error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("the go command is missing: install Go 1.26 or later")
	}
	log("building Argo CD: application-controller and repo-server, from source")
	log("this happens once; it takes about 10 minutes on two cores, seconds when all is compiled")
	program := filepath.Join(dir, "argocd")
	if err := compile(ctx, module, "Argo CD", 1720, log, "-ldflags=-s -w", "-o", program, "."); err != nil {
		return err
	}
	if err := verify(ctx, program, "application-controller", "--help"); err != nil {
		return err
	}
	source, err := folderOf(ctx, module, argocd)
	if err != nil {
		return err
	}
	// The repo-server answers nothing without it, even when it is to verify no signature.
	const verifier = "git-verify-wrapper.sh"
	script, err := os.ReadFile(filepath.Join(source, "hack", verifier))
	if err != nil {
		return err
	}
	tools := filepath.Join(dir, "tools")
	if err := os.Mkdir(tools, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tools, verifier), script, 0o755); err != nil {
		return err
	}
	var kinds [][]byte
	for _, kind := range []string{"application", "appproject"} {
		text, err := os.ReadFile(filepath.Join(source, "manifests", "crds", kind+"-crd.yaml"))
		if err != nil {
			return err
		}
		kinds = append(kinds, text)
	}
	return os.WriteFile(filepath.Join(dir, "crds.yaml"), bytes.Join(kinds, []byte("\n---\n")), 0o644)
}
