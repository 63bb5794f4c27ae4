package rollout_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// apiServer stands for kube-apiserver: the clients of the tests are the real ones, and their HTTP
// requests end here, in memory. It was checked against Kubernetes 1.37.2 (the registry strategies of
// Deployments, endpoints/handlers/patch.go, storage/etcd3, and what the rehearsal's real API server
// answers).
//
// client-go's fake clientset does not do: it has no resourceVersion and no conflict, no UID and no
// generation, writes dry runs, knows no preconditions and no propagation policy, ignores field
// selectors and the context of a request. A job that is killed keeps running there.
//
// What it does as the original does: one counter of resourceVersions, a conflict for every write that
// names another one than the live object's (a PUT, an apply, and a JSON patch that replaces it);
// preconditions of a DELETE; field managers and their conflicts by Kubernetes' own code, lists of
// custom resources atomic; managedFields reset by [{}]; generation by spec and, for Deployments,
// annotations; replicas of a Deployment that nobody names are 1; immutable selectors, ConfigMaps and Secrets; status kept from
// who writes the object; a write that changes nothing leaves the resourceVersion; dry runs that store
// nothing; finalizers for foreground and orphan deletion; watches from a resourceVersion, with label
// and field selectors, initial events and bookmarks, that end after their timeout.
//
// Where it differs:
//   - validation is limited to immutable selectors, a Deployment's labels, strategy, images and resources, the 1 MiB
//     of a ConfigMap and Istio's weights (-1 and 101 are rejected, as istiod's webhook does); only Deployments are
//     defaulted, protocol and targetPort of a Service's ports, and the selectPolicy of a HorizontalPodAutoscaler;
//   - no strict field validation, no quotas, no authorization (a test can refuse requests);
//   - its watch history has no end: there is no 410 Gone;
//   - strategic merge patches are not supported;
//   - an answer takes one millisecond each way, of a clock that a test moves.
type apiServer struct {
	mu       sync.Mutex
	version  int64
	skew     time.Duration // of the server's clock, as its answers and the times of its writes show it
	uids     int
	by       string // of the request that is being answered
	objects  map[place]*stored
	history  []event
	watches  map[*watching]bool
	changed  []func(event) // called for every change, in order, under the lock
	missing  map[string]bool
	logs     map[string]string // of pods
	managers map[schema.GroupVersionKind]*managedfields.FieldManager
}

// place is where an object is.
type place struct{ resource, namespace, name string }

// stored is an object, and what is made of it once somebody wants that: its JSON, the object in its own type, the ledger or
// the route that it holds. None of them changes any more.
type stored struct {
	object *unstructured.Unstructured
	json   []byte
	typed  any
	ledger *parsedLedger
	route  *manifest.GatewayRoute
}

// text is the object's JSON.
func (s *stored) text() []byte {
	if s.json == nil {
		text, err := json.Marshal(s.object.Object)
		if err != nil {
			panic(err)
		}
		s.json = text
	}
	return s.json
}

// decode gives an object in its own type. It is shared: who changes it copies it first.
func decode[T any](s *stored) *T {
	if s.typed == nil {
		object := new(T)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(s.object.Object, object); err != nil {
			panic(err)
		}
		s.typed = object
	}
	return s.typed.(*T)
}

// parsedLedger is what release.ParseLedger said of a ledger.
type parsedLedger struct {
	*release.Ledger
	app string
	err error
}

// ledgerIn is the app's ledger in a ConfigMap. It is shared.
func ledgerIn(s *stored, app string) (*release.Ledger, error) {
	if s.ledger == nil || s.ledger.app != app {
		ledger, err := release.ParseLedger(app, decode[corev1.ConfigMap](s).Data[ledgerKey])
		s.ledger = &parsedLedger{ledger, app, err}
	}
	return s.ledger.Ledger, s.ledger.err
}

// event is one change of one object. before is nil for a new one; after of a deleted one is its last state.
type event struct {
	kind          watch.EventType
	resource      string
	version       int64
	before, after *stored
	by            string // whose request it was; "" for a controller
}

// kind is a type of objects.
type kind struct {
	schema.GroupVersionKind
	plural     string
	namespaced bool
}

