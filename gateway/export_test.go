package gateway

import "time"

// SetMaxWaiting bounds how many ends of connections $disconnect is told at a time.
func (o *Options) SetMaxWaiting(n int) { o.maxWaiting = n }

// SetPageTimeout bounds how long a request may take that becomes no connection.
func (o *Options) SetPageTimeout(d time.Duration) { o.pageTimeout = d }
