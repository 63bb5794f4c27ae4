package rollout_test

import (
	"os"
	"runtime/debug"
	"testing"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(800) // many small clusters: time is dearer than memory
	// The second handler keeps errors a millisecond apart by the time of the last one. That is the process's at first, and a
	// world's clock is decades behind it.
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	os.Exit(m.Run())
}
