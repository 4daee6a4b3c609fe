package query

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/query/fence"
	"github.com/millrace/millrace/stream/memory"
)

// BenchmarkQuery is the whole query over streams in memory, one partition: decompressing blocks, JSON, the
// fences, and appending the results. 10,000 vehicles drive 15 m from one position to the next in a city of
// 50 km with fences of 32 corners and 100 to 500 m radius.
func BenchmarkQuery(b *testing.B) {
	for _, fences := range []int{1000, 20_000} {
		for _, size := range []int{100, 850} {
			b.Run(fmt.Sprintf("fences=%d/bytes=%d", fences, size), func(b *testing.B) { benchmark(b, fences, size) })
		}
	}
}

func benchmark(b *testing.B, fences, size int) {
	const blocksOf, vehicles = 512, 10_000
	r := rand.New(rand.NewPCG(1, 2))
	path := b.TempDir() + "/city.geojson"
	if err := os.WriteFile(path, city(r, fences), 0o600); err != nil {
		b.Fatal(err)
	}
	type vehicle struct{ lat, lon, heading float64 }
	fleet := make([]vehicle, vehicles)
	for i := range fleet {
		fleet[i] = vehicle{39.9 + r.Float64()*0.45, 116 + r.Float64()*0.58, r.Float64() * 6}
	}
	from := memory.New("positions", memory.Options{})
	var after millrace.Position
	var builder block.Builder
	count := 0
	padding := strings.Repeat("x", max(0, size-100))
	for round := range 200 {
		for i := range blocksOf {
			v := &fleet[(round*blocksOf+i)%vehicles]
			v.heading += r.NormFloat64() * 0.1
			v.lat += 15 / 111_320.0 * math.Sin(v.heading)
			v.lon += 15 / 111_320.0 / 0.767 * math.Cos(v.heading)
			_ = builder.Add(&millrace.Event{
				ID: fmt.Sprint(count), Type: "message", Key: fmt.Sprint("vehicle-", (round*blocksOf+i)%vehicles), Time: begin.Add(time.Duration(round) * time.Second),
				Data: fmt.Appendf(nil, `{"vehicle_id":"%d","padding":"%s","position":{"latitude":%.6f,"longitude":%.6f},"speed":%.1f}`, i, padding, v.lat, v.lon, r.Float64()*50),
			})
			count++
		}
		encoded, err := builder.Encode(nil, millrace.Header{Producer: "source/bench"})
		if err != nil {
			b.Fatal(err)
		}
		if after, err = from.Append(b.Context(), "0", after, encoded); err != nil {
			b.Fatal(err)
		}
		builder.Reset()
	}
	results := 0
	var took time.Duration // without reading the fences
	for b.Loop() {
		into := memory.New("crossings", memory.Options{})
		var blocks atomic.Int32
		done := make(chan struct{})
		q, err := New("bench", Config{Fence: &fence.Config{Fences: path, Lat: "position.latitude", Lon: "position.longitude", Detect: []string{"enter", "exit"}}}, Options{
			From: from, Into: into, Dead: memory.New("dead", memory.Options{}), State: memory.NewState(),
			Step: func(name string) {
				if name == "query.block-processed" && blocks.Add(1) == 200 {
					close(done)
				}
			},
		})
		if err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		began := time.Now()
		go func() { ended <- q.Run(ctx) }()
		<-done
		stop()
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
		took += time.Since(began)
		results += len(events(b, into))
	}
	b.ReportMetric(float64(b.N*count)/took.Seconds(), "positions/s")
	b.ReportMetric(float64(results)/float64(b.N*count), "results/position")
	b.ReportMetric(0, "ns/op")
}

// city makes n polygons of 32 corners.
func city(r *rand.Rand, n int) []byte {
	features := make([]string, n)
	for i := range features {
		lat, lon, radius := 39.9+r.Float64()*0.45, 116+r.Float64()*0.58, (100+400*r.Float64())/111_320
		var corners []string
		for c := range 32 {
			a := 2 * math.Pi * float64(c) / 32
			corners = append(corners, fmt.Sprintf("[%.7f,%.7f]", lon+radius/0.767*math.Cos(a), lat+radius*math.Sin(a)))
		}
		features[i] = fmt.Sprintf(`{"type":"Feature","id":%d,"geometry":{"type":"Polygon","coordinates":[[%s,%s]]}}`, i, strings.Join(corners, ","), corners[0])
	}
	return []byte(`{"type":"FeatureCollection","features":[` + strings.Join(features, ",") + `]}`)
}
