//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/millrace/millrace/bench/push/paced"
)

// program is `millrace run` as users run it: an embedded stream on disk, a source that events are posted
// to, the gateway. The runner posts.
type program struct {
	*process
	launcher        *launcher
	dir             string
	gateway, ingest string
	tls             bool
	timeline        *paced.Timeline

	cancel context.CancelFunc
	done   chan struct{}
	posted int64
	err    error
}

func (l *launcher) launchProgram(tls bool) (*program, error) {
	if l.millrace == "" {
		var err error
		if l.millrace, err = build(l.dir, "millrace", ".", "./cmd/millrace"); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp(l.dir, "program")
	if err != nil {
		return nil, err
	}
	timeline, err := paced.OpenTimeline(l.timeline)
	if err != nil {
		return nil, err
	}
	p := &program{launcher: l, dir: dir, timeline: timeline, gateway: "127.0.0.1:0", ingest: "127.0.0.1:0", tls: tls}
	if tls {
		if err := p.certify(); err != nil {
			return nil, err
		}
	}
	return p, p.start()
}

// certify puts a certificate where the configuration says.
func (p *program) certify() error {
	cert, key, err := paced.Certificate()
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(p.dir, "cert.pem"), cert, 0o600), os.WriteFile(filepath.Join(p.dir, "key.pem"), key, 0o600))
}

// start starts the program, where it was before if it has been started before.
func (p *program) start() error {
	config := fmt.Sprintf(`data_dir: ./data
streams:
  events: {retention: {age: 1h, bytes: 2GiB}}
sources:
  bench: {http: {listen: %q}, into: events, key: k}
gateway:
  listen: %q
  endpoints:
    /events: {from: events, key: "query:key"}
`, p.ingest, p.gateway)
	if p.tls {
		config += "  tls: {cert: cert.pem, key: key.pem}\n"
	}
	file := filepath.Join(p.dir, "millrace.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	paced.RaiseLimits() // which the program inherits
	var err error
	p.process, err = start("millrace run", p.launcher.serverAt, p.launcher.surroundings(),
		p.launcher.millrace, "run", "--log-format", "json", file)
	if err != nil {
		return err
	}
	line, err := p.ask("", time.Minute)
	var ready struct{ Gateway, Ingest string }
	if err == nil {
		err = json.Unmarshal([]byte(line), &ready)
	}
	if err != nil {
		p.process.end()
		return err
	}
	p.gateway, p.ingest = ready.Gateway, ready.Ingest
	return nil
}

func (p *program) address() string { return p.gateway }
func (p *program) pid() int        { return p.cmd.Process.Pid }
func (p *program) settle() error   { return nil }

// kill ends the program as kill -9 does, and returns when it is gone.
func (p *program) kill() error {
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	p.process.end()
	return nil
}

func (p *program) end() {
	if p.cancel != nil {
		p.cancel()
		<-p.done
	}
	p.process.end()
	p.timeline.Close()
}

// load posts events until stop. A post whose outcome is not known is repeated, with its idempotency key.
func (p *program) load(l paced.Load) error {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan struct{})
	batch := paced.NewBatch(l)
	url := "http://" + p.ingest + "/ingest/events"
	go func() {
		defer close(p.done)
		var body []byte
		p.posted, p.err = paced.Pace(ctx, l, func(from, to int64) error {
			p.timeline.Made(from, to)
			body = body[:0]
			for _, e := range batch.Render(from, to) {
				body = append(append(body, e.Data...), '\n')
			}
			// Beyond ctx: else nobody would know how many events there were.
			for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
				err := post(url, fmt.Sprint("from-", from), body)
				if err == nil {
					break
				}
				if time.Since(begun) > time.Minute || errors.Is(err, errRefused) {
					return err
				}
			}
			return nil
		})
	}()
	return nil
}

func (p *program) stop() (stopped, error) {
	p.cancel()
	<-p.done
	p.cancel = nil
	return stopped{events: p.posted}, p.err
}

var errRefused = errors.New("refused")

func post(url, key string, body []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	r.Header.Set("Idempotency-Key", key)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return err
	case answer.StatusCode == http.StatusOK:
		return nil
	case answer.StatusCode/100 == 4 && answer.StatusCode != http.StatusTooManyRequests && answer.StatusCode != http.StatusConflict:
		return fmt.Errorf("%w: %s: %s", errRefused, answer.Status, text)
	default:
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
}
