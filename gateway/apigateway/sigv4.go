package apigateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// verifier checks AWS Signature Version 4 by making the signature again. The signature stands in the
// header Authorization, or in the query string of a URL that was signed beforehand (presigned).
//
// What is signed: the method, the path as it arrived (escaped once more, as for every service but S3),
// the query string in order, the headers that the signature names, and the hash of the body.
type verifier struct {
	keys    map[string]KeyPair
	service string
	region  string // "": any
	now     func() time.Time
}

const (
	algorithm   = "AWS4-HMAC-SHA256"
	terminator  = "aws4_request"
	amzDate     = "20060102T150405Z"
	maxSkew     = 5 * time.Minute
	maxExpires  = 7 * 24 * time.Hour
	unsigned    = "UNSIGNED-PAYLOAD"
	maxSigned   = 64      // headers in SignedHeaders
	maxHead     = 4 << 10 // bytes of Authorization
	maxRawQuery = 8 << 10 // bytes; the standard library bounds the request's head as a whole
)

func newVerifier(keys []KeyPair, region string, now func() time.Time) *verifier {
	v := &verifier{keys: make(map[string]KeyPair, len(keys)), service: "execute-api", region: region, now: now}
	for _, k := range keys {
		v.keys[k.AccessKeyID] = k
	}
	return v
}

// claim is what a request says of its signature.
type claim struct {
	accessKey string
	day       string // 20060102, of the scope, as are region and service
	region    string
	service   string
	signed    []string // names of headers, in lower case, sorted
	mac       [sha256.Size]byte

	at        string // X-Amz-Date
	presigned bool
	secret    string
	query     string // canonical
	payload   string // the body's hash as the request states it; "" if it does not
}

// errUnsigned says that a request has no signature at all.
var errUnsigned = errors.New("missing authentication token")

// claim reads a request's signature and checks all of it but the signature itself, so that bodies are
// read only from those who know an access key. The errors may be shown to the sender.
func (v *verifier) claim(r *http.Request) (*claim, error) {
	if len(r.URL.RawQuery) > maxRawQuery {
		return nil, errors.New("the query string is too long")
	}
	query, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	authorization := r.Header.Values("Authorization")
	presigned := slices.ContainsFunc(query, func(p pair) bool { return p.name == "X-Amz-Signature" || p.name == "X-Amz-Algorithm" })
	var c *claim
	switch {
	case len(authorization) > 1 || len(authorization) == 1 && presigned:
		return nil, errors.New("the request is signed twice")
	case len(authorization) == 1:
		c, err = v.headerClaim(r, authorization[0])
	case presigned:
		c, err = v.presignedClaim(r, query)
	default:
		err = errUnsigned
	}
	if err != nil {
		return nil, err
	}
	c.query = canonicalQuery(query)
	if c.service != v.service {
		return nil, errors.New("the credential must be scoped to the service " + v.service)
	}
	if v.region != "" && c.region != v.region {
		return nil, fmt.Errorf("the credential is scoped to another region than %s", v.region)
	}
	return c, nil
}

// headerClaim reads the header form.
func (v *verifier) headerClaim(r *http.Request, authorization string) (*claim, error) {
	c, err := parseAuthorization(authorization)
	if err != nil {
		return nil, err
	}
	if c.at, err = single(r.Header, "X-Amz-Date"); err != nil {
		return nil, err
	}
	signedAt, err := c.date()
	if err != nil {
		return nil, err
	}
	if skew := v.now().Sub(signedAt); skew > maxSkew || skew < -maxSkew {
		return nil, fmt.Errorf("signature expired: it was made at %s, and more than %s may not lie between", c.at, maxSkew)
	}
	for _, name := range []string{"host", "x-amz-date"} {
		if !slices.Contains(c.signed, name) {
			return nil, fmt.Errorf("%q must be among the signed headers", name)
		}
	}
	if c.payload, err = statedPayload(r.Header); err != nil {
		return nil, err
	}
	token, err := single(r.Header, "X-Amz-Security-Token")
	if err != nil {
		return nil, err
	}
	if token != "" && !slices.Contains(c.signed, "x-amz-security-token") {
		return nil, errors.New(`"x-amz-security-token" must be among the signed headers`)
	}
	return c, v.identify(c, token)
}

