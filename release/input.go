package release

import "fmt"

// InputError is bad input from a person or a file: it names the field and the fix. Nothing has
// been changed when it is returned; the command exits with code 2.
type InputError struct {
	Field   string // the flag, file or key that is wrong, as the user wrote it
	Problem string // what is wrong with it
	Fix     string // what to do about it
}

func (e *InputError) Error() string {
	if e.Fix == "" {
		return fmt.Sprintf("%s: %s", e.Field, e.Problem)
	}
	return fmt.Sprintf("%s: %s; %s", e.Field, e.Problem, e.Fix)
}
