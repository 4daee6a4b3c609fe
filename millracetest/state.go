package millracetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/millrace/millrace"
)

// StateHarness is a state under test, open and empty.
type StateHarness struct {
	State millrace.State
	// Reopen abandons the state as a crash does and opens it again; nil if that is not possible.
	Reopen func(t *testing.T) millrace.State
}

// State is the conformance suite of millrace.State. open is called once in each subtest; what it opens
// it closes by t.Cleanup.
func State(t *testing.T, open func(t *testing.T) *StateHarness) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, h *StateHarness)
	}{
		{"not found", stateNotFound},
		{"save and load", stateSaveAndLoad},
		{"names", stateNames},
		{"conflict", stateConflict},
		{"race", stateRace},
		{"large value", stateLarge},
		{"failing write", stateFailingWrite},
		{"isolation", stateIsolation},
		{"context", stateContext},
		{"reopen", stateReopen},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func stateNotFound(t *testing.T, h *StateHarness) {
	_, version, err := h.State.Load(t.Context(), "archive/positions")
	wantCode(t, "Load of what was never saved", err, millrace.NotFound)
	if version != 0 {
		t.Errorf("its version is %d", version)
	}
	_, err = h.State.Save(t.Context(), "archive/positions", 7, writes("x"))
	wantCode(t, "Save over a version that is not there", err, millrace.Conflict)
}

func stateSaveAndLoad(t *testing.T, h *StateHarness) {
	version := uint64(0)
	for _, value := range []string{"one", "", "three", "a longer value\nof two lines"} {
		version = save(t, h.State, "query/crossings", version, []byte(value))
	}
	save(t, h.State, "query/crossings/0", 0, []byte("another name"))
	wantValue(t, h.State, "query/crossings", version, []byte("a longer value\nof two lines"))
}

func stateNames(t *testing.T, h *StateHarness) {
	for i, name := range []string{"a", "a/b", "a.b", "a-b", "a_b", "A", "A/b/C.d", ".", "..", "a.v.b", "0"} {
		save(t, h.State, name, 0, []byte(name))
		if i > 0 {
			wantValue(t, h.State, "a", 1, []byte("a"))
		}
	}
	for _, name := range []string{"", "/", "a/", "/a", "a//b", "a b", "a*", "a>", "ä", "a=b", "a\nb"} {
		_, err := h.State.Save(t.Context(), name, 0, writes("x"))
		wantCode(t, fmt.Sprintf("Save of %q", name), err, millrace.Invalid)
		_, _, err = h.State.Load(t.Context(), name)
		wantCode(t, fmt.Sprintf("Load of %q", name), err, millrace.Invalid)
	}
}

func stateConflict(t *testing.T, h *StateHarness) {
	first := save(t, h.State, "lease", 0, []byte("first"))
	second := save(t, h.State, "lease", first, []byte("second"))
	for _, version := range []uint64{0, first, second + 1} {
		_, err := h.State.Save(t.Context(), "lease", version, writes("stale"))
		wantCode(t, fmt.Sprintf("Save over version %d", version), err, millrace.Conflict)
	}
	wantValue(t, h.State, "lease", second, []byte("second"))
}

func stateRace(t *testing.T, h *StateHarness) {
	version := uint64(0)
	for range 10 {
		var all sync.WaitGroup
		won := make(chan uint64, 6)
		for i := range cap(won) {
			all.Go(func() {
				v, err := h.State.Save(t.Context(), "lease", version, writes(fmt.Sprint(i)))
				if err == nil {
					won <- v
				} else if millrace.CodeOf(err) != millrace.Conflict {
					t.Error(err)
				}
			})
		}
		all.Wait()
		close(won)
		if len(won) != 1 {
			t.Fatalf("%d of %d saves over version %d succeeded", len(won), cap(won), version)
		}
		version = <-won
	}
}

func stateLarge(t *testing.T, h *StateHarness) {
	value := streamNoise(20<<20 + 17)
	version := save(t, h.State, "snapshot", 0, value)
	wantValue(t, h.State, "snapshot", version, value)
	version = save(t, h.State, "snapshot", version, value[1:])
	wantValue(t, h.State, "snapshot", version, value[1:])
	version = save(t, h.State, "snapshot", version, []byte("small"))
	wantValue(t, h.State, "snapshot", version, []byte("small"))
}

func stateFailingWrite(t *testing.T, h *StateHarness) {
	version := save(t, h.State, "snapshot", 0, []byte("whole"))
	failure := errors.New("out of ink")
	_, err := h.State.Save(t.Context(), "snapshot", version, func(w io.Writer) error {
		if _, err := w.Write(streamNoise(6 << 20)); err != nil {
			return err
		}
		return failure
	})
	if !errors.Is(err, failure) {
		t.Errorf("Save returns %v, want the error of write", err)
	}
	wantValue(t, h.State, "snapshot", version, []byte("whole"))
	save(t, h.State, "snapshot", version, []byte("next"))
}

// stateIsolation loads while versions are saved that each consist of one repeated byte.
func stateIsolation(t *testing.T, h *StateHarness) {
	const versions = 6
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 5<<20+i) }
	version := save(t, h.State, "snapshot", 0, value(0))
	done := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		last := uint64(0)
		for {
			r, v, err := h.State.Load(t.Context(), "snapshot")
			if err != nil {
				t.Error(err)
				return
			}
			got, err := io.ReadAll(r)
			if err != nil || len(got) < 5<<20 || !bytes.Equal(got, value(int(got[0]))) {
				t.Errorf("version %d is mixed (%v)", v, err)
			}
			_ = r.Close()
			if v < last {
				t.Errorf("version %d comes after %d", v, last)
			}
			last = v
			select {
			case <-done:
				return
			default:
			}
		}
	})
	held, _, err := h.State.Load(t.Context(), "snapshot")
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i < versions; i++ {
		version = save(t, h.State, "snapshot", version, value(i))
	}
	close(done)
	reader.Wait()
	if got, err := io.ReadAll(held); err != nil || !bytes.Equal(got, value(0)) {
		t.Errorf("a reader that was opened before does not see its version: %v", err)
	}
	_ = held.Close()
	wantValue(t, h.State, "snapshot", version, value(versions-1))
}

