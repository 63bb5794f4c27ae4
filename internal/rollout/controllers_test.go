package rollout_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/release"
)

// lag is how far the controllers are behind a change, and behind each other.
const lag = 100 * time.Millisecond

// controllers stand for kube-controller-manager and the kubelets: Deployments get ReplicaSets, these get
// pods, pods get ready, Services get EndpointSlices; what is deleted goes in the order of its
// finalizers. They were checked against Kubernetes 1.37.2 (pkg/controller/deployment and its sync,
// rolling and progress files).
//
// They go on in rounds, and in each one look at what the last has left: a pod is not ready in the round
// that makes it, endpoints are a round behind pods, a Deployment's status two. So what waits for one of
// these and takes another for it is caught.
//
// Where they differ: one Service's endpoints are in one slice; every roll-out has maxSurge 1 and
// maxUnavailable 0, whatever the strategy says, so rolling never takes capacity away; nothing is ever
// evicted; an autoscaler does what the test sets; ReplicaSets of old templates are kept without
// limit; an event is there only when a test makes one.
type controllers struct {
	server *apiServer
	wake   chan struct{}

	// What a test changes, under the server's lock.
	stopped    bool                        // nothing is done
	broken     map[string]corev1.PodStatus // by digest: pods that never get ready, and why
	pulled     map[string]string           // by image: the imageID that a node gives for it; otherwise its own digest
	ailing     map[string]ailment          // by digest: pods whose kubelet reports more than one state
	refuse     map[string]string           // by digest: pods that are refused, and why
	stuck      map[string]bool             // Deployments whose pods do not end
	node       string                      // that the pods are on
	shrink     map[string]int32            // by Deployment: an autoscaler makes it so big whenever it is bigger
	autoscaler autoscaler
	silent     bool                 // endpoints are not written
	mute       bool                 // the status of routes is not written
	rejects    string               // for which routes are not accepted; "" when they are
	slow       time.Duration        // so long after one pod has become ready the next one does
	ready      time.Time            // when the last one did
	progress   map[string]*progress // by Deployment
	pods       map[string]int       // how many a ReplicaSet has had
	work       map[string]jobWork   // what the Jobs of a hook do, by its name
	ran        map[string]int       // how often a Job was started, by the run of its hook
}

// progress is what a Deployment's deadline counts from.
type progress struct {
	seen  string
	since time.Time
}

func newControllers(s *apiServer) *controllers {
	c := &controllers{
		server: s, wake: make(chan struct{}, 1), broken: map[string]corev1.PodStatus{}, pulled: map[string]string{taggedImage: image("1")}, ailing: map[string]ailment{}, refuse: map[string]string{}, stuck: map[string]bool{}, shrink: map[string]int32{},
		autoscaler: autoscaler{lag: 45 * time.Second, loads: map[string][]load{}, wanted: map[string][]want{}},
		progress:   map[string]*progress{}, pods: map[string]int{}, work: map[string]jobWork{}, ran: map[string]int{},
	}
	s.changed = append(s.changed, func(e event) {
		if slices.Contains([]string{"deployments", "replicasets", "pods", "services", "jobs", "httproutes", "grpcroutes"}, e.resource) {
			c.hurry()
		}
	})
	return c
}

func (c *controllers) hurry() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run goes on until ctx ends.
func (c *controllers) run(ctx context.Context) {
	wait := time.NewTimer(lag)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		c.server.mu.Lock()
		before := c.server.version
		waiting := false
		if !c.stopped {
			waiting = c.round()
		}
		busy := c.server.version != before
		c.server.mu.Unlock()
		switch {
		case busy:
			wait.Reset(lag)
		case waiting:
			wait.Reset(map[bool]time.Duration{true: time.Second / 2, false: 5 * time.Second}[len(c.ailing) > 0 || len(c.ran) > 0])
		default:
			select {
			case <-ctx.Done():
				return
			case <-c.wake:
				wait.Reset(lag)
			}
		}
	}
}

