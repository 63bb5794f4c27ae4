package approval

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Question is what a command asks a policy.
type Question struct {
	Command string
	Release *release.Release // that the command is about, as the ledger has it, or as canary will start it
	Ledger  *release.Ledger
	Token   *Claims // of the job; nil when there is none
}

// Decide says whether the command may go on, and what is noted of that. Errors are *usererr.Error: nothing was changed.
func (p *Policy) Decide(q Question) (*release.Passed, error) {
	passed := &release.Passed{Policy: p.Hash(), Where: p.where(), Before: p.beyond()}
	if was := q.Ledger.Policy; was != nil && was.Hash != passed.Policy {
		passed.Remarks = append(passed.Remarks, fmt.Sprintf("the policy has changed: it is %s, and was %s since %s", passed.Policy, was.Hash, was.Since.Format("2006-01-02")))
	}
	switch was := q.Ledger.Policy; {
	case q.Token != nil:
		if err := p.place(q.Token); err != nil {
			return nil, err
		}
		passed.By = q.Token.UserLogin + "@gitlab-job-" + q.Token.Job
	case was == nil, q.Command == Step:
	case !p.Asks(q.Command) && slices.Contains(was.Before, q.Command):
		return nil, &usererr.Error{
			Field: "approval.before", Problem: fmt.Sprintf("crossbill.yaml asks nobody before %s, and this app's policy has done so since %s: without an ID token it could be any branch's", q.Command, was.Since.Format("2006-01-02")),
			Fix: "run it in a job of " + p.Ref + " with `id_tokens: {CROSSBILL_ID_TOKEN: {aud: " + p.Audience + "}}`; a person with rights in the cluster can give --approve-as-operator. Nothing was changed",
		}
	default:
		passed.Policy = was.Hash // what proves nothing of where it runs does not change what is noted
	}
	switch q.Command {
	case Canary:
		p.note(q, passed)
	case Step:
		passed.Policy = "" // what proves nothing of where it runs notes nothing
		return passed, p.step(q)
	}
	started := q.Command == Canary && !q.Release.StartedAt.IsZero() && q.Release.Stage != release.StageStarted // nothing is left to do
	if started || !p.Asks(q.Command) {
		return passed, nil
	}
	if q.Token == nil {
		return p.without(q, passed)
	}
	approval, err := p.approval(q)
	if err != nil {
		return nil, err
	}
	passed.Approval = approval
	return passed, p.enough(q, approval)
}

// without decides for a command that has no token: what was approved before counts, and finishes what has started.
func (p *Policy) without(q Question, passed *release.Passed) (*release.Passed, error) {
	if q.Command == Promote && q.Release.Stage == release.StagePromoting && p.enough(q, nil) == nil {
		passed.Remarks = append(passed.Remarks, "the promotion was approved when it began, by "+q.Release.Approvers())
		return passed, nil
	}
	return nil, &usererr.Error{
		Field: "ID token", Problem: fmt.Sprintf("%s needs an approval (crossbill.yaml: approval), and this job has no token", q.Command),
		Fix: "give the job `id_tokens: {CROSSBILL_ID_TOKEN: {aud: " + p.Audience + "}}`; a person with rights in the cluster can give --approve-as-operator",
	}
}

// note notes where a release comes from.
func (p *Policy) note(q Question, passed *release.Passed) {
	t := q.Token
	if t == nil {
		if len(p.Approvers) == 0 && q.Release.Pipeline == nil {
			passed.Remarks = append(passed.Remarks, "this job has no ID token, so that who started the pipeline is not known: promote will be refused until approval.approvers names who may")
		}
		return
	}
	if !q.Release.StartedAt.IsZero() && q.Release.Pipeline == nil { // who goes on with it is not who started it
		passed.Remarks = append(passed.Remarks, "the job that started release "+q.Release.ID+" had no ID token, so that who started the pipeline is not known: promote will be refused until approval.approvers names who may")
		return
	}
	passed.Remarks = append(passed.Remarks, fmt.Sprintf("verified: job %s of pipeline %s runs as %s, who is no approver of this release", t.Job, t.Pipeline, t.UserLogin))
	passed.Pipeline = &release.Pipeline{Issuer: t.Issuer, Project: t.Project, ID: t.Pipeline, Source: t.Source, Users: []release.User{{ID: t.UserID, Login: t.UserLogin}}}
}

// refused is the error of a token that is genuine, and not an approval.
func refused(problem, fix string) *usererr.Error {
	return &usererr.Error{Field: "approval", Problem: problem, Fix: fix}
}

// sources are what may start a pipeline that releases. What is not here starts by itself, or takes its file from elsewhere:
// schedule, parent_pipeline, merge_request_event, security_orchestration_policy and whatever comes.
var sources = []string{"trigger", "api", "web", "push"}

