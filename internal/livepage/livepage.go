// Package livepage serves where releases are as a page that changes by itself. It only reads: the page has no button, and
// every request but GET and HEAD is refused. What it shows are the status and the ledger that the text and JSON of
// `crossbill status` show, rendered by package report.
//
// A page is whole without JavaScript. With it, one stream of server-sent events for each open page carries what is new.
// A reader who does not read in time is dropped, and asks again.
package livepage

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/report"
	"github.com/our-org/crossbill/internal/rollout"
)

//go:embed live.js
var script []byte

const (
	lookPause  = 2 * time.Second        // between two looks for one reader, when nothing says that anything has changed
	readsFor   = 4 * time.Second        // a look at one app, until the page shows what was there before
	reachPause = 5 * time.Second        // between two questions whether the cluster responds
	freshFor   = 400 * time.Millisecond // what was read so lately serves the next reader too; changes in it are one
	dropAfter  = 10 * time.Second       // a write that a reader does not take
	quietFor   = 15 * time.Second       // a stream without a word: then it says that it is there
	endsWithin = 5 * time.Second        // requests when the server ends
	readers    = 64                     // streams at most
)

// Source is where a page's content comes from.
type Source struct {
	Namespace string // of the apps; "" for all
	// Apps are all apps, as the watches have them. It is called often.
	Apps func() ([]rollout.AppStatus, error)
	// Git says why the environment repository does not answer, and when it did last; nil while it does, and where there is none.
	Git func() (answered time.Time, err error)
	// App reads where one of them is.
	App func(context.Context, rollout.AppStatus) (*rollout.Status, error)
	// Reach asks whether the cluster responds.
	Reach func(ctx context.Context) error
}

// Server serves the live page.
type Server struct {
	source   *Source
	anywhere bool

	mu      sync.Mutex
	changed chan struct{} // closed, and made new, when something has
	reached time.Time     // when the cluster responded last
	problem string        // why it does not; "" while it does
	views   map[appName]*view
	streams int
}

// appName names an app; empty for all apps.
type appName struct{ namespace, app string }

// view is what one address shows.
type view struct {
	mu     sync.Mutex
	at     time.Time       // when it was made
	until  <-chan struct{} // what it was made from is known to have changed when this is closed
	shown  shown
	status *rollout.Status // of one app, when it was read last
	readAt time.Time
}

// shown is a page, and the name of what it shows: pages of one name are the same.
type shown struct {
	report.Live
	version string
	found   bool
}

// New makes a server, which serves names of hosts that are not this machine's only when anywhere says so.
func New(source *Source, anywhere bool) *Server {
	return &Server{source: source, anywhere: anywhere, changed: make(chan struct{}), reached: time.Now(), views: map[appName]*view{}}
}

// Changed says that the apps may have changed.
func (s *Server) Changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Serve serves the page until ctx ends. Then streams end, and requests are answered.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{Handler: s.handler(ctx), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	var others sync.WaitGroup
	others.Go(func() { s.watchReach(ctx) })
	ended := make(chan error, 1)
	others.Go(func() {
		<-ctx.Done()
		bounded, stop := context.WithTimeout(context.WithoutCancel(ctx), endsWithin)
		defer stop()
		err := server.Shutdown(bounded)
		if errors.Is(err, context.DeadlineExceeded) { // somebody does not read
			err = server.Close()
		}
		ended <- err
	})
	err := server.Serve(listener)
	cancel()
	others.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		err = <-ended
	}
	return err
}

// watchReach asks again and again whether the cluster responds: watches say nothing when nothing changes.
func (s *Server) watchReach(ctx context.Context) {
	for {
		bounded, stop := context.WithTimeout(ctx, readsFor)
		err := s.source.Reach(bounded)
		stop()
		if ctx.Err() != nil {
			return
		}
		if s.note(err) {
			s.Changed()
		}
		select {
		case <-time.After(reachPause):
		case <-ctx.Done():
			return
		}
	}
}

