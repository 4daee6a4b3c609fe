package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/millrace/millrace/table"
)

// Events that wait are known by their keys, by whichever way they came: also an object's that has left an area, and
// a key's end.
func TestKeysOfWhatWaits(t *testing.T) {
	const events = 40
	all := broadcast(events)
	for i := range all {
		all[i].Key = fmt.Sprint("key ", i%10)
		all[i].Data = fmt.Appendf(nil, `{"n":%d,"lat":%d,"lon":1}`, i, i/10%2*50)
		all[i].Deleted = i >= 35
	}
	p := newPushing(t, 3, v1, func(i int) string { return []string{"", "", "key 7"}[i] }, all)
	p.dropping(NewestPerKey)
	as, err := newAreas(Location{Lat: "lat", Lon: "lon"})
	if err != nil {
		t.Fatal(err)
	}
	p.feed.watched, p.feed.table = append(p.feed.watched, as), table.New(table.Options{Of: p.feed.stream.Name(), MaxKeys: 100})
	p.g.endpoints["/e"].areas = as
	byPrefix, byArea := p.feed.joined[0], p.feed.joined[1]
	p.feed.remove(byPrefix)
	byPrefix.prefix = "key "
	p.feed.joinLive(byPrefix, nil)
	p.feed.remove(byArea)
	if byArea.area, err = newBox(-10, -10, 10, 10); err != nil {
		t.Fatal(err)
	}
	p.feed.joinLive(byArea, nil)
	for _, s := range p.feed.joined {
		s.c.out.opening = true // it all waits
	}
	p.push(events)
	check := func(s *subscription, want ...string) {
		t.Helper()
		var got []string
		for q := s.c.out.line.first; q != nil; q = q.next {
			if q.lost > 0 {
				got = append(got, fmt.Sprint("dropped ", q.lost))
				continue
			}
			var m struct {
				Key           string
				Data          struct{ N *int }
				Left, Deleted bool
			}
			_, payload := splitFrame(t, q.frame)
			if err := json.Unmarshal(payload, &m); err != nil || m.Key != q.key || s.c.out.line.newest[subject{s, q.key}] != q {
				t.Errorf("%s is taken for %q, %v", payload, q.key, err)
			}
			text := m.Key
			if m.Left {
				text += " left"
			}
			if m.Data.N != nil {
				text += fmt.Sprint(" n ", *m.Data.N)
			}
			if m.Deleted {
				text += " deleted"
			}
			got = append(got, text)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	check(p.feed.joined[slices.IndexFunc(p.feed.joined, func(s *subscription) bool { return len(s.keys) > 0 })],
		"dropped 3", "key 7 n 37 deleted")
	check(byPrefix, "dropped 30", "key 0 n 30", "key 1 n 31", "key 2 n 32", "key 3 n 33", "key 4 n 34", "key 5 n 35 deleted",
		"key 6 n 36 deleted", "key 7 n 37 deleted", "key 8 n 38 deleted", "key 9 n 39 deleted")
	// Each comes, leaves, comes, and leaves again or ends.
	check(byArea, "dropped 30", "key 0 left", "key 1 left", "key 2 left", "key 3 left", "key 4 left", "key 5 n 35 deleted",
		"key 6 n 36 deleted", "key 7 n 37 deleted", "key 8 n 38 deleted", "key 9 n 39 deleted")
}