// get reads the objects of a kind into typed ones.
func get[T any](s *apiServer, plural string) []*T {
	var found []*T
	for _, o := range s.each(request{kind: kindOf(plural), labels: labels.Everything(), fields: fields.Everything()}) {
		found = append(found, copied(decode[T](o)))
	}
	return found
}

// shared is get without copies of what an object points to: a controller replaces that, and changes none of it.
func shared[T any](s *apiServer, plural string) []*T {
	var found []*T
	for _, o := range s.each(request{kind: kindOf(plural), labels: labels.Everything(), fields: fields.Everything()}) {
		object := *decode[T](o)
		found = append(found, &object)
	}
	return found
}

func copied[T any](object *T) *T {
	return any(any(object).(runtime.Object).DeepCopyObject()).(*T)
}

// set writes an object as it is.
func set[T any](c *controllers, plural string, object *T) {
	meta := any(object).(metav1.Object)
	live := c.server.objects[place{plural, meta.GetNamespace(), meta.GetName()}]
	if live != nil {
		meta.SetResourceVersion(live.object.GetResourceVersion())
		if was := decode[T](live); reflect.DeepEqual(was, object) || apiequality.Semantic.DeepEqual(was, object) {
			return
		}
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		panic(err)
	}
	u := &unstructured.Unstructured{Object: content}
	if live == nil {
		c.server.uids++
		u.SetUID(types.UID(fmt.Sprintf("uid-%d", c.server.uids)))
		u.SetGeneration(1)
		u.SetCreationTimestamp(metav1.Now())
	} else if specChanged(kindOf(plural), live.object, u) {
		u.SetGeneration(live.object.GetGeneration() + 1)
	}
	c.server.put(kindOf(plural), live, u)
}

// setStatus writes the status of an object, which is all that a controller has changed of it.
func setStatus[T, S any](c *controllers, plural string, object *T, status func(*T) *S) {
	meta := any(object).(metav1.Object)
	live := c.server.objects[place{plural, meta.GetNamespace(), meta.GetName()}]
	was := decode[T](live)
	if apiequality.Semantic.DeepEqual(status(was), status(object)) {
		return
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(status(object))
	if err != nil {
		panic(err)
	}
	u := &unstructured.Unstructured{Object: maps.Clone(live.object.Object)}
	u.Object["metadata"] = maps.Clone(u.Object["metadata"].(map[string]any))
	u.Object["status"] = content
	kept, read := *was, new(S)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, read); err != nil {
		panic(err)
	}
	*status(&kept) = *read
	c.server.putTyped(kindOf(plural), live, u, any(&kept).(metav1.Object))
}

func (c *controllers) drop(plural string, object metav1.Object) {
	if live := c.server.objects[place{plural, object.GetNamespace(), object.GetName()}]; live != nil {
		c.server.drop(kindOf(plural), live)
	}
}

// round does what each controller has to do next. It says whether one waits for time to pass.
func (c *controllers) round() (waiting bool) {
	deployments, sets, pods := shared[appsv1.Deployment](c.server, "deployments"), shared[appsv1.ReplicaSet](c.server, "replicasets"), shared[corev1.Pod](c.server, "pods")
	c.endpoints(pods)
	c.garbage(deployments)
	if c.runJobs() {
		waiting = true
	}
	c.routes()
	for _, d := range deployments {
		if c.status(d, sets, pods) {
			waiting = true
		}
	}
	if c.kubelet(pods) {
		waiting = true
	}
	for _, rs := range sets {
		c.scale(rs, pods)
	}
	if c.autoscaler.demand > 0 {
		waiting = true
		c.autoscaler.run(c, deployments)
	}
	for _, d := range deployments {
		own := owned(sets, d)
		if d.DeletionTimestamp != nil {
			c.collect(d, own)
			continue
		}
		if size, ok := c.shrink[d.Name]; ok && d.Spec.Replicas != nil && *d.Spec.Replicas > size {
			d.Spec.Replicas = &size
			set(c, "deployments", d)
			continue
		}
		c.roll(d, own, sets, pods)
	}
	return waiting
}

