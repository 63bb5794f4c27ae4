package release

// Match says which requests reach the canary whatever its weight is: those of testers. They are told by a header, or by a
// cookie.
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
