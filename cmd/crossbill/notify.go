package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// notifyOptions say who is notified of what a command did: GitHub, GitLab, chats, a webhook, a trace collector, a Pushgateway.
type notifyOptions struct {
	enabled     bool // the command has these flags
	github      githubOptions
	code        codeOptions
	webhookFile string
	chatFile    string
	pushgateway string

	cmd     *cobra.Command
	remarks remarks
	sent    notify.Sent
}

func (o *notifyOptions) add(cmd *cobra.Command) {
	o.enabled, o.cmd = true, cmd
	inSection(cmd.Flags(), notificationSection, func(flags *pflag.FlagSet) {
		o.github.add(flags)
		o.code.add(flags)
		flags.StringVar(&o.webhookFile, "webhook-file", "", "file with the address that gets a notice of the outcome, as JSON that Slack shows too (default $CROSSBILL_WEBHOOK)")
		flags.StringVar(&o.chatFile, "chat-file", "", "file with the addresses of chats that people read of releases in, one a line: Slack, Teams, Discord, Google Chat, … (default $CROSSBILL_CHAT)")
		flags.StringVar(&o.pushgateway, "pushgateway", "", "URL of a Prometheus Pushgateway that gets the command's metrics (default $CROSSBILL_PUSHGATEWAY)")
	})
}

// send notifies the targets of a command's end, which never changes the command's own outcome.
func (o *notifyOptions) send(ctx context.Context, log io.Writer, event *notify.Event, result rollout.Result, err error) {
	if !o.enabled {
		return
	}
	event.Release, event.Outcome, event.SupersededBy, event.Message = result.Release, result.Outcome, result.SupersededBy, result.Message
	if event.Result = resultOf(err); err != nil {
		event.ExitCode, event.Message = exitCode(err), err.Error()
	}
	targets, bad := o.targets()
	defer o.remarks.print(log)
	if failed := errors.Join(bad, notify.All(ctx, targets.Notifiers(), event)); failed != nil {
		fmt.Fprintf(log, "crossbill: notification failed: %v\ncrossbill: the release itself is not affected by this\n", failed)
	}
}

// live shows on the pull or merge request and in chats how a command goes on; nil if nobody is to see it.
func (o *notifyOptions) live(ctx context.Context) *notify.Live {
	targets, err := o.targets()
	if !o.enabled || err != nil {
		return nil
	}
	shown := targets.Pages()
	if targets.Chat.Wants(notify.ChatCanary) || targets.Chat.Wants(notify.ChatShift) || targets.Chat.Wants(notify.ChatVerdict) {
		shown = append(shown, targets.Chat)
	}
	if len(shown) == 0 {
		return nil
	}
	return notify.NewLive(ctx, shown, func(failed error) { o.remarks.add(fmt.Sprintf("notification failed: %v", failed)) })
}

// remarks are what is to be known of the targets. Each is printed once in a command.
type remarks struct {
	lock    sync.Mutex
	all     []string
	printed int
}

func (r *remarks) add(text string) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if !slices.Contains(r.all, text) {
		r.all = append(r.all, text)
	}
}

func (r *remarks) print(log io.Writer) {
	r.lock.Lock()
	defer r.lock.Unlock()
	for ; r.printed < len(r.all); r.printed++ {
		fmt.Fprintln(log, "crossbill: "+r.all[r.printed])
	}
}

// waits notifies GitHub and GitLab of what a release in the line waits for.
func (o *notifyOptions) waits(ctx context.Context, log io.Writer, event *notify.Event) {
	targets, err := o.targets()
	hosts := targets.Hosts()
	if len(hosts) == 0 {
		return
	}
	event.Result, event.FinishedAt = notify.Waits, time.Now()
	defer o.remarks.print(log)
	if failed := errors.Join(err, notify.All(ctx, hosts, event)); failed != nil {
		fmt.Fprintf(log, "crossbill: notification failed: %v\n", failed)
	}
}

// resultOf is what the error of a command means to those who are notified.
func resultOf(err error) notify.Result {
	if err == nil {
		return notify.Succeeded
	}
	if errors.As(err, new(*rollout.WaitedError)) {
		return notify.Waited
	}
	switch exitCode(err) {
	case exitUnhealthy:
		return notify.Unhealthy
	case exitDeadline:
		return notify.NotReady
	case exitInconclusive:
		return notify.Inconclusive
	case exitFailure:
		return notify.Failed
	}
	return notify.Refused
}

// targets are those that the options and the environment name.
func (o *notifyOptions) targets() (notify.Targets, error) {
	github, _, githubErr := o.github.source()
	gitlab, gitlabErr := o.code.source()
	if gitlab.Token != "" && github.Token != "" && o.code.byDefault(o.cmd) {
		gitlab.Token = ""
		o.remarks.add("GitLab: nothing is shown there, since there is a token for GitHub: name the project of the code by notify.gitlab.project, if it is in GitLab")
	}
	webhook, webhookErr := secret("--webhook-file", o.webhookFile, "CROSSBILL_WEBHOOK")
	chat, chatErr := o.chat()
	return notify.Targets{
		GitHub: github, PullRequest: o.pullRequest(), GitLab: gitlab, WebhookURL: webhook, Chat: chat, PushgatewayURL: o.pushgateway, Log: o.remarks.add, Version: buildVersion().Version,
	}, errors.Join(githubErr, gitlabErr, webhookErr, chatErr)
}

