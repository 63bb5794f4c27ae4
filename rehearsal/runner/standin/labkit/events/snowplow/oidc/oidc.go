// Package oidc has the tokens for deliveries.
package oidc

// Option sets nothing.
type Option func()

// Source has none.
type Source struct{}

// WithSkipIfUnsupportedCloud sets nothing.
func WithSkipIfUnsupportedCloud(bool) Option { return nil }

// NewSource returns one.
func NewSource(...Option) *Source { return &Source{} }
