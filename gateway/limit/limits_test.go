package limit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"github.com/millrace/millrace"
)

// clock is the time of a test.
type clock struct{ t time.Time }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) forward(d time.Duration) { c.t = c.t.Add(d) }

func newLimits(t testing.TB, c Config) (*Limits, *clock) {
	t.Helper()
	at := &clock{time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)}
	l, err := New(c, Options{Now: at.now})
	if err != nil {
		t.Fatal(err)
	}
	return l, at
}

func address(s string) netip.Addr { return netip.MustParseAddr(s) }

// admit admits a connection that must be.
func admit(t testing.TB, l *Limits, address netip.Addr, token string) *Connection {
	t.Helper()
	c, err := l.Admit(address, token)
	if err != nil {
		t.Fatalf("%s %q: %v", address, token, err)
	}
	return c
}

func tooMany(t testing.TB, err error, want TooMany) {
	t.Helper()
	e, ok := errors.AsType[*TooMany](err)
	if !ok || *e != want {
		t.Fatalf("got %v, want %+v", err, want)
	}
	if millrace.CodeOf(err) != millrace.TooLarge || !strings.Contains(err.Error(), want.Scope) {
		t.Errorf("%v has the code %s", err, millrace.CodeOf(err))
	}
}

func (l *Limits) remembered() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.addresses) + len(l.tokens) + len(l.emptied)
}

func TestConnections(t *testing.T) {
	l, _ := newLimits(t, Config{ConnectionsPerAddress: 2, ConnectionsPerToken: 3})
	a1 := admit(t, l, address("203.0.113.7"), "key:a")
	admit(t, l, address("203.0.113.7"), "key:a")
	_, err := l.Admit(address("203.0.113.7"), "")
	tooMany(t, err, TooMany{"connections", "address", 2})
	_, err = l.Admit(address("::ffff:203.0.113.7"), "")
	tooMany(t, err, TooMany{"connections", "address", 2})
	a3 := admit(t, l, address("203.0.113.8"), "key:a")
	_, err = l.Admit(address("203.0.113.9"), "key:a")
	tooMany(t, err, TooMany{"connections", "token", 3})
	if _, there := l.addresses[network(address("203.0.113.9"))]; there {
		t.Error("an address that was refused is remembered")
	}
	a1.Release()
	a1.Release() // again: nothing
	admit(t, l, address("203.0.113.7"), "key:a")
	_, err = l.Admit(address("203.0.113.9"), "key:a")
	tooMany(t, err, TooMany{"connections", "token", 3})
	a3.Release()
	// A token that comes as first message.
	late := admit(t, l, address("203.0.113.9"), "")
	if err := late.Identify("key:a"); err != nil {
		t.Fatal(err)
	}
	other := admit(t, l, address("203.0.113.9"), "")
	tooMany(t, other.Identify("key:a"), TooMany{"connections", "token", 3})
	if err := other.Identify("key:b"); err != nil {
		t.Fatal(err)
	}
	for range 10 { // nobody in particular
		admit(t, l, netip.Addr{}, "").Release()
	}
	var none *Connection
	none.Release()
}

func TestAddressesOfIPv6CountByNetwork(t *testing.T) {
	l, _ := newLimits(t, Config{ConnectionsPerAddress: 1})
	admit(t, l, address("2001:db8:1:2:3::1"), "")
	_, err := l.Admit(address("2001:db8:1:2:ffff::9"), "")
	tooMany(t, err, TooMany{"connections", "address", 1})
	admit(t, l, address("2001:db8:1:3::1"), "")
	admit(t, l, address("fe80::1%eth0"), "")
	_, err = l.Admit(address("fe80::2%eth1"), "")
	tooMany(t, err, TooMany{"connections", "address", 1})
	admit(t, l, address("192.0.2.1"), "")
	admit(t, l, address("192.0.2.2"), "")
}

