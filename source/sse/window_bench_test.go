package sse

import (
	"fmt"
	"testing"
)

// BenchmarkWindow moves a window to ids as Wikimedia sends them, each ahead of the one before.
func BenchmarkWindow(b *testing.B) {
	w := testWindow(b)
	ids := make([][]byte, 1024)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%len(ids) == 0 {
			b.StopTimer()
			for i := range ids {
				ids[i] = fmt.Appendf(nil, `[{"topic":"eqiad.mediawiki.recentchange","partition":0,"timestamp":%d},`+
					`{"topic":"codfw.mediawiki.recentchange","partition":0,"offset":-1}]`, 1767323045000+n+i)
			}
			b.StartTimer()
		}
		w.merge(ids[n%len(ids)], int64(n+1)*1e6)
	}
}
