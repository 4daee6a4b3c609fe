package fence

// Geometry is planar in longitude and latitude: the edges of a polygon are straight in degrees (RFC 7946,
// 3.1.1), so an area that crosses the antimeridian is cut at it into two polygons (3.1.9).
//
// Whether a point lies in a polygon is told by the number of edges that a ray to the east crosses: an
// edge counts if it begins at or below the point, ends above it, and passes east of it. So a fence has its
// west and south borders and not its east and north ones, and where two fences share a border each
// point of it lies in exactly one of them. That holds to the last bit, since an edge gives the same answer
// in whichever direction, and on whatever machine, it is drawn.

// edge leads upwards: y1 < y2. Horizontal edges cross no ray to the east.
type edge struct{ x1, y1, x2, y2 float64 }

// crossed says whether the ray from (x, y) to the east crosses the edge.
func (e *edge) crossed(x, y float64) bool {
	// The conversions keep the compiler from fusing multiplication and subtraction, which would round
	// differently from one processor to another.
	return e.y1 <= y && y < e.y2 && float64((x-e.x1)*(e.y2-e.y1)) < float64((y-e.y1)*(e.x2-e.x1))
}

// box holds x0 <= x <= x1 and y0 <= y <= y1.
type box struct{ x0, y0, x1, y1 float64 }

func boxOf(line []point) box {
	b := box{line[0].x, line[0].y, line[0].x, line[0].y}
	for _, p := range line[1:] {
		b = b.join(box{p.x, p.y, p.x, p.y})
	}
	return b
}

func (b box) join(c box) box {
	return box{min(b.x0, c.x0), min(b.y0, c.y0), max(b.x1, c.x1), max(b.y1, c.y1)}
}

// side is the longer side.
func (b box) side() float64 { return max(b.x1-b.x0, b.y1-b.y0) }

// touches says whether the box and the segment from p to q have a point in common. Near the edge of the
// box it may err; who asks leaves a margin.
func (b box) touches(p, q point) bool {
	if max(p.x, q.x) < b.x0 || min(p.x, q.x) > b.x1 || max(p.y, q.y) < b.y0 || min(p.y, q.y) > b.y1 {
		return false
	}
	// The line through p and q misses the box if all four corners are on one side of it.
	dx, dy := q.x-p.x, q.y-p.y
	left, right := false, false
	for _, c := range [4]point{{b.x0, b.y0}, {b.x0, b.y1}, {b.x1, b.y0}, {b.x1, b.y1}} {
		side := dx*(c.y-p.y) - dy*(c.x-p.x)
		left = left || side >= 0
		right = right || side <= 0
	}
	return left && right
}

// polygon is an outer ring with its holes: a point is inside if a ray from it crosses their edges an odd
// number of times. Holes are inside the outer ring and do not overlap (RFC 7946 leaves the rest open).
type polygon struct {
	fence uint32
	box   box
	// The height of the box is divided evenly into slices, and each has its own copy of the edges that
	// reach into it: edges[starts[s]:starts[s+1]]. So a test looks at few edges, however many there are.
	slices float64 // per degree of latitude
	starts []uint32
	edges  []edge
}

// newPolygon takes closed rings that enclose an area.
func newPolygon(fence uint32, rings [][]point) polygon {
	p := polygon{fence: fence, box: boxOf(rings[0])}
	var edges []edge
	for _, ring := range rings {
		p.box = p.box.join(boxOf(ring))
		for i := 1; i < len(ring); i++ {
			switch a, b := ring[i-1], ring[i]; {
			case a.y < b.y:
				edges = append(edges, edge{a.x, a.y, b.x, b.y})
			case a.y > b.y:
				edges = append(edges, edge{b.x, b.y, a.x, a.y})
			}
		}
	}
	// Half as many slices as edges, and fewer where edges are so long that there would be many copies.
	n := max(1, min(len(edges)/2, 1<<16))
	for {
		p.slices = float64(n) / (p.box.y1 - p.box.y0)
		p.starts = make([]uint32, n+1)
		copies := 0
		for i := range edges {
			first, last := p.slice(edges[i].y1), p.slice(edges[i].y2)
			copies += last - first + 1
			for s := first; s <= last; s++ {
				p.starts[s+1]++
			}
		}
		if n == 1 || copies <= 4*len(edges) {
			p.edges = make([]edge, copies)
			break
		}
		n /= 2
	}
	n = len(p.starts) - 1
	for s := range n {
		p.starts[s+1] += p.starts[s]
	}
	next := append([]uint32(nil), p.starts[:n]...)
	for _, e := range edges {
		for s := p.slice(e.y1); s <= p.slice(e.y2); s++ {
			p.edges[next[s]] = e
			next[s]++
		}
	}
	return p
}

// slice is the number of the slice of a latitude within the box. It never decreases with y, which is all
// that an edge's slices need to be found again, also where it rounds.
func (p *polygon) slice(y float64) int {
	return min(int((y-p.box.y0)*p.slices), len(p.starts)-2)
}

// contains says whether the point lies inside.
func (p *polygon) contains(x, y float64) bool {
	if x < p.box.x0 || x >= p.box.x1 || y < p.box.y0 || y >= p.box.y1 {
		return false
	}
	s := p.slice(y)
	edges := p.edges[p.starts[s]:p.starts[s+1]]
	inside := false
	for i := range edges {
		if edges[i].crossed(x, y) {
			inside = !inside
		}
	}
	return inside
}
