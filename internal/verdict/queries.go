package verdict

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/our-org/crossbill/internal/usererr"
)

const (
	quotedPattern  = `(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')`
	matcherPattern = `\s*[a-zA-Z_][a-zA-Z0-9_]*\s*(?:=~|!~|!=|=)\s*` + quotedPattern + `\s*`
)

var (
	matchers = regexp.MustCompile(`^` + matcherPattern + `(?:,` + matcherPattern + `)*$`)
	// plain is a metric with or without matchers.
	plain = regexp.MustCompile(`^\s*[a-zA-Z_:][a-zA-Z0-9_:]*\s*(?:\{(?:[^{}"']|` + quotedPattern + `)*\})?\s*$`)
)

// matcherProblem is what is wrong with label matchers; "" if nothing is.
func matcherProblem(text string) string {
	if text == "" || matchers.MatchString(text) {
		return ""
	}
	return fmt.Sprintf("%q is not a list of label matchers", text)
}

// plainSelector says whether a query is a metric with or without matchers: its samples can be read one by one.
func plainSelector(query string) bool { return plain.MatchString(query) }

// fill puts the names of a track, and the source's matcher, into a user's query.
func (s *Source) fill(query, workload string) string {
	quoted := func(name string) string { return strings.Trim(strconv.Quote(name), `"`) }
	plain := plainSelector(query)
	if s.matcher == "" {
		query = strings.NewReplacer(",$matcher", "", "$matcher,", "").Replace(query)
	}
	filled := strings.NewReplacer("$workload", quoted(workload), "$namespace", quoted(s.namespace), "$matcher", s.matcher).Replace(query)
	if s.matcher == "" || strings.Contains(query, "$matcher") || !plain {
		return filled
	}
	filled = strings.TrimSpace(filled)
	body, ok := strings.CutSuffix(filled, "}")
	if !ok {
		return filled + "{" + s.matcher + "}"
	}
	body = strings.TrimRight(body, ", ")
	if strings.HasSuffix(body, "{") {
		return body + s.matcher + "}"
	}
	return body + "," + s.matcher + "}"
}

// checkQueries finds a query of the user's that the matcher cannot be added to.
func (s *Source) checkQueries() error {
	for i, o := range s.indicators {
		for _, side := range []struct{ field, query string }{{"total", o.Total}, {"good", o.Good}} {
			if s.matcher != "" && side.query != "" && !plainSelector(side.query) && !strings.Contains(side.query, "$matcher") {
				return &usererr.Error{
					Field:   fmt.Sprintf("analysis.objectives[%d].%s", i, side.field),
					Problem: "prometheus.matcher cannot be added to it, because it is not a plain metric",
					Fix:     "write $matcher where the matcher belongs, as in my_requests_total{result=\"ok\",$matcher}",
				}
			}
		}
	}
	return nil
}
