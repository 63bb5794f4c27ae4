package lifecycle

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// notSources are the folders that an install and a build create.
var notSources = map[string]bool{"node_modules": true, "dist": true, "server": true, "sbom": true, "tmp": true}

// copySources copies the app's sources.
func copySources(from, to string) error {
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		if d.IsDir() {
			if notSources[relative] {
				return filepath.SkipDir
			}
			return os.MkdirAll(target, 0o755)
		}
		return copyFile(path, target)
	})
	if err != nil {
		return fmt.Errorf("copy the app: %w", err)
	}
	return nil
}

// usePackages lets a copy of the app have the packages that are installed in the original: as long as this process's mounts last.
func usePackages(from, to string) error {
	const packages = "node_modules"
	target := filepath.Join(to, packages)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount(filepath.Join(from, packages), target, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the app's packages on %s: %w", target, err)
	}
	return nil
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o644)
}

// overlay replaces files of the app with a version's own.
func overlay(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		if _, err := os.Stat(target); err != nil {
			return fmt.Errorf("%s of the overlay does not replace a file of the app: %w", relative, err)
		}
		return copyFile(path, target)
	})
}

// answers waits until the app answers through a proxy.
func answers(ctx context.Context, proxy, address, host string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}} // whoever answers next may be another one
	last := "no answer"
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/api/version", nil)
		if err != nil {
			return err
		}
		request.Host = host
		response, err := client.Do(request)
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
			last = response.Status
		} else {
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the app does not answer through %s after 30 s: %s", proxy, last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
