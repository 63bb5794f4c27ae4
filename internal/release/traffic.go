package release

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/our-org/crossbill/internal/usererr"
)

// Match says which requests reach the canary whatever its weight is: those of testers. They have a header, or a
// cookie, that others do not have.
type Match struct {
	Header string    `json:"header,omitempty"` // its name, in lower case; "" when it is a cookie
	Cookie string    `json:"cookie,omitempty"` // its name; "" when it is a header
	Kind   MatchKind `json:"kind"`
	Value  string    `json:"value,omitempty"`
}

// MatchKind is how the value of a header or cookie is compared.
type MatchKind string

// The kinds of matches.
const (
	MatchExact   MatchKind = "exact"
	MatchPrefix  MatchKind = "prefix"
	MatchRegex   MatchKind = "regex"   // RE2, over the whole value
	MatchPresent MatchKind = "present" // with whichever value
)

// operators are what stands between name and value.
var operators = map[MatchKind]string{MatchExact: "=", MatchPrefix: "^=", MatchRegex: "=~"}

// The forms of names and values: a token and a field value as in RFC 9110, a cookie's value as in RFC 6265.
var (
	tokenPattern       = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$")
	valuePattern       = regexp.MustCompile(`^[!-~]([ \t!-~]*[!-~])?$`)
	cookieValuePattern = regexp.MustCompile(`^([!#-+\x2d-:<-\[\]-~]+|"[!#-+\x2d-:<-\[\]-~]*"?)$`)
)

// longestMatch is how many characters a value may have: routes keep it, and Envoy compares it with each request's.
const longestMatch = 1024

// notMatchable are names that a route cannot compare, with what they are. Istio ignores a match on the first four, which
// would give the canary all of the traffic.
var notMatchable = map[string]string{
	"uri": "a part of the request line, which Istio ignores as a header", "scheme": "a part of the request line, which Istio ignores as a header",
	"method": "a part of the request line, which Istio ignores as a header", "authority": "a part of the request line, which Istio ignores as a header",
	"host":       "what a route chooses its host by",
	"connection": "for one connection alone", "keep-alive": "for one connection alone", "proxy-connection": "for one connection alone", "te": "for one connection alone",
	"trailer": "for one connection alone", "transfer-encoding": "for one connection alone", "upgrade": "for one connection alone",
	"proxy-authenticate": "for one connection alone", "proxy-authorization": "for one connection alone", "http2-settings": "for one connection alone",
	"content-length": "about the body's length, which proxies may change",
}

// ParseMatch reads which requests are testers': header:NAME=VALUE, header:NAME^=PREFIX, header:NAME=~REGEX or header:NAME,
// and the same with cookie.
func ParseMatch(field, text string) (*Match, error) {
	bad := func(fix, format string, args ...any) (*Match, error) {
		return nil, &usererr.Error{Field: field, Problem: fmt.Sprintf("%q "+format, append([]any{text}, args...)...), Fix: fix}
	}
	kind, rest, ok := strings.Cut(text, ":")
	if !ok || kind != "header" && kind != "cookie" {
		return bad("give header:NAME=VALUE or cookie:NAME=VALUE, for example header:x-canary=yes", "says neither header nor cookie")
	}
	m := &Match{Kind: MatchPresent}
	name, value, valued := strings.Cut(rest, "=")
	if before, prefix := strings.CutSuffix(name, "^"); valued && prefix {
		name, m.Kind, m.Value = before, MatchPrefix, value
	} else if after, regex := strings.CutPrefix(value, "~"); valued && regex {
		m.Kind, m.Value = MatchRegex, after
	} else if valued {
		m.Kind, m.Value = MatchExact, value
	}
	switch {
	case kind == "header" && strings.HasPrefix(name, ":"):
		return bad("match a header that testers send, for example header:x-canary=yes", "is a pseudo-header: it is a part of the request line")
	case !tokenPattern.MatchString(name):
		return bad(fmt.Sprintf("give a name of letters, digits and hyphens, for example %s:x-canary=yes", kind), "has %q in the place of the %s's name", name, kind)
	case valued && m.Value == "":
		return bad(fmt.Sprintf("give a value, or %s:%s for whichever value it has", kind, name), "has no value")
	case len(m.Value) > longestMatch:
		return bad("give a shorter one", "has a value of %d characters, more than %d", len(m.Value), longestMatch)
	}
	if kind == "cookie" {
		m.Cookie = name
	} else {
		m.Header = strings.ToLower(name)
	}
	if problem, fix := m.nameProblem(); problem != "" {
		return bad(fix, "%s", problem)
	}
	if problem, fix := m.valueProblem(); problem != "" {
		return bad(fix, "%s", problem)
	}
	return m, nil
}

// nameProblem says why a route cannot compare a header; "" when it can.
func (m *Match) nameProblem() (problem, fix string) {
	switch what := notMatchable[m.Header]; {
	case what != "":
		return "names a header that is " + what, "match a header of testers' own, for example header:x-canary=yes"
	case m.Header == "cookie":
		return "is the header of all cookies", "give cookie:NAME=VALUE"
	case strings.HasPrefix(m.Header, "x-envoy-"):
		return "names a header of Envoy's, which a gateway takes off what comes from outside", "match a header of testers' own, for example header:x-canary=yes"
	}
	return "", ""
}

