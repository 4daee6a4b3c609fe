package expr

import (
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"
)

// token is a word of an expression.
type token struct {
	kind   tokenKind
	text   string   // as written; a string's text unquoted; a keyword in lower case; an operator's canonical form
	path   []string // the segments of a name
	column int      // in characters, from 1
}

type tokenKind uint8

const (
	endToken     tokenKind = iota
	nameToken              // a name or a path, also of a function
	columnToken            // one that begins with $; text and path are without it
	numberToken            // without a sign
	stringToken            //
	keywordToken           // and or not in true false null
	symbolToken            // an operator, a parenthesis, a bracket, a comma
)

// lexer cuts an expression into tokens.
type lexer struct {
	text   string
	at     int // offset of what comes next
	column int // of at
}

// mistake is what Compile makes its error of.
type mistake struct {
	column int
	text   string
}

func (l *lexer) next() (token, *mistake) {
	l.advance(len(l.text[l.at:]) - len(strings.TrimLeft(l.text[l.at:], " \t\r\n")))
	t := token{column: l.column}
	rest := l.text[l.at:]
	if rest == "" {
		return t, nil
	}
	switch c := rest[0]; {
	case c == '"' || c == '\'':
		return l.quoted(t)
	case '0' <= c && c <= '9':
		return l.number(t)
	case c == '$' || beginsName(rest):
		return l.name(t)
	default:
		return l.symbol(t)
	}
}

// advance moves on by n bytes.
func (l *lexer) advance(n int) {
	l.column += utf8.RuneCountInString(l.text[l.at : l.at+n])
	l.at += n
}

// wrong is a mistake n bytes ahead.
func (l *lexer) wrong(n int, text string) (token, *mistake) {
	return token{}, &mistake{column: l.column + utf8.RuneCountInString(l.text[l.at:l.at+n]), text: text}
}

// quoted reads a string: JSON's, also in single quotes.
func (l *lexer) quoted(t token) (token, *mistake) {
	rest := l.text[l.at:]
	quote := rest[0]
	var inside strings.Builder // as JSON has it in double quotes
	inside.WriteByte('"')
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == quote:
			inside.WriteByte('"')
			if err := json.Unmarshal([]byte(inside.String()), &t.text); err != nil {
				return l.wrong(0, "the string has an escape that JSON does not know; write a backslash twice")
			}
			t.kind = stringToken
			l.advance(i + 1)
			return t, nil
		case c < ' ':
			return l.wrong(i, "a string cannot hold a control character; write it as an escape, such as \\n")
		case c == '"':
			inside.WriteString(`\"`)
		case c == '\\' && i+1 < len(rest):
			i++
			if rest[i] != '\'' {
				inside.WriteByte('\\')
			}
			inside.WriteByte(rest[i])
		default:
			inside.WriteByte(c)
		}
	}
	return l.wrong(0, "the string has no end; write "+string(quote)+" behind it")
}

// number reads a number of JSON (RFC 8259 section 6) without its sign.
func (l *lexer) number(t token) (token, *mistake) {
	rest := l.text[l.at:]
	n := digits(rest, 0)
	if rest[0] == '0' && n > 1 {
		return l.wrong(0, "a number does not begin with 0; write it without")
	}
	if n < len(rest) && rest[n] == '.' {
		end := digits(rest, n+1)
		if end == n+1 {
			return l.wrong(n, "digits must follow the point of a number; a name that begins with a digit is written `"+rest[:n]+"`")
		}
		n = end
	}
	if n < len(rest) && rest[n]|0x20 == 'e' {
		start := n + 1
		if start < len(rest) && (rest[start] == '+' || rest[start] == '-') {
			start++
		}
		end := digits(rest, start)
		if end == start {
			return l.wrong(n, "digits must follow the exponent of a number, as in 1e3; a name that begins with a digit is written in back-quotes")
		}
		n = end
	}
	if n < len(rest) && (inName(rest[n:]) || rest[n] == '.') {
		return l.wrong(n, "a number ends here and a name begins; write a name that begins with a digit in back-quotes")
	}
	t.kind, t.text = numberToken, rest[:n]
	l.advance(n)
	return t, nil
}

func digits(s string, i int) int {
	for i < len(s) && s[i]-'0' <= 9 {
		i++
	}
	return i
}

