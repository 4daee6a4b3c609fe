package fence

import (
	"fmt"
	"slices"
	"testing"
)

func TestValidate(t *testing.T) {
	for name, test := range map[string]struct {
		config Config
		want   []string
	}{
		"good": {Config{Fences: "f", Lat: "a.lat", Lon: "a.lon", Detect: []string{"exit", "enter"}, Key: "a.id"}, nil},
		"nothing": {Config{}, []string{
			"fences: is missing: name a GeoJSON file",
			"lat: is missing: give the dotted path to the position, such as attributes.latitude",
			"lon: is missing: give the dotted path to the position, such as attributes.longitude",
			"detect: is empty: list enter, exit or both",
		}},
		"transitions": {Config{Fences: "f", Lat: "a", Lon: "b", Detect: []string{"Enter", "exits", "dwell", "x", "exit", "exit"}}, []string{
			`detect: "Enter" is no transition: did you mean enter?`,
			`detect: "exits" is no transition: did you mean exit?`,
			`detect: "dwell" is not supported yet: use enter and exit`,
			`detect: "x" is no transition: use enter and exit`,
			`detect: "exit" is listed twice`,
		}},
		"same path": {Config{Fences: "f", Lat: "a", Lon: "a", Detect: []string{"exit"}}, []string{`lon: "a" is the same path as lat`}},
	} {
		var got []string
		test.config.Validate(func(path, format string, args ...any) {
			got = append(got, path+": "+fmt.Sprintf(format, args...))
		})
		if !slices.Equal(got, test.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", name, got, test.want)
		}
	}
	bad := 0
	c := Config{Fences: "f", Lat: "a..b", Lon: "b", Key: ".", Detect: []string{"exit"}}
	c.Validate(func(path, format string, args ...any) {
		t.Log(path + ": " + fmt.Sprintf(format, args...))
		bad++
	})
	if bad != 2 {
		t.Errorf("%d problems, want 2 malformed paths", bad)
	}
	var d Config
	d.SetDefaults()
	if !slices.Equal(d.Detect, []string{"enter", "exit"}) {
		t.Errorf("defaults %+v", d)
	}
}
