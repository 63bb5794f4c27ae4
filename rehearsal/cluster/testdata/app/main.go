// Command app is the smallest server that behaves like an app in a pod: it says which version it is, answers
// health and readiness probes, and drains when it is asked to stop.
package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const page = `<!doctype html><script type="module">
const version = "%s"
const report = async (chunk, last) => {
	const found = await import("/build/" + version + "-" + chunk + ".js?" + Math.random()).then(() => true, () => false)
	parent.postMessage({ version, found, last }, "*")
}
await report("first", false)
await fetch("/api") // as a page that asks for its data
setTimeout(() => report("later", true), 300)
</script>`

// browser opens a page again and again, each after the last one is done, and reports which chunks were found.
const browser = `<!doctype html><body><script>
const to = decodeURIComponent(location.hash.slice(1))
const open = () => { document.body.innerHTML = "<iframe src=/page></iframe>" }
let seen = Date.now()
addEventListener("message", (e) => {
	seen = Date.now()
	fetch(to + "?version=" + e.data.version + "&found=" + e.data.found, { mode: "no-cors", method: "POST" })
	if (e.data.last) open()
})
setInterval(() => { if (Date.now() - seen > 2000) { seen = Date.now(); open() } }, 500)
open()
</script>`

func main() {
	if os.Getenv("CRASH") != "" {
		fmt.Println("crashing, as configured")
		os.Exit(3)
	}
	fail, _ := strconv.Atoi(os.Getenv("FAIL"))       // percent of the answers
	slow, _ := time.ParseDuration(os.Getenv("SLOW")) // each answer
	if life, err := time.ParseDuration(os.Getenv("DIES_AFTER")); err == nil {
		time.AfterFunc(life, func() { os.Exit(4) })
	}
	var draining atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		if draining.Load() || os.Getenv("UNREADY") != "" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/fail", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/self", func(w http.ResponseWriter, r *http.Request) {
		write := os.WriteFile("/written", nil, 0o644)
		hostname, _ := os.Hostname()
		fmt.Fprintf(w, "uid=%d gid=%d written=%t host=%s hostname=%s", os.Getuid(), os.Getgid(), write == nil, os.Getenv("HOST"), hostname)
	})
	// A page as a bundler makes it: its chunks have the version in their names, and one is asked for later.
	mux.HandleFunc("/page", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("content-type", "text/html")
		fmt.Fprintf(w, page, os.Getenv("VERSION"))
	})
	mux.HandleFunc("/build/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("content-type", "text/javascript")
		for _, version := range []string{os.Getenv("VERSION"), os.Getenv("ASSETS_OF")} {
			if version != "" && strings.HasPrefix(r.URL.Path, "/build/"+version+"-") {
				fmt.Fprint(w, "export default 1")
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
	})
	mux.HandleFunc("/browser", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("content-type", "text/html")
		fmt.Fprint(w, browser)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-app-track", os.Getenv("TRACK"))
		w.Header().Set("x-app-version", os.Getenv("VERSION"))
		time.Sleep(slow)
		if rand.IntN(100) < fail {
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprint(w, os.Getenv("TRACK"))
	})
	server := &http.Server{Addr: os.Getenv("HOST") + ":3000", Handler: mux}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	stopped := make(chan struct{})
	go func() {
		<-term
		draining.Store(true)
		drain, _ := time.ParseDuration(os.Getenv("DRAIN"))
		time.Sleep(drain)
		_ = server.Shutdown(context.Background())
		close(stopped)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		fmt.Println(err)
		os.Exit(1)
	}
	<-stopped
}