func TestSubscriptions(t *testing.T) {
	l, _ := newLimits(t, Config{SubscriptionsPerConnection: 3, SubscriptionsPerAddress: 5, SubscriptionsPerToken: 4})
	here, there := address("203.0.113.7"), address("203.0.113.8")
	a := admit(t, l, here, "key:a")
	subscribe := func(c *Connection, n int) {
		t.Helper()
		if err := c.Subscribe(n); err != nil {
			t.Fatal(err)
		}
	}
	subscribe(a, 3)
	tooMany(t, a.Subscribe(1), TooMany{"subscriptions", "connection", 3})
	b := admit(t, l, here, "key:b")
	tooMany(t, b.Subscribe(3), TooMany{"subscriptions", "address", 5})
	subscribe(b, 2)
	c := admit(t, l, there, "key:a")
	tooMany(t, c.Subscribe(2), TooMany{"subscriptions", "token", 4})
	subscribe(c, 1)
	a.Unsubscribe(1)
	subscribe(c, 1)
	a.Release() // with what it still has
	subscribe(b, 1)
	subscribe(c, 1)
	tooMany(t, c.Subscribe(1), TooMany{"subscriptions", "connection", 3})
	b.Release()
	c.Release()
	if n := l.remembered(); n != 0 {
		t.Errorf("%d entries are left", n)
	}
	for _, scope := range []*Connection{b, c} {
		if n := scope.subscriptions.Load(); n != 0 {
			t.Errorf("%d subscriptions are left", n)
		}
	}
}

func TestMessages(t *testing.T) {
	l, at := newLimits(t, Config{
		MessagesPerConnection: Rate{Rate: 10, Burst: 20}, MessagesPerAddress: Rate{Rate: 10, Burst: 30}, MessagesPerToken: Rate{Rate: 25},
	})
	a, b := admit(t, l, address("203.0.113.7"), "key:a"), admit(t, l, address("203.0.113.7"), "key:b")
	send := func(c *Connection) (n int, wait time.Duration) {
		for {
			wait, ok := c.Message(at.t)
			if !ok {
				return n, wait
			}
			n++
		}
	}
	for _, tt := range []struct {
		c     *Connection
		after time.Duration
		n     int
		wait  time.Duration
	}{
		{a, 0, 20, 100 * time.Millisecond},               // its own
		{b, 0, 10, 100 * time.Millisecond},               // the address's
		{a, 99 * time.Millisecond, 0, time.Millisecond},  //
		{a, time.Millisecond, 1, 100 * time.Millisecond}, //
		{b, time.Second, 10, 100 * time.Millisecond},     // of the address, which a has not taken
		{a, time.Hour, 20, 100 * time.Millisecond},       //
		{b, 0, 10, 100 * time.Millisecond},               //
	} {
		at.forward(tt.after)
		if n, wait := send(tt.c); n != tt.n || wait != tt.wait {
			t.Errorf("after %s: %d messages, then wait %s; want %d, %s", tt.after, n, wait, tt.n, tt.wait)
		}
	}
	// The token's bucket, over several addresses: a refused message takes nothing of the others.
	l, at = newLimits(t, Config{MessagesPerConnection: Rate{Rate: 1, Burst: 100}, MessagesPerToken: Rate{Rate: 1, Burst: 5}})
	a = admit(t, l, netip.Addr{}, "key:a")
	if n, wait := send(a); n != 5 || wait != time.Second {
		t.Errorf("%d messages, then wait %s", n, wait)
	}
	send(a)
	at.forward(5 * time.Second)
	if n, _ := send(a); n != 5 {
		t.Errorf("%d messages", n)
	}
}

func TestClockThatIsSetBack(t *testing.T) {
	l, at := newLimits(t, Config{MessagesPerConnection: Rate{Rate: 10, Burst: 20}})
	c := admit(t, l, netip.Addr{}, "")
	c.Message(at.t)
	at.forward(-time.Hour)
	for range 3 { // the bucket counts as empty, and fills as ever
		if wait, ok := c.Message(at.t); ok || wait != 100*time.Millisecond {
			t.Errorf("allowed %t, wait %s", ok, wait)
		}
		at.forward(100 * time.Millisecond)
		if _, ok := c.Message(at.t); !ok {
			t.Error("not allowed after the wait")
		}
	}
}

func TestNothingIsLimited(t *testing.T) {
	l, at := newLimits(t, Config{})
	for range 1000 {
		c := admit(t, l, address("203.0.113.7"), "key:a")
		if err := c.Subscribe(1000); err != nil {
			t.Fatal(err)
		}
		if wait, ok := c.Message(at.t); !ok || wait != 0 {
			t.Fatal(wait)
		}
	}
	if n := l.remembered(); n != 0 {
		t.Errorf("%d entries where nothing is counted", n)
	}
}

