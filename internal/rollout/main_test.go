package rollout_test

import (
	"os"
	"runtime/debug"
	"testing"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(800) // many small clusters: time is dearer than memory
	os.Exit(m.Run())
}
