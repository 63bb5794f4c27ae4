// Command app is the smallest server that behaves like an app in a pod: it says which version it is, answers
// health and readiness probes, and drains when it is asked to stop. Its environment makes it a bad one.
package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
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

// call is what a Job of a hook does: it calls an address with what the hook is given, and ends well if that is answered well.
func call(address string) int {
	query := url.Values{}
	for _, name := range []string{"RELEASE_ID", "IMAGE", "POINT", "WEIGHT", "MATCH_HEADER"} {
		query.Set(name, os.Getenv("CROSSBILL_"+name))
	}
	response, err := http.Get(address + "?" + query.Encode())
	if err != nil {
		fmt.Println(err)
		return 2
	}
	defer response.Body.Close()
	fmt.Println("answered", response.Status)
	if response.StatusCode != http.StatusOK {
		return 1
	}
	return 0
}

func main() {
	if os.Getenv("CRASH") != "" {
		fmt.Println("crashing, as configured")
		os.Exit(3)
	}
	if len(os.Args) == 3 && os.Args[1] == "call" {
		os.Exit(call(os.Args[2]))
	}
	var fail atomic.Int64 // percent of the answers; one pod can be made to fail while it runs
	fail.Store(int64(number("FAIL")))
	slow, _ := time.ParseDuration(os.Getenv("SLOW")) // each answer
	// What turns bad does so some time after the first request, however long a release took to get there.
	var first sync.Once
	var called atomic.Int64                                      // when it came, in Unix nanoseconds
	flap, _ := time.ParseDuration(os.Getenv("FLAP"))             // ready for so long, then not ready for so long
	unready, _ := time.ParseDuration(os.Getenv("UNREADY_AFTER")) // for good
	turn := func() {
		called.Store(time.Now().UnixNano())
		if mebibytes := number("EATS"); mebibytes > 0 { // a second
			go eat(mebibytes)
		}
		if life, err := time.ParseDuration(os.Getenv("DIES_AFTER")); err == nil {
			time.AfterFunc(life, func() { os.Exit(4) })
		}
	}
	if os.Getenv("AT_ONCE") != "" {
		first.Do(turn)
	}
	var draining atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		age := time.Duration(0)
		if since := called.Load(); since > 0 {
			age = time.Since(time.Unix(0, since))
		}
		if draining.Load() || os.Getenv("UNREADY") != "" || flap > 0 && age/flap%2 == 1 || unready > 0 && age > unready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/fail", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/become", func(w http.ResponseWriter, r *http.Request) {
		percent, err := strconv.Atoi(r.URL.Query().Get("fail"))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
		fail.Store(int64(percent))
	})
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
		first.Do(turn)
		w.Header().Set("x-app-track", os.Getenv("TRACK"))
		w.Header().Set("x-app-version", os.Getenv("VERSION"))
		w.Header().Set("x-app-configuration", os.Getenv("RELEASE")+os.Getenv("SECRET"))
		time.Sleep(slow)
		switch {
		case rand.IntN(100) < number("HANGS"):
			<-r.Context().Done() // until the caller leaves
		case rand.IntN(100) < number("NOT_FOUND"):
			w.WriteHeader(http.StatusNotFound)
		case rand.IntN(100) < int(fail.Load()):
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprint(w, os.Getenv("TRACK"))
	})
	server := &http.Server{Addr: os.Getenv("HOST") + ":3000", Handler: mux}
	term := make(chan os.Signal, 1)
	if os.Getenv("ABRUPT") == "" { // else it ends at once, with the requests that it has
		signal.Notify(term, syscall.SIGTERM)
	}
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

func number(variable string) int {
	n, _ := strconv.Atoi(os.Getenv(variable))
	return n
}

// eat takes more memory all the time.
func eat(mebibytes int) {
	var kept [][]byte
	for range time.Tick(time.Second) {
		more := make([]byte, mebibytes<<20)
		for i := 0; i < len(more); i += 4096 {
			more[i] = 1
		}
		kept = append(kept, more)
	}
	fmt.Println(len(kept))
}
