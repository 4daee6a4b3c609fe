package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// steps are the crash points between the steps of every commit.
var steps = []string{
	"producer.takeover", "producer.fenced", "producer.opened",
	"producer.flush-encoded", "producer.part-appended", "producer.partitions-appended", "producer.home-appended",
	"query.producer-opened", "query.snapshot-loaded", "query.replayed", "query.results-emitted",
	"query.block-processed", "query.flushed", "query.snapshot-saved", "query.held",
	"archive.cut-recorded", "archive.object-put", "archive.position-saved",
}

// Killed between any two steps of any commit, the first and the third time that it comes there, the program
// loses and repeats nothing.
func TestCrashPoints(t *testing.T) {
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			// Objects are cut where a life ends, which the next one would not do if it did not know.
			s := newTraffic(t, trafficOptions{vehicles: 40, drained: true})
			s.client(s.positions, "all keys", false)
			s.client(s.crossings, "all keys", false)

			// The first life ends anywhere, so that the next ones have something to recover from: results of
			// every partition that are committed, as those are after which others have come, and no snapshot.
			p := s.pipeline.launch()
			for range 2 {
				s.report(200)
				s.awaitClients()
			}
			s.report(50)
			p.kill()
			for _, n := range []int{1, 3} {
				s.report(300)
				p := s.pipeline.launch(fmt.Sprintf("MILLRACE_CRASH_AT=%s:%d", step, n))
				for range 4 { // so that there are several flushes
					s.report(50)
					if s.positions.wait(p.ended, s.positions.clients()) != nil {
						break
					}
				}
				if s.crossings.wait(p.ended, s.crossings.clients()) == nil {
					// It has come through; some steps are only reached when the program ends in order.
					_ = p.command.Process.Signal(syscall.SIGTERM) // fails if it has ended
				}
				p.waitEnd()
				if !p.killed() {
					t.Fatalf("the step was not reached %d times; the program ended with %v", n, p.wait)
				}
			}
			p = s.pipeline.start()
			s.awaitClients()
			p.end(syscall.SIGTERM)
			s.settle()
		})
	}
}

// The list of steps is that of the sources, in the rooms that the scenario goes through.
func TestCrashPointsAreAll(t *testing.T) {
	var found []string
	call := regexp.MustCompile(`\bStep\("((?:producer|query|archive)\.[a-z-]+)"\)`)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "millracetest") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, match := range call.FindAllStringSubmatch(string(text), -1) {
			found = append(found, match[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(steps)
	slices.Sort(want)
	slices.Sort(found)
	if found = slices.Compact(found); !slices.Equal(found, want) {
		t.Errorf("the sources have the steps %q, and tested are %q", found, want)
	}
}
