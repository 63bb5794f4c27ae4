package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/report"
	"github.com/our-org/crossbill/internal/usererr"
)

// Notice is what a webhook is sent, as JSON. Text is for people; Slack and what understands its incoming
// webhooks show it, and leave the rest (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks).
type Notice struct {
	Text      string           `json:"text"`
	App       string           `json:"app"`
	Namespace string           `json:"namespace"`
	Command   string           `json:"command"`
	State     string           `json:"state"` // the release's outcome or stage, or failed
	ExitCode  int              `json:"exitCode"`
	Message   string           `json:"message"`
	Release   *release.Release `json:"release,omitempty"`
	Links     *report.Links    `json:"links,omitempty"`
	At        time.Time        `json:"at"`
}

// NoticeOf is what there is to send of an event.
func NoticeOf(e *Event) Notice {
	n := Notice{App: e.App, Namespace: e.Namespace, Command: e.Command, State: e.State(), ExitCode: e.ExitCode, Message: e.Message, At: e.Ended.UTC()}
	name := "release " + e.ReleaseID
	if e.Release != nil {
		links := report.LinksOf(e.Release)
		n.Release, n.Links = e.Release.WithoutEvidence(), &links
		if links.Pipeline != "" {
			name = fmt.Sprintf("<%s|%s>", slackText(links.Pipeline), slackText(name))
		}
	}
	n.Text = fmt.Sprintf("*%s* in %s, %s: *%s*\n%s: %s", slackText(e.App), slackText(e.Namespace), name, slackText(strings.ReplaceAll(n.State, "_", " ")), e.Command, slackText(e.Message))
	return n
}

// slackText is text in which nothing is markup.
var slackText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace

// Webhook sends an event to an address, which is a secret: it is in no error. Within half a minute it is tried
// a few times; a notice may arrive twice.
//
// Errors: *usererr.Error, or that it was refused or not answered.
func Webhook(ctx context.Context, address string, e *Event) error {
	if at, err := url.Parse(address); err != nil || at.Host == "" || at.Scheme != "https" && at.Scheme != "http" {
		return &usererr.Error{Field: "--webhook-file", Problem: "it does not hold a web address", Fix: "give https://…"}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	body, err := json.Marshal(NoticeOf(e))
	if err != nil {
		return err
	}
	client := retryablehttp.NewClient()
	client.Logger, client.RetryMax, client.RetryWaitMin, client.RetryWaitMax = nil, 3, time.Second, 5*time.Second
	client.HTTPClient.Timeout = 10 * time.Second
	client.ErrorHandler = retryablehttp.PassthroughErrorHandler
	request, err := retryablehttp.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("webhook: %w", withoutAddress(err))
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "crossbill")
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("webhook: %w", withoutAddress(err))
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		return fmt.Errorf("webhook: answered %s", response.Status)
	}
	return nil
}

// withoutAddress takes the address out of an error of net/http.
func withoutAddress(err error) error {
	if inner, ok := err.(*url.Error); ok {
		return inner.Err
	}
	return err
}