// TestEmptyBucketsAreRemembered has a client reconnect for a fresh bucket.
func TestEmptyBucketsAreRemembered(t *testing.T) {
	l, at := newLimits(t, Config{MessagesPerAddress: Rate{Rate: 1, Burst: 10}, MessagesPerToken: Rate{Rate: 1, Burst: 10}})
	here := address("203.0.113.7")
	for i := range 30 {
		c := admit(t, l, here, "key:a")
		if _, ok := c.Message(at.t); ok != (i < 10) {
			t.Fatalf("message %d: %t", i, ok)
		}
		c.Release()
	}
	if n := l.remembered(); n != 4 { // each in its map and in line
		t.Errorf("%d entries", n)
	}
	at.forward(10 * time.Second)
	c := admit(t, l, address("203.0.113.8"), "")
	c.Release()
	if n := l.remembered(); n != 0 {
		t.Errorf("%d entries are left when the buckets are full", n)
	}
}

// TestManyAddressesAreForgotten has an attacker come from ever new addresses.
func TestManyAddressesAreForgotten(t *testing.T) {
	l, at := newLimits(t, Config{MessagesPerAddress: Rate{Rate: 10, Burst: 10}})
	most := 0
	for i := range 20_000 { // 1,000 a second, each of which empties its bucket: 1 s of them is remembered
		c := admit(t, l, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), "")
		for range 10 {
			c.Message(at.t)
		}
		c.Release()
		at.forward(time.Millisecond)
		most = max(most, len(l.addresses))
	}
	if most > 1100 || len(l.emptied) > 1100 {
		t.Errorf("%d addresses were remembered, %d wait", most, len(l.emptied))
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	l, err := New(Config{ConnectionsPerToken: 1, MessagesPerConnection: Rate{Rate: 1}}, Options{Metrics: NewMetrics(reg)})
	if err != nil {
		t.Fatal(err)
	}
	c := admit(t, l, netip.Addr{}, "key:a")
	_, _ = l.Admit(netip.Addr{}, "key:a")
	at := time.Now()
	for range 3 {
		c.Message(at)
	}
	for range 5 { // the third, which is counted
		if wait, ok := c.Retry(at); ok || wait != time.Second {
			t.Errorf("allowed %t, wait %s", ok, wait)
		}
	}
	if _, ok := c.Retry(at.Add(time.Second)); !ok {
		t.Error("not allowed after the wait")
	}
	want := `
# HELP millrace_gateway_limited_total What was refused for a limit (what: connections, subscriptions, messages), by whose it is (scope: connection, address, token).
# TYPE millrace_gateway_limited_total counter
millrace_gateway_limited_total{scope="connection",what="messages"} 2
millrace_gateway_limited_total{scope="token",what="connections"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// TestCounts compares with plain counting, over random sequences.
func TestCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := &clock{time.Unix(1_700_000_000, 0)}
		l, err := New(Config{
			ConnectionsPerAddress: 3, ConnectionsPerToken: 2, SubscriptionsPerConnection: 4, SubscriptionsPerAddress: 6,
			SubscriptionsPerToken: 5, MessagesPerAddress: Rate{Rate: 1, Burst: 2},
		}, Options{Now: at.now})
		if err != nil {
			t.Fatal(err)
		}
		type live struct {
			c              *Connection
			address, token int
			subscriptions  int
		}
		var all []*live
		sum := func(match func(*live) bool) (connections, subscriptions int) {
			for _, c := range all {
				if match(c) {
					connections++
					subscriptions += c.subscriptions
				}
			}
			return connections, subscriptions
		}
		pick := func() *live {
			if len(all) == 0 {
				t.Skip("nobody is connected")
			}
			return rapid.SampledFrom(all).Draw(t, "connection")
		}
		t.Repeat(map[string]func(*rapid.T){
			"admit": func(t *rapid.T) {
				n := &live{address: rapid.IntRange(1, 3).Draw(t, "address"), token: rapid.IntRange(0, 3).Draw(t, "token")}
				token := ""
				if n.token > 0 {
					token = fmt.Sprint("key:", n.token)
				}
				onAddress, _ := sum(func(o *live) bool { return o.address == n.address })
				onToken, _ := sum(func(o *live) bool { return o.token == n.token && n.token > 0 })
				var err error
				n.c, err = l.Admit(netip.AddrFrom4([4]byte{10, 0, 0, byte(n.address)}), token)
				if (err == nil) != (onAddress < 3 && onToken < 2) {
					t.Fatalf("%v, with %d on the address and %d on the token", err, onAddress, onToken)
				}
				if err == nil {
					all = append(all, n)
				}
			},
			"subscribe": func(t *rapid.T) {
				c, n := pick(), rapid.IntRange(1, 3).Draw(t, "n")
				_, onAddress := sum(func(o *live) bool { return o.address == c.address })
				_, onToken := sum(func(o *live) bool { return o.token == c.token && c.token > 0 })
				err := c.c.Subscribe(n)
				if (err == nil) != (c.subscriptions+n <= 4 && onAddress+n <= 6 && onToken+n <= 5) {
					t.Fatalf("%v, with %d of its own, %d on the address, %d on the token", err, c.subscriptions, onAddress, onToken)
				}
				if err == nil {
					c.subscriptions += n
				}
			},
			"unsubscribe": func(t *rapid.T) {
				c := pick()
				n := rapid.IntRange(0, c.subscriptions).Draw(t, "n")
				c.c.Unsubscribe(n)
				c.subscriptions -= n
			},
			"message": func(t *rapid.T) { pick().c.Message(at.t) },
			"time":    func(*rapid.T) { at.forward(700 * time.Millisecond) },
			"release": func(t *rapid.T) {
				c := pick()
				c.c.Release()
				for i := range all {
					if all[i] == c {
						all = append(all[:i], all[i+1:]...)
						break
					}
				}
			},
			"": func(t *rapid.T) {
				l.mu.Lock()
				defer l.mu.Unlock()
				for address := 1; address <= 3; address++ {
					n, s := sum(func(o *live) bool { return o.address == address })
					e := l.addresses[network(netip.AddrFrom4([4]byte{10, 0, 0, byte(address)}))]
					switch {
					case e == nil && n > 0, e != nil && (int(e.connections) != n || int(e.subscriptions.Load()) != s):
						t.Fatalf("address %d: %+v, want %d connections, %d subscriptions", address, e, n, s)
					case e != nil && n == 0 && !e.waits:
						t.Fatalf("address %d is remembered for ever", address)
					}
				}
			},
		})
	})
}

// TestSideBySide has many clients at once; in the end nothing is left.
func TestSideBySide(t *testing.T) {
	var later atomic.Int64
	l, err := New(Config{
		ConnectionsPerAddress: 20, ConnectionsPerToken: 10, SubscriptionsPerConnection: 5, SubscriptionsPerAddress: 50,
		SubscriptionsPerToken: 30, MessagesPerConnection: Rate{Rate: 1000, Burst: 1}, MessagesPerAddress: Rate{Rate: 1_000_000},
	}, Options{Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	var clients sync.WaitGroup
	var on [3]atomic.Int32
	for range 8 {
		clients.Go(func() {
			for range 2000 {
				a := rand.IntN(3)
				c, err := l.Admit(netip.AddrFrom4([4]byte{10, 0, 0, byte(a)}), fmt.Sprint("key:", rand.IntN(5)))
				if err != nil {
					continue
				}
				if n := on[a].Add(1); n > 20 {
					t.Errorf("%d connections on an address", n)
				}
				for range 4 {
					if c.Subscribe(2) == nil && rand.IntN(2) == 0 {
						c.Unsubscribe(1)
					}
					c.Message(time.Now())
				}
				on[a].Add(-1)
				c.Release()
			}
		})
	}
	clients.Wait()
	later.Store(int64(time.Hour)) // by when all buckets are full
	for range 10 {
		admit(t, l, address("192.0.2.1"), "").Release()
	}
	if n := l.remembered(); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}

func TestValidate(t *testing.T) {
	var c Config
	c.SetDefaults()
	c.Validate(func(path, format string, args ...any) { t.Errorf("%s: "+format, append([]any{path}, args...)...) })
	for path, c := range map[string]Config{
		"connections_per_address":      {ConnectionsPerAddress: -1},
		"subscriptions_per_token":      {SubscriptionsPerToken: 1<<30 + 1},
		"messages_per_connection.rate": {MessagesPerConnection: Rate{Rate: -1}},
		"messages_per_address.burst":   {MessagesPerAddress: Rate{Rate: 1, Burst: 3601}},
		"messages_per_token.burst":     {MessagesPerToken: Rate{Rate: 1, Burst: -1}},
	} {
		var got []string
		c.Validate(func(path, _ string, _ ...any) { got = append(got, path) })
		if len(got) != 1 || got[0] != path {
			t.Errorf("%q, want %q", got, path)
		}
		if _, err := New(c, Options{}); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("New: %v", err)
		}
	}
}
