// Package paced is what the push servers that are compared have in common: the events, their pace, the
// listener, and the commands that the runner gives. Linux only, like all that measures here.
package paced
