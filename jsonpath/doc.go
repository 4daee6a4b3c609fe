// Package jsonpath finds values in JSON by dotted paths, several in one pass over the bytes, without
// decoding the rest and without allocating.
//
// # Paths
//
// A path is a list of segments separated by dots: "attributes.latitude". A segment names a key of an
// object; one that is a decimal number without leading zeros is also the index of an element, counted
// from 0, where the value is an array: "links.0.self". A dot or a backslash that belongs to a key is
// written with a backslash before it: `meta\.domain.name` has the segments "meta.domain" and "name".
// Empty segments are refused, so the key "" can't be named. A path has at most MaxDepth segments, a
// set at most MaxPaths paths.
//
// Keys are compared after unescaping: "na\u006de" in the data is the key name. If an object has a key
// twice the first one counts, whatever it holds.
//
// # What is checked
//
// Everything that is scanned is checked as strictly as encoding/json does it: the first byte that can't
// be there, or the end of the data before the value's, is an Invalid error with its offset. Set.Find
// stops as soon as all its paths are found, so what lies behind the last of them was not looked at;
// Set.FindValid goes on to the end, and succeeds for valid JSON only. Like encoding/json neither
// demands that strings are valid UTF-8, and nesting deeper than 10,000 levels is refused. Values
// that are skipped are skipped without recursion.
package jsonpath