// place holds against the policy where a job runs: project, ref, and what started the pipeline.
func (p *Policy) place(t *Claims) error {
	switch {
	case t.Project != p.Project:
		return refused(fmt.Sprintf("the job is of project %s, not of %s", t.Project, p.Project), "release from the pipeline of that project, or correct approval.project")
	case t.JobProject != "" && t.JobProject != p.Project:
		return refused(fmt.Sprintf("the job runs in project %s, not in %s", t.JobProject, p.Project), "release from the pipeline of that project")
	case p.ProjectID != 0 && (t.ProjectID != strconv.Itoa(p.ProjectID) || t.JobProjectID != "" && t.JobProjectID != t.ProjectID):
		return refused(fmt.Sprintf("project %s has the number %s, not %d: it is another project with that name", t.Project, t.ProjectID, p.ProjectID), "correct approval.projectId if the project was made anew")
	case !p.onRef(t):
		return refused(fmt.Sprintf("the job runs on %s, not on %s", refName(t), p.Ref), "release from that ref, or correct approval.ref")
	case t.RefProtected != "true":
		return refused(fmt.Sprintf("the ref %s is not protected: whoever can push to it decides what its jobs do", t.Ref), "protect it in GitLab: Settings, Repository, Protected branches")
	case !slices.Contains(sources, t.Source):
		return refused(fmt.Sprintf("the pipeline was started by %q, and only pipelines started by %s release", t.Source, strings.Join(sources, ", ")), "release from a pipeline that `crossbill trigger` or a person has started")
	}
	return nil
}

// onRef says whether a job runs on the policy's ref. Without refs/ that is a branch: a tag may have the same name.
func (p *Policy) onRef(t *Claims) bool {
	path := t.RefPath
	if path == "" { // before GitLab 16.0
		path = map[string]string{"branch": "refs/heads/", "tag": "refs/tags/"}[t.RefType] + t.Ref
	}
	if strings.HasPrefix(p.Ref, "refs/") {
		return path == p.Ref
	}
	return path == "refs/heads/"+p.Ref && t.Ref == p.Ref && t.RefType == "branch"
}

func refName(t *Claims) string {
	if t.RefPath != "" {
		return t.RefPath
	}
	return t.RefType + " " + t.Ref
}

// approval is what the token of a job says as an approval of this release, or why it is none.
func (p *Policy) approval(q Question) (*release.Approval, error) {
	t := q.Token
	if err := p.environment(q.Command, t); err != nil {
		return nil, err
	}
	if err := p.sameRelease(q); err != nil {
		return nil, err
	}
	if err := p.approver(q, release.User{ID: t.UserID, Login: t.UserLogin}); err != nil {
		return nil, err
	}
	if err := p.author(q.Release, t); err != nil {
		return nil, err
	}
	return &release.Approval{
		Kind: release.ApprovalVerified, By: t.UserLogin, UserID: t.UserID, Command: q.Command, Step: q.step(),
		Issuer: t.Issuer, Pipeline: t.Pipeline, Job: t.Job, Token: t.ID, Policy: p.Hash(),
	}, nil
}

// environment holds the job's environment against the policy: a protected one is what GitLab asks for who may deploy.
func (p *Policy) environment(command string, t *Claims) error {
	switch {
	case t.Environment == "":
		return refused("the job has no environment", "give it `environment: {name: "+p.Environment+"}`")
	case t.Environment != p.Environment:
		return refused(fmt.Sprintf("the job is for the environment %s, not for %s", t.Environment, p.Environment), "approve with the job of that environment")
	case t.EnvironmentAction == "":
		return refused("the token does not say what the job does to its environment", "GitLab 16.5 or later says so")
	case t.EnvironmentAction == "verify" && command == Approve: // which deploys nothing
	case t.EnvironmentAction != "start":
		return refused(fmt.Sprintf("the job is there to %s its environment, not to deploy to it: GitLab can start such a job by itself", t.EnvironmentAction), "approve with a job without `environment: action`")
	}
	switch {
	case t.EnvironmentProtected != "true" && len(p.Approvers) == 0:
		return refused(fmt.Sprintf("the environment %s is not protected: everybody who can run jobs could approve", p.Environment), "protect it (GitLab Premium), or name approvers in approval.approvers")
	}
	return nil
}

// step is the step of the release's plan that an approval is for, from 1; 0: the promotion.
func (q Question) step() int {
	if q.Command == Approve {
		return q.Release.AwaitsApproval()
	}
	return 0
}

