package expr

import (
	"math"
	"strings"
	"unicode"
	"unicode/utf8"
	"unsafe"

	"github.com/millrace/millrace/jsonpath"
)

// function is one that an expression can call.
type function struct {
	name        string
	shape       string // how it is called, for messages
	takes       []kind // of the arguments; further ones are like the last
	least, most int    // arguments
	gives       kind
	eval        func(e *Evaluator, n *node) value
}

const many = 1 << 16 // more than fit a text

// functions in the order in which messages list them.
var functions = []*function{
	{"contains", "contains(text, part)", []kind{aString}, 2, 2, aBool, (*Evaluator).contains},
	{"starts_with", "starts_with(text, start)", []kind{aString}, 2, 2, aBool, (*Evaluator).startsWith},
	{"ends_with", "ends_with(text, end)", []kind{aString}, 2, 2, aBool, (*Evaluator).endsWith},
	{"matches", `matches(text, "regular expression")`, []kind{aString}, 2, 2, aBool, (*Evaluator).matches},
	{"lower", "lower(text)", []kind{aString}, 1, 1, aString, (*Evaluator).lower},
	{"upper", "upper(text)", []kind{aString}, 1, 1, aString, (*Evaluator).upper},
	{"length", "length(text or list)", []kind{aString}, 1, 1, aNumber, (*Evaluator).length},
	{"abs", "abs(number)", []kind{aNumber}, 1, 1, aNumber, (*Evaluator).abs},
	{"round", "round(number)", []kind{aNumber}, 1, 1, aNumber, (*Evaluator).round},
	{"min", "min(number, number, ...)", []kind{aNumber}, 1, many, aNumber, (*Evaluator).extreme},
	{"max", "max(number, number, ...)", []kind{aNumber}, 1, many, aNumber, (*Evaluator).extreme},
	{"distance", "distance(lat, lon, lat0, lon0)", []kind{aNumber}, 4, 4, aNumber, (*Evaluator).distance},
	{"coalesce", "coalesce(a, b, ...)", []kind{anything}, 1, many, anything, (*Evaluator).coalesce},
	{"exists", "exists(name)", []kind{anything}, 1, 1, aBool, (*Evaluator).exists},
}

// strings evaluates two arguments; ok is false unless both are strings.
func (e *Evaluator) strings(n *node) (a, b string, ok bool) {
	x := e.value(n.args[0])
	if x.kind != aString {
		return "", "", false
	}
	y := e.value(n.args[1])
	return x.text, y.text, y.kind == aString
}

func (e *Evaluator) contains(n *node) value {
	s, part, ok := e.strings(n)
	return boolValue(ok && strings.Contains(s, part))
}

func (e *Evaluator) startsWith(n *node) value {
	s, start, ok := e.strings(n)
	return boolValue(ok && strings.HasPrefix(s, start))
}

func (e *Evaluator) endsWith(n *node) value {
	s, end, ok := e.strings(n)
	return boolValue(ok && strings.HasSuffix(s, end))
}

func (e *Evaluator) matches(n *node) value {
	s := e.value(n.args[0])
	return boolValue(s.kind == aString && n.pattern.MatchString(s.text))
}

func (e *Evaluator) lower(n *node) value { return e.fold(n, unicode.ToLower) }

func (e *Evaluator) upper(n *node) value { return e.fold(n, unicode.ToUpper) }

// fold maps each character of a string. Bytes that are not UTF-8 stay as they are.
func (e *Evaluator) fold(n *node, to func(rune) rune) value {
	mark := len(e.scratch)
	v := e.value(n.args[0])
	if v.kind != aString {
		return value{}
	}
	s := v.text
	same := 0
	for same < len(s) {
		r, size := utf8.DecodeRuneInString(s[same:])
		if to(r) != r {
			break
		}
		same += size
	}
	if same == len(s) {
		return v
	}
	start := len(e.scratch)
	e.scratch = append(e.scratch, s[:same]...)
	for i := same; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			e.scratch = append(e.scratch, s[i])
		} else {
			e.scratch = utf8.AppendRune(e.scratch, to(r))
		}
		i += size
	}
	// The argument's own text is not needed any more: nested calls use the memory of one.
	e.scratch = append(e.scratch[:mark], e.scratch[start:]...)
	return value{kind: aString, text: view(e.scratch[mark:])}
}

func (e *Evaluator) length(n *node) value {
	v := e.value(n.args[0])
	switch v.kind {
	case aString:
		return computed(float64(utf8.RuneCountInString(v.text)))
	case anArray:
		count := 0
		for _, err := range jsonpath.Elements(bytesOf(v.text)) {
			if err == nil { // always: the array was found in one piece
				count++
			}
		}
		return computed(float64(count))
	default:
		return value{}
	}
}

func (e *Evaluator) abs(n *node) value {
	f, ok := e.value(n.args[0]).asNumber()
	if !ok {
		return value{}
	}
	return computed(math.Abs(f))
}

func (e *Evaluator) round(n *node) value {
	f, ok := e.value(n.args[0]).asNumber()
	if !ok {
		return value{}
	}
	return computed(math.Round(f))
}

// extreme is min and max: null if an argument is no number.
func (e *Evaluator) extreme(n *node) value {
	sign := 1
	if n.call.name == "max" {
		sign = -1
	}
	var best value
	for i, arg := range n.args {
		v := e.value(arg)
		if v.kind == aTime {
			f, _ := v.asNumber()
			v = computed(f)
		}
		if v.kind != aNumber {
			return value{}
		}
		if i == 0 || compareNumbers(v, best)*sign < 0 {
			best = v
		}
	}
	return best
}

// distance on the sphere (haversine), in metres; null unless the latitudes lie within 90
// degrees and the longitudes within 360, so that both -180 to 180 and 0 to 360 will do.
func (e *Evaluator) distance(n *node) value {
	const radius = 6371008.8 // the mean one of WGS 84
	var at [4]float64
	for i, arg := range n.args {
		f, ok := e.value(arg).asNumber()
		if !ok {
			return value{}
		}
		if most := [...]float64{90, 360}[i%2]; math.Abs(f) > most {
			return value{}
		}
		at[i] = f * math.Pi / 180
	}
	lat, lon := math.Sin((at[2]-at[0])/2), math.Sin((at[3]-at[1])/2)
	h := lat*lat + math.Cos(at[0])*math.Cos(at[2])*lon*lon
	return computed(2 * radius * math.Asin(math.Sqrt(min(h, 1))))
}

// coalesce returns the first argument that is not null.
func (e *Evaluator) coalesce(n *node) value {
	for _, arg := range n.args {
		if v := e.value(arg); v.kind > nullLiteral {
			return v
		}
	}
	return value{}
}

// exists says whether there is something, also if it is null.
func (e *Evaluator) exists(n *node) value {
	arg := n.args[0]
	v := e.value(arg)
	return boolValue(v.kind != null || arg.op == opField && e.found[arg.field].Kind == jsonpath.Null)
}

func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
