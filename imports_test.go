package millrace_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/millrace/millrace"

// kit is what rooms build on; a room is any other package below the root that is no tool.
var kit = []string{"block", "producer", "jsonpath", "mapping", "expr", "table", "listener"}

// assets hold files for browsers and no code, so that whoever serves a page may import them.
var assets = []string{"sdk/js"}

// foreign lists what only one room may import, so that replacing a library touches one folder.
var foreign = map[string][]string{
	"github.com/nats-io/":      {"stream/nats"},
	"github.com/goccy/go-yaml": {"config"},
	"github.com/gobwas/ws":     {"gateway"},
	"github.com/golang-jwt/":   {"gateway/auth"},
	"github.com/aws/":          {"source/kinesis", "objectstore/s3", "sink", "gateway/apigateway"},
	"github.com/andybalholm/":  {"source/sse", "millracetest"}, // brotli: feeds, and their simulator
	"github.com/caddyserver/":  {"listener"},
	"github.com/mholt/acmez/":  {"listener"},
	"github.com/pires/":        {"listener"},
	"go.uber.org/zap":          {"listener"},
}

// TestImports proves who may import whom: the root the standard library; the kit the root and the kit;
// a room the root, the kit and its own children; config the rooms; cmd/millrace everything;
// millracetest is for tests only.
func TestImports(t *testing.T) {
	checked := 0
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "tools" || d.Name() == "bin" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		from := path.Dir(filepath.ToSlash(name))
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			checked++
			if reason := forbidden(from, imported, strings.HasSuffix(name, "_test.go")); reason != "" {
				t.Errorf("%s imports %s: %s", name, imported, reason)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked < 20 {
		t.Errorf("only %d imports were checked; is the walk broken?", checked)
	}
}

// TestImportRules shows that the rules do refuse what they should.
func TestImportRules(t *testing.T) {
	for _, tt := range []struct {
		from, imported string
		test, allowed  bool
	}{
		{".", "iter", false, true},
		{".", module + "/block", false, false},
		{".", "github.com/nats-io/nats.go", false, false},
		{"block", module, false, true},
		{"block", module + "/archive", false, false},
		{"producer", module + "/block", false, true},
		{"archive", module + "/producer", false, true},
		{"archive", module + "/gateway", false, false},
		{"query", module + "/query/fence", false, true},
		{"query/fence", module + "/query", false, true},
		{"source/sse", module + "/source/http", false, false},
		{"stream/memory", module + "/stream/nats", false, false},
		{"archive", "github.com/nats-io/nats.go", false, false},
		{"archive", module + "/stream/memory", true, true},
		{"archive", module + "/millracetest", false, false},
		{"archive", module + "/millracetest", true, true},
		{"gateway", module + "/millracetest/websocket", false, false},
		{"gateway", module + "/millracetest/websocket", true, true},
		{"millracetest/websocket", module + "/millracetest", false, true},
		{"millracetest/websocket", module + "/gateway", false, false},
		{"console", module + "/sdk/js", false, true},
		{"sdk/js", module + "/gateway", false, false},
		{"sdk/js", module + "/gateway", true, true},
		{"config", module + "/archive", false, true},
		{"config", module + "/cmd/millrace", false, false},
		{"cmd/millrace", module + "/config", false, true},
	} {
		if got := forbidden(tt.from, tt.imported, tt.test) == ""; got != tt.allowed {
			t.Errorf("%s imports %s (test: %t): allowed %t, want %t", tt.from, tt.imported, tt.test, got, tt.allowed)
		}
	}
}

// forbidden returns why a file in the folder from must not import a package; "" if it may.
func forbidden(from, imported string, test bool) string {
	for prefix, rooms := range foreign {
		if strings.HasPrefix(imported, prefix) && !test && !below(from, rooms) {
			return "belongs to " + strings.Join(rooms, ", ")
		}
	}
	inside, ours := strings.CutPrefix(imported, module)
	inside = strings.TrimPrefix(inside, "/")
	switch {
	case !ours && from == "." && !test && strings.Contains(strings.Split(imported, "/")[0], "."):
		return "the root imports the standard library only"
	case !ours, inside == "":
		return ""
	case strings.HasPrefix(inside, "cmd/"):
		return "nobody imports a command"
	case test:
		return ""
	case below(inside, []string{"millracetest"}) && !below(from, []string{"millracetest"}):
		return "it is for tests only"
	case from == ".":
		return "the root imports the standard library only"
	case below(from, kit):
		if !below(inside, kit) {
			return "the kit imports the root and the kit"
		}
		return ""
	case below(from, []string{"cmd", "e2e", "bench", "examples"}):
		return ""
	case from == "config":
		if below(inside, []string{"e2e", "bench"}) {
			return "config imports the rooms"
		}
		return ""
	case from == "millracetest":
		if !below(inside, kit) {
			return "millracetest builds on the root and the kit"
		}
		return ""
	case below(from, assets):
		return "assets import nothing"
	case below(inside, kit), below(inside, assets), room(from) == room(inside):
		return ""
	default:
		return "a room imports the root, the kit and its own children"
	}
}

// room returns the room that a folder belongs to: its first element, or two where rooms of one kind
// stand side by side.
func room(folder string) string {
	parts := strings.Split(folder, "/")
	switch parts[0] {
	case "source", "stream", "objectstore":
		return strings.Join(parts[:min(2, len(parts))], "/")
	}
	return parts[0]
}

func below(folder string, roots []string) bool {
	for _, root := range roots {
		if folder == root || strings.HasPrefix(folder, root+"/") {
			return true
		}
	}
	return false
}
