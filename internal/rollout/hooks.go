package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// A hook runs once for a release, point and step, whatever happens to the job that starts it. Its Kubernetes Job is made
// suspended, under a name that is the same each time; then the ledger notes that it has started, which only the job with the
// lock can; then it is resumed, by a write that names the version that was read. A job that takes over stamps what is noted
// as started, so a late resume is a conflict. A Job that nobody has noted runs nothing. A web call cannot be fenced: it
// carries a key that is the same each time, and is not made again once it is noted how it ended.

// HookError says that a hook failed at a point at which that ends the release, and what followed from it.
type HookError struct {
	ReleaseID string
	Run       release.HookRun
	Then      string // what came of rolling back
	Err       error  // why rolling back did not finish, if it did not
}

func (e *HookError) Error() string {
	text := fmt.Sprintf("%s failed: %s", &e.Run, e.Run.Message)
	switch {
	case e.Err != nil:
		text += fmt.Sprintf("\nrolling back did not finish: %v; run `crossbill rollback`", e.Err)
	case e.Then != "":
		text += "\nrolled back: " + e.Then
	}
	return text
}

// finished says whether the release is over, and nothing of the job that found the failure is on its way.
func (e *HookError) finished() bool { return e.Err == nil }

// hookPeriod is how often a Job is looked at that is waited for.
const hookPeriod = 2 * time.Second

// hookGrace is how long after a Job's time its controller has to say that it is over.
const hookGrace = time.Minute

// logsWithin is how long the reading of a Job's logs may take.
const logsWithin = 20 * time.Second

// shownLines are how many lines of what a hook says are in the log of the command.
const shownLines = 20

// hooksAt are the hooks of a point.
func (c *Cluster) hooksAt(point release.HookPoint) (found []hook.Hook) {
	for _, h := range c.Hooks {
		if h.Point == point {
			found = append(found, h)
		}
	}
	return found
}

// pending says whether hooks of a point have yet to run, or to end.
func (j *job) pending(point release.HookPoint) bool {
	return slices.ContainsFunc(j.hooksAt(point), func(h hook.Hook) bool {
		was := j.ledger.Release.HookRun(point, h.Name, 0)
		return was == nil || was.State == release.HookStarted
	})
}

// jobManifests are what the Jobs of hooks are made of: also where this job goes by the names in the ledger.
func (c *Cluster) jobManifests() *manifest.Set { return cmp.Or(c.given, c.Manifests) }

func (j *job) batchJob(name string) object {
	return objectOf("Job", j.Namespace, name, j.Kube.BatchV1().Jobs(j.Namespace))
}

func (j *job) hookRun(h hook.Hook, r *release.Release, weight int) hook.Run {
	return hook.Run{Hook: h, App: j.app(), Namespace: j.Namespace, Release: r, Step: weight}
}

