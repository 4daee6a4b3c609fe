package listener

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// acmeServer is an authority that speaks RFC 8555: accounts, orders, the challenges http-01 and tls-alpn-01, which
// it validates by connecting, and certificates. It knows account keys on P-256 only.
type acmeServer struct {
	t         *testing.T
	http      *httptest.Server
	authority *authority
	at        string // where connections to the domains' port 443 (or 80) lead
	lifetime  time.Duration

	mu        sync.Mutex
	nonces    map[string]bool
	accounts  map[string]*ecdsa.PublicKey // by URL
	orders    []*acmeOrder
	validated []string // TYPE DOMAIN
	problems  []string // with requests: there should be none
}

type acmeOrder struct {
	domains []string
	tokens  []string // by domain
	valid   []bool   // by domain
	failed  error
	cert    []byte
}

func newACMEServer(t *testing.T) *acmeServer {
	s := &acmeServer{
		t: t, authority: newAuthority(t), lifetime: 90 * 24 * time.Hour,
		nonces: map[string]bool{}, accounts: map[string]*ecdsa.PublicKey{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /directory", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.answer(w, 200, map[string]any{
			"newNonce": s.http.URL + "/nonce", "newAccount": s.http.URL + "/account", "newOrder": s.http.URL + "/order",
			"meta": map[string]any{"termsOfService": s.http.URL + "/terms"},
		})
	})
	mux.HandleFunc("/nonce", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.answer(w, 200, nil)
	})
	for path, handle := range map[string]func(w http.ResponseWriter, r *acmeRequest) (int, any){
		"/account": s.account, "/order": s.order, "/order/{order}": s.showOrder, "/authz/{order}/{domain}": s.showAuthz,
		"/challenge/{order}/{domain}/{type}": s.challenge, "/finalize/{order}": s.finalize, "/cert/{order}": s.certificate,
	} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			request, err := s.verify(r)
			if err != nil {
				s.problems = append(s.problems, r.URL.Path+": "+err.Error())
				s.answer(w, 400, problem("malformed", err))
				return
			}
			code, body := handle(w, request)
			s.answer(w, code, body)
		})
	}
	s.http = httptest.NewUnstartedServer(mux)
	s.http.Config.ErrorLog = discard
	s.http.StartTLS()
	t.Cleanup(s.http.Close)
	return s
}

// config is TLS with certificates of this authority.
func (s *acmeServer) config(dir string, domains ...string) *TLS {
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw})
	c := &TLS{ACME: &ACME{Domains: domains, AgreeTerms: true}}
	c.SetDefaults()
	c.ACME.SetDefaults()
	c.ACME.Directory, c.ACME.CA = s.http.URL+"/directory", write(s.t, dir, "directory.pem", root)
	return c
}

func problem(kind string, err error) map[string]any {
	return map[string]any{"type": "urn:ietf:params:acme:error:" + kind, "detail": err.Error()}
}

// answer sends a new nonce with each response (section 6.5). The caller holds mu.
func (s *acmeServer) answer(w http.ResponseWriter, code int, body any) {
	nonce := base64.RawURLEncoding.EncodeToString(serial().Bytes())
	s.nonces[nonce] = true
	w.Header().Set("Replay-Nonce", nonce)
	w.Header().Set("Cache-Control", "no-store")
	switch b := body.(type) {
	case nil:
		w.WriteHeader(code)
	case []byte:
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		w.WriteHeader(code)
		_, _ = w.Write(b)
	default:
		w.Header().Set("Content-Type", "application/json")
		if code >= 400 {
			w.Header().Set("Content-Type", "application/problem+json")
		}
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(b)
	}
}

// acmeRequest is a request whose signature is right.
type acmeRequest struct {
	*http.Request
	key     *ecdsa.PublicKey
	account string // "" before there is one
	payload []byte
}

type jwk struct{ Crv, Kty, X, Y string }

// thumbprint is that of RFC 7638.
func thumbprint(k *ecdsa.PublicKey) string {
	b64 := base64.RawURLEncoding.EncodeToString
	point, _ := k.Bytes() // 4, x, y
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, b64(point[1:33]), b64(point[33:])))
	return b64(sum[:])
}

