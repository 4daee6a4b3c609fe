package gateway

// SetMaxWaiting bounds how many ends of connections $disconnect is told at a time.
func (o *Options) SetMaxWaiting(n int) { o.maxWaiting = n }
