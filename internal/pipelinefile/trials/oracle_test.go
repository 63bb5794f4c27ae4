package trials_test

import (
	"fmt"
	"slices"
	"strings"
)

// verdictOf says why a description is unsafe; "" when it is safe. It plays every pipeline that the description can make,
// with every order of events, and looks for a job that changes the cluster and runs while the gate was not pressed.
func verdictOf(d *description) string {
	for _, j := range d.jobs {
		for _, a := range j.acts() {
			if a.never() {
				return j.name + ": " + string(a)
			}
		}
		if j.name == "verify_canary" && (slices.Contains(j.codes, 3) || slices.Contains(j.codes, 4)) {
			return "an unhealthy canary is not rolled back: its exit code may fail"
		}
		if strings.HasPrefix(j.name, "rollback") && j.group {
			return j.name + " waits for the job that it is to stop"
		}
		if j.child == "promotes" {
			return j.name + ": its child pipeline promotes"
		}
	}
	if d.autoCancel == "all" {
		return "a failure cancels the rollback jobs"
	}
	why := ""
	eachChoice(d, func(choice map[string]string) bool {
		why = playOne(d, choice)
		return why == ""
	})
	return why
}

// eachChoice gives every choice of the inputs' values and of the conditions, until it is to stop.
func eachChoice(d *description, use func(map[string]string) bool) {
	var names []string
	values := map[string][]string{}
	add := func(name string, list []string) {
		if name != "" && values[name] == nil {
			names = append(names, name)
			values[name] = list
		}
	}
	for _, in := range d.inputs {
		add(in.name, in.values)
	}
	for _, j := range d.jobs {
		add(j.only, []string{"holds", "fails"})
		add(j.except, []string{"holds", "fails"})
		for _, r := range j.rules {
			add(r.cond, []string{"holds", "fails"})
		}
	}
	choice := map[string]string{}
	var choose func(i int) bool
	choose = func(i int) bool {
		if i == len(names) {
			return use(choice)
		}
		for _, v := range values[names[i]] {
			choice[names[i]] = v
			if !choose(i + 1) {
				return false
			}
		}
		return true
	}
	choose(0)
}

// one is a job of one pipeline.
type one struct {
	from  *job
	name  string // with the number of its copy
	stage int
	when  string
	soft  bool // its failure is allowed
	dag   bool
	needs []string // names of ones
	acts  []act
}

// create makes the pipeline of one choice, as GitLab documents rules, only, when, allow_failure, needs and parallel.
// It is nil when GitLab creates none.
func create(d *description, choice map[string]string) []*one {
	is := func(v value) string {
		if v.input != "" {
			return choice[v.input]
		}
		return v.text
	}
	stages := append(append([]string{".pre"}, d.stages...), ".post")
	var made []*one
	wants := map[*one][]need{}
	for _, j := range d.jobs {
		if j.only != "" && choice[j.only] != "holds" || j.except != "" && choice[j.except] == "holds" {
			continue
		}
		when, allow, needs, dag := is(j.when), is(j.allow), j.needs, j.hasNeeds
		if when == "" {
			when = "on_success"
		}
		soft := allow == "true" || allow == "" && when == "manual"
		if j.rules != nil {
			matched := false
			for _, r := range j.rules {
				if r.cond != "" && choice[r.cond] != "holds" {
					continue
				}
				matched = true
				if r.when != "" {
					when = r.when
				}
				if a := is(r.allow); a != "" {
					soft = a == "true"
				} // a rule's when alone leaves what the job's own when decided
				if r.hasNeeds {
					needs, dag = r.needs, true
				}
				break
			}
			if !matched {
				continue
			}
		}
		if when == "never" {
			continue
		}
		for n := range max(j.matrix, 1) {
			name := j.name
			if j.matrix > 0 {
				name = fmt.Sprintf("%s %d", j.name, n+1)
			}
			o := &one{from: j, name: name, stage: slices.Index(stages, is(j.stage)), when: when, soft: soft, dag: dag, acts: j.acts()}
			made = append(made, o)
			wants[o] = needs
		}
	}
	for _, o := range made {
		for _, n := range wants[o] {
			found := false
			for _, other := range made {
				if other.from.name == n.job && (n.copy == 0 || strings.HasSuffix(other.name, fmt.Sprintf(" %d", n.copy))) {
					o.needs = append(o.needs, other.name)
					found = true
				}
			}
			if !found && !n.optional {
				return nil
			}
		}
	}
	return made
}

