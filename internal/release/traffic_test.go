package release

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/usererr"
)

func TestParseMatch(t *testing.T) {
	for text, want := range map[string]Match{
		"header:x-canary=yes":     {Header: "x-canary", Kind: MatchExact, Value: "yes"},
		"header:X-Canary=Yes":     {Header: "x-canary", Kind: MatchExact, Value: "Yes"},
		"header:x-canary=a=b":     {Header: "x-canary", Kind: MatchExact, Value: "a=b"},
		"header:x-canary=a: b, c": {Header: "x-canary", Kind: MatchExact, Value: "a: b, c"},
		"header:x-user^=qa-":      {Header: "x-user", Kind: MatchPrefix, Value: "qa-"},
		"header:x-user^=~":        {Header: "x-user", Kind: MatchPrefix, Value: "~"},
		"header:x-user=~qa-.*":    {Header: "x-user", Kind: MatchRegex, Value: "qa-.*"},
		"header:x-user=~^(a|b)$":  {Header: "x-user", Kind: MatchRegex, Value: "^(a|b)$"},
		"header:x-canary":         {Header: "x-canary", Kind: MatchPresent},
		"cookie:track=canary":     {Cookie: "track", Kind: MatchExact, Value: "canary"},
		"cookie:Track=Canary":     {Cookie: "Track", Kind: MatchExact, Value: "Canary"},
		`cookie:track="canary"`:   {Cookie: "track", Kind: MatchExact, Value: `"canary"`},
		"cookie:track^=can":       {Cookie: "track", Kind: MatchPrefix, Value: "can"},
		"cookie:track=~c.*":       {Cookie: "track", Kind: MatchRegex, Value: "c.*"},
		"cookie:track":            {Cookie: "track", Kind: MatchPresent},
	} {
		got, err := ParseMatch("--match", text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, *got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
		again, err := ParseMatch("--match", got.String())
		if err != nil || !again.Same(got) {
			t.Errorf("%s: %s is read as %+v, %v", text, got, again, err)
		}
	}
}

func TestParseMatchRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"":                                  "neither header nor cookie",
		"x-canary=yes":                      "neither header nor cookie",
		"query:a=b":                         "neither header nor cookie",
		"Header:a=b":                        "neither header nor cookie",
		"header:=yes":                       `"" in the place of the header's name`,
		"header:x canary=yes":               "in the place of the header's name",
		"header: x-canary=yes":              "in the place of the header's name",
		"header:@request.auth.principal=qa": "in the place of the header's name",
		"header::path=/a":                   "pseudo-header",
		"header:host=a":                     "chooses its host",
		"header:Host=a":                     "chooses its host",
		"header:uri=a":                      "Istio ignores",
		"header:authority=a":                "Istio ignores",
		"header:method=GET":                 "Istio ignores",
		"header:scheme=https":               "Istio ignores",
		"header:content-length=0":           "body's length",
		"header:connection=close":           "one connection",
		"header:TE=trailers":                "one connection",
		"header:transfer-encoding":          "one connection",
		"header:cookie=a=b":                 "cookie:NAME=VALUE",
		"header:x-envoy-internal=true":      "of Envoy's",
		"header:x-canary=":                  "or header:x-canary for whichever",
		"header:x-canary^=":                 "no value",
		"header:x-canary=~":                 "no value",
		"header:x-canary=~(":                "RE2",
		"header:x-canary=~a(?=b)":           "RE2",
		`header:x-canary=~(a)\1`:            "RE2",
		"header:x-canary= yes":              "no space at either end",
		"header:x-canary=yes ":              "no space at either end",
		"header:x-canary=é":                 "a header cannot have",
		"header:x-canary=a\nb":              "a header cannot have",
		"header:x-canary=~\xff":             "UTF-8",
		"header:x-canary=" + strings.Repeat("a", 1025): "1025 characters",
		"cookie:a b=c":     "in the place of the cookie's name",
		"cookie:a=b c":     "a cookie cannot have",
		"cookie:a=b;c":     "a cookie cannot have",
		"cookie:a=b,c":     "a cookie cannot have",
		`cookie:a=b"c`:     "a cookie cannot have",
		`cookie:a=b\c`:     "a cookie cannot have",
		"cookie:a=~^b$":    "with ^ or $",
		"cookie:a=~b;c":    "semicolon",
		"cookie:a=~(b|c$)": "with ^ or $",
	} {
		m, err := ParseMatch("--match", text)
		var bad *usererr.Error
		if !errors.As(err, &bad) || bad.Field != "--match" || bad.Fix == "" || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %+v, %v; want %q", text, m, err, says)
		}
	}
}

