package main

import "context"

// Run a pull request's image beside the app, reached by a header alone
//
// Called again it gives the preview another image, and a new time. Returns the result as JSON.
// +cache="never"
func (m *Crossbill) PreviewUp(
	ctx context.Context,

	// Name of the preview, for example pr-42.
	name string,

	// Image to run, by digest: repository@sha256:….
	image string,

	// Commit that the image was built from. An image policy asks for it.
	// +optional
	commit string,

	// How long it lasts, for example 24h; then guard ends it. By default that of the configuration, or 72h.
	// +optional
	lasts string,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	return m.change(ctx, "preview up", timeout, flags("--name", name, "--image", image, "--commit", commit, "--lasts", lasts)...)
}

// End a preview
//
// Without such a preview there is nothing to do. Returns the result as JSON.
// +cache="never"
func (m *Crossbill) PreviewDown(
	ctx context.Context,

	// Name of the preview, for example pr-42.
	name string,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	return m.change(ctx, "preview down", timeout, flags("--name", name)...)
}

// The app's previews: image, header, and until when
// +cache="never"
func (m *Crossbill) PreviewList(
	ctx context.Context,

	// Format: text, wide, json or yaml.
	// +default="text"
	format string,
) (string, error) {
	return m.look(ctx, "preview list", format)
}
