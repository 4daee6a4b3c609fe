package httpsource

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// CloudEvents 1.0: what an event is (spec.md), its JSON format (json-format.md), and how HTTP carries it
// (http-protocol-binding.md). In this file an attribute is one of CloudEvents, an extension among them.

// envelope is what is known of a CloudEvent apart from its data.
type envelope map[string]string

// event makes an event of the attributes, which become the event's. id, source and type are there and not
// empty, or it is none.
func (a envelope) event(now time.Time) (millrace.Event, error) {
	wrong := func(format string, args ...any) (millrace.Event, error) {
		return millrace.Event{}, millrace.Errorf(millrace.Invalid, "read CloudEvent", format, args...)
	}
	switch version := a["specversion"]; version {
	case "1.0":
	case "":
		return wrong("specversion is missing; it is \"1.0\"")
	default:
		return wrong("specversion %.20q is not known; it is \"1.0\"", version)
	}
	for _, name := range []string{"id", "source", "type"} {
		if a[name] == "" {
			return wrong("%s is missing", name)
		}
	}
	for name := range a {
		if !attributeName(name) {
			return wrong("the attribute %.40q has a name with other characters than lower-case letters and digits", name)
		}
	}
	e := millrace.Event{ID: a["source"] + "#" + a["id"], Type: a["type"], Time: now, Key: a["partitionkey"]}
	if e.Key == "" {
		e.Key = a["subject"]
	}
	if text := a["time"]; text != "" {
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return wrong("time %.40q is no RFC 3339 time", text)
		}
		if y := t.UTC().Year(); y < 1678 || y > 2261 {
			return wrong("time %.40q is outside the years 1678 to 2261", text)
		}
		e.Time = t
	}
	delete(a, "specversion")
	delete(a, "type")
	delete(a, "time")
	e.Attributes = a
	return e, nil
}

// attributeName: spec.md, "Naming Conventions".
func attributeName(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// cloudEvent reads an event in the JSON format.
func (p *parser) cloudEvent(text []byte) input {
	wrong := func(format string, args ...any) input {
		return input{err: millrace.Errorf(millrace.Invalid, "read CloudEvent", format, args...)}
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return wrong("%w", err)
	}
	if members == nil {
		return wrong("it is null, not an object")
	}
	data, hasData := members["data"]
	encoded, hasEncoded := members["data_base64"]
	delete(members, "data")
	delete(members, "data_base64")
	attributes := make(envelope, len(members)+1)
	for name, value := range members {
		switch value[0] {
		case 'n': // null is the same as absent
		case '"':
			var s string
			if err := json.Unmarshal(value, &s); err != nil {
				return wrong("%w", err)
			}
			attributes[name] = s
		case '{', '[':
			return wrong("the attribute %.40q is no string, number or bool", name)
		default:
			attributes[name] = string(value)
		}
	}
	e, err := attributes.event(p.now)
	if err != nil {
		return input{err: err}
	}
	switch {
	case hasData && hasEncoded:
		return wrong("it has both data and data_base64")
	case hasEncoded:
		var s string
		if err := json.Unmarshal(encoded, &s); err != nil {
			return wrong("data_base64 is no string")
		}
		if e.Data, err = base64.StdEncoding.DecodeString(s); err != nil {
			return wrong("data_base64 is no base64: %w", err)
		}
	case hasData && data[0] == '"' && !jsonContent(attributes["datacontenttype"]):
		var s string // text that is not JSON stands in a string
		if err := json.Unmarshal(data, &s); err != nil {
			return wrong("%w", err)
		}
		e.Data = []byte(s)
	default:
		e.Data = bytes.TrimSpace(data)
	}
	return input{event: e}
}

// jsonContent says whether data of this content type is JSON; none means that it is.
func jsonContent(contentType string) bool {
	if contentType == "" {
		return true
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && isJSON(mediaType)
}

// binaryEvent reads an event whose attributes are in headers and whose data is the body.
func (p *parser) binaryEvent(contentType string, h http.Header, body []byte) input {
	attributes := envelope{}
	for name, values := range h {
		name, found := strings.CutPrefix(strings.ToLower(name), "ce-")
		if !found || len(values) == 0 {
			continue
		}
		value, ok := headerText(values[0])
		if !ok || len(values) > 1 {
			return input{err: millrace.Errorf(millrace.Invalid, "read CloudEvent", "the header ce-%.40s is malformed, or there twice", name)}
		}
		attributes[name] = value
	}
	if contentType != "" {
		attributes["datacontenttype"] = contentType
	}
	e, err := attributes.event(p.now)
	if err != nil {
		return input{err: err}
	}
	e.Data = body
	return input{event: e, json: contentType != "" && jsonContent(contentType)}
}

// headerText decodes an attribute's value from a header: http-protocol-binding.md, 3.1.3.2.
func headerText(s string) (string, bool) {
	s = strings.TrimSpace(s)
	if len(s) > 1 && s[0] == '"' && s[len(s)-1] == '"' {
		var b strings.Builder
		for i := 1; i < len(s)-1; i++ {
			if s[i] == '\\' && i < len(s)-2 {
				i++
			}
			b.WriteByte(s[i])
		}
		s = b.String()
	}
	if strings.Contains(s, "%") {
		text, err := url.PathUnescape(s)
		if err != nil {
			return "", false
		}
		s = text
	}
	return s, utf8.ValidString(s)
}
