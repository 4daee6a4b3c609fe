package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// The test binary is the program when a script calls it millrace.
func TestMain(m *testing.M) {
	testscript.Main(leakless{m}, map[string]func(){
		"millrace": func() { os.Exit(program()) },
		"hang":     hang,
		"survive":  survive,
	})
}

// leakless fails tests that leave goroutines behind.
type leakless struct{ *testing.M }

func (m leakless) Run() int {
	code := m.M.Run()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// hang is a program whose drain takes for ever. It signals itself: twice at once, which counts once, and
// again later.
func hang() {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		panic(err)
	}
	signal := func() {
		if err := self.Signal(os.Interrupt); err != nil {
			panic(err)
		}
	}
	ctx, stop := untilSignal(context.Background(), os.Stderr)
	defer stop()
	signal()
	signal()
	<-ctx.Done()
	time.Sleep(2 * sameSignal)
	fmt.Println("draining")
	signal()
	select {}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Cmds:                commands(),
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or each program takes a second longer with -race
			return nil
		},
	})
}
