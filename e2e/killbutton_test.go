package e2e

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// postKill asks the demo to kill its pipeline, as a page of this origin does, and returns the status.
func postKill(t *testing.T, p *program, origin string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.gateway+"/demo/kill", nil)
	if err != nil {
		t.Fatal(err)
	}
	if origin != "" {
		request.Header.Set("Origin", origin)
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return 0 // it died before it could answer
	}
	defer response.Body.Close()
	return response.StatusCode
}

// kills waits until the pipeline is back and says that it has been killed so often.
func kills(t *testing.T, p *program, want int) {
	t.Helper()
	var answer struct{ Kills int }
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		text := p.page("/demo/kills")
		if json.Unmarshal([]byte(text), &answer) == nil && answer.Kills == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("want %d kills, the page says %s", want, text)
		}
	}
}

// The demo's pipeline is killed by whoever posts from its own page and by nobody else; it comes back on its
// address, and who follows by position gets each report of each vehicle once. With the demo itself it dies, too.
func TestKillOverHTTP(t *testing.T) {
	dir := t.TempDir()
	p := startDemo(t, dir, "127.0.0.1:0", 40, 800)
	for _, origin := range []string{"", "null", "http://evil.example.org", "https://" + p.gateway, "http://localhost:1"} {
		if status := postKill(t, p, origin); status != http.StatusForbidden {
			t.Errorf("a post from %q: status %d", origin, status)
		}
	}
	kills(t, p, 0)

	demo := &pipeline{t: t, current: p, changed: make(chan struct{})}
	var mu sync.Mutex
	next := map[string]int64{}
	received := 0
	stop := follow(t, demo, &client{place: "positions", path: "/positions", take: func(m message) {
		var report struct{ Number int64 }
		mu.Lock()
		defer mu.Unlock()
		if err := json.Unmarshal([]byte(m.data), &report); err != nil || next[m.key] != 0 && report.Number != next[m.key] {
			t.Errorf("vehicle %s: report %d comes, want %d: %v", m.key, report.Number, next[m.key], err)
		}
		next[m.key] = report.Number + 1
		received++
	}})
	more := func() {
		t.Helper()
		mu.Lock()
		before := received
		mu.Unlock()
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			now := received
			mu.Unlock()
			if now > before+100 {
				return
			}
			if time.Now().After(end) {
				t.Fatal("no reports come")
			}
		}
	}
	more()
	for i := range 3 {
		if status := postKill(t, p, "http://"+p.gateway); status != http.StatusAccepted && status != 0 {
			t.Fatalf("status %d", status)
		}
		kills(t, p, i+1)
		more()
	}
	stop()
	if output := p.output(); !strings.Contains(output, "was killed (3 so far)") || strings.Count(output, "is live at") != 1 {
		t.Errorf("the demo says\n%s", output)
	}

	p.kill() // the demo itself, and what it has started with it
	if conn, err := net.Dial("tcp", p.gateway); err == nil {
		conn.Close()
		t.Error("the demo is dead and its pipeline goes on")
	}
	p = restartDemoOf(t, dir, p.gateway, 40, 800)
	kills(t, p, 0)
	p.end(os.Interrupt)
	streams := readStreams(t, filepath.Join(dir, "city", "data"), map[string]int{"positions": 1, "crossings": 1, "dead": 1})
	checkReports(t, streams["positions"][0], "40x800-")
	t.Logf("%d reports without a gap; %d came over the gateway", len(streams["positions"][0]), received)
}

// A port that is taken ends the demo as it ended when it was one process.
func TestDemoCannotStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := launchDemo(t, t.TempDir(), l.Addr().String(), 5, 5)
	p.waitEnd()
	if p.wait == nil || p.command.ProcessState.ExitCode() != 1 || strings.Count(p.tail(10), "can't listen") != 1 {
		t.Errorf("%v:\n%s", p.wait, p.tail(10))
	}
}

// ledger is what the page has counted.
type ledger struct{ Received, Lost, Repeated, Kills int }

