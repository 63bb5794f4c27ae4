package hook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/httpclient"
	"github.com/our-org/crossbill/internal/httpretry"
	"github.com/our-org/crossbill/internal/release"
)

// The headers of a call.
const (
	KeyHeader       = "Idempotency-Key"
	SignatureHeader = "X-Crossbill-Signature-256"
)

// Message is the body of a call.
type Message struct {
	SchemaVersion int               `json:"schemaVersion"`
	App           string            `json:"app"`
	Namespace     string            `json:"namespace"`
	Hook          string            `json:"hook"`
	Point         release.HookPoint `json:"point"`
	Weight        int               `json:"weight"` // the canary's share of the traffic, in percent: the one that it is about to get, before a step
	MatchHeader   string            `json:"matchHeader,omitempty"`
	Key           string            `json:"key"` // as in the header
	SentAt        time.Time         `json:"sentAt"`
	Release       *release.Release  `json:"release"`
}

// Call sends the run's release to the hook's address, with the same key each time, until it is answered with 2xx. What is
// refused for good (any other answer but 429 and 5xx) is not sent again. answer is what was said last.
func Call(ctx context.Context, r Run, transport http.RoundTripper) (passed bool, message, answer string) {
	client := httpclient.NewFor(transport, r.Hook.Lasts(), 0) // answer is bounded below
	for attempt := 0; ; attempt++ {
		response, answer, err := r.post(ctx, client)
		switch {
		case err == nil && response.StatusCode/100 == 2:
			return true, "it answered " + response.Status, answer
		case err == nil:
			message = "it answered " + response.Status
		default:
			message = withoutURL(err).Error()
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				message = fmt.Sprintf("no answer within %s", r.Hook.Lasts())
			}
		}
		if again, _ := httpretry.Check(ctx, response, err); !again || attempt >= r.Hook.retries() {
			if attempt > 0 {
				message += fmt.Sprintf(", after %d attempts", attempt+1)
			}
			return false, message, answer
		}
		select {
		case <-time.After(httpretry.Wait(httpretry.MinWait, httpretry.MaxWait, attempt, response)):
		case <-ctx.Done():
			return false, message, answer
		}
	}
}

func (r Run) post(ctx context.Context, client *http.Client) (*http.Response, string, error) {
	body, err := json.Marshal(Message{
		SchemaVersion: 1, App: r.App, Namespace: r.Namespace, Hook: r.Hook.Name, Point: r.Hook.Point, Weight: r.Weight(),
		MatchHeader: Header(r.Release.Match), Key: r.Key(), SentAt: time.Now().UTC(), Release: r.Release.WithoutEvidence(),
	})
	if err != nil {
		return nil, "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.Hook.URL, bytes.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "crossbill")
	request.Header.Set(KeyHeader, r.Key())
	if r.Hook.Secret != "" {
		request.Header.Set(SignatureHeader, Signature(r.Hook.Secret, body))
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, LogBytes))
	if err != nil && response.StatusCode/100 == 2 {
		return nil, string(answer), fmt.Errorf("the answer could not be read: %w", err)
	}
	return response, strings.ToValidUTF8(string(answer), "?"), nil
}

// Signature is what a receiver compares with the header: the HMAC of the body by SHA-256.
func Signature(secret string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// withoutURL removes the address from an error of net/http: its query may hold a secret.
func withoutURL(err error) error {
	for inner := new(url.Error); errors.As(err, &inner); {
		err = inner.Err
	}
	return err
}