// lookHooks finds, before the lock is taken, what would keep the hooks of some points from running, by a server-side dry run
// of each Job. Nothing is written.
func (j *job) lookHooks(ctx context.Context, r *release.Release, points ...release.HookPoint) error {
	if len(j.Hooks) == 0 {
		return nil
	}
	tagged, err := j.jobManifests().TaggedJobs(j.AllowTags)
	for _, image := range tagged {
		j.log("image", "%s has no digest, and canary.allowTags admits it: what it names can change without a release", image)
	}
	if err != nil {
		return err
	}
	for _, point := range points {
		for _, h := range j.hooksAt(point) {
			if h.Job == "" {
				continue
			}
			if err := j.lookJob(ctx, j.hookRun(h, r, 0)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j *job) lookJob(ctx context.Context, run hook.Run) error {
	desired, err := run.Job(j.jobManifests())
	if err != nil {
		return err
	}
	desired.Name = desired.Name[:len(desired.Name)-5] + "-look" // of no run: what there is of those is not in its way
	o := j.batchJob(desired.Name)
	err = persist(ctx, func() error {
		_, err := o.create(ctx, desired, metav1.CreateOptions{FieldManager: fieldManager, DryRun: []string{metav1.DryRunAll}})
		return err
	})
	if err == nil {
		_, err = o.read(ctx)
	}
	if err == nil { // whether it may be started is asked before whether it is there
		_, err = o.patch(ctx, types.MergePatchType, []byte(`{}`), metav1.PatchOptions{FieldManager: fieldManager, DryRun: []string{metav1.DryRunAll}})
		if apierrors.IsNotFound(err) {
			err = nil
		}
	}
	if err != nil {
		err = fmt.Errorf("%s, the Job of hook %s: %w", o, run.Hook.Name, err)
	}
	return j.beforehand(err)
}

// hooks is the step that runs the hooks of a point, one after the other, those that have not run. weight is the share that the
// canary is about to get, before a step.
func (j *job) hooks(point release.HookPoint, weight int) step {
	return func(ctx context.Context) error {
		for _, h := range j.hooksAt(point) {
			if err := j.runHook(ctx, h, weight); err != nil {
				return err
			}
		}
		return nil
	}
}

func (j *job) runHook(ctx context.Context, h hook.Hook, weight int) error {
	r := j.ledger.Release
	if was := r.HookRun(h.Point, h.Name, weight); was != nil && was.State != release.HookStarted {
		if was.State == release.HookFailed && h.Back() { // the job that noted it has died, or onFailure was another one
			return j.failHook(ctx, h, *was)
		}
		return nil
	}
	run := j.hookRun(h, r, weight)
	if j.planning() {
		return j.planHook(ctx, run)
	}
	carryOut := j.call
	if h.Job != "" {
		carryOut = j.runJob
	}
	passed, message, err := carryOut(ctx, run)
	switch {
	case ctx.Err() != nil || errors.Is(err, ErrLockLost):
		if err == nil {
			err = ctx.Err()
		}
		return err
	case err != nil && h.Point.Before():
		return err
	case err != nil: // the release is where it is to be, whatever keeps its hooks from running
		passed, message = false, "it could not be run: "+err.Error()
	}
	noted := j.noteHook(run)
	noted.End(passed, printable(message), now())
	j.sayEnd(h, noted)
	if !passed && h.Back() {
		return j.failHook(ctx, h, *noted)
	}
	return j.commit(ctx)
}

// failHook notes that the release is rolled back because a hook has failed, and is the error that says so.
func (j *job) failHook(ctx context.Context, h hook.Hook, failed release.HookRun) error {
	r := j.ledger.Release
	r.Untried = h.Point == release.BeforeCanary && !j.made(r) // nothing of it was made
	if err := j.startRollback(fmt.Sprintf("%s failed: %s", &failed, failed.Message)); err != nil {
		return err
	}
	if err := j.commit(ctx); err != nil {
		return err
	}
	return &HookError{ReleaseID: r.ID, Run: failed}
}

// beforeFirst is the step that runs the hooks before an app's first release. What their pods need to start is made before them.
func (j *job) beforeFirst(ctx context.Context) error {
	if len(j.hooksAt(release.BeforeCanary)) == 0 {
		return nil
	}
	return inOrder(ctx, j.createNeeded, j.hooks(release.BeforeCanary, 0))
}

// beforeStep is the step that runs the hooks before the canary gets its first share. Where testers reach it by a header, they
// do so first.
func (j *job) beforeStep(weight int) step {
	return func(ctx context.Context) error {
		if weight == 0 || len(j.hooksAt(release.BeforeStep)) == 0 {
			return nil
		}
		if j.ledger.Release.Match != nil {
			if err := j.route(0)(ctx); err != nil {
				return err
			}
		}
		return j.hooks(release.BeforeStep, weight)(ctx)
	}
}

// asksBefore says whether hooks come before the promotion: then it begins when they have passed.
func (j *job) asksBefore() bool {
	return j.ledger.Release.Stage == release.StageVerified && len(j.hooksAt(release.BeforePromotion)) > 0
}

// beforePromotion runs the hooks before the promotion, and begins it. If they took time, what was found before them is looked
// at again: the verdict may be too old now, or somebody has changed something.
func (j *job) beforePromotion(ctx context.Context, found promoteFound) error {
	asked := j.pending(release.BeforePromotion)
	if err := j.hooks(release.BeforePromotion, 0)(ctx); err != nil {
		return err
	}
	if asked && !j.planning() {
		if err := j.lookVerified(ctx); err != nil {
			return err
		}
		var err error
		if found.service, err = j.lookPromotedService(ctx); err != nil {
			return err
		}
		if found.others, err = j.lookPromotedOthers(ctx); err != nil {
			return err
		}
	}
	if _, err := j.liveTrack(ctx, release.Primary); err != nil {
		return err
	}
	if err := j.startPromote(found); err != nil {
		return err
	}
	return j.commit(ctx)
}

// afterPromotion runs the hooks after the promotion. Their failure changes nothing, and is part of the message.
func (j *job) afterPromotion(ctx context.Context) (Result, error) {
	r := j.ledger.Release
	if err := j.hooks(release.AfterPromotion, 0)(ctx); err != nil {
		return Result{}, err
	}
	return j.result("%s is on primary and has all of the traffic%s%s", r.Digest(), approved(r), j.failedAt(release.AfterPromotion)), nil
}

// failedAt says which hooks of a point have failed, for a message.
func (j *job) failedAt(point release.HookPoint) string {
	var text strings.Builder
	for _, h := range j.ledger.Release.Hooks {
		if h.Point == point && h.State == release.HookFailed {
			fmt.Fprintf(&text, "; %s failed: %s", &h, h.Message)
		}
	}
	return text.String()
}

// afterRollback is the step that runs the hooks after a rollback. When a return follows, it runs them at its end.
func (j *job) afterRollback(ctx context.Context) error {
	if j.returning {
		return nil
	}
	return j.hooks(release.AfterRollback, 0)(ctx)
}

// sayEnd says how a hook has ended, and what follows.
func (j *job) sayEnd(h hook.Hook, noted *release.HookRun) {
	took := noted.FinishedAt.Sub(noted.StartedAt).Round(time.Second)
	switch {
	case noted.State == release.HookPassed:
		j.log(noted.String(), "passed within %s%s", took, because(noted.Message))
	case h.Back():
		j.log(noted.String(), "failed after %s: %s; the release is rolled back", took, noted.Message)
	case h.Point.Before():
		j.log(noted.String(), "failed after %s: %s; onFailure is continue", took, noted.Message)
	default:
		j.log(noted.String(), "failed after %s: %s; the release stays as it is", took, noted.Message)
	}
}

// noteHook notes in the ledger in memory that a hook has started.
func (j *job) noteHook(run hook.Run) *release.HookRun {
	note := release.HookRun{Point: run.Hook.Point, Name: run.Hook.Name, Step: run.Step, StartedAt: now(), By: j.By, URL: shownURL(run.Hook.URL)}
	if run.Hook.Job != "" {
		note.Job = run.JobName()
	}
	return j.ledger.Release.StartHook(note)
}

// shownURL is an address without what may be a secret in it.
func shownURL(address string) string {
	shown, _, _ := strings.Cut(address, "?")
	return shown
}

// planHook says what a hook would do.
func (j *job) planHook(ctx context.Context, run hook.Run) error {
	if run.Hook.Job == "" {
		j.say("hook "+run.Hook.Name, "%s would be called at %s", shownURL(run.Hook.URL), run.Hook.Point)
		return nil
	}
	desired, err := run.Job(j.jobManifests())
	if err != nil {
		return err
	}
	o := j.batchJob(desired.Name)
	_, _, err = change(ctx, j, o, func(live *batchv1.Job) (*write, error) {
		if live != nil {
			return nil, nil
		}
		return j.create(desired, true), nil
	})
	return err
}

// call makes a web call, and notes before the first attempt that it begins.
func (j *job) call(ctx context.Context, run hook.Run) (passed bool, message string, err error) {
	j.log(j.noteHook(run).String(), "calling %s", shownURL(run.Hook.URL))
	if err := j.commit(ctx); err != nil {
		return false, "", err
	}
	if run.Hook.SecretEnv != "" && run.Hook.Secret == "" {
		return false, "$" + run.Hook.SecretEnv + " is empty: it could not be signed", nil
	}
	passed, message, answer := hook.Call(ctx, run, j.Web)
	if ctx.Err() == nil {
		j.keepLog(run, answer)
	}
	return passed, message, nil
}

// runJob makes the run's Job, or takes the one that is there, and waits until it has ended.
func (j *job) runJob(ctx context.Context, run hook.Run) (passed bool, message string, err error) {
	desired, err := run.Job(j.jobManifests())
	if err != nil {
		return false, "", err
	}
	o := j.batchJob(desired.Name)
	noted := j.ledger.Release.HookRun(run.Hook.Point, run.Hook.Name, run.Step)
	gone := false
	before, live, err := change(ctx, j, o, func(live *batchv1.Job) (*write, error) {
		gone = live == nil && noted != nil // it was made before it was noted
		switch {
		case gone:
			return nil, nil
		case live == nil:
			return j.create(desired, true), nil
		}
		if why := hook.Foreign(live, desired); why != "" {
			return nil, &usererr.Error{Field: o.String(), Problem: fmt.Sprintf("hook %s needs this name, and %s", run.Hook.Name, why), Fix: "run " + j.command + " with the manifests that the hook was started with, or roll the release back"}
		}
		return nil, nil
	})
	switch {
	case err != nil:
		return false, "", err
	case gone:
		return false, "somebody has deleted " + o.String() + ": whether it did its work is not known", nil
	case noted == nil:
		if err := j.noteStart(ctx, run); err != nil {
			return false, "", err
		}
	}
	if live.Spec.Suspend != nil && *live.Spec.Suspend {
		if err := j.resumeJob(ctx, o); err != nil {
			return false, "", err
		}
		j.log(o.String(), "started: %s", j.ledger.Release.HookRun(run.Hook.Point, run.Hook.Name, run.Step))
	} else if before != nil {
		j.log(o.String(), "was started before: its end is waited for")
	}
	passed, message, err = j.waitJob(ctx, o, run)
	if err == nil {
		j.keepJobLog(ctx, run, o)
	}
	return passed, message, err
}

// noteStart commits that a hook has started.
func (j *job) noteStart(ctx context.Context, run hook.Run) error {
	j.noteHook(run)
	return j.commit(ctx)
}

// resumeJob lets a Job that was noted run.
func (j *job) resumeJob(ctx context.Context, o object) error {
	_, _, err := change(ctx, j, o, func(live *batchv1.Job) (*write, error) {
		if live == nil || live.Spec.Suspend == nil || !*live.Spec.Suspend {
			return nil, nil
		}
		return j.patch(patchOp{"replace", "/spec/suspend", false}), nil
	})
	return err
}

// waitJob waits until a Job has ended. It does so by its own time; one whose controller says nothing is given up some time
// later. While the API server is away, that is waited for.
func (j *job) waitJob(ctx context.Context, o object, run hook.Run) (passed bool, message string, err error) {
	since := time.Now()
	for {
		read, err := o.read(ctx)
		live := as[*batchv1.Job](read)
		switch {
		case ctx.Err() != nil:
			return false, "", ctx.Err()
		case err != nil && !transient(err):
			return false, "", fmt.Errorf("%s: %w", o, err)
		case err != nil: // the API server is away
		case live == nil:
			return false, "somebody has deleted " + o.String() + " before its end", nil
		default:
			if ended, passed, message := hook.Ended(live); ended {
				return passed, message, nil
			}
			from := since
			if live.Status.StartTime != nil {
				from = live.Status.StartTime.Time
			}
			if time.Since(from) > run.Hook.Lasts()+hookGrace && time.Since(since) > hookGrace {
				return false, fmt.Sprintf("it has not ended %s after its time, %s: nobody runs it, or a controller is away", hookGrace, run.Hook.Lasts()), nil
			}
		}
		select {
		case <-time.After(hookPeriod):
		case <-ctx.Done():
			return false, "", ctx.Err()
		}
	}
}

// keepJobLog keeps what a Job's pods have written. It is a courtesy.
func (j *job) keepJobLog(ctx context.Context, run hook.Run, o object) {
	reading, cancel := context.WithTimeout(ctx, logsWithin)
	defer cancel()
	text, err := hook.Logs(reading, j.Kube, j.Namespace, o.name)
	if err != nil {
		j.log(o.String(), "its log cannot be read: %v", err)
		return
	}
	j.keepLog(run, text)
}

// keepLog shows the last lines of what a hook said, and keeps all of it where that is wanted.
func (j *job) keepLog(run hook.Run, text string) {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return
	}
	noted := j.ledger.Release.HookRun(run.Hook.Point, run.Hook.Name, run.Step)
	lines := strings.Split(text, "\n")
	for _, line := range lines[max(0, len(lines)-shownLines):] {
		j.log(noted.String(), "| %s", printable(line))
	}
	if j.HookLog == nil {
		return
	}
	if err := j.HookLog(j.ledger.Release.ID, *noted, text+"\n"); err != nil {
		j.log(noted.String(), "its log could not be kept: %v", err)
	}
}

// printable is a text without what a terminal, or the runner that reads the log of a job, would take for more than text.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return ' '
		case unicode.IsControl(r) && r != '\t':
			return '\uFFFD'
		}
		return r
	}, strings.TrimRight(text, "\r\n"))
}

