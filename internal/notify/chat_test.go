package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// The addresses of each service, as it shows them, and in shoutrrr's form.
const (
	slackAddress      = "https://hooks.slack.com/services/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"
	teamsAddress      = "https://prod-00.westeurope.logic.azure.com:443/workflows/SECRET/triggers/manual/paths/invoke?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=SECRET"
	teamsNewAddress   = "https://default00.00.environment.api.powerplatform.com:443/powerautomate/automations/direct/workflows/SECRET/triggers/manual/paths/invoke?api-version=1&sig=SECRET"
	discordAddress    = "https://discord.com/api/webhooks/123456789012345678/SECRET"
	googleAddress     = "https://chat.googleapis.com/v1/spaces/AAAA/messages?key=SECRET&token=SECRET"
	mattermostAddress = "mattermost://chat.example.com/SECRET"
	genericAddress    = "generic+https://hooks.example.com/SECRET?template=json"
)

// TestChatRequests is what each service gets: testdata/chats. It was checked against
//
//   - Slack: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, which answers 200 "ok"
//   - Teams: https://learn.microsoft.com/connectors/teams/#microsoft-teams-webhook, which takes an adaptive card and answers
//     202; and notify/msteamsv2 of github.com/prometheus/alertmanager v0.35.0, which sends the same envelope
//   - Discord: https://docs.discord.com/developers/resources/webhook#execute-webhook, which answers 204
//   - Google Chat: https://developers.google.com/workspace/chat/quickstart/webhooks, which answers 200 with the message
//   - Mattermost: https://developers.mattermost.com/integrate/webhooks/incoming, which answers 200 "ok"
//
// The double takes any message. The real ones refuse what is too long: the texts are cut long before that.
func TestChatRequests(t *testing.T) {
	event := waitingEvent(1)
	event.Release.Verdict.Reason = "availability: 100.00% are good, see <!channel> @everyone [x](https://evil.example.com) & more"
	for name, test := range map[string]struct {
		address string
		answer  func(http.ResponseWriter)
		want    string // method and URL
	}{
		"slack":      {slackAddress, func(w http.ResponseWriter) { fmt.Fprint(w, "ok") }, "POST " + slackAddress},
		"teams":      {teamsAddress, func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted) }, "POST " + teamsAddress},
		"discord":    {discordAddress, func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) }, "POST " + discordAddress},
		"googlechat": {googleAddress, func(w http.ResponseWriter) { fmt.Fprint(w, `{"name":"spaces/AAAA/messages/1"}`) }, "POST " + googleAddress},
		"mattermost": {mattermostAddress, func(w http.ResponseWriter) { fmt.Fprint(w, "ok") }, "POST https://chat.example.com/hooks/SECRET"},
		"generic":    {genericAddress, func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) }, "POST https://hooks.example.com/SECRET"},
	} {
		t.Run(name, func(t *testing.T) {
			requests := 0
			c := chatAt(t, test.address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests++
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				got := append(body, '\n')
				if diff := cmp.Diff(test.want, r.Method+" "+r.URL.String()); diff != "" || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") || r.UserAgent() != "crossbill" {
					t.Errorf("%v (-want +got)\n%s", r.Header, diff)
				}
				golden(t, "testdata/chats/"+name+".json", got)
				test.answer(w)
			}))
			if err := c.Notify(t.Context(), event); err != nil || requests != 1 {
				t.Errorf("%d requests, %v", requests, err)
			}
		})
	}
}

// waitingEvent is a release that waits for an approver, who was asked so many times.
func waitingEvent(times int) *Event {
	e := pageEvent(1, 1, "")
	r := e.Release
	r.Stage, r.SourceURL = release.StageVerified, "https://github.com/our-org/shop/actions/runs/1"
	r.Steps = append(r.Steps, release.Step{Stage: release.StageVerified, At: started.Add(time.Minute)})
	v := r.Subject()
	v.Outcome, v.Reason, v.At = release.Healthy, "availability: 100.00% are good", started.Add(time.Minute)
	r.Verdict = &v
	r.Asked = &release.Asked{Since: started.Add(time.Minute), Times: times, At: started.Add(time.Minute + time.Duration(times-1)*time.Hour)}
	e.Result, e.Message = Asks, ""
	return e
}

func chatAt(t *testing.T, addresses string, handler http.Handler) Chat {
	t.Helper()
	parsed, err := ParseAddresses(addresses)
	if err != nil {
		t.Fatal(err)
	}
	return Chat{Addresses: parsed, Approvers: "ada, grace", Button: "promote_to_production", Transport: server{handler}}
}

