package expr

import (
	"math"
	"slices"

	"github.com/millrace/millrace/jsonpath"
)

// test evaluates a condition: what is neither true nor false counts as false.
func (e *Evaluator) test(n *node) bool {
	switch n.op {
	case opAnd:
		for _, arg := range n.args {
			if !e.test(arg) {
				return false
			}
		}
		return true
	case opOr:
		return slices.ContainsFunc(n.args, e.test)
	case opNot:
		return !e.test(n.args[0])
	case opEqual, opUnequal, opLess, opLessEqual, opGreater, opGreaterEqual, opIn, opNotIn:
		mark := len(e.scratch)
		passed := e.compare(n)
		e.release(mark)
		return passed
	default:
		v := e.value(n)
		return v.kind == aBool && v.bool
	}
}

// release gives back the scratch that came after mark: no string in it is in use any more.
func (e *Evaluator) release(mark int) {
	if e.scratch = e.scratch[:mark]; mark == 0 && cap(e.scratch) > keep {
		e.scratch = nil
	}
}

func (e *Evaluator) compare(n *node) bool {
	a := e.value(n.args[0])
	switch n.op {
	case opEqual:
		return equal(a, e.value(n.args[1]))
	case opUnequal:
		return !equal(a, e.value(n.args[1]))
	case opIn:
		return e.in(a, n.args[1])
	case opNotIn:
		return !e.in(a, n.args[1])
	}
	order, ok := compare(a, e.value(n.args[1]))
	switch {
	case !ok:
		return false
	case n.op == opLess:
		return order < 0
	case n.op == opLessEqual:
		return order <= 0
	case n.op == opGreater:
		return order > 0
	default:
		return order >= 0
	}
}

// in says whether v is an item of a list, or of an array in the data.
func (e *Evaluator) in(v value, list *node) bool {
	if list.op == opList {
		for _, item := range list.args {
			if equal(v, item.value) {
				return true
			}
		}
		return false
	}
	array := e.value(list)
	if array.kind != anArray {
		return false
	}
	mark := len(e.scratch)
	for raw, err := range jsonpath.Elements(bytesOf(array.text)) {
		if err != nil {
			return false // never: the array was found in one piece
		}
		element := jsonpath.Value{Raw: raw, Kind: jsonpath.KindOf(raw)}
		item := ofJSON(element)
		if element.Escaped() {
			e.scratch = element.Append(e.scratch[:mark])
			item.text = view(e.scratch[mark:])
		}
		if equal(v, item) {
			return true
		}
	}
	return false
}

// value evaluates a node. What it returns is valid until the scratch from before is released.
func (e *Evaluator) value(n *node) value {
	switch n.op {
	case opLiteral:
		return n.value
	case opField:
		return e.field(n.field)
	case opKey, opID, opType, opTime, opDeleted:
		return e.own(n.op)
	case opAttribute:
		return e.attribute(n.name)
	case opCall:
		mark := len(e.scratch)
		v := n.call.eval(e, n)
		if v.kind != aString {
			e.release(mark)
		}
		return v
	case opNegate:
		f, ok := e.value(n.args[0]).asNumber()
		if !ok {
			return value{}
		}
		return computed(-f)
	case opAdd, opSubtract, opMultiply, opDivide, opRemainder:
		return e.arithmetic(n)
	default:
		return boolValue(e.test(n))
	}
}

func (e *Evaluator) arithmetic(n *node) value {
	a, ok := e.value(n.args[0]).asNumber()
	if !ok {
		return value{}
	}
	b, ok := e.value(n.args[1]).asNumber()
	if !ok {
		return value{}
	}
	switch n.op {
	case opAdd:
		return computed(a + b)
	case opSubtract:
		return computed(a - b)
	case opMultiply:
		return computed(a * b)
	case opDivide:
		return computed(a / b)
	default:
		return computed(math.Mod(a, b))
	}
}
