package analysis

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// ledger is a rollout that notes what is asked of it.
type ledger struct {
	status     []rollout.Status // one for each look; the last one stays
	judgeErr   error
	rollback   rollout.Result
	rollErr    error
	calls      []string
	statusErrs []error // one for each look
}

func (l *ledger) Status(context.Context) (*rollout.Status, error) {
	if len(l.statusErrs) > 0 {
		err := l.statusErrs[0]
		l.statusErrs = l.statusErrs[1:]
		if err != nil {
			return nil, err
		}
	}
	status := l.status[0]
	if len(l.status) > 1 {
		l.status = l.status[1:]
	}
	return &status, nil
}

func (l *ledger) Judge(_ context.Context, v release.Verdict, rollback bool) (rollout.Result, error) {
	call := "judge " + string(v.Outcome)
	if rollback {
		call += ", may roll back"
	}
	l.calls = append(l.calls, call)
	if l.judgeErr != nil {
		return rollout.Result{}, l.judgeErr
	}
	if rollback && v.Outcome == release.Unhealthy {
		return l.rollback, nil
	}
	return rollout.Result{Command: "verify", Message: "judged " + string(v.Outcome)}, nil
}

func (l *ledger) Rollback(_ context.Context, id, reason string, urgent bool) (rollout.Result, error) {
	short, _, _ := strings.Cut(reason, ": ")
	if urgent {
		short += ", urgent"
	}
	l.calls = append(l.calls, "rollback "+id+" "+short)
	return l.rollback, l.rollErr
}

func (l *ledger) Witness(context.Context, *release.Release) (Witness, error) {
	return look{func() (rollout.Witnessed, error) { return rollout.Witnessed{PrimaryWhole: true}, nil }, l}, nil
}

const image = "registry.example.com/app@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"

// at is where a release is, at a stage and with a verdict; drift is what somebody else has changed.
func at(stage release.Stage, v release.VerdictOutcome, drift ...string) rollout.Status {
	r := &release.Release{ID: "one", Image: image, Stage: stage, Steps: []release.Step{{Stage: release.StageCanary, At: time.Now()}}}
	if v != "" {
		on := r.Subject()
		on.Outcome, on.Reason = v, "was "+string(v)
		r.Verdict = &on
	}
	return rollout.Status{App: "app", Release: r, Drift: drift}
}

// unlike is at with a verdict that is not on what the release is: an older crossbill noted the digest alone.
func unlike(stage release.Stage) rollout.Status {
	s := at(stage, release.Healthy)
	s.Release.Verdict = &release.Verdict{Outcome: release.Healthy, Reason: "was healthy", Digest: s.Release.Digest()}
	return s
}

// finished is an app whose last release ended in a way.
func finished(outcome release.Outcome) rollout.Status {
	return rollout.Status{App: "app", History: []release.Finished{{Release: release.Release{ID: "zero"}, Outcome: outcome}}}
}

// kind names the type of an error.
func kind(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.As(err, new(*UnhealthyError)):
		return "unhealthy"
	case errors.As(err, new(*InconclusiveError)):
		return "inconclusive"
	case errors.As(err, new(*NotReadyError)):
		return "not ready"
	case errors.As(err, new(*rollout.StageError)):
		return "stage"
	case errors.As(err, new(*release.InFlightError)):
		return "in flight"
	case errors.As(err, new(*usererr.Error)):
		return "input"
	}
	return "failure"
}

var errDown = errors.New("API server is down")

