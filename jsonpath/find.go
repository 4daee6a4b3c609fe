package jsonpath

// Find sets out[i] to the value of the i-th path, for every path of the set; out must have room for
// Len values. Values alias data. A path that leads nowhere is Missing. It stops as soon as all paths
// are found and does not look at what follows. It fails with Invalid if what it scanned is malformed;
// the values that it had found until then are set.
func (s *Set) Find(data []byte, out []Value) error {
	return s.find(data, out, false)
}

// FindValid is Find to the end of the data: it succeeds only if data is one valid JSON value.
func (s *Set) FindValid(data []byte, out []Value) error {
	return s.find(data, out, true)
}

func (s *Set) find(data []byte, out []Value, all bool) error {
	out = out[:s.paths]
	clear(out)
	w := walk{data: data, out: out, left: s.paths}
	if all {
		w.left++ // never all found
	} else if w.left == 0 {
		return nil
	}
	i := w.value(&s.root, space(data, 0))
	if i >= 0 && w.left > 0 {
		i = end(data, i)
	}
	if i < 0 {
		return malformed("find JSON path", data, ^i)
	}
	return nil
}

// walk is one pass over the data. It recurses along the paths, so no deeper than MaxDepth.
type walk struct {
	data []byte
	out  []Value
	left int // paths that may still be found; at 0 the walk stops at once
}

// value scans the value at i, at which the paths of n have come.
func (w *walk) value(n *node, i int) int {
	start := i
	if start >= len(w.data) {
		return ^len(w.data)
	}
	switch {
	case len(n.children) == 0:
		i = skip(w.data, i)
	case w.data[i] == '{':
		i = w.object(n, i+1)
	case w.data[i] == '[' && n.last >= 0:
		i = w.array(n, i+1)
	default:
		i = skip(w.data, i)
	}
	if i < 0 || w.left == 0 {
		return i
	}
	for _, out := range n.outs {
		w.out[out] = Value{Raw: w.data[start:i:i], Kind: kindOf(w.data[start])}
	}
	return i
}

// settle scans the value at i, and counts all paths of n as found or missing.
func (w *walk) settle(n *node, i int) int {
	left := w.left - n.leaves
	i = w.value(n, i)
	w.left = left
	return i
}

// object scans what follows an opening brace.
func (w *walk) object(n *node, i int) int {
	data := w.data
	var seen [MaxPaths / 64]uint64 // by index in n.children
	pending := len(n.children)
	if i = space(data, i); i < len(data) && data[i] == '}' {
		return i + 1
	}
	for {
		if i = space(data, i); i >= len(data) || data[i] != '"' {
			return ^i
		}
		start := i + 1
		end, escaped := text(data, start)
		if end < 0 {
			return end
		}
		if i = colon(data, end); i < 0 {
			return i
		}
		child := -1
		if pending > 0 {
			child = n.match(data[start:end-1], escaped)
		}
		if child >= 0 && seen[child/64]>>(child%64)&1 == 0 {
			seen[child/64] |= 1 << (child % 64)
			pending--
			if i = w.settle(n.children[child], i); w.left == 0 {
				return i
			}
		} else {
			i = skip(data, i)
		}
		if i < 0 {
			return i
		}
		if i = space(data, i); i >= len(data) {
			return ^i
		}
		switch data[i] {
		case ',':
			i++
		case '}':
			return i + 1
		default:
			return ^i
		}
	}
}

// array scans what follows an opening bracket.
func (w *walk) array(n *node, i int) int {
	data := w.data
	if i = space(data, i); i < len(data) && data[i] == ']' {
		return i + 1
	}
	for index := 0; ; index++ {
		i = space(data, i)
		if child := n.at(index); child != nil {
			if i = w.settle(child, i); w.left == 0 {
				return i
			}
		} else {
			i = skip(data, i)
		}
		if i < 0 {
			return i
		}
		if i = space(data, i); i >= len(data) {
			return ^i
		}
		switch data[i] {
		case ',':
			i++
		case ']':
			return i + 1
		default:
			return ^i
		}
	}
}

// match returns which child has the key, -1 if none has.
func (n *node) match(key []byte, escaped bool) int {
	if escaped {
		for i, c := range n.children {
			if equalUnescaped(key, c.key) {
				return i
			}
		}
		return -1
	}
	if n.lengths>>(len(key)&63)&1 == 0 {
		return -1
	}
	if n.byKey != nil {
		if i, ok := n.byKey[string(key)]; ok {
			return i
		}
		return -1
	}
	for i, c := range n.children {
		if c.key == string(key) {
			return i
		}
	}
	return -1
}

// at returns the child for an element of an array, nil if there is none.
func (n *node) at(index int) *node {
	if index > n.last {
		return nil
	}
	for _, c := range n.children {
		if c.index == index {
			return c
		}
	}
	return nil
}
