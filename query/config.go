package query

import "github.com/millrace/millrace/query/fence"

// Config describes one continuous query: where it reads, what it computes, and where its results go.
// Exactly one kind of query stands beside from and into.
type Config struct {
	// From is the stream that the query reads.
	From string `yaml:"from"`
	// Into is the stream that takes the results. It must not lead back to From.
	Into string `yaml:"into"`
	// Fence reports when keys enter and leave fenced areas.
	Fence *fence.Config `yaml:"fence"`
}
