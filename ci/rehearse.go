package main

import "github.com/our-org/crossbill/ci/internal/dagger"

// Rehearse whole releases in one container: control plane, mesh, GitLab double, real traffic
//
// It is `make rehearse`, on whatever machine the engine has: three versions of the app go through a real control plane
// and mesh under load, one of them bad. Returns the folder of its results: report.html, rehearsal.json and logs. The
// container is privileged, for the namespaces of the pods. The first rehearsal on an engine builds the control plane,
// which takes 10 to 20 minutes on two cores.
// +cache="never"
func (m *Crossbill) Rehearse(
	// The whole repository.
	// +defaultPath="/"
	// +ignore=[".git", "bin", "out", "**/node_modules", "app/dist", "app/server", "app/sbom"]
	repository *dagger.Directory,
) *dagger.Directory {
	rehearsed := dag.Container().From(m.NodeImage).
		WithExec([]string{"apt-get", "update"}).
		WithExec([]string{"apt-get", "install", "--yes", "--no-install-recommends", "ca-certificates", "git", "make", "python3", "python3-pip"}).
		WithDirectory("/usr/local/go", dag.Container().From(m.GoImage).Directory("/usr/local/go")).
		WithEnvVariable("PATH", "/usr/local/go/bin:${PATH}", dagger.ContainerWithEnvVariableOpts{Expand: true}).
		WithMountedCache("/root/go", dag.CacheVolume("crossbill-rehearsal-modules")).
		WithMountedCache("/root/.cache", dag.CacheVolume("crossbill-rehearsal-cache")).
		WithMountedCache("/root/.npm", dag.CacheVolume("crossbill-rehearsal-npm")).
		WithDirectory("/repository", repository).
		WithWorkdir("/repository")
	return fresh(rehearsed).
		WithExec([]string{"make", "rehearse", "OUT=/out"}, dagger.ContainerWithExecOpts{InsecureRootCapabilities: true}).
		Directory("/out")
}
