package setup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/mod/modfile"
)

// Flux is the GitOps controller: the paths of its two programs that bring manifests from Git into a cluster, and of their
// kinds.
type Flux struct {
	SourceController, KustomizeController string
	// Kinds is a file with their CustomResourceDefinitions.
	Kinds string
}

// The modules of the two, which are programs as well.
const (
	sourceController    = "github.com/fluxcd/source-controller"
	kustomizeController = "github.com/fluxcd/kustomize-controller"
)

// EnsureFlux returns Flux, after building it if it is not in the cache yet: 5 to 10 minutes on two cores the first time.
// module is as for Ensure.
func EnsureFlux(ctx context.Context, module string, log Log) (Flux, error) {
	cache, err := cacheFolder()
	if err != nil {
		return Flux{}, err
	}
	if module == "" {
		if module, err = findModule(); err != nil {
			return Flux{}, err
		}
	}
	module = filepath.Join(module, "flux")
	name, err := fluxName(module)
	if err != nil {
		return Flux{}, err
	}
	program, err := ensure(ctx, cache, name, "kustomize-controller", log, func(dir string) error {
		return buildFlux(ctx, module, dir, log)
	})
	dir := filepath.Dir(program)
	return Flux{
		SourceController: filepath.Join(dir, "source-controller"), KustomizeController: program, Kinds: filepath.Join(dir, "crds.yaml"),
	}, err
}

// CachedFlux is EnsureFlux without the wait: false when it would have to be built.
func CachedFlux(module string) (bool, error) {
	cache, err := cacheFolder()
	if err != nil {
		return false, err
	}
	name, err := fluxName(filepath.Join(module, "flux"))
	if err != nil {
		return false, err
	}
	_, err = os.Stat(filepath.Join(cache, name, "kustomize-controller"))
	return err == nil, nil
}

// fluxName is the name of its folder in the cache.
func fluxName(module string) (string, error) {
	return controllerName(module, "flux", kustomizeController, sourceController)
}

// controllerName is the name of a folder in the cache: it has the version of the first program, and changes with the versions
// of all of them, and of what the module replaces.
func controllerName(module, name string, programs ...string) (string, error) {
	path := filepath.Join(module, "go.mod")
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	mod, err := modfile.Parse(path, b, nil)
	if err != nil {
		return "", err
	}
	versions := map[string]string{}
	for _, r := range mod.Require {
		versions[r.Mod.Path] = r.Mod.Version
	}
	hash := sha256.New()
	for _, program := range programs {
		if versions[program] == "" {
			return "", fmt.Errorf("%s does not require %s", path, program)
		}
		fmt.Fprintln(hash, program, versions[program])
	}
	for _, r := range mod.Replace {
		fmt.Fprintln(hash, r.Old, r.New)
	}
	fmt.Fprintln(hash, runtime.GOARCH)
	return name + "-" + versions[programs[0]] + "-" + hex.EncodeToString(hash.Sum(nil))[:12], nil
}

func buildFlux(ctx context.Context, module, dir string, log Log) error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("the go command is missing: install Go 1.26 or later")
	}
	log("building Flux: source-controller and kustomize-controller, from source")
	log("this happens once; it takes 5 to 10 minutes on two cores when the control plane is compiled, seconds when all is")
	err := compile(ctx, module, "Flux", 2300, log, "-ldflags=-s -w", "-o", dir+string(filepath.Separator), sourceController, kustomizeController)
	if err != nil {
		return err
	}
	for _, program := range []string{"source-controller", "kustomize-controller"} {
		if err := verify(ctx, filepath.Join(dir, program), "--help"); err != nil {
			return err
		}
	}
	return joinKinds(ctx, module, "config/crd/bases", filepath.Join(dir, "crds.yaml"), sourceController, kustomizeController)
}
