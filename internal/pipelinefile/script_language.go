package pipelinefile

import (
	"fmt"
	"maps"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// language is what a pattern of an input matches. GitLab searches with RE2: without anchors, a match may be anywhere in
// the value.
type language struct{ program *syntax.Prog }

func parseLanguage(pattern string) (language, error) {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return language{}, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return language{}, err
	}
	if len(program.Inst) > 20_000 {
		return language{}, fmt.Errorf("it is too long to prove")
	}
	return language{program}, nil
}

// automaton reads a text rune by rune. Runes that are not special are all alike to it.
type automaton struct {
	special []rune
	next    func(state int, r rune) int // r is -1 for a rune that is not special
}

// runeSet is a set of runes, or of all others.
type runeSet struct {
	runes    string
	excluded bool // the set is all runes but these
}

func forbidding(runes string) runeSet { return runeSet{runes: runes} }
func admitting(runes string) runeSet  { return runeSet{runes: runes, excluded: true} }

// and adds runes to the set.
func (s runeSet) and(runes string) runeSet {
	if !s.excluded {
		s.runes += runes
	}
	return s
}

func (s runeSet) has(r rune) bool { return strings.ContainsRune(s.runes, r) != s.excluded }

// empty says whether no text matches: a pattern in slashes is one, as its ^ stands behind a character.
func (l language) empty() bool {
	return len(l.after(map[int]bool{0: true}, automaton{next: func(int, rune) int { return 0 }})) == 0
}

// contains finds a rune of the set in a text of the language.
func (l language) contains(bad runeSet) (string, bool) {
	special := []rune(bad.runes)
	if bad.excluded { // for a message that names the rune
		special = append(special, []rune("'\"`$;&|<>()\\ \n*?[]{}~#!=")...)
	}
	seen := automaton{special: special, next: func(state int, r rune) int {
		switch {
		case state != 0:
			return state
		case r == -1 && bad.excluded:
			return 1 << 22
		case r != -1 && bad.has(r):
			return int(r) + 1
		}
		return 0
	}}
	states := slices.Sorted(maps.Keys(l.after(map[int]bool{0: true}, seen)))
	if len(states) == 0 { // no text matches
		return "", false
	}
	for _, state := range states { // a printable one is the better example
		if state > int(' ') && state < 1<<22 {
			return fmt.Sprintf("%q", string(rune(state-1))), true
		}
	}
	switch last := states[len(states)-1]; {
	case last == 1<<22 || states[0] < 0:
		return "other characters than letters, digits and ._/:@%+,-", true
	case last > 0:
		return fmt.Sprintf("%q", string(rune(last-1))), true
	}
	return "", false
}

// configuration is where a search of the pattern and the automaton are together.
type configuration struct {
	pc      uint32
	phase   int // 0 before the match, 1 in it, 2 behind it
	started bool
	ended   bool
	state   int
}

// after are the states in which an automaton may be behind a text of the language, from any of the given ones.
// Lines and word boundaries are taken to match everywhere: that makes the language larger, never smaller.
func (l language) after(starts map[int]bool, machine automaton) map[int]bool {
	results, seen := map[int]bool{}, map[configuration]bool{}
	var queue []configuration
	add := func(c configuration) {
		if !seen[c] {
			seen[c] = true
			queue = append(queue, c)
		}
	}
	classes := append([]rune{-1}, machine.special...)
	for state := range starts {
		add(configuration{state: state})
	}
	for len(queue) > 0 {
		c := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		switch c.phase {
		case 0:
			add(configuration{pc: uint32(l.program.Start), phase: 1, started: c.started, state: c.state})
			for _, r := range classes {
				add(configuration{phase: 0, started: true, state: machine.next(c.state, r)})
			}
		case 2:
			results[c.state] = true
			if !c.ended {
				for _, r := range classes {
					add(configuration{phase: 2, started: true, state: machine.next(c.state, r)})
				}
			}
		default:
			l.advance(c, machine, classes, add)
		}
		if len(seen) > 2_000_000 { // not proved: any state
			return map[int]bool{-1: true}
		}
	}
	return results
}

// advance follows one instruction.
func (l language) advance(c configuration, machine automaton, classes []rune, add func(configuration)) {
	inst := &l.program.Inst[c.pc]
	to := func(pc uint32) configuration {
		n := c
		n.pc = pc
		return n
	}
	switch inst.Op {
	case syntax.InstAlt, syntax.InstAltMatch:
		add(to(inst.Out))
		add(to(inst.Arg))
	case syntax.InstCapture, syntax.InstNop:
		add(to(inst.Out))
	case syntax.InstEmptyWidth:
		op := syntax.EmptyOp(inst.Arg)
		if op&syntax.EmptyBeginText != 0 && c.started {
			return
		}
		n := to(inst.Out)
		n.ended = n.ended || op&syntax.EmptyEndText != 0
		add(n)
	case syntax.InstMatch:
		c.phase = 2
		c.pc = 0
		add(c)
	case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
		if c.ended {
			return
		}
		for _, r := range classes {
			if r == -1 && matchesOther(inst, machine.special) || r != -1 && inst.MatchRune(r) {
				n := to(inst.Out)
				n.started, n.state = true, machine.next(c.state, r)
				add(n)
			}
		}
	}
}

