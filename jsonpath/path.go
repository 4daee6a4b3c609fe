package jsonpath

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// The bounds of a set of paths.
const (
	MaxDepth = 64  // segments of a path
	MaxPaths = 256 // paths of a set
)

// manyChildren is where looking a key up in a map becomes faster than comparing it to each.
const manyChildren = 8

// Set is a list of paths, compiled. It is immutable and may be used by several goroutines at a time.
type Set struct {
	root  node
	paths int
}

// node is a place in the tree that the paths form.
type node struct {
	key      string
	index    int            // the key as the index of an element; -1 if it is none
	outs     []int          // the paths that end here
	leaves   int            // the paths that end here or below
	children []*node        // at most MaxPaths
	lengths  uint64         // bit n: a child's key has n bytes (modulo 64)
	byKey    map[string]int // the children, where they are many
	last     int            // the largest index of a child; -1 if none has one
}

// Compile returns the set of the given paths; Find returns their values in this order. It fails with
// Invalid if a path is malformed or if there are too many.
func Compile(paths ...string) (*Set, error) {
	if len(paths) > MaxPaths {
		return nil, millrace.Errorf(millrace.Invalid, "compile JSON paths", "%d paths are over the limit of %d", len(paths), MaxPaths)
	}
	s := &Set{root: node{index: -1, last: -1}, paths: len(paths)}
	for i, path := range paths {
		segments, err := Split(path)
		if err != nil {
			return nil, err
		}
		n := &s.root
		n.leaves++
		for _, segment := range segments {
			n = n.child(segment)
			n.leaves++
		}
		n.outs = append(n.outs, i)
	}
	return s, nil
}

// MustCompile is Compile for paths that are constants, or that were compiled before. It panics where that fails.
func MustCompile(paths ...string) *Set {
	s, err := Compile(paths...)
	if err != nil {
		panic(err)
	}
	return s
}

// Len returns the number of paths, which is the number of values that Find needs room for.
func (s *Set) Len() int { return s.paths }

// child returns the child with that key, a new one if there is none.
func (n *node) child(key string) *node {
	for _, c := range n.children {
		if c.key == key {
			return c
		}
	}
	c := &node{key: key, index: index(key), last: -1}
	n.children = append(n.children, c)
	switch {
	case n.byKey != nil:
		n.byKey[key] = len(n.children) - 1
	case len(n.children) > manyChildren:
		n.byKey = make(map[string]int)
		for i, c := range n.children {
			n.byKey[c.key] = i
		}
	}
	n.lengths |= 1 << (len(key) & 63)
	n.last = max(n.last, c.index)
	return c
}

// index returns the segment as an index, -1 if it is none. Nine digits are more elements than fit an
// input.
func index(segment string) int {
	i, err := strconv.Atoi(segment)
	if err != nil || i < 0 || len(segment) > 9 || strconv.Itoa(i) != segment {
		return -1
	}
	return i
}

// Split returns the segments of a path, unescaped: the names of keys, or the indexes of elements. It fails with
// Invalid as Compile does.
func Split(path string) ([]string, error) {
	fail := func(format string, args ...any) ([]string, error) {
		return nil, millrace.Errorf(millrace.Invalid, "compile JSON path "+strconv.Quote(clip(path)), format, args...)
	}
	if path == "" {
		return fail("the path is empty; write the names of the keys with dots between them, such as attributes.latitude")
	}
	if !utf8.ValidString(path) {
		return fail("it is not valid UTF-8")
	}
	var segments []string
	var segment strings.Builder
	for i := 0; i <= len(path); i++ {
		switch {
		case i == len(path), path[i] == '.':
			if segment.Len() == 0 {
				return fail("segment %d is empty; write \\. for a dot that belongs to a key", len(segments)+1)
			}
			segments = append(segments, segment.String())
			segment.Reset()
		case path[i] == '\\':
			i++
			if i == len(path) || path[i] != '.' && path[i] != '\\' {
				return fail("a backslash must stand before a dot or a backslash")
			}
			segment.WriteByte(path[i])
		default:
			segment.WriteByte(path[i])
		}
	}
	if len(segments) > MaxDepth {
		return fail("%d segments are over the limit of %d", len(segments), MaxDepth)
	}
	return segments, nil
}

// clip keeps error messages short.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}
