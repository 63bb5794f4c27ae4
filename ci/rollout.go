package main

import "context"

// Wait until it is a release's turn, while another one is in flight
//
// Whether it waits says queue.policy of the configuration. Returns the result as JSON.
// +cache="never"
func (m *Crossbill) Queue(
	ctx context.Context,

	// Name of the release.
	releaseId string,

	// Image that it releases, by digest, for status.
	// +optional
	image string,

	// Commit that the image was built from.
	// +optional
	commit string,

	// Page of the pipeline that runs the release.
	// +optional
	pipelineUrl string,

	// Page of the run that handed the release over: by its number the line is in order.
	// +optional
	sourceUrl string,

	// Let it wait although it has finished before, or although it is older than what primary runs.
	// +optional
	again bool,

	// Take the release out of the line.
	// +optional
	leave bool,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	return m.change(ctx, "queue", timeout, flags(
		"--release-id", releaseId, "--image", image, "--commit", commit, "--pipeline-url", pipelineUrl, "--source-url", sourceUrl,
		"--again", boolean(again), "--leave", boolean(leave))...)
}

// Route part of the traffic to a new image
//
// The first release of an app goes straight to primary. A canary that does not become ready is rolled
// back, and the call fails. Returns the result as JSON.
// +cache="never"
func (m *Crossbill) Canary(
	ctx context.Context,

	// Image to release, by digest: repository@sha256:…. By default that of the bundle that the manifests come from.
	// +optional
	image string,

	// The canary's share of the traffic, in percent. By default that of the configuration, or 10.
	// +optional
	weight int,

	// Requests that reach the canary whatever its weight is, those of testers: header:NAME=VALUE, header:NAME^=PREFIX,
	// header:NAME=~REGEX or header:NAME, and the same with cookie.
	// +optional
	match string,

	// Part of the GET and HEAD requests of which the canary gets a copy until it has a weight, for example 5%. Nobody gets
	// the answers.
	// +optional
	mirror string,

	// Take the release through the steps of the configuration, and judge it at each. Without steps, judge it at its weight.
	// +optional
	follow bool,

	// With follow: end in order after this time, for example 23h30m, before the time of the job is over.
	// +optional
	within string,

	// Keep a browser on the version that answered it first, until the release has finished.
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

	// Who wrote the release, as login or e-mail address: approval.notAuthor refuses them as its approvers.
	// +optional
	authors []string,

	// Release it once more, although it has finished before.
	// +optional
	again bool,

	// Take the lock at once, as after a call that was interrupted, in place of waiting until it expires. A job that
	// still holds it stops and changes nothing more.
	// +optional
	takeover bool,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	args := flags(
		"--image", image, "--weight", number(weight), "--match", match, "--mirror", mirror, "--follow", boolean(follow), "--within", within, "--sticky", boolean(sticky), "--release-id", releaseId, "--commit", commit,
		"--pipeline-url", pipelineUrl, "--source-url", sourceUrl, "--again", boolean(again), "--takeover", boolean(takeover))
	for _, author := range authors {
		args = append(args, flags("--author", author)...)
	}
	return m.change(ctx, "canary", timeout, args...)
}

// Give the canary more of the traffic, in steps
//
// It has to be judged again afterwards. Returns the result as JSON.
// +cache="never"
func (m *Crossbill) Shift(
	ctx context.Context,

	// Percentages, rising: the last one is the weight that the canary keeps. By default those of the configuration.
	// +optional
	steps []int,

	// How long each step but the last is left as it is, for example 5m. By default that of the configuration.
	// +optional
	pause string,

	// Release that the call is about: any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// Take the lock at once, as after a call that was interrupted, in place of waiting until it expires. A job that
	// still holds it stops and changes nothing more.
	// +optional
	takeover bool,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	args := flags("--pause", pause, "--release-id", releaseId, "--takeover", boolean(takeover))
	for _, step := range steps {
		args = append(args, flags("--steps", decimal(step))...)
	}
	return m.change(ctx, "shift", timeout, args...)
}