// TestChatFailures: a chat that fails, is slow or leads elsewhere costs seconds, keeps no other one from its message, and its
// error has no address.
func TestChatFailures(t *testing.T) {
	all := strings.Join([]string{slackAddress, teamsAddress, discordAddress, googleAddress, mattermostAddress, genericAddress}, "\n")
	for name, test := range map[string]struct {
		handler http.Handler
		want    string // in the error of each
		took    time.Duration
	}{
		"no server":    {nil, "connection refused", chatTimeout},
		"gone":         {answers(http.StatusNotFound, ""), "it answered 404 Not Found", 0},
		"wrong secret": {answers(http.StatusForbidden, "invalid_token SECRET"), "it answered 403 Forbidden", 0},
		"down":         {answers(http.StatusBadGateway, "SECRET"), "there was no answer within 5s", chatTimeout},
		"never ends": {http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}), "there was no answer within 5s", chatTimeout},
		"too many at a time": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		}), "there was no answer within 5s", chatTimeout},
		"elsewhere": {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example.com/SECRET", http.StatusTemporaryRedirect)
		}), "to https://evil.example.com; that is not followed", 0},
		"elsewhere, as a page": {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example.com/SECRET", http.StatusFound)
		}), "to https://evil.example.com; that is not followed", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Minute) // simulated: for timers of net/http
				var lock sync.Mutex
				var hosts []string
				c := chatAt(t, all, nil)
				c.Transport = server{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					lock.Lock()
					hosts = append(hosts, r.URL.Host)
					lock.Unlock()
					if r.Method != http.MethodPost {
						t.Errorf("%s %s", r.Method, r.URL.Host)
					}
					test.handler.ServeHTTP(w, r)
				})}
				if test.handler == nil {
					c.Transport = server{}
				}
				began := time.Now()
				err := All(t.Context(), []Notifier{c}, waitingEvent(1))
				if took := time.Since(began); took > chatTimeout || test.took == 0 && took > 0 {
					t.Errorf("took %s", took)
				}
				if err == nil || strings.Contains(strings.ToLower(err.Error()), "secret") {
					t.Fatalf("error %v", err)
				}
				lines := strings.Split(err.Error(), "\n")
				for i, service := range []string{"Slack", "Teams", "Discord", "Google Chat", "Mattermost", "webhook"} {
					if want := fmt.Sprintf("chat %d (%s): ", i+1, service); i >= len(lines) || !strings.HasPrefix(lines[i], want) || !strings.Contains(lines[i], test.want) && !strings.Contains(lines[i], "no answer within") {
						t.Errorf("%q, want %s…%s", lines[min(i, len(lines)-1)], want, test.want)
					}
				}
				for _, host := range hosts {
					if host == "evil.example.com" {
						t.Error("a message went elsewhere")
					}
				}
			})
		})
	}
	t.Run("one of two", func(t *testing.T) {
		c := chatAt(t, slackAddress+"\n"+discordAddress, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Host == "hooks.slack.com" {
				fmt.Fprint(w, "no_service") // with 200
				return
			}
			w.WriteHeader(http.StatusNoContent)
		}))
		if err := c.Notify(t.Context(), waitingEvent(1)); err == nil || err.Error() != "chat 1 (Slack): it answered 200 OK" {
			t.Errorf("error %v", err)
		}
	})
	t.Run("without TLS", func(t *testing.T) {
		c := chatAt(t, "mattermost://chat.example.com/SECRET?disabletls=yes", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was sent") }))
		if err := c.Notify(t.Context(), waitingEvent(1)); err == nil || err.Error() != "chat 1 (Mattermost): its address is not https" {
			t.Errorf("error %v", err)
		}
	})
}

func answers(status int, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	})
}

