package e2e

import "golang.org/x/sys/unix"

func ioctl(fd uintptr, request uint, value int) error {
	return unix.IoctlSetPointerInt(int(fd), request, value)
}