const ledgerScript = `
	const count = (id) => Number(by(id).textContent.replaceAll(",", ""));
	const ledger = () => ({ received: count("received"), lost: count("lost"), repeated: count("repeated"), kills: count("kills") });
`

// The button on the page kills the pipeline with -9. The page goes on by itself, and its ledger shows that it has
// lost nothing and got nothing twice.
func TestKillButton(t *testing.T) {
	p := startDemo(t, t.TempDir(), "127.0.0.1:0", 200, 1000)
	b := openBrowser(t, "http://"+p.gateway+"/")
	var now ledger
	b.do(lookScript+ledgerScript+`while (ledger().received < 500) await pause(50); return ledger();`, &now)
	for i := range 3 {
		before := now
		b.do(lookScript+ledgerScript+`
			by("kill").click();
			await until((s) => s.status === "reconnecting");
			await until((s) => s.status === "live");
			const enough = count("received") + 1000;
			while (count("kills") !== `+strconv.Itoa(i+1)+` || count("received") < enough) await pause(50);
			return ledger();`, &now)
		if now.Lost != 0 || now.Repeated != 0 || now.Kills != i+1 || now.Received <= before.Received {
			t.Fatalf("after %d kills the ledger is %+v, before %+v", i+1, now, before)
		}
	}
	t.Logf("%+v", now)

	var counted ledger // it does count what is not there, and what comes twice
	b.do(`
		const { Ledger } = await import("/map/ledger.js");
		const l = new Ledger("n");
		for (const n of [4, 5, 8, 8, 7, 9]) l.enter({ key: "a", data: { n } });
		return l;`, &counted)
	if counted != (ledger{Received: 6, Lost: 2, Repeated: 2}) {
		t.Errorf("the ledger counts %+v", counted)
	}
	p.end(os.Interrupt)
}

// The client of sdk/js in a page of the gateway's: the table at once, keys, a filter, and areas.
func TestClientInBrowser(t *testing.T) {
	const vehicles = 120
	p := startDemo(t, t.TempDir(), "127.0.0.1:0", vehicles, 60) // a round takes two seconds
	b := openBrowser(t, "http://"+p.gateway+"/")
	var got struct {
		Keys, Rows, Times int
		Filtered, Wrong   int
		One               []string
		Error, State      string
	}
	b.do(`
		const { connect, MillraceError } = await import("/map/sdk/index.js");
		const until = async (is) => { while (!is()) await new Promise((done) => setTimeout(done, 20)); };
		const client = connect("/live");
		const seen = new Set();
		client.subscribe({ to: "/positions" }, ({ key }) => seen.add(key));
		await until(() => seen.size === `+strconv.Itoa(vehicles)+`);

		// Whoever comes now has all of them before anything else happens.
		let rows = 0, keys = new Set();
		const table = client.subscribe({ to: "/positions", since: "latest" }, (e) => { if (!table.live) { if (!e.id) rows++; keys.add(e.key); } });
		await until(() => table.live);

		let filtered = 0, wrong = 0;
		client.subscribe({ to: "/positions", filter: "speed > 20" }, ({ data }) => { filtered++; if (!(data.speed > 20)) wrong++; });
		const one = new Set();
		for await (const m of client.subscribe({ to: "/positions", keys: ["7"], since: "latest" })) {
			if (m.kind === "event") { one.add(m.key); if (m.id) break; }
		}
		await until(() => filtered > 10);
		let error = "";
		client.subscribe({ to: "/positions", filter: "speed >" }, { error(e) { error = e instanceof MillraceError ? e.code : String(e); } });
		await until(() => error);
		const state = client.state;
		client.close();
		return { keys: keys.size, rows, filtered, wrong, one: [...one], error, state };`, &got)
	if got.Keys != vehicles || got.Rows != vehicles || got.Wrong != 0 || len(got.One) != 1 || got.Error != "invalid" || got.State != "open" {
		t.Errorf("%+v", got)
	}
	p.end(os.Interrupt)
}
