package config

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxDepth bounds how deep collections nest; the configuration itself needs 6.
const maxDepth = 64

// maxTokens bounds the words and marks of a file: the parser's time grows with the square of a mapping's
// length. A source takes some 30.
const maxTokens = 100_000

// parse returns the root of the only document, nil if that is empty. It reports the first syntax error:
// what follows one means nothing.
func (d *decoder) parse(text []byte) (root ast.Node, ok bool) {
	if len(text) > maxFile {
		d.problem(place{}, "", "is larger than %d bytes", maxFile)
		return nil, false
	}
	s := strings.TrimPrefix(string(text), "\ufeff")
	if !d.plainText(s) {
		return nil, false
	}
	defer func() { // a fault in the parser is a problem of this file, not the end of the program
		if r := recover(); r != nil {
			d.problem(place{}, "", "the YAML can't be parsed: %v", r)
			root, ok = nil, false
		}
	}()
	tokens := lexer.Tokenize(s)
	if !d.shallow(tokens) {
		return nil, false
	}
	// Repeated keys are allowed here because the decoder reports all of them, with their paths.
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntaxError(s, err)
		return nil, false
	}
	for _, doc := range file.Docs {
		if _, directive := doc.Body.(*ast.DirectiveNode); directive || doc.Body == nil {
			continue
		}
		if root != nil {
			d.problem(placeOf(doc.Body), "", "a second document begins; a configuration is one document")
			return nil, false
		}
		root = doc.Body
	}
	return root, true
}

// plainText reports the first thing that is no UTF-8 text.
func (d *decoder) plainText(s string) bool {
	at := place{line: 1, column: 1}
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd"):
			d.problem(at, "", "byte 0x%02x is no UTF-8 text", s[i])
			return false
		case r < ' ' && r != '\n' && r != '\r' && r != '\t', r == 0x7f:
			d.problem(at, "", "control character 0x%02x", r)
			return false
		case r == '\n':
			at = place{line: at.line + 1, column: 1}
			continue
		}
		at.column++
	}
	return true
}

// shallow bounds how much the parser has to do and how deep it may recurse. Blocks that nest by indentation are
// bounded by the size of the file, since each line is longer than the one before.
func (d *decoder) shallow(tokens token.Tokens) bool {
	if len(tokens) > maxTokens {
		d.problem(place{}, "", "has more than %d words and marks", maxTokens)
		return false
	}
	depth, line, inLine := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, inLine = t.Position.Line, 0
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			depth++
		case token.MappingEndType, token.SequenceEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			inLine++
		}
		if depth > maxDepth || inLine > maxDepth {
			d.problem(place{line: t.Position.Line, column: t.Position.Column}, "", "nests deeper than %d levels", maxDepth)
			return false
		}
	}
	return true
}

func (d *decoder) syntaxError(text string, err error) {
	var syntax yaml.Error
	if !errors.As(err, &syntax) || syntax.GetToken() == nil || syntax.GetToken().Position == nil {
		d.problem(place{}, "", "the YAML can't be parsed: %v", err)
		return
	}
	at := syntax.GetToken().Position
	hint := ""
	if lines := strings.Split(text, "\n"); at.Line >= 1 && at.Line <= len(lines) {
		line := strings.TrimRight(lines[at.Line-1], "\r")
		indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
		switch {
		case strings.Contains(indent, "\t"):
			hint = "; indent with spaces, not with tabs"
		case strings.Contains(line, "${"):
			hint = `; write "${...}" in double quotes`
		}
	}
	message := strings.ReplaceAll(syntax.GetMessage(), "\t", `\t`)
	d.problem(place{line: at.Line, column: at.Column}, "", "the YAML is malformed: %s%s", message, hint)
}

// place is where something stands in the file; zero if nowhere.
type place struct{ line, column int }

func placeOf(n ast.Node) place {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return placeOf(m.Values[0].Key) // a block mapping's own token is its first colon
	}
	if m, ok := n.(*ast.MappingValueNode); ok {
		return placeOf(m.Key)
	}
	t := n.GetToken()
	if t == nil || t.Position == nil {
		return place{}
	}
	return place{line: t.Position.Line, column: t.Position.Column}
}

// kind names a node's type in a user's words.
func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "empty"
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.StringNode, *ast.LiteralNode:
		return "a text"
	default:
		return fmt.Sprintf("a %s", strings.ToLower(n.Type().String()))
	}
}
