package report

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// TestApproversAreShown: status, history, timeline, Markdown and HTML name who approved a release, and say when nobody was
// asked.
func TestApproversAreShown(t *testing.T) {
	at := time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC)
	of := func(approvals ...release.Approval) *rollout.Status {
		r := release.Release{
			ID: "one", Image: "registry.example.com/app@sha256:" + strings.Repeat("0a", 32), Weight: 10, Stage: release.StagePromoting, StartedAt: at, StartedBy: "bot",
			PipelineURL: "https://gitlab.example.com/infra/deploy/-/pipelines/9", Steps: []release.Step{{Stage: release.StageStarted, At: at, By: "bot"}}, Approvals: approvals,
		}
		return &rollout.Status{App: "app", Namespace: "shop", Release: &r, History: []release.Finished{{Release: r, Outcome: release.OutcomePromoted, FinishedAt: at, FinishedBy: "bot"}}}
	}
	verified := release.Approval{Kind: release.ApprovalVerified, By: "mona", Command: "promote", Job: "302", At: at}
	for want, s := range map[string]*rollout.Status{
		"mona":                    of(verified),
		"lisa, mona":              of(release.Approval{Kind: release.ApprovalVerified, By: "lisa", Command: "approve", At: at}, verified),
		"ann@laptop (operator)":   of(release.Approval{Kind: release.ApprovalOperator, By: "ann@laptop", Command: "promote", At: at}),
		"ann@job5 (not verified)": of(release.Approval{Kind: release.ApprovalUnverified, By: "ann@job5", Command: "promote", At: at}),
	} {
		var status, markdown, page bytes.Buffer
		if err := WriteStatus(&status, s, false); err != nil {
			t.Fatal(err)
		}
		if err := WriteMarkdown(&markdown, Report{Status: s, Timeline: Timeline(s), Now: at}); err != nil {
			t.Fatal(err)
		}
		if err := WriteHTML(&page, Report{Status: s, Timeline: Timeline(s), Delivery: DeliveryOf(s.History, nil, time.Time{}, at), Now: at}); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"status": status.String(), "markdown": strings.ReplaceAll(markdown.String(), "\u200b", ""), "page": page.String()} {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not name %s:\n%s", name, want, text)
			}
		}
		if got := History(s.History)[0].ApprovedBy; got != want {
			t.Errorf("history: %s, want %s", got, want)
		}
	}
	for _, e := range Timeline(of(verified)) {
		if e.Event == "approved" && (e.By != "mona" || e.URL != "https://gitlab.example.com/infra/deploy/-/jobs/302" || e.Detail != "promote, verified") {
			t.Errorf("timeline: %+v", e)
		}
	}
}