// TestMatchOfCookies: a cookie is found among others, and only its own value is compared.
func TestMatchOfCookies(t *testing.T) {
	for match, c := range map[string]struct{ yes, no []string }{
		"cookie:track=canary": {
			[]string{"track=canary", "a=b; track=canary", "track=canary; a=b", "a=b; track=canary; c=d", "a=b;track=canary;c=d"},
			[]string{"", "track=canary2", "xtrack=canary", "a=track=canary", "track=Canary", "track=primary; x=canary", "a=b; x-track=canary"},
		},
		"cookie:track^=can": {[]string{"track=can", "a=b; track=canary; c=d"}, []string{"track=ca", "track=x; a=can"}},
		"cookie:track":      {[]string{"track=", "a=b; track=x"}, []string{"a=track", "atrack=x", "a=b; c=track=1"}},
		"cookie:track=~c.*y|q[^x]+": {
			[]string{"track=canary", "a=b; track=cy; c=d", "track=qa", "a=b; track=qa; c=x"},
			[]string{"track=c; a=y", "track=canar", "track=q; a=b", "track=qax", "a=cy"},
		},
		"cookie:track=~(?i)CAN\\w+": {[]string{"track=canary"}, []string{"track=can"}},
		"cookie:a.b=c":              {[]string{"a.b=c"}, []string{"axb=c"}},
	} {
		m, err := ParseMatch("--match", match)
		if err != nil {
			t.Fatal(err)
		}
		name, kind, pattern := m.OnHeader()
		if name != "cookie" || kind != MatchRegex {
			t.Errorf("%s is %s of %s", match, kind, name)
		}
		whole := regexp.MustCompile("^(?:" + pattern + ")$")
		for _, header := range c.yes {
			if !whole.MatchString(header) {
				t.Errorf("%s does not match %q by %s", match, header, pattern)
			}
		}
		for _, header := range c.no {
			if whole.MatchString(header) {
				t.Errorf("%s matches %q by %s", match, header, pattern)
			}
		}
	}
}

