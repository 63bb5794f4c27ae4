// Package fields names the fields of the runner's own log.
package fields

// Names of fields.
const (
	HTTPStatusCode = "http_status_code"
	DurationS      = "duration_s"
)

// Deprecation is the new name of a field.
type Deprecation struct{ Standard string }

// The log keeps the names that it has.
var (
	Deprecated     map[string]Deprecation
	VariantVersion map[string]int
)
