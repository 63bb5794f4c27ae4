package main

import (
	"net/http"
	"net/http/httputil"
	"net/url"

	"github.com/our-org/crossbill/rehearsal/lifecycle"
	"github.com/our-org/crossbill/rehearsal/sandbox"
)

// front is where a browser on this machine reaches the app without using its host name.
var front = sandbox.Door{Name: "app", Port: 8000, Target: "127.0.0.1:8000"}

// serveFront forwards requests to the gateway under the app's host name, as DNS and what ends TLS would. It changes the
// origin of forms too, to the one that the Deployment names, or the app would rightly reject them.
func serveFront(gateway string) error {
	server := &http.Server{Addr: front.Target, Handler: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: gateway})
			r.Out.Host = lifecycle.Host
			if r.In.Header.Get("Origin") != "" {
				r.Out.Header.Set("Origin", "https://"+lifecycle.Host)
			}
		},
	}}
	return server.ListenAndServe()
}
