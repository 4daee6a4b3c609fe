package apigateway

import (
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Config describes an endpoint that behaves like an API Gateway WebSocket API.
type Config struct {
	// Routes by route key: $connect, $disconnect, $default, and those that the route selection yields.
	// Each says what is called: {http: URL}, {lambda: {url: URL}} or {lambda: {function: NAME, region: REGION}}.
	// A $connect that is absent lets everyone in.
	Routes map[string]Integration `yaml:"routes"`
	// RouteSelection chooses the route of a message: a text with variables such as $request.body.action or
	// ${request.body.version}-beta. A message that is not JSON, or has no such value, goes to $default.
	// Default $request.body.action.
	RouteSelection string `yaml:"route_selection"`
	// RouteResponses sends what an integration answers to a message back to the client. Default false.
	RouteResponses bool `yaml:"route_responses"`
	// Binary takes binary frames: their bytes are the body in base64, and their route is $default. Default
	// false: a binary frame closes the connection with 1003, as in AWS.
	Binary bool `yaml:"binary"`
	// Keys may use the management API. Without any it answers 403 to everyone.
	Keys []KeyPair `yaml:"keys"`
	// Region that signatures must be made for; any if absent.
	Region string `yaml:"region"`
	// Subscribe pushes a stream's events to the connections without any function in between.
	Subscribe *Subscribe `yaml:"subscribe"`
	// Stage is the stage's name in events and in the management API's path. Default: the last segment of
	// the endpoint's path, and "default" for /.
	Stage string `yaml:"stage"`
	// APIID is requestContext.apiId. Default: ten characters made of the path.
	APIID string `yaml:"api_id"`
	// DomainName is requestContext.domainName. Default: the Host that the client connected to, with its port.
	DomainName string `yaml:"domain_name"`
	// Strict keeps AWS's limits: messages of 128 KiB, frames of 32 KiB, 10 minutes without a message, 2
	// hours a connection, 29 seconds for an integration. Default false.
	Strict bool `yaml:"strict"`
	// MessageLimit bounds a message in either direction, in bytes. Default 128KiB.
	MessageLimit int64 `yaml:"message_limit,size"`
	// FrameLimit bounds a frame that a client sends, in bytes, at most 64MiB; 0 bounds only the message. Default 0.
	FrameLimit int64 `yaml:"frame_limit,size"`
	// IdleTimeout closes a connection over which nothing was sent or received for so long; 0 never. Default 0.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// MaxDuration closes a connection that has lasted so long; 0 never. Default 0.
	MaxDuration time.Duration `yaml:"max_duration"`
	// IntegrationTimeout bounds one call of an integration. Default 29s.
	IntegrationTimeout time.Duration `yaml:"integration_timeout"`
	// Concurrency bounds the calls of integrations in flight; over it they wait, within their timeout.
	// Default 1000, as many as a Lambda account has.
	Concurrency int `yaml:"concurrency"`
	// DisconnectRetry is how long $disconnect is tried again after a connection is gone, from the first
	// try of this run. Then it is given up, logged and counted. Default 1h.
	DisconnectRetry time.Duration `yaml:"disconnect_retry"`
}

// Integration is what a route calls: one of the two.
type Integration struct {
	// HTTP is the URL that the event is POSTed to.
	HTTP string `yaml:"http"`
	// Lambda is a Lambda function.
	Lambda *Lambda `yaml:"lambda"`
}

// Lambda is a function, by its URL or by its name and region.
type Lambda struct {
	// URL takes invocations, such as http://127.0.0.1:9001/2015-03-31/functions/app/invocations. They are
	// not signed.
	URL string `yaml:"url"`
	// Function is the name or ARN of a function of AWS Lambda. Its invocations are signed with what the
	// AWS SDK's default chain finds: environment, shared files, container, instance.
	Function string `yaml:"function"`
	// Region of the function. Default: that of the ARN.
	Region string `yaml:"region"`
	// Endpoint replaces https://lambda.REGION.amazonaws.com.
	Endpoint string `yaml:"endpoint"`
	// Qualifier is a version or an alias.
	Qualifier string `yaml:"qualifier"`
}

// KeyPair may call the management API. It stands for an IAM user who is allowed execute-api:ManageConnections.
type KeyPair struct {
	// AccessKeyID has letters, digits, - and _.
	AccessKeyID string `yaml:"access_key_id"`
	// SecretAccessKey is best taken from outside of the file: ${env:NAME} or ${file:PATH}.
	SecretAccessKey string `yaml:"secret_access_key,secret"`
	// SessionToken must come with every request if it is set, and must not come if it is not.
	SessionToken string `yaml:"session_token,secret"`
}

// Subscribe says which events a connection gets.
type Subscribe struct {
	// From is the stream.
	From string `yaml:"from"`
	// Key says where the client names its key, such as "query:VehicleID".
	Key string `yaml:"key"`
}

// Limits of a connection and of the calls that it causes.
type Limits struct {
	Message     int64         // bytes, in either direction; beyond it close code 1009
	Frame       int64         // bytes, from the client; beyond it close code 1009; 0: none
	Idle        time.Duration // without a message in either direction; 0: none
	Duration    time.Duration // of a connection; 0: none
	Integration time.Duration // of one call
}

// AWS are the limits that AWS documents.
var AWS = Limits{
	Message: 128 << 10, Frame: 32 << 10, Idle: 10 * time.Minute, Duration: 2 * time.Hour, Integration: 29 * time.Second,
}

// defaultSelection is the route selection expression of nearly every WebSocket API.
const defaultSelection = "$request.body.action"

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() {
	c.RouteSelection = defaultSelection
	c.MessageLimit = AWS.Message
	c.IntegrationTimeout = AWS.Integration
	c.Concurrency = 1000
	c.DisconnectRetry = time.Hour
}

// Limits returns the limits in force.
func (c *Config) Limits() Limits {
	if c.Strict {
		return AWS
	}
	return Limits{
		Message: c.MessageLimit, Frame: c.FrameLimit, Idle: c.IdleTimeout, Duration: c.MaxDuration,
		Integration: c.IntegrationTimeout,
	}
}

// Validate reports every problem with the path of its key. It quotes no secret. Whether the stream and
// the key of Subscribe make sense is the gateway's business.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
	for key, integration := range c.Routes {
		at := "routes." + key
		if key == "" || strings.HasPrefix(key, "$") && key != routeConnect && key != routeDisconnect && key != routeDefault {
			problem(at, "%q is no route key; write $connect, $disconnect, $default, or a value that route_selection yields", key)
			continue
		}
		integration.validate(func(path, format string, args ...any) { problem(join(at, path), format, args...) })
	}
	if _, err := parseSelection(c.RouteSelection); err != nil {
		problem("route_selection", "%q %v; write $request.body.action, or a text with such variables in braces, "+
			"such as ${request.body.version}-beta", c.RouteSelection, err)
	}
	seen := map[string]bool{}
	for i, k := range c.Keys {
		at := "keys[" + strconv.Itoa(i) + "]."
		switch {
		case !plainName(k.AccessKeyID, "_-"):
			problem(at+"access_key_id", "%q is no access key id; it has letters, digits, - and _", k.AccessKeyID)
		case seen[k.AccessKeyID]:
			problem(at+"access_key_id", "%q is there twice", k.AccessKeyID)
		}
		seen[k.AccessKeyID] = true
		if k.SecretAccessKey == "" || strings.ContainsFunc(k.SecretAccessKey, unicode.IsSpace) {
			problem(at+"secret_access_key", "it is missing or holds a space or a line break; "+
				"write secret_access_key: \"${env:NAME}\"")
		}
		if strings.ContainsFunc(k.SessionToken, func(r rune) bool { return r <= ' ' || r > '~' }) {
			problem(at+"session_token", "it holds a character that no header can carry, perhaps a line break at its end")
		}
	}
	if c.Subscribe != nil && c.Subscribe.From == "" {
		problem("subscribe.from", "it is missing; write the name of a stream")
	}
	if c.Stage != "" && !plainName(c.Stage, "_-$") {
		problem("stage", "%q is no stage; it has letters, digits, - and _", c.Stage)
	}
	c.validateLimits(problem)
}

