package auth

import (
	"net/http"
	"net/url"
	"strings"
)

// maxToken bounds a token, in bytes.
const maxToken = 16 << 10

// tokenOf returns the token of a request, "" if it has none. A place that is filled twice is refused:
// which of the two counts would be a matter of who reads it. (A page of a sibling domain can plant a
// second cookie.)
func (g *Guard) tokenOf(r *http.Request) (string, *Denied) {
	values := r.Header.Values(g.header)
	if len(values) > 1 {
		return "", denied(http.StatusUnauthorized, "the header "+g.header+" is there more than once")
	}
	if len(values) == 1 {
		token := strings.TrimSpace(values[0])
		if g.header == "Authorization" {
			scheme, rest, _ := strings.Cut(token, " ")
			if token = ""; strings.EqualFold(scheme, "Bearer") {
				token = strings.TrimSpace(rest)
			}
		}
		if token != "" {
			return token, nil
		}
	}
	if g.token.Query != "" {
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil { // it would quote the query
			return "", denied(http.StatusUnauthorized, "the query string is malformed")
		}
		values := query[g.token.Query]
		if len(values) > 1 {
			return "", denied(http.StatusUnauthorized, "the parameter "+g.token.Query+" is there more than once")
		}
		if len(values) == 1 && values[0] != "" {
			return values[0], nil
		}
	}
	if g.token.Cookie != "" {
		cookies := r.CookiesNamed(g.token.Cookie)
		if len(cookies) > 1 {
			return "", denied(http.StatusUnauthorized, "the cookie "+g.token.Cookie+" is there more than once")
		}
		if len(cookies) == 1 {
			return cookies[0].Value, nil
		}
	}
	return "", nil
}

// places says where a token may stand.
func (g *Guard) places() string {
	places := []string{"the header " + g.header}
	if g.header == "Authorization" {
		places[0] = "the header Authorization: Bearer TOKEN"
	}
	if g.token.Query != "" {
		places = append(places, "the parameter "+g.token.Query)
	}
	if g.token.Cookie != "" {
		places = append(places, "the cookie "+g.token.Cookie)
	}
	if g.token.Message {
		places = append(places, `the first message {"auth": "TOKEN"} of a millrace.v1 connection`)
	}
	return strings.Join(places, ", or ")
}