// note keeps whether the cluster responds, and says whether that is news.
func (s *Server) note(err error) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.problem
	s.problem = ""
	switch {
	case err == nil:
		s.reached = time.Now()
	case errors.Is(err, context.DeadlineExceeded):
		s.problem = fmt.Sprintf("No answer within %s.", readsFor)
	default:
		s.problem = err.Error()
	}
	return s.problem != was
}

// stale are the places that do not respond: of both, or without Git.
func (s *Server) stale(git bool) (stale []report.Stale) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.problem != "" {
		stale = append(stale, report.Stale{What: "The cluster", Since: s.reached, Problem: s.problem})
	}
	if git && s.source.Git != nil {
		if answered, err := s.source.Git(); err != nil {
			stale = append(stale, report.Stale{What: "The environment repository", Since: answered, Problem: err.Error()})
		}
	}
	return stale
}

func (s *Server) handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	page := func(w http.ResponseWriter, r *http.Request) { s.page(ctx, w, r) }
	events := func(w http.ResponseWriter, r *http.Request) { s.events(ctx, w, r) }
	mux.HandleFunc("GET /{$}", page)
	mux.HandleFunc("GET /events", events)
	mux.HandleFunc("GET /apps/{namespace}/{app}", page)
	mux.HandleFunc("GET /apps/{namespace}/{app}/events", events)
	for path, file := range map[string]struct {
		kind string
		text []byte
	}{"/style.css": {"text/css", []byte(report.Style)}, "/live.js": {"text/javascript", script}} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", file.kind+"; charset=utf-8")
			_, _ = w.Write(file.text)
		})
	}
	return s.guarded(mux)
}

// policy lets a page fetch its own style, script and stream, and nothing else.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// guarded refuses what is addressed to another host: a web site whose name leads to this machine could read the page
// with the browser of whoever visits it.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
			"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
		} {
			w.Header().Set(name, value)
		}
		if !s.anywhere && !Loopback(hostOf(r.Host)) {
			http.Error(w, "This page is for this machine only: use the address that crossbill printed.", http.StatusForbidden)
			return
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(dropAfter))
		next.ServeHTTP(w, r)
	})
}

func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return strings.Trim(address, "[]")
}

// Loopback says whether a host is this machine, as far as its name says so: no name server is asked.
func Loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.Unmap().IsLoopback()
}

func named(r *http.Request) appName { return appName{r.PathValue("namespace"), r.PathValue("app")} }

// page answers with a page as it is now.
func (s *Server) page(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	now, err := s.look(ctx, named(r))
	var document bytes.Buffer
	if err == nil {
		err = report.WriteLive(&document, now.Live, strings.TrimSuffix(r.URL.EscapedPath(), "/")+"/events", now.version, time.Now())
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if !now.found {
		w.WriteHeader(http.StatusNotFound)
	}
	_, _ = document.WriteTo(w)
}

// events sends a page whenever it is another than the reader has, until the reader goes, takes too long, or ctx ends.
func (s *Server) events(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		w.Header().Set("Retry-After", "30")
		http.Error(w, fmt.Sprintf("%d pages are open already.", readers), http.StatusServiceUnavailable)
		return
	}
	defer s.leave()
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep what is sent
	has := r.Header.Get("Last-Event-ID")
	if has == "" {
		has = r.URL.Query().Get("version")
	}
	writer := http.NewResponseController(w)
	send := func(text string) bool {
		_ = writer.SetWriteDeadline(time.Now().Add(dropAfter))
		_, err := w.Write([]byte(text))
		return err == nil && writer.Flush() == nil
	}
	if !send("retry: 2000\n\n") {
		return
	}
	said := time.Now()
	for {
		changed := s.changes()
		now, err := s.look(ctx, named(r))
		text := ""
		switch {
		case err != nil: // the page that the reader has stays
		case now.version != has:
			data, _ := json.Marshal(now.Live) // two strings
			text, has = fmt.Sprintf("id: %s\nevent: page\ndata: %s\n\n", now.version, data), now.version
		case time.Since(said) >= quietFor:
			text = ": still there\n\n"
		}
		if text != "" {
			if !send(text) {
				return
			}
			said = time.Now()
		}
		if !wait(ctx, r.Context(), freshFor, nil) || !wait(ctx, r.Context(), lookPause-freshFor, changed) {
			return
		}
	}
}

