package notify

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// order says which of two pages is of the later state. It follows the ledger: the release that started later, then the one
// that has finished, then the one with more steps. Only within a step do the clocks of the jobs decide.
type order struct {
	Release  string    `json:"release"`
	Started  time.Time `json:"started,omitzero"` // as the ledger says; zero: the job could not read it, or there is none yet
	Finished bool      `json:"finished,omitempty"`
	Steps    int       `json:"steps,omitempty"`
	At       time.Time `json:"at,omitzero"`
}

func orderOf(e *Event) order {
	o := order{Release: e.ReleaseID, Finished: e.Outcome != "" || e.SupersededBy != "", At: e.FinishedAt.UTC().Truncate(time.Millisecond)}
	if r := e.Release; r != nil {
		o.Started, o.Steps = r.StartedAt.UTC(), len(r.Steps)
	}
	return o
}

// after says whether a is of a later state than b.
func (a order) after(b order) bool {
	switch {
	case b == order{}:
		return true
	case a.Started.IsZero() || b.Started.IsZero():
		return a.At.After(b.At) && (a.Release != b.Release || !b.Finished)
	case !a.Started.Equal(b.Started):
		return a.Started.After(b.Started)
	case a.Finished != b.Finished:
		return a.Finished
	case a.Steps != b.Steps:
		return a.Steps > b.Steps
	}
	return a.At.After(b.At)
}

// same says whether both are of the same run of a release, as far as is known.
func (a order) same(b order) bool {
	return a.Release == b.Release && (a.Started.Equal(b.Started) || a.Started.IsZero() || b.Started.IsZero())
}

// over is a as it takes the place of b: what b knows of the ledger and a does not is kept.
func (a order) over(b order) order {
	if a.Started.IsZero() && a.same(b) {
		a.Started, a.Steps = b.Started, b.Steps
	}
	return a
}

// marker is the first line of an app's pages, by which they are found again.
func marker(app string) string { return "<!-- crossbill " + app + " -->\n" }

// marked is a page with what it is found and ordered by, as long as GitHub takes it. GitLab takes more.
func marked(app string, at order, body string) string {
	line, err := json.Marshal(at) // which escapes < and >
	if err != nil {
		line = nil
	}
	text := marker(app) + "<!-- " + string(line) + " -->\n" + body
	if len(text) > longestPage {
		text = strings.ToValidUTF8(text[:longestPage-len("…")], "") + "…"
	}
	return text
}

// readMarked is the order of an app's page. ok is false for what is none. One that nobody can read any more is older
// than all.
func readMarked(app, text string) (at order, ok bool) {
	rest, ok := strings.CutPrefix(strings.ReplaceAll(text, "\r\n", "\n"), marker(app))
	if !ok {
		return order{}, false
	}
	line, _, _ := strings.Cut(rest, "\n")
	line = strings.TrimSuffix(strings.TrimPrefix(line, "<!-- "), " -->")
	if json.Unmarshal([]byte(line), &at) != nil {
		return order{}, true
	}
	return at, true
}

// address is a page's address with the order of its state, in the part that stays in the browser; "" without an address.
func (a order) address(page string) string {
	if page == "" {
		return ""
	}
	page, _, _ = strings.Cut(page, "#")
	values := url.Values{"release": {a.Release}, "at": {strconv.FormatInt(a.At.UnixMilli(), 10)}}
	if !a.Started.IsZero() {
		values.Set("started", strconv.FormatInt(a.Started.UnixNano(), 10))
	}
	if a.Steps > 0 {
		values.Set("steps", strconv.Itoa(a.Steps))
	}
	if a.Finished {
		values.Set("finished", "1")
	}
	return page + "#" + values.Encode()
}

// readAddress is the order that an address has. ok is false for one that has none.
func readAddress(address string) (a order, ok bool) {
	_, fragment, _ := strings.Cut(address, "#")
	values, err := url.ParseQuery(fragment)
	number := func(name string) int64 {
		n, bad := strconv.ParseInt(values.Get(name), 10, 64)
		if bad != nil && values.Has(name) {
			err = bad
		}
		return n
	}
	a = order{Release: values.Get("release"), Finished: values.Get("finished") == "1", Steps: int(number("steps")), At: time.UnixMilli(number("at")).UTC()}
	if started := number("started"); started != 0 {
		a.Started = time.Unix(0, started).UTC()
	}
	if err != nil || a.Release == "" || !values.Has("at") {
		return order{}, false
	}
	return a, true
}