func TestVerify(t *testing.T) {
	back := rollout.Result{Command: "rollback", Outcome: release.OutcomeRolledBack, Message: "primary has it again"}
	canary := []rollout.Status{at(release.StageCanary, "")}
	for name, c := range map[string]struct {
		requests *prometheus
		ledger   ledger
		change   func(*Options)
		err      string // its kind
		says     string // the error, or else the message
		calls    []string
		judged   bool // there is a verdict
	}{
		"healthy": {requests: fine(), ledger: ledger{status: canary},
			says: "judged healthy", calls: []string{"judge healthy, may roll back"}, judged: true},
		"unhealthy is rolled back": {requests: failing(), ledger: ledger{status: canary, rollback: back},
			err: "unhealthy", says: "\nrolled back: primary has it again", calls: []string{"judge unhealthy, may roll back"}, judged: true},
		"unhealthy is left alone if asked": {requests: failing(), ledger: ledger{status: canary}, change: func(o *Options) { o.NoRollback = true },
			err: "unhealthy", says: "unhealthy: availability", calls: []string{"judge unhealthy"}, judged: true},
		"rolling back fails": {requests: failing(), ledger: ledger{status: canary, judgeErr: &rollout.RollbackError{Err: errDown}},
			err: "unhealthy", says: "rolling back did not finish: API server is down; run `crossbill rollback`", calls: []string{"judge unhealthy, may roll back"}, judged: true},
		"too few requests": {requests: idle(), ledger: ledger{status: canary},
			err: "inconclusive", says: "the canary keeps its weight", calls: []string{"judge inconclusive, may roll back"}, judged: true},
		"somebody changed it before": {requests: fine(), ledger: ledger{status: []rollout.Status{at(release.StageCanary, "", "weight is 20"), at(release.StageCanary, "")}},
			err: "inconclusive", says: "somebody else has changed the release: weight is 20", calls: []string{"judge inconclusive, may roll back"}, judged: true},
		"somebody changed it meanwhile": {requests: fine(), ledger: ledger{status: []rollout.Status{at(release.StageCanary, ""), at(release.StageCanary, "", "weight is 20")}},
			err: "inconclusive", says: "somebody else has changed the release: weight is 20", calls: []string{"judge inconclusive, may roll back"}, judged: true},
		"unhealthy, whoever changed it": {requests: failing(), ledger: ledger{status: []rollout.Status{at(release.StageCanary, "", "weight is 20")}, rollback: back},
			err: "unhealthy", says: "rolled back: ", calls: []string{"judge unhealthy, may roll back"}, judged: true},
		"the verdict is not noted": {requests: fine(), ledger: ledger{status: canary, judgeErr: errDown},
			err: "failure", says: "but the verdict could not be noted: API server is down", calls: []string{"judge healthy, may roll back"}},
		"the record is not kept": {requests: failing(), ledger: ledger{status: canary}, change: func(o *Options) {
			o.Record = func(*release.Release, *verdict.Verification) error { return errors.New("disk full") }
		}, err: "failure", says: "disk full; the verdict (unhealthy: "},
		"unhealthy, whatever the last look": {requests: failing(), ledger: ledger{status: canary, statusErrs: []error{nil, errDown}, rollback: back}, err: "unhealthy", says: "rolled back: ", calls: []string{"judge unhealthy, may roll back"}, judged: true},
		"the last look fails":               {requests: fine(), ledger: ledger{status: canary, statusErrs: []error{nil, errDown}}, err: "failure", says: "API server is down"},

		"observed healthy":      {requests: fine(), ledger: ledger{status: canary}, change: observe, says: "observed: healthy: ", judged: true},
		"observed unhealthy":    {requests: failing(), ledger: ledger{status: canary}, change: observe, err: "unhealthy", says: "nothing was changed", judged: true},
		"observed inconclusive": {requests: idle(), ledger: ledger{status: canary}, change: observe, err: "inconclusive", says: "; nothing was changed", judged: true},

		"judged before":                    {ledger: ledger{status: []rollout.Status{at(release.StageVerified, release.Healthy)}}, says: "judged healthy before: was healthy"},
		"judged before, again":             {requests: fine(), ledger: ledger{status: []rollout.Status{at(release.StageVerified, release.Healthy)}}, change: func(o *Options) { o.Again = true }, says: "judged healthy", calls: []string{"judge healthy, may roll back"}, judged: true},
		"judged before, on something else": {requests: fine(), ledger: ledger{status: []rollout.Status{unlike(release.StageVerified)}}, says: "judged healthy", calls: []string{"judge healthy, may roll back"}, judged: true},
		"inconclusive before":              {requests: fine(), ledger: ledger{status: []rollout.Status{at(release.StageVerified, release.Inconclusive)}}, says: "judged healthy", calls: []string{"judge healthy, may roll back"}, judged: true},
		"promoting":                        {ledger: ledger{status: []rollout.Status{at(release.StagePromoting, release.Healthy)}}, says: "judged healthy before it was promoted: was healthy"},
		"promoted without a verdict":       {ledger: ledger{status: []rollout.Status{at(release.StagePromoted, "")}}, err: "stage", says: "without a healthy verdict: run rollback"},
		"no traffic yet":                   {ledger: ledger{status: []rollout.Status{at(release.StageStarted, "")}}, err: "stage", says: "only a canary with traffic can be judged"},
		"rolling back":                     {ledger: ledger{status: []rollout.Status{at(release.StageRollingBack, "")}}, err: "stage", says: "release one is rolling back (): finish with rollback"},
		"another release":                  {ledger: ledger{status: canary}, change: func(o *Options) { o.ReleaseID = "two" }, err: "in flight", says: "release one"},
		"no release":                       {ledger: ledger{status: []rollout.Status{{App: "app"}}}, err: "stage", says: "no release is in flight: start one with canary"},
		"finished well":                    {ledger: ledger{status: []rollout.Status{finished(release.OutcomeFirst)}}, says: "release zero has finished (first): there is no canary to judge"},
		"rolled back before":               {ledger: ledger{status: []rollout.Status{finished(release.OutcomeRolledBack)}}, err: "stage", says: "release zero has finished: rolled_back"},
		"the first look fails":             {ledger: ledger{statusErrs: []error{errDown}}, err: "failure", says: "API server is down"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.requests == nil {
				c.requests = &prometheus{}
			}
			o := judgedBy(t, c.requests, &c.ledger)
			if c.change != nil {
				c.change(&o)
			}
			looks, shown := 0, 0
			report := o.Report
			o.Report = func(e verdict.Evaluation) {
				looks++
				if report != nil {
					report(e)
				}
			}
			o.Progress = func(r *release.Release, _ verdict.Evaluation) {
				if shown++; r.ID != "one" {
					t.Errorf("progress of release %s", r.ID)
				}
			}
			came, err := Verify(t.Context(), o)
			if shown != looks || c.judged && shown == 0 {
				t.Errorf("progress was shown %d times in %d looks", shown, looks)
			}
			text := came.Message
			if err != nil {
				text = err.Error()
			}
			if kind(err) != c.err || !strings.Contains(text, c.says) {
				t.Errorf("%s: %q, want %s: %q", kind(err), text, c.err, c.says)
			}
			if diff := cmp.Diff(c.calls, c.ledger.calls); diff != "" {
				t.Error(diff)
			}
			if (came.Verdict != nil) != c.judged || c.judged && came.Command == "" {
				t.Errorf("verdict %+v of %+v", came.Verdict, came.Result)
			}
		})
	}
}