// presignedClaim reads the form in which the signature stands in the query string.
func (v *verifier) presignedClaim(r *http.Request, query []pair) (*claim, error) {
	fields := map[string]string{}
	for _, p := range query {
		if !strings.HasPrefix(p.name, "X-Amz-") {
			continue
		}
		if _, twice := fields[p.name]; twice {
			return nil, fmt.Errorf("%s is there twice", p.name)
		}
		fields[p.name] = p.value
	}
	c := &claim{presigned: true, at: fields["X-Amz-Date"]}
	if fields["X-Amz-Algorithm"] != algorithm {
		return nil, errors.New("X-Amz-Algorithm must be " + algorithm)
	}
	if err := c.setCredential(fields["X-Amz-Credential"]); err != nil {
		return nil, err
	}
	if err := c.setSigned(fields["X-Amz-SignedHeaders"]); err != nil {
		return nil, err
	}
	if err := c.setSignature(fields["X-Amz-Signature"]); err != nil {
		return nil, err
	}
	signedAt, err := c.date()
	if err != nil {
		return nil, err
	}
	seconds, err := strconv.ParseUint(fields["X-Amz-Expires"], 10, 32)
	expires := time.Duration(seconds) * time.Second
	if err != nil || expires == 0 || expires > maxExpires {
		return nil, errors.New("X-Amz-Expires must be a number of seconds from 1 to 604800")
	}
	if now := v.now(); now.After(signedAt.Add(expires)) || signedAt.Sub(now) > maxSkew {
		return nil, fmt.Errorf("signature expired: it was made at %s for %s", c.at, expires)
	}
	if !slices.Contains(c.signed, "host") {
		return nil, errors.New(`"host" must be among the signed headers`)
	}
	if c.payload, err = statedPayload(r.Header); err != nil {
		return nil, err
	}
	if stated := fields["X-Amz-Content-Sha256"]; stated != "" {
		if c.payload != "" && c.payload != stated {
			return nil, errors.New("the body's hash is stated twice")
		}
		c.payload = stated
	}
	return c, v.identify(c, fields["X-Amz-Security-Token"])
}

// identify looks the key pair up and compares the session token.
func (v *verifier) identify(c *claim, token string) error {
	pair, known := v.keys[c.accessKey]
	if !known {
		return errMismatch
	}
	if subtle.ConstantTimeCompare([]byte(pair.SessionToken), []byte(token)) != 1 {
		return errors.New("the session token is not the one of this access key")
	}
	c.secret = pair.SecretAccessKey
	return nil
}

// errMismatch does not tell whether the key is unknown or the secret is wrong.
var errMismatch = errors.New("the access key is unknown, or the signature does not match: check the secret access key, " +
	"and that nothing between changes the path, the query string or the host")

// verify makes the signature again for the request with its body.
func (c *claim) verify(r *http.Request, body []byte) error {
	payload := c.payload
	if payload != unsigned {
		sum := sha256.Sum256(body)
		computed := hex.EncodeToString(sum[:])
		if payload != "" && payload != computed {
			return errors.New("the body does not match x-amz-content-sha256")
		}
		payload = computed
	}
	headers, err := c.canonicalHeaders(r)
	if err != nil {
		return err
	}
	request := r.Method + "\n" + escape(r.URL.EscapedPath(), true) + "\n" + c.query + "\n" + headers + "\n" +
		strings.Join(c.signed, ";") + "\n" + payload
	hash := sha256.Sum256([]byte(request))
	toSign := algorithm + "\n" + c.at + "\n" + c.day + "/" + c.region + "/" + c.service + "/" + terminator + "\n" +
		hex.EncodeToString(hash[:])
	key := []byte("AWS4" + c.secret)
	for _, part := range []string{c.day, c.region, c.service, terminator, toSign} {
		h := hmac.New(sha256.New, key)
		_, _ = h.Write([]byte(part))
		key = h.Sum(nil)
	}
	if !hmac.Equal(key, c.mac[:]) {
		return errMismatch
	}
	return nil
}

