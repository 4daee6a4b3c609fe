package apigateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// selection is a compiled route selection expression: literals and variables, one after the other.
type selection []part

// part is a literal, or a path into the body: names and indexes. An empty path is the whole body.
type part struct {
	literal  string
	variable bool
	path     []step
}

// step is one step into a JSON value: a field, or an element of an array.
type step struct {
	name  string
	index int // -1: a name
}

const bodyVariable = "request.body"

// maxSelection bounds an expression in bytes.
const maxSelection = 1024

// parseSelection compiles an expression. A variable is $request.body.PATH, which ends where no
// letter, digit, _, - , [n] or . follows, or ${request.body.PATH}; \$ is a dollar sign.
func parseSelection(expression string) (selection, error) {
	if expression == "" {
		return nil, errors.New("is empty")
	}
	if len(expression) > maxSelection {
		return nil, fmt.Errorf("is longer than %d bytes", maxSelection)
	}
	var s selection
	var literal strings.Builder
	for rest := expression; rest != ""; {
		switch {
		case strings.HasPrefix(rest, `\$`):
			literal.WriteByte('$')
			rest = rest[2:]
			continue
		case rest[0] != '$':
			literal.WriteByte(rest[0])
			rest = rest[1:]
			continue
		}
		var name string
		if inner, braced := strings.CutPrefix(rest, "${"); braced {
			var closed bool
			if name, rest, closed = strings.Cut(inner, "}"); !closed {
				return nil, errors.New(`has a "${" without its "}"`)
			}
		} else {
			end := 1
			for end < len(rest) && (isNameByte(rest[end]) || strings.IndexByte(".[]", rest[end]) >= 0) {
				end++
			}
			name, rest = rest[1:end], rest[end:]
		}
		path, err := parsePath(name)
		if err != nil {
			return nil, err
		}
		if literal.Len() > 0 {
			s = append(s, part{literal: literal.String()})
			literal.Reset()
		}
		s = append(s, part{variable: true, path: path})
	}
	if literal.Len() > 0 {
		s = append(s, part{literal: literal.String()})
	}
	return s, nil
}

// parsePath parses request.body.a.b[0].
func parsePath(name string) ([]step, error) {
	rest, found := strings.CutPrefix(name, bodyVariable)
	if !found || rest != "" && rest[0] != '.' && rest[0] != '[' {
		return nil, fmt.Errorf("has the variable %q, which does not begin with request.body", name)
	}
	var path []step
	for rest != "" {
		if inner, bracket := strings.CutPrefix(rest, "["); bracket {
			number, after, closed := strings.Cut(inner, "]")
			index, err := strconv.ParseUint(number, 10, 31)
			if !closed || err != nil {
				return nil, fmt.Errorf("has the variable %q, in which [ is not followed by a number and ]", name)
			}
			path = append(path, step{index: int(index)})
			rest = after
			continue
		}
		end := 1
		for end < len(rest) && rest[end] != '.' && rest[end] != '[' {
			end++
		}
		if rest[0] != '.' || end == 1 {
			return nil, fmt.Errorf("has the variable %q, in which a name is missing", name)
		}
		path = append(path, step{name: rest[1:end], index: -1})
		rest = rest[end:]
	}
	return path, nil
}

func isNameByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '_' || c == '-'
}

// route evaluates the expression over a message. ok is false if the message is not JSON or has not what
// a variable names: then the message goes to $default.
func (s selection) route(body []byte) (key string, ok bool) {
	var b strings.Builder
	if !json.Valid(body) {
		return "", false
	}
	for _, p := range s {
		if !p.variable {
			b.WriteString(p.literal)
			continue
		}
		value, found := walk(body, p.path)
		if !found {
			return "", false
		}
		b.Write(value)
	}
	return b.String(), true
}

// walk returns the text of the value at a path of valid JSON: strings without their quotes, everything
// else as it stands.
func walk(value []byte, path []step) ([]byte, bool) {
	for _, s := range path {
		if s.index >= 0 {
			var list []json.RawMessage
			if json.Unmarshal(value, &list) != nil || s.index >= len(list) {
				return nil, false
			}
			value = list[s.index]
			continue
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(value, &object) != nil {
			return nil, false
		}
		inner, there := object[s.name]
		if !there {
			return nil, false
		}
		value = inner
	}
	value = bytes.TrimSpace(value)
	if bytes.Equal(value, []byte("null")) {
		return nil, false
	}
	if value[0] == '"' {
		var text string
		if json.Unmarshal(value, &text) != nil {
			return nil, false
		}
		return []byte(text), true
	}
	return value, true
}
