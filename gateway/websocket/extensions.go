package websocket

import "strings"

// extensionsHeader is in which extensions are offered and accepted (RFC 6455, section 9.1).
const extensionsHeader = "Sec-Websocket-Extensions"

// extension is one that a client offers.
type extension struct {
	name       string
	parameters []parameter
}

// parameter is of an extension. Its value, quoted or not, is a token.
type parameter struct {
	name, value string
	hasValue    bool
}

// parseExtensions reads the lines of the header, which are one list. ok is false if they do not have the
// form that section 9.1 gives them; empty elements of the list are allowed (RFC 9110, section 5.6.1).
func parseExtensions(lines []string) (list []extension, ok bool) {
	for _, line := range lines {
		s := scanner(line)
		for {
			s.space()
			if name := s.token(); name != "" {
				e := extension{name: name}
				for s.space(); s.skip(';'); s.space() {
					p, ok := s.parameter()
					if !ok {
						return nil, false
					}
					e.parameters = append(e.parameters, p)
				}
				list = append(list, e)
			}
			if s == "" {
				break
			}
			if !s.skip(',') {
				return nil, false
			}
		}
	}
	return list, true
}

// scanner is what is left of a header's value.
type scanner string

func (s *scanner) space() { *s = scanner(strings.TrimLeft(string(*s), " \t")) }

func (s *scanner) skip(c byte) bool {
	if *s == "" || (*s)[0] != c {
		return false
	}
	*s = (*s)[1:]
	return true
}

func (s *scanner) token() string {
	n := 0
	for n < len(*s) && tokenByte((*s)[n]) {
		n++
	}
	token := string((*s)[:n])
	*s = (*s)[n:]
	return token
}

// parameter reads what follows a semicolon.
func (s *scanner) parameter() (p parameter, ok bool) {
	s.space()
	if p.name = s.token(); p.name == "" {
		return p, false
	}
	s.space()
	if !s.skip('=') {
		return p, true
	}
	p.hasValue = true
	s.space()
	if !s.skip('"') {
		p.value = s.token()
		return p, p.value != ""
	}
	for *s != "" {
		c := (*s)[0]
		*s = (*s)[1:]
		switch {
		case c == '"':
			return p, p.value != ""
		case c == '\\' && *s != "":
			c = (*s)[0]
			*s = (*s)[1:]
		}
		if !tokenByte(c) { // also after unquoting it has to be a token
			return p, false
		}
		p.value += string(c)
	}
	return p, false
}

// tokenByte says whether c may stand in a token (RFC 9110, section 5.6.2).
func tokenByte(c byte) bool {
	return c > ' ' && c < 0x7f && !strings.ContainsRune("\"(),/:;<=>?@[\\]{}", rune(c))
}
