package jsonpath

import (
	"fmt"
	"strings"
)

// vehicle returns an event of about 850 bytes as a transit feed sends it: the id in front, the position
// behind the middle.
func vehicle(n int) []byte {
	return fmt.Appendf(nil, `{"id":"bus-%d","type":"vehicle","links":{"self":"/vehicles/bus-%d","schema":"/schemas/vehicle/3"},`+
		`"attributes":{"bearing":%d,"current_status":"IN_TRANSIT_TO","current_stop_sequence":%d,"direction_id":0,`+
		`"label":"%04d","occupancy_status":"MANY_SEATS_AVAILABLE","revenue":"REVENUE","speed":%d.5,`+
		`"carriages":[{"label":"%04d-a","occupancy_percentage":12},{"label":"%04d-b","occupancy_percentage":40}],`+
		`"latitude":%.7f,"longitude":%.7f,"updated_at":"2026-07-14T09:26:53-04:00"},`+
		`"relationships":{"route":{"data":{"id":"route-%d","type":"route"}},"stop":{"data":{"id":"stop-%d","type":"stop"}},`+
		`"trip":{"data":{"id":"trip-%d","type":"trip"}}},"note":"%s"}`,
		n, n, n%360, n%50, n%10000, n%30, n%10000, n%10000, 42.3+float64(n%1000)/1e4, -71.1+float64(n%777)/1e4,
		n%90, n%4000, n%20000, strings.Repeat("the quick line of text ", 8))
}