// matchesOther says whether an instruction matches a rune that is not special.
func matchesOther(inst *syntax.Inst, special []rune) bool {
	isSpecial := func(r rune) bool { return slices.Contains(special, r) }
	switch {
	case inst.Op == syntax.InstRuneAny || inst.Op == syntax.InstRuneAnyNotNL:
		return true
	case len(inst.Rune) == 1:
		for r := inst.Rune[0]; ; {
			if !isSpecial(r) {
				return true
			}
			r = unicode.SimpleFold(r)
			if syntax.Flags(inst.Arg)&syntax.FoldCase == 0 || r == inst.Rune[0] {
				return false
			}
		}
	}
	for i := 0; i+1 < len(inst.Rune); i += 2 {
		for r, end := inst.Rune[i], inst.Rune[i+1]; r <= end; r++ {
			if !isSpecial(r) {
				return true
			}
		}
	}
	return false
}

// digestMarker is what stands between a repository and 64 hexadecimal digits.
const digestMarker = "@sha256:"

// States of the automaton that reads images: noDigest and up, how much of the marker has been read; then the digits.
const (
	digestEmpty    = 0                     // nothing has been read
	digestNone     = 1                     // something, and no part of the marker at its end
	digestDigits   = 1 + len(digestMarker) // the marker at its end
	digestComplete = digestDigits + 64     // a digest at its end
)

// digests is the automaton whose state is digestComplete behind a text that ends in a digest.
var digests = automaton{special: []rune("@sha256:0123456789abcdef"), next: func(state int, r rune) int {
	matched := max(state-digestNone, 0) // of the marker
	switch {
	case state >= digestDigits && state < digestComplete && r != -1 && strings.ContainsRune("0123456789abcdef", r):
		return state + 1
	case state < digestDigits && r == rune(digestMarker[matched]):
		return digestNone + matched + 1
	case r == '@':
		return digestNone + 1
	}
	return digestNone
}}

// allDigestStates are the states behind any text.
var allDigestStates = func() map[int]bool {
	all := map[int]bool{}
	for state := range digestComplete + 1 {
		all[state] = true
	}
	return all
}()

// endsInDigest proves that a value is empty or ends in a digest, whatever its inputs are. what is what it may be
// instead.
func (a *analyzer) endsInDigest(v value) bool {
	states := map[int]bool{digestEmpty: true}
	for _, p := range v {
		var after map[int]bool
		switch p.kind {
		case pieceText:
			after = map[int]bool{}
			for state := range states {
				for _, r := range p.text {
					state = digests.next(state, classOf(r))
				}
				after[state] = true
			}
		case pieceInput:
			after = a.afterInput(p, states)
		}
		if after == nil || after[-1] {
			after = allDigestStates
		}
		states = after
	}
	for state := range states {
		if state != digestEmpty && state != digestComplete {
			return false
		}
	}
	return true
}

// afterPatterns are the answers of afterInput that are known: the variants of a call have few patterns between them.
var afterPatterns sync.Map

// afterInput are the states behind all values of an input; nil when it is not known which they are.
func (a *analyzer) afterInput(p piece, states map[int]bool) map[int]bool {
	_, indexes := a.placeholders.split(p.text)
	if len(indexes) != 1 || p.function != "" {
		return nil
	}
	input := a.placeholders.inputs[indexes[0]].input
	if len(input.Options) > 0 {
		after := map[int]bool{}
		for _, option := range input.Options {
			for state := range states {
				for _, r := range option {
					state = digests.next(state, classOf(r))
				}
				after[state] = true
			}
		}
		return after
	}
	if input.Regex == "" || input.Type == "array" {
		return nil
	}
	key := fmt.Sprint(states, input.Regex) // fmt sorts maps
	if known, ok := afterPatterns.Load(key); ok {
		return known.(map[int]bool)
	}
	pattern, err := parseLanguage(input.Regex)
	if err != nil {
		return nil
	}
	after := pattern.after(states, digests)
	afterPatterns.Store(key, after)
	return after
}

func classOf(r rune) rune {
	if strings.ContainsRune("@sha256:0123456789abcdef", r) {
		return r
	}
	return -1
}
