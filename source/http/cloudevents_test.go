package httpsource

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/jsonpath"
	"github.com/millrace/millrace/mapping"
)

func TestCloudEvents(t *testing.T) {
	const about = `"specversion":"1.0","id":"7","source":"/bus","type":"moved","time":"2026-05-01T12:00:00Z","subject":"b1","traceparent":"00-1"`
	binary := []string{
		"ce-specversion", "1.0", "ce-id", "7", "ce-source", "/bus", "ce-type", "moved",
		"ce-time", "2026-05-01T12:00:00Z", "ce-subject", "b%31", "ce-traceparent", `"00-\1"`,
	}
	for _, tt := range []struct {
		name, contentType, body string
		headers                 []string
		code, accepted          int
		data, problem           string
	}{
		{name: "structured", contentType: "application/cloudevents+json", body: `{` + about + `,"data":{"a": 1}}`, code: 200, accepted: 1, data: `{"a": 1}`},
		{name: "null attribute", contentType: "application/cloudevents+json; charset=utf-8", body: `{` + about + `,"dataschema":null,"data":1}`, code: 200, accepted: 1, data: "1"},
		{name: "base64", contentType: "application/cloudevents+json", body: `{` + about + `,"data_base64":"AP8="}`, code: 200, accepted: 1, data: "\x00\xff"},
		{name: "text", contentType: "application/cloudevents+json", body: `{` + about + `,"datacontenttype":"text/xml","data":"<a/>"}`, code: 200, accepted: 1, data: `<a/>`},
		{name: "JSON string", contentType: "application/cloudevents+json", body: `{` + about + `,"data":"a"}`, code: 200, accepted: 1, data: `"a"`},
		{name: "no data", contentType: "application/cloudevents+json", body: `{` + about + `}`, code: 200, accepted: 1},
		{name: "batch", contentType: "application/cloudevents-batch+json", body: `[{` + about + `,"data":1},{` + about + `,"data":2}]`, code: 200, accepted: 2, data: "1 2"},
		{name: "empty batch", contentType: "application/cloudevents-batch+json", body: `[]`, code: 200},
		{name: "binary", contentType: asJSON, headers: binary, body: `{"a":1}`, code: 200, accepted: 1, data: `{"a":1}`},
		{name: "binary without a type", headers: binary, body: "bytes", code: 200, accepted: 1, data: "bytes"},
		{name: "binary of any type", contentType: "image/png", headers: binary, body: "\x89PNG", code: 200, accepted: 1, data: "\x89PNG"},

		{name: "no id", contentType: "application/cloudevents+json", body: `{"specversion":"1.0","source":"s","type":"t"}`, code: 400, problem: "id is missing"},
		{name: "another version", contentType: "application/cloudevents+json", body: strings.Replace(`{`+about+`}`, "1.0", "0.3", 1), code: 400, problem: `"0.3"`},
		{name: "no time", contentType: "application/cloudevents+json", body: strings.Replace(`{`+about+`}`, "2026-05-01T", "", 1), code: 400, problem: "RFC 3339"},
		{name: "time out of range", contentType: "application/cloudevents+json", body: strings.Replace(`{`+about+`}`, "2026", "9999", 1), code: 400, problem: "1678"},
		{name: "object as attribute", contentType: "application/cloudevents+json", body: `{` + about + `,"x":{}}`, code: 400, problem: `"x"`},
		{name: "name of an attribute", contentType: "application/cloudevents+json", body: `{` + about + `,"Idempotency-Key":"1"}`, code: 400, problem: "lower-case"},
		{name: "two data", contentType: "application/cloudevents+json", body: `{` + about + `,"data":1,"data_base64":""}`, code: 400, problem: "both"},
		{name: "no object", contentType: "application/cloudevents+json", body: `[]`, code: 400},
		{name: "null", contentType: "application/cloudevents+json", body: `null`, code: 400},
		{name: "no batch", contentType: "application/cloudevents-batch+json", body: `{` + about + `}`, code: 400},
		{name: "batch with one wrong", contentType: "application/cloudevents-batch+json", body: `[{` + about + `},{}]`, code: 400, problem: "specversion"},
		{name: "avro", contentType: "application/cloudevents+avro", body: `x`, code: 415},
		{name: "binary, no JSON", contentType: asJSON, headers: binary, body: `{`, code: 400},
		{name: "binary, bad escape", contentType: asJSON, headers: append(slices.Clip(binary), "ce-x", "%zz"), body: `1`, code: 400},
		{name: "binary, no source", contentType: asJSON, headers: []string{"ce-specversion", "1.0", "ce-id", "1", "ce-type", "t"}, body: `1`, code: 400, problem: "source"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(t, 1).start()
			headers := tt.headers
			if tt.contentType != "" {
				headers = append(slices.Clip(headers), "Content-Type", tt.contentType)
			}
			r := p.post("", tt.body, headers...)
			if r.Code != tt.code || r.Accepted != tt.accepted {
				t.Fatalf("answered %d, accepted %d (%s, %v); want %d, %d", r.Code, r.Accepted, r.Error, r.Errors, tt.code, tt.accepted)
			}
			if tt.problem != "" && (len(r.Errors) == 0 || !strings.Contains(r.Errors[len(r.Errors)-1].Reason, tt.problem)) {
				t.Errorf("errors %+v, want %q", r.Errors, tt.problem)
			}
			if got := p.data(); got != tt.data {
				t.Errorf("stored %q, want %q", got, tt.data)
			}
			for _, e := range p.stored() {
				if e.ID != "/bus#7" || e.Type != "moved" || e.Key != "b1" || e.Time.Format(time.RFC3339) != "2026-05-01T12:00:00Z" ||
					e.Attributes["id"] != "7" || e.Attributes["source"] != "/bus" || e.Attributes["subject"] != "b1" || e.Attributes["traceparent"] != "00-1" {
					t.Errorf("the event is %+v", e)
				}
			}
		})
	}
}

