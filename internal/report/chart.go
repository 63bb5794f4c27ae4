package report

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// chart is a figure over the time of a release, as a page draws it.
type chart struct {
	ID, Title, Says string // Says is what it shows, for who does not see it
	Curves          []curve
	Bounds          []bound
	Low, High       float64 // of the scale, in percent
}

// curve is one line of a chart; its points are in the order of time.
type curve struct {
	Name, Class string
	Stairs      bool // it stays at each value until the next
	Points      []point
}

type point struct {
	At        time.Duration // since the chart's begin
	Value     float64       // percent
	Low, High float64       // of the band around it; both 0 for none
}

// bound is a value that a curve is held against.
type bound struct {
	Name  string
	Value float64
}

// The drawing's measures, in its own units.
const (
	chartWidth, chartHeight                        = 480, 180
	marginLeft, marginRight, marginTop, marginFoot = 52, 12, 12, 28
	mostPoints                                     = 48 // of a curve: more cannot be told apart
)

func (c *chart) end() time.Duration {
	end := time.Second
	for _, line := range c.Curves {
		if n := len(line.Points); n > 0 {
			end = max(end, line.Points[n-1].At)
		}
	}
	return end
}

func (c *chart) x(at time.Duration) float64 {
	return marginLeft + (chartWidth-marginLeft-marginRight)*float64(at)/float64(c.end())
}

func (c *chart) y(value float64) float64 {
	share := (math.Min(math.Max(value, c.Low), c.High) - c.Low) / (c.High - c.Low)
	return chartHeight - marginFoot - (chartHeight-marginTop-marginFoot)*share
}

// Path is a curve as SVG path data.
func (c *chart) Path(line curve) string {
	var b strings.Builder
	for i, p := range line.Points {
		switch {
		case i == 0:
			fmt.Fprintf(&b, "M%.0f %.1f", c.x(p.At), c.y(p.Value))
		case line.Stairs:
			fmt.Fprintf(&b, "H%.0fV%.1f", c.x(p.At), c.y(p.Value))
		default:
			fmt.Fprintf(&b, "L%.0f %.1f", c.x(p.At), c.y(p.Value))
		}
	}
	return b.String()
}

// Dot is the end of a curve, which may have only one point.
func (c *chart) Dot(line curve) string {
	if len(line.Points) == 0 {
		return ""
	}
	last := line.Points[len(line.Points)-1]
	return fmt.Sprintf("M%.0f %.1fh0", c.x(last.At), c.y(last.Value))
}

// Band is the outline of the band around a curve; "" when it has none.
func (c *chart) Band(line curve) string {
	var b strings.Builder
	for _, p := range line.Points {
		if p.High != 0 {
			fmt.Fprintf(&b, "%s%.0f %.1f", map[bool]string{true: "M", false: "L"}[b.Len() == 0], c.x(p.At), c.y(p.High))
		}
	}
	for i := len(line.Points) - 1; i >= 0; i-- {
		if p := line.Points[i]; p.High != 0 {
			fmt.Fprintf(&b, "L%.0f %.1f", c.x(p.At), c.y(p.Low))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return b.String() + "Z"
}

// tick is a mark of a scale.
type tick struct {
	At   string // a coordinate
	Text string
}

// Across is the lines across the drawing at some heights, as SVG path data.
func (c *chart) Across(ticks []tick) string {
	var b strings.Builder
	for _, t := range ticks {
		fmt.Fprintf(&b, "M%d %sH%d", marginLeft, t.At, chartWidth-marginRight)
	}
	return b.String()
}

// YTicks are five marks of the scale of values.
func (c *chart) YTicks() []tick {
	var ticks []tick
	for i := range 5 {
		value := c.Low + (c.High-c.Low)*float64(i)/4
		ticks = append(ticks, tick{fmt.Sprintf("%.0f", c.y(value)), percentText(value, c.High-c.Low)})
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
		ticks = append(ticks, tick{fmt.Sprintf("%.0f", c.x(at)), Took(at)})
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

// Rows are a chart's numbers as a table: the time, then each curve's value.
func (c *chart) Rows() [][]string {
	longest := curve{}
	for _, line := range c.Curves {
		if len(line.Points) > len(longest.Points) {
			longest = line
		}
	}
	var rows [][]string
	for _, at := range thin(longest.Points, 8) {
		row := []string{Took(at.At)}
		for _, line := range c.Curves {
			text := ""
			for _, p := range line.Points {
				if p.At > at.At {
					break
				}
				text = percentText(p.Value, c.High-c.Low)
				if p.High != 0 {
					text += fmt.Sprintf(" (%s to %s)", percentText(p.Low, c.High-c.Low), percentText(p.High, c.High-c.Low))
				}
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	return rows
}

// percentText is a percentage with as many digits as its scale can show.
func percentText(value, scale float64) string {
	digits := 0
	switch {
	case scale <= 1:
		digits = 2
	case scale <= 10:
		digits = 1
	}
	return fmt.Sprintf("%.*f %%", digits, value)
}

// thin keeps at most so many points, the first and the last among them.
func thin[T any](points []T, most int) []T {
	if len(points) <= most {
		return points
	}
	var kept []T
	for i := range most {
		kept = append(kept, points[i*(len(points)-1)/(most-1)])
	}
	return kept
}

// wilson is the score interval of a share at 95 %, in percent (Wilson: Probable inference, the law of
// succession, and statistical inference, 1927). It holds for events that go wrong each on its own.
func wilson(good, events float64) (low, high float64) {
	const z = 1.96
	share := good / events
	middle := share + z*z/(2*events)
	width := z * math.Sqrt(share*(1-share)/events+z*z/(4*events*events))
	scale := 1 + z*z/events
	low, high = 100*(middle-width)/scale, 100*(middle+width)/scale
	if good == 0 {
		low = 0
	}
	if good == events {
		high = 100
	}
	return low, high
}

// Took is a span of time as people say it.
func Took(d time.Duration) string {
	switch {
	case d < 10*time.Second && d%time.Second != 0:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 10*time.Minute && d%time.Minute >= time.Second:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}
