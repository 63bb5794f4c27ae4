// Command imagetwice builds the app's image twice, in folders of other names and lengths, at other times,
// in another time zone and language, and prints both digests, one a line. When they differ it says which
// files do, and ends with exit status 1.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/our-org/crossbill/internal/image"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/rehearsal/lifecycle"
	"github.com/our-org/crossbill/rehearsal/nodebase"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	same, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "imagetwice:", err)
		os.Exit(1)
	}
	if !same {
		os.Exit(1)
	}
}

func run(ctx context.Context) (same bool, err error) {
	reference, err := nodebase.Ensure(ctx)
	if err != nil {
		return false, err
	}
	base, err := registry.Pull(ctx, "base", reference, authn.DefaultKeychain)
	if err != nil {
		return false, err
	}
	work, err := os.MkdirTemp("", "crossbill-twice-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(work)
	var images []v1.Image
	var digests []string
	for _, place := range []struct {
		folder string
		env    []string
	}{
		{"a", []string{"TZ=UTC", "LANG=C"}},
		{"another/folder of/some length", []string{"TZ=Asia/Kathmandu", "LANG=tr_TR.UTF-8"}},
	} {
		built, err := build(ctx, base, filepath.Join(work, place.folder), place.env)
		if err != nil {
			return false, err
		}
		digest, err := built.Digest()
		if err != nil {
			return false, err
		}
		fmt.Println(digest)
		images, digests = append(images, built), append(digests, digest.String())
	}
	if digests[0] == digests[1] {
		return true, nil
	}
	lines, err := differences(images[0], images[1])
	if err != nil {
		return false, err
	}
	for _, line := range lines {
		fmt.Fprintln(os.Stderr, line)
	}
	return false, nil
}

// build builds what git knows of the app in a folder of its own.
func build(ctx context.Context, base v1.Image, folder string, env []string) (v1.Image, error) {
	fmt.Fprintf(os.Stderr, "building in a folder of %d characters\n", len(folder))
	files, err := exec.CommandContext(ctx, "git", "ls-files", "-z", "--", "app").Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(files), "\x00"), "\x00") {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		target := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(target, text, 0o644); err != nil {
			return nil, err
		}
	}
	app := filepath.Join(folder, "app")
	for _, args := range [][]string{{"install", "--frozen-lockfile", "--prefer-offline"}, {"build"}} {
		cmd := exec.CommandContext(ctx, "npx", append([]string{"--yes", lifecycle.Pnpm}, args...)...)
		cmd.Dir = app
		cmd.Env = append(append(os.Environ(), "CI=1", "NO_COLOR=1"), env...)
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("pnpm %s: %w\n%s", args[0], err, text)
		}
	}
	return image.Build(base, app, image.Labels{Title: "qwik-node-app", Created: commitTime(ctx)})
}

// commitTime is that of the commit that is checked out, which SOURCE_DATE_EPOCH would be.
func commitTime(ctx context.Context) time.Time {
	text, err := exec.CommandContext(ctx, "git", "log", "-1", "--format=%cI").Output()
	if err != nil {
		return time.Unix(0, 0)
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
	if err != nil {
		return time.Unix(0, 0)
	}
	return at
}
