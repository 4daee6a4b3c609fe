package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway/websocket"
)

// What a client of the subprotocol may say: one JSON object in each text message, and in it exactly one of
// subscribe, unsubscribe, update, ping and auth. docs/protocol.md describes it for clients' authors.
type clientMessage struct {
	Subscribe   *string         `json:"subscribe"` // the name of a new subscription
	Unsubscribe *string         `json:"unsubscribe"`
	Update      *string         `json:"update"` // the name of a subscription whose area is replaced
	Ping        json.RawMessage `json:"ping"`
	Auth        *string         `json:"auth"` // a token

	To     string       `json:"to"` // an endpoint's path; "": the one that the client connected to
	Keys   []string     `json:"keys"`
	Prefix string       `json:"prefix"`
	Filter string       `json:"filter"`
	Since  string       `json:"since"`
	Area   *areaMessage `json:"area"`
}

// areaMessage is {"box":[WEST,SOUTH,EAST,NORTH]} or {"circle":{"lat":...,"lon":...,"radius":METRES}}.
type areaMessage struct {
	Box    []float64 `json:"box"`
	Circle *struct {
		Lat    *float64 `json:"lat"`
		Lon    *float64 `json:"lon"`
		Radius float64  `json:"radius"`
	} `json:"circle"`
}

func (m *areaMessage) area() (*area, error) {
	switch {
	case m == nil:
		return nil, nil //nolint:nilnil // no area is no mistake
	case m.Circle != nil && m.Box == nil && m.Circle.Lat != nil && m.Circle.Lon != nil:
		return newCircle(*m.Circle.Lat, *m.Circle.Lon, m.Circle.Radius)
	case m.Circle == nil && len(m.Box) == 4:
		return newBox(m.Box[0], m.Box[1], m.Box[2], m.Box[3])
	default:
		return nil, wrongWish(`an area is {"box":[WEST,SOUTH,EAST,NORTH]} or {"circle":{"lat":...,"lon":...,"radius":METRES}}`)
	}
}

// maxName bounds the name of a subscription, in bytes.
const maxName = 64

// Message implements websocket.Receiver.
func (c *connection) Message(kind ws.OpCode, payload []byte) {
	c.busy.Store(true)
	c.attend(kind, payload)
	c.heard.Store(c.gateway.flows.clock.Load())
	c.busy.Store(false)
}

// attend does what a message is for, when its turn has come.
func (c *connection) attend(kind ws.OpCode, payload []byte) {
	if !c.throttle() {
		return
	}
	switch {
	case c.endpoint.api != nil:
		c.integrate(kind, payload)
		return
	case c.form != v1:
		return // a plain client has nothing to say that is understood
	}
	name, err := c.obey(kind, payload)
	if err != nil {
		c.answer(appendErrorV1(nil, name, err))
	}
}

// obey does what a message asks for. name is the subscription that it is about.
func (c *connection) obey(kind ws.OpCode, payload []byte) (name string, err error) {
	var m clientMessage
	if kind != ws.OpText {
		return "", wrongMessage("a message is text with one JSON object, this one is binary")
	}
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		return "", wrongMessage("%w", err)
	}
	if _, err := decoder.Token(); err != io.EOF { //nolint:errorlint // as it is documented
		return "", wrongMessage("something follows the JSON object")
	}
	asked := 0
	for _, verb := range []*string{m.Subscribe, m.Unsubscribe, m.Update} {
		if verb != nil {
			asked, name = asked+1, *verb
		}
	}
	if m.Ping != nil {
		asked++
	}
	if m.Auth != nil {
		asked++
	}
	switch {
	case asked != 1:
		return name, wrongMessage("a message has exactly one of subscribe, unsubscribe, update, ping and auth")
	case m.Auth != nil:
		return "", c.authenticate(*m.Auth)
	case c.waits():
		c.end(ending{code: statusUnauthorized, reason: "the first message has to bring a token: {\"auth\":TOKEN}", cut: cutUnauthorized})
		return "", nil
	case m.Ping != nil:
		c.answer(append(append([]byte(`{"pong":`), m.Ping...), '}'))
		return "", nil
	case m.Subscribe != nil:
		return name, c.subscribe(name, &m)
	case m.Unsubscribe != nil:
		return name, c.unsubscribe(name)
	default:
		return name, c.update(name, &m)
	}
}