// canonicalHeaders returns the lines of the signed headers.
func (c *claim) canonicalHeaders(r *http.Request) (string, error) {
	var b strings.Builder
	for _, name := range c.signed {
		var values []string
		switch name { // the standard library takes these out of the headers
		case "host":
			values = []string{r.Host}
		case "content-length":
			if r.ContentLength >= 0 {
				values = []string{strconv.FormatInt(r.ContentLength, 10)}
			}
		case "transfer-encoding":
			values = r.TransferEncoding
		default:
			values = r.Header.Values(name)
		}
		if len(values) == 0 {
			return "", fmt.Errorf("the header %q is signed, but the request has none", name)
		}
		b.WriteString(name)
		for i, value := range values {
			b.WriteByte(":,"[min(i, 1)])
			b.WriteString(squeeze(value))
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}

// date returns when the signature was made. It must lie on the day of the scope.
func (c *claim) date() (time.Time, error) {
	t, err := time.Parse(amzDate, c.at)
	if err != nil || len(c.at) != len(amzDate) {
		return t, errors.New("X-Amz-Date is missing or not like 20150830T123600Z")
	}
	if !strings.HasPrefix(c.at, c.day+"T") {
		return t, errors.New("the credential's scope has another day than X-Amz-Date")
	}
	return t, nil
}

// parseAuthorization parses AWS4-HMAC-SHA256 Credential=..., SignedHeaders=..., Signature=...
func parseAuthorization(s string) (*claim, error) {
	if len(s) > maxHead {
		return nil, errors.New("the header Authorization is too long")
	}
	scheme, fields, _ := strings.Cut(s, " ")
	if scheme != algorithm {
		return nil, errors.New("the header Authorization must begin with " + algorithm)
	}
	c := &claim{}
	seen := map[string]bool{}
	for field := range strings.SplitSeq(fields, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		var err error
		switch name {
		case "Credential":
			err = c.setCredential(value)
		case "SignedHeaders":
			err = c.setSigned(value)
		case "Signature":
			err = c.setSignature(value)
		default:
			err = fmt.Errorf("the header Authorization has the unknown field %.40q", name)
		}
		if err == nil && seen[name] {
			err = fmt.Errorf("the header Authorization has %s twice", name)
		}
		if err != nil {
			return nil, err
		}
		seen[name] = true
	}
	if len(seen) != 3 {
		return nil, errors.New("the header Authorization needs Credential, SignedHeaders and Signature")
	}
	return c, nil
}

// setCredential parses KEY/20150830/REGION/execute-api/aws4_request.
func (c *claim) setCredential(s string) error {
	parts := strings.Split(s, "/")
	if len(parts) != 5 || !plainName(parts[0], "_-") || len(parts[1]) != 8 || !plainName(parts[1], "") || !plainName(parts[2], "-") ||
		!plainName(parts[3], "-") || parts[4] != terminator {
		return errors.New("the credential must be KEY/YYYYMMDD/REGION/SERVICE/" + terminator)
	}
	c.accessKey, c.day, c.region, c.service = parts[0], parts[1], parts[2], parts[3]
	return nil
}

// setSigned parses host;x-amz-date.
func (c *claim) setSigned(s string) error {
	names := strings.Split(s, ";")
	if len(names) > maxSigned {
		return fmt.Errorf("more than %d headers are signed", maxSigned)
	}
	for i, name := range names {
		if !plainName(name, "-_!#$%&'*+.^`|~") || name != strings.ToLower(name) || i > 0 && names[i-1] >= name {
			return errors.New("the signed headers must be names in lower case, sorted, with semicolons between")
		}
	}
	c.signed = names
	return nil
}

func (c *claim) setSignature(s string) error {
	if n, err := hex.Decode(c.mac[:], []byte(s[:min(len(s), 2*len(c.mac))])); err != nil || n != len(c.mac) || len(s) != 2*n ||
		s != strings.ToLower(s) {
		return errors.New("the signature must be 64 hexadecimal digits in lower case")
	}
	return nil
}

// statedPayload returns x-amz-content-sha256, "" if there is none.
func statedPayload(h http.Header) (string, error) {
	stated, err := single(h, "X-Amz-Content-Sha256")
	if err == nil && strings.HasPrefix(stated, "STREAMING-") {
		err = errors.New("bodies that are signed chunk by chunk are not supported")
	}
	return stated, err
}

// single returns the value of a header that must not be there twice, "" if it is not there.
func single(h http.Header, name string) (string, error) {
	values := h.Values(name)
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return strings.TrimSpace(values[0]), nil
	default:
		return "", fmt.Errorf("the header %s is there twice", name)
	}
}

// pair is a parameter of a query string, decoded.
type pair struct{ name, value string }

// parseQuery decodes a query string as the handler will, and refuses what could be read in two ways.
func parseQuery(raw string) ([]pair, error) {
	var query []pair
	for field := range strings.SplitSeq(raw, "&") {
		if field == "" {
			continue
		}
		name, value, _ := strings.Cut(field, "=")
		name, wrongName := url.QueryUnescape(name)
		value, wrongValue := url.QueryUnescape(value)
		if wrongName != nil || wrongValue != nil || strings.Contains(field, ";") {
			return nil, errors.New("the query string is malformed")
		}
		query = append(query, pair{name, value})
	}
	return query, nil
}

// canonicalQuery sorts and escapes a query string, without the signature.
func canonicalQuery(query []pair) string {
	fields := make([]pair, 0, len(query))
	for _, p := range query {
		if p.name != "X-Amz-Signature" {
			fields = append(fields, pair{escape(p.name, false), escape(p.value, false)})
		}
	}
	slices.SortFunc(fields, func(a, b pair) int {
		if a.name != b.name {
			return strings.Compare(a.name, b.name)
		}
		return strings.Compare(a.value, b.value)
	})
	var b strings.Builder
	for i, p := range fields {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p.name)
		b.WriteByte('=')
		b.WriteString(p.value)
	}
	return b.String()
}

// escape escapes every byte that is not unreserved (RFC 3986, section 2.3), in a path all but slashes.
func escape(s string, path bool) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s))
	for i := range len(s) {
		c := s[i]
		if isNameByte(c) || c == '.' || c == '~' || path && c == '/' {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

// squeeze removes spaces around a value, and all but one of several in a row.
func squeeze(s string) string {
	s = strings.Trim(s, " \t")
	for strings.Contains(s, "  ") {
		s = strings.ReplaceAll(s, "  ", " ")
	}
	return s
}
