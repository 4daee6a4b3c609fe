package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// maxNodes bounds the nodes that are looked at, aliases followed, so that a small file can't unfold
// into a large one.
const maxNodes = 200_000

// maxMerges bounds how deep merge keys may bring in merge keys.
const maxMerges = 8

// decoder fills structs from the syntax tree and gathers what is wrong. A struct's field takes the key
// that its yaml tag names; after the name the tag may say
//
//	size    an int64 that is written like 10GiB
//	path    a file's path, made relative to the configuration file's directory
//	watched (with path) whoever uses the file reads it again by itself when it changes
//	secret  never printed
//	inline  (without a name) a struct whose keys stand among those of the struct that holds it
//
// A struct that has SetDefaults() gets it called before its keys are read, inner structs before outer
// ones; one that has ApplyPreset (see preset) gets that called afterwards, and one that has Validate(problem
// func(path, format string, args ...any)) in the end. Pointers to structs are sections that may be absent.
type decoder struct {
	file, dir string
	env       func(string) (string, bool)
	problems  Problems
	failed    map[string]bool // paths that have a problem: the first one is enough
	broken    map[string]bool // paths whose value is unusable: nothing below is reported
	places    map[string]place
	hidden    map[string]string   // path to the text before expansion
	secrets   map[string]string   // expanded value to the text before
	anchors   map[string]ast.Node // by name
	nodes     int
	merging   int // depth of merge keys
}

func newDecoder(file, dir string, env func(string) (string, bool)) *decoder {
	return &decoder{
		file: file, dir: dir, env: env,
		failed: map[string]bool{}, broken: map[string]bool{}, places: map[string]place{},
		hidden: map[string]string{}, secrets: map[string]string{}, anchors: map[string]ast.Node{},
	}
}

// document decodes the root; nil is an empty document.
func (d *decoder) document(root ast.Node, c *Config) (ok bool) {
	v := reflect.ValueOf(c).Elem()
	setDefaults(v)
	if root == nil {
		d.resolvePaths(v, nil)
		return true
	}
	ast.Walk(anchorCollector{d}, root)
	d.value(root, v, "", option{}, nil)
	return !d.broken[""]
}

type anchorCollector struct{ d *decoder }

// Visit implements ast.Visitor.
func (c anchorCollector) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok && a.Name != nil {
		c.d.anchors[a.Name.GetToken().Value] = a.Value
	}
	return c
}

// problem reports a problem at a place, unless one has been reported for the key, or a key above it has
// no usable value.
func (d *decoder) problem(at place, path, format string, args ...any) {
	for p := path; p != ""; p = parent(p) {
		if d.broken[p] {
			return
		}
	}
	if path != "" && d.failed[path] || len(d.problems) > 10*maxProblems { // the file is garbage
		return
	}
	d.failed[path] = true
	d.problems = append(d.problems, Problem{
		File: d.file, Line: at.line, Column: at.column, Path: shorten(path), Message: fmt.Sprintf(format, args...),
	})
}

// wrong reports a value that is unusable.
func (d *decoder) wrong(n ast.Node, path, format string, args ...any) {
	d.problem(placeOf(n), path, format, args...)
	d.broken[path] = true
}

// shorten bounds a path that is printed; keys may be long.
func shorten(path string) string {
	if len(path) <= 200 {
		return path
	}
	return strings.ToValidUTF8(path[:200], "") + "..."
}

// problemAt reports a problem at the place of a key, or the nearest one above it that the file has.
func (d *decoder) problemAt(path, format string, args ...any) {
	for i, a := range args {
		args[i] = d.scrub(path, a)
	}
	d.problem(nearest(d.places, path), path, format, args...)
}

// nearest returns the place of the longest part of the path that the file has.
func nearest(places map[string]place, path string) place {
	for p := path; p != ""; p = parent(p) {
		if at, ok := places[p]; ok {
			return at
		}
	}
	return place{}
}

func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

func join(path, key string) string {
	if path == "" || key == "" {
		return path + key
	}
	return path + "." + key
}

