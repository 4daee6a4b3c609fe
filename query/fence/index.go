package fence

import (
	"math"
	"slices"
)

// index finds the fences around a point. It is a tree of square cells: the root covers all fences, a
// cell is divided into 4 by 4. A leaf knows which fences cover it wholly, so that most points are
// answered without geometry, and which polygons have a border in it, for which polygon.contains decides.
//
// Cells are as small as the fences in them ask for, so that a fence takes a bounded share of memory
// however small or large it is: a cell is divided while it is large beside one of its polygons, and while
// the budget lasts, the largest cells first.
//
// A fence that covers a cell wholly is listed once for all cells below it (covers).
type index struct {
	box      box
	scale    float64  // cells of the finest level per degree; they are numbered from box.x0 and box.y0
	nodes    []uint32 // 16 references each: a node's number, or a leaf's number | isLeaf
	leaves   []leaf
	covers   []cover
	fences   []uint32 // what covers refer to
	borders  []uint32 // polygons, what leaves refer to
	polygons []polygon
	chunk    []segment // while it is built
}

type leaf struct {
	cover      uint32 // in covers; 0 is none
	first, end uint32 // in borders
}

// cover lists fences that cover a cell wholly, beside those of the cell's parents.
type cover struct {
	parent     uint32 // in covers; 0 is none
	first, end uint32 // in fences
}

const (
	isLeaf = 1 << 31
	levels = 16 // of 2 bits each
	// margin in degrees (a tenth of a millimetre) by which a cell is taken larger than it is, so that
	// no rounding of 32-bit cell numbers or of edge tests decides wrongly that a border is not in it.
	margin = 1e-9
	// A polygon asks for cells of its size divided by fine where it meets others, by coarse in any case.
	fine, coarse = 8, 4
	// budget of list entries per polygon.
	budget = 64
)

// cell is a cell of the tree: where its points were looked up last time. The zero cell is none.
type cell struct {
	shift uint8 // its side is 1<<shift cells of the finest level; 0 is none
	leaf  uint32
	x, y  uint32 // its number at its level
}

// find appends the fences around a point to dst, sorted, and returns the point's cell. If the point still
// lies in the cell last and no border is there, dst stays as it is and same is true: the fences are those
// of last time.
func (x *index) find(dst []uint32, lon, lat float64, last cell) (fences []uint32, now cell, same bool) {
	if lon < x.box.x0 || lon > x.box.x1 || lat < x.box.y0 || lat > x.box.y1 {
		return dst, cell{}, false
	}
	cx, cy := uint32((lon-x.box.x0)*x.scale), uint32((lat-x.box.y0)*x.scale)
	now = last
	stayed := last.shift > 0 && cx>>last.shift == last.x && cy>>last.shift == last.y
	if !stayed {
		now = x.descend(cx, cy)
	}
	l := x.leaves[now.leaf]
	if stayed && l.first == l.end {
		return dst, now, true
	}
	start, lists := len(dst), 0
	for c := l.cover; c != 0; c = x.covers[c].parent {
		dst = append(dst, x.fences[x.covers[c].first:x.covers[c].end]...)
		lists++
	}
	for _, i := range x.borders[l.first:l.end] {
		if p := &x.polygons[i]; p.contains(lon, lat) {
			dst = append(dst, p.fence)
			lists++
		}
	}
	if lists > 1 {
		// A MultiPolygon whose polygons overlap is found twice.
		slices.Sort(dst[start:])
		dst = append(dst[:start], slices.Compact(dst[start:])...)
	}
	return dst, now, false
}

// descend returns the leaf cell of a cell of the finest level.
func (x *index) descend(cx, cy uint32) cell {
	ref := uint32(0)
	for shift := 30; ; shift -= 2 {
		ref = x.nodes[ref*16+cy>>shift&3<<2|cx>>shift&3]
		if ref&isLeaf != 0 {
			// At shift 0, the finest level, the cell is too small to be worth remembering.
			return cell{shift: uint8(shift), leaf: ref &^ isLeaf, x: cx >> shift, y: cy >> shift}
		}
	}
}

// task is a cell to be built: where it is, what covers it, and which edges are in it.
type task struct {
	ref   int // in nodes, where its number goes
	level int // 0 is the finest
	x, y  uint32
	cover uint32
	parts []part
}

// part is a polygon's border in a cell.
type part struct {
	polygon uint32
	edges   []segment
}

type segment struct{ from, to point }

