package main

import (
	"fmt"
	"slices"
	"testing"
)

func TestCheck(t *testing.T) {
	tests := []struct {
		file, line string
		want       []string // the words found
	}{
		{"a.md", "The release goes down the road.", []string{"road"}},
		{"a.go", "var toldHosts, told_hosts []string", []string{"told"}},
		{"a.go", "if errors.Is(err, isNotThere) {", []string{"is Not There"}},
		{"a.md", "It cannot tell which of them is live, and tells the tracks apart.", nil},
		{"a.md", "It tells GitHub.", []string{"tells"}},
		{"a.md", "broadcast, throughout, abroad, amendment, inbegun", nil},
		{"a.md", "An image is let through.", []string{"let through"}},
		{"a.md", "The policy lets it through.", []string{"lets it through"}},
		{"a.md", "10 % of the traffic", []string{"10 %"}},
		{"a.md", "5 %, and 95 %.", []string{"5 %,"}},
		{"a.go", `fmt.Sprintf("%d %% of it", 10)`, []string{"%d %%"}},
		{"a.go", `fmt.Sprintf("%d%% of it", 10)`, nil},
		{"a.go", `fmt.Sprintf("%s %d %.1f %-5s %+v", a, 1, b, c, d)`, nil},
		{"a.md", "It takes 1.5 %.", []string{"1.5 %."}},
		{"a.go", "if 7 % n == 0 || i%10 == 1 || 7 % 3 == 1 {", nil},
		{"a.ts", "const percent = `${share} % of`", []string{"} %"}},
		{"a.yaml", `    verbs: ["get", "list"]`, nil},
		{"a.yaml", "    verbs: [get, list]", nil},
		{"a.go", `Verbs: []string{"get"},`, nil},
		{"a.go", "// A verb of the command line.", []string{"verb"}},
		{"a.go", "// the token claims, and claims of the certificate", nil},
		{"a.go", "// The claim is lost.", []string{"claim"}},
		{"a.go", "Judgement Judgement `json:\"judgement\"`", []string{"Judgement"}},
		{"a.html", `<section aria-labelledby="now">`, nil},
	}
	for _, test := range tests {
		t.Run(test.line, func(t *testing.T) {
			var got []string
			for _, f := range check(test.file, []byte("first line\n"+test.line+"\n")) {
				if f.line != 2 || f.file != test.file || f.instead == "" {
					t.Errorf("finding %+v", f)
				}
				got = append(got, f.word)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestFindingSaysWhatToWrite(t *testing.T) {
	got := fmt.Sprint(check("docs/a.md", []byte("mend it")))
	if want := `[docs/a.md:1: "mend": use fix]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