// sameStep refuses the token of a job that has approved another step of the release, and one from before the step: whoever
// started that job did not know what the canary has come to.
func (p *Policy) sameStep(q Question) error {
	t, step := q.Token, q.step()
	for _, a := range q.Release.Approvals {
		if a.Issuer == t.Issuer && (a.Token == t.ID || a.Job == t.Job) && a.Step != step {
			what := "the promotion"
			if a.Step > 0 {
				what = q.Release.Plan.Step(a.Step - 1)
			}
			return refused(fmt.Sprintf("job %s has approved %s already", t.Job, what), "approve with a job of its own")
		}
	}
	if step > 0 && t.IssuedAt.Before(q.Release.Plan.Since().Add(-leeway)) {
		return refused(fmt.Sprintf("job %s had its token before release %s has come to %s", t.Job, q.Release.ID, q.Release.Plan.Step(step-1)), "start the job again")
	}
	return nil
}

// pipelinePage is the end of a pipeline's address: project and number.
var pipelinePage = regexp.MustCompile(`^https?://[^/]+/(.+)/-/pipelines/([0-9]+)$`)

// sameRelease refuses the token of another release's job: of another pipeline, used before, or older than the release.
func (p *Policy) sameRelease(q Question) error {
	t, r := q.Token, q.Release
	const fix = "approve with the job of the pipeline that runs this release"
	for i := range q.Ledger.History {
		f := &q.Ledger.History[i]
		if slices.ContainsFunc(f.Approvals, func(a release.Approval) bool {
			return a.Issuer == t.Issuer && (a.Token == t.ID || a.Job == t.Job)
		}) {
			return refused(fmt.Sprintf("job %s has approved release %s already, which finished at %s", t.Job, f.ID, f.FinishedAt.Format("2006-01-02 15:04")), fix)
		}
	}
	if err := p.sameStep(q); err != nil {
		return err
	}
	if q.Command == Canary && (r.StartedAt.IsZero() || r.Stage == release.StageStarted) {
		return nil // this job starts the release: it makes the pipeline the release's own
	}
	if t.IssuedAt.Before(r.StartedAt.Add(-leeway)) {
		return refused(fmt.Sprintf("job %s had its token before release %s has started", t.Job, r.ID), fix)
	}
	pipeline, known := p.pipelineOf(r)
	switch {
	case !known:
		return refused("which pipeline runs release "+r.ID+" is not known", "run canary with an ID token, or with --pipeline-url")
	case t.Pipeline != pipeline:
		return refused(fmt.Sprintf("job %s is of pipeline %s, and release %s is run by pipeline %s", t.Job, t.Pipeline, r.ID, pipeline), fix)
	}
	return nil
}

// pipelineOf is the pipeline that runs a release: as a token has it, else as canary was called.
func (p *Policy) pipelineOf(r *release.Release) (id string, known bool) {
	if o := r.Pipeline; o != nil {
		return o.ID, o.Issuer == p.Issuer && o.Project == p.Project
	}
	match := pipelinePage.FindStringSubmatch(r.PipelineURL)
	if match == nil || match[1] != p.Project && !strings.HasSuffix(match[1], "/"+p.Project) { // below a path of GitLab's own
		return "", false
	}
	return match[2], true
}

// bot is the login of a user that is no person: of a project's or group's access token, or a service account
// (https://docs.gitlab.com/user/project/settings/project_access_tokens/#bot-users-for-projects).
var bot = regexp.MustCompile(`^((project|group)_[0-9]+_bot([0-9]*|_[0-9a-f]+)|service_account_.+|ghost[0-9]*|GitLab-Security-Bot|alert-bot[0-9]*|support-bot[0-9]*)$`)

// approver says why a user is not one, nil if it is.
func (p *Policy) approver(q Question, u release.User) error {
	const press = "somebody else than who started the pipeline has to start the job"
	named := slices.ContainsFunc(p.Approvers, func(login string) bool { return sameLogin(login, u.Login) })
	origin := q.Release.Pipeline
	switch {
	case len(p.Approvers) > 0 && !named:
		return refused(fmt.Sprintf("%s is not among the approvers", u.Login), "one of "+strings.Join(p.Approvers, ", ")+" has to start the job")
	case !named && bot.MatchString(u.Login):
		return refused(u.Login+" is no person", "a person has to start the job, or approval.approvers names "+u.Login)
	case q.Command == Canary && !named:
		return refused("a canary's job is the first of its pipeline, so that one which nobody pressed looks the same", "name approvers in approval.approvers")
	case q.Command == Canary: // whoever approves it starts the release, and goes on with it after a crash
	case origin != nil && slices.ContainsFunc(origin.Users, func(was release.User) bool { return was.ID == u.ID || sameLogin(was.Login, u.Login) }):
		return refused(fmt.Sprintf("nobody pressed it: the job ran as %s, who started the pipeline", u.Login), press)
	case origin == nil && !named:
		return refused("who started the pipeline is not known, so that a job which nobody pressed looks the same",
			"give the canary's job `id_tokens: {CROSSBILL_ID_TOKEN: {aud: "+p.Audience+"}}` too, or name approvers in approval.approvers")
	}
	return nil
}

