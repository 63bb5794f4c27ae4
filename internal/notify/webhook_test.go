package notify

import (
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
)

var update = flag.Bool("update", false, "write the golden files")

func TestWebhook(t *testing.T) {
	for name, test := range map[string]struct {
		answers []int  // of each attempt
		want    string // the error contains it; "" for none
	}{
		"accepted":             {answers: []int{200}},
		"accepted at the end":  {answers: []int{502, 429, 503, 204}},
		"not found":            {answers: []int{404}, want: "404"},
		"never healthy":        {answers: []int{500, 500, 500, 500}, want: "500"},
		"no server at the URL": {want: "webhook: connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				attempts, w := 0, Webhook{URL: "https://hooks.example.com/services/T0/SECRET"}
				w.Transport = server{}
				if test.answers != nil {
					w.Transport = server{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						var m Message
						if err := json.NewDecoder(r.Body).Decode(&m); err != nil || m.App != "shop" || r.Header.Get("Content-Type") != "application/json" {
							t.Errorf("attempt %d: %+v, %v", attempts, m, err)
						}
						w.WriteHeader(test.answers[attempts])
						attempts++
					})}
				}
				err := w.Notify(t.Context(), unhealthyCanary(release.OutcomeRolledBack))
				if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
				if err != nil && strings.Contains(err.Error(), "SECRET") {
					t.Errorf("the error contains the address: %v", err)
				}
				if attempts != len(test.answers) {
					t.Errorf("%d attempts, want %d", attempts, len(test.answers))
				}
			})
		})
	}
}

// TestMessage is the body that other programs parse: a field that changes its name breaks them.
func TestMessage(t *testing.T) {
	const file = "testdata/message.json"
	got, err := json.MarshalIndent(messageOf(unhealthyCanary(release.OutcomeRolledBack)), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, file, append(got, '\n'))
}

// golden compares a text with a file's, and writes the file with -update.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Error(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s, -update writes it (-want +got)\n%s", file, diff)
	}
}
