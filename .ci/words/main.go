// Command words checks the text of this repository against a short list of words that we avoid. Each has
// one word to use instead, so that a reader meets one name for one thing. It reads every text file that Git
// tracks, or those below the paths it is given, and exits with 1 if it finds anything.
//
//	go run ./.ci/words [-count] [path ...]
//
// General spelling is the job of misspell. This list holds only what misspell does not know.
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
)

// rule is one word to avoid.
type rule struct {
	word    *regexp.Regexp // matched without case, at word boundaries, and inside identifiers
	instead string
	except  *regexp.Regexp // phrases in which the word is right
}

func avoid(word, instead string, except ...string) rule {
	r := rule{word: regexp.MustCompile(`(?i)\b(?:` + word + `)\b`), instead: instead}
	if len(except) > 0 {
		r.except = regexp.MustCompile(`(?i)` + strings.Join(except, "|"))
	}
	return r
}

var rules = []rule{
	avoid(`roads?`, `lifecycle, or path`),
	avoid(`houses?`, `project, layout`),
	avoid(`told`, `notified, or reported`),
	avoid(`tells?|telling`, `notify, report, or show`,
		`\btell(s|ing)?( (us|you|them|which|the \w+|a \w+|each|tracks?|releases?|images?))? (apart|whether|which|if|from|how)\b`),
	avoid(`(let|lets|letting)( \w+)? through`, `admit`),
	avoid(`made out (to|for)`, `issued to`),
	avoid(`mend(s|ed|ing)?`, `fix`),
	avoid(`by hand`, `manually`),
	avoid(`(is|are|was|were|be|isn't|aren't)( not|n't) there`, `not found, or does not exist`),
	avoid(`claim(s|ed|ing)?`, `lock`,
		`Persistent ?Volume ?Claim`, `claim ?Name`, `\b(OIDC|JWT|token|certificate|identity)('s)? claims?`, `claims? of (the|a|its) (\w+ )?(token|certificate)`),
	avoid(`verbs?`, `command`,
		`\bverbs?"?: ?\[`, `\bVerbs?: +(\[\]string)?["{]`, `(HTTP|RBAC|Kubernetes|API|allowed|printf|format) verbs?`, `\.(Get)?Verbs?\b`),
	avoid(`begun`, `started`),
	avoid(`(ended|began|begun|begin)At`, `finishedAt, startedAt`),
	avoid(`(waits?|waiting|asked for) (for|by) a person|a person (presses|pressed|must press)`, `approver`),
	avoid(`behaviours?|behavioural`, `behavior`),
	avoid(`colours?|coloured`, `color`),
	avoid(`judgements?`, `judgment`),
	avoid(`labelled|labelling`, `labeled`, `aria-labelledby`),
	avoid(`modelled|modelling`, `modeled`),
	avoid(`honour(s|ed|ing)?`, `honor`),
	avoid(`favour(s|ed|ite)?`, `favor`),
	avoid(`neighbours?`, `neighbor`),
	avoid(`artefacts?`, `artifact`),
	avoid(`centres?`, `center`),
	avoid(`licence`, `license`),
	avoid(`grey`, `gray`),
	avoid(`whilst`, `while`),
	avoid(`(author|organ|recogn|normal|serial|initial|optim|minim|summar|synchron|custom)is(e|es|ed|ing|ations?)`, `the spelling with z`),
}

// anyWord finds a line that is worth a look by each rule: most are not, and it is read once instead of 30 times.
var anyWord = func() *regexp.Regexp {
	each := make([]string, len(rules))
	for i, r := range rules {
		each[i] = r.word.String()
	}
	return regexp.MustCompile(strings.Join(each, "|"))
}()

// spacedPercent finds a space before a percent sign, in text and in format strings; modulo is the operator.
var (
	spacedPercent = regexp.MustCompile(`(?:[\d.,]*\d|%[-+.\d]*[dgfsv]|\}) %%?(?:[^\w%(.+#-]|[.+#-](?:\W|$)|$)`)
	modulo        = regexp.MustCompile(`% \w+ (==|!=|<|>)`)
)

