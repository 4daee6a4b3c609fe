//go:build !linux

package e2e

import (
	"os"
	"syscall"
)

func dieWithParent() *syscall.SysProcAttr           { return nil }
func groupThatDiesWithParent() *syscall.SysProcAttr { return nil }

func killGroup(p *os.Process) { _ = p.Kill() } // or it has ended