// value decodes a node into v. above are the fields of the struct that holds v, for better suggestions.
func (d *decoder) value(n ast.Node, v reflect.Value, path string, o option, above []field) {
	n, ok := d.resolve(n, path)
	if !ok {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			fresh := reflect.New(v.Type().Elem())
			setDefaults(fresh.Elem())
			v.Set(fresh)
		}
		d.value(n, v.Elem(), path, o, above)
	case reflect.Struct:
		entries, ok := d.mapping(n, path)
		if ok {
			d.structure(entries, v, path, above)
		}
	case reflect.Map:
		entries, ok := d.mapping(n, path)
		if !ok {
			return
		}
		v.Set(reflect.MakeMapWithSize(v.Type(), len(entries)))
		for _, e := range entries {
			element := reflect.New(v.Type().Elem()).Elem()
			setDefaults(element)
			d.value(e.value, element, d.enter(path, e), o, nil)
			v.SetMapIndex(reflect.ValueOf(e.key).Convert(v.Type().Key()), element)
		}
	case reflect.Slice:
		list, ok := n.(*ast.SequenceNode)
		if !ok {
			d.wrong(n, path, "is %s; it must be a list, such as [a, b]", d.shown(n))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(list.Values), len(list.Values)))
		for i, item := range list.Values {
			itemPath := fmt.Sprintf("%s[%d]", path, i)
			d.places[itemPath] = placeOf(item)
			setDefaults(v.Index(i))
			d.value(item, v.Index(i), itemPath, o, nil)
		}
	default:
		d.scalar(n, v, path, o)
	}
}

// resolve follows anchors and aliases, and counts the nodes.
func (d *decoder) resolve(n ast.Node, path string) (ast.Node, bool) {
	for range maxDepth {
		d.nodes++
		if d.nodes > maxNodes {
			d.problem(placeOf(n), "", "aliases unfold into more than %d values", maxNodes)
			return nil, false
		}
		switch node := n.(type) {
		case *ast.AnchorNode:
			n = node.Value
		case *ast.AliasNode:
			name := node.Value.GetToken().Value
			target, ok := d.anchors[name]
			if !ok {
				d.wrong(n, path, "no anchor &%.80s is in this file", name)
				return nil, false
			}
			n = target
		case *ast.TagNode:
			d.wrong(n, path, "the tag %.80s is not supported; remove it", node.GetToken().Value)
			return nil, false
		case nil:
			return nil, false
		default:
			return n, true
		}
	}
	d.wrong(n, path, "the alias stands for itself")
	return nil, false
}

// entry is one key of a mapping.
type entry struct {
	key   string
	at    place
	value ast.Node
}

// mapping returns the entries of a mapping in the file's order, merge keys unfolded. Repeated keys are
// reported. An empty value is an empty mapping.
func (d *decoder) mapping(n ast.Node, path string) ([]entry, bool) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	case *ast.NullNode:
		return nil, true
	default:
		d.wrong(n, path, "is %s; it must be a mapping of keys to values", d.shown(n))
		return nil, false
	}
	var entries, merged []entry
	line := make(map[string]int, len(values))
	for _, v := range values {
		at := placeOf(v.Key)
		switch k := v.Key.(type) {
		case *ast.MergeKeyNode:
			merged = append(merged, d.merge(v.Value, path)...)
			continue
		case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
			key := k.GetToken().Value
			if first, repeated := line[key]; repeated {
				d.problem(at, join(path, key), "the key is set twice; the first is in line %d", first)
				continue
			}
			line[key] = at.line
			entries = append(entries, entry{key: key, at: at, value: v.Value})
		default:
			d.problem(at, path, "a key must be a plain word")
		}
	}
	for _, e := range merged { // the mapping's own keys win, and of several merged ones the first
		if _, set := line[e.key]; !set {
			line[e.key] = e.at.line
			entries = append(entries, e)
		}
	}
	return entries, true
}

// merge returns the entries that a merge key brings in: of one mapping or a list of them.
func (d *decoder) merge(n ast.Node, path string) []entry {
	n, ok := d.resolve(n, path)
	if !ok {
		return nil
	}
	if d.merging == maxMerges {
		d.problem(placeOf(n), path, "<< nests deeper than %d levels", maxMerges)
		return nil
	}
	d.merging++
	defer func() { d.merging-- }()
	if list, ok := n.(*ast.SequenceNode); ok {
		var entries []entry
		for _, item := range list.Values {
			if _, nested := item.(*ast.SequenceNode); nested {
				d.problem(placeOf(item), path, "<< takes a mapping or a list of mappings")
				continue
			}
			entries = append(entries, d.merge(item, path)...)
		}
		return entries
	}
	entries, _ := d.mapping(n, path)
	return entries
}

// enter records where a key stands and returns its path.
func (d *decoder) enter(path string, e entry) string {
	path = join(path, e.key)
	at := e.at
	switch e.value.(type) {
	case *ast.StringNode, *ast.LiteralNode, *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode:
		at = placeOf(e.value)
	}
	d.places[path] = at
	return path
}

