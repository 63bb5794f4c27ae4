// Package ast has the names of the syntax tree. Nothing makes one.
package ast

// Expr is a node.
type Expr interface{ Walk(Visitor) (Expr, error) }

// Visitor walks a tree.
type Visitor interface {
	Enter(Expr) (Visitor, error)
	Exit(Expr) (Expr, error)
}

// Template is a text with expressions.
type Template struct{}

// Walk visits nothing.
func (t *Template) Walk(Visitor) (Expr, error) { return t, nil }
