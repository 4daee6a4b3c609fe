package expr

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/jsonpath"
)

// parser reads an expression by precedence climbing, and checks it as it goes.
type parser struct {
	lexer   lexer
	token   token // what comes next
	open    int   // parentheses and prefixes around it
	fields  []string
	index   map[string]int // of fields
	needs   block.Sections
	pattern int // instructions of all regular expressions
	scans   int // operations that read a whole string or array
}

// maxOpen bounds the recursion. The canonical form of what is not over MaxDepth needs two for each
// operation.
const maxOpen = 4 * MaxDepth

func (p *parser) parse() (*node, *mistake) {
	if m := p.next(); m != nil {
		return nil, m
	}
	if p.token.kind == endToken {
		return nil, p.wrong("the expression is empty; write a condition, such as speed > 80")
	}
	root, m := p.operation(levelOr)
	if m != nil {
		return nil, m
	}
	if p.token.kind != endToken {
		return nil, p.unexpected("an operator or the end should be")
	}
	return root, p.condition(root)
}

func (p *parser) next() (m *mistake) {
	p.token, m = p.lexer.next()
	return m
}

// wrong is a mistake in the next token.
func (p *parser) wrong(format string, args ...any) *mistake {
	return &mistake{column: p.token.column, text: fmt.Sprintf(format, args...)}
}

func (n *node) wrong(format string, args ...any) *mistake {
	return &mistake{column: n.column, text: fmt.Sprintf(format, args...)}
}

// foreign is what other languages have, and what to write instead.
var foreign = map[string]string{
	"is":      `write == null or != null`,
	"like":    `write contains(name, "text") or matches(name, "expression")`,
	"between": "write a >= low && a <= high",
	"xor":     "write != between two conditions in parentheses",
	"mod":     "write %",
	"eq":      "write ==",
	"ne":      "write !=",
	"gt":      "write >",
	"lt":      "write <",
}

func (p *parser) unexpected(where string) *mistake {
	switch t := p.token; t.kind {
	case endToken:
		return p.wrong("the expression ends where %s", where)
	case stringToken:
		return p.wrong("%s stands where %s", quote(clip(t.text)), where)
	case columnToken:
		return p.wrong("$%s stands where %s", clip(t.text), where)
	default:
		if hint := foreign[strings.ToLower(t.text)]; hint != "" {
			where += "; " + hint
		}
		return p.wrong("%q stands where %s", clip(t.text), where)
	}
}

func (p *parser) is(text string) bool {
	return p.token.text == text && (p.token.kind == symbolToken || p.token.kind == keywordToken)
}

// want moves over a symbol.
func (p *parser) want(text, where string) *mistake {
	if !p.is(text) {
		return p.unexpected(where)
	}
	return p.next()
}

// enter is called where the parser calls itself.
func (p *parser) enter() *mistake {
	if p.open++; p.open > maxOpen {
		return p.wrong("more than %d parentheses and operators within each other; write a simpler expression", maxOpen)
	}
	return nil
}

// operation reads operators of a level and above, and their operands.
func (p *parser) operation(level int) (*node, *mistake) {
	var left *node
	var m *mistake
	if p.is("not") {
		left, m = p.not(level)
	} else {
		left, m = p.operand()
	}
	if m != nil {
		return nil, m
	}
	compared := false
	for {
		symbol := p.token
		o, known := binary[symbol.text]
		if !known || o.level < level || symbol.kind != symbolToken && symbol.kind != keywordToken {
			return left, nil
		}
		if compared && o.level == levelCompare {
			return nil, p.wrong("two comparisons in a row; write && between them, or parentheses around one")
		}
		if m := p.next(); m != nil {
			return nil, m
		}
		if o.op == opNotIn {
			if m := p.want("in", `the word in of "not in" should be`); m != nil {
				return nil, m
			}
		}
		var right *node
		if (o.op == opIn || o.op == opNotIn) && p.is("[") {
			right, m = p.list()
		} else {
			right, m = p.operation(o.level + 1)
		}
		if m != nil {
			return nil, m
		}
		if left, m = p.operate(o.op, symbol.column, left, right); m != nil {
			return nil, m
		}
		compared = o.level == levelCompare
	}
}

// not reads the word and the condition behind it, which may be a comparison.
func (p *parser) not(level int) (*node, *mistake) {
	column := p.token.column
	if level > levelNot {
		return nil, p.wrong("the word not stands where a value should be; write parentheses around the condition, or !")
	}
	if m := p.enter(); m != nil {
		return nil, m
	}
	defer func() { p.open-- }()
	if m := p.next(); m != nil {
		return nil, m
	}
	arg, m := p.operation(levelNot)
	if m != nil {
		return nil, m
	}
	return p.operate(opNot, column, arg)
}

