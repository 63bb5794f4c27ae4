package manifest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/kustomize/api/hasher"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// The pods of a release read copies of the app's ConfigMaps and Secrets, named by their content: a change of one is another
// pod template, reaches the canary first, and leaves primary's pods what they have, also when they restart.

// CopyLabel is on every copy, with the app's name, shortened to what a label may have.
const CopyLabel = "crossbill.our-org.github.com/configuration-of"

// Reference is a place in a pod that names a ConfigMap or a Secret.
type Reference struct {
	Kind, Name string
	Field      string   // below the pod's spec, for messages
	Keys       []string // that have to be there; none: whatever it has
	Optional   bool     // the pod starts without it
	// Node says that the node reads it, or a volume's driver, not a container: a credential, which is replaced when it expires
	// and must not come back with an old release.
	Node bool

	name *string
}

// References are all places in a pod that name a ConfigMap or a Secret.
func References(pod *corev1.PodSpec) (found []Reference) {
	add := func(kind, field string, name *string, optional *bool, keys ...string) {
		if *name != "" {
			found = append(found, Reference{Kind: kind, Name: *name, Field: field, Keys: keys, Optional: optional != nil && *optional, name: name})
		}
	}
	node := func(field string, name *string) {
		if name != nil && *name != "" {
			found = append(found, Reference{Kind: "Secret", Name: *name, Field: field, Node: true, name: name})
		}
	}
	environment := func(field string, from []corev1.EnvFromSource, env []corev1.EnvVar) {
		for i := range from {
			if r := from[i].ConfigMapRef; r != nil {
				add("ConfigMap", field+".envFrom", &r.Name, r.Optional)
			}
			if r := from[i].SecretRef; r != nil {
				add("Secret", field+".envFrom", &r.Name, r.Optional)
			}
		}
		for i := range env {
			source := env[i].ValueFrom
			if source == nil {
				continue
			}
			if r := source.ConfigMapKeyRef; r != nil {
				add("ConfigMap", field+".env["+env[i].Name+"]", &r.Name, r.Optional, r.Key)
			}
			if r := source.SecretKeyRef; r != nil {
				add("Secret", field+".env["+env[i].Name+"]", &r.Name, r.Optional, r.Key)
			}
		}
	}
	for i := range pod.InitContainers {
		c := &pod.InitContainers[i]
		environment("initContainers["+c.Name+"]", c.EnvFrom, c.Env)
	}
	for i := range pod.Containers {
		c := &pod.Containers[i]
		environment("containers["+c.Name+"]", c.EnvFrom, c.Env)
	}
	for i := range pod.EphemeralContainers {
		c := &pod.EphemeralContainers[i]
		environment("ephemeralContainers["+c.Name+"]", c.EnvFrom, c.Env)
	}
	items := func(items []corev1.KeyToPath) (keys []string) {
		for _, item := range items {
			keys = append(keys, item.Key)
		}
		return keys
	}
	for i := range pod.Volumes {
		v := &pod.Volumes[i]
		field := "volumes[" + v.Name + "]"
		if r := v.ConfigMap; r != nil {
			add("ConfigMap", field+".configMap", &r.Name, r.Optional, items(r.Items)...)
		}
		if r := v.Secret; r != nil {
			add("Secret", field+".secret", &r.SecretName, r.Optional, items(r.Items)...)
		}
		if v.Projected != nil {
			for j := range v.Projected.Sources {
				source := &v.Projected.Sources[j]
				if r := source.ConfigMap; r != nil {
					add("ConfigMap", field+".projected", &r.Name, r.Optional, items(r.Items)...)
				}
				if r := source.Secret; r != nil {
					add("Secret", field+".projected", &r.Name, r.Optional, items(r.Items)...)
				}
			}
		}
		driverSecrets(v, func(driver string, name *string) { node(field+"."+driver, name) })
	}
	for i := range pod.ImagePullSecrets {
		node(fmt.Sprintf("imagePullSecrets[%d]", i), &pod.ImagePullSecrets[i].Name)
	}
	return found
}

// driverSecrets calls node for the Secrets that the drivers of a volume read.
func driverSecrets(v *corev1.Volume, node func(driver string, name *string)) {
	local := func(driver string, r *corev1.LocalObjectReference) {
		if r != nil {
			node(driver, &r.Name)
		}
	}
	if d := v.AzureFile; d != nil {
		node("azureFile", &d.SecretName)
	}
	if d := v.CephFS; d != nil {
		local("cephfs", d.SecretRef)
	}
	if d := v.Cinder; d != nil {
		local("cinder", d.SecretRef)
	}
	if d := v.CSI; d != nil {
		local("csi", d.NodePublishSecretRef)
	}
	if d := v.FlexVolume; d != nil {
		local("flexVolume", d.SecretRef)
	}
	if d := v.ISCSI; d != nil {
		local("iscsi", d.SecretRef)
	}
	if d := v.RBD; d != nil {
		local("rbd", d.SecretRef)
	}
	if d := v.ScaleIO; d != nil {
		local("scaleIO", d.SecretRef)
	}
	if d := v.StorageOS; d != nil {
		local("storageos", d.SecretRef)
	}
}

