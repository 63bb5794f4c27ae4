// Runner is GitLab's runner for jobs in a shell, from its module: what the release jobs of a pipeline run by, against a
// coordinator that a test controls (rehearsal/gitlab).
//
// It has the commands that poll for jobs and those that a job's script calls: artifacts and cache. Left out are the other
// executors, `register` and what else a person calls. The modules in standin/ replace those of GitLab's that a module proxy does
// not have; they are named there, and none is on the way of a job with a `script:`.
package main

import (
	"log"
	"os"

	"github.com/urfave/cli"
	"gitlab.com/gitlab-org/gitlab-runner/commands"
	"gitlab.com/gitlab-org/gitlab-runner/commands/helpers"
	"gitlab.com/gitlab-org/gitlab-runner/common"
	"gitlab.com/gitlab-org/gitlab-runner/executors"
	"gitlab.com/gitlab-org/gitlab-runner/executors/shell"
	runnerlog "gitlab.com/gitlab-org/gitlab-runner/log"
	"gitlab.com/gitlab-org/gitlab-runner/network"
	_ "gitlab.com/gitlab-org/gitlab-runner/shells" // registers bash
)

func main() {
	self, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	providers := executors.NewProviderRegistry(map[string]common.ExecutorProvider{"shell": shell.NewProvider(self)})
	requests := network.NewAPIRequestsCollector()
	client := network.NewGitLabClient(
		network.WithAPIRequestsCollector(requests),
		network.WithCertificateDirectory(commands.GetDefaultCertificateDirectory()),
		network.WithExecutorProviderFunc(providers.GetByName),
	)
	app := cli.NewApp()
	app.Name, app.Usage, app.Version = "gitlab-runner", "GitLab's runner, for jobs in a shell", common.AppVersion.ShortLine()
	app.Commands = []cli.Command{
		commands.NewRunCommand(client, requests, providers),
		helpers.NewArtifactsDownloaderCommand(), helpers.NewArtifactsUploaderCommand(),
		helpers.NewCacheArchiverCommand(), helpers.NewCacheExtractorCommand(),
	}
	runnerlog.ConfigureLogging(app)
	if err := app.Run(os.Args); err != nil {
		log.Fatal(err)
	}
}
