package millracetest

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// CrashVariable is the environment variable that arms a crash point in another process: the step's
// name, or NAME:N for the N-th time that it is reached.
const CrashVariable = "MILLRACE_CRASH_AT"

// CrashFromEnv returns a Step function that kills its own process, as kill -9 does, when it comes to
// the step that CrashVariable names; without the variable it does nothing. It panics if the variable is malformed.
func CrashFromEnv() func(step string) {
	text := os.Getenv(CrashVariable)
	if text == "" {
		return func(string) {}
	}
	name, number, found := strings.Cut(text, ":")
	n := 1
	if found {
		var err error
		if n, err = strconv.Atoi(number); err != nil || n < 1 {
			panic(fmt.Sprintf("%s=%q is not NAME:N, such as producer.home-appended:3", CrashVariable, text))
		}
	}
	return CrashAt(name, n, func() {
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		if err != nil {
			panic(err)
		}
		select {} // the signal is on its way
	})
}

// CrashAt returns a Step function that calls crash when the step name is reached for the n-th time. It
// may be called concurrently.
func CrashAt(name string, n int, crash func()) func(step string) {
	var mu sync.Mutex
	return func(step string) {
		if step != name {
			return
		}
		mu.Lock()
		n--
		now := n == 0
		mu.Unlock()
		if now {
			crash()
		}
	}
}

// Crashed is what PanicAt panics with.
type Crashed struct{ Step string }

// PanicAt returns a Step function that panics when the step name is reached for the n-th time, for what
// runs in one goroutine: Survive catches it.
func PanicAt(name string, n int) func(step string) {
	return CrashAt(name, n, func() { panic(Crashed{name}) })
}

// Survive calls f and says whether it came to the crash of PanicAt.
func Survive(f func()) (crashed bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(Crashed); !ok {
				panic(r)
			}
			crashed = true
		}
	}()
	f()
	return false
}

// Steps records the steps that were reached, so that a test can crash at each of them. Its method Step
// is the Step function. The zero Steps is ready. It may be used concurrently.
type Steps struct {
	mu   sync.Mutex
	list []string
}

// Step records a step.
func (s *Steps) Step(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, name)
}

// List returns the steps in the order in which they were reached, repeats included.
func (s *Steps) List() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// Names returns the different steps, sorted.
func (s *Steps) Names() []string {
	names := s.List()
	slices.Sort(names)
	return slices.Compact(names)
}

// Count returns how often a step was reached.
func (s *Steps) Count(name string) int {
	n := 0
	for _, step := range s.List() {
		if step == name {
			n++
		}
	}
	return n
}
