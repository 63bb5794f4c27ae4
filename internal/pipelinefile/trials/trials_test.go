package trials_test

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/our-org/crossbill/internal/pipelinefile"
)

var (
	generatedFiles = flag.Int("lint.generated", 300, "how many pipeline files to make up")
	seed           = flag.Uint64("lint.seed", 1, "with which they begin")
	folder         = flag.String("lint.cases", "", "folder of further trial files with a README.md that says which are safe")
	summaryFile    = flag.String("lint.json", "", "file for the outcome")
	kept           = flag.String("lint.keep", "", "folder for made-up files of which lint and the simulation disagree")
)

// outcome is what make lint-trials writes.
type outcome struct {
	Unsafe     int `json:"unsafe"`     // trial files that are unsafe
	Missed     int `json:"missed"`     // of them, without a finding
	Safe       int `json:"safe"`       // trial files that are right
	Complained int `json:"complained"` // of them, with a finding

	Generated           int            `json:"generated"`       // made-up files
	GeneratedUnsafe     int            `json:"generatedUnsafe"` // of them, unsafe by the simulation
	GeneratedMissed     int            `json:"generatedMissed"`
	GeneratedBeside     int            `json:"generatedBeside"` // unsafe ones found, but by no rule about what can run before the gate
	GeneratedSafe       int            `json:"generatedSafe"`   // correct by construction
	GeneratedComplained int            `json:"generatedComplained"`
	ComplainedWith      map[string]int `json:"complainedWith"` // rules, of correct files
	FoundWith           map[string]int `json:"foundWith"`      // rules, of unsafe files
	Mutations           map[string]int `json:"mutations"`      // unsafe files by what was done to them

	failures []string
}

// lint is lint's word: the rules that a file breaks. A file that is none counts as complained about.
func lint(text string) []string {
	file, err := pipelinefile.Parse([]byte(text))
	if err != nil {
		return []string{"parse: " + err.Error()}
	}
	var rules []string
	for _, f := range pipelinefile.Check(file, pipelinefile.Options{}) {
		if !slices.Contains(rules, f.Rule) {
			rules = append(rules, f.Rule)
		}
	}
	return rules
}

// made is the description of a number: a third is correct, most of the others have one mutation.
func made(number uint64) (*description, *rand.Rand) {
	r := rand.New(rand.NewPCG(*seed, number))
	switch r.IntN(6) {
	case 0, 1:
		return correct(r), r
	case 2:
		return wild(r), r
	default:
		return mutated(r), r
	}
}

// TestGeneratedFiles compares lint's word with the simulation.
func TestGeneratedFiles(t *testing.T) {
	o := &outcome{ComplainedWith: map[string]int{}, FoundWith: map[string]int{}, Mutations: map[string]int{}}
	var lock sync.Mutex
	var wait sync.WaitGroup
	numbers := make(chan uint64)
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for n := range numbers {
				d, r := made(n)
				file := render(r, d)
				why, rules := verdictOf(d), lint(file)
				lock.Lock()
				o.note(n, d, file, why, rules)
				lock.Unlock()
			}
		})
	}
	for n := range *generatedFiles {
		numbers <- uint64(n)
	}
	close(numbers)
	wait.Wait()
	t.Logf("%d files: %d unsafe, %d missed, %d found by another rule; %d correct, %d complained about %v", o.Generated, o.GeneratedUnsafe, o.GeneratedMissed, o.GeneratedBeside, o.GeneratedSafe, o.GeneratedComplained, o.ComplainedWith)
	for _, f := range o.failures[:min(len(o.failures), 5)] {
		t.Error(f)
	}
	if o.GeneratedUnsafe == 0 || o.GeneratedSafe == 0 {
		t.Error("the files are all of one kind")
	}
	if o.GeneratedComplained*20 > o.GeneratedSafe {
		t.Errorf("more than 5%% of the correct files are complained about: %v", o.ComplainedWith)
	}
	o.trials(t)
	o.write(t)
}