// wait waits for a time, or until something has changed. It is over, false, with either context.
func wait(server, reader context.Context, atMost time.Duration, changed <-chan struct{}) bool {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-server.Done():
		return false
	case <-reader.Done():
		return false
	}
	return true
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams >= readers {
		return false
	}
	s.streams++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams--
}

// look is what an address shows now. Readers of the same address share what was read.
func (s *Server) look(ctx context.Context, of appName) (shown, error) {
	v, changed := s.view(of), s.changes()
	v.mu.Lock()
	defer v.mu.Unlock()
	if time.Since(v.at) < freshFor && v.until == changed {
		return v.shown, nil
	}
	apps, err := s.source.Apps()
	if err != nil {
		return shown{}, err
	}
	page, found := report.Live{}, true
	if of.app == "" {
		page, err = report.LiveApps(apps, s.source.Namespace, s.stale(true), time.Now())
	} else if at := slices.IndexFunc(apps, func(a rollout.AppStatus) bool { return of == appName{a.Namespace, a.App} }); at >= 0 {
		page, err = s.lookAt(ctx, v, &apps[at])
	} else {
		found = false
		page, err = report.LiveMissing(of.namespace, of.app)
		s.forget(of)
	}
	if err != nil {
		return shown{}, err
	}
	sum := sha256.Sum256([]byte(page.Title + "\n" + string(page.Main)))
	v.at, v.until, v.shown = time.Now(), changed, shown{page, hex.EncodeToString(sum[:8]), found}
	return v.shown, nil
}

// lookAt is one app. While what it is read from does not respond, it is what was read last; what the reader may not read is
// left out.
func (s *Server) lookAt(ctx context.Context, v *view, app *rollout.AppStatus) (report.Live, error) {
	stale := s.stale(app.InGit)
	var missing []string
	if stale == nil {
		bounded, stop := context.WithTimeout(ctx, readsFor)
		defer stop()
		status, err := s.source.App(bounded, *app)
		switch {
		case err == nil:
			v.status, v.readAt = status, time.Now()
			return report.LiveApp(status, nil, nil, time.Now())
		case bounded.Err() == nil && (!app.InGit || v.status == nil): // the cluster has answered
			v.status, missing = nil, []string{summaryOnly + "cannot be read: " + err.Error()}
		case v.status != nil:
			stale = []report.Stale{{What: "The cluster", Since: v.readAt, Problem: err.Error()}}
			if app.InGit {
				stale[0].What = "The cluster or the environment repository"
			}
		default: // it was never read
			missing = []string{fmt.Sprintf("%scould not be read within %s", summaryOnly, readsFor)}
		}
	}
	if v.status != nil {
		return report.LiveApp(v.status, nil, stale, time.Now())
	}
	return report.LiveApp(brief(app), missing, stale, time.Now())
}

// summaryOnly begins the note of a page that has less than it should.
const summaryOnly = "This is what the ledger's summary and the Deployments say; the rest "

// brief is the status of an app as far as that of all apps has it.
func brief(app *rollout.AppStatus) *rollout.Status {
	status := &rollout.Status{
		App: app.App, Namespace: app.Namespace, Lock: app.Lock, Expired: app.Expired, Release: app.Release,
		Tracks: app.Tracks, Hold: app.Hold, Queue: app.Queue,
	}
	if app.Last != nil {
		status.History = []release.Finished{*app.Last}
	}
	return status
}

func (s *Server) changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *Server) view(of appName) *view {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.views[of]
	if v == nil {
		v = &view{}
		s.views[of] = v
	}
	return v
}

// forget drops the view of an app that was not found: anybody can make up names.
func (s *Server) forget(of appName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.views, of)
}
