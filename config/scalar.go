package config

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// scalar decodes a node into a text, a number, a truth value, a duration or a size.
func (d *decoder) scalar(n ast.Node, v reflect.Value, path string, o option) {
	wrong := func(format string, args ...any) { d.wrong(n, path, format, args...) }
	var text string
	isText := true
	switch n := n.(type) {
	case *ast.StringNode:
		text = n.Value
	case *ast.LiteralNode:
		text = n.Value.Value
	default:
		isText = false
		text = n.GetToken().Value
	}
	shown := d.shown(n) // before expansion
	if isText {
		expanded, ok := d.expand(text, n, path)
		if !ok {
			return
		}
		text = expanded
	}
	if _, null := n.(*ast.NullNode); null {
		wrong("is empty; give it a value or remove the key")
		return
	}
	_, number := n.(*ast.IntegerNode)
	_, fromOutside := d.hidden[path] // such a text may stand for a number, too
	switch {
	case v.Type() == durationType:
		if !isText && !number {
			wrong("is %s; it must be a duration, such as 30s", shown)
			return
		}
		value, err := parseDuration(text)
		if err != nil && fromOutside {
			err = errNoDuration // others quote the value
		}
		if err != nil {
			wrong("%s %v", shown, err)
			return
		}
		v.SetInt(int64(value))
	case o.size:
		if !isText && !number {
			wrong("is %s; it must be a size, such as 64KiB or 10GiB", shown)
			return
		}
		value, err := parseSize(text)
		if err != nil && fromOutside {
			err = errNoSize // others quote the value
		}
		if err != nil {
			wrong("%s %v", shown, err)
			return
		}
		v.SetInt(value)
	case v.Kind() == reflect.String:
		if !isText {
			if _, float := n.(*ast.FloatNode); float || number {
				wrong(`%s is a number; it must be a text: write it in quotes`, shown)
				return
			}
			if _, truth := n.(*ast.BoolNode); truth {
				wrong(`%s must be a text: write it in quotes`, shown)
				return
			}
			wrong("is %s; it must be a text", shown)
			return
		}
		if o.path {
			text = d.resolvePath(text)
		}
		v.SetString(text)
	case v.Kind() == reflect.Bool:
		_, truth := n.(*ast.BoolNode)
		value, err := strconv.ParseBool(text)
		if err != nil || !truth && !fromOutside {
			wrong("%s must be true or false", shown)
			return
		}
		v.SetBool(value)
	case v.CanInt():
		value, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 0, 64)
		switch {
		case !number && !fromOutside, err != nil && !errors.Is(err, strconv.ErrRange):
			wrong("%s must be a whole number", shown)
		case err != nil || v.OverflowInt(value):
			wrong("%s is too large", shown)
		default:
			v.SetInt(value)
		}
	default:
		panic(fmt.Sprintf("config: %s has a field of the type %s", path, v.Type())) // a fault in a room's Config
	}
}

// shown quotes a node's value as the file has it, shortened; of what is no scalar, its kind.
func (d *decoder) shown(n ast.Node) string {
	switch n := n.(type) {
	case *ast.StringNode:
		return fmt.Sprintf("%.80q", n.Value)
	case *ast.LiteralNode:
		return fmt.Sprintf("%.80q", n.Value.Value)
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return fmt.Sprintf("%.80s", n.GetToken().Value)
	default:
		return kind(n)
	}
}

var (
	errNoDuration = errors.New("is no duration; write it like 500ms, 60s, 1h30m or 7d")
	errNoSize     = errors.New("is no size; write it like 64KiB, 5MiB, 10GiB or as a number of bytes")
)

// parseDuration reads 500ms, 1h30m, 7d, 0.
func parseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	if strings.HasPrefix(s, "-") {
		return 0, errors.New("is negative")
	}
	if s != "" && strings.Trim(s, "0123456789_.") == "" {
		return 0, fmt.Errorf("has no unit; write %ss for seconds", s)
	}
	var total time.Duration
	for rest := s; rest != "" || s == ""; {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789."))
		unitEnd := strings.IndexAny(rest[digits:], "0123456789.")
		if unitEnd < 0 {
			unitEnd = len(rest) - digits
		}
		number, unit := rest[:digits], rest[digits:digits+unitEnd]
		rest = rest[digits+unitEnd:]
		times := time.Duration(1)
		switch unit {
		case "d":
			unit, times = "h", 24
		case "w":
			unit, times = "h", 24*7
		}
		part, err := time.ParseDuration(number + unit)
		if err != nil || number == "" || unit == "" {
			return 0, errNoDuration
		}
		if part > (math.MaxInt64-total)/times {
			return 0, errors.New("is too long; the longest is 292 years")
		}
		total += part * times
	}
	return total, nil
}

// sizeUnits in the order in which Print tries them.
var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40},
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"KB", 1e3},
	{"kB", 1e3},
	{"B", 1},
}

// parseSize reads 10GiB, 1.5MB, 65536.
func parseSize(s string) (int64, error) {
	if strings.HasPrefix(s, "-") {
		return 0, errors.New("is negative")
	}
	number, factor := strings.ReplaceAll(s, "_", ""), int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, factor = rest, u.bytes
			break
		}
	}
	if number == "" || len(number) > 32 || strings.Trim(number, "0123456789.") != "" {
		unit := strings.TrimLeft(s, "0123456789._ ")
		if unit == s {
			return 0, errNoSize
		}
		for _, u := range sizeUnits {
			if strings.EqualFold(unit, u.name) || strings.EqualFold(unit+"B", u.name) || strings.EqualFold(unit+"iB", u.name) {
				return 0, fmt.Errorf("is no size; did you mean %q?", strings.TrimRight(strings.TrimSuffix(s, unit), " ")+u.name)
			}
		}
		return 0, errNoSize
	}
	value, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, errNoSize
	}
	value.Mul(value, new(big.Rat).SetInt64(factor))
	switch {
	case !value.IsInt():
		return 0, errors.New("is no whole number of bytes")
	case !value.Num().IsInt64():
		return 0, errors.New("is too large; the largest is 8388607TiB")
	}
	return value.Num().Int64(), nil
}

// formatSize is the inverse of parseSize, in the largest unit that is exact.
func formatSize(n int64) string {
	for _, u := range sizeUnits[:4] {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// formatDuration is the inverse of parseDuration, without the units that are zero.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