// verify checks a request's signature, nonce and URL (sections 6.2 to 6.5).
func (s *acmeServer) verify(r *http.Request) (*acmeRequest, error) {
	var message struct{ Protected, Payload, Signature string }
	if err := json.NewDecoder(r.Body).Decode(&message); err != nil {
		return nil, err
	}
	decode := base64.RawURLEncoding.DecodeString
	protected, err := decode(message.Protected)
	if err != nil {
		return nil, err
	}
	var head struct {
		Alg, Nonce, URL, Kid string
		JWK                  *jwk
	}
	if err := json.Unmarshal(protected, &head); err != nil {
		return nil, err
	}
	if head.Alg != "ES256" || head.URL != s.http.URL+r.URL.Path || !s.nonces[head.Nonce] {
		return nil, fmt.Errorf("algorithm, URL or nonce: %s", protected)
	}
	delete(s.nonces, head.Nonce)
	request := &acmeRequest{Request: r, account: head.Kid, key: s.accounts[head.Kid]}
	if head.JWK != nil {
		x, _ := decode(head.JWK.X)
		y, _ := decode(head.JWK.Y)
		point := slices.Concat([]byte{4}, x, y)
		if request.key, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point); err != nil {
			return nil, err
		}
	}
	if request.key == nil {
		return nil, fmt.Errorf("no account %q", head.Kid)
	}
	signature, err := decode(message.Signature)
	if err != nil || len(signature) != 64 {
		return nil, errors.New("signature")
	}
	sum := sha256.Sum256([]byte(message.Protected + "." + message.Payload))
	if !ecdsa.Verify(request.key, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		return nil, errors.New("the signature is wrong")
	}
	request.payload, err = decode(message.Payload)
	return request, err
}

func (s *acmeServer) account(w http.ResponseWriter, r *acmeRequest) (int, any) {
	var wish struct {
		TermsOfServiceAgreed bool
		OnlyReturnExisting   bool
	}
	_ = json.Unmarshal(r.payload, &wish)
	url := s.http.URL + "/account/" + thumbprint(r.key)
	_, exists := s.accounts[url]
	switch {
	case !exists && wish.OnlyReturnExisting:
		return 400, problem("accountDoesNotExist", errors.New("no account"))
	case !exists && !wish.TermsOfServiceAgreed:
		return 403, problem("userActionRequired", errors.New("the terms are not agreed to"))
	}
	s.accounts[url] = r.key
	w.Header().Set("Location", url)
	if exists {
		return 200, map[string]any{"status": "valid"}
	}
	return 201, map[string]any{"status": "valid"}
}

func (s *acmeServer) order(w http.ResponseWriter, r *acmeRequest) (int, any) {
	var wish struct {
		Identifiers []struct{ Type, Value string }
	}
	if err := json.Unmarshal(r.payload, &wish); err != nil {
		return 400, problem("malformed", err)
	}
	o := &acmeOrder{valid: make([]bool, len(wish.Identifiers))}
	for _, id := range wish.Identifiers {
		o.domains = append(o.domains, id.Value)
		o.tokens = append(o.tokens, base64.RawURLEncoding.EncodeToString(serial().Bytes()))
	}
	s.orders = append(s.orders, o)
	n := len(s.orders) - 1
	w.Header().Set("Location", fmt.Sprintf("%s/order/%d", s.http.URL, n))
	return 201, s.describe(n)
}

func (s *acmeServer) describe(n int) any {
	o := s.orders[n]
	status := "pending"
	switch {
	case o.cert != nil:
		status = "valid"
	case o.failed != nil:
		status = "invalid"
	case !slices.Contains(o.valid, false):
		status = "ready"
	}
	var ids []any
	var authz []string
	for i, d := range o.domains {
		ids = append(ids, map[string]string{"type": "dns", "value": d})
		authz = append(authz, fmt.Sprintf("%s/authz/%d/%d", s.http.URL, n, i))
	}
	return map[string]any{
		"status": status, "identifiers": ids, "authorizations": authz,
		"finalize": fmt.Sprintf("%s/finalize/%d", s.http.URL, n), "certificate": fmt.Sprintf("%s/cert/%d", s.http.URL, n),
	}
}

// numbers returns those in a path.
func (r *acmeRequest) numbers() (order, domain int) {
	_, _ = fmt.Sscan(r.PathValue("order"), &order)
	_, _ = fmt.Sscan(r.PathValue("domain"), &domain)
	return order, domain
}

func (s *acmeServer) showOrder(_ http.ResponseWriter, r *acmeRequest) (int, any) {
	n, _ := r.numbers()
	return 200, s.describe(n)
}

