package kubelet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// A rootfs is the file system that one process of a container sees: its image, with a layer of
// its own on top that lives in memory.
type rootfs struct {
	dir  string // the root
	base string // all of it, removed at the end
}

// makeVolumes makes the container's volumes and returns the folder for each path in the container.
func makeVolumes(p *corev1.Pod, c *corev1.Container, base string, read configuration) (map[string]string, error) {
	volumes := map[string]string{}
	for _, mount := range c.VolumeMounts {
		for _, v := range p.Spec.Volumes {
			switch {
			case v.Name != mount.Name:
			case v.EmptyDir != nil && mount.SubPath == "":
				dir := filepath.Join(base, v.Name)
				if err := os.MkdirAll(dir, 0o777); err != nil {
					return nil, err
				}
				if err := os.Chmod(dir, 0o777); err != nil { // whatever the umask is
					return nil, err
				}
				volumes[mount.MountPath] = dir
			case v.Projected != nil && strings.HasPrefix(v.Name, "kube-api-access-"): // added by the API server
			default:
				files, ok, err := read.files(&v)
				switch {
				case err != nil:
					return nil, fmt.Errorf("volume %s: %w", v.Name, err)
				case !ok || mount.SubPath != "":
					return nil, fmt.Errorf("volume %s is neither an emptyDir nor made of ConfigMaps and Secrets, or a part of one is mounted: not supported in the rehearsal", v.Name)
				}
				dir := filepath.Join(base, c.Name, v.Name) // of this container alone: the other ones may start later
				if err := write(dir, files); err != nil {
					return nil, err
				}
				volumes[mount.MountPath] = dir
			}
		}
	}
	return volumes, nil
}

// devices are those that every container has.
var devices = []string{"null", "zero", "full", "random", "urandom"}

func mountRootfs(base, image string, volumes map[string]string, readOnly bool) (*rootfs, error) {
	r := &rootfs{base: base, dir: filepath.Join(base, "root")}
	if err := r.mount(image, volumes, readOnly); err != nil {
		r.unmount()
		return nil, fmt.Errorf("root file system: %w", err)
	}
	return r, nil
}

func (r *rootfs) mount(image string, volumes map[string]string, readOnly bool) error {
	upper, work := filepath.Join(r.base, "upper"), filepath.Join(r.base, "work")
	for _, dir := range []string{r.dir, upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := syscall.Mount("overlay", r.dir, "overlay", 0, "lowerdir="+image+",upperdir="+upper+",workdir="+work); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	// os.Root keeps the image's own links from leading outside.
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	bind := func(from, to string) error {
		if err := root.MkdirAll(to, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return syscall.Mount(from, filepath.Join(r.dir, to), "", syscall.MS_BIND|syscall.MS_REC, "")
	}
	if err := bind("/proc", "proc"); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := root.MkdirAll("dev", 0o755); err != nil {
		return err
	}
	for _, d := range devices {
		f, err := root.Create("dev/" + d)
		if err != nil {
			return err
		}
		f.Close()
		if err := syscall.Mount("/dev/"+d, filepath.Join(r.dir, "dev", d), "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount /dev/%s: %w", d, err)
		}
	}
	for path, dir := range volumes {
		if err := bind(dir, strings.TrimPrefix(filepath.Clean(path), "/")); err != nil {
			return fmt.Errorf("mount volume at %s: %w", path, err)
		}
	}
	if readOnly {
		if err := syscall.Mount("", r.dir, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("remount read-only: %w", err)
		}
	}
	return nil
}

// unmount gives everything back. Detaching the root takes what is mounted below it along.
func (r *rootfs) unmount() {
	if err := syscall.Unmount(r.dir, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
		return // rather leave the folder than remove what is still mounted in it
	}
	_ = os.RemoveAll(r.base)
}