// subscribe begins a subscription.
func (c *connection) subscribe(name string, m *clientMessage) error {
	e := c.endpoint
	if m.To != "" {
		e = c.gateway.endpoints[m.To]
	}
	if e != nil && e.api != nil {
		e = nil // its connections speak another language
	}
	switch {
	case name == "" || len(name) > maxName:
		return wrongMessage("a subscription has a name of 1 to %d bytes", maxName)
	case c.named(name) != nil:
		return millrace.Errorf(millrace.Conflict, "subscribe", "there is a subscription %q already; unsubscribe it first", name)
	case e == nil || e.feed == nil:
		return millrace.Errorf(millrace.NotFound, "subscribe", "there is no endpoint %.100q that has events", m.To)
	case !c.mayUse(e):
		return millrace.Errorf(millrace.Denied, "subscribe", "%s asks for another token; connect to it", e.path)
	}
	w, err := m.wish()
	if err == nil && e.inPath() && len(w.keys) == 0 {
		err = wrongWish("%s is for keys that are named; write one at least in keys", e.path)
	}
	if err == nil {
		err = c.bind(e, &w)
	}
	if err != nil {
		return err
	}
	s, r, _, err := c.begin(context.Background(), e, name, w)
	if err != nil {
		return err
	}
	c.answer(append(appendJSONString([]byte(`{"subscribed":`), []byte(name)), '}'))
	c.start(s, r)
	return nil
}

// start begins a subscription of a connection that is open.
func (c *connection) start(s *subscription, r *replay) {
	c.keep(s)
	if r == nil {
		s.feed.joinLive(s, nil)
	} else {
		c.replay(s, r)
	}
}

// wish reads what a message asks for.
func (m *clientMessage) wish() (w wish, err error) {
	if len(m.Keys) > 0 {
		err = w.setKeys(m.Keys)
	}
	if err == nil {
		err = w.setPrefix(m.Prefix)
	}
	if err == nil {
		err = w.setFilter(m.Filter)
	}
	if err == nil {
		w.area, err = m.Area.area()
	}
	if err == nil {
		w.since, err = parseSince(m.Since)
	}
	return w, err
}

// unsubscribe ends a subscription; nothing of it follows the answer.
func (c *connection) unsubscribe(name string) error {
	s := c.named(name)
	if s == nil {
		return millrace.Errorf(millrace.NotFound, "unsubscribe", "there is no subscription %.100q", name)
	}
	s.end()
	c.mu.Lock()
	c.subs = slices.DeleteFunc(c.subs, func(other *subscription) bool { return other == s })
	c.mu.Unlock()
	c.limits.Unsubscribe(1)
	c.answer(append(appendJSONString([]byte(`{"unsubscribed":`), []byte(name)), '}'))
	return nil
}

// update replaces a subscription's area. What the new one holds follows the answer, and then the message that says
// live: one that comes before the answer is of an earlier area.
func (c *connection) update(name string, m *clientMessage) error {
	s := c.named(name)
	if s == nil {
		return millrace.Errorf(millrace.NotFound, "update", "there is no subscription %.100q", name)
	}
	a, err := m.Area.area()
	if err != nil {
		return err
	}
	r, err := s.feed.replaceArea(s, a)
	if r != nil {
		c.replay(s, r)
	}
	return err
}

// named returns a subscription, nil if there is none of this name. Called by the goroutine that reads.
func (c *connection) named(name string) *subscription {
	for _, s := range c.subs {
		if s.name == name {
			return s
		}
	}
	return nil
}

// answer sends a text message about what the client has said.
func (c *connection) answer(text []byte) {
	frame := append(websocket.AppendHeader(make([]byte, 0, len(text)+10), ws.OpText, len(text)), text...)
	if c.in.Deflate {
		if small, ok := websocket.AppendDeflated(nil, ws.OpText, text); ok {
			frame = small
		}
	}
	if c.out.send(frame, false) == refused {
		c.cutSlow()
	}
}

// appendHello appends the frame with which every connection of the subprotocol begins.
func (c *connection) appendHello(dst []byte) []byte {
	text := appendJSONString([]byte(`{"hello":{"connection":`), []byte(c.id))
	text = append(text, `,"ping":`...)
	text = appendInt(text, c.gateway.config.Ping.Milliseconds())
	text = append(text, `,"message_limit":`...)
	text = append(appendInt(text, websocket.MaxMessage), `}}`...)
	return append(websocket.AppendHeader(dst, ws.OpText, len(text)), text...)
}

// appendErrorV1 appends {"sub","error":{"code","message"}}.
func appendErrorV1(dst []byte, name string, err error) []byte {
	dst = appendSub(append(dst, '{'), name)
	dst = append(dst, `"error":{"code":`...)
	dst = appendJSONString(dst, []byte(millrace.CodeOf(err)))
	dst = append(dst, `,"message":`...)
	dst = appendJSONString(dst, []byte(cause(err).Error()))
	return append(dst, "}}"...)
}

func wrongMessage(format string, args ...any) error {
	return millrace.Errorf(millrace.Invalid, "read a message", format, args...)
}