// garbage deletes what a Deployment owned that is gone, beside its ReplicaSets. The original does so within seconds
// (pkg/controller/garbagecollector), and looks at objects of every kind.
func (c *controllers) garbage(deployments []*appsv1.Deployment) {
	var lost []*stored
	for at, o := range c.server.objects {
		if at.resource != "services" && at.resource != "configmaps" && at.resource != "secrets" && at.resource != "httproutes" {
			continue
		}
		owners := o.object.GetOwnerReferences()
		if len(owners) > 0 && !slices.ContainsFunc(deployments, func(d *appsv1.Deployment) bool { return d.UID == owners[0].UID }) {
			lost = append(lost, o)
		}
	}
	for _, o := range lost {
		resource := strings.ToLower(o.object.GetKind()) + "s"
		c.server.drop(kindOf(resource), o)
	}
}

func owned[T metav1.Object](all []T, owner metav1.Object) []T {
	var own []T
	for _, o := range all {
		if by := metav1.GetControllerOf(o); by != nil && by.UID == owner.GetUID() {
			own = append(own, o)
		}
	}
	return own
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// endpoints writes the slice of each Service.
func (c *controllers) endpoints(pods []*corev1.Pod) {
	if c.silent {
		return
	}
	for _, slice := range shared[discoveryv1.EndpointSlice](c.server, "endpointslices") {
		if c.server.objects[place{"services", slice.Namespace, slice.Labels[discoveryv1.LabelServiceName]}] == nil {
			c.drop("endpointslices", slice)
		}
	}
	for _, service := range shared[corev1.Service](c.server, "services") {
		slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: service.Name + "-slice", Namespace: service.Namespace, Labels: map[string]string{discoveryv1.LabelServiceName: service.Name}}, AddressType: discoveryv1.AddressTypeIPv4}
		if live := c.server.objects[place{"endpointslices", slice.Namespace, slice.Name}]; live != nil {
			slice = copied(decode[discoveryv1.EndpointSlice](live))
		}
		slice.Endpoints = []discoveryv1.Endpoint{}
		for i, pod := range pods {
			if pod.Namespace != service.Namespace || !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels)) {
				continue
			}
			ready := isReady(pod) && pod.DeletionTimestamp == nil
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses:  []string{fmt.Sprintf("10.0.0.%d", i+1)},
				Conditions: discoveryv1.EndpointConditions{Ready: &ready},
				TargetRef:  &corev1.ObjectReference{Kind: "Pod", Name: pod.Name},
			})
		}
		set(c, "endpointslices", slice)
	}
}

// kubelet makes pods ready, and lets those that are deleted end. It says whether one waits for its time.
func (c *controllers) kubelet(pods []*corev1.Pod) (waiting bool) {
	for _, pod := range pods {
		if _, ofHook := pod.Labels[hook.NameLabel]; ofHook { // see runJobs
			continue
		}
		if pod.DeletionTimestamp != nil {
			owner := metav1.GetControllerOf(pod)
			if owner != nil && slices.ContainsFunc(slices.Collect(maps.Keys(c.stuck)), func(name string) bool { return strings.HasPrefix(owner.Name, name) }) {
				continue
			}
			c.drop("pods", pod)
			continue
		}
		image := pod.Spec.Containers[0].Image
		broken, is := c.broken[release.DigestOf(image)]
		switch state := c.state(pod); {
		case is:
			pod.Status = *broken.DeepCopy()
		case state != nil:
			pod.Status = *state
			waiting = true
		case !isReady(pod) && missing(c.server, pod) != "":
			pod.Status = *ofContainer(&corev1.ContainerStatus{Name: "app", State: waits("CreateContainerConfigError", missing(c.server, pod)+" not found")})
		case c.slow > 0 && !isReady(pod) && time.Since(c.ready) < c.slow:
			waiting = true
			continue
		default:
			if !isReady(pod) {
				c.ready = time.Now()
			}
			pod.Status.Phase = corev1.PodRunning
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			pod.Status.ContainerStatuses = nil
			for _, container := range pod.Spec.Containers {
				id := c.pulled[container.Image]
				if id == "" {
					id = container.Image
				}
				pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{Name: container.Name, Image: container.Image, ImageID: id, Ready: true})
			}
		}
		setStatus(c, "pods", pod, func(p *corev1.Pod) *corev1.PodStatus { return &p.Status })
	}
	return waiting
}

