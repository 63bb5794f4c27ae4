package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// chart is a figure over the time of a release.
type chart struct {
	ID, Title, Description string // Description is for those who do not see it
	Curves                 []curve
	Bounds                 []bound
	Low, High              float64 // of the scale, in percent
}

// curve is one line of a chart; its points are in the order of time.
type curve struct {
	Name, Class string
	Stairs      bool // it stays at each value until the next
	Points      []point
}

type point struct {
	At        time.Duration // since the start of the chart
	Value     float64       // percent
	Low, High float64       // of the band around it; both 0 for none
}

// bound is a value that a curve is compared with.
type bound struct {
	Name  string
	Value float64
}

// The drawing's measures, in its own units.
const (
	chartWidth, chartHeight                        = 480, 180
	marginLeft, marginRight, marginTop, marginFoot = 52, 12, 12, 28
	mostPoints                                     = 48 // of a curve: more cannot be distinguished
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
	for _, p := range slices.Backward(line.Points) {
		if p.High != 0 {
			fmt.Fprintf(&b, "L%.0f %.1f", c.x(p.At), c.y(p.Low))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return b.String() + "Z"
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
	for _, at := range downsample(longest.Points, 8) {
		row := []string{FormatDuration(at.At)}
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
	return fmt.Sprintf("%.*f%%", digits, value)
}

// downsample keeps at most so many points, the first and the last among them.
func downsample[T any](points []T, most int) []T {
	if len(points) <= most {
		return points
	}
	var kept []T
	for i := range most {
		kept = append(kept, points[i*(len(points)-1)/(most-1)])
	}
	return kept
}

// wilson is the score interval of a share at 95%, in percent (Wilson: Probable inference, the law of
// succession, and statistical inference, 1927). It assumes that events fail independently.
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
