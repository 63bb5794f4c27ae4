package gitlab

import (
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/our-org/crossbill/internal/environment/gittest"
	"github.com/our-org/crossbill/templates"
)

// ServeComponent serves the repository of this checkout's component at the tag 1.0.0, by Git, as GitLab has it beside the
// projects that include it: origin/our-org/crossbill.git. dir is a folder for it, which is made. The caller must call stop.
func ServeComponent(dir string) (origin string, stop func() error, err error) {
	if err := os.MkdirAll(filepath.Join(dir, "our-org"), 0o755); err != nil {
		return "", nil, err
	}
	component, err := gittest.Init(filepath.Join(dir, "our-org", "crossbill.git"))
	if err != nil {
		return "", nil, err
	}
	text, err := templates.Files.ReadFile("release/template.yml")
	if err != nil {
		return "", nil, err
	}
	if _, err := component.Commit("the component", gittest.Change{Files: map[string]string{"templates/release/template.yml": string(text)}}); err != nil {
		return "", nil, err
	}
	if _, err := component.Git("tag", "1.0.0", "main"); err != nil {
		return "", nil, err
	}
	handler, err := gittest.Server(dir)
	if err != nil {
		return "", nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler}
	go server.Serve(listener) //nolint:errcheck // ends with Close
	return "http://" + listener.Addr().String(), server.Close, nil
}