// A key makes a batch idempotent, and does not hide what its events say of themselves.
func TestCloudEventsWithKey(t *testing.T) {
	p := newPlace(t, 1)
	p.mapping = mapping.Config{Key: "k"}
	p.start()
	const body = `[{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"k":"a"}},{"specversion":"1.0","id":"2","source":"s","type":"t","data":{"k":"b"}}]`
	headers := []string{"Content-Type", "application/cloudevents-batch+json", "Idempotency-Key", "batch"}
	p.want(p.post("", body, headers...), 200, 2, 0, false)
	p.restart()
	p.want(p.post("", body, headers...), 200, 2, 0, true)
	events := p.stored()
	if len(events) != 2 || events[1].ID != "batch#1" || events[1].Key != "b" || events[1].Attributes["id"] != "2" {
		t.Errorf("stored %+v", events)
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("1\n2\n"))
	f.Add([]byte("\xef\xbb\xbf{}\r\n\r\n[1,\n2]"))
	f.Add([]byte("\n\n \x00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		p := parser{most: 1 << 20}
		if err := p.lines(body); err != nil {
			t.Fatal(err)
		}
		all := bytes.Split(body, []byte("\n"))
		before := 0
		for _, in := range p.inputs {
			if in.place <= before || in.place > len(all) {
				t.Fatalf("line %d comes after line %d of %d", in.place, before, len(all))
			}
			before = in.place
			if !bytes.Contains(all[in.place-1], in.event.Data) || len(bytes.Trim(in.event.Data, " \t\r")) == 0 {
				t.Fatalf("line %d is %q, and its input %q", in.place, all[in.place-1], in.event.Data)
			}
		}
	})
}

func FuzzCloudEvent(f *testing.F) {
	f.Add([]byte(`{"specversion":"1.0","id":"7","source":"/bus","type":"moved","time":"2026-05-01T12:00:00Z","data":{"a":1}}`), `"a%20b\"c"`)
	f.Add([]byte(`{"specversion":"1.0","id":1,"source":true,"type":"t","data_base64":"AAAA"}`), `%`)
	f.Add([]byte(`{"specversion":"1.0","id":"7","source":"s","type":"t","datacontenttype":"text/plain","data":"\ud800"}`), `"`)
	f.Fuzz(func(t *testing.T, text []byte, header string) {
		p := parser{most: 100, now: time.Unix(0, 0)}
		in := p.cloudEvent(text)
		if in.err == nil {
			if !json.Valid(text) {
				t.Fatalf("%q is an event", text)
			}
			if in.event.ID == "" || in.event.Type == "" || in.event.Attributes["id"] == "" {
				t.Fatalf("%q is the event %+v", text, in.event)
			}
		}
		_ = p.document(text, p.cloudEvent)
		if err := jsonpath.Valid(text); err != nil {
			_ = err // a batch may break off anywhere
		}
		h := http.Header{"Ce-Id": {header}, "Ce-Source": {header}, "Ce-Type": {header}, "Ce-Specversion": {"1.0"}, "Ce-X": {header}}
		_ = p.binaryEvent("text/plain", h, text)
		headerText(header)
	})
}

func FuzzMark(f *testing.F) {
	f.Add("1/0/00112233445566778899aabbccddeeff")
	f.Add("1//")
	f.Fuzz(func(t *testing.T, text string) {
		accepted, rejected, body, ok := parseMark(text)
		if !ok {
			return
		}
		a, r, b, ok := parseMark(formatMark(accepted, rejected, body))
		if !ok || a != accepted || r != rejected || b != body {
			t.Fatalf("%q: %d/%d/%x, then %d/%d/%x", text, accepted, rejected, body, a, r, b)
		}
	})
}
