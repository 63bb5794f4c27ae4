// Command wire is an app that speaks every protocol that callers of a mesh use, on one port: HTTP/1.1, HTTP/2, gRPC, server-sent
// events and WebSockets. Its streams last until the caller ends them, or until the process is killed: like many an app's,
// they do not care that it is asked to stop.
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
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// pulse is how often a stream says something.
const pulse = 200 * time.Millisecond

var track, version = os.Getenv("TRACK"), os.Getenv("VERSION")

// server is a gRPC service without generated code of our own: the health service's.
type server struct {
	health.UnimplementedHealthServer
}

// Check answers with the status that the request asks for, or, for a share of the calls, with the environment's.
func (server) Check(ctx context.Context, r *health.HealthCheckRequest) (*health.HealthCheckResponse, error) {
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-app-track", track, "x-app-version", version))
	if asked, err := strconv.Atoi(r.GetService()); err == nil {
		return nil, status.Error(codes.Code(asked), "as it was asked for")
	}
	if rand.IntN(100) < number("FAIL") {
		return nil, status.Error(codes.Code(number("STATUS")), "as it was configured")
	}
	return &health.HealthCheckResponse{Status: health.HealthCheckResponse_SERVING}, nil
}

// Watch is a stream of the server.
func (server) Watch(_ *health.HealthCheckRequest, s grpc.ServerStreamingServer[health.HealthCheckResponse]) error {
	if err := s.SetHeader(metadata.Pairs("x-app-track", track, "x-app-version", version)); err != nil {
		return err
	}
	for {
		if err := s.Send(&health.HealthCheckResponse{Status: health.HealthCheckResponse_SERVING}); err != nil {
			return err
		}
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case <-time.After(pulse):
		}
	}
}

func main() {
	calls := grpc.NewServer()
	health.RegisterHealthServer(calls, server{})
	var draining atomic.Bool
	var sockets sync.WaitGroup // net/http forgets a connection that became a WebSocket
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if draining.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("content-type", "text/event-stream")
		for r.Context().Err() == nil {
			fmt.Fprintf(w, "data: %s\n\n", track)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(pulse)
		}
	})
	mux.HandleFunc("/socket", func(w http.ResponseWriter, r *http.Request) {
		socket, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		sockets.Go(func() {
			defer socket.Close()
			for socket.WriteMessage(websocket.TextMessage, []byte(track)) == nil {
				time.Sleep(pulse)
			}
		})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("x-app-track", track)
		w.Header().Set("x-app-version", version)
		fmt.Fprint(w, track)
	})
	s := &http.Server{
		Addr: os.Getenv("HOST") + ":3000", Protocols: &http.Protocols{},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("content-type"), "application/grpc") {
				calls.ServeHTTP(w, r)
				return
			}
			mux.ServeHTTP(w, r)
		}),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	stopped := make(chan struct{})
	go func() {
		<-term
		draining.Store(true)
		time.Sleep(3 * time.Second) // callers are led away meanwhile
		_ = s.Shutdown(context.Background())
		sockets.Wait()
		close(stopped)
	}()
	if err := s.ListenAndServe(); err != http.ErrServerClosed {
		fmt.Println(err)
		os.Exit(1)
	}
	<-stopped
}

func number(variable string) int {
	n, _ := strconv.Atoi(os.Getenv(variable))
	return n
}
