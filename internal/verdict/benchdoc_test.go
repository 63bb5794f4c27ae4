package verdict

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
)

// document writes docs/verdict.md and its plot. The text is in testdata/verdict.md.tmpl; the tables and the plot
// come from the cells.
func document(folder string, cells []cell, distances []distance, test Test) error {
	page, err := template.New("verdict.md.tmpl").Funcs(template.FuncMap{
		"percent": func(share float64) string { return strings.TrimSuffix(fmt.Sprintf("%.2f", 100*share), ".00") },
		"rate":    func(share float64) string { return fmt.Sprintf("%g", math.Round(1e6*share)/1e4) },
	}).ParseFiles("testdata/verdict.md.tmpl")
	if err != nil {
		return err
	}
	find := func(scenario, method string, errors, rate float64) cell {
		for _, c := range cells {
			if c.Scenario == scenario && c.Method == method && c.CanaryErrorRate == errors && c.RequestsPerSecond == rate {
				return c
			}
		}
		return cell{}
	}
	var methods []string
	for _, c := range cells {
		if c.Scenario == "steady" && c.RequestsPerSecond == 500 && !slices.Contains(methods, c.Method) {
			methods = append(methods, c.Method)
		}
	}
	var steady strings.Builder
	fmt.Fprintf(&steady, "| the canary's errors | |%s\n|---|---|%s\n", cellsOf(methods, func(m string) string { return m }), cellsOf(methods, func(string) string { return "---" }))
	for _, errors := range errorRates {
		for i, row := range []struct {
			name string
			of   func(cell) string
		}{
			{"rolled back", func(c cell) string { return share(c.RolledBack) }},
			{"passed", func(c cell) string { return share(c.Passed) }},
			{"time to decide", func(c cell) string { return fmt.Sprintf("%.0f s", c.MedianSeconds) }},
		} {
			label := ""
			if i == 0 {
				label = fmt.Sprintf("**%g%%** (%s)", 100*errors, find("steady", "Crossbill", errors, 50).Truth)
			}
			fmt.Fprintf(&steady, "| %s | %s |%s\n", label, row.name, cellsOf(methods, func(m string) string { return row.of(find("steady", m, errors, 50)) }))
		}
	}
	var traffic strings.Builder
	fmt.Fprintf(&traffic, "| the canary's errors |%s\n|---|%s\n", cellsOf(requestRates, func(r float64) string {
		return fmt.Sprintf("%g requests/s, %g of them the canary's", r, r*canaryWeight)
	}), cellsOf(requestRates, func(float64) string { return "---" }))
	for _, errors := range errorRates {
		fmt.Fprintf(&traffic, "| %g%% |%s\n", 100*errors, cellsOf(requestRates, func(r float64) string {
			c := find("steady", "Crossbill", errors, r)
			return fmt.Sprintf("rolled back %s, passed %s, median %.0f s, p95 %.0f s", share(c.RolledBack), share(c.Passed), c.MedianSeconds, c.P95Seconds)
		}))
	}
	steps, seconds := costs(distances)
	var others strings.Builder
	others.WriteString("| condition | method | rolled back | passed | median |\n|---|---|---|---|---|\n")
	for _, c := range cells {
		if c.Scenario != "steady" && !c.scene {
			name := c.Scenario
			if strings.HasPrefix(name, "errors in bursts") {
				name = fmt.Sprintf("%s, %g%% (%s)", name, 100*c.CanaryErrorRate, c.Truth)
			} else {
				name += " (" + c.Truth + ")"
			}
			fmt.Fprintf(&others, "| %s | %s | %s | %s | %.0f s |\n", name, c.Method, share(c.RolledBack), share(c.Passed), c.MedianSeconds)
		}
	}
	var changing strings.Builder
	changing.WriteString("| condition | truth | promised | measured | at most | rolled back | passed | median | p95 |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range cells {
		if c.scene {
			name := c.Scenario
			if c.RequestsPerSecond != 50 {
				name += fmt.Sprintf(" (%g requests/s)", c.RequestsPerSecond)
			}
			fmt.Fprintf(&changing, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", name, c.Truth, share(*c.Promised), share(*c.Measured), share(*c.AtMost), share(c.RolledBack), share(c.Passed), c.time(c.MedianSeconds), c.time(c.P95Seconds))
		}
	}
	file, err := os.Create(filepath.Join(folder, "verdict.md"))
	if err != nil {
		return err
	}
	defer file.Close()
	err = page.Execute(file, map[string]any{
		"Releases": *benchReleases, "Test": test, "Objective": test.Objectives[0],
		"Steady": steady.String(), "Traffic": traffic.String(), "Steps": steps, "Seconds": seconds, "Others": others.String(), "Changing": changing.String(),
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "verdict.svg"), []byte(plot(methods, find)), 0o644)
}

// time is a time of a cell, which may count from later than the start.
func (c cell) time(seconds float64) string {
	switch {
	case c.Since == 0:
		return fmt.Sprintf("%.0f s", seconds)
	case seconds <= 0:
		return "before"
	}
	return fmt.Sprintf("%.0f s after", seconds)
}

func share(s float64) string {
	if s > 0 && s < 0.0005 || s < 1 && s > 0.9995 {
		return fmt.Sprintf("%.2f%%", 100*s)
	}
	return fmt.Sprintf("%.1f%%", 100*s)
}

func cellsOf[T any](columns []T, text func(T) string) string {
	row := ""
	for _, c := range columns {
		row += " " + text(c) + " |"
	}
	return row
}

// plot draws the median time to a decision over the canary's error rate, at 50 requests a second.
func plot(methods []string, find func(scenario, method string, errors, rate float64) cell) string {
	const left, top, width, height = 60.0, 20.0, 480.0, 260.0
	x := func(i int) float64 { return left + (float64(i)+0.5)*width/float64(len(errorRates)) }
	y := func(seconds float64) float64 {
		low, high := math.Log(10), math.Log(3000)
		return top + height*(1-(math.Log(seconds)-low)/(high-low))
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 340" role="img" aria-label="Median time to a decision by the canary's error rate, for each method, at 50 requests a second">
<style>
.panel { fill: #ffffff; stroke: #d0d7de }
text { font: 12px system-ui, sans-serif; fill: #24292f } .axis { stroke: #8c959f; stroke-width: 1 } .grid { stroke: #8c959f; stroke-opacity: .25 }
@media (prefers-color-scheme: dark) { .panel { fill: #161b22; stroke: #30363d } text { fill: #e6edf3 } }
</style>
<rect class="panel" x="0.5" y="0.5" width="859" height="339" rx="8"/>
`)
	for _, seconds := range []float64{15, 60, 300, 900, 2400} {
		fmt.Fprintf(&b, `<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text x="%g" y="%.1f" text-anchor="end">%g s</text>`+"\n", left, left+width, y(seconds), y(seconds), left-6, y(seconds)+4, seconds)
	}
	for i, errors := range errorRates {
		fmt.Fprintf(&b, `<text x="%.1f" y="%g" text-anchor="middle">%g%%</text>`+"\n", x(i), top+height+18, 100*errors)
	}
	fmt.Fprintf(&b, `<line class="axis" x1="%g" x2="%g" y1="%g" y2="%g"/><text x="%g" y="%g" text-anchor="middle">the canary's errors (primary: 0.1%%)</text>`+"\n", left, left+width, top+height, top+height, left+width/2, top+height+40)
	// Okabe and Ito's colors, which people with any color vision can distinguish.
	colors := []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}
	for k, m := range methods {
		points := ""
		strokes, dashes := 2.0, ` stroke-dasharray="5 4"`
		if k == 0 {
			strokes, dashes = 3.5, ""
		}
		for i, errors := range errorRates {
			seconds := find("steady", m, errors, 50).MedianSeconds
			points += fmt.Sprintf("%.1f,%.1f ", x(i), y(seconds))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="%.1f" fill="%s"/>`+"\n", x(i), y(seconds), strokes+1, colors[k])
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="%g"%s/>`+"\n", strings.TrimSpace(points), colors[k], strokes, dashes)
		at := top + 14 + 22*float64(k)
		fmt.Fprintf(&b, `<line x1="560" x2="584" y1="%g" y2="%g" stroke="%s" stroke-width="%g"%s/><text x="592" y="%g">%s</text>`+"\n", at, at, colors[k], strokes, dashes, at+4, m)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