// newIndex takes the polygons and, beside each, its rings.
func newIndex(polygons []polygon, rings [][][]point) *index {
	x := &index{polygons: polygons, covers: make([]cover, 1), leaves: make([]leaf, 1)}
	if len(polygons) == 0 {
		x.box = box{1, 1, 0, 0} // which no point is in
		return x
	}
	x.box = polygons[0].box
	all := make([]part, len(polygons))
	for i, p := range polygons {
		x.box = x.box.join(p.box)
		all[i].polygon = uint32(i)
		for _, ring := range rings[i] {
			for j := 1; j < len(ring); j++ {
				all[i].edges = append(all[i].edges, segment{ring[j-1], ring[j]})
			}
		}
	}
	x.scale = math.MaxUint32 / x.box.side()

	x.nodes = make([]uint32, 16)
	todo := x.divide(task{level: levels, parts: all}, 0)
	left := budget*len(polygons) + 4096
	for len(todo) > 0 {
		var next []task
		for _, t := range todo {
			if t.level > 0 && left > 0 && x.worthDividing(t) {
				node := len(x.nodes) / 16
				x.nodes[t.ref] = uint32(node)
				x.nodes = append(x.nodes, make([]uint32, 16)...)
				children := x.divide(t, node)
				for _, c := range children {
					left -= len(c.parts)
				}
				left -= 16
				next = append(next, children...)
				continue
			}
			x.nodes[t.ref] = x.leaf(t) | isLeaf
		}
		todo = next
	}
	x.chunk = nil
	x.nodes, x.leaves, x.covers = slices.Clip(x.nodes), slices.Clip(x.leaves), slices.Clip(x.covers)
	x.fences, x.borders = slices.Clip(x.fences), slices.Clip(x.borders)
	return x
}

// worthDividing says whether a cell is large beside one of the polygons with a border in it.
func (x *index) worthDividing(t task) bool {
	side := x.cellSide(t.level)
	for _, p := range t.parts {
		size := x.polygons[p.polygon].box.side()
		if side*coarse > size || len(t.parts) > 1 && side*fine > size {
			return true
		}
	}
	return false
}

// divide returns the 16 children of a cell, which has the given node.
func (x *index) divide(t task, node int) []task {
	children := make([]task, 16)
	for i := range children {
		c := &children[i]
		*c = task{ref: node*16 + i, level: t.level - 1, x: t.x<<2 | uint32(i)&3, y: t.y<<2 | uint32(i)>>2, cover: t.cover}
		side := x.cellSide(c.level)
		b := box{x0: x.box.x0 + float64(c.x)*side, y0: x.box.y0 + float64(c.y)*side}
		b.x1, b.y1 = b.x0+side, b.y0+side
		around := box{b.x0 - margin, b.y0 - margin, b.x1 + margin, b.y1 + margin}
		first := len(x.fences)
		for _, p := range t.parts {
			edges := p.within(around, &x.chunk)
			switch polygon := &x.polygons[p.polygon]; {
			case len(edges) > 0:
				c.parts = append(c.parts, part{p.polygon, edges})
			case polygon.contains((b.x0+b.x1)/2, (b.y0+b.y1)/2):
				x.fences = append(x.fences, polygon.fence)
			}
		}
		if len(x.fences) > first {
			slices.Sort(x.fences[first:])
			x.fences = append(x.fences[:first], slices.Compact(x.fences[first:])...)
			x.covers = append(x.covers, cover{t.cover, uint32(first), uint32(len(x.fences))})
			c.cover = uint32(len(x.covers) - 1)
		}
	}
	return children
}

// within returns the edges that have a point in the box. They lie in the chunk, which is replaced when it
// is full: there are millions of such short lists while an index is built.
func (p part) within(b box, chunk *[]segment) []segment {
	if cap(*chunk)-len(*chunk) < len(p.edges) {
		*chunk = make([]segment, 0, max(len(p.edges), 8192))
	}
	first := len(*chunk)
	for _, e := range p.edges {
		if b.touches(e.from, e.to) {
			*chunk = append(*chunk, e)
		}
	}
	return (*chunk)[first:len(*chunk):len(*chunk)]
}

// leaf stores a cell's lists. Cells without any share leaf 0.
func (x *index) leaf(t task) uint32 {
	if t.cover == 0 && len(t.parts) == 0 {
		return 0
	}
	l := leaf{cover: t.cover, first: uint32(len(x.borders))}
	for _, p := range t.parts {
		x.borders = append(x.borders, p.polygon)
	}
	l.end = uint32(len(x.borders))
	x.leaves = append(x.leaves, l)
	return uint32(len(x.leaves) - 1)
}

// cellSide is the side of a cell in degrees.
func (x *index) cellSide(level int) float64 { return float64(uint64(1)<<(2*level)) / x.scale }
