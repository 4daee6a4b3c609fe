package expr

import (
	"regexp"
	"regexp/syntax"
	"strings"
)

// What can never be right for reason of kinds alone is refused here, so that a mistake is told at once
// and not by events that never pass.

// condition checks what must be true or false.
func (p *parser) condition(n *node) *mistake {
	if n.kind == aBool || n.kind == anything {
		return nil
	}
	return n.wrong("%s is %s, not a condition; write a comparison, such as %s", excerpt(n), n.kind, example(n))
}

func example(n *node) string {
	switch n.kind {
	case aNumber:
		return excerpt(n) + " > 0"
	case aTime:
		return excerpt(n) + ` > "2026-01-31T12:00:00Z"`
	case aString:
		if n.op != opLiteral {
			return excerpt(n) + ` == "text"`
		}
	}
	return "speed > 80"
}

// checkEqual checks that the operands of == or != can be equal at all; at is the one to complain about.
func (n *node) checkEqual(at *node) *mistake {
	a, b := n.args[0], n.args[1]
	switch {
	case a.kind == anything, b.kind == anything, a.kind == nullLiteral, b.kind == nullLiteral, a.kind == b.kind:
		return nil
	case a.kind == aTime || b.kind == aTime:
		return n.checkTime()
	}
	hint := ""
	if number, str := pick(a, b, aNumber), pick(a, b, aString); number != nil && str != nil {
		if number.op == opLiteral {
			hint = `; write "` + number.text + `"`
		} else if str.op == opLiteral {
			hint = "; write the number without quotes"
		}
	}
	return at.wrong("%s is %s and %s is %s: they are never equal%s", excerpt(a), a.kind, excerpt(b), b.kind, hint)
}

// pick returns the one that is of a kind, nil if none is.
func pick(a, b *node, k kind) *node {
	switch k {
	case a.kind:
		return a
	case b.kind:
		return b
	default:
		return nil
	}
}

func (n *node) checkOrder() *mistake {
	for _, arg := range n.args {
		switch arg.kind {
		case anything, aNumber, aString, aTime:
		case aBool:
			return arg.wrong("%s is true or false, which has no order; write parentheses around the comparison that is meant", excerpt(arg))
		default:
			return arg.wrong("%s is %s, which has no order; write == or !=", excerpt(arg), arg.kind)
		}
	}
	a, b := n.args[0], n.args[1]
	switch {
	case a.kind == anything, b.kind == anything, a.kind == b.kind:
		return nil
	case a.kind == aTime, b.kind == aTime:
		return n.checkTime()
	default:
		return b.wrong("%s is %s and %s is %s: they have no order", excerpt(a), a.kind, excerpt(b), b.kind)
	}
}

// checkTime checks what a time is compared with, and reads it if it is a literal.
func (n *node) checkTime() *mistake {
	for i, arg := range n.args {
		switch {
		case arg.kind == aTime, arg.kind == aNumber:
		case arg.kind != aString:
			return arg.wrong("%s is %s; a time compares with a string in RFC 3339 or with Unix milliseconds", excerpt(arg), arg.kind)
		case arg.op == opLiteral:
			t, ok := parseTime(arg.value.text)
			if !ok {
				return arg.wrong(`%s is not a time; write it as "2026-01-31T12:00:00Z"`, arg.text)
			}
			if year := t.UTC().Year(); year < 1678 || year > 2261 {
				return arg.wrong("%s is out of range; event times lie between the years 1678 and 2261", arg.text)
			}
			known := *arg // which is printed as it was
			known.value = value{kind: aTime, nano: t.UnixNano()}
			n.args[i] = &known
		}
	}
	return nil
}

// excerpt returns a node as messages name it.
func excerpt(n *node) string { return clip(n.String()) }

func (p *parser) checkCall(n *node) *mistake {
	for i, arg := range n.args {
		switch want := n.call.takes[min(i, len(n.call.takes)-1)]; {
		case arg.kind == want, arg.kind == anything, want == anything, want == aNumber && arg.kind == aTime:
		default:
			return arg.wrong("%s is %s; write %s", excerpt(arg), arg.kind, n.call.shape)
		}
	}
	switch n.call.name {
	case "contains", "matches", "lower", "upper", "length":
		if m := p.scan(n); m != nil {
			return m
		}
	}
	switch n.call.name {
	case "coalesce":
		n.kind = n.args[0].kind
		for _, arg := range n.args {
			if arg.kind != n.kind {
				n.kind = anything
			}
		}
	case "exists":
		switch n.args[0].op {
		case opField, opAttribute, opKey, opID, opType, opTime, opDeleted:
		default:
			return n.args[0].wrong("%s is no name; exists asks for a field, as in exists(speed)", excerpt(n.args[0]))
		}
	case "matches":
		return p.compilePattern(n)
	}
	return nil
}

// scan counts what takes time for each byte of a large event, and may come from a client.
func (p *parser) scan(n *node) *mistake {
	if p.scans++; p.scans > MaxScans {
		return n.wrong("contains, matches, lower, upper, length and in (a field) stand here more than %d times; "+
			"write a list behind in, or one regular expression for several", MaxScans)
	}
	return nil
}

// compilePattern compiles the regular expression of a call of matches, if it is not too large.
func (p *parser) compilePattern(n *node) *mistake {
	pattern := n.args[1]
	if pattern.op != opLiteral {
		return pattern.wrong("the regular expression must be a string in quotes, as in matches(route, \"^[0-9]+$\")")
	}
	const classCost = 50 // of parsing one such as \pL, in which are hundreds of ranges
	text := pattern.value.text
	large := func() *mistake {
		return pattern.wrong("the regular expressions have more than %d instructions, repetitions counted out; write shorter ones", MaxPattern)
	}
	if p.pattern += classCost * (strings.Count(text, `\p`) + strings.Count(text, `\P`)); p.pattern > MaxPattern {
		return large()
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return pattern.wrong("the regular expression is not in RE2's syntax: %v", err)
	}
	if p.pattern += size(parsed); p.pattern > MaxPattern {
		return large()
	}
	if n.pattern, err = regexp.Compile(text); err != nil {
		return pattern.wrong("the regular expression cannot be used: %v", err)
	}
	return nil
}

// size estimates the instructions of a regular expression, once its repetitions are counted out. It stops
// counting far beyond MaxPattern.
func size(re *syntax.Regexp) int {
	const runesPerInstruction = 64
	n := 1 + len(re.Rune)/runesPerInstruction
	switch re.Op {
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpConcat, syntax.OpRepeat:
		n = 0
	}
	for _, sub := range re.Sub {
		n = min(n+size(sub), 1<<20)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1) // at most 1000 at a time
	}
	return min(n, 1<<20)
}