func (c *Config) validateLimits(problem func(path, format string, args ...any)) {
	if c.MessageLimit < 1<<10 || c.MessageLimit > 64<<20 {
		problem("message_limit", "%d bytes are out of range; write a size from 1KiB to 64MiB, such as 128KiB", c.MessageLimit)
	}
	if c.FrameLimit < 0 || c.FrameLimit > 64<<20 {
		problem("frame_limit", "%d bytes are out of range; write a size of at most 64MiB, such as 32KiB, or 0 for none", c.FrameLimit)
	}
	if c.IntegrationTimeout <= 0 || c.IntegrationTimeout > 15*time.Minute {
		problem("integration_timeout", "%s is out of range; write a duration of at most 15m, such as 29s", c.IntegrationTimeout)
	}
	if c.Concurrency < 1 {
		problem("concurrency", "%d is too few; write a number of at least 1, such as 1000", c.Concurrency)
	}
	for _, d := range []struct {
		key   string
		value time.Duration
		aws   time.Duration
	}{
		{"idle_timeout", c.IdleTimeout, AWS.Idle},
		{"max_duration", c.MaxDuration, AWS.Duration},
		{"disconnect_retry", c.DisconnectRetry, 0},
	} {
		switch {
		case d.value < 0:
			problem(d.key, "%s is negative; write a duration such as 10m, or 0s for none", d.value)
		case c.Strict && d.aws != 0 && d.value != 0 && d.value != d.aws:
			problem(d.key, "strict keeps AWS's %s; remove one of the two", d.aws)
		}
	}
	if !c.Strict {
		return
	}
	if c.Binary {
		problem("binary", "strict closes connections with binary frames, as AWS does; remove one of the two")
	}
	if c.MessageLimit != AWS.Message {
		problem("message_limit", "strict keeps AWS's 128KiB; remove one of the two")
	}
	if c.FrameLimit != 0 && c.FrameLimit != AWS.Frame {
		problem("frame_limit", "strict keeps AWS's 32KiB; remove one of the two")
	}
	if c.IntegrationTimeout != AWS.Integration {
		problem("integration_timeout", "strict keeps AWS's 29s; remove one of the two")
	}
}

