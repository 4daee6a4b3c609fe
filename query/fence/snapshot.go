package fence

import (
	"encoding/binary"
	"math"

	"github.com/millrace/millrace"
)

// A snapshot of version 1, integers little-endian:
//
//	1        version
//	text     path of lat, of lon, of key: each uvarint length and bytes
//	uvarint  number of keys
//	per key  text, int64 time of its newest position in Unix nanoseconds, float64 lat, float64 lon
//
// The fences are not in it: see the package's documentation. The paths are, since positions read from
// elsewhere in the data would be of something else.
const snapshotVersion = 1

// AppendSnapshot appends the operator's state to dst.
func (o *Operator) AppendSnapshot(dst []byte) []byte {
	dst = append(dst, snapshotVersion)
	for _, path := range []string{o.config.Lat, o.config.Lon, o.config.Key} {
		dst = appendString(dst, path)
	}
	dst = binary.AppendUvarint(dst, uint64(len(o.keys)))
	for key, t := range o.keys {
		dst = appendString(dst, key)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(t.at))
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(t.lat))
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(t.lon))
	}
	return dst
}

// Restore sets the operator to a state that AppendSnapshot wrote, perhaps with other fences. It fails with
// Invalid, and changes nothing, if the snapshot is malformed or was made with other paths.
func (o *Operator) Restore(snapshot []byte) error {
	fail := func(format string, args ...any) error {
		return millrace.Errorf(millrace.Invalid, "restore geofence query", format, args...)
	}
	if len(snapshot) == 0 || snapshot[0] != snapshotVersion {
		return fail("the snapshot is not of version %d", snapshotVersion)
	}
	rest := snapshot[1:]
	for _, field := range []struct{ name, path string }{{"lat", o.config.Lat}, {"lon", o.config.Lon}, {"key", o.config.Key}} {
		path, after, ok := cutString(rest)
		if !ok {
			return fail("the snapshot is cut short")
		}
		if string(path) != field.path {
			return fail("the snapshot was made with %s: %q, and now it is %q", field.name, path, field.path)
		}
		rest = after
	}
	count, n := binary.Uvarint(rest)
	if n <= 0 || count > uint64(len(rest))/25 {
		return fail("the snapshot is cut short")
	}
	rest = rest[n:]
	keys := make(map[string]*track, count)
	for range count {
		key, after, ok := cutString(rest)
		if !ok || len(after) < 24 {
			return fail("the snapshot is cut short")
		}
		rest = after[24:]
		t := &track{
			at:  int64(binary.LittleEndian.Uint64(after)),
			lat: math.Float64frombits(binary.LittleEndian.Uint64(after[8:])),
			lon: math.Float64frombits(binary.LittleEndian.Uint64(after[16:])),
		}
		// Written so that NaN fails too.
		if !(t.lat >= -90 && t.lat <= 90 && t.lon >= -180 && t.lon <= 180) {
			return fail("the snapshot places %q at %v, %v", short(string(key)), t.lat, t.lon)
		}
		if keys[string(key)] != nil {
			return fail("the snapshot has %q twice", short(string(key)))
		}
		t.inside, t.cell, _ = o.set.find(nil, t.lat, t.lon, cell{})
		keys[string(key)] = t
	}
	if len(rest) > 0 {
		return fail("the snapshot has %d bytes too many", len(rest))
	}
	o.keys = keys
	return nil
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func cutString(b []byte) (s, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return nil, nil, false
	}
	return b[size : size+int(n)], b[size+int(n):], true
}
