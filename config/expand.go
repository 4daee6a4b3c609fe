package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// expand replaces ${env:NAME} and ${file:PATH} in a text, once, and $${ by ${; ${request.PATH} stays. It
// remembers the text before, which stands for the value in everything that is printed.
func (d *decoder) expand(s string, n ast.Node, path string) (string, bool) {
	if !strings.Contains(s, "${") {
		return s, true
	}
	var b strings.Builder
	outside := false
	for rest := s; ; {
		before, after, found := strings.Cut(rest, "${")
		b.WriteString(before)
		if !found {
			break
		}
		if strings.HasSuffix(before, "$") { // $${, of which the first $ has been written
			b.WriteString("{")
			rest = after
			continue
		}
		reference, after, closed := strings.Cut(after, "}")
		if !closed {
			d.wrong(n, path, `%.80q has a "${" without its "}"; write $${ where it is meant literally`, s)
			return "", false
		}
		if strings.HasPrefix(reference, "request.") { // a variable of API Gateway's selection expressions
			b.WriteString("${" + reference + "}")
			rest = after
			continue
		}
		value, err := d.lookUp(reference)
		if err != nil {
			d.wrong(n, path, "${%.80s}: %v", reference, err)
			return "", false
		}
		if value != "" {
			d.secrets[value] = "${" + reference + "}"
		}
		b.WriteString(value)
		outside = true
		rest = after
	}
	if outside {
		d.hidden[path] = s
		if b.Len() > 0 {
			d.secrets[b.String()] = s
		}
	}
	return b.String(), true
}

// lookUp returns what a reference stands for.
func (d *decoder) lookUp(reference string) (string, error) {
	kind, name, found := strings.Cut(reference, ":")
	switch {
	case found && kind == "env" && name != "":
		value, ok := d.env(name)
		if !ok {
			return "", errors.New("the environment variable is not set")
		}
		return value, nil
	case found && kind == "file" && name != "":
		text, err := readBounded(d.resolvePath(name))
		if err != nil {
			if failure, ok := errors.AsType[*os.PathError](err); ok {
				err = failure.Err // the path is in the message already
			}
			return "", fmt.Errorf("the file can't be read: %w", err)
		}
		return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), nil
	case !found && reference != "" && strings.Trim(reference, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") == "":
		return "", fmt.Errorf("unknown reference; did you mean ${env:%s}?", reference)
	default:
		return "", errors.New("unknown reference; write ${env:NAME} or ${file:PATH}, and $${ where it is meant literally")
	}
}

// scrub returns what may be printed of an argument of a problem that a room reports for the key at path:
// anything that holds an expanded value is replaced by what the file says.
func (d *decoder) scrub(path string, arg any) any {
	if len(d.secrets) == 0 {
		return arg
	}
	if _, own := arg.(verbatim); own {
		return arg
	}
	if raw, ok := d.hidden[path]; ok {
		return verbatim(raw)
	}
	switch arg.(type) {
	case nil, bool, int, int64, uint64, float64:
		return arg
	}
	s := fmt.Sprint(arg)
	clean := s
	longestFirst := slices.SortedFunc(maps.Keys(d.secrets), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
	for _, value := range longestFirst {
		raw := d.secrets[value]
		clean = strings.ReplaceAll(clean, value, raw)
		if quoted := fmt.Sprintf("%q", value); len(quoted) > len(value)+2 {
			clean = strings.ReplaceAll(clean, quoted[1:len(quoted)-1], raw)
		}
	}
	if clean == s {
		return arg
	}
	return verbatim(clean)
}

// verbatim prints itself for every verb.
type verbatim string

// Format implements fmt.Formatter.
func (v verbatim) Format(f fmt.State, verb rune) {
	if verb == 'q' {
		fmt.Fprintf(f, "%q", string(v))
		return
	}
	_, _ = f.Write([]byte(v))
}
