package apigateway

import "net/http"

// Manages says whether a request is for this endpoint's management API: its path is
// PATH/@connections, /STAGE/@connections or /@connections, and an id may follow.
func (a *API) Manages(r *http.Request) bool { return false }

// Manager chooses the endpoint whose management API a request is for; nil if it is for none.
func Manager(apis []*API, r *http.Request) *API { return nil }

// ServeManagement answers a request that Manages accepts.
func (a *API) ServeManagement(w http.ResponseWriter, r *http.Request) {}