// gate says whether a job is a gate: it promotes, or has the gate's name, and only a press starts it, which blocks.
func (o *one) gate() bool {
	promotes := slices.Contains(o.acts, promote) || slices.Contains(o.acts, hidden)
	return o.when == "manual" && !o.soft && (promotes || o.from.name == gateName)
}

// playOne plays the pipeline of one choice.
func playOne(d *description, choice map[string]string) string {
	made := create(d, choice)
	gates := map[*job][]*one{}
	for _, o := range made {
		if o.gate() {
			gates[o.from] = append(gates[o.from], o)
		}
	}
	for _, o := range made {
		switch {
		case o.gate():
			if why := opensEarly(made, o); why != "" {
				return why
			}
		case slices.ContainsFunc(o.acts, act.changes):
			if why := passes(made, o, gates); why != "" {
				return why
			}
		}
	}
	return ""
}

// passes says how a job can run without a press of any gate; "" when there is a gate of which each copy must be pressed
// before.
func passes(made []*one, o *one, gates map[*job][]*one) string {
	why := ""
	if len(gates) == 0 {
		return canRun(made, o, nil)
	}
	for _, copies := range gates {
		around := ""
		for _, held := range copies {
			if how := canRun(made, o, held); how != "" {
				around = how
			}
		}
		if around == "" {
			return ""
		}
		why = around
	}
	return why
}

// What is known about a job of a pipeline that is played. A runner's answer is chosen as soon as a job starts: to wait
// for it makes nothing else possible.
const (
	waiting byte = iota
	atOnce       // it waits, and starts without its button or its time
	good         // also a failure that is allowed
	bad
	canceled
	skipped
	button
	runs
)

// interventions are how often somebody retries, cancels or unschedules a job in one history.
const interventions = 2

// search looks for a way in which a job runs while a copy of the gate was not pressed.
type search struct {
	jobs      []*one // those that the target waits for, directly or not, and the target: others cannot make it run
	before    [][]int
	followers [][]int
	pressable []bool
	target    int
	offered   bool // look for the target's button, with a canary that is never verified
	seen      map[string]bool
	found     string
}

// canRun says how a job can run while a gate was not pressed; "" when it cannot.
func canRun(made []*one, target, held *one) string {
	return newSearch(made, target, held).history()
}

// opensEarly says how a gate can be pressed although the canary was not verified, or is pressed by GitLab itself when an
// environment ends.
func opensEarly(made []*one, gate *one) string {
	for _, o := range made {
		if o.autoStops(gate) {
			return gate.name + " is started by the end of the environment of " + o.name
		}
	}
	s := newSearch(made, gate, nil)
	s.offered = true
	return s.history()
}

func newSearch(made []*one, target, held *one) *search {
	s := &search{jobs: upstreamOf(made, target), seen: map[string]bool{}}
	s.target = slices.Index(s.jobs, target)
	for _, o := range s.jobs {
		var before, followers []int
		for i, other := range s.jobs {
			if o.dag && slices.Contains(o.needs, other.name) || !o.dag && other.stage < o.stage {
				before = append(before, i)
			}
		}
		names := map[string]bool{o.name: true}
		for range s.jobs {
			for _, other := range s.jobs {
				if slices.ContainsFunc(other.needs, func(n string) bool { return names[n] }) {
					names[other.name] = true
				}
			}
		}
		for i, other := range s.jobs {
			if other != o && (names[other.name] || other.stage > o.stage) {
				followers = append(followers, i)
			}
		}
		s.before, s.followers = append(s.before, before), append(s.followers, followers)
		s.pressable = append(s.pressable, o != held)
	}
	return s
}

// history is a history in which what is looked for happens; those with fewer interventions come first.
func (s *search) history() string {
	todo := [][]byte{make([]byte, len(s.jobs))}
	for range interventions + 1 {
		var quiet [][]byte
		for len(todo) > 0 && s.found == "" {
			w := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			if s.seen[string(w)] {
				continue
			}
			s.seen[string(w)] = true
			next, settled := s.step(w)
			todo = append(todo, next...)
			if settled {
				quiet = append(quiet, w)
			}
		}
		for _, w := range quiet {
			todo = append(todo, s.intervene(w)...)
		}
	}
	return s.found
}

func with(w []byte, job int, now byte) []byte {
	next := slices.Clone(w)
	next[job] = now
	return next
}

// revive is a press or a retry: what was skipped behind a job waits again.
func (s *search) revive(w []byte, job int, now byte) []byte {
	next := with(w, job, now)
	for _, i := range s.followers[job] {
		if next[i] == skipped {
			next[i] = waiting
		}
	}
	return next
}

