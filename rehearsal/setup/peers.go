package setup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Peer is a controller that releases beside Crossbill in `make compare`.
type Peer struct {
	Version string
	// Program is its path, and Kinds a file with its CustomResourceDefinitions.
	Program, Kinds string
}

// peer is what a Peer is built from. The go.mod is compare/NAME's.
type peer struct {
	path     string // of the module
	command  string // its folder in the module
	kinds    string // theirs
	packages int
}

var peers = map[string]peer{
	"argo-rollouts": {"github.com/argoproj/argo-rollouts", "cmd/rollouts-controller", "manifests/crds", 1700},
	"flagger":       {"github.com/fluxcd/flagger", "cmd/flagger", "charts/flagger/crds", 1245},
}

// EnsurePeer returns Argo Rollouts ("argo-rollouts") or Flagger ("flagger"), after building it if it is not in the cache yet: 5 to
// 15 minutes on two cores the first time. module is as for Ensure.
func EnsurePeer(ctx context.Context, module, name string, log Log) (Peer, error) {
	module, cache, folder, err := placeOfPeer(module, name)
	if err != nil {
		return Peer{}, err
	}
	program, err := ensure(ctx, cache, folder, "controller", log, func(dir string) error {
		return buildPeer(ctx, module, name, dir, log)
	})
	return peerIn(name, filepath.Dir(program)), err
}

// CachedPeer is EnsurePeer without the wait: false when it would have to be built.
func CachedPeer(module, name string) (Peer, bool, error) {
	_, cache, folder, err := placeOfPeer(module, name)
	if err != nil {
		return Peer{}, false, err
	}
	p := peerIn(name, filepath.Join(cache, folder))
	_, err = os.Stat(p.Program)
	return p, err == nil, nil
}

// placeOfPeer is the folder of its go.mod, that of the cache, and the name of its own in there.
func placeOfPeer(module, name string) (mod, cache, folder string, err error) {
	if peers[name].path == "" {
		return "", "", "", fmt.Errorf("%q is neither argo-rollouts nor flagger", name)
	}
	if cache, err = cacheFolder(); err != nil {
		return "", "", "", err
	}
	if module == "" {
		if module, err = findModule(); err != nil {
			return "", "", "", err
		}
	}
	mod = filepath.Join(module, "compare", name)
	folder, err = controllerName(mod, name, peers[name].path)
	return mod, cache, folder, err
}

func peerIn(name, dir string) Peer {
	version, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), name+"-"), "-")
	return Peer{Version: version, Program: filepath.Join(dir, "controller"), Kinds: filepath.Join(dir, "crds.yaml")}
}

func buildPeer(ctx context.Context, module, name, dir string, log Log) error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("the go command is missing: install Go 1.26 or later")
	}
	p := peers[name]
	log("building %s, from source", name)
	log("this happens once; it takes 5 to 15 minutes on two cores, seconds when all is compiled")
	program := filepath.Join(dir, "controller")
	if err := compile(ctx, module, name, p.packages, log, "-ldflags=-s -w", "-o", program, p.path+"/"+p.command); err != nil {
		return err
	}
	if err := verify(ctx, program, "--help"); err != nil {
		return err
	}
	return joinKinds(ctx, module, p.kinds, filepath.Join(dir, "crds.yaml"), p.path)
}
