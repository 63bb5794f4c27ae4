package kubelet

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// content is what a ConfigMap or a Secret has, by key; nil when there is none.
type content map[string][]byte

// configuration reads a ConfigMap or a Secret of a pod's namespace.
type configuration func(kind, name string) (content, error)

// configuration reads what a pod asks for from the API server, as it is now.
func (k *kubelet) configuration(ctx context.Context, namespace string) configuration {
	return func(kind, name string) (content, error) {
		found := content{}
		var err error
		switch kind {
		case "ConfigMap":
			var c *corev1.ConfigMap
			if c, err = k.Client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
				maps.Copy(found, c.BinaryData)
				for key, value := range c.Data {
					found[key] = []byte(value)
				}
			}
		default:
			var s *corev1.Secret
			if s, err = k.Client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
				maps.Copy(found, s.Data)
			}
		}
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return found, err
	}
}

// want reads one that has to be there, unless it is optional: then nil is nothing.
func (read configuration) want(kind, name string, optional *bool) (content, error) {
	found, err := read(kind, name)
	if err == nil && found == nil && (optional == nil || !*optional) {
		err = fmt.Errorf("%s %q not found", strings.ToLower(kind), name)
	}
	return found, err
}

// key reads one key; ok is false when it does not exist and need not.
func (read configuration) key(kind, name, key string, optional *bool) (value string, ok bool, err error) {
	found, err := read.want(kind, name, optional)
	if err != nil {
		return "", false, err
	}
	text, ok := found[key]
	if !ok && (optional == nil || !*optional) {
		return "", false, fmt.Errorf("couldn't find key %s in %s %s", key, kind, name)
	}
	return string(text), ok, nil
}

// from adds the variables of a container's envFrom.
func (read configuration) from(sources []corev1.EnvFromSource, env map[string]string) error {
	for _, source := range sources {
		var found content
		var err error
		switch {
		case source.ConfigMapRef != nil:
			found, err = read.want("ConfigMap", source.ConfigMapRef.Name, source.ConfigMapRef.Optional)
		case source.SecretRef != nil:
			found, err = read.want("Secret", source.SecretRef.Name, source.SecretRef.Optional)
		}
		if err != nil {
			return err
		}
		for key, value := range found {
			env[source.Prefix+key] = string(value)
		}
	}
	return nil
}

// variable is the value of a variable that comes from elsewhere; ok is false when there is none.
func (read configuration) variable(p *corev1.Pod, from *corev1.EnvVarSource) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = field(p, from.FieldRef.FieldPath)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		r := from.ConfigMapKeyRef
		return read.key("ConfigMap", r.Name, r.Key, r.Optional)
	case from.SecretKeyRef != nil:
		r := from.SecretKeyRef
		return read.key("Secret", r.Name, r.Key, r.Optional)
	}
	return "", false, fmt.Errorf("only plain values, fieldRef, configMapKeyRef and secretKeyRef are supported in the rehearsal")
}

// files are the files of a volume of ConfigMaps and Secrets, by their path in it; ok is false of another kind of volume.
func (read configuration) files(v *corev1.Volume) (files map[string][]byte, ok bool, err error) {
	files = map[string][]byte{}
	add := func(kind, name string, items []corev1.KeyToPath, optional *bool) error {
		found, err := read.want(kind, name, optional)
		if err != nil {
			return err
		}
		if len(items) == 0 {
			maps.Copy(files, found)
			return nil
		}
		for _, item := range items {
			text, has := found[item.Key]
			switch {
			case has:
				files[item.Path] = text
			case optional == nil || !*optional:
				return fmt.Errorf("couldn't find key %s in %s %s", item.Key, kind, name)
			}
		}
		return nil
	}
	switch {
	case v.ConfigMap != nil:
		err = add("ConfigMap", v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional)
	case v.Secret != nil:
		err = add("Secret", v.Secret.SecretName, v.Secret.Items, v.Secret.Optional)
	case v.Projected != nil:
		for _, source := range v.Projected.Sources {
			switch {
			case source.ConfigMap != nil:
				err = add("ConfigMap", source.ConfigMap.Name, source.ConfigMap.Items, source.ConfigMap.Optional)
			case source.Secret != nil:
				err = add("Secret", source.Secret.Name, source.Secret.Items, source.Secret.Optional)
			default:
				return nil, false, nil
			}
			if err != nil {
				break
			}
		}
	default:
		return nil, false, nil
	}
	return files, true, err
}

// write makes the folder of a volume, new at each start of a container.
func write(dir string, files map[string][]byte) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		file := filepath.Join(dir, path)
		if !filepath.IsLocal(path) {
			return fmt.Errorf("the path %q leads out of the volume", path)
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, files[path], 0o444); err != nil {
			return err
		}
	}
	return nil
}
