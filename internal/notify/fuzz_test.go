package notify

import (
	"net/http"
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
			_, _ = g.Statuses(t.Context(), "0123456789ab")
			if requests > 20 {
				t.Errorf("%d requests", requests)
			}
			time.Sleep(time.Minute) // until the time-outs of answers that the library has not closed are over
		})
	})
}
