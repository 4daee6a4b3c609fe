package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxProblems bounds what is reported of a file that is wrong throughout.
const maxProblems = 100

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	File         string
	Line, Column int    // counted from 1, the column in characters; 0 if the problem has no place
	Path         string // of the key: queries.crossings.into; "" for the file as a whole
	Message      string
}

// String returns file:line:column: path: message.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		b.WriteString(":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column))
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems is everything that is wrong with a configuration, in the file's order; never empty when it
// is returned as an error.
type Problems []Problem

// Error returns one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Sorted returns the problems in the file's order, without repeats, and at most maxProblems of them.
func (ps Problems) Sorted() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	ps = slices.Compact(ps)
	if more := len(ps) - maxProblems; more > 0 {
		last := ps[maxProblems-1]
		ps = append(ps[:maxProblems:maxProblems], Problem{
			File: last.File, Line: last.Line, Column: last.Column,
			Message: fmt.Sprintf("%d more problems follow", more),
		})
	}
	return ps
}

// didYouMean returns `; did you mean "NAME"?` for the known name closest to name, else a list of what is
// known if that is short, else nothing.
func didYouMean(name string, known []string) string {
	if s := closest(name, known); s != "" {
		return fmt.Sprintf("; did you mean %q?", s)
	}
	if len(known) == 0 || len(known) > 12 {
		return ""
	}
	known = slices.Sorted(slices.Values(known))
	return "; known: " + strings.Join(known, ", ")
}

// closest returns the known name with the smallest edit distance to name, or "" if none is near: up to a
// third of the letters may differ.
func closest(name string, known []string) string {
	best, bestDistance := "", max(1, len([]rune(name))/3)+1
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := distance(strings.ToLower(name), k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap with their neighbour to make b of
// a (the optimal string alignment distance). Long names are not compared: they are no slips of the pen.
func distance(a, b string) int {
	s, t := []rune(a), []rune(b)
	if len(s) > 64 || len(t) > 64 {
		return 64
	}
	var before []int // the row for s[:i-2]
	row := make([]int, len(t)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(s); i++ {
		next := make([]int, len(t)+1)
		next[0] = i
		for j := 1; j <= len(t); j++ {
			replace := row[j-1]
			if s[i-1] != t[j-1] {
				replace++
			}
			next[j] = min(replace, row[j]+1, next[j-1]+1)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(t)]
}