// Copies are the immutable ConfigMaps and Secrets that the pods of a release read, in the order of their names.
type Copies struct {
	ConfigMaps []*corev1.ConfigMap
	Secrets    []*corev1.Secret
}

// WithoutConfiguration is the set without ConfigMaps and Secrets: pods read what the cluster has under their names, of which no
// release makes copies. It is what somebody else applies.
func (s *Set) WithoutConfiguration() *Set {
	own := *s
	own.ConfigMaps, own.Secrets = nil, nil
	return &own
}

// NeedsKey says whether pods read a Secret: then its content is only ever named by a hash with a key.
func (s *Set) NeedsKey() bool {
	return slices.ContainsFunc(References(&s.Deployment.Spec.Template.Spec), func(r Reference) bool { return r.Kind == "Secret" && !r.Node })
}

// Bind gives the set whose pods read copies of the ConfigMaps and Secrets that are in the manifests, what these copies are,
// and the configuration of its pods as the ledger keeps it, the watched ones without a hash. key is of the hashes of Secrets.
// A set that is bound already stays as it is. Errors are *usererr.Error.
func (s *Set) Bind(key []byte) (bound *Set, err error) {
	if s.NamesOnly || s.bound {
		return s, nil
	}
	copied := *s
	bound = &copied
	bound.Deployment, bound.bound, bound.Copies, bound.Config = s.Deployment.DeepCopy(), true, Copies{}, nil
	seen := map[string]string{} // the copy's name, "" of what others own, by kind and name
	for _, r := range References(&bound.Deployment.Spec.Template.Spec) {
		if r.Node {
			continue
		}
		id := r.Kind + " " + r.Name
		name, known := seen[id]
		if !known {
			if name, err = bound.copyOf(r, key); err != nil {
				return nil, err
			}
			seen[id] = name
			bound.Config = append(bound.Config, release.Config{Kind: r.Kind, Name: r.Name, Copy: name})
		}
		if name != "" {
			*r.name = name
		}
	}
	release.SortConfig(bound.Config)
	byName := func(a, b metav1.Object) int { return strings.Compare(a.GetName(), b.GetName()) }
	slices.SortFunc(bound.Copies.ConfigMaps, func(a, b *corev1.ConfigMap) int { return byName(a, b) })
	slices.SortFunc(bound.Copies.Secrets, func(a, b *corev1.Secret) int { return byName(a, b) })
	return bound, nil
}

// copyOf adds the copy of what a reference names, and gives its name; "" when it is not in the manifests.
func (s *Set) copyOf(r Reference, key []byte) (name string, err error) {
	switch r.Kind {
	case "ConfigMap":
		own := s.ConfigMaps[r.Name]
		if own == nil {
			return "", nil
		}
		hash, err := configMapHash(own)
		if err != nil {
			return "", err
		}
		made := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: r.Kind}, ObjectMeta: s.copyMeta(own, hash), Data: own.Data, BinaryData: own.BinaryData, Immutable: new(true)}
		s.Copies.ConfigMaps = append(s.Copies.ConfigMaps, made)
		return made.Name, s.checkCopyName(r.Kind, own.Name, made.Name)
	default:
		own := s.Secrets[r.Name]
		if own == nil {
			return "", nil
		}
		data := SecretData(own)
		name, err := generatedName(own.Name, "Secret", own)
		if err != nil {
			return "", err
		}
		made := &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: r.Kind}, ObjectMeta: s.copyMeta(own, SecretHash(key, own.Type, data)), Type: own.Type, Data: data, Immutable: new(true)}
		if name != "" {
			made.Name = name
		}
		s.Copies.Secrets = append(s.Copies.Secrets, made)
		return made.Name, s.checkCopyName(r.Kind, own.Name, made.Name)
	}
}

// copyMeta is the metadata of a copy.
func (s *Set) copyMeta(own metav1.Object, hash string) metav1.ObjectMeta {
	labels := maps.Clone(own.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	labels[CopyLabel] = CopyLabelValue(s.App)
	name := own.GetName()
	if !strings.HasSuffix(name, "-"+hash) {
		name += "-" + hash
	}
	return metav1.ObjectMeta{Name: name, Labels: labels, Annotations: maps.Clone(own.GetAnnotations())}
}

func (s *Set) checkCopyName(kind, own, name string) error {
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		return s.problem(kind, own, "metadata.name", "its copies, "+name+", would have no valid name", "give it a shorter name")
	}
	return nil
}

