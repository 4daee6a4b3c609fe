package gateway_test

import "github.com/millrace/millrace/gateway"

func setReplayCache(c *gateway.Config, n int64) { c.ReplayCache = n }
