package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/httpretry"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Webhook posts a Message to an address, which is a secret: no error contains it. A message may arrive twice.
type Webhook struct {
	URL string

	Transport http.RoundTripper // default http.DefaultTransport
}

// Message is the body of a webhook's request. Text is for people; Slack and what understands its incoming
// webhooks show it and ignore the rest (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks).
type Message struct {
	SchemaVersion int              `json:"schemaVersion"`
	Text          string           `json:"text"`
	App           string           `json:"app"`
	Namespace     string           `json:"namespace"`
	Command       string           `json:"command"`
	State         string           `json:"state"` // the release's outcome or stage, or failed
	ExitCode      int              `json:"exitCode"`
	Message       string           `json:"message"`
	Release       *release.Release `json:"release,omitempty"`
	Links         *release.Links   `json:"links,omitempty"`
	StartedAt     time.Time        `json:"startedAt"`
	FinishedAt    time.Time        `json:"finishedAt"`
}

// messageOf is what a webhook is sent of an event.
func messageOf(e *Event) Message {
	m := Message{
		SchemaVersion: 1, App: e.App, Namespace: e.Namespace, Command: e.Command, State: e.State(), ExitCode: e.ExitCode, Message: e.Message,
		StartedAt: e.StartedAt.UTC(), FinishedAt: e.FinishedAt.UTC(),
	}
	name := "release " + e.ReleaseID
	if e.Release != nil {
		links := e.Release.Links()
		m.Release, m.Links = e.Release.WithoutEvidence(), &links
		if links.PipelineURL != "" {
			name = fmt.Sprintf("<%s|%s>", escapeSlack(links.PipelineURL), escapeSlack(name))
		}
	}
	m.Text = fmt.Sprintf("*%s* in %s, %s: *%s*\n%s: %s", escapeSlack(e.App), escapeSlack(e.Namespace), name, escapeSlack(strings.ReplaceAll(m.State, "_", " ")), e.Command, escapeSlack(e.Message))
	return m
}

// escapeSlack makes a text in which nothing is Slack's markup.
var escapeSlack = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace

// Notify posts the event's Message.
//
// Errors: *usererr.Error (webhook), or what was answered after a few attempts.
func (w Webhook) Notify(ctx context.Context, e *Event) error {
	if at, err := url.Parse(w.URL); err != nil || at.Host == "" || at.Scheme != "https" && at.Scheme != "http" {
		return &usererr.Error{Field: "webhook", Problem: "it is not a web address", Fix: "give https://…"}
	}
	body, err := json.Marshal(messageOf(e))
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("webhook: %w", withoutURL(err))
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "crossbill")
	response, err := httpretry.Client(w.Transport).Do(request)
	if err != nil {
		return fmt.Errorf("webhook: %w", withoutURL(err))
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		return fmt.Errorf("webhook: it answered %s", response.Status)
	}
	return nil
}

// withoutURL removes the address from an error of net/http, however deep it is.
func withoutURL(err error) error {
	for inner := new(url.Error); errors.As(err, &inner); {
		err = inner.Err
	}
	return err
}
