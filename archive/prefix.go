package archive

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace"
)

// maxPrefix is Firehose's limit of an evaluated prefix, in characters; here in bytes.
const maxPrefix = 512

// maxName is what file systems allow for one name, in bytes; maxLast leaves room for an object's name.
const maxName, maxLast = 255, 60

// prefix is a compiled prefix expression, in Firehose's language:
//
//	!{timestamp:PATTERN}              the time, by java.time's letters (see pattern)
//	!{millrace:error-output-type}     why an error object is there: gap or undecodable
//	!{millrace:random-string}         11 letters and digits, fresh at each use
//
// The namespace firehose stands for millrace. Everything else is text. An expression ends at the first
// "}".
type prefix []part

// part is text, or an expression.
type part struct {
	kind    partKind
	text    string
	pattern pattern
}

type partKind int

const (
	literalPart partKind = iota
	timestampPart
	errorTypePart
	randomPart
)

// What error-output-type can become.
const (
	typeGap         = "gap"
	typeUndecodable = "undecodable"
)

func parsePrefix(text string) (prefix, error) {
	var p prefix
	for text != "" {
		before, rest, found := strings.Cut(text, "!{")
		if before != "" {
			p = append(p, part{text: before})
		}
		if !found {
			break
		}
		expression, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil, fmt.Errorf("the expression %q is not closed with }", "!{"+rest)
		}
		parsed, err := parseExpression(expression)
		if err != nil {
			return nil, err
		}
		p = append(p, parsed)
		text = after
	}
	return p, nil
}

func parseExpression(expression string) (part, error) {
	namespace, value, _ := strings.Cut(expression, ":")
	switch {
	case namespace == "timestamp" && value == "":
		return part{}, errors.New("!{timestamp:} needs a pattern, such as !{timestamp:yyyy/MM/dd}")
	case namespace == "timestamp":
		p, err := parsePattern(value)
		return part{kind: timestampPart, pattern: p}, err
	case namespace == "millrace" || namespace == "firehose":
		switch value {
		case "error-output-type":
			return part{kind: errorTypePart}, nil
		case "random-string":
			return part{kind: randomPart}, nil
		}
		return part{}, fmt.Errorf("!{%s} is unknown; there are !{%[2]s:error-output-type} and !{%[2]s:random-string}", expression, namespace)
	case strings.HasPrefix(namespace, "partitionKeyFrom"):
		return part{}, fmt.Errorf("!{%s}: dynamic partitions are not supported", expression)
	default:
		return part{}, fmt.Errorf("!{%s} is unknown; expressions are !{timestamp:PATTERN}, !{millrace:error-output-type} and !{millrace:random-string}", expression)
	}
}

func (p prefix) has(kind partKind) bool {
	for _, part := range p {
		if part.kind == kind {
			return true
		}
	}
	return false
}

// plain says that the prefix has no expressions.
func (p prefix) plain() bool {
	for _, part := range p {
		if part.kind != literalPart {
			return false
		}
	}
	return true
}

// format evaluates the prefix for an instant. random is called for each random string.
func (p prefix) format(t time.Time, errorType string, random func() string) string {
	var b []byte
	for _, part := range p {
		switch part.kind {
		case timestampPart:
			b = part.pattern.format(b, t)
		case errorTypePart:
			b = append(b, errorType...)
		case randomPart:
			b = append(b, random()...)
		default:
			b = append(b, part.text...)
		}
	}
	return string(b)
}

// randomString returns 11 random letters and digits.
func randomString() string { return strings.ToLower(rand.Text()[:11]) }

// parsePrefixes compiles both prefixes of an archive and applies Firehose's rules: a prefix without a
// timestamp gets yyyy/MM/dd/HH/ appended; only an error prefix can say error-output-type, and must
// where the prefix has expressions. An error is about the key that it comes with.
func parsePrefixes(c *Config) (objects, failures prefix, key string, err error) {
	objects, err = parsePrefix(c.Prefix)
	if err == nil && objects.has(errorTypePart) {
		err = errors.New("error-output-type belongs into error_prefix")
	}
	if err != nil {
		return nil, nil, "prefix", err
	}
	expressions := !objects.plain()
	if !objects.has(timestampPart) {
		hours, _ := parsePattern("yyyy/MM/dd/HH/")
		objects = append(objects, part{kind: timestampPart, pattern: hours})
	}
	if err := objects.check(); err != nil {
		return nil, nil, "prefix", err
	}

	text := c.ErrorPrefix
	if text == "" {
		text = defaultErrorPrefix
	}
	failures, err = parsePrefix(text)
	if err == nil && expressions && !failures.has(errorTypePart) {
		err = fmt.Errorf("%q must contain !{millrace:error-output-type}, since the prefix has expressions", text)
	}
	if err == nil {
		err = failures.check()
	}
	if err != nil {
		return nil, nil, "error_prefix", err
	}
	return objects, failures, "", nil
}

// check evaluates the prefix for every day of a leap year and sees whether object keys can begin with
// what comes out.
func (p prefix) check() error {
	for day := range 366 {
		t := time.Date(2028, time.January, 1+day, 23, 59, 59, 999_999_999, time.UTC)
		evaluated := p.format(t, typeUndecodable, func() string { return "abcdefghijk" })
		if len(evaluated) > maxPrefix {
			return fmt.Errorf("it has %d characters on %s, the limit is %d", len(evaluated), t.Format(time.DateOnly), maxPrefix)
		}
		segments := strings.Split(evaluated, "/")
		last := len(segments) - 1
		for i, segment := range segments {
			if i < last && (segment == "" || segment == "." || segment == "..") {
				return fmt.Errorf("%q has the segment %q: a key can't begin with a slash, nor have empty, \".\" or \"..\" segments", evaluated, segment)
			}
			if len(segment) > maxName || i == last && len(segment) > maxLast {
				return fmt.Errorf("%q has a segment of %d bytes, the limit is %d, and %d for the last, to which the object's name is added",
					evaluated, len(segment), maxName, maxLast)
			}
		}
		if strings.IndexFunc(evaluated, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) >= 0 {
			return fmt.Errorf("%q holds control characters or is no UTF-8", evaluated)
		}
	}
	return nil
}

// objectName names an object by where its events stand: STREAM_PARTITION_FIRST_LAST.EXTENSION, so that
// names sort in stream order. An error object that begins at the start of a partition has 0 for first.
func objectName(stream, partition string, first, last millrace.Position, extension string) string {
	return stream + "_" + partition + "_" + nameOf(first) + "_" + nameOf(last) + extension
}

// nameOf writes a position with an event number of fixed width: block.MaxEvents has 7 digits.
func nameOf(p millrace.Position) string {
	if p.IsStart() {
		return "0"
	}
	return fmt.Sprintf("%s.%07d", p.Block, p.Event)
}