// TestChatAddresses: each form is read, and what is wrong is bad input that shows no address.
func TestChatAddresses(t *testing.T) {
	parsed, err := ParseAddresses("# the team's\n\n" + slackAddress + "\r\n  " + discordAddress + "  \n" + teamsNewAddress + "\nslack://hook:T0SECRET00-B0SECRET00-SECRETsecretSECRETsecret@webhook\ngeneric://hooks.example.com/x")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(parsed); got != "[Slack Discord Teams Slack webhook]" {
		t.Errorf("%s", got)
	}
	for _, text := range []string{
		"SECRET", "https://SECRET.example.com/SECRET", "https://hooks.slack.com/SECRET", "https://hooks.slack.com/services/a/b/SECRET", "https://discord.com/api/webhooks/SECRET",
		"telegram://SECRET@telegram?chats=SECRET", "http://hooks.slack.com/services/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", "teams://?host=https%3A%2F%2FSECRET.example.com",
		"slack://SECRET:SECRET", "discord://SECRET", "discord://SECRET@1?SECRET=SECRET", "mattermost://SECRET.example.com", "googlechat://chat.googleapis.com/x?key=&token=SECRET", "://SECRET", "https://\x7fSECRET", "logger://SECRET", "smtp://SECRET:SECRET@example.com",
	} {
		var input *usererr.Error
		if got, err := ParseAddresses(slackAddress + "\n" + text); !errors.As(err, &input) || input.Field != "chat" || !strings.Contains(input.Problem, "line 2") || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

// TestChatEvents is which events of a release each command brings about; what it has not done itself is none.
func TestChatEvents(t *testing.T) {
	now := started.Add(time.Hour)
	event := func(command string, result Result, outcome release.Outcome, steps ...release.Step) *Event {
		r := &release.Release{ID: "one", Stage: release.StageStarted, StartedAt: started, Steps: append([]release.Step{{Stage: release.StageStarted, At: started, By: "bot"}}, steps...)}
		r.Stage = r.Steps[len(r.Steps)-1].Stage
		return &Event{Command: command, Release: r, ReleaseID: "one", By: "bot", Outcome: outcome, Result: result, StartedAt: now}
	}
	step := func(stage release.Stage, minute int) release.Step {
		return release.Step{Stage: stage, At: now.Add(time.Duration(minute) * time.Minute), By: "bot"}
	}
	others := func(stage release.Stage) release.Step {
		return release.Step{Stage: stage, At: now.Add(time.Minute), By: "ann"}
	}
	asked := event("verify", Succeeded, "", step(release.StageCanary, -9), step(release.StageVerified, 1))
	asked.Asked = true
	for name, test := range map[string]struct {
		event *Event
		want  []string
	}{
		"canary":                    {event("canary", Succeeded, "", step(release.StageCanary, 1)), []string{ChatCanary}},
		"canary, run again":         {event("canary", Succeeded, "", step(release.StageCanary, -1)), nil},
		"canary of somebody else":   {event("canary", Succeeded, "", others(release.StageCanary)), nil},
		"shift":                     {event("shift", Succeeded, "", step(release.StageCanary, -9), step(release.StageCanary, 1)), []string{ChatShift}},
		"follow":                    {event("canary", Succeeded, "", step(release.StageCanary, 1), step(release.StageVerified, 2), step(release.StageCanary, 3)), []string{ChatShift, ChatVerdict, ChatCanary}},
		"follow, while it goes on":  {event("canary", Judging, "", step(release.StageCanary, 1)), []string{ChatCanary}},
		"verify":                    {event("verify", Succeeded, "", step(release.StageCanary, -9), step(release.StageVerified, 1)), []string{ChatVerdict}},
		"verify, which has asked":   {asked, nil},
		"verify, run again":         {event("verify", Succeeded, "", step(release.StageCanary, -9), step(release.StageVerified, -1)), nil},
		"watch, while it goes on":   {event("verify", Judging, "", step(release.StageCanary, -9)), nil},
		"inconclusive":              {event("verify", Inconclusive, "", step(release.StageVerified, 1)), []string{ChatFailed, ChatVerdict}},
		"unhealthy":                 {event("verify", Unhealthy, release.OutcomeRolledBack), []string{ChatRolledBack, ChatVerdict, ChatFailed}},
		"unhealthy, not taken back": {event("verify", Unhealthy, ""), []string{ChatFailed, ChatRolledBack, ChatVerdict}},
		"never ready":               {&Event{Command: "canary", Result: NotReady}, []string{ChatFailed, ChatRolledBack, ChatVerdict}},
		"people are asked":          {event("guard", Asks, ""), []string{ChatApproval}},
		"promote":                   {event("promote", Succeeded, "", step(release.StagePromoting, 1), step(release.StagePromoted, 2)), []string{ChatPromoted}},
		"promote, run again":        {event("promote", Succeeded, "", step(release.StagePromoting, -2), step(release.StagePromoted, -1)), nil},
		"promote, nothing left":     {&Event{Command: "promote", Result: Succeeded}, nil},
		"cleanup":                   {event("cleanup", Succeeded, release.OutcomePromoted, step(release.StagePromoted, -1)), []string{ChatFinished}},
		"first release":             {event("canary", Succeeded, release.OutcomeFirst), []string{ChatPromoted, ChatFinished}},
		"unchanged":                 {event("canary", Succeeded, release.OutcomeUnchanged), nil},
		"rollback":                  {event("rollback", Succeeded, release.OutcomeRolledBack), []string{ChatRolledBack, ChatFinished}},
		"rollback, nothing to do":   {&Event{Command: "rollback", Result: Succeeded}, nil},
		"a return":                  {event("rollback", Succeeded, release.OutcomeReturned), []string{ChatRolledBack, ChatFinished}},
		"superseded":                {event("canary", Succeeded, release.OutcomeSuperseded), []string{ChatFinished}},
		"promote failed":            {event("promote", Failed, ""), []string{ChatFailed}},
		"guard failed":              {event("guard", Failed, ""), nil},
		"refused":                   {event("promote", Refused, ""), nil},
		"in the line":               {&Event{Command: "queue", Result: Waits}, nil},
		"has left the line":         {&Event{Command: "queue", Result: Waited}, []string{ChatFailed}},
	} {
		if diff := cmp.Diff(test.want, chatEvents(test.event), cmp.Transformer("len", func(s []string) []string { return slices.Clip(append([]string{}, s...)) })); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

// TestChatSendsOnce: an event that is seen while the command goes on and at its end is sent once; by default few are.
func TestChatSendsOnce(t *testing.T) {
	live := pageEvent(1, 1, "")
	live.By, live.StartedAt = "", started
	live.Result = Judging
	end := *live
	end.Result = Succeeded
	for name, test := range map[string]struct {
		events []string
		sent   []*Event
		want   int
	}{
		"by default":          {nil, []*Event{live, &end}, 0},
		"the canary":          {[]string{ChatCanary}, []*Event{live, live, &end}, 1},
		"nothing at all":      {[]string{}, []*Event{waitingEvent(1)}, 0},
		"asked and reminded":  {nil, []*Event{waitingEvent(1), waitingEvent(2), waitingEvent(3)}, 3},
		"the same reminder":   {nil, []*Event{waitingEvent(2), waitingEvent(2)}, 1},
		"promotion, finished": {[]string{ChatPromoted, ChatFinished}, []*Event{pageEvent(1, 1, release.OutcomePromoted)}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			requests := 0
			c := chatAt(t, discordAddress, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				requests++
				w.WriteHeader(http.StatusNoContent)
			}))
			c.Events, c.Sent = test.events, &Sent{}
			for _, e := range test.sent {
				if err := All(context.WithoutCancel(t.Context()), []Notifier{c}, e); err != nil {
					t.Error(err)
				}
			}
			if requests != test.want {
				t.Errorf("%d requests, want %d", requests, test.want)
			}
		})
	}
}

// TestChatNotes is what people read: testdata/chats/notes.txt. Look at it as a reader would.
func TestChatNotes(t *testing.T) {
	c := Chat{Approvers: "ada, grace", Button: "promote_to_production"}
	bySteps := waitingEvent(1)
	bySteps.Release.Plan = release.NewPlan([]release.PlanStep{{Weight: 10}, {Approve: true}, {Weight: 50}})
	bySteps.Release.Plan[0].DoneAt, bySteps.Release.Plan[1].DoneAt = started, started
	proposed := waitingEvent(1)
	proposed.Release.Proposal, proposed.Release.PipelineURL = pageCommit, ""
	back := unhealthyCanary(release.OutcomeRolledBack)
	back.Message = "unhealthy: availability: 31 of the canary's 261 events are bad\nrolled back: 100% of the traffic to primary"
	back.Release.Reason = "availability: 31 of the canary's 261 events are bad"
	back.Release.Verdict.Reason = back.Release.Reason
	taken := pageEvent(1, 1, release.OutcomeRolledBack)
	taken.Command, taken.Message, taken.Release.Reason = "rollback", "100% of the traffic to primary, the canary is removed", "the basket is empty"
	failed := pageEvent(1, 1, "")
	failed.Command, failed.Result, failed.Message, failed.Release = "promote", Failed, "Deployment shop-primary: the API server is away", nil
	promoted := pageEvent(1, 1, "")
	promoted.Command, promoted.Release.Stage, promoted.Message = "promote", release.StagePromoted, "primary runs the release and has 100% of the traffic"
	var b strings.Builder
	for _, one := range []struct {
		what string
		e    *Event
	}{
		{ChatCanary, pageEvent(1, 1, "")}, {ChatApproval, waitingEvent(1)}, {ChatApproval, waitingEvent(3)}, {ChatApproval, bySteps}, {ChatApproval, proposed},
		{ChatPromoted, promoted}, {ChatFinished, pageEvent(9, 5, release.OutcomePromoted)}, {ChatRolledBack, back}, {ChatRolledBack, taken}, {ChatFailed, failed},
	} {
		title, body := c.noteOf(one.e, one.what).text(plainMarkup)
		fmt.Fprintf(&b, "%s\n%s\n\n", title, body)
	}
	const file = "testdata/chats/notes.txt"
	golden(t, file, []byte(b.String()))
}