// end notes that a pod is to go.
func (c *controllers) end(pod *corev1.Pod) {
	if pod.DeletionTimestamp == nil {
		over := metav1.NewTime(time.Now().Add(30 * time.Second)) // of the grace period, as the original has it
		pod.DeletionTimestamp = &over
		set(c, "pods", pod)
	}
}

// scale gives a ReplicaSet as many pods as it is to have.
func (c *controllers) scale(rs *appsv1.ReplicaSet, pods []*corev1.Pod) {
	if rs.DeletionTimestamp != nil {
		own := owned(pods, rs)
		for _, pod := range own {
			c.end(pod)
		}
		if len(own) == 0 {
			c.drop("replicasets", rs)
		}
		return
	}
	alive := slices.DeleteFunc(owned(pods, rs), func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if len(alive) < int(*rs.Spec.Replicas) && c.refusal(rs) {
		return
	}
	for range int(*rs.Spec.Replicas) - len(alive) {
		c.pods[rs.Name]++
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s-%d", rs.Name, c.pods[rs.Name]), Namespace: rs.Namespace, Labels: maps.Clone(rs.Spec.Template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))},
		}, Spec: *rs.Spec.Template.Spec.DeepCopy(), Status: corev1.PodStatus{Phase: corev1.PodPending}}
		pod.Spec.NodeName = c.node
		set(c, "pods", pod)
	}
	slices.SortStableFunc(alive, func(a, b *corev1.Pod) int {
		return map[bool]int{true: 1}[isReady(a)] - map[bool]int{true: 1}[isReady(b)]
	})
	for i := range len(alive) - int(*rs.Spec.Replicas) {
		c.end(alive[i])
	}
}

// templateOf names a pod template, whatever its hash label.
func templateOf(t corev1.PodTemplateSpec) string {
	t = *t.DeepCopy()
	delete(t.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	text, err := json.Marshal(t)
	if err != nil {
		panic(err)
	}
	hash := fnv.New32a()
	hash.Write(text)
	return fmt.Sprintf("%08x", hash.Sum32())
}

// sameTemplate compares pod templates, whatever their hash labels.
func sameTemplate(a, b corev1.PodTemplateSpec) bool {
	if len(a.Spec.Containers) > 0 && len(b.Spec.Containers) > 0 && a.Spec.Containers[0].Image != b.Spec.Containers[0].Image {
		return false // most that are not the same differ in this
	}
	plain := func(t corev1.PodTemplateSpec) corev1.PodTemplateSpec {
		t.Labels = maps.Clone(t.Labels)
		delete(t.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
		return t
	}
	a, b = plain(a), plain(b)
	return reflect.DeepEqual(a, b) || apiequality.Semantic.DeepEqual(a, b)
}

// roll takes a Deployment's ReplicaSets towards its template and size, and adopts those that nobody owns.
func (c *controllers) roll(d *appsv1.Deployment, own, all []*appsv1.ReplicaSet, pods []*corev1.Pod) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		panic(err)
	}
	ref := []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}
	for _, rs := range all {
		if rs.DeletionTimestamp == nil && metav1.GetControllerOf(rs) == nil && selector.Matches(labels.Set(rs.Labels)) {
			rs.OwnerReferences = ref
			set(c, "replicasets", rs)
			return
		}
	}
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	var current *appsv1.ReplicaSet
	var olds []*appsv1.ReplicaSet
	total, ready, updated := int32(0), int32(0), int32(0) // updated ones are ready too
	for _, rs := range own {
		total += *rs.Spec.Replicas
		is := sameTemplate(rs.Spec.Template, d.Spec.Template)
		for _, pod := range owned(pods, rs) {
			if pod.DeletionTimestamp == nil && isReady(pod) {
				ready++
				if is {
					updated++
				}
			}
		}
		if is {
			current = rs
		} else if *rs.Spec.Replicas > 0 {
			olds = append(olds, rs)
		}
	}
	switch {
	case current == nil:
		size, hash := want, templateOf(d.Spec.Template)
		if len(olds) > 0 {
			size = max(0, want+1-total)
		}
		rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: d.Name + "-" + hash, Namespace: d.Namespace, OwnerReferences: ref}}
		rs.Spec.Template = *d.Spec.Template.DeepCopy()
		rs.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
		rs.Labels = maps.Clone(rs.Spec.Template.Labels)
		rs.Spec.Selector = &metav1.LabelSelector{MatchLabels: maps.Clone(d.Spec.Selector.MatchLabels)}
		rs.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
		rs.Spec.Replicas = &size
		set(c, "replicasets", rs)
	case len(olds) == 0:
		current.Spec.Replicas = &want
		set(c, "replicasets", current)
	case *current.Spec.Replicas > want:
		current.Spec.Replicas = &want
		set(c, "replicasets", current)
	case *current.Spec.Replicas < want && total <= want:
		current.Spec.Replicas = new(*current.Spec.Replicas + 1)
		set(c, "replicasets", current)
	case ready > want || *current.Spec.Replicas == want && updated >= want || total > want+1:
		olds[0].Spec.Replicas = new(*olds[0].Spec.Replicas - 1)
		set(c, "replicasets", olds[0])
	}
}

