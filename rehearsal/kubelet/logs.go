package kubelet

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/client-go/util/cert"
)

// port is a kubelet's own, which the API server asks for logs.
const port = 10250

// serve answers the API server until ctx ends. The API server does not check who answers: it is given no authority for
// kubelets, as kubeadm's is not either.
func (k *kubelet) serve(ctx context.Context) error {
	certificate, key, err := cert.GenerateSelfSignedCertKey(k.Node, []net.IP{k.NodeIP.AsSlice()}, nil)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(k.NodeIP, port).String())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: logsHandler(k.logsDir()), ReadHeaderTimeout: 10 * time.Second, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}}
	context.AfterFunc(ctx, func() { server.Close() })
	k.running.Go(func() {
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			k.Log("kubelet: %v", err)
		}
	})
	return nil
}

// logsHandler serves what containers have written from a folder, by a kubelet's path and with its tailLines. Other
// parameters are refused: nobody here asks for them.
func logsHandler(dir string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		lines := -1
		for name, values := range r.URL.Query() {
			var err error
			if name == "tailLines" {
				lines, err = strconv.Atoi(values[0])
			} else {
				err = errors.New("the rehearsal's kubelet does not know it")
			}
			if err != nil {
				http.Error(w, fmt.Sprintf("parameter %s: %v", name, err), http.StatusBadRequest)
				return
			}
		}
		text, err := os.ReadFile(filepath.Join(dir, logName(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"))))
		if err != nil {
			http.Error(w, "no log of this container", http.StatusNotFound)
			return
		}
		_, _ = w.Write(lastLines(text, lines))
	})
	return mux
}

func logName(namespace, pod, container string) string {
	return fmt.Sprintf("%s_%s_%s.log", namespace, pod, container)
}

// lastLines are the last n lines of a text; all of them if n is negative.
func lastLines(text []byte, n int) []byte {
	if n < 0 {
		return text
	}
	at := len(bytes.TrimSuffix(text, []byte("\n")))
	for ; n > 0 && at >= 0; n-- {
		at = bytes.LastIndexByte(text[:at], '\n')
	}
	return text[at+1:]
}
