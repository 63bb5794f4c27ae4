package kubelet

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// TestLogsOfAContainer asks as the API server does.
func TestLogsOfAContainer(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, logName("shop", "web-1", "app")), []byte("one\ntwo\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		code int
		text string
	}{
		{"/containerLogs/shop/web-1/app", http.StatusOK, "one\ntwo\nthree\n"},
		{"/containerLogs/shop/web-1/app?tailLines=2", http.StatusOK, "two\nthree\n"},
		{"/containerLogs/shop/web-1/app?tailLines=9", http.StatusOK, "one\ntwo\nthree\n"},
		{"/containerLogs/shop/web-1/app?tailLines=0", http.StatusOK, ""},
		{"/containerLogs/shop/web-1/app?tailLines=x", http.StatusBadRequest, "parameter tailLines: strconv.Atoi: parsing \"x\": invalid syntax\n"},
		{"/containerLogs/shop/web-1/app?follow=true", http.StatusBadRequest, "parameter follow: the rehearsal's kubelet does not know it\n"},
		{"/containerLogs/shop/web-2/app", http.StatusNotFound, "no log of this container\n"},
		{"/containerLogs/shop/web-1/..%2f..%2fapp", http.StatusNotFound, "no log of this container\n"},
		{"/pods", http.StatusNotFound, "404 page not found\n"},
	} {
		w := httptest.NewRecorder()
		logsHandler(dir).ServeHTTP(w, httptest.NewRequest(http.MethodGet, c.path, nil))
		if w.Code != c.code || w.Body.String() != c.text {
			t.Errorf("%s: %d %q, want %d %q", c.path, w.Code, w.Body, c.code, c.text)
		}
	}
}

func TestLastLinesWithoutAnEnd(t *testing.T) {
	if got := string(lastLines([]byte("one\ntwo"), 1)); got != "two" {
		t.Errorf("%q", got)
	}
}