// kinds are the types that the server has.
var kinds = []kind{
	{schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, "namespaces", false},
	{schema.GroupVersionKind{Version: "v1", Kind: "Node"}, "nodes", false},
	{schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, "configmaps", true},
	{schema.GroupVersionKind{Version: "v1", Kind: "Secret"}, "secrets", true},
	{schema.GroupVersionKind{Version: "v1", Kind: "Service"}, "services", true},
	{schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, "pods", true},
	{schema.GroupVersionKind{Version: "v1", Kind: "Event"}, "events", true},
	{schema.GroupVersionKind{Version: "v1", Kind: "ServiceAccount"}, "serviceaccounts", true},
	{schema.GroupVersionKind{Version: "v1", Kind: "PersistentVolumeClaim"}, "persistentvolumeclaims", true},
	{schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"}, "roles", true},
	{schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"}, "clusterroles", false},
	{schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "PodDisruptionBudget"}, "poddisruptionbudgets", true},
	{schema.GroupVersionKind{Group: "networking.k8s.io", Version: "v1", Kind: "NetworkPolicy"}, "networkpolicies", true},
	{schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, "deployments", true},
	{schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ReplicaSet"}, "replicasets", true},
	{schema.GroupVersionKind{Group: "batch", Version: "v1", Kind: "Job"}, "jobs", true},
	{schema.GroupVersionKind{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"}, "horizontalpodautoscalers", true},
	{schema.GroupVersionKind{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease"}, "leases", true},
	{schema.GroupVersionKind{Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice"}, "endpointslices", true},
	{schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: "VirtualService"}, "virtualservices", true},
	{schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: "DestinationRule"}, "destinationrules", true},
	{schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: "Gateway"}, "gateways", true},
	{schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "Gateway"}, "gateways.gateway", true}, // another one's plural
	{schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "HTTPRoute"}, "httproutes", true},
	{schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "GRPCRoute"}, "grpcroutes", true},
}

// path is how requests name the kind.
func (k kind) path() string {
	path, _, _ := strings.Cut(k.plural, ".")
	return path
}

func kindOf(plural string) kind {
	return kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.plural == plural })]
}

func newAPIServer() *apiServer {
	return &apiServer{version: 100, objects: map[place]*stored{}, watches: map[*watching]bool{}, missing: map[string]bool{}, logs: map[string]string{}, managers: map[schema.GroupVersionKind]*managedfields.FieldManager{}}
}

// RoundTrip answers a request.
func (s *apiServer) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := pass(r); err != nil {
		return nil, err
	}
	response, err := s.answer(r)
	if err != nil {
		return nil, err
	}
	response.Header.Set("Date", time.Now().Add(s.skew).UTC().Format(http.TimeFormat))
	if err := pass(r); err != nil {
		return nil, err
	}
	return response, nil
}

