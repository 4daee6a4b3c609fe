package nats

import (
	"context"
	"sync"
)

// fence knows the last message of the subjects that this process appends to, while it is the only one that
// appends: in the embedded server. An append whose expected last message is the one known here needs no proof by
// JetStream, which would load that message for it: a copy of a whole block, and what was loaded lately stays in
// JetStream's write cache for ten seconds, about ten seconds of blocks in all.
//
// That is as strict as JetStream's own check. Only one append of a subject is on its way at a time. What became of
// it is either known, or the subject is forgotten, and JetStream has to check the next one again; and that comes
// after the lost one, for all appends go over one connection into one queue.
type fence struct {
	mu    sync.Mutex
	marks map[string]*mark // by subject: one of each producer, and one of the trim records
}

type mark struct {
	last   uint64        // the sequence of the last message of the subject; 0: not known
	flying bool          // an append is on its way
	landed chan struct{} // closed when it is no longer; nil: nobody waits
}

// claim begins an append to a subject when none is on its way; settle ends it. It says whether last is known to be
// the last message of the subject.
func (f *fence) claim(ctx context.Context, subject string, last uint64) (known bool, err error) {
	f.mu.Lock()
	for {
		m := f.marks[subject]
		if m == nil {
			m = &mark{}
			if f.marks == nil {
				f.marks = map[string]*mark{}
			}
			f.marks[subject] = m
		}
		if !m.flying {
			m.flying = true
			f.mu.Unlock()
			return last != 0 && m.last == last, nil
		}
		if m.landed == nil {
			m.landed = make(chan struct{})
		}
		landed := m.landed
		f.mu.Unlock()
		select {
		case <-landed:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
		f.mu.Lock()
	}
}

// settle says what became of an append: it is message seq, or with 0 nobody knows.
func (f *fence) settle(subject string, seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.marks[subject]
	if m.landed != nil {
		close(m.landed)
	}
	*m = mark{last: seq}
	if seq == 0 {
		delete(f.marks, subject)
	}
}

// forget makes JetStream check the next append of each subject.
func (f *fence) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for subject, m := range f.marks {
		if m.last = 0; !m.flying {
			delete(f.marks, subject)
		}
	}
}
