package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// names collects the names of the metrics that are registered.
type names struct{ all []string }

func (n *names) Register(c prometheus.Collector) error {
	n.MustRegister(c)
	return nil
}

func (n *names) MustRegister(collectors ...prometheus.Collector) {
	name := regexp.MustCompile(`fqName: "([^"]+)"`)
	for _, c := range collectors {
		descriptions := make(chan *prometheus.Desc)
		go func() {
			c.Describe(descriptions)
			close(descriptions)
		}()
		for d := range descriptions {
			n.all = append(n.all, name.FindStringSubmatch(d.String())[1])
		}
	}
}

func (n *names) Unregister(prometheus.Collector) bool { return false }

// TestMetricsAreDocumented holds docs/operations.md to the metrics that there are, both ways.
func TestMetricsAreDocumented(t *testing.T) {
	var n names
	newMeasures(&n)
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := regexp.MustCompile("`(millrace_[a-z_]+)`").FindAllStringSubmatch(string(text), -1)
	for _, name := range n.all {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("docs/operations.md does not name %s", name)
		}
	}
	for _, match := range documented {
		if !slices.Contains(n.all, match[1]) {
			t.Errorf("docs/operations.md names %s, which does not exist", match[1])
		}
	}
}
