// Package js holds the modules of the npm package @millrace/client, for pages that the program itself serves.
package js

import "embed"

// Files are the modules as a browser loads them, index.js first; the rest of the package is for Node and for
// developers.
//
//go:embed index.js client.js subscription.js backoff.js heartbeat.js error.js
var Files embed.FS