// name reads a path, a column, a function's name or a keyword.
func (l *lexer) name(t token) (token, *mistake) {
	rest := l.text[l.at:]
	i := 0
	t.kind = nameToken
	if rest[0] == '$' {
		i, t.kind = 1, columnToken
	}
	plain := true // neither quotes nor escapes
	for {
		var segment strings.Builder
		if i < len(rest) && rest[i] == '`' {
			plain = false
			start := i
			for i++; ; i++ {
				if i == len(rest) {
					return l.wrong(start, "the name has no end; write ` behind it")
				}
				if rest[i] == '`' {
					if i++; i == len(rest) || rest[i] != '`' {
						break
					}
				}
				segment.WriteByte(rest[i])
			}
		} else {
			for i < len(rest) && (inName(rest[i:]) || rest[i] == '\\') {
				if rest[i] == '\\' {
					plain = false
					if i++; i == len(rest) || rest[i] != '.' && rest[i] != '\\' {
						return l.wrong(i-1, "a backslash in a name must stand before a dot or a backslash")
					}
				}
				_, size := utf8.DecodeRuneInString(rest[i:])
				segment.WriteString(rest[i : i+size])
				i += size
			}
		}
		if segment.Len() == 0 {
			return l.wrong(i, "a name is missing; one with other characters than letters, digits and _ is written in back-quotes")
		}
		t.path = append(t.path, segment.String())
		if i == len(rest) || rest[i] != '.' {
			break
		}
		i++
	}
	t.text = rest[:i]
	if t.kind == columnToken {
		t.text = rest[1:i]
	} else if word := strings.ToLower(t.text); plain && keywords[word] {
		t.kind, t.text = keywordToken, word
	}
	l.advance(i)
	return t, nil
}

// keywords are none in paths of several segments, or in back-quotes.
var keywords = map[string]bool{"and": true, "or": true, "not": true, "in": true, "true": true, "false": true, "null": true}

func beginsName(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return r == '_' || r == '`' || r == '\\' || unicode.IsLetter(r)
}

// inName says whether the character may stand in a name as it is.
func inName(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r)
}

// symbols are the operators and what else is no word, longer ones first. Those with a hint are what other
// languages have.
var symbols = []struct{ text, means, hint string }{
	{text: "===", hint: "write == for equal"},
	{text: "!==", hint: "write != for not equal"},
	{text: "==", means: "=="},
	{text: "!=", means: "!="},
	{text: "<>", hint: "write != for not equal"},
	{text: "<=", means: "<="},
	{text: ">=", means: ">="},
	{text: "=<", hint: "write <= for at most"},
	{text: "=>", hint: "write >= for at least"},
	{text: "=~", hint: "write matches(name, \"expression\")"},
	{text: "&&", means: "&&"},
	{text: "||", means: "||"},
	{text: "**", hint: "there is no power; write x * x"},
	{text: "=", means: "=="},
	{text: "<", means: "<"},
	{text: ">", means: ">"},
	{text: "!", means: "!"},
	{text: "+", means: "+"},
	{text: "-", means: "-"},
	{text: "*", means: "*"},
	{text: "/", means: "/"},
	{text: "%", means: "%"},
	{text: "(", means: "("},
	{text: ")", means: ")"},
	{text: "[", means: "["},
	{text: "]", means: "]"},
	{text: ",", means: ","},
	{text: "&", hint: "write && for and"},
	{text: "|", hint: "write || for or"},
	{text: "~", hint: "write matches(name, \"expression\")"},
	{text: ".", hint: "write a digit before the point of a number, as in 0.5, and a name before the dot of a path"},
	{text: ";", hint: "an expression has no semicolon; leave it out"},
}

func (l *lexer) symbol(t token) (token, *mistake) {
	for _, s := range symbols {
		if strings.HasPrefix(l.text[l.at:], s.text) {
			if s.hint != "" {
				return l.wrong(0, `"`+s.text+`" is not known; `+s.hint)
			}
			t.kind, t.text = symbolToken, s.means
			l.advance(len(s.text))
			return t, nil
		}
	}
	r, _ := utf8.DecodeRuneInString(l.text[l.at:])
	return l.wrong(0, "the character "+quote(string(r))+" is not known; text is written in quotes, odd names in back-quotes")
}