// FuzzParseMatch: what is read can be written and read again, and is an expression that RE2 knows; what is not is refused with
// a fix.
func FuzzParseMatch(f *testing.F) {
	for _, seed := range []string{"header:x-canary=yes", "header:X-A^=~b", "header:a^", "header:a=~b^=c", "cookie:a=~[^;]*", "cookie:a=~.+|b{2}", `cookie:a="b"`, "cookie:a^=~", "header:a=~(?s).", "cookie:a=~[;]", "header::path", "cookie:a=~(?U)a+"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMatch("--match", text)
		if err != nil {
			if bad, ok := errors.AsType[*usererr.Error](err); !ok || bad.Fix == "" || bad.Problem == "" {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := ParseMatch("--match", m.String())
		if err != nil || !again.Same(m) {
			t.Fatalf("%q is %s, which is read as %+v, %v", text, m, again, err)
		}
		name, kind, value := m.OnHeader()
		if name == "" || name != strings.ToLower(name) || notMatchable[name] != "" {
			t.Fatalf("%q matches header %q", text, name)
		}
		if kind != MatchRegex {
			return
		}
		pattern, err := regexp.Compile("^(?:" + value + ")$")
		if err != nil {
			t.Fatalf("%q: %s: %v", text, value, err)
		}
		if m.Cookie != "" && m.Kind == MatchRegex { // it never takes in the cookie after it
			of, err := regexp.Compile("^(?:" + m.Value + ")$")
			if err != nil {
				t.Fatal(err)
			}
			for _, value := range []string{"yes", "", "b", m.Value} {
				if strings.ContainsAny(value, ";\n") || strings.HasSuffix(value, " ") {
					continue
				}
				if one, all := of.MatchString(value), pattern.MatchString("a1="+value+"; "+m.Cookie+"="+value+"; z=1"); one && !all {
					t.Fatalf("%q matches %q alone, and not among others by %s", text, value, pattern)
				}
			}
		}
	})
}

func TestParseMirror(t *testing.T) {
	for text, want := range map[string]int{"5": 5, "5%": 5, "100%": 100, "1": 1} {
		if got, err := ParseMirror("--mirror", text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "101", "5%%", "-1", "+5", "5.5", "%", "half"} {
		if got, err := ParseMirror("--mirror", text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func TestCheckBefore(t *testing.T) {
	match := &Match{Header: "x-canary", Kind: MatchPresent}
	for _, c := range []struct {
		weight int
		match  *Match
		mirror int
		want   string
	}{
		{10, nil, 0, ""}, {0, match, 0, ""}, {0, nil, 5, ""}, {0, match, 5, ""}, {10, match, 0, ""},
		{0, nil, 0, "0 is not a weight"}, {100, match, 0, "100 is not a weight"}, {10, nil, 5, "before the first percent"}, {-1, match, 0, "-1 is not a weight"},
	} {
		err := CheckBefore("--weight", c.weight, c.match, c.mirror)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d with %v and %d: %v, want %q", c.weight, c.match, c.mirror, err, c.want)
		}
	}
}

func TestGets(t *testing.T) {
	match := &Match{Header: "x-canary", Kind: MatchExact, Value: "yes"}
	for want, r := range map[string]Release{
		"10% of the traffic": {Weight: 10},
		"0% of the traffic and requests with header x-canary: yes":                            {Match: match},
		"0% of the traffic, and copies of 5% of the safe requests":                            {Mirror: 5},
		"10% of the traffic and requests with cookie a: b…":                                   {Weight: 10, Match: &Match{Cookie: "a", Kind: MatchPrefix, Value: "b"}},
		"10% of the traffic and requests with cookie a: /b/":                                  {Weight: 10, Match: &Match{Cookie: "a", Kind: MatchRegex, Value: "b"}},
		"0% of the traffic and requests with header a, and copies of 5% of the safe requests": {Match: &Match{Header: "a", Kind: MatchPresent}, Mirror: 5},
	} {
		if got := r.Gets(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestBeforeTheFirstPercent: what was judged on copies or by testers says nothing of a weight, and mirroring ends with it.
func TestBeforeTheFirstPercent(t *testing.T) {
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	match := &Match{Header: "x-canary", Kind: MatchExact, Value: "yes"}
	l := &Ledger{App: "shop"}
	digest := "app@sha256:" + strings.Repeat("1", 64)
	if _, err := l.Start(Release{ID: "r1", Image: digest, Template: "t", Match: match, Mirror: 5}, "jane", at); err != nil {
		t.Fatal(err)
	}
	if err := l.Reach(StageCanary, "jane", at.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	r := l.Release
	want := Step{Stage: StageCanary, At: at.Add(time.Minute), By: "jane", Gets: "0% of the traffic and requests with header x-canary: yes, and copies of 5% of the safe requests"}
	if diff := cmp.Diff(want, r.Steps[1]); diff != "" {
		t.Error(diff)
	}
	judged := r.Subject()
	judged.Outcome = Healthy
	if judged.Mirror != 5 || !judged.Match.Same(match) || judged.Weight != 0 {
		t.Errorf("%+v", judged)
	}
	for name, changed := range map[string]func(v *Verdict){
		"another mirror":  func(v *Verdict) { v.Mirror = 10 },
		"no mirror":       func(v *Verdict) { v.Mirror = 0 },
		"other testers":   func(v *Verdict) { v.Match = &Match{Header: "x-other", Kind: MatchPresent} },
		"another weight":  func(v *Verdict) { v.Weight = 1 },
		"no testers then": func(v *Verdict) { v.Match = nil },
	} {
		other := judged
		changed(&other)
		if err := l.Judgeable(&other); err == nil || other.On(judged) {
			t.Errorf("%s is judged as it is", name)
		}
	}
	if err := l.Judge(judged, "jane", at.Add(2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := l.Promotable(); err != nil {
		t.Errorf("healthy at weight 0: %v", err)
	}
	if err := l.Shift(10, "jane", at.Add(3*time.Minute)); err != nil {
		t.Fatal(err)
	}
	if r.Mirror != 0 || !r.Match.Same(match) || r.Verdict != nil || r.Needs() != 10 {
		t.Errorf("%+v", r)
	}
	if err := l.Promotable(); err == nil {
		t.Error("what was judged on copies promotes")
	}
	if err := l.Judgeable(&judged); err == nil {
		t.Error("what was judged on copies counts for a weight")
	}
	if got, want := r.Steps[len(r.Steps)-1].Gets, "10% of the traffic and requests with header x-canary: yes"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
