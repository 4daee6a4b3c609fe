package demo

import "fmt"

// Config returns the configuration of the demo: an ordinary one, over the city's feed. listen and admin are the
// addresses of the page and of health and metrics.
func Config(feedURL, listen, admin string) []byte {
	return fmt.Appendf(nil, `# A simulated city, end to end. Paths are relative to this file.
data_dir: ./data

streams:
  positions: {retention: {age: 1h, bytes: 1GiB}}
  crossings: {retention: {age: 24h, bytes: 256MiB}}

sources:
  city:
    sse: {url: %q}
    into: positions
    key: vehicle_id
    time: time

queries:
  crossings:
    from: positions
    fence: {fences: ./depots.geojson, lat: lat, lon: lon, detect: [enter, exit]}
    into: crossings

archives:
  positions:
    from: positions
    to: {disk: ./archive}
    prefix: "positions/!{timestamp:yyyy/MM/dd/HH}/"
    buffer: {size: 5MiB, interval: 10s}
    compression: gzip
    format: ndjson
  crossings:
    from: crossings
    to: {disk: ./archive}
    prefix: "crossings/!{timestamp:yyyy/MM/dd/HH}/"
    buffer: {size: 5MiB, interval: 10s}
    compression: gzip
    format: ndjson

gateway:
  listen: %s
  page: map
  endpoints:
    /live: {messages: true}
    /positions: {from: positions, key: "query:VehicleID", latest: true}
    /crossings: {from: crossings, key: "query:VehicleID"}

admin:
  listen: %s
`, feedURL, listen, admin)
}