// allowed are findings that are right where they are.
var allowed = []struct {
	file, line *regexp.Regexp
	why        string
}{
	{regexp.MustCompile(`^\.ci/words/`), regexp.MustCompile(``), "this list itself"},
	{regexp.MustCompile(`^internal/verdict/record(_test)?\.go$`), regexp.MustCompile(`[jJ]udgement`), "a field of older records"},
	{regexp.MustCompile(`^internal/release/release(_test)?\.go$`), regexp.MustCompile(`"claimed"`), "a stage of older ledgers"},
	{regexp.MustCompile(`^internal/(approval|provenance|gitlab/gitlabtest)/`), regexp.MustCompile(`(?i)claims?`), "what a token or a certificate says of its subject"},
	{regexp.MustCompile(`^CHANGELOG\.md$`), regexp.MustCompile(`^ +\| `), "a table of old and new names"},
	{regexp.MustCompile(`\.go$`), regexp.MustCompile(`(?i)\bverb\b.*\b(get|list|watch|create|update|patch|delete)\b|\baudit`), "a verb of the Kubernetes API"},
	{regexp.MustCompile(`\.(css|html|svg|tsx)$`), regexp.MustCompile(`(?i)@media|light-dark|<style`), "CSS"},
}

// checked says whether a file is text that we write.
func checked(file string) bool {
	switch path.Base(file) {
	case "Makefile", "run", "CODEOWNERS":
		return true
	case "pnpm-lock.yaml", "package-lock.json", "LICENSE":
		return false
	}
	return slices.Contains([]string{".go", ".md", ".yaml", ".yml", ".ts", ".tsx", ".js", ".mjs", ".css", ".html", ".tmpl", ".sh", ".json", ".svg", ".txt"}, path.Ext(file))
}

var (
	camelCase = regexp.MustCompile(`([a-z])([A-Z])`)
	snakeCase = strings.NewReplacer("_", " ")
)

// finding is one word in one line.
type finding struct {
	file          string
	line          int
	word, instead string
}

func (f finding) String() string {
	return fmt.Sprintf("%s:%d: %q: use %s", f.file, f.line, f.word, f.instead)
}

// check finds the words to avoid in one file's text.
func check(file string, text []byte) []finding {
	var found []finding
	var here []*regexp.Regexp // lines of this file that are right
	for _, a := range allowed {
		if a.file.MatchString(file) {
			here = append(here, a.line)
		}
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, len(text)+1)
	for number := 1; lines.Scan(); number++ {
		line := lines.Text()
		if slices.ContainsFunc(here, func(right *regexp.Regexp) bool { return right.MatchString(line) }) {
			continue
		}
		words := line + "\n" + camelCase.ReplaceAllString(snakeCase.Replace(line), "$1 $2")
		if anyWord.MatchString(words) {
			found = append(found, inLine(file, number, words)...)
		}
		if word := spacedPercent.FindString(modulo.ReplaceAllString(line, "")); word != "" {
			found = append(found, finding{file, number, strings.TrimSpace(word), "no space before %"})
		}
	}
	return found
}

// inLine finds the words in one line.
func inLine(file string, number int, words string) []finding {
	var found []finding
	for _, r := range rules {
		rest := words
		if r.except != nil {
			rest = r.except.ReplaceAllString(rest, " ")
		}
		if word := r.word.FindString(rest); word != "" {
			found = append(found, finding{file, number, word, r.instead})
		}
	}
	return found
}

func main() {
	count := flag.Bool("count", false, "print only how many findings each folder has")
	flag.Parse()
	tracked, err := exec.Command("git", append([]string{"ls-files", "-z", "--"}, flag.Args()...)...).Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, "words: list the tracked files:", err)
		os.Exit(2)
	}
	var found []finding
	for file := range strings.SplitSeq(strings.Trim(string(tracked), "\x00"), "\x00") {
		if !checked(file) {
			continue
		}
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) { // deleted, but not yet in the index
			continue
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "words:", err)
			os.Exit(2)
		}
		found = append(found, check(file, text)...)
	}
	folders := map[string]int{}
	for _, f := range found {
		folders[path.Dir(f.file)]++
		if !*count {
			fmt.Println(f)
		}
	}
	if *count {
		names := make([]string, 0, len(folders))
		for name := range folders {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Printf("%5d %s\n", folders[name], name)
		}
	}
	if len(found) > 0 {
		fmt.Fprintf(os.Stderr, "words: findings: %d\n", len(found))
		os.Exit(1)
	}
}