func (s *acmeServer) showAuthz(_ http.ResponseWriter, r *acmeRequest) (int, any) {
	n, i := r.numbers()
	o := s.orders[n]
	status := "pending"
	if o.valid[i] {
		status = "valid"
	} else if o.failed != nil {
		status = "invalid"
	}
	var challenges []any
	for _, kind := range []string{"http-01", "tls-alpn-01"} {
		challenges = append(challenges, s.describeChallenge(n, i, kind, status))
	}
	return 200, map[string]any{
		"status": status, "identifier": map[string]string{"type": "dns", "value": o.domains[i]}, "challenges": challenges,
	}
}

func (s *acmeServer) describeChallenge(n, i int, kind, status string) any {
	c := map[string]any{
		"type": kind, "status": status, "token": s.orders[n].tokens[i],
		"url": fmt.Sprintf("%s/challenge/%d/%d/%s", s.http.URL, n, i, kind),
	}
	if err := s.orders[n].failed; err != nil {
		c["error"] = problem("unauthorized", err)
	}
	return c
}

// challenge connects to the domain and looks whether the client is there.
func (s *acmeServer) challenge(w http.ResponseWriter, r *acmeRequest) (int, any) {
	n, i := r.numbers()
	o, kind := s.orders[n], r.PathValue("type")
	authorization := o.tokens[i] + "." + thumbprint(r.key)
	check := s.checkALPN
	if kind == "http-01" {
		check = s.checkHTTP
	}
	w.Header().Set("Link", fmt.Sprintf("<%s/authz/%d/%d>;rel=\"up\"", s.http.URL, n, i))
	if err := check(o.domains[i], o.tokens[i], authorization); err != nil {
		o.failed = err
		return 200, s.describeChallenge(n, i, kind, "invalid")
	}
	o.valid[i] = true
	s.validated = append(s.validated, kind+" "+o.domains[i])
	return 200, s.describeChallenge(n, i, kind, "valid")
}

// checkALPN is RFC 8737, section 3.
func (s *acmeServer) checkALPN(domain, _, authorization string) error {
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{
		ServerName: domain, NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true, //nolint:gosec // looked at below
	}}
	conn, err := dialer.DialContext(context.Background(), "tcp", s.at)
	if err != nil {
		return err
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	leaf := state.PeerCertificates[0]
	if state.NegotiatedProtocol != "acme-tls/1" || !slices.Equal(leaf.DNSNames, []string{domain}) {
		return fmt.Errorf("%q, %q", state.NegotiatedProtocol, leaf.DNSNames)
	}
	sum := sha256.Sum256([]byte(authorization))
	for _, e := range leaf.Extensions {
		if e.Id.String() == "1.3.6.1.5.5.7.1.31" && e.Critical && bytes.Equal(e.Value, append([]byte{4, 32}, sum[:]...)) {
			return nil
		}
	}
	return errors.New("the certificate does not prove it")
}

// checkHTTP is RFC 8555, section 8.3.
func (s *acmeServer) checkHTTP(domain, token, authorization string) error {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+s.at+"/.well-known/acme-challenge/"+token, nil)
	if err != nil {
		return err
	}
	r.Host = domain
	response, err := (&http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && strings.TrimSpace(string(body)) != authorization {
		err = fmt.Errorf("it answers %q", body)
	}
	return err
}

func (s *acmeServer) finalize(w http.ResponseWriter, r *acmeRequest) (int, any) {
	n, _ := r.numbers()
	o := s.orders[n]
	var wish struct{ CSR string }
	_ = json.Unmarshal(r.payload, &wish)
	der, _ := base64.RawURLEncoding.DecodeString(wish.CSR)
	csr, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil || !slices.Equal(csr.DNSNames, o.domains) || slices.Contains(o.valid, false) {
		return 403, problem("badCSR", fmt.Errorf("%w: %+v", err, o))
	}
	o.cert = append(s.authority.sign(s.t, csr.PublicKey, s.lifetime, o.domains...), s.authority.pem()...)
	w.Header().Set("Location", fmt.Sprintf("%s/order/%d", s.http.URL, n))
	return 200, s.describe(n)
}

func (s *acmeServer) certificate(_ http.ResponseWriter, r *acmeRequest) (int, any) {
	n, _ := r.numbers()
	return 200, s.orders[n].cert
}