// OneLine is a text that somebody else has written, such as a container or an event, as a part of a line: without what a
// terminal, the log of a job or a table would take for more than text.
func OneLine(text string) string {
	return strings.ReplaceAll(printable(strings.TrimSpace(text)), "\t", " ")
}

// backAfterHook rolls the release back when a hook's failure has ended the work of a command, under the same lock.
func (j *job) backAfterHook(ctx context.Context, result Result, err error) (Result, error) {
	failed, ok := errors.AsType[*HookError](err)
	if !ok {
		return result, err
	}
	result, err = j.rollback(ctx, fmt.Sprintf("%s failed: %s", &failed.Run, failed.Run.Message))
	if err == nil {
		err = j.commit(ctx)
	}
	if errors.Is(err, ErrLockLost) {
		return Result{}, err
	}
	failed.Then, failed.Err = result.Message, err
	return result, failed
}

// stampHooks keeps an older job from resuming Jobs that it has noted.
func (j *job) stampHooks(ctx context.Context) error {
	for _, name := range j.startedJobs("") {
		if err := j.stampOne(ctx, j.batchJob(name)); err != nil && !lacksPermission(err) {
			return err
		}
	}
	return nil
}

// startedJobs are the Jobs of hooks that have started, and of which it is not noted how they ended; but for those of a point.
func (j *job) startedJobs(but release.HookPoint) (names []string) {
	if r := j.ledger.Release; r != nil {
		for _, h := range r.Hooks {
			if h.Job != "" && h.State == release.HookStarted && h.Point != but {
				names = append(names, h.Job)
			}
		}
	}
	return names
}

