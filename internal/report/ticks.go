package report

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// tick is a mark of a scale.
type tick struct {
	At   string // a coordinate
	Text string
}

// Across are lines across the drawing at some heights, as SVG path data.
func (c *chart) Across(ticks []tick) string {
	var b strings.Builder
	for _, t := range ticks {
		fmt.Fprintf(&b, "M%d %sH%d", marginLeft, t.At, chartWidth-marginRight)
	}
	return b.String()
}

// roundSteps are the distances between marks of a percentage that are easy to read, in percentage points.
var roundSteps = []float64{0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 25}

// yStep is the distance of the marks of the scale of values: the smallest of roundSteps with at most five intervals.
func (c *chart) yStep() float64 {
	for _, step := range roundSteps {
		if (c.High-c.Low)/step <= 5 {
			return step
		}
	}
	return roundSteps[len(roundSteps)-1]
}

// roundLow lowers the start of the scale of values to a mark.
func (c *chart) roundLow() {
	for range 2 { // a longer scale may have a larger step
		step := c.yStep()
		c.Low = math.Max(0, step*math.Floor(c.Low/step+1e-9))
	}
}

// YTicks are the marks of the scale of values, all of them multiples of a round step.
func (c *chart) YTicks() []tick {
	step := c.yStep()
	digits := max(0, int(math.Ceil(-math.Log10(step)-1e-9)))
	var ticks []tick
	for i := int(math.Ceil(c.Low/step - 1e-9)); float64(i)*step <= c.High+1e-9; i++ {
		value := float64(i) * step
		ticks = append(ticks, tick{fmt.Sprintf("%.0f", c.y(value)), fmt.Sprintf("%.*f%%", digits, value)})
	}
	return ticks
}

// XTicks are marks of the scale of time, at whole seconds, minutes or hours.
func (c *chart) XTicks() []tick {
	steps := []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute,
		10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour}
	step := steps[len(steps)-1]
	for _, s := range steps {
		if c.end()/s <= 6 {
			step = s
			break
		}
	}
	for c.end()/step > 12 {
		step *= 2
	}
	var ticks []tick
	for at := time.Duration(0); at <= c.end(); at += step {
		ticks = append(ticks, tick{fmt.Sprintf("%.0f", c.x(at)), FormatDuration(at)})
	}
	return ticks
}

// Limits are the places of the bounds.
func (c *chart) Limits() []tick {
	var ticks []tick
	for _, b := range c.Bounds {
		ticks = append(ticks, tick{fmt.Sprintf("%.1f", c.y(b.Value)), b.Name})
	}
	return ticks
}
