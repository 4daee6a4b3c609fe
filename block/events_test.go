package block_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

var header = millrace.Header{
	Producer: "source/buses", Writer: [16]byte{1, 2, 3, 15: 16}, Flush: 7, Commit: true, Cursor: "event-4711",
	Watermark: time.Date(2026, 7, 14, 13, 26, 53, 5, time.UTC),
	Uncommitted: []millrace.BlockRef{
		{Stream: "positions", Partition: "1", Block: "a-000000000001"},
		{Stream: "dead", Partition: "0", Block: "b-00000000000v"},
	},
}

// vehicles returns n events whose data has about 850 bytes of JSON.
func vehicles(n int) []millrace.Event {
	start := time.Date(2026, 7, 14, 13, 26, 0, 0, time.UTC)
	events := make([]millrace.Event, n)
	for i := range events {
		v := i * 7919 % 1000
		events[i] = millrace.Event{
			ID: fmt.Sprintf("cursor-%d#%d", i/10, i%10), Key: fmt.Sprintf("bus-%d", v), Type: "update", Time: start.Add(time.Duration(i) * 3137 * time.Microsecond),
			Data: fmt.Appendf(nil, `{"id":"bus-%d","type":"vehicle","links":{"self":"/vehicles/bus-%d"},`+
				`"attributes":{"bearing":%d,"current_status":"IN_TRANSIT_TO","current_stop_sequence":%d,"direction_id":0,`+
				`"label":"%04d","occupancy_status":"MANY_SEATS_AVAILABLE","revenue":"REVENUE","speed":%d.5,`+
				`"carriages":[{"label":"%04d-a","occupancy_percentage":12},{"label":"%04d-b","occupancy_percentage":40}],`+
				`"latitude":%.7f,"longitude":%.7f,"updated_at":"2026-07-14T09:26:%02d-04:00"},`+
				`"relationships":{"route":{"data":{"id":"route-%d","type":"route"}},"stop":{"data":{"id":"stop-%d","type":"stop"}},`+
				`"trip":{"data":{"id":"trip-%d","type":"trip"}}},"note":"%s"}`,
				v, v, i%360, i%50, v, i%30, v, v, 42.3+float64(i*7919%99991)/1e6, -71.1+float64(i*104729%99991)/1e6, i%60,
				v%90, i*31%4000, i*17%20000, strings.Repeat("the quick line of text ", 9)),
		}
	}
	return events
}

// encode returns the events as a block.
func encode(t testing.TB, h millrace.Header, events ...millrace.Event) millrace.Block {
	t.Helper()
	var b block.Builder
	for i := range events {
		if err := b.Add(&events[i]); err != nil {
			t.Fatal(err)
		}
	}
	encoded, err := b.Encode(nil, h)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}
