package limit

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// every limits everything, so that everything is counted.
var every = Config{
	ConnectionsPerAddress: 1 << 20, ConnectionsPerToken: 1 << 20, SubscriptionsPerConnection: 100, SubscriptionsPerAddress: 1 << 20,
	SubscriptionsPerToken: 1 << 20, MessagesPerConnection: Rate{Rate: 1_000_000}, MessagesPerAddress: Rate{Rate: 1_000_000},
	MessagesPerToken: Rate{Rate: 1_000_000},
}

func nthAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// TestMemoryOfAConnection holds 100,000 connections, each of an address and a token of its own, the worst
// case, to 512 bytes each, and to 96 where only connections are limited and share an address.
func TestMemoryOfAConnection(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector takes memory")
	}
	const n = 100_000
	for _, tt := range []struct {
		name   string
		config Config
		of     func(i int) (netip.Addr, string)
		most   float64
	}{
		{"all their own", every, func(i int) (netip.Addr, string) { return nthAddress(i), fmt.Sprintf("jwt:issuer:%d", i) }, 512},
		{"shared", every, func(int) (netip.Addr, string) { return nthAddress(1), "key:web" }, 96},
		{"not counted", Config{SubscriptionsPerConnection: 100}, func(i int) (netip.Addr, string) { return nthAddress(i), "" }, 96},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := New(tt.config, Options{})
			if err != nil {
				t.Fatal(err)
			}
			heap := func() uint64 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			all := make([]*Connection, n)
			before := heap()
			for i := range all {
				a, token := tt.of(i)
				if all[i], err = l.Admit(a, token); err != nil {
					t.Fatal(err)
				}
			}
			each := float64(heap()-before) / n
			t.Logf("%.0f bytes for each connection", each)
			if each > tt.most {
				t.Errorf("%.0f bytes for each connection, more than %.0f", each, tt.most)
			}
			for _, c := range all {
				c.Release()
			}
			if got := l.remembered(); got != 0 {
				t.Errorf("%d entries are left", got)
			}
		})
	}
}

func TestMessagesAllocateNothing(t *testing.T) {
	l, err := New(every, Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := admit(t, l, nthAddress(1), "key:web")
	now := time.Now()
	if n := testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Microsecond)
		c.Message(now)
		if c.Subscribe(1) == nil {
			c.Unsubscribe(1)
		}
	}); n > 0 {
		t.Errorf("%.0f allocations", n)
	}
}

// BenchmarkMessage has connections of one address and one token send, on all processors.
func BenchmarkMessage(b *testing.B) {
	l, err := New(every, Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		c := admit(b, l, nthAddress(1), "key:web")
		now := time.Now()
		for p.Next() {
			now = now.Add(10 * time.Microsecond)
			c.Message(now)
		}
	})
}

// BenchmarkAdmit has clients come and go, on all processors, beside 100,000 that stay.
func BenchmarkAdmit(b *testing.B) {
	l, err := New(every, Options{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 100_000 {
		admit(b, l, nthAddress(i), "key:web")
	}
	var clients atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		from := int(clients.Add(1)) * 10_000
		for i := from; p.Next(); i++ {
			c, err := l.Admit(nthAddress(i), "key:web")
			if err != nil {
				b.Error(err)
				return
			}
			c.Release()
		}
	})
}
