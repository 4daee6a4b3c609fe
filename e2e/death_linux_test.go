package e2e

import (
	"os"
	"syscall"
)

// dieWithParent makes the kernel kill the program when the process of the tests dies, however that
// happens.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// groupThatDiesWithParent is for a program that starts others; killGroup ends them all.
func groupThatDiesWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

func killGroup(p *os.Process) { _ = syscall.Kill(-p.Pid, syscall.SIGKILL) } // or it has ended
