package gateway

import "github.com/gobwas/ws"

func appendDeflated(dst []byte, _ ws.OpCode, _ []byte) ([]byte, bool) { return dst, false }
