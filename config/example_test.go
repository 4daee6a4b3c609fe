package config_test

import (
	"fmt"
	"os"

	"github.com/millrace/millrace/config"
)

// Every problem is reported at once, with its place and what was probably meant.
func ExampleParse() {
	_, err := config.Parse("millrace.yaml", []byte(`
streams: {positions: {retention: {age: 24}}}
sources:
  buses:
    sse: {url: https://example.org/, read_timout: 60s}
    into: position
`), os.LookupEnv)
	fmt.Println(err)
	// Output:
	// millrace.yaml:2:40: streams.positions.retention.age: 24 has no unit; write 24s for seconds
	// millrace.yaml:5:38: sources.buses.sse.read_timout: unknown key; did you mean "read_timeout"?
	// millrace.yaml:6:11: sources.buses.into: no stream "position" is declared; did you mean "positions"?
}