// leaveHooks is what a rollback does about hooks that have not ended: a Job that runs is left to its end, because a migration
// that is killed half-way is worse than one that is done; one that has not started is deleted. It is a courtesy.
func (j *job) leaveHooks(ctx context.Context) error {
	if j.planning() {
		return nil
	}
	err := j.deleteSuspended(ctx)
	switch {
	case err == nil, errors.Is(err, ErrLockLost), ctx.Err() != nil:
		return err
	}
	j.log("hooks", "Jobs that have not started are left as they are: %v", err)
	return nil
}

func (j *job) deleteSuspended(ctx context.Context) error {
	for _, name := range j.startedJobs(release.AfterRollback) {
		o := j.batchJob(name)
		_, after, err := change(ctx, j, o, func(live *batchv1.Job) (*write, error) {
			if live == nil || live.Spec.Suspend == nil || !*live.Spec.Suspend {
				return nil, nil
			}
			return j.remove(metav1.DeletePropagationBackground), nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", o, err)
		}
		if after != nil {
			if ended, _, _ := hook.Ended(after); !ended {
				j.log(o.String(), "is left to its end, though the release is rolled back: nobody waits for it")
			}
		}
	}
	if len(j.Hooks) == 0 {
		return nil
	}
	// What a job has made that died before it noted it.
	jobs, err := j.Kube.BatchV1().Jobs(j.Namespace).List(ctx, metav1.ListOptions{LabelSelector: hook.OfLabel + "=" + manifest.CopyLabelValue(j.app())})
	if err != nil {
		return err
	}
	for i := range jobs.Items {
		made := &jobs.Items[i]
		after := strings.HasPrefix(made.Annotations[hook.RunAnnotation], j.ledger.Release.ID+"/"+string(release.AfterRollback)+"/")
		if after || made.Spec.Suspend == nil || !*made.Spec.Suspend || made.Status.StartTime != nil {
			continue
		}
		o := j.batchJob(made.Name)
		if _, _, err := change(ctx, j, o, func(live *batchv1.Job) (*write, error) {
			if live == nil || live.DeletionTimestamp != nil || live.Spec.Suspend == nil || !*live.Spec.Suspend {
				return nil, nil
			}
			return j.remove(metav1.DeletePropagationBackground), nil
		}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s: %w", o, err)
		}
	}
	return nil
}
