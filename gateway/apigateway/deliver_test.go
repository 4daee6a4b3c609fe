package apigateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace/millrace"
)

// integrationFunc answers without a network, so that time can be fake.
type integrationFunc func(*http.Request) (status int, body string, err error)

func (f integrationFunc) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body, err := f(r)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func delivering(t *testing.T, lambda bool, f integrationFunc) (*Deliverer, *bytes.Buffer) {
	var log bytes.Buffer
	a := newAPI(t, "/prod", configured(func(c *Config) {
		c.Routes = map[string]Integration{"$disconnect": {HTTP: "http://127.0.0.1/"}}
		if lambda {
			c.Routes["$disconnect"] = Integration{Lambda: &Lambda{URL: "http://127.0.0.1/"}}
		}
	}), Options{Client: &http.Client{Transport: f}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	return NewDeliverer(a), &log
}

func (d *Deliverer) outcomes(t *testing.T, want map[string]float64) {
	t.Helper()
	for _, o := range []string{"delivered", "refused", "given_up"} {
		if got := testutil.ToFloat64(d.api.metrics.disconnects.WithLabelValues("/prod", o)); got != want[o] {
			t.Errorf("%s: %v, want %v", o, got, want[o])
		}
	}
	if waiting := testutil.ToFloat64(d.api.metrics.waiting.WithLabelValues("/prod")); waiting != 0 {
		t.Errorf("%v wait", waiting)
	}
}

// $disconnect is tried until it answers, ever more seldom.
func TestDeliver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Duration
		begun := time.Now()
		d, _ := delivering(t, true, func(*http.Request) (int, string, error) {
			tries = append(tries, time.Since(begun))
			switch len(tries) {
			case 1:
				return 0, "", errors.New("connection refused")
			case 2:
				return 429, `{"Reason":"ConcurrentInvocationLimitExceeded"}`, nil
			case 3:
				return 200, `{"errorMessage":"the table is locked","errorType":"OperationalError"}`, nil
			case 4:
				return 404, "", nil
			}
			return 200, `{"statusCode":200}`, nil
		})
		if err := d.Deliver(t.Context(), testInfo, 1001, ""); err != nil {
			t.Fatal(err)
		}
		if len(tries) != 5 || tries[0] != 0 || tries[4] < 11*time.Second || tries[4] > 15*time.Second {
			t.Errorf("tries after %v", tries)
		}
		d.outcomes(t, map[string]float64{"delivered": 1})
	})
}

// A function that answers nonsense has heard it all the same.
func TestDeliverNonsense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		d, _ := delivering(t, true, func(*http.Request) (int, string, error) { calls++; return 200, "null", nil })
		if err := d.Deliver(t.Context(), testInfo, 1001, ""); err != nil || calls != 1 {
			t.Errorf("%d calls, %v", calls, err)
		}
	})
}

func TestDeliverGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, calls := time.Now(), 0
		d, log := delivering(t, false, func(*http.Request) (int, string, error) { calls++; return 500, "", nil })
		if err := d.Deliver(t.Context(), testInfo, 1001, ""); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > time.Hour || took < 50*time.Minute || calls < 60 || calls > 100 {
			t.Errorf("%d calls in %s", calls, took)
		}
		if lines := strings.Count(log.String(), "\n"); lines != 2 || !strings.Contains(log.String(), "never told") {
			t.Errorf("log: %s", log)
		}
		d.outcomes(t, map[string]float64{"given_up": 1})
	})
}

// An HTTP integration that refuses is not asked again.
func TestDeliverRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		d, log := delivering(t, false, func(*http.Request) (int, string, error) { calls++; return 404, "", nil })
		if err := d.Deliver(t.Context(), testInfo, 1001, ""); err != nil || calls != 1 || !strings.Contains(log.String(), "refuses") {
			t.Errorf("%d calls, %v: %s", calls, err, log)
		}
		d.outcomes(t, map[string]float64{"refused": 1})
	})
}

// When the program ends, what is not delivered stays in the journal.
func TestDeliverEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := delivering(t, false, func(*http.Request) (int, string, error) { return 503, "", nil })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := d.Deliver(ctx, testInfo, 1001, ""); millrace.CodeOf(err) != millrace.Unavailable {
			t.Error(err)
		}
		d.outcomes(t, nil)
	})
}

// Deliveries are bounded, those in flight and those that wait.
func TestDeliverBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		flying, most := 0, 0
		d, _ := delivering(t, false, func(*http.Request) (int, string, error) {
			mu.Lock()
			flying++
			most = max(most, flying)
			mu.Unlock()
			time.Sleep(time.Second) // the integration's work, in fake time
			mu.Lock()
			flying--
			mu.Unlock()
			return 200, "", nil
		})
		var all sync.WaitGroup
		for range 3 * deliveries {
			all.Go(func() {
				if err := d.Deliver(t.Context(), testInfo, 1001, ""); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if most != deliveries {
			t.Errorf("%d were in flight", most)
		}
		d.outcomes(t, map[string]float64{"delivered": 3 * deliveries})
		d.waiting.Store(maxWaiting)
		if err := d.Deliver(t.Context(), testInfo, 1001, ""); millrace.CodeOf(err) != millrace.Unavailable {
			t.Error(err)
		}
	})
	if err := NewDeliverer(fixedAPI(t, nil)).Deliver(t.Context(), testInfo, 1000, ""); err != nil {
		t.Error("without a route:", err)
	}
}