// refused is a source that Prometheus refuses.
func refused(t *testing.T) *verdict.Source {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	t.Cleanup(server.Close)
	source, err := verdict.NewSource(verdict.SourceOptions{URL: server.URL, Namespace: "shop", Indicators: verdict.DefaultSLO().Indicators()})
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func observe(o *Options) { o.Observe = true }

func TestBake(t *testing.T) {
	promoted := rollout.Result{Command: "promote", Release: at(release.StagePromoted, release.Healthy).Release, Message: "promoted"}
	bad := func() *prometheus { return &prometheus{rate: 4000, bad: map[string]float64{"app-primary": 0.5}} }
	for name, c := range map[string]struct {
		requests *prometheus
		ledger   ledger
		change   func(*Options)
		err      string
		says     string
		calls    []string
		outcome  release.Outcome
	}{
		"healthy":                           {requests: fine(), says: "(by the budgets alone: "},
		"unhealthy":                         {requests: bad(), ledger: ledger{rollback: rollout.Result{Outcome: release.OutcomeRolledBack, Message: "old primary"}}, err: "unhealthy", says: "bake: unhealthy: ", calls: []string{"rollback one bake, urgent"}, outcome: release.OutcomeRolledBack},
		"unhealthy, and rolling back fails": {requests: bad(), ledger: ledger{rollErr: errDown}, err: "unhealthy", says: "rolling back did not finish: API server is down", calls: []string{"rollback one bake, urgent"}},
		"unhealthy, but finished meanwhile": {requests: bad(), ledger: ledger{rollback: rollout.Result{Message: "nothing to do"}}, err: "unhealthy", says: "NOT rolled back", calls: []string{"rollback one bake, urgent"}},
		"too few requests":                  {requests: idle(), err: "inconclusive", says: "the release is promoted, run promote again to judge it, or rollback"},
		"too short to judge":                {requests: fine(), change: func(o *Options) { o.Test.MaxDuration, o.Test.MinDuration = time.Millisecond, 0 }, err: "inconclusive", says: "the release is promoted"},
		"refused credentials":               {requests: fine(), change: func(o *Options) { o.Source = refused(t) }, err: "inconclusive", says: "that this machine can reach it; the release is promoted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := judgedBy(t, c.requests, &c.ledger)
			if c.change != nil {
				c.change(&o)
			}
			came, err := Bake(t.Context(), o, promoted, o.Test.MaxDuration)
			text := came.Message
			if err != nil {
				text = err.Error()
			}
			if kind(err) != c.err || !strings.Contains(text, c.says) || came.Outcome != c.outcome {
				t.Errorf("%s: %q and outcome %q, want %s: %q and %q", kind(err), text, came.Outcome, c.err, c.says, c.outcome)
			}
			if strings.Contains(text, "canary") || strings.Contains(text, "primary had no") {
				t.Errorf("primary is what is judged: %q", text)
			}
			if diff := cmp.Diff(c.calls, c.ledger.calls); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRollBackUnready(t *testing.T) {
	notReady := &rollout.NotReadyError{ReleaseID: "one", Deployment: "app-canary", Reason: "crashes"}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		ledger ledger
		cause  error
		err    string
		says   string
		calls  []string
	}{
		"not ready":                         {cause: notReady, ledger: ledger{rollback: rollout.Result{Message: "old primary"}}, err: "not ready", says: "\nrolled back: old primary", calls: []string{"rollback one app-canary"}},
		"not ready, and rolling back fails": {cause: notReady, ledger: ledger{rollErr: errDown}, err: "not ready", says: "rolling back did not finish: API server is down; run `crossbill rollback`", calls: []string{"rollback one app-canary"}},
		"another error":                     {cause: errDown, err: "failure", says: "API server is down"},
		"interrupted":                       {ctx: canceled, cause: notReady, err: "failure", says: "app-canary"},
		"no error":                          {},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := c.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			err := RollBackUnready(ctx, &c.ledger, c.cause)
			if kind(err) != c.err || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v, want %s: %q", kind(err), err, c.err, c.says)
			}
			if c.cause != nil && !errors.Is(err, c.cause) {
				t.Errorf("%v is not the cause any more", err)
			}
			if diff := cmp.Diff(c.calls, c.ledger.calls); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestProbe: the app is called while the canary is judged, with the header and as often without it. What came of that
// is counted apart, and the verdict says how many of the canary's requests they are.
func TestProbe(t *testing.T) {
	app := &counted{}
	server := httptest.NewServer(app)
	defer server.Close()
	o := judgedBy(t, fine(), &ledger{status: []rollout.Status{at(release.StageCanary, "")}})
	o.Probe = &Probe{URL: server.URL, Rate: 200, Header: "x-track: canary"}
	came, err := Verify(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	app.mu.Lock()
	defer app.mu.Unlock()
	if !slices.Contains(app.headers, "GET canary crossbill-probe") || !slices.Contains(app.headers, "GET  crossbill-probe") {
		t.Errorf("the app got %q", app.headers)
	}
	if got := o.Probe.Result(); got.Canary.Requests == 0 || got.Primary.Requests == 0 || got.Canary.Failed > 0 {
		t.Errorf("counted %+v, %+v", got.Canary, got.Primary)
	}
	if !strings.Contains(came.Verdict.Reason, "of the canary's requests are the probe's, by the header: 0 of ") {
		t.Errorf("%s", came.Verdict.Reason)
	}
}

// TestProbeIsJudgedAsAProbe: a canary that answers the probe worse than primary does is unhealthy whatever callers see;
// one that answers it as primary does is not.
func TestProbeIsJudgedAsAProbe(t *testing.T) {
	for name, c := range map[string]struct {
		broken func(header string) bool
		header string
		want   string
	}{
		"the canary fails":         {func(h string) bool { return h != "" }, "x-track: canary", "unhealthy"},
		"both fail":                {func(string) bool { return true }, "x-track: canary", ""},
		"primary fails":            {func(h string) bool { return h == "" }, "x-track: canary", ""},
		"by the weights, it fails": {func(string) bool { return true }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.broken(r.Header.Get("X-Track")) {
					w.WriteHeader(http.StatusInternalServerError)
				}
			}))
			defer server.Close()
			l := &ledger{status: []rollout.Status{at(release.StageCanary, "")}}
			o := judgedBy(t, fine(), l)
			o.Probe = &Probe{URL: server.URL, Rate: 500, Header: c.header}
			came, err := Verify(t.Context(), o)
			if kind(err) != c.want || c.want != "" && came.Verdict.Cause != CauseProbe {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestProbesAreNoCallers: a minimum of requests is of callers, or of the probe, not of both together.
func TestProbesAreNoCallers(t *testing.T) {
	for _, c := range []struct {
		counted float64 // by the gateway
		own     int
		held    bool
	}{{70, 40, true}, {100, 40, false}, {60, 60, false}, {0, 0, true}} {
		r := &probing{probe: &Probe{Header: "x: y"}, test: verdict.Test{MinRequests: 50}, counted: c.counted, got: [2]Answers{{Requests: c.own}}}
		if _, hold := r.look(time.Now()); (hold != "") != c.held {
			t.Errorf("%.0f counted, %d of the probe: %q", c.counted, c.own, hold)
		}
	}
}

// TestUnsentProbes: a request that never left is no answer of the app's, and none that the canary got.
func TestUnsentProbes(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	hangsUp := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer hangsUp.Close()
	for name, c := range map[string]struct {
		url, header string
		want        Answers
		says        string
	}{
		"the client refuses it": {hangsUp.URL, "x track: canary", Answers{}, "could not send some"},
		"nobody listens":        {closed.URL, "x-track: canary", Answers{}, "could not send some"},
		"no answer":             {hangsUp.URL, "x-track: canary", Answers{Requests: 1, Failed: 1}, "1 of the probe reached the canary; a healthy verdict needs at least 50 of either"},
	} {
		r := &probing{probe: &Probe{URL: c.url, Header: c.header}, test: verdict.Test{MinRequests: 50}}
		r.call(t.Context(), http.DefaultClient, 0)
		if diff := cmp.Diff(c.want, r.got[0]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if _, hold := r.look(time.Now()); !strings.Contains(hold, c.says) {
			t.Errorf("%s: %q, want %q", name, hold, c.says)
		}
	}
}

func TestValidateProbe(t *testing.T) {
	for name, c := range map[string]struct {
		probe Probe
		field string
	}{
		"good":             {Probe{URL: "https://app.example.com/", Rate: 10, Header: ""}, ""},
		"with a header":    {Probe{URL: "https://app.example.com/", Rate: 0.5, Header: "x-track: canary"}, ""},
		"no host":          {Probe{URL: "https:///", Rate: 10, Header: ""}, "probe.url"},
		"another scheme":   {Probe{URL: "ftp://app.example.com", Rate: 10, Header: ""}, "probe.url"},
		"no rate":          {Probe{URL: "https://app.example.com/", Rate: 0, Header: ""}, "probe.rate"},
		"too fast":         {Probe{URL: "https://app.example.com/", Rate: 1001, Header: ""}, "probe.rate"},
		"no header":        {Probe{URL: "https://app.example.com/", Rate: 10, Header: "x-track"}, "probe.header"},
		"header, no name":  {Probe{URL: "https://app.example.com/", Rate: 10, Header: ": canary"}, "probe.header"},
		"no token":         {Probe{URL: "https://app.example.com/", Rate: 10, Header: "x track: canary"}, "probe.header"},
		"name in quotes":   {Probe{URL: "https://app.example.com/", Rate: 10, Header: "\"x-track\": canary"}, "probe.header"},
		"value of 2 lines": {Probe{URL: "https://app.example.com/", Rate: 10, Header: "x-track: a\nb"}, "probe.header"},
		"the host":         {Probe{URL: "https://app.example.com/", Rate: 10, Header: "Host: canary.example.com"}, "probe.header"},
		"of connections":   {Probe{URL: "https://app.example.com/", Rate: 10, Header: "connection: canary"}, "probe.header"},
	} {
		err := c.probe.Validate()
		var input *usererr.Error
		if errors.As(err, &input); (err == nil) != (c.field == "") || err != nil && input.Field != c.field {
			t.Errorf("%s: %v, want %s", name, err, c.field)
		}
	}
}

// TestFormerCanary: errors of the release before, which ended after the last scrape, are not the canary's.
func TestFormerCanary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.flow("app-canary", 50, 0, -time.Minute, -4*time.Second)
		w.flow("app-canary", 50, 1, -4*time.Second, -time.Second)
		w.flow("app-canary", 100, 0, 0, time.Hour)
		came, err := Verify(t.Context(), w.options())
		if err != nil || came.Verdict.Outcome != release.Healthy {
			t.Errorf("%+v, %v", came, err)
		}
	})
}
