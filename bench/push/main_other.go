//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "push: this measures with epoll and /proc: Linux only")
	os.Exit(1)
}
