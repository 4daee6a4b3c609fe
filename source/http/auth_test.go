package httpsource

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestTokens(t *testing.T) {
	p := newPlace(t, 1)
	p.config.Tokens = []string{token, token + "-2"}
	p.start()
	for _, tt := range []struct {
		authorization string
		code          int
	}{
		{"Bearer " + token, 200},
		{"bearer " + token + "-2", 200},
		{"Bearer " + token + "-3", 401},
		{"Bearer " + token[:len(token)-1], 401},
		{"Bearer ", 401},
		{"Bearer", 401},
		{"Basic " + token, 401},
		{token, 401},
		{"", 401},
	} {
		headers := []string{"Content-Type", asJSON}
		if tt.authorization != "" {
			headers = append(headers, "Authorization", tt.authorization)
		}
		r := p.post("", `1`, headers...)
		if r.Code != tt.code || (r.Code == 401) != (r.Header.Get("WWW-Authenticate") != "") {
			t.Errorf("%q: %d %v, want %d", tt.authorization, r.Code, r.Header, tt.code)
		}
		if strings.Contains(r.Error, token) {
			t.Errorf("the answer quotes the token: %s", r.Error)
		}
	}
	// With a token a page may post.
	p.want(p.post("", `1`, "Content-Type", asJSON, "Authorization", "Bearer "+token, "Origin", "https://example.org"), 200, 1, 0, false)
}

// Without credentials pages in this machine's browsers are kept out.
func TestBrowsers(t *testing.T) {
	p := newPlace(t, 1).start()
	p.want(p.post("", `1`, "Content-Type", asJSON), 200, 1, 0, false)
	p.want(p.post("", `1`, "Content-Type", "text/plain", "Origin", "https://example.org"), 403, 0, 0, false)
	p.want(p.post("", `1`, "Content-Type", "text/plain", "Sec-Fetch-Site", "same-origin"), 403, 0, 0, false)
}

