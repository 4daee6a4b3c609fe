package jsonpath

import (
	"encoding/json"
	"testing"
)

func BenchmarkFind(b *testing.B) {
	data := vehicle(1234)
	for _, bench := range []struct {
		name  string
		paths []string
	}{
		{"id_and_time", []string{"id", "attributes.updated_at"}},
		{"position", []string{"attributes.latitude", "attributes.longitude"}},
		{"last", []string{"id", "note"}},
		{"eight", []string{"id", "type", "attributes.bearing", "attributes.label", "attributes.latitude", "attributes.longitude", "attributes.updated_at", "relationships.trip.data.id"}},
		{"missing", []string{"nothing"}},
	} {
		set, err := Compile(bench.paths...)
		if err != nil {
			b.Fatal(err)
		}
		out := make([]Value, set.Len())
		for _, find := range []struct {
			name string
			find func([]byte, []Value) error
		}{{"Find", set.Find}, {"FindValid", set.FindValid}} {
			b.Run(bench.name+"/"+find.name, func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					if err := find.find(data, out); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkValid(b *testing.B) {
	data := vehicle(1234)
	b.Run("jsonpath", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if err := Valid(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding_json", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if !json.Valid(data) {
				b.Fatal("invalid")
			}
		}
	})
}