// valueProblem says why a value can never be a header's or a cookie's; "" when it can.
func (m *Match) valueProblem() (problem, fix string) {
	if m.Kind == MatchRegex {
		if !utf8.ValidString(m.Value) {
			return "has an expression that is not UTF-8", "give text"
		}
		if _, err := regexp.Compile(m.Value); err != nil {
			return "has an expression that RE2 does not know: " + err.Error(), "write it as in https://github.com/google/re2/wiki/Syntax"
		}
		if m.Cookie == "" {
			return "", ""
		}
		if _, problem := withinCookie(m.Value); problem != "" {
			return "has an expression " + problem, "write it for the cookie's value alone: all of that has to match"
		}
		return "", ""
	}
	switch {
	case m.Kind == MatchPresent:
	case m.Cookie != "" && !cookieValuePattern.MatchString(m.Value):
		return fmt.Sprintf("has the value %q, which a cookie cannot have", m.Value), "leave out spaces, quotes, commas, semicolons and backslashes, as RFC 6265 does"
	case m.Cookie == "" && !valuePattern.MatchString(m.Value):
		return fmt.Sprintf("has the value %q, which a header cannot have", m.Value), "give printable ASCII characters, with no space at either end"
	}
	return "", ""
}

// withinCookie is an expression that stays in a cookie's value: it matches no semicolon. The problem is of one that cannot.
func withinCookie(expression string) (within, problem string) {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return "", "that RE2 does not know: " + err.Error()
	}
	if problem = keepWithin(parsed); problem != "" {
		return "", problem
	}
	return parsed.String(), ""
}

func keepWithin(re *syntax.Regexp) (problem string) {
	switch re.Op {
	case syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText:
		return "with ^ or $"
	case syntax.OpLiteral:
		if slices.Contains(re.Rune, ';') {
			return "with a semicolon, which ends a cookie"
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		re.Op, re.Rune = syntax.OpCharClass, []rune{0, ';' - 1, ';' + 1, utf8.MaxRune}
	case syntax.OpCharClass:
		var kept []rune
		for i := 0; i < len(re.Rune); i += 2 {
			from, to := re.Rune[i], re.Rune[i+1]
			if from > ';' || to < ';' {
				kept = append(kept, from, to)
				continue
			}
			if from < ';' {
				kept = append(kept, from, ';'-1)
			}
			if to > ';' {
				kept = append(kept, ';'+1, to)
			}
		}
		re.Rune = kept
	}
	for _, sub := range re.Sub {
		if problem := keepWithin(sub); problem != "" {
			return problem
		}
	}
	return ""
}

// String is the match as ParseMatch reads it.
func (m *Match) String() string {
	if m.Cookie != "" {
		return "cookie:" + m.Cookie + operators[m.Kind] + m.Value
	}
	return "header:" + m.Header + operators[m.Kind] + m.Value
}

// Text is the match for people, after "requests with".
func (m *Match) Text() string {
	what := "header " + m.Header
	if m.Cookie != "" {
		what = "cookie " + m.Cookie
	}
	switch m.Kind {
	case MatchPrefix:
		return what + ": " + m.Value + "…"
	case MatchRegex:
		return what + ": /" + m.Value + "/"
	case MatchPresent:
		return what
	}
	return what + ": " + m.Value
}

// OnHeader is the match as one of a header: a cookie is a part of the header cookie, whichever others are with it.
func (m *Match) OnHeader() (name string, kind MatchKind, value string) {
	if m.Cookie == "" {
		return m.Header, m.Kind, m.Value
	}
	value = regexp.QuoteMeta(m.Value)
	switch m.Kind {
	case MatchPrefix:
		value += "[^;]*"
	case MatchPresent:
		value = "[^;]*"
	case MatchRegex:
		within, _ := withinCookie(m.Value) // ParseMatch has found no problem
		value = "(?:" + within + ")"
	}
	return "cookie", MatchRegex, `(.*;\s*)?` + regexp.QuoteMeta(m.Cookie) + "=" + value + `(\s*;.*)?`
}

// Same says whether two matches are of the same requests.
func (m *Match) Same(other *Match) bool {
	if m == nil || other == nil {
		return m == other
	}
	return *m == *other
}

// ParseMirror reads which part of the safe requests is mirrored: 5 or 5%.
func ParseMirror(field, text string) (int, error) {
	percent, err := strconv.Atoi(strings.TrimSuffix(text, "%"))
	if err != nil || percent < 1 || percent > 100 || strings.HasPrefix(text, "+") {
		return 0, &usererr.Error{Field: field, Problem: fmt.Sprintf("%q is not a percentage from 1 to 100", text), Fix: "give a whole number, for example 5%"}
	}
	return percent, nil
}

// CheckBefore checks the canary's weight beside testers and mirroring: with one of them it may be 0, and mirroring ends with
// the first percent.
func CheckBefore(field string, weight int, match *Match, mirror int) error {
	switch {
	case weight == 0 && (match != nil || mirror > 0):
		return nil
	case weight > 0 && mirror > 0:
		return &usererr.Error{Field: field, Problem: fmt.Sprintf("%d%% is more than a mirrored canary gets: mirroring is for before the first percent", weight), Fix: "give 0, and shift once it was judged healthy"}
	}
	return ParseWeight(field, weight)
}

// Needs is the share of the traffic that the canary must have the capacity for, in percent: its weight, or what it gets copies
// of.
func (r *Release) Needs() int { return max(r.Weight, r.Mirror) }

// Gets says what leads to the canary, as a message has it: "10% of the traffic".
func (r *Release) Gets() string {
	text := fmt.Sprintf("%d%% of the traffic", r.Weight)
	if r.Match != nil {
		text += " and requests with " + r.Match.Text()
	}
	if r.Mirror > 0 {
		text += fmt.Sprintf(", and copies of %d%% of the safe requests", r.Mirror)
	}
	return text
}
