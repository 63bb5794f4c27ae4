package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/rehearsal/browser"
)

// held are the addresses in a rehearsal that keeps running, as it has printed them: HOST:PORT.
type held struct{ app, registry string }

// rehearseAndHold runs `make rehearse HOLD=1`. When everything keeps running, it calls do, and then ends the rehearsal as Ctrl-C
// does.
func rehearseAndHold(t *testing.T, root, out string, do func(held)) {
	// With the flags of the tests, both programs are there already.
	cmd := exec.CommandContext(t.Context(), "make", "rehearse", "HOLD=1", "OUT="+out, "GOFLAGS="+os.Getenv("GOFLAGS"))
	cmd.Dir, cmd.Stderr = root, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(io.TeeReader(stdout, os.Stdout))
	at, holds := map[string]string{}, false
	for !holds && lines.Scan() {
		if found := regexp.MustCompile(`^ +(registry|the app) +http://([^/ ]+)`).FindStringSubmatch(lines.Text()); found != nil {
			at[found[1]] = found[2]
		}
		holds = strings.Contains(lines.Text(), "bin/crossbill verify") // the last line
	}
	if !holds || len(at) < 2 {
		t.Fatalf("make rehearse: %v (it has printed %v)", cmd.Wait(), at)
	}
	do(held{app: at["the app"], registry: at["registry"]})
	if err := cmd.Cancel(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	// make says that it was interrupted; that the rehearsal succeeded is known from its last line.
	if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
}

// followTutorial runs each command of docs/tutorials/rehearsal.md in the held rehearsal, and expects the exit code that the page
// says, or 0. It looks at the app's page while the bad version has its share of the traffic.
func followTutorial(t *testing.T, root, out string, at held) {
	page, err := os.ReadFile(filepath.Join(root, "docs/tutorials/rehearsal.md"))
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("out/", out+"/", "127.0.0.1:5000", at.registry)
	shell := func(line string) (string, int) {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", line)
		cmd.Dir = root
		// In a job of CI, --approve-as-operator would be refused: a job is no person.
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
			return strings.HasPrefix(v, "GITHUB_") || strings.HasPrefix(v, "GITLAB_") || strings.HasPrefix(v, "CI")
		})
		output, err := cmd.CombinedOutput()
		if failed := new(exec.ExitError); err != nil && !errors.As(err, &failed) {
			t.Fatal(err)
		}
		return string(output), cmd.ProcessState.ExitCode()
	}
	exports, ran := "", 0
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		for line := range strings.Lines(here.Replace(block[1])) {
			if strings.HasPrefix(line, "make rehearse") {
				continue
			}
			if strings.HasPrefix(line, "export ") {
				exports = line
				continue
			}
			want := 0
			if found := regexp.MustCompile(`# exit code (\d+)`).FindStringSubmatch(line); found != nil {
				want, _ = strconv.Atoi(found[1])
			}
			output, code := shell(exports + line)
			t.Logf("%s%s", line, output)
			if ran++; code != want {
				t.Fatalf("%sexit code %d, want %d", line, code, want)
			}
			if strings.Contains(line, "crossbill canary") && strings.Contains(line, ":1.2.0)") {
				t.Run("board", func(t *testing.T) { lookAtBoard(t, "http://"+at.app) })
			}
		}
	}
	if ran < 10 {
		t.Errorf("the tutorial has only %d commands", ran)
	}
	output, _ := shell(exports + "bin/crossbill history -o json")
	var history struct {
		Items []struct{ Outcome string }
	}
	if err := json.Unmarshal([]byte(output), &history); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	var got []string
	for _, item := range history.Items[:min(3, len(history.Items))] {
		got = append(got, item.Outcome)
	}
	if diff := cmp.Diff([]string{"rolled_back", "promoted", "rolled_back"}, got); diff != "" {
		t.Errorf("the tutorial's releases, the last one first:\n%s", diff)
	}
}

// lookAtBoard opens the app's page while a canary has 10% of the traffic and 30% errors: it shows the share and the errors.
func lookAtBoard(t *testing.T, address string) {
	w := browser.Open(t, 1100, 720)
	w.Do(chromedp.Navigate(address))
	browser.Evaluate[chromedp.Void](w, `(() => { const i = document.querySelector("input[type=range]"); i.value = 20; i.dispatchEvent(new Event("input", {bubbles: true})) })()`)
	shown := regexp.MustCompile(`(?s)1\.1\.0 primary.*1\.2\.0 canary.*error|1\.2\.0 canary.*error.*1\.1\.0 primary`)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		board := browser.Evaluate[string](w, `document.querySelector(".board").innerText`)
		answers := browser.Evaluate[int](w, `Number(document.querySelector("output[aria-label=answers]").textContent)`)
		if answers >= 110 && shown.MatchString(board) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("within a minute, the board does not show the canary and its errors:\n%s", board)
		}
	}
	w.Screenshot("board.png", 1100, 720)
}
