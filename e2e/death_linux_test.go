package e2e

import "syscall"

// dieWithParent makes the kernel kill the program when the process of the tests dies, however that
// happens.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
