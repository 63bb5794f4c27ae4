package setup

import (
	"context"
	"strings"
)

// EnsurePnpm returns the package manager of that name and version, from the npm registry. npx finds it as well, but takes two seconds
// of processor time for that at each call.
func EnsurePnpm(ctx context.Context, version string, log Log) (string, error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	return ensure(ctx, cache, strings.Replace(version, "@", "-", 1), "node_modules/.bin/pnpm", log, func(dir string) error {
		return run(ctx, dir, "npm", "install", "--prefix", dir, "--ignore-scripts", "--no-audit", "--no-fund", version)
	})
}