// answers are what can become of a job that starts.
func (s *search) answers(w []byte, job int) [][]byte {
	if job == s.target {
		s.found = s.jobs[job].name + " runs: " + s.story(w)
		return nil
	}
	o := s.jobs[job]
	if s.offered && o.from.name == "verify_canary" && !o.soft {
		return [][]byte{with(w, job, bad)}
	}
	if o.soft {
		return [][]byte{with(w, job, good)}
	}
	return [][]byte{with(w, job, good), with(w, job, bad)}
}

// step lets GitLab decide about one job that waits; settled says that there was none, and then buttons are pressed.
func (s *search) step(w []byte) (next [][]byte, settled bool) {
	for i := range s.jobs {
		if w[i] != waiting && w[i] != atOnce {
			continue
		}
		switch now := s.decide(w, i); now {
		case w[i]:
		case button:
			if s.offered && i == s.target {
				s.found = s.jobs[i].name + " runs: it is offered with: " + s.story(w)
			}
			return [][]byte{with(w, i, now)}, false
		case runs:
			return s.answers(w, i), false
		default:
			return [][]byte{with(w, i, now)}, false
		}
	}
	for i, o := range s.jobs {
		if w[i] != button {
			continue
		}
		ended := slices.ContainsFunc(s.jobs, func(other *one) bool { return other.autoStops(o) && w[slices.Index(s.jobs, other)] == good })
		if s.pressable[i] || ended {
			next = append(next, s.answers(s.revive(w, i, runs), i)...)
		}
	}
	return next, true
}

// intervene is what a person can do beside pressing buttons.
func (s *search) intervene(w []byte) (next [][]byte) {
	for i, o := range s.jobs {
		switch w[i] {
		case waiting, atOnce:
			next = append(next, with(w, i, map[bool]byte{true: good, false: canceled}[o.soft]))
		case good, bad, canceled:
			switch {
			case o.when != "manual" && o.when != "delayed":
				next = append(next, s.revive(w, i, waiting))
			case s.pressable[i]:
				next = append(next, s.revive(w, i, atOnce))
			}
		}
	}
	return next
}

// decide is GitLab's decision about a job that waits.
func (s *search) decide(w []byte, job int) byte {
	o := s.jobs[job]
	var failedOnes, canceledOnes, skippedOnes, unfinished int
	for _, i := range s.before[job] {
		switch now := w[i]; {
		case now == good:
		case now == bad:
			failedOnes++
		case now == canceled:
			canceledOnes++
		case now == skipped, s.jobs[i].soft && now == button:
			skippedOnes++
		default:
			unfinished++
		}
	}
	outcome := "well"
	switch {
	case o.dag && skippedOnes > 0: // whatever the others do
		outcome = "skipped"
	case unfinished > 0:
		return w[job]
	case failedOnes > 0:
		outcome = "failed"
	case canceledOnes > 0:
		outcome = "canceled"
	case skippedOnes > 0 && skippedOnes == len(s.before[job]):
		outcome = "skipped"
	}
	starts := false
	switch o.when {
	case "on_failure":
		starts = outcome == "failed"
	case "always":
		starts = outcome != "canceled"
	default:
		starts = outcome == "well" || outcome == "skipped" && !o.dag
	}
	switch {
	case !starts:
		return skipped
	case o.when == "manual" && w[job] == waiting:
		return button
	}
	return runs
}

func (s *search) story(w []byte) string {
	var parts []string
	for i, o := range s.jobs {
		parts = append(parts, o.name+" "+[]string{"waits", "waits", "good", "bad", "canceled", "skipped", "not pressed", "runs"}[w[i]])
	}
	return strings.Join(parts, ", ")
}

// autoStops says whether the end of one's environment presses another job.
func (o *one) autoStops(other *one) bool {
	return o.from.autoStop && o.from.onStop == other.from.name && other.from.action == "stop" && other.from.env == o.from.env
}

// upstreamOf are a job and those that it waits for, directly or not.
func upstreamOf(made []*one, target *one) []*one {
	in := map[*one]bool{}
	var visit func(o *one)
	visit = func(o *one) {
		if in[o] {
			return
		}
		in[o] = true
		for _, other := range made {
			if o.dag && slices.Contains(o.needs, other.name) || !o.dag && other.stage < o.stage {
				visit(other)
			}
		}
	}
	visit(target)
	return slices.DeleteFunc(slices.Clone(made), func(o *one) bool { return !in[o] })
}
