package httpsource

import (
	"bytes"
	"errors"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/jsonpath"
)

// format is how a body holds events.
type format int

const (
	unknown  format = iota
	lines           // of JSON
	document        // of JSON: an array, or one value
	whole           // one event with the bytes
	structuredEvent
	batchEvents
	binaryEvent
)

// formatOf returns the format that the headers name, and the media type.
func formatOf(h http.Header) (f format, mediaType string, err error) {
	text := h.Get("Content-Type")
	binary := h.Get("Ce-Specversion") != "" || h.Get("Ce-Id") != ""
	if text == "" && binary {
		return binaryEvent, "", nil
	}
	mediaType, parameters, err := mime.ParseMediaType(text)
	if err != nil {
		return unknown, "", errors.New("the request needs a Content-Type, such as application/json or application/x-ndjson")
	}
	if charset := parameters["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii") &&
		(!binary || isJSON(mediaType)) {
		return unknown, "", errors.New("the charset must be utf-8")
	}
	switch {
	case mediaType == "application/cloudevents+json":
		return structuredEvent, mediaType, nil
	case mediaType == "application/cloudevents-batch+json":
		return batchEvents, mediaType, nil
	case strings.HasPrefix(mediaType, "application/cloudevents"):
		return unknown, "", errors.New("of CloudEvents' formats JSON alone is known: application/cloudevents+json, application/cloudevents-batch+json")
	case binary:
		return binaryEvent, text, nil
	}
	switch mediaType {
	case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonl", "application/jsonlines",
		"application/x-jsonlines", "application/jsonlines+json":
		return lines, mediaType, nil
	case "text/plain", "application/octet-stream":
		return whole, mediaType, nil
	}
	if isJSON(mediaType) {
		return document, mediaType, nil
	}
	return unknown, "", errors.New("the Content-Type is not known; send application/json, application/x-ndjson, CloudEvents, text/plain or application/octet-stream")
}

func isJSON(mediaType string) bool {
	return mediaType == "application/json" || mediaType == "text/json" || strings.HasSuffix(mediaType, "+json")
}

// input is one of a body's inputs, before the mapping.
type input struct {
	event millrace.Event
	place int   // its line, counted from 1, or its index
	err   error // why it is no event
	json  bool  // its data must be JSON, and has not been checked
}

// errTooMany: the body has more inputs than a request may have.
var errTooMany = errors.New("too many")

// parser takes bodies apart. Inputs point into the body.
type parser struct {
	inputs []input
	most   int
	now    time.Time
	kind   string // type of events that name none
}

// parse fails if the body as a whole is malformed.
func (p *parser) parse(f format, mediaType string, h http.Header, body []byte) error {
	switch f {
	case lines:
		return p.lines(body)
	case document:
		return p.document(withoutMark(body), func(data []byte) input {
			return input{event: millrace.Event{Type: p.kind, Time: p.now, Data: data}}
		})
	case structuredEvent:
		p.inputs = append(p.inputs, p.cloudEvent(withoutMark(body)))
		return nil
	case batchEvents:
		body = withoutMark(body)
		if jsonpath.KindOf(body) != jsonpath.Array {
			return millrace.Errorf(millrace.Invalid, "", "a batch of CloudEvents is a JSON array")
		}
		return p.document(body, p.cloudEvent)
	case binaryEvent:
		p.inputs = append(p.inputs, p.binaryEvent(mediaType, h, body))
		return nil
	default:
		e := millrace.Event{Type: p.kind, Time: p.now, Data: body}
		e.Attributes = map[string]string{"datacontenttype": mediaType}
		p.inputs = append(p.inputs, input{event: e})
		return nil
	}
}

// lines makes an input of each line that is not blank.
func (p *parser) lines(body []byte) error {
	body = withoutMark(body)
	p.inputs = slices.Grow(p.inputs, min(bytes.Count(body, []byte{'\n'})+1, p.most))
	for number := 1; len(body) > 0; number++ {
		line := body
		if end := bytes.IndexByte(body, '\n'); end >= 0 {
			line, body = body[:end], body[end+1:]
		} else {
			body = nil
		}
		line = bytes.Trim(line, " \t\r")
		if len(line) == 0 {
			continue
		}
		if len(p.inputs) == p.most {
			return errTooMany
		}
		p.inputs = append(p.inputs, input{event: millrace.Event{Type: p.kind, Time: p.now, Data: line}, place: number, json: true})
	}
	return nil
}

// document makes an input of each element of an array, or one of any other value.
func (p *parser) document(body []byte, each func(data []byte) input) error {
	if jsonpath.KindOf(body) != jsonpath.Array {
		in := each(bytes.TrimSpace(body))
		in.json = true
		p.inputs = append(p.inputs, in)
		return nil
	}
	for data, err := range jsonpath.Elements(body) {
		if err != nil {
			return err
		}
		if len(p.inputs) == p.most {
			return errTooMany
		}
		in := each(data)
		in.place = len(p.inputs)
		p.inputs = append(p.inputs, in)
	}
	return nil
}

// withoutMark cuts a byte order mark, which some editors begin a file with.
func withoutMark(body []byte) []byte { return bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")) }
