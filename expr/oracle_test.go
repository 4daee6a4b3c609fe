package expr

import (
	"bytes"
	"encoding/json"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// oracle evaluates expressions slowly and plainly, over what encoding/json makes of the data. Its values are
// nil, isNull, bool, json.Number (as it is written), float64 (computed), string, time.Time, []any and
// members.
type oracle struct {
	ev   *millrace.Event
	data any
}

type (
	isNull  struct{} // null in the expression
	jsNull  struct{} // null in the data
	members map[string]any
)

func newOracle(t *testing.T, ev *millrace.Event) oracle {
	o := oracle{ev: ev}
	d := json.NewDecoder(bytes.NewReader(ev.Data))
	d.UseNumber()
	if json.Valid(ev.Data) {
		o.data = decode(t, d)
	}
	return o
}

// decode reads a value token by token, because the first of equal keys counts here.
func decode(t *testing.T, d *json.Decoder) any {
	token, err := d.Token()
	if err != nil {
		t.Fatal(err)
	}
	switch token {
	case nil:
		return jsNull{}
	case json.Delim('{'):
		m := members{}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				t.Fatal(err)
			}
			v := decode(t, d)
			if _, there := m[key.(string)]; !there {
				m[key.(string)] = v
			}
		}
		_, _ = d.Token()
		return m
	case json.Delim('['):
		items := []any{}
		for d.More() {
			items = append(items, decode(t, d))
		}
		_, _ = d.Token()
		return items
	}
	return token
}

// look returns a field as it is in the data; nil if it is missing.
func (o oracle) look(path string) any {
	l := lexer{text: path, column: 1}
	token, _ := l.next()
	at := o.data
	for _, segment := range token.path {
		switch v := at.(type) {
		case members:
			at = v[segment]
		case []any:
			i, err := strconv.Atoi(segment)
			if err != nil || i < 0 || i >= len(v) || strconv.Itoa(i) != segment {
				return nil
			}
			at = v[i]
		default:
			return nil
		}
	}
	return at
}

func (o oracle) value(n *node) any {
	arg := func(i int) any { return o.value(n.args[i]) }
	switch n.op {
	case opLiteral:
		switch n.kind {
		case nullLiteral:
			return isNull{}
		case aBool:
			return n.text == "true"
		case aNumber:
			return json.Number(n.text)
		default:
			l := lexer{text: n.text, column: 1}
			token, _ := l.next()
			return token.text
		}
	case opList:
		items := []any{}
		for i := range n.args {
			items = append(items, arg(i))
		}
		return items
	case opField:
		v := o.look(n.text)
		if v == (jsNull{}) {
			return nil
		}
		return v
	case opKey:
		return o.ev.Key
	case opID:
		return o.ev.ID
	case opType:
		return o.ev.Type
	case opDeleted:
		return o.ev.Deleted
	case opTime:
		if o.ev.Time.IsZero() {
			return nil
		}
		return o.ev.Time
	case opAttribute:
		if s, ok := o.ev.Attributes[n.name]; ok {
			return s
		}
		return nil
	case opNot:
		return arg(0) != true
	case opAnd:
		for i := range n.args {
			if arg(i) != true {
				return false
			}
		}
		return true
	case opOr:
		for i := range n.args {
			if arg(i) == true {
				return true
			}
		}
		return false
	case opEqual:
		return same(arg(0), arg(1))
	case opUnequal:
		return !same(arg(0), arg(1))
	case opIn, opNotIn:
		items, _ := arg(1).([]any)
		return slices.ContainsFunc(items, func(item any) bool { return same(arg(0), item) }) == (n.op == opIn)
	case opLess:
		order, ok := orderOf(arg(0), arg(1))
		return ok && order < 0
	case opLessEqual:
		order, ok := orderOf(arg(0), arg(1))
		return ok && order <= 0
	case opGreater:
		order, ok := orderOf(arg(0), arg(1))
		return ok && order > 0
	case opGreaterEqual:
		order, ok := orderOf(arg(0), arg(1))
		return ok && order >= 0
	case opCall:
		return o.call(n)
	}
	var f []float64
	for i := range n.args {
		x, ok := float(arg(i))
		if !ok {
			return nil
		}
		f = append(f, x)
	}
	switch n.op {
	case opNegate:
		return finite(-f[0])
	case opAdd:
		return finite(f[0] + f[1])
	case opSubtract:
		return finite(f[0] - f[1])
	case opMultiply:
		return finite(f[0] * f[1])
	case opDivide:
		return finite(f[0] / f[1])
	default:
		return finite(math.Mod(f[0], f[1]))
	}
}