// The vectors that GitHub ("Validating webhook deliveries") and Standard Webhooks (the tests of its reference
// libraries) publish. Stripe publishes none; its was made with openssl dgst -sha256 -hmac.
func TestPublishedSignatures(t *testing.T) {
	const (
		right = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
		wrong = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="
		later = "v2,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="
		// Of the specification's example: ed25519, another version.
		asymmetric = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
	)
	webhook := func(signatures ...string) http.Header {
		return http.Header{
			"Webhook-Id": {"msg_p5jXN8AQM9LWM0D4loKWxJek"}, "Webhook-Timestamp": {"1614265330"},
			"Webhook-Signature": {strings.Join(signatures, " ")},
		}
	}
	without := func(name string) http.Header {
		h := webhook(right)
		h.Del(name)
		return h
	}
	key := func(secret string) []byte {
		key, err := decodeSecret(secret)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	standard := standardWebhooks{key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")}
	at := time.Unix(1614265330, 0)
	const payload = `{"test": 2432232314}`
	for _, tt := range []struct {
		name   string
		scheme signature
		header http.Header
		body   string
		now    time.Time
		want   error
	}{
		{
			"github",
			github{[]byte("It's a Secret to Everybody")},
			http.Header{"X-Hub-Signature-256": {"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}},
			"Hello, World!",
			time.Time{},
			nil,
		},
		{
			"stripe",
			stripe{[]byte("whsec_test_secret")}, // all of the secret is the key
			http.Header{"Stripe-Signature": {"t=1492774577,v1=654b43d3508ecadb3f8cefc4bc7d3d2bdc5ba9e03bf2c89b2d0657a8e24e4543,v0=6ffbb59b2300aae63f27"}},
			`{"id":"evt_1","object":"event"}`, time.Unix(1492774577, 0), nil,
		},
		{"standard webhooks", standard, webhook(right), payload, at, nil},
		{"without the prefix", standardWebhooks{key("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")}, webhook(right), payload, at, nil},
		{"one of several", standard, webhook(wrong, later, asymmetric, right, wrong), payload, at, nil},
		{"none of several", standard, webhook(wrong, later, asymmetric), payload, at, errSignature},
		{"of another version", standard, webhook("v2" + right[2:]), payload, at, errMalformed},
		{"a part", standard, webhook(right[:8]), payload, at, errMalformed},
		{"an empty one", standard, webhook("v1,"), payload, at, errSignature},
		{"another body", standard, webhook(right), payload + " ", at, errSignature},
		{"no id", standard, without("Webhook-Id"), payload, at, errMalformed},
		{"no time", standard, without("Webhook-Timestamp"), payload, at, errMalformed},
		{"no signature", standard, without("Webhook-Signature"), payload, at, errMalformed},
		{"just not too old", standard, webhook(right), payload, at.Add(tolerance), nil},
		{"too old", standard, webhook(right), payload, at.Add(tolerance + time.Second), errTime},
		{"just not too new", standard, webhook(right), payload, at.Add(-tolerance), nil},
		{"too new", standard, webhook(right), payload, at.Add(-tolerance - time.Second), errTime},
	} {
		if err := tt.scheme.check(tt.header, []byte(tt.body), tt.now); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

const webhookSecret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"

// signed returns the headers of a webhook.
func signed(kind, id, body string, at time.Time) []string {
	seconds := strconv.FormatInt(at.Unix(), 10)
	switch kind {
	case "github":
		return []string{
			"X-Hub-Signature-256", "sha256=" + hex.EncodeToString(sum([]byte(webhookSecret), "", []byte(body))),
			"X-GitHub-Delivery", id, "X-GitHub-Event", "push", "Content-Type", asJSON,
		}
	case "stripe":
		return []string{
			"Stripe-Signature", "t=" + seconds + ",v0=00,v1=ff,v1=" + hex.EncodeToString(sum([]byte(webhookSecret), seconds+".", []byte(body))),
			"Content-Type", asJSON,
		}
	default:
		key, _ := decodeSecret(webhookSecret)
		return []string{
			"webhook-id", id, "webhook-timestamp", seconds, "Content-Type", asJSON,
			"webhook-signature", "v2,xx v1,AAAA v1," + base64.StdEncoding.EncodeToString(sum(key, id+"."+seconds+".", []byte(body))),
		}
	}
}

// A signed webhook is taken once, however often it is sent, also by the next life; others are not taken.
func TestWebhooks(t *testing.T) {
	for kind, signature := range map[string]*Signature{
		"github":            {GitHub: &Secret{webhookSecret}},
		"stripe":            {Stripe: &Secret{webhookSecret}},
		"standard_webhooks": {StandardWebhooks: &Secret{"whsec_" + webhookSecret}},
	} {
		t.Run(kind, func(t *testing.T) {
			p := newPlace(t, 1)
			p.config.Signature = signature
			p.config.Tokens = []string{token}
			p.start()
			now := time.Now()
			body := `{"id":"evt_1","type":"push"}`
			p.want(p.post("", body, signed(kind, "evt_1", body, now)...), 200, 1, 0, false)
			p.want(p.post("", body, signed(kind, "evt_1", body, now.Add(time.Second))...), 200, 1, 0, true)
			again := `{"id":"evt_1","type":"push","attempt":2}` // the same for its sender
			p.want(p.post("", again, signed(kind, "evt_1", again, now)...), 200, 1, 0, true)
			p.restart()
			p.want(p.post("", body, signed(kind, "evt_1", body, now)...), 200, 1, 0, true)
			other := `{"id":"evt_2","type":"push"}`
			p.want(p.post("", other, signed(kind, "evt_2", other, now)...), 200, 1, 0, false)

			p.want(p.post("", other, signed(kind, "evt_3", body, now)...), 403, 0, 0, false)
			p.want(p.post("", body, "Content-Type", asJSON), 401, 0, 0, false)
			p.want(p.post("", body, "Content-Type", asJSON, "Authorization", "Bearer "+token), 200, 1, 0, false)
			if kind != "github" {
				for _, d := range []time.Duration{-6 * time.Minute, 6 * time.Minute} {
					p.want(p.post("", body, signed(kind, "evt_4", body, now.Add(d))...), 403, 0, 0, false)
				}
			}
			events := p.stored()
			if len(events) != 3 || events[0].Type != "push" || !strings.HasSuffix(events[0].ID, ":evt_1#0") {
				t.Errorf("stored %+v", events)
			}
		})
	}
}

func FuzzSignature(f *testing.F) {
	f.Add("t=1,v1=00", "sha256=00", "v1,AAAA", "1", []byte("{}"))
	f.Add("t=1,t=2", "sha256=zz", "v1,AAAA v1,BBBB", "-9223372036854775808", []byte(`{"id":1}`))
	f.Add(",=,v1", "sha1=", "v1a,=", "", []byte{})
	now := time.Unix(1_700_000_000, 0)
	key, _ := decodeSecret(webhookSecret)
	f.Fuzz(func(t *testing.T, stripeHeader, githubHeader, webhookHeader, at string, body []byte) {
		h := http.Header{
			"Stripe-Signature": {stripeHeader}, "X-Hub-Signature-256": {githubHeader},
			"Webhook-Signature": {webhookHeader}, "Webhook-Id": {"id"}, "Webhook-Timestamp": {at},
		}
		for _, s := range []signature{stripe{key}, github{key}, standardWebhooks{key}} {
			if s.check(h, body, now) == nil {
				t.Fatalf("%s: a signature made without the secret is right", s.name())
			}
			s.id(h, body)
		}
	})
}