// status says how far a Deployment is, and whether it may still come to its deadline.
func (c *controllers) status(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, pods []*corev1.Pod) (waiting bool) {
	var s appsv1.DeploymentStatus
	for _, rs := range owned(sets, d) {
		current := sameTemplate(rs.Spec.Template, d.Spec.Template)
		for _, pod := range owned(pods, rs) {
			if pod.DeletionTimestamp != nil {
				continue
			}
			s.Replicas++
			if current {
				s.UpdatedReplicas++
			}
			if isReady(pod) {
				s.ReadyReplicas++
				s.AvailableReplicas++
			}
		}
	}
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	s.ObservedGeneration = d.Generation
	s.Conditions = slices.DeleteFunc(slices.Clone(d.Status.Conditions), func(c appsv1.DeploymentCondition) bool {
		return c.Type == appsv1.DeploymentReplicaFailure
	})
	seen := fmt.Sprint(d.UID, d.Generation, want, s.UpdatedReplicas, s.AvailableReplicas, s.Replicas)
	p := c.progress[d.Name]
	if p == nil {
		p = &progress{}
		c.progress[d.Name] = p
	}
	complete := s.Replicas == want && s.UpdatedReplicas == want && s.AvailableReplicas == want
	switch {
	case p.seen != seen:
		p.seen, p.since = seen, time.Now()
		if complete || s.UpdatedReplicas == 0 || s.ReadyReplicas > d.Status.ReadyReplicas {
			s.Conditions = nil
		}
	case complete:
		s.Conditions = nil
	default:
		waiting = true
		if seconds := d.Spec.ProgressDeadlineSeconds; seconds != nil && time.Since(p.since) > time.Duration(*seconds)*time.Second {
			waiting = false
			if len(s.Conditions) == 0 || s.Conditions[0].LastUpdateTime.Time.Before(p.since) {
				s.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded", LastUpdateTime: metav1.Now()}}
			}
		}
	}
	s.Conditions = append(s.Conditions, failures(owned(sets, d))...)
	d.Status = s
	setStatus(c, "deployments", d, func(d *appsv1.Deployment) *appsv1.DeploymentStatus { return &d.Status })
	return waiting
}

// collect takes away what a Deployment that is deleted owns, or its name from it.
func (c *controllers) collect(d *appsv1.Deployment, own []*appsv1.ReplicaSet) {
	if slices.Contains(d.Finalizers, metav1.FinalizerOrphanDependents) {
		for _, rs := range own {
			rs.OwnerReferences = nil
			set(c, "replicasets", rs)
		}
		if len(own) == 0 {
			c.drop("deployments", d)
		}
		return
	}
	for _, rs := range own {
		if rs.DeletionTimestamp == nil {
			now := metav1.Now()
			rs.DeletionTimestamp = &now
			set(c, "replicasets", rs)
		}
	}
	if len(own) == 0 {
		c.drop("deployments", d)
	}
}
