package fence

import (
	"time"
	"unicode/utf8"
)

// result is one transition on its way into an event's data.
type result struct {
	key        []byte
	fence      *Fence
	transition string
	at         time.Time
	lat, lon   []byte // JSON numbers
}

// appendTo appends the result as JSON: these names, in this order.
func (r *result) appendTo(dst []byte) []byte {
	dst = append(dst, `{"key":`...)
	dst = appendText(dst, r.key)
	dst = append(dst, `,"fence":`...)
	dst = append(dst, r.fence.quoted...)
	dst = append(dst, `,"transition":"`...)
	dst = append(dst, r.transition...)
	dst = append(dst, `","time":"`...)
	dst = r.at.UTC().AppendFormat(dst, time.RFC3339Nano) // no more digits than the time has
	dst = append(dst, `","lat":`...)
	dst = append(dst, r.lat...)
	dst = append(dst, `,"lon":`...)
	dst = append(dst, r.lon...)
	dst = append(dst, `,"properties":`...)
	dst = append(dst, r.fence.Properties...)
	return append(dst, '}')
}

// appendText appends text as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendText(dst, text []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(text); {
		c := text[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(text[i:])
			dst = utf8.AppendRune(dst, r)
			i += size
			continue
		}
		switch {
		case c == '"', c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			dst = append(dst, c)
		}
		i++
	}
	return append(dst, '"')
}
