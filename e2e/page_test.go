package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

// browser is a headless Chromium with one page open.
type browser struct {
	t      *testing.T
	page   *millracetest.WebSocket // speaks the DevTools protocol
	number int
}

// openBrowser opens a page; it skips the test where there is no Chromium.
func openBrowser(t *testing.T, url string) *browser {
	t.Helper()
	var file string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			file = path
			break
		}
	}
	if file == "" {
		t.Skip("there is no Chromium here")
	}
	profile, err := os.MkdirTemp("", "millrace-e2e-browser-") //nolint:usetesting // some child may write into it to the very end
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(file, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--remote-debugging-port=0", "--user-data-dir="+profile, "--window-size=1200,800", url)
	command.SysProcAttr = groupThatDiesWithParent()
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Skipf("Chromium does not start: %v", err)
	}
	said := make(chan string, 1000)
	go func() {
		defer close(said)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			select {
			case said <- lines.Text():
			default: // nobody needs as much
			}
		}
	}()
	t.Cleanup(func() {
		killGroup(command.Process)
		_ = command.Wait() // it was killed
		_ = os.RemoveAll(profile)
	})
	b := &browser{t: t}
	var heard []string
	for timeout := time.After(patience); ; {
		select {
		case line, ok := <-said:
			if !ok {
				t.Skipf("Chromium has ended at once:\n%s", strings.Join(heard, "\n"))
			}
			heard = append(heard, line)
			if address, found := strings.CutPrefix(line, "DevTools listening on ws://"); found {
				address, _, _ = strings.Cut(address, "/")
				b.attach(address, url)
				return b
			}
		case <-timeout:
			t.Fatalf("Chromium does not begin:\n%s", strings.Join(heard, "\n"))
		}
	}
}

