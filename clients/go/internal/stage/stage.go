// Package stage runs a simulator and an installed daemon in front of it, for tests.
package stage

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Stage is where the two listen: URLs, but for GRPC (host:port) and Socket (a path).
type Stage struct {
	HTTP, GRPC, Socket, Simulator string
}

// Address is the daemon's unix socket as gRPC names it.
func (s *Stage) Address() string { return "unix:" + s.Socket }

// Start runs a stage until the test ends. Settings are the daemon's, such as AUTH__DEFAULT_ROLE=admin. It needs `make dev`.
func Start(t testing.TB, settings ...string) *Stage {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	root, err := filepath.Abs(filepath.Join(filepath.Dir(file), "..", "..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(filepath.Join(root, ".venv", "bin", "python"), append([]string{"-m", "tests.stage"}, settings...)...)
	command.Dir = root
	var told strings.Builder
	command.Stderr = &told
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatalf("the stage needs what `make dev` installs: %v", err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = command.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		_ = command.Wait()
		t.Fatalf("no stage: %v\n%s", err, told.String())
	}
	stage := &Stage{}
	if err := json.Unmarshal(line, stage); err != nil {
		t.Fatal(err)
	}
	return stage
}

// Fault makes the simulator misbehave by this rule, and by no others; docs/simulator.md has them.
func (s *Stage) Fault(t testing.TB, rule string) {
	t.Helper()
	s.tell(t, "DELETE", "faults", "")
	s.tell(t, "POST", "faults", rule)
}

// Answer makes the simulator answer an endpoint that it does not have.
func (s *Stage) Answer(t testing.TB, rule string) {
	t.Helper()
	s.tell(t, "POST", "answers", rule)
}

func (s *Stage) tell(t testing.TB, method, what, rule string) {
	t.Helper()
	request, err := http.NewRequest(method, s.Simulator+"/_simulator/"+what, strings.NewReader(rule))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		said, _ := io.ReadAll(answer.Body)
		t.Fatalf("%s: %s", answer.Status, said)
	}
}

// Gone waits until the last call with this text in its prompt is over at the simulator.
func (s *Stage) Gone(t testing.TB, text string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for s.Last(t, "text="+text).TookS == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("the call with %q is still in the air", text)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Visit is a call as the simulator saw it.
type Visit struct {
	TookS float64 `json:"took_s"` // 0 until it is over
	Size  int64   `json:"body_bytes"`
	Hash  string  `json:"body_sha256"`
}

// Last returns the last call that the journal has for this query.
func (s *Stage) Last(t testing.TB, query string) Visit {
	t.Helper()
	answer, err := http.Get(s.Simulator + "/_simulator/journal?newest=1&" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var said struct{ Visits []Visit }
	if err := json.NewDecoder(answer.Body).Decode(&said); err != nil || len(said.Visits) != 1 {
		t.Fatal(err, said)
	}
	return said.Visits[0]
}
