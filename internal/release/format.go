package release

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"
)

// LedgerVersion is the newest version of the ledger's format. Crossbill reads this one and all older ones, and writes the oldest
// one that holds what a ledger says: a Crossbill that was replaced works beside the new one, and can take over again, until a
// release uses what it does not know.
//
// Version 1 has the fields in format1.txt, and who reads it drops what he does not know. Version 2 has whatever Ledger has, and
// who reads it refuses what he does not know: a new field needs no new version. A new value of a type of texts does, in
// laterValues, and so does what changes its meaning.
const LedgerVersion = 2

// format1 are the fields of version 1 as Type.field, and the values that its types of texts have as Type=value. It never changes.
//
//go:embed format1.txt
var format1 string

// laterValues are the values that the types in format1.txt have beside those, as Type=value, each with the version of the format
// that it came with.
var laterValues map[string]int

var inFormat1 = func() map[string]bool {
	all := map[string]bool{}
	for part := range strings.FieldsSeq(format1) {
		all[part] = true
	}
	return all
}()

// NewerLedgerError says that a ledger, or the line beside it, holds what this Crossbill does not know: a newer one has written it.
type NewerLedgerError struct {
	App  string
	What string // is not known
}

func (e *NewerLedgerError) Error() string { return e.Problem() + "; nothing was changed" }

// Problem is the error for whoever only looks.
func (e *NewerLedgerError) Problem() string {
	return fmt.Sprintf("the ledger of %s was written by a newer crossbill: %s; use that crossbill, or a newer one (docs/upgrade.md)", e.App, e.What)
}

// parse reads a ledger of any version. Errors: *NewerLedgerError; otherwise the text is no ledger.
func (l *Ledger) parse(app, text string) error {
	var of struct {
		Version int `json:"version"`
	}
	err := json.Unmarshal([]byte(text), &of)
	switch {
	case err != nil:
		return err
	case of.Version < 1:
		return errors.New("it names no version of its format")
	case of.Version == 1:
		return json.Unmarshal([]byte(text), l)
	case of.Version > LedgerVersion:
		return &NewerLedgerError{app, fmt.Sprintf("its format has version %d, and this one knows the versions up to %d", of.Version, LedgerVersion)}
	}
	return strictly(app, text, l)
}

// strictly reads JSON that has no field but those of its type. Errors: *NewerLedgerError names the first one that has none;
// otherwise the text is not readable.
func strictly(app, text string, into any) error {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		// There is no type for it: https://go.dev/issue/29035.
		if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return &NewerLedgerError{app, "it has the field " + field + ", which this one does not know"}
		}
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	return nil
}

// formatOf is the oldest version of the format that holds a ledger.
func formatOf(l *Ledger) int {
	version := 1
	eachPart(reflect.ValueOf(l), func(part string) {
		switch {
		case laterValues[part] > 0:
			version = max(version, laterValues[part])
		case !strings.Contains(part, "=") && !inFormat1[part]:
			version = max(version, 2)
		}
	})
	return version
}

// eachPart visits what a value says: its fields that are not empty as Type.field, and the values of its types of texts as
// Type=value.
func eachPart(v reflect.Value, visit func(part string)) {
	switch t := v.Type(); v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			eachPart(v.Elem(), visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachPart(v.Index(i), visit)
		}
	case reflect.Map:
		for entry := v.MapRange(); entry.Next(); {
			eachPart(entry.Key(), visit)
			eachPart(entry.Value(), visit)
		}
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name == "-" || v.Field(i).IsZero() {
				continue
			}
			if !t.Field(i).Anonymous {
				visit(t.Name() + "." + name)
			}
			eachPart(v.Field(i), visit)
		}
	case reflect.String:
		if t.PkgPath() != "" {
			visit(t.Name() + "=" + v.String())
		}
	}
}
