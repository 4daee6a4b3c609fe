package sse

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkReset takes the state of 500 vehicles of some 600 bytes, all of them known and the same.
func BenchmarkReset(b *testing.B) {
	var all strings.Builder
	all.WriteByte('[')
	for i := range 500 {
		if i > 0 {
			all.WriteByte(',')
		}
		fmt.Fprintf(&all, `{"id":"y%04d","type":"vehicle","attributes":{"bearing":%d,"current_status":"IN_TRANSIT_TO",`+
			`"current_stop_sequence":%d,"direction_id":0,"label":"%04d","latitude":42.%06d,"longitude":-71.%06d,"speed":null,`+
			`"occupancy_status":"MANY_SEATS_AVAILABLE","revenue":"REVENUE","updated_at":"2026-05-01T12:00:00-04:00",`+
			`"carriages":[{"label":"1","occupancy_percentage":null},{"label":"2","occupancy_percentage":null}]},`+
			`"links":{"self":"/vehicles/y%04d"},"relationships":{"route":{"data":{"id":"1","type":"route"}},`+
			`"stop":{"data":{"id":"70061","type":"stop"}},"trip":{"data":{"id":"%d","type":"trip"}}}}`,
			i, i%360, i%40, i, i*37, i*91, i, i*1000)
	}
	all.WriteByte(']')
	reset := []byte(all.String())
	s, err := newSnapshot(b.Context(), &Resume{Snapshot: formatMBTA}, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(reset)))
	b.ReportAllocs()
	first := true
	for b.Loop() {
		changes, err := s.take("reset", reset)
		if err != nil || !first && len(changes) > 0 {
			b.Fatalf("%d changes, %v", len(changes), err)
		}
		first = false
	}
}
