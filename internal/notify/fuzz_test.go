package notify

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// FuzzGitHubAnswers: whatever GitHub answers, a notification ends, and goes to a Deployment of the release alone.
func FuzzGitHubAnswers(f *testing.F) {
	for _, body := range []string{"", "null", "[]", "{}", "[null]", `[{"id":1,"payload":"{\"release\":\"0123456789ab\"}"}]`, `[{"id":1,"payload":{"release":"0123456789ab","pipeline":"x"}}]`, `[{"id":-1,"payload":{"release":1}}]`, `[{"id":1,"payload":null}]`, `<html>`, `[{"created_at":"yesterday"}]`} {
		f.Add([]byte(body), 200)
		f.Add([]byte(body), 403)
	}
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		if status < 200 || status > 499 {
			status = http.StatusOK
		}
		synctest.Test(t, func(t *testing.T) {
			requests := 0
			g := GitHub{Repository: "our-org/shop", Token: "t", Transport: server{http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				requests++
				w.WriteHeader(status)
				_, _ = w.Write(body)
			})}}
			_ = g.Notify(t.Context(), unhealthyCanary(release.OutcomeRolledBack))
			_, _ = g.Statuses(t.Context(), "0123456789ab", "")
			if requests > 20 {
				t.Errorf("%d requests", requests)
			}
			time.Sleep(time.Minute) // until the time-outs of answers that the library has not closed are over
		})
	})
}

// FuzzPullRequestAnswers: whatever GitHub answers, showing a release ends in time, and what others have said stays.
func FuzzPullRequestAnswers(f *testing.F) {
	for _, body := range []string{"", "null", "[]", "{}", "[null]", "<html>", `{"login":null,"check_runs":[null,{"id":1}]}`, `[{"id":1,"user":null,"body":"<!-- crossbill shop -->\n"}]`,
		`[{"id":1,"number":7,"merged_at":"2026-11-23T07:00:00Z","base":{"ref":"main","repo":{"default_branch":"main"}},"user":{"login":"ada","type":"User"},"body":"<!-- crossbill shop -->\n<!-- {\"steps\":-1,\"at\":5} -->"}]`} {
		for _, status := range []int{200, 403, 404, 422} {
			f.Add([]byte(body), status)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		if status < 200 || status > 599 {
			status = http.StatusOK
		}
		synctest.Test(t, func(t *testing.T) {
			p := PullRequest{GitHub: GitHub{Repository: "our-org/shop", Token: "t", Transport: server{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/user" && status == http.StatusOK {
					_, _ = w.Write([]byte(`{"login":"release-bot"}`))
					return
				}
				if r.Method == http.MethodDelete || r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/comments/") && !strings.Contains(string(body), "release-bot") && status == http.StatusOK {
					t.Errorf("%s %s", r.Method, r.URL)
				}
				w.WriteHeader(status)
				_, _ = w.Write(body)
			})}}}
			_ = inTime(t, p, pageEvent(1, 2, ""))
			time.Sleep(time.Minute) // until the time-outs of answers that the library has not closed are over
		})
	})
}

// FuzzMergeRequestAnswers: whatever GitLab answers, showing a release ends in time, and what others have said stays.
func FuzzMergeRequestAnswers(f *testing.F) {
	for _, body := range []string{"", "null", "[]", "{}", "[null]", "<html>", `{"id":"` + pageCommit + `"}`, `{"id":5}`, `{"message":{"a":[1]}}`,
		`[{"id":1,"iid":7,"merged_at":"2026-11-23T07:00:00Z","target_branch":"main","target_project_id":7,"author":{"username":"ada"},"body":"<!-- crossbill shop -->\n","name":"crossbill/shop","status":"running","pipeline_id":-1,"target_url":"x#release=one&at=1"}]`} {
		for _, status := range []int{200, 400, 403, 404, 409} {
			f.Add([]byte(body), status)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		if status < 200 || status > 599 {
			status = http.StatusOK
		}
		synctest.Test(t, func(t *testing.T) {
			m := MergeRequest{GitLab: GitLab{Project: "our-org/shop", Token: "t", Transport: server{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				switch path := strings.TrimPrefix(r.URL.Path, "/api/v4"); {
				case path == "/user" && status == http.StatusOK:
					_, _ = w.Write([]byte(`{"username":"release-bot"}`))
				case path == "/projects/our-org/shop" && status == http.StatusOK:
					_, _ = w.Write([]byte(`{"id":7,"default_branch":"main"}`))
				case strings.HasSuffix(path, "/commits/"+pageCommit) && status != http.StatusForbidden:
					_, _ = w.Write([]byte(`{"id":"` + pageCommit + `"}`))
				default:
					if r.Method == http.MethodDelete || r.Method == http.MethodPut && !strings.Contains(string(body), "release-bot") {
						t.Errorf("%s %s", r.Method, r.URL)
					}
					w.WriteHeader(status)
					_, _ = w.Write(body)
				}
			})}}}
			_ = inTime(t, m, pageEvent(1, 2, ""))
		})
	})
}
