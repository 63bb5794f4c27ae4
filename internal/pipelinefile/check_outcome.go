package pipelinefile

import (
	"fmt"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// outcomes checks that the outcome of a step is that of its job: what GitLab does next, it decides by that.
func (c *checker) outcomes() {
	for i := range c.file.Jobs {
		job := &c.file.Jobs[i]
		r := c.roleOf(job)
		if job.Name == c.verify && !r.runs("verify") && !r.runs(following) && len(r.opaque) == 0 {
			c.report(job, RuleVerified, "its script does not run `crossbill verify`", "let it verify the canary, or name the job that does")
		}
		shell := outcomeOf(job)
		for _, command := range c.judged(job, r) {
			line, hidden := shell.hides(command)
			if line == 0 {
				line = job.Line
			}
			switch {
			case hidden:
				c.reportAt(job, line, "script", RuleRollsBack, fmt.Sprintf("its script goes on after `%s` has failed, so that the job may succeed all the same", command), "let the failure of the command be that of the script")
			case (command == "crossbill verify" || command == "crossbill "+following) && !shell.certain(command):
				c.reportAt(job, job.values.lines["script"], "script", RuleVerified, fmt.Sprintf("its script can succeed without `%s`", command), "run it unconditionally")
			}
		}
	}
}

// judged are the commands whose outcome must be that of a job.
func (c *checker) judged(job *Job, r role) (commands []string) {
	for _, command := range []string{"canary", following, "verify", "promote"} {
		part := map[string]bool{"canary": c.judges(job), following: true, "verify": job.Name == c.verify, "promote": c.isGate(job)}[command]
		if part && r.runs(command) {
			commands = append(commands, "crossbill "+command)
		}
	}
	if !c.isGate(job) || r.runs("promote") {
		return commands
	}
	for _, e := range r.changes {
		if words := strings.Fields(e.Kind); len(words) > 1 && (words[0] == "kubectl" || words[0] == "helm") && !slices.Contains(commands, words[0]+" "+words[1]) {
			commands = append(commands, words[0]+" "+words[1])
		}
	}
	return commands
}

// outcome is the shell in which a job's script runs.
type outcome struct {
	file    *syntax.File
	lines   []int // of the pipeline file, for each line of the script
	results map[string]*proof
}

func outcomeOf(job *Job) *outcome {
	o := &outcome{results: map[string]*proof{}}
	var text strings.Builder
	for _, keyword := range []string{"before_script", "script"} {
		for _, item := range linesOf(job.shell(keyword)) {
			body := block.ReplaceAllString(strings.TrimRight(item.Text, "\n"), "input")
			text.WriteString("echo\n" + body + "\n") // the runner echoes each item, and so sets $?
			o.lines = append(o.lines, item.Line)
			for n := range strings.Count(body, "\n") + 1 {
				o.lines = append(o.lines, item.Line+n)
			}
		}
	}
	file, err := parseShell(text.String())
	if err != nil {
		return o // a script that cannot be read is reported as such
	}
	o.file = file
	return o
}

// of executes the script for one command.
func (o *outcome) of(command string) *proof {
	if o.results[command] == nil {
		p := &proof{command: strings.Fields(command), lines: o.lines}
		p.run(o.file)
		o.results[command] = p
	}
	return o.results[command]
}

// hides says whether the script may succeed although a command has failed, and where that is.
func (o *outcome) hides(command string) (line int, hidden bool) {
	if o.file == nil {
		return 0, false
	}
	p := o.of(command)
	return p.hiddenAt, p.hidden
}

// certain says whether a script cannot succeed without a command.
func (o *outcome) certain(command string) bool {
	return o.file == nil || !o.of(command).skipped
}
