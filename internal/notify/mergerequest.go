package notify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/httpclient"
)

// MergeRequest shows a release where its code is looked at in GitLab: one commit status, which GitLab lists in a pipeline of
// the commit, and one note on the merge request that brought the commit to the default branch. Both are updated in place, by
// the rules of PullRequest. The token needs scope api and the role Developer, and for the status the right to push or merge to
// the branch of the pipeline, if that is protected. A job's own token (CI_JOB_TOKEN) may write neither.
//
// GitLab refuses to write a status that is running as running again, also to change its text: it says that the release is in
// progress, and no more, until the end. A status is never put into the release's own pipeline, which would run as long as the
// release does: a commit that has no other pipeline shows that one already.
type MergeRequest struct {
	GitLab GitLab
	Log    func(string) // is given what the token has no right to; may be nil
}

// Notify shows the event.
//
// Errors: *usererr.Error as of GitLab, or what GitLab answered, after a few attempts. That the token has too few rights, that
// the project does not have the commit, or that there is no merge request, is none.
func (m MergeRequest) Notify(ctx context.Context, e *Event) error {
	commit, pipelineURL := originOf(e)
	if e.ReleaseID == "" || commit == "" {
		return nil
	}
	client, err := m.GitLab.connect()
	if err != nil {
		return err
	}
	once, err := m.GitLab.connectBy(httpclient.New(m.GitLab.Transport, writeTimeout))
	if err != nil {
		return err
	}
	g := &gitLabHost{client, once, m.GitLab.Project, pipelineURL, "release " + e.App + " "}
	w := newPages(g, e, pipelineURL, m.Log)
	found, _, err := client.Commits.GetCommit(g.project, commit, nil, gitlab.WithContext(ctx))
	switch {
	case forbidden(err):
		w.say("GitLab: %s does not have commit %.12s, or the token may not see it: name the project of the code by notify.gitlab.project, and make the token's user a member with the role Developer (%s)", g.project, commit, refusal(err))
		return nil
	case err != nil:
		return fmt.Errorf("GitLab: commit %.12s of %s: %w", commit, g.project, err)
	case found == nil || len(found.ID) != 40 && len(found.ID) != 64:
		return fmt.Errorf("GitLab: commit %.12s of %s: the answer names no commit", commit, g.project)
	}
	return both(
		func() error {
			return w.status(ctx, found.ID, fmt.Sprintf("GitLab: the token may not write the status of a commit of %s: it takes scope api, the role Developer, and the right to push or merge to a branch that is protected", g.project))
		},
		func() error {
			return w.comment(ctx, found.ID, fmt.Sprintf("GitLab: the token may not write notes on merge requests of %s: it takes scope api and the role Developer", g.project))
		},
	)
}

// gitLabHost is a project in GitLab.
type gitLabHost struct {
	client  *gitlab.Client
	once    *gitlab.Client // repeats nothing
	project string

	pipelineURL string // of the release
	releases    string // what the names of the app's release pipelines start with
}

func (g *gitLabHost) String() string { return "GitLab: " + g.project }

// reviews are the merge requests. GitLab lists those that have brought the commit, or whose changes contain it.
func (g *gitLabHost) reviews(ctx context.Context, commit string) ([]review, error) {
	rows, _, err := g.client.Commits.ListMergeRequestsByCommit(g.project, commit, gitlab.WithContext(ctx))
	if err != nil || !slices.ContainsFunc(rows, func(mr *gitlab.BasicMergeRequest) bool { return mr != nil && mr.MergedAt != nil }) {
		return nil, err
	}
	project, _, err := g.client.Projects.GetProject(g.project, nil, gitlab.WithContext(ctx))
	if err != nil || project == nil {
		return nil, err
	}
	var found []review
	for _, mr := range rows {
		if mr != nil && mr.MergedAt != nil && mr.TargetBranch == project.DefaultBranch && mr.TargetProjectID == project.ID {
			found = append(found, review{mr.IID, *mr.MergedAt, slices.Contains([]string{mr.MergeCommitSHA, mr.SquashCommitSHA, mr.SHA}, commit)})
		}
	}
	return found, nil
}

func (g *gitLabHost) author(ctx context.Context) (func(comment) bool, error) {
	self, _, err := g.client.Users.CurrentUser(gitlab.WithContext(ctx))
	switch {
	case err != nil:
		return nil, err
	case self == nil || self.Username == "":
		return nil, errors.New("GET /user names nobody")
	}
	return func(c comment) bool { return c.author == self.Username }, nil
}

