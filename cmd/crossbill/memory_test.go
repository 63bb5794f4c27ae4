package main

import (
	"os"
	"runtime/debug"
	"testing"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // little is kept: time is dearer than memory
	os.Exit(m.Run())
}