func (o *outcome) note(n uint64, d *description, file, why string, rules []string) {
	o.Generated++
	switch {
	case why != "":
		o.GeneratedUnsafe++
		o.Mutations[d.mutation]++
		for _, rule := range rules {
			o.FoundWith[rule]++
		}
		if strings.Contains(why, " runs: ") && len(rules) > 0 && !slices.ContainsFunc(rules, aboutTheGate) {
			o.GeneratedBeside++
			keep(fmt.Sprintf("beside-%d.yml", n), "# "+why+"\n# "+strings.Join(rules, ", ")+"\n"+file)
		}
		if len(rules) == 0 {
			o.GeneratedMissed++
			o.failures = append(o.failures, fmt.Sprintf("file %d (%s): %s, and lint finds nothing:\n%s", n, d.mutation, why, render(rand.New(rand.NewPCG(1, 1)), shrunk(d))))
			keep(fmt.Sprintf("missed-%d.yml", n), file)
		}
	case d.mutation == "":
		o.GeneratedSafe++
		if len(rules) > 0 {
			o.GeneratedComplained++
			keep(fmt.Sprintf("complained-%d.yml", n), file)
		}
		for _, rule := range rules {
			o.ComplainedWith[rule]++
		}
	}
}

// aboutTheGate says whether a rule is about what can run before the gate is pressed.
func aboutTheGate(rule string) bool {
	return slices.Contains([]string{
		pipelinefile.RuleNothingAfter, pipelinefile.RuleGateBlocks, pipelinefile.RuleNotUnderstood, pipelinefile.RuleGreen, pipelinefile.RuleMissing, pipelinefile.RuleTooLarge, pipelinefile.RuleVerified,
	}, rule)
}

func keep(name, file string) {
	if *kept != "" {
		_ = os.MkdirAll(*kept, 0o755)
		_ = os.WriteFile(filepath.Join(*kept, name), []byte(file), 0o644)
	}
}

// shrunk leaves out jobs as long as the description stays unsafe and lint finds nothing.
func shrunk(d *description) *description {
	for again := true; again; {
		again = false
		for i := range d.jobs {
			smaller := *d
			smaller.jobs = slices.Delete(slices.Clone(d.jobs), i, i+1)
			if needed := slices.ContainsFunc(smaller.jobs, func(j *job) bool {
				return j.onStop == d.jobs[i].name || slices.ContainsFunc(j.needs, func(n need) bool { return n.job == d.jobs[i].name })
			}); needed {
				continue
			}
			if verdictOf(&smaller) != "" && len(lint(render(rand.New(rand.NewPCG(1, 1)), &smaller))) == 0 {
				d, again = &smaller, true
				break
			}
		}
	}
	return d
}

// trials reads trial files: our own, and those of another folder.
func (o *outcome) trials(t *testing.T) {
	for _, dir := range []string{"testdata", *folder} {
		for name, right := range readTable(t, dir) {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Error(err)
				continue
			}
			rules := lint(string(text))
			switch right {
			case "unsafe":
				o.Unsafe++
				if len(rules) == 0 {
					o.Missed++
					t.Errorf("%s/%s is unsafe, and lint finds nothing", dir, name)
				}
			case "safe":
				o.Safe++
				if len(rules) > 0 {
					o.Complained++
					t.Errorf("%s/%s is right, and lint complains: %v", dir, name, rules)
				}
			}
		}
	}
}

var tableRow = regexp.MustCompile(`(?m)^\| *([\w.-]+\.yml) *\| *(safe|unsafe) *\|`)

// readTable reads which files of a folder are safe, from its README.md.
func readTable(t *testing.T, dir string) map[string]string {
	t.Helper()
	if dir == "" {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Error(err)
	}
	rows := map[string]string{}
	for _, row := range tableRow.FindAllStringSubmatch(string(text), -1) {
		rows[row[1]] = row[2]
	}
	return rows
}

func (o *outcome) write(t *testing.T) {
	if *summaryFile == "" {
		return
	}
	text, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(*summaryFile), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*summaryFile, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestTheFilesAreWhatTheySay: each mutation is unsafe in most of its files, and a correct description never is. Otherwise
// the comparison above would prove nothing.
func TestTheFilesAreWhatTheySay(t *testing.T) {
	for i, m := range mutations {
		bad := 0
		for n := range uint64(20) {
			r := rand.New(rand.NewPCG(uint64(i), n))
			d := correct(r)
			if why := verdictOf(d); why != "" {
				t.Fatalf("a correct description is unsafe: %s\n%s", why, render(r, d))
			}
			m.do(r, d)
			if verdictOf(d) != "" {
				bad++
			}
		}
		if bad < 5 {
			t.Errorf("%s: %d of 20 are unsafe", m.name, bad)
		}
	}
	slices.SortFunc(mutations, func(a, b mutation) int { return cmp.Compare(a.name, b.name) })
	if names := strings.Join(names(mutations), "\n"); len(slices.Compact(strings.Split(names, "\n"))) != len(mutations) {
		t.Error("two mutations have one name")
	}
}

func names(all []mutation) (list []string) {
	for _, m := range all {
		list = append(list, m.name)
	}
	return list
}