func stateContext(t *testing.T, h *StateHarness) {
	version := save(t, h.State, "lease", 0, []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := h.State.Load(ctx, "lease")
	wantCode(t, "Load with a context that has ended", err, millrace.Unavailable)
	_, err = h.State.Save(ctx, "lease", version, writes("y"))
	wantCode(t, "Save with a context that has ended", err, millrace.Unavailable)
}

func stateReopen(t *testing.T, h *StateHarness) {
	if h.Reopen == nil {
		t.Skip("this state cannot be opened again")
	}
	large := streamNoise(9 << 20)
	small := save(t, h.State, "lease", 0, []byte("x"))
	version := save(t, h.State, "snapshot", 0, large)
	s := h.Reopen(t)
	wantValue(t, s, "lease", small, []byte("x"))
	wantValue(t, s, "snapshot", version, large)
	_, err := s.Save(t.Context(), "lease", 0, writes("y"))
	wantCode(t, "Save over version 0", err, millrace.Conflict)
	save(t, s, "lease", small, []byte("y"))
}

func writes(value string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, value)
		return err
	}
}

func save(t *testing.T, s millrace.State, name string, version uint64, value []byte) uint64 {
	t.Helper()
	next, err := s.Save(t.Context(), name, version, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(value))
		return err
	})
	if err != nil {
		t.Fatalf("Save of %q over version %d: %v", name, version, err)
	}
	if next <= version {
		t.Errorf("version %d of %q comes after %d", next, name, version)
	}
	return next
}

// wantValue checks a value; version 1 stands for whatever the first one is.
func wantValue(t *testing.T, s millrace.State, name string, version uint64, want []byte) {
	t.Helper()
	r, got, err := s.Load(t.Context(), name)
	if err != nil {
		t.Fatalf("Load of %q: %v", name, err)
	}
	defer func() { _ = r.Close() }()
	if got != version && version != 1 {
		t.Errorf("the version of %q is %d, want %d", name, got, version)
	}
	if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, want) {
		t.Errorf("%q has %d bytes (%v), want %d", name, len(b), err, len(want))
	}
}