// structure decodes entries into a struct.
func (d *decoder) structure(entries []entry, v reflect.Value, path string, above []field) {
	fields := fieldsOf(v.Type())
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	set := make(map[string]bool, len(entries))
	for _, e := range entries {
		set[e.key] = true
	}
	for _, e := range entries {
		i := slices.Index(names, e.key)
		if i < 0 {
			if similar := d.unknown(e, path, fields, names, above); similar != "" && !set[similar] {
				d.failed[join(path, similar)] = true // that it is missing goes without saying
			}
			continue
		}
		d.value(e.value, v.FieldByIndex(fields[i].index), d.enter(path, e), fields[i].option, fields)
	}
	d.resolvePaths(v, set)
	if c, ok := reflect.TypeAssert[preset](v.Addr()); ok {
		c.ApplyPreset(func(key string) bool { _, set := d.places[join(path, key)]; return set })
	}
	d.validate(v, path)
}

// preset is a struct one of whose keys sets others. ApplyPreset is called when all have been read; set
// says which of them, also of the structs inside, the file has: those stay.
type preset interface {
	ApplyPreset(set func(key string) bool)
}

// unknown reports an unknown key with what was probably meant: a similar one, or the place where the
// key belongs. It returns the similar key, if any.
func (d *decoder) unknown(e entry, path string, fields []field, names []string, above []field) (similar string) {
	var hint string
	similar = closest(e.key, names)
	switch {
	case similar != "":
		hint = fmt.Sprintf("; did you mean %q?", similar)
	default:
		if slices.ContainsFunc(above, func(f field) bool { return f.name == e.key }) {
			hint = fmt.Sprintf("; it belongs one level further out, beside %q", path[strings.LastIndexByte(path, '.')+1:])
			break
		}
		for _, f := range fields {
			t := f.typ
			if t.Kind() == reflect.Pointer {
				t = t.Elem()
			}
			if t.Kind() == reflect.Struct && slices.ContainsFunc(fieldsOf(t), func(f field) bool { return f.name == e.key }) {
				hint = fmt.Sprintf("; it belongs into %q", f.name)
				break
			}
		}
		if hint == "" {
			hint = didYouMean(e.key, names)
		}
	}
	d.problem(e.at, join(path, e.key), "unknown key%s", hint)
	return similar
}

// resolvePaths makes the defaults of path fields relative to the configuration file.
func (d *decoder) resolvePaths(v reflect.Value, set map[string]bool) {
	for _, f := range fieldsOf(v.Type()) {
		if f.path && !set[f.name] {
			p := v.FieldByIndex(f.index)
			p.SetString(d.resolvePath(p.String()))
		}
	}
}

func (d *decoder) resolvePath(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(d.dir, p)
}

// validate calls the Validate of a struct and of the structs that stand inline in it.
func (d *decoder) validate(v reflect.Value, path string) {
	for i := range v.NumField() {
		if _, o := tagOf(v.Type().Field(i)); o.inline {
			d.validate(v.Field(i), path)
		}
	}
	type validator interface {
		Validate(problem func(path, format string, args ...any))
	}
	if c, ok := reflect.TypeAssert[validator](v.Addr()); ok {
		c.Validate(func(key, format string, args ...any) { d.problemAt(join(path, key), format, args...) })
	}
}

// setDefaults calls SetDefaults of the structs in v that are not behind pointers, inner before outer.
func setDefaults(v reflect.Value) {
	if v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		if v.Type().Field(i).IsExported() {
			setDefaults(v.Field(i))
		}
	}
	if c, ok := reflect.TypeAssert[interface{ SetDefaults() }](v.Addr()); ok {
		c.SetDefaults()
	}
	for _, f := range v.Fields() { // a section that may be absent is absent until the file names it
		if f.Kind() == reflect.Pointer && f.CanSet() {
			f.SetZero()
		}
	}
}

func setDefaultsOf(section any) { setDefaults(reflect.ValueOf(section).Elem()) }

// field is a key that a struct takes.
type field struct {
	name  string
	typ   reflect.Type
	index []int // for FieldByIndex
	option
}

// option is what a tag says behind the name; see decoder.
type option struct{ size, path, watched, secret, inline bool }

// fieldsOf returns the keys of a struct in the order of declaration.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, o := tagOf(f)
		switch {
		case o.inline:
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				fields = append(fields, inner)
			}
		case name != "":
			fields = append(fields, field{name: name, typ: f.Type, index: []int{i}, option: o})
		}
	}
	return fields
}

func tagOf(f reflect.StructField) (name string, o option) {
	name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	if !f.IsExported() || name == "-" {
		return "", option{}
	}
	for word := range strings.SplitSeq(options, ",") {
		switch word {
		case "size":
			o.size = true
		case "path":
			o.path = true
		case "watched":
			o.watched = true
		case "secret":
			o.secret = true
		case "inline":
			o.inline = true
		}
	}
	return name, o
}

var durationType = reflect.TypeFor[time.Duration]()