func (o oracle) call(n *node) any {
	var args []any
	var texts []string
	var numbers []float64
	for _, arg := range n.args {
		v := o.value(arg)
		args = append(args, v)
		if s, ok := v.(string); ok {
			texts = append(texts, s)
		}
		if f, ok := float(v); ok {
			numbers = append(numbers, f)
		}
	}
	allTexts, allNumbers := len(texts) == len(args), len(numbers) == len(args)
	switch name := n.call.name; name {
	case "contains":
		return allTexts && strings.Contains(texts[0], texts[1])
	case "starts_with":
		return allTexts && strings.HasPrefix(texts[0], texts[1])
	case "ends_with":
		return allTexts && strings.HasSuffix(texts[0], texts[1])
	case "matches":
		return allTexts && regexp.MustCompile(texts[1]).MatchString(texts[0])
	case "lower", "upper":
		if !allTexts {
			return nil
		}
		if name == "lower" {
			return strings.Map(unicode.ToLower, texts[0])
		}
		return strings.Map(unicode.ToUpper, texts[0])
	case "length":
		switch v := args[0].(type) {
		case string:
			return float64(utf8.RuneCountInString(v))
		case []any:
			return float64(len(v))
		}
		return nil
	case "coalesce":
		for _, v := range args {
			if v != nil && v != (isNull{}) {
				return v
			}
		}
		return nil
	case "exists":
		if n.args[0].op == opField {
			return o.look(n.args[0].text) != nil
		}
		return args[0] != nil
	}
	if !allNumbers {
		return nil
	}
	switch n.call.name {
	case "abs":
		return finite(math.Abs(numbers[0]))
	case "round":
		return finite(math.Round(numbers[0]))
	case "min", "max":
		for i, v := range args {
			if at, ok := v.(time.Time); ok {
				args[i], _ = float(at)
			}
		}
		best := args[0]
		for _, v := range args[1:] {
			if order, _ := orderOf(v, best); order < 0 && n.call.name == "min" || order > 0 && n.call.name == "max" {
				best = v
			}
		}
		return best
	default:
		if math.Abs(numbers[0]) > 90 || math.Abs(numbers[2]) > 90 || math.Abs(numbers[1]) > 360 || math.Abs(numbers[3]) > 360 {
			return nil
		}
		// The angle between two vectors: exact enough to tell a wrong formula, not to compare equal.
		return finite(angle(numbers[0], numbers[1], numbers[2], numbers[3]) * 6371008.8)
	}
}

func angle(lat0, lon0, lat1, lon1 float64) float64 {
	vector := func(lat, lon float64) [3]float64 {
		sinLat, cosLat := math.Sincos(lat / 180 * math.Pi)
		sinLon, cosLon := math.Sincos(lon / 180 * math.Pi)
		return [3]float64{cosLat * cosLon, cosLat * sinLon, sinLat}
	}
	a, b := vector(lat0, lon0), vector(lat1, lon1)
	dot := a[0]*b[0] + a[1]*b[1] + a[2]*b[2]
	cross := math.Hypot(math.Hypot(a[1]*b[2]-a[2]*b[1], a[2]*b[0]-a[0]*b[2]), a[0]*b[1]-a[1]*b[0])
	return math.Atan2(cross, dot)
}

func finite(f float64) any {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return nil
	}
	return f
}

func float(v any) (float64, bool) {
	switch v := v.(type) {
	case json.Number:
		f, _ := strconv.ParseFloat(string(v), 64)
		return f, true
	case float64:
		return v, true
	case time.Time:
		return float64(v.UnixMilli()) + float64(v.Nanosecond()%1e6)/1e6, true
	default:
		return 0, false
	}
}

func same(a, b any) bool {
	if a == (isNull{}) || b == (isNull{}) {
		return (a == nil || a == jsNull{} || a == isNull{}) && (b == nil || b == jsNull{} || b == isNull{})
	}
	if x, ok := a.(bool); ok {
		y, ok := b.(bool)
		return ok && x == y
	}
	order, ok := orderOf(a, b)
	return ok && order == 0
}

func orderOf(a, b any) (int, bool) {
	if _, ok := b.(time.Time); ok {
		if _, ok := a.(time.Time); !ok {
			order, ok := orderOf(b, a)
			return -order, ok
		}
	}
	switch x := a.(type) {
	case string:
		y, ok := b.(string)
		return strings.Compare(x, y), ok
	case time.Time:
		switch y := b.(type) {
		case time.Time:
			return x.Compare(y), true
		case string:
			t, err := time.Parse(time.RFC3339Nano, y)
			return x.Compare(t), err == nil
		}
		f, ok := float(b)
		if !ok || math.IsInf(f, 0) {
			return big.NewFloat(0).Cmp(big.NewFloat(f)), ok
		}
		ms := new(big.Rat).SetFrac64(x.UnixNano(), 1e6)
		return ms.Cmp(new(big.Rat).SetFloat64(f)), true
	}
	x, ok := float(a)
	y, ok2 := float(b)
	if !ok || !ok2 {
		return 0, false
	}
	exactA, ok := a.(json.Number)
	exactB, ok2 := b.(json.Number)
	if ok && ok2 {
		p, _ := new(big.Rat).SetString(string(exactA))
		q, _ := new(big.Rat).SetString(string(exactB))
		return p.Cmp(q), true
	}
	switch {
	case x < y:
		return -1, true
	case x > y:
		return 1, true
	default:
		return 0, true
	}
}
