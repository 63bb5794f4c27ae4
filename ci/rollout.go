package main

import "context"

// Route part of the traffic to a new image
//
// The first release of an app goes straight to primary. A canary that does not become ready is rolled
// back, and the call fails. Gives the result as JSON.
// +cache="never"
func (m *Crossbill) Canary(
	ctx context.Context,

	// Image to release, by digest: repository@sha256:….
	image string,

	// The canary's share of the traffic, in percent.
	// +default=10
	weight int,

	// Keep a browser on the version that answered it first, until the release has ended.
	// +optional
	sticky bool,

	// Name of the release. By default made of app, digest and commit.
	// +optional
	releaseId string,

	// Commit that the image was built from.
	// +optional
	commit string,

	// Page of the pipeline that runs the release.
	// +optional
	pipelineUrl string,

	// Page of the run that handed the release over.
	// +optional
	sourceUrl string,

	// Release it once more, although it has ended before.
	// +optional
	again bool,

	// Take the lock of another job of this release at once.
	// +optional
	takeover bool,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	return m.change(ctx, "canary", timeout, given(
		"--image", image, "--weight", decimal(weight), "--sticky", on(sticky), "--release-id", releaseId, "--commit", commit,
		"--pipeline-url", pipelineUrl, "--source-url", sourceUrl, "--again", on(again), "--takeover", on(takeover))...)
}

// Give the canary more of the traffic, in steps
//
// It has to be judged again afterwards. Gives the result as JSON.
// +cache="never"
func (m *Crossbill) Shift(
	ctx context.Context,

	// Percentages, rising: the last one is where the canary stays.
	steps []int,

	// How long each step but the last is left as it is, for example 5m.
	// +default="0s"
	pause string,

	// Release that is meant. Any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// Take the lock of another job of this release at once.
	// +optional
	takeover bool,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	args := given("--pause", pause, "--release-id", releaseId, "--takeover", on(takeover))
	for _, step := range steps {
		args = append(args, given("--steps", decimal(step))...)
	}
	return m.change(ctx, "shift", timeout, args...)
}

// Judge the canary, and roll it back when it is unhealthy
//
// Fails when it is unhealthy, and when there is too little evidence. Gives the verdict as JSON.
// +cache="never"
func (m *Crossbill) Verify(
	ctx context.Context,

	// Release that is meant. Any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// Time after which what is not decided is inconclusive, for example 15m. By default that of slo.yaml beside
	// the manifests.
	// +optional
	maxDuration string,

	// Leave an unhealthy canary as it is.
	// +optional
	noRollback bool,

	// URL that is called while the canary is judged, for an app that few call; the call has to reach the
	// canary.
	// +optional
	probe string,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	return m.change(ctx, "verify", timeout, given(
		"--release-id", releaseId, "--max-duration", maxDuration, "--no-rollback", on(noRollback), "--probe", probe)...)
}

// Give the canary that was judged healthy all of the traffic
//
// Puts its digest on primary, waits for the rollout, and routes all traffic there. Gives the result as
// JSON.
// +cache="never"
func (m *Crossbill) Promote(
	ctx context.Context,

	// Release that is meant. Any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// How long primary is judged after it has all of the traffic, for example 10m.
	// +optional
	bake string,

	// Take the lock of another job of this release at once.
	// +optional
	takeover bool,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	return m.change(ctx, "promote", timeout, given("--release-id", releaseId, "--bake", bake, "--takeover", on(takeover))...)
}

// Remove the canary after a promotion
//
// Waits until it gets no more requests. Gives the result as JSON.
// +cache="never"
func (m *Crossbill) Cleanup(
	ctx context.Context,

	// Release that is meant. Any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// Take the lock of another job of this release at once.
	// +optional
	takeover bool,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	return m.change(ctx, "cleanup", timeout, given("--release-id", releaseId, "--takeover", on(takeover))...)
}

// Send all traffic back to primary, then remove the canary
//
// At any time, from any stage. Gives the result as JSON.
// +cache="never"
func (m *Crossbill) Rollback(
	ctx context.Context,

	// Release that is meant. Any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// Why, for the ledger.
	// +default="asked for by a person"
	reason string,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	return m.change(ctx, "rollback", timeout, given("--release-id", releaseId, "--reason", reason)...)
}

// End a release that nobody works on any more
//
// Rolls it back, or cleans it up when it was promoted. To be run on a schedule. Gives the result as JSON.
// +cache="never"
func (m *Crossbill) Guard(
	ctx context.Context,

	// How long a release may stand still where a job must be at work.
	// +default="15m"
	dead string,

	// How long a canary may wait for its verdict, or for a person.
	// +default="24h"
	waiting string,

	// Bound of each wait for the cluster, for example 5m.
	// +default="5m"
	timeout string,
) (string, error) {
	return m.change(ctx, "guard", timeout, given("--dead", dead, "--waiting", waiting)...)
}
