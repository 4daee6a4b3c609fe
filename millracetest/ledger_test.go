package millracetest_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

func TestLedgerBalances(t *testing.T) {
	l := millracetest.NewLedger()
	for range 100_000 {
		_, id := l.Send("bus")
		l.ArrivedID("stream", id)
		l.Sent("tram", l.NumberSent()/2, "tram "+id)
		l.Arrived("stream", "tram", l.NumberSent()/2-1, "tram "+id)
	}
	l.Sent("tram", 0, "tram bus#0") // again
	l.Check(t, "stream")
	if sent, arrived := l.NumberSent(), l.NumberArrived("stream"); sent != 200_000 || arrived != sent {
		t.Errorf("%d sent, %d arrived", sent, arrived)
	}
}

func TestLedgerFinds(t *testing.T) {
	l := millracetest.NewLedger()
	for range 5 {
		l.Send("a")
		l.Send("b#")
	}
	for _, id := range []string{"a#0", "a#2", "a#1", "a#2", "b##3", "a#9", "nonsense"} {
		l.ArrivedID("client", id)
	}
	l.Arrived("client", "a", 3, "another id")
	l.Expect("archive")
	report := l.Report()
	if report.OK() || len(report) != 2 {
		t.Fatalf("the report is\n%s", report)
	}
	if p := report[0]; p.Place != "archive" || p.Sent != 10 || p.Lost != 10 || p.Arrived != 0 {
		t.Errorf("archive: %+v", p)
	}
	if p := report[1]; p.Arrived != 4 || p.Lost != 6 || p.Repeated != 1 || p.Reordered != 1 || p.Unknown != 3 {
		t.Errorf("client: %+v", p)
	}
	for _, want := range []string{
		`client: event 1 of key "a" (id "a#1") arrived after event 2`,
		`client: event 2 of key "a" (id "a#2") arrived again`,
		`client: event 3 of key "a" never arrived`,
		`client: event 9 of key "a" with id "a#9" was never sent`,
		`client: event 0 of key "b#" never arrived`,
	} {
		if !strings.Contains(report.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, report)
		}
	}
}

func TestClockMovesWhenTold(t *testing.T) {
	c := millracetest.NewClock()
	start := c.Now()
	if c.Advance(-time.Hour); !c.Now().Equal(start.Add(-time.Hour)) {
		t.Errorf("the clock shows %s", c.Now())
	}
	if c.Set(start); !c.Now().Equal(start) {
		t.Errorf("the clock shows %s", c.Now())
	}
}

func TestCrashPoints(t *testing.T) {
	var steps millracetest.Steps
	work := func(step func(string)) {
		for _, name := range []string{"room.begun", "room.written", "room.begun"} {
			steps.Step(name)
			step(name)
		}
	}
	if millracetest.Survive(func() { work(millracetest.PanicAt("room.begun", 3)) }) {
		t.Error("crashed at a step that is reached twice only")
	}
	if got := strings.Join(steps.List(), " "); got != "room.begun room.written room.begun" {
		t.Errorf("the steps are %s", got)
	}
	if !millracetest.Survive(func() { work(millracetest.PanicAt("room.begun", 2)) }) {
		t.Error("did not crash")
	}
	if n := steps.Count("room.begun"); n != 4 || len(steps.Names()) != 2 {
		t.Errorf("begun %d times, names %v", n, steps.Names())
	}
}

// TestCrashFromEnv runs the test binary again: it must die of SIGKILL, in the middle.
func TestCrashFromEnv(t *testing.T) {
	step := millracetest.CrashFromEnv()
	if os.Getenv(millracetest.CrashVariable) != "" {
		for _, name := range []string{"a", "b", "a"} {
			step(name)
			fmt.Println("survived", name)
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{
		"a":   "",
		"a:2": "survived a\nsurvived b\n",
		"c":   "survived a\nsurvived b\nsurvived a\nPASS\n",
	} {
		command := exec.CommandContext(t.Context(), self, "-test.run=^TestCrashFromEnv$")
		command.Env = append(os.Environ(), millracetest.CrashVariable+"="+at)
		out, err := command.Output()
		if string(out) != want || (err == nil) != strings.Contains(want, "PASS") {
			t.Errorf("%s: %v, output %q, want %q", at, err, out, want)
		}
	}
}
