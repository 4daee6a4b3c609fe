// Package expr compiles filter expressions over the events of a block: `speed > 80 && route != "10"`.
// docs/expressions.md is the language in users' words; testdata/expressions.txt is its specification, and
// is executed.
//
// # Grammar
//
//	expression = or .
//	or         = and { ( "||" | "or" ) and } .
//	and        = not { ( "&&" | "and" ) not } .
//	not        = "not" not | comparison .
//	comparison = sum [ ( "==" | "=" | "!=" | "<" | "<=" | ">" | ">=" ) sum | [ "not" ] "in" ( list | sum ) ] .
//	sum        = product { ( "+" | "-" ) product } .
//	product    = sign { ( "*" | "/" | "%" ) sign } .
//	sign       = { "!" | "-" } operand .
//	operand    = number | string | "true" | "false" | "null" | path | column | call | "(" expression ")" .
//	list       = "[" [ literal { "," literal } ] "]" .
//	call       = function "(" [ expression { "," expression } ] ")" .
//	column     = "$key" | "$type" | "$id" | "$time" | "$deleted" | "$attributes." name .
//	path       = name { "." name } .
//
// Numbers are JSON's, strings too, also in single quotes. A name is letters, digits and _, the first name
// of a path not beginning with a digit; `\.` and `\\` are a dot and a backslash in it, as in package
// jsonpath. In back-quotes it is anything, a back-quote being written twice. Words and the names of
// functions may be in any case; a word in back-quotes, or in a path of several names, is a name.
//
// # Values
//
// A value is null, a bool, a number, a string, a time ($time alone), an array or an object. Null is a field
// that is missing or null, an attribute that the event does not have, the time of an event without one,
// and what has no result. Nothing fails and nothing converts:
//
//   - == holds between values of one kind that are the same. Strings compare by bytes. Arrays, objects and null
//     equal nothing, not even themselves; only the word null equals null: "x == null" asks whether x is null.
//   - != is the negation of ==, so it holds between different kinds, and where something is missing.
//   - < <= > >= hold between two numbers or two strings in that order, and nowhere else.
//   - "x in [a, b]" is "x == a || x == b"; behind "in" may also stand what gives an array of the data. "not in"
//     is its negation.
//   - && || ! take what is true as true, and everything else (null, 1, "true") as false. So logic
//     has two values: where "missing > 3" is false, "!(missing > 3)" is true.
//   - Arithmetic is float64's. It gives null where an operand is no number, for a division by zero, and for a
//     result beyond the range. The remainder has the sign of the dividend.
//   - Numbers compare exactly, as decimals of any length, as long as they are as they were written (in the
//     data, in the expression, handed on by coalesce, min, max); against a computed one as float64.
//   - A time compares with a string in RFC 3339 and, to the nanosecond, with a number of Unix
//     milliseconds; in arithmetic it is that number. A string that is no such time has no order with it.
//
// What can never be true for reason of kinds alone (`$key == 10`, `"a" + 1`) is refused by Compile.
//
// # Functions
//
// contains, starts_with, ends_with and matches are false unless their arguments are strings; the others
// give null where an argument has the wrong kind. length counts characters of a string, elements of an array.
// lower and upper map each character by itself. round goes away from zero at a half. distance is
// the haversine on a sphere of 6371008.8 m, null unless latitudes lie within ±90 and longitudes
// within ±360; near the antipodes it is accurate to about a metre only. exists is true also for null. matches
// finds its expression anywhere in the text, in RE2's syntax as package regexp has it.
//
// # Cost
//
// The fields of an expression are found in one pass over the data, by package jsonpath, when the first is
// asked for: not at all if columns decide. The pass ends at the last field that is there; data in which
// it meets a fault has no fields. An evaluation visits each operation at most once, and an operation
// takes time linear in the event; the constants bound the rest. An
// evaluator that has warmed up does not allocate, except for data nested more than 64 deep.
package expr