// author refuses who wrote the release as its approver.
func (p *Policy) author(r *release.Release, t *Claims) error {
	if !p.NotAuthor {
		return nil
	}
	if len(r.Authors) == 0 {
		return refused("who wrote release "+r.ID+" is not known, and approval.notAuthor is set", "give canary --author, as login or e-mail address")
	}
	for _, author := range r.Authors {
		is := sameLogin(author, t.UserLogin) || t.UserEmail != "" && strings.EqualFold(author, t.UserEmail)
		is = is || slices.ContainsFunc(t.Identities, func(i Identity) bool { return i.ExternUID != "" && strings.EqualFold(author, i.ExternUID) })
		if is {
			return refused(fmt.Sprintf("%s wrote release %s (%s)", t.UserLogin, r.ID, author), "somebody else has to approve it")
		}
	}
	return nil
}

// enough counts the approvers: those of the ledger who are still approvers by this policy, and the new one.
func (p *Policy) enough(q Question, also *release.Approval) error {
	var have []release.Approval
	count := func(a release.Approval) {
		if !slices.ContainsFunc(have, a.Same) {
			have = append(have, a)
		}
	}
	for _, a := range q.Release.Approvals {
		switch {
		case a.Command != q.Command && a.Command != Approve, a.Step != 0: // another question
		case a.Kind == release.ApprovalOperator:
			return nil
		case a.Kind == release.ApprovalVerified && a.Issuer == p.Issuer && p.approver(q, release.User{ID: a.UserID, Login: a.By}) == nil:
			count(a)
		}
	}
	if also != nil {
		count(*also)
	}
	if len(have) >= p.Number || q.Command == Approve || q.Command == Canary && len(have) > 0 {
		return nil // a canary has one approver: nobody can approve a release that has not started
	}
	by := "nobody has"
	if len(have) > 0 {
		var names []string
		for _, a := range have {
			names = append(names, a.By)
		}
		by = strings.Join(names, ", ") + " has"
	}
	return refused(fmt.Sprintf("%d of %d approvals: only %s approved", len(have), p.Number, by), "somebody else has to run `crossbill approve` in a job of this pipeline first")
}

// step says whether a release may take the step of its plan that it is at, by the approvals in the ledger. One that gives the
// canary more traffic needs an approval step before it where the policy is asked before shift.
func (p *Policy) step(q Question) error {
	plan := q.Release.Plan
	at := plan.At()
	if plan[at].Approve {
		return p.approvedFor(q, at)
	}
	was := q.Ledger.Policy
	if plan[at].Weight == 0 || !p.Asks(Shift) && (was == nil || !slices.Contains(was.Before, Shift)) {
		return nil
	}
	for i := at - 1; i >= 0 && plan[i].Weight == 0; i-- {
		if plan[i].Approve {
			return p.approvedFor(q, i)
		}
	}
	return refused("this app's policy is asked before shift, and nobody is asked before "+plan.Step(at), "write approve before it in steps of the next release; now, an approver can run shift")
}

// approvedFor says whether enough approvers have approved one step of a plan. The error of one that waits for them is a
// *release.AwaitsApprovalError.
func (p *Policy) approvedFor(q Question, step int) error {
	var have []release.Approval
	var names []string
	for _, a := range q.Release.Approvals {
		switch {
		case a.Step != step+1 || a.Command != Approve && a.Command != Step:
		case a.Kind == release.ApprovalOperator:
			return nil
		case a.Kind == release.ApprovalVerified && a.Command == Approve && a.Issuer == p.Issuer && p.approver(q, release.User{ID: a.UserID, Login: a.By}) == nil && !slices.ContainsFunc(have, a.Same):
			have, names = append(have, a), append(names, a.By)
		}
	}
	if len(have) >= p.Number {
		return nil
	}
	reason := "nobody has approved it yet"
	if len(have) > 0 {
		reason = fmt.Sprintf("%d of %d approvals: only %s has approved it", len(have), p.Number, strings.Join(names, ", "))
	}
	return &release.AwaitsApprovalError{Step: q.Release.Plan.Step(step), Reason: reason}
}

// sameLogin compares logins as GitLab does: without regard to case.
func sameLogin(a, b string) bool { return strings.EqualFold(a, b) }
