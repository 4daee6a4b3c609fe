package main

import (
	"context"
	"net/http"
	"reflect"
	"slices"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/listener"
	"github.com/millrace/millrace/objectstore/disk"
	httpsource "github.com/millrace/millrace/source/http"
	"github.com/millrace/millrace/stream/nats"
)

// The tiers of stages: what drains before what. Queries have one for each step that results may take
// through them.
const (
	tierSources  = 0
	tierQueries  = 1
	tierArchives = 1 << 20
	tierGateway  = tierArchives + 1
	tierStreams  = tierGateway + 1
	tierAdmin    = tierStreams + 1
)

// plan is what a configuration asks for. Making it touches nothing that is at work: it binds addresses,
// opens streams and directories that are not open yet, and makes the stages that are new or made of
// something else than before. It is applied as a whole, or dropped.
type plan struct {
	config  *config.Config
	working map[string]*stage // those at work, by name
	stages  []planned

	doors   map[string]*door // by doorName
	streams map[string]*nats.Stream
	stores  map[string]*disk.Store // by directory
	servers map[string]*ingest     // by address
	page    http.Handler           // nil: none

	undo []func() // what closes again what was opened
}

// planned is a stage at work that goes on, or a new one that was not started yet.
type planned struct {
	*stage
	tier int
}

// madeOf is what a stage is made of: its section of the configuration, everything expanded, and the contents
// of the files that the section names.
type madeOf struct {
	section any
	files   any
}

// hold is a reader's hold on the retention of a stream.
type hold struct {
	stream *nats.Stream
	reader string
}

// ingest is a server of sources that take posts, and those that it will serve.
type ingest struct {
	*httpsource.Server
	listener listener.Config
	sources  []*httpsource.Source
}

// add adds a stage: the one at work, if it is made of the same, otherwise the one that build makes.
func (n *plan) add(tier int, name string, section any, build func() (*stage, error)) error {
	of := madeOf{section, config.Files(section)}
	s := n.working[name]
	if s == nil || !reflect.DeepEqual(s.of, of) {
		var err error
		if s, err = build(); err != nil {
			return err
		}
		s.of, s.tier = of, tier
	}
	n.stages = append(n.stages, planned{s, tier})
	return nil
}

// keeps says whether the stage goes on as it is.
func (n *plan) keeps(s *stage) bool { return n.working[s.name] == s }

// drop closes again what was opened for the plan.
func (n *plan) drop() {
	for _, undo := range slices.Backward(n.undo) {
		undo()
	}
	for _, s := range n.stages {
		if n.working[s.name] == nil && s.forget != nil {
			s.forget(nil)
		}
	}
}

// take keeps all that a stream has for a reader that has not said yet what it needs. Nothing may be
// trimmed before that; the reader replaces the hold, by the same name, when it starts.
func (h hold) take() {
	for _, partition := range h.partitions() {
		h.stream.Hold(partition.Name, h.reader, millrace.Position{})
	}
}

// release lets go of it.
func (h hold) release() {
	for _, partition := range h.partitions() {
		h.stream.Release(partition.Name, h.reader)
	}
}

// partitions are those of the stream, which knows them without asking anyone; of a closed one there are none.
func (h hold) partitions() []millrace.Partition {
	partitions, _ := h.stream.Partitions(context.Background())
	return partitions
}
