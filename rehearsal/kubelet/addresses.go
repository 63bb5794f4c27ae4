package kubelet

import (
	"fmt"
	"net/netip"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// addresses hands out pods' addresses in turn, as CNI's host-local does. One that a pod had comes again only when all others
// have been handed out, and never while that pod is there.
type addresses struct {
	first, last netip.Addr

	mu    sync.Mutex
	next  netip.Addr
	pods  map[types.UID]netip.Addr
	taken map[netip.Addr]bool
}

func newAddresses(first, last netip.Addr) *addresses {
	return &addresses{first: first, last: last, next: first, pods: map[types.UID]netip.Addr{}, taken: map[netip.Addr]bool{}}
}

// of is a pod's address, the same however often it is asked for.
func (a *addresses) of(pod types.UID) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ip, ok := a.pods[pod]; ok {
		return ip, nil
	}
	for start, ip := a.next, a.next; ; {
		after := ip.Next()
		if after.Compare(a.last) > 0 {
			after = a.first
		}
		if last := ip.As4()[3]; !a.taken[ip] && last != 0 && last != 255 {
			a.next, a.pods[pod], a.taken[ip] = after, ip, true
			return ip, nil
		}
		if ip = after; ip == start {
			return netip.Addr{}, fmt.Errorf("all addresses from %s to %s are taken", a.first, a.last)
		}
	}
}

// release is for a pod that is gone.
func (a *addresses) release(pod types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ip, ok := a.pods[pod]; ok {
		delete(a.taken, ip)
		delete(a.pods, pod)
	}
}
