package apigateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace"
)

// caller calls integrations: what those of an endpoint share.
type caller struct {
	client  *http.Client
	own     bool // nobody else uses its connections
	timeout time.Duration
	slots   chan struct{} // one for each call in flight; over it calls wait, within their timeout
	lambda  *invoker
}

func newCaller(o Options, concurrency int, timeout time.Duration) *caller {
	client := &http.Client{}
	if o.Client != nil {
		*client = *o.Client
	} else {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = min(concurrency, 256)
		client.Transport = transport
	}
	// A redirect is an answer: following it would turn the POST into a GET.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &caller{
		client: client, own: o.Client == nil, timeout: timeout, slots: make(chan struct{}, concurrency),
		lambda: newInvoker(o.Credentials, o.Now),
	}
}

// integration is what one route calls.
type integration struct {
	*caller
	measures *routeMeasures
	url      string
	function bool   // it answers like Lambda
	region   string // its invocations are signed for; "": they are not
}

func newIntegration(i Integration, c *caller, m *routeMeasures) *integration {
	switch {
	case i.Lambda == nil:
		return &integration{caller: c, measures: m, url: i.HTTP}
	case i.Lambda.URL != "":
		return &integration{caller: c, measures: m, url: i.Lambda.URL, function: true}
	default:
		return &integration{caller: c, measures: m, url: i.Lambda.invokeURL(), function: true, region: i.Lambda.region()}
	}
}

// answer is what an integration says.
type answer struct {
	// status is the statusCode, or the HTTP status of an HTTP integration. 0: there is none, because the
	// call failed.
	status int
	header http.Header
	body   []byte
	ran    bool // a function came to its end, even if what it returned makes no sense
	took   time.Duration
}

// responseLimit bounds what is read of an integration's answer, in bytes: Lambda's own limit.
const responseLimit = 6 << 20

// errorLimit bounds what is logged of what an integration says of its failure, in bytes.
const errorLimit = 512

