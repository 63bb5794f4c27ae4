package gitlab

import (
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
)

var (
	benchSchedules = flag.Int("handoff.schedules", 200, "schedules that TestOthersFailTheSameSchedules compares senders on")
	benchOut       = flag.String("handoff.json", "", "file for what TestOthersFailTheSameSchedules counts")
)

// count is what became of a release in many schedules, under one way to send it.
type count struct {
	Schedules    int `json:"schedules"`
	Doubles      int `json:"doubles"`      // more than one pipeline takes effect
	LostReleases int `json:"lostReleases"` // none does
	OneSender    struct {
		Schedules    int `json:"schedules"`
		Doubles      int `json:"doubles"`
		LostReleases int `json:"lostReleases"`
	} `json:"oneSender"` // of these, the schedules with a single sender
}

func (c *count) add(s schedule, effective int) {
	c.Schedules++
	double, lost := toInt(effective > 1), toInt(effective == 0)
	c.Doubles += double
	c.LostReleases += lost
	if s.Senders == 1 {
		c.OneSender.Schedules++
		c.OneSender.Doubles += double
		c.OneSender.LostReleases += lost
	}
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestOthersFailTheSameSchedules sends a release through the same schedules in three ways: with
// Trigger; with GitLab's client library as it comes, which sends a POST again after an error
// (plainRetry); and with one POST, as the GitHub actions for it do (singlePost).
func TestOthersFailTheSameSchedules(t *testing.T) {
	var out struct {
		count
		PlainRetry count `json:"plainRetry"`
		SinglePost count `json:"singlePost"`
	}
	generator := schedules()
	for seed := range *benchSchedules {
		s := generator.Example(seed)
		out.add(s, s.effective(t, func(t *testing.T, server *gitlabtest.Server) {
			_, _ = Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Release: toRelease}) // what it says is TestAnyScheduleHasOneEffect's
		}))
		out.PlainRetry.add(s, s.effective(t, func(t *testing.T, server *gitlabtest.Server) { post(t, server) }))
		out.SinglePost.add(s, s.effective(t, func(t *testing.T, server *gitlabtest.Server) { post(t, server, gitlab.WithCustomRetryMax(0)) }))
	}
	t.Logf("%+v", out)
	if out.Doubles != 0 || out.LostReleases != 0 {
		t.Errorf("Trigger: %d doubles and %d lost releases", out.Doubles, out.LostReleases)
	}
	if one := out.PlainRetry.OneSender; one.Doubles == 0 {
		t.Error("a retried POST never made a second pipeline: the schedules are too easy")
	}
	if one := out.SinglePost.OneSender; one.LostReleases == 0 {
		t.Error("a single POST never lost the release: the schedules are too easy")
	}
	if *benchOut == "" {
		return
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(*benchOut), 0o755)
	}
	if err == nil {
		err = os.WriteFile(*benchOut, append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// effective runs the senders of a schedule and gives how many pipelines take effect when all of them
// have ended.
func (s schedule) effective(t *testing.T, send func(*testing.T, *gitlabtest.Server)) int {
	server := gitlabtest.New()
	synctest.Test(t, func(t *testing.T) {
		server.Faults, server.ReadFaults, server.Lag = s.Faults, s.Reads, s.Lag
		var senders sync.WaitGroup
		for i := range s.Senders {
			senders.Go(func() {
				time.Sleep(s.Starts[i])
				send(t, server)
			})
		}
		senders.Wait()
		server.Wait()
		time.Sleep(5 * time.Minute) // until late rows are there
	})
	return len(server.Effective())
}

// post starts a pipeline as a script with GitLab's client library does.
func post(t *testing.T, server *gitlabtest.Server, options ...gitlab.ClientOptionFunc) {
	options = append(options, gitlab.WithBaseURL("https://gitlab.example.com"), gitlab.WithHTTPClient(&http.Client{Transport: server.Transport(), Timeout: time.Minute}))
	client, err := gitlab.NewClient(server.APIToken, options...)
	if err != nil {
		t.Error(err)
		return
	}
	ref := "main"
	_, _, _ = client.PipelineTriggers.RunPipelineTrigger(server.Project, &gitlab.RunPipelineTriggerOptions{
		Ref: &ref, Token: &server.TriggerToken,
		Inputs: gitlab.PipelineInputsOption{"app": gitlab.NewPipelineInputValue("qwik-node-app"), "release_id": gitlab.NewPipelineInputValue("one")},
	}, gitlab.WithContext(t.Context()))
}
