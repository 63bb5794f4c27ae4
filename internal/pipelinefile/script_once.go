package pipelinefile

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// known are effects of scripts, with lines from 1 on. A file has the same scripts for most values of its inputs, and files that
// include the same component have them as well.
var known struct {
	sync.Mutex
	effects map[string]effects
}

// mostAnalyzed is how many scripts are kept.
const mostAnalyzed = 256

// analyzeOnce is analyze for scripts that it may have seen, on these lines or on others.
func analyzeOnce(script []scriptLine, env scriptContext) effects {
	before := slices.MinFunc(script, func(a, b scriptLine) int { return a.Line - b.Line }).Line - 1
	var text strings.Builder
	key, fromOne := []string{}, make([]scriptLine, 0, len(script))
	for _, item := range script {
		fromOne = append(fromOne, scriptLine{item.Text, item.Line - before})
		key = append(key, fmt.Sprintf("%d %q", item.Line-before, item.Text))
		text.WriteString(item.Text + "\n")
	}
	for _, match := range inputExpression.FindAllStringSubmatch(text.String(), -1) { // it may go over the end of an item
		if input, declared := env.Inputs[match[1]]; declared {
			key = append(key, match[1]+" "+input.key())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env.Given)) {
		key = append(key, fmt.Sprintf("%s=%q", name, env.Given[name]))
	}
	all := strings.Join(key, "\n")
	known.Lock()
	found, ok := known.effects[all]
	known.Unlock()
	if !ok {
		found = analyze(fromOne, env)
		known.Lock()
		if known.effects == nil || len(known.effects) >= mostAnalyzed {
			known.effects = map[string]effects{}
		}
		known.effects[all] = found
		known.Unlock()
	}
	return found.moved(before)
}

// key is all that an analysis depends on of an input.
func (i Input) key() string {
	value := ""
	if i.Default != nil {
		value = fmt.Sprintf("%q", *i.Default)
	}
	return fmt.Sprintf("%q %q %q %s %t %t", i.Type, i.Regex, i.Options, value, i.closed, i.conditional)
}

// moved are the effects of the same script so many lines further down.
func (e effects) moved(by int) effects {
	e.reads, e.canary, e.changes, e.opaque = slices.Clone(e.reads), slices.Clone(e.canary), slices.Clone(e.changes), slices.Clone(e.opaque)
	e.uses, e.images, e.inputs, e.targets = slices.Clone(e.uses), slices.Clone(e.images), slices.Clone(e.inputs), slices.Clone(e.targets)
	move := func(line *int) {
		if *line > 0 { // otherwise it is not known
			*line += by
		}
	}
	for _, all := range [][]effect{e.reads, e.canary, e.changes, e.opaque} {
		for i := range all {
			move(&all[i].Line)
		}
	}
	for i := range e.uses {
		move(&e.uses[i].Line)
	}
	for i := range e.images {
		move(&e.images[i].Line)
	}
	for i := range e.inputs {
		move(&e.inputs[i].Line)
	}
	for i := range e.targets {
		move(&e.targets[i].Line)
	}
	return e
}