// call posts the event and reads the answer.
func (i *integration) call(ctx context.Context, e event) (a answer, err error) {
	begun := time.Now()
	defer func() { a.took = time.Since(begun) }()
	text, err := e.encode()
	if err != nil {
		return a, millrace.Errorf(millrace.Invalid, "", "encode the event: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, i.timeout, errTimeout)
	defer cancel()
	select {
	case i.slots <- struct{}{}:
		defer func() { <-i.slots }()
	case <-ctx.Done():
		return a, millrace.Errorf(millrace.Unavailable, "", "all calls that may be in flight are: %w", context.Cause(ctx))
	}
	i.measures.inFlight.Inc()
	defer i.measures.inFlight.Dec()

	r, err := http.NewRequestWithContext(ctx, http.MethodPost, i.url, bytes.NewReader(text))
	if err != nil {
		return a, millrace.Errorf(millrace.Invalid, "", "%w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Millrace")
	if i.region != "" {
		if err := i.lambda.sign(ctx, r, text, i.region); err != nil {
			return a, millrace.Errorf(millrace.Denied, "", "sign the invocation: %w", timedOut(ctx, err))
		}
	}
	response, err := i.client.Do(r)
	if err != nil {
		return a, millrace.Errorf(millrace.Unavailable, "", "%w", timedOut(ctx, err))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, responseLimit+1))
	switch {
	case err != nil:
		return a, millrace.Errorf(millrace.Unavailable, "", "read the answer: %w", timedOut(ctx, err))
	case len(body) > responseLimit:
		return a, millrace.Errorf(millrace.TooLarge, "", "the answer has more than %d bytes", responseLimit)
	case i.function:
		return functionAnswer(response.StatusCode, response.Header, body)
	default:
		return httpAnswer(response.StatusCode, response.Header, body)
	}
}

// errTimeout is the cause of a call that took longer than it may.
var errTimeout = errors.New("the integration did not answer in time")

// timedOut returns the cause if a call failed because its time was up, and else the error.
func timedOut(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errTimeout) {
		return cause
	}
	return err
}

func outcomeOf(err error) outcome {
	if errors.Is(err, errTimeout) {
		return outcomeTimeout
	}
	return outcomeFailed
}

// httpAnswer reads the answer of an HTTP integration: its status and body, or, if the body is an
// object with a statusCode, what a Lambda function would have meant by it. A status that is not 2xx
// comes with an error.
func httpAnswer(status int, header http.Header, body []byte) (answer, error) {
	if !success(status) {
		a := answer{status: status, header: header, body: body}
		if status < 300 { // 1xx is none, and nobody could pass it on
			a.status = 0
		}
		return a, millrace.Errorf(millrace.Unavailable, "", "it answers %d", status)
	}
	if a, err := parseAnswer(body); err == nil {
		a.ran = true
		return a, nil
	}
	return answer{status: status, header: header, body: body, ran: true}, nil
}

// functionAnswer reads the answer of a Lambda invocation.
func functionAnswer(status int, header http.Header, body []byte) (answer, error) {
	if status != http.StatusOK {
		return answer{}, millrace.Errorf(millrace.Unavailable, "", "the invocation answers %d: %s", status, excerpt(body))
	}
	var problem struct {
		ErrorMessage *string `json:"errorMessage"`
		ErrorType    string  `json:"errorType"`
		StatusCode   any     `json:"statusCode"`
	}
	wrong := json.Unmarshal(body, &problem)
	switch {
	case header.Get("X-Amz-Function-Error") != "" && (wrong != nil || problem.ErrorMessage == nil):
		return answer{}, millrace.Errorf(millrace.Unavailable, "", "the function failed: %s", excerpt(body))
	case header.Get("X-Amz-Function-Error") != "",
		// The runtime interface emulator says it in the body alone.
		wrong == nil && problem.ErrorMessage != nil && problem.StatusCode == nil:
		return answer{}, millrace.Errorf(millrace.Unavailable, "", "the function failed: %s: %s",
			excerpt([]byte(problem.ErrorType)), excerpt([]byte(*problem.ErrorMessage)))
	}
	a, err := parseAnswer(body)
	a.ran = true
	return a, err
}

// parseAnswer parses {"statusCode": 200, "headers": {}, "multiValueHeaders": {}, "body": "", "isBase64Encoded": false}.
func parseAnswer(text []byte) (answer, error) {
	malformed := func(format string, args ...any) (answer, error) {
		return answer{}, millrace.Errorf(millrace.Invalid, "", "its answer is malformed: "+format, args...)
	}
	var raw struct {
		StatusCode        json.RawMessage              `json:"statusCode"`
		Headers           map[string]json.RawMessage   `json:"headers"`
		MultiValueHeaders map[string][]json.RawMessage `json:"multiValueHeaders"`
		Body              *string                      `json:"body"`
		IsBase64Encoded   bool                         `json:"isBase64Encoded"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return malformed("%w", err)
	}
	status, err := strconv.Atoi(strings.Trim(string(raw.StatusCode), `"`)) // AWS takes "200" too
	if err != nil || status < 200 || status > 599 {
		return malformed("it has no statusCode from 200 to 599: %s", excerpt(text))
	}
	a := answer{status: status, header: http.Header{}}
	for name, value := range raw.Headers {
		addField(a.header, name, value)
	}
	for name, values := range raw.MultiValueHeaders {
		for _, value := range values {
			addField(a.header, name, value)
		}
	}
	if raw.Body == nil {
		return a, nil
	}
	a.body = []byte(*raw.Body)
	if raw.IsBase64Encoded {
		if a.body, err = base64.StdEncoding.DecodeString(*raw.Body); err != nil {
			return malformed("its body is not base64: %w", err)
		}
	}
	return a, nil
}

// addField adds a header field whose value is a JSON string, number or boolean; others, and those that
// would break the head of a response, are left out.
func addField(h http.Header, name string, value json.RawMessage) {
	text := string(value)
	if strings.HasPrefix(text, `"`) {
		if json.Unmarshal(value, &text) != nil {
			return
		}
	} else if text == "null" || strings.ContainsAny(text, "{[") {
		return
	}
	if !plainName(name, "-_!#$%&'*+.^`|~") || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return
	}
	h.Add(name, text)
}

// excerpt returns the beginning of a text that goes into the log.
func excerpt(b []byte) string {
	if len(b) > errorLimit {
		return fmt.Sprintf("%.*q...", errorLimit, b[:errorLimit])
	}
	return fmt.Sprintf("%q", b)
}
