package websocket

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/millracetest"
)

// RFC 6455, section 5.4: messages in several frames.
func fragments(l *cases) {
	message, value := sayOf(300)
	for _, size := range []int{299, 150, 100, 64, 10, 3, 2, 1} {
		parts := cut(millracetest.OpText, message, size)
		l.play("fragments", "5.4", fmt.Sprintf("text in %d of %d bytes", len(parts), size), script{send: frames(parts...), echoes: []string{value}, closes: alive})
		l.play("fragments", "5.4", fmt.Sprintf("binary in %d of %d bytes", len(parts), size), script{
			send: frames(cut(millracetest.OpBinary, strings.Repeat("\xff", 300), size)...), closes: alive,
		})
		var pinged []frame
		for _, f := range parts {
			pinged = append(pinged, f, ping("p"))
		}
		l.play("fragments", "5.4", fmt.Sprintf("text in %d of %d bytes, and pings", len(parts), size), script{send: frames(pinged...), echoes: []string{value}, pong: new("p"), closes: alive})
	}
	one := say("1")
	for name, list := range map[string][]frame{
		"empty first":             {more(text("")), next(one)},
		"empty last":              {more(text(one)), next("")},
		"empty in the middle":     {more(text(one[:4])), more(next("")), next(one[4:])},
		"empty everywhere":        {more(text("")), more(next(one[:4])), more(next("")), more(next("")), next(one[4:]), ping("x")},
		"two messages":            {more(text(one)), next(""), more(text("")), next("")},
		"after a binary message":  {more(binaries("\xff")), next("\xff"), more(text(one[:1])), next(one[1:])},
		"before a whole message":  {more(binaries("\xff")), next("\xff"), text(one)},
		"empty, a thousand times": append(append([]frame{more(text(one[:4]))}, repeated(more(next("")), 1000)...), next(one[4:])),
	} {
		l.play("fragments", "5.4", name, script{send: frames(list...), echoes: []string{"1"}, closes: alive})
	}
	l.play("fragments", "5.4", "all empty, text", script{send: frames(more(text("")), more(next("")), next("")), closes: alive})
	l.play("fragments", "5.4", "all empty, binary", script{send: frames(more(binaries("")), more(next("")), next("")), closes: alive})
	l.split("fragments", "5.4", "three, cut anywhere", script{
		send: frames(more(text(one[:3])), more(next(one[3:7])), next(one[7:])), echoes: []string{"1"}, closes: alive,
	})

	for name, list := range map[string][]frame{
		"continuation of nothing":                       {next("a")},
		"empty continuation of nothing":                 {next("")},
		"continuation of nothing, more to come":         {more(next("a"))},
		"continuation after a ping":                     {ping("p"), next("a")},
		"continuation after a whole message":            {text("a"), next("b")},
		"continuation after an empty message":           {binaries(""), next("")},
		"continuation after the last fragment":          {more(text("a")), next("b"), next("c")},
		"continuation after the last fragment, more":    {more(text("a")), next("b"), more(next("c")), next("d")},
		"text in a text":                                {more(text("a")), text("b")},
		"text in a text, more to come":                  {more(text("a")), more(text("b"))},
		"binary in a text":                              {more(text("a")), binaries("b")},
		"text in a binary":                              {more(binaries("a")), text("b")},
		"binary in a binary, more to come":              {more(binaries("a")), more(binaries("b"))},
		"text after two fragments":                      {more(text("a")), more(next("b")), text("c")},
		"empty text in an empty text":                   {more(text("")), text("")},
		"text after a ping in a text":                   {more(text("a")), ping("p"), text("b")},
		"whole message instead of the last fragment":    {more(text("a")), more(next("b")), text(say("1"))},
		"two messages that are sent through each other": {more(text("a")), more(binaries("b")), next("a"), next("b")},
	} {
		l.play("fragments", "5.4", name, script{send: frames(list...), closes: 1002})
	}
	l.add("fragments", "5.4", "no answer before the last", func(t *testing.T, target *Target) {
		c := open(t, target, false)
		for i, f := range cut(millracetest.OpText, one, 1) {
			if got := c.send(t, frames(f, ping(theEnd))); len(got.echoes) > 0 != (i == len(one)-1) || got.closes != alive {
				t.Errorf("fragment %d: got %+v", i, got)
			}
		}
	})
}

func repeated(f frame, n int) []frame {
	var list []frame
	for range n {
		list = append(list, f)
	}
	return list
}
