// Package baseline decodes the same bytes with our decoder and with those of two well-known Go clients,
// in one run. It is a module of its own, so that theirs are no dependencies of ours.
package baseline

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	r3labs "github.com/r3labs/sse/v2"
	tmaxmax "github.com/tmaxmax/go-sse"
	backoff "gopkg.in/cenkalti/backoff.v1"

	"github.com/millrace/millrace/source/sse"
)

const events = 2000

// feed renders events whose data has so many bytes, each with an id and a type.
func feed(size int) []byte {
	var text []byte
	for n := range events {
		text = fmt.Appendf(text, "id: %d\nevent: update\ndata: {\"n\":%d,\"text\":\"%s\"}\n\n", n, n, strings.Repeat("abcdefgh ", size/9))
	}
	return text
}

func BenchmarkDecode(b *testing.B) {
	text := feed(1400)
	for _, decoder := range []struct {
		name   string
		decode func(io.Reader) (int, error)
	}{
		{"millrace", decodeOurs}, {"tmaxmax", decodeTmaxmax}, {"r3labs", decodeR3labs},
	} {
		b.Run(decoder.name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if n, err := decoder.decode(bytes.NewReader(text)); n != events || err != nil {
					b.Fatalf("%d events, %v", n, err)
				}
			}
		})
	}
}

func decodeOurs(r io.Reader) (n int, err error) {
	d := sse.NewDecoder(r, 8<<20)
	var e sse.Event
	for {
		err := d.Read()
		for d.Next(&e) {
			n++
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func decodeTmaxmax(r io.Reader) (n int, err error) {
	for _, err := range tmaxmax.Read(r, nil) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// decodeR3labs runs that client over a response that is in memory: its decoder is not exported.
func decodeR3labs(r io.Reader) (n int, err error) {
	client := r3labs.NewClient("http://127.0.0.1/", r3labs.ClientMaxBufferSize(8<<20))
	client.Connection.Transport = response{r}
	client.ReconnectStrategy = &backoff.StopBackOff{}
	err = client.SubscribeRaw(func(*r3labs.Event) { n++ })
	if n == events {
		err = nil // the end of the body is an error to that client
	}
	return n, err
}

// response is a transport that answers every request with one body.
type response struct{ body io.Reader }

func (r response) RoundTrip(request *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: io.NopCloser(r.body), Request: request,
	}, nil
}
