package expr

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/millrace/millrace/block"
)

// node is an operation of an expression, with its operands.
type node struct {
	op      op
	kind    kind    // of what it gives; anything if only the event tells
	args    []*node // operands; the items of a list
	value   value   // of a literal
	text    string  // of a literal, a path, an attribute's path as it is printed
	name    string  // of an attribute
	field   int     // which field, in the order in which they are found
	call    *function
	pattern *regexp.Regexp // of a call of matches
	height  int            // operations within each other
	column  int
}

// op is what a node does.
type op uint8

const (
	opLiteral op = iota
	opList       // of literals, right of in
	opField
	opKey
	opType
	opID
	opTime
	opDeleted
	opAttribute
	opCall
	opNot
	opNegate
	opAnd // two operands or more, none of them an opAnd
	opOr  // likewise
	opEqual
	opUnequal
	opLess
	opLessEqual
	opGreater
	opGreaterEqual
	opIn
	opNotIn
	opAdd
	opSubtract
	opMultiply
	opDivide
	opRemainder
)

// binary lists the operators between two operands. The higher the level, the closer they bind.
var binary = map[string]struct {
	op    op
	level int
}{
	"||": {opOr, levelOr}, "or": {opOr, levelOr},
	"&&": {opAnd, levelAnd}, "and": {opAnd, levelAnd},
	"==": {opEqual, levelCompare},
	"!=": {opUnequal, levelCompare},
	"<":  {opLess, levelCompare},
	"<=": {opLessEqual, levelCompare},
	">":  {opGreater, levelCompare},
	">=": {opGreaterEqual, levelCompare},
	"in": {opIn, levelCompare}, "not": {opNotIn, levelCompare}, // not in
	"+": {opAdd, levelAdd}, "-": {opSubtract, levelAdd},
	"*": {opMultiply, levelMultiply}, "/": {opDivide, levelMultiply}, "%": {opRemainder, levelMultiply},
}

const (
	levelOr = iota + 1
	levelAnd
	levelNot // the word not; ! binds like a sign
	levelCompare
	levelAdd
	levelMultiply
	levelSign
	levelOperand
)

// columns are the event's own, by their names without the dollar sign.
var columns = map[string]struct {
	op    op
	kind  kind
	needs block.Sections
}{
	"key":     {opKey, aString, block.Keys},
	"time":    {opTime, aTime, block.Keys},
	"deleted": {opDeleted, aBool, block.Keys},
	"id":      {opID, aString, block.IDs},
	"type":    {opType, aString, block.IDs},
}

// symbol returns how the operator is printed, and its level.
func (o op) symbol() (text string, level int) {
	switch o {
	case opOr:
		return " || ", levelOr
	case opAnd:
		return " && ", levelAnd
	case opEqual:
		return " == ", levelCompare
	case opUnequal:
		return " != ", levelCompare
	case opLess:
		return " < ", levelCompare
	case opLessEqual:
		return " <= ", levelCompare
	case opGreater:
		return " > ", levelCompare
	case opGreaterEqual:
		return " >= ", levelCompare
	case opIn:
		return " in ", levelCompare
	case opNotIn:
		return " not in ", levelCompare
	case opAdd:
		return " + ", levelAdd
	case opSubtract:
		return " - ", levelAdd
	case opMultiply:
		return " * ", levelMultiply
	case opDivide:
		return " / ", levelMultiply
	case opRemainder:
		return " % ", levelMultiply
	case opNot:
		return "!", levelSign
	case opNegate:
		return "-", levelSign
	default:
		return "", levelOperand
	}
}

// print appends the canonical form, in parentheses if it binds less than level demands.
func (n *node) print(to *strings.Builder, level int) {
	symbol, own := n.op.symbol()
	if own < level {
		to.WriteByte('(')
		defer to.WriteByte(')')
	}
	switch n.op {
	case opLiteral, opField, opKey, opType, opID, opTime, opDeleted, opAttribute:
		to.WriteString(n.text)
	case opList:
		printAll(to, "[", n.args, "]")
	case opCall:
		printAll(to, n.call.name+"(", n.args, ")")
	case opNot, opNegate:
		to.WriteString(symbol)
		n.args[0].print(to, own)
	default:
		for i, arg := range n.args {
			switch {
			case i > 0:
				to.WriteString(symbol)
				arg.print(to, own+1)
			case own == levelCompare: // a comparison is no operand of another
				arg.print(to, own+1)
			default:
				arg.print(to, own)
			}
		}
	}
}

func printAll(to *strings.Builder, open string, nodes []*node, end string) {
	to.WriteString(open)
	for i, n := range nodes {
		if i > 0 {
			to.WriteString(", ")
		}
		n.print(to, 0)
	}
	to.WriteString(end)
}

func (n *node) String() string {
	var b strings.Builder
	n.print(&b, 0)
	return b.String()
}

// pathText returns how a path is printed: names in back-quotes only where they must be.
func pathText(path []string) string {
	var b strings.Builder
	for i, segment := range path {
		if i > 0 {
			b.WriteByte('.')
		}
		bare := i > 0 || beginsName(segment) && (len(path) > 1 || !keywords[strings.ToLower(segment)])
		for j := range segment {
			bare = bare && inName(segment[j:])
		}
		if bare {
			b.WriteString(segment)
		} else {
			b.WriteString("`" + strings.ReplaceAll(segment, "`", "``") + "`")
		}
	}
	return b.String()
}

// quote returns a string as a literal.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ':
			b.WriteString(`\u00`)
			b.WriteByte("01"[r>>4])
			b.WriteString(strconv.FormatInt(int64(r&15), 16))
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