// CopyLabelValue is an app's name as a label's value, which has 63 characters at most.
func CopyLabelValue(app string) string {
	if len(app) <= validation.LabelValueMaxLength {
		return app
	}
	return app[:validation.LabelValueMaxLength-11] + "-" + short(sha256Hex([]byte(app)))
}

// configMapHash is Kustomize's hash of a ConfigMap, for its own name or, where that ends with this hash already, for the
// name before it (sigs.k8s.io/kustomize/api/hasher).
func configMapHash(own *corev1.ConfigMap) (string, error) {
	if name, err := generatedName(own.Name, "ConfigMap", own); name != "" || err != nil {
		return own.Name[len(own.Name)-10:], err
	}
	return kustomizeHash(own.Name, "ConfigMap", own)
}

// generatedName is the name of an object if Kustomize's generators have made it, which is when it ends with the hash of its
// content; else "".
func generatedName(name, kind string, object any) (string, error) {
	cut := len(name) - 11
	if cut < 1 || name[cut] != '-' {
		return "", nil
	}
	hash, err := kustomizeHash(name[:cut], kind, object)
	if err != nil || hash != name[cut+1:] {
		return "", err
	}
	return name, nil
}

func kustomizeHash(name, kind string, object any) (string, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return "", err
	}
	node, err := kyaml.Parse(string(text))
	if err != nil {
		return "", err
	}
	for field, value := range map[string]string{"apiVersion": "v1", "kind": kind} {
		if err := node.PipeE(kyaml.SetField(field, kyaml.NewStringRNode(value))); err != nil {
			return "", err
		}
	}
	if err := node.SetName(name); err != nil {
		return "", err
	}
	return (&hasher.Hasher{}).Hash(node)
}

// SecretData is what the API server keeps of a Secret: stringData is written over data.
func SecretData(s *corev1.Secret) map[string][]byte {
	data := maps.Clone(s.Data)
	if data == nil {
		data = map[string][]byte{}
	}
	for key, value := range s.StringData {
		data[key] = []byte(value)
	}
	return data
}

// SecretHash identifies the content of a Secret without showing it: an HMAC (RFC 2104) with a key that the cluster keeps, in
// the form of Kustomize's hashes.
func SecretHash(key []byte, kind corev1.SecretType, data map[string][]byte) string {
	return keyed(key, struct {
		Type corev1.SecretType
		Data map[string][]byte
	}{kind, data})
}

// ConfigMapHash identifies the content of a ConfigMap that others own.
func ConfigMapHash(c *corev1.ConfigMap) string {
	return keyed(nil, struct {
		Data   map[string]string
		Binary map[string][]byte
	}{c.Data, c.BinaryData})
}

// keyed is an HMAC of a value's JSON, in which the keys of maps are sorted.
func keyed(key []byte, value any) string {
	mac := hmac.New(sha256.New, key)
	if err := json.NewEncoder(mac).Encode(value); err != nil {
		panic(err) // maps of strings and bytes have a JSON form
	}
	return short(hex.EncodeToString(mac.Sum(nil)))
}

func sha256Hex(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// short is a hash in Kustomize's form: ten characters, none of them a vowel that could make a word.
func short(hash string) string {
	return strings.NewReplacer("0", "g", "1", "h", "3", "k", "a", "m", "e", "t").Replace(hash[:10])
}

// checkConfiguration finds a key that pods ask for and that the manifests' own ConfigMap or Secret does not have.
func (s *Set) checkConfiguration() error {
	for _, r := range References(&s.Deployment.Spec.Template.Spec) {
		if r.Optional || r.Node {
			continue
		}
		for _, key := range r.Keys {
			if s.owns(r) && !s.has(r, key) {
				return &usererr.Error{
					Field:   fmt.Sprintf("%s: Deployment %s: spec.template.spec.%s", s.origins["Deployment"], s.Deployment.Name, r.Field),
					Problem: fmt.Sprintf("%s %s has no key %q", r.Kind, r.Name, key),
					Fix:     "add the key, name another one, or say optional: true",
				}
			}
		}
	}
	return nil
}

func (s *Set) owns(r Reference) bool {
	return r.Kind == "ConfigMap" && s.ConfigMaps[r.Name] != nil || r.Kind == "Secret" && s.Secrets[r.Name] != nil
}

func (s *Set) has(r Reference, key string) bool {
	if r.Kind == "ConfigMap" {
		own := s.ConfigMaps[r.Name]
		_, text := own.Data[key]
		_, binary := own.BinaryData[key]
		return text || binary
	}
	_, ok := SecretData(s.Secrets[r.Name])[key]
	return ok
}