// attach connects to the page.
func (b *browser) attach(address, url string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	for {
		var targets []struct {
			Type, URL, WebSocketDebuggerURL string
		}
		if err := json.Unmarshal([]byte(fetch("http://"+address+"/json/list")), &targets); err == nil {
			for _, target := range targets {
				if target.Type != "page" || target.URL != url {
					continue // it is not there yet
				}
				page, err := millracetest.DialWebSocket(ctx, target.WebSocketDebuggerURL, nil)
				if err != nil {
					b.t.Fatal(err)
				}
				b.page = page
				b.t.Cleanup(func() { page.Close() })
				// It begins with an empty page, whatever the target's URL says, and leaving that is an error, too.
				loaded := `return location.href === ` + quote(url) + ` && document.readyState === "complete"`
				for is := false; !is; {
					if err := b.try(loaded, &is); !is && ctx.Err() != nil {
						b.t.Fatalf("the page is not loaded: %v", err)
					}
				}
				return
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			b.t.Fatal("Chromium has no page")
		}
	}
}

// do evaluates the body of an async function in the page, and decodes what it returns into result.
func (b *browser) do(script string, result any) {
	b.t.Helper()
	if err := b.try(script, result); err != nil {
		b.t.Fatalf("%s\n%v", script, err)
	}
}

func (b *browser) try(script string, result any) error {
	b.number++
	request, err := json.Marshal(map[string]any{"id": b.number, "method": "Runtime.evaluate", "params": map[string]any{
		"expression":   fmt.Sprintf("(async () => {%s})().then(JSON.stringify)", script),
		"awaitPromise": true,
	}})
	if err != nil {
		return err
	}
	if err := b.page.WriteFrame(millracetest.Frame{Op: millracetest.OpText, Payload: request}); err != nil {
		return err
	}
	if err := b.page.Conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for {
		_, payload, err := b.page.Read()
		if err != nil {
			return fmt.Errorf("the page does not answer: %w", err)
		}
		var answer struct {
			ID     int
			Error  json.RawMessage
			Result struct {
				Result           struct{ Value string }
				ExceptionDetails json.RawMessage
			}
		}
		switch err := json.Unmarshal(payload, &answer); {
		case err != nil:
			return err
		case answer.ID != b.number: // an event, or an answer that came late
		case answer.Error != nil || answer.Result.ExceptionDetails != nil:
			return fmt.Errorf("%s %s", answer.Error, answer.Result.ExceptionDetails)
		default:
			return json.Unmarshal([]byte(answer.Result.Result.Value), result)
		}
	}
}

// lookScript defines what the tests look at: the page as its user sees it.
const lookScript = `
	const by = (id) => document.getElementById(id);
	const pause = (ms) => new Promise((done) => setTimeout(done, ms));
	// The places of the canvas that have a vehicle's colour.
	const vehicles = () => {
		const canvas = by("map"), { width, height } = canvas;
		const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data, found = [];
		for (let i = 0; i < pixels.length; i += 4) {
			if (pixels[i] === 0x8f && pixels[i+1] === 0xc7 && pixels[i+2] === 0xff) found.push(i / 4);
		}
		return found;
	};
	const look = () => ({
		title: by("title")?.textContent ?? "", status: by("status")?.dataset.state ?? "",
		counters: Object.fromEntries([...by("counters").children].map((c) => [c.children[0].textContent, Number(c.children[1].textContent.replaceAll(",", ""))])),
		crossings: [...by("crossings").children].map((c) => c.textContent),
		vehicles: vehicles().length,
		selected: by("selected").hidden ? "" : by("selected-key").textContent,
		fields: [...by("fields").children].map((c) => c.textContent),
	});
	const until = async (is) => { let seen; while (!is(seen = look())) await pause(50); return seen; };
`

type seen struct {
	Title, Status, Selected string
	Counters                map[string]float64
	Crossings, Fields       []string
	Vehicles                int
}

// The live page in a browser: counters count, vehicles move, crossings are listed, one vehicle can be
// followed; and after kill -9 of the program the page goes on by itself.
func TestPage(t *testing.T) {
	dir := t.TempDir()
	p := startDemo(t, dir, "127.0.0.1:0", 400, 800)
	b := openBrowser(t, "http://"+p.gateway+"/")
	var now seen
	b.do(lookScript+`return await until((s) => s.status === "live" && s.crossings.length > 2 && s.vehicles > 100 &&
		["events in", "stored", "crossings", "clients"].every((name) => s.counters[name] > 0));`, &now)
	if now.Title != "Millrace" {
		t.Errorf("the title is %q", now.Title)
	}
	for _, text := range now.Crossings {
		if !strings.Contains(text, " enters ") && !strings.Contains(text, " leaves ") {
			t.Errorf("a crossing is listed as %q", text)
		}
	}
	t.Logf("%+v", now)

	// It moves.
	var moved bool
	b.do(lookScript+`
		const before = new Set(vehicles()), counted = look().counters["events in"];
		await until((s) => s.counters["events in"] > counted);
		while (vehicles().every((place) => before.has(place))) await pause(50);
		return true;`, &moved)

	// A click on a vehicle follows it, and what is shown is of it alone.
	b.do(lookScript+`
		const canvas = by("map");
		for (let s = look(); !s.selected; s = look()) {
			const places = vehicles(), place = places[Math.floor(places.length / 2)];
			const box = canvas.getBoundingClientRect(), ratio = canvas.width / canvas.clientWidth;
			canvas.dispatchEvent(new MouseEvent("click", { bubbles: true,
				clientX: box.left + (place % canvas.width) / ratio, clientY: box.top + Math.floor(place / canvas.width) / ratio }));
			await pause(50);
		}
		return await until((s) => s.selected && s.fields.includes("vehicle_id") && s.status === "live");`, &now)
	if i := len(now.Fields); i < 4 || now.Fields[1] != now.Selected {
		t.Errorf("vehicle %q is selected, and the fields are %q", now.Selected, now.Fields)
	}
	b.do(lookScript+`by("clear").click(); return await until((s) => !s.selected && s.status === "live" && s.vehicles > 100);`, &now)

	// The program dies; the page says so, and goes on when it is back.
	p.kill()
	b.do(lookScript+`return await until((s) => s.status === "reconnecting");`, &now)
	p = restartDemo(t, dir, p.gateway)
	b.do(lookScript+`return await until((s) => s.status === "live" && s.counters["events in"] > 0 && s.vehicles > 100);`, &now)
	for _, text := range now.Crossings {
		if strings.Contains(text, "missing") {
			t.Errorf("after a restart the page lists %q", text)
		}
	}
	p.end(os.Interrupt)
}

// restartDemo starts the demo again on the address that it had. Somebody else may have that for a moment.
func restartDemo(t *testing.T, dir, address string) *program {
	t.Helper()
	return restartDemoOf(t, dir, address, 400, 800)
}

func restartDemoOf(t *testing.T, dir, address string, vehicles, rate int) *program {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		p := launchDemo(t, dir, address, vehicles, rate)
		select {
		case <-p.ready:
			return p
		case <-p.ended:
			if !strings.Contains(p.tail(10), "address already in use") || time.Now().After(end) {
				t.Fatal("the demo does not start again")
			}
		case <-time.After(patience):
			t.Fatal("the demo is not ready again")
		}
	}
}