func (g *gitLabHost) comments(ctx context.Context, number int64, page int) (all []comment, next int, err error) {
	rows, response, err := g.client.Notes.ListMergeRequestNotes(g.project, number, &gitlab.ListMergeRequestNotesOptions{
		ListOptions: gitlab.ListOptions{PerPage: 100, Page: int64(page)}, OrderBy: new("created_at"), Sort: new("asc"),
	}, gitlab.WithContext(ctx))
	if err != nil {
		return nil, 0, err
	}
	for _, n := range rows {
		if n != nil && !n.System {
			all = append(all, comment{id: n.ID, body: n.Body, author: n.Author.Username})
		}
	}
	return all, int(response.NextPage), nil
}

func (g *gitLabHost) createComment(ctx context.Context, number int64, body string) error {
	_, _, err := g.once.Notes.CreateMergeRequestNote(g.project, number, &gitlab.CreateMergeRequestNoteOptions{Body: &body}, gitlab.WithContext(ctx))
	return err
}

func (g *gitLabHost) editComment(ctx context.Context, number, id int64, body string) error {
	_, _, err := g.once.Notes.UpdateMergeRequestNote(g.project, number, id, &gitlab.UpdateMergeRequestNoteOptions{Body: &body}, gitlab.WithContext(ctx))
	return err
}

func (g *gitLabHost) deleteComment(ctx context.Context, number, id int64) error {
	_, err := g.client.Notes.DeleteMergeRequestNote(g.project, number, id, gitlab.WithContext(ctx))
	return err
}

// longestMark is how many characters GitLab takes for a status's text, and for its address.
const longestMark = 255

// mark says only that a release goes on, while it does. Each end has its own words.
func (g *gitLabHost) mark(p page, app, address string) mark {
	m := mark{state: string(gitlab.Running), goesOn: true, text: app + ": release in progress", address: address}
	switch p.conclusion {
	case success:
		m.state = string(gitlab.Success)
	case failure:
		m.state = string(gitlab.Failed)
	case canceled:
		m.state = string(gitlab.Canceled)
	}
	if p.conclusion != "" {
		m.goesOn, m.text = false, truncate(p.title, longestMark)
	}
	if len(m.address) > longestMark {
		m.address, _, _ = strings.Cut(m.address, "#")
	}
	if len(m.address) > longestMark {
		m.address = ""
	}
	return m
}

// markOf is the newest status of the name, in whichever pipeline of the commit.
func (g *gitLabHost) markOf(ctx context.Context, commit, name string) (*mark, error) {
	rows, _, err := g.client.Commits.GetCommitStatuses(g.project, commit, &gitlab.GetCommitStatusesOptions{ListOptions: gitlab.ListOptions{PerPage: 100}, Name: &name}, gitlab.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	var newest *gitlab.CommitStatus
	for _, row := range rows {
		if row != nil && row.Name == name && (newest == nil || row.ID > newest.ID) {
			newest = row
		}
	}
	if newest == nil {
		return nil, nil
	}
	m := &mark{state: newest.Status, goesOn: newest.Status == string(gitlab.Running) || newest.Status == string(gitlab.Pending), text: newest.Description, address: newest.TargetURL, in: newest.PipelineID}
	if newest.CreatedAt != nil {
		m.at = *newest.CreatedAt
	}
	return m, nil
}

// setMark writes the status where the one before is, else into the newest pipeline of the commit that is no release's.
func (g *gitLabHost) setMark(ctx context.Context, commit, name string, m mark, before *mark) (wrote bool, err error) {
	options := &gitlab.SetCommitStatusOptions{State: gitlab.BuildStateValue(m.state), Name: &name, Description: &m.text, TargetURL: optional(m.address)}
	if before != nil && before.in != 0 {
		options.PipelineID = &before.in
	} else {
		rows, _, err := g.client.Pipelines.ListProjectPipelines(g.project, &gitlab.ListProjectPipelinesOptions{ListOptions: gitlab.ListOptions{PerPage: 100}, SHA: &commit}, gitlab.WithContext(ctx))
		if err != nil {
			return false, err
		}
		for _, row := range rows { // the newest first
			if row != nil && row.WebURL != g.pipelineURL && !strings.HasPrefix(row.Name, g.releases) {
				options.PipelineID = &row.ID
				break
			}
		}
		if options.PipelineID == nil && len(rows) > 0 {
			return false, nil
		}
	}
	_, _, err = g.once.Commits.SetCommitStatus(g.project, commit, options, gitlab.WithContext(ctx))
	if m.goesOn && err != nil && strings.Contains(refusal(err), "Cannot transition status via") {
		return false, nil // it runs already: another job has written it
	}
	return true, err
}
