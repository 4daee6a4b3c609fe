package demo

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Feed serves a city's reports as Server-Sent Events. Report number n is that of vehicle n modulo the
// number of vehicles, n/rate seconds after the Unix epoch; its id names n, so a client that comes back
// with Last-Event-ID gets exactly what it missed, at full speed, up to History ago.
type Feed struct {
	City *City
	// Rate is the number of reports a second, of all vehicles together.
	Rate int
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// History is how far back a client can resume.
const History = time.Hour

// batch bounds how many reports are written before the feed looks at the clock again.
const batch = 512

// ServeHTTP implements http.Handler.
func (f *Feed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := f.Now
	if now == nil {
		now = time.Now
	}
	next := f.number(now())
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		last, err := f.parseID(id)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		next = min(max(last+1, f.number(now().Add(-History))), next)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	control := http.NewResponseController(w)
	fmt.Fprint(w, ": a simulated city\nretry: 1000\n\n")

	var text []byte
	for {
		text = text[:0]
		for range batch {
			if f.time(next).After(now()) {
				break
			}
			text = f.append(text, next)
			next++
		}
		if len(text) > 0 {
			if _, err := w.Write(text); err != nil {
				return
			}
		}
		if wait := f.time(next).Sub(now()); wait > 0 {
			if control.Flush() != nil || !pause(r.Context(), wait) {
				return
			}
		}
	}
}

// number returns the number of the first report after t.
func (f *Feed) number(t time.Time) int64 {
	seconds, rest := t.Unix(), int64(t.Nanosecond())
	return seconds*int64(f.Rate) + rest*int64(f.Rate)/int64(time.Second) + 1
}

// time returns when report n is made.
func (f *Feed) time(n int64) time.Time {
	rate := int64(f.Rate)
	return time.Unix(n/rate, n%rate*int64(time.Second)/rate)
}

// appendID names a report together with what its number depends on.
func (f *Feed) appendID(dst []byte, n int64) []byte {
	return fmt.Appendf(dst, "%dx%d-%d", f.City.Vehicles(), f.Rate, n)
}

// parseID returns the number that an id names. If the city had other vehicles or another rate then, it
// is the number of that moment now.
func (f *Feed) parseID(id string) (int64, error) {
	setting, number, _ := strings.Cut(id, "-")
	vehicles, rate, _ := strings.Cut(setting, "x")
	n, err1 := strconv.ParseInt(number, 10, 64)
	v, err2 := strconv.Atoi(vehicles)
	r, err3 := strconv.Atoi(rate)
	if err1 != nil || err2 != nil || err3 != nil || n < 0 || v < 1 || r < 1 {
		return 0, fmt.Errorf("Last-Event-ID %.80q is no id of this feed", id)
	}
	if r != f.Rate || v != f.City.Vehicles() {
		was := Feed{City: f.City, Rate: r}
		return f.number(was.time(n)) - 1, nil
	}
	return n, nil
}

// append writes report n as an event.
func (f *Feed) append(dst []byte, n int64) []byte {
	r := f.City.Report(int(n%int64(f.City.Vehicles())), f.time(n))
	dst = append(dst, "id: "...)
	dst = f.appendID(dst, n)
	dst = append(dst, "\ndata: {\"vehicle_id\":\""...)
	dst = append(dst, r.Vehicle...)
	dst = append(dst, "\",\"line\":\""...)
	dst = append(dst, r.Line...)
	dst = append(dst, "\",\"lat\":"...)
	dst = strconv.AppendFloat(dst, r.At.Lat, 'f', 6, 64)
	dst = append(dst, ",\"lon\":"...)
	dst = strconv.AppendFloat(dst, r.At.Lon, 'f', 6, 64)
	dst = append(dst, ",\"speed\":"...)
	dst = strconv.AppendFloat(dst, r.SpeedKMH, 'f', 1, 64)
	dst = append(dst, ",\"heading\":"...)
	dst = strconv.AppendFloat(dst, r.Heading, 'f', 0, 64)
	dst = append(dst, ",\"number\":"...) // of this vehicle, without a gap
	dst = strconv.AppendInt(dst, n/int64(f.City.Vehicles()), 10)
	dst = append(dst, ",\"time\":\""...)
	dst = r.Time.UTC().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, "\"}\n\n"...)
}

// pause waits; it returns false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