// chat are the chats that the options name, with what they are sent.
func (o *notifyOptions) chat() (notify.Chat, error) {
	text, err := o.chatAddresses()
	if err != nil || text == "" || o.cmd == nil {
		return notify.Chat{}, err
	}
	found := configOf(o.cmd)
	c := notify.Chat{Events: found.Notify.Chat.Events, Sent: &o.sent}
	if c.Addresses, err = notify.ParseAddresses(text); err != nil {
		return notify.Chat{}, err
	}
	if found.settings != nil {
		c.Button = found.settings.Value("gitlab.jobs.promote")
	}
	if p := found.Approval; p != nil {
		c.Approvers = p.Who()
	}
	return c, nil
}

// chatAddresses are the addresses of chats as text. A variable of type File has the path of a file.
func (o *notifyOptions) chatAddresses() (string, error) {
	path, text := o.chatFile, ""
	if path == "" {
		if text = strings.TrimSpace(os.Getenv("CROSSBILL_CHAT")); !strings.HasPrefix(text, "/") {
			return text, nil
		}
		path = text
	}
	read, err := os.ReadFile(path)
	if err != nil {
		return "", &usererr.Error{Field: "chat", Problem: err.Error(), Fix: "give a file with the address of a chat on each line"}
	}
	return string(read), nil
}

// remindAfter is how long a release may wait for an approver before people are reminded; 0 for ever.
func (o *notifyOptions) remindAfter() time.Duration {
	settings := configOf(o.cmd).settings
	if settings == nil {
		return 0
	}
	after, err := time.ParseDuration(settings.Value("notify.chat.remindAfter"))
	if err != nil {
		return 0
	}
	return after
}

// pullRequest says whether a release is shown on its pull request.
func (o *notifyOptions) pullRequest() bool {
	if o.cmd == nil {
		return false
	}
	wanted := configOf(o.cmd).Notify.GitHub.PullRequest
	return wanted == nil || *wanted
}

// validate finds bad options. Nobody is notified.
func (o *notifyOptions) validate() error {
	if !o.enabled {
		return nil
	}
	_, err := o.targets()
	return err
}

// githubOptions say which GitHub repository is notified of a release.
type githubOptions struct {
	github    notify.GitHub
	tokenFile string
}

func (o *githubOptions) add(flags *pflag.FlagSet) {
	o.addRepository(flags)
	flags.StringVar(&o.github.EnvironmentURL, "environment-url", "", "the app's address, for the Deployment")
}

// addRepository adds the flags that name the repository.
func (o *githubOptions) addRepository(flags *pflag.FlagSet) {
	flags.StringVar(&o.github.Repository, "github-repository", "", "owner/name: its Deployment of the release gets a status (default $CROSSBILL_GITHUB_REPOSITORY, none without a token)")
	flags.StringVar(&o.tokenFile, "github-token-file", "", "file with a token that may write deployments, and checks or statuses and pull request comments (default $CROSSBILL_GITHUB_TOKEN)")
	flags.StringVar(&o.github.URL, "github-url", "", "URL of GitHub's API (default https://api.github.com)")
}

// source is the repository that the options name; false when there is no token for it.
func (o *githubOptions) source() (g notify.GitHub, named bool, err error) {
	g = o.github
	g.Token, err = secret("--github-token-file", o.tokenFile, "CROSSBILL_GITHUB_TOKEN")
	return g, g.Token != "", err
}

// codeOptions say in which GitLab project the code of releases is.
type codeOptions struct {
	gitlab    notify.GitLab
	tokenFile string
}

func (o *codeOptions) add(flags *pflag.FlagSet) {
	flags.StringVar(&o.gitlab.Project, "notify-gitlab-project", "", "GitLab project of the code, if it is not on GitHub: its commit and merge request show the release (default the job's project, none without a token)")
	flags.StringVar(&o.tokenFile, "notify-gitlab-token-file", "", "file with an access token of scope api for it (default $CROSSBILL_NOTIFY_GITLAB_TOKEN)")
	flags.StringVar(&o.gitlab.URL, "notify-gitlab-url", "https://gitlab.com", "URL of that GitLab")
}

// source is the project that the options name, without a token if there is none.
func (o *codeOptions) source() (notify.GitLab, error) {
	g := o.gitlab
	var err error
	g.Token, err = secret("--notify-gitlab-token-file", o.tokenFile, "CROSSBILL_NOTIFY_GITLAB_TOKEN")
	return g, err
}

// byDefault says that the project is only the one whose job this is.
func (o *codeOptions) byDefault(cmd *cobra.Command) bool {
	if cmd == nil {
		return false
	}
	settings := configOf(cmd).settings
	return settings != nil && settings.Platform("notify.gitlab.project")
}
