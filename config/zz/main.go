package main

import (
	"errors"
	"fmt"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	yaml "github.com/goccy/go-yaml"
)

func dump(n ast.Node, in string) {
	if n == nil { fmt.Println(in+"nil"); return }
	t := n.GetToken()
	fmt.Printf("%s%T %d:%d %q\n", in, n, t.Position.Line, t.Position.Column, t.Value)
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values { dump(v, in+"  ") }
	case *ast.MappingValueNode:
		dump(n.Key, in+" k "); dump(n.Value, in+" v ")
	case *ast.SequenceNode:
		for _, v := range n.Values { dump(v, in+" - ") }
	case *ast.AnchorNode:
		dump(n.Name, in+" a "); dump(n.Value, in+" av ")
	case *ast.AliasNode:
		dump(n.Value, in+" al ")
	case *ast.TagNode:
		dump(n.Value, in+" tag ")
	}
}

func main() {
	for _, s := range []string{
		"a: 1\nb: {c: d, e: [1, 2]}\n",
		"a: 1\na: 2\n",
		"a:\n\tb: 1\n",
		"a: 1\n---\nb: 2\n",
		"a: [1, 2\nb: 3",
		"a: &x {k: v}\nb: *x\nc:\n  <<: *x\n  d: 1\n",
		"é: ü\nñ: \"${env:A}\"\nz: |\n  lit\n  two\n",
		"a:\n  b: 1\n c: 2\n",
		"a: 'unterminated\n",
		"a: b: c\n",
		"", "# only\n", "- a\n- b\n", "just text", "a: !!str 1\n", "a:\nb:\n", "a: ~\n? x\n: y\n", "{a: 1, a: 2}", "a: 10GiB\nb: 24h\nc: 0x10\nd: 1_000\ne: 1e3\nf: yes\ng: .inf\nh: 0o7\n",
		"a: *nope\n", "%YAML 1.2\n---\na: 1\n...\n",  "\ufeffa: 1\n", "a: 1\r\nb: 2\r\n", "a: @x\n", "a: \"\\q\"\n", "k: {a: ${env:X}}\n", "a: \x00b\n", "a: \xff\n",
	} {
		fmt.Printf("=== %q\n", s)
		f, err := parser.ParseBytes([]byte(s), 0)
		if err != nil {
			var se yaml.Error
			if errors.As(err, &se) { fmt.Printf("ERR %T %s @%v\n", se, se.GetMessage(), se.GetToken().Position) } else { fmt.Println("ERR?", err) }
			continue
		}
		for _, d := range f.Docs { fmt.Println("doc"); dump(d.Body, "  ") }
	}
}
