// Package api has the socket's address.
package api

import "net"

// SocketAddr is the address of a path.
func SocketAddr(path string) *net.UnixAddr { return &net.UnixAddr{Name: path, Net: "unix"} }

// DefaultSocketPath is none: nothing listens.
func DefaultSocketPath() string { return "" }
