package main

import (
	"net/http"
	"sync/atomic"
)

// connections are what the admin listener shows of the gateway's clients. The gateway may fail and start again
// meanwhile, as another one.
type connections struct{ control atomic.Pointer[http.Handler] }

// show lets control answer until hide is called.
func (c *connections) show(control http.Handler) (hide func()) {
	c.control.Store(&control)
	return func() { c.control.CompareAndSwap(&control, nil) } // unless there is another one already
}

// handlers are the paths of the admin listener, by pattern.
func (c *connections) handlers() map[string]http.Handler {
	return map[string]http.Handler{"/connections": c, "/connections/": c}
}

// ServeHTTP implements http.Handler.
func (c *connections) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	control := c.control.Load()
	if control == nil {
		http.Error(w, "no gateway runs at the moment", http.StatusServiceUnavailable)
		return
	}
	(*control).ServeHTTP(w, r)
}