// operand reads a value: what operators stand between.
func (p *parser) operand() (*node, *mistake) {
	if m := p.enter(); m != nil {
		return nil, m
	}
	defer func() { p.open-- }()
	const missing = "a value should be, such as a name, a number or \"text\""
	t := p.token
	switch {
	case t.kind == nameToken || t.kind == columnToken:
		if m := p.next(); m != nil {
			return nil, m
		}
		switch {
		case t.kind == columnToken:
			return p.column(t)
		case p.is("("):
			return p.function(t)
		default:
			return p.field(t)
		}
	case t.kind == numberToken, t.kind == stringToken, p.is("true"), p.is("false"), p.is("null"):
		return p.literal()
	case p.is("("):
		if m := p.next(); m != nil {
			return nil, m
		}
		n, m := p.operation(levelOr)
		if m != nil {
			return nil, m
		}
		return n, p.want(")", fmt.Sprintf("an operator or the ) for column %d should be", t.column))
	case p.is("!"), p.is("-"):
		if m := p.next(); m != nil {
			return nil, m
		}
		if t.text == "-" && p.token.kind == numberToken {
			n, m := p.literal()
			if m == nil {
				n = negative(n, t.column)
			}
			return n, m
		}
		arg, m := p.operand()
		switch {
		case m != nil:
			return nil, m
		case t.text == "!":
			return p.operate(opNot, t.column, arg)
		case arg.op == opLiteral && arg.kind == aNumber:
			return negative(arg, t.column), nil
		default:
			return p.operate(opNegate, t.column, arg)
		}
	case p.is("["):
		return nil, p.wrong("a list stands where %s; a list stands behind in", missing)
	default:
		return nil, p.unexpected(missing)
	}
}

// literal reads a number without its sign, a string, true, false or null.
func (p *parser) literal() (*node, *mistake) {
	t := p.token
	n := &node{op: opLiteral, column: t.column}
	switch {
	case t.kind == stringToken:
		n.value, n.text = value{kind: aString, text: t.text}, quote(t.text)
	case t.kind == numberToken:
		exact := exactDecimal(t.text)
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil || f == 0 && exact.sign() != 0 {
			return nil, p.wrong("the number %s is out of range; numbers go to about 1.8e308", clip(t.text))
		}
		n.text = exact.String()
		n.value = value{kind: aNumber, number: f, text: n.text}
	case p.is("null"):
		n.value, n.text = value{kind: nullLiteral}, "null"
	default:
		n.value, n.text = boolValue(t.text == "true"), t.text
	}
	n.kind = n.value.kind
	return n, p.next()
}

// negative returns the literal number with the other sign.
func negative(n *node, column int) *node {
	exact := exactDecimal(n.text)
	exact.negative = !exact.negative && exact.sign() != 0
	text := exact.String()
	f, _ := strconv.ParseFloat(text, 64)
	return &node{op: opLiteral, kind: aNumber, text: text, value: value{kind: aNumber, number: f, text: text}, column: column}
}

// list reads a list of literals.
func (p *parser) list() (*node, *mistake) {
	n := &node{op: opList, kind: aList, column: p.token.column}
	if m := p.next(); m != nil {
		return nil, m
	}
	for !p.is("]") {
		if len(n.args) > 0 {
			if m := p.want(",", "a comma or the end of the list, ], should be"); m != nil {
				return nil, m
			}
		}
		item, m := p.operand()
		if m != nil {
			return nil, m
		}
		if item.op != opLiteral {
			return nil, item.wrong("a list holds numbers, strings, true, false and null; write other things with == and ||")
		}
		n.args = append(n.args, item)
	}
	return n, p.next()
}

