package gateway

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/expr"
)

// reservedParameters are the parameters of the query string that have a meaning at every endpoint.
var reservedParameters = []string{"since", "lastEventId", "prefix", "filter", "box", "circle"}

// reserved says whether a parameter's name is one of them, in whatever case: nobody is to confuse the two.
func reserved(name string) bool {
	return slices.ContainsFunc(reservedParameters, func(r string) bool { return strings.EqualFold(r, name) })
}

// maxKeys bounds the keys of one subscription, maxPrefix the bytes of a prefix.
const (
	maxKeys   = 100
	maxPrefix = 256
)

// where is a filter: an expression over an event's fields.
type where = expr.Filter

// wish is what a client asks for: which events, and from where on.
type wish struct {
	keys   []string // in order, each once; none: every key
	prefix string   // of the keys, if none is named
	filter *where   // nil: none
	area   *area    // nil: everywhere
	since  since
}

func (w *wish) filterText() string {
	if w.filter == nil {
		return ""
	}
	return w.filter.String()
}

// setKeys sets the keys, in order and each once.
func (w *wish) setKeys(keys []string) error {
	w.keys = make([]string, 0, len(keys))
	for _, key := range keys {
		w.keys = append(w.keys, strings.Clone(key)) // lets go of the request
	}
	slices.Sort(w.keys)
	if w.keys = slices.Compact(w.keys); len(w.keys) > maxKeys {
		return wrongWish("%d keys are asked for, a subscription takes %d", len(w.keys), maxKeys)
	}
	return nil
}

// names says whether a key is among those that are asked for.
func (w *wish) names(key string) bool {
	_, found := slices.BinarySearch(w.keys, key)
	return found
}

func (w *wish) setPrefix(prefix string) error {
	switch {
	case prefix == "":
		return nil
	case len(w.keys) > 0:
		return wrongWish("keys and a prefix do not go together")
	case len(prefix) > maxPrefix:
		return wrongWish("the prefix has %d bytes, the limit is %d", len(prefix), maxPrefix)
	}
	w.prefix = strings.Clone(prefix)
	return nil
}

func (w *wish) setFilter(text string) (err error) {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	w.filter, err = expr.Compile(text)
	return err
}

func wrongWish(format string, args ...any) error {
	return millrace.Errorf(millrace.Invalid, "read what is asked for", format, args...)
}

// parseWish reads an endpoint's query string. It fails with Invalid.
//
// A parameter that names the key but for the case of its letters is refused, since the client would
// get every key; others that are not known are ignored. An empty key is a key like any other, and an
// empty since is none.
func parseWish(rawQuery, parameter string, sse bool, lastEventID string) (wish, error) {
	values, err := url.ParseQuery(rawQuery)
	if err != nil {
		return wish{}, wrongWish("%w", err)
	}
	for name, given := range values {
		if name != parameter && parameter != "" && strings.EqualFold(name, parameter) {
			return wish{}, wrongWish("the parameter is written %s, not %.40q", parameter, name)
		}
		if slices.Contains(reservedParameters, name) && len(given) > 1 {
			return wish{}, wrongWish("the parameter %s is there %d times", name, len(given))
		}
	}
	var w wish
	if parameter != "" && len(values[parameter]) > 0 {
		if err := w.setKeys(values[parameter]); err != nil {
			return wish{}, err
		}
	}
	if err := w.setPrefix(values.Get("prefix")); err != nil {
		return wish{}, err
	}
	if err := w.setFilter(values.Get("filter")); err != nil {
		return wish{}, err
	}
	if w.area, err = parseArea(values.Get("box"), values.Get("circle")); err != nil {
		return wish{}, err
	}
	from := values.Get("since")
	if sse {
		// The header is newer than the URL, which an EventSource keeps when it comes back; lastEventId is
		// for scripts that cannot set the header.
		for _, newer := range []string{values.Get("lastEventId"), lastEventID} {
			if newer != "" {
				from = newer
			}
		}
	}
	w.since, err = parseSince(from)
	return w, err
}

// parseArea reads the parameters box=WEST,SOUTH,EAST,NORTH and circle=LAT,LON,METRES; nil for neither.
func parseArea(box, circle string) (*area, error) {
	switch {
	case box != "" && circle != "":
		return nil, wrongWish("box and circle do not go together")
	case box != "":
		n, err := numbers(box, 4)
		if err != nil {
			return nil, wrongWish("box is written WEST,SOUTH,EAST,NORTH in degrees, not %.80q", box)
		}
		return newBox(n[0], n[1], n[2], n[3])
	case circle != "":
		n, err := numbers(circle, 3)
		if err != nil {
			return nil, wrongWish("circle is written LAT,LON,METRES, not %.80q", circle)
		}
		return newCircle(n[0], n[1], n[2])
	}
	return nil, nil //nolint:nilnil // no area is no mistake
}

func numbers(text string, count int) ([]float64, error) {
	parts := strings.Split(text, ",")
	if len(parts) != count {
		return nil, strconv.ErrSyntax
	}
	n := make([]float64, count)
	for i, part := range parts {
		var err error
		if n[i], err = strconv.ParseFloat(strings.TrimSpace(part), 64); err != nil {
			return nil, err
		}
	}
	return n, nil
}
