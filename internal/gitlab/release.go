// Package gitlab hands a release from GitHub over to GitLab: it starts GitLab's pipeline for a release
// once in effect, follows it to its end, and cancels it.
//
// GitLab's trigger API knows no idempotency key, and a POST whose answer was lost may or may not have
// started a pipeline. So a pipeline is found again by its name, "release APP ID" (`workflow:name` in
// .gitlab-ci.yml), and Trigger does this:
//
//  1. it lists the pipelines of that name, and adopts one that exists;
//  2. else it sends one POST, which no layer below repeats;
//  3. when the outcome is unknown (5xx, connection lost, no answer in time) it lists again for
//     a bounded time, adopts what appears, and sends again only when nothing did, a bounded number
//     of times;
//  4. it goes on listing for a short while, and when there are several pipelines it keeps the one
//     with the lowest id and cancels the others. All senders follow the same rule, so they agree.
//
// What this does not close: a POST that GitLab executes later than unansweredWindow after its
// connection broke, or a row that a list shows later than TriggerOptions.Settle. Then a second pipeline
// exists until the next Trigger or Watch of the release sees and cancels it. That pipeline can still do
// no second release: it has the same release id and digest, and the lock in the cluster lets one job
// at a time act on it. The lock is what makes the effect exactly once; this package makes the
// second pipeline rare and visible.
package gitlab

import (
	"regexp"

	"github.com/our-org/crossbill/internal/release"
)

// pipelineName is the name that GitLab gives to the release's pipeline.
func pipelineName(app, id string) string { return "release " + app + " " + id }

// previewPrefix is what the names of the pipelines of previews begin with.
const previewPrefix = "preview "

// refPattern is the form of the ref that a pipeline is started on.
var refPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}$`)

func checkID(id string) error { return release.CheckID("releaseId", id) }
