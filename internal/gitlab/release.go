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
	"fmt"
	"regexp"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Release is what GitLab is to release: an image, or a bundle, which names its image.
type Release struct {
	App       string
	Image     string // repository@sha256:…, or
	Bundle    string // repository@sha256:…
	Commit    string // that the image was built from, hexadecimal
	ID        string // default: release.NewID of app, digest, commit and bundle
	SourceURL string // page of the run that triggers it; may be empty
}

// pipelineName is the name that GitLab gives to the release's pipeline.
func pipelineName(app, id string) string { return "release " + app + " " + id }

// The forms of what a pipeline is started with. .gitlab-ci.yml has the same patterns, so that GitLab
// checks them as well.
var (
	appPattern       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?$`)
	imagePattern     = regexp.MustCompile(`^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}$`)
	sourceURLPattern = regexp.MustCompile(`^https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._/-]*)?$`)
	refPattern       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}$`)
)

// check completes a release and refuses what could not be one. The errors are *usererr.Error.
func (r *Release) check() error {
	if !appPattern.MatchString(r.App) {
		return &usererr.Error{Field: "app", Problem: fmt.Sprintf("%q is not the name of an app", r.App), Fix: "use lower-case letters, digits and hyphens, at most 53"}
	}
	if err := r.checkContent(); err != nil {
		return err
	}
	if err := release.CheckCommit("commit", r.Commit); err != nil {
		return err
	}
	if r.SourceURL != "" && (!sourceURLPattern.MatchString(r.SourceURL) || len(r.SourceURL) > 500) {
		return &usererr.Error{Field: "sourceUrl", Problem: fmt.Sprintf("%q is not a plain web address", r.SourceURL), Fix: "give https://host/path, without query"}
	}
	if r.ID == "" {
		r.ID = release.NewID(r.App, release.DigestOf(r.Image), r.Commit, r.Bundle)
	}
	return release.CheckNewID("releaseId", r.ID, r.App, release.DigestOf(r.Image), r.Commit, r.Bundle)
}

// checkContent checks what is released: one of an image and a bundle, by digest.
func (r *Release) checkContent() error {
	field, given, parse := "image", &r.Image, release.ParseImage
	if r.Bundle != "" {
		if r.Image != "" {
			return &usererr.Error{Field: "bundle", Problem: "a bundle and an image are given", Fix: "leave the image out: the bundle names it"}
		}
		field, given, parse = "bundle", &r.Bundle, release.ParseBundle
	}
	reference, err := parse(field, *given)
	if err != nil {
		return err
	}
	if !imagePattern.MatchString(reference) {
		return &usererr.Error{Field: field, Problem: fmt.Sprintf("%q has no sha256 digest or no registry", *given), Fix: "give registry/repository@sha256:…"}
	}
	*given = reference
	return nil
}

func checkID(id string) error { return release.CheckID("releaseId", id) }
