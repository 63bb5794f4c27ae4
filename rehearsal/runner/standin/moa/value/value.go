// Package value has the names of the language's values. A job without inputs has none.
package value

import (
	"errors"
	"iter"
)

// Kind is what a value is.
type Kind string

// The kinds that an input may have.
const (
	NullKind   Kind = "null"
	StringKind Kind = "string"
	NumberKind Kind = "number"
	BoolKind   Kind = "bool"
	ArrayKind  Kind = "array"
	ObjectKind Kind = "object"
)

// The errors of an object.
var (
	ErrAttributeNotFound = errors.New("attribute not found")
	ErrInvalidKey        = errors.New("invalid key")
)

// Value is null.
type Value struct{}

// Mapper is an object.
type Mapper interface {
	All() iter.Seq2[Value, Value]
	Attr(string) (Value, error)
	Get(Value) (Value, error)
	Keys() iter.Seq[Value]
	Len() int
	Values() iter.Seq[Value]
	WithMarks(uint16) Mapper
}

// Null is the one value.
func Null() Value { return Value{} }

// String would be a text.
func String(string) Value { return Value{} }

// Object would be an object.
func Object(Mapper) Value { return Value{} }

// Kind is null: what is read as an input is refused with it.
func (Value) Kind() Kind { return NullKind }

// String is its text.
func (Value) String() string { return "" }

// WithMarks marks nothing.
func (v Value) WithMarks(uint16) Value { return v }

// HasMarks is whether it was marked.
func (Value) HasMarks(uint16) bool { return false }
