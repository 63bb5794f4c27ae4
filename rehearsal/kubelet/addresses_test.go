package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
)

func TestAddressesComeInTurn(t *testing.T) {
	a := newAddresses(netip.MustParseAddr("10.0.0.253"), netip.MustParseAddr("10.0.1.2"))
	of := func(pod types.UID) string {
		ip, err := a.of(pod)
		if err != nil {
			return err.Error()
		}
		return ip.String()
	}
	got := []string{of("a"), of("b"), of("a")}
	a.release("a")
	a.release("nobody")
	got = append(got, of("c"), of("d")) // not at once the one that is free again
	got = append(got, of("e"), of("f"))
	want := []string{"10.0.0.253", "10.0.0.254", "10.0.0.253", "10.0.1.1", "10.0.1.2", "10.0.0.253", "all addresses from 10.0.0.253 to 10.0.1.2 are taken"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestNoAddressIsGivenTwice(t *testing.T) {
	a := newAddresses(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.9.254"))
	var group sync.WaitGroup
	for i := range 200 {
		group.Go(func() {
			for range 3 { // as each resync asks until the status is there
				if _, err := a.of(types.UID(fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	pods := map[netip.Addr]types.UID{}
	for pod, ip := range a.pods {
		if other, ok := pods[ip]; ok {
			t.Errorf("%s is the address of %s and of %s", ip, other, pod)
		}
		pods[ip] = pod
	}
	if len(pods) != 200 {
		t.Errorf("%d addresses, want 200", len(pods))
	}
}

// Before its containers are made, a pod has its addresses, is not ready, and each container says why.
func TestFirstStatus(t *testing.T) {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "image"}, {Name: "second", Image: "other"}}}}
	s := firstStatus(p, "10.0.9.1", "10.0.0.1", metav1.Now())
	var got []string
	for _, c := range s.Conditions {
		got = append(got, fmt.Sprintf("%s=%s", c.Type, c.Status))
		if c.LastTransitionTime.IsZero() {
			t.Errorf("condition %s has no time", c.Type)
		}
	}
	for _, c := range s.ContainerStatuses {
		got = append(got, c.Name+" "+c.Image+" "+c.State.Waiting.Reason)
	}
	got = append(got, string(s.Phase), s.HostIP, s.PodIP, s.PodIPs[0].IP, s.HostIPs[0].IP)
	want := "PodReadyToStartContainers=True Initialized=True Ready=False ContainersReady=False " +
		"app image ContainerCreating second other ContainerCreating Pending 10.0.9.1 10.0.0.1 10.0.0.1 10.0.9.1"
	if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
		t.Errorf("first status (-want +got):\n%s", diff)
	}
}

// Two versions of a pod without a status each ask for the first one. The later answer, which may come when the pod's
// processes have written theirs, changes nothing.
func TestFirstStatusOnce(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "u", ResourceVersion: "1"}}
	client := fake.NewClientset(p)
	version, written := 1, 0
	client.PrependReactor("patch", "pods", func(action kubetesting.Action) (bool, runtime.Object, error) {
		var patch corev1.Pod
		if err := json.Unmarshal(action.(kubetesting.PatchAction).GetPatch(), &patch); err != nil {
			return true, nil, err
		}
		if patch.ResourceVersion != "" && patch.ResourceVersion != fmt.Sprint(version) { // as the API server does
			return true, nil, apierrors.NewConflict(corev1.Resource("pods"), "pod", errors.New("it has been changed"))
		}
		version++
		written++
		return true, &patch, nil
	})
	k := &kubelet{
		Options: Options{Client: client, NodeIP: netip.MustParseAddr("10.0.9.1"), Log: t.Errorf}, ctx: t.Context(),
		addresses: newAddresses(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.9")),
	}
	k.admit(p)
	k.admit(p)
	if written != 1 {
		t.Errorf("the first status was written %d times", written)
	}
}
