package main

import (
	"testing"
	"time"
)

// TestCounter: the seconds that are over count, and a second's count is its own.
func TestCounter(t *testing.T) {
	var c counter
	begin := time.Unix(1000, 0)
	for s := range 10 {
		for n := range 20 {
			if got := c.add(begin.Add(time.Duration(s) * time.Second)); got != n+1 {
				t.Fatalf("request %d of second %d is number %d", n+1, s, got)
			}
		}
	}
	for after, want := range map[time.Duration]float64{9 * time.Second: 20, 11 * time.Second: 16} {
		copied := c.copy()
		if got := copied.perSecond(begin.Add(after)); got != want {
			t.Errorf("after %s: %g per second, want %g", after, got, want)
		}
	}
	if got := c.perSecond(begin.Add(time.Hour)); got != 0 {
		t.Errorf("after an hour: %g per second", got)
	}
}

func (c *counter) copy() *counter { return &counter{counts: c.counts, second: c.second} }
