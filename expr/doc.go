// Package expr compiles filter expressions over the columns of a block: `speed > 80 && route != "10"`.
package expr
