package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// chatCommand is a command with the notification options, and what crossbill.yaml says.
func chatCommand(t *testing.T, file string) *lifecycleOptions {
	t.Helper()
	for _, name := range []string{"CROSSBILL_GITHUB_TOKEN", "CROSSBILL_NOTIFY_GITLAB_TOKEN", "CROSSBILL_WEBHOOK", "CROSSBILL_CHAT"} {
		t.Setenv(name, "")
	}
	c, err := config.Parse("crossbill.yaml", []byte(file))
	if err != nil {
		t.Fatal(err)
	}
	settings, err := c.Resolve("verify", nil, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	cmd := &cobra.Command{}
	cmd.SetContext(context.WithValue(t.Context(), configKey{}, resolved{c, settings}))
	o := &lifecycleOptions{command: "verify"}
	o.notify.add(cmd)
	return o
}

// TestWhoIsAsked: nobody, unless there is a chat that wants to know.
func TestWhoIsAsked(t *testing.T) {
	const address = "generic+https://hooks.example.com/SECRET"
	for name, test := range map[string]struct {
		file, chat string
		dryRun     bool
		want       bool
	}{
		"no chat":        {},
		"a chat":         {chat: address, want: true},
		"other events":   {file: "notify: {chat: {events: [promoted]}}", chat: address},
		"this event":     {file: "notify: {chat: {events: [approval]}}", chat: address, want: true},
		"a dry run":      {chat: address, dryRun: true},
		"a wrong chat":   {chat: "SECRET"},
		"a file of them": {chat: "file", want: true},
	} {
		t.Run(name, func(t *testing.T) {
			o := chatCommand(t, test.file)
			o.dryRun = test.dryRun
			if test.chat == "file" {
				test.chat = filepath.Join(t.TempDir(), "chats")
				if err := os.WriteFile(test.chat, []byte("# ours\n"+address+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("CROSSBILL_CHAT", test.chat)
			a := o.newAsker(t.Context(), &rollout.Cluster{})
			if (a != nil) != test.want {
				t.Errorf("asks %v, want %v", a != nil, test.want)
			}
			var nobody *asker
			nobody.sometimes()
			nobody.finish(rollout.Result{}, nil)
			if nobody.hasAsked() {
				t.Error("nobody has asked")
			}
		})
	}
}

// TestChatSettings: what crossbill.yaml and the environment say of chats, and that no error shows an address.
func TestChatSettings(t *testing.T) {
	o := chatCommand(t, `
notify: {chat: {events: [verdict], remindAfter: 90m}}
gitlab: {jobs: {promote: to production}}
approval: {issuer: "https://gitlab.example.com", project: our-org/infra, environment: production/shop, approvers: [ada, grace]}
`)
	t.Setenv("CROSSBILL_CHAT", "generic+https://hooks.example.com/SECRET")
	c, err := o.notify.chat()
	if err != nil || c.Button != "to production" || c.Approvers != "ada, grace" || !c.Wants(notify.ChatVerdict) || c.Wants(notify.ChatApproval) || o.notify.remindAfter().String() != "1h30m0s" {
		t.Errorf("%+v, %v, %s", c, err, o.notify.remindAfter())
	}
	if got := chatCommand(t, "").notify.remindAfter().String(); got != "1h0m0s" {
		t.Errorf("by default %s", got)
	}
	for _, text := range []string{"https://hooks.example.com/SECRET", "SECRET"} {
		t.Setenv("CROSSBILL_CHAT", text)
		if err := o.notify.validate(); err == nil || exitCode(err) != 2 || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", text, err)
		}
	}
	o.notify.chatFile = filepath.Join(t.TempDir(), "none")
	if err := o.notify.validate(); err == nil || exitCode(err) != 2 {
		t.Errorf("a file that does not exist: %v", err)
	}
}

// TestChatsOfACommand: a promotion is sent to the chat; a failing chat is said, without its address, and nothing more.
func TestChatsOfACommand(t *testing.T) {
	var requests atomic.Int64
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.WriteHeader(status)
	}))
	defer server.Close()
	o := chatCommand(t, "")
	t.Setenv("CROSSBILL_CHAT", strings.Replace(server.URL, "http://", "generic://", 1)+"/SECRET?disabletls=yes")
	first := rollout.Result{Release: &release.Release{ID: "one", Stage: release.StageStarted}, Outcome: release.OutcomeFirst, Message: "straight to primary"}
	for _, test := range []struct {
		status int
		want   string
	}{{http.StatusOK, ""}, {http.StatusNotFound, "crossbill: notification failed: chat 1 (webhook): it answered 404 Not Found\n"}} {
		status = test.status
		o.notify.sent = notify.Sent{} // another process
		var log bytes.Buffer
		o.notify.send(t.Context(), &log, &notify.Event{Command: "canary", App: "shop", Namespace: "production", ReleaseID: "one"}, first, nil)
		if got := log.String(); !strings.HasPrefix(got, test.want) || (got == "") != (test.want == "") || strings.Contains(got, "SECRET") {
			t.Errorf("said %q, want %q", got, test.want)
		}
	}
	if requests.Load() != 2 {
		t.Errorf("%d requests", requests.Load())
	}
}