// pass is the way of a request or of its answer.
func pass(r *http.Request) error {
	select {
	case <-time.After(time.Millisecond):
		return r.Context().Err()
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

func (s *apiServer) answer(r *http.Request) (*http.Response, error) {
	q, err := parse(r)
	if err != nil {
		return failure(r, err), nil
	}
	if q.watch {
		return s.watch(r, q), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := s.serve(q)
	if err != nil {
		return failure(r, err), nil
	}
	return reply(r, http.StatusOK, io.NopCloser(bytes.NewReader(text))), nil
}

// request is what a request asks for.
type request struct {
	method, contentType  string
	group                string // of a discovery request
	kind                 kind
	namespace, name, sub string
	watch, initial       bool
	version              string
	timeout              time.Duration
	labels               labels.Selector
	fields               fields.Selector
	manager, by          string
	force, dryRun        bool
	body                 []byte
}

func (q request) place() place { return place{q.kind.plural, q.namespace, q.name} }

func parse(r *http.Request) (q request, err error) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	group := schema.GroupVersion{}
	switch {
	case len(parts) >= 2 && parts[0] == "api":
		group.Version, parts = parts[1], parts[2:]
	case len(parts) >= 3 && parts[0] == "apis":
		group.Group, group.Version, parts = parts[1], parts[2], parts[3:]
	default:
		return q, apierrors.NewNotFound(schema.GroupResource{}, r.URL.Path)
	}
	q.method, q.contentType, q.group = r.Method, r.Header.Get("Content-Type"), group.String()
	if len(parts) == 0 {
		return q, nil
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		q.namespace, parts = parts[1], parts[2:]
	}
	found := slices.IndexFunc(kinds, func(k kind) bool { return k.GroupVersion() == group && k.path() == parts[0] })
	if found < 0 {
		return q, apierrors.NewNotFound(schema.GroupResource{Group: group.Group, Resource: parts[0]}, "")
	}
	q.kind = kinds[found]
	if len(parts) > 1 {
		q.name = parts[1]
	}
	if len(parts) > 2 {
		q.sub = parts[2]
	}
	values := r.URL.Query()
	q.watch, q.initial = values.Get("watch") != "", values.Get("sendInitialEvents") == "true"
	q.version, q.manager = values.Get("resourceVersion"), values.Get("fieldManager")
	q.force, q.dryRun = values.Get("force") == "true", values.Get("dryRun") == "All"
	q.timeout = 30 * time.Minute
	if seconds, err := strconv.Atoi(values.Get("timeoutSeconds")); err == nil {
		q.timeout = time.Duration(seconds) * time.Second
	}
	if q.labels, err = labels.Parse(values.Get("labelSelector")); err != nil {
		return q, apierrors.NewBadRequest(err.Error())
	}
	if q.fields, err = fields.ParseSelector(values.Get("fieldSelector")); err != nil {
		return q, apierrors.NewBadRequest(err.Error())
	}
	if q.by = r.UserAgent(); q.manager == "" {
		q.manager, _, _ = strings.Cut(q.by, "/")
	}
	if r.Body != nil {
		if q.body, err = io.ReadAll(r.Body); err != nil {
			return q, err
		}
		r.Body.Close()
	}
	return q, nil
}

func reply(r *http.Request, code int, body io.ReadCloser) *http.Response {
	return &http.Response{
		StatusCode: code, Status: strconv.Itoa(code) + " " + http.StatusText(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: body, Request: r,
	}
}

func failure(r *http.Request, err error) *http.Response {
	status := apierrors.NewInternalError(err).Status()
	if known, ok := err.(apierrors.APIStatus); ok {
		status = known.Status()
	}
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	text, err := json.Marshal(status)
	if err != nil {
		panic(err)
	}
	return reply(r, int(status.Code), io.NopCloser(bytes.NewReader(text)))
}

func (s *apiServer) serve(q request) ([]byte, error) {
	switch {
	case q.kind.plural == "":
		return s.discover(q.group)
	case q.method == http.MethodGet && q.name == "":
		return s.list(q)
	case q.method == http.MethodGet:
		live := s.objects[q.place()]
		if live == nil {
			return nil, notFound(q)
		}
		if q.sub == "log" {
			return []byte(s.logs[q.name]), nil
		}
		return live.text(), nil
	}
	s.by = q.by
	defer func() { s.by = "" }()
	after, err := s.remembered(q)
	if err != nil {
		return nil, err
	}
	return after.text(), nil
}

func notFound(q request) error {
	return apierrors.NewNotFound(schema.GroupResource{Group: q.kind.Group, Resource: q.kind.plural}, q.name)
}

func conflict(q request, why string) error {
	return apierrors.NewConflict(schema.GroupResource{Group: q.kind.Group, Resource: q.kind.plural}, q.name, fmt.Errorf("%s", why))
}

func (s *apiServer) discover(group string) ([]byte, error) {
	list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"}, GroupVersion: group}
	for _, k := range kinds {
		if k.GroupVersion().String() == group && !s.missing[k.Kind] {
			list.APIResources = append(list.APIResources, metav1.APIResource{Name: k.path(), Kind: k.Kind, Namespaced: k.namespaced})
		}
	}
	if len(list.APIResources) == 0 {
		return nil, apierrors.NewNotFound(schema.GroupResource{}, group)
	}
	return json.Marshal(list)
}

func (q request) matches(o *stored) bool {
	if o == nil || q.namespace != "" && o.object.GetNamespace() != q.namespace {
		return false
	}
	known := fields.Set{"metadata.name": o.object.GetName(), "metadata.namespace": o.object.GetNamespace()}
	known["type"], _, _ = unstructured.NestedString(o.object.Object, "type")
	return q.labels.Matches(labels.Set(o.object.GetLabels())) && q.fields.Matches(known)
}

// each gives the objects that a request is about, by namespace and name.
func (s *apiServer) each(q request) []*stored {
	var found []*stored
	for p, o := range s.objects {
		if p.resource == q.kind.plural && q.matches(o) {
			found = append(found, o)
		}
	}
	slices.SortFunc(found, func(a, b *stored) int {
		return cmp.Or(cmp.Compare(a.object.GetNamespace(), b.object.GetNamespace()), cmp.Compare(a.object.GetName(), b.object.GetName()))
	})
	return found
}

func (s *apiServer) list(q request) ([]byte, error) {
	items := []json.RawMessage{}
	for _, o := range s.each(q) {
		items = append(items, o.text())
	}
	return json.Marshal(map[string]any{
		"apiVersion": q.kind.GroupVersion().String(), "kind": q.kind.Kind + "List",
		"metadata": map[string]any{"resourceVersion": strconv.FormatInt(s.version, 10)}, "items": items,
	})
}

// mutate does a write and gives what came of it.
func (s *apiServer) mutate(q request) (*stored, error) {
	if q.method == http.MethodPost {
		object := &unstructured.Unstructured{}
		if err := utiljson.Unmarshal(q.body, &object.Object); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		q.name = object.GetName()
		if s.objects[q.place()] != nil {
			return nil, apierrors.NewAlreadyExists(schema.GroupResource{Group: q.kind.Group, Resource: q.kind.plural}, q.name)
		}
		object.SetResourceVersion("")
		return s.finish(q, nil, object, "")
	}
	live := s.objects[q.place()]
	if q.method == http.MethodPatch && strings.Contains(q.contentType, "apply-patch") {
		return s.apply(q, live)
	}
	if live == nil {
		return nil, notFound(q)
	}
	switch q.method {
	case http.MethodDelete:
		return s.remove(q, live)
	case http.MethodPut:
		object := &unstructured.Unstructured{}
		if err := utiljson.Unmarshal(q.body, &object.Object); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return s.finish(q, live, object, object.GetResourceVersion())
	case http.MethodPatch:
		return s.patch(q, live)
	}
	return nil, apierrors.NewMethodNotSupported(schema.GroupResource{Resource: q.kind.plural}, q.method)
}

// patch does a JSON patch or a merge patch.
func (s *apiServer) patch(q request, live *stored) (*stored, error) {
	var text []byte
	var err error
	switch {
	case strings.Contains(q.contentType, string(types.JSONPatchType)):
		patch, failed := jsonpatch.DecodePatch(q.body)
		if failed != nil {
			return nil, apierrors.NewBadRequest(failed.Error())
		}
		if text, err = patch.Apply(live.text()); err != nil { // the server's answer to a path that is missing
			return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
		}
	case strings.Contains(q.contentType, string(types.MergePatchType)):
		if text, err = jsonpatch.MergePatch(live.text(), q.body); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	default:
		return nil, apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "", schema.GroupResource{}, "", q.contentType, 0, false)
	}
	object := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(text, &object.Object); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return s.finish(q, live, object, object.GetResourceVersion())
}

// apply does a server-side apply.
func (s *apiServer) apply(q request, live *stored) (*stored, error) {
	object := &unstructured.Unstructured{}
	text, err := q.body, error(nil)
	if !bytes.HasPrefix(text, []byte("{")) { // JSON is YAML
		text, err = yaml.YAMLToJSON(text)
	}
	if err == nil {
		err = utiljson.Unmarshal(text, &object.Object)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	named := object.GetResourceVersion()
	if uid := object.GetUID(); live == nil && uid != "" { // a resourceVersion alone creates it
		return nil, conflict(q, "uid mismatch: the provided object specified uid "+string(uid)+", and no existing object was found")
	}
	if object.GetName() != q.name || object.GetNamespace() != "" && object.GetNamespace() != q.namespace {
		return nil, apierrors.NewBadRequest("the name in the path is not the object's")
	}
	manager, err := s.manager(q.kind.GroupVersionKind)
	if err != nil {
		return nil, err
	}
	var before runtime.Object = empty(q.kind.GroupVersionKind)
	if live != nil {
		before = live.object.DeepCopy()
	}
	object.SetNamespace(q.namespace)
	after, err := manager.Apply(before, object, q.manager, q.force)
	if err != nil {
		return nil, err
	}
	return s.store(q, live, after.(*unstructured.Unstructured), named)
}

// finish is the end of every write but an apply: who owns which field.
func (s *apiServer) finish(q request, live *stored, object *unstructured.Unstructured, named string) (*stored, error) {
	manager, err := s.manager(q.kind.GroupVersionKind)
	if err != nil {
		return nil, err
	}
	before := empty(q.kind.GroupVersionKind)
	if live != nil {
		before = live.object.DeepCopy()
	}
	object.SetGroupVersionKind(q.kind.GroupVersionKind)
	object.SetNamespace(q.namespace)
	after, err := manager.Update(before, object, q.manager)
	if err != nil {
		return nil, err
	}
	if q.kind.Kind == "Lease" {
		s.date(before, after.(*unstructured.Unstructured))
	}
	return s.store(q, live, after.(*unstructured.Unstructured), named)
}

// date gives what a write changed the time of the server's clock.
func (s *apiServer) date(before, after *unstructured.Unstructured) {
	entries := after.GetManagedFields()
	for i := range entries {
		if !slices.ContainsFunc(before.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool { return e.Time.Equal(entries[i].Time) }) {
			entries[i].Time = new(metav1.NewTime(time.Now().Add(s.skew)))
		}
	}
	after.SetManagedFields(entries)
}

// store checks an object and keeps it. named is the resourceVersion that the writer named.
func (s *apiServer) store(q request, live *stored, object *unstructured.Unstructured, named string) (*stored, error) {
	if live == nil {
		s.uids++
		object.SetUID(types.UID(fmt.Sprintf("uid-%d", s.uids)))
		object.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
		object.SetGeneration(1)
		unstructured.RemoveNestedField(object.Object, "status")
	} else {
		if named != "" && named != live.object.GetResourceVersion() {
			return nil, conflict(q, "the object has been modified; please apply your changes to the latest version and try again")
		}
		if uid := object.GetUID(); uid != "" && uid != live.object.GetUID() {
			return nil, conflict(q, "the UID in the precondition does not match")
		}
		object.SetUID(live.object.GetUID())
		object.SetCreationTimestamp(live.object.GetCreationTimestamp())
		object.SetDeletionTimestamp(live.object.GetDeletionTimestamp())
		object.SetGeneration(live.object.GetGeneration())
		keep(object, live.object, "status")
	}
	if err := check(q, live, object); err != nil {
		return nil, err
	}
	if live != nil && live.object.GetDeletionTimestamp() == nil && specChanged(q.kind, live.object, object) {
		object.SetGeneration(live.object.GetGeneration() + 1)
	}
	if live != nil {
		object.SetResourceVersion(live.object.GetResourceVersion())
		if same(live.object, object) {
			return live, nil
		}
	}
	if q.dryRun {
		return &stored{object: object}, nil
	}
	return s.put(q.kind, live, object), nil
}

func keep(object, live *unstructured.Unstructured, key string) {
	if value, ok := live.Object[key]; ok {
		object.Object[key] = value
		return
	}
	delete(object.Object, key)
}

// same says whether a write changed nothing but the times at which fields were owned.
func same(a, b *unstructured.Unstructured) bool {
	strip := func(o *unstructured.Unstructured) (map[string]any, []metav1.ManagedFieldsEntry) {
		content := maps.Clone(o.Object)
		metadata := maps.Clone(content["metadata"].(map[string]any))
		delete(metadata, "managedFields")
		content["metadata"] = metadata
		entries := o.GetManagedFields()
		for i := range entries {
			entries[i].Time = nil
		}
		return content, entries
	}
	content, entries := strip(a)
	others, theirs := strip(b)
	return reflect.DeepEqual(content, others) && reflect.DeepEqual(entries, theirs)
}

func specChanged(k kind, a, b *unstructured.Unstructured) bool {
	if k.Kind == "Deployment" && !maps.Equal(a.GetAnnotations(), b.GetAnnotations()) {
		return true
	}
	return !reflect.DeepEqual(a.Object["spec"], b.Object["spec"]) || !reflect.DeepEqual(a.Object["rules"], b.Object["rules"])
}

// check is what validation and admission refuse.
func check(q request, live *stored, object *unstructured.Unstructured) error {
	switch q.kind.Kind {
	case "Deployment":
		if err := defaultDeployment(object); err != nil {
			return err
		}
		if live != nil && !reflect.DeepEqual(nested(live.object, "spec", "selector"), nested(object, "spec", "selector")) {
			return apierrors.NewInvalid(q.kind.GroupKind(), q.name, field.ErrorList{field.Invalid(field.NewPath("spec", "selector"), "", "field is immutable")})
		}
		if problems := validateDeployment(object); len(problems) > 0 {
			return apierrors.NewInvalid(q.kind.GroupKind(), q.name, problems)
		}
	case "Job":
		return checkJob(q, live, object)
	case "Secret":
		if object.Object["type"] == nil {
			object.Object["type"] = string(corev1.SecretTypeOpaque)
		}
		return immutable(q, live, object)
	case "ConfigMap":
		if err := immutable(q, live, object); err != nil {
			return err
		}
		data, _, _ := unstructured.NestedStringMap(object.Object, "data")
		total := 0
		for key, value := range data {
			total += len(key) + len(value)
		}
		if total > 1<<20 {
			return apierrors.NewInvalid(q.kind.GroupKind(), q.name, field.ErrorList{field.TooLong(field.NewPath(""), "", 1<<20)})
		}
	case "Service":
		ports, _, _ := unstructured.NestedSlice(object.Object, "spec", "ports")
		for _, port := range ports {
			p := port.(map[string]any)
			for key, value := range map[string]any{"protocol": "TCP", "targetPort": p["port"]} {
				if p[key] == nil {
					p[key] = value
				}
			}
		}
		if len(ports) > 0 {
			return unstructured.SetNestedSlice(object.Object, ports, "spec", "ports")
		}
	case "HorizontalPodAutoscaler":
		if down, found, _ := unstructured.NestedMap(object.Object, "spec", "behavior", "scaleDown"); found && down["selectPolicy"] == nil {
			return unstructured.SetNestedField(object.Object, "Max", "spec", "behavior", "scaleDown", "selectPolicy")
		}
	case "HTTPRoute", "GRPCRoute":
		if err := defaultRoute(object); err != nil {
			return apierrors.NewInvalid(q.kind.GroupKind(), q.name, field.ErrorList{field.InternalError(nil, err)})
		}
	case "VirtualService":
		routes, _, _ := unstructured.NestedSlice(object.Object, "spec", "http")
		for _, route := range routes {
			destinations, _, _ := unstructured.NestedSlice(route.(map[string]any), "route")
			for _, d := range destinations {
				if weight, ok := d.(map[string]any)["weight"].(int64); ok && (weight < 0 || weight > 100) {
					return apierrors.NewBadRequest(fmt.Sprintf("admission webhook denied the request: weight %v < 0 or > 100", weight))
				}
			}
		}
	}
	return nil
}

// immutable refuses a change of what a ConfigMap or a Secret has (pkg/apis/core/validation: ValidateConfigMapUpdate,
// ValidateSecretUpdate).
func immutable(q request, live *stored, object *unstructured.Unstructured) error {
	if live == nil {
		return nil
	}
	refused := func(name string) error {
		return apierrors.NewInvalid(q.kind.GroupKind(), q.name, field.ErrorList{field.Forbidden(field.NewPath(name), "field is immutable when `immutable` is set")})
	}
	if q.kind.Kind == "Secret" && !reflect.DeepEqual(live.object.Object["type"], object.Object["type"]) {
		return refused("type")
	}
	if live.object.Object["immutable"] != true {
		return nil
	}
	for _, name := range []string{"immutable", "data", "binaryData"} {
		if !reflect.DeepEqual(live.object.Object[name], object.Object[name]) {
			return refused(name)
		}
	}
	return nil
}

// defaultDeployment fills in what Kubernetes does, as far as it shows in a pod template or in a roll-out
// (pkg/apis/apps/v1/defaults.go and pkg/apis/core/v1/defaults.go).
func defaultDeployment(object *unstructured.Unstructured) error {
	var d appsv1.Deployment
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &d); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	or := func(text *string, value string) { *text = cmp.Or(*text, value) }
	if d.Spec.Replicas == nil {
		d.Spec.Replicas = new(int32(1))
	}
	if d.Spec.RevisionHistoryLimit == nil {
		d.Spec.RevisionHistoryLimit = new(int32(10))
	}
	if d.Spec.ProgressDeadlineSeconds == nil {
		d.Spec.ProgressDeadlineSeconds = new(int32(600))
	}
	quarter := intstr.FromString("25%")
	if strategy := &d.Spec.Strategy; strategy.Type == "" || strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
		if strategy.RollingUpdate == nil {
			strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		if strategy.RollingUpdate.MaxUnavailable == nil {
			strategy.RollingUpdate.MaxUnavailable = &quarter
		}
		if strategy.RollingUpdate.MaxSurge == nil {
			strategy.RollingUpdate.MaxSurge = &quarter
		}
	}
	pod := &d.Spec.Template.Spec
	pod.RestartPolicy, pod.DNSPolicy = cmp.Or(pod.RestartPolicy, corev1.RestartPolicyAlways), cmp.Or(pod.DNSPolicy, corev1.DNSClusterFirst)
	or(&pod.SchedulerName, corev1.DefaultSchedulerName)
	if pod.TerminationGracePeriodSeconds == nil {
		pod.TerminationGracePeriodSeconds = new(int64(30))
	}
	if pod.SecurityContext == nil {
		pod.SecurityContext = &corev1.PodSecurityContext{}
	}
	for _, containers := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for i := range containers {
			c := &containers[i]
			or(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
			c.TerminationMessagePolicy = cmp.Or(c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
			c.ImagePullPolicy = cmp.Or(c.ImagePullPolicy, corev1.PullIfNotPresent)
			for j := range c.Ports {
				c.Ports[j].Protocol = cmp.Or(c.Ports[j].Protocol, corev1.ProtocolTCP)
			}
			for j := range c.Env {
				if from := c.Env[j].ValueFrom; from != nil && from.FieldRef != nil {
					or(&from.FieldRef.APIVersion, "v1")
				}
			}
			for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
				if probe == nil {
					continue
				}
				probe.TimeoutSeconds, probe.PeriodSeconds = cmp.Or(probe.TimeoutSeconds, 1), cmp.Or(probe.PeriodSeconds, 10)
				probe.SuccessThreshold, probe.FailureThreshold = cmp.Or(probe.SuccessThreshold, 1), cmp.Or(probe.FailureThreshold, 3)
				if probe.HTTPGet != nil {
					probe.HTTPGet.Scheme = cmp.Or(probe.HTTPGet.Scheme, corev1.URISchemeHTTP)
				}
			}
		}
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&d)
	if err != nil {
		return err
	}
	spec, _, err := unstructured.NestedMap(content, "spec")
	object.Object["spec"] = spec
	return err
}

// validateDeployment refuses a container that asks for more than its limit, or has no image, and a roll-out that could
// take no step (pkg/apis/core/validation and pkg/apis/apps/validation).
func validateDeployment(object *unstructured.Unstructured) (problems field.ErrorList) {
	var d appsv1.Deployment
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &d); err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	spec := field.NewPath("spec")
	if selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err != nil || !selector.Matches(labels.Set(d.Spec.Template.Labels)) {
		problems = append(problems, field.Invalid(spec.Child("template", "metadata", "labels"), d.Spec.Template.Labels, "`selector` does not match template `labels`"))
	}
	if rolling := d.Spec.Strategy.RollingUpdate; rolling != nil && rolling.MaxUnavailable.IntValue() == 0 && rolling.MaxSurge.IntValue() == 0 && rolling.MaxSurge.String() == "0" {
		problems = append(problems, field.Invalid(spec.Child("strategy", "rollingUpdate", "maxUnavailable"), 0, "may not be 0 when `maxSurge` is 0"))
	}
	pod := spec.Child("template", "spec")
	for of, containers := range map[string][]corev1.Container{"initContainers": d.Spec.Template.Spec.InitContainers, "containers": d.Spec.Template.Spec.Containers} {
		for i, c := range containers {
			at := pod.Child(of).Index(i)
			if c.Image == "" {
				problems = append(problems, field.Required(at.Child("image"), ""))
			}
			for name, request := range c.Resources.Requests {
				if limit, ok := c.Resources.Limits[name]; ok && request.Cmp(limit) > 0 {
					problems = append(problems, field.Invalid(at.Child("resources", "requests"), request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
				}
			}
		}
	}
	return problems
}

func nested(o *unstructured.Unstructured, path ...string) any {
	value, _, _ := unstructured.NestedFieldNoCopy(o.Object, path...)
	return value
}

// remove deletes an object, or notes that it is to go when those that it owns have gone.
func (s *apiServer) remove(q request, live *stored) (*stored, error) {
	var options metav1.DeleteOptions
	if len(q.body) > 0 {
		if err := json.Unmarshal(q.body, &options); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	if p := options.Preconditions; p != nil {
		if p.UID != nil && *p.UID != live.object.GetUID() || p.ResourceVersion != nil && *p.ResourceVersion != live.object.GetResourceVersion() {
			return nil, conflict(q, "Precondition failed")
		}
	}
	if q.dryRun || slices.Contains(options.DryRun, metav1.DryRunAll) {
		return live, nil
	}
	finalizer := ""
	if policy := options.PropagationPolicy; policy != nil {
		finalizer = map[metav1.DeletionPropagation]string{metav1.DeletePropagationForeground: metav1.FinalizerDeleteDependents, metav1.DeletePropagationOrphan: metav1.FinalizerOrphanDependents}[*policy]
	}
	object := live.object.DeepCopy() // a policy takes the place of the one of an earlier deletion
	object.SetFinalizers(slices.DeleteFunc(object.GetFinalizers(), func(f string) bool {
		return f == metav1.FinalizerDeleteDependents || f == metav1.FinalizerOrphanDependents
	}))
	if finalizer == "" && len(object.GetFinalizers()) == 0 {
		s.drop(q.kind, live)
		return live, nil
	}
	if object.GetDeletionTimestamp() == nil {
		now := metav1.NewTime(time.Now().Truncate(time.Second))
		object.SetDeletionTimestamp(&now)
		object.SetGeneration(object.GetGeneration() + 1)
	}
	if finalizer != "" && !slices.Contains(object.GetFinalizers(), finalizer) {
		object.SetFinalizers(append(object.GetFinalizers(), finalizer))
	}
	return s.put(q.kind, live, object), nil
}

// put stores an object as it is: the controllers write in this way, without ownership.
func (s *apiServer) put(k kind, live *stored, object *unstructured.Unstructured) *stored {
	return s.putTyped(k, live, object, nil)
}

// putTyped is put for who has the object in its own type as well.
func (s *apiServer) putTyped(k kind, live *stored, object *unstructured.Unstructured, typed metav1.Object) *stored {
	s.version++
	object.SetResourceVersion(strconv.FormatInt(s.version, 10))
	object.SetGroupVersionKind(k.GroupVersionKind)
	after := &stored{object: object}
	if typed != nil {
		typed.SetResourceVersion(object.GetResourceVersion())
		after.typed = typed
	}
	s.objects[place{k.plural, object.GetNamespace(), object.GetName()}] = after
	kind := watch.Modified
	if live == nil {
		kind = watch.Added
	}
	s.publish(event{kind, k.plural, s.version, live, after, s.by})
	return after
}

// drop removes an object at once.
func (s *apiServer) drop(k kind, live *stored) {
	s.version++
	delete(s.objects, place{k.plural, live.object.GetNamespace(), live.object.GetName()})
	last := live.object.DeepCopy()
	last.SetResourceVersion(strconv.FormatInt(s.version, 10))
	s.publish(event{watch.Deleted, k.plural, s.version, live, &stored{object: last}, s.by})
}

func (s *apiServer) publish(e event) {
	s.history = append(s.history, e)
	for w := range s.watches {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	for _, f := range s.changed {
		f(e)
	}
}

// manager is Kubernetes' own account of who owns which field.
func (s *apiServer) manager(gvk schema.GroupVersionKind) (*managedfields.FieldManager, error) {
	if m := s.managers[gvk]; m != nil {
		return m, nil
	}
	var m *managedfields.FieldManager
	var err error
	if strings.Contains(gvk.Group, "networking.istio.io") || gvk.Group == "gateway.networking.k8s.io" {
		m, err = managedfields.NewDefaultCRDFieldManager(managedfields.NewDeducedTypeConverter(), asIs{}, asIs{}, asIs{}, gvk, gvk.GroupVersion(), "", nil)
	} else {
		m, err = managedfields.NewDefaultFieldManager(typesOfKubernetes(), asIs{}, asIs{}, asIs{}, gvk, gvk.GroupVersion(), "", nil)
	}
	s.managers[gvk] = m
	return m, err
}

var typesOfKubernetes = sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(scheme.Scheme) })

// asIs converts between the one version that there is of each kind.
type asIs struct{}

func (asIs) Convert(in, out, _ any) error {
	return fmt.Errorf("%T cannot be made of %T", out, in)
}

func (asIs) ConvertToVersion(in runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	return in, nil
}

func (asIs) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

func (asIs) Default(runtime.Object) {}

func (asIs) New(gvk schema.GroupVersionKind) (runtime.Object, error) { return empty(gvk), nil }

func empty(gvk schema.GroupVersionKind) *unstructured.Unstructured {
	object := &unstructured.Unstructured{Object: map[string]any{}}
	object.SetGroupVersionKind(gvk)
	return object
}

// watching is the body of a watch's answer.
type watching struct {
	server  *apiServer
	request request
	next    int // of the history
	pending []byte
	wake    chan struct{}
	closed  chan struct{}
	once    sync.Once
	context <-chan struct{}
	timeout *time.Timer
}

func (s *apiServer) watch(r *http.Request, q request) *http.Response {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &watching{server: s, request: q, wake: make(chan struct{}, 1), closed: make(chan struct{}), context: r.Context().Done(), timeout: time.NewTimer(q.timeout), next: len(s.history)}
	if version, err := strconv.ParseInt(q.version, 10, 64); err == nil && version > 0 && !q.initial {
		w.next = slices.IndexFunc(s.history, func(e event) bool { return e.version > version })
		if w.next < 0 {
			w.next = len(s.history)
		}
	} else {
		for _, o := range s.each(q) {
			w.add(watch.Added, o.text())
		}
		if q.initial {
			mark := empty(q.kind.GroupVersionKind)
			mark.SetResourceVersion(strconv.FormatInt(s.version, 10))
			mark.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
			text, err := json.Marshal(mark.Object)
			if err != nil {
				panic(err)
			}
			w.add(watch.Bookmark, text)
		}
	}
	s.watches[w] = true
	return reply(r, http.StatusOK, w)
}

func (w *watching) add(kind watch.EventType, object []byte) {
	w.pending = fmt.Appendf(w.pending, `{"type":%q,"object":%s}`+"\n", kind, object)
}

func (w *watching) Read(p []byte) (int, error) {
	for len(w.pending) == 0 {
		w.server.mu.Lock()
		for ; w.next < len(w.server.history); w.next++ {
			e := w.server.history[w.next]
			if e.resource != w.request.kind.plural {
				continue
			}
			was, is := w.request.matches(e.before), e.kind != watch.Deleted && w.request.matches(e.after)
			switch {
			case is && was:
				w.add(watch.Modified, e.after.text())
			case is:
				w.add(watch.Added, e.after.text())
			case was: // gone, or no longer one of those that were asked for
				w.add(watch.Deleted, e.after.text())
			}
		}
		w.server.mu.Unlock()
		if len(w.pending) > 0 {
			break
		}
		select {
		case <-w.wake:
		case <-w.closed:
			return 0, io.EOF
		case <-w.context:
			return 0, io.EOF
		case <-w.timeout.C:
			return 0, io.EOF
		}
	}
	n := copy(p, w.pending)
	w.pending = w.pending[n:]
	return n, nil
}

func (w *watching) Close() error {
	w.once.Do(func() {
		close(w.closed)
		w.timeout.Stop()
		w.server.mu.Lock()
		delete(w.server.watches, w)
		w.server.mu.Unlock()
	})
	return nil
}
