package cluster_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/our-org/crossbill/rehearsal/cluster"
	"github.com/our-org/crossbill/rehearsal/sandbox"
	"github.com/our-org/crossbill/rehearsal/setup"
)

// running is the cluster that all tests share; each has a namespace or an app of its own.
var running *cluster.Cluster

// TestMain runs the tests in a sandbox, on one cluster.
func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	ctx := context.Background()
	began := time.Now()
	progress := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.2fs "+format+"\n", append([]any{time.Since(began).Seconds()}, args...)...)
	}
	programs, err := setup.Ensure(ctx, "", progress)
	if err != nil {
		return 1, err
	}
	if !sandbox.Inside() {
		return sandbox.Run(ctx, os.Args[1:], cluster.Doors()...)
	}
	if _, err := sandbox.Enter(); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "crossbill-cluster-")
	if err != nil {
		return 1, err
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "left behind:", err)
		}
	}()
	running, err = cluster.Start(ctx, cluster.Options{
		Dir: dir, TestclusterBinary: programs.Testcluster, EnvoyBinary: programs.Envoy,
		PrometheusBinary: programs.Prometheus, PrometheusAssets: programs.PrometheusAssets, GatewayAPI: programs.GatewayAPI, Log: progress,
	})
	if err != nil {
		return 1, err
	}
	defer running.Close()
	return m.Run(), nil
}