func (i Integration) validate(problem func(path, format string, args ...any)) {
	switch {
	case (i.HTTP == "") == (i.Lambda == nil):
		problem("", "it takes one of http and lambda, such as {http: \"http://127.0.0.1:9000/\"}")
	case i.HTTP != "":
		if !isHTTP(i.HTTP) {
			problem("http", "%q is no URL; write http://HOST/PATH or https://HOST/PATH", i.HTTP)
		}
	default:
		i.Lambda.validate(func(path, format string, args ...any) { problem(join("lambda", path), format, args...) })
	}
}

func (l *Lambda) validate(problem func(path, format string, args ...any)) {
	switch {
	case (l.URL == "") == (l.Function == ""):
		problem("", "it takes one of url and function, such as {function: app, region: eu-west-1}")
		return
	case l.URL != "":
		if !isHTTP(l.URL) {
			problem("url", "%q is no URL; write http://HOST/2015-03-31/functions/NAME/invocations", l.URL)
		}
		if l.Region != "" || l.Endpoint != "" || l.Qualifier != "" {
			problem("url", "%q says everything; remove region, endpoint and qualifier, or write function", l.URL)
		}
		return
	}
	if !plainName(l.Function, "_-:$") {
		problem("function", "%q is neither a function's name nor its ARN", l.Function)
	}
	if region := l.region(); region == "" {
		problem("region", "it is missing; write the function's region, such as eu-west-1, or its whole ARN as function")
	} else if !plainName(region, "-") {
		problem("region", "%q is no region; write one such as eu-west-1", region)
	}
	if l.Endpoint != "" && !isHTTP(l.Endpoint) {
		problem("endpoint", "%q is no URL; write http://HOST or https://HOST", l.Endpoint)
	}
	if l.Qualifier != "" && !plainName(l.Qualifier, "_-$") {
		problem("qualifier", "%q is neither a version nor an alias", l.Qualifier)
	}
}

// region returns the function's region, that of the ARN if no other is given; "" if there is none.
func (l *Lambda) region() string {
	if l.Region != "" {
		return l.Region
	}
	if parts := strings.Split(l.Function, ":"); len(parts) >= 7 && parts[0] == "arn" && parts[2] == "lambda" {
		return parts[3]
	}
	return ""
}

// isHTTP says whether s is an absolute URL that can be called.
func isHTTP(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.Fragment == ""
}

// plainName says whether s has letters and digits of ASCII and the others given, and at least one.
func plainName(s, others string) bool {
	return s != "" && len(s) <= 256 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune(others, r)
	})
}

func join(path, key string) string {
	if key == "" {
		return path
	}
	return path + "." + key
}
