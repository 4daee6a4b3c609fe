package apigateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/millrace/millrace"
)

// API is an endpoint that behaves like an API Gateway WebSocket API. It is safe for concurrent use.
type API struct {
	path, stage, id string
	domain          string // "": the Host of the connection
	routes          map[string]*integration
	caller          *caller
	selection       selection
	responses       bool
	binary          bool
	limits          Limits
	retry           time.Duration // of $disconnect
	verifier        *verifier
	connections     Connections
	logger          *slog.Logger
	metrics         *measures
	now             func() time.Time
	random          io.Reader
	maxWaiting      int64
}

// Options are what an API works with beside its configuration.
type Options struct {
	// Connections of this endpoint. Required for ServeManagement.
	Connections Connections
	// Client calls integrations; its redirects are not followed. Nil: one with a connection pool of its own.
	Client *http.Client
	// Credentials sign invocations of functions by name. Nil: the SDK's default chain, loaded when the
	// first function is called.
	Credentials aws.CredentialsProvider
	Logger      *slog.Logger     // nil: nothing is logged
	Metrics     *Metrics         // nil: nothing is measured
	Now         func() time.Time // nil: time.Now
	Random      io.Reader        // ids of requests and messages; nil: crypto/rand
	MaxWaiting  int              // ends of connections that $disconnect is told at a time; 0: 16384
}

// Connections is what an endpoint offers to its management API. The gateway registers a connection
// after $connect has allowed it, as AWS does: a function that posts to a connection while its
// $connect is pending gets 410.
type Connections interface {
	// Send queues data, which the caller bounds, as one text frame. It fails with NotFound if the connection is gone
	// or not there yet, and with Unavailable if the client's buffer is full; a frame larger than the whole buffer
	// is taken when nothing else waits. It keeps data.
	Send(ctx context.Context, id string, data []byte) error
	// SendAll queues data as one text frame for every connection of this endpoint, and returns for how many, and how
	// many could not take it; those that come or go meanwhile may be in neither. It ends early with ctx. It keeps
	// data.
	SendAll(ctx context.Context, data []byte) (sent, failed int)
	// Info describes a connection. It fails with NotFound.
	Info(id string) (Info, error)
	// Close ends a connection with a close code and a reason of at most 123 bytes. It fails with NotFound.
	Close(id string, code int, reason string) error
	// All yields the connections of this endpoint, in no order; those that come or go meanwhile may be
	// missing.
	All() iter.Seq[Info]
	// SendKey queues data as one text frame for every connection that is subscribed to key, and returns
	// for how many. Connections that cannot take it are not counted. It fails with Invalid if the
	// endpoint has no subscriptions. It keeps data.
	SendKey(ctx context.Context, key string, data []byte) (sent int, err error)
}

// Info describes a connection. It is all that $disconnect needs: kept as JSON it outlives the process.
type Info struct {
	ID           string    `json:"id"` // of NewConnectionID
	ConnectedAt  time.Time `json:"connected_at"`
	LastActiveAt time.Time `json:"last_active_at,omitzero"` // of the last message in either direction
	SourceIP     string    `json:"source_ip"`               // without port; the client's, not a trusted proxy's
	UserAgent    string    `json:"user_agent,omitempty"`
	Host         string    `json:"host"` // the Host of the upgrade
	// Authorizer is requestContext.authorizer: principalId and whatever else is known of who connected
	// (the claims of a token). Absent if empty.
	Authorizer map[string]any `json:"authorizer,omitempty"`
}

// Routes that are not chosen by the selection expression.
const (
	routeConnect    = "$connect"
	routeDisconnect = "$disconnect"
	routeDefault    = "$default"
)

// New returns the API of the endpoint at a path. It fails with Invalid if the configuration is wrong.
func New(path string, c Config, o Options) (*API, error) {
	op := "make the API Gateway endpoint " + path
	var wrong error
	c.Validate(func(path, format string, args ...any) {
		wrong = errors.Join(wrong, millrace.Errorf(millrace.Invalid, path, format, args...))
	})
	if wrong != nil {
		return nil, millrace.Errorf(millrace.Invalid, op, "%w", wrong)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	selection, err := parseSelection(c.RouteSelection)
	if err != nil {
		return nil, millrace.Errorf(millrace.Invalid, op, "route_selection: %w", err)
	}
	a := &API{
		path: strings.TrimSuffix(path, "/"), stage: c.Stage, id: c.APIID, domain: c.DomainName,
		routes: map[string]*integration{}, selection: selection, responses: c.RouteResponses,
		binary: c.Binary, limits: c.Limits(), retry: c.DisconnectRetry,
		verifier: newVerifier(c.Keys, c.Region, o.Now), connections: o.Connections,
		logger: o.Logger.With("endpoint", path), metrics: o.Metrics.of(path), now: o.Now, random: o.Random,
		maxWaiting: int64(cmp.Or(o.MaxWaiting, maxWaiting)),
	}
	if a.stage == "" {
		a.stage = stageOf(path)
	}
	if a.id == "" {
		a.id = idOf(path)
	}
	a.caller = newCaller(o, c.Concurrency, a.limits.Integration)
	for key, i := range c.Routes {
		a.routes[key] = newIntegration(i, a.caller, a.metrics.route(key))
	}
	return a, nil
}

// Close lets go of the idle connections to integrations, unless they are those of Options.Client. It is
// called when nothing else of the API is under way.
func (a *API) Close() {
	if a.caller.own {
		a.caller.client.CloseIdleConnections()
	}
}

// Path returns the endpoint's path.
func (a *API) Path() string { return a.path }

// Limits returns the limits that the gateway is to keep.
func (a *API) Limits() Limits { return a.limits }

// stageOf returns the last segment of an endpoint's path.
func stageOf(at string) string {
	if base := path.Base(at); base != "/" && base != "." {
		return base
	}
	return "default"
}

// idOf makes an API id of a path: ten lower-case letters and digits, as AWS's are.
func idOf(at string) string {
	sum := sha256.Sum256([]byte(at))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:10]
}

// idBytes is how many bytes an id of a connection, a message or a request has; idLength how many characters.
const (
	idBytes  = 11
	idLength = 16
)

// NewConnectionID returns an id such as R1kmxc2VNjMCFIA=: 88 random bits in base64 for URLs. None begins with a
// hyphen, which the commands that it is given to would take for an option.
func NewConnectionID() string {
	for {
		if id := newID(rand.Reader); id[0] != '-' {
			return id
		}
	}
}

func newID(random io.Reader) string {
	var b [idBytes]byte
	_, _ = io.ReadFull(random, b[:]) // crypto/rand never fails
	return base64.URLEncoding.EncodeToString(b[:])
}

// validID says whether an id may be one of NewConnectionID.
func validID(id string) bool {
	if len(id) != idLength {
		return false
	}
	_, err := base64.URLEncoding.Strict().DecodeString(id)
	return err == nil
}