// Judge the canary, and roll it back when it is unhealthy
//
// Fails when it is unhealthy, and when there is too little evidence. Returns the verdict as JSON.
// +cache="never"
func (m *Crossbill) Verify(
	ctx context.Context,

	// Release that the call is about: any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// Time after which what is not decided is inconclusive, for example 15m. By default that of the configuration.
	// +optional
	maxDuration string,

	// Leave an unhealthy canary as it is.
	// +optional
	noRollback bool,

	// Judge on after a healthy verdict, until the release is promoted or rolled back.
	// +optional
	watch bool,

	// URL that is called while the canary is judged, for an app that few call; the call has to reach the canary.
	// +optional
	probe string,

	// Take the lock at once, as after a call that was interrupted, in place of waiting until it expires. A job that
	// still holds it stops and changes nothing more.
	// +optional
	takeover bool,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	return m.change(ctx, "verify", timeout, flags(
		"--release-id", releaseId, "--max-duration", maxDuration, "--no-rollback", boolean(noRollback), "--watch", boolean(watch), "--probe", probe, "--takeover", boolean(takeover))...)
}

// Record an approval of the release, where it needs more than one
//
// The ID token of the job says whose. Promote counts it together with its own. Returns the result as JSON.
// +cache="never"
func (m *Crossbill) Approve(
	ctx context.Context,

	// Release that the call is about: any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	return m.change(ctx, "approve", timeout, flags("--release-id", releaseId)...)
}

// Give the canary that was judged healthy all of the traffic
//
// Puts its digest on primary, waits for the rollout, and routes all traffic there. Returns the result as
// JSON.
// +cache="never"
func (m *Crossbill) Promote(
	ctx context.Context,

	// Release that the call is about: any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// How long primary is judged after it has all of the traffic, for example 10m. By default that of the configuration.
	// +optional
	bake string,

	// Take the lock at once, as after a call that was interrupted, in place of waiting until it expires. A job that
	// still holds it stops and changes nothing more.
	// +optional
	takeover bool,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	return m.change(ctx, "promote", timeout, flags("--release-id", releaseId, "--bake", bake, "--takeover", boolean(takeover))...)
}

// Remove the canary after a promotion
//
// Waits until it gets no more requests. Returns the result as JSON.
// +cache="never"
func (m *Crossbill) Cleanup(
	ctx context.Context,

	// Release that the call is about: any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// Take the lock at once, as after a call that was interrupted, in place of waiting until it expires. A job that
	// still holds it stops and changes nothing more.
	// +optional
	takeover bool,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	return m.change(ctx, "cleanup", timeout, flags("--release-id", releaseId, "--takeover", boolean(takeover))...)
}

// Send all traffic back to primary, then remove the canary; or return to an earlier release
//
// It works at any time, from any stage. Returns the result as JSON.
// +cache="never"
func (m *Crossbill) Rollback(
	ctx context.Context,

	// Release that the call is about: any other one in flight is left alone. By default the one in flight.
	// +optional
	releaseId string,

	// Reason, for the ledger.
	// +optional
	reason string,

	// Finished release to return to, by its id in history, or previous. By default what primary ran before the release in
	// flight.
	// +optional
	to string,

	// With to: let new releases start, without resume.
	// +optional
	noHold bool,

	// With gitops.store git: move the traffic in the cluster first, while Git or its controller is down.
	// +optional
	now bool,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	hold := ""
	if noHold {
		hold = "false"
	}
	return m.change(ctx, "rollback", timeout, flags("--release-id", releaseId, "--reason", reason, "--to", to, "--hold", hold, "--now", boolean(now))...)
}

// Keep new releases of the app from starting
//
// Until resume is called. A release in flight goes on. Returns the result as JSON.
// +cache="never"
func (m *Crossbill) Hold(
	ctx context.Context,

	// Why, for the ledger and whoever is refused.
	reason string,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	return m.change(ctx, "hold", timeout, flags("--reason", reason)...)
}

// Let new releases of an app that is on hold start again
//
// Returns the result as JSON.
// +cache="never"
func (m *Crossbill) Resume(
	ctx context.Context,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	return m.change(ctx, "resume", timeout)
}

// Finish a release that no job works on any more
//
// Rolls it back, or cleans it up when it was promoted. Run it on a schedule. Returns the result as JSON.
// +cache="never"
func (m *Crossbill) Guard(
	ctx context.Context,

	// How long a release may make no progress where a job must be at work. By default that of the configuration, or 15m.
	// +optional
	dead string,

	// How long a canary may wait for its verdict, or for an approver. By default that of the configuration, or 24h.
	// +optional
	waiting string,

	// Bound of each wait for the cluster. By default that of the configuration, or 5m.
	// +optional
	timeout string,
) (string, error) {
	return m.change(ctx, "guard", timeout, flags("--dead", dead, "--waiting", waiting)...)
}
