package config

import (
	"fmt"
	"io"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/token"
)

// hiddenText stands for a secret that was written in the file itself.
const hiddenText = "(hidden)"

// Print writes the effective configuration as YAML: what the file says and every default that it left
// out. Empty values stand there only if the file has them: a preset would set them otherwise. Read again in
// the same working directory it is the same configuration, but for what is hidden. It holds no secrets: where a
// value came from ${env:} or ${file:} it says that again; the values of headers, the user information of URLs and
// the values in their query strings are hidden.
func (c *Config) Print(w io.Writer) error {
	p := printer{hidden: c.hidden, places: c.places}
	p.structure(reflect.ValueOf(c).Elem(), "", "")
	_, err := io.WriteString(w, p.out.String())
	return err
}

// String is what Print writes.
func (c *Config) String() string {
	var b strings.Builder
	_ = c.Print(&b) // a Builder takes everything
	return b.String()
}

type printer struct {
	out    strings.Builder
	hidden map[string]string
	places map[string]place // of what the file says
}

// inside returns a printer of what is inside of what p prints.
func (p *printer) inside() *printer { return &printer{hidden: p.hidden, places: p.places} }

// structure prints a struct's keys, one to a line.
func (p *printer) structure(v reflect.Value, path, indent string) {
	standard := reflect.New(v.Type()).Elem()
	setDefaults(standard)
	for _, f := range fieldsOf(v.Type()) {
		value := v.FieldByIndex(f.index)
		_, written := p.places[join(path, f.name)]
		if empty(value) && (!written || value.Kind() == reflect.Pointer) && standard.FieldByIndex(f.index).IsZero() {
			continue
		}
		p.entry(f.name, value, join(path, f.name), indent, f.option)
	}
}

// empty says whether a value is none at all. Numbers, durations and structs always are something.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice:
		return v.Len() == 0
	case reflect.Struct:
		return false
	default:
		return v.IsZero() && !v.CanInt()
	}
}

func (p *printer) entry(key string, v reflect.Value, path, indent string, o option) {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	p.out.WriteString(indent + quoteText(key) + ":")
	switch v.Kind() {
	case reflect.Struct:
		body := p.inside()
		body.structure(v, path, indent+"  ")
		if body.out.Len() == 0 {
			p.out.WriteString(" {}\n")
			return
		}
		p.out.WriteString("\n" + body.out.String())
	case reflect.Map:
		if v.Len() == 0 {
			p.out.WriteString(" {}\n")
			return
		}
		p.out.WriteString("\n")
		names := make(map[string]reflect.Value, v.Len())
		for it := v.MapRange(); it.Next(); {
			names[it.Key().String()] = it.Value()
		}
		for name, element := range sorted(names) {
			p.entry(name, element, join(path, name), indent+"  ", o)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Struct {
			p.sections(v, path, indent)
			return
		}
		items := make([]string, v.Len())
		for i := range items {
			items[i] = p.scalar(v.Index(i), fmt.Sprintf("%s[%d]", path, i), o)
		}
		p.out.WriteString(" [" + strings.Join(items, ", ") + "]\n")
	default:
		p.out.WriteString(" " + p.scalar(v, path, o) + "\n")
	}
}

// sections prints a list of structs.
func (p *printer) sections(v reflect.Value, path, indent string) {
	if v.Len() == 0 {
		p.out.WriteString(" []\n")
		return
	}
	p.out.WriteString("\n")
	for i := range v.Len() {
		body := p.inside()
		body.structure(v.Index(i), fmt.Sprintf("%s[%d]", path, i), indent+"    ")
		keys := strings.TrimPrefix(body.out.String(), indent+"    ")
		if keys == "" {
			keys = "{}\n"
		}
		p.out.WriteString(indent + "  - " + keys)
	}
}

func (p *printer) scalar(v reflect.Value, path string, o option) string {
	if raw, ok := p.hidden[path]; ok {
		return quoteText(raw)
	}
	switch {
	case o.secret && !v.IsZero():
		return quoteText(hiddenText)
	case v.Type() == durationType:
		return formatDuration(time.Duration(v.Int()))
	case o.size:
		return formatSize(v.Int())
	case v.Kind() == reflect.String:
		return quoteText(strings.ReplaceAll(withoutCredentials(v.String()), "${", "$${"))
	case v.Kind() == reflect.Bool:
		return strconv.FormatBool(v.Bool())
	default:
		return strconv.FormatInt(v.Int(), 10)
	}
}

// withoutCredentials hides what a URL may hold of secrets; other texts stay.
func withoutCredentials(s string) string {
	if !strings.Contains(s, "://") {
		return s
	}
	urls := strings.Split(s, ",")
	for i, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			return hiddenText
		}
		if u.User == nil && u.RawQuery == "" {
			continue
		}
		if u.User != nil {
			u.User = url.User("hidden")
		}
		if query := u.Query(); len(query) > 0 {
			for name := range query {
				query.Set(name, "hidden")
			}
			u.RawQuery = query.Encode()
		}
		urls[i] = u.String()
	}
	return strings.Join(urls, ",")
}

// quoteText writes a text as a YAML scalar, in quotes where it needs them.
func quoteText(s string) string {
	plain := s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./") == "" &&
		!strings.HasPrefix(s, "-") && !token.IsNeedQuoted(s) && token.New(s, s, &token.Position{}).Type == token.StringType
	if plain {
		return s
	}
	return quoteDouble(s)
}

// quoteDouble writes a YAML double-quoted scalar.
func quoteDouble(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteRune('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