func (p *parser) field(t token) (*node, *mistake) {
	if len(t.path) > jsonpath.MaxDepth {
		return nil, &mistake{t.column, fmt.Sprintf("the path has %d names, the limit is %d", len(t.path), jsonpath.MaxDepth)}
	}
	escape := strings.NewReplacer(`\`, `\\`, `.`, `\.`)
	var path strings.Builder
	for i, segment := range t.path {
		if i > 0 {
			path.WriteByte('.')
		}
		path.WriteString(escape.Replace(segment))
	}
	i, ok := p.index[path.String()]
	if !ok {
		if i = len(p.fields); i == MaxFields {
			return nil, &mistake{t.column, fmt.Sprintf("more than %d different fields; write a simpler expression", MaxFields)}
		}
		p.index[path.String()] = i
		p.fields = append(p.fields, path.String())
	}
	p.needs |= block.Data
	return &node{op: opField, kind: anything, field: i, text: pathText(t.path), column: t.column}, nil
}

func (p *parser) column(t token) (*node, *mistake) {
	const known = "there are $key, $type, $id, $time, $deleted and $attributes.NAME"
	if t.path[0] == "attributes" {
		if len(t.path) != 2 {
			return nil, &mistake{t.column, "write $attributes.NAME with one name; a dot in it is written in back-quotes, as in $attributes.`a.b`"}
		}
		p.needs |= block.Attributes
		return &node{op: opAttribute, kind: aString, name: t.path[1], text: "$" + pathText(t.path), column: t.column}, nil
	}
	c, ok := columns[t.path[0]]
	switch {
	case !ok:
		return nil, &mistake{t.column, fmt.Sprintf("$%s is not known; %s; a field of the data is written without $", clip(t.text), known)}
	case len(t.path) > 1:
		return nil, &mistake{t.column, fmt.Sprintf("nothing lies below $%s; %s", t.path[0], known)}
	}
	p.needs |= c.needs
	return &node{op: c.op, kind: c.kind, text: "$" + t.path[0], column: t.column}, nil
}

// function reads the arguments of a call.
func (p *parser) function(t token) (*node, *mistake) {
	at := slices.IndexFunc(functions, func(f *function) bool { return f.name == strings.ToLower(t.text) })
	if at < 0 {
		names := make([]string, len(functions))
		for i, f := range functions {
			names[i] = f.name
		}
		return nil, &mistake{t.column, fmt.Sprintf("%s is no function; there are %s", clip(t.text), strings.Join(names, ", "))}
	}
	f := functions[at]
	n := &node{op: opCall, kind: f.gives, call: f, column: t.column}
	if m := p.next(); m != nil {
		return nil, m
	}
	for !p.is(")") {
		if len(n.args) > 0 {
			if m := p.want(",", "a comma or the ) of "+f.name+" should be"); m != nil {
				return nil, m
			}
		}
		arg, m := p.operation(levelOr)
		if m != nil {
			return nil, m
		}
		n.args = append(n.args, arg)
	}
	if m := p.next(); m != nil {
		return nil, m
	}
	if len(n.args) < f.least || len(n.args) > f.most {
		return nil, n.wrong("%s has %d arguments; write %s", f.name, len(n.args), f.shape)
	}
	if m := p.checkCall(n); m != nil {
		return nil, m
	}
	return p.measured(n)
}

// operate makes a node of an operator and checks its operands.
func (p *parser) operate(o op, column int, args ...*node) (*node, *mistake) {
	n := &node{op: o, kind: aBool, args: args, column: column}
	switch o {
	case opAnd, opOr:
		return p.chain(n)
	case opNot:
		if m := p.condition(args[0]); m != nil {
			return nil, m
		}
	case opEqual, opUnequal:
		if m := n.checkEqual(args[1]); m != nil {
			return nil, m
		}
	case opIn, opNotIn:
		if args[1].op != opList {
			if args[1].kind != anything {
				return nil, args[1].wrong("%s is %s; behind in stands a list, as in [1, 2], or a field that holds one", excerpt(args[1]), args[1].kind)
			}
			if m := p.scan(n); m != nil {
				return nil, m
			}
			break
		}
		list := *args[1]
		list.args = slices.Clone(list.args)
		for i, item := range list.args {
			pair := node{op: opEqual, args: []*node{args[0], item}}
			if m := pair.checkEqual(item); m != nil {
				return nil, m
			}
			list.args[i] = pair.args[1]
		}
		n.args[1] = &list
	case opLess, opLessEqual, opGreater, opGreaterEqual:
		if m := n.checkOrder(); m != nil {
			return nil, m
		}
	default:
		n.kind = aNumber
		for _, arg := range args {
			if arg.kind != anything && arg.kind != aNumber && arg.kind != aTime {
				symbol, _ := o.symbol()
				hint := ""
				if o == opSubtract {
					hint = "; a name with - in it is written in back-quotes"
				}
				return nil, arg.wrong("%s is %s, and %s needs numbers%s", excerpt(arg), arg.kind, strings.TrimSpace(symbol), hint)
			}
		}
	}
	return p.measured(n)
}

// chain joins what && or || connects into one node, also where there were parentheses. A long chain grows
// its first node, which nobody else has.
func (p *parser) chain(n *node) (*node, *mistake) {
	left, right := n.args[0], n.args[1]
	for _, arg := range n.args {
		if m := p.condition(arg); m != nil {
			return nil, m
		}
	}
	if left.op == n.op {
		n = left
	} else {
		n.args = []*node{left}
		n.height = left.height + 1
	}
	if right.op == n.op {
		n.args = append(n.args, right.args...)
		n.height = max(n.height, right.height)
	} else {
		n.args = append(n.args, right)
		n.height = max(n.height, right.height+1)
	}
	return p.bounded(n)
}

// measured sets the node's height.
func (p *parser) measured(n *node) (*node, *mistake) {
	for _, arg := range n.args {
		n.height = max(n.height, arg.height+1)
	}
	return p.bounded(n)
}

func (p *parser) bounded(n *node) (*node, *mistake) {
	if n.height > MaxDepth {
		return nil, n.wrong("more than %d operators and functions within each other; write a simpler expression", MaxDepth)
	}
	return n, nil
}
