package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nicholas-fedor/shoutrrr/pkg/services/chat/discord"
	"github.com/nicholas-fedor/shoutrrr/pkg/services/chat/googlechat"
	"github.com/nicholas-fedor/shoutrrr/pkg/services/chat/mattermost"
	"github.com/nicholas-fedor/shoutrrr/pkg/services/chat/slack"
	"github.com/nicholas-fedor/shoutrrr/pkg/services/chat/teams"
	"github.com/nicholas-fedor/shoutrrr/pkg/services/specialized/generic"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"

	"github.com/our-org/crossbill/internal/httpretry"
	"github.com/our-org/crossbill/internal/usererr"
)

// Chat sends people short texts: to Slack, Teams, Discord, Google Chat, Mattermost, or any program. Package shoutrrr makes
// the request of each; where it goes, how long it may take and what is said of a failure is decided here. The addresses are
// secrets: no error contains one, nor what the library says, which may.
type Chat struct {
	Addresses []Address
	Events    []string // of the release that are sent, by ChatEvents; nil: DefaultChatEvents
	Approvers string   // who may approve, for people; "" is not known
	Button    string   // the job that promotes

	Transport http.RoundTripper // default http.DefaultTransport
	Sent      *Sent             // what this process has sent; nil: nothing
}

// chatTimeout bounds what a chat may cost a command.
const chatTimeout = 5 * time.Second

// Sent is what a process has sent of a release that goes on. The zero value is nothing. It is safe for concurrent use.
type Sent struct {
	lock sync.Mutex
	keys map[string]bool
}

// first says whether something is sent for the first time.
func (s *Sent) first(key string) bool {
	if s == nil {
		return true
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.keys[key] {
		return false
	}
	if s.keys == nil {
		s.keys = map[string]bool{}
	}
	s.keys[key] = true
	return true
}

// chatService is one of shoutrrr's services, as it is used.
type chatService struct {
	name   string // as people know it
	make   func(context.Context) sender
	markup markup
	params func(title, body string) (message string, params types.Params)
}

// sender is what each of shoutrrr's services can do.
type sender interface {
	Initialize(*url.URL, types.StdLogger) error
	Send(string, *types.Params) error
	types.HTTPClientSetter
}

// The services, by the scheme of their addresses in shoutrrr's form.
var chatServices = map[string]*chatService{
	slack.Scheme: { // as the text of the message: attachments, which the library makes of a message, are Slack's past
		name: "Slack", markup: slackMarkup, make: func(context.Context) sender { return &slack.Service{} },
		params: func(title, body string) (string, types.Params) {
			return "", types.Params{"title": "*" + title + "*\n" + body}
		},
	},
	teams.Scheme: {
		name: "Teams", markup: markdownMarkup, make: func(context.Context) sender { return &teams.Service{} },
		params: func(title, body string) (string, types.Params) { return body, types.Params{"title": title} },
	},
	discord.Scheme: { // as an embed, by which nobody is mentioned
		name: "Discord", markup: markdownMarkup,
		make: func(ctx context.Context) sender { return &discordService{ctx: ctx} },
		params: func(title, body string) (string, types.Params) {
			return body, types.Params{"title": truncate(title, 256), "splitlines": "No"}
		},
	},
	googlechat.Scheme: {
		name: "Google Chat", markup: slackMarkup.without("<"), make: func(context.Context) sender { return &googlechat.Service{} },
		params: func(title, body string) (string, types.Params) { return "*" + title + "*\n" + body, nil },
	},
	mattermost.Scheme: {
		name: "Mattermost", markup: markdownMarkup, make: func(context.Context) sender { return &mattermost.Service{} },
		params: func(title, body string) (string, types.Params) { return "**" + title + "**\n" + body, nil },
	},
	generic.Scheme: {
		name: "webhook", markup: plainMarkup, make: func(context.Context) sender { return &generic.Service{} },
		params: func(title, body string) (string, types.Params) {
			return title + "\n" + body, types.Params{"title": title}
		},
	},
}

// discordService does not sleep beyond the end of its context: the library repeats what fails for minutes.
type discordService struct {
	discord.Service
	ctx context.Context
}

func (s *discordService) Initialize(at *url.URL, log types.StdLogger) error {
	err := s.Service.Initialize(at, log)
	s.Sleeper = s
	return err
}

// Sleep is the library's pause before it repeats a request.
func (s *discordService) Sleep(d time.Duration) {
	select {
	case <-s.ctx.Done():
	case <-time.After(d):
	}
}

// Address is that of a chat. It is a secret.
type Address struct {
	service *chatService
	url     *url.URL // in shoutrrr's form
}

// String hides the address.
func (a Address) String() string { return a.service.name }

// ParseAddresses reads addresses of chats, one a line. Each is in shoutrrr's form (https://shoutrrr.nickfedor.com), or as
// Slack, Teams, Discord and Google Chat show theirs. Lines that start with # are left out.
//
// Errors: *usererr.Error (chat), which contains none of them.
func ParseAddresses(text string) (all []Address, err error) {
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		a, err := parseAddress(line)
		if err != nil {
			return nil, &usererr.Error{
				Field: "chat", Problem: fmt.Sprintf("line %d is not the address of a chat: %v", number, err),
				Fix: "give the address that Slack, Teams, Discord or Google Chat shows, or one in the form of shoutrrr (docs/guides/notifications.md#chats)",
			}
		}
		all = append(all, a)
	}
	return all, nil
}

