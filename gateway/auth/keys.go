package auth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"slices"
)

// maxKID bounds the id of a key, in bytes.
const maxKID = 256

// leastRSA is the least size of an RSA key, in bits (RFC 7518, section 3.3).
const leastRSA = 2048

// key verifies the signatures of one algorithm. That it is bound to the algorithm is what keeps a token
// from choosing how it is checked.
type key struct {
	alg, id  string
	material any // []byte, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey, as alg says
}

// parsePublicKey reads the first PEM block of a text and checks that its key is one of an algorithm.
func parsePublicKey(alg string, text []byte) (any, error) {
	block, _ := pem.Decode(bytes.TrimSpace(text))
	if block == nil {
		return nil, errors.New("it is no PEM text; it begins with -----BEGIN PUBLIC KEY-----")
	}
	var material any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		material, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		material, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var certificate *x509.Certificate
		if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
			material = certificate.PublicKey
		}
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
		return nil, errors.New("it is a private key, which has no business here; give the public one")
	default:
		return nil, fmt.Errorf("it is a %.40q; give a PUBLIC KEY or a CERTIFICATE", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	if found := algorithmOf(material); found != alg {
		if found == "" {
			return nil, fmt.Errorf("it is no key for %s: RS256 takes RSA keys of at least %d bits, ES256 those of "+
				"the curve P-256, EdDSA Ed25519 keys", alg, leastRSA)
		}
		return nil, fmt.Errorf("it is a key for %s, not for %s", found, alg)
	}
	return material, nil
}

// algorithmOf returns the algorithm that a public key is for; "" if for none that is taken.
func algorithmOf(material any) string {
	switch k := material.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() >= leastRSA && k.N.BitLen() <= 16<<10 {
			return rs256
		}
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return es256
		}
	case ed25519.PublicKey:
		return edDSA
	}
	return ""
}

// readPEM reads a file of at most 64 KiB.
func readPEM(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 64<<10+1))
	if err == nil && len(text) > 64<<10 {
		err = errors.New("it is larger than 64 KiB")
	}
	return text, err
}

// maxSetKeys bounds the keys of a set, all of which a token without a key id is tried with.
const maxSetKeys = 100

// parseSet reads a JSON web key set (RFC 7517). It leaves out what it cannot use: RFC 7517, section 5.
func parseSet(text []byte) ([]key, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, errors.New("it is no JSON web key set")
	}
	if len(set.Keys) > maxSetKeys {
		return nil, fmt.Errorf("it has %d keys, more than %d", len(set.Keys), maxSetKeys)
	}
	var keys []key
	for _, raw := range set.Keys {
		if k, ok := parseKey(raw); ok {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("it has no key that can be used")
	}
	return keys, nil
}

// parseKey reads a public key (RFC 7518, section 6; RFC 8037, section 2). A symmetric key, which whoever
// fetches the set could sign with, is none.
func parseKey(raw []byte) (key, bool) {
	var j struct {
		Type       string   `json:"kty"`
		Use        string   `json:"use"`
		Operations []string `json:"key_ops"`
		Algorithm  string   `json:"alg"`
		ID         string   `json:"kid"`
		Curve      string   `json:"crv"`
		N          number   `json:"n"`
		E          number   `json:"e"`
		X          number   `json:"x"`
		Y          number   `json:"y"`
	}
	if json.Unmarshal(raw, &j) != nil || len(j.ID) > maxKID ||
		j.Use != "" && j.Use != "sig" || j.Operations != nil && !slices.Contains(j.Operations, "verify") {
		return key{}, false
	}
	var material any
	switch j.Type + " " + j.Curve {
	case "RSA ":
		exponent := new(big.Int).SetBytes(j.E)
		if !exponent.IsInt64() || exponent.Int64() < 3 || exponent.Int64() > 1<<31-1 || exponent.Bit(0) == 0 {
			return key{}, false
		}
		material = &rsa.PublicKey{N: new(big.Int).SetBytes(j.N), E: int(exponent.Int64())}
	case "EC P-256":
		if len(j.X) != 32 || len(j.Y) != 32 {
			return key{}, false
		}
		point, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, j.X, j.Y))
		if err != nil { // not on the curve
			return key{}, false
		}
		material = point
	case "OKP Ed25519":
		if len(j.X) != ed25519.PublicKeySize {
			return key{}, false
		}
		material = ed25519.PublicKey(j.X)
	}
	alg := algorithmOf(material)
	if alg == "" || j.Algorithm != "" && j.Algorithm != alg {
		return key{}, false
	}
	return key{alg: alg, id: j.ID, material: material}, true
}

// number is a number's bytes, big-endian, in base64url without padding.
type number []byte

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *number) UnmarshalText(text []byte) (err error) {
	*n, err = base64.RawURLEncoding.AppendDecode(nil, bytes.TrimRight(text, "="))
	return err
}