func parseAddress(line string) (Address, error) {
	at, err := url.Parse(line)
	if err != nil || at.Host == "" && at.RawQuery == "" {
		return Address{}, errors.New("it is no URL")
	}
	if at.Scheme == "https" {
		if at = ofService(at); at == nil {
			return Address{}, errors.New("its host belongs to no service that is known; for a program of your own, write generic+https://…")
		}
	}
	if at.Scheme == "generic+https" {
		at.Scheme = generic.Scheme
	}
	service := chatServices[at.Scheme]
	if service == nil {
		return Address{}, errors.New("it starts with none of slack, teams, discord, googlechat, mattermost, generic and https")
	}
	if service.make(context.Background()).Initialize(at, nil) != nil || at.Scheme == teams.Scheme && teams.ValidateWebhookURL(at.Query().Get("host")) != nil {
		return Address{}, fmt.Errorf("%s has no such addresses", service.name)
	}
	return Address{service, at}, nil
}

// ofService is the address of a service in shoutrrr's form; nil for another host.
func ofService(at *url.URL) *url.URL {
	path := strings.Split(strings.Trim(at.Path, "/"), "/")
	switch host := strings.ToLower(at.Hostname()); {
	case host == "hooks.slack.com" && len(path) == 4:
		return &url.URL{Scheme: slack.Scheme, User: url.UserPassword("hook", strings.Join(path[1:], "-")), Host: "webhook"}
	case (host == "discord.com" || host == "discordapp.com") && len(path) == 4:
		return &url.URL{Scheme: discord.Scheme, User: url.User(path[3]), Host: path[2]}
	case host == "chat.googleapis.com":
		copied := *at
		copied.Scheme = googlechat.Scheme
		return &copied
	case teams.ValidateWebhookURL(at.String()) == nil:
		return &url.URL{Scheme: teams.Scheme, RawQuery: url.Values{"host": {at.String()}}.Encode()}
	}
	return nil
}

// Notify sends the event, if it is one of those that are to be sent, to all chats at the same time.
//
// Errors: what each chat answered, by its place in the list.
func (c Chat) Notify(ctx context.Context, e *Event) error {
	what := c.what(e)
	if what == "" || !c.Sent.first(chatKey(e, what)) {
		return nil
	}
	n := c.noteOf(e, what)
	errs := make([]error, len(c.Addresses))
	var pending sync.WaitGroup
	for i, a := range c.Addresses {
		pending.Go(func() {
			if err := c.send(ctx, a, n); err != nil {
				errs[i] = fmt.Errorf("chat %d (%s): %w", i+1, a.service.name, err)
			}
		})
	}
	pending.Wait()
	return errors.Join(errs...)
}

// send sends one chat a note.
func (c Chat) send(ctx context.Context, a Address, n note) error {
	ctx, cancel := context.WithTimeout(ctx, chatTimeout)
	defer cancel()
	client := &chatClient{ctx: ctx, client: httpretry.Client(c.Transport)}
	service := a.service.make(ctx)
	if service.Initialize(a.url, nil) != nil {
		return errors.New("it has no such addresses")
	}
	service.SetHTTPClient(client)
	message, params := a.service.params(n.text(a.service.markup))
	if service.Send(message, &params) == nil {
		return nil
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("there was no answer within %s", chatTimeout)
	case client.came != nil:
		return client.came
	}
	return errors.New("the message was not sent")
}

// chatClient is what shoutrrr's services send their requests with. It keeps what came of the last one.
type chatClient struct {
	ctx    context.Context
	client *http.Client
	came   error
}

// Do sends a request.
func (c *chatClient) Do(request *http.Request) (*http.Response, error) {
	if usererr.SecureURL("chat", request.URL.Scheme+"://"+request.URL.Host) != nil {
		c.came = errors.New("its address is not https")
		return nil, c.came
	}
	request = request.WithContext(c.ctx)
	request.Header.Set("User-Agent", "crossbill")
	response, err := c.client.Do(request)
	if err != nil {
		c.came = withoutURL(err)
		return nil, c.came
	}
	c.came = fmt.Errorf("it answered %d %s", response.StatusCode, http.StatusText(response.StatusCode))
	return response, nil
}

// what is the event of a release that is to be sent of a command; "" if none is.
func (c Chat) what(e *Event) string {
	wanted := c.Events
	if wanted == nil {
		wanted = DefaultChatEvents
	}
	for _, event := range chatEvents(e) {
		if slices.Contains(wanted, event) {
			return event
		}
	}
	return ""
}

// Wants says whether an event is sent.
func (c Chat) Wants(event string) bool {
	return len(c.Addresses) > 0 && (slices.Contains(c.Events, event) || c.Events == nil && slices.Contains(DefaultChatEvents, event))
}
